//! Which pages of a memory were ever touched. A page of an anonymous mapping that is neither present nor swapped
//! out reads as zeros, and reading it would only cost a page fault.

use core::ops::Range;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use dunlin_base::PAGE_SIZE;

/// Bit of `/proc/self/pagemap`: the page is in memory.
const PRESENT: u64 = 1 << 63;
/// Bit of `/proc/self/pagemap`: the page is swapped out.
const SWAPPED: u64 = 1 << 62;

/// This process's memory map, opened once.
static MAP: OnceLock<File> = OnceLock::new();

/// Opens this process's memory map, which watching and copying its memory needs: for a process that is about to give
/// up opening files. Where there is none, memory is watched and copied in slower ways.
pub fn open_memory_map() {
    let _missing = file();
}

/// A handle of its own on the memory map.
pub(crate) fn file() -> io::Result<File> {
    if let Some(map) = MAP.get() {
        return map.try_clone();
    }
    let map = File::open("/proc/self/pagemap")?;
    MAP.get_or_init(|| map).try_clone()
}

/// Which of the `pages` pages of 4 KiB from `base` on may hold something else than zeros, as ascending ranges.
/// `None` if the system does not tell.
pub(crate) fn populated(base: *const u8, pages: u64) -> Option<Vec<Range<u64>>> {
    let system_page = rustix::param::page_size();
    let ratio = (system_page / PAGE_SIZE) as u64;
    if ratio == 0 {
        return None;
    }
    let pagemap = file().ok()?;
    let first = (base.addr() / system_page) as u64;
    let total = pages.div_ceil(ratio);
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    let mut at = 0;
    while at < total {
        let count = (total - at).min((buffer.len() / 8) as u64);
        let bytes = &mut buffer[..count as usize * 8];
        pagemap.read_exact_at(bytes, (first + at) * 8).ok()?;
        let (entries, _) = bytes.as_chunks();
        for (page, entry) in (at..).zip(entries) {
            if u64::from_ne_bytes(*entry) & (PRESENT | SWAPPED) == 0 {
                continue;
            }
            let (from, to) = (page * ratio, ((page + 1) * ratio).min(pages));
            match ranges.last_mut() {
                Some(last) if last.end == from => last.end = to,
                _ => ranges.push(from..to),
            }
        }
        at += count;
    }
    Some(ranges)
}
