//! Wasmtime with its own WASI preview 1: what our host is compared with. It never uses anything of ours.

use std::path::Path;

use wasmtime::{Engine, Instance, Linker, Module, Store};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder};

/// How much output a program under comparison may make.
const OUTPUT: usize = 64 << 20;

/// Stack for programs: some call deeply.
const STACK: usize = 32 << 20;

/// A program in Wasmtime's world.
pub struct Peer {
    /// The program's store.
    pub store: Store<WasiP1Ctx>,
    /// The program.
    pub instance: Instance,
    stdout: MemoryOutputPipe,
}

/// What a program is given.
#[derive(Debug, Clone, Default)]
pub struct Offer<'a> {
    /// Arguments, the program's name first.
    pub args: &'a [String],
    /// Standard input.
    pub stdin: &'a [u8],
    /// Directories: on the host, for the program, and whether it may write.
    pub directories: &'a [(&'a Path, &'a str, bool)],
}

/// Calls `f` on a thread with enough stack for programs.
///
/// # Panics
/// If `f` does, or if there can be no such thread.
pub fn on_stack<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(2 * STACK);
        let thread = builder.spawn_scoped(scope, f).expect("a thread can be started");
        thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    })
}

/// The engine for programs.
///
/// # Errors
/// If the machine is not supported.
pub fn engine() -> wasmtime::Result<Engine> {
    let mut config = wasmtime::Config::new();
    config.max_wasm_stack(STACK).async_stack_size(2 * STACK);
    Engine::new(&config)
}

impl Peer {
    /// Instantiates a program.
    ///
    /// # Errors
    /// If a directory or an import is missing.
    pub fn new(engine: &Engine, module: &Module, offer: &Offer<'_>) -> wasmtime::Result<Self> {
        let mut linker = Linker::new(engine);
        p1::add_to_linker_sync(&mut linker, |ctx: &mut WasiP1Ctx| ctx)?;
        let stdout = MemoryOutputPipe::new(OUTPUT);
        let mut builder = WasiCtxBuilder::new();
        builder.args(offer.args).stdin(MemoryInputPipe::new(offer.stdin.to_vec())).stdout(stdout.clone());
        for (host, guest, writable) in offer.directories {
            let perms = if *writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            builder.preopened_dir(host, guest, perms)?;
        }
        let mut store = Store::new(engine, builder.build_p1());
        let instance = linker.instantiate(&mut store, module)?;
        Ok(Self { store, instance, stdout })
    }

    /// Runs `_start`; gives the exit code.
    ///
    /// # Errors
    /// If the program traps.
    pub fn run(&mut self) -> wasmtime::Result<i32> {
        let start = self.instance.get_typed_func::<(), ()>(&mut self.store, "_start")?;
        match start.call(&mut self.store, ()) {
            Ok(()) => Ok(0),
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(exit) => Ok(exit.0),
                None => Err(error),
            },
        }
    }

    /// What it has put out.
    pub fn output(&self) -> Vec<u8> {
        self.stdout.contents().to_vec()
    }
}
