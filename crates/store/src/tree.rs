//! A sparse array of chunks: a radix tree whose nodes are chunks too.
//!
//! A tree of height 0 is its only leaf; one of height `h` has up to 64 trees of height `h - 1`. A node is a 64-bit set of
//! the slots that are taken and their digests in order. A stored tree has no empty nodes and no needless height: an
//! array has one encoding.

use std::sync::Arc;

use dunlin_base::Digest;
use dunlin_wire::{Reader, Writer};

use crate::chunks::Chunks;
use crate::error::{Damage, Error};
use crate::seal::ChunkKind;

/// Bits of an index that a node decides.
const BITS: u32 = 6;
const FAN: usize = 1 << BITS;
/// Enough for every 64-bit index.
pub(crate) const MAX_HEIGHT: u8 = 11;

/// A tree, of which the parts that were used are in memory.
#[derive(Debug)]
pub(crate) struct Tree {
    height: u8,
    top: Slot,
}

/// Where a stored tree is: its height and the digest of its top, or nothing.
pub(crate) type Stored = Option<(u8, Digest)>;

/// A leaf that was looked up.
#[derive(Debug)]
pub(crate) enum Leaf<'a> {
    Hole,
    Stored(Digest),
    Changed(&'a [u8]),
}

#[derive(Debug)]
enum Slot {
    Empty,
    Stored(Digest),
    Node(Box<Node>),
    /// A leaf that is not stored yet.
    Changed(Vec<u8>),
}

#[derive(Debug)]
struct Node {
    /// The digest that it is stored under, while it is unchanged.
    stored: Option<Digest>,
    slots: [Slot; FAN],
}

impl Node {
    fn empty() -> Box<Self> {
        Box::new(Self { stored: None, slots: [const { Slot::Empty }; FAN] })
    }
}

impl Tree {
    /// A tree without leaves.
    pub(crate) fn new() -> Self {
        Self { height: 0, top: Slot::Empty }
    }

    /// A tree that is in the store.
    pub(crate) fn stored(stored: Stored) -> Self {
        stored.map_or(Self::new(), |(height, digest)| Self { height, top: Slot::Stored(digest) })
    }

