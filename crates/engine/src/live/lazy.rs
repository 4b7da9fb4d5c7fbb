//! Memory that arrives after the program already runs.

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use dunlin_base::{PAGE_SIZE, page_count};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::fault::MissingWatch;
use crate::error::Error;
use crate::memory::Mapping;

/// Pages that are missing from the memories of an instance. Code that touches one, of the program or of its host,
/// waits until it is [placed](Lazy::place). A page that is there is never overwritten: the program may have changed it.
///
/// Dropped while pages are missing, it leaves whoever waits for one waiting until the process ends: to let them go on
/// would mean to let them read zeros.
pub struct Lazy {
    shared: Arc<Shared>,
    handler: Option<JoinHandle<()>>,
}

struct Shared {
    watch: MissingWatch,
    missing: Mutex<Missing>,
    end: OwnedFd,
    ending: AtomicBool,
}

/// One bit for each page, and how many are set.
struct Missing {
    bits: Vec<Vec<u64>>,
    count: u64,
}

impl Missing {
    fn has(&self, memory: usize, page: u64) -> bool {
        let word = self.bits.get(memory).and_then(|bits| bits.get((page / 64) as usize));
        word.is_some_and(|word| word >> (page % 64) & 1 == 1)
    }
}

impl Lazy {
    /// Whether this system offers it to this process: pages of 4 KiB, and userfaultfd for faults in the kernel too
    /// (root, `CAP_SYS_PTRACE`, or the setting `vm.unprivileged_userfaultfd`).
    pub fn is_available() -> bool {
        MissingWatch::is_available()
    }

    /// Takes the pages `missing` (memory and range of pages) away and watches for code that touches them. `on_fault`
    /// is called with memory and page, from a thread of its own, for each fault; it must not block for long.
    pub(crate) fn new(
        mappings: &[Arc<Mapping>],
        missing: &[(usize, Range<u64>)],
        on_fault: Box<dyn Fn(usize, u64) + Send>,
    ) -> Result<Self, Error> {
        let mut bits: Vec<Vec<u64>> = Vec::with_capacity(mappings.len());
        for mapping in mappings {
            bits.push(vec![0; page_count(mapping.size() as u64).div_ceil(64) as usize]);
        }
        let watch = MissingWatch::new(mappings).map_err(Error::Supply)?;
        let mut count = 0;
        for (memory, range) in missing {
            let page = PAGE_SIZE as u64;
            let bytes = range.start.saturating_mul(page)..range.end.saturating_mul(page);
            watch.drop_pages(*memory, &bytes).map_err(Error::Supply)?;
            for number in range.clone() {
                let word = &mut bits[*memory][(number / 64) as usize];
                count += u64::from(*word >> (number % 64) & 1 == 0);
                *word |= 1 << (number % 64);
            }
        }
        let end = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| Error::Supply(error.into()))?;
        let missing = Mutex::new(Missing { bits, count });
        let shared = Arc::new(Shared { watch, missing, end, ending: AtomicBool::new(false) });
        let for_handler = shared.clone();
        let handler = std::thread::Builder::new()
            .name("dunlin-faults".to_owned())
            .spawn(move || for_handler.handle(&*on_fault))
            .map_err(Error::Thread)?;
        Ok(Self { shared, handler: Some(handler) })
    }

    /// How many pages are missing.
    pub fn missing(&self) -> u64 {
        self.shared.missing().count
    }

    /// Puts a page there if it is missing, and wakes who waits for it; `None` is a page of zeros. Returns whether it
    /// was missing.
    ///
    /// # Errors
    /// [`Error::Supply`] if the system refuses.
    pub fn place(&self, memory: usize, page: u64, bytes: Option<&[u8]>) -> Result<bool, Error> {
        let mut missing = self.shared.missing();
        if !missing.has(memory, page) {
            return Ok(false);
        }
        let offset = page * PAGE_SIZE as u64;
        let watch = &self.shared.watch;
        let placed = match bytes {
            None => watch.place_zero(memory, offset),
            Some(bytes) if bytes.len() == PAGE_SIZE => watch.place(memory, offset, bytes),
            Some(bytes) => {
                let mut whole = [0; PAGE_SIZE];
                whole[..bytes.len().min(PAGE_SIZE)].copy_from_slice(&bytes[..bytes.len().min(PAGE_SIZE)]);
                watch.place(memory, offset, &whole)
            }
        };
        placed.map_err(Error::Supply)?;
        missing.bits[memory][(page / 64) as usize] &= !(1 << (page % 64));
        missing.count -= 1;
        Ok(true)
    }

    /// Ends the watch once no page is missing: memory is ordinary memory again. Returns false, changing nothing, while
    /// pages are missing.
    ///
    /// # Errors
    /// [`Error::Supply`] if the system refuses.
    pub fn end(&mut self) -> Result<bool, Error> {
        if self.missing() > 0 {
            return Ok(false);
        }
        self.shared.watch.end().map_err(Error::Supply)?;
        self.stop_handler();
        Ok(true)
    }

    fn stop_handler(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        let _woken = rustix::io::write(&self.shared.end, &1_u64.to_ne_bytes());
        if let Some(handler) = self.handler.take() {
            let _panicked = handler.join();
        }
    }
}

impl Drop for Lazy {
    fn drop(&mut self) {
        if self.missing() == 0 {
            let _refused = self.shared.watch.end();
            self.stop_handler();
        }
        // Otherwise the handler's thread keeps the watch, and with it everybody who waits.
    }
}

impl fmt::Debug for Lazy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lazy").field("missing", &self.missing()).finish_non_exhaustive()
    }
}

impl Shared {
    fn missing(&self) -> MutexGuard<'_, Missing> {
        // The bits and their number change together, without anything that panics in between.
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, on_fault: &dyn Fn(usize, u64)) {
        while !self.ending.load(Ordering::SeqCst) {
            let fd = self.watch.fd();
            let mut fds = [PollFd::new(&fd, PollFlags::IN), PollFd::from_borrowed_fd(self.end.as_fd(), PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            let faults: io::Result<_> = self.watch.faults();
            for fault in faults.unwrap_or_default() {
                let page = fault.offset / PAGE_SIZE as u64;
                if self.missing().has(fault.mapping, page) {
                    on_fault(fault.mapping, page);
                } else {
                    // Never touched here nor at the source, or placed in this moment.
                    let _there = self.watch.place_zero(fault.mapping, fault.offset);
                }
            }
        }
    }
}
