//! TPM 2.0 quotes.
//!
//! A quote is signed by an attestation key that the provider activated against the TPM's endorsement key
//! at enrolment; the provider's platform statement names that key. The quote covers the firmware's
//! registers 0 to 7 and register 15, into which the node extends what it starts; the event log explains
//! register 15. Registers that software can reset (16 and 23) are never looked at.

use std::collections::BTreeMap;

use ciborium::Value;
use dunlin_base::Digest;
use p256::ecdsa::signature::Verifier as _;
use rsa::{BoxedUint, RsaPublicKey};
use sha2::Digest as _;

use crate::bytes::Bytes;
use crate::cbor::{self, CborError, Fields};
use crate::claims::{Carried, ClaimSet, Class, Technology, TpmClaims, UnboundClaims};
use crate::error::VerifyError;
use crate::evidence::Endorsements;
use crate::platform::{PlatformId, PlatformStatement, StatementError};
use crate::read::{Reader, Short};
use crate::roots::Roots;
use crate::verify::MAX_EVIDENCE;

/// The registers of the SHA-256 bank that a quote covers, all of them and no others.
pub const TPM_PCRS: [u8; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 15];
/// The register of the event log.
const EVENT_PCR: usize = 8;
/// [`TPM_PCRS`] as a selection: one bit for each register, lowest first.
const SELECTION: [u8; 3] = [0xff, 0x80, 0x00];
/// A node starts at most this many things between two boots before it must be restarted.
const MAX_EVENTS: usize = 1024;

pub(super) const MAGIC: u32 = 0xff54_4347;
pub(super) const ST_ATTEST_QUOTE: u16 = 0x8018;
pub(super) const ST_ATTEST_NV: u16 = 0x8014;
const ALG_RSA: u16 = 0x0001;
const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
const ALG_RSASSA: u16 = 0x0014;
const ALG_RSAPSS: u16 = 0x0016;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const CURVE_P256: u16 = 0x0003;

/// Object attributes that an attestation key must have, and those it must not have.
const FIXED_TPM: u32 = 1 << 1;
const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;
const WANTED: [(u32, &str); 5] = [
    (FIXED_TPM, "fixedTPM"),
    (FIXED_PARENT, "fixedParent"),
    (SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
    (RESTRICTED, "restricted"),
    (SIGN, "sign"),
];

/// A quote and what is needed to check it. All byte strings are in the TPM's own encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmQuote {
    /// The TPMS_ATTEST structure that is signed.
    pub attest: Vec<u8>,
    /// The TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// The TPMT_PUBLIC of the attestation key.
    pub ak_public: Vec<u8>,
    /// The values of [`TPM_PCRS`], in that order.
    pub pcrs: [Digest; 9],
    /// What was extended into register 15 since boot, in order.
    pub events: Vec<TpmEvent>,
}

/// One extension of register 15.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TpmEvent {
    /// What kind of thing.
    pub kind: TpmEventKind,
    /// Its digest.
    pub digest: Digest,
}

/// What a node measures before it starts a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TpmEventKind {
    /// The runtime's binary.
    Runtime,
    /// The owner's policy.
    Policy,
    /// The WebAssembly module.
    Module,
}

impl TpmEventKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Runtime, Self::Policy, Self::Module];

    /// The name that is measured.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Policy => "policy",
            Self::Module => "module",
        }
    }
}

impl TpmEvent {
    /// The digest with which the node extends register 15 for this event.
    pub fn extension(&self) -> Digest {
        Digest::of(&cbor::encode(&self.value()))
    }

    fn value(&self) -> Value {
        Value::Array(vec![self.kind.name().into(), Value::Bytes(self.digest.0.to_vec())])
    }
}

impl TpmQuote {
    /// The deterministic CBOR form.
    pub fn to_cbor(&self) -> Vec<u8> {
        cbor::encode(&cbor::map([
            (0, Value::Bytes(self.attest.clone())),
            (1, Value::Bytes(self.signature.clone())),
            (2, Value::Bytes(self.ak_public.clone())),
            (3, Value::Array(self.pcrs.iter().map(|pcr| Value::Bytes(pcr.0.to_vec())).collect())),
            (4, Value::Array(self.events.iter().map(TpmEvent::value).collect())),
        ]))
    }

