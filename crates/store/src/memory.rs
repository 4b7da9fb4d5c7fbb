//! A store in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dunlin_base::Digest;

use crate::store::{ChunkStore, Roots, StoreError, check_name};

/// A store in memory, for volumes that need not outlive the process and for chunks in transit.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Contents>);

#[derive(Debug, Default)]
struct Contents {
    chunks: HashMap<Digest, Vec<u8>>,
    roots: BTreeMap<String, Digest>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        // Every change is one insertion or removal, so a panic elsewhere leaves nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChunkStore for MemoryStore {
    fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.contents().chunks.get(digest).cloned())
    }

    fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        self.contents().chunks.entry(*digest).or_insert_with(|| bytes.to_vec());
        Ok(())
    }

    fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.contents().chunks.contains_key(digest))
    }

    fn size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        Ok(self.contents().chunks.get(digest).map(|chunk| chunk.len() as u64))
    }

    fn list(&self) -> Result<Vec<Digest>, StoreError> {
        Ok(self.contents().chunks.keys().copied().collect())
    }

    fn retain(&self, needed: &BTreeSet<Digest>) -> Result<u64, StoreError> {
        let mut contents = self.contents();
        let before = contents.chunks.len();
        contents.chunks.retain(|digest, _| needed.contains(digest));
        Ok((before - contents.chunks.len()) as u64)
    }

    fn stored_bytes(&self) -> u64 {
        self.contents().chunks.values().map(|chunk| chunk.len() as u64).sum()
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Roots for MemoryStore {
    fn root(&self, name: &str) -> Result<Option<Digest>, StoreError> {
        Ok(self.contents().roots.get(name).copied())
    }

    fn set_root(&self, name: &str, root: Option<Digest>) -> Result<(), StoreError> {
        check_name(name)?;
        match root {
            Some(root) => self.contents().roots.insert(name.to_owned(), root),
            None => self.contents().roots.remove(name),
        };
        Ok(())
    }

    fn roots(&self) -> Result<Vec<(String, Digest)>, StoreError> {
        Ok(self.contents().roots.iter().map(|(name, root)| (name.clone(), *root)).collect())
    }
}
