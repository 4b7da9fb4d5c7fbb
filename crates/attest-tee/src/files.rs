//! The few things that are done to files: the kernel's are files that answer, so tests bring some that do.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// Access to files that a kernel or a library OS shows.
pub trait Files: Debug + Send + Sync {
    /// Makes a directory; the kernel fills it.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory; the kernel removes what it holds.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Writes into a file that is there, in one go.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Reads a whole file of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// What the system says, and [`io::ErrorKind::InvalidData`] for longer files.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
}

/// The files of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemFiles;

impl Files for SystemFiles {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.write_all(bytes)
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit { Err(io::ErrorKind::InvalidData.into()) } else { Ok(bytes) }
    }
}
