;; Exceptions in a frame, a table and a global; instrumented by hand.
(module
  (memory $c (export "dunlin:control") 1)
  (data (memory $c) (i32.const 8) "\10\00\00\00")
  (table $t (export "dunlin:t0") 2 exnref)
  (table $r0 (export "dunlin:r0") 0 exnref)
  (table $functions (export "dunlin:functions") 2 funcref)
  (table $resume (export "dunlin:resume") 2 funcref)
  (tag $inner (export "dunlin:e0") (param i64 funcref))
  (tag $outer (export "dunlin:e1") (param exnref v128))
  (global $g (export "dunlin:g0") (mut exnref) (ref.null exn))
  (elem (table $functions) (i32.const 1) func $check)
  (elem (table $resume) (i32.const 0) func $run_r)

  (func $run (export "run") (result i64)                             ;; 0
    (local $i exnref) (local $o exnref)
    (local.set $i (block $caught (result exnref)
      (try_table (catch_all_ref $caught) (throw $inner (i64.const 42) (ref.func $check)))
      unreachable))
    (local.set $o (block $caught (result exnref)
      (try_table (catch_all_ref $caught)
        (throw $outer (local.get $i) (v128.const i64x2 1 2)))
      unreachable))
    (table.set $t (i32.const 1) (local.get $i))
    (global.set $g (local.get $o))
    (if (i32.load $c (i32.const 0)) (then
      (i32.store $c (i32.const 4) (i32.const 1))
      (i32.store $c (i32.const 16) (table.grow $r0 (local.get $o) (i32.const 1)))
      (i64.store $c (i32.const 20) (i64.const 0))
      (i32.store $c (i32.const 8) (i32.const 28))
      (return (i64.const 0))))
    (call $rest (local.get $o)))
  (func $check (export "throw") (param $i i64) (throw $inner (local.get $i) (ref.null func)))   ;; 1

  (func $run_r (result i64)
    (i32.store $c (i32.const 8) (i32.const 16))
    (i32.store $c (i32.const 4) (i32.const 0))
    (call $rest (table.get $r0 (i32.load $c (i32.const 16)))))
  ;; Throws the outer exception, then what its payload holds, and gives the inner one's number.
  (func $rest (param $o exnref) (result i64)
    (block $outer_caught (result exnref v128)
      (try_table (catch $outer $outer_caught) (throw_ref (local.get $o)))
      unreachable)
    drop
    (local.set $o)
    (block $inner_caught (result i64 funcref)
      (try_table (catch $inner $inner_caught) (throw_ref (local.get $o)))
      unreachable)
    ref.is_null
    i64.extend_i32_u
    i64.add))
