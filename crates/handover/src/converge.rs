//! When to stop the program: convergence control of a live migration, as a pure function of what was measured.
//!
//! ```text
//!   scan ──> after_scan ──> NextRound ──> (send round, scan again)
//!                     ├───> Stop ──> scan while stopped ──> confirm_stop ──> Go | Retry | Postcopy | Fail
//!                     ├───> Postcopy
//!                     └───> Fail
//! ```
//!
//! Every sequence of answers ends: rounds are bounded, the throttle only rises, retries of a stop are bounded, and at
//! each bound the chosen action is taken. A program that dirties every page in every round can therefore make a move
//! fail or pause longer, as its operator chose, but never make it run for ever.

use core::time::Duration;

use dunlin_base::PAGE_SIZE;

use crate::codec::wire_tags;
use crate::ids::Time;

/// How the state travels. This list is complete for this version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Mode {
    /// Stop, then copy everything.
    Stop,
    /// Copy while the program runs, then stop and copy the rest.
    Precopy,
    /// Stop at once, move what is needed to run, fetch memory after the switch.
    Postcopy,
    /// Pre-copy, then post-copy when it does not converge.
    Hybrid,
    /// Pre-copy as long as it helps; then post-copy if the destination can, else slow the program down.
    #[default]
    Auto,
}

wire_tags!(Mode, "mode", { Stop = 0, Precopy = 1, Postcopy = 2, Hybrid = 3, Auto = 4 });

impl Mode {
    /// Whether the mode may end in post-copy on its own.
    pub const fn may_postcopy(self) -> bool {
        matches!(self, Self::Postcopy | Self::Hybrid | Self::Auto)
    }
}

/// What to do when the limits cannot be kept. This list is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TimeoutAction {
    /// Give up; the program goes on at the source.
    #[default]
    Abort,
    /// Stop the program and copy the rest, however long that takes.
    Stop,
    /// Switch to post-copy; gives up when the destination cannot.
    Postcopy,
}

/// Limits and wishes of whoever asked for the move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How the state travels.
    pub mode: Mode,
    /// Longest pause that is acceptable.
    pub max_downtime: Duration,
    /// Most bytes a second to send before the stop; `None` for no limit.
    pub bandwidth_limit: Option<u64>,
    /// Most rounds of pre-copy.
    pub max_rounds: u32,
    /// Longest time from the first round to the stop; `None` for no limit.
    pub timeout: Option<Duration>,
    /// What to do when rounds, time or downtime cannot be kept.
    pub timeout_action: TimeoutAction,
    /// Whether the program may be slowed down when it dirties memory faster than it can be sent.
    pub auto_converge: bool,
    /// First throttle in percent.
    pub throttle_initial: u8,
    /// Step of the throttle in percent.
    pub throttle_increment: u8,
    /// Highest throttle in percent.
    pub throttle_max: u8,
    /// What the switch costs besides sending memory: stopping, capturing, staging, the ledger, restoring.
    pub switchover_cost: Duration,
}

impl Default for Options {
    /// The defaults that people know from QEMU: 300 ms, throttle 20 % + 10 % up to 99 %.
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            max_downtime: Duration::from_millis(300),
            bandwidth_limit: None,
            max_rounds: 30,
            timeout: None,
            timeout_action: TimeoutAction::Abort,
            auto_converge: false,
            throttle_initial: 20,
            throttle_increment: 10,
            throttle_max: 99,
            switchover_cost: Duration::from_micros(500),
        }
    }
}

/// What a scan of the dirty pages found while the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// When.
    pub now: Time,
    /// Pages that the destination does not have in their current form.
    pub dirty_pages: u64,
}

/// What to do after a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// Send what is dirty and scan again.
    NextRound {
        /// How much to slow the program down, in percent.
        throttle: u8,
    },
    /// Stop the program and send the rest.
    Stop,
    /// Stop the program and fetch memory after the switch.
    Postcopy,
    /// Give up.
    Fail(Unconverged),
}

/// What to do once the program is stopped and the rest is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Confirm {
    /// Send it.
    Go,
    /// Let the program run on for another round.
    Retry,
    /// Leave it for post-copy.
    Postcopy,
    /// Give up.
    Fail(Unconverged),
}

