//! Verified and sealed access to a store, with a cache.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use dunlin_base::Digest;

use crate::error::{Damage, Error};
use crate::seal::{ChunkKind, Sealing};
use crate::store::{ChunkStore, Store};

/// Opened chunks that are kept in memory, in bytes.
const CACHE: usize = 32 << 20;

/// The chunks of one volume.
#[derive(Debug)]
pub(crate) struct Chunks {
    pub(crate) store: Arc<dyn Store>,
    sealing: Arc<dyn Sealing>,
    id: [u8; 16],
    cache: HashMap<(ChunkKind, Digest), Arc<Vec<u8>>>,
    /// What is cached, oldest first.
    order: VecDeque<(ChunkKind, Digest)>,
    cached: usize,
}

impl Chunks {
    /// The chunks of the volume `id`.
    pub(crate) fn new(store: Arc<dyn Store>, sealing: Arc<dyn Sealing>, id: [u8; 16]) -> Self {
        Self { store, sealing, id, cache: HashMap::new(), order: VecDeque::new(), cached: 0 }
    }

    /// The verified bytes of a chunk.
    pub(crate) fn load(&mut self, kind: ChunkKind, digest: Digest) -> Result<Arc<Vec<u8>>, Error> {
        if let Some(bytes) = self.cache.get(&(kind, digest)) {
            return Ok(bytes.clone());
        }
        let bytes = Arc::new(open(&*self.store, &*self.sealing, kind, self.id, digest)?);
        self.remember(kind, digest, bytes.clone());
        Ok(bytes)
    }

    /// Puts a chunk into the store.
    pub(crate) fn save(&mut self, kind: ChunkKind, bytes: Vec<u8>) -> Result<Digest, Error> {
        let sealed = self.sealing.seal(kind, &associated(kind, self.id), &bytes);
        let digest = Digest::of(&sealed);
        self.store.put(&digest, &sealed)?;
        drop(sealed);
        self.remember(kind, digest, Arc::new(bytes));
        Ok(digest)
    }

    fn remember(&mut self, kind: ChunkKind, digest: Digest, bytes: Arc<Vec<u8>>) {
        self.cached += bytes.capacity();
        if let Some(old) = self.cache.insert((kind, digest), bytes) {
            self.cached -= old.capacity();
        } else {
            self.order.push_back((kind, digest));
        }
        while self.cached > CACHE
            && let Some(oldest) = self.order.pop_front()
        {
            self.cached -= self.cache.remove(&oldest).map_or(0, |bytes| bytes.capacity());
        }
    }
}

/// Reads and verifies a chunk, sealed as it is, if it is there.
pub(crate) fn read(store: &(impl ChunkStore + ?Sized), digest: Digest) -> Result<Option<Vec<u8>>, Error> {
    let Some(sealed) = store.get(&digest)? else { return Ok(None) };
    if Digest::of(&sealed) == digest {
        Ok(Some(sealed))
    } else {
        Err(Error::Damaged { digest, problem: Damage::Digest })
    }
}

/// Reads, verifies and opens a chunk.
pub(crate) fn open(
    store: &dyn Store,
    sealing: &dyn Sealing,
    kind: ChunkKind,
    id: [u8; 16],
    digest: Digest,
) -> Result<Vec<u8>, Error> {
    let damaged = |problem| Error::Damaged { digest, problem };
    let sealed = read(store, digest)?.ok_or(damaged(Damage::Missing))?;
    let plain = sealing.open(kind, &associated(kind, id), Cow::Owned(sealed));
    plain.map(Cow::into_owned).map_err(|error| damaged(error.into()))
}

/// What sealing authenticates beside the bytes. A root record says itself which volume it is of.
fn associated(kind: ChunkKind, id: [u8; 16]) -> Vec<u8> {
    let mut bytes = b"dunlin volume 1 ".to_vec();
    bytes.push(kind as u8);
    if kind != ChunkKind::Root {
        bytes.extend(id);
    }
    bytes
}
