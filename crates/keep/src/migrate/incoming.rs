//! Memory that arrives: into the prepared instance, and the digest of each page.

use core::ops::Range;

use dunlin_base::{Digest, PAGE_SIZE, with_causes};
use dunlin_engine::{Lazy, Prepared};
use dunlin_handover::message::{Content, LeftBehind, Pages};
use dunlin_snapshot::{MemoryTree, page_digest, state_digest};

use super::destination::IsFresh;
use super::stage::{decompress, unpack};

/// Ranges of pages by memory.
type Missing = Vec<(usize, Range<u64>)>;

/// A prepared instance with what came for it.
#[derive(Debug)]
pub(super) struct Incoming {
    prepared: Prepared,
    trees: Vec<MemoryTree>,
    missing: Missing,
}

impl Incoming {
    pub(super) fn new(prepared: Prepared) -> Self {
        let trees = (0..prepared.memories()).map(|_| MemoryTree::default()).collect();
        Self { prepared, trees, missing: Vec::new() }
    }

    pub(super) fn store(&mut self, pages: &Pages) -> Result<(), String> {
        let index = pages.memory as usize;
        for run in &pages.runs {
            let unpacked;
            let bytes: &[u8] = match &run.content {
                Content::Zero => {
                    self.prepared.clear(index, run.first, run.count.into()).map_err(|error| with_causes(&error))?;
                    let end = run.first + u64::from(run.count);
                    self.digest(index, run.first..end);
                    continue;
                }
                Content::Bytes(bytes) => bytes,
                Content::Zstd(packed) => {
                    unpacked = decompress(packed, run.count as usize * PAGE_SIZE).ok_or("pages cannot be unpacked")?;
                    &unpacked
                }
            };
            self.prepared.write(index, run.first, bytes).map_err(|error| with_causes(&error))?;
            self.digest(index, run.first..run.first + u64::from(run.count));
        }
        Ok(())
    }

    pub(super) fn left_behind(&mut self, left: &LeftBehind) {
        let ranges = left.ranges.iter().map(|(first, count)| (left.memory as usize, *first..first + u64::from(*count)));
        self.missing.extend(ranges);
    }

    /// Brings the digests above the pages up to date while there is time, so that the stop finds little to do.
    pub(super) fn settle(&mut self) {
        for (index, tree) in self.trees.iter_mut().enumerate() {
            tree.digest(self.prepared.size(index));
        }
    }

    /// The digest of the state, with memories of these sizes.
    pub(super) fn state_digest(&mut self, module: &Digest, rest: &[u8], sizes: &[u64]) -> Digest {
        digest_of(&mut self.trees, module, rest, sizes)
    }

    /// Ends the taking of pages: the instance, the digests, and what is still missing.
    pub(super) fn finish(self) -> (Prepared, Vec<MemoryTree>, Missing) {
        (self.prepared, self.trees, self.missing)
    }

    fn digest(&mut self, index: usize, range: Range<u64>) {
        let bytes = self.prepared.bytes(index);
        let Some(tree) = self.trees.get_mut(index) else { return };
        for number in range {
            let start = number as usize * PAGE_SIZE;
            let page = &bytes[start.min(bytes.len())..bytes.len().min(start + PAGE_SIZE)];
            let fresh = self.prepared.is_fresh(index, number, page);
            tree.set(number, (!fresh).then(|| page_digest(page)));
        }
    }
}

/// Memory that arrives after the switch.
pub(super) struct Arriving {
    pub(super) lazy: Lazy,
    pub(super) trees: Vec<MemoryTree>,
    pub(super) is_fresh: IsFresh,
}

impl Arriving {
    pub(super) fn place(&mut self, pages: &Pages) -> Result<(), String> {
        let index = pages.memory as usize;
        let Self { lazy, trees, is_fresh } = self;
        let Some(tree) = trees.get_mut(index) else { return Ok(()) };
        let mut failed = None;
        let unpacked = unpack(pages, &mut |page, bytes| {
            let zero = dunlin_base::is_zero(bytes);
            match lazy.place(index, page, (!zero).then_some(bytes)) {
                Ok(true) => {
                    let fresh = is_fresh(index, page, bytes);
                    tree.set(page, (!fresh).then(|| page_digest(bytes)));
                }
                // It came before, and what came before is in the digest.
                Ok(false) => {}
                Err(error) => failed = Some(with_causes(&error)),
            }
        });
        unpacked.map_err(|()| "pages cannot be unpacked".to_owned())?;
        failed.map_or(Ok(()), Err)
    }
}

pub(super) fn digest_of(trees: &mut [MemoryTree], module: &Digest, rest: &[u8], sizes: &[u64]) -> Digest {
    let memories: Vec<Digest> = trees.iter_mut().zip(sizes).map(|(tree, size)| tree.digest(*size)).collect();
    state_digest(module, rest, &memories)
}
