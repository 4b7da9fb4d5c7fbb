//! A self-made hierarchy with AMD's shape, and reports under it that say whatever a test wants.

use std::sync::OnceLock;

use p384::ecdsa::signature::Signer as _;
use rsa::pkcs8::EncodePublicKey as _;
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::signature::{RandomizedSigner as _, SignatureEncoding as _};
use rsa::{RsaPrivateKey, pss};
use sha2::Sha384;

use super::der;
use crate::{AmdCollateral, AmdProduct, Collateral, Endorsements, Evidence, SimRoots};

/// Deterministic bytes, so that a failing test fails again.
pub(super) struct Bytes(pub(super) u64);

impl TryRng for Bytes {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        self.try_next_u64().map(|number| number as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(mixed ^ (mixed >> 31))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in out.chunks_mut(8) {
            let bytes = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Bytes {}

pub(super) fn rsa_key(seed: u64) -> RsaPrivateKey {
    RsaPrivateKey::new(&mut Bytes(seed), 2048).expect("a key")
}

/// Root and intermediate keys. Making them takes a while, so they are shared.
fn keys() -> &'static (RsaPrivateKey, RsaPrivateKey) {
    static KEYS: OnceLock<(RsaPrivateKey, RsaPrivateKey)> = OnceLock::new();
    KEYS.get_or_init(|| (rsa_key(1), rsa_key(2)))
}

fn pss_sign(key: &RsaPrivateKey, message: &[u8]) -> Vec<u8> {
    let key = pss::SigningKey::<Sha384>::new_with_salt_len(key.clone(), 48);
    key.sign_with_rng(&mut Bytes(3), message).to_vec()
}

fn spki(key: &RsaPrivateKey) -> Vec<u8> {
    key.to_public_key().to_public_key_der().expect("DER").as_bytes().to_vec()
}

/// 2026-06-01: inside every window below.
pub(super) const NOW: u64 = 1_780_272_000;

/// What can be wrong with a report and its chain. The default is right in everything.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) product: AmdProduct,
    pub(super) version: u32,
    pub(super) policy: u64,
    pub(super) vmpl: u32,
    pub(super) platform_info: u64,
    pub(super) vlek: bool,
    pub(super) reported: [u8; 8],
    pub(super) current: [u8; 8],
    pub(super) committed: [u8; 8],
    pub(super) launch: [u8; 8],
    pub(super) cpuid: [u8; 3],
    pub(super) chip_id: [u8; 64],
    pub(super) host_data: [u8; 32],
    pub(super) id_key_digest: [u8; 48],
    pub(super) report_data: [u8; 64],
    /// Bytes that are written over the report before it is signed.
    pub(super) patches: Vec<(usize, u8)>,
    /// Levels in the certificate: bootloader, tee, snp, microcode, fmc.
    pub(super) certified: [u8; 5],
    pub(super) hwid: Vec<u8>,
    pub(super) product_name: &'static str,
    pub(super) vek_name: &'static str,
    /// A further extension of the certificate: its identifier and whether it is critical.
    pub(super) extension: Option<(&'static str, bool)>,
    /// Serial numbers on the root's revocation list, if there is one.
    pub(super) revoked: Option<Vec<u64>>,
}

impl Machine {
    pub(super) fn genoa() -> Self {
        let tcb = [9, 1, 0, 0, 0, 0, 23, 72];
        Self {
            product: AmdProduct::Genoa,
            version: 3,
            policy: 0x3_0000,
            vmpl: 0,
            platform_info: 0b10_0010,
            vlek: false,
            reported: tcb,
            current: tcb,
            committed: tcb,
            launch: tcb,
            cpuid: [0x19, 0x11, 1],
            chip_id: [7; 64],
            host_data: [0; 32],
            id_key_digest: [0; 48],
            report_data: [0x5a; 64],
            patches: Vec::new(),
            certified: [9, 1, 23, 72, 0],
            hwid: vec![7; 64],
            product_name: "Genoa-B1",
            vek_name: "SEV-VCEK",
            extension: None,
            revoked: None,
        }
    }

    pub(super) fn turin() -> Self {
        let tcb = [1, 2, 3, 4, 0, 0, 0, 80];
        let mut chip_id = [0; 64];
        chip_id[..8].fill(9);
        Self {
            product: AmdProduct::Turin,
            version: 5,
            reported: tcb,
            current: tcb,
            committed: tcb,
            launch: tcb,
            cpuid: [0x1a, 0x02, 1],
            chip_id,
            certified: [2, 3, 4, 80, 1],
            hwid: vec![9; 8],
            product_name: "Turin",
            ..Self::genoa()
        }
    }

    pub(super) fn roots(&self) -> SimRoots {
        SimRoots { amd: vec![(self.product, ark(self.product))], ..SimRoots::default() }
    }

    pub(super) fn report(&self) -> Vec<u8> {
        let mut report = vec![0; 0x4a0];
        let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, &self.version.to_le_bytes());
        put(0x04, &7u32.to_le_bytes());
        put(0x08, &self.policy.to_le_bytes());
        put(0x20, &[0x1d; 16]);
        put(0x30, &self.vmpl.to_le_bytes());
        put(0x34, &1u32.to_le_bytes());
        put(0x38, &self.current);
        put(0x40, &self.platform_info.to_le_bytes());
        put(0x48, &(u32::from(self.vlek) << 2).to_le_bytes());
        put(0x50, &self.report_data);
        put(0x90, &[0xab; 48]);
        put(0xc0, &self.host_data);
        put(0xe0, &self.id_key_digest);
        put(0x180, &self.reported);
        put(0x188, &self.cpuid);
        put(0x1a0, &self.chip_id);
        put(0x1e0, &self.committed);
        put(0x1f0, &self.launch);
        for (at, byte) in &self.patches {
            put(*at, &[*byte]);
        }
        let signature: p384::ecdsa::Signature = vek_key().sign(&report[..0x2a0]);
        let little = |bytes: &[u8]| bytes.iter().rev().copied().collect::<Vec<_>>();
        let (r, s) = signature.split_bytes();
        report[0x2a0..0x2d0].copy_from_slice(&little(&r));
        report[0x2e8..0x318].copy_from_slice(&little(&s));
        report
    }

    pub(super) fn vek(&self) -> Vec<u8> {
        let [bootloader, tee, snp, microcode, fmc] = self.certified;
        let level = |part: u8, level: u8| {
            der::extension(&format!("1.3.6.1.4.1.3704.1.3.{part}"), false, &der::int(level.into()))
        };
        let mut extensions = vec![
            der::extension("1.3.6.1.4.1.3704.1.2", false, &der::tlv(0x16, self.product_name.as_bytes())),
            level(1, bootloader),
            level(2, tee),
            level(3, snp),
            level(8, microcode),
        ];
        if self.product == AmdProduct::Turin {
            extensions.push(level(9, fmc));
        }
        if let Some((id, critical)) = self.extension {
            extensions.push(der::extension(id, critical, &der::int(1)));
        }
        if !self.vlek {
            extensions.push(der::extension("1.3.6.1.4.1.3704.1.4", false, &self.hwid));
        }
        let point = vek_key().verifying_key().to_sec1_point(false);
        let fields = der::Fields {
            serial: 77,
            issuer: ask_name(self.product),
            subject: der::name(self.vek_name),
            not_before: "250101000000Z",
            not_after: "300101000000Z",
            key: der::ec_key("1.3.132.0.34", point.as_bytes()),
            extensions,
        };
        fields.sign(&der::pss_algorithm(), |tbs| pss_sign(&keys().1, tbs))
    }

    pub(super) fn evidence(&self) -> (Evidence, Endorsements) {
        let crl = self.revoked.as_ref().map(|serials| {
            let window = ("260101000000Z", "270101000000Z");
            der::crl(&ark_name(self.product), window, serials, &der::pss_algorithm(), |tbs| pss_sign(&keys().0, tbs))
        });
        let collateral = AmdCollateral { vek: self.vek(), intermediate: Some(ask(self.product)), crl };
        (Evidence::Snp(self.report()), Endorsements { collateral: Collateral::Amd(collateral), statement: None })
    }
}

fn vek_key() -> p384::ecdsa::SigningKey {
    p384::ecdsa::SigningKey::from_slice(&[0x42; 48]).expect("a key")
}

/// The genuine names, so that only signatures tell this hierarchy from AMD's.
fn ark_name(product: AmdProduct) -> Vec<u8> {
    der::subject_of(match product {
        AmdProduct::Milan => include_bytes!("../../roots/amd/milan-ark.der"),
        AmdProduct::Genoa => include_bytes!("../../roots/amd/genoa-ark.der"),
        AmdProduct::Turin => include_bytes!("../../roots/amd/turin-ark.der"),
    })
}

fn ask_name(product: AmdProduct) -> Vec<u8> {
    der::subject_of(match product {
        AmdProduct::Milan => include_bytes!("../../roots/amd/milan-ask.der"),
        AmdProduct::Genoa => include_bytes!("../../roots/amd/genoa-ask.der"),
        AmdProduct::Turin => include_bytes!("../../roots/amd/turin-ask.der"),
    })
}

pub(super) const ASK_SERIAL: u64 = 10;

pub(super) fn ark(product: AmdProduct) -> Vec<u8> {
    ca(9, &ark_name(product), &ark_name(product), &keys().0, &keys().0)
}

pub(super) fn ask(product: AmdProduct) -> Vec<u8> {
    ca(ASK_SERIAL, &ark_name(product), &ask_name(product), &keys().1, &keys().0)
}

fn ca(serial: u64, issuer: &[u8], subject: &[u8], key: &RsaPrivateKey, by: &RsaPrivateKey) -> Vec<u8> {
    let fields = der::Fields {
        serial,
        issuer: issuer.to_owned(),
        subject: subject.to_owned(),
        not_before: "240101000000Z",
        not_after: "350101000000Z",
        key: spki(key),
        extensions: der::ca_extensions(),
    };
    fields.sign(&der::pss_algorithm(), |tbs| pss_sign(by, tbs))
}
