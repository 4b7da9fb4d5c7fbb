;; The outer loop enters the polled inner one every round and needs no poll of its own. A resumed frame reaches the inner
;; loop in two steps, through the dispatch at the outer loop's head.
(module
  (func (export "grid") (param $n i32) (result i32)
    (local $i i32) (local $j i32) (local $count i32)
    (loop $rows
      (local.set $j (i32.const 0))
      (loop $columns
        (local.set $count (i32.add (local.get $count) (i32.mul (local.get $i) (local.get $j))))
        (br_if $columns (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 1))) (local.get $n))))
      (br_if $rows (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
    (local.get $count)))
