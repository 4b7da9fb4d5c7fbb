//! Every module that the pass writes is valid, in every variant.

use dunlin_instrument::{Analysis, Options, Poll, Variant, instrument};

const MODULE: &str = r#"(module
  (type $bin (func (param i32 i32) (result i32)))
  (import "env" "tick" (func $tick (param i32) (result i32)))
  (memory (export "memory") 1)
  (table $t 4 funcref)
  (elem (i32.const 0) $fib $sum $tick)
  (elem $late func $fib)
  (data $d "abc")
  (global $g (mut i64) (i64.const 7))
  (tag $e (param i32))
  (func $fib (export "fib") (param $n i32) (result i32)
    (if (result i32) (i32.lt_s (local.get $n) (i32.const 2))
      (then (local.get $n))
      (else (i32.add (call $fib (i32.sub (local.get $n) (i32.const 1))) (call $fib (i32.sub (local.get $n) (i32.const 2)))))))
  (func $sum (export "sum") (param $n i32) (result i32)
    (local $i i32) (local $s i32)
    (loop $l
      (local.set $s (i32.add (local.get $s) (local.get $i)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $l (i32.lt_u (local.get $i) (local.get $n))))
    (local.get $s))
  (func $mixed (export "mixed") (param $n i32) (result i32)
    (local $f f64) (local $r funcref)
    (local.set $r (ref.func $fib))
    i32.const 1000
    (block $out (result i32)
      (loop $l (result i32)
        (local.set $f (f64.add (local.get $f) (f64.const 1.5)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br_if $out (call_indirect $t (param i32) (result i32) (local.get $n) (i32.const 1)) (i32.eqz (local.get $n)))
        drop
        (table.set $t (i32.const 3) (local.get $r))
        (try_table (result i32) (catch $e $out)
          (call $tick (local.get $n))
          (if (result i32) (i32.eqz) (then (throw $e (i32.const 5))) (else (i32.const 1))))
        (br_if $l (local.get $n))
        (drop)
        (i32.const 3)))
    i32.add
    data.drop $d
    elem.drop $late)
  (func (export "tail") (param i32) (result i32)
    (if (i32.eqz (local.get 0)) (then (return (i32.const 9))))
    (return_call $mixed (local.get 0)))
)"#;

#[test]
fn output_is_valid_in_every_variant() {
    let wasm = wat::parse_str(MODULE).unwrap();
    let mut maps = Vec::new();
    for poll in [Poll::Flag, Poll::Count] {
        for variant in [Variant::Fresh, Variant::Resume] {
            let out = instrument(&wasm, Options { poll, variant }).unwrap();
            let text = wasmprinter::print_bytes(&out.wasm).unwrap();
            wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all())
                .validate_all(&out.wasm)
                .unwrap_or_else(|error| panic!("{poll:?} {variant:?}: {error}\n{text}"));
            if std::env::var("SHOW").is_ok() {
                println!("{text}");
            }
            maps.push(out.map);
        }
    }
    assert!(maps.windows(2).all(|pair| pair[0] == pair[1]), "variants share the map");
}

#[test]
fn resuming_code_for_a_known_stack_is_valid_and_small() {
    let wasm = wat::parse_str(MODULE).unwrap();
    let analysis = Analysis::of(&wasm).unwrap();
    let all = analysis.instrument(Options { poll: Poll::Flag, variant: Variant::Resume });
    // $mixed is function 3: tick, fib, sum come before.
    let some = analysis.instrument_resuming(Poll::Flag, &[3].into());
    wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all()).validate_all(&some.wasm).unwrap();
    assert_eq!((&some.map, analysis.map()), (&all.map, &all.map));
    assert!(some.wasm.len() < all.wasm.len());
}
