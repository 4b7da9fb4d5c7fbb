//! Asking a running program to stop, from any thread.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use dunlin_instrument::ControlLayout;

use crate::memory::Mapping;

/// Asks one instance to stop. It can be cloned, sent anywhere, and outlive the instance.
#[derive(Clone)]
pub struct StopHandle(Arc<Shared>);

type Waker = Arc<dyn Fn() + Send + Sync>;

struct Shared {
    requested: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    flag: Flag,
    at: Option<Instant>,
    wakers: Vec<Waker>,
}

/// How the running code learns of the request.
#[derive(Default)]
enum Flag {
    /// It does not: the module is not instrumented.
    #[default]
    Absent,
    /// Through the flag word of the control memory. A weak reference: a handle does not keep the memory of an
    /// instance that is gone.
    Word(Weak<Mapping>),
    /// The engine looks at `requested` every few thousand instructions.
    Polled,
}

impl StopHandle {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared { requested: AtomicBool::new(false), inner: Mutex::default() }))
    }

    /// Asks the program to stop at its next safepoint and calls the wakers. Asking again changes nothing. Returns
    /// false, without any effect, if the program can never stop: it is not instrumented, or gone.
    pub fn request(&self) -> bool {
        let wakers = {
            let mut inner = self.inner();
            let word = match &inner.flag {
                Flag::Absent => return false,
                Flag::Word(mapping) => match mapping.upgrade() {
                    Some(mapping) => Some(mapping),
                    None => return false,
                },
                Flag::Polled => None,
            };
            inner.at.get_or_insert_with(Instant::now);
            self.0.requested.store(true, Ordering::SeqCst);
            if let Some(mapping) = word {
                mapping.word(ControlLayout::FLAG).store(1_u32.to_le(), Ordering::SeqCst);
            }
            inner.wakers.clone()
        };
        wakers.iter().for_each(|waker| waker());
        true
    }

    /// Whether a stop has been requested.
    pub fn is_requested(&self) -> bool {
        self.0.requested.load(Ordering::SeqCst)
    }

    /// When a stop was first requested.
    pub fn requested_at(&self) -> Option<Instant> {
        self.inner().at
    }

    /// Registers what a request must also do: wake a host call that blocks. It is called on the requesting thread,
    /// and at once if a stop has already been requested.
    pub fn on_request(&self, waker: Box<dyn Fn() + Send + Sync>) {
        let waker: Waker = waker.into();
        self.inner().wakers.push(waker.clone());
        if self.is_requested() {
            waker();
        }
    }

    pub(crate) fn attach_word(&self, mapping: &Arc<Mapping>) {
        self.inner().flag = Flag::Word(Arc::downgrade(mapping));
    }

    pub(crate) fn attach_polled(&self) {
        self.inner().flag = Flag::Polled;
    }

    /// From now on nothing can be requested: the instance is gone or finished with.
    pub(crate) fn detach(&self) {
        let mut inner = self.inner();
        inner.flag = Flag::Absent;
        inner.wakers.clear();
    }

    /// Forgets a request. The caller clears the flag word, and no code runs.
    pub(crate) fn clear(&self) {
        self.inner().at = None;
        self.0.requested.store(false, Ordering::SeqCst);
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Nothing that panics runs under the lock, and every field is valid at any time.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopHandle").field("requested", &self.is_requested()).finish_non_exhaustive()
    }
}