    /// The leaf at `index`.
    pub(crate) fn get(&mut self, chunks: &mut Chunks, index: u64) -> Result<Leaf<'_>, Error> {
        if shift(index, self.height) != 0 {
            return Ok(Leaf::Hole);
        }
        let mut slot = &mut self.top;
        for level in (0..self.height).rev() {
            match loaded(slot, chunks, level + 1 == self.height)? {
                None => return Ok(Leaf::Hole),
                Some(node) => slot = &mut node.slots[place(index, level)],
            }
        }
        Ok(match slot {
            Slot::Stored(digest) => Leaf::Stored(*digest),
            Slot::Changed(bytes) => Leaf::Changed(bytes),
            Slot::Empty | Slot::Node(_) => Leaf::Hole,
        })
    }

    /// The bytes of the leaf at `index`, to be changed, and whether it is new. With `whole`, its bytes will all be
    /// replaced, so they are not read.
    pub(crate) fn change(
        &mut self,
        chunks: &mut Chunks,
        kind: ChunkKind,
        index: u64,
        whole: bool,
    ) -> Result<(&mut Vec<u8>, bool), Error> {
        if matches!(self.top, Slot::Empty) {
            self.height = 0;
        }
        while shift(index, self.height) != 0 {
            self.height += 1;
            let old = std::mem::replace(&mut self.top, Slot::Empty);
            if !matches!(old, Slot::Empty) {
                let mut node = Node::empty();
                node.slots[0] = old;
                self.top = Slot::Node(node);
            }
        }
        let mut slot = &mut self.top;
        for level in (0..self.height).rev() {
            if matches!(slot, Slot::Empty) {
                *slot = Slot::Node(Node::empty());
            }
            let Some(node) = loaded(slot, chunks, false)? else { return Err(SHAPE) };
            node.stored = None;
            slot = &mut node.slots[place(index, level)];
        }
        let new = matches!(slot, Slot::Empty);
        match slot {
            Slot::Stored(digest) if !whole => {
                let bytes = chunks.load(kind, *digest)?;
                *slot = Slot::Changed(Arc::unwrap_or_clone(bytes));
            }
            Slot::Stored(_) | Slot::Empty => *slot = Slot::Changed(Vec::new()),
            Slot::Changed(_) | Slot::Node(_) => {}
        }
        match slot {
            Slot::Changed(bytes) => Ok((bytes, new)),
            _ => Err(SHAPE),
        }
    }

    /// Removes the leaves from `from` on, of which at most `limit` are expected. How many there were.
    pub(crate) fn cut(&mut self, chunks: &mut Chunks, from: u64, limit: u64) -> Result<u64, Error> {
        let mut removed = 0;
        cut(&mut self.top, chunks, self.height, 0, from, limit, &mut removed)?;
        Ok(removed)
    }

    /// Removes the leaf at `index`.
    pub(crate) fn remove(&mut self, chunks: &mut Chunks, index: u64) -> Result<(), Error> {
        if !matches!(self.get(chunks, index)?, Leaf::Hole) {
            let mut slot = &mut self.top;
            for level in (0..self.height).rev() {
                let Slot::Node(node) = slot else { return Err(SHAPE) };
                node.stored = None;
                slot = &mut node.slots[place(index, level)];
            }
            *slot = Slot::Empty;
        }
        Ok(())
    }

    /// The first leaf at or behind `from`.
    pub(crate) fn next(&mut self, chunks: &mut Chunks, from: u64) -> Result<Option<u64>, Error> {
        next(&mut self.top, chunks, self.height, 0, from)
    }

    /// Puts what has changed into the store and says where the tree is now. `trim` cuts zeros off the end of leaves.
    pub(crate) fn flush(&mut self, chunks: &mut Chunks, kind: ChunkKind, trim: bool) -> Result<Stored, Error> {
        prune(&mut self.top);
        while self.height > 0 {
            // An unchanged top was checked, when it was read, to need its height.
            let Slot::Node(node) = &mut self.top else { break };
            if node.slots[1..].iter().any(|slot| !matches!(slot, Slot::Empty)) {
                break;
            }
            self.top = std::mem::replace(&mut node.slots[0], Slot::Empty);
            self.height -= 1;
            // What was below may be a stored node that needs less height, too.
            if self.height > 0 {
                loaded(&mut self.top, chunks, false)?;
            }
        }
        match flush(&mut self.top, chunks, kind, trim)? {
            Some(digest) => Ok(Some((self.height, digest))),
            None => {
                self.height = 0;
                Ok(None)
            }
        }
    }
}

const SHAPE: Error = Error::Inconsistent("a tree has a leaf where a node belongs");

fn shift(index: u64, height: u8) -> u64 {
    index.checked_shr(u32::from(height) * BITS).unwrap_or(0)
}

fn place(index: u64, level: u8) -> usize {
    (shift(index, level) as usize) & (FAN - 1)
}

/// The node in `slot`, read from the store if need be; `None` when it is empty.
fn loaded<'a>(slot: &'a mut Slot, chunks: &mut Chunks, top: bool) -> Result<Option<&'a mut Node>, Error> {
    if let Slot::Stored(digest) = *slot {
        let bytes = chunks.load(ChunkKind::Node, digest)?;
        let mut node = Node::empty();
        let children = children(&bytes, top).map_err(|problem| Error::Damaged { digest, problem })?;
        for (place, child) in children {
            node.slots[place] = Slot::Stored(child);
        }
        node.stored = Some(digest);
        *slot = Slot::Node(node);
    }
    match slot {
        Slot::Node(node) => Ok(Some(node)),
        Slot::Empty => Ok(None),
        Slot::Stored(_) | Slot::Changed(_) => Err(SHAPE),
    }
}

