//! A program that is a counter and some pages: every request that it serves raises the counter and writes pages.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_base::{Digest, PAGE_SIZE};
use dunlin_handover::message::{Chunk, Content, LeftBehind, Pages, Run, VolumeChunks};

/// Pages of the program's one memory.
pub const PAGES: u64 = 48;

/// The whole state of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub counter: u64,
    pub pages: Vec<u64>,
}

impl State {
    pub fn fresh() -> Self {
        Self { counter: 0, pages: (0..PAGES).map(|page| if page % 4 == 0 { 0 } else { page }).collect() }
    }

    pub fn hash(&self) -> Digest {
        let words = core::iter::once(&self.counter).chain(&self.pages);
        Digest::of(&words.flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>())
    }
}

#[derive(Debug, Clone)]
pub struct Guest {
    pub state: State,
    pub running: bool,
    /// Set for ever when the instance was told that it is not the holder.
    pub fenced: bool,
    pub epoch: u64,
    pub throttle: u8,
    pub writes: u64,
    dirty: BTreeSet<u64>,
    pub unsent: BTreeSet<u64>,
    scanned: bool,
    /// Pages that stayed behind, for pushing again.
    behind: BTreeSet<u64>,
    pub missing: BTreeSet<u64>,
    /// Chunks of its volume that the other side has.
    pub elsewhere: BTreeSet<Vec<u8>>,
    /// Chunks of its volume that are to be sent.
    volume: Vec<Vec<u8>>,
}

/// What the volume of a program consists of that has served so many requests.
pub fn volume(counter: u64) -> BTreeSet<Vec<u8>> {
    (0..=(counter / 8).min(40)).map(|number| format!("chunk {number}").into_bytes()).collect()
}

/// What one tick of a program did.
pub enum Tick {
    Served(u64),
    Fault(u64),
    Idle,
}

impl Guest {
    pub fn new(state: State, writes: u64) -> Self {
        Self {
            state,
            running: false,
            fenced: false,
            epoch: 0,
            throttle: 0,
            writes,
            dirty: BTreeSet::new(),
            unsent: BTreeSet::new(),
            scanned: false,
            behind: BTreeSet::new(),
            missing: BTreeSet::new(),
            elsewhere: BTreeSet::new(),
            volume: Vec::new(),
        }
    }

    /// Finds which chunks of the volume the other side lacks: their bytes.
    pub fn scan_volume(&mut self) -> u64 {
        self.volume = volume(self.state.counter).difference(&self.elsewhere).cloned().collect();
        self.unsent_volume()
    }

    pub fn unsent_volume(&self) -> u64 {
        self.volume.iter().map(|chunk| chunk.len() as u64).sum()
    }

    /// A few chunks, to be sent.
    pub fn volume_batch(&mut self) -> Option<VolumeChunks> {
        let chunks: Vec<_> = self.volume.drain(..self.volume.len().min(3)).collect();
        self.elsewhere.extend(chunks.iter().cloned());
        (!chunks.is_empty()).then_some(VolumeChunks(chunks))
    }

    /// Serves one request, unless a page for it is missing.
    pub fn tick(&mut self, chance: u64) -> Tick {
        assert!(!self.fenced, "a fenced instance runs");
        if chance % 100 < u64::from(self.throttle) {
            return Tick::Idle;
        }
        let next = self.state.counter + 1;
        let touched = (0..self.writes).map(|write| (next * 31 + write * 7) % PAGES);
        let touched: Vec<u64> = touched.collect();
        if let Some(page) = touched.iter().find(|page| self.missing.contains(page)) {
            return Tick::Fault(*page);
        }
        for page in touched {
            self.state.pages[page as usize] = next * 1000 + page;
            self.dirty.insert(page);
        }
        self.state.counter = next;
        Tick::Served(next)
    }

    pub fn scan(&mut self) -> u64 {
        if !self.scanned {
            self.scanned = true;
            // Only pages that a fresh instance has not.
            self.unsent.extend(0..PAGES);
        }
        self.unsent.append(&mut self.dirty);
        self.unsent.len() as u64
    }

    pub fn forget_tracking(&mut self) {
        self.scanned = false;
        self.unsent.clear();
        self.dirty.clear();
        self.elsewhere.clear();
        self.volume.clear();
    }

    pub fn batch(&mut self, round: u32, max: u32) -> Option<Pages> {
        let taken: Vec<u64> = self.unsent.iter().copied().take(max as usize).collect();
        taken.iter().for_each(|page| assert!(self.unsent.remove(page)));
        self.pages(round, &taken)
    }

    pub fn pages(&self, round: u32, pages: &[u64]) -> Option<Pages> {
        let runs = pages.iter().map(|page| {
            let word = self.state.pages[*page as usize];
            let content = match word {
                0 => Content::Zero,
                word => Content::Bytes(word.to_le_bytes().repeat(PAGE_SIZE / 8)),
            };
            Run { first: *page, count: 1, content }
        });
        let runs: Vec<Run> = runs.collect();
        (!runs.is_empty()).then_some(Pages { round, memory: 0, runs })
    }

    pub fn leave_behind(&mut self) -> Option<LeftBehind> {
        self.behind = self.unsent.clone();
        let ranges: Vec<(u64, u32)> = self.unsent.iter().map(|page| (*page, 1)).collect();
        (!ranges.is_empty()).then_some(LeftBehind { memory: 0, ranges })
    }

    /// For a source that starts again from what it retained: everything is to be sent.
    pub fn leave_everything_behind(&mut self) {
        self.behind = (0..PAGES).collect();
    }

    pub fn restart_push(&mut self) {
        self.unsent = self.behind.clone();
    }

    pub fn store(state: &mut State, pages: &Pages) {
        for (page, word) in words(pages) {
            state.pages[page as usize] = word;
        }
    }

    /// Puts pages in that are missing, into the staged copy too.
    pub fn place(&mut self, pages: &Pages, staged: &mut State) {
        for (page, word) in words(pages) {
            if self.missing.remove(&page) {
                self.state.pages[page as usize] = word;
                staged.pages[page as usize] = word;
            }
        }
    }

    /// The state besides memory: the counter, and the chunks of the volume that the other side lacks.
    pub fn chunk(&self, with_volume: bool) -> Chunk {
        let mut bytes = self.state.counter.to_le_bytes().to_vec();
        if with_volume {
            for chunk in volume(self.state.counter).difference(&self.elsewhere) {
                bytes.push(chunk.len() as u8);
                bytes.extend(chunk);
            }
        }
        Chunk { offset: 0, total: bytes.len() as u64, bytes }
    }

    /// Takes such a state: the chunks that came with it.
    pub fn take_chunk(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let (counter, mut rest) = bytes.split_first_chunk().expect("eight bytes");
        self.state.counter = u64::from_le_bytes(*counter);
        let mut chunks = Vec::new();
        while let Some((length, after)) = rest.split_first() {
            let (chunk, after) = after.split_at((*length).into());
            chunks.push(chunk.to_vec());
            rest = after;
        }
        chunks
    }
}

fn words(pages: &Pages) -> BTreeMap<u64, u64> {
    let word = |content: &Content| match content {
        Content::Zero => 0,
        Content::Bytes(bytes) | Content::Zstd(bytes) => u64::from_le_bytes(bytes[..8].try_into().unwrap()),
    };
    pages.runs.iter().map(|run| (run.first, word(&run.content))).collect()
}
