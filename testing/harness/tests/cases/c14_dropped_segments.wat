;; data.drop and a later memory.init, which must trap exactly as before; passive segments used late.
;; call late
;; call dropped
;; call empty
(module
  (memory (export "memory") 1)
  (data $first "first segment")
  (data $second "second")
  (data (i32.const 40) "active")
  (func $spin (param i32) (loop $l (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
  (func (export "late") (result i64)
    (call $spin (i32.const 3))
    (data.drop $second)
    (call $spin (i32.const 3))
    (memory.init $first (i32.const 8) (i32.const 6) (i32.const 7))
    (call $spin (i32.const 3))
    (i64.load (i32.const 8)))
  (func (export "dropped") (result i64)
    (memory.init $second (i32.const 0) (i32.const 0) (i32.const 6))
    (call $spin (i32.const 3))
    (data.drop $second)
    (call $spin (i32.const 3))
    (memory.init $second (i32.const 0) (i32.const 0) (i32.const 1))
    (i64.const 0))
  (func (export "empty") (result i64)
    (data.drop $first)
    (call $spin (i32.const 3))
    (memory.init $first (i32.const 100) (i32.const 0) (i32.const 0))
    (i64.load (i32.const 38))))
