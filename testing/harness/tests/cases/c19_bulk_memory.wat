;; Bulk operations between stops: overlapping copies in both directions, fill and init across pages of 4 KiB and 64 KiB.
;; call run i32:3
(module
  (memory (export "memory") 3)
  (data $d "0123456789abcdefghijklmnopqrstuvwxyz")
  (func $hash (param i32 i32) (result i32) (local $h i32)
    (loop $l
      (local.set $h (i32.xor (i32.mul (local.get $h) (i32.const 16777619)) (i32.load8_u (local.get 0))))
      (br_if $l (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1021))) (local.get 1))))
    (local.get $h))
  (func (export "run") (param i32) (result i32) (local $h i32)
    (loop $l
      (memory.init $d (i32.add (i32.const 65520) (local.get 0)) (i32.const 1) (i32.const 34))
      (local.set $h (i32.add (local.get $h) (call $hash (i32.const 65520) (i32.const 75000))))
      (memory.copy (i32.const 65500) (i32.const 65510) (i32.const 70000))
      (memory.copy (i32.const 4090) (i32.const 4080) (i32.const 65536))
      (local.set $h (i32.add (local.get $h) (call $hash (i32.const 4000) (i32.const 14000))))
      (memory.fill (i32.add (i32.const 8190) (local.get 0)) (i32.const 0xa5) (i32.const 8196))
      (memory.fill (i32.const 20480) (i32.const 0) (i32.const 4096))
      (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
    (i32.add (local.get $h) (call $hash (i32.const 0) (i32.const 196608)))))
