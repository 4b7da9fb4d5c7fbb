;; Blocks and loops with parameters and several results; a br_table with edges to two different loops and a block.
;; call run i32:1
;; call run i32:12345
(module
  (func (export "run") (param $seed i32) (result i32 i64 f64)
    (local $fuel i32)
    (local.set $fuel (i32.const 60))
    (i32.const 1) (i64.const 2) (f64.const 0.5)
    (block $out (param i32 i64 f64) (result i32 i64 f64)
      (loop $outer (param i32 i64 f64) (result i32 i64 f64)
        (f64.add (f64.const 0.25))
        (loop $inner (param i32 i64 f64) (result i32 i64 f64)
          (local.set $fuel (i32.sub (local.get $fuel) (i32.const 1)))
          (local.set $seed (i32.add (i32.mul (local.get $seed) (i32.const 1103515245)) (i32.const 12345)))
          (f64.mul (f64.const 1.5))
          (block $mix (param i32 i64 f64) (result i32 i64 f64)
            (br_if $out (i32.eqz (local.get $fuel)))
            (br_table $outer $inner $mix (i32.rem_u (i32.shr_u (local.get $seed) (i32.const 16)) (i32.const 3))))
          (f64.neg)
          (br_if $inner (i32.and (local.get $seed) (i32.const 0x10000)))
          (br_if $outer (i32.and (local.get $seed) (i32.const 0x20000))))
        (br $outer)))))
