//! A copy of the memories of an engine whose memory only the program's own thread can reach (wasmi).

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use core::sync::atomic::{AtomicBool, Ordering};

/// The copy, and whether a newer one is wanted.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    wanted: AtomicBool,
    copy: Mutex<Copy>,
    renewed: Condvar,
}

#[derive(Debug, Default)]
struct Copy {
    generation: u64,
    /// Whether the program stands still, so that the copy is what memory is.
    current: bool,
    memories: Vec<Vec<u8>>,
}

impl Shadow {
    /// Whether the program's thread is to make a copy at its next chance.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Takes a copy. `standing` tells whether the program stands still.
    pub(crate) fn renew<'a>(&self, memories: impl Iterator<Item = &'a [u8]>, standing: bool) {
        let mut copy = self.copy();
        let mut count = 0;
        for (index, bytes) in memories.enumerate() {
            if copy.memories.len() <= index {
                copy.memories.push(Vec::new());
            }
            let target = &mut copy.memories[index];
            target.clear();
            target.extend_from_slice(bytes);
            count = index + 1;
        }
        copy.memories.truncate(count);
        copy.generation += 1;
        copy.current = standing;
        self.wanted.store(false, Ordering::Relaxed);
        drop(copy);
        self.renewed.notify_all();
    }

    /// The program is about to run: the copy grows old.
    pub(crate) fn set_running(&self) {
        self.copy().current = false;
    }

    /// Waits until the copy is newer than this call or the program stands still, at most for `patience`: a program
    /// that is inside a host call copies nothing. Returns whether it is.
    pub(crate) fn ask(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut copy = self.copy();
        let before = copy.generation;
        self.wanted.store(true, Ordering::Relaxed);
        while !copy.current && copy.generation == before {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            copy = self.renewed.wait_timeout(copy, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Calls `f` with memory `index`.
    pub(crate) fn with<R>(&self, index: usize, f: impl FnOnce(&[u8]) -> R) -> R {
        f(self.copy().memories.get(index).map_or(&[], Vec::as_slice))
    }

    fn copy(&self) -> MutexGuard<'_, Copy> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
