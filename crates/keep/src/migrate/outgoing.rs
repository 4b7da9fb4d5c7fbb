//! Memory that leaves: what is unsent, what the digest of each page is, and pages as messages.

use core::ops::Range;

use dunlin_base::{Digest, PAGE_SIZE, is_zero, with_causes};
use dunlin_engine::{Method, Tracker};
use dunlin_handover::message::{Content, LeftBehind, MAX_PAGES, Pages, Run};
use dunlin_snapshot::{MemoryTree, page_digest, state_digest};

/// Level at which pages are compressed: the fastest.
const LEVEL: i32 = 1;

/// A set of page numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct PageSet {
    words: Vec<u64>,
    count: u64,
    /// No page below this is in the set.
    low: u64,
}

impl PageSet {
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        let words = range.end.div_ceil(64) as usize;
        if self.words.len() < words {
            self.words.resize(words, 0);
        }
        self.low = self.low.min(range.start);
        for page in range {
            let (word, bit) = (&mut self.words[(page / 64) as usize], 1 << (page % 64));
            self.count += u64::from(*word & bit == 0);
            *word |= bit;
        }
    }

    pub(crate) fn remove(&mut self, page: u64) -> bool {
        let Some(word) = self.words.get_mut((page / 64) as usize) else { return false };
        let bit = 1 << (page % 64);
        let was = *word & bit != 0;
        *word &= !bit;
        self.count -= u64::from(was);
        was
    }

    pub(crate) fn has(&self, page: u64) -> bool {
        self.words.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Ranges of the set from `from` on, in ascending order.
    pub(crate) fn ranges(&self, from: u64) -> impl Iterator<Item = Range<u64>> {
        let end = self.words.len() as u64 * 64;
        let mut at = from;
        core::iter::from_fn(move || {
            while at < end && !self.has(at) {
                // Whole words without a page are skipped at once.
                at = if at.is_multiple_of(64) && self.words[(at / 64) as usize] == 0 { at + 64 } else { at + 1 };
            }
            let first = at;
            while at < end && self.has(at) {
                at += 1;
            }
            (first < at).then_some(first..at)
        })
    }
}

#[derive(Debug, Default)]
struct Memory {
    unsent: PageSet,
    /// Pages that were sent in any form: a later form must be sent too, even if it is the fresh one.
    sent: PageSet,
    /// Pages that stay behind in post-copy.
    behind: PageSet,
    /// Pages that may have changed since they were last read: their digest is not that of their contents.
    stale: PageSet,
    /// Pages of which the copy that is kept here has contents.
    kept: PageSet,
    tree: MemoryTree,
}

/// All memories of a program that leaves.
#[derive(Debug)]
pub(crate) struct Outgoing {
    tracker: Tracker,
    memories: Vec<Memory>,
    compress: bool,
    /// Behind the page, of this memory, for which the program waited last: it is likely to need the next ones soon.
    near: Option<(usize, u64)>,
}

impl Outgoing {
    pub(crate) fn new(tracker: Tracker, compress: bool) -> Self {
        let memories = (0..tracker.memories()).map(|_| Memory::default()).collect();
        Self { tracker, memories, compress, near: None }
    }

    /// Adds what was written since the last time, and tells how many pages are unsent.
    pub(crate) fn scan(&mut self) -> Result<u64, String> {
        let scanned = self.tracker.scan().map_err(|error| with_causes(&error))?;
        for (memory, ranges) in self.memories.iter_mut().zip(scanned) {
            for range in ranges {
                memory.unsent.insert(range.clone());
                memory.stale.insert(range);
            }
        }
        Ok(self.unsent())
    }

    /// Brings the digests above the pages up to date while there is time, so that the stop finds little to do.
    pub(crate) fn settle(&mut self) {
        let tracker = &self.tracker;
        for (index, memory) in self.memories.iter_mut().enumerate() {
            memory.tree.digest(tracker.size(index));
        }
    }

    /// Whether reading a page changes nothing of what the next scan finds.
    pub(crate) fn reads_freely(&self) -> bool {
        self.tracker.method() == Method::WriteProtect
    }

    /// Pages that may have changed since they were last read.
    pub(crate) fn stale(&self) -> u64 {
        self.memories.iter().map(|memory| memory.stale.count()).sum()
    }

