//! One keep: it starts, runs, commits, ends, and trusts nobody.
#![allow(missing_docs, reason = "a test program")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use common::{Machine, World, collector, file_with, guest, listener};
use dunlin_base::Digest;
use dunlin_handover::ledger::Status;
use dunlin_keep_link::{EndedHow, FailCode, Origin, Role, StopHow};

/// Writes its input to its output, then ends with code 7.
const COPY: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (loop $more
            (i32.store (i32.const 0) (i32.const 100))
            (i32.store (i32.const 4) (i32.const 1000))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (i32.store (i32.const 4) (i32.load (i32.const 8)))
            (if (i32.load (i32.const 8)) (then
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                (br $more))))
        (call $exit (i32.const 7))))"#;

/// Counts the lines that it reads, and says after each how many there were: one byte, from `a` on.
const COUNT: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (global $count (mut i32) (i32.const 96))
    (func (export "_start")
        (loop $more
            (i32.store (i32.const 0) (i32.const 100))
            (i32.store (i32.const 4) (i32.const 1))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (if (i32.eqz (i32.load (i32.const 8))) (then (return)))
            (global.set $count (i32.add (global.get $count) (i32.const 1)))
            (i32.store8 (i32.const 100) (global.get $count))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (br $more))))"#;

fn world(text: &str) -> World {
    World::new(wat::parse_str(text).unwrap())
}

#[test]
fn a_program_runs_from_descriptors_to_its_end() {
    let world = world(COPY);
    let machine = Machine::new(&world, "a");
    let keep = machine.keep();
    assert_eq!(keep.status().doing, "waiting");
    let (stdout, collected) = collector();
    let more = vec![(Role::Stdin, file_with(b"some input")), (Role::Stdout, stdout)];
    keep.start_service(&world.spec(&["copy"]), Origin::First, more);
    let running = keep.running();
    assert_eq!((running.epoch, running.version, running.pinned), (2, 0, None));
    assert_eq!(keep.ended().how, EndedHow::Exited(7));
    assert!(keep.wait().success());
    assert_eq!(collected.join().unwrap(), "some input");
    let record = world.record();
    assert_eq!((record.status, record.holder), (Status::Held, Some(keep.ready.holder)));
}

