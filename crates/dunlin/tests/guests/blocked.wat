;; Uses what cannot be carried, twice, and copies its input to its output.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\20\00\00\00\10\00\00\00")
  (func $make (result i32) (i31.get_u (ref.i31 (i32.const 2))))
  (func $other (result i32) (i31.get_s (ref.i31 (i32.const 1))))
  (func (export "_start")
    (loop $next
      (i32.store (i32.const 4) (i32.const 16))
      (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (i32.load (i32.const 8))
        (then
          (i32.store (i32.const 4) (i32.load (i32.const 8)))
          (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))
          (br $next))))
    (drop (i32.add (call $make) (call $other)))))
