;; Code that cannot be reached, with loops, calls and branches in it, on a stack of any type.
;; call run i32:4
;; call traps i32:2
(module
  (func $f (param i32) (result i32) (loop $l (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (i32.const 6))
  (func $dead (param i32) (result i32)
    (return (call $f (local.get 0)))
    (loop $l (result i32) (br_if $l (call $f (i32.const 1))) (br $l))
    (i32.add)
    (call $f)
    (drop)
    (unreachable)
    (select)
    (loop $m (param i32) (result i32) (call $f) (br $m)))
  (func (export "run") (param i32) (result i32)
    (block $out (result i32)
      (loop $l
        (block $b
          (if (i32.gt_s (local.get 0) (i32.const 2))
            (then
              (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
              (br $b)
              (loop $never (call $dead (i32.const 0)) (drop) (br $never))
              (unreachable)))
          (br $out (i32.add (call $dead (i32.const 3)) (call $dead (local.get 0))))
          (call $f) (i64.const 1) (drop) (drop)
          (loop (result f64) (unreachable) (call $f) (f64.convert_i32_s))
          (drop))
        (br $l)
        (f64.add) (drop))
      (unreachable)))
  (func (export "traps") (param i32) (result i32)
    (call $f (local.get 0))
    (unreachable)
    (loop $l (result i32) (i32.add (call $f (i32.const 1)) (call $f (i32.const 2))) (br_if $l (i32.eqz)) (i32.const 2))
    (i32.add)))
