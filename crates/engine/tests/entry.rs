//! A state says which entry is on the stack, so that what follows is the right one; one that cannot be is refused.
#![allow(missing_docs, reason = "a test program")]

mod common;

use common::{engine, host};
use dunlin_base::Value;
use dunlin_engine::{Code, Entry, Error, Instance, Limits, Outcome, StateError, Tier};
use dunlin_instrument::{Options, Poll, Variant, instrument};
use dunlin_snapshot::State;

fn export(name: &str) -> Entry {
    Entry::Export(name.to_owned())
}

fn compile(wat: &str, tier: Tier) -> Code {
    let options = Options { poll: Poll::Count, variant: Variant::Resume };
    Code::instrumented(&engine(tier), &instrument(&wat::parse_str(wat).unwrap(), options).unwrap()).unwrap()
}

/// What is left of a run of `entries` that stops at safepoint `count`.
fn stopped(code: &Code, entries: &[Entry], count: i64) -> State {
    let mut instance = Instance::new(code, host(), Limits::default()).unwrap();
    instance.set_count(count).unwrap();
    assert_eq!(instance.run(entries).unwrap(), Outcome::Stopped);
    instance.capture().unwrap()
}

fn restored(code: &Code, state: &State) -> Result<Instance, Error> {
    Instance::restore(code, state, host(), Limits::default())
}

/// The start function and `_start` both end in the same loop, by tail calls: the frame that is left does not tell.
const SAME_TAIL: &str = r#"(module
    (global $trace (mut i64) (i64.const 0))
    (func $note (param i64) (global.set $trace (i64.add (i64.mul (global.get $trace) (i64.const 10)) (local.get 0))))
    (func $spin (param $n i32)
        (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (call $note (i64.const 9)))
    (func $begin (call $note (i64.const 1)) (return_call $spin (i32.const 20)))
    (start $begin)
    (func (export "_start") (call $note (i64.const 2)) (return_call $spin (i32.const 20)))
    (func (export "more") (call $note (i64.const 3)) (return_call $spin (i32.const 5)))
    (func (export "number") (result i32) (i32.const 4)))"#;

#[test]
fn goes_on_with_the_entries_behind_the_one_on_the_stack() {
    let entries = [Entry::Start, export("_start"), export("more")];
    for tier in Tier::ALL {
        let code = compile(SAME_TAIL, tier);
        let mut seen = Vec::new();
        for count in 1.. {
            let mut whole = Instance::new(&code, host(), Limits::default()).unwrap();
            whole.set_count(count).unwrap();
            if whole.run(&entries).unwrap() != Outcome::Stopped {
                break;
            }
            let state = whole.capture().unwrap();
            seen.extend(state.entry.clone());
            let mut instance = restored(&code, &state).unwrap();
            assert!(matches!(instance.resume(&[export("number")]), Err(Error::Entry { matches: 0, .. })));
            let twice = [&entries[..], &entries[..]].concat();
            assert!(matches!(instance.resume(&twice), Err(Error::Entry { matches: 2, .. })));
            assert_eq!(instance.resume(&entries).unwrap(), Outcome::Finished(Vec::new()));
            assert_eq!(instance.observe().unwrap().globals, [Value::I64(192_939)], "{tier}, stop {count}");
        }
        seen.dedup();
        assert_eq!(seen, entries, "{tier}: every entry was on the stack");
    }
}

#[test]
fn one_function_can_be_two_entries() {
    let wat = r#"(module
        (global $calls (mut i32) (i32.const 0))
        (func $both (export "_start") (local $i i32)
            (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
            (loop $l (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 9)))))
        (start $both))"#;
    let code = compile(wat, Tier::Cranelift);
    // Three safepoints in each of the two.
    for (count, entry) in [(2, Entry::Start), (5, export("_start"))] {
        let state = stopped(&code, &Entry::command(), count);
        assert_eq!(state.entry, Some(entry));
        let mut instance = restored(&code, &state).unwrap();
        assert_eq!(instance.resume(&Entry::command()).unwrap(), Outcome::Finished(Vec::new()));
        assert_eq!(instance.observe().unwrap().globals, [Value::I32(2)], "each ran once");
    }
}

#[test]
fn a_missing_or_impossible_entry_is_refused() {
    let wat = r#"(module
        (func $work (param i32) (loop $l (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
        (func (export "run") (call $work (i32.const 30)))
        (func (export "same_type") (call $work (i32.const 3)))
        (func (export "result") (result i32) (i32.const 1)))"#;
    let code = compile(wat, Tier::Cranelift);
    let state = stopped(&code, &[export("run")], 7);
    let refused = |entry: Option<Entry>| match restored(&code, &State { entry, ..state.clone() }) {
        Err(Error::State(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(None), StateError::NoEntry);
    for unknown in [Entry::Start, export("nothing"), export("dunlin:start"), export("")] {
        assert_eq!(refused(Some(unknown.clone())), StateError::UnknownEntry(unknown));
    }
    for foreign in [export("same_type"), export("result")] {
        assert!(matches!(refused(Some(foreign)), StateError::ForeignEntry { function: 1, .. }));
    }
    assert_eq!(restored(&code, &state).unwrap().resume(&[export("run")]).unwrap(), Outcome::Finished(Vec::new()));
    // A tail call may have led to the frame, but not to other results.
    let code = compile(SAME_TAIL, Tier::Cranelift);
    let state = stopped(&code, &Entry::command(), 10);
    let wrong = State { entry: Some(export("number")), ..state.clone() };
    assert!(matches!(restored(&code, &wrong), Err(Error::State(StateError::ForeignEntry { .. }))));
}
