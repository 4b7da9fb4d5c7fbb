//! Engines and compiled modules.
#![allow(unsafe_code, reason = "one function takes machine code that was compiled before")]

use core::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use dunlin_instrument::{Instrumented, Map, exports};

use crate::error::{Cause, Error};
use crate::module::{ModuleInfo, prepare_plain};
use crate::tier::Tier;

/// Settings of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of native stack that a program's frames may take; beyond it the program traps. Each run gets a
    /// thread with a stack of this size and some more for the host's functions; memory is only used as far as the
    /// stack really grows. A frame takes 16 bytes at least and 50 to 200 as a rule, so the default is good for some
    /// hundred thousand frames. A stack that was saved near the limit may not fit where frames are larger (another
    /// CPU or tier): restoring then fails with [`Error::Rewind`], and succeeds with a larger value here.
    pub wasm_stack: usize,
    /// Whether plain code polls Wasmtime's epoch at every loop and function, as engines without instrumentation do
    /// to interrupt programs. The epoch never passes its deadline: this is for measuring what the polls cost.
    /// Instrumented code and wasmi ignore it.
    pub epoch_interruption: bool,
}

impl Default for Settings {
    /// 32 MiB of stack, no epoch interruption.
    fn default() -> Self {
        Self { wasm_stack: 32 << 20, epoch_interruption: false }
    }
}

/// An engine: compiles modules. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tier: Tier,
    settings: Settings,
    /// For instrumented modules.
    movable: Backend,
    /// For modules that only run; set up when it is first needed.
    plain: OnceLock<Backend>,
}

#[derive(Debug, Clone)]
pub(crate) enum Backend {
    Wasmtime(crate::wasmtime::Backend),
    Wasmi(crate::wasmi::Backend),
}

impl Backend {
    fn new(tier: Tier, settings: Settings, movable: bool) -> Result<Self, Error> {
        Ok(match tier {
            Tier::Cranelift | Tier::Pulley => Self::Wasmtime(crate::wasmtime::Backend::new(tier, settings, movable)?),
            Tier::Wasmi => Self::Wasmi(crate::wasmi::Backend::new(settings.wasm_stack, movable)),
        })
    }
}

impl Engine {
    /// Sets up an engine.
    ///
    /// # Errors
    /// [`Error::Engine`] if this machine cannot run it with these settings.
    pub fn new(tier: Tier, settings: Settings) -> Result<Self, Error> {
        let movable = Backend::new(tier, settings, true)?;
        Ok(Self(Arc::new(Inner { tier, settings, movable, plain: OnceLock::new() })))
    }

    /// Which engine it is.
    pub fn tier(&self) -> Tier {
        self.0.tier
    }

    /// Its settings.
    pub fn settings(&self) -> Settings {
        self.0.settings
    }

    /// Calls `f` on a thread with stack enough for this engine's programs. Runs of instances inside `f` then start
    /// no threads of their own: worth it around a series of short runs.
    ///
    /// # Errors
    /// [`Error::Thread`] if no such thread can be started.
    pub fn on_stack<R: Send>(&self, f: impl FnOnce() -> R + Send) -> Result<R, Error> {
        crate::stack::on_stack(self.0.settings.wasm_stack, f)
    }

    /// Starts a thread with stack enough for this engine's programs: as [`Engine::on_stack`], without a caller that waits.
    ///
    /// # Errors
    /// If the system starts none.
    pub fn spawn(&self, name: &str, f: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        crate::stack::spawn(self.0.settings.wasm_stack, name, f)
    }

    fn plain(&self) -> Result<&Backend, Error> {
        if let Some(backend) = self.0.plain.get() {
            return Ok(backend);
        }
        let backend = Backend::new(self.0.tier, self.0.settings, false)?;
        Ok(self.0.plain.get_or_init(|| backend))
    }
}

/// A compiled module, from which any number of instances are made. Cloning it is cheap.
#[derive(Clone)]
pub struct Code(Arc<Compiled>);

pub(crate) struct Compiled {
    pub(crate) engine: Engine,
    pub(crate) module: CompiledModule,
    pub(crate) info: ModuleInfo,
    pub(crate) map: Option<Arc<Map>>,
}

pub(crate) enum CompiledModule {
    Wasmtime(crate::wasmtime::Backend, ::wasmtime::Module),
    Wasmi(::wasmi::Module),
}

impl Code {
    /// Compiles an instrumented module: its instances can be stopped and captured and, if it is of the resumable
    /// variant, restored.
    ///
    /// # Errors
    /// [`Error::Compile`] if the engine cannot take the module, with the engine's reason.
    pub fn instrumented(engine: &Engine, instrumented: &Instrumented) -> Result<Self, Error> {
        Self::shared(engine, &instrumented.wasm, instrumented.map.clone())
    }

    /// As [`Code::instrumented`], sharing the map.
    ///
    /// # Errors
    /// As there.
    pub fn shared(engine: &Engine, wasm: &[u8], map: Arc<Map>) -> Result<Self, Error> {
        Self::compile(engine, &engine.0.movable, wasm, Some(map))
    }

