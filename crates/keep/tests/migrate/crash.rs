//! The crash matrix: at every boundary of a move (before each frame is delivered, before each call reaches the ledger,
//! and before each of its answers leaves) a side is killed, the link is cut, or the ledger goes away. Afterwards exactly
//! one instance runs, from a state that is not older than the last commit.
//!
//! Each test builds its part of the table in `docs/live-migration.md` and compares.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dunlin_base::Digest;
use dunlin_engine::{Lazy, Limits as EngineLimits, Prepared, Tier};
use dunlin_handover::boot::{Blob, Boot, decide, resume, resumed};
use dunlin_handover::converge::{Mode, Options};
use dunlin_handover::ledger::{Ledger as _, Operation, Record, Signer as _};
use dunlin_handover::message::Role;
use dunlin_handover::{Limits, Nonce, OperationId, PlatformId, destination, source};
use dunlin_keep::migrate::{Runner, Staged, load};

use crate::hands::{Act, Moment};
use crate::moving::{Move, Ways, limits, options};
use crate::world::{Here, Program, SERVICE, SMALL, TestChecks, World, entries, named, request, shelf, state};

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Failing {
    Source,
    Destination,
    Ledger,
    Link,
}

impl Failing {
    const ALL: [Self; 4] = [Self::Source, Self::Destination, Self::Ledger, Self::Link];

    fn name(self) -> &'static str {
        match self {
            Self::Source => "the source is killed",
            Self::Destination => "the destination is killed",
            Self::Ledger => "the ledger is away",
            Self::Link => "the link is cut",
        }
    }
}

/// Where the service runs in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// The source goes on in its own memory.
    SourceGoesOn,
    /// A new instance goes on at the source's machine, from the state that was committed last.
    SourceRestarts,
    /// The destination runs.
    DestinationRuns,
    /// A new instance goes on at the destination's machine, from what was staged.
    DestinationRestarts,
    /// The owner recovers the service from the copy that the source kept for post-copy.
    OwnerRecovers,
}

impl End {
    fn text(self) -> &'static str {
        match self {
            Self::SourceGoesOn => "the source goes on",
            Self::SourceRestarts => "a new instance resumes at the source, from the last commit",
            Self::DestinationRuns => "the destination runs",
            Self::DestinationRestarts => "a new instance resumes at the destination, from what was staged",
            Self::OwnerRecovers => "the owner recovers it, from what the source kept",
        }
    }
}

/// In the ledger: whether the transfer took effect, and how it ended.
type Row = (Failing, bool, End);

fn quick() -> Limits {
    Limits {
        keepalive: Duration::from_millis(100),
        peer_silence: Duration::from_millis(400),
        activation: Duration::from_millis(150),
        decision: Duration::from_millis(250),
        ledger_retry: Duration::from_millis(10),
        ..limits()
    }
}

/// Kinds of the last messages of a move: the program runs; in post-copy, all of its memory is there.
const ACTIVATED: u8 = 0x22;
const COMPLETE: u8 = 0x32;

/// Where it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// At this boundary.
    Boundary(usize),
    /// At the first message of this kind.
    Message(u8),
}

/// A move with `failing` there; nothing if the move does not come to that.
fn fail(options: &Options, failing: Failing, at: At) -> Option<Row> {
    let world = World::of(Program::new(Tier::Cranelift, SMALL), Duration::from_micros(200), false);
    let (count, fired) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, told, outside) = (count.clone(), fired.clone(), world.outside.clone());
    let stopped = Arc::new(Mutex::new(0));
    let noted = stopped.clone();
    world.hands.hook(move |moment| {
        if let Moment::Frame { kind: 0x14, .. } = moment {
            // The program stands while its last frame before the commit travels.
            *noted.lock().unwrap() = outside.reached.load(Ordering::SeqCst);
        }
        let number = counted.fetch_add(1, Ordering::SeqCst);
        let due = match (at, moment) {
            (At::Boundary(boundary), _) => number == boundary,
            (At::Message(wanted), Moment::Frame { kind, .. }) => kind == wanted && !told.load(Ordering::SeqCst),
            (At::Message(_), _) => false,
        };
        if !due {
            return Act::Pass;
        }
        told.store(true, Ordering::SeqCst);
        match failing {
            Failing::Source => Act::Kill(Role::Source),
            Failing::Destination => Act::Kill(Role::Destination),
            Failing::Ledger => Act::LedgerAway(Duration::from_millis(30)),
            Failing::Link => Act::Cut,
        }
    });
    let moving = world.begin(options.clone(), &Ways { limits: quick(), ..Ways::default() });
    let row = settle(&world, moving, failing, &stopped);
    fired.load(Ordering::SeqCst).then_some(row)
}

