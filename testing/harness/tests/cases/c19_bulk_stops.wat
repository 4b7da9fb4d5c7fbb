;; Stops inside bulk instructions of every kind: what is done stays done, the rest follows, and a trap comes before
;; anything is written, whether the end lies beyond the memory, the segment, or 2^32.
;; call fill i32:100 i32:5000
;; call fill i32:131072 i32:0
;; call fill i32:131000 i32:5000
;; call fill i32:4000 i32:-1000
;; call copy i32:1000 i32:4000 i32:9000
;; call copy i32:4000 i32:1000 i32:9000
;; call copy i32:4000 i32:4000 i32:3000
;; call copy i32:1 i32:0 i32:6000
;; call copy i32:0 i32:1 i32:6000
;; call copy i32:130000 i32:0 i32:6000
;; call copy i32:0 i32:130000 i32:6000
;; call copy i32:1000 i32:-1000 i32:4000
;; call init i32:5000 i32:3 i32:2300
;; call init i32:5000 i32:3 i32:2400
;; call init i32:131000 i32:0 i32:2300
;; call drop_and_init i32:5000 i32:0 i32:2300
;; call wide_fill i64:70000 i64:5000
;; call wide_fill i64:70000 i64:-60000
;; call wide_copy i64:3000 i64:1000 i64:7000
;; call wide_copy i64:1000 i64:3000 i64:7000
;; call narrow i32:500 i64:1000 i32:7000
;; call narrow i32:500 i64:0x1ffffffff i32:7000
;; call widen i64:500 i32:1000 i32:7000
;; call table_fill i32:3 i32:50
;; call table_fill i32:30 i32:50
;; call table_copy i32:4 i32:20 i32:40
;; call table_copy i32:20 i32:4 i32:40
;; call table_copy i32:40 i32:4 i32:40
;; call between i32:1 i32:2 i32:45
;; call table_init i32:10 i32:5 i32:43
;; call table_init i32:10 i32:6 i32:43
;; call pairs i32:3
(module
  (memory $m (export "memory") 2)
  (memory $w i64 2)
  (data $d
    "NqVwYS81VP7Hb1DX8pPd5khxE3pyIgKpaUnArl63XykWZeiNNCiia3anXn9k3ksu9mI4ROnl89Sm995ytbxAk7jqevt0MLaMRTve"
    "tw0tESulEETldq8b8Vw2zbJYAxyL1aCcTlN99mhWp708DwGw5HqXDgLVXZx3scB8fnvGNx6jvr7SIftRutlZfOjUStEkUdfMI7zc"
    "pVMw0qDPAjd6OcZFv1niUK8iO5YAgkBxjd2AsjD7N2kHD9FSUuErsEz5jhy0I9lO7F3vlfFrGYJ3GxeYYXwSLQcWtxJTQr1FqXST"
    "s98vPlL2aEJXquQrDs0GPRZwwrPwV81Aw71l33SCx9vHjHkm1x72EsSfUQUAkNX7LHQ7AtNJX3OrUbmkLCNPloWRlOTcEokd5ihu"
    "9lEmJcADwyQNeLnpT5xawz8r2A3hS1Jx9cJNtgsIGv8Ls9w0iAA0KPIxDjkMyKE9m9iMfw05QayguK6NIjuO45KyBBoFsETyy926"
    "kMMqVtFqAbu8tF7sjEbhQN9CpscYi0zaEIJrp7EYcpFr2jUssFMEHP3M4V5hbWitsITvNsUHbDwxRV0LicaqJDR6g4RImaBXZBMK"
    "ST9OPE261yEzR2Um5sD1Wet1aSXBLsPXE6tjkESJ4FvIjBLIZdeUor0fYeQ8bvUBezSFdh1hoNP08hT5isT6CjlNlAZkeNncJgQy"
    "VerdKKhVz4NiaBfuRMFFw8Px6diSsjKORGs68JJNoqeJpq1WsHiZp3xDVyliTbPvfKQcf3hGMDpy4DE9ugYHbIUyd2j88BRYoVhf"
    "6QF0niSNyw1psv7NTwYyyiU1wPsZOB92xHcLKnVlzegcclmmcF47EQWwaBEt47N6BuDDgmjPkex3y34EjJqhr0kWsRpcE5cw7Wxu"
    "8dSbRDE28jhYQusDRpUkcmTbKoQfNz6TxRtlDxseUTDkXplRn8cPMBUraDdCXRAkccJ11HKw8gTep5ZFf7EdRpPdFzYddq1ACtOd"
    "4c8mlSGOzmIof7uYgfI6kMe2UnNbCIwFBKXyHOiUa6WtSC50oJhitEfXXq0zuiiIfEpSfZB9KQprdFSpdTmYs4x4geAXuyWXJa5s"
    "P8WiKbCj0SPY9bUdSBrgZZyJiuetkiqFRusceIWVJbbhdi0wB3q88NboHBixmvwakLN0kUgrHMkOTjCW8BYBhvuC6oDMBkCdXQ7k"
    "IEFMagi02ARdnac6KpET4wzDnmr0mtJHwWWYpxwZp0Q162dNFzwjj1pFycgkzgWTs56mYZWuERE3INfZmySagGMLNl0ybuRbNtGy"
    "GEITSzCY0L77SJQdIjZAx9LbRXHnssebfXwNL3W8TAt97ar7TpecWfQ99t5wSZ17VMNJnEHf5hpvYIBzaQyylWPH5n6RNuyug1S4"
    "JSTxp4gnstZrZNe58keOAXloPeKKO1O4IUAAoBEHM5ptArfM49vlAbjhsKJMKlBmuMgPYSvUed8Fi1H9eum2DPy75o5SN1ZE1gam"
    "RkhfvjxNWgKWCVu0XZlT57J9LO393gxg0emnuxlD5RVWfpz8IDyahM9xiRaFy9v8VeFW8UTsbhZEwWVm6vyjs5FPSXYfKhsAv82e"
    "HBdoAprQUejr9gJEBlI2y27pfCwiZfa0XjxZbbqJD9y3HfdnmZCaEHf9rM91REGbdkzXXGB3L85QPNOLcnbAXUAZ300B65ya0Wk5"
    "vjtXmB1exnzAmriExsaQOhXkWDeeRyc5A4jmPbV1F9uMDiDpe6x8NbalZBfriWPxvXnjsH55SJfshgPzxtx6EJLC93p9KiqbIaUy"
    "ipEQTdaaXnAoGTNpYtdZGpcSy4wXbJtCCgPh75xKHrTL7M8yyt2kL7RePCdVnHNyg7Gt0Jx1AiDweFaKKnKDcdVfhv4jx9vq0rEY"
    "jVhqq1bOqykOYpSqL44C651lMiKd5VwJhaDcS0NFR3PcbLAhAUHNCNKoI8ShTeURLfceTDtPH5IU1e9PR1rhzWtqDtta4WuHQ5FD"
    "yjPn8qu8NnDfjwfOBCNHPzlmi6FkRGC7Kw6bjBrKFGI85nJpQkAJYq1usNgmqBw24HqFOTPf90hSXhvgg3Os2WLldXIylOvUXqgA"
    "2v4gtesTvA3Aeetelc8gYV59GAgDAeoAb8KIsPgRGu7x8eDygkXphNIgfPQIyBhrtJD0Bcn4G6iyQOl6mu4ZTHeitd28PDtCJ6ZK"
    "OGqskVOqDEzWTMgiMmDS8UXgCoipkPfUCqND2RkZSEgtL4qOwSdIUJhnWbvKLEO1F33H6MsMvd4siHAsAxXisPmW8UcaF8kt92AQ"
    "sA01LRDv6UHGuTSNYYakKFPaIYEXD1xcoIaEhVmkk2GpQ1zPgyAP3oPr6anQpLeV7GxBLtoVgxJMJWZCYRUd5qH1ajBdDamXmglD")
  (table $t 64 funcref) (table $u 50 funcref)
  (elem $e func $b $b $b $b $c $a $a $c $c $c $b $c $c $c $c $c $a $a $c $b $c $a $a $c $b $a $a $c $b $a $a $a $b $a $a $b $a $b $a $c $b $b $a $a $b $c $a $a)
  (global $done (mut i32) (i32.const 0))
  (func $a) (func $b) (func $c)
  (func $start (local $i i32)
    (loop $l
      (i32.store (local.get $i) (i32.mul (local.get $i) (i32.const 0x9e3779b1)))
      (i64.store $w (i64.extend_i32_u (local.get $i)) (i64.mul (i64.extend_i32_u (local.get $i)) (i64.const 0x1d872b41f2a7)))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 8))) (i32.const 131072))))
    (table.init $t $e (i32.const 8) (i32.const 0) (i32.const 48))
    (table.init $u $e (i32.const 0) (i32.const 0) (i32.const 48)))
  (start $start)
  ;; An operand lies below the instruction, and a local is read behind it.
  (func (export "fill") (param i32 i32) (result i32)
    (i32.load (i32.const 200))
    (memory.fill (local.get 0) (i32.const 0x15a) (local.get 1))
    (global.set $done (i32.const 1))
    (i32.add (local.get 1)))
  (func (export "copy") (param i32 i32 i32) (result i32)
    (memory.copy (local.get 0) (local.get 1) (local.get 2))
    (global.set $done (i32.const 1))
    (local.get 2))
  (func (export "init") (param i32 i32 i32)
    (memory.init $d (local.get 0) (local.get 1) (local.get 2))
    (global.set $done (i32.const 1)))
  (func (export "drop_and_init") (param i32 i32 i32)
    (data.drop $d)
    (memory.init $d (local.get 0) (local.get 1) (local.get 2)))
  (func (export "wide_fill") (param i64 i64)
    (memory.fill $w (local.get 0) (i32.const 7) (local.get 1)))
  (func (export "wide_copy") (param i64 i64 i64)
    (memory.copy $w $w (local.get 0) (local.get 1) (local.get 2)))
  (func (export "narrow") (param i32 i64 i32)
    (memory.copy $m $w (local.get 0) (local.get 1) (local.get 2)))
  (func (export "widen") (param i64 i32 i32)
    (memory.copy $w $m (local.get 0) (local.get 1) (local.get 2)))
  (func (export "table_fill") (param i32 i32)
    (table.fill $t (local.get 0) (ref.func $c) (local.get 1)))
  (func (export "table_copy") (param i32 i32 i32)
    (table.copy $t $t (local.get 0) (local.get 1) (local.get 2)))
  (func (export "between") (param i32 i32 i32)
    (table.copy $t $u (local.get 0) (local.get 1) (local.get 2)))
  (func (export "table_init") (param i32 i32 i32)
    (table.init $t $e (local.get 0) (local.get 1) (local.get 2)))
  ;; Under a call, in a loop, with a constant that is too large to be left alone.
  (func $clear (param i32) (result i32)
    (memory.fill (i32.const 0) (local.get 0) (i32.const 262144))
    (i32.const 1))
  (func $move (param i32) (result i32)
    (memory.copy (i32.mul (local.get 0) (i32.const 7)) (i32.const 5) (i32.mul (local.get 0) (i32.const 600)))
    (i32.load (i32.const 1000)))
  (func (export "pairs") (param i32) (result i32) (local $sum i32)
    (loop $l
      (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 31)) (call $move (local.get 0))))
      (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
    (i32.add (local.get $sum) (call $clear (i32.const 3)))))
