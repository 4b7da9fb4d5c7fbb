//! A wish of a program to be elsewhere, between the program and whoever can move it.

use core::fmt;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Whoever can move programs.
pub trait Mobility: fmt::Debug + Send + Sync {
    /// What people call the place where the program is.
    fn here(&self) -> String;

    /// The program wishes to be at `destination`, a name or whatever is understood there: as it is, or, if `weakly`, as a
    /// new instance with what it packed.
    ///
    /// # Errors
    /// When nobody can be asked.
    fn wish(&self, destination: &str, weakly: bool) -> io::Result<Wish>;
}

/// A wish that is open. Clones are the same wish.
#[derive(Debug, Clone)]
pub struct Wish(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Readable once it is refused.
    event: OwnedFd,
    refusal: Mutex<Option<String>>,
    leaving: AtomicBool,
}

impl Wish {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared { event, refusal: Mutex::default(), leaving: AtomicBool::new(false) })))
    }

    /// The program stays where it is: its call returns.
    pub fn refuse(&self, why: &str) {
        self.0.refusal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.to_owned());
        // It can only fail when the counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&self.0.event, &1_u64.to_ne_bytes());
    }

    /// Whether a move that fulfils it goes on: a freeze takes the program to where it wished to be.
    pub fn leaves(&self, leaving: bool) {
        self.0.leaving.store(leaving, Ordering::SeqCst);
    }

    /// Why it is refused, if it is.
    pub fn refusal(&self) -> Option<String> {
        self.0.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.0.leaving.load(Ordering::SeqCst)
    }

    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}
