//! A program that moves itself along an itinerary.
#![allow(missing_docs, reason = "a test program")]

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use common::{Keep, Machine, PATIENCE, Wire, World, is_live, options};
use dunlin_handover::MigrationId;
use dunlin_handover::converge::Mode;
use dunlin_keep_link::{EndedHow, FailCode, Left, MigrateOut, Order, Origin, Report, Role, WishId, WishRefused};
use std::os::fd::AsFd as _;

/// Says where it is, goes to `b`, says so again, asks for `nowhere`, says the error's number as a digit less 20, goes to
/// `c`, and ends with how often it said where it was.
const AGENT: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "dunlin:agent/mobility" "migrate" (func $migrate (param i32 i32) (result i32)))
    (import "dunlin:agent/mobility" "where-am-i" (func $where (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "b")
    (data (i32.const 8) "nowhere")
    (data (i32.const 16) "c")
    (global $visited (mut i32) (i32.const 0))
    (func $say (param $length i32)
        (i32.store (i32.const 32) (i32.const 64))
        (i32.store (i32.const 36) (local.get $length))
        (drop (call $write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 40))))
    (func $report
        (drop (call $where (i32.const 64) (i32.const 16) (i32.const 48)))
        (global.set $visited (i32.add (global.get $visited) (i32.const 1)))
        (call $say (i32.load (i32.const 48))))
    (func $go (param $at i32) (param $length i32)
        (i32.store8 (i32.const 64)
            (i32.add (i32.const 48)
                (call $migrate (local.get $at) (local.get $length))))
        (call $say (i32.const 1)))
    (func (export "_start")
        (call $report)
        (call $go (i32.const 0) (i32.const 1))
        (call $report)
        (call $go (i32.const 8) (i32.const 7))
        (call $go (i32.const 16) (i32.const 1))
        (call $report)
        (call $exit (global.get $visited))))"#;

fn wish(keep: &Keep) -> (WishId, String) {
    keep.expect("a wish", |report| match report {
        Report::Wish(wish) => Some((wish.wish, wish.destination.clone())),
        _ => None,
    })
}

#[test]
fn an_agent_visits_three_nodes_and_hears_of_a_refusal() {
    let world = World::new(wat::parse_str(AGENT).unwrap());
    let spec = world.spec(&["agent"]);
    let (output, mut said) = UnixStream::pair().unwrap();
    said.set_read_timeout(Some(PATIENCE)).unwrap();
    let more = || vec![(Role::Stdout, output.try_clone().unwrap().into())];
    let machines = ["a", "b", "c"].map(|name| Machine::new(&world, name));
    let mut hear = |length: usize| {
        let mut text = vec![0; length];
        said.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    };
    let mut here = machines[0].keep();
    here.start_service(&spec, Origin::First, more());
    here.running();
    assert_eq!(hear(1), "a");
    for (number, machine) in (1_u8..).zip(&machines[1..]) {
        let (mut id, mut destination) = wish(&here);
        if destination == "nowhere" {
            let refused = WishRefused { wish: id, text: "no such node".to_owned() };
            here.order(&Order::WishRefused(refused), &[]);
            // EHOSTUNREACH is 23.
            assert_eq!(hear(1), char::from(48 + 23).to_string());
            (id, destination) = wish(&here);
        }
        assert_eq!(destination, machine.name);
        let next = machine.keep();
        let Wire { source, destination, .. } = Wire::new();
        let migration = MigrationId([number; 16]);
        next.migrate_in(&spec, migration, destination, more());
        let (order, options) = (here.number(), options(Mode::Auto));
        let migrate = MigrateOut { order, migration, options, dry_run: false, wish: Some(id) };
        here.order(&Order::MigrateOut(migrate), &[source.as_fd()]);
        drop(source);
        here.left();
        assert!(is_live(&next.arrived()));
        // The call returned 0, there.
        assert_eq!(hear(2), format!("0{}", machine.name));
        here = next;
    }
    assert_eq!(here.ended().how, EndedHow::Exited(3));
}

#[test]
fn a_wish_whose_move_is_cancelled_comes_back_as_an_error() {
    let world = World::new(wat::parse_str(AGENT).unwrap());
    let spec = world.spec(&["agent"]);
    let (output, mut said) = UnixStream::pair().unwrap();
    said.set_read_timeout(Some(PATIENCE)).unwrap();
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    let first = a.keep();
    first.start_service(&spec, Origin::First, vec![(Role::Stdout, output.try_clone().unwrap().into())]);
    first.running();
    let (id, _) = wish(&first);
    let second = b.keep();
    let Wire { source, destination, .. } = Wire::new();
    let migration = MigrationId([1; 16]);
    // The other side takes another service, so this one is refused.
    let mut other = spec.clone();
    other.module = dunlin_base::Digest::of(b"another");
    second.migrate_in(&other, migration, destination, Vec::new());
    let (order, options) = (first.number(), options(Mode::Stop));
    let migrate = MigrateOut { order, migration, options, dry_run: false, wish: Some(id) };
    first.order(&Order::MigrateOut(migrate), &[source.as_fd()]);
    assert_eq!(first.failed().code, FailCode::Untrusted);
    let mut text = [0; 2];
    said.read_exact(&mut text).unwrap();
    assert_eq!(text, [b'a', 48 + 23]);
}

