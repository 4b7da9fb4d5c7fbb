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

/// A program that first writes so many blocks of 64 KiB, all different, into a file of its volume. Then it appends a line to
/// another one and makes it durable, for each line that it reads, and answers with the size of that file in lines.
fn writer(blocks: u32) -> Vec<u8> {
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
            (data (i32.const 520) "data")
            (func $must (param i32)
                (if (local.get 0) (then (call $exit (i32.add (i32.const 100) (local.get 0))))))
            (func (export "_start") (local $i i32)
                (local $block i32) (local $word i32) (local $noise i64)
                {reveal}
                (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 520) (i32.const 4) (i32.const 1)
                    (i64.const 0x1fffffff) (i64.const 0) (i32.const 1) (i32.const 600)))
                (block $filled (loop $fill
                    (br_if $filled (i32.ge_u (local.get $block) (i32.const {blocks})))
                    (local.set $word (i32.const 65536))
                    (loop $noisy
                        (local.set $noise (i64.add (i64.mul (local.get $noise) (i64.const 6364136223846793005))
                            (i64.const 1442695040888963407)))
                        (i64.store (local.get $word) (local.get $noise))
                        (local.set $word (i32.add (local.get $word) (i32.const 8)))
                        (br_if $noisy (i32.lt_u (local.get $word) (i32.const 131072))))
                    (i32.store (i32.const 16) (i32.const 65536))
                    (i32.store (i32.const 20) (i32.const 65536))
                    (call $must (call $write (i32.load (i32.const 600)) (i32.const 16) (i32.const 1) (i32.const 24)))
                    (local.set $block (i32.add (local.get $block) (i32.const 1)))
                    (br $fill)))
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

/// The same, with a stream of lines that goes on wherever the program is.
fn around(machine: &Machine, input: &OwnedFd, output: &OwnedFd) -> Vec<(Role, OwnedFd)> {
    let streams = [(Role::Stdin, input.try_clone().unwrap()), (Role::Stdout, output.try_clone().unwrap())];
    streams.into_iter().chain([volume(machine)]).collect()
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
    let world = World::new(writer(0));
    let spec = world.spec(&["writer"]);
    let machines = ["a", "b", "c"].map(|name| Machine::new(&world, name));
    let (output, text) = collector();
    let mut keep = machines[0].keep();
    // The stream ends only with the last keep, so that the program waits for a line when it moves.
    let (input, lines) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let more = |machine: &Machine| around(machine, &input, &output);
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
    let world = World::new(writer(0));
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

/// Bytes that a move may need beside a volume: TLS is not counted, messages and memory are.
const LITTLE: u64 = 3 << 20;

#[test]
fn most_of_a_volume_goes_ahead_of_the_stop_and_what_is_there_does_not_go_again() {
    const BLOCKS: u32 = 256;
    let size = u64::from(BLOCKS) << 16;
    let world = World::new(writer(BLOCKS));
    let spec = world.spec(&["writer"]);
    let machines = ["a", "b"].map(|name| Machine::new(&world, name));
    let (output, text) = collector();
    let (input, lines) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let more = |machine: &Machine| around(machine, &input, &output);
    let line = || assert_eq!(rustix::io::write(&lines, b".").unwrap(), 1);
    let (mut keep, mut at) = (machines[0].keep(), 0);
    keep.start_service(&spec, Origin::First, more(&machines[0]));
    keep.running();
    for (number, mode) in [Mode::Postcopy, Mode::Precopy, Mode::Auto, Mode::Stop].into_iter().enumerate() {
        line();
        at = 1 - at;
        let next = machines[at].keep();
        let (left, arrived) = migrate(&keep, &next, &spec, options(mode), more(&machines[at]));
        assert!(matches!(left.how, LeftHow::Moved { .. }) && is_live(&arrived), "{left:?} {arrived:?}");
        if matches!(arrived.how, ArrivedHow::Live { complete: false, .. }) {
            assert!(is_live(&next.arrived()), "all of its memory comes, too");
        }
        let ram = &left.statistics.ram;
        let (whole, ahead) = (size..size + LITTLE, ram.precopy_bytes);
        match number {
            0 => assert!(whole.contains(&ahead) && ram.downtime_bytes < LITTLE, "{ram:?}"),
            _ => assert!(ram.transferred < LITTLE, "{mode:?}: {ram:?}"),
        }
        keep = next;
    }
    // It dies, and begins again from the state that came: that needs what is in the volume here.
    let begin_again = |keep: common::Keep| {
        keep.kill();
        drop(keep);
        let again = machines[at].keep();
        again.start_service(&spec, Origin::Again, more(&machines[at]));
        again.running();
        again
    };
    let keep = begin_again(keep);
    line();
    // A checkpoint relies on the volume, too, unless it is to be good elsewhere.
    assert!(keep.checkpoint_of(true).bytes > size);
    assert!(keep.checkpoint().bytes < LITTLE);
    let states = fs::read_dir(&machines[at].states).unwrap().map(|entry| entry.unwrap().file_name());
    let states: Vec<_> =
        states.map(|name| name.into_string().unwrap()).filter(|name| name.contains("state-")).collect();
    assert!(matches!(&states[..], [only] if only.starts_with("local-state-")), "{states:?}");
    let keep = begin_again(keep);
    line();
    drop(lines);
    assert_eq!(keep.ended().how, EndedHow::Exited(0));
    drop((output, keep));
    assert_eq!(text.join().unwrap(), "123456");
}

#[test]
fn a_volume_goes_in_the_pause_where_nothing_may_go_before() {
    const BLOCKS: u32 = 256;
    let world = World::new(writer(BLOCKS));
    let spec = world.spec(&["writer"]);
    let machines = ["a", "b"].map(|name| Machine::new(&world, name));
    let (output, text) = collector();
    let (input, lines) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let more = |machine: &Machine| around(machine, &input, &output);
    let keep = machines[0].keep();
    keep.start_service(&spec, Origin::First, more(&machines[0]));
    keep.running();
    assert_eq!(rustix::io::write(&lines, b".").unwrap(), 1);
    let next = machines[1].keep();
    let (left, arrived) = migrate(&keep, &next, &spec, options(Mode::Stop), more(&machines[1]));
    assert!(matches!(left.how, LeftHow::Moved { .. }) && is_live(&arrived), "{left:?} {arrived:?}");
    let ram = &left.statistics.ram;
    assert!(ram.precopy_bytes == 0 && ram.downtime_bytes >= u64::from(BLOCKS) << 16, "{ram:?}");
    drop(lines);
    assert_eq!(next.ended().how, EndedHow::Exited(0));
    drop((output, next, keep));
    assert_eq!(text.join().unwrap(), "1");
}
