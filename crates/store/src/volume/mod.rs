//! The volume: what is in memory of it, and how it is committed.

mod content;
mod inodes;
mod names;
mod paths;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dunlin_base::Digest;

pub use content::{Handle, OpenFile, SetTime, Stat};
pub use names::{DirectoryEntry, OpenFlags};

use crate::chunks::{self, Chunks};
use crate::error::Error;
use crate::record::{INODES, Root, decode_inodes, encode_inodes};
use crate::seal::{ChunkKind, Plain, Sealing};
use crate::store::{HEAD, Store};
use crate::tree::{Leaf, Tree};
use crate::volume::inodes::{Body, Live};

/// Changed file contents that are kept in memory, in bytes, before they go to the store ahead of a commit.
const CHANGED: usize = 32 << 20;
/// Inodes that stay in memory after a commit.
const KEPT: usize = 4096;
/// Bytes of chunks that nobody needs, beside as many as are needed, before a commit looks for them.
const SLACK: u64 = 64 << 20;

/// The number of an inode. A volume never uses a number twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Self = Self(1);
}

/// The most that a volume may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Bytes: of a file, its size in whole 4 KiB, or its blocks where it is sparse; of a directory, 16 and the length of
    /// the name for each entry; of a symbolic link, its length.
    pub bytes: u64,
    /// Files, directories and symbolic links, the root directory included.
    pub inodes: u64,
}

/// What a volume holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// What is used, in the units of the quota.
    pub used: Quota,
    /// The quota.
    pub quota: Quota,
}

/// How a volume is made or opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// What chunks pass through on their way to the store and back.
    pub sealing: Arc<dyn Sealing>,
    /// The time, in nanoseconds since 1970.
    pub clock: fn() -> u64,
    /// The quota. `None` is that of the volume when it is opened, and no limit when it is made.
    pub quota: Option<Quota>,
    /// For a new volume: what tells it from all others. Random.
    pub id: [u8; 16],
    /// For a new volume: the logarithm to base 2 of the size of a block, 12 to 20.
    pub block_bits: u8,
}

impl Default for Options {
    /// No sealing, the system's clock, no limit, the id 0, blocks of 64 KiB.
    fn default() -> Self {
        let clock = || {
            let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
        };
        Self { sealing: Arc::new(Plain), clock, quota: None, id: [0; 16], block_bits: 16 }
    }
}

/// A file system in a store.
///
/// Dropping it forgets what was not committed.
#[derive(Debug)]
pub struct Volume {
    chunks: Chunks,
    sealing: Arc<dyn Sealing>,
    clock: fn() -> u64,
    /// The root as the next commit writes it, but for its table and orphans.
    root: Root,
    table: Tree,
    live: BTreeMap<u64, Live>,
    /// Inodes that differ from the table, those that are gone included.
    dirty: BTreeSet<u64>,
    orphans: BTreeSet<u64>,
    handles: BTreeMap<u32, OpenFile>,
    /// About how many bytes of file contents are changed in memory.
    changed: usize,
    /// The last commit, and whether nothing has changed since.
    committed: Digest,
    clean: bool,
    /// When the store takes more bytes, a commit looks for chunks that nobody needs.
    collect_above: u64,
}

impl Volume {
    /// Makes an empty volume in a store that has none, and commits it.
    ///
    /// # Errors
    /// [`Error::VolumeExists`], [`Error::Invalid`] for a block size out of range, [`Error::Store`].
    pub fn create(store: Arc<dyn Store>, options: Options) -> Result<Self, Error> {
        if store.root(HEAD)?.is_some() {
            return Err(Error::VolumeExists);
        }
        if !(12..=20).contains(&options.block_bits) {
            return Err(Error::Invalid("a block has 2^12 to 2^20 bytes"));
        }
        let quota = options.quota.unwrap_or(Quota { bytes: u64::MAX, inodes: u64::MAX });
        let root = Root {
            id: options.id,
            generation: 0,
            block_bits: options.block_bits,
            quota_bytes: quota.bytes,
            quota_inodes: quota.inodes,
            used_bytes: 0,
            used_inodes: 1,
            next_inode: 2,
            table: None,
            orphans: Vec::new(),
        };
        let mut volume = Self::assemble(store, options, root, Digest([0; 32]));
        let now = (volume.clock)();
        volume.live.insert(Ino::ROOT.0, Live::directory(Ino::ROOT.0, now));
        volume.mark(Ino::ROOT.0);
        volume.commit()?;
        Ok(volume)
    }

