//! Where a state is put on storage, and under what seal.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dunlin_seal::{Error, Kind, Label, ObjectSeal, SealedWriter};

/// The file of a state gets its name later, and more than once, so the seal does not hold it to one. Which state it is, its
/// digest tells.
const LABEL: Label<'static> = Label { kind: Kind::Staged, name: "state", version: 1 };

/// A place for a state: a file, and what seals it, if anything does.
#[derive(Debug, Clone)]
pub struct Shelf {
    path: PathBuf,
    seal: Option<Arc<ObjectSeal>>,
}

impl Shelf {
    /// A file under a seal.
    pub fn sealed(path: impl Into<PathBuf>, seal: Arc<ObjectSeal>) -> Self {
        Self { path: path.into(), seal: Some(seal) }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Begins a new file, replacing one of the same name.
    pub(super) fn create(&self) -> io::Result<Sink> {
        let file = BufWriter::with_capacity(1 << 18, File::create(&self.path)?);
        Ok(match &self.seal {
            None => Sink::Plain(file),
            Some(seal) => Sink::Sealed(Box::new(seal.writer(&LABEL, file)?)),
        })
    }

    /// Reads a file, up to where a crash cut it off.
    pub(super) fn open(&self) -> Result<Box<dyn Read>, Error> {
        let file = BufReader::new(File::open(&self.path)?);
        Ok(match &self.seal {
            None => Box::new(file),
            Some(seal) => Box::new(BufReader::new(seal.reader(&LABEL, file)?.up_to_a_crash())),
        })
    }
}

/// A file in the clear.
impl<P: AsRef<Path> + ?Sized> From<&P> for Shelf {
    fn from(path: &P) -> Self {
        Self { path: path.as_ref().to_owned(), seal: None }
    }
}

impl From<PathBuf> for Shelf {
    fn from(path: PathBuf) -> Self {
        Self { path, seal: None }
    }
}

/// A state that is being written.
pub(super) enum Sink {
    Plain(BufWriter<File>),
    Sealed(Box<SealedWriter<BufWriter<File>>>),
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Sealed(_) => "Sealed",
        })
    }
}

impl Sink {
    /// Puts everything on stable storage.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        match self {
            Self::Plain(file) => file.get_ref().sync_data(),
            Self::Sealed(file) => file.get_ref().get_ref().sync_data(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.write(bytes),
            Self::Sealed(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.flush(),
            Self::Sealed(file) => file.flush(),
        }
    }
}
