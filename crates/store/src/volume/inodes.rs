//! Inodes in memory: how they come from the table, what they cost, how they end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::chunks::Chunks;
use crate::error::Error;
use crate::record::{
    BodyRecord, ENTRIES, FIRST_COOKIE, FileKind, INODES, Inode, decode_entries, decode_inodes, encode_entries,
};
use crate::seal::ChunkKind;
use crate::tree::{Leaf, Tree};
use crate::volume::Volume;
use crate::{MAX_OPEN, MAX_PATH};

/// What an entry costs beside its name.
const ENTRY_COST: u64 = 16;
/// What the size of a file is rounded up to when it is charged.
const GRAIN: u64 = 4096;

/// An inode in memory.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) links: u32,
    /// Access, modification, change.
    pub(super) times: [u64; 3],
    pub(super) body: Body,
    /// Handles that are open.
    pub(super) opens: u32,
}

#[derive(Debug)]
pub(super) enum Body {
    File(File),
    Directory(Directory),
    Symlink(String),
}

#[derive(Debug)]
pub(super) struct File {
    pub(super) size: u64,
    /// Blocks that are not holes.
    pub(super) blocks: u64,
    pub(super) tree: Tree,
}

#[derive(Debug)]
pub(super) struct Directory {
    /// What the entries cost.
    pub(super) size: u64,
    pub(super) parent: u64,
    next_cookie: u64,
    cookies: BTreeMap<Arc<str>, u64>,
    /// Entries by their cookies.
    pub(super) entries: BTreeMap<u64, Entry>,
    tree: Tree,
    /// Pages whose entries have changed.
    changed: BTreeSet<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) inode: u64,
    pub(super) kind: FileKind,
    pub(super) name: Arc<str>,
}

impl Live {
    pub(super) fn file(now: u64) -> Self {
        Self::new(1, now, Body::File(File { size: 0, blocks: 0, tree: Tree::new() }))
    }

    pub(super) fn directory(parent: u64, now: u64) -> Self {
        Self::new(2, now, Body::Directory(Directory::new(parent)))
    }

    pub(super) fn symlink(target: &str, now: u64) -> Self {
        Self::new(1, now, Body::Symlink(target.to_owned()))
    }

    fn new(links: u32, now: u64, body: Body) -> Self {
        Self { links, times: [now; 3], body, opens: 0 }
    }

    pub(super) fn kind(&self) -> FileKind {
        match self.body {
            Body::File(_) => FileKind::File,
            Body::Directory(_) => FileKind::Directory,
            Body::Symlink(_) => FileKind::Symlink,
        }
    }

    pub(super) fn size(&self) -> u64 {
        match &self.body {
            Body::File(file) => file.size,
            Body::Directory(directory) => directory.size,
            Body::Symlink(target) => target.len() as u64,
        }
    }

    /// What it costs in bytes.
    pub(super) fn charge(&self, block_bits: u8) -> u64 {
        match &self.body {
            Body::File(file) => charge_of_file(file.size, file.blocks, block_bits),
            Body::Directory(_) | Body::Symlink(_) => self.size(),
        }
    }

    /// Puts the contents into the store; the record to be put into the table.
    pub(super) fn flush(&mut self, chunks: &mut Chunks) -> Result<Inode, Error> {
        let body = match &mut self.body {
            Body::File(File { size, blocks, tree }) => {
                BodyRecord::File { size: *size, blocks: *blocks, tree: tree.flush(chunks, ChunkKind::Data, true)? }
            }
            Body::Directory(directory) => directory.flush(chunks)?,
            Body::Symlink(target) => BodyRecord::Symlink { target: target.clone() },
        };
        Ok(Inode { links: self.links, times: self.times, body })
    }
}

/// What a file costs in bytes.
pub(super) fn charge_of_file(size: u64, blocks: u64, block_bits: u8) -> u64 {
    let dense = size.div_ceil(GRAIN).saturating_mul(GRAIN);
    dense.min(blocks.saturating_mul(1 << block_bits))
}

