//! SEV-SNP attestation reports, checked over their raw bytes.
//!
//! The report has 0x4a0 bytes: 0x2a0 that are signed and a signature in a field of 0x200. Every byte is
//! accounted for: reserved ones must be zero, also those of the signature field, so no bit of a report
//! can be changed unseen. Nothing is ever written back from parsed fields before hashing.

use std::collections::BTreeMap;

use p384::ecdsa::signature::Verifier as _;
use p384::ecdsa::{Signature, VerifyingKey};
use x509_cert::der::asn1::ObjectIdentifier;

use crate::bytes::Bytes;
use crate::claims::{Carried, ClaimSet, Class, SignerClaims, SnpClaims, SnpTcb, SnpTcbs, Technology, UnboundClaims};
use crate::error::VerifyError;
use crate::evidence::{AmdCollateral, Collateral, Endorsements};
use crate::platform::PlatformId;
use crate::read::{Reader, Short};
use crate::roots::{AmdProduct, AmdRoot, Roots};
use crate::verify::{measured_policies, statement};
use crate::x509::Cert;

/// The length of a report.
pub(crate) const REPORT: usize = 0x4a0;
const SIGNED: usize = 0x2a0;

const ECDSA_P384_SHA384: u32 = 1;
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

const PRODUCT: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
const SPL_BOOTLOADER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const SPL_TEE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SPL_SNP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const SPL_MICROCODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const SPL_FMC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const HWID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");

/// Bits of the guest policy.
const POLICY_MUST_BE_ONE: u64 = 1 << 17;
const POLICY_MIGRATE_MA: u64 = 1 << 18;
const POLICY_DEBUG: u64 = 1 << 19;
const POLICY_KNOWN: u64 = (1 << 26) - 1;
/// Bits of the platform information; bit 6 is reserved.
const PLATFORM_SMT: u64 = 1 << 0;
const PLATFORM_ALIAS_CHECK: u64 = 1 << 5;
const PLATFORM_KNOWN: u64 = 0b1011_1111;
/// Bits of the key information.
const KEY_MASKED: u32 = 1 << 1;
const KEY_KNOWN: u32 = 0b1_1111;

/// The fields of a report, as they are in its bytes. Nothing is checked but the structure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpReport {
    /// The version of the structure: 2, 3 or 5.
    pub version: u32,
    /// The owner's security version number of the guest.
    pub guest_svn: u32,
    /// The guest policy.
    pub policy: u64,
    /// The owner's family id.
    pub family_id: [u8; 16],
    /// The owner's image id.
    pub image_id: [u8; 16],
    /// The privilege level that asked for the report.
    pub vmpl: u32,
    /// The signature algorithm.
    pub signature_algorithm: u32,
    /// The TCB that runs now, raw.
    pub current_tcb: [u8; 8],
    /// Platform information bits.
    pub platform_info: u64,
    /// Key information bits.
    pub key_info: u32,
    /// What the guest asked to be signed.
    pub report_data: [u8; 64],
    /// The launch measurement.
    pub measurement: [u8; 48],
    /// What the host put in before launch.
    pub host_data: [u8; 32],
    /// The digest of the key that signed the id block.
    pub id_key_digest: [u8; 48],
    /// The TCB that the signing key stands for, raw.
    pub reported_tcb: [u8; 8],
    /// CPU family, model and stepping (from version 3 on, else zero).
    pub cpuid: [u8; 3],
    /// The chip.
    pub chip_id: [u8; 64],
    /// The TCB below which the platform cannot go, raw.
    pub committed_tcb: [u8; 8],
    /// The TCB at launch, raw.
    pub launch_tcb: [u8; 8],
    /// The first half of the signature, little-endian.
    r: [u8; 48],
    /// The second half of the signature, little-endian.
    s: [u8; 48],
}

/// Bytes that must be zero, and where they are.
type Reserved<'a> = (&'static str, &'a [u8]);

