//! A TPM 2.0 as attester, sealer and counter: enrolment under a provider's certificate authority, quotes over the boot
//! chain and an event log, secrets that open only while a register has its value, a counter that cannot go back. It
//! speaks to the TPM itself, over the Unix socket of a software TPM or a device file. It must never use another device
//! than the one it was given, trust an answer that is not signed where it matters, keep objects or sessions in the TPM
//! that it no longer needs, or seal to a register that software can reset.
//!
//! What a TPM gives is class `measured_host`: it says what was started, and root on the host can still read memory.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

mod attester;
mod client;
mod codes;
mod counter;
mod credential;
mod device;
mod ek;
mod enrol;
mod event_log;
mod keys;
mod seal;
mod wire;

pub use attester::{TpmAttester, TpmSettings};
pub use client::{Session, Tpm};
pub use codes::{Code, TpmError};
pub use counter::{Counter, CounterReading};
pub use credential::{Challenge, EkPublic};
pub use device::{Device, ParseDeviceError};
pub use ek::{EkCertificate, EkError, ProviderCa};
pub use enrol::{Answer, EnrolError, EnrolRequest, PendingEnrolment, answer, request};
pub use event_log::{EventLog, EventLogError, parse as parse_event_log};
pub use keys::{AK_HANDLE, EkKind};
pub use seal::{SealRegister, Sealed, SealedError};
pub use wire::{Response, parse_response};
