//! Caught exceptions are state like everything else.
#![allow(missing_docs, reason = "a test program")]

mod common;

use common::{engine, host};
use dunlin_base::{Digest, Value, ValueType};
use dunlin_engine::{Code, Error, Instance, Limits, Outcome, Tier, TrapKind};
use dunlin_instrument::{
    ControlLayout, FunctionInfo, GlobalInfo, Instrumented, KnownDigest, LiveValue, Map, Safepoint, SafepointKind, Slot,
    TableInfo,
};
use dunlin_snapshot::Exception;

const TIERS: [Tier; 2] = [Tier::Cranelift, Tier::Pulley];

fn instrumented() -> Instrumented {
    use ValueType::{ExnRef, FuncRef, I64, V128};
    let function = |params: Vec<_>, results: Vec<_>, safepoints, escapes| FunctionInfo {
        params,
        results,
        first_safepoint: 0,
        safepoints,
        escapes,
    };
    let map = Map {
        module: Digest::of(b"exceptions"),
        imported_functions: 0,
        functions: vec![function(vec![], vec![I64], 1, false), function(vec![I64], vec![], 0, true)],
        safepoints: vec![Safepoint {
            function: 0,
            offset: 0,
            kind: SafepointKind::Loop,
            live: vec![LiveValue { slot: Slot::Local(1), ty: ExnRef }],
        }],
        memories: vec![],
        tables: vec![TableInfo { imported: false, ty: ExnRef, nullable: true, minimum: 2, maximum: None }],
        globals: vec![GlobalInfo { imported: false, ty: ExnRef, nullable: true, mutable: true }],
        tags: vec![vec![I64, FuncRef], vec![ExnRef, V128]],
        data_segments: 0,
        elem_segments: 0,
        start: None,
        control: ControlLayout { dropped_data: 16, dropped_elems: 16, frames: 16, largest_record: 12, pages: 1 },
        ref_tables: vec![ExnRef],
        known_digest: KnownDigest::default(),
    };
    Instrumented { wasm: wat::parse_str(include_str!("modules/exceptions.wat")).unwrap(), map: map.into() }
}

#[test]
fn nested_exceptions_move_with_their_identity() {
    let codes = TIERS.map(|tier| Code::instrumented(&engine(tier), &instrumented()).unwrap());
    let mut whole = Instance::new(&codes[0], host(), Limits::default()).unwrap();
    assert_eq!(whole.invoke("run", &[]).unwrap(), Outcome::Finished(vec![Value::I64(42)]));
    for from in &codes {
        let mut source = Instance::new(from, host(), Limits::default()).unwrap();
        assert!(source.stop_handle().request());
        assert_eq!(source.invoke("run", &[]).unwrap(), Outcome::Stopped);
        let state = source.capture().unwrap();
        assert_eq!(state.frames[0].values, [Value::ExnRef(Some(0))]);
        assert_eq!(state.globals, [Value::ExnRef(Some(0))]);
        assert_eq!(state.tables[0].elements, [Value::ExnRef(None), Value::ExnRef(Some(1))]);
        let inner = vec![Value::I64(42), Value::FuncRef(Some(1))];
        let outer = vec![Value::ExnRef(Some(1)), Value::V128((2 << 64) + 1)];
        assert_eq!(state.exceptions, [Exception { tag: 1, values: outer }, Exception { tag: 0, values: inner }]);
        for to in &codes {
            let mut target = Instance::restore(to, &state, host(), Limits::default()).unwrap();
            let seen = target.observe().unwrap();
            assert_eq!((&seen.globals, &seen.tables), (&state.globals, &state.tables));
            assert_eq!(target.resume(&[]).unwrap(), Outcome::Finished(vec![Value::I64(42)]));
        }
        let mut cyclic = state.clone();
        cyclic.exceptions[0].values[0] = Value::ExnRef(Some(0));
        assert!(matches!(Instance::restore(from, &cyclic, host(), Limits::default()), Err(Error::State(_))));
    }
}

#[test]
fn uncaught_exceptions_are_traps() {
    for tier in TIERS {
        let code = Code::instrumented(&engine(tier), &instrumented()).unwrap();
        let mut instance = Instance::new(&code, host(), Limits::default()).unwrap();
        for _ in 0..2 {
            let outcome = instance.invoke("throw", &[Value::I64(1)]).unwrap();
            assert!(
                matches!(&outcome, Outcome::Trapped(trap) if trap.kind == TrapKind::UncaughtException),
                "{outcome:?}"
            );
        }
        assert_eq!(instance.invoke("run", &[]).unwrap(), Outcome::Finished(vec![Value::I64(42)]));
    }
}
