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
    /// Through the flags in its memory. A weak reference: a handle does not keep the memory of an instance that is gone.
    Words(Weak<Flags>),
    /// The engine looks at `requested` every few thousand instructions.
    Polled,
}

/// The words that polls read.
pub(crate) struct Flags {
    pub(crate) control: Arc<Mapping>,
    /// Where polls beside calls have one of their own.
    pub(crate) calls: Option<Arc<Mapping>>,
}

impl Flags {
    /// Writes both. Either may be seen first: a frame that is saved because of one sets both for its callers.
    pub(crate) fn set(&self, value: u32) {
        for word in self.calls.iter().map(|calls| calls.word(0)).chain([self.control.word(ControlLayout::FLAG)]) {
            word.store(value.to_le(), Ordering::SeqCst);
        }
    }
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
            let flags = match &inner.flag {
                Flag::Absent => return false,
                Flag::Words(flags) => match flags.upgrade() {
                    Some(flags) => Some(flags),
                    None => return false,
                },
                Flag::Polled => None,
            };
            inner.at.get_or_insert_with(Instant::now);
            self.0.requested.store(true, Ordering::SeqCst);
            if let Some(flags) = flags {
                flags.set(1);
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

    pub(crate) fn attach_words(&self, flags: &Arc<Flags>) {
        self.inner().flag = Flag::Words(Arc::downgrade(flags));
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

    /// Forgets a request. The caller clears the flags, and no code runs.
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

#[cfg(test)]
mod tests {
    use dunlin_base::{Value, ValueType};
    use dunlin_instrument::{Options, Variant, instrument};

    use super::*;
    use crate::{Code, Engine, Flow, Host, Instance, Limits, Outcome, Settings, Tier};

    struct NoImports;

    impl Host for NoImports {
        fn resolve(&self, _: &str, _: &str, _: &[ValueType], _: &[ValueType]) -> Option<u32> {
            None
        }

        fn call(&mut self, _: u32, _: &mut [u8], _: &[Value], _: &mut [Value]) -> Flow {
            Flow::Return
        }
    }

    /// Runs a function that does not end, and writes one of its two flags alone. `expected` are the outermost frames' functions.
    fn stops_with(
        (name, args): (&str, &[Value]),
        expected: &[u32],
        word: impl Fn(&Flags) -> &core::sync::atomic::AtomicU32,
    ) {
        let wasm = wat::parse_str(
            r#"(module
              (global $g (mut i32) (i32.const 0))
              (func $in_loop (param i32) (result i32)
                (loop $l (global.set $g (local.get 0)) (br_if $l (i32.const 1))) (local.get 0))
              (func (export "loops") (result i32) (i32.add (call $in_loop (i32.const 1)) (call $in_loop (i32.const 2))))
              (func $fib (param i32) (result i32)
                (if (result i32) (i32.lt_s (local.get 0) (i32.const 2)) (then (local.get 0))
                  (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1)))
                    (call $fib (i32.sub (local.get 0) (i32.const 2)))))))
              (func (export "calls") (param $rounds i32) (result i32)
                (loop $l (br_if $l (local.tee $rounds (i32.sub (local.get $rounds) (i32.const 1)))))
                (call $fib (i32.const 60))))"#,
        );
        let instrumented =
            instrument(&wasm.unwrap(), Options { variant: Variant::Fresh, ..Options::default() }).unwrap();
        for tier in [Tier::Cranelift, Tier::Pulley] {
            let engine = Engine::new(tier, Settings::default()).unwrap();
            let code = Code::instrumented(&engine, &instrumented).unwrap();
            let mut instance = Instance::new(&code, Box::new(NoImports), Limits::default()).unwrap();
            let handle = instance.stop_handle();
            let flags = match &handle.inner().flag {
                Flag::Words(flags) => flags.upgrade().unwrap(),
                _ => panic!("instrumented code has flags"),
            };
            word(&flags).store(1_u32.to_le(), Ordering::SeqCst);
            assert_eq!(instance.invoke(name, args).unwrap(), Outcome::Stopped, "{tier:?}");
            let state = instance.capture().unwrap();
            let of = |frame: &dunlin_snapshot::Frame| instrumented.map.safepoints[frame.safepoint as usize].function;
            let functions: Vec<u32> = state.frames.iter().map(of).collect();
            assert!(functions.starts_with(expected), "{tier:?}: {functions:?}");
        }
    }

    #[test]
    fn a_stop_in_a_loop_is_passed_on_to_callers_that_read_the_other_flag() {
        stops_with(("loops", &[]), &[1, 0], |flags| flags.control.word(ControlLayout::FLAG));
    }

    #[test]
    fn a_stop_behind_a_call_is_passed_on_to_callers_that_read_the_flag_for_loops() {
        stops_with(("calls", &[Value::I32(9)]), &[3, 2, 2], |flags| flags.calls.as_ref().unwrap().word(0));
    }
}
