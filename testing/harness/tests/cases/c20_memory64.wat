;; A memory with 64-bit addresses, sparse, with values beyond 4 GiB.
;; samples 1
;; call run
(module
  (memory $m i64 1 70000)
  (data (i64.const 10) "low")
  (func $spin (param i32) (loop $l (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
  (func (export "run") (result i64)
    (i64.store (i64.const 100) (memory.grow (i64.const 65600)))
    (call $spin (i32.const 2))
    (i64.store (i64.const 0x1_0000_1000) (i64.const 0x1122334455667788))
    (call $spin (i32.const 2))
    (i64.add (i64.load (i64.const 0x1_0000_1001)) (i64.load (i64.const 10)))))