    /// Compiles a module as its author built it: its instances can only run.
    ///
    /// # Errors
    /// [`Error::Module`] for bytes that are not a module, [`Error::Compile`] if the engine cannot take it.
    pub fn plain(engine: &Engine, wasm: &[u8]) -> Result<Self, Error> {
        Self::compile(engine, engine.plain()?, &prepare_plain(wasm)?, None)
    }

    fn compile(engine: &Engine, backend: &Backend, wasm: &[u8], map: Option<Arc<Map>>) -> Result<Self, Error> {
        let module = match backend {
            Backend::Wasmtime(backend) => {
                CompiledModule::Wasmtime(backend.clone(), backend.compile(engine.tier(), wasm)?)
            }
            Backend::Wasmi(backend) => CompiledModule::Wasmi(backend.compile(wasm)?),
        };
        Self::of(engine, module, wasm, map)
    }

    /// What was compiled, for [`Code::from_precompiled`]; `None` for wasmi, which has nothing to spare.
    ///
    /// # Errors
    /// [`Error::Compile`] if the engine cannot write it down.
    pub fn to_precompiled(&self) -> Result<Option<Vec<u8>>, Error> {
        match &self.0.module {
            CompiledModule::Wasmtime(backend, module) => backend.serialize(self.0.engine.tier(), module).map(Some),
            CompiledModule::Wasmi(_) => Ok(None),
        }
    }

    /// As [`Code::instrumented`], without compiling: `precompiled` is what [`Code::to_precompiled`] gave.
    ///
    /// # Errors
    /// [`Error::Compile`] for bytes of another version or for other settings, another CPU or wasmi: compile it then.
    ///
    /// # Safety
    /// The bytes are machine code, and run. They must come, unchanged, from [`Code::to_precompiled`] of a code that was
    /// compiled from exactly these bytes of `instrumented`.
    pub unsafe fn from_precompiled(
        engine: &Engine,
        instrumented: &Instrumented,
        precompiled: &[u8],
    ) -> Result<Self, Error> {
        let Backend::Wasmtime(backend) = &engine.0.movable else {
            let reason = "this engine takes no code that was compiled before";
            return Err(Error::Compile { tier: engine.tier(), source: Cause::new(reason) });
        };
        // SAFETY: what the caller promises is what is asked for.
        let module = unsafe { backend.deserialize(engine.tier(), precompiled) }?;
        let module = CompiledModule::Wasmtime(backend.clone(), module);
        Self::of(engine, module, &instrumented.wasm, Some(instrumented.map.clone()))
    }

    fn of(engine: &Engine, module: CompiledModule, wasm: &[u8], map: Option<Arc<Map>>) -> Result<Self, Error> {
        let info = ModuleInfo::read(wasm)?;
        if let Some(map) = &map {
            check_map(map, &info)?;
        }
        Ok(Self(Arc::new(Compiled { engine: engine.clone(), module, info, map })))
    }

    /// The engine that it is compiled for.
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The map, if it is of an instrumented module.
    pub fn map(&self) -> Option<&Arc<Map>> {
        self.0.map.as_ref()
    }

    /// Bytes of machine code (or Pulley's byte code); `None` for wasmi, which does not tell.
    pub fn code_size(&self) -> Option<usize> {
        match &self.0.module {
            CompiledModule::Wasmtime(_, module) => Some(module.functions().map(|function| function.len).sum()),
            CompiledModule::Wasmi(_) => None,
        }
    }

    /// Whether `page`, the contents of page `number` of a memory, is what a fresh instance has there.
    pub fn is_fresh(&self, memory: usize, number: u64, page: &[u8]) -> bool {
        match self.0.info.fresh.get(memory) {
            Some(fresh) => fresh.is_same(number, page),
            None => dunlin_base::is_zero(page),
        }
    }

    pub(crate) fn compiled(&self) -> &Compiled {
        &self.0
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code").field("tier", &self.0.engine.tier()).field("movable", &self.0.map.is_some()).finish()
    }
}

/// Checks what the rest of this crate relies on, so that a map of another module cannot make it index beyond a
/// list's end.
fn check_map(map: &Map, info: &ModuleInfo) -> Result<(), Error> {
    let wrong = |what: &str| Err(Error::Instrumentation(format!("the map has another number of {what}")));
    if map.memories.len() >= info.memories.len() {
        return wrong("memories");
    }
    if map.tables.len() > info.tables.len() {
        return wrong("tables");
    }
    if map.functions.len() > info.functions.len() {
        return wrong("functions");
    }
    if map.safepoints.iter().any(|safepoint| safepoint.function as usize >= map.functions.len()) {
        return wrong("functions than its safepoints name");
    }
    if map.start.is_some() != info.exported_functions.contains_key(exports::START) {
        return wrong("start functions");
    }
    let control = map.control;
    let end = control
        .dropped_data
        .saturating_add(map.data_segments)
        .max(control.dropped_elems.saturating_add(map.elem_segments));
    if control.dropped_data < 16 || control.dropped_elems < 16 || control.frames < end {
        return Err(Error::Instrumentation("its layout of the control memory overlaps".to_owned()));
    }
    Ok(())
}
