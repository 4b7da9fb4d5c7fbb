//! Compiling a module in the three ways that are compared, and what each costs before the program begins.

use std::time::Instant;

use dunlin_engine::{Code, Engine, Instance, Limits, Settings, Tier};
use dunlin_host::{Config, World};
use dunlin_instrument::{Options, instrument};
use serde::Serialize;

use super::statistics::Samples;
use crate::failure::{Exit, Failure, Result};
use crate::module::Module;
use crate::text::milliseconds;

/// The native engine, without and with Wasmtime's epoch interruption.
pub(super) struct Engines {
    pub(super) normal: Engine,
    pub(super) epoch: Engine,
}

impl Engines {
    pub(super) fn new() -> Result<Self> {
        let engine = |epoch_interruption| {
            Engine::new(Tier::Cranelift, Settings { epoch_interruption, ..Settings::default() })
                .map_err(Failure::engine("the engine cannot start"))
        };
        Ok(Self { normal: engine(false)?, epoch: engine(true)? })
    }
}

/// One module: as it was built, movable, and as it was built with epoch interruption.
pub(super) struct Codes {
    pub(super) plain: Code,
    pub(super) movable: Code,
    pub(super) epoch: Code,
}

/// What a module's start costs.
#[derive(Debug, Serialize)]
pub(super) struct Startup {
    pub(super) module: String,
    pub(super) wasm_bytes: usize,
    pub(super) movable_wasm_bytes: usize,
    pub(super) instrument_ms: f64,
    pub(super) plain_compile_ms: f64,
    pub(super) movable_compile_ms: f64,
    pub(super) epoch_compile_ms: f64,
    /// Of compilation alone.
    pub(super) compile_ratio: f64,
    pub(super) plain_code_bytes: usize,
    pub(super) movable_code_bytes: usize,
    pub(super) code_ratio: f64,
    pub(super) plain_start_ms: f64,
    pub(super) movable_start_ms: f64,
    /// Of all from the module's bytes to an instance: instrumenting, compiling, instantiating.
    pub(super) start_ratio: f64,
}

/// Compiles the module `rounds` times in each way, and takes the shortest times.
pub(super) fn measure(name: &str, module: &Module, engines: &Engines, rounds: usize) -> Result<(Codes, Startup)> {
    let failed = || format!("{name} cannot be compiled");
    let mut times: [Samples; 6] = Default::default();
    let [instrumenting, plain_compiling, compiling, epoch_compiling, plain_starting, starting] = &mut times;
    let mut codes = None;
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        let plain = Code::plain(&engines.normal, &module.wasm).map_err(Failure::engine(failed()))?;
        plain_compiling.add(milliseconds(start.elapsed()));
        instance(&plain, Config::new())?;
        plain_starting.add(milliseconds(start.elapsed()));

        let start = Instant::now();
        let instrumented =
            instrument(&module.wasm, Options::default()).map_err(Failure::because(Exit::Unavailable, failed()))?;
        instrumenting.add(milliseconds(start.elapsed()));
        let (wasm, map) = (instrumented.wasm, instrumented.map);
        let before = Instant::now();
        let movable = Code::shared(&engines.normal, &wasm, map).map_err(Failure::engine(failed()))?;
        compiling.add(milliseconds(before.elapsed()));
        instance(&movable, Config::new())?;
        starting.add(milliseconds(start.elapsed()));

        let start = Instant::now();
        let epoch = Code::plain(&engines.epoch, &module.wasm).map_err(Failure::engine(failed()))?;
        epoch_compiling.add(milliseconds(start.elapsed()));
        codes = Some((Codes { plain, movable, epoch }, wasm.len()));
    }
    let Some((codes, movable_wasm_bytes)) = codes else {
        return Err(Failure::new(Exit::Software, failed()));
    };
    let [instrument_ms, plain_compile_ms, movable_compile_ms, epoch_compile_ms, plain_start_ms, movable_start_ms] =
        times.map(|samples| samples.min());
    let (plain_code_bytes, movable_code_bytes) =
        (codes.plain.code_size().unwrap_or_default(), codes.movable.code_size().unwrap_or_default());
    let startup = Startup {
        module: name.to_owned(),
        wasm_bytes: module.wasm.len(),
        movable_wasm_bytes,
        instrument_ms,
        plain_compile_ms,
        movable_compile_ms,
        epoch_compile_ms,
        compile_ratio: movable_compile_ms / plain_compile_ms,
        plain_code_bytes,
        movable_code_bytes,
        code_ratio: movable_code_bytes as f64 / plain_code_bytes as f64,
        plain_start_ms,
        movable_start_ms,
        start_ratio: movable_start_ms / plain_start_ms,
    };
    Ok((codes, startup))
}

/// An instance in a world of its own.
pub(super) fn instance(code: &Code, config: Config) -> Result<Instance> {
    let world = World::new(config).map_err(Failure::because(Exit::Software, "a guest's world cannot be made"))?;
    Instance::new(code, Box::new(world), Limits::default()).map_err(Failure::engine("a guest cannot be started"))
}
