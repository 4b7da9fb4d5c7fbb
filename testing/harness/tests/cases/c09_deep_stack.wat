;; A stack of 10,000 frames, each with values of several types. That an engine with a smaller stack refuses to
;; rebuild it is shown by tests/limits.rs.
;; samples 4
;; call run i32:10000
(module
  (func $down (export "run") (param i32) (result i64)
    (if (i32.eqz (local.get 0)) (then (return (i64.const 1))))
    (i64.add
      (i64.rotl (i64.extend_i32_u (local.get 0)) (i64.const 40))
      (i64.mul (call $down (i32.sub (local.get 0) (i32.const 1))) (i64.const 31)))))
