//! What cannot be carried is refused when the module is read: every reason, with function, offset and feature.

use dunlin_instrument::{Blocker, Error, Options, instrument};

fn blockers(text: &str) -> Vec<Blocker> {
    match instrument(&wat::parse_str(text).unwrap(), Options::default()) {
        Err(Error::Blocked(blockers)) => blockers,
        other => panic!("expected a refusal, got {:?}", other.map(|_| "success")),
    }
}

#[track_caller]
fn refused(text: &str, function: Option<u32>, feature: &str) {
    let blockers = blockers(text);
    let found = blockers.iter().find(|blocker| blocker.function == function && blocker.feature == feature);
    let found = found.unwrap_or_else(|| panic!("{feature} in {function:?} not among {blockers:#?}"));
    assert!(found.offset > 0 && !found.detail.is_empty(), "{found:?}");
}

#[test]
fn shared_memory() {
    refused("(module (memory 1 2 shared))", None, "threads (shared memory, atomics)");
}

#[test]
fn atomics() {
    refused(
        "(module (memory 1) (func) (func (drop (i32.atomic.load (i32.const 0)))))",
        Some(1),
        "threads (shared memory, atomics)",
    );
}

#[test]
fn gc_types() {
    refused("(module (type (struct (field i32))))", None, "GC types or continuations");
    refused("(module (table 1 anyref))", None, "GC types");
    refused("(module (global i31ref (ref.i31 (i32.const 1))))", None, "GC types");
    refused("(module (func (local eqref)))", Some(0), "GC types");
    refused("(module (func (drop (ref.i31 (i32.const 3)))))", Some(0), "GC types");
}

#[test]
fn legacy_exceptions() {
    // The text format of today no longer writes them: `try` (0x06), `end`.
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    module.extend([1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0, 10, 7, 1, 5, 0, 0x06, 0x40, 0x0b, 0x0b]);
    match instrument(&module, Options::default()) {
        Err(Error::Blocked(blockers)) => {
            assert_eq!(
                (blockers[0].feature, blockers[0].function, blockers[0].offset),
                ("legacy exceptions", Some(0), 23)
            );
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn results_that_nobody_can_make_up() {
    refused(
        "(module (func (param (ref extern)) (result (ref extern)) (local.get 0)))",
        Some(0),
        "non-nullable externref or exnref result",
    );
}

#[test]
fn tail_calls_that_may_reach_an_import_by_reference() {
    refused(
        "(module (type $f (func (result i32))) (import \"env\" \"f\" (func $f (type $f))) (table funcref (elem $f))
           (func (result i32) (return_call_indirect (type $f) (i32.const 0))))",
        Some(1),
        "tail call through a reference that may reach an import",
    );
}

#[test]
fn reserved_names_and_components() {
    refused("(module (func (export \"dunlin:start\")))", None, "reserved export name");
    let component = b"\0asm\x0d\0\x01\0";
    assert!(
        matches!(instrument(component, Options::default()), Err(Error::Blocked(found)) if found[0].feature == "components")
    );
}

#[test]
fn all_reasons_are_given_at_once() {
    let found = blockers(
        "(module (memory 1)
           (func (drop (i32.atomic.load (i32.const 0))) (drop (ref.i31 (i32.const 1))))
           (func (drop (i64.atomic.load (i32.const 0)))))",
    );
    let pairs: Vec<_> = found.iter().map(|blocker| (blocker.function, blocker.feature)).collect();
    assert!(pairs.contains(&(Some(1), "threads (shared memory, atomics)")), "{pairs:?}");
    assert!(pairs.contains(&(Some(0), "threads (shared memory, atomics)")), "{pairs:?}");
}

#[test]
fn what_is_no_module_is_invalid() {
    for bytes in [
        &b""[..],
        b"\0asm",
        b"\0asm\x01\0\0\0\x01",
        b"not wasm at all",
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\x05",
    ] {
        assert!(matches!(instrument(bytes, Options::default()), Err(Error::Invalid(_))), "{bytes:?}");
    }
}
