;; Stops right before and after memory.grow: success, failure, by nothing, up to the declared maximum. What was grown is
;; zero, and writable.
;; call run
;; call beyond
(module
  (import "env" "tell" (func $tell (param i32)))
  (memory (export "memory") 1 4)
  (data (i32.const 65530) "edge")
  (func $grow (param i32) (result i32) (local $before i32)
    (call $tell (memory.size))
    (local.set $before (memory.grow (local.get 0)))
    (call $tell (local.get $before))
    (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (i32.const 0x01020304))
    (local.get $before))
  (func $sum (param i32 i32) (result i32) (local $sum i32)
    (loop $l
      (local.set $sum (i32.add (local.get $sum) (i32.load (local.get 0))))
      (br_if $l (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 4096))) (local.get 1))))
    (local.get $sum))
  (func (export "run") (result i32)
    (i32.mul (call $grow (i32.const 0)) (i32.const 3))
    (i32.add (call $grow (i32.const 1)))
    (i32.add (call $grow (i32.const 5)))
    (i32.add (call $grow (i32.const 2)))
    (i32.add (call $grow (i32.const 1)))
    (i32.add (call $sum (i32.const 4092) (i32.mul (memory.size) (i32.const 65536)))))
  (func (export "beyond") (result i32)
    (drop (call $grow (i32.const 3)))
    (drop (call $grow (i32.const 0)))
    (call $sum (i32.const 4092) (i32.const 0x10000000))))
