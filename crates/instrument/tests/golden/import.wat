;; A host call may have to be issued again: its arguments are kept beside its result.
(module
  (import "env" "read" (func $read (param i32 i64) (result i32)))
  (func (export "twice") (param $fd i32) (result i32)
    (i32.add (call $read (local.get $fd) (i64.const 5)) (call $read (local.get $fd) (i64.const 7)))))
