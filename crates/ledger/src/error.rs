//! What can go wrong with the file and with the wire.

use std::io;

use dunlin_handover::codec::DecodeError;

/// The storage failed. Whether an operation took effect is unknown: the same request may be sent again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The file cannot be opened, or another process has it open.
    #[error("the ledger's file cannot be opened: it may be in use by another process, or not be a ledger")]
    Open(#[source] redb::DatabaseError),
    /// Reading or writing failed.
    #[error("the ledger's file cannot be read or written: see to the disk, then start again")]
    Storage(#[source] redb::Error),
    /// What is stored is not what a ledger writes.
    #[error("the ledger's file is damaged in the {what}: take it from a backup, nothing was changed")]
    Damaged {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// The file's own consistency is broken, beyond what a crash can do.
    #[error("the ledger's file was changed from outside: take it from a backup")]
    Corrupted,
    /// Made by a later release.
    #[error("the ledger's file has format {found}, this program knows format {known}: use a newer release")]
    Format {
        /// In the file.
        found: u64,
        /// Ours.
        known: u64,
    },
    /// The file belongs to a ledger with another key.
    #[error("the ledger's file was written under another signing key: its receipts would not chain")]
    OtherKey,
}

macro_rules! storage {
    ($($ty:ident),*) => {$(
        impl From<redb::$ty> for LedgerError {
            fn from(error: redb::$ty) -> Self {
                Self::Storage(error.into())
            }
        }
    )*};
}
storage!(CommitError, SetDurabilityError, StorageError, TableError, TransactionError);

/// Asking a ledger over a wire failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The way to the ledger is cut.
    #[error("the ledger cannot be reached")]
    Io(#[from] io::Error),
    /// The other side does not speak this protocol.
    #[error("what answers is not a ledger of this version")]
    Decode(#[from] DecodeError),
    /// A frame above its limit.
    #[error("a frame of {length} bytes was announced, at most {limit} are accepted")]
    TooLong {
        /// Announced.
        length: u64,
        /// Accepted.
        limit: usize,
    },
    /// An answer to something that was not asked.
    #[error("the answer does not belong to the question")]
    Mismatch,
    /// The ledger's storage failed.
    #[error("the ledger could not answer")]
    Ledger(#[from] LedgerError),
}
