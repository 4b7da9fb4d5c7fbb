//! How programs end, what is refused, and modules that are not instrumented, over all tiers.
#![allow(missing_docs, reason = "a test program")]

mod common;

use common::{code, codes, engine, host, instance};
use dunlin_base::{Value, ValueType};
use dunlin_engine::{Code, Engine, Entry, Error, Flow, Host, Instance, Limits, Outcome, Settings, Tier, TrapKind};

fn plain(tier: Tier, wat: &str) -> Instance {
    let code = Code::plain(&engine(tier), &wat::parse_str(wat).unwrap()).unwrap();
    Instance::new(&code, host(), Limits::default()).unwrap()
}

#[test]
fn exit_codes_end_the_program() {
    for code in codes() {
        let mut instance = instance(&code);
        assert_eq!(instance.invoke("misc", &[Value::I32(2)]).unwrap(), Outcome::Exited(42));
        assert!(matches!(instance.invoke("misc", &[Value::I32(0)]), Err(Error::Condition(_))));
        assert!(instance.observe().is_ok(), "what it left can be looked at");
    }
}

#[test]
fn traps_are_named_and_leave_the_instance_usable() {
    for code in codes() {
        let tier = code.engine().tier();
        let mut instance = instance(&code);
        let Outcome::Trapped(trap) = instance.invoke("crash", &[]).unwrap() else { panic!("{tier}") };
        assert_eq!(trap.kind, TrapKind::Unreachable);
        if tier == Tier::Wasmi {
            assert_eq!(trap.message, "unreachable executed");
        } else {
            assert_eq!(trap.message, "unreachable executed in crash (function 10)");
            assert_eq!(trap.backtrace, "  0: crash (function 10)\n");
        }
        assert_eq!(instance.invoke("run", &[Value::I32(1)]).unwrap(), Outcome::Finished(vec![Value::I32(2)]));
    }
}

#[test]
fn endless_recursion_is_a_clean_trap_from_any_thread() {
    for code in codes() {
        for _ in 0..2 {
            let outcome = instance(&code).invoke("deep", &[Value::I32(0)]).unwrap();
            assert!(matches!(&outcome, Outcome::Trapped(trap) if trap.kind == TrapKind::StackOverflow), "{outcome:?}");
        }
        let engine = Engine::new(code.engine().tier(), Settings::default()).unwrap();
        let large = Code::instrumented(&engine, &common::counter()).unwrap();
        let outcome = engine.on_stack(|| instance(&large).invoke("deep", &[Value::I32(0)])).unwrap().unwrap();
        assert!(matches!(&outcome, Outcome::Trapped(trap) if trap.kind == TrapKind::StackOverflow), "{outcome:?}");
    }
}

#[test]
fn a_host_function_at_the_end_of_the_stack_has_room() {
    struct Hungry;
    impl Host for Hungry {
        fn resolve(&self, _: &str, _: &str, _: &[ValueType], _: &[ValueType]) -> Option<u32> {
            Some(0)
        }
        fn call(&mut self, _: u32, _: &mut [u8], _: &[Value], _: &mut [Value]) -> Flow {
            let space = std::hint::black_box([1_u8; 1 << 20]);
            assert_eq!(space.iter().map(|byte| u32::from(*byte)).sum::<u32>(), 1 << 20);
            Flow::Return
        }
    }
    let wat = r#"(module (import "env" "f" (func $f)) (func $d (param i32)
        (if (local.get 0) (then (call $d (i32.sub (local.get 0) (i32.const 1)))) (else (call $f))))
        (func (export "deep") (call $d (i32.const 9000))))"#;
    for tier in Tier::ALL {
        let code = Code::plain(&engine(tier), &wat::parse_str(wat).unwrap()).unwrap();
        let mut instance = Instance::new(&code, Box::new(Hungry), Limits::default()).unwrap();
        assert_eq!(instance.invoke("deep", &[]).unwrap(), Outcome::Finished(vec![]), "{tier}");
    }
}

