//! Files of a node: written so that a crash leaves the old or the new one, readable by nobody else.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::error::NodeError;

/// Makes a directory and those above it, for this user only.
pub(crate) fn make(path: &Path) -> Result<(), NodeError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(NodeError::file(path, "created"))
}

/// Writes a file beside its place, flushes it and puts it there.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), NodeError> {
    let beside = path.with_extension("new");
    let put = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    put().map_err(NodeError::file(path, "written"))
}

/// Reads a file of at most `limit` bytes; `None` if there is none.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, NodeError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(limit.saturating_add(1)).read_to_end(&mut bytes)) {
        Ok(_) if bytes.len() as u64 > limit => {
            Err(NodeError::Damaged { path: path.to_owned(), reason: format!("more than {limit} bytes long") })
        }
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(NodeError::file(path, "read")(error)),
    }
}

/// Sixteen random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NodeError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| NodeError::System { what: "draw random bytes", source: io::Error::other(error) })?;
    Ok(bytes)
}
