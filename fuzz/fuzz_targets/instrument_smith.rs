//! The pass on random valid modules with every proposal that it carries: what it writes is valid.
#![no_main]

use dunlin_instrument::{Options, Poll, Variant, instrument};
use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use wasm_smith::{Config, Module};
use wasmparser::{Validator, WasmFeatures};

fuzz_target!(|bytes: &[u8]| {
    let config = Config {
        gc_enabled: false,
        threads_enabled: false,
        exceptions_enabled: true,
        memory64_enabled: true,
        tail_call_enabled: true,
        max_memories: 3,
        max_tables: 3,
        ..Config::default()
    };
    let Ok(module) = Module::new(config, &mut Unstructured::new(bytes)) else { return };
    let wasm = module.to_bytes();
    for variant in [Variant::Fresh, Variant::Resume] {
        let Ok(out) = instrument(&wasm, Options { poll: Poll::Flag, variant }) else { return };
        if let Err(error) = Validator::new_with_features(WasmFeatures::all()).validate_all(&out.wasm) {
            panic!("{variant:?}: {error}");
        }
    }
});