    pub(crate) fn from_cbor(bytes: &[u8]) -> Result<Self, CborError> {
        let mut fields = Fields::decode(bytes, MAX_EVIDENCE)?;
        let digest = |value: Value| {
            let expected = CborError::Type { field: "digest", expected: "32 bytes" };
            cbor::bytes(value, "digest")?.try_into().map(Digest).map_err(|_| expected)
        };
        let pcrs = fields.list(3, "registers")?.into_iter().map(digest).collect::<Result<Vec<_>, _>>()?;
        let event = |value: Value| {
            let Value::Array(items) = value else {
                return Err(CborError::Type { field: "event", expected: "an array" });
            };
            let Ok([Value::Text(name), bytes]) = <[Value; 2]>::try_from(items) else {
                return Err(CborError::Type { field: "event", expected: "a kind and a digest" });
            };
            let kind = TpmEventKind::ALL.into_iter().find(|kind| kind.name() == name);
            Ok(TpmEvent { kind: kind.ok_or(CborError::Unknown(name))?, digest: digest(bytes)? })
        };
        let events = fields.list(4, "events")?.into_iter().map(event).collect::<Result<Vec<_>, _>>()?;
        let quote = Self {
            attest: fields.bytes(0, "attestation")?,
            signature: fields.bytes(1, "signature")?,
            ak_public: fields.bytes(2, "attestation key")?,
            pcrs: pcrs.try_into().map_err(|_| CborError::Type { field: "registers", expected: "nine digests" })?,
            events,
        };
        fields.finish()?;
        Ok(quote)
    }
}

pub(crate) fn verify<R: Roots>(
    quote: &TpmQuote,
    endorsements: &Endorsements,
    now: u64,
    roots: &R,
) -> Result<UnboundClaims, VerifyError> {
    let technology = Technology::Tpm;
    let malformed = |what: Short| VerifyError::Malformed { technology, what: what.to_string() };
    let refused = |what: String| VerifyError::Refused { technology, what };

    let object = endorsements.statement.as_deref().ok_or(StatementError::Missing(technology))?;
    let (statement, provider_key) = PlatformStatement::verify(object, roots.providers(), now)?;
    let enrolment = statement.tpm.clone().ok_or_else(|| refused("the platform statement names no TPM".to_owned()))?;
    let platform = PlatformId::of(technology, &enrolment.ek_certificate.0);
    let statement = statement.for_platform(&platform)?;

    let key = AttestationKey::parse(&quote.ak_public)?;
    if key.name != enrolment.ak_name {
        let what = format!("the attestation key is {}, enrolled is {}", key.name, enrolment.ak_name);
        return Err(refused(what));
    }
    key.check(&quote.attest, &quote.signature)?;

    let attest = Attest::parse(&quote.attest).map_err(malformed)?;
    if attest.magic != MAGIC {
        return Err(refused(format!("magic {:#010x}: the TPM did not make this structure", attest.magic)));
    }
    if attest.kind != ST_ATTEST_QUOTE {
        return Err(refused(format!("attestation type {:#06x} is not a quote", attest.kind)));
    }
    if attest.selections != [(ALG_SHA256, &SELECTION[..])] {
        return Err(refused(format!(
            "it must cover registers 0 to 7 and 15 of the SHA-256 bank and nothing else, not {:x?}",
            attest.selections
        )));
    }
    let mut composite = dunlin_base::Hasher::default();
    quote.pcrs.iter().for_each(|pcr| composite.update(&pcr.0));
    if composite.finish().0 != attest.pcr_digest {
        return Err(refused("the register values are not those that were quoted".to_owned()));
    }
    if attest.reset_count < enrolment.reset_count {
        return Err(refused(format!(
            "reset count {} is below the {} at enrolment: another or a rolled-back TPM",
            attest.reset_count, enrolment.reset_count
        )));
    }

    let registers = registers(quote).ok_or_else(|| refused("the event log does not lead to register 15".to_owned()))?;
    let of_kind = |kind| quote.events.iter().filter(move |event| event.kind == kind).map(|event| event.digest);
    let set = ClaimSet {
        class: roots.class(Class::MeasuredHost),
        technology,
        registers,
        signer: None,
        debug: false,
        migratable: false,
        platform,
        provider: Some(statement.provider),
        provider_key: Some(provider_key),
        host_data: Bytes::default(),
        measured_policies: of_kind(TpmEventKind::Policy).collect(),
        event_log: Some(Digest::of(&cbor::encode(&Value::Array(quote.events.iter().map(TpmEvent::value).collect())))),
        tcb: None,
        snp: None,
        tpm: Some(TpmClaims {
            reset_count: attest.reset_count,
            restart_count: attest.restart_count,
            clock: attest.clock,
            clock_safe: attest.safe,
            firmware: attest.firmware,
        }),
        expires: Some(statement.not_after),
        label: roots.label(),
    };
    Ok(UnboundClaims::new(set, Carried::Qualifying(attest.extra_data.to_vec())))
}

