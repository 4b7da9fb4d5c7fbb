//! Why a command failed, and the exit code that says so.

use std::error::Error;
use std::process::ExitCode;

use dunlin_base::with_causes;

/// What an exit code means. The numbers are those of `sysexits.h`; a program that runs gives its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// The command line is wrong.
    Usage = 64,
    /// A module or snapshot is not valid.
    Data = 65,
    /// A file cannot be opened.
    NoInput = 66,
    /// What was asked for is impossible for this program, or something is missing.
    Unavailable = 69,
    /// An error of Dunlin itself.
    Software = 70,
    /// A file cannot be written.
    CannotCreate = 73,
    /// This host does not offer what the program needs.
    Config = 78,
    /// The program trapped: the code that a shell shows for a program that was aborted.
    Trap = 134,
    /// The program has used up its processor time: the code that a shell shows for SIGXCPU.
    CpuTime = 152,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

type Source = Box<dyn Error + Send + Sync>;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    message: String,
    source: Option<Source>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), source: None }
    }

    /// The message with all its causes, in one line.
    pub(crate) fn whole(&self) -> String {
        with_causes(self)
    }

    /// For `map_err`: adds what was attempted to the error that ended it.
    pub(crate) fn because<E: Into<Source>>(exit: Exit, message: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self { exit, message: message.into(), source: Some(source.into()) }
    }

    /// For `map_err`: an engine's error says by itself whose fault it is.
    pub(crate) fn engine(message: impl Into<String>) -> impl FnOnce(dunlin_engine::Error) -> Self {
        use dunlin_engine::Error as E;
        move |error| {
            let exit = match &error {
                E::Module(_) | E::Compile { .. } | E::NoExport(_) | E::Instantiate { .. } | E::Arguments { .. } => {
                    Exit::Data
                }
                E::State(_) | E::Entry { .. } | E::Rewind(_) => Exit::Data,
                E::Imports(_) | E::Limit { .. } => Exit::Config,
                E::Value { .. } => Exit::Unavailable,
                _ => Exit::Software,
            };
            Self::because(exit, message)(error)
        }
    }
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;