/// Leaves weakly with a digit; where it arrives, it says the digit and where it is, counts on, and leaves for the next node,
/// until it is at the third, where it ends with its digit. A global that the instance before it changed is new again, and what
/// it says of the luggage of an instance that nobody sent is the error's number less 20.
const TRAVELLER: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "dunlin:agent/mobility" "migrate-weakly" (func $leave (param i32 i32 i32 i32) (result i32)))
    (import "dunlin:agent/mobility" "luggage" (func $luggage (param i32 i32 i32) (result i32)))
    (import "dunlin:agent/mobility" "where-am-i" (func $where (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "abc")
    (global $old (mut i32) (i32.const 48))
    (func $say (param $length i32)
        (i32.store (i32.const 32) (i32.const 64))
        (i32.store (i32.const 36) (local.get $length))
        (drop (call $write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 40))))
    (func $go (param $node i32)
        (global.set $old (i32.const 57))
        (i32.store8 (i32.const 200) (i32.const 57))
        (i32.store8 (i32.const 64)
            (i32.add (i32.const 48) (call $leave (local.get $node) (i32.const 1) (i32.const 100) (i32.const 1))))
        (call $say (i32.const 1)))
    (func (export "_start")
        (i32.store8 (i32.const 64)
            (i32.add (i32.const 28) (call $luggage (i32.const 100) (i32.const 1) (i32.const 48))))
        (call $say (i32.const 1))
        (i32.store8 (i32.const 100) (i32.const 49))
        (call $go (i32.const 1))
        (call $go (i32.const 1)))
    (func (export "arrive")
        (drop (call $luggage (i32.const 100) (i32.const 1) (i32.const 48)))
        (drop (call $where (i32.const 65) (i32.const 1) (i32.const 48)))
        (i32.store8 (i32.const 64) (i32.load8_u (i32.const 100)))
        ;; Both are as they are in a new instance.
        (i32.store8 (i32.const 66) (global.get $old))
        (i32.store8 (i32.const 67) (i32.add (i32.const 48) (i32.load8_u (i32.const 200))))
        (call $say (i32.const 4))
        (if (i32.eq (i32.load8_u (i32.const 65)) (i32.const 99))
            (then (call $exit (i32.sub (i32.load8_u (i32.const 100)) (i32.const 48)))))
        (i32.store8 (i32.const 100) (i32.add (i32.load8_u (i32.const 100)) (i32.const 1)))
        (call $go (i32.const 2))))"#;

fn fulfil(from: &Keep, to: &Keep, world: &World, number: u8, more: Vec<(Role, std::os::fd::OwnedFd)>) -> Left {
    let (id, destination) = wish(from);
    assert_eq!(destination, to.machine.name);
    let Wire { source, destination, seen, .. } = Wire::new();
    let migration = MigrationId([number; 16]);
    to.migrate_in(&world.spec(&["traveller"]), migration, destination, more);
    let (order, options) = (from.number(), options(Mode::Auto));
    let migrate = MigrateOut { order, migration, options, dry_run: false, wish: Some(id) };
    from.order(&Order::MigrateOut(migrate), &[source.as_fd()]);
    let left = from.left();
    assert!(is_live(&to.arrived()));
    // No page of the old memory went along.
    assert!(seen.lock().unwrap().len() < 60_000, "{} bytes", seen.lock().unwrap().len());
    left
}

/// Accepts a client, says so, waits for a byte and leaves weakly; where it arrives, it ends.
const HOST: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "dunlin:agent/mobility" "migrate-weakly" (func $leave (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "b")
    (func (export "_start")
        (i32.store (i32.const 32) (i32.const 64))
        (i32.store (i32.const 36) (i32.const 1))
        (i32.store8 (i32.const 64) (i32.add (i32.const 48) (call $accept (i32.const 3) (i32.const 0) (i32.const 48))))
        (drop (call $write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 40)))
        (drop (call $read (i32.const 0) (i32.const 32) (i32.const 1) (i32.const 40)))
        (drop (call $leave (i32.const 0) (i32.const 1) (i32.const 64) (i32.const 1))))
    (func (export "arrive") (call $exit (i32.const 7))))"#;

