//! Programs that make it hard to move them. A move of them ends: they moved or they did not, as their operator chose,
//! and either way they go on as if nothing had happened.

use std::time::Duration;

use dunlin_engine::{Lazy, Tier};
use dunlin_handover::converge::{Mode, Options, TimeoutAction};
use dunlin_handover::source;

use crate::moving::{Ways, options};
use crate::world::{Program, World};

/// Dirties every one of its pages in every round.
const EVERY_PAGE: &str = r#"(module
    (import "env" "more" (func $more (param i32) (result i32)))
    (memory (export "memory") 40 40)
    (func (export "run") (result i64)
        (local $i i32) (local $n i32) (local $sum i64)
        (loop $again
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (local.set $i (i32.const 0))
            (loop $page
                (i32.store (local.get $i) (i32.add (local.get $n) (local.get $i)))
                (local.set $i (i32.add (local.get $i) (i32.const 4096)))
                (br_if $page (i32.lt_u (local.get $i) (i32.const 2621440))))
            (br_if $again (call $more (local.get $n))))
        (local.set $i (i32.const 0))
        (loop $add
            (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31)) (i64.load (local.get $i))))
            (local.set $i (i32.add (local.get $i) (i32.const 8)))
            (br_if $add (i32.lt_u (local.get $i) (i32.const 2621440))))
        (local.get $sum)))"#;

/// Writes nothing itself: what changes in its memory is what the host writes there.
const ONLY_HOST: &str = r#"(module
    (import "env" "more" (func $more (param i32) (result i32)))
    (memory (export "memory") 40 40)
    (func (export "run") (result i64)
        (local $i i32) (local $n i32) (local $sum i64)
        (loop $again
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (call $more (local.get $n))))
        (loop $add
            (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31)) (i64.load (local.get $i))))
            (local.set $i (i32.add (local.get $i) (i32.const 8)))
            (br_if $add (i32.lt_u (local.get $i) (i32.const 2621440))))
        (local.get $sum)))"#;

/// Grows by a page in every round until it may not any more, and writes at its new end.
const GROWING: &str = r#"(module
    (import "env" "more" (func $more (param i32) (result i32)))
    (memory (export "memory") 1 200)
    (func (export "run") (result i64)
        (local $i i32) (local $n i32) (local $sum i64)
        (loop $again
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (drop (memory.grow (i32.const 1)))
            (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (local.get $n))
            (br_if $again (call $more (local.get $n))))
        (loop $add
            (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31)) (i64.load (local.get $i))))
            (local.set $i (i32.add (local.get $i) (i32.const 8)))
            (br_if $add (i32.lt_u (local.get $i) (i32.mul (memory.size) (i32.const 65536)))))
        (i64.add (local.get $sum) (i64.extend_i32_u (memory.size)))))"#;

/// Copies megabytes in single instructions, again and again: wherever it is stopped, it is in or beside one.
const HUGE_COPY: &str = r#"(module
    (import "env" "more" (func $more (param i32) (result i32)))
    (memory (export "memory") 200 200)
    (func (export "run") (result i64)
        (local $i i32) (local $n i32) (local $sum i64)
        (loop $again
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (i32.store (i32.mul (i32.rem_u (local.get $n) (i32.const 1000)) (i32.const 4096)) (local.get $n))
            (local.set $i (i32.const 0))
            (loop $copy
                (memory.copy (i32.const 6000000) (i32.const 1) (i32.const 6000000))
                (memory.copy (i32.const 3) (i32.const 6000000) (i32.const 6000000))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $copy (i32.lt_u (local.get $i) (i32.const 3))))
            (br_if $again (call $more (local.get $n))))
        (local.set $i (i32.const 0))
        (loop $add
            (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31)) (i64.load (local.get $i))))
            (local.set $i (i32.add (local.get $i) (i32.const 8)))
            (br_if $add (i32.lt_u (local.get $i) (i32.const 13107200))))
        (local.get $sum)))"#;

/// Moves in every mode; what a mode cannot do, it says.
fn moves(text: &'static str, writes: bool) {
    for mode in [Mode::Stop, Mode::Precopy, Mode::Postcopy, Mode::Hybrid, Mode::Auto] {
        if mode == Mode::Postcopy && !Lazy::is_available() {
            continue;
        }
        let world = World::of(Program::new(Tier::Cranelift, text), Duration::from_micros(100), writes);
        let (source, _) = world.end(world.begin(options(mode), &Ways::default()));
        assert!(matches!(source.outcome, source::Outcome::Moved { .. }), "{mode:?}: {source:?}");
    }
}

#[test]
fn a_program_that_dirties_every_page_moves_or_stays_as_its_operator_chose() {
    moves(EVERY_PAGE, false);
    let program = || World::of(Program::new(Tier::Cranelift, EVERY_PAGE), Duration::ZERO, false);
    let tight = Options { max_downtime: Duration::from_micros(1), ..options(Mode::Precopy) };
    let world = program();
    let abort = Options { timeout_action: TimeoutAction::Abort, ..tight.clone() };
    let (source, _) = world.end(world.begin(abort, &Ways::default()));
    assert!(matches!(source.outcome, source::Outcome::Stayed { epoch: 2, .. }), "{source:?}");
    let world = program();
    let stop = Options { timeout_action: TimeoutAction::Stop, ..tight };
    let (source, _) = world.end(world.begin(stop, &Ways::default()));
    assert!(matches!(source.outcome, source::Outcome::Moved { .. }), "{source:?}");
    assert!(source.statistics.ram.dirty_sync_count <= 8, "{:?}", source.statistics.ram);
    if Lazy::is_available() {
        let world = program();
        let hybrid = Options { max_downtime: Duration::from_micros(1), ..options(Mode::Hybrid) };
        let (source, _) = world.end(world.begin(hybrid, &Ways::default()));
        assert!(matches!(source.outcome, source::Outcome::Moved { .. }), "{source:?}");
        assert!(source.statistics.ram.postcopy_bytes > 0, "{:?}", source.statistics.ram);
    }
}

#[test]
fn a_program_that_only_its_host_writes_to_moves() {
    moves(ONLY_HOST, true);
}

#[test]
fn a_program_that_grows_while_it_is_copied_moves() {
    moves(GROWING, false);
}

#[test]
fn a_program_inside_a_huge_copy_moves() {
    moves(HUGE_COPY, false);
}
