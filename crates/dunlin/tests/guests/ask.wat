;; Copies one line of its input to its output: blocks until there is one.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\20\00\00\00\20\00\00\00")
  (data (i32.const 96) "\80\00\00\00\06\00\00\00")
  (data (i32.const 128) "begun\n")
  (func $ask (result i32) (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
  (func (export "_start")
    (drop (call $fd_write (i32.const 1) (i32.const 96) (i32.const 1) (i32.const 8)))
    (drop (call $ask))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))