impl SnpReport {
    /// Takes a report apart.
    ///
    /// # Errors
    ///
    /// For other lengths and versions, and for reserved bytes and bits that are not zero.
    pub fn parse(bytes: &[u8]) -> Result<Self, VerifyError> {
        let malformed = |what: String| VerifyError::Malformed { technology: Technology::Snp, what };
        if bytes.len() != REPORT {
            return Err(malformed(format!("a report has {REPORT} bytes, this has {}", bytes.len())));
        }
        let mut rest = Reader::new(bytes);
        let (report, reserved) = Self::read(&mut rest).map_err(|error| malformed(error.to_string()))?;
        if ![2, 3, 5].contains(&report.version) {
            return Err(malformed(format!("version {} is unknown; this build knows 2, 3 and 5", report.version)));
        }
        if let Some((field, _)) = reserved.iter().find(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)) {
            return Err(malformed(format!("reserved bytes are not zero: {field}")));
        }
        let bits = [
            ("guest policy", report.policy & !POLICY_KNOWN),
            ("guest policy bit 17, which must be one", (report.policy & POLICY_MUST_BE_ONE) ^ POLICY_MUST_BE_ONE),
            ("platform information", report.platform_info & !PLATFORM_KNOWN),
            ("key information", u64::from(report.key_info & !KEY_KNOWN)),
        ];
        match bits.iter().find(|(_, bits)| *bits != 0) {
            Some((field, bits)) => Err(malformed(format!("reserved bits {bits:#x} of the {field}"))),
            None => Ok(report),
        }
    }

    /// The fields in their order, and the reserved bytes with the names of their places.
    fn read<'a>(rest: &mut Reader<'a>) -> Result<(Self, Vec<Reserved<'a>>), Short> {
        let mut reserved = Vec::new();
        let version = rest.u32_le("version")?;
        let guest_svn = rest.u32_le("guest SVN")?;
        let policy = rest.u64_le("guest policy")?;
        let family_id = rest.array("family id")?;
        let image_id = rest.array("image id")?;
        let vmpl = rest.u32_le("VMPL")?;
        let signature_algorithm = rest.u32_le("signature algorithm")?;
        let current_tcb = rest.array("current TCB")?;
        let platform_info = rest.u64_le("platform information")?;
        let key_info = rest.u32_le("key information")?;
        reserved.push(("after the key information", rest.take(4, "reserved")?));
        let report_data = rest.array("report data")?;
        let measurement = rest.array("measurement")?;
        let host_data = rest.array("host data")?;
        let id_key_digest = rest.array("id key digest")?;
        rest.take(48, "author key digest")?;
        rest.take(32, "report id")?;
        rest.take(32, "report id of the migration agent")?;
        let reported_tcb = rest.array("reported TCB")?;
        let cpuid: [u8; 3] = {
            let bytes = rest.take(3, "CPUID")?;
            if version < 3 {
                reserved.push(("CPUID before version 3", bytes));
            }
            bytes.try_into().map_err(|_| Short { field: "CPUID" })?
        };
        reserved.push(("after the CPUID", rest.take(21, "reserved")?));
        let chip_id = rest.array("chip id")?;
        let committed_tcb = rest.array("committed TCB")?;
        rest.take(3, "current firmware version")?;
        reserved.push(("after the current firmware version", rest.take(1, "reserved")?));
        rest.take(3, "committed firmware version")?;
        reserved.push(("after the committed firmware version", rest.take(1, "reserved")?));
        let launch_tcb = rest.array("launch TCB")?;
        let mitigations = rest.take(16, "mitigation vectors")?;
        if version < 5 {
            reserved.push(("mitigation vectors before version 5", mitigations));
        }
        reserved.push(("at the end of the signed area", rest.take(0x98, "reserved")?));
        let r = rest.array("signature")?;
        reserved.push(("above the first half of the signature", rest.take(24, "signature")?));
        let s = rest.array("signature")?;
        reserved.push(("above the second half of the signature", rest.take(24, "signature")?));
        reserved.push(("after the signature", rest.take(0x200 - 144, "signature")?));
        let report = Self {
            version,
            guest_svn,
            policy,
            family_id,
            image_id,
            vmpl,
            signature_algorithm,
            current_tcb,
            platform_info,
            key_info,
            report_data,
            measurement,
            host_data,
            id_key_digest,
            reported_tcb,
            cpuid,
            chip_id,
            committed_tcb,
            launch_tcb,
            r,
            s,
        };
        Ok((report, reserved))
    }
}

