//! Reading inputs, and writing outputs so that a reader never sees half of one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure, Result};

/// The contents of a file that the command was given.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Failure::because(Exit::NoInput, format!("cannot read {}", path.display())))
}

/// Writes a file that is complete as soon as it has its name, and survives a crash from then on. Snapshots hold all
/// that a program knows, so only the owner can read it.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let name =
        path.file_name().ok_or_else(|| Failure::new(Exit::Usage, format!("{} names no file", path.display())))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = directory.join(temporary);
    replace(&temporary, path, directory, bytes).map_err(|error| {
        // It may not exist; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        Failure::because(Exit::CannotCreate, format!("cannot write {}", path.display()))(error)
    })
}

fn replace(temporary: &PathBuf, path: &Path, directory: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    File::open(directory)?.sync_all()
}
