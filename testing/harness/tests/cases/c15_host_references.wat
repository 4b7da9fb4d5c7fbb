;; References that belong to the host, in locals, on the operand stack, in tables and globals: they travel as the numbers
;; under which the host knows them. That a reference which cannot be carried is refused is shown by tests/limits.rs.
;; call run i32:3 extern:77
;; call run i32:2 extern:null
(module
  (import "env" "make" (func $make (param i32) (result externref)))
  (import "env" "use" (func $use (param externref externref) (result i64)))
  (table $t 2 10 externref)
  (global $g (mut externref) (ref.null extern))
  (func (export "run") (param $n i32) (param $given externref) (result i64 externref) (local $sum i64) (local $x externref)
    (loop $l
      (call $make (local.get $n))
      (local.set $x (call $make (i32.add (local.get $n) (i32.const 10))))
      (global.set $g (local.get $x))
      (drop (table.grow $t (local.get $x) (i32.const 1)))
      (table.set $t (i32.const 1) (local.get $given))
      (call $use (local.get $x))
      (local.set $sum (i64.add (local.get $sum)))
      (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (i64.add (local.get $sum) (call $use (table.get $t (i32.const 2)) (global.get $g)))
    (table.get $t (i32.const 1))))
