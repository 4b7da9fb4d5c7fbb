;; return_call_ref and call_ref in a mutual tail loop; references to functions of several types are live.
;; refused wasmi
;; call run i32:100
(module
  (type $f (func (param i32 i64) (result i64)))
  (type $g (func (param (ref null $f) i32 i64) (result i64)))
  (elem declare func $a $b)
  (func $a (type $f)
    (local $next (ref null $f))
    (if (i32.eqz (local.get 0)) (then (return (local.get 1))))
    (local.set $next (if (result (ref $f)) (i32.and (local.get 0) (i32.const 1))
      (then (ref.func $a)) (else (ref.func $b))))
    (return_call_ref $f (i32.sub (local.get 0) (i32.const 1)) (i64.add (local.get 1) (i64.const 7)) (local.get $next)))
  (func $b (type $f)
    (return_call_ref $f (local.get 0) (i64.mul (local.get 1) (i64.const 3)) (ref.func $a)))
  (func $through (type $g) (local $i i32)
    (loop $l
      (local.set 2 (i64.xor (local.get 2)
        (call_ref $f (local.get $i) (i64.const 5) (ref.as_non_null (local.get 0)))))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 5))))
    (local.get 2))
  (func (export "run") (param i32) (result i64)
    (i64.add
      (call_ref $f (local.get 0) (i64.const 1) (ref.func $b))
      (call $through (ref.func $a) (i32.const 0) (i64.const 11)))))
