(module
  (import "env" "f" (func $f))
  ;; Values below a loop's and an if's parameters: an empty block comes first, for wasmi's sake.
  (func (param i64 i32) (result i64)
    (local.get 0)
    (local.get 1)
    (loop (param i32) (result i32) (call $f))
    (if (param i64) (result i64) (then (call $f)))))
