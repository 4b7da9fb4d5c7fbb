//! Keeps what leaves a service's memory unreadable and unchangeable for whoever stores it: chunks of volumes,
//! snapshots, staged state, single values. This crate must never use one key and nonce for two different messages, not
//! even after a crash, a move or a restored disk, never let a key into a text, a log or a core dump, and never return
//! bytes that it has not authenticated.
//!
//! Keys come from a [`ServiceRoot`], which only a broker has; a keep gets the [`EpochKey`] of its epoch. [`VolumeSeal`]
//! seals the chunks of a volume, [`ObjectSeal`] everything else. Whether a sealed state is the newest one is not to be
//! known from the state itself: its digest and version are compared with the ledger's record by whoever opens it.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

mod error;
mod keyfile;
mod keys;
mod memory;
mod object;
mod process;
mod stream;
mod values;
mod volume;

pub use error::Error;
pub use keys::{EpochKey, LocalKey, MigrationId, ServiceId, ServiceRoot, StagingKey};
pub use object::{Kind, Label, ObjectSeal};
pub use process::harden;
pub use stream::{SealedReader, SealedWriter};
pub use values::SealedValues;
pub use volume::{MAX_EPOCHS, VolumeSeal};