    pub(crate) fn unsent(&self) -> u64 {
        self.memories.iter().map(|memory| memory.unsent.count()).sum()
    }

    /// Takes up to `max` unsent pages that the destination cannot derive, as one message; `None` when none is left.
    pub(crate) fn batch(&mut self, round: u32, max: u32) -> Option<Pages> {
        if let Some((index, from)) = self.near.take()
            && let Some(pages) = self.batch_from(index, Some(from), round, max)
        {
            self.near = pages.runs.last().map(|run| (index, run.first + u64::from(run.count)));
            return Some(pages);
        }
        (0..self.memories.len()).find_map(|index| self.batch_from(index, None, round, max))
    }

    /// Of one memory, from this page on or from the first one that is unsent.
    fn batch_from(&mut self, index: usize, from: Option<u64>, round: u32, max: u32) -> Option<Pages> {
        let mut runs = Vec::new();
        let (mut taken, mut at) = (0, from);
        while taken < u64::from(max) {
            let set = &mut self.memories[index].unsent;
            let Some(range) = set.ranges(at.unwrap_or(set.low)).next() else { break };
            let range = range.start..range.end.min(range.start + u64::from(max) - taken);
            match &mut at {
                Some(at) => *at = range.end,
                None => set.low = range.end,
            }
            for page in range.clone() {
                set.remove(page);
            }
            taken += self.read(index, range, false, &mut runs);
        }
        (!runs.is_empty()).then_some(Pages { round, memory: index as u32, runs })
    }

    /// These pages, for a program that waits for them.
    pub(crate) fn pages(&mut self, round: u32, memory: u32, range: Range<u64>) -> Option<Pages> {
        let index = memory as usize;
        let page = PAGE_SIZE as u64;
        let end = self.tracker.size(index).div_ceil(page);
        let range = range.start.min(end)..range.end.min(end);
        if index >= self.memories.len() || range.is_empty() {
            return None;
        }
        let mut runs = Vec::new();
        self.near = Some((index, range.end));
        for page in range.clone() {
            self.memories[index].unsent.remove(page);
        }
        self.read(index, range, true, &mut runs);
        (!runs.is_empty()).then_some(Pages { round, memory, runs })
    }

    /// Everything that is unsent is to stay behind, and what that is. It has all been [kept](Self::keep).
    pub(crate) fn leave_behind(&mut self) -> Vec<LeftBehind> {
        /// Most ranges in one message.
        const RANGES: usize = 4096;
        let mut left = Vec::new();
        for (index, memory) in self.memories.iter_mut().enumerate() {
            memory.behind = memory.unsent.clone();
            let ranges: Vec<Range<u64>> = memory.unsent.ranges(0).collect();
            // Whatever is in them then, the destination waits for them.
            ranges.iter().for_each(|range| memory.sent.insert(range.clone()));
            let halves = ranges.into_iter().flat_map(|range| {
                let step = u64::from(u32::MAX);
                (range.start..range.end).step_by(step as usize).map(move |at| (at, (range.end - at).min(step) as u32))
            });
            let halves: Vec<(u64, u32)> = halves.collect();
            left.extend(
                halves.chunks(RANGES).map(|ranges| LeftBehind { memory: index as u32, ranges: ranges.to_vec() }),
            );
        }
        left
    }

    /// All that stayed behind is to be sent again.
    pub(crate) fn restart_push(&mut self) {
        self.near = None;
        for memory in &mut self.memories {
            memory.unsent = PageSet { low: 0, ..memory.behind.clone() };
        }
    }

    /// A copy is to be kept from now on: what was sent before is to be read again for it.
    pub(crate) fn begin_keeping(&mut self) {
        for memory in &mut self.memories {
            for range in memory.sent.ranges(0).collect::<Vec<_>>() {
                memory.stale.insert(range);
            }
        }
    }

    /// Brings the kept copy up to date: everything that may have changed since it was last read is given to `put`, as
    /// far as it differs from a fresh instance.
    pub(crate) fn keep(&mut self, put: &mut dyn FnMut(Pages)) {
        for index in 0..self.memories.len() {
            let end = self.tracker.size(index).div_ceil(PAGE_SIZE as u64);
            for range in self.memories[index].stale.ranges(0).collect::<Vec<_>>() {
                let mut at = range.start;
                while at < range.end.min(end) {
                    let until = range.end.min(end).min(at + u64::from(MAX_PAGES));
                    let mut runs = Vec::new();
                    self.classify(index, at..until, For::Copy, &mut runs);
                    if !runs.is_empty() {
                        put(Pages { round: 0, memory: index as u32, runs });
                    }
                    at = until;
                }
            }
        }
    }

