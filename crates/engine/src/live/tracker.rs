//! Which pages of a running program change, and copies of them.

use core::fmt;
use core::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use dunlin_base::{Digest, PAGE_SIZE, page_count};

use super::fault::WriteWatch;
use super::shadow::Shadow;
use crate::engine::Code;
use crate::error::Error;
use crate::memory::Mapping;

/// How long a scan waits for a program whose memory only its own thread can reach.
const PATIENCE: Duration = Duration::from_millis(200);

/// How changes are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// The kernel marks pages as they are written (userfaultfd in its asynchronous write-protect mode), also when the
    /// host writes or the kernel does so for it; `PAGEMAP_SCAN` reads the marks. A scan costs time in proportion to
    /// the pages that were written.
    WriteProtect,
    /// Every page is hashed at every scan and compared with its last hash. Works everywhere; a scan reads all memory.
    Hashing,
    /// As [`Method::Hashing`], on a copy of all memory that the program's thread makes for every scan: for engines
    /// that let nobody else reach it (wasmi).
    Copying,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WriteProtect => "write-protect",
            Self::Hashing => "page-hashing",
            Self::Copying => "copy-hashing",
        })
    }
}

/// Watches the memories of one instance, from any thread, while the program runs. What it tells is complete once the
/// program has stopped: a scan then finds every page that was written since the scan before, by the program, by its
/// host or by the kernel for either, and every page by which a memory grew that is not zero.
///
/// There is one tracker of an instance at a time.
pub struct Tracker {
    code: Code,
    kind: Kind,
    /// For each memory, the digest of each page at the last scan; a page beyond the list is zero.
    known: Vec<Vec<Option<Digest>>>,
    first: bool,
}

enum Kind {
    Watched { watch: WriteWatch, mappings: Vec<Arc<Mapping>> },
    Hashed { mappings: Vec<Arc<Mapping>> },
    Shadowed { shadow: Arc<Shadow>, memories: usize },
}

impl Tracker {
    /// Watches `mappings`, by hashing if the system offers nothing better or `hashing` is asked for.
    pub(crate) fn of_mappings(code: Code, mappings: Vec<Arc<Mapping>>, hashing: bool) -> Self {
        let known = mappings.iter().map(|_| Vec::new()).collect();
        let watch = if hashing { None } else { WriteWatch::new(&mappings).ok() };
        let kind = match watch {
            Some(watch) => Kind::Watched { watch, mappings },
            None => Kind::Hashed { mappings },
        };
        Self { code, kind, known, first: true }
    }

    pub(crate) fn of_shadow(code: Code, shadow: Arc<Shadow>, memories: usize) -> Self {
        let known = (0..memories).map(|_| Vec::new()).collect();
        Self { code, kind: Kind::Shadowed { shadow, memories }, known, first: true }
    }

    /// How it finds changes.
    pub fn method(&self) -> Method {
        match self.kind {
            Kind::Watched { .. } => Method::WriteProtect,
            Kind::Hashed { .. } => Method::Hashing,
            Kind::Shadowed { .. } => Method::Copying,
        }
    }

    /// How many memories the module has.
    pub fn memories(&self) -> usize {
        match &self.kind {
            Kind::Watched { mappings, .. } | Kind::Hashed { mappings } => mappings.len(),
            Kind::Shadowed { memories, .. } => *memories,
        }
    }

    /// The present size of a memory in bytes; it only grows. 0 if there is no such memory.
    pub fn size(&self, memory: usize) -> u64 {
        match &self.kind {
            Kind::Watched { mappings, .. } | Kind::Hashed { mappings } => {
                mappings.get(memory).map_or(0, |mapping| mapping.size() as u64)
            }
            Kind::Shadowed { shadow, .. } => shadow.with(memory, <[u8]>::len) as u64,
        }
    }