/// Why a move gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Unconverged {
    /// Memory changes faster than it can be sent.
    #[error("memory changes faster than it can be sent: allow more downtime, auto-converge or post-copy")]
    Rounds,
    /// The time is up.
    #[error("the time for the move is up: allow more time, or choose another timeout action")]
    Timeout,
    /// The pause would be, or became, longer than allowed.
    #[error("the pause would be longer than max-downtime: allow more, or choose another timeout action")]
    Downtime,
    /// Post-copy was asked for and the destination cannot.
    #[error("the destination cannot do post-copy: choose another mode")]
    PostcopyUnsupported,
}

/// Rounds without at least a tenth less to send, after which a migration counts as not converging.
const PATIENCE: u32 = 2;

/// Stops that may be taken back.
const MAX_RETRIES: u32 = 3;

/// Rounds that carry less than this say nothing about the bandwidth.
const MEANINGFUL: u64 = 64 * PAGE_SIZE as u64;

/// The controller of one migration.
#[derive(Debug, Clone)]
pub struct Convergence {
    options: Options,
    postcopy: bool,
    started: Time,
    rounds: u32,
    best: u64,
    stalled: u32,
    retries: u32,
    throttle: u8,
    forced: bool,
    bandwidth: u64,
    round_trip: Duration,
    dirty_rate: u64,
    last_scan: Option<Time>,
    expected: Duration,
}

impl Convergence {
    /// Starts; `postcopy` tells whether the destination can do post-copy.
    pub fn new(options: Options, postcopy: bool, now: Time) -> Self {
        let forced = options.mode == Mode::Stop;
        Self {
            options,
            postcopy,
            started: now,
            rounds: 0,
            best: u64::MAX,
            stalled: 0,
            retries: 0,
            throttle: 0,
            forced,
            bandwidth: 0,
            round_trip: Duration::ZERO,
            dirty_rate: 0,
            last_scan: None,
            expected: Duration::ZERO,
        }
    }

    /// Bytes a second that arrived lately; 0 before the first round.
    pub fn bandwidth(&self) -> u64 {
        self.bandwidth
    }

    /// Pages dirtied a second between the last two scans.
    pub fn dirty_rate(&self) -> u64 {
        self.dirty_rate
    }

    /// The pause that a stop would take now.
    pub fn expected_downtime(&self) -> Duration {
        self.expected
    }

    /// The current throttle in percent.
    pub fn throttle(&self) -> u8 {
        self.throttle
    }