fn settle(world: &World, moving: Move, failing: Failing, stopped: &Mutex<i32>) -> Row {
    let alive = |role| world.hands.alive(role).load(Ordering::SeqCst);
    let over = Arc::new(AtomicBool::new(false));
    // A link that was cut comes back.
    let healer = (failing != Failing::Source && failing != Failing::Destination).then(|| world.heal(&moving, &over));
    let applied = || world.record().epoch >= 3;
    // Until somebody is dead, or the destination knows and what it said last was delivered.
    let both_live = || alive(Role::Source) && alive(Role::Destination);
    while both_live() && !moving.destination.is_finished() {
        thread::sleep(Duration::from_millis(1));
    }
    let until = Instant::now() + PATIENCE;
    while both_live() && !moving.source.is_finished() && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    // Nobody is killed while the outcome is looked at.
    world.hands.hook(|_| Act::Pass);
    let end = if both_live() {
        let (destination, there) = moving.destination.join().unwrap();
        over.store(true, Ordering::SeqCst);
        let live = matches!(destination.outcome, destination::Outcome::Live { .. });
        if live {
            assert_eq!(world.record().holder, Some(named("second").0));
            world.check(there.runner.as_ref().unwrap());
            End::DestinationRuns
        } else {
            assert!(there.runner.is_none(), "{destination:?}");
            let (source, runner) = moving.source.join().unwrap();
            assert!(matches!(source.outcome, source::Outcome::Stayed { .. }), "{source:?} {destination:?}");
            assert_eq!(world.record().holder, Some(named("first").0));
            world.check(&runner);
            End::SourceGoesOn
        }
    } else if alive(Role::Destination) {
        source_killed(world, moving, stopped)
    } else {
        destination_killed(world, moving, stopped)
    };
    if let Some(healer) = healer {
        healer.join().unwrap();
    }
    // Of an abort that took a new epoch, the transfer did not take effect.
    let transferred = applied() && !matches!(end, End::SourceGoesOn | End::SourceRestarts);
    (failing, transferred, end)
}

/// As long as everything could take that does not wait for a link.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Waits for a thread for that long.
fn joined<T>(handle: thread::JoinHandle<T>) -> Option<T> {
    let until = Instant::now() + PATIENCE;
    while !handle.is_finished() && Instant::now() < until {
        thread::sleep(Duration::from_millis(2));
    }
    handle.is_finished().then(|| handle.join().unwrap())
}

fn source_killed(world: &World, moving: Move, stopped: &Mutex<i32>) -> End {
    let before = world.record();
    if before.holder_platform == Some(PlatformId(named("platform a").0.0)) {
        // What the source has on disk is the state that was committed last.
        world.outside.roll_back(0);
        let alive = Arc::new(AtomicBool::new(true));
        match restart(world, "platform a", None, &alive) {
            Some(runner) => {
                // The destination learns that nothing comes any more, and keeps nothing that could run.
                let (destination, there) = moving.destination.join().unwrap();
                assert!(there.runner.is_none(), "{destination:?}");
                world.check(&runner);
                return End::SourceRestarts;
            }
            // The transfer took effect in this moment.
            None => world.outside.roll_back_no_more(),
        }
    }
    let Some((destination, there)) = joined(moving.destination) else {
        // It stands, and lacks memory that only the source had.
        return recovered(world, stopped);
    };
    assert!(matches!(destination.outcome, destination::Outcome::Live { .. }), "{destination:?}");
    world.check(there.runner.as_ref().unwrap());
    End::DestinationRuns
}

fn destination_killed(world: &World, moving: Move, stopped: &Mutex<i32>) -> End {
    let Some((source, runner)) = joined(moving.source) else {
        return recovered(world, stopped);
    };
    match source.outcome {
        source::Outcome::Stayed { .. } => {
            assert_eq!(world.record().holder, Some(named("first").0));
            world.check(&runner);
            End::SourceGoesOn
        }
        source::Outcome::Moved { .. } => {
            world.outside.roll_back(*stopped.lock().unwrap());
            let staged = load(shelf(&world.hands.left_behind("staged"))).unwrap();
            let alive = Arc::new(AtomicBool::new(true));
            let runner = restart(world, "platform b", Some(&staged), &alive).unwrap();
            world.check(&runner);
            End::DestinationRestarts
        }
        other => panic!("{other:?}"),
    }
}

/// The owner takes the service away from an instance that is gone or stands for ever.
fn recovered(world: &World, stopped: &Mutex<i32>) -> End {
    let killed = world.hands.left_behind("retained");
    let kept = load(shelf(&if killed.exists() { killed } else { world.directory.join("retained") })).unwrap();
    assert!(kept.retained.is_some(), "the source kept nothing");
    let record = world.record();
    assert_eq!(digest(world, &kept), record.state_hash, "what was kept is the committed state");
    world.outside.kill(world.hands.alive(Role::Source));
    world.outside.kill(world.hands.alive(Role::Destination));
    let (holder, platform) = (named("third"), named("platform c"));
    let action = Operation::Recover { holder: holder.0, platform: PlatformId(platform.0.0), evidence: Digest::of(b"") };
    let request = request(record.epoch, record.version, action, 77);
    let request = request.signed(&named("owner")).signed(&holder).signed(&platform);
    world.ledger.lock().unwrap().apply(&request).unwrap().unwrap();
    world.outside.roll_back(*stopped.lock().unwrap());
    let runner = restored(world, &kept, &world.record(), &Arc::new(AtomicBool::new(true)));
    world.check(&runner);
    End::OwnerRecovers
}

