//! The real instrumentation pass, stopped at many safepoints and moved between all tiers.
#![allow(missing_docs, reason = "a test program")]

mod common;

use common::{engine, host};
use dunlin_base::Value;
use dunlin_engine::{Code, Engine, Instance, Limits, Outcome, Tier};
use dunlin_instrument::{Options, Poll, Variant, instrument};

const PROGRAM: &str = r#"(module
  (import "env" "tick" (func $tick (param i32) (result i32)))
  (type $op (func (param i32 i32) (result i32)))
  (memory (export "memory") 1 3) (data (i32.const 8) "seed") (data $p "passive")
  (table $t 4 8 funcref) (elem (table $t) (i32.const 0) func $add $mul)
  (global $sum (mut i64) (i64.const 0)) (global $last (mut funcref) (ref.null func))
  (func $add (type $op) (i32.add (local.get 0) (local.get 1)))
  (func $mul (type $op) (call $tick (i32.mul (local.get 0) (local.get 1))))
  (func $fib (param i32) (result i32)
    (if (result i32) (i32.lt_s (local.get 0) (i32.const 2)) (then (local.get 0))
      (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1)))
        (call $fib (i32.sub (local.get 0) (i32.const 2)))))))
  (func (export "run") (param $n i32) (result i32)
    (local $i i32) (local $acc i32) (local $f funcref) (local $v v128) (local $q f64)
    (local.set $f (ref.func $mul))
    (local.set $q (f64.const -nan:0x8000000000001))
    (loop $l
      (local.set $v (i32x4.add (local.get $v) (i32x4.splat (local.get $i))))
      (local.set $acc (i32.add (local.get $acc)
        (call_indirect $t (type $op) (local.get $i) (i32.const 3) (i32.and (local.get $i) (i32.const 1)))))
      (table.set $t (i32.const 2) (local.get $f))
      (i32.store (i32.shl (local.get $i) (i32.const 9)) (local.get $acc))
      (global.set $sum (i64.add (global.get $sum) (i64.extend_i32_s (local.get $acc))))
      (br_if $l (i32.ne (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
    (global.set $last (local.get $f))
    (drop (memory.grow (i32.const 1)))
    (memory.init $p (i32.const 70000) (i32.const 0) (i32.const 7))
    (data.drop $p)
    (v128.store (i32.const 70016) (local.get $v))
    (f64.store (i32.const 70032) (local.get $q))
    (i32.add (local.get $acc) (call $fib (i32.const 7)))))"#;

fn compile(engine: &Engine, variant: Variant) -> Code {
    let wasm = wat::parse_str(PROGRAM).unwrap();
    let instrumented = instrument(&wasm, Options { poll: Poll::Count, variant }).unwrap();
    Code::instrumented(engine, &instrumented).unwrap()
}

#[test]
fn moving_at_every_safepoint_changes_nothing_on_any_pair() {
    let engines = Tier::ALL.map(engine);
    let fresh = engines.each_ref().map(|engine| compile(engine, Variant::Fresh));
    let resume = engines.each_ref().map(|engine| compile(engine, Variant::Resume));
    let args = [Value::I32(11)];
    let plain = Code::plain(&engines[0], &wat::parse_str(PROGRAM).unwrap()).unwrap();
    let plain = Instance::new(&plain, host(), Limits::default()).unwrap().invoke("run", &args).unwrap();
    let mut whole = Instance::new(&fresh[0], host(), Limits::default()).unwrap();
    assert_eq!(whole.invoke("run", &args).unwrap(), plain);
    let expected = whole.observe().unwrap();
    let mut stops = 0;
    for count in 1.. {
        let mut states = Vec::new();
        for code in &fresh {
            let mut source = Instance::new(code, host(), Limits::default()).unwrap();
            source.set_count(count).unwrap();
            match source.invoke("run", &args).unwrap() {
                Outcome::Stopped => states.push(source.capture().unwrap()),
                outcome => assert_eq!(outcome, plain),
            }
        }
        if states.is_empty() {
            break;
        }
        stops += 1;
        assert_eq!(states.len(), 3);
        assert!(states.iter().all(|state| *state == states[0]), "stop {count} differs between tiers");
        for code in &resume {
            let mut target = Instance::restore(code, &states[0], host(), Limits::default()).unwrap();
            assert_eq!(target.resume(&[]).unwrap(), plain, "stop {count}, to {code:?}");
            assert_eq!(target.observe().unwrap(), expected, "stop {count}, to {code:?}");
        }
    }
    println!("{stops} stops");
    assert!(stops > 10, "{stops}");
}