#[test]
fn all_unknown_imports_are_listed_with_their_types() {
    let wat = r#"(module (import "env" "tick" (func (param i32) (result i32))) (import "env" "tick" (func (param i64)))
        (import "a" "b" (func (param f32 v128) (result i32))) (import "a" "m" (memory 1))
        (import "a" "r" (func (param funcref))))"#;
    for tier in Tier::ALL {
        let code = Code::plain(&engine(tier), &wat::parse_str(wat).unwrap()).unwrap();
        let Err(Error::Imports(list)) = Instance::new(&code, host(), Limits::default()) else { panic!("{tier}") };
        assert_eq!(
            list,
            [
                "env.tick (i64) -> ()",
                "a.b (f32, v128) -> (i32)",
                "a.m (a memory, which no host provides)",
                "a.r (funcref) -> () (only numbers and externref can be passed)",
            ]
        );
    }
}

#[test]
fn what_an_engine_cannot_take_is_said() {
    let wat = wat::parse_str("(module (tag (param i32)))").unwrap();
    let error = Code::plain(&engine(Tier::Wasmi), &wat).unwrap_err();
    assert_eq!(error.to_string(), "the engine wasmi cannot compile the module");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("exceptions"), "{cause}");
    for tier in Tier::ALL {
        for bytes in [&b""[..], b"\0asm", b"\0asm\x01\0\0\0\x07\x05\xff", b"not a module at all"] {
            assert!(matches!(Code::plain(&engine(tier), bytes), Err(Error::Module(_) | Error::Compile { .. })));
        }
    }
}

#[test]
fn wrong_calls_are_refused() {
    let mut instance = instance(&code(Tier::Cranelift));
    let error = instance.invoke("run", &[Value::I64(1)]).unwrap_err();
    assert_eq!(error.to_string(), r#"function "run" takes (i32) -> (i32), but was given (1)"#);
    assert!(matches!(instance.invoke("nothing", &[]), Err(Error::NoExport(_))));
    assert!(matches!(instance.resume(&[]), Err(Error::Condition(_))));
    assert!(matches!(instance.capture(), Err(Error::Condition(_))));
    assert!(matches!(instance.run(&[Entry::Export("run".to_owned())]), Err(Error::Arguments { .. })));
}

#[test]
fn plain_modules_run_with_their_start_function_first() {
    let wat = r#"(module (memory 1) (global $g (mut i32) (i32.const 0)) (import "env" "tick" (func $t (param i32) (result i32)))
        (func $s (global.set $g (i32.const 5))) (start $s)
        (func (export "_start") (global.set $g (i32.mul (global.get $g) (call $t (i32.const 21)))))
        (func (export "get") (result i32) (global.get $g))
        (func (export "byte") (result i32) (i32.load8_u (i32.const 100))))"#
        .replace("(module (memory 1)", "(module");
    let wat = wat.replacen("(func $s", "(memory 1) (func $s", 1);
    let wat = wat.replacen("(global $g (mut i32) (i32.const 0))", "", 1).replacen(
        "(memory 1)",
        "(memory 1) (global $g (mut i32) (i32.const 0))",
        1,
    );
    for tier in Tier::ALL {
        let mut instance = plain(tier, &wat);
        assert_eq!(instance.run(&Entry::command()).unwrap(), Outcome::Finished(vec![]));
        assert_eq!(instance.invoke("get", &[]).unwrap(), Outcome::Finished(vec![Value::I32(210)]));
        let byte = instance.invoke("byte", &[]).unwrap();
        assert_eq!(byte, Outcome::Finished(vec![Value::I32(99)]), "the host wrote to a memory that is not exported");
        assert!(!instance.stop_handle().request());
        assert!(matches!(instance.observe(), Err(Error::NotMovable)));
        assert!(matches!(instance.set_count(1), Err(Error::NotMovable)));
    }
}

#[test]
fn plain_modules_may_use_garbage_collected_types() {
    let wat = "(module (type $s (struct (field i32))) (func (export \"f\") (result i32)
        (struct.get $s 0 (struct.new $s (i32.const 9)))))";
    for tier in [Tier::Cranelift, Tier::Pulley] {
        assert_eq!(plain(tier, wat).invoke("f", &[]).unwrap(), Outcome::Finished(vec![Value::I32(9)]));
    }
}

