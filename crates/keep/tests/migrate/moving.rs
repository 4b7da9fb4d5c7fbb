//! One move between two places, and its end.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dunlin_base::Digest;
use dunlin_engine::{Lazy, Tracker};
use dunlin_handover::converge::{Mode, Options, TimeoutAction};
use dunlin_handover::message::{Evidence, Features, Guard, HashChain, MemoryShape, Role, Versions};
use dunlin_handover::{Entropy, Limits, MigrationId, destination, source};
use dunlin_keep::migrate::{
    Destination, DestinationHandle, DestinationReport, Progress, Runner, Source, SourceHandle, SourceReport, Stream,
    Supply,
};

use crate::world::{There, World, keys, named, shelf};

pub(crate) fn guard(role: Role) -> Box<dyn Guard> {
    Box::new(HashChain::new(&[3; 32], role))
}

pub(crate) struct Move {
    pub(crate) source: JoinHandle<(SourceReport, Runner)>,
    pub(crate) destination: JoinHandle<(DestinationReport, There)>,
    pub(crate) source_handle: SourceHandle,
    pub(crate) destination_handle: DestinationHandle,
    pub(crate) progress: Progress,
}

/// Wide limits: what a busy test machine takes is not what is tested here.
pub(crate) fn options(mode: Mode) -> Options {
    Options {
        mode,
        max_downtime: Duration::from_secs(5),
        timeout_action: TimeoutAction::Stop,
        max_rounds: 6,
        ..Options::default()
    }
}

/// Times of a world in which nobody is slow and nobody waits for long.
pub(crate) fn limits() -> Limits {
    Limits {
        ledger_retry: Duration::from_millis(50),
        activation: Duration::from_secs(5),
        decision: Duration::from_secs(5),
        ..Limits::default()
    }
}

/// Who moves where, in which names.
#[derive(Clone)]
pub(crate) struct Ways {
    pub(crate) from: (&'static str, &'static str),
    pub(crate) to: (&'static str, &'static str),
    pub(crate) limits: Limits,
    pub(crate) compress: bool,
    /// Chunks of a volume that go along; storing one takes the destination a while.
    pub(crate) chunks: u8,
    /// How long the destination's storage takes, once, to have something stable.
    pub(crate) storage: Duration,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            from: ("first", "platform a"),
            to: ("second", "platform b"),
            limits: limits(),
            compress: false,
            chunks: 0,
            storage: Duration::ZERO,
        }
    }
}

/// A volume of small chunks that nobody changes, one to a message.
struct Chunks {
    all: u8,
    unsent: u8,
}

impl Supply for Chunks {
    fn held(&mut self, _: Vec<Digest>) {}

    fn scan(&mut self) -> Result<u64, String> {
        Ok(self.unsent())
    }

    fn unsent(&self) -> u64 {
        self.unsent.into()
    }

    fn batch(&mut self, _: usize) -> Result<Vec<Vec<u8>>, String> {
        let next = self.all - self.unsent;
        self.unsent = self.unsent.saturating_sub(1);
        Ok(if next < self.all { vec![vec![next]] } else { Vec::new() })
    }
}

impl World {
    /// Begins a move of a program that has been running for a while.
    pub(crate) fn begin(&self, options: Options, ways: &Ways) -> Move {
        let (runner, tracker) = self.start(self.hands.alive(Role::Source));
        self.wait_for(20);
        self.move_away(runner, tracker, options, ways)
    }