/// The registers by name, if the event log leads to register 15. `runtime` is the one binary that was
/// measured; with two different ones it is missing, because nobody knows which of them speaks.
fn registers(quote: &TpmQuote) -> Option<BTreeMap<String, Bytes>> {
    let mut value = Digest([0; 32]);
    for event in quote.events.get(..quote.events.len().min(MAX_EVENTS + 1))? {
        let mut hash = dunlin_base::Hasher::default();
        hash.update(&value.0);
        hash.update(&event.extension().0);
        value = hash.finish();
    }
    if quote.events.len() > MAX_EVENTS || quote.pcrs.get(EVENT_PCR) != Some(&value) {
        return None;
    }
    let named = TPM_PCRS.iter().zip(&quote.pcrs).map(|(pcr, value)| (format!("pcr{pcr}"), Bytes::from(value.0)));
    let mut registers: BTreeMap<_, _> = named.collect();
    let mut runtimes: Vec<_> = quote.events.iter().filter(|event| event.kind == TpmEventKind::Runtime).collect();
    runtimes.dedup_by_key(|event| event.digest);
    if let [runtime] = runtimes[..] {
        registers.insert("runtime".to_owned(), Bytes::from(runtime.digest.0));
    }
    Some(registers)
}

/// A TPMS_ATTEST, read to its end if it is of a quote.
pub(super) struct Attest<'a> {
    pub(super) magic: u32,
    pub(super) kind: u16,
    pub(super) extra_data: &'a [u8],
    clock: u64,
    pub(super) reset_count: u32,
    pub(super) restart_count: u32,
    safe: bool,
    firmware: u64,
    selections: Vec<(u16, &'a [u8])>,
    pcr_digest: &'a [u8],
    /// What is specific to types other than quotes.
    pub(super) tail: &'a [u8],
}

impl<'a> Attest<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Short> {
        let mut rest = Reader::new(bytes);
        let magic = rest.u32_be("magic")?;
        let kind = rest.u16_be("type")?;
        rest.tpm2b("qualified signer")?;
        let extra_data = rest.tpm2b("qualifying data")?;
        let clock = rest.u64_be("clock")?;
        let reset_count = rest.u32_be("reset count")?;
        let restart_count = rest.u32_be("restart count")?;
        let safe = rest.u8("safe")? == 1;
        let firmware = rest.u64_be("firmware version")?;
        let mut selections = Vec::new();
        // Only a quote goes on like this; for other types the caller stops at the type.
        let mut pcr_digest: &[u8] = &[];
        if kind == ST_ATTEST_QUOTE {
            let count = rest.u32_be("number of selections")?;
            // Each selection has at least three bytes, so the input bounds the loop.
            for _ in 0..count {
                let bank = rest.u16_be("bank")?;
                let size = rest.u8("size of selection")?;
                selections.push((bank, rest.take(size.into(), "selection")?));
            }
            pcr_digest = rest.tpm2b("register digest")?;
            if !rest.rest().is_empty() {
                return Err(Short { field: "the attestation, with bytes left over" });
            }
        }
        Ok(Self {
            magic,
            kind,
            extra_data,
            clock,
            reset_count,
            restart_count,
            safe,
            firmware,
            selections,
            pcr_digest,
            tail: rest.rest(),
        })
    }
}

/// The public area of an attestation key, checked for what makes it one.
pub(super) struct AttestationKey {
    pub(super) name: Bytes,
    key: PublicKey,
}

enum PublicKey {
    Ecdsa(p256::ecdsa::VerifyingKey),
    Rsa(RsaPublicKey),
}