    /// For each memory the pages (of [`PAGE_SIZE`]) that were written since the last scan, as ascending ranges; in the
    /// first scan, those that may differ from a fresh instance of the module. Pages that are listed may be unchanged
    /// all the same. Where only the program's thread can make a copy and it is inside a host call for long, nothing
    /// is listed; a scan of the stopped program lists it then.
    ///
    /// # Errors
    /// [`Error::Track`] if the system fails to tell.
    pub fn scan(&mut self) -> Result<Vec<Vec<Range<u64>>>, Error> {
        let first = core::mem::take(&mut self.first);
        match &self.kind {
            Kind::Watched { watch, mappings } => {
                let mut all = Vec::with_capacity(mappings.len());
                for (index, mapping) in mappings.iter().enumerate() {
                    let size = mapping.size() as u64;
                    let (total, page) = (page_count(size), PAGE_SIZE as u64);
                    let written = watch.scan(index, size).map_err(Error::Track)?;
                    let mut ranges: Vec<Range<u64>> =
                        written.iter().map(|range| range.start / page..(range.end / page).min(total)).collect();
                    if first {
                        // Data that was taken away again reads as zeros, which is a difference.
                        let data = self.code.compiled().info.fresh.get(index).into_iter();
                        ranges.extend(data.flat_map(|fresh| fresh.data_pages()));
                        ranges = merged(ranges, total);
                    }
                    all.push(ranges);
                }
                Ok(all)
            }
            Kind::Hashed { mappings } => {
                let known = &mut self.known;
                let mut page = Vec::with_capacity(PAGE_SIZE);
                let scan = mappings.iter().zip(known).enumerate().map(|(index, (mapping, known))| {
                    let size = mapping.size() as u64;
                    let populated = crate::pagemap::populated(mapping.base(), page_count(size));
                    let fresh = self.code.compiled().info.fresh.get(index);
                    let data = fresh.into_iter().flat_map(|fresh| fresh.data_pages());
                    let all = 0..page_count(size);
                    let candidates =
                        populated.map_or_else(|| vec![all], |ranges| ranges.into_iter().chain(data).collect());
                    let candidates = merged(candidates, page_count(size));
                    changed(candidates.into_iter().flatten(), known, |number| {
                        page.clear();
                        let start = number as usize * PAGE_SIZE;
                        mapping.append_to(start, PAGE_SIZE.min(size as usize - start), &mut page);
                        digest(&page, fresh.is_some_and(|fresh| fresh.is_same(number, &page)))
                    })
                });
                Ok(scan.collect())
            }
            Kind::Shadowed { shadow, .. } => {
                let nothing = || self.known.iter().map(|_| Vec::new()).collect();
                if !shadow.ask(PATIENCE) {
                    self.first = first;
                    return Ok(nothing());
                }
                let code = &self.code;
                let scan = self.known.iter_mut().enumerate().map(|(index, known)| {
                    let fresh = code.compiled().info.fresh.get(index);
                    shadow.with(index, |bytes| {
                        changed(0..page_count(bytes.len() as u64), known, |number| {
                            let start = number as usize * PAGE_SIZE;
                            let page = &bytes[start..bytes.len().min(start + PAGE_SIZE)];
                            digest(page, fresh.is_some_and(|fresh| fresh.is_same(number, page)))
                        })
                    })
                });
                Ok(scan.collect())
            }
        }
    }

    /// Appends the contents of `pages` to `out`, as they are now; the last page of a memory may be partial. While the
    /// program runs, a page may be read half written: it is then listed by the next scan. Pages beyond the memory's end
    /// are left out. What was read is taken to be what the destination has from then on.
    pub fn read(&mut self, memory: usize, pages: Range<u64>, out: &mut Vec<u8>) {
        let from = out.len();
        self.copy(memory, pages.clone(), out);
        let hashes = !matches!(self.kind, Kind::Watched { .. });
        if let Some(known) = self.known.get_mut(memory).filter(|_| hashes) {
            // A page that changed between scan and read, and changes back, must be found by the next scan.
            for (number, page) in (pages.start..).zip(out[from..].chunks(PAGE_SIZE)) {
                let fresh = self.code.compiled().info.fresh.get(memory);
                let index = number as usize;
                if known.len() <= index {
                    known.resize(index + 1, None);
                }
                known[index] = digest(page, fresh.is_some_and(|fresh| fresh.is_same(number, page)));
            }
        }
    }

    fn copy(&self, memory: usize, pages: Range<u64>, out: &mut Vec<u8>) {
        let bounds = |size: u64| {
            let page = PAGE_SIZE as u64;
            let start = pages.start.saturating_mul(page).min(size);
            (start as usize, pages.end.saturating_mul(page).min(size).max(start) as usize)
        };
        match &self.kind {
            Kind::Watched { mappings, .. } | Kind::Hashed { mappings } => {
                let Some(mapping) = mappings.get(memory) else { return };
                let (start, end) = bounds(mapping.size() as u64);
                let inside = mapping.append_to(start, end - start, out);
                debug_assert!(inside, "a memory never shrinks");
            }
            Kind::Shadowed { shadow, .. } => shadow.with(memory, |bytes| {
                let (start, end) = bounds(bytes.len() as u64);
                out.extend_from_slice(&bytes[start..end]);
            }),
        }
    }

    /// Whether `page`, the contents of page `number`, is what a fresh instance of the module has there: such a page
    /// need not travel unless it travelled before.
    pub fn is_fresh(&self, memory: usize, number: u64, page: &[u8]) -> bool {
        self.code.is_fresh(memory, number, page)
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker").field("method", &self.method()).finish_non_exhaustive()
    }
}

/// `None`: as in a fresh instance.
fn digest(page: &[u8], fresh: bool) -> Option<Digest> {
    (!fresh).then(|| Digest::of(page))
}

/// The pages among `candidates` whose digest is another one than before.
fn changed(
    candidates: impl Iterator<Item = u64>,
    known: &mut Vec<Option<Digest>>,
    mut digest: impl FnMut(u64) -> Option<Digest>,
) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for number in candidates {
        let now = digest(number);
        let index = number as usize;
        if known.len() <= index {
            known.resize(index + 1, None);
        }
        if known[index] == now {
            continue;
        }
        known[index] = now;
        match ranges.last_mut() {
            Some(last) if last.end == number => last.end += 1,
            _ => ranges.push(number..number + 1),
        }
    }
    ranges
}

/// Ascending, disjoint, not empty, none beyond `total`.
fn merged(mut ranges: Vec<Range<u64>>, total: u64) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        let range = range.start..range.end.min(total);
        match merged.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}
