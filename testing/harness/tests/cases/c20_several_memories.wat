;; Two memories of 64 KiB pages and one with pages of one byte; each grows, and data moves between them.
;; call run i32:4
(module
  (memory $a (export "memory") 1 3)
  (memory $b 0 2)
  (memory $c 5 10000 (pagesize 1))
  (data (memory $c) (i32.const 1) "abc")
  (data (memory $a) (i32.const 16) "first")
  (func $spin (param i32) (loop $l (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
  (func (export "run") (param i32) (result i32) (local $sum i32)
    (loop $l
      (drop (memory.grow $c (i32.const 1111)))
      (i32.store8 $c (i32.sub (memory.size $c) (i32.const 1)) (local.get 0))
      (call $spin (i32.const 2))
      (drop (memory.grow $b (i32.const 1)))
      (i32.store $b (i32.mul (local.get 0) (i32.const 4)) (memory.size $c))
      (memory.copy $a $c (i32.const 100) (i32.const 0) (i32.const 5))
      (memory.copy $c $b (i32.const 0) (i32.const 0) (i32.const 4))
      (call $spin (i32.const 2))
      (local.set $sum (i32.add (local.get $sum) (i32.add (i32.load8_u $c (i32.const 2)) (i32.load $a (i32.const 101)))))
      (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
    (i32.add (local.get $sum) (i32.load8_u $c (i32.const 4449)))))
