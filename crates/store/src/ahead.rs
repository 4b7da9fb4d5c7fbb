//! Chunks that go to another store ahead of the root that needs them, while the volume is written to.

use std::collections::{BTreeSet, VecDeque};

use dunlin_base::Digest;

use crate::error::{Damage, Error};
use crate::seal::Sealing;
use crate::store::{MAX_STORED, Store};
use crate::travel::Manifest;
use crate::walk::{Known, Walk};

/// Most chunks in one batch.
const BATCH: usize = 1024;

/// What another store has and lacks of a volume. A later look at a later root reads only what changed since.
#[derive(Debug, Default)]
pub struct Ahead {
    known: Known,
    elsewhere: BTreeSet<Digest>,
    /// What it lacks of the last root, with sizes.
    unsent: VecDeque<(Digest, u64)>,
    bytes: u64,
}

impl Ahead {
    /// The other store has these.
    pub fn held(&mut self, digests: impl IntoIterator<Item = Digest>) {
        self.elsewhere.extend(digests);
    }

    /// What the other store has, as far as is known.
    pub fn elsewhere(&self) -> &BTreeSet<Digest> {
        &self.elsewhere
    }

    /// The bytes that the other store lacks of the last root.
    pub fn unsent(&self) -> u64 {
        self.bytes
    }

    /// The chunks that `root` needs; those that the other store lacks are to be sent.
    ///
    /// # Errors
    /// As [`Manifest::of`].
    pub fn look(&mut self, store: &dyn Store, sealing: &dyn Sealing, root: Digest) -> Result<Manifest, Error> {
        let mut walk = Walk::new(store, sealing, &mut self.known);
        walk.root(root)?;
        let manifest = Manifest { root, chunks: walk.needed_only() };
        (self.unsent, self.bytes) = (VecDeque::new(), 0);
        for digest in manifest.chunks.difference(&self.elsewhere) {
            let size = store.size(digest)?.unwrap_or(0);
            self.unsent.push_back((*digest, size));
            self.bytes += size;
        }
        Ok(manifest)
    }

    /// Verified chunks that the other store lacks, with at most so many bytes together, but for one that is larger alone.
    /// From here on it has them. Those that have gone since, because the volume does not need them any more, are left out;
    /// none is left when there is none in the batch.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Store`].
    pub fn batch(&mut self, store: &dyn Store, bytes: usize) -> Result<Vec<Vec<u8>>, Error> {
        let most = bytes.min(MAX_STORED) as u64;
        let (mut chunks, mut taken) = (Vec::new(), 0);
        while let Some((digest, size)) = self.unsent.front().copied()
            && (chunks.is_empty() || (taken + size <= most && chunks.len() < BATCH))
        {
            self.unsent.pop_front();
            self.bytes = self.bytes.saturating_sub(size);
            let Some(chunk) = store.get(&digest)? else { continue };
            if Digest::of(&chunk) != digest {
                return Err(Error::Damaged { digest, problem: Damage::Digest });
            }
            self.elsewhere.insert(digest);
            taken += size;
            chunks.push(chunk);
        }
        Ok(chunks)
    }
}
