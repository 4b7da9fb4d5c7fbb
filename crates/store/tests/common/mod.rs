//! What the tests share.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

pub mod disk;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use dunlin_store::Options;

/// The time of every volume in tests.
pub const NOW: u64 = 1_700_000_000_000_000_000;

/// Options for volumes whose bytes do not depend on the time. Blocks are small, so that little data has many.
pub fn volume_options() -> Options {
    Options { clock: || NOW, id: *b"volume of tests.", block_bits: 12, ..Options::default() }
}

/// A seeded generator: splitmix64.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A directory that goes with its owner.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("dunlin-store-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
