//! Requests to stop the program: from a signal, from a timer, at any time of its life.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use dunlin_engine::StopHandle;
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;

use crate::text;

/// Takes requests to stop, and passes them to the instance that runs at the moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Control(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    target: Target,
    /// Who asked first.
    asked: Option<&'static str>,
}

#[derive(Debug, Default)]
enum Target {
    /// No instance runs yet: the request waits for it.
    #[default]
    None,
    Instance(StopHandle),
    /// The program cannot be stopped, and this is why.
    Refused(String),
}

impl Control {
    /// Listens for SIGUSR1.
    pub(crate) fn listening() -> io::Result<Self> {
        let control = Self::default();
        let mut signals = Signals::new([SIGUSR1])?;
        let own = control.clone();
        thread::Builder::new().name("dunlin-signals".to_owned()).spawn(move || {
            for _ in signals.forever() {
                own.request("SIGUSR1");
            }
        })?;
        Ok(control)
    }

    /// Asks for a stop once `delay` has passed.
    pub(crate) fn after(&self, delay: Duration) -> io::Result<()> {
        let own = self.clone();
        thread::Builder::new().name("dunlin-timer".to_owned()).spawn(move || {
            thread::sleep(delay);
            own.request("--stop-after");
        })?;
        Ok(())
    }

    fn request(&self, by: &'static str) {
        let mut inner = self.inner();
        match &inner.target {
            Target::None => {}
            Target::Instance(handle) => {
                let handle = handle.clone();
                inner.asked.get_or_insert(by);
                drop(inner);
                // It is refused only when the program is ending.
                handle.request();
                return;
            }
            Target::Refused(why) => {
                text::note(format!("{by}: not stopped, the program goes on: {why}"));
                return;
            }
        }
        inner.asked.get_or_insert(by);
    }

    /// From now on requests go to this instance, and so does one that has waited.
    pub(crate) fn attach(&self, handle: StopHandle) {
        let waiting = {
            let mut inner = self.inner();
            inner.target = Target::Instance(handle.clone());
            inner.asked.is_some()
        };
        if waiting {
            handle.request();
        }
    }

    /// From now on requests are refused.
    pub(crate) fn refuse(&self, why: String) {
        self.inner().target = Target::Refused(why);
    }

    /// Who asked for the stop that has now happened; later requests wait for the next instance.
    pub(crate) fn stopped(&self) -> Option<&'static str> {
        let mut inner = self.inner();
        inner.target = Target::None;
        inner.asked.take()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing that panics runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
