//! Directories of programs under test, and their way to another machine.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A directory that is removed when it is dropped.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// An empty one.
    ///
    /// # Panics
    /// If the system's directory for such things cannot be written.
    #[expect(clippy::new_without_default, reason = "it is made on the disk, which nobody expects of a default")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("dunlin-harness-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a directory can be made");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Everything in it as bytes: equal directories give equal bytes.
    ///
    /// # Panics
    /// If something in it cannot be read.
    pub fn pack(&self) -> Vec<u8> {
        let mut found: BTreeMap<PathBuf, u64> = BTreeMap::new();
        let mut waiting = vec![self.0.clone()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(&directory).expect("it can be listed") {
                let path = entry.expect("it can be listed").path();
                let metadata = fs::symlink_metadata(&path).expect("it is there");
                if metadata.is_dir() {
                    waiting.push(path.clone());
                }
                found.insert(path.strip_prefix(&self.0).expect("it is below").to_owned(), metadata.ino());
            }
        }
        let mut bytes = Vec::new();
        let mut part = |part: &[u8]| {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        };
        // A file with several names has contents under the first of them only.
        let mut known: BTreeMap<u64, PathBuf> = BTreeMap::new();
        for (path, inode) in found {
            let whole = self.0.join(&path);
            part(path.as_os_str().as_bytes());
            if whole.is_dir() {
                part(b"d");
                part(b"");
            } else if let Some(first) = known.get(&inode) {
                part(b"l");
                part(first.as_os_str().as_bytes());
            } else {
                part(b"f");
                part(&fs::read(&whole).expect("programs under test make nothing but files"));
                known.insert(inode, path);
            }
        }
        bytes
    }

    /// A directory with what [`Directory::pack`] gave.
    ///
    /// # Panics
    /// If `bytes` are nothing of the kind.
    pub fn unpack(mut bytes: &[u8]) -> Self {
        let directory = Self::new();
        let mut part = || {
            let (length, rest) = bytes.split_first_chunk()?;
            let (part, rest) = rest.split_at(u64::from_le_bytes(*length) as usize);
            bytes = rest;
            Some(part)
        };
        while let Some(path) = part() {
            let path = directory.0.join(std::ffi::OsStr::from_bytes(path));
            let (kind, contents) = (part().expect("a kind"), part().expect("contents"));
            // A directory comes before what is in it, and the first name of a file before the others.
            match kind {
                b"d" => fs::create_dir(path),
                b"l" => fs::hard_link(directory.0.join(std::ffi::OsStr::from_bytes(contents)), path),
                _ => fs::write(path, contents),
            }
            .expect("it can be written");
        }
        directory
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left over lies in the system's directory for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}