    /// A round arrived completely: `bytes` took `elapsed` until it was acknowledged, of which `round_trip` is the
    /// way there and back.
    pub fn round_sent(&mut self, bytes: u64, elapsed: Duration, round_trip: Duration) {
        self.round_trip = round_trip;
        if bytes < MEANINGFUL && self.bandwidth != 0 {
            return;
        }
        let micros = elapsed.saturating_sub(round_trip).as_micros().max(1);
        let now = u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX).max(1);
        self.bandwidth = if self.bandwidth == 0 { now } else { self.bandwidth / 2 + now / 2 };
    }

    /// What to do after a scan while the program runs.
    pub fn after_scan(&mut self, scan: Scan) -> Decision {
        let Scan { now, dirty_pages } = scan;
        self.measure(now, dirty_pages);
        match self.options.mode {
            Mode::Stop => return Decision::Stop,
            Mode::Postcopy if self.postcopy => return Decision::Postcopy,
            Mode::Postcopy => return Decision::Fail(Unconverged::PostcopyUnsupported),
            Mode::Precopy | Mode::Hybrid | Mode::Auto => {}
        }
        if self.bandwidth != 0 && self.expected <= self.options.max_downtime && !self.gains_by_a_round(dirty_pages) {
            return Decision::Stop;
        }
        if self.options.timeout.is_some_and(|limit| now.since(self.started) >= limit) {
            return self.give_way(Unconverged::Timeout);
        }
        if dirty_pages < self.best.saturating_sub(self.best / 10) {
            self.stalled = 0;
        } else {
            self.stalled += 1;
        }
        self.best = self.best.min(dirty_pages);
        self.rounds += 1;
        if self.stalled < PATIENCE && self.rounds <= self.options.max_rounds {
            return Decision::NextRound { throttle: self.throttle };
        }
        self.unconverged()
    }

    /// What to do once the program is stopped: `dirty_pages` are left, and `stopped` has passed since the stop.
    pub fn confirm_stop(&mut self, dirty_pages: u64, stopped: Duration) -> Confirm {
        self.expected = self.downtime_of(dirty_pages).saturating_add(stopped);
        if self.forced || self.expected <= self.options.max_downtime {
            return Confirm::Go;
        }
        if self.options.mode.may_postcopy() && self.postcopy {
            return Confirm::Postcopy;
        }
        if self.retries < MAX_RETRIES {
            self.retries += 1;
            return Confirm::Retry;
        }
        match self.give_way(Unconverged::Downtime) {
            Decision::Stop => Confirm::Go,
            Decision::Postcopy => Confirm::Postcopy,
            Decision::Fail(why) => Confirm::Fail(why),
            Decision::NextRound { .. } => Confirm::Retry,
        }
    }

    /// The moment until which the commit must be on its way, for a program stopped at `stopped`; `None` when the
    /// limit is a goal only.
    pub fn deadline(&self, stopped: Time) -> Option<Time> {
        let strict = !self.forced && self.options.timeout_action == TimeoutAction::Abort;
        strict.then(|| stopped + self.options.max_downtime)
    }

    /// How long to wait before the next batch, when `bytes` were sent since `since`.
    pub fn pause_for_limit(&self, bytes: u64, since: Time, now: Time) -> Duration {
        let Some(limit) = self.options.bandwidth_limit else { return Duration::ZERO };
        let micros = u128::from(bytes) * 1_000_000 / u128::from(limit.max(1));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)).saturating_sub(now.since(since))
    }

    /// Whether another round would make a pause that fits already much shorter: what is left to send is most of it,
    /// and the program dirties at most half as much in the time that takes.
    fn gains_by_a_round(&self, dirty_pages: u64) -> bool {
        let sending = self.sending(dirty_pages);
        let rest = self.expected.saturating_sub(sending);
        let round = sending.saturating_add(self.round_trip).as_micros();
        let meanwhile = u128::from(self.dirty_rate).saturating_mul(round) / 1_000_000;
        sending > rest
            && meanwhile <= u128::from(dirty_pages / 2)
            && self.rounds < self.options.max_rounds
            && self.stalled == 0
            && dirty_pages < self.best.saturating_sub(self.best / 10)
    }

    fn measure(&mut self, now: Time, dirty_pages: u64) {
        if let Some(last) = self.last_scan {
            let micros = now.since(last).as_micros().max(1);
            self.dirty_rate = u64::try_from(u128::from(dirty_pages) * 1_000_000 / micros).unwrap_or(u64::MAX);
        }
        self.last_scan = Some(now);
        self.expected = self.downtime_of(dirty_pages);
    }

    fn sending(&self, pages: u64) -> Duration {
        let bytes = u128::from(pages) * PAGE_SIZE as u128;
        let micros = bytes * 1_000_000 / u128::from(self.bandwidth.max(1));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    fn downtime_of(&self, pages: u64) -> Duration {
        // Final out, Staged back, Committed out.
        let trips = self.round_trip.saturating_add(self.round_trip / 2);
        self.sending(pages).saturating_add(trips).saturating_add(self.options.switchover_cost)
    }

    fn unconverged(&mut self) -> Decision {
        if self.postcopy && matches!(self.options.mode, Mode::Hybrid | Mode::Auto) {
            return Decision::Postcopy;
        }
        let may_slow = self.options.auto_converge || self.options.mode == Mode::Auto;
        if may_slow && self.throttle < self.options.throttle_max {
            // A step of at least one, so that the throttle rises whatever the options say.
            let step = if self.throttle == 0 { self.options.throttle_initial } else { self.options.throttle_increment };
            self.throttle = self.throttle.saturating_add(step.max(1)).min(self.options.throttle_max);
            self.stalled = 0;
            self.best = u64::MAX;
            return Decision::NextRound { throttle: self.throttle };
        }
        if self.rounds <= self.options.max_rounds {
            return Decision::NextRound { throttle: self.throttle };
        }
        self.give_way(Unconverged::Rounds)
    }

    fn give_way(&mut self, why: Unconverged) -> Decision {
        match self.options.timeout_action {
            TimeoutAction::Abort => Decision::Fail(why),
            TimeoutAction::Stop => {
                self.forced = true;
                Decision::Stop
            }
            TimeoutAction::Postcopy if self.postcopy => Decision::Postcopy,
            TimeoutAction::Postcopy => Decision::Fail(Unconverged::PostcopyUnsupported),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Runs a program with `pages` pages that dirties `rate` pages a second (at most all of them), over a link of
    /// `bandwidth` bytes a second, to the controller's last word.
    fn run(options: Options, postcopy: bool, pages: u64, rate: u64, bandwidth: u64) -> (Decision, u32, Time, u8) {
        let mut now = Time(0);
        let mut control = Convergence::new(options, postcopy, now);
        let mut dirty = pages;
        for round in 0..10_000 {
            match control.after_scan(Scan { now, dirty_pages: dirty }) {
                Decision::NextRound { throttle } => {
                    let bytes = dirty * PAGE_SIZE as u64;
                    let elapsed = Duration::from_micros(bytes * 1_000_000 / bandwidth + 100);
                    control.round_sent(bytes, elapsed, Duration::from_micros(100));
                    now = now + elapsed;
                    let speed = u64::from(100 - throttle);
                    dirty = (rate * speed / 100 * elapsed.as_micros() as u64 / 1_000_000).min(pages);
                }
                last => return (last, round, now, control.throttle()),
            }
        }
        panic!("10,000 rounds without a decision");
    }

    fn options(mode: Mode) -> Options {
        Options { mode, max_downtime: Duration::from_millis(10), ..Options::default() }
    }

    #[test]
    fn a_quiet_program_stops_after_one_round() {
        assert_eq!(run(options(Mode::Precopy), false, 65_536, 100, 1000 * MIB).0, Decision::Stop);
        let (decision, rounds, ..) = run(options(Mode::Auto), true, 65_536, 10_000, 1000 * MIB);
        assert_eq!(decision, Decision::Stop);
        assert!(rounds <= 4, "{rounds} rounds");
    }

    /// A pause of 300 ms is allowed, and a much shorter one is to be had for a round or two.
    #[test]
    fn a_pause_that_can_be_much_shorter_is() {
        let wide = Options { mode: Mode::Precopy, ..Options::default() };
        let mut control = Convergence::new(wide, false, Time(0));
        assert_eq!(control.after_scan(Scan { now: Time(0), dirty_pages: 65_536 }), Decision::NextRound { throttle: 0 });
        control.round_sent(256 * MIB, Duration::from_millis(256), Duration::from_micros(100));
        // 10,000 pages a second: 2560 are dirty by now, which take 10 ms, in which 100 more become dirty.
        assert_eq!(
            control.after_scan(Scan { now: Time(256_000), dirty_pages: 2560 }),
            Decision::NextRound { throttle: 0 }
        );
        control.round_sent(10 * MIB, Duration::from_millis(10), Duration::from_micros(100));
        assert_eq!(control.after_scan(Scan { now: Time(266_000), dirty_pages: 100 }), Decision::Stop);
        // As many pages again and again: rounds gain nothing, and the pause fits.
        let mut control = Convergence::new(Options { mode: Mode::Precopy, ..Options::default() }, false, Time(0));
        control.after_scan(Scan { now: Time(0), dirty_pages: 65_536 });
        control.round_sent(256 * MIB, Duration::from_millis(256), Duration::from_micros(100));
        control.after_scan(Scan { now: Time(256_000), dirty_pages: 2560 });
        control.round_sent(10 * MIB, Duration::from_millis(10), Duration::from_micros(100));
        assert_eq!(control.after_scan(Scan { now: Time(266_000), dirty_pages: 2560 }), Decision::Stop);
    }

    #[test]
    fn stop_and_postcopy_do_not_copy_first() {
        assert_eq!(run(options(Mode::Stop), true, 65_536, 0, MIB).1, 0);
        assert_eq!(run(options(Mode::Postcopy), true, 65_536, 0, MIB).0, Decision::Postcopy);
        let refused = Decision::Fail(Unconverged::PostcopyUnsupported);
        assert_eq!(run(options(Mode::Postcopy), false, 65_536, 0, MIB).0, refused);
    }

    #[test]
    fn an_adversary_that_dirties_every_page_ends_by_policy() {
        let all = u64::MAX / 1_000_000_000_000;
        let end = |options, postcopy| run(options, postcopy, 65_536, all, 100 * MIB).0;
        assert_eq!(end(options(Mode::Precopy), true), Decision::Fail(Unconverged::Rounds));
        assert_eq!(end(options(Mode::Hybrid), true), Decision::Postcopy);
        assert_eq!(end(options(Mode::Auto), true), Decision::Postcopy);
        assert_eq!(end(options(Mode::Auto), false), Decision::Fail(Unconverged::Rounds));
        let stop = Options { timeout_action: TimeoutAction::Stop, ..options(Mode::Precopy) };
        assert_eq!(end(stop, false), Decision::Stop);
        let post = Options { timeout_action: TimeoutAction::Postcopy, ..options(Mode::Precopy) };
        assert_eq!(end(post.clone(), true), Decision::Postcopy);
        assert_eq!(end(post, false), Decision::Fail(Unconverged::PostcopyUnsupported));
        let zeros = Options {
            auto_converge: true,
            throttle_initial: 0,
            throttle_increment: 0,
            max_rounds: 0,
            ..options(Mode::Precopy)
        };
        assert_eq!(end(zeros, false), Decision::Fail(Unconverged::Rounds));
    }

    #[test]
    fn auto_converge_slows_a_program_until_it_fits() {
        // 40,000 pages a second are 156 MiB/s over a link of 100 MiB/s: only a slower program converges.
        let plain = run(options(Mode::Precopy), false, 65_536, 40_000, 100 * MIB);
        assert_eq!(plain.0, Decision::Fail(Unconverged::Rounds));
        let slowed = Options { auto_converge: true, ..options(Mode::Precopy) };
        let (decision, _, _, throttle) = run(slowed, false, 65_536, 40_000, 100 * MIB);
        assert_eq!(decision, Decision::Stop);
        assert!((20..=99).contains(&throttle), "throttle {throttle}");
    }

    #[test]
    fn the_time_limit_holds_within_one_round() {
        let limited = Options { timeout: Some(Duration::from_secs(1)), ..options(Mode::Precopy) };
        let (decision, _, now, _) = run(limited, false, 2560, 1_000_000, 100 * MIB);
        assert_eq!(decision, Decision::Fail(Unconverged::Timeout));
        assert!(now.since(Time(0)) < Duration::from_millis(1200), "{now:?}");
    }

    #[test]
    fn a_stop_that_would_take_too_long_is_taken_back_and_then_fails() {
        let mut control = Convergence::new(options(Mode::Precopy), false, Time(0));
        control.round_sent(100 * MIB, Duration::from_secs(1), Duration::ZERO);
        let fits = 2 * MIB / 10 / PAGE_SIZE as u64;
        assert_eq!(control.confirm_stop(fits, Duration::ZERO), Confirm::Go);
        for _ in 0..MAX_RETRIES {
            assert_eq!(control.confirm_stop(10_000, Duration::ZERO), Confirm::Retry);
        }
        assert_eq!(control.confirm_stop(10_000, Duration::ZERO), Confirm::Fail(Unconverged::Downtime));
        assert_eq!(control.deadline(Time(5)), Some(Time(10_005)));
        assert_eq!(Convergence::new(options(Mode::Stop), false, Time(0)).deadline(Time(5)), None);
    }

    #[test]
    fn a_bandwidth_limit_spreads_the_batches() {
        let limited = Options { bandwidth_limit: Some(MIB), ..Options::default() };
        let control = Convergence::new(limited, false, Time(0));
        assert_eq!(control.pause_for_limit(MIB, Time(0), Time(250_000)), Duration::from_millis(750));
        assert_eq!(control.pause_for_limit(MIB, Time(0), Time(2_000_000)), Duration::ZERO);
        let free = Convergence::new(Options::default(), false, Time(0));
        assert_eq!(free.pause_for_limit(u64::MAX, Time(0), Time(0)), Duration::ZERO);
    }

    #[test]
    fn rate_and_bandwidth_never_overflow() {
        let mut control = Convergence::new(options(Mode::Precopy), false, Time(0));
        control.after_scan(Scan { now: Time(0), dirty_pages: u64::MAX });
        control.round_sent(u64::MAX, Duration::ZERO, Duration::MAX);
        control.after_scan(Scan { now: Time(u64::MAX), dirty_pages: u64::MAX });
        control.round_sent(0, Duration::MAX, Duration::from_secs(u32::MAX.into()));
        control.after_scan(Scan { now: Time(0), dirty_pages: 0 });
    }
}
