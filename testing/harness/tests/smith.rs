//! Random modules. `DUNLIN_SMITH_MODULES` sets their number, `DUNLIN_SMITH_THREADS` how many are looked at at once; the
//! long run is `cargo xtask smith --modules 100000`. `DUNLIN_SMITH_TIERS=cranelift,pulley` leaves engines out, to find out
//! which of them a difference needs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dunlin_harness::smith::{Tally, check};
use dunlin_harness::{number, on_stack, seed};

fn run(modules: u64) -> Tally {
    let seed = seed();
    println!("{modules} modules from seed {seed}");
    let threads = number("DUNLIN_SMITH_THREADS").unwrap_or(2);
    let start = Instant::now();
    let (next, state) = (AtomicU64::new(0), Mutex::new((Tally::default(), Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                on_stack(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= modules {
                            break;
                        }
                        let result = check(seed.wrapping_add(index));
                        let mut state = state.lock().unwrap();
                        match result {
                            Ok(tally) => state.0.add(tally),
                            Err(failure) => {
                                println!("{failure}");
                                state.1.push(failure.to_string());
                            }
                        }
                        if (index + 1) % 1000 == 0 {
                            let (seconds, differ) = (start.elapsed().as_secs(), state.1.len());
                            println!("{} of {modules} in {seconds} s, {differ} differ: {:?}", index + 1, state.0);
                        }
                    }
                });
            });
        }
    });
    let (tally, failures) = state.into_inner().unwrap();
    println!("{tally:?}");
    let shown = failures.iter().take(30).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} of {modules} modules differ:\n{shown}", failures.len());
    tally
}

#[test]
fn random_modules_run_instrumented_and_moved_as_they_run_plain() {
    let modules = number("DUNLIN_SMITH_MODULES").unwrap_or(300);
    let tally = run(modules);
    assert!(tally.skipped * 2 < tally.modules, "most modules are not tried: {tally:?}");
    assert!(tally.moved * 10 > tally.modules, "few calls are moved: {tally:?}");
}

#[test]
#[ignore = "takes hours"]
fn long_run() {
    let tally = run(number("DUNLIN_SMITH_MODULES").unwrap_or(100_000));
    assert!(tally.moved > 0, "nothing was moved: {tally:?}");
}
