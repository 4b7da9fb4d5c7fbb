//! Pages on their way.

use dunlin_base::PAGE_SIZE;

use crate::codec::{DecodeError, Reader, Wire, Writer};

/// Most pages that one message carries as bytes.
pub const MAX_PAGES: u32 = 256;
/// So many pages are put in place after the switch, at most, before the source hears of them.
pub(crate) const PLACED_EVERY: u64 = 16;

/// Most runs in one message.
const MAX_RUNS: usize = 1024;

/// Most ranges in one message.
const MAX_RANGES: usize = 4096;

/// Pages past this number do not exist: 64-bit memories end there.
const END_OF_MEMORY: u64 = 1 << 52;

/// Runs of pages of one memory, as they were in one round.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pages {
    /// The round that they belong to. A later round replaces an earlier one.
    pub round: u32,
    /// Index of the memory.
    pub memory: u32,
    /// The runs, ascending and disjoint, at least one.
    pub runs: Vec<Run>,
}

impl Pages {
    /// How many pages these are.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.count)).sum()
    }

    /// Of them, pages that travel as a number only.
    pub fn zeros(&self) -> u64 {
        self.runs.iter().filter(|run| run.content == Content::Zero).map(|run| u64::from(run.count)).sum()
    }

    /// One past the last page.
    pub fn end(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.first.saturating_add(run.count.into()))
    }

    /// Whether a decoder would take these.
    pub fn is_well_formed(&self) -> bool {
        self.broken_rule().is_none()
    }

    fn broken_rule(&self) -> Option<&'static str> {
        let mut next = 0;
        let mut carried = 0u32;
        for run in &self.runs {
            if run.count == 0 || run.first < next {
                return Some("runs are ascending, disjoint and not empty");
            }
            next = run.first.saturating_add(run.count.into());
            let bytes = match &run.content {
                Content::Zero => continue,
                Content::Bytes(bytes) | Content::Zstd(bytes) => bytes.len(),
            };
            carried = carried.saturating_add(run.count);
            if carried > MAX_PAGES {
                return Some("at most 256 pages travel as bytes in one message");
            }
            let full = run.count as usize * PAGE_SIZE;
            let fits = match run.content {
                // Only the last page of a memory may be partial.
                Content::Bytes(_) => bytes <= full && bytes > full - PAGE_SIZE,
                _ => bytes > 0 && bytes < full,
            };
            if !fits {
                return Some("bytes fill their pages (the last may be partial) and compressed pages are smaller");
            }
        }
        if self.runs.is_empty() || self.runs.len() > MAX_RUNS {
            return Some("a message has 1 to 1024 runs");
        }
        (next > END_OF_MEMORY).then_some("pages lie within a 64-bit memory")
    }
}

impl Wire for Pages {
    const WHAT: &'static str = "pages";

    fn write(&self, out: &mut Writer) {
        let Self { round, memory, runs } = self;
        out.put(round);
        out.put(memory);
        out.list(runs);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let pages = Self { round: input.take()?, memory: input.take()?, runs: input.list("runs", MAX_RUNS)? };
        match pages.broken_rule() {
            None => Ok(pages),
            Some(why) => Err(DecodeError::Invalid { what: Self::WHAT, why }),
        }
    }
}

/// Consecutive pages with one kind of content.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Run {
    /// Number of the first page.
    pub first: u64,
    /// How many.
    pub count: u32,
    /// What is in them.
    pub content: Content,
}

impl Wire for Run {
    const WHAT: &'static str = "run of pages";

    fn write(&self, out: &mut Writer) {
        let Self { first, count, content } = self;
        out.put(first);
        out.put(count);
        match content {
            Content::Zero => out.put(&0u8),
            Content::Bytes(bytes) => {
                out.put(&1u8);
                out.blob(bytes);
            }
            Content::Zstd(bytes) => {
                out.put(&2u8);
                out.blob(bytes);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (first, count) = (input.take()?, input.take()?);
        let content = match input.take::<u8>()? {
            0 => Content::Zero,
            1 => Content::Bytes(input.blob(Self::WHAT, MAX_PAGES as usize * PAGE_SIZE)?),
            2 => Content::Zstd(input.blob(Self::WHAT, MAX_PAGES as usize * PAGE_SIZE)?),
            value => return Err(DecodeError::Unknown { what: "content of pages", value: value.into() }),
        };
        Ok(Self { first, count, content })
    }
}

/// Pages of one memory that stay at the source for now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeftBehind {
    /// Index of the memory.
    pub memory: u32,
    /// First page and number of pages of each range, ascending and disjoint, 1 to 4096 ranges.
    pub ranges: Vec<(u64, u32)>,
}

impl LeftBehind {
    /// How many pages these are.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    /// One past the last page.
    pub fn end(&self) -> u64 {
        self.ranges.last().map_or(0, |(first, count)| first.saturating_add(u64::from(*count)))
    }

    /// Whether a decoder would take it.
    pub fn is_well_formed(&self) -> bool {
        let mut next = 0;
        let ascending = self.ranges.iter().all(|(first, count)| {
            let fits = *count > 0 && *first >= next;
            next = first.saturating_add(u64::from(*count));
            fits
        });
        ascending && next <= END_OF_MEMORY && (1..=MAX_RANGES).contains(&self.ranges.len())
    }
}

impl Wire for LeftBehind {
    const WHAT: &'static str = "pages left behind";

    fn write(&self, out: &mut Writer) {
        out.put(&self.memory);
        out.list(&self.ranges);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let left = Self { memory: input.take()?, ranges: input.list("ranges of pages", MAX_RANGES)? };
        if !left.is_well_formed() {
            let why = "1 to 4096 ranges, ascending, disjoint and not empty, within a 64-bit memory";
            return Err(DecodeError::Invalid { what: Self::WHAT, why });
        }
        Ok(left)
    }
}

impl Wire for (u64, u32) {
    const WHAT: &'static str = "range of pages";

    fn write(&self, out: &mut Writer) {
        out.put(&self.0);
        out.put(&self.1);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok((input.take()?, input.take()?))
    }
}

/// The content of a run.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Content {
    /// Every byte is zero.
    Zero,
    /// The bytes.
    Bytes(Vec<u8>),
    /// One Zstandard frame with the bytes. Whoever unpacks it must not take more than the run's pages hold.
    Zstd(Vec<u8>),
}

impl core::fmt::Debug for Content {
    /// Sizes only: a log must not hold a program's memory.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Zero => f.write_str("Zero"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Zstd(bytes) => write!(f, "Zstd({})", bytes.len()),
        }
    }
}
