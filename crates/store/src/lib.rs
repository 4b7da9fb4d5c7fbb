//! A service's private volume: a file system of content-addressed chunks in a store that the host keeps, so that it can
//! travel with the service, and what the other side has need not be sent. This crate must never lose what a commit
//! has promised, leave a store with neither the old nor the new contents, trust a chunk or root that it has not
//! verified, let a length from a chunk decide an allocation, or touch files outside of its store's directory.
//!
//! A [`Volume`] keeps its chunks in a [`Store`]: [`DirectoryStore`] or [`MemoryStore`]. Changes are in memory (file
//! contents beyond 32 MiB go to the store early) until [`Volume::commit`] makes them durable, chunks and root pointer
//! together. After a crash the volume is as the last commit left it. The digest of the root
//! identifies the whole volume.
//!
//! Semantics are those of Linux, with these differences: there are no owners and permissions, reading does not change
//! the time of access, and paths cannot leave the directory that they are relative to (`EPERM`).
//!
//! [`Manifest`], [`missing`], [`export`] and [`import`] move a volume between stores; with [`Ahead`] most of it goes
//! while the volume is in use.

mod ahead;
mod chunks;
mod directory;
mod error;
mod memory;
mod record;
mod seal;
mod store;
mod travel;
mod tree;
mod volume;
mod walk;

pub use ahead::Ahead;
pub use directory::DirectoryStore;
pub use directory::medium::{HostMedium, Medium, MediumFile};
pub use error::{Damage, Error};
pub use memory::MemoryStore;
pub use record::FileKind;
pub use seal::{ChunkKind, Plain, SealError, Sealing};
pub use store::{ChunkStore, HEAD, MAX_STORED, Roots, Store, StoreError};
pub use travel::{ImportError, Manifest, export, import, missing, missing_beside, receive};
pub use volume::{
    DirectoryEntry, Handle, Ino, OpenFile, OpenFlags, Options, Quota, RootSummary, SetTime, Stat, Usage, Volume,
};

/// The most bytes of a name.
pub const MAX_NAME: usize = 255;
/// The most bytes of a path and of a symbolic link.
pub const MAX_PATH: usize = 4096;
/// The most bytes of a file.
pub const MAX_FILE: u64 = i64::MAX as u64;
/// The most bytes that are allocated by one call.
pub const MAX_ALLOCATION: u64 = 1 << 36;
/// The most names of an inode.
pub const MAX_LINKS: u32 = 65_000;
/// The most open handles, and the most deleted files that are still open.
pub const MAX_OPEN: usize = 65_536;
/// The most symbolic links on the way of a path.
pub const MAX_SYMLINKS: u32 = 40;
