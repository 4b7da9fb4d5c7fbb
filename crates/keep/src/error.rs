//! Why a keep did not do what it was told.

use std::io;

use dunlin_base::{Digest, with_causes};
use dunlin_handover::PlatformId;
use dunlin_keep_link::FailCode;

use crate::migrate::StageError;

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It does not fit what the keep does.
    #[error("the keep is {doing}, so it cannot {what} now")]
    State {
        /// What the keep does.
        doing: &'static str,
        /// What was ordered.
        what: &'static str,
    },
    /// The order contradicts itself, or the ledger.
    #[error("the order is not valid: {0}")]
    Invalid(String),
    /// The module's bytes are not what was announced.
    #[error("the module has the digest {found}, the service needs {expected}: give the keep the service's own module")]
    OtherModule {
        /// Of the bytes that came.
        found: Digest,
        /// Announced.
        expected: Digest,
    },
    /// The module cannot be run.
    #[error("the module cannot be run: {0}")]
    Module(String),
    /// The program cannot be stopped and captured.
    #[error("the program cannot be stopped and carried: {0}")]
    NotMovable(String),
    /// Something open cannot be carried at this moment.
    #[error("the program's state cannot be captured now: {0}")]
    Busy(String),
    /// The ledger says that the service is not to run here.
    #[error("the ledger says that the service is not to run here: {0}")]
    NotHolder(String),
    /// The service is held on another machine.
    #[error("the ledger says that the machine {0} holds the service")]
    Elsewhere(PlatformId),
    /// The committed state is not here.
    #[error(
        "version {version} of the state ({state_hash}) is not among the stored ones: bring the states of the machine \
         that committed it, or let the owner recover the service"
    )]
    StateMissing {
        /// The committed version.
        version: u64,
        /// Its digest.
        state_hash: Digest,
    },
    /// A stored state cannot be read.
    #[error("a stored state cannot be read")]
    Stored(#[from] StageError),
    /// Nobody brings answers of the ledger that count.
    #[error("the ledger does not answer, or not with its own signature: {0}")]
    Ledger(&'static str),
    /// Nobody brings keys of the broker that count.
    #[error("the broker gives no keys: {0}")]
    Keys(String),
    /// The system refuses something.
    #[error("{what}")]
    System {
        /// What cannot be done.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The other keep, or this one to the other, did not prove what it must.
    #[error("there is no trust: {0}")]
    Untrusted(String),
    /// The program ended meanwhile.
    #[error("the program ended meanwhile: {0}")]
    Over(String),
}

impl Failure {
    /// For `map_err` on what the system is asked for.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }

    /// The kind of reason, for programs.
    pub fn code(&self) -> FailCode {
        match self {
            Self::State { .. } => FailCode::State,
            Self::Invalid(_) => FailCode::Invalid,
            Self::OtherModule { .. } | Self::Module(_) => FailCode::Module,
            Self::NotMovable(_) => FailCode::NotMovable,
            Self::Busy(_) => FailCode::Busy,
            Self::NotHolder(_) | Self::Elsewhere(_) => FailCode::NotHolder,
            Self::StateMissing { .. } | Self::Stored(_) => FailCode::StateMissing,
            Self::Ledger(_) => FailCode::Ledger,
            Self::Keys(_) => FailCode::Keys,
            Self::System { .. } => FailCode::System,
            Self::Untrusted(_) => FailCode::Untrusted,
            Self::Over(_) => FailCode::Over,
        }
    }

    /// With all causes, for people.
    pub(crate) fn text(&self) -> String {
        with_causes(self)
    }
}
