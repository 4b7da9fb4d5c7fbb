//! What happens to the bytes of a chunk before they leave for the store.

use std::borrow::Cow;
use std::fmt::Debug;

/// What a chunk holds. Part of the data that sealing authenticates, so that no chunk passes for one of another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ChunkKind {
    /// A root record.
    Root = 1,
    /// An inner node of a tree.
    Node = 2,
    /// A page of inodes.
    Inodes = 3,
    /// A page of directory entries.
    Entries = 4,
    /// Contents of a file.
    Data = 5,
}

/// Seals chunks on their way to the store and opens them on the way back.
///
/// The digest of a chunk is that of its sealed bytes: whoever keeps the store can check and exchange chunks without
/// being able to open them. Equal chunks are stored once only if `seal` gives equal bytes for equal input.
pub trait Sealing: Debug + Send + Sync {
    /// Seals `plain`, a chunk of this kind. `associated` is authenticated with it and not stored. The result is at most
    /// 4096 bytes longer; that of a root may be up to 384 KiB longer.
    fn seal<'a>(&self, kind: ChunkKind, associated: &[u8], plain: &'a [u8]) -> Cow<'a, [u8]>;

    /// Opens what `seal` made with the same `kind` and `associated`.
    ///
    /// # Errors
    /// [`SealError`] when it is not that.
    fn open<'a>(&self, kind: ChunkKind, associated: &[u8], sealed: Cow<'a, [u8]>) -> Result<Cow<'a, [u8]>, SealError>;
}

/// Bytes that do not open under the key and associated data at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the seal does not open with this key for a chunk of this volume and kind")]
pub struct SealError;

/// Leaves chunks as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Sealing for Plain {
    fn seal<'a>(&self, _: ChunkKind, _: &[u8], plain: &'a [u8]) -> Cow<'a, [u8]> {
        Cow::Borrowed(plain)
    }

    fn open<'a>(&self, _: ChunkKind, _: &[u8], sealed: Cow<'a, [u8]>) -> Result<Cow<'a, [u8]>, SealError> {
        Ok(sealed)
    }
}
