//! A keep dies in the middle of a move. Afterwards one instance runs, it is the ledger's holder, and what was committed
//! is there.
#![allow(missing_docs, reason = "a test program")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::{Keep, Machine, PATIENCE, Wire, World, guest, listener, options};
use dunlin_handover::MigrationId;
use dunlin_handover::converge::{Mode, Options};
use dunlin_keep_link::{ArrivedHow, LeftHow, Origin, Report, Role};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Source,
    Destination,
}

fn ask(address: SocketAddr, request: &[u8], answer: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut heard = vec![0; answer.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, answer);
}

/// What the node of a source that is left over hears.
fn source_runs(keep: &Keep) -> bool {
    match keep.left().how {
        LeftHow::Stayed { .. } | LeftHow::Returned { .. } => true,
        LeftHow::Moved { .. } | LeftHow::Superseded => false,
        other => panic!("{other:?}"),
    }
}

/// What the node of a destination that is left over hears.
fn destination_runs(keep: &Keep) -> bool {
    match keep.arrived().how {
        ArrivedHow::Live { .. } => true,
        ArrivedHow::Failed(_) => false,
        other => panic!("{other:?}"),
    }
}

/// Starts the service again, as its node does after a crash: the new keep, if it runs there.
fn again(machine: &Machine, spec: &dunlin_keep_link::Spec, listening: &std::os::fd::OwnedFd) -> Option<Keep> {
    let keep = machine.keep();
    keep.start_service(spec, Origin::Again, vec![(Role::Listener, listening.try_clone().unwrap())]);
    let running = keep.expect("the start", |report| match report {
        Report::Running(_) => Some(true),
        Report::Failed(failed) => {
            assert_eq!(failed.code, dunlin_keep_link::FailCode::NotHolder, "{failed:?}");
            Some(false)
        }
        _ => None,
    });
    running.then_some(keep)
}

/// Kills the victim as soon as its node hears of the phase. Says whether the move had happened; `None` if the phase did
/// not come.
fn dies(wasm: &[u8], mode: Mode, victim: Victim, phase: &str) -> Option<bool> {
    let world = World::new(wasm.to_vec());
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    let spec = world.spec(&["kv"]);
    let (listening, address) = listener();
    let more = || vec![(Role::Listener, listening.try_clone().unwrap())];
    let first = a.keep();
    first.start_service(&spec, Origin::First, more());
    first.running();
    ask(address, b"*3\r\n$3\r\nSET\r\n$1\r\nn\r\n$1\r\n5\r\n", b"+OK\r\n");
    let before = first.checkpoint().version;
    let second = b.keep();
    let Wire { source, destination, .. } = Wire::new();
    second.migrate_in(&spec, MigrationId([1; 16]), destination, more());
    first.migrate_out(MigrationId([1; 16]), Options { max_rounds: 2, ..options(mode) }, false, &source);
    drop(source);
    let dying = if victim == Victim::Source { &first } else { &second };
    let until = Instant::now() + PATIENCE;
    loop {
        match dying.next_report(until.saturating_duration_since(Instant::now())) {
            Some(Report::Phase(told)) if told.name == phase => break,
            Some(Report::Left(_) | Report::Arrived(_)) => return None,
            Some(Report::Failed(failed)) => panic!("{failed:?}"),
            Some(_) => {}
            None => panic!("{phase} never came: {:?}", dying.log.lock().unwrap()),
        }
    }
    dying.kill();
    let (here, moved) = match victim {
        Victim::Source => match again(&a, &spec, &listening) {
            Some(keep) => {
                // The destination hears from the ledger that it is not to be.
                assert!(!destination_runs(&second));
                (keep, false)
            }
            None => {
                assert!(destination_runs(&second));
                (second, true)
            }
        },
        Victim::Destination => {
            if source_runs(&first) {
                assert!(again(&b, &spec, &listening).is_none());
                (first, false)
            } else {
                (again(&b, &spec, &listening).expect("the committed state is there"), true)
            }
        }
    };
    // One instance, and it is the holder.
    assert_eq!(here.status().doing, "running");
    let record = world.record();
    assert_eq!(record.holder, Some(here.ready.holder));
    assert_eq!(record.holder_platform, Some(if moved { b.platform() } else { a.platform() }));
    assert_eq!(record.version, before + u64::from(moved));
    ask(address, b"*2\r\n$3\r\nGET\r\n$1\r\nn\r\n", b"$1\r\n5\r\n");
    // It can commit on, so nobody else does.
    std::thread::sleep(Duration::from_millis(1));
    assert_eq!(here.checkpoint().version, record.version + 1);
    Some(moved)
}

fn all(victim: Victim, phases: &[&str]) {
    let Some(wasm) = guest("kv") else { return };
    let mut seen = 0;
    for phase in phases {
        let outcome = dies(&wasm, Mode::Precopy, victim, phase);
        seen += usize::from(outcome.is_some());
        eprintln!(
            "{victim:?} dies in {phase}: {}",
            match outcome {
                Some(true) => "it runs at the destination",
                Some(false) => "it runs at the source",
                None => "the phase was over too soon to be seen",
            }
        );
    }
    assert!(seen > 0, "no phase lasted until somebody could die in it");
}

#[test]
fn the_source_dies_in_every_phase_before_it_stops_the_program() {
    all(Victim::Source, &["greeting", "vouching", "offering", "preparing", "copying"]);
}

#[test]
fn the_source_dies_in_every_phase_of_the_switch() {
    all(Victim::Source, &["stopping", "finishing", "staging", "transferring", "committed"]);
}

#[test]
fn the_destination_dies_in_every_phase_before_it_has_the_state() {
    all(Victim::Destination, &["welcomed", "judging", "preparing", "receiving"]);
}

#[test]
fn the_destination_dies_in_every_phase_of_the_switch() {
    all(Victim::Destination, &["staging", "waiting", "activating"]);
}