pub(crate) fn verify<R: Roots>(
    raw: &[u8],
    endorsements: &Endorsements,
    now: u64,
    roots: &R,
) -> Result<UnboundClaims, VerifyError> {
    let technology = Technology::Snp;
    let refused = |what: String| VerifyError::Refused { technology, what };
    let report = SnpReport::parse(raw)?;
    let Collateral::Amd(collateral) = &endorsements.collateral else {
        return Err(VerifyError::MissingEndorsement { technology, what: "the certificate of AMD's signing key" });
    };
    if report.signature_algorithm != ECDSA_P384_SHA384 {
        return Err(refused(format!("signature algorithm {} is not ECDSA P-384", report.signature_algorithm)));
    }
    let vlek = match (report.key_info >> 2) & 0b111 {
        0 => false,
        1 => true,
        kind => return Err(refused(format!("it is signed by no chip or provider key (kind {kind})"))),
    };
    if report.key_info & KEY_MASKED != 0 || report.chip_id == [0; 64] {
        return Err(refused("the host masks the chip id, so nobody knows which machine this is".to_owned()));
    }

    let amd = roots.amd();
    if amd.is_empty() {
        return Err(VerifyError::NoRoot { technology, roots: roots.name() });
    }
    let chain = Chain::verify(collateral, &amd, now)?;
    check_signature(raw, &report, &chain.vek)?;
    let product = chain.product;
    check_product(&report, product)?;

    let tcb = |field: &'static str, raw: [u8; 8]| {
        parse_tcb(product, raw).ok_or_else(|| VerifyError::Malformed {
            technology,
            what: format!("reserved bytes of the {field} TCB are not zero ({})", Bytes::from(raw)),
        })
    };
    let tcbs = SnpTcbs {
        reported: tcb("reported", report.reported_tcb)?,
        current: tcb("current", report.current_tcb)?,
        committed: tcb("committed", report.committed_tcb)?,
        launch: tcb("launch", report.launch_tcb)?,
    };
    check_key(&chain.vek, &report, &tcbs.reported, product, vlek)?;

    let platform = PlatformId::of(technology, &report.chip_id);
    let statement = statement(endorsements, &platform, now, roots)?;
    let id_key = Bytes::from(report.id_key_digest);
    let set = ClaimSet {
        class: roots.class(Class::HwTee),
        technology,
        registers: BTreeMap::from([("measurement".to_owned(), Bytes::from(report.measurement))]),
        signer: (!id_key.is_zero()).then(|| SignerClaims { signer: id_key, product: 0, svn: report.guest_svn.into() }),
        debug: report.policy & POLICY_DEBUG != 0,
        migratable: report.policy & POLICY_MIGRATE_MA != 0,
        platform,
        provider: statement.as_ref().map(|(statement, _)| statement.provider.clone()),
        provider_key: statement.map(|(_, key)| key),
        host_data: Bytes::from(report.host_data),
        measured_policies: measured_policies(&report.host_data),
        event_log: None,
        tcb: None,
        snp: Some(SnpClaims {
            product: product.name().to_owned(),
            tcb: tcbs,
            vmpl: report.vmpl,
            vlek,
            alias_check: report.platform_info & PLATFORM_ALIAS_CHECK != 0,
            smt: report.platform_info & PLATFORM_SMT != 0,
            crl_checked: collateral.crl.is_some(),
            family_id: Bytes::from(report.family_id),
            image_id: Bytes::from(report.image_id),
        }),
        tpm: None,
        expires: Some(chain.expires),
        label: roots.label(),
    };
    Ok(UnboundClaims::new(set, Carried::Full(report.report_data)))
}

/// The chain from a pinned root to the key that signed a report.
struct Chain<'a> {
    product: AmdProduct,
    vek: Cert<'a>,
    expires: u64,
}

impl<'a> Chain<'a> {
    fn verify(collateral: &'a AmdCollateral, roots: &[AmdRoot], now: u64) -> Result<Self, VerifyError> {
        let vek = Cert::parse("signing key", &collateral.vek)?;
        let given = collateral.intermediate.as_deref();
        // Which root it must be follows from the names; whether it is, from the signatures.
        let mut last = None;
        for root in roots {
            let ark = Cert::parse("root", &root.ark)?;
            let Some(der) = given.or(root.ask.as_deref()) else { continue };
            let ask = Cert::parse("intermediate", der)?;
            let outcome = vek.issued_by(&ask).and_then(|()| ask.issued_by(&ark));
            match outcome {
                Ok(()) => {
                    for cert in [&ark, &ask, &vek] {
                        cert.valid_at(now)?;
                    }
                    if let Some(crl) = &collateral.crl {
                        ark.not_revoked(&ask, crl, now)?;
                    }
                    if vek.is_ca() {
                        return Err(vek.refuse("it is a CA"));
                    }
                    let expires = [ark.window().1, ask.window().1, vek.window().1].into_iter().min().unwrap_or(now);
                    return Ok(Self { product: root.product, vek, expires });
                }
                // A signature that does not fit says more than a name that does not.
                Err(error @ VerifyError::Signature { .. }) => last = Some(error),
                Err(error) => last = last.or(Some(error)),
            }
        }
        Err(last.unwrap_or(VerifyError::MissingEndorsement {
            technology: Technology::Snp,
            what: "the certificate between the root and the signing key",
        }))
    }
}

fn check_signature(raw: &[u8], report: &SnpReport, vek: &Cert<'_>) -> Result<(), VerifyError> {
    let spki = vek.parsed().tbs_certificate().subject_public_key_info();
    let curve = spki.algorithm.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
    if spki.algorithm.oid != EC_PUBLIC_KEY || curve != Some(SECP384R1) {
        return Err(vek.refuse("its key is not a P-384 key"));
    }
    let key = VerifyingKey::from_sec1_bytes(spki.subject_public_key.raw_bytes())
        .map_err(|_| vek.refuse("its key is not a point of P-384"))?;
    let wrong = || VerifyError::Signature { what: "attestation report" };
    let (mut r, mut s) = (report.r, report.s);
    r.reverse();
    s.reverse();
    let signature = Signature::from_scalars(r, s).map_err(|_| wrong())?;
    let signed = raw.get(..SIGNED).ok_or_else(wrong)?;
    key.verify(signed, &signature).map_err(|_| wrong())
}

