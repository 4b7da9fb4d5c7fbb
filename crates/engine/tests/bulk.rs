//! A program that does nothing but long bulk instructions still stops at once.
#![allow(missing_docs, reason = "a test program")]

mod common;

use std::thread;
use std::time::Duration;

use common::{engine, host};
use dunlin_base::Value;
use dunlin_engine::{Code, Instance, Limits, Outcome, Tier};
use dunlin_instrument::{Options, Poll, SafepointKind, Variant, instrument};

/// Fills a gigabyte, or moves most of it up or down within itself, for ever.
const GUEST: &str = r#"(module
    (memory (export "memory") 16384)
    (func (export "fill") (param $n i32) (loop $again
        (memory.fill (i32.const 0) (i32.const 3) (local.get $n)) (br $again)))
    (func (export "up") (param $n i32) (loop $again
        (memory.copy (i32.const 4096) (i32.const 0) (i32.sub (local.get $n) (i32.const 4096))) (br $again)))
    (func (export "down") (param $n i32) (loop $again
        (memory.copy (i32.const 0) (i32.const 4096) (i32.sub (local.get $n) (i32.const 4096))) (br $again))))"#;

#[test]
fn stops_inside_a_gigabyte() {
    const STOPS: usize = 12;
    let engine = engine(Tier::Cranelift);
    let options = Options { poll: Poll::Flag, variant: Variant::Resume };
    let code = Code::instrumented(&engine, &instrument(&wat::parse_str(GUEST).unwrap(), options).unwrap()).unwrap();
    let map = code.map().unwrap().clone();
    let mut instance = Instance::new(&code, host(), Limits::default()).unwrap();
    for export in ["fill", "up", "down"] {
        // A stop inside an instruction, which only its pieces allow; the others are between two.
        let mut inside = 0;
        for stop in 0..STOPS {
            let handle = instance.stop_handle();
            let program = thread::spawn(move || {
                let outcome = match stop {
                    0 => instance.invoke(export, &[Value::I32(1 << 30)]),
                    _ => instance.resume(&[]),
                };
                assert_eq!(outcome.unwrap(), Outcome::Stopped);
                instance
            });
            thread::sleep(Duration::from_millis(3 + 11 * (stop as u64 % 5)));
            handle.request();
            instance = program.join().unwrap();
            let state = instance.capture_rest().unwrap();
            let innermost = state.frames.last().and_then(|frame| map.safepoint(frame.safepoint)).unwrap();
            inside += u32::from(innermost.kind == SafepointKind::Bulk);
            instance.stay().unwrap();
        }
        // How long stops take is measured by `dunlin bench overhead`.
        println!("{export}: {inside} of {STOPS} stops were inside an instruction");
        assert!(inside > 0, "{export}: every stop waited for the end of an instruction");
        instance = Instance::new(&code, host(), Limits::default()).unwrap();
    }
}