impl AttestationKey {
    pub(super) fn parse(public: &[u8]) -> Result<Self, VerifyError> {
        let malformed = |what: Short| VerifyError::Malformed {
            technology: Technology::Tpm,
            what: format!("the attestation key {what}"),
        };
        let refused = |what: &str| VerifyError::Refused {
            technology: Technology::Tpm,
            what: format!("the attestation key {what}"),
        };
        let mut rest = Reader::new(public);
        let kind = rest.u16_be("type").map_err(malformed)?;
        let name_algorithm = rest.u16_be("name algorithm").map_err(malformed)?;
        let attributes = rest.u32_be("attributes").map_err(malformed)?;
        if let Some((_, name)) = WANTED.iter().find(|(bit, _)| attributes & bit == 0) {
            return Err(refused(&format!("is not {name}, so it could have signed anything")));
        }
        if attributes & DECRYPT != 0 {
            return Err(refused("also decrypts, so it is not restricted to what the TPM made"));
        }
        if name_algorithm != ALG_SHA256 {
            return Err(refused("is not named with SHA-256"));
        }
        rest.tpm2b("authorisation policy").map_err(malformed)?;
        if rest.u16_be("symmetric algorithm").map_err(malformed)? != ALG_NULL {
            return Err(refused("has a symmetric algorithm"));
        }
        let scheme = rest.u16_be("scheme").map_err(malformed)?;
        if scheme != ALG_NULL && rest.u16_be("scheme hash").map_err(malformed)? != ALG_SHA256 {
            return Err(refused("does not sign with SHA-256"));
        }
        let key = match kind {
            ALG_ECC => {
                let curve = rest.u16_be("curve").map_err(malformed)?;
                let derivation = rest.u16_be("key derivation").map_err(malformed)?;
                if curve != CURVE_P256 || derivation != ALG_NULL || scheme != ALG_ECDSA {
                    return Err(refused("is not an ECDSA key on P-256"));
                }
                let (x, y) = (rest.tpm2b("x").map_err(malformed)?, rest.tpm2b("y").map_err(malformed)?);
                let mut point = vec![0x04];
                for coordinate in [x, y] {
                    let padding =
                        32usize.checked_sub(coordinate.len()).ok_or_else(|| refused("has a long coordinate"))?;
                    point.extend(core::iter::repeat_n(0, padding));
                    point.extend(coordinate);
                }
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&point);
                PublicKey::Ecdsa(key.map_err(|_| refused("is not a point of P-256"))?)
            }
            ALG_RSA => {
                let bits = rest.u16_be("key size").map_err(malformed)?;
                let exponent = rest.u32_be("exponent").map_err(malformed)?;
                let modulus = rest.tpm2b("modulus").map_err(malformed)?;
                if !matches!(bits, 2048 | 3072 | 4096) || modulus.len() * 8 != usize::from(bits) {
                    return Err(refused("is not an RSA key of 2048, 3072 or 4096 bits"));
                }
                let exponent = if exponent == 0 { 65_537 } else { exponent };
                let key =
                    RsaPublicKey::new(BoxedUint::from_be_slice_vartime(modulus), BoxedUint::from(u64::from(exponent)));
                PublicKey::Rsa(key.map_err(|_| refused("is not a sound RSA key"))?)
            }
            _ => return Err(refused("is neither RSA nor ECC")),
        };
        if !rest.rest().is_empty() {
            return Err(malformed(Short { field: "its unique part, with bytes left over" }));
        }
        let name = [&ALG_SHA256.to_be_bytes()[..], &Digest::of(public).0].concat();
        Ok(Self { name: Bytes(name), key })
    }

    pub(super) fn check(&self, message: &[u8], signature: &[u8]) -> Result<(), VerifyError> {
        let malformed =
            |what: Short| VerifyError::Malformed { technology: Technology::Tpm, what: format!("the signature {what}") };
        let wrong = || VerifyError::Signature { what: "TPM attestation" };
        let mut rest = Reader::new(signature);
        let algorithm = rest.u16_be("algorithm").map_err(malformed)?;
        if rest.u16_be("hash").map_err(malformed)? != ALG_SHA256 {
            return Err(wrong());
        }
        match (&self.key, algorithm) {
            (PublicKey::Ecdsa(key), ALG_ECDSA) => {
                let scalar = |bytes: &[u8]| {
                    let mut scalar = [0; 32];
                    let start = scalar.len().checked_sub(bytes.len())?;
                    scalar.get_mut(start..)?.copy_from_slice(bytes);
                    Some(scalar)
                };
                let r = rest.tpm2b("r").map_err(malformed)?;
                let s = rest.tpm2b("s").map_err(malformed)?;
                let signature = scalar(r)
                    .zip(scalar(s))
                    .and_then(|(r, s)| p256::ecdsa::Signature::from_scalars(r, s).ok())
                    .ok_or_else(wrong)?;
                key.verify(message, &signature).map_err(|_| wrong())?;
            }
            (PublicKey::Rsa(key), ALG_RSASSA | ALG_RSAPSS) => {
                let signature = rest.tpm2b("signature").map_err(malformed)?;
                let digest = sha2::Sha256::digest(message);
                let outcome = if algorithm == ALG_RSASSA {
                    key.verify(rsa::Pkcs1v15Sign::new::<sha2::Sha256>(), &digest, signature)
                } else {
                    // TPMs differ in the length of the salt; it changes nothing about what is proven.
                    let key = rsa::pss::VerifyingKey::<sha2::Sha256>::new_with_auto_salt_len(key.clone());
                    rsa::pss::Signature::try_from(signature)
                        .and_then(|signature| key.verify(message, &signature))
                        .map_err(|_| rsa::Error::Verification)
                };
                outcome.map_err(|_| wrong())?;
            }
            _ => return Err(wrong()),
        }
        if rest.rest().is_empty() { Ok(()) } else { Err(malformed(Short { field: "its end, with bytes left over" })) }
    }
}