/// From version 3 on a report names its CPU, which must be of the root's product line.
fn check_product(report: &SnpReport, product: AmdProduct) -> Result<(), VerifyError> {
    if report.version < 3 {
        return Ok(());
    }
    let [family, model, _] = report.cpuid;
    let fits = match (family, model) {
        (0x19, 0x00..=0x0f) => product == AmdProduct::Milan,
        (0x19, 0x10..=0x1f | 0xa0..=0xaf) => product == AmdProduct::Genoa,
        (0x1a, 0x00..=0x11) => product == AmdProduct::Turin,
        _ => false,
    };
    let what = || format!("CPU family {family:#x} model {model:#x} does not belong under the {} root", product.name());
    if fits { Ok(()) } else { Err(VerifyError::Refused { technology: Technology::Snp, what: what() }) }
}

/// `None` when reserved bytes are not zero.
fn parse_tcb(product: AmdProduct, raw: [u8; 8]) -> Option<SnpTcb> {
    match (product, raw) {
        (AmdProduct::Milan | AmdProduct::Genoa, [bootloader, tee, 0, 0, 0, 0, snp, microcode]) => {
            Some(SnpTcb { bootloader, tee, snp, microcode, fmc: 0 })
        }
        (AmdProduct::Turin, [fmc, bootloader, tee, snp, 0, 0, 0, microcode]) => {
            Some(SnpTcb { bootloader, tee, snp, microcode, fmc })
        }
        _ => None,
    }
}

/// The certificate must be for this product, this TCB and, if it is a chip's own, this chip.
fn check_key(
    vek: &Cert<'_>,
    report: &SnpReport,
    reported: &SnpTcb,
    product: AmdProduct,
    vlek: bool,
) -> Result<(), VerifyError> {
    let kind = if vlek { "SEV-VLEK" } else { "SEV-VCEK" };
    if vek.common_name() != kind {
        return Err(
            vek.refuse(format!("it is for {:?}, but the report says it is signed by a {kind}", vek.common_name()))
        );
    }
    let named = vek.extension(PRODUCT).and_then(|value| string(value)).unwrap_or_default();
    if named.split('-').next() != Some(product.name()) {
        return Err(vek.refuse(format!("it is for product {named:?} under the {} root", product.name())));
    }
    let level = |oid| vek.extension(oid).and_then(integer);
    let mut levels = vec![
        ("bootloader", level(SPL_BOOTLOADER), reported.bootloader),
        ("tee", level(SPL_TEE), reported.tee),
        ("snp", level(SPL_SNP), reported.snp),
        ("microcode", level(SPL_MICROCODE), reported.microcode),
    ];
    if product == AmdProduct::Turin {
        levels.push(("fmc", level(SPL_FMC), reported.fmc));
    }
    for (name, certified, reported) in levels {
        if certified != Some(reported) {
            let certified = certified.map_or("no level".to_owned(), |level| format!("level {level}"));
            return Err(vek.refuse(format!("it is for {certified} of {name}, the report says {reported}")));
        }
    }
    if vlek {
        return Ok(());
    }
    // Before Turin the chip id has 64 bytes, from Turin on 8 and zeros.
    let hwid = vek.extension(HWID).ok_or_else(|| vek.refuse("it names no chip"))?;
    let length = if product == AmdProduct::Turin { 8 } else { 64 };
    let hwid = match hwid {
        [0x04, size, inner @ ..] if usize::from(*size) == length && inner.len() == length => inner,
        plain => plain,
    };
    let (chip, rest) = report.chip_id.split_at(length);
    if hwid != chip || rest.iter().any(|byte| *byte != 0) {
        return Err(vek.refuse(format!(
            "it is for chip {}, the report is from {}",
            Bytes::from(hwid),
            Bytes::from(chip)
        )));
    }
    Ok(())
}

/// A DER INTEGER from 0 to 255.
fn integer(der: &[u8]) -> Option<u8> {
    match der {
        [0x02, 1, value @ 0..=0x7f] => Some(*value),
        [0x02, 2, 0, value @ 0x80..=0xff] => Some(*value),
        _ => None,
    }
}

/// A DER IA5String.
fn string(der: &[u8]) -> Option<&str> {
    match der {
        [0x16, length, text @ ..] if usize::from(*length) == text.len() => core::str::from_utf8(text).ok(),
        _ => None,
    }
}