/// What an entry costs in bytes.
pub(super) fn charge_of_entry(name: &str) -> u64 {
    ENTRY_COST + name.len() as u64
}

impl Directory {
    fn new(parent: u64) -> Self {
        Self {
            size: 0,
            parent,
            next_cookie: FIRST_COOKIE,
            cookies: BTreeMap::new(),
            entries: BTreeMap::new(),
            tree: Tree::new(),
            changed: BTreeSet::new(),
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        self.entries.get(self.cookies.get(name)?)
    }

    pub(super) fn add(&mut self, inode: u64, kind: FileKind, name: &str) {
        let name: Arc<str> = name.into();
        self.size += charge_of_entry(&name);
        self.cookies.insert(name.clone(), self.next_cookie);
        self.changed.insert(self.next_cookie / ENTRIES);
        self.entries.insert(self.next_cookie, Entry { inode, kind, name });
        self.next_cookie += 1;
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(cookie) = self.cookies.remove(name) {
            self.entries.remove(&cookie);
            self.changed.insert(cookie / ENTRIES);
            self.size = self.size.saturating_sub(charge_of_entry(name));
        }
    }

    fn flush(&mut self, chunks: &mut Chunks) -> Result<BodyRecord, Error> {
        for page in &self.changed {
            let first = page * ENTRIES;
            let mut entries = self.entries.range(first..first + ENTRIES).peekable();
            if entries.peek().is_none() {
                self.tree.remove(chunks, *page)?;
                continue;
            }
            let entries =
                entries.map(|(cookie, entry)| ((cookie % ENTRIES) as u8, entry.inode, entry.kind, &*entry.name));
            let (leaf, _) = self.tree.change(chunks, ChunkKind::Entries, *page, true)?;
            *leaf = encode_entries(entries);
        }
        let tree = self.tree.flush(chunks, ChunkKind::Entries, false)?;
        self.changed.clear();
        Ok(BodyRecord::Directory { size: self.size, parent: self.parent, next_cookie: self.next_cookie, tree })
    }

    /// Reads the entries. A name that comes twice, or more entries than `size` accounts for, end it: so a tree whose
    /// nodes repeat cannot make it long.
    fn load(&mut self, chunks: &mut Chunks) -> Result<(), Error> {
        let mut used = 0u64;
        let mut from = 0;
        while let Some(page) = self.tree.next(chunks, from)? {
            let Leaf::Stored(digest) = self.tree.get(chunks, page)? else { break };
            let bytes = chunks.load(ChunkKind::Entries, digest)?;
            let records = decode_entries(&bytes).map_err(|problem| Error::Damaged { digest, problem })?;
            for (place, record) in records {
                let cookie = page.checked_mul(ENTRIES).map(|first| first + u64::from(place));
                let cookie = cookie.filter(|cookie| (FIRST_COOKIE..self.next_cookie).contains(cookie));
                let cookie = cookie.ok_or(Error::Inconsistent("an entry has an impossible cookie"))?;
                used += charge_of_entry(&record.name);
                let name: Arc<str> = record.name.into();
                if used > self.size || self.cookies.insert(name.clone(), cookie).is_some() {
                    return Err(Error::Inconsistent("a directory has an entry twice or too many"));
                }
                self.entries.insert(cookie, Entry { inode: record.inode, kind: record.kind, name });
            }
            from = page + 1;
        }
        if used != self.size {
            return Err(Error::Inconsistent("a directory lacks entries"));
        }
        Ok(())
    }
}

impl Volume {
    /// An inode, read from the table if need be.
    pub(super) fn live(&mut self, ino: u64) -> Result<&mut Live, Error> {
        if !self.live.contains_key(&ino) {
            let live = self.load(ino)?;
            self.live.insert(ino, live);
        }
        self.live.get_mut(&ino).ok_or(LOST)
    }