/// Decodes a node: its children with their places. The top of a tree has a child beside the first.
pub(crate) fn children(bytes: &[u8], top: bool) -> Result<Vec<(usize, Digest)>, Damage> {
    let mut reader = Reader::new(bytes);
    let set = reader.u64()?;
    if set == 0 {
        return Err(Damage::Value("a node has no children"));
    }
    if top && set == 1 {
        return Err(Damage::Value("a tree is higher than it needs to be"));
    }
    let mut children = Vec::new();
    for place in (0..FAN).filter(|place| set >> place & 1 != 0) {
        children.push((place, Digest(reader.array()?)));
    }
    reader.finish()?;
    Ok(children)
}

fn cut(
    slot: &mut Slot,
    chunks: &mut Chunks,
    level: u8,
    base: u64,
    from: u64,
    limit: u64,
    removed: &mut u64,
) -> Result<(), Error> {
    if matches!(slot, Slot::Empty) || from > last(base, level) {
        return Ok(());
    }
    if level > 0 {
        let Some(node) = loaded(slot, chunks, false)? else { return Ok(()) };
        node.stored = None;
        for (place, child) in node.slots.iter_mut().enumerate() {
            if let Some(base) = base_of(base, level, place) {
                cut(child, chunks, level - 1, base, from, limit, removed)?;
            }
        }
        if base < from {
            return Ok(());
        }
    } else {
        *removed += 1;
        if *removed > limit {
            return Err(Error::Inconsistent("a file has more blocks than its inode says"));
        }
    }
    *slot = Slot::Empty;
    Ok(())
}

fn next(slot: &mut Slot, chunks: &mut Chunks, level: u8, base: u64, from: u64) -> Result<Option<u64>, Error> {
    if matches!(slot, Slot::Empty) || from > last(base, level) {
        return Ok(None);
    }
    if level == 0 {
        return Ok(Some(base));
    }
    let Some(node) = loaded(slot, chunks, false)? else { return Ok(None) };
    for (place, child) in node.slots.iter_mut().enumerate() {
        if let Some(base) = base_of(base, level, place)
            && let Some(found) = next(child, chunks, level - 1, base, from)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The last index of the tree of height `level` that begins at `base`.
fn last(base: u64, level: u8) -> u64 {
    let span = 1u64.checked_shl(u32::from(level) * BITS).unwrap_or(0);
    base.saturating_add(span.wrapping_sub(1))
}

/// The first index of a child; `None` when it is beyond 64 bits.
fn base_of(base: u64, level: u8, place: usize) -> Option<u64> {
    let span = 1u64.checked_shl(u32::from(level - 1) * BITS)?;
    base.checked_add(span.checked_mul(place as u64)?)
}

/// Removes changed nodes that have become empty. Unchanged ones are not, or they would not be stored.
fn prune(slot: &mut Slot) {
    if let Slot::Node(node) = slot
        && node.stored.is_none()
    {
        node.slots.iter_mut().for_each(prune);
        if node.slots.iter().all(|slot| matches!(slot, Slot::Empty)) {
            *slot = Slot::Empty;
        }
    }
}

fn flush(slot: &mut Slot, chunks: &mut Chunks, kind: ChunkKind, trim: bool) -> Result<Option<Digest>, Error> {
    match slot {
        Slot::Empty => Ok(None),
        Slot::Stored(digest) => Ok(Some(*digest)),
        Slot::Changed(bytes) => {
            let end =
                if trim { bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1) } else { bytes.len() };
            bytes.truncate(end);
            // The bytes leave the slot only when they are in the store.
            let digest = chunks.save(kind, bytes.clone())?;
            *slot = Slot::Stored(digest);
            Ok(Some(digest))
        }
        Slot::Node(node) => {
            if let Some(stored) = node.stored {
                return Ok(Some(stored));
            }
            let mut set = 0u64;
            let mut digests = Writer::new();
            for (place, child) in node.slots.iter_mut().enumerate() {
                if let Some(digest) = flush(child, chunks, kind, trim)? {
                    set |= 1 << place;
                    digests.bytes(&digest.0);
                }
            }
            let mut writer = Writer::new();
            writer.u64(set);
            writer.bytes(digests.as_slice());
            let digest = chunks.save(ChunkKind::Node, writer.into_bytes())?;
            node.stored = Some(digest);
            Ok(Some(digest))
        }
    }
}
