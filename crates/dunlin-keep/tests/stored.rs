//! What a node can do with the stored states of a service, which it keeps: put older ones back, exchange them, change them,
//! carry them to another machine. None of it starts the service, and none of it costs the state that was committed.
#![allow(missing_docs, reason = "a test program")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{Machine, SERVICE, World};
use dunlin_handover::converge::Mode;
use dunlin_handover::ledger::Record;
use dunlin_keep_link::{EndedHow, FailCode, Origin, Report};
use dunlin_seal::{Kind, Label, LocalKey};

/// Sleeps for ever, and counts in its memory how often it woke.
const SLEEPER: &str = r#"(module
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (func (export "_start")
        (loop $forever
            (i32.store (i32.const 16) (i32.const 1))
            (i64.store (i32.const 24) (i64.const 1000000))
            (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
            (i32.store (i32.const 4096) (i32.add (i32.load (i32.const 4096)) (i32.const 1)))
            (br $forever))))"#;

type Files = BTreeMap<String, Vec<u8>>;

fn read(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

fn write(folder: &Path, files: &Files) {
    fs::remove_dir_all(folder).unwrap();
    fs::create_dir_all(folder).unwrap();
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).unwrap();
    }
}

/// The file of a committed state.
fn state(files: &Files, version: u64) -> (&String, &Vec<u8>) {
    files.iter().find(|(name, _)| name.starts_with(&format!("state-{version:020}-"))).expect("the state is stored")
}

#[test]
fn s06_a_node_that_puts_back_exchanges_or_changes_stored_states_starts_nothing() {
    let world = World::new(wat::parse_str(SLEEPER).unwrap());
    let machine = Machine::new(&world, "a");
    let spec = world.spec(&["sleeper"]);
    let keep = machine.keep();
    keep.start_service(&spec, Origin::First, Vec::new());
    keep.running();
    assert_eq!(keep.checkpoint().version, 1);
    let older = read(&machine.states);
    assert_eq!(keep.checkpoint().version, 2);
    let newer = read(&machine.states);
    keep.kill();
    let ((old_name, old), (new_name, new)) = (state(&older, 1), state(&newer, 2));
    assert_ne!(old, new);
    let only = |name: &String, bytes: Vec<u8>| Files::from([(name.clone(), bytes)]);
    let flipped = |at: usize| {
        let mut bytes = new.clone();
        bytes[at] ^= 1;
        only(new_name, bytes)
    };
    let before = world.record();
    let tricks = [
        ("nothing is there", Files::new()),
        ("all is of an earlier time", older.clone()),
        ("an older state has the name of the newer one", only(new_name, old.clone())),
        (
            "both names have the older state",
            Files::from([(old_name.clone(), old.clone()), (new_name.clone(), old.clone())]),
        ),
        ("a bit of the head is changed", flipped(0)),
        ("a bit in the middle is changed", flipped(new.len() / 2)),
        ("the last bit is changed", flipped(new.len() - 1)),
        ("the second half is cut off", only(new_name, new[..new.len() / 2].to_vec())),
        ("nothing is in it", only(new_name, Vec::new())),
    ];
    for (what, files) in tricks {
        let named = files.contains_key(new_name);
        let before = world.record();
        write(&machine.states, &files);
        let keep = machine.keep();
        keep.start_service(&spec, Origin::Again, Vec::new());
        let refused = keep.expect(what, |report| match report {
            Report::Failed(failed) => Some(Some(failed.code)),
            Report::Running(_) => Some(None),
            _ => None,
        });
        assert_eq!(refused, Some(FailCode::StateMissing), "{what}");
        // Only the holder gets the key that opens a state, so whoever has one of the right name takes an epoch.
        let after = world.record();
        let said = |record: &Record| (record.version, record.state_hash, record.state_epoch, record.holder_platform);
        assert_eq!(said(&after), said(&before), "{what}");
        assert!(named || after == before, "{what}: no epoch is taken");
    }
    // With what was committed it goes on, whatever else lies there.
    write(&machine.states, &older.into_iter().chain(newer).collect());
    let keep = machine.keep();
    keep.start_service(&spec, Origin::Again, Vec::new());
    let running = keep.running();
    assert_eq!((running.version, running.epoch), (2, world.record().epoch));
    assert!(running.epoch > before.epoch);
}

