//! The digest of a whole state: what a ledger commits to. It is made of one digest for each page, so that a state
//! that changes little can be digested again at little cost, while it travels, by both sides alike.
//!
//! ```text
//!   page    = SHA-256(0x00, bytes of the page), or 32 zero bytes where a fresh instance of the module has the same
//!   node    = SHA-256(0x01, 16 digests below it), or 32 zero bytes where all of them are
//!   memory  = SHA-256(0x02, u64 size in bytes, u8 height, the root of the least tree that holds all its pages)
//!   state   = SHA-256("dunlin state 1\0", module digest, SHA-256(rest), u32 number of memories, memories)
//! ```
//!
//! `rest` is the snapshot of the same state without an embedded module, without the product's version, and with the
//! sizes of memories but no pages. Numbers are little-endian. The bytes are drawn in `docs/formats/state-digest.md`.

use dunlin_base::{Digest, Hasher, PAGE_SIZE, page_count};

use crate::{EncodeError, Memory, Module, Page, Snapshot, State, Stored, encode_with};

/// Digests below one node.
const FANOUT: usize = 16;

/// The digest of a page, or of a node, that is as in a fresh instance.
const FRESH: Digest = Digest([0; 32]);

/// The digest of a page that differs from a fresh one. The last page of a memory may be partial.
pub fn page_digest(page: &[u8]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(&[0]);
    hasher.update(page);
    hasher.finish()
}

/// Digests of the pages of one memory, and of the nodes above them.
#[derive(Debug, Clone, Default)]
pub struct MemoryTree {
    /// Level 0 has the pages. What lies behind a level's end is fresh.
    levels: Vec<Vec<Digest>>,
    /// Nodes of level 1 whose digest is not up to date.
    stale: Vec<usize>,
}

impl MemoryTree {
    /// Takes the digest of a page; `None` if it is as in a fresh instance.
    pub fn set(&mut self, page: u64, digest: Option<Digest>) {
        // A page number comes from a page that exists, so that this list is a small part of its memory.
        let Ok(index) = usize::try_from(page) else { return };
        if self.levels.is_empty() {
            self.levels.push(Vec::new());
        }
        let Some(pages) = self.levels.first_mut() else { return };
        let digest = digest.unwrap_or(FRESH);
        if pages.len() <= index {
            if digest == FRESH {
                return;
            }
            pages.resize(index + 1, FRESH);
        }
        if let Some(slot) = pages.get_mut(index).filter(|slot| **slot != digest) {
            *slot = digest;
            self.stale.push(index / FANOUT);
        }
    }

    /// The digest of the memory at its present size. Costs a few hashes for each page that was set since the last
    /// time.
    pub fn digest(&mut self, size: u64) -> Digest {
        let mut capacity = 1_u64;
        let mut height = 0_u8;
        while capacity < page_count(size) {
            capacity = capacity.saturating_mul(FANOUT as u64);
            height += 1;
        }
        let mut stale = core::mem::take(&mut self.stale);
        for level in 1..=usize::from(height) {
            if self.levels.len() <= level {
                // A new level: all of it is to be made.
                let below = self.levels.get(level - 1).map_or(0, Vec::len);
                self.levels.push(Vec::new());
                stale = (0..below.div_ceil(FANOUT)).collect();
            }
            stale.sort_unstable();
            stale.dedup();
            for index in &stale {
                let digest = self.node(level - 1, *index);
                if let Some(nodes) = self.levels.get_mut(level) {
                    if nodes.len() <= *index {
                        nodes.resize(*index + 1, FRESH);
                    }
                    if let Some(node) = nodes.get_mut(*index) {
                        *node = digest;
                    }
                }
            }
            for index in &mut stale {
                *index /= FANOUT;
            }
        }
        let root = self.levels.get(usize::from(height)).and_then(|nodes| nodes.first()).copied().unwrap_or(FRESH);
        let mut hasher = Hasher::default();
        hasher.update(&[2]);
        hasher.update(&size.to_le_bytes());
        hasher.update(&[height]);
        hasher.update(&root.0);
        hasher.finish()
    }

    fn node(&self, below: usize, index: usize) -> Digest {
        let all = self.levels.get(below).map_or(&[][..], Vec::as_slice);
        let children = all.get(index * FANOUT..).unwrap_or_default();
        let children = children.get(..FANOUT).unwrap_or(children);
        if children.iter().all(|child| *child == FRESH) {
            return FRESH;
        }
        let mut hasher = Hasher::default();
        hasher.update(&[1]);
        for at in 0..FANOUT {
            hasher.update(&children.get(at).unwrap_or(&FRESH).0);
        }
        hasher.finish()
    }
}

