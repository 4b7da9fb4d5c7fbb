//! Processor time of a program: measured on the thread that runs it, and a stop when it is used up.
//!
//! Nothing is measured while the program runs but by a thread that sleeps: processor time never passes faster than the
//! clock, so it looks again when all that was left could have been used.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use dunlin_engine::StopHandle;
use rustix::time::{ClockId, clock_gettime};

/// The shortest sleep of the watching thread.
const SHORTEST: Duration = Duration::from_millis(1);

/// What a run took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    pub(crate) used: Duration,
    /// Whether a stop was requested because nothing was left.
    pub(crate) exhausted: bool,
}

impl Meter {
    /// Calls `run` on this thread and asks for a stop by `handle` once it has used `budget`.
    pub(crate) fn run<R>(budget: Duration, handle: StopHandle, run: impl FnOnce() -> R) -> io::Result<(R, Self)> {
        let watch = Watch::start(budget, handle)?;
        let before = own();
        let result = run();
        let used = own().saturating_sub(before);
        Ok((result, Self { used, exhausted: watch.end() }))
    }
}

/// The thread that watches.
struct Watch {
    over: Arc<(Mutex<bool>, Condvar)>,
    thread: thread::JoinHandle<bool>,
}

impl Watch {
    fn start(budget: Duration, handle: StopHandle) -> io::Result<Self> {
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let shared = over.clone();
        let task = format!("/proc/self/task/{}/schedstat", rustix::thread::gettid().as_raw_nonzero());
        let before = of(&task);
        let thread = thread::Builder::new().name("dunlin-meter".to_owned()).spawn(move || {
            let (over, changed) = &*shared;
            let mut guard = over.lock().unwrap_or_else(PoisonError::into_inner);
            while !*guard {
                let used = of(&task).saturating_sub(before);
                let left = budget.saturating_sub(used);
                if left.is_zero() {
                    drop(guard);
                    handle.request();
                    return true;
                }
                let waited = changed.wait_timeout(guard, left.max(SHORTEST));
                guard = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            false
        })?;
        Ok(Self { over, thread })
    }

    /// Ends it; tells whether it has asked for a stop.
    fn end(self) -> bool {
        let (over, changed) = &*self.over;
        *over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
        // Nothing in it panics.
        self.thread.join().unwrap_or(false)
    }
}

/// Processor time of the calling thread.
fn own() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Processor time of a thread, from the first number of its `schedstat`. A kernel built without those counts the whole
/// process instead, which runs hardly anything else.
fn of(task: &str) -> Duration {
    let first = std::fs::read_to_string(task).ok().and_then(|text| text.split(' ').next()?.parse().ok());
    match first {
        Some(nanoseconds) => Duration::from_nanos(nanoseconds),
        None => Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default(),
    }
}
