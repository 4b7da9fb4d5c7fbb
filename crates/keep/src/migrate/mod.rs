//! The drivers of a live migration: they carry out what the state machines of `dunlin_handover` ask for, over a
//! stream, with a program that runs.
//!
//! ```text
//!            source keep                                                destination keep
//!   program ──> driver ──> writer ═══════════ stream ═══════════> reader ──> driver ──> prepared instance
//!               │ copy pages,  (encrypts)                       (decrypts)   │ check, store, digest
//!               │ digest                                                     └──────> stager: one file, one fsync
//!               └──> ledger (a thread that carries calls)       ledger <─────┘
//! ```
//!
//! Each arrow between boxes is a bounded queue and each box a thread, so that copying, encryption and storage overlap.
//! A driver is blocking and has no runtime of its own; whoever calls it gives it a thread.

mod destination;
mod incoming;
mod link;
pub(crate) mod outgoing;
mod program;
mod shelf;
mod source;
pub(crate) mod stage;
mod volume;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dunlin_handover::statistics::Statistics;
use dunlin_handover::{LedgerAnswer, LedgerCall, Time};

pub use destination::{Destination, DestinationHandle, DestinationReport, DestinationRun, IsFresh, Lodging, Parts};
pub use link::Stream;
pub use program::{Resident, Runner, Track};
pub use shelf::Shelf;
pub use source::{Program, Source, SourceHandle, SourceReport, SourceRun, Stopped};
pub use stage::{Contents, Missing, StageError, Staged, load, read};
pub use volume::Supply;

/// Why a driver could not do its work. What became of the service is told by the outcome, not by this.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A thread could not be started.
    #[error("a thread of the migration cannot be started")]
    Thread(#[source] std::io::Error),
}

/// The way to the ledger. It is not trusted: answers are checked by the state machines.
pub trait LedgerWay: Send {
    /// Carries a question there and the answer back; blocks for as long as that takes.
    /// [`LedgerAnswer::Unreachable`] if nobody answered.
    fn ask(&mut self, call: &LedgerCall) -> LedgerAnswer;
}

impl<F: FnMut(&LedgerCall) -> LedgerAnswer + Send> LedgerWay for F {
    fn ask(&mut self, call: &LedgerCall) -> LedgerAnswer {
        self(call)
    }
}

/// The statistics of a migration, for whoever watches it.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<Statistics>>);

impl Progress {
    /// What was measured until the last step of the driver.
    pub fn now(&self) -> Statistics {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, statistics: Statistics) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = statistics;
    }
}

/// Who is told of each phase.
#[derive(Default)]
pub(crate) struct OnPhase {
    told: Option<Box<dyn FnMut(&'static str) + Send>>,
    last: &'static str,
}

impl OnPhase {
    pub(crate) fn new(told: Box<dyn FnMut(&'static str) + Send>) -> Self {
        Self { told: Some(told), last: "" }
    }

    pub(crate) fn now(&mut self, phase: &'static str) {
        if phase != self.last
            && let Some(told) = &mut self.told
        {
            told(phase);
        }
        self.last = phase;
    }
}

/// The time that a driver gives its machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Time {
        Time(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}
