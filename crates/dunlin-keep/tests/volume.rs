//! What a program has in its private volume moves with it, under keys that no node has.
#![allow(missing_docs, reason = "a test program")]

mod common;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use common::{Machine, World, canary, collector, file_with, is_live, migrate, options};
use dunlin_handover::converge::Mode;
use dunlin_keep_link::{ArrivedHow, EndedHow, FailCode, LeftHow, Origin, Role, StopHow};

/// What the program writes into its volume. The module has it in disguise only.
const CANARY: &[u8; 32] = b"canary-in-the-volume-93b1f07e5c-";

/// A program that appends a line to a file of its volume and makes it durable, for each line that it reads, and answers with
/// the size of the file in a hundred lines.
fn writer() -> Vec<u8> {
    let (segment, reveal) = (canary::segment(CANARY), canary::reveal());
    wat::parse_str(format!(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_sync" (func $sync (param i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_filestat_get" (func $stat (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 4)
            {segment}
            (data (i32.const 512) "file")
            (func $must (param i32)
                (if (local.get 0) (then (call $exit (i32.add (i32.const 100) (local.get 0))))))
            (func (export "_start") (local $i i32)
                {reveal}
                ;; create, for appending
                (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 4) (i32.const 1)
                    (i64.const 0x1fffffff) (i64.const 0) (i32.const 1) (i32.const 600)))
                (loop $forever
                    (i32.store (i32.const 16) (i32.const 700))
                    (i32.store (i32.const 20) (i32.const 1))
                    (call $must (call $read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 24)))
                    (if (i32.eqz (i32.load (i32.const 24))) (then (call $exit (i32.const 0))))
                    (i32.store (i32.const 16) (i32.const 4096))
                    (i32.store (i32.const 20) (i32.const 32))
                    (call $must (call $write (i32.load (i32.const 600)) (i32.const 16) (i32.const 1) (i32.const 24)))
                    (call $must (call $sync (i32.load (i32.const 600))))
                    (call $must (call $stat (i32.load (i32.const 600)) (i32.const 800)))
                    ;; the size in lines, as one character
                    (i32.store8 (i32.const 900)
                        (i32.add (i32.const 48) (i32.div_u (i32.load (i32.const 832)) (i32.const 32))))
                    (i32.store (i32.const 16) (i32.const 900))
                    (i32.store (i32.const 20) (i32.const 1))
                    (call $must (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))
                    (br $forever))))"#
    ))
    .unwrap()
}

fn volume(machine: &Machine) -> (Role, OwnedFd) {
    let directory = machine.states.with_extension("volume");
    fs::create_dir_all(&directory).unwrap();
    (Role::Volume { guest: "/data".to_owned() }, File::open(&directory).unwrap().into())
}

/// Standard streams and a volume: `lines` lines to read.
fn surroundings(machine: &Machine, lines: usize, output: OwnedFd) -> Vec<(Role, OwnedFd)> {
    vec![(Role::Stdin, file_with(&vec![b'.'; lines])), (Role::Stdout, output), volume(machine)]
}

fn find(directory: &Path, wanted: &[u8]) -> bool {
    fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => find(&path, wanted),
            false => canary::contains(&fs::read(&path).unwrap(), wanted),
        }
    })
}

#[test]
fn a_volume_moves_with_its_program_and_no_disk_shows_its_contents() {
    let world = World::new(writer());
    let spec = world.spec(&["writer"]);
    let machines = ["a", "b", "c"].map(|name| Machine::new(&world, name));
    let (output, text) = collector();
    let mut keep = machines[0].keep();
    // The stream ends only with the last keep, so that the program waits for a line when it moves.
    let (input, lines) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let more = |machine: &Machine| {
        let streams = [(Role::Stdin, input.try_clone().unwrap()), (Role::Stdout, output.try_clone().unwrap())];
        streams.into_iter().chain([volume(machine)]).collect::<Vec<_>>()
    };
    keep.start_service(&spec, Origin::First, more(&machines[0]));
    keep.running();
    let line = || assert_eq!(rustix::io::write(&lines, b".").unwrap(), 1);
    for (machine, mode) in [(1, Mode::Precopy), (2, Mode::Postcopy), (0, Mode::Stop), (1, Mode::Precopy)] {
        line();
        let next = machines[machine].keep();
        let (left, arrived) = migrate(&keep, &next, &spec, options(mode), more(&machines[machine]));
        assert!(matches!(left.how, LeftHow::Moved { .. }) && is_live(&arrived), "{left:?} {arrived:?}");
        if matches!(arrived.how, ArrivedHow::Live { complete: false, .. }) {
            assert!(is_live(&next.arrived()), "all of its memory comes, too");
        }
        keep = next;
    }
    line();
    // And from storage: a state under the broker's key, the volume under those that travel with the state.
    keep.checkpoint();
    keep.stop(StopHow::Suspend);
    assert!(matches!(keep.ended().how, EndedHow::Suspended { .. }));
    drop(keep);
    let last = machines[1].keep();
    last.start_service(&spec, Origin::Again, more(&machines[1]));
    last.running();
    line();
    drop(lines);
    assert_eq!(last.ended().how, EndedHow::Exited(0));
    drop((output, last));
    assert_eq!(text.join().unwrap(), "123456");
    assert!(!find(&world.directory, CANARY));
    let volume = machines[1].states.with_extension("volume");
    assert!(fs::read_dir(volume).unwrap().next().is_some(), "the volume is not empty");
}

#[test]
fn without_its_broker_a_service_with_a_volume_does_not_start_and_goes_on_once_it_is_back() {
    let world = World::new(writer());
    let spec = world.spec(&["writer"]);
    let machine = Machine::new(&world, "a");
    world.broker_is_away(true);
    let (output, text) = collector();
    let keep = machine.keep();
    keep.start_service(&spec, Origin::First, surroundings(&machine, 3, output));
    let failed = keep.failed();
    assert_eq!(failed.code, FailCode::Keys, "{failed:?}");
    drop(keep);
    assert_eq!(text.join().unwrap(), "", "the program has not run");
    world.broker_is_away(false);
    let (output, text) = collector();
    let keep = machine.keep();
    keep.start_service(&spec, Origin::First, surroundings(&machine, 3, output));
    keep.running();
    assert_eq!(keep.ended().how, EndedHow::Exited(0));
    drop(keep);
    assert_eq!(text.join().unwrap(), "123");
}
