;; The start function is interrupted and must not run again; active segments must not be applied again.
;; entries start
;; entries start run
;; call again
(module
  (import "env" "tell" (func $tell (param i32)))
  (memory 1) (table 4 funcref)
  (data (i32.const 0) "fresh")
  (elem (i32.const 0) $one $two)
  (global $runs (mut i32) (i32.const 0))
  (func $one (result i32) (i32.const 1))
  (func $two (result i32) (i32.const 2))
  (func $start (local $i i32)
    (global.set $runs (i32.add (global.get $runs) (i32.const 1)))
    (call $tell (global.get $runs))
    (i32.store8 (i32.const 1) (i32.const 82))
    (table.set (i32.const 0) (ref.func $two))
    (loop $l
      (i32.store (i32.add (i32.const 100) (local.get $i)) (i32.load (i32.const 0)))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 7))))
    (memory.fill (i32.const 2) (i32.const 0) (i32.const 3))
    (table.set (i32.const 1) (ref.null func))
    (call $tell (i32.const 99)))
  (start $start)
  (func $run (export "run") (local $i i32)
    (loop $l
      (i32.store8 (i32.add (i32.const 200) (local.get $i)) (call_indirect (result i32) (i32.const 0)))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 5))))
    (call $tell (i32.load (i32.const 0))))
  (func (export "again") (result i32)
    (call $run)
    (i32.add (global.get $runs) (i32.load (i32.const 1)))))