    pub(crate) fn move_away(&self, mut runner: Runner, tracker: Tracker, options: Options, ways: &Ways) -> Move {
        let Ways { from, to, limits, compress, chunks, storage } = ways.clone();
        let (near, far) = self.hands.wire();
        let progress = Progress::default();
        let record = self.record();
        let (run, source_handle) = Source {
            config: source::Config {
                migration: MigrationId([record.epoch as u8; 16]),
                record,
                module: Digest::of(&self.program.wasm),
                snapshot_version: 1,
                memories: vec![MemoryShape { pages: tracker.size(0) / 4096, maximum: 200 * 16 }],
                needs: Vec::new(),
                evidence: Evidence(b"evidence".to_vec()),
                options,
                dry_run: false,
                versions: Versions::SUPPORTED,
                keys: keys(named(from.0), named(from.1)),
                limits: limits.clone(),
                guard: guard(Role::Source),
                entropy: Entropy::new([record.epoch as u8; 32]),
            },
            module: self.program.wasm.clone(),
            tracker,
            volume: (chunks > 0).then(|| Box::new(Chunks { all: chunks, unsent: chunks }) as Box<dyn Supply>),
            compress,
            retain: shelf(&self.directory.join("retained")),
            guard: Box::new(|| guard(Role::Source)),
            progress: progress.clone(),
        }
        .prepare();
        let way = Box::new(self.hands.way(Role::Source, &self.ledger));
        let source = thread::spawn(move || {
            let report = run.run(&mut runner, Stream::unix(near).unwrap(), way).unwrap();
            (report, runner)
        });
        let (run, destination_handle) = Destination {
            config: destination::Config {
                policy_hash: Digest::of(b"policy"),
                peer: None,
                features: Features { postcopy: Lazy::is_available(), zstd: true },
                evidence: Evidence(b"evidence".to_vec()),
                versions: Versions::SUPPORTED,
                keys: keys(named(to.0), named(to.1)),
                limits,
                guard: guard(Role::Destination),
                entropy: Entropy::new([100_u8.wrapping_add(record.epoch as u8); 32]),
            },
            stage: shelf(&self.directory.join("staged")),
            guard: Box::new(|| guard(Role::Destination)),
        }
        .prepare();
        let mut there = There {
            code: self.program.code.clone(),
            outside: self.outside.clone(),
            alive: self.hands.alive(Role::Destination).clone(),
            instance: None,
            runner: None,
            wants_module: compress,
            stored: Vec::new(),
            storage,
        };
        let way = Box::new(self.hands.way(Role::Destination, &self.ledger));
        let destination = thread::spawn(move || {
            let report = run.run(&mut there, Stream::unix(far).unwrap(), way).unwrap();
            (report, there)
        });
        Move { source, destination, source_handle, destination_handle, progress }
    }

    /// Ends a move; checks that exactly one side has the service and that it goes on as if nothing had happened.
    pub(crate) fn end(&self, moving: Move) -> (SourceReport, DestinationReport) {
        let (source, runner) = moving.source.join().unwrap();
        let (destination, there) = moving.destination.join().unwrap();
        match &source.outcome {
            source::Outcome::Moved { .. } => {
                assert!(matches!(destination.outcome, destination::Outcome::Live { .. }), "{destination:?}");
                assert_eq!(self.record().holder, Some(named("second").0));
                self.check(there.runner.as_ref().unwrap());
            }
            source::Outcome::Stayed { .. } => {
                assert!(there.runner.is_none(), "{source:?} {destination:?}");
                assert_eq!(self.record().holder, Some(named("first").0));
                self.check(&runner);
            }
            other => panic!("{other:?}, {destination:?}"),
        }
        (source, destination)
    }

    /// Brings the link back whenever it is lost in post-copy, until `done` says that nobody needs it any more. Returns
    /// how often that was.
    pub(crate) fn heal(&self, moving: &Move, done: &Arc<std::sync::atomic::AtomicBool>) -> JoinHandle<u32> {
        use dunlin_handover::statistics::Status;
        let (hands, progress, over) = (self.hands.clone(), moving.progress.clone(), done.clone());
        let (source, destination) = (moving.source_handle.clone(), moving.destination_handle.clone());
        thread::spawn(move || {
            let mut healed = 0;
            while !over.load(std::sync::atomic::Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(20));
                if progress.now().status == Status::PostcopyPaused {
                    let (near, far) = hands.wire();
                    source.reconnect(Stream::unix(near).unwrap());
                    destination.reconnect(Stream::unix(far).unwrap());
                    healed += 1;
                    thread::sleep(Duration::from_millis(200));
                }
            }
            healed
        })
    }
}
