//! Decides who may be trusted: evidence of five kinds of platform becomes claims, and claims become a
//! verdict under the policy that a service's owner signed. It must never do I/O, read a clock, the
//! environment or randomness, accept evidence without the report data it must carry, or let a root
//! that did not come with this build (or with the owner's signed policy) produce anything above `sim`.
//!
//! The way through the crate:
//!
//! 1. Both sides build the same [`BindingContext`]; its hash is the [`ReportData`] that evidence must carry.
//! 2. [`Verifier::appraise`] turns [`Evidence`] and [`Endorsements`] into [`Claims`], or says why not.
//! 3. [`Policy::appraise`] turns claims into an [`Appraisal`] with *all* reasons against them.
//! 4. [`token::issue`] writes an accepted appraisal down as a short-lived signed token.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

mod attester;
mod binding;
mod bytes;
mod cbor;
mod challenge;
mod claims;
mod cose;
mod error;
mod evidence;
mod platform;
mod policy;
mod read;
mod roots;
mod time;
pub mod token;
mod verify;
mod x509;

pub use attester::{Attester, AttesterError};
pub use binding::{BindingContext, BindingError, ReportData, Role};
pub use bytes::{Bytes, ParseHexError};
pub use cbor::CborError;
pub use challenge::{ChallengeError, Challenges};
pub use claims::{
    ClaimSet, Claims, Class, Flag, SignerClaims, SnpClaims, SnpTcb, SnpTcbs, TcbClaims, TcbStatus, Technology,
    TpmClaims, UnboundClaims,
};
pub use cose::{CoseError, KeyError, SigningKey, VerifyingKey};
pub use error::VerifyError;
pub use evidence::{AmdCollateral, Collateral, Endorsements, Evidence, EvidenceError};
pub use platform::{ParsePlatformError, PlatformId, PlatformStatement, StatementError, TpmEnrolment};
pub use policy::appraisal::{Appraisal, Reason, Rule, Tier, TrustVector};
pub use policy::appraise::AppraisalContext;
pub use policy::model::{
    AcceptSgx, AcceptSim, AcceptSnp, AcceptTdx, AcceptTpm, Broker, DestinationRule, Insecure, IntelTcbRules, Ledger,
    Migration, PolicyDocument, Provider, Recovery, SgxRules, SimRules, SnpRules, TdxRules, TokenRules, TpmRules,
};
pub use policy::model::{ModuleDigest, Moment, ParseMomentError, ParsePolicyError};
pub use policy::sign::{LastSeen, Policy, PolicyError};
pub use policy::{diff, explain, lint};
pub use roots::{AmdProduct, Roots, SimRoots, TrustRoots};
pub use verify::sim::SimStatement;
pub use verify::snp::SnpReport;
pub use verify::tpm::{TPM_PCRS, TpmEvent, TpmEventKind, TpmQuote};
pub use verify::tpm_signed::{TpmSigned, TpmSignedContent};
pub use verify::{MAX_EVIDENCE, Verifier};

#[cfg(test)]
mod tests;
