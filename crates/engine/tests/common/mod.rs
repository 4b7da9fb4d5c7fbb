//! A module instrumented by hand with its map, and a host to go with it.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "shared by test programs that each use a part")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use dunlin_base::{Digest, Value, ValueType};
use dunlin_engine::{Code, Engine, Flow, Host, Instance, Limits, Settings, StopHandle, Tier};
use dunlin_instrument::{
    ControlLayout, FunctionInfo, GlobalInfo, Instrumented, KnownDigest, LiveValue, Map, MemoryInfo, Safepoint,
    SafepointKind, Slot, TableInfo,
};

pub const COUNTER: &str = include_str!("../modules/counter.wat");

/// The number by which the host knows each import.
const IMPORTS: [&str; 4] = ["tick", "handle", "number", "exit"];

/// What the world looks like from the test's side.
#[derive(Default)]
pub struct World {
    pub ticks: AtomicU32,
    /// While set, `tick` blocks until a stop is requested.
    pub block: Mutex<Option<StopHandle>>,
    pub woken: Condvar,
}

pub struct TestHost(pub Arc<World>);

impl Host for TestHost {
    fn resolve(&self, module: &str, name: &str, params: &[ValueType], results: &[ValueType]) -> Option<u32> {
        let number = IMPORTS.iter().position(|import| *import == name).filter(|_| module == "env")?;
        let types: [(&[ValueType], &[ValueType]); 4] = [
            (&[ValueType::I32], &[ValueType::I32]),
            (&[ValueType::I64], &[ValueType::ExternRef]),
            (&[ValueType::ExternRef], &[ValueType::I64]),
            (&[ValueType::I32], &[]),
        ];
        (types[number] == (params, results)).then_some(number as u32)
    }

    fn call(&mut self, function: u32, memory: &mut [u8], args: &[Value], results: &mut [Value]) -> Flow {
        match (function, args) {
            (0, [Value::I32(value)]) => {
                assert_eq!(memory.len() % 65536, 0);
                memory[100] = 99;
                let mut block = self.0.block.lock().unwrap();
                while let Some(stop) = &*block {
                    if stop.is_requested() {
                        return Flow::Reissue;
                    }
                    block = self.0.woken.wait(block).unwrap();
                }
                self.0.ticks.fetch_add(1, Ordering::Relaxed);
                results[0] = Value::I32(value * 2);
                Flow::Return
            }
            (1, [Value::I64(number)]) => {
                results[0] = Value::ExternRef(Some(*number as u64));
                Flow::Return
            }
            (2, [Value::ExternRef(Some(number))]) => {
                results[0] = Value::I64(*number as i64);
                Flow::Return
            }
            (3, [Value::I32(code)]) => Flow::Exit(*code),
            _ => Flow::Trap(format!("function {function} was called with {args:?}")),
        }
    }
}

pub fn counter() -> Instrumented {
    let function = |params: &[ValueType], results: &[ValueType], first, safepoints, escapes| FunctionInfo {
        params: params.to_vec(),
        results: results.to_vec(),
        first_safepoint: first,
        safepoints,
        escapes,
    };
    use ValueType::{ExternRef, F32, FuncRef, I32, I64, V128};
    let safepoint = |function, kind, live: &[(Slot, ValueType)]| Safepoint {
        function,
        offset: 0,
        kind,
        live: live.iter().map(|(slot, ty)| LiveValue { slot: *slot, ty: *ty }).collect(),
    };
    let (local, operand) = (Slot::Local, Slot::Operand);
    let map = Map {
        module: Digest::of(b"counter"),
        imported_functions: 4,
        functions: vec![
            function(&[I32], &[I32], 0, 0, false),
            function(&[I64], &[ExternRef], 0, 0, false),
            function(&[ExternRef], &[I64], 0, 0, false),
            function(&[I32], &[], 0, 0, false),
            function(&[I32], &[I32], 0, 1, true),
            function(&[I32], &[I32], 1, 1, false),
            function(&[], &[I32], 2, 1, false),
            function(&[], &[], 3, 1, false),
            function(&[], &[], 4, 1, false),
            function(&[I32], &[I32], 5, 0, false),
            function(&[], &[], 5, 0, false),
            function(&[I32], &[I32], 5, 0, false),
            function(&[I32], &[I64], 5, 0, false),
        ],
        safepoints: vec![
            safepoint(
                4,
                SafepointKind::Loop,
                &[(local(0), I32), (local(1), I32), (local(2), FuncRef), (local(3), V128), (local(4), F32)],
            ),
            safepoint(5, SafepointKind::Call, &[(local(0), I32), (operand(0), I32)]),
            safepoint(6, SafepointKind::Import, &[(operand(0), I32)]),
            safepoint(7, SafepointKind::Call, &[(operand(0), I32)]),
            safepoint(8, SafepointKind::Call, &[(operand(0), I32)]),
        ],
        memories: vec![MemoryInfo {
            imported: false,
            memory64: false,
            page_size_log2: 16,
            minimum: 1,
            maximum: Some(4),
        }],
        tables: vec![
            TableInfo { imported: false, ty: FuncRef, nullable: true, minimum: 3, maximum: Some(10) },
            TableInfo { imported: false, ty: ExternRef, nullable: true, minimum: 2, maximum: None },
        ],
        globals: vec![
            GlobalInfo { imported: false, ty: I64, nullable: false, mutable: true },
            GlobalInfo { imported: false, ty: I32, nullable: false, mutable: false },
            GlobalInfo { imported: false, ty: FuncRef, nullable: true, mutable: true },
        ],
        tags: vec![],
        data_segments: 2,
        elem_segments: 1,
        start: Some(7),
        control: ControlLayout { dropped_data: 16, dropped_elems: 18, frames: 27, largest_record: 40, pages: 1 },
        ref_tables: vec![FuncRef],
        known_digest: KnownDigest::default(),
    };
    Instrumented { wasm: wat::parse_str(COUNTER).unwrap(), map: map.into() }
}

pub fn engine(tier: Tier) -> Engine {
    Engine::new(tier, Settings { wasm_stack: 1 << 20, ..Settings::default() }).unwrap()
}

pub fn code(tier: Tier) -> Code {
    Code::instrumented(&engine(tier), &counter()).unwrap()
}

pub fn codes() -> Vec<Code> {
    Tier::ALL.into_iter().map(code).collect()
}

pub fn host() -> Box<dyn Host> {
    Box::new(TestHost(Arc::default()))
}

pub fn instance(code: &Code) -> Instance {
    Instance::new(code, host(), Limits::default()).unwrap()
}
