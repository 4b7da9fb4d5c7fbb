//! Why evidence was not turned into claims.

use crate::claims::Technology;
use crate::cose::CoseError;
use crate::platform::StatementError;

/// Why evidence was refused before any policy was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The bytes are not evidence of the technology they are labelled with.
    #[error("the {technology} evidence is malformed: {what}")]
    Malformed {
        /// The label of the evidence.
        technology: Technology,
        /// Where and what.
        what: String,
    },
    /// The bytes carry the mark of another technology than their label says.
    #[error("the evidence is labelled {labelled}, but it is {found}; relabelling evidence is never right")]
    Mislabelled {
        /// The label.
        labelled: Technology,
        /// What the bytes say.
        found: String,
    },
    /// Something that the check needs was not handed in.
    #[error("{technology} evidence needs {what}, which is not among the endorsements")]
    MissingEndorsement {
        /// The technology.
        technology: Technology,
        /// What is missing.
        what: &'static str,
    },
    /// The roots that the caller chose cannot vouch for this evidence.
    #[error("{technology} evidence cannot be checked against {roots}")]
    NoRoot {
        /// The technology.
        technology: Technology,
        /// Which roots.
        roots: &'static str,
    },
    /// A certificate is not what it must be.
    #[error("the {certificate} certificate is refused: {what}")]
    Certificate {
        /// Which certificate of the chain.
        certificate: &'static str,
        /// What is wrong.
        what: String,
    },
    /// A signature does not fit.
    #[error("the signature of the {what} does not fit")]
    Signature {
        /// What is signed.
        what: &'static str,
    },
    /// Something is not valid at the time of the check.
    #[error(
        "the {what} is valid from {from} to {to} (seconds since 1970), not at {now}; fetch fresh collateral or check the clock"
    )]
    NotValidNow {
        /// What is not valid.
        what: &'static str,
        /// The first second.
        from: u64,
        /// The last second.
        to: u64,
        /// The time of the check.
        now: u64,
    },
    /// A field says what no sound platform says.
    #[error("the {technology} evidence is refused: {what}")]
    Refused {
        /// The technology.
        technology: Technology,
        /// Which rule and which value.
        what: String,
    },
    /// The DCAP rules refuse an SGX or TDX quote or its collateral.
    #[error("the {technology} quote or its collateral is refused by the DCAP rules: {rule}")]
    Dcap {
        /// The technology.
        technology: Technology,
        /// The rule that failed.
        rule: String,
        /// The details.
        #[source]
        source: Option<Box<dyn core::error::Error + Send + Sync>>,
    },
    /// The evidence is genuine, but for another session, direction, service, epoch or policy.
    #[error(
        "the evidence carries other report data than this session demands: it was made for something else, or relayed"
    )]
    ReportData,
    /// The provider's statement about the platform is missing something or wrong.
    #[error("the provider's platform statement is refused")]
    Statement(#[from] StatementError),
    /// A signed token in the evidence is refused.
    #[error("the signed {what} is refused")]
    Signed {
        /// What is signed.
        what: &'static str,
        /// Why.
        #[source]
        source: CoseError,
    },
}