#[test]
fn a_trap_ends_the_keep_with_the_reason() {
    let world = world(r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#);
    let machine = Machine::new(&world, "a");
    let keep = machine.keep();
    keep.start_service(&world.spec(&["trap"]), Origin::First, Vec::new());
    let how = keep.ended().how;
    assert!(matches!(&how, EndedHow::Trapped { message, .. } if message.contains("unreachable")), "{how:?}");
}

#[test]
fn another_module_than_announced_is_refused_and_nothing_is_claimed() {
    let world = world(COPY);
    let machine = Machine::new(&world, "a");
    let keep = machine.keep();
    let mut spec = world.spec(&["copy"]);
    // One that the ledger's record does not stand for.
    spec.module = Digest::of(b"another");
    keep.start_service(&spec, Origin::First, Vec::new());
    assert_eq!(keep.failed().code, FailCode::Untrusted);
    spec.module = Digest::of(&world.wasm);
    // Other bytes than it names.
    let mut liar = machine.clone();
    liar.world.wasm = Arc::new(b"another".to_vec());
    let other = liar.keep();
    other.start_service(&spec, Origin::First, Vec::new());
    assert_eq!(other.failed().code, FailCode::Module);
    // One that the node names and does not bring.
    spec.policy = Digest::of(b"another policy");
    keep.start_service(&spec, Origin::First, Vec::new());
    assert_eq!(keep.failed().code, FailCode::Untrusted);
    assert_eq!(world.record().status, Status::Created);
}

#[test]
fn a_node_that_changes_what_the_ledger_says_starts_nothing() {
    let world = world(COPY);
    let machine = Machine::new(&world, "a");
    let keep = machine.keep();
    world.tamper.store(true, std::sync::atomic::Ordering::SeqCst);
    keep.start_service(&world.spec(&["copy"]), Origin::First, Vec::new());
    assert_eq!(keep.failed().code, FailCode::Ledger);
    assert_eq!(world.record().status, Status::Created);
    // The node thinks better of it.
    world.tamper.store(false, std::sync::atomic::Ordering::SeqCst);
    keep.start_service(&world.spec(&["copy"]), Origin::First, Vec::new());
    assert_eq!(keep.running().epoch, 2);
}

#[test]
fn a_crash_goes_back_to_the_last_checkpoint_and_no_further() {
    let world = world(COUNT);
    let machine = Machine::new(&world, "a");
    let (input, mut lines) = std::os::unix::net::UnixStream::pair().unwrap();
    let (output, mut answers) = std::os::unix::net::UnixStream::pair().unwrap();
    let streams = || {
        let copy = |socket: &std::os::unix::net::UnixStream| socket.try_clone().unwrap().into();
        vec![(Role::Stdin, copy(&input)), (Role::Stdout, copy(&output))]
    };
    answers.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut say = |count: usize| {
        lines.write_all(&vec![b'\n'; count]).unwrap();
        let mut heard = vec![0; count];
        answers.read_exact(&mut heard).unwrap();
        String::from_utf8(heard).unwrap()
    };
    let spec = world.spec(&["count"]);
    let keep = machine.keep();
    keep.start_service(&spec, Origin::First, streams());
    keep.running();
    assert_eq!(say(3), "abc");
    // Nothing was committed: it starts from its beginning.
    keep.kill();
    let keep = machine.keep();
    keep.start_service(&spec, Origin::Again, streams());
    assert_eq!(keep.running().epoch, 3);
    assert_eq!(say(2), "ab");
    let checkpointed = keep.checkpoint();
    assert_eq!(checkpointed.version, 1);
    assert_eq!(world.record().state_hash, checkpointed.state_hash);
    assert_eq!(say(2), "cd");
    keep.kill();
    let keep = machine.keep();
    keep.start_service(&spec, Origin::Again, streams());
    let running = keep.running();
    assert_eq!((running.epoch, running.version), (4, 1));
    assert_eq!(say(1), "c");
    // Suspended, it loses nothing.
    keep.stop(StopHow::Suspend);
    assert_eq!(keep.ended().how, EndedHow::Suspended { version: 2 });
    assert!(keep.wait().success());
    let keep = machine.keep();
    keep.start_service(&spec, Origin::Again, streams());
    assert_eq!(keep.running().version, 2);
    assert_eq!(say(1), "d");
    keep.stop(StopHow::Kill);
    assert_eq!(keep.ended().how, EndedHow::Killed);
    keep.wait();
    // The state is gone, and so the keep says.
    for entry in fs::read_dir(&machine.states).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let keep = machine.keep();
    keep.start_service(&spec, Origin::Again, streams());
    assert_eq!(keep.failed().code, FailCode::StateMissing);
}

#[test]
fn a_service_that_another_machine_holds_does_not_start() {
    let world = world(COUNT);
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    let keep = a.keep();
    let (input, _lines) = std::os::unix::net::UnixStream::pair().unwrap();
    keep.start_service(&world.spec(&["count"]), Origin::First, vec![(Role::Stdin, input.into())]);
    keep.running();
    let thief = b.keep();
    thief.start_service(&world.spec(&["count"]), Origin::Again, Vec::new());
    assert_eq!(thief.failed().code, FailCode::NotHolder);
    assert_eq!(world.record().holder, Some(keep.ready.holder));
}

#[test]
fn clients_are_served_on_a_listener() {
    let Some(wasm) = guest("kv") else { return };
    let world = World::new(wasm);
    let machine = Machine::new(&world, "a");
    let keep = machine.keep();
    let (socket, address) = listener();
    keep.start_service(&world.spec(&["kv"]), Origin::First, vec![(Role::Listener, socket)]);
    keep.running();
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(common::PATIENCE)).unwrap();
    client.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+OK\r\n");
    assert_eq!(keep.status().connections, 1);
    drop(client);
    let until = std::time::Instant::now() + common::PATIENCE;
    while keep.status().connections != 0 {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(Duration::from_millis(5));
    }
}