#[test]
fn connections_do_not_travel_weakly() {
    let world = World::new(wat::parse_str(HOST).unwrap());
    let [a, b] = ["a", "b"].map(|name| Machine::new(&world, name));
    let (output, mut said) = UnixStream::pair().unwrap();
    let (mut input, read) = UnixStream::pair().unwrap();
    said.set_read_timeout(Some(PATIENCE)).unwrap();
    let (listening, address) = common::listener();
    let more = || {
        let streams = [(Role::Stdin, read.try_clone().unwrap()), (Role::Stdout, output.try_clone().unwrap())];
        let streams = streams.into_iter().map(|(role, stream)| (role, stream.into()));
        streams.chain([(Role::Listener, listening.try_clone().unwrap())]).collect::<Vec<_>>()
    };
    let first = a.keep();
    first.start_service(&world.spec(&["traveller"]), Origin::First, more());
    first.running();
    let client = std::net::TcpStream::connect(address).unwrap();
    let mut text = [0];
    said.read_exact(&mut text).unwrap();
    assert_eq!(text, [48]);
    // The checkpoint has the connection.
    first.checkpoint();
    input.write_all(b".").unwrap();
    let second = b.keep();
    let left = fulfil(&first, &second, &world, 1, more());
    assert_eq!(left.connections, [], "nobody is there to go on with them");
    assert_eq!(second.ended().how, EndedHow::Exited(7));
    drop(client);
}

#[test]
fn a_traveller_takes_its_luggage_to_three_nodes_and_nothing_else() {
    let world = World::new(wat::parse_str(TRAVELLER).unwrap());
    let (output, mut said) = UnixStream::pair().unwrap();
    said.set_read_timeout(Some(PATIENCE)).unwrap();
    let more = || vec![(Role::Stdout, output.try_clone().unwrap().into())];
    let [a, b, c] = ["a", "b", "c"].map(|name| Machine::new(&world, name));
    let mut hear = |length: usize| {
        let mut text = vec![0; length];
        said.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    };
    let first = a.keep();
    first.start_service(&world.spec(&["traveller"]), Origin::First, more());
    first.running();
    // ENOENT is 44.
    assert_eq!(hear(1), char::from(28 + 44).to_string());
    // One that is refused is where it was, with everything.
    let (id, _) = wish(&first);
    first.order(&Order::WishRefused(WishRefused { wish: id, text: "not now".to_owned() }), &[]);
    assert_eq!(hear(1), char::from(48 + 23).to_string());
    let second = b.keep();
    fulfil(&first, &second, &world, 1, more());
    assert_eq!(hear(4), "1b00");
    let third = c.keep();
    fulfil(&second, &third, &world, 2, more());
    assert_eq!(hear(4), "2c00");
    assert_eq!(third.ended().how, EndedHow::Exited(2));
}

#[test]
fn a_traveller_that_dies_after_its_arrival_begins_where_it_arrived() {
    let world = World::new(wat::parse_str(TRAVELLER).unwrap());
    let (output, mut said) = UnixStream::pair().unwrap();
    said.set_read_timeout(Some(PATIENCE)).unwrap();
    let more = || vec![(Role::Stdout, output.try_clone().unwrap().into())];
    let [a, b] = ["a", "b"].map(|name| Machine::new(&world, name));
    let mut text = [0; 5];
    let first = a.keep();
    first.start_service(&world.spec(&["traveller"]), Origin::First, more());
    first.running();
    let second = b.keep();
    fulfil(&first, &second, &world, 1, more());
    said.read_exact(&mut text).unwrap();
    assert_eq!(&text[1..], b"1b00");
    second.kill();
    let again = b.keep();
    again.start_service(&world.spec(&["traveller"]), Origin::Again, more());
    again.running();
    said.read_exact(&mut text[1..]).unwrap();
    assert_eq!(&text[1..], b"1b00");
}

#[test]
fn a_program_that_cannot_arrive_does_not_leave_weakly() {
    let text = TRAVELLER.replace("(export \"arrive\")", "(export \"elsewhere\")");
    let world = World::new(wat::parse_str(text).unwrap());
    let (output, mut said) = UnixStream::pair().unwrap();
    said.set_read_timeout(Some(PATIENCE)).unwrap();
    let [a, b] = ["a", "b"].map(|name| Machine::new(&world, name));
    let first = a.keep();
    first.start_service(&world.spec(&["traveller"]), Origin::First, vec![(Role::Stdout, output.into())]);
    first.running();
    let (id, _) = wish(&first);
    let second = b.keep();
    let Wire { source, destination, .. } = Wire::new();
    second.migrate_in(&world.spec(&["traveller"]), MigrationId([1; 16]), destination, Vec::new());
    let (order, options) = (first.number(), options(Mode::Auto));
    let migrate = MigrateOut { order, migration: MigrationId([1; 16]), options, dry_run: false, wish: Some(id) };
    first.order(&Order::MigrateOut(migrate), &[source.as_fd()]);
    let failed = first.failed();
    assert_eq!(failed.code, FailCode::NotMovable);
    assert!(failed.text.contains("arrive"), "{}", failed.text);
    let mut text = [0; 2];
    said.read_exact(&mut text).unwrap();
    assert_eq!(text[1], 48 + 23);
}
