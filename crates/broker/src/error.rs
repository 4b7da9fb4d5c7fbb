//! What can go wrong on either side.

use std::io;
use std::path::PathBuf;

use dunlin_handover::codec::DecodeError;

use crate::message::Denied;

/// Why an instance got nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The broker says no.
    #[error("the broker releases nothing: {0}")]
    Denied(#[from] Denied),
    /// It is not a broker that the policy names.
    #[error("whoever answered is not a broker that the policy names")]
    WrongBroker,
    /// Another message than is due.
    #[error("the broker sent {0}, which is not due now")]
    Unexpected(&'static str),
    /// Not signed by the broker, for another question, or not encrypted to this instance.
    #[error("the answer is not the broker's answer to this question: somebody changed or replayed it")]
    NotGenuine,
    /// Signed and encrypted, and still nothing that was asked for.
    #[error("the broker's answer holds something else than was asked for")]
    Content,
    /// Not a message.
    #[error("the broker's message cannot be read")]
    Decode(#[from] DecodeError),
    /// No evidence.
    #[error("this machine gives no evidence")]
    Evidence(#[from] dunlin_attest::AttesterError),
    /// The connection.
    #[error("the broker cannot be reached")]
    Io(#[from] io::Error),
}

/// Why the broker's files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The system refused.
    #[error("{} cannot be used", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A root or a secret.
    #[error("a root or secret cannot be used")]
    Seal(#[from] dunlin_seal::Error),
    /// The record of releases was changed.
    #[error("entry {number} of the record of releases {} is damaged or out of its chain: put back a good copy", path.display())]
    Record {
        /// Which file.
        path: PathBuf,
        /// Which entry, from 0.
        number: usize,
    },
    /// Not a name for a secret.
    #[error("{0:?} cannot name a secret: use 1 to 64 of a-z, 0-9, dot and dash, and begin with a letter or digit")]
    Name(String),
    /// A secret that is too long.
    #[error("a secret has at most 1 MiB, this one has {0} bytes")]
    TooLong(usize),
    /// The rule of a secret.
    #[error("the rule of the secret {0:?} is damaged: put the secret there again")]
    Rule(String),
}
