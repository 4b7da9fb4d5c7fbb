//! The attested handshake: two keeps that share a TLS session prove to each other what they are, before a byte of a
//! service flows.
//!
//! It must never take evidence for anything but this session, this direction, this migration and this policy; never
//! take the other side's word for its provider, its keys or who holds the service; and never end in anything but
//! "both have accepted" or reasons, all of them.
//!
//! ```text
//!      source                                                     destination
//!        │ Challenge(nonce, migration, service, epoch, policy, ...) ──>  │ compares
//!        │ <── Challenge(nonce, the same)                                │ asks its platform for evidence
//!        │ asks its platform for evidence, the ledger for a reading      │
//!        │ <── Attest(keys, evidence, signature)                         │
//!        │ appraises                                                     │
//!        │ Attest(keys, evidence, reading, signature), Verdict ──>       │ appraises
//!        │ <── Verdict                                                   │
//! ```
//!
//! What was proved goes on to the ledger, which appraises it itself ([`Judge`]).
//!
//! [`Handshake`] does no I/O, has no clock and no randomness; [`run`] drives it over a stream.
//! `docs/formats/attested-channel.md` of the repository has the bytes, `docs/trust-channel.md` the reasons.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

mod appraise;
mod config;
mod drive;
mod handshake;
mod ledger;
mod message;
mod open_policy;
mod refusal;

pub use appraise::Attested;
pub use config::{Config, InstanceSigner, SessionFacts, Side, Terms, Trust};
pub use drive::{DriveError, decline, run};
pub use handshake::{Action, Done, Handshake};
pub use ledger::{Asker, BoundEvidence, Judge, LedgerProof};
pub use message::{Attest, Challenge, MAX_MESSAGE, Message, VERSION, Verdict};
pub use open_policy::{open_policy, policy_in_force};
pub use refusal::{Check, Party, Reason, Refused};