#[test]
fn memories_beyond_four_gibibytes_work() {
    let wat = r#"(module (memory (export "memory") i64 1 0xffffffffffff) (func (export "grow") (param i64) (result i64)
        (memory.grow (local.get 0))) (func (export "poke") (param i64) (result i64)
        (i64.store (local.get 0) (i64.const 77)) (i64.load (local.get 0))))"#;
    let limits = Limits { memory_bytes: 1 << 36, ..Limits::default() };
    for tier in [Tier::Cranelift, Tier::Pulley] {
        let code = Code::plain(&engine(tier), &wat::parse_str(wat).unwrap()).unwrap();
        let mut instance = Instance::new(&code, host(), limits).unwrap();
        let grown = instance.invoke("grow", &[Value::I64(100_000)]).unwrap();
        assert_eq!(grown, Outcome::Finished(vec![Value::I64(1)]));
        let far = Value::I64(6_000_000_000);
        assert_eq!(instance.invoke("poke", &[far]).unwrap(), Outcome::Finished(vec![Value::I64(77)]));
        let beyond = instance.invoke("poke", &[Value::I64(7_000_000_000)]).unwrap();
        assert!(matches!(&beyond, Outcome::Trapped(trap) if trap.kind == TrapKind::MemoryOutOfBounds), "{beyond:?}");
        let refused = instance.invoke("grow", &[Value::I64(1 << 21)]).unwrap();
        assert_eq!(refused, Outcome::Finished(vec![Value::I64(-1)]));
    }
}

#[test]
fn guard_pages_replace_bounds_checks() {
    let wat = r#"(module (memory (export "memory") 1) (func (export "f") (param i32) (result i64)
        (i64.load offset=65000 (local.get 0))))"#;
    let code = Code::plain(&engine(Tier::Cranelift), &wat::parse_str(wat).unwrap()).unwrap();
    let wat64 =
        wat.replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") i64 1)").replace("i32", "i64");
    let checked = Code::plain(&engine(Tier::Cranelift), &wat::parse_str(wat64).unwrap()).unwrap();
    let (elided, checked) = (code.code_size().unwrap(), checked.code_size().unwrap());
    assert!(elided < checked, "{elided} bytes of code without, {checked} with explicit checks");
    let mut instance = Instance::new(&code, host(), Limits::default()).unwrap();
    for address in [529, -1, i32::MIN] {
        let outcome = instance.invoke("f", &[Value::I32(address)]).unwrap();
        assert!(matches!(&outcome, Outcome::Trapped(trap) if trap.kind == TrapKind::MemoryOutOfBounds), "{outcome:?}");
    }
    assert_eq!(instance.invoke("f", &[Value::I32(528)]).unwrap(), Outcome::Finished(vec![Value::I64(0)]));
}

#[test]
fn many_arguments_and_all_types_reach_the_host() {
    struct Echo;
    impl Host for Echo {
        fn resolve(&self, _: &str, _: &str, _: &[ValueType], _: &[ValueType]) -> Option<u32> {
            Some(0)
        }
        fn call(&mut self, _: u32, _: &mut [u8], args: &[Value], results: &mut [Value]) -> Flow {
            results.copy_from_slice(args);
            Flow::Return
        }
    }
    let types = "i32 i64 f32 f64 v128 externref i32 i64 f32 f64 v128 externref";
    let wat = format!(
        r#"(module (import "e" "f" (func $f (param {types}) (result {types})))
        (func (export "g") (param {types}) (result {types}) {} (call $f)))"#,
        (0..12).map(|index| format!("(local.get {index})")).collect::<String>()
    );
    let values = [
        Value::I32(-1),
        Value::I64(i64::MIN),
        Value::F32(0x7fa0_0001),
        Value::F64(0xfff4_0000_0000_0001),
        Value::V128(u128::MAX - 5),
        Value::ExternRef(Some(u64::MAX)),
    ];
    let values = [
        values,
        [Value::I32(7), Value::I64(8), Value::F32(9), Value::F64(10), Value::V128(11), Value::ExternRef(None)],
    ]
    .concat();
    for tier in Tier::ALL {
        let code = Code::plain(&engine(tier), &wat::parse_str(&wat).unwrap()).unwrap();
        let mut instance = Instance::new(&code, Box::new(Echo), Limits::default()).unwrap();
        assert_eq!(instance.invoke("g", &values).unwrap(), Outcome::Finished(values.clone()), "{tier}");
    }
}