    /// What was sent as `pages` is in the kept copy, too.
    pub(crate) fn has_kept(&mut self, pages: &Pages) {
        if let Some(memory) = self.memories.get_mut(pages.memory as usize) {
            pages.runs.iter().for_each(|run| memory.kept.insert(run.first..run.first + u64::from(run.count)));
        }
    }

    /// The digest of the whole state, whose part besides memory is `rest`.
    pub(crate) fn state_digest(&mut self, module: &Digest, rest: &[u8]) -> Digest {
        let tracker = &self.tracker;
        let memories = self.memories.iter_mut().enumerate();
        let memories: Vec<Digest> = memories.map(|(index, memory)| memory.tree.digest(tracker.size(index))).collect();
        state_digest(module, rest, &memories)
    }

    /// Reads pages into runs, and takes them for sent. Returns how many pages the runs got.
    fn read(&mut self, index: usize, range: Range<u64>, always: bool, runs: &mut Vec<Run>) -> u64 {
        let count = self.classify(index, range, if always { For::Asked } else { For::Sending }, runs);
        if self.compress {
            for run in runs.iter_mut() {
                if let Content::Bytes(bytes) = &run.content
                    && let Ok(packed) = zstd::bulk::compress(bytes, LEVEL)
                    && packed.len() < bytes.len()
                {
                    run.content = Content::Zstd(packed);
                }
            }
        }
        count
    }

    /// Reads pages as they are now into runs, with their digests. What the destination, or the kept copy, can derive is
    /// left out unless it had another form before. Returns how many pages the runs got.
    fn classify(&mut self, index: usize, range: Range<u64>, purpose: For, runs: &mut Vec<Run>) -> u64 {
        let mut bytes = Vec::with_capacity((range.end - range.start) as usize * PAGE_SIZE);
        self.tracker.read(index, range.clone(), &mut bytes);
        let mut count = 0;
        // First page, number, and whether they are zero.
        let mut spans: Vec<(u64, u32, bool)> = Vec::new();
        for (number, page) in range.clone().zip(bytes.chunks(PAGE_SIZE)) {
            let fresh = self.tracker.is_fresh(index, number, page);
            let memory = &mut self.memories[index];
            memory.tree.set(number, (!fresh).then(|| page_digest(page)));
            memory.stale.remove(number);
            match purpose {
                // A copy that is kept must learn that the page is fresh again.
                For::Sending if fresh && !memory.sent.has(number) && !memory.kept.has(number) => continue,
                For::Sending | For::Asked => memory.sent.insert(number..number + 1),
                For::Copy => {
                    if fresh && !memory.sent.has(number) {
                        // The destination has it already.
                        memory.unsent.remove(number);
                    }
                    if fresh && !memory.kept.has(number) {
                        continue;
                    }
                    memory.kept.insert(number..number + 1);
                }
            }
            count += 1;
            let zero = is_zero(page);
            match spans.last_mut() {
                Some((first, pages, kind)) if *kind == zero && *first + u64::from(*pages) == number => *pages += 1,
                _ => spans.push((number, 1, zero)),
            }
        }
        if let [(first, pages, false)] = spans[..]
            && u64::from(pages) == range.end - range.start
        {
            // Nothing is left out: what was read is what travels, without another copy.
            runs.push(Run { first, count: pages, content: Content::Bytes(bytes) });
            return count;
        }
        for (first, pages, zero) in spans {
            let start = (first - range.start) as usize * PAGE_SIZE;
            let end = bytes.len().min(start + pages as usize * PAGE_SIZE);
            let content = if zero { Content::Zero } else { Content::Bytes(bytes[start..end].to_vec()) };
            runs.push(Run { first, count: pages, content });
        }
        count
    }
}

/// What pages are read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// They go to the destination.
    Sending,
    /// The destination waits for them, whatever is in them.
    Asked,
    /// They go into the copy that is kept here.
    Copy,
}
