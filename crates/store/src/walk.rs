//! What a root needs: a walk over its chunks that reads what names other chunks, and nothing else.

use std::collections::{BTreeSet, HashSet};

use dunlin_base::Digest;

use crate::chunks;
use crate::error::Error;
use crate::record::{BodyRecord, decode_inodes};
use crate::seal::{ChunkKind, Sealing};
use crate::store::Store;
use crate::tree::children;
use crate::volume::read_root;

/// A chunk and what it is: the node of a tree whose leaves are of this kind, so many levels above them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    height: u8,
    kind: ChunkKind,
    pub(crate) digest: Digest,
}

/// A walk over what roots need. Every chunk is looked at once, however often it is named, so the walk ends with the chunks
/// that are there.
pub(crate) struct Walk<'a> {
    store: &'a dyn Store,
    sealing: &'a dyn Sealing,
    /// Only these are looked into.
    only: Option<&'a HashSet<Digest>>,
    seen: HashSet<Place>,
    /// What was seen, in order.
    found: Vec<Place>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(store: &'a dyn Store, sealing: &'a dyn Sealing) -> Self {
        Self { store, sealing, only: None, seen: HashSet::new(), found: Vec::new() }
    }

    /// A walk that goes no further than to what was seen before.
    pub(crate) fn beyond(store: &'a dyn Store, sealing: &'a dyn Sealing, seen: HashSet<Place>) -> Self {
        Self { seen, ..Self::new(store, sealing) }
    }

    /// A walk that looks into the root and these chunks, and sees what they name.
    pub(crate) fn into_only(store: &'a dyn Store, sealing: &'a dyn Sealing, only: &'a HashSet<Digest>) -> Self {
        Self { only: Some(only), ..Self::new(store, sealing) }
    }

    /// The chunks that were seen.
    pub(crate) fn needed(self) -> BTreeSet<Digest> {
        self.found.into_iter().map(|place| place.digest).collect()
    }

    /// What was seen now, and what was seen ever.
    pub(crate) fn found(self) -> (Vec<Place>, HashSet<Place>) {
        (self.found, self.seen)
    }

    pub(crate) fn root(&mut self, digest: Digest) -> Result<(), Error> {
        if !self.sees(Place { height: 0, kind: ChunkKind::Root, digest }) {
            return Ok(());
        }
        let root = read_root(self.store, self.sealing, digest)?;
        let Some((height, table)) = root.table else { return Ok(()) };
        self.visit(root.id, Place { height, kind: ChunkKind::Inodes, digest: table }, true)
    }

    /// Whether it was not seen before.
    fn sees(&mut self, place: Place) -> bool {
        let is_new = self.seen.insert(place);
        if is_new {
            self.found.push(place);
        }
        is_new
    }

    /// `top`: it is the uppermost node of its tree.
    fn visit(&mut self, id: [u8; 16], place: Place, top: bool) -> Result<(), Error> {
        let is_last = place.height == 0 && place.kind != ChunkKind::Inodes;
        if !self.sees(place) || is_last || self.only.is_some_and(|only| !only.contains(&place.digest)) {
            return Ok(());
        }
        let Place { height, kind, digest } = place;
        let damaged = |problem| Error::Damaged { digest, problem };
        if let Some(below) = height.checked_sub(1) {
            let bytes = chunks::open(self.store, self.sealing, ChunkKind::Node, id, digest)?;
            for (_, digest) in children(&bytes, top).map_err(damaged)? {
                self.visit(id, Place { height: below, kind, digest }, false)?;
            }
            return Ok(());
        }
        let bytes = chunks::open(self.store, self.sealing, ChunkKind::Inodes, id, digest)?;
        for (_, inode) in decode_inodes(&bytes).map_err(damaged)? {
            let (tree, kind) = match &inode.body {
                BodyRecord::File { tree, .. } => (*tree, ChunkKind::Data),
                BodyRecord::Directory { tree, .. } => (*tree, ChunkKind::Entries),
                BodyRecord::Symlink { .. } => continue,
            };
            if let Some((height, digest)) = tree {
                self.visit(id, Place { height, kind, digest }, true)?;
            }
        }
        Ok(())
    }
}
