;; Exceptions that nobody catches, thrown before and after a move, from a frame and by a saved reference.
;; refused wasmi
;; call thrown
;; call again
(module
  (tag $e (param i64 v128))
  (func $spin (param i32) (loop $l (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
  (func $deep (param i32)
    (if (i32.eqz (local.get 0))
      (then (call $spin (i32.const 3)) (throw $e (i64.const 1) (v128.const i64x2 2 3))))
    (call $deep (i32.sub (local.get 0) (i32.const 1))))
  (func (export "thrown") (call $deep (i32.const 4)))
  (func (export "again") (result i32)
    (block $b (result exnref)
      (try_table (catch_all_ref $b) (call $deep (i32.const 2)))
      (unreachable))
    (call $spin (i32.const 3))
    (throw_ref)))
