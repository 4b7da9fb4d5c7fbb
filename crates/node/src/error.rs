//! What can go wrong in a node, in words for whoever asked.

use std::io;
use std::path::PathBuf;

use dunlin_identity::IdentityError;
use dunlin_keep_link::FailCode;
use dunlin_ledger::LedgerError;

/// Why a node did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// A request that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Nothing of that name.
    #[error("{0}")]
    NotFound(String),
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// Something else is going on with the service.
    #[error("{service} is busy: {what} goes on; wait for it, or abort it")]
    Busy {
        /// Which service.
        service: String,
        /// What.
        what: String,
    },
    /// Another node does not answer.
    #[error("node {node} cannot be reached at {address}")]
    Unreachable {
        /// Its name.
        node: String,
        /// Its address.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another node says no.
    #[error("node {node} refuses: {reason}")]
    Refused {
        /// Its name.
        node: String,
        /// In its words.
        reason: String,
    },
    /// A keep says no.
    #[error("{text}")]
    Keep {
        /// The kind of reason.
        code: FailCode,
        /// In its words.
        text: String,
    },
    /// A keep is gone.
    #[error("the keep ended unexpectedly while {doing}; its last words are in keeps.log in the node's folder")]
    KeepDied {
        /// What it did.
        doing: &'static str,
    },
    /// The program of the keep cannot be run.
    #[error(
        "the keep {program} cannot be started: it is built beside dunlin by `cargo build`, or named by DUNLIN_KEEP"
    )]
    Spawn {
        /// Its path.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The ledger says no.
    #[error("the ledger refuses to {what}: {reason}")]
    LedgerRefused {
        /// What was asked.
        what: &'static str,
        /// In its words.
        reason: String,
    },
    /// The ledger does not answer.
    #[error("the ledger cannot be reached to {what}: start the node that keeps it, or see to the network")]
    LedgerAway {
        /// What was asked.
        what: &'static str,
    },
    /// The ledger's file cannot be used.
    #[error("the ledger cannot be opened")]
    Ledger(#[from] LedgerError),
    /// A file or directory.
    #[error("{path} cannot be {what}")]
    File {
        /// Which.
        path: PathBuf,
        /// `read`, `written`, ...
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the node holds something else than it should.
    #[error("{path} is damaged ({reason}): restore it from a backup, or remove it")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Keys or certificates.
    #[error("keys or certificates of the node cannot be used")]
    Identity(#[from] IdentityError),
    /// The broker, or the way to it.
    #[error("the broker does not serve: {reason}")]
    Broker {
        /// Why.
        reason: String,
    },
    /// The platform that is to speak for this machine.
    #[error("nothing speaks for this machine")]
    Attester(#[from] dunlin_attest::AttesterError),
    /// The broker's files.
    #[error("the broker's files cannot be used")]
    Vault(#[from] dunlin_broker::VaultError),
    /// The system gives the node not what it needs.
    #[error("the system does not let the node {what}")]
    System {
        /// Do what.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl NodeError {
    pub(crate) fn file(path: impl Into<PathBuf>, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, what, source }
    }

    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }

    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid",
            Self::NotFound(_) => "not-found",
            Self::Conflict(_) => "conflict",
            Self::Busy { .. } => "busy",
            Self::Unreachable { .. } | Self::LedgerAway { .. } => "unreachable",
            _ => "failed",
        }
    }

    /// The error and its causes in one line, each once.
    pub fn in_full(&self) -> String {
        in_full(self)
    }
}

/// An error and its causes in one line, each once.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}
