//! Where chunks and root pointers are kept.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::path::PathBuf;

use dunlin_base::Digest;

/// The most bytes that a stored chunk may have: the largest chunk of a volume and what sealing may add to it.
pub const MAX_STORED: usize = (1 << 20) + 4096;

/// Keeps chunks by the digest of their (sealed) bytes.
///
/// What was put can be read at once, but is durable only when a later [`sync`](Self::sync) has succeeded.
pub trait ChunkStore: Debug + Send + Sync {
    /// The bytes of a chunk. They are not verified: the caller hashes them.
    ///
    /// # Errors
    /// [`StoreError`] when the chunk cannot be read. A chunk that is not there is `None`.
    fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError>;

    /// Keeps a chunk. The caller vouches for `digest` being that of `bytes`.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be kept.
    fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError>;

    /// Whether the chunk is there.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be found out.
    fn contains(&self, digest: &Digest) -> Result<bool, StoreError>;

    /// The bytes that a chunk has, if it is there.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be found out.
    fn size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        Ok(self.get(digest)?.map(|bytes| bytes.len() as u64))
    }

    /// The digests of all chunks, in no particular order.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be listed.
    fn list(&self) -> Result<Vec<Digest>, StoreError>;

    /// Drops every chunk that is not in `needed`, and tells how many those were. Their room is given back when that
    /// is worth while.
    ///
    /// # Errors
    /// [`StoreError`] when that fails: chunks that are needed are there all the same.
    fn retain(&self, needed: &BTreeSet<Digest>) -> Result<u64, StoreError>;

    /// The bytes that the store takes, those of chunks that nobody needs included.
    fn stored_bytes(&self) -> u64;

    /// Makes every chunk put so far durable.
    ///
    /// # Errors
    /// [`StoreError`]: then nothing may be assumed about chunks put since the last success.
    fn sync(&self) -> Result<(), StoreError>;
}

/// Keeps the pointers to roots, each under a name. The current root of the volume has the name [`HEAD`].
pub trait Roots: Debug + Send + Sync {
    /// The root that `name` points to.
    ///
    /// # Errors
    /// [`StoreError`] when the pointer cannot be read.
    fn root(&self, name: &str) -> Result<Option<Digest>, StoreError>;

    /// Points `name` to a root, or removes the name, atomically and durably, and makes every chunk put so far durable
    /// as well: whoever finds the name pointing to the root finds those.
    ///
    /// # Errors
    /// [`StoreError`]: then the name points to what it did, or to the new root.
    fn set_root(&self, name: &str, root: Option<Digest>) -> Result<(), StoreError>;

    /// All names and what they point to.
    ///
    /// # Errors
    /// [`StoreError`] when a pointer cannot be read.
    fn roots(&self) -> Result<Vec<(String, Digest)>, StoreError>;
}

/// A store for one volume: its chunks and its root pointers.
pub trait Store: ChunkStore + Roots {}

impl<T: ChunkStore + Roots> Store for T {}

/// The name of the pointer to a volume's current root.
pub const HEAD: &str = "head";

/// A store that does not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// An earlier write was not made durable.
    #[error(
        "an earlier write to this store failed, so nothing more is written; open it anew to continue from the last commit"
    )]
    Poisoned,
    /// Another process has the store open.
    #[error("{} is in use by another process; one process at a time may open a store", path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// A segment cannot be read.
    #[error("the segment {} of the store is damaged: {problem}; put the store back from a copy", path.display())]
    Segment {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// There are as many roots as there can be.
    #[error("the store has names for {limit} roots already; remove one")]
    TooManyRoots {
        /// The limit.
        limit: usize,
    },
    /// Not a name for a root.
    #[error("`{name}` cannot name a root: use 1 to 64 of a-z, 0-9 and -")]
    Name {
        /// The name.
        name: String,
    },
    /// A chunk is larger than any chunk may be.
    #[error("the stored chunk {digest} is larger than {MAX_STORED} bytes")]
    TooLarge {
        /// Its digest.
        digest: Digest,
    },
}

impl StoreError {
    /// Whether the disk under the store is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// Checks a name for a root.
pub(crate) fn check_name(name: &str) -> Result<(), StoreError> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=64).contains(&name.len()) && name.bytes().all(good) {
        return Ok(());
    }
    Err(StoreError::Name { name: name.chars().take(64).collect() })
}
