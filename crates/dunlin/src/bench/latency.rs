//! Stopping a program at a random time: how long until it stands at a safepoint, and until its state is captured.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use dunlin_engine::{Code, Outcome};

use super::overhead::Work;
use super::startup::instance;
use super::statistics::Samples;
use crate::failure::{Failure, Result};
use crate::text::milliseconds;

/// Times from the request, in milliseconds.
#[derive(Debug, Clone, Default)]
pub(super) struct Latencies {
    pub(super) to_safepoint: Samples,
    pub(super) captured: Samples,
    /// Requests that came too late: the program had ended.
    pub(super) missed: usize,
}

impl Latencies {
    pub(super) fn extend(&mut self, other: &Self) {
        let Self { to_safepoint, captured, missed } = other;
        self.to_safepoint.extend(to_safepoint);
        self.captured.extend(captured);
        self.missed += missed;
    }
}

/// A small generator of random numbers (SplitMix64): measurements can be repeated from the seed.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    /// In [0, 1).
    pub(super) fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Stops the work `requests` times, each at a random time of a run that takes about `length_ms`.
pub(super) fn measure(
    code: &Code,
    work: &Work<'_>,
    length_ms: f64,
    requests: usize,
    random: &mut Random,
) -> Result<Latencies> {
    let mut found = Latencies::default();
    for _ in 0..requests {
        let delay = Duration::from_secs_f64(length_ms / 1e3 * random.fraction());
        let mut program = instance(code, work.config())?;
        let handle = program.stop_handle();
        let barrier = Barrier::new(2);
        let outcome = thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                thread::sleep(delay);
                handle.request();
            });
            barrier.wait();
            work.run(&mut program)
        })?;
        if outcome != Outcome::Stopped {
            found.missed += 1;
            continue;
        }
        let state = program.capture().map_err(Failure::engine("a guest cannot be captured"))?;
        let captured = handle.requested_at().map(|at| at.elapsed());
        drop(state);
        if let (Some(to_safepoint), Some(captured)) = (program.time_to_stop(), captured) {
            found.to_safepoint.add(milliseconds(to_safepoint));
            found.captured.add(milliseconds(captured));
        }
    }
    Ok(found)
}
