;; An interpreter: one dispatch loop with br_table, registers in locals, a stack in memory, opcodes that call out.
;; The program in memory computes a sum of squares by a loop of its own, with a call in each round.
;; call run i32:9
(module
  (import "env" "print" (func $print (param i64)))
  (memory (export "memory") 1)
  ;; 0 halt, 1 push byte, 2 add, 3 mul, 4 load r, 5 store r, 6 decrement and jump if not zero r, target, 7 call, 8 print
  (data (i32.const 1024) "\04\01\04\01\03\04\02\02\05\02\04\02\07\08\06\01\00\04\02\00")
  (func $square (param i64) (result i64) (local $i i64) (local $sum i64)
    (loop $l
      (local.set $sum (i64.add (local.get $sum) (local.get 0)))
      (br_if $l (i64.lt_u (local.tee $i (i64.add (local.get $i) (i64.const 1))) (i64.const 3))))
    (local.get $sum))
  (func $step (param $sp i32) (result i32)
    (i64.store (i32.sub (local.get $sp) (i32.const 8)) (call $square (i64.load (i32.sub (local.get $sp) (i32.const 8)))))
    (local.get $sp))
  (func (export "run") (param $n i32) (result i64)
    (local $pc i32) (local $sp i32) (local $r0 i64) (local $r1 i64) (local $r2 i64) (local $t i64)
    (local.set $r1 (i64.extend_i32_u (local.get $n)))
    (local.set $pc (i32.const 1024))
    (local.set $sp (i32.const 2048))
    (block $halt
      (loop $next
        (block $print (block $call (block $jump (block $store (block $load (block $mul (block $add (block $push
          (local.get $pc)
          (local.set $pc (i32.add (local.get $pc) (i32.const 1)))
          (i32.load8_u)
          (br_table $halt $push $add $mul $load $store $jump $call $print $halt))
          ;; push
          (i64.store (local.get $sp) (i64.load8_u (local.get $pc)))
          (local.set $pc (i32.add (local.get $pc) (i32.const 1)))
          (local.set $sp (i32.add (local.get $sp) (i32.const 8)))
          (br $next))
          ;; add
          (local.set $sp (i32.sub (local.get $sp) (i32.const 8)))
          (i64.store (i32.sub (local.get $sp) (i32.const 8))
            (i64.add (i64.load (local.get $sp)) (i64.load (i32.sub (local.get $sp) (i32.const 8)))))
          (br $next))
          ;; mul
          (local.set $sp (i32.sub (local.get $sp) (i32.const 8)))
          (i64.store (i32.sub (local.get $sp) (i32.const 8))
            (i64.mul (i64.load (local.get $sp)) (i64.load (i32.sub (local.get $sp) (i32.const 8)))))
          (br $next))
          ;; load
          (i64.store (local.get $sp) (select (local.get $r1) (local.get $r2)
            (i32.eq (i32.load8_u (local.get $pc)) (i32.const 1))))
          (local.set $pc (i32.add (local.get $pc) (i32.const 1)))
          (local.set $sp (i32.add (local.get $sp) (i32.const 8)))
          (br $next))
          ;; store
          (local.set $sp (i32.sub (local.get $sp) (i32.const 8)))
          (local.set $r2 (i64.load (local.get $sp)))
          (local.set $pc (i32.add (local.get $pc) (i32.const 1)))
          (br $next))
          ;; decrement and jump
          (local.set $r1 (i64.sub (local.get $r1) (i64.const 1)))
          (if (i64.ne (local.get $r1) (i64.const 0))
            (then (local.set $pc (i32.add (i32.const 1024) (i32.load8_u offset=1 (local.get $pc)))))
            (else (local.set $pc (i32.add (local.get $pc) (i32.const 2)))))
          (br $next))
          ;; call
          (local.set $sp (call $step (local.get $sp)))
          (br $next))
        ;; print
        (local.set $sp (i32.sub (local.get $sp) (i32.const 8)))
        (call $print (i64.load (local.get $sp)))
        (br $next)))
    (i64.xor (i64.load (i32.sub (local.get $sp) (i32.const 8))) (local.get $r0))))