    /// Opens the volume of a store as its last commit left it.
    ///
    /// Deleted files that were open are still there, so that they can be opened again with [`Volume::reopen`];
    /// [`Volume::reap`] drops the others.
    ///
    /// # Errors
    /// [`Error::NoVolume`], [`Error::Damaged`], [`Error::Store`].
    pub fn open(store: Arc<dyn Store>, options: Options) -> Result<Self, Error> {
        let head = store.root(HEAD)?.ok_or(Error::NoVolume { name: HEAD.to_owned() })?;
        Self::open_at(store, head, options)
    }

    /// Opens the volume that `root` identifies. The next commit makes its successor the store's current root.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Store`].
    pub fn open_at(store: Arc<dyn Store>, root: Digest, options: Options) -> Result<Self, Error> {
        let mut record = read_root(&*store, &*options.sealing, root)?;
        if let Some(quota) = options.quota {
            (record.quota_bytes, record.quota_inodes) = (quota.bytes, quota.inodes);
        }
        let mut volume = Self::assemble(store, options, record, root);
        if !matches!(volume.live(Ino::ROOT.0)?.body, Body::Directory(_)) {
            return Err(Error::Inconsistent("the root directory is not a directory"));
        }
        volume.clean = true;
        Ok(volume)
    }

    fn assemble(store: Arc<dyn Store>, options: Options, root: Root, committed: Digest) -> Self {
        Self {
            chunks: Chunks::new(store, options.sealing.clone(), root.id),
            sealing: options.sealing,
            clock: options.clock,
            table: Tree::stored(root.table),
            orphans: root.orphans.iter().copied().collect(),
            root,
            live: BTreeMap::new(),
            dirty: BTreeSet::new(),
            handles: BTreeMap::new(),
            changed: 0,
            committed,
            clean: false,
            collect_above: 0,
        }
        .with_slack()
    }

    fn with_slack(mut self) -> Self {
        // What the quota counts is an estimate of what is needed, which the first collection corrects.
        self.collect_above = self.root.used_bytes.saturating_mul(2).saturating_add(SLACK);
        self
    }

    /// Makes everything durable: chunks and root pointer, atomically. Now and then it drops chunks that nobody needs
    /// any more. The digest of the root identifies
    /// the volume as it is now.
    ///
    /// # Errors
    /// [`Error::Store`]: then the store has the old or the new contents. The changes stay in memory, and a later
    /// commit tries again.
    pub fn commit(&mut self) -> Result<Digest, Error> {
        let head = self.chunks.store.root(HEAD)?;
        if self.clean && head == Some(self.committed) {
            return Ok(self.committed);
        }
        let dirty: Vec<_> = self.dirty.iter().copied().collect();
        for group in dirty.chunk_by(|one, other| one / INODES == other / INODES) {
            let Some(first) = group.first() else { continue };
            self.write_page(first / INODES, group)?;
        }
        self.root.table = self.table.flush(&mut self.chunks, ChunkKind::Inodes, false)?;
        let root = Root {
            generation: self.root.generation + u64::from(!self.clean),
            orphans: self.orphans.iter().copied().collect(),
            ..self.root.clone()
        };
        let digest = self.chunks.save(ChunkKind::Root, root.encode())?;
        self.chunks.store.set_root(HEAD, Some(digest))?;
        self.root = root;
        self.committed = digest;
        self.clean = true;
        self.dirty.clear();
        self.changed = 0;
        if self.live.len() > KEPT {
            self.live.retain(|ino, live| live.opens > 0 || *ino == Ino::ROOT.0);
        }
        if self.chunks.store.stored_bytes() > self.collect_above {
            // What was asked for is done. If this fails, the store only stays larger than it need be.
            let _ = self.drop_garbage();
            self.collect_above = self.chunks.store.stored_bytes().saturating_mul(2).saturating_add(SLACK);
        }
        Ok(digest)
    }

    /// The digest of the root that was last committed or opened.
    pub fn committed(&self) -> Digest {
        self.committed
    }

    /// Commits, and keeps the committed root under `name` until [`Volume::unpin`], whatever happens to the volume.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the name [`HEAD`], [`Error::Store`].
    pub fn pin(&mut self, name: &str) -> Result<Digest, Error> {
        let digest = self.commit()?;
        self.set_pin(name, Some(digest))?;
        Ok(digest)
    }

    /// Gives up what `name` keeps. Its chunks go with the next garbage collection.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the name [`HEAD`], [`Error::Store`].
    pub fn unpin(&mut self, name: &str) -> Result<(), Error> {
        self.set_pin(name, None)
    }

