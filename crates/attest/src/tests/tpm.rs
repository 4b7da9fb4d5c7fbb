//! Quotes as a TPM makes them, made by software, so that they can say whatever a test wants.

use dunlin_base::{Digest, Hasher};
use p256::ecdsa::signature::Signer as _;
use rsa::pkcs1v15;
use rsa::signature::{RandomizedSigner as _, SignatureEncoding as _};
use rsa::traits::PublicKeyParts as _;
use sha2::Sha256;

use super::amd::{Bytes as Random, rsa_key};
use super::support::{self, NOW};
use crate::{
    BindingContext, Bytes, Endorsements, Evidence, PlatformStatement, SigningKey, SimRoots, TpmEnrolment, TpmEvent,
    TpmEventKind, TpmQuote,
};

/// How the attestation key signs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scheme {
    Ecdsa,
    RsaSsa,
    RsaPss,
}

/// What can be wrong with a quote. The default is right in everything.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) scheme: Scheme,
    pub(super) magic: u32,
    pub(super) kind: u16,
    pub(super) attributes: u32,
    pub(super) qualifying_data: Option<Vec<u8>>,
    /// Bank and bitmap.
    pub(super) selections: Vec<(u16, Vec<u8>)>,
    pub(super) events: Vec<TpmEvent>,
    /// What is handed in as event log, if it is not the truth.
    pub(super) claimed_events: Option<Vec<TpmEvent>>,
    /// A value for a register other than the true one, after the quote.
    pub(super) claimed_register: Option<(usize, Digest)>,
    pub(super) reset_count: u32,
    pub(super) restart_count: u32,
    pub(super) enrolled_reset_count: u32,
    pub(super) enrolled_other_key: bool,
    pub(super) statement_signer: SigningKey,
    pub(super) with_statement: bool,
    pub(super) not_after: u64,
    /// Bytes in the place of the whole attestation; they are signed by the same key.
    pub(super) attest: Option<Vec<u8>>,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self {
            scheme: Scheme::Ecdsa,
            magic: 0xff54_4347,
            kind: 0x8018,
            // sign, restricted, sensitiveDataOrigin, fixedParent, fixedTPM, userWithAuth
            attributes: 0x0005_0072,
            qualifying_data: None,
            selections: vec![(0x000b, vec![0xff, 0x80, 0])],
            events: vec![
                TpmEvent { kind: TpmEventKind::Runtime, digest: support::runtime() },
                TpmEvent { kind: TpmEventKind::Policy, digest: Digest::of(b"another policy") },
                TpmEvent { kind: TpmEventKind::Module, digest: support::module() },
            ],
            claimed_events: None,
            claimed_register: None,
            reset_count: 12,
            restart_count: 1,
            enrolled_reset_count: 10,
            enrolled_other_key: false,
            statement_signer: support::key(support::PROVIDER),
            with_statement: true,
            not_after: NOW + 86_400,
            attest: None,
        }
    }

    pub(super) fn roots(&self) -> SimRoots {
        support::sim_roots()
    }

    pub(super) fn platform(&self) -> crate::PlatformId {
        crate::PlatformId::of(crate::Technology::Tpm, &Digest::of(b"EK certificate").0)
    }

    fn pcrs(&self) -> [Digest; 9] {
        let mut pcrs = core::array::from_fn(|pcr| Digest::of(&[pcr as u8]));
        let mut log = Digest([0; 32]);
        for event in &self.events {
            let mut hasher = Hasher::default();
            hasher.update(&log.0);
            hasher.update(&event.extension().0);
            log = hasher.finish();
        }
        pcrs[8] = log;
        pcrs
    }

    fn attest(&self, binding: &BindingContext) -> Vec<u8> {
        if let Some(bytes) = &self.attest {
            return bytes.clone();
        }
        let tpm2b = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        let qualifying = binding.report_data().tpm_qualifying_data().to_vec();
        let mut out = Vec::new();
        out.extend(self.magic.to_be_bytes());
        out.extend(self.kind.to_be_bytes());
        out.extend(tpm2b(&[0x0b; 34]));
        out.extend(tpm2b(self.qualifying_data.as_ref().unwrap_or(&qualifying)));
        out.extend(123_456u64.to_be_bytes());
        out.extend(self.reset_count.to_be_bytes());
        out.extend(self.restart_count.to_be_bytes());
        out.push(1);
        out.extend(0x2019_0523_0016_3636u64.to_be_bytes());
        out.extend((self.selections.len() as u32).to_be_bytes());
        for (bank, bitmap) in &self.selections {
            out.extend(bank.to_be_bytes());
            out.push(bitmap.len() as u8);
            out.extend(bitmap);
        }
        let mut hasher = Hasher::default();
        self.pcrs().iter().for_each(|pcr| hasher.update(&pcr.0));
        out.extend(tpm2b(&hasher.finish().0));
        out
    }

    fn ak_public(&self) -> Vec<u8> {
        let tpm2b = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        let head = |kind: u16, scheme: u16| {
            [
                &kind.to_be_bytes()[..],
                &[0, 0x0b],
                &self.attributes.to_be_bytes(),
                &[0, 0, 0, 0x10],
                &scheme.to_be_bytes(),
                &[0, 0x0b],
            ]
            .concat()
        };
        match self.scheme {
            Scheme::Ecdsa => {
                let point = ecdsa_key().verifying_key().to_sec1_point(false);
                let (x, y) = (&point.as_bytes()[1..33], &point.as_bytes()[33..]);
                [head(0x0023, 0x0018), vec![0, 3, 0, 0x10], tpm2b(x), tpm2b(y)].concat()
            }
            Scheme::RsaSsa | Scheme::RsaPss => {
                let scheme = if self.scheme == Scheme::RsaSsa { 0x0014 } else { 0x0016 };
                let modulus = rsa_ak().to_public_key().n_bytes();
                [head(0x0001, scheme), 2048u16.to_be_bytes().to_vec(), vec![0; 4], tpm2b(&modulus)].concat()
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let tpm2b = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        match self.scheme {
            Scheme::Ecdsa => {
                let signature: p256::ecdsa::Signature = ecdsa_key().sign(message);
                let (r, s) = signature.split_bytes();
                [vec![0, 0x18, 0, 0x0b], tpm2b(&r), tpm2b(&s)].concat()
            }
            Scheme::RsaSsa => {
                let key = pkcs1v15::SigningKey::<Sha256>::new(rsa_ak());
                [vec![0, 0x14, 0, 0x0b], tpm2b(&key.sign(message).to_vec())].concat()
            }
            Scheme::RsaPss => {
                let key = rsa::pss::SigningKey::<Sha256>::new_with_salt_len(rsa_ak(), 222);
                [vec![0, 0x16, 0, 0x0b], tpm2b(&key.sign_with_rng(&mut Random(9), message).to_vec())].concat()
            }
        }
    }

    pub(super) fn evidence(&self, binding: &BindingContext) -> (Evidence, Endorsements) {
        let (attest, ak_public) = (self.attest(binding), self.ak_public());
        let mut pcrs = self.pcrs();
        if let Some((pcr, value)) = self.claimed_register {
            pcrs[pcr] = value;
        }
        let enrolled = if self.enrolled_other_key { Digest::of(b"other") } else { Digest::of(&ak_public) };
        let statement = PlatformStatement {
            provider: "acme".to_owned(),
            platform: self.platform(),
            not_before: NOW - 86_400,
            not_after: self.not_after,
            tpm: Some(TpmEnrolment {
                ak_name: Bytes([&[0, 0x0b], &enrolled.0[..]].concat()),
                ek_certificate: Digest::of(b"EK certificate"),
                reset_count: self.enrolled_reset_count,
            }),
        };
        let statement = self.with_statement.then(|| statement.sign(&self.statement_signer).expect("signs"));
        let quote = TpmQuote {
            signature: self.sign(&attest),
            attest,
            ak_public,
            pcrs,
            events: self.claimed_events.clone().unwrap_or_else(|| self.events.clone()),
        };
        (Evidence::Tpm(Box::new(quote)), Endorsements { statement, ..Endorsements::default() })
    }
}

fn ecdsa_key() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[0x71; 32]).expect("a key")
}

fn rsa_ak() -> rsa::RsaPrivateKey {
    static KEY: std::sync::OnceLock<rsa::RsaPrivateKey> = std::sync::OnceLock::new();
    KEY.get_or_init(|| rsa_key(5)).clone()
}
