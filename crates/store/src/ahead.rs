//! Chunks that go to another store ahead of the root that needs them, while the volume is written to.

use std::collections::{HashSet, VecDeque};

use dunlin_base::Digest;

use crate::chunks::read;
use crate::error::Error;
use crate::seal::Sealing;
use crate::store::{MAX_STORED, Store};
use crate::walk::{Place, Walk};

/// Most chunks in one batch.
const BATCH: usize = 1024;

/// What another store lacks of a volume. A look at a later root reads what changed since the one before, and nothing else.
#[derive(Debug, Default)]
pub struct Ahead {
    seen: HashSet<Place>,
    /// What the other store has, or is to be sent.
    known: HashSet<Digest>,
    /// What is to be sent, with sizes. Some of it may be of earlier roots only.
    unsent: VecDeque<(Digest, u64)>,
    bytes: u64,
}

impl Ahead {
    /// The other store has these.
    pub fn held(&mut self, digests: impl IntoIterator<Item = Digest>) {
        self.known.extend(digests);
    }

    /// The bytes that are to be sent.
    pub fn unsent(&self) -> u64 {
        self.bytes
    }

    /// The other store needs what `root` needs, too.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Inconsistent`], [`Error::Store`]. A root that the volume has replaced meanwhile may not be
    /// whole any more.
    pub fn look(&mut self, store: &dyn Store, sealing: &dyn Sealing, root: Digest) -> Result<(), Error> {
        // After an error it is not known what lies behind what was seen.
        let mut walk = Walk::beyond(store, sealing, core::mem::take(&mut self.seen));
        walk.root(root)?;
        let (found, seen) = walk.found();
        for Place { digest, .. } in found {
            if self.known.insert(digest) {
                let size = store.size(&digest)?.unwrap_or(0);
                self.unsent.push_back((digest, size));
                self.bytes += size;
            }
        }
        self.seen = seen;
        Ok(())
    }

    /// Verified chunks to be sent, with at most so many bytes together, but for one that is larger alone. Those that the
    /// volume does not have any more, because it does not need them, are left out; none is left when the batch is empty.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Store`].
    pub fn batch(&mut self, store: &dyn Store, bytes: usize) -> Result<Vec<Vec<u8>>, Error> {
        let most = bytes.min(MAX_STORED) as u64;
        let (mut chunks, mut taken) = (Vec::new(), 0);
        while let Some((digest, size)) = self.unsent.front().copied()
            && (chunks.is_empty() || (taken + size <= most && chunks.len() < BATCH))
        {
            let chunk = read(store, digest)?;
            self.unsent.pop_front();
            self.bytes = self.bytes.saturating_sub(size);
            let Some(chunk) = chunk else {
                // It may be needed again some day.
                self.known.remove(&digest);
                self.seen.clear();
                continue;
            };
            taken += size;
            chunks.push(chunk);
        }
        Ok(chunks)
    }

    /// Everything that is still to be sent, and that the volume still has.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Store`].
    pub fn rest(&self, store: &dyn Store) -> impl Iterator<Item = Result<(Digest, Vec<u8>), Error>> {
        let chunk = |digest: Digest| Ok(read(store, digest)?.map(|chunk| (digest, chunk)));
        self.unsent.iter().filter_map(move |(digest, _)| chunk(*digest).transpose())
    }
}
