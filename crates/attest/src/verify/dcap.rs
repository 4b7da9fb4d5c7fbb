//! What SGX and TDX share: the quote's outer structure and the DCAP rules, which the crate `dcap-qvl`
//! checks. It leaves to us: exact lengths, the time window of everything that was relied on, and every
//! decision about status, advisories and platform flags, which are the policy's.

use dcap_qvl::configs::RustCryptoConfig;
use dcap_qvl::policy::{PckCertFlag, QuoteClaims, QuotePolicy};
use dcap_qvl::quote::{AuthData, Quote};
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteCollateralV3, TcbStatus as DcapStatus};

use crate::bytes::Bytes;
use crate::claims::{Flag, TcbClaims, TcbStatus, Technology};
use crate::error::VerifyError;
use crate::evidence::{Collateral, Endorsements};
use crate::platform::PlatformId;
use crate::read::{Reader, Short};
use crate::roots::Roots;
use crate::roots::sealed::IntelRoot;

const HEADER: usize = 48;
const BODY_SGX: usize = 384;
const BODY_TD10: usize = 584;
const TEE_SGX: u32 = 0;
const TEE_TDX: u32 = 0x81;
/// A chain of three certificates in PEM, and room to spare.
const MAX_COLLATERAL: usize = 256 * 1024;
/// The quoting enclave's certification data that wraps its report, in quotes from version 4 on.
const QE_REPORT_CERTIFICATION: u16 = 6;

/// The quote at the start of `buffer`, if nothing but zeros follow it; else the whole buffer, which the
/// verifier then refuses.
pub(crate) fn without_padding(buffer: &[u8]) -> &[u8] {
    match exact_length(buffer).ok().and_then(|length| buffer.split_at_checked(length)) {
        Some((quote, padding)) if padding.iter().all(|byte| *byte == 0) => quote,
        _ => buffer,
    }
}

/// The length that the quote's own fields give it.
fn exact_length(quote: &[u8]) -> Result<usize, Short> {
    let mut reader = Reader::new(quote);
    let version = reader.u16_le("version")?;
    reader.take(2, "attestation key type")?;
    let tee = reader.u32_le("TEE type")?;
    reader.take(HEADER - 8, "header")?;
    let body = match (version, tee) {
        (5, _) => {
            reader.take(2, "body type")?;
            reader.u32_le("body size")? as usize
        }
        (_, TEE_TDX) => BODY_TD10,
        _ => BODY_SGX,
    };
    reader.take(body, "body")?;
    let auth = reader.u32_le("size of the signature data")? as usize;
    reader.take(auth, "signature data")?;
    Ok(quote.len() - reader.rest().len())
}

/// What the DCAP rules say of a quote of the given technology.
pub(crate) fn verify<R: Roots>(
    technology: Technology,
    quote: &[u8],
    endorsements: &Endorsements,
    now: u64,
    roots: &R,
) -> Result<QuoteClaims, VerifyError> {
    let malformed = |what: String| VerifyError::Malformed { technology, what };
    let length = exact_length(quote).map_err(|error| malformed(error.to_string()))?;
    if length != quote.len() {
        let more = quote.len() - length;
        return Err(malformed(format!(
            "{more} bytes follow the quote; cut the padding of the platform's buffer first"
        )));
    }
    check_structure(technology, quote)?;

    let Collateral::Intel(json) = &endorsements.collateral else {
        return Err(VerifyError::MissingEndorsement { technology, what: "Intel's collateral" });
    };
    if json.len() > MAX_COLLATERAL {
        return Err(malformed(format!("collateral of {} bytes is too long", json.len())));
    }
    let collateral: QuoteCollateralV3 =
        serde_json::from_slice(json).map_err(|error| malformed(format!("the collateral is not its JSON: {error}")))?;
    let verifier = match roots.intel() {
        Some(IntelRoot::Production) => QuoteVerifier::new_prod(),
        Some(IntelRoot::Test(root)) => QuoteVerifier::new(root.to_vec()),
        None => return Err(VerifyError::NoRoot { technology, roots: roots.name() }),
    };
    // The library's own policy is left open: the owner's decides, and it lists all reasons.
    let claims = verifier
        .with_config::<RustCryptoConfig>()
        .verify_with_policy(quote, collateral, now, &QuotePolicy::claims_only(now))
        .map_err(|error| VerifyError::Dcap { technology, rule: error.to_string(), source: Some(error.into()) })?;

    // The library checks each date where it uses it, but not the first second of revocation lists.
    let (from, to) = (claims.latest_issue_date, claims.earliest_expiration_date);
    if now < from || now > to {
        return Err(VerifyError::NotValidNow { what: "collateral", from, to, now });
    }
    Ok(claims)
}

