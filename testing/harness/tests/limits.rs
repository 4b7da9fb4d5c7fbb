//! Hard cases that need more than one module in text form: limits, refusals, changed modules.

use dunlin_base::Value;
use dunlin_engine::{Code, Engine, Error, Instance, Outcome, Settings, Tier};
use dunlin_harness::{Call, Effort, Env, LIMITS, Subject, World as _, master_property, seed};
use dunlin_instrument::{Options, Poll, Variant, instrument};
use dunlin_snapshot::Envelope;

/// A function with this many locals that are all live while it stops.
fn many_locals(locals: usize) -> Vec<u8> {
    let mut text = String::from("(module (func (export \"run\") (param $n i32) (result i64) (local $sum i64)");
    (0..locals).for_each(|_| text.push_str("(local i64)"));
    for local in (2..locals + 2).step_by(1 + locals / 200) {
        text.push_str(&format!("(local.set {local} (i64.const {local}))"));
    }
    text.push_str("(loop $l (local.set 0 (i32.sub (local.get 0) (i32.const 1)))");
    for local in (2..locals + 2).step_by(1 + locals / 200) {
        text.push_str(&format!("(local.set 1 (i64.add (i64.rotl (local.get 1) (i64.const 1)) (local.get {local})))"));
    }
    text.push_str("(br_if $l (local.get 0))) (local.get 1)))");
    wat::parse_str(text).unwrap()
}

#[test]
fn a_function_with_nearly_fifty_thousand_locals_goes_on() {
    let subject = Subject::new("49,000 locals", &many_locals(49_000), &[Tier::Cranelift, Tier::Pulley]).unwrap();
    let call = Call::Invoke { export: "run".to_owned(), args: vec![Value::I32(4)] };
    let report = master_property(&subject, &call, &Env::default(), Effort::thorough(seed())).unwrap();
    assert!(report.stops > 0 && report.pairs == 4, "{report:?}");
}

const DOWN: &str = r#"(module
    (func $spin (param i32) (loop $l (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
    (func $down (export "run") (param i32) (result i64)
        (if (i32.eqz (local.get 0)) (then (call $spin (i32.const 4)) (return (i64.const 1))))
        (i64.add (i64.extend_i32_u (local.get 0)) (call $down (i32.sub (local.get 0) (i32.const 1))))))"#;

fn code(tier: Tier, wasm_stack: usize, wasm: &[u8], variant: Variant) -> Code {
    let engine = Engine::new(tier, Settings { wasm_stack, ..Settings::default() }).unwrap();
    Code::instrumented(&engine, &instrument(wasm, Options { poll: Poll::Count, variant }).unwrap()).unwrap()
}

/// The stack of `DOWN` at its innermost loop, `depth` calls deep.
fn stopped(tier: Tier, wasm_stack: usize, depth: i32) -> dunlin_snapshot::State {
    let wasm = wat::parse_str(DOWN).unwrap();
    let mut instance =
        Instance::new(&code(tier, wasm_stack, &wasm, Variant::Fresh), Env::default().fresh(), LIMITS).unwrap();
    instance.set_count(1).unwrap();
    assert_eq!(instance.invoke("run", &[Value::I32(depth)]).unwrap(), Outcome::Stopped);
    instance.capture().unwrap()
}

#[test]
fn a_stack_that_does_not_fit_is_refused_and_nothing_runs() {
    let wasm = wat::parse_str(DOWN).unwrap();
    for from in Tier::ALL {
        let state = stopped(from, 32 << 20, 60_000);
        assert_eq!(state.frames.len(), 60_002);
        for to in Tier::ALL {
            let small = code(to, 1 << 16, &wasm, Variant::Resume);
            let mut restored = Instance::restore(&small, &state, Env::default().fresh(), LIMITS).unwrap();
            let refused = restored.resume(&[]);
            assert!(matches!(refused, Err(Error::Rewind(_))), "{from} to {to}: {refused:?}");
            assert!(restored.resume(&[]).is_err(), "it cannot be resumed again");
            let large = code(to, 64 << 20, &wasm, Variant::Resume);
            let mut restored = Instance::restore(&large, &state, Env::default().fresh(), LIMITS).unwrap();
            let sum = 60_000_i64 * 60_001 / 2 + 1;
            assert_eq!(restored.resume(&[]).unwrap(), Outcome::Finished(vec![Value::I64(sum)]), "{from} to {to}");
        }
    }
}

#[test]
fn a_snapshot_of_a_changed_module_is_refused() {
    // Function names are gone, nothing else: as `strip` leaves it.
    let original = wat::parse_str(DOWN).unwrap();
    let stripped = without_custom_sections(&original);
    assert_ne!(original, stripped);
    let subject = Subject::new("original", &original, &Tier::ALL).unwrap();
    let changed = Subject::new("stripped", &stripped, &Tier::ALL).unwrap();
    let state = stopped(Tier::Cranelift, 1 << 20, 3);
    let bytes = dunlin_harness::Shipping::new(subject.map.clone()).encode(state).unwrap();
    assert!(subject.decode(&bytes).is_ok());
    let refused = Envelope::open(&bytes, &dunlin_snapshot::Limits::default()).unwrap().decode(&changed.map);
    assert!(matches!(refused, Err(dunlin_snapshot::Error::ForeignModule { .. })), "{refused:?}");
    // What the pass has written is itself a module, but not one that it takes again.
    let instrumented = instrument(&original, Options { poll: Poll::Flag, variant: Variant::Fresh }).unwrap().wasm;
    assert!(instrument(&instrumented, Options::default()).is_err());
}

/// A module without its custom sections.
fn without_custom_sections(wasm: &[u8]) -> Vec<u8> {
    let mut out = wasm[..8].to_vec();
    let mut at = 8;
    while at < wasm.len() {
        let (mut size, mut shift, mut head) = (0_usize, 0, at + 1);
        loop {
            size |= usize::from(wasm[head] & 0x7f) << shift;
            shift += 7;
            head += 1;
            if wasm[head - 1] & 0x80 == 0 {
                break;
            }
        }
        if wasm[at] != 0 {
            out.extend_from_slice(&wasm[at..head + size]);
        }
        at = head + size;
    }
    out
}

#[test]
fn what_cannot_be_carried_is_refused_with_its_place() {
    for (text, feature, detail) in [
        ("(module (memory 1 1 shared))", "threads", "memory 0"),
        ("(module (type (struct (field i32))))", "GC", ""),
        ("(module (func (import \"a\" \"b\")) (func (result (ref extern)) unreachable))", "externref", ""),
        ("(module (memory 1 1 shared) (func (drop (i32.atomic.load (i32.const 0)))))", "threads", ""),
    ] {
        let wasm = wat::parse_str(text).unwrap();
        let Err(dunlin_instrument::Error::Blocked(blockers)) = instrument(&wasm, Options::default()) else {
            panic!("{text} is not refused");
        };
        assert!(
            blockers.iter().any(|one| one.feature.contains(feature) && one.detail.contains(detail)),
            "{blockers:?}"
        );
        assert!(blockers.iter().all(|one| one.offset < wasm.len()), "{blockers:?}");
    }
}
