//! What a root needs: a walk over its chunks that reads what names other chunks, and nothing else.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

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
struct Place {
    height: u8,
    kind: ChunkKind,
    digest: Digest,
}

/// What chunks name, as earlier walks have read it. Chunks are known by their contents, so that this never changes.
#[derive(Debug, Default)]
pub(crate) struct Known(HashMap<Place, Arc<[Place]>>);

/// A walk over what roots need. Every chunk is looked at once, however often it is named, so the walk ends with the chunks
/// that are there.
pub(crate) struct Walk<'a> {
    store: &'a dyn Store,
    sealing: &'a dyn Sealing,
    known: &'a mut Known,
    seen: HashSet<Place>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(store: &'a dyn Store, sealing: &'a dyn Sealing, known: &'a mut Known) -> Self {
        Self { store, sealing, known, seen: HashSet::new() }
    }

    /// The chunks that were seen.
    pub(crate) fn needed(self) -> BTreeSet<Digest> {
        self.seen.into_iter().map(|place| place.digest).collect()
    }

    /// The same, and forgets what chunks name that were not.
    pub(crate) fn needed_only(self) -> BTreeSet<Digest> {
        self.known.0.retain(|place, _| self.seen.contains(place));
        self.needed()
    }

    pub(crate) fn root(&mut self, digest: Digest) -> Result<(), Error> {
        let root = read_root(self.store, self.sealing, digest)?;
        self.seen.insert(Place { height: 0, kind: ChunkKind::Root, digest });
        let Some((height, table)) = root.table else { return Ok(()) };
        self.visit(root.id, Place { height, kind: ChunkKind::Inodes, digest: table }, true)
    }

    /// `top`: it is the uppermost node of its tree.
    fn visit(&mut self, id: [u8; 16], place: Place, top: bool) -> Result<(), Error> {
        let is_last = place.height == 0 && place.kind != ChunkKind::Inodes;
        if !self.seen.insert(place) || is_last {
            return Ok(());
        }
        let named = match self.known.0.get(&place) {
            Some(named) => named.clone(),
            None => {
                let named: Arc<[Place]> = self.read(id, place, top)?.into();
                self.known.0.insert(place, named.clone());
                named
            }
        };
        // What a page of inodes names are other trees.
        let top = place.height == 0;
        named.iter().try_for_each(|child| self.visit(id, *child, top))
    }

    fn read(&self, id: [u8; 16], place: Place, top: bool) -> Result<Vec<Place>, Error> {
        let Place { height, kind, digest } = place;
        let damaged = |problem| Error::Damaged { digest, problem };
        if let Some(below) = height.checked_sub(1) {
            let bytes = chunks::open(self.store, self.sealing, ChunkKind::Node, id, digest)?;
            let children = children(&bytes, top).map_err(damaged)?;
            return Ok(children.into_iter().map(|(_, digest)| Place { height: below, kind, digest }).collect());
        }
        let bytes = chunks::open(self.store, self.sealing, ChunkKind::Inodes, id, digest)?;
        let inodes = decode_inodes(&bytes).map_err(damaged)?;
        let tree = |body: &BodyRecord| {
            let (tree, kind) = match body {
                BodyRecord::File { tree, .. } => (*tree, ChunkKind::Data),
                BodyRecord::Directory { tree, .. } => (*tree, ChunkKind::Entries),
                BodyRecord::Symlink { .. } => return None,
            };
            tree.map(|(height, digest)| Place { height, kind, digest })
        };
        Ok(inodes.iter().filter_map(|(_, inode)| tree(&inode.body)).collect())
    }
}
