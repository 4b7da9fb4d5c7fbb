//! Sleeps and says so: `timers COUNT MILLIS` prints a line after each sleep, and at the end whether the monotonic
//! clock agrees.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

fn main() -> io::Result<()> {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let [count, millis] = numbers[..] else {
        eprintln!("usage: timers COUNT MILLIS");
        std::process::exit(2);
    };
    let nap = Duration::from_millis(millis.into());
    let start = Instant::now();
    let mut last = start;
    let mut out = io::stdout().lock();
    for tick in 1..=count {
        thread::sleep(nap);
        let now = Instant::now();
        let word = if now.duration_since(last) >= nap { "tick" } else { "early" };
        last = now;
        writeln!(out, "{word} {tick}")?;
        out.flush()?;
    }
    let enough = start.elapsed() >= nap * count;
    writeln!(out, "{}", if enough { "slept long enough" } else { "woke too early" })
}
