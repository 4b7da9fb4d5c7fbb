;; A module instrumented by hand, resumable, as docs/stop-and-resume.md says. Its map is in common/mod.rs.
(module
  (type $to_i32 (func (result i32)))
  (type $to_nothing (func))
  (import "env" "tick" (func $tick (param i32) (result i32)))        ;; 0
  (import "env" "handle" (func $handle (param i64) (result externref))) ;; 1
  (import "env" "number" (func $number (param externref) (result i64))) ;; 2
  (import "env" "exit" (func $exit (param i32)))                     ;; 3

  (memory $m (export "memory") (export "dunlin:m0") 1 4)
  (memory $c (export "dunlin:control") 1)
  (data (memory $m) (i32.const 4090) "hello, world")
  (data "passive")
  (data (memory $c) (i32.const 8) "\1b\00\00\00")
  (table $t (export "dunlin:t0") 3 10 funcref)
  (table $x (export "dunlin:t1") 2 externref)
  (table $r0 (export "dunlin:r0") 0 funcref)
  (table $functions (export "dunlin:functions") 13 funcref)
  (table $resume (export "dunlin:resume") 13 funcref)
  (global $g (export "dunlin:g0") (mut i64) (i64.const 5))
  (global $k i32 (i32.const 8))
  (global $f (export "dunlin:g2") (mut funcref) (ref.func $work))
  (global $count (export "dunlin:count") (mut i64) (i64.const 0))
  (elem (table $t) (i32.const 0) func $work)
  (elem (table $functions) (i32.const 4) func $work)
  (elem (table $resume) (i32.const 4) func $work_r $run_r $ask_r $start_r $main_r)

  (func $work (param $n i32) (result i32)                            ;; 4
    (call $loop (local.get $n) (i32.const 0) (ref.func $work)
      (v128.const i32x4 1 2 3 0x80000000) (f32.const nan:0x200001)))
  (func $run (export "run") (param $n i32) (result i32)              ;; 5
    (call $run_rest (local.get $n) (call $work (local.get $n))))
  (func $ask (export "ask") (result i32)                             ;; 6
    (local $answer i32)
    (local.set $answer (call $tick (i32.const 7)))
    (if (i32.load $c (i32.const 0)) (then
      (call $push (local.get $answer))
      (call $trailer (i32.const 2) (i32.const 1))
      (return (i32.const 0))))
    (i32.add (local.get $answer) (i32.const 1)))
  (func $start (export "dunlin:start")                               ;; 7
    (call $void_rest (call $work (i32.const 1000)) (i32.const 3) (i64.const 100)))
  (func $main (export "_start")                                      ;; 8
    (call $void_rest (call $work (i32.const 1000)) (i32.const 4) (i64.const 10000)))
  (func $grow (export "grow") (param i32) (result i32)               ;; 9
    (memory.grow $m (local.get 0)))
  (func $crash (export "crash") unreachable)                         ;; 10
  (func $deep (export "deep") (param i32) (result i32)               ;; 11
    (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
  (func $misc (export "misc") (param i32) (result i64)               ;; 12
    (if (i32.eq (local.get 0) (i32.const 0)) (then
      (table.set $x (i32.const 1) (call $handle (i64.const 77)))))
    (if (i32.eq (local.get 0) (i32.const 1)) (then
      (return (call $number (table.get $x (i32.const 1))))))
    (if (i32.eq (local.get 0) (i32.const 2)) (then (call $exit (i32.const 42))))
    (if (i32.eq (local.get 0) (i32.const 3)) (then
      (data.drop 1) (i32.store8 $c (i32.const 17) (i32.const 1))))
    (if (i32.eq (local.get 0) (i32.const 4)) (then
      (memory.init $m 1 (i32.const 300) (i32.const 0) (i32.const 7))))
    (if (i32.eq (local.get 0) (i32.const 5)) (then (drop (table.grow $t (ref.null func) (i32.const 4)))))
    (if (i32.eq (local.get 0) (i32.const 6)) (then
      (memory.fill $m (i32.const 4090) (i32.const 0) (i32.const 12))))
    (i64.const 0))

  ;; Everything below is what a pass would add.
  (func $poll (result i32)
    (global.set $count (i64.sub (global.get $count) (i64.const 1)))
    (if (i64.eqz (global.get $count)) (then (i32.store $c (i32.const 0) (i32.const 1))))
    (if (result i32) (i32.load $c (i32.const 0))
      (then (i32.store $c (i32.const 4) (i32.const 1)) (i32.const 1))
      (else (i32.const 0))))
  (func $room (param $bytes i32) (result i32)
    (local $top i32)
    (local.set $top (i32.load $c (i32.const 8)))
    (i32.store $c (i32.const 8) (i32.add (local.get $top) (local.get $bytes)))
    (local.get $top))
  (func $push (param $value i32) (i32.store $c (call $room (i32.const 4)) (local.get $value)))
  (func $trailer (param $safepoint i32) (param $phase i32)
    (call $push (local.get $safepoint)) (call $push (local.get $phase)))
  (func $take (param $bytes i32) (result i32)
    (local $top i32)
    (local.set $top (i32.sub (i32.load $c (i32.const 8)) (local.get $bytes)))
    (i32.store $c (i32.const 8) (local.get $top))
    (local.get $top))
  (func $running (i32.store $c (i32.const 4) (i32.const 0)))
  (func $drop (export "dunlin:drop")
    (if (i32.load8_u $c (i32.const 17)) (then (data.drop 1))))

  (func $loop (param $n i32) (param $i i32) (param $f funcref) (param $v v128) (param $q f32) (result i32)
    (local $at i32)
    (loop $again
      (if (call $poll) (then
        (local.set $at (call $room (i32.const 32)))
        (i32.store $c (local.get $at) (local.get $n))
        (i32.store $c offset=4 (local.get $at) (local.get $i))
        (i32.store $c offset=8 (local.get $at) (table.grow $r0 (local.get $f) (i32.const 1)))
        (v128.store $c offset=12 (local.get $at) (local.get $v))
        (f32.store $c offset=28 (local.get $at) (local.get $q))
        (call $trailer (i32.const 0) (i32.const 0))
        (return (i32.const 0))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (i32.store $m (i32.and (i32.mul (local.get $i) (i32.const 40)) (i32.const 0xfffc)) (local.get $i))
      (global.set $g (i64.add (global.get $g) (i64.extend_i32_u (local.get $i))))
      (br_if $again (i32.ne (local.get $i) (local.get $n))))
    (table.set $t (i32.const 1) (local.get $f))
    (v128.store $m (i32.const 8192) (local.get $v))
    (f32.store $m (i32.const 8208) (local.get $q))
    (local.get $i))
  (func $work_r (result i32)
    (local $at i32)
    (local.set $at (call $take (i32.const 40)))
    (call $running)
    (call $loop
      (i32.load $c (local.get $at)) (i32.load $c offset=4 (local.get $at))
      (table.get $r0 (i32.load $c offset=8 (local.get $at)))
      (v128.load $c offset=12 (local.get $at)) (f32.load $c offset=28 (local.get $at))))

  (func $run_rest (param $n i32) (param $result i32) (result i32)
    (if (i32.load $c (i32.const 0)) (then
      (call $push (local.get $n)) (call $push (local.get $result))
      (call $trailer (i32.const 1) (i32.const 1))
      (return (i32.const 0))))
    (i32.add (local.get $n) (local.get $result)))
  (func $run_r (result i32)
    (local $at i32)
    (local.set $at (call $take (i32.const 16)))
    (call $run_rest (i32.load $c (local.get $at)) (call_indirect $resume (type $to_i32) (i32.const 4))))

  (func $ask_r (result i32)
    (drop (call $take (i32.const 12)))
    (call $running)
    (call $ask))

  (func $void_rest (param $result i32) (param $safepoint i32) (param $more i64)
    (if (i32.load $c (i32.const 0)) (then
      (call $push (local.get $result))
      (call $trailer (local.get $safepoint) (i32.const 1))
      (return)))
    (global.set $g (i64.add (global.get $g) (local.get $more))))
  (func $start_r
    (drop (call $take (i32.const 12)))
    (call $void_rest (call_indirect $resume (type $to_i32) (i32.const 4)) (i32.const 3) (i64.const 100)))
  (func $main_r
    (drop (call $take (i32.const 12)))
    (call $void_rest (call_indirect $resume (type $to_i32) (i32.const 4)) (i32.const 4) (i64.const 10000))))