/// Starts a new instance on a machine as a keep does: only what the ledger says, freshly, decides.
fn restart(world: &World, platform: &str, staged: Option<&Staged>, alive: &Arc<AtomicBool>) -> Option<Runner> {
    let (instance, platform) = (named("third"), named(platform));
    let nonce = Nonce([9; 32]);
    let reading = world.ledger.lock().unwrap().read(SERVICE, nonce).unwrap().unwrap();
    let blob = match staged {
        None => Blob { version: 0, state_hash: Digest::of(b"nothing yet"), complete: true },
        Some(staged) => Blob {
            version: staged.arrival.as_ref()?.last.version,
            state_hash: digest(world, staged),
            complete: staged.missing.is_empty(),
        },
    };
    let ledger = named("ledger").0;
    let boot = decide(&reading, nonce, ledger, &TestChecks, PlatformId(platform.0.0), &[blob]).unwrap();
    let Boot::Resume { blob: 0 } = boot else { return None };
    let request = resume(&reading, OperationId([55; 16]), &instance, &platform, Digest::of(b""));
    let receipt = world.ledger.lock().unwrap().apply(&request).unwrap().ok()?;
    resumed(&request, &receipt, instance.key(), ledger, &TestChecks).unwrap();
    Some(match staged {
        None => world.start(alive).0,
        Some(staged) => restored(world, staged, &receipt.record, alive),
    })
}

fn sizes(world: &World, staged: &Staged) -> Vec<u64> {
    let state = state(&world.program.code, &staged.rest).unwrap();
    state.memories.iter().map(|memory| memory.size).collect()
}

pub(crate) fn digest(world: &World, staged: &Staged) -> Digest {
    let code = &world.program.code;
    let module = Digest::of(&world.program.wasm);
    staged.digest(&module, &sizes(world, staged), |memory, page, bytes| code.is_fresh(memory, page, bytes))
}

fn restored(world: &World, staged: &Staged, record: &Record, alive: &Arc<AtomicBool>) -> Runner {
    assert!(staged.missing.is_empty());
    let mut prepared = Prepared::new(&world.program.code, world.door(alive), EngineLimits::default()).unwrap();
    for (memory, pages) in staged.pages.iter().enumerate() {
        for (page, bytes) in pages {
            prepared.write(memory, *page, bytes).unwrap();
        }
    }
    for (memory, size) in sizes(world, staged).into_iter().enumerate() {
        prepared.grow(memory, size).unwrap();
    }
    let state = state(&world.program.code, &staged.rest).unwrap();
    let instance = prepared.finish(&state, world.door(alive)).unwrap();
    Runner::start(instance, entries(), true, Box::new(Here { version: record.version })).unwrap()
}

/// Everything in one mode.
fn matrix(name: &str, options: &Options) {
    let mut found: BTreeMap<Failing, BTreeMap<bool, BTreeSet<End>>> = BTreeMap::new();
    let mut boundaries = BTreeMap::new();
    for failing in Failing::ALL {
        // How many boundaries a move has depends on how many pages are asked for: it is over when several moves in a row
        // have no more, and its last messages are met in any case.
        let (mut boundary, mut misses) = (0, 0);
        let mut rows = Vec::new();
        while misses < 3 {
            let row = fail(options, failing, At::Boundary(boundary));
            misses = if row.is_some() { 0 } else { misses + 1 };
            boundary += 1;
            rows.extend(row);
        }
        boundaries.insert(failing, rows.len());
        rows.extend([ACTIVATED, COMPLETE].into_iter().filter_map(|kind| fail(options, failing, At::Message(kind))));
        for (failing, transferred, end) in rows {
            found.entry(failing).or_default().entry(transferred).or_default().insert(end);
        }
    }
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/live-migration.md")).unwrap();
    for failing in Failing::ALL {
        // A hello, two readings, an offer and so on: a move has many of them.
        assert!(boundaries[&failing] > 15, "{failing:?} at {} boundaries only", boundaries[&failing]);
        for (transferred, ends) in &found[&failing] {
            let ledger = if *transferred { "destination" } else { "source" };
            let ends: Vec<&str> = ends.iter().map(|end| end.text()).collect();
            let row = format!("| {name} | {} | {ledger} | {} |", failing.name(), ends.join("; or "));
            println!("{row}");
            assert!(guide.contains(&row), "docs/live-migration.md lacks the row\n{row}");
        }
    }
}

#[test]
fn crash_matrix_of_mode_stop() {
    matrix("stop", &options(Mode::Stop));
}

#[test]
fn crash_matrix_of_mode_precopy() {
    matrix("precopy", &options(Mode::Precopy));
}

#[test]
fn crash_matrix_of_mode_postcopy() {
    if Lazy::is_available() {
        matrix("postcopy", &options(Mode::Postcopy));
    }
}

#[test]
fn crash_matrix_of_mode_hybrid() {
    if Lazy::is_available() {
        // Nothing fits, so that it goes on in post-copy.
        matrix("hybrid", &Options { max_downtime: Duration::ZERO, max_rounds: 1, ..options(Mode::Hybrid) });
    }
}