#[test]
fn s05_a_stored_state_is_not_opened_with_the_key_of_another_machine() {
    let world = World::new(wat::parse_str(SLEEPER).unwrap());
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    let spec = world.spec(&["sleeper"]);
    let keep = a.keep();
    keep.start_service(&spec, Origin::First, Vec::new());
    keep.running();
    keep.checkpoint();
    keep.kill();
    // The service moves on, so that machine b may start it; what b finds is the state as machine a sealed it.
    let carried = read(&a.states);
    let (first, second) = (a.keep(), b.keep());
    first.start_service(&spec, Origin::Again, Vec::new());
    first.running();
    let migration = dunlin_handover::MigrationId([1; 16]);
    let wire = common::Wire::new();
    second.migrate_in(&spec, migration, wire.destination, Vec::new());
    first.migrate_out(migration, common::options(Mode::Stop), false, &wire.source);
    while !matches!(second.arrived().how, dunlin_keep_link::ArrivedHow::Live { complete: true, .. }) {}
    let version = second.checkpoint().version;
    let own = read(&b.states);
    second.kill();
    let (name, sealed) = state(&own, version);
    // The committed state's name on what another machine sealed, and its own bytes on the other machine's disk.
    write(&b.states, &Files::from([(name.clone(), state(&carried, 1).1.clone())]));
    let keep = b.keep();
    keep.start_service(&spec, Origin::Again, Vec::new());
    assert_eq!(keep.failed().code, FailCode::StateMissing);
    write(&a.states, &Files::from([(name.clone(), sealed.clone())]));
    let keep = a.keep();
    keep.start_service(&spec, Origin::Again, Vec::new());
    assert_eq!(keep.failed().code, FailCode::NotHolder);
    write(&b.states, &own);
    let keep = b.keep();
    keep.start_service(&spec, Origin::Again, Vec::new());
    assert_eq!(keep.running().version, version);
}

#[test]
fn s05_what_arrived_is_opened_with_the_brokers_keys_alone() {
    let world = World::new(wat::parse_str(SLEEPER).unwrap());
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    let spec = world.spec(&["sleeper"]);
    let (first, second) = (a.keep(), b.keep());
    first.start_service(&spec, Origin::First, Vec::new());
    first.running();
    let (_, arrived) = common::migrate(&first, &second, &spec, common::options(Mode::Precopy), Vec::new());
    assert!(common::is_live(&arrived), "{arrived:?}");
    second.kill();
    let before = world.record();
    assert_eq!((before.version, before.state_epoch, before.epoch), (1, 2, 3));
    let files = read(&b.states);
    let (name, bytes) = files.iter().find(|(name, _)| name.starts_with("arrived-")).expect("what arrived");
    let label = Label { kind: Kind::Staged, name: "state", version: 1 };
    let machine = LocalKey::derived(&b.platform.to_pkcs8().unwrap()).objects(SERVICE.0);
    assert!(machine.open(&label, bytes).is_err(), "with what the node has");
    // Without the broker nobody opens it, and under another name nobody does either.
    world.broker_is_away(true);
    let keep = b.keep();
    keep.start_service(&spec, Origin::Again, Vec::new());
    assert_eq!(keep.failed().code, FailCode::Keys);
    world.broker_is_away(false);
    let renamed = format!("arrived-{}{}", "0".repeat(32), name.strip_prefix("arrived-").unwrap().get(32..).unwrap());
    write(&b.states, &Files::from([(renamed, bytes.clone())]));
    let keep = b.keep();
    keep.start_service(&spec, Origin::Again, Vec::new());
    assert_eq!(keep.failed().code, FailCode::StateMissing);
    // As it was, it is what the service goes on from.
    write(&b.states, &files);
    let keep = b.keep();
    keep.start_service(&spec, Origin::Again, Vec::new());
    assert_eq!(keep.running().version, 1);
}

/// Goes over 2048 pages again and again, and checks in each that it was there in the round before; ends after so many rounds.
fn rounds(rounds: u32) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 129)
            (func (export "_start") (local $round i32) (local $at i32)
                (loop $next
                    (local.set $at (i32.const 65536))
                    (loop $page
                        (if (i32.ne (i32.load (local.get $at)) (local.get $round)) (then (call $exit (i32.const 7))))
                        (i32.store (local.get $at) (i32.add (local.get $round) (i32.const 1)))
                        (local.set $at (i32.add (local.get $at) (i32.const 4096)))
                        (br_if $page (i32.lt_u (local.get $at) (i32.const 8454144))))
                    (local.set $round (i32.add (local.get $round) (i32.const 1)))
                    (br_if $next (i32.lt_u (local.get $round) (i32.const {rounds}))))
                (call $exit (i32.const 0))))"#
    )
}

#[test]
fn a_checkpoint_that_is_copied_while_memory_changes_is_of_one_moment() {
    let world = World::new(wat::parse_str(rounds(200_000)).unwrap());
    let machine = Machine::new(&world, "a");
    let spec = world.spec(&["rounds"]);
    let mut keep = machine.keep();
    keep.start_service(&spec, Origin::First, Vec::new());
    keep.running();
    for version in 1..=4 {
        assert_eq!(keep.checkpoint().version, version);
        // It runs on where it is, and where it begins again it is as it was.
        if version % 2 == 0 {
            keep.kill();
            keep = machine.keep();
            keep.start_service(&spec, Origin::Again, Vec::new());
            assert_eq!(keep.running().version, version);
        }
    }
    assert_eq!(keep.ended().how, EndedHow::Exited(0));
}
