;; v128 in locals, on the operand stack, in globals, as parameters and results; operations of every lane shape, and the
;; relaxed operations.
;; call run i32:6
(module
  (import "env" "vector" (func $vector (param v128) (result v128)))
  (memory 1)
  (global $g (mut v128) (v128.const i8x16 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15))
  (func $mix (param v128 v128) (result v128 v128) (local $i i32)
    (loop $l
      (local.set 0 (i8x16.add (local.get 0) (i8x16.splat (local.get $i))))
      (local.set 1 (i16x8.mul (local.get 1) (v128.const i16x8 3 5 7 9 11 13 15 17)))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 2))))
    (local.get 1) (i8x16.shuffle 0 17 2 19 4 21 6 23 8 25 10 27 12 29 14 31 (local.get 0) (local.get 1)))
  (func (export "run") (param $n i32) (result v128 v128) (local $a v128) (local $f v128) (local $d v128)
    (local.set $a (v128.const i64x2 0x0123456789abcdef 0xfedcba9876543210))
    (local.set $f (v128.const f32x4 1.5 -0.0 nan:0x200001 inf))
    (local.set $d (v128.const f64x2 0x1p-1074 -nan:0x4000000000001))
    (loop $l
      (i32x4.add (local.get $a) (v128.const i32x4 1 2 3 4))
      (i64x2.sub (local.get $a) (v128.const i64x2 5 6))
      (call $mix (local.get $a) (local.get $f))
      (v128.xor)
      (local.set $a (v128.xor))
      (v128.xor (local.get $a))
      (global.set $g (v128.xor (global.get $g)))
      (local.set $f (f32x4.abs (f32x4.neg (local.get $f))))
      (local.set $d (f64x2.neg (local.get $d)))
      (local.set $a (v128.xor (local.get $a) (i32x4.relaxed_trunc_f32x4_s (v128.const f32x4 1.5 2.5 3.5 4.5))))
      (local.set $a (v128.xor (local.get $a) (call $vector (local.get $d))))
      (v128.store (i32.mul (local.get $n) (i32.const 48)) (local.get $a))
      (v128.store offset=16 (i32.mul (local.get $n) (i32.const 48)) (local.get $f))
      (v128.store offset=32 (i32.mul (local.get $n) (i32.const 48)) (local.get $d))
      (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $a) (v128.xor (local.get $f) (local.get $d))))
