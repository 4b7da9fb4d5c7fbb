//! From evidence to claims. Each technology has a file; all of them read the evidence's own bytes, check
//! everything that the hardware's maker leaves to a verifier, and leave what an owner may decide to the
//! policy.

use dunlin_base::Digest;

use crate::binding::ReportData;
use crate::claims::{Claims, Technology, UnboundClaims};
use crate::cose::VerifyingKey;
use crate::error::VerifyError;
use crate::evidence::{Endorsements, Evidence};
use crate::platform::{PlatformId, PlatformStatement, StatementError};
use crate::roots::Roots;

pub(crate) mod dcap;
pub(crate) mod sgx;
pub(crate) mod sim;
pub(crate) mod snp;
pub(crate) mod tdx;
pub(crate) mod tpm;
pub(crate) mod tpm_signed;

/// No platform's evidence is longer, in bytes: quotes have about 5000, and event logs are short.
pub const MAX_EVIDENCE: usize = 64 * 1024;

/// Turns evidence into claims. It has no state: nothing that was seen before makes evidence better.
#[derive(Debug, Clone, Copy)]
pub struct Verifier;

impl Verifier {
    /// Verifies `evidence` at `now` (seconds since 1970) and that it carries `expected`.
    ///
    /// # Errors
    ///
    /// For everything that is not genuine, current evidence made for this very context.
    pub fn appraise<R: Roots>(
        evidence: &Evidence,
        endorsements: &Endorsements,
        expected: &ReportData,
        now: u64,
        roots: &R,
    ) -> Result<Claims, VerifyError> {
        Self::inspect(evidence, endorsements, now, roots)?.bind(expected)
    }

    /// Verifies everything but the binding, to look at evidence of a session that is over. The result
    /// is of another type, which no policy accepts.
    ///
    /// # Errors
    ///
    /// For everything that is not genuine evidence at `now`.
    pub fn inspect<R: Roots>(
        evidence: &Evidence,
        endorsements: &Endorsements,
        now: u64,
        roots: &R,
    ) -> Result<UnboundClaims, VerifyError> {
        match evidence {
            Evidence::Sgx(quote) => sgx::verify(checked(Technology::Sgx, quote)?, endorsements, now, roots),
            Evidence::Tdx(quote) => tdx::verify(checked(Technology::Tdx, quote)?, endorsements, now, roots),
            Evidence::Snp(report) => snp::verify(checked(Technology::Snp, report)?, endorsements, now, roots),
            Evidence::Tpm(quote) => tpm::verify(quote, endorsements, now, roots),
            Evidence::Sim(token) => sim::verify(checked(Technology::Sim, token)?, endorsements, now, roots),
        }
    }
}

/// Length and mark, before any parser of a technology runs.
fn checked(technology: Technology, bytes: &[u8]) -> Result<&[u8], VerifyError> {
    if bytes.len() > MAX_EVIDENCE {
        let what = format!("{} bytes are more than the {MAX_EVIDENCE} that evidence may have", bytes.len());
        return Err(VerifyError::Malformed { technology, what });
    }
    match mark(bytes) {
        Some((found, name)) if found != technology => {
            Err(VerifyError::Mislabelled { labelled: technology, found: name.to_owned() })
        }
        _ => Ok(bytes),
    }
}

/// What bytes look like from their first fields and their length.
fn mark(bytes: &[u8]) -> Option<(Technology, &'static str)> {
    let (head, _) = bytes.split_first_chunk::<8>()?;
    match head {
        [0xff, b'T', b'C', b'G', ..] => Some((Technology::Tpm, "a TPM attestation")),
        [0xd2, ..] => Some((Technology::Sim, "a signed COSE object")),
        [3..=5, 0, 2 | 3, 0, 0x00, 0, 0, 0] => Some((Technology::Sgx, "an SGX quote")),
        [3..=5, 0, 2 | 3, 0, 0x81, 0, 0, 0] => Some((Technology::Tdx, "a TDX quote")),
        [2..=5, 0, 0, 0, ..] if bytes.len() == snp::REPORT => Some((Technology::Snp, "an SEV-SNP report")),
        _ => None,
    }
}

/// The provider's statement and its key, if there is one. A wrong one is an error, also where none is needed.
fn statement<R: Roots>(
    endorsements: &Endorsements,
    platform: &PlatformId,
    now: u64,
    roots: &R,
) -> Result<Option<(PlatformStatement, VerifyingKey)>, StatementError> {
    let object = endorsements.statement.as_deref();
    let verify = |object| {
        let (statement, key) = PlatformStatement::verify(object, roots.providers(), now)?;
        Ok((statement.for_platform(platform)?, key))
    };
    object.map(verify).transpose()
}

/// The policy in a slot that the platform measures: a digest, followed by zeros only.
fn measured_policies(slot: &[u8]) -> Vec<Digest> {
    match slot.split_first_chunk::<32>() {
        Some((digest, rest)) if *digest != [0; 32] && rest.iter().all(|byte| *byte == 0) => vec![Digest(*digest)],
        _ => Vec::new(),
    }
}
