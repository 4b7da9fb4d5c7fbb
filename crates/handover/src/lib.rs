//! Ownership and live migration of a service as state machines: the ledger's rules, the source and the destination
//! of a move, and the decision of a keep that starts.
//!
//! This crate must never open a socket or a file, read a clock, draw a random number or start a thread: time, random
//! bytes, keys and ids are arguments, and what must be done comes out of `poll_*`. It must never let two instances of
//! one service run, and never let the last recoverable copy of a state go. `docs/handover.md` of the repository draws
//! the protocol.

pub mod boot;
pub mod codec;
pub mod converge;
pub mod destination;
pub mod ledger;
pub mod message;
pub mod source;
pub mod statistics;

mod carry;
mod ids;
mod party;
mod telling;

pub use carry::{MAX_CALL, MAX_REPLY};
pub use ids::{Entropy, Key, MigrationId, Nonce, OperationId, ParseIdError, PlatformId, ServiceId, Time};
pub use party::{Keys, LedgerAnswer, LedgerCall, LedgerQuery, LedgerReply, Limits, ProtocolError};
