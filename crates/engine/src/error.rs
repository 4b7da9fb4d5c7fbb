//! What can go wrong outside the program, and how a program's run ended.

use core::fmt;
use std::io;

use dunlin_base::Value;
use dunlin_snapshot::Entry;

use crate::tier::Tier;
use crate::validate::StateError;

/// What an engine said. Engines' own error types stay inside this crate.
#[derive(Debug)]
pub struct Cause(String);

impl Cause {
    pub(crate) fn new(text: impl fmt::Display) -> Self {
        Self(format!("{text:#}"))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for Cause {}

/// Why a module could not be compiled, instantiated, run, captured or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine could not be set up with these settings.
    #[error("the engine {tier} cannot be set up")]
    Engine {
        /// Which engine.
        tier: Tier,
        /// What it said.
        #[source]
        source: Cause,
    },
    /// The bytes are not a module.
    #[error("not a valid WebAssembly module")]
    Module(#[source] Cause),
    /// The engine cannot take the module.
    #[error("the engine {tier} cannot compile the module")]
    Compile {
        /// Which engine.
        tier: Tier,
        /// What it said.
        #[source]
        source: Cause,
    },
    /// The host does not have these imports, each given as `module.name` with its type.
    #[error("the host does not provide {} import(s) of the module: {}", .0.len(), .0.join(", "))]
    Imports(Vec<String>),
    /// The module, or the state to restore, needs more than the limits allow.
    #[error("{what} needs {wanted}, but the limit is {limit}: raise the limit, or use a smaller module")]
    Limit {
        /// Which thing.
        what: String,
        /// How much it needs, in the limit's unit (bytes or elements).
        wanted: u64,
        /// The limit.
        limit: u64,
    },
    /// The engine could not create the instance.
    #[error("the engine {tier} cannot instantiate the module")]
    Instantiate {
        /// Which engine.
        tier: Tier,
        /// What it said.
        #[source]
        source: Cause,
    },
    /// The instrumented module and its map do not belong together.
    #[error("the instrumented module does not hold what its map promises: {0}")]
    Instrumentation(String),
    /// The module was loaded as it is, so it can only run to its end.
    #[error("the module was not instrumented: it can neither be captured nor restored")]
    NotMovable,
    /// The instance is not in a condition for what was asked.
    #[error("the instance {0}")]
    Condition(&'static str),
    /// Code of the resumable variant is needed.
    #[error("a state can only be restored into the resumable variant of the instrumented module")]
    NotResumable,
    /// The module exports no such function.
    #[error("the module exports no function {0:?}")]
    NoExport(String),
    /// The arguments do not fit the function's type.
    #[error("function {name:?} takes {expected}, but was given {given}")]
    Arguments {
        /// The export's name.
        name: String,
        /// The parameter types.
        expected: String,
        /// The arguments.
        given: String,
    },
    /// The entry on the stack is not exactly one of the run's.
    #[error("the program stopped in {entry}, which is {matches} of the run's entries: resume it as it was run")]
    Entry {
        /// The entry.
        entry: Entry,
        /// How many of the run's entries it is.
        matches: usize,
    },
    /// A value cannot be expressed independently of the engine.
    #[error("{place} cannot be carried")]
    Value {
        /// Where the value is.
        place: String,
        /// What is wrong with it.
        #[source]
        source: Cause,
    },
    /// The state is not one of this module.
    #[error("the state does not fit the module")]
    State(#[from] StateError),
    /// The saved stack could not be rebuilt. The program itself has not gone on.
    #[error("the saved stack cannot be rebuilt: {0}")]
    Rewind(String),
    /// The stack could not be saved completely. The instance is lost.
    #[error("the stack cannot be saved: {0}")]
    Unwind(String),
    /// The system does not tell which pages changed.
    #[error("the pages that changed cannot be found")]
    Track(#[source] io::Error),
    /// The system does not let pages be supplied while the program runs.
    #[error("memory cannot be supplied while the program runs")]
    Supply(#[source] io::Error),
    /// The thread with the program's stack could not be started.
    #[error("the program's thread cannot be started")]
    Thread(#[source] io::Error),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All entries returned; these are the results of the last one.
    Finished(Vec<Value>),
    /// The program asked to end with this code.
    Exited(i32),
    /// The program trapped.
    Trapped(Trap),
    /// A stop was requested; the instance can be captured.
    Stopped,
}

/// A trap: the end of a program that did something that has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trap {
    /// Which trap; the same on every tier.
    pub kind: TrapKind,
    /// The trap and, where the engine tells it, the function.
    pub message: String,
    /// One line for each frame, innermost first; empty where the engine keeps none.
    pub backtrace: String,
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Kinds of traps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TrapKind {
    /// `unreachable` was executed.
    Unreachable,
    /// A memory access beyond the memory's end, or a data segment's.
    MemoryOutOfBounds,
    /// A table access beyond the table's end, or an element segment's.
    TableOutOfBounds,
    /// An indirect call of a null element.
    IndirectCallToNull,
    /// An indirect call of a function of another type.
    BadSignature,
    /// Integer division by zero.
    IntegerDivisionByZero,
    /// Integer overflow.
    IntegerOverflow,
    /// A float that no integer of the asked type represents.
    BadConversionToInteger,
    /// The stack is exhausted.
    StackOverflow,
    /// A null reference where none may be.
    NullReference,
    /// An exception that nobody caught.
    UncaughtException,
    /// The host ended the program.
    Host,
    /// Anything else, which the message names.
    Other,
}

impl TrapKind {
    /// The trap in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable executed",
            Self::MemoryOutOfBounds => "out of bounds memory access",
            Self::TableOutOfBounds => "out of bounds table access",
            Self::IndirectCallToNull => "indirect call of a null element",
            Self::BadSignature => "indirect call type mismatch",
            Self::IntegerDivisionByZero => "integer divide by zero",
            Self::IntegerOverflow => "integer overflow",
            Self::BadConversionToInteger => "invalid conversion to integer",
            Self::StackOverflow => "call stack exhausted",
            Self::NullReference => "null reference",
            Self::UncaughtException => "uncaught exception",
            Self::Host => "ended by the host",
            Self::Other => "trap",
        }
    }
}

impl fmt::Display for TrapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
