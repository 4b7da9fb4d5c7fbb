;; return_call and return_call_indirect in long mutual tail loops: constant stack, stoppable, no frame left behind.
;; call direct i32:300
;; call indirect i32:300
;; call host i32:30
(module
  (import "env" "number" (func $number (param i32) (result i32)))
  (type $f (func (param i32 i64 f32) (result i64)))
  (table funcref (elem $c $d))
  (func $a (type $f)
    (if (i32.eqz (local.get 0)) (then (return (i64.add (local.get 1) (i64.trunc_f32_s (local.get 2))))))
    (return_call $b (i32.sub (local.get 0) (i32.const 1)) (i64.add (local.get 1) (i64.const 3)) (local.get 2)))
  (func $b (type $f)
    (return_call $a (local.get 0) (local.get 1) (f32.add (local.get 2) (f32.const 0.5))))
  (func $c (type $f)
    (if (i32.eqz (local.get 0)) (then (return (local.get 1))))
    (return_call_indirect (type $f)
      (i32.sub (local.get 0) (i32.const 1)) (i64.rotl (local.get 1) (i64.const 3)) (local.get 2)
      (i32.and (local.get 0) (i32.const 1))))
  (func $d (type $f)
    (return_call_indirect (type $f)
      (local.get 0) (i64.xor (local.get 1) (i64.extend_i32_u (local.get 0))) (local.get 2) (i32.const 0)))
  (func $ask (param i32) (result i32) (return_call $number (local.get 0)))
  (func (export "direct") (param i32) (result i64) (call $a (local.get 0) (i64.const 0) (f32.const 0)))
  (func (export "indirect") (param i32) (result i64)
    (i64.add (i64.const 1) (call $c (local.get 0) (i64.const 9) (f32.const 0))))
  (func (export "host") (param i32) (result i32) (local $sum i32)
    (loop $l
      (local.set $sum (i32.add (local.get $sum) (call $ask (local.get 0))))
      (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
    (local.get $sum)))
