//! Volumes between stores: which chunks a root needs, which of them are missing, and which nobody needs any more.

use std::collections::{BTreeSet, HashSet};

use dunlin_base::Digest;
use dunlin_wire::{Reader, Writer};

use crate::chunks::read;
use crate::error::{Damage, Error};
use crate::seal::Sealing;
use crate::store::{ChunkStore, HEAD, MAX_STORED, Store, StoreError};
use crate::volume::Volume;
use crate::walk::Walk;

/// A root and every chunk that it needs, itself included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The root.
    pub root: Digest,
    /// All chunks, ascending.
    pub chunks: BTreeSet<Digest>,
}

/// Why a chunk was not imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The manifest does not list it.
    #[error("chunk {0} is not in the manifest")]
    Unlisted(Digest),
    /// It is larger than a chunk can be.
    #[error("chunk {0} is larger than {MAX_STORED} bytes")]
    TooLarge(Digest),
    /// Chunks of the manifest are neither in the store nor among those that came.
    #[error("{count} chunks of the manifest did not come, {first} among them")]
    Missing {
        /// How many.
        count: usize,
        /// One of them.
        first: Digest,
    },
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl Manifest {
    /// The manifest as bytes: the root, a count, the digests in ascending order.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.bytes(&self.root.0);
        writer.u64(self.chunks.len() as u64);
        self.chunks.iter().for_each(|digest| writer.bytes(&digest.0));
        writer.into_bytes()
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`Damage`] when it is not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let mut reader = Reader::new(bytes);
        let root = Digest(reader.array()?);
        let count = reader.u64()?;
        // Every turn takes 32 bytes, so a count that lies ends it.
        let mut chunks = BTreeSet::new();
        for _ in 0..count {
            let digest = Digest(reader.array()?);
            if chunks.last().is_some_and(|last| *last >= digest) {
                return Err(Damage::Value("the digests are not in order"));
            }
            chunks.insert(digest);
        }
        reader.finish()?;
        if !chunks.contains(&root) {
            return Err(Damage::Value("the root is not among the chunks"));
        }
        Ok(Self { root, chunks })
    }
}

/// The chunks of the manifest that `store` does not have.
///
/// # Errors
/// [`StoreError`].
pub fn missing(manifest: &Manifest, store: &dyn ChunkStore) -> Result<Vec<Digest>, StoreError> {
    let mut missing = Vec::new();
    for digest in &manifest.chunks {
        if !store.contains(digest)? {
            missing.push(*digest);
        }
    }
    Ok(missing)
}

/// The bytes of chunks, one after the other, verified.
pub fn export<'a>(
    store: &'a dyn ChunkStore,
    digests: &'a [Digest],
) -> impl Iterator<Item = Result<(Digest, Vec<u8>), Error>> + 'a {
    digests.iter().map(|digest| {
        let bytes = read(store, *digest)?;
        Ok((*digest, bytes.ok_or(Error::Damaged { digest: *digest, problem: Damage::Missing })?))
    })
}

/// Takes chunks of a manifest into `store`, and checks that all of them are there. They are durable with the store's next
/// [`sync`](ChunkStore::sync) or [`set_root`](crate::Roots::set_root). Chunks are known by their bytes, so nothing that
/// they claim to be is trusted. The current root stays what it is.
///
/// # Errors
/// [`ImportError`].
pub fn receive<T: AsRef<[u8]>>(
    store: &dyn Store,
    manifest: &Manifest,
    chunks: impl IntoIterator<Item = T>,
) -> Result<(), ImportError> {
    for bytes in chunks {
        let bytes = bytes.as_ref();
        let digest = Digest::of(bytes);
        if !manifest.chunks.contains(&digest) {
            return Err(ImportError::Unlisted(digest));
        }
        if bytes.len() > MAX_STORED {
            return Err(ImportError::TooLarge(digest));
        }
        store.put(&digest, bytes)?;
    }
    let missing = missing(manifest, store)?;
    if let Some(first) = missing.first() {
        return Err(ImportError::Missing { count: missing.len(), first: *first });
    }
    Ok(())
}

/// [`receive`], and makes the manifest's root the current one.
///
/// # Errors
/// [`ImportError`]: then the current root is what it was.
pub fn import(
    store: &dyn Store,
    manifest: &Manifest,
    chunks: impl IntoIterator<Item = Vec<u8>>,
) -> Result<(), ImportError> {
    receive(store, manifest, chunks)?;
    Ok(store.set_root(HEAD, Some(manifest.root))?)
}

impl Manifest {
    /// The chunks that `root` needs, as the store's own chunks tell. They are read but for those that hold contents of
    /// files, which need not be there.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Inconsistent`], [`Error::Store`].
    pub fn of(store: &dyn Store, sealing: &dyn Sealing, root: Digest) -> Result<Self, Error> {
        let mut walk = Walk::new(store, sealing);
        walk.root(root)?;
        Ok(Self { root, chunks: walk.needed() })
    }
}

/// Those chunks of `root` that `store` does not have, as far as can be told by looking into the root and `came`: for
/// whoever knows that the others were put there one by one. Takes no longer for a larger volume.
///
/// # Errors
/// As [`Manifest::of`].
pub fn missing_beside(
    store: &dyn Store,
    sealing: &dyn Sealing,
    root: Digest,
    came: &HashSet<Digest>,
) -> Result<Vec<Digest>, Error> {
    let mut walk = Walk::into_only(store, sealing, came);
    walk.root(root)?;
    Ok(missing(&Manifest { root, chunks: walk.needed() }, store)?)
}

impl Volume {
    /// Commits, and lists the chunks that the volume needs.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Inconsistent`], [`Error::Store`].
    pub fn manifest(&mut self) -> Result<Manifest, Error> {
        let root = self.commit()?;
        let (store, sealing) = (self.store(), self.sealing());
        Manifest::of(&**store, &**sealing, root)
    }

    /// Commits, and deletes the chunks that neither the current root nor a pinned one needs. How many there were.
    ///
    /// # Errors
    /// [`Error::Damaged`] or [`Error::Inconsistent`] when a root cannot be read completely: then nothing has been
    /// deleted. [`Error::Store`].
    pub fn collect_garbage(&mut self) -> Result<u64, Error> {
        self.commit()?;
        self.drop_garbage()
    }

    /// The same for what is committed.
    pub(crate) fn drop_garbage(&self) -> Result<u64, Error> {
        let (store, sealing) = (self.store(), self.sealing());
        let mut walk = Walk::new(&**store, &**sealing);
        for (_, root) in store.roots()? {
            walk.root(root)?;
        }
        Ok(store.retain(&walk.needed())?)
    }
}
