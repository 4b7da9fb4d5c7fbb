;; Says that it has begun and runs for ever.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\06\00\00\00")
  (data (i32.const 16) "begun\n")
  (func $spin (param $turns i64)
    (loop $again
      (local.set $turns (i64.add (local.get $turns) (i64.const 1)))
      (br $again)))
  (func (export "_start")
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $spin (i64.const 0))))
