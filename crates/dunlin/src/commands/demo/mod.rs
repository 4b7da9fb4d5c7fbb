//! `dunlin demo`.

mod engines;
pub(crate) mod live;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::failure::{Exit, Failure, Result};

/// Watch a service move between nodes while it serves, or a program between engines
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Instead, a program that computes: it moves through four processes and three engines
    #[arg(long)]
    engines: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Keep all files in this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  dunlin demo                  two nodes, a Redis-protocol service between them, clients that check every reply
  dunlin demo --engines        a program inverts and blurs a picture, and moves three times meanwhile
  dunlin demo --keep files     keep nodes' folders or snapshots, to look into them";

pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0 if no request was lost or doubled, or the moved program printed exactly what the undisturbed one did;
1 if not.";

pub(crate) fn run(demo: &Demo) -> Result<ExitCode> {
    let directory = Directory::new(demo.keep.as_deref())?;
    if demo.engines { engines::run(demo.json, &directory) } else { live::run(demo.json, &directory) }
}

/// Where the files are: removed in the end unless the user named it.
pub(crate) struct Directory {
    path: PathBuf,
    temporary: bool,
}

impl Directory {
    pub(crate) fn new(keep: Option<&Path>) -> Result<Self> {
        let path = keep.map_or_else(
            || std::env::temp_dir().join(format!("dunlin-demo-{}", std::process::id())),
            Path::to_path_buf,
        );
        fs::create_dir_all(&path)
            .map_err(Failure::because(Exit::CannotCreate, format!("cannot create {}", path.display())))?;
        // Processes are started in it, with paths of files in it.
        let path = path
            .canonicalize()
            .map_err(Failure::because(Exit::CannotCreate, format!("cannot use {}", path.display())))?;
        Ok(Self { path, temporary: keep.is_none() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.temporary {
            // What is left over lies in the system's directory for such things.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
