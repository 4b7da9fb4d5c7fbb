;; A call through a table that may reach a host function: inside it, either a callee's record follows or the call is issued
;; again.
(module
  (type $op (func (param i32) (result i32)))
  (import "env" "tick" (func $tick (type $op)))
  (table funcref (elem $tick $double))
  (func $double (type $op) (i32.mul (local.get 0) (i32.const 2)))
  (func (export "call") (param i32 i32) (result i32)
    (call_indirect (type $op) (local.get 1) (local.get 0))))
