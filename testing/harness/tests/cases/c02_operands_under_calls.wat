;; The value of one call is live on the operand stack while the program stops in the next one.
;; call sum
;; call nest
(module
  (import "env" "number" (func $number (result i32)))
  (func $count (param i32) (result i32) (local $i i32)
    (loop $l
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get 0))))
    (local.get $i))
  (func $f (result i32) (i32.add (call $count (i32.const 3)) (i32.const 100)))
  (func $g (result i32) (i32.mul (call $count (i32.const 4)) (i32.const 7)))
  (func (export "sum") (result i32) (i32.sub (call $f) (call $g)))
  (func (export "nest") (result i64)
    (i64.sub
      (i64.extend_i32_u (i32.sub (call $number) (i32.sub (call $f) (call $number))))
      (i64.extend_i32_u (i32.add (i32.mul (call $g) (call $number)) (select (call $f) (call $g) (call $number)))))))
