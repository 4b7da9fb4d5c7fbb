//! The native stack that programs run on.

use core::cell::Cell;
use std::io;
use std::panic;
use std::thread::{self, JoinHandle};

use crate::error::Error;

/// Native stack for the host's functions, which run above the program's frames.
const HOST_STACK: usize = 8 << 20;

thread_local! {
    /// Bytes of program stack that the current thread was started for; 0 while a program runs on it.
    static ROOM: Cell<usize> = const { Cell::new(0) };
}

/// Calls `f` on a thread whose stack holds `wasm_stack` bytes of program frames and the host's functions on top.
/// Runs of instances inside `f` need no further threads: worth it around a series of short runs.
///
/// # Errors
/// [`Error::Thread`] if no such thread can be started.
pub fn on_stack<R: Send>(wasm_stack: usize, f: impl FnOnce() -> R + Send) -> Result<R, Error> {
    if ROOM.get() >= wasm_stack {
        return Ok(f());
    }
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("dunlin-program".to_owned())
            .stack_size(wasm_stack.saturating_add(HOST_STACK))
            .spawn_scoped(scope, || {
                ROOM.set(wasm_stack);
                f()
            })
            .map_err(Error::Thread)?;
        thread.join().map_or_else(|payload| panic::resume_unwind(payload), Ok)
    })
}

/// Starts a thread that needs no further ones to run instances.
pub(crate) fn spawn(wasm_stack: usize, name: &str, f: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(wasm_stack.saturating_add(HOST_STACK));
    thread.spawn(move || {
        ROOM.set(wasm_stack);
        f();
    })
}

/// As [`on_stack`], and while `f` runs, a further run from a host function gets a thread of its own.
pub(crate) fn occupy<R: Send>(wasm_stack: usize, f: impl FnOnce() -> R + Send) -> Result<R, Error> {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            ROOM.set(self.0);
        }
    }
    on_stack(wasm_stack, || {
        let _restore = Restore(ROOM.replace(0));
        f()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_runs_do_not_share_a_stack() {
        let outer = thread::current().id();
        on_stack(1 << 20, || {
            let first = thread::current().id();
            assert_ne!(first, outer);
            on_stack(1 << 20, || assert_eq!(thread::current().id(), first)).unwrap();
            occupy(1 << 20, || {
                assert_eq!(thread::current().id(), first);
                occupy(1 << 20, || assert_ne!(thread::current().id(), first)).unwrap();
            })
            .unwrap();
            occupy(1 << 20, || assert_eq!(thread::current().id(), first)).unwrap();
        })
        .unwrap();
    }
}
