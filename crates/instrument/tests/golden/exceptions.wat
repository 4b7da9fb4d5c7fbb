;; A `try_table` is a region of its own: a frame inside it resumes by entering it again. A caught exception in a local is
;; saved through a private table.
(module
  (tag $e (param i32))
  (func $work (param i32) (result i32)
    (loop $l (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
    (throw $e (i32.const 7)))
  (func (export "run") (param i32) (result i32)
    (local $x exnref)
    (block $caught (result i32 exnref)
      (try_table (result i32 exnref) (catch_ref $e $caught)
        (call $work (local.get 0))
        (ref.null exn)))
    (local.set $x)
    (drop (call $work (i32.const 3)))
    (throw_ref (local.get $x))))