    fn load(&mut self, ino: u64) -> Result<Live, Error> {
        if ino >= self.root.next_inode || self.dirty.contains(&ino) {
            return Err(LOST);
        }
        let Leaf::Stored(digest) = self.table.get(&mut self.chunks, ino / INODES)? else { return Err(LOST) };
        let bytes = self.chunks.load(ChunkKind::Inodes, digest)?;
        let page = decode_inodes(&bytes).map_err(|problem| Error::Damaged { digest, problem })?;
        let place = (ino % INODES) as u8;
        let (_, inode) = page.into_iter().find(|(other, _)| *other == place).ok_or(LOST)?;
        let body = match inode.body {
            BodyRecord::File { size, blocks, tree } => Body::File(File { size, blocks, tree: Tree::stored(tree) }),
            BodyRecord::Symlink { target } => Body::Symlink(target),
            BodyRecord::Directory { size, parent, next_cookie, tree } => {
                let tree = Tree::stored(tree);
                let mut directory = Directory { size, next_cookie, tree, ..Directory::new(parent) };
                directory.load(&mut self.chunks)?;
                Body::Directory(directory)
            }
        };
        Ok(Live { links: inode.links, times: inode.times, body, opens: 0 })
    }

    /// The directory `ino`.
    pub(super) fn directory(&mut self, ino: u64) -> Result<&mut Directory, Error> {
        match &mut self.live(ino)?.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Error::NotDirectory),
        }
    }

    /// The target of the symbolic link `ino`.
    pub(super) fn target(&mut self, ino: u64) -> Result<String, Error> {
        match &self.live(ino)?.body {
            Body::Symlink(target) if target.len() <= MAX_PATH => Ok(target.clone()),
            _ => Err(Error::Invalid("not a symbolic link")),
        }
    }

    /// Whether `more` bytes may be charged.
    pub(super) fn admit(&self, more: u64) -> Result<(), Error> {
        let limit = self.root.quota_bytes;
        match self.root.used_bytes.checked_add(more) {
            Some(used) if used <= limit || more == 0 => Ok(()),
            _ => Err(Error::NoSpace { what: "bytes", limit }),
        }
    }

    /// Whether another inode may be made.
    pub(super) fn admit_inode(&self) -> Result<(), Error> {
        let limit = self.root.quota_inodes;
        if self.root.used_inodes < limit && self.root.next_inode < u64::MAX {
            return Ok(());
        }
        Err(Error::NoSpace { what: "inodes", limit })
    }

    /// Charges `after` bytes instead of `before`.
    pub(super) fn charge(&mut self, before: u64, after: u64) {
        self.root.used_bytes = self.root.used_bytes.saturating_sub(before).saturating_add(after);
    }

    /// Gives a new inode its number.
    pub(super) fn enter(&mut self, live: Live) -> u64 {
        let ino = self.root.next_inode;
        self.root.next_inode += 1;
        self.root.used_inodes += 1;
        self.charge(0, live.charge(self.root.block_bits));
        self.live.insert(ino, live);
        self.mark(ino);
        ino
    }

    /// Drops an inode that has neither a name nor a handle.
    pub(super) fn forget(&mut self, ino: u64) {
        if let Some(live) = self.live.remove(&ino) {
            self.charge(live.charge(self.root.block_bits), 0);
            self.root.used_inodes = self.root.used_inodes.saturating_sub(1);
        }
        self.orphans.remove(&ino);
        self.mark(ino);
    }

    /// Whether `ino` may lose a name: when it is the last and it is open, it must be remembered.
    pub(super) fn admit_unname(&mut self, ino: u64) -> Result<(), Error> {
        let full = self.orphans.len() >= MAX_OPEN;
        if self.live(ino)?.opens > 0 && full {
            return Err(Error::TooManyOpen { limit: MAX_OPEN });
        }
        Ok(())
    }

    /// Takes a name from an inode that is in memory.
    pub(super) fn unname(&mut self, ino: u64, now: u64) {
        let Some(live) = self.live.get_mut(&ino) else { return };
        live.links = if live.kind() == FileKind::Directory { 0 } else { live.links.saturating_sub(1) };
        live.times[2] = now;
        if live.links == 0 {
            if live.opens == 0 {
                return self.forget(ino);
            }
            self.orphans.insert(ino);
        }
        self.mark(ino);
    }
}

const LOST: Error = Error::Inconsistent("an inode is not there");
