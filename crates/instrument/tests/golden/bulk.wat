(module
  (memory 1)
  (table 10 externref)
  ;; Small and constant: left alone.
  (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 64)))
  (func (param i32 i32 i32) (result i32)
    (i32.const 5)
    (memory.copy (local.get 0) (local.get 1) (local.get 2)))
  (func (param i32 externref i32)
    (table.fill 0 (local.get 0) (local.get 1) (local.get 2))))
