//! A sealed store of values under keys, in a folder. Nobody sees keys or values, only how many there are and how long.
//!
//! ```text
//!   index          sealed: generation, then for each value: key, name of its file, digest of the sealed file
//!   <32 digits>    a sealed value; a new file for each time that it is put
//! ```
//!
//! A value is there when the index that names it is there: files first, then the index, atomically. The digest of the index
//! identifies all of the store; whether it is the newest one only a ledger knows.

use core::fmt;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::object::{Kind, Label, ObjectSeal};

/// The most bytes of a key.
const MAX_KEY: usize = 4096;
/// The most values.
const MAX_VALUES: usize = 1 << 20;

/// A sealed store in a folder. One process at a time uses it.
pub struct SealedValues {
    folder: PathBuf,
    seal: ObjectSeal,
    generation: u64,
    entries: BTreeMap<String, Entry>,
    digest: [u8; 32],
}

#[derive(Clone, Copy)]
struct Entry {
    file: [u8; 16],
    digest: [u8; 32],
}

impl fmt::Debug for SealedValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (generation, values) = (self.generation, self.entries.len());
        f.debug_struct("SealedValues").field("generation", &generation).field("values", &values).finish_non_exhaustive()
    }
}

const INDEX: Label<'static> = Label { kind: Kind::Value, name: "", version: 1 };

impl SealedValues {
    /// Opens the store in `folder`, or makes one.
    ///
    /// # Errors
    /// [`Error`], for instance when it was sealed under another key.
    pub fn open(folder: impl Into<PathBuf>, seal: ObjectSeal) -> Result<Self, Error> {
        let folder = folder.into();
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let mut store = Self { folder, seal, generation: 0, entries: BTreeMap::new(), digest: [0; 32] };
        match fs::read(store.folder.join("index")) {
            Ok(sealed) => {
                let index = store.seal.open(&INDEX, &sealed)?;
                (store.generation, store.entries) = decode(&index).ok_or(Error::Magic)?;
                store.digest = Sha256::digest(&index).into();
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => store.write_index()?,
            Err(error) => return Err(error.into()),
        }
        Ok(store)
    }

    /// Identifies everything in the store.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// How often the store was changed.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The keys, ascending.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The value under `key`, if there is one.
    ///
    /// # Errors
    /// [`Error`]: the value is damaged, of another time, or gone.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        let sealed = fs::read(self.path(entry))?;
        if <[u8; 32]>::from(Sha256::digest(&sealed)) != entry.digest {
            return Err(Error::Seal { part: 0 });
        }
        self.seal.open(&label(key), &sealed).map(Some)
    }

    /// Puts a value under `key`, in place of what was there. It is durable when this returns.
    ///
    /// # Errors
    /// [`Error`]: then the store is as it was.
    pub fn put(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(Error::TooLong("the key of a value (or it is empty)"));
        }
        if self.entries.len() >= MAX_VALUES {
            return Err(Error::TooLong("the list of values"));
        }
        let entry = self.write(key, value)?;
        let old = self.entries.insert(key.to_owned(), entry);
        if let Err(error) = self.write_index() {
            match old {
                Some(old) => self.entries.insert(key.to_owned(), old),
                None => self.entries.remove(key),
            };
            return Err(error);
        }
        if let Some(old) = old {
            let _kept_in_vain = fs::remove_file(self.path(&old));
        }
        Ok(())
    }

    /// Replaces everything.
    ///
    /// # Errors
    /// [`Error`]: then the store is as it was.
    pub fn replace<'a>(&mut self, values: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<(), Error> {
        let mut entries = BTreeMap::new();
        for (key, value) in values {
            entries.insert(key.to_owned(), self.write(key, value)?);
        }
        let old = std::mem::replace(&mut self.entries, entries);
        if let Err(error) = self.write_index() {
            self.entries = old;
            return Err(error);
        }
        for entry in old.values() {
            let _kept_in_vain = fs::remove_file(self.path(entry));
        }
        Ok(())
    }

    fn write(&self, key: &str, value: &[u8]) -> Result<Entry, Error> {
        let mut file = [0; 16];
        getrandom::fill(&mut file).map_err(|error| Error::Random(error.to_string()))?;
        let sealed = self.seal.seal(&label(key), value)?;
        let entry = Entry { file, digest: Sha256::digest(&sealed).into() };
        durable(&self.path(&entry), &sealed)?;
        Ok(entry)
    }

    fn write_index(&mut self) -> Result<(), Error> {
        let generation = self.generation + 1;
        let index = encode(generation, &self.entries);
        let part = self.folder.join("index.part");
        durable(&part, &self.seal.seal(&INDEX, &index)?)?;
        fs::rename(&part, self.folder.join("index"))?;
        File::open(&self.folder)?.sync_all()?;
        self.generation = generation;
        self.digest = Sha256::digest(&index).into();
        Ok(())
    }

    fn path(&self, entry: &Entry) -> PathBuf {
        self.folder.join(entry.file.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

fn label(key: &str) -> Label<'_> {
    Label { kind: Kind::Value, name: key, version: 1 }
}

fn durable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn encode(generation: u64, entries: &BTreeMap<String, Entry>) -> Vec<u8> {
    let mut out = generation.to_le_bytes().to_vec();
    for (key, entry) in entries {
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(&entry.file);
        out.extend_from_slice(&entry.digest);
    }
    out
}

fn decode(bytes: &[u8]) -> Option<(u64, BTreeMap<String, Entry>)> {
    let (generation, mut rest) = bytes.split_first_chunk::<8>()?;
    let mut entries = BTreeMap::new();
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let (key, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let (file, behind) = behind.split_first_chunk::<16>()?;
        let (digest, behind) = behind.split_first_chunk::<32>()?;
        entries.insert(core::str::from_utf8(key).ok()?.to_owned(), Entry { file: *file, digest: *digest });
        rest = behind;
    }
    Some((u64::from_le_bytes(*generation), entries))
}
