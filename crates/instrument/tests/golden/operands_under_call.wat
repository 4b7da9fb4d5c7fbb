;; The value of the first call stays on the operand stack while the second runs: it is copied to a temporary before, and is
;; part of the record. Recursion needs no poll at entry, since the test behind each call is a safepoint.
(module
  (func $fib (export "fib") (param $n i32) (result i32)
    (if (result i32) (i32.lt_s (local.get $n) (i32.const 2))
      (then (local.get $n))
      (else
        (i32.add
          (call $fib (i32.sub (local.get $n) (i32.const 1)))
          (call $fib (i32.sub (local.get $n) (i32.const 2))))))))
