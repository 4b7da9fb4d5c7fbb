//! `dunlin inspect`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::failure::{Exit, Failure, Result};
use crate::file;
use crate::module::{Kind, Module};
use crate::report::difference::DifferenceReport;
use crate::report::module::ModuleReport;
use crate::report::run::json;
use crate::report::snapshot::SnapshotReport;
use crate::text;

/// Look into a module or snapshot, or compare two snapshots
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A module or a snapshot
    file: PathBuf,
    /// A second snapshot: tells the differences
    other: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The module of a snapshot that does not carry it
    #[arg(long, value_name = "APP.wasm")]
    module: Option<PathBuf>,
    /// For a module: also compile it in every engine, and tell size and time
    #[arg(long)]
    compile: bool,
    /// For a snapshot: show every frame of a deep stack
    #[arg(long)]
    all: bool,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  dunlin inspect app.wasm                  can it be moved, and if not, why
  dunlin inspect --compile app.wasm        what being movable costs in size
  dunlin inspect app.snap                  its stack, values, memories
  dunlin inspect before.snap after.snap    what has changed";

pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0; 1 two snapshots differ; 64 wrong usage; 65 a file is not valid; 66 it cannot be opened";

pub(crate) fn run(inspect: &Inspect) -> Result<ExitCode> {
    let Inspect { file, other, json: as_json, module, compile, all } = inspect;
    let given = module.as_deref().map(Module::read).transpose()?.map(|module| module.wasm);
    let bytes = file::read(file)?;
    if let Some(other) = other {
        let second = file::read(other)?;
        for (path, bytes) in [(file, &bytes), (other, &second)] {
            if Kind::of(bytes) != Kind::Snapshot {
                return Err(neither(path, "a snapshot, and only snapshots are compared"));
            }
        }
        let report = DifferenceReport::of((file, &bytes), (other, &second), given.as_deref())?;
        show(*as_json, || json(&report), || report.text())?;
        return Ok(if report.equal() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    match Kind::of(&bytes) {
        Kind::Module => {
            let report = ModuleReport::of(&Module { path: file.clone(), wasm: bytes }, *compile)?;
            show(*as_json, || json(&report), || report.text())?;
        }
        Kind::Snapshot => {
            let report = SnapshotReport::of(file, &bytes, given.as_deref())?;
            show(*as_json, || json(&report), || report.text(*all))?;
        }
        Kind::Other => return Err(neither(file, "a module or a snapshot")),
    }
    Ok(ExitCode::SUCCESS)
}

fn neither(path: &Path, what: &str) -> Failure {
    Failure::new(Exit::Data, format!("{} is not {what}", path.display()))
}

fn show(as_json: bool, json: impl FnOnce() -> Result<String>, plain: impl FnOnce() -> String) -> Result<()> {
    text::print(&if as_json { json()? } else { plain() });
    Ok(())
}
