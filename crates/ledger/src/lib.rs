//! The register of who owns a service, kept in one file and reached over a wire.
//!
//! It stores what `dunlin_handover::ledger::LedgerState` decides and answers nothing before it is on stable storage.
//! It must never decide anything itself, never let a receipt out that a crash could take back, and never believe what
//! comes over the wire.

mod error;
mod serve;
mod store;
mod wire;

pub use error::{CallError, LedgerError};
pub use serve::{Client, serve};
pub use store::RedbLedger;
pub use wire::{Answer, MAX_ANSWER, MAX_QUESTION, Question};