    /// Where its chunks are.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.chunks.store
    }

    /// What its chunks are sealed with.
    pub fn sealing(&self) -> &Arc<dyn Sealing> {
        &self.sealing
    }

    /// What tells the volume from all others.
    pub fn id(&self) -> [u8; 16] {
        self.root.id
    }

    /// How many commits that changed something there were.
    pub fn generation(&self) -> u64 {
        self.root.generation
    }

    /// Whether everything is as the last commit left it.
    pub fn is_clean(&self) -> bool {
        self.clean
    }

    /// What the volume holds and may hold.
    pub fn usage(&self) -> Usage {
        let Root { used_bytes, used_inodes, quota_bytes, quota_inodes, .. } = self.root;
        Usage {
            used: Quota { bytes: used_bytes, inodes: used_inodes },
            quota: Quota { bytes: quota_bytes, inodes: quota_inodes },
        }
    }

    /// The size of a block in bytes.
    pub fn block_size(&self) -> u64 {
        1 << self.root.block_bits
    }

    /// Deleted files that an earlier user of the volume had open and nobody has opened again.
    pub fn orphans(&self) -> Vec<Ino> {
        let opened: BTreeSet<_> = self.handles.values().map(|open| open.ino.0).collect();
        self.orphans.difference(&opened).map(|ino| Ino(*ino)).collect()
    }

    /// Drops [`Volume::orphans`]: what no handle can reach any more.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Store`].
    pub fn reap(&mut self) -> Result<(), Error> {
        for Ino(ino) in self.orphans() {
            if self.live(ino)?.links != 0 {
                return Err(Error::Inconsistent("a deleted file has a name"));
            }
            self.forget(ino);
        }
        Ok(())
    }

    fn set_pin(&self, name: &str, root: Option<Digest>) -> Result<(), Error> {
        if name == HEAD {
            return Err(Error::Invalid("`head` is the name of the current root"));
        }
        Ok(self.chunks.store.set_root(name, root)?)
    }

    /// Brings the changed inodes of a page into the table.
    fn write_page(&mut self, page: u64, inodes: &[u64]) -> Result<(), Error> {
        let mut records = match self.table.get(&mut self.chunks, page)? {
            Leaf::Hole => Vec::new(),
            Leaf::Changed(bytes) => decode_inodes(bytes).map_err(|_| Error::Inconsistent("an unwritten page"))?,
            Leaf::Stored(digest) => {
                let bytes = self.chunks.load(ChunkKind::Inodes, digest)?;
                decode_inodes(&bytes).map_err(|problem| Error::Damaged { digest, problem })?
            }
        };
        for ino in inodes {
            let place = (ino % INODES) as u8;
            records.retain(|(other, _)| *other != place);
            if let Some(live) = self.live.get_mut(ino) {
                records.push((place, live.flush(&mut self.chunks)?));
            }
        }
        records.sort_by_key(|(place, _)| *place);
        if records.is_empty() {
            return self.table.remove(&mut self.chunks, page);
        }
        let (leaf, _) = self.table.change(&mut self.chunks, ChunkKind::Inodes, page, true)?;
        *leaf = encode_inodes(&records);
        Ok(())
    }

    fn mark(&mut self, ino: u64) {
        self.dirty.insert(ino);
        self.clean = false;
    }
}

/// What a root record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootSummary {
    /// What tells the volume from all others.
    pub id: [u8; 16],
    /// How many commits that changed something it is the result of.
    pub generation: u64,
    /// What the volume holds and may hold.
    pub usage: Usage,
}

impl RootSummary {
    /// What the root `digest` in `store` tells.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Store`].
    pub fn read(store: &dyn Store, sealing: &dyn Sealing, digest: Digest) -> Result<Self, Error> {
        let root = read_root(store, sealing, digest)?;
        let usage = Usage {
            used: Quota { bytes: root.used_bytes, inodes: root.used_inodes },
            quota: Quota { bytes: root.quota_bytes, inodes: root.quota_inodes },
        };
        Ok(Self { id: root.id, generation: root.generation, usage })
    }
}

/// Reads a root record.
pub(crate) fn read_root(store: &dyn Store, sealing: &dyn Sealing, digest: Digest) -> Result<Root, Error> {
    let bytes = chunks::open(store, sealing, ChunkKind::Root, [0; 16], digest)?;
    Root::decode(&bytes).map_err(|problem| Error::Damaged { digest, problem })
}