#[test]
fn a_long_loop_of_host_calls_needs_no_native_stack() {
    let wat = r#"(module (import "env" "tick" (func $t (param i32) (result i32))) (memory (export "memory") 1)
        (func (export "f") (param i32) (result i32) (loop $l (drop (call $t (i32.const 1)))
            (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (local.get 0)))"#;
    for tier in Tier::ALL {
        let outcome = plain(tier, wat).invoke("f", &[Value::I32(1_000_000)]).unwrap();
        assert_eq!(outcome, Outcome::Finished(vec![Value::I32(0)]), "{tier}");
    }
}

/// What a body with the parameter 0 and the `i32` local 1 gives for 0 and for 61, on every tier.
fn gives(body: &str, expected: [i32; 2]) {
    let wat = format!(r#"(module (func (export "f") (param i32) (result i32) (local i32) {body}))"#);
    for tier in Tier::ALL {
        let got = [0, 61].map(|argument| plain(tier, &wat).invoke("f", &[Value::I32(argument)]).unwrap());
        let expected = expected.map(|value| Outcome::Finished(vec![Value::I32(value)]));
        assert_eq!(got, expected, "{tier}: {body}");
    }
}

#[test]
fn select_behind_a_comparison_with_zero_looks_at_what_was_compared() {
    let forms = [
        ("(select (i32.const 1) (local.get 0) (i32.eqz (local.get 0)))", [1, 61]),
        ("(select (local.get 1) (local.get 0) (i32.eq (local.get 0) (i32.const 0)))", [1, 61]),
        ("(select (i32.const 1) (i32.const 2) (i32.eq (i32.const 0) (local.get 0)))", [1, 2]),
        ("(select (i32.const 1) (i32.const 2) (i32.ne (local.get 0) (i32.const 0)))", [2, 1]),
        ("(select (result i32) (i32.const 1) (i32.const 2) (i32.ne (i32.const 0) (local.get 0)))", [2, 1]),
        ("(i32.wrap_i64 (select (i64.const 1) (i64.const 2) (i32.eqz (i32.eqz (local.get 0)))))", [2, 1]),
        ("(select (i32.const 1) (i32.const 2) (i32.eqz (i32.add (local.get 0) (local.get 0))))", [1, 2]),
    ];
    for (form, expected) in forms {
        // A register holds the opposite.
        gives(&format!("(local.set 1 (i32.lt_u (local.get 0) (i32.const 1))) {form}"), expected);
    }
}

#[test]
fn what_lies_below_the_parameters_of_a_block_stays_what_it_was() {
    // A local lies on the stack, is set inside the block, and is read behind it.
    gives("local.get 0 i32.const 5 local.get 1 if (param i32) (result i32) local.tee 0 end i32.xor", [5, 56]);
    gives("local.get 0 i32.const 5 i32.const 1 if (param i32) (result i32) local.tee 0 end i32.xor", [5, 56]);
    gives("local.get 0 i32.const 5 block (param i32) (result i32) local.tee 0 end i32.xor", [5, 56]);
    gives("local.get 0 i32.const 5 loop (param i32) (result i32) local.tee 0 end i32.xor", [5, 56]);
    let set_last = "local.get 0 i32.const 5 local.get 0 i32.const 3 i32.mul local.tee 1 drop";
    gives(&format!("{set_last} loop (param i32) (result i32) local.tee 0 local.get 1 i32.add end i32.xor"), [5, 129]);
}
