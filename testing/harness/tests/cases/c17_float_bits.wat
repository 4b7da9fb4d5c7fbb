;; Every kind of float bits in locals, on the operand stack, in globals and in memory: quiet and signalling NaN with
;; payload and sign, negative zero, denormals. They are moved, never computed with, so they must come back bit by bit.
;; call run f32:0x7fa00001 f64:0x7ff4000000000001
;; call run f32:0xffc12345 f64:0xfff8000000abcdef
;; call run f32:0x80000000 f64:0x8000000000000000
;; call run f32:0x00000001 f64:0x800fffffffffffff
;; call run f32:0xff800001 f64:0xfff0000000000001
(module
  (import "env" "keep" (func $keep (param f32 f64)))
  (memory (export "memory") 1)
  (global $f (mut f32) (f32.const -nan:0x200000))
  (global $d (mut f64) (f64.const nan:0x4000000000000))
  (func $through (param f32 f64 i32) (result f32 f64)
    (loop $l (br_if $l (local.tee 2 (i32.sub (local.get 2) (i32.const 1)))))
    (local.get 0) (local.get 1))
  (func (export "run") (param $f f32) (param $d f64) (result f32 f64 f32 f64) (local $g f32) (local $h f64)
    (local.set $g (f32.const nan:0x1))
    (local.set $h (f64.const -nan:0x1))
    (i32.const 8) (global.get $d)
    (i32.const 4) (global.get $f)
    (i32.const 16) (local.get $d)
    (call $through (local.get $f) (local.get $d) (i32.const 3))
    (global.set $d) (global.set $f)
    (f64.store) (f32.store) (f64.store)
    (f64.store (i32.const 24) (local.get $h))
    (f32.store (i32.const 32) (local.get $g))
    (call $keep (global.get $f) (local.get $h))
    (local.get $f) (local.get $d)
    (call $through (local.get $g) (local.get $h) (i32.const 2))))
