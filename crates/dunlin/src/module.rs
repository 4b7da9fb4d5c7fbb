//! A module, and its way into an engine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dunlin_engine::{Code, Engine};
use dunlin_instrument::{Analysis, Blocker, Error, Map, Options, instrument};
use dunlin_snapshot::State;

use crate::failure::{Exit, Failure, Result};
use crate::file;
use crate::names::Names;

/// A module as its author built it.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) path: PathBuf,
    pub(crate) wasm: Vec<u8>,
}

/// What the bytes of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Module,
    Snapshot,
    Other,
}

impl Kind {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(b"\0asm") {
            Self::Module
        } else if bytes.starts_with(&dunlin_snapshot::MAGIC) {
            Self::Snapshot
        } else {
            Self::Other
        }
    }
}

/// A compiled module and how long it took.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) code: Code,
    /// `None` if the module cannot be moved, for these reasons.
    pub(crate) blockers: Option<Vec<String>>,
    pub(crate) instrument: Duration,
    pub(crate) compile: Duration,
}

impl Module {
    /// Reads a module from a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let wasm = file::read(path)?;
        match Kind::of(&wasm) {
            Kind::Module => Ok(Self { path: path.to_owned(), wasm }),
            Kind::Snapshot => Err(Failure::new(
                Exit::Data,
                format!("{} is a snapshot, not a module: go on with it by `dunlin restore`", path.display()),
            )),
            Kind::Other => Err(Failure::new(
                Exit::Data,
                format!("{} is not a WebAssembly module: it must begin with the bytes 00 61 73 6d", path.display()),
            )),
        }
    }

    fn refuse(&self, error: Error) -> Failure {
        Failure::because(Exit::Data, format!("{} cannot be loaded", self.path.display()))(error)
    }

    /// Compiles it instrumented if it can be carried, else as it is.
    pub(crate) fn compile(&self, engine: &Engine, options: Options) -> Result<Compiled> {
        let start = Instant::now();
        let instrumented = match instrument(&self.wasm, options) {
            Ok(instrumented) => Ok(instrumented),
            Err(Error::Blocked(blockers)) => Err(reasons(&blockers, &Names::read(&self.wasm))),
            Err(error @ Error::Limit { .. }) => Err(vec![error.to_string()]),
            Err(error) => return Err(self.refuse(error)),
        };
        let instrument = start.elapsed();
        let start = Instant::now();
        let (code, blockers) = match instrumented {
            Ok(instrumented) => (Code::shared(engine, &instrumented.wasm, instrumented.map), None),
            Err(blockers) => (Code::plain(engine, &self.wasm), Some(blockers)),
        };
        let code = code.map_err(Failure::engine(format!("{} cannot be loaded", self.path.display())))?;
        Ok(Compiled { code, blockers, instrument, compile: start.elapsed() })
    }

    /// Reads it for instrumentation; a module that cannot be carried is an error.
    pub(crate) fn analyse(&self) -> Result<Analysis<'_>> {
        Analysis::of(&self.wasm).map_err(|error| self.refuse(error))
    }
}

/// The functions that have frames on a captured stack.
pub(crate) fn on_stack(map: &Map, state: &State) -> BTreeSet<u32> {
    state.frames.iter().filter_map(|frame| Some(map.safepoint(frame.safepoint)?.function)).collect()
}

/// One line for each reason.
pub(crate) fn reasons(blockers: &[Blocker], names: &Names) -> Vec<String> {
    blockers
        .iter()
        .map(|Blocker { function, offset, feature, detail }| {
            let place = function.map(|function| format!(" in {}", names.describe(function))).unwrap_or_default();
            format!("{feature}: {detail}{place} at offset {offset:#x}")
        })
        .collect()
}
