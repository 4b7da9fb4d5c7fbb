//! Moves of a running program between two places in this process.
#![allow(missing_docs, reason = "a test program")]

mod adversary;
mod crash;
mod disturb;
mod hands;
mod moving;
mod world;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dunlin_base::Digest;
use dunlin_engine::{Lazy, Tier};
use dunlin_handover::codec::Wire as _;
use dunlin_handover::converge::{Mode, Options, TimeoutAction};
use dunlin_handover::message::{LeftBehind, Pages, Role};
use dunlin_handover::{Limits, destination, source};
use dunlin_keep::migrate::{SourceReport, load};

use hands::{Act, Moment};
use moving::{Ways, options};
use world::{World, shelf, state};

fn compressed() -> Ways {
    Ways { compress: true, ..Ways::default() }
}

fn moves(mode: Mode, ways: &Ways, tier: Tier) -> SourceReport {
    let world = World::new(tier, Duration::from_micros(200));
    let (source, _) = world.end(world.begin(options(mode), ways));
    assert!(matches!(source.outcome, source::Outcome::Moved { confirmed: true }), "{source:?}");
    source
}

#[test]
fn moves_in_mode_stop() {
    moves(Mode::Stop, &compressed(), Tier::Cranelift);
}

#[test]
fn moves_in_mode_precopy() {
    let source = moves(Mode::Precopy, &Ways::default(), Tier::Cranelift);
    assert!(source.statistics.ram.precopy_bytes > 0);
    assert!(source.statistics.downtime.restore.is_some());
}

#[test]
fn moves_in_mode_precopy_in_an_interpreter() {
    moves(Mode::Precopy, &compressed(), Tier::Wasmi);
}

#[test]
fn a_destination_that_has_much_to_store_is_not_taken_for_silent() {
    let limits =
        Limits { keepalive: Duration::from_millis(100), peer_silence: Duration::from_millis(800), ..moving::limits() };
    for mode in [Mode::Stop, Mode::Precopy] {
        let world = World::new(Tier::Cranelift, Duration::from_micros(200));
        // Two seconds without a moment in which nothing waits to be stored.
        let moving = world.begin(options(mode), &Ways { limits: limits.clone(), chunks: 50, ..Ways::default() });
        let (source, _runner) = moving.source.join().unwrap();
        let (destination, there) = moving.destination.join().unwrap();
        assert!(matches!(source.outcome, source::Outcome::Moved { .. }), "{source:?} {destination:?}");
        assert_eq!(there.stored, (0..50).map(|chunk| vec![chunk]).collect::<Vec<_>>());
        world.check(there.runner.as_ref().unwrap());
    }
}

#[test]
fn moves_in_mode_postcopy() {
    if Lazy::is_available() {
        let source = moves(Mode::Postcopy, &Ways::default(), Tier::Cranelift);
        assert!(source.statistics.ram.postcopy_bytes > 0);
        assert_eq!(source.statistics.ram.precopy_bytes, 0);
    }
}

/// In post-copy, what the program waited for last tells what it is likely to need next.
#[test]
fn what_nobody_asked_for_begins_behind_what_somebody_did() {
    #[derive(Default)]
    struct Seen {
        behind: BTreeSet<u64>,
        asked: Option<u64>,
        followed: u32,
        wrong: Vec<(u64, u64)>,
    }
    if !Lazy::is_available() {
        return;
    }
    let world = World::new(Tier::Cranelift, Duration::from_micros(200));
    let seen = Arc::new(Mutex::new(Seen::default()));
    let look = seen.clone();
    world.hands.hook(move |moment| {
        let Moment::Frame { from: Role::Source, kind, bytes } = moment else { return Act::Pass };
        let mut seen = look.lock().unwrap();
        let body = &bytes[16..bytes.len() - 16];
        match kind {
            0x15 => seen.behind.extend(LeftBehind::from_bytes(body).unwrap().ranges.iter().flat_map(pages_of)),
            0x10 => {
                let Pages { round, runs, .. } = Pages::from_bytes(body).unwrap();
                let numbers: Vec<u64> = runs.iter().flat_map(|run| pages_of(&(run.first, run.count))).collect();
                if round == u32::MAX {
                    seen.asked = numbers.last().map(|last| last + 1);
                } else if let Some(next) = seen.asked.take()
                    && seen.behind.contains(&next)
                {
                    seen.followed += 1;
                    seen.wrong.extend((numbers[0] != next).then_some((next, numbers[0])));
                }
                seen.behind.retain(|page| !numbers.contains(page));
            }
            _ => {}
        }
        Act::Pass
    });
    let (source, _) = world.end(world.begin(options(Mode::Postcopy), &Ways::default()));
    assert!(matches!(source.outcome, source::Outcome::Moved { .. }), "{source:?}");
    let seen = seen.lock().unwrap();
    assert!(seen.followed > 0 && seen.wrong.is_empty(), "{} {:?}", seen.followed, seen.wrong);
    assert!(seen.behind.is_empty(), "{:?}", seen.behind);
}

fn pages_of((first, count): &(u64, u32)) -> core::ops::Range<u64> {
    *first..*first + u64::from(*count)
}

