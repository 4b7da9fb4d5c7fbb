//! A program that moves itself along an itinerary.
#![allow(missing_docs, reason = "a test program")]

mod common;

use std::io::Read as _;
use std::os::unix::net::UnixStream;

use common::{Keep, Machine, PATIENCE, Wire, World, is_live, options};
use dunlin_handover::MigrationId;
use dunlin_handover::converge::Mode;
use dunlin_keep_link::{EndedHow, FailCode, MigrateOut, Order, Origin, Report, Role, WishId, WishRefused};
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