/// Nested lengths must add up, so that no byte of a quote is outside every field.
fn check_structure(technology: Technology, raw: &[u8]) -> Result<(), VerifyError> {
    let malformed = |what: &str| VerifyError::Malformed { technology, what: what.to_owned() };
    let quote = Quote::parse(raw).map_err(|error| malformed(&error.to_string()))?;
    let labelled = if technology == Technology::Sgx { TEE_SGX } else { TEE_TDX };
    if quote.header.tee_type != labelled || quote.report.is_sgx() != (technology == Technology::Sgx) {
        return Err(malformed("its header or body is that of the other Intel technology"));
    }
    let auth_length = raw.len() - quote.signed_length() - 4;
    let expected = match &quote.auth_data {
        AuthData::V3(auth) => {
            64 + 64 + 384 + 64 + 2 + auth.qe_auth_data.data.len() + 6 + auth.certification_data.body.data.len()
        }
        AuthData::V4(auth) => {
            let inner = &auth.qe_report_data;
            let outer = auth.certification_data.body.data.len();
            if auth.certification_data.cert_type != QE_REPORT_CERTIFICATION {
                return Err(malformed("its certification data is not the quoting enclave's report"));
            }
            if outer != 384 + 64 + 2 + inner.qe_auth_data.data.len() + 6 + inner.certification_data.body.data.len() {
                return Err(malformed("bytes are left inside the quoting enclave's certification data"));
            }
            64 + 64 + 6 + outer
        }
    };
    if auth_length == expected { Ok(()) } else { Err(malformed("bytes are left inside the signature data")) }
}

/// The platform id: the provisioning id that Intel's certificate names.
pub(crate) fn platform(technology: Technology, claims: &QuoteClaims) -> Result<PlatformId, VerifyError> {
    let ppid = &claims.platform.pck.ppid;
    if ppid.len() != 16 || ppid.iter().all(|byte| *byte == 0) {
        let what = format!("its certificate has no usable platform provisioning id ({})", Bytes::from(ppid));
        return Err(VerifyError::Refused { technology, what });
    }
    Ok(PlatformId::of(technology, ppid))
}

pub(crate) fn tcb(claims: &QuoteClaims) -> TcbClaims {
    let pck = &claims.platform.pck;
    let (base, now) = (claims.report.as_td10(), claims.report.as_td15());
    TcbClaims {
        status: status(claims.tcb.status),
        advisories: claims.tcb.advisory_ids.clone(),
        date: claims.platform.tcb_date_tag,
        evaluation: claims.tcb.eval_data_number,
        current_status: claims.platform.current_tcb_level.as_ref().map(|level| status(level.tcb_status)),
        cpu_svn: Bytes::from(pck.cpu_svn),
        launch_svn: base.map(|report| Bytes::from(report.tee_tcb_svn)),
        current_svn: now.map(|report| Bytes::from(report.tee_tcb_svn2)),
        dynamic_platform: flag(pck.dynamic_platform),
        cached_keys: flag(pck.cached_keys),
        smt: flag(pck.smt_enabled),
    }
}

fn flag(flag: PckCertFlag) -> Flag {
    match flag {
        PckCertFlag::False => Flag::No,
        PckCertFlag::True => Flag::Yes,
        PckCertFlag::Undefined => Flag::Unknown,
    }
}

fn status(status: DcapStatus) -> TcbStatus {
    match status {
        DcapStatus::UpToDate => TcbStatus::UpToDate,
        DcapStatus::OutOfDateConfigurationNeeded => TcbStatus::OutOfDateConfigurationNeeded,
        DcapStatus::OutOfDate => TcbStatus::OutOfDate,
        DcapStatus::ConfigurationAndSWHardeningNeeded => TcbStatus::ConfigurationAndSWHardeningNeeded,
        DcapStatus::ConfigurationNeeded => TcbStatus::ConfigurationNeeded,
        DcapStatus::SWHardeningNeeded => TcbStatus::SWHardeningNeeded,
        DcapStatus::Revoked => TcbStatus::Revoked,
        DcapStatus::TDRelaunchAdvised => TcbStatus::TDRelaunchAdvised,
        DcapStatus::TDRelaunchAdvisedConfigurationNeeded => TcbStatus::TDRelaunchAdvisedConfigurationNeeded,
    }
}