#[test]
fn moves_in_modes_hybrid_and_auto() {
    moves(Mode::Hybrid, &compressed(), Tier::Cranelift);
    moves(Mode::Auto, &Ways::default(), Tier::Cranelift);
}

#[test]
fn a_program_that_is_slowed_down_moves() {
    // Nothing fits into such a pause, so that every round of pre-copy counts as one too many.
    let options = Options {
        mode: Mode::Precopy,
        max_downtime: Duration::ZERO,
        max_rounds: 12,
        auto_converge: true,
        timeout_action: TimeoutAction::Stop,
        ..Options::default()
    };
    let world = World::new(Tier::Cranelift, Duration::ZERO);
    let (source, _) = world.end(world.begin(options, &Ways::default()));
    assert!(matches!(source.outcome, source::Outcome::Moved { .. }), "{source:?}");
    assert!(source.statistics.cpu_throttle_percentage > 0);
}

#[test]
fn a_pause_that_does_not_fit_leaves_the_program_where_it_is() {
    let options = Options { mode: Mode::Precopy, max_downtime: Duration::ZERO, max_rounds: 3, ..Options::default() };
    let world = World::new(Tier::Cranelift, Duration::ZERO);
    let (source, destination) = world.end(world.begin(options, &Ways::default()));
    assert!(matches!(source.outcome, source::Outcome::Stayed { epoch: 2, .. }), "{source:?}");
    assert!(matches!(destination.outcome, destination::Outcome::Failed(_)), "{destination:?}");
    assert!(!world.directory.join("staged").exists(), "what was received is deleted");
}

#[test]
fn cancelled_in_any_phase_the_program_runs_somewhere() {
    for mode in [Mode::Precopy, Mode::Stop, Mode::Hybrid, Mode::Postcopy] {
        if mode == Mode::Postcopy && !Lazy::is_available() {
            continue;
        }
        for boundary in [0, 1, 2, 3, 5, 7, 9, 11, 13, 16, 20] {
            let world = World::new(Tier::Cranelift, Duration::from_micros(100));
            let (mut count, tell) = (0, std::sync::mpsc::channel());
            let at_boundary = tell.0;
            world.hands.hook(move |_| {
                if count == boundary {
                    let _nobody = at_boundary.send(());
                }
                count += 1;
                Act::Pass
            });
            let moving = world.begin(options(mode), &Ways::default());
            // A move that ends before it is cancelled is one that was cancelled too late.
            let _ended = tell.1.recv_timeout(Duration::from_secs(2));
            if boundary % 2 == 0 {
                moving.source_handle.cancel();
            } else {
                moving.destination_handle.cancel();
            }
            let _measured = moving.progress.now();
            world.end(moving);
        }
    }
}

#[test]
fn what_was_staged_is_the_committed_state() {
    let world = World::new(Tier::Cranelift, Duration::from_micros(100));
    world.end(world.begin(options(Mode::Precopy), &compressed()));
    let staged = load(shelf(&world.directory.join("staged"))).unwrap();
    let arrival = staged.arrival.as_ref().unwrap();
    let code = world.program.code.clone();
    let sizes: Vec<u64> = state(&code, &staged.rest).unwrap().memories.iter().map(|memory| memory.size).collect();
    let module = Digest::of(&world.program.wasm);
    let digest = staged.digest(&module, &sizes, |memory, page, bytes| code.is_fresh(memory, page, bytes));
    assert_eq!(digest, arrival.last.state_hash);
    assert_eq!(digest, world.record().state_hash);
    assert!(staged.missing.is_empty());
}

/// The epoch is the fence: it rises with every move, by one, and never otherwise.
#[test]
fn two_hundred_moves_there_and_back() {
    /// Who holds the service, and on which platform, in each epoch.
    const NAMES: [(&str, &str); 4] =
        [("first", "platform a"), ("second", "platform b"), ("third", "platform a"), ("fourth", "platform b")];
    let world = World::new(Tier::Cranelift, Duration::from_micros(50));
    let (mut runner, mut tracker) = world.start(world.hands.alive(Role::Source));
    let modes = if Lazy::is_available() {
        &[Mode::Precopy, Mode::Stop, Mode::Postcopy, Mode::Hybrid][..]
    } else {
        &[Mode::Precopy, Mode::Stop]
    };
    for number in 0..200_usize {
        let before = world.record();
        let reached = world.outside.reached.load(std::sync::atomic::Ordering::SeqCst);
        let (from, to) = (NAMES[number % 4], NAMES[(number + 1) % 4]);
        let ways = Ways { from, to, ..Ways::default() };
        let moving = world.move_away(runner, tracker, options(modes[number % modes.len()]), &ways);
        let (source, _old) = moving.source.join().unwrap();
        let (destination, there) = moving.destination.join().unwrap();
        assert!(matches!(source.outcome, source::Outcome::Moved { .. }), "{number}: {source:?}");
        assert!(matches!(destination.outcome, destination::Outcome::Live { .. }), "{number}: {destination:?}");
        let after = world.record();
        assert_eq!((after.epoch, after.version), (before.epoch + 1, before.version + 1));
        runner = there.runner.unwrap();
        tracker = world::watch(&runner);
        world.wait_for(reached + 3);
    }
    world.check(&runner);
}
