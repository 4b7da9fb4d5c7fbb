//! Small files that announce much: they are refused, and no memory is spent on what they announce.
//!
//! One test, because the allocator counts for the whole process.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Parts, map, small, snapshot};
use dunlin_snapshot::{CHUNK_SIZE, ChunkProblem, Envelope, Error, Limits, Memory, Page, Problem, encode};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator; counting does not touch the memory.
#[allow(unsafe_code, reason = "an allocator that counts")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::SeqCst) + layout.size();
        MOST.fetch_max(now, Ordering::SeqCst);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes allocated at most while `bytes` are decoded with the limits, and whether they were accepted.
fn cost(bytes: &[u8], limits: &Limits) -> (usize, bool) {
    let map = map();
    MOST.store(NOW.load(Ordering::SeqCst), Ordering::SeqCst);
    let before = NOW.load(Ordering::SeqCst);
    let accepted = Envelope::open(bytes, limits).and_then(|envelope| envelope.decode(&map)).is_ok();
    // Without a map nothing but the limits stands in the way.
    let _ = Envelope::open(bytes, limits).and_then(|envelope| envelope.peek());
    (MOST.load(Ordering::SeqCst) - before, accepted)
}

#[test]
fn bombs_cost_nothing() {
    let mut limits = Limits::default();
    (limits.memory_bytes, limits.page_bytes, limits.table_elements) = (4 << 20, 1 << 20, 10_000);
    let most = 3 << 20;

    // One MiB of one byte value is a few hundred bytes in the file.
    let mut state = small();
    let pages = |count| (0..count).map(|number| (number, Page::Bytes([7; 4096].into()))).collect();
    state.memories[0] = Memory { size: 16 << 16, pages: pages(256) };
    let good = encode(&snapshot(state)).unwrap();
    assert!(good.len() < 2000, "{}", good.len());
    let (spent, accepted) = cost(&good, &limits);
    assert!(accepted && spent < 2 * most, "{spent}");
    limits.page_bytes -= 1;
    let (spent, accepted) = cost(&good, &limits);
    assert!(!accepted && spent < 100_000, "{spent}");
    limits.page_bytes += 1;

    // Counts and sizes of which nothing follows.
    let plain = encode(&snapshot(small())).unwrap();
    for kind in 2..=7 {
        let length = Parts::of(&plain).body(kind).len();
        for at in 0..length {
            for huge in [&[0xff; 8][..], &[0xff; 4], &[0, 0, 0, 0, 0, 0, 0, 0x80], &[0xff, 0xff, 0xff, 0x7f]] {
                let mut parts = Parts::of(&plain);
                let room = huge.len().min(length - at);
                parts.body(kind)[at..at + room].copy_from_slice(&huge[..room]);
                let (spent, _) = cost(&parts.forge(), &limits);
                assert!(spent < 1_000_000, "section {kind}, byte {at}: {spent}");
            }
        }
    }

    // A zstd frame of 10,000 run-length blocks of 128 KiB behind a header that says 256 KiB.
    let mut parts = Parts::of(&good);
    let body = parts.body(5);
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend((CHUNK_SIZE as u32).to_le_bytes());
    for _ in 0..10_000 {
        let header = (128u32 << 10) << 3 | 1 << 1;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.push(7);
    }
    let chunks = 4 + 8 + 4 + 17;
    body.truncate(chunks);
    body.extend((frame.len() as u32).to_le_bytes());
    body.extend(&frame);
    let (spent, accepted) = cost(&parts.forge(), &limits);
    assert!(!accepted && spent < most, "{spent}");

    // A compressed block of 50,000 sequences, each a match of 131,074 bytes: 6.5 GB from 100 KB, behind a frame header
    // that says 256 KiB. A run-length block in front gives the matches something to refer to.
    let mut parts = Parts::of(&good);
    let body = parts.body(5);
    body.truncate(chunks);
    let mut block = vec![1 << 3 | 1, b'x']; // literals: run-length, one byte
    block.extend([0xff, 0x50, 0x44]); // 50,000 sequences
    block.extend([0b0101_0100, 0, 0, 52]); // all tables run-length: no literals, repeated offset, longest match
    block.extend(vec![0xff; 100_000]); // 16 more bits of length for each
    block.push(1);
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend((CHUNK_SIZE as u32).to_le_bytes());
    frame.extend(&(16u32 << 3 | 1 << 1).to_le_bytes()[..3]);
    frame.push(b'y');
    frame.extend(&((block.len() as u32) << 3 | 2 << 1 | 1).to_le_bytes()[..3]);
    frame.extend(&block);
    body.extend((frame.len() as u32).to_le_bytes());
    body.extend(&frame);
    let bytes = parts.forge();
    let (spent, accepted) = cost(&bytes, &limits);
    assert!(!accepted && spent < 2 * most, "{spent}");
    match Envelope::open(&bytes, &limits).unwrap().decode(&map()) {
        Err(Error::Section { problem: Problem::Chunk(ChunkProblem::Zstd(text)), .. }) => {
            assert!(text.contains("131072"), "the block ended it, not something before: {text}");
        }
        other => panic!("{:?}", other.map(drop)),
    }
}