/// The digest of a state from its parts: the module's digest, the bytes of [`rest`], and the digests of all memories
/// in index order.
pub fn state_digest(module: &Digest, rest: &[u8], memories: &[Digest]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(b"dunlin state 1\0");
    hasher.update(&module.0);
    hasher.update(&Digest::of(rest).0);
    hasher.update(&u32::try_from(memories.len()).unwrap_or(u32::MAX).to_le_bytes());
    for memory in memories {
        hasher.update(&memory.0);
    }
    hasher.finish()
}

/// The bytes of everything in a snapshot but its module, its product's version and the contents of memories.
///
/// # Errors
/// As [`encode_with`].
pub fn rest(snapshot: &Snapshot) -> Result<Vec<u8>, EncodeError> {
    let Snapshot { module, map_digest, pass_version, features, product: _, state, extra } = snapshot;
    let State { entry, frames, globals, tables, memories, dropped_data, dropped_elems, exceptions, host } = state;
    let sizes = memories.iter().map(|memory| Memory { size: memory.size, pages: Vec::new() });
    let rest = Snapshot {
        module: Module { digest: module.digest, embedded: None },
        map_digest: *map_digest,
        pass_version: *pass_version,
        features: *features,
        product: None,
        state: State {
            entry: entry.clone(),
            frames: frames.clone(),
            globals: globals.clone(),
            tables: tables.clone(),
            memories: sizes.collect(),
            dropped_data: dropped_data.clone(),
            dropped_elems: dropped_elems.clone(),
            exceptions: exceptions.clone(),
            host: host.clone(),
        },
        extra: extra.clone(),
    };
    encode_with(&rest, &mut Stored)
}

/// The digest of the state in a whole snapshot.
///
/// # Errors
/// As [`encode_with`].
pub fn digest_of(snapshot: &Snapshot) -> Result<Digest, EncodeError> {
    let rest = rest(snapshot)?;
    let memories = snapshot.state.memories.iter().map(|memory| {
        let mut tree = MemoryTree::default();
        for (number, page) in &memory.pages {
            let start = number.saturating_mul(PAGE_SIZE as u64);
            let length = memory.size.saturating_sub(start).min(PAGE_SIZE as u64);
            let digest = match page {
                Page::Bytes(bytes) => page_digest(bytes),
                Page::Zero => {
                    let zeros = [0; PAGE_SIZE];
                    page_digest(usize::try_from(length).ok().and_then(|length| zeros.get(..length)).unwrap_or(&zeros))
                }
            };
            tree.set(*number, Some(digest));
        }
        tree.digest(memory.size)
    });
    let memories: Vec<Digest> = memories.collect();
    Ok(state_digest(&snapshot.module.digest, &rest, &memories))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_and_growth_give_what_a_fresh_tree_gives() {
        let mut tree = MemoryTree::default();
        let mut seed = 7_u64;
        let mut pages = std::collections::BTreeMap::new();
        let mut size = 1 << 16;
        for step in 0..400_u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let page = (seed >> 33) % page_count(size);
            let digest = (step % 5 != 0).then(|| page_digest(&seed.to_le_bytes()));
            tree.set(page, digest);
            pages.insert(page, digest);
            if step % 60 == 0 {
                size *= 3;
            }
            if step % 7 == 0 {
                let mut fresh = MemoryTree::default();
                pages.iter().for_each(|(page, digest)| fresh.set(*page, *digest));
                assert_eq!(tree.digest(size), fresh.digest(size), "step {step}");
            }
        }
    }

    #[test]
    fn size_place_and_content_count() {
        let of = |size, page, content: &[u8]| {
            let mut tree = MemoryTree::default();
            tree.set(page, Some(page_digest(content)));
            tree.digest(size)
        };
        let digests = [
            MemoryTree::default().digest(1 << 16),
            MemoryTree::default().digest(1 << 17),
            of(1 << 16, 0, b"a"),
            of(1 << 16, 1, b"a"),
            of(1 << 16, 0, b"b"),
            of(1 << 20, 0, b"a"),
            of(1 << 20, 16, b"a"),
        ];
        for (at, digest) in digests.iter().enumerate() {
            assert_eq!(digests.iter().position(|other| other == digest), Some(at));
        }
    }

    /// These values are in ledgers: they never change.
    #[test]
    fn golden() {
        let mut tree = MemoryTree::default();
        assert_eq!(tree.digest(0).short(), GOLDEN[0]);
        tree.set(3, Some(page_digest(&[7; PAGE_SIZE])));
        tree.set(300, Some(page_digest(&[9; PAGE_SIZE])));
        let memory = tree.digest(2 << 20);
        assert_eq!(memory.to_string(), GOLDEN[1]);
        assert_eq!(state_digest(&Digest::of(b"module"), b"rest", &[memory]).to_string(), GOLDEN[2]);
    }

    const GOLDEN: [&str; 3] = [
        "188451ed3b92",
        "4adbd4fa5667a3633df508c096bc1ed4f91e5ef70f73532d02ffce41d357ea1c",
        "a938aa7a959f1455b0c52f639633e4ebe075cb3a5d3aedbd57f38fa16fdffc5f",
    ];
}
