//! An instance in wasmi.

use core::ops::Range;
use std::collections::HashMap;
use std::sync::Arc;

use dunlin_base::Value;
use dunlin_instrument::{ControlLayout, ControlState, Map, exports};
use dunlin_snapshot::Exception;
use wasmi::{
    CompilationMode, Config, Engine, ExternRef, Func, Global, Instance, Memory, Module, Nullable, Ref, ResumableCall,
    Store, StoreLimits, StoreLimitsBuilder, Table, Val,
};

use super::host;
use super::mend::mend;
use super::trap::end;
use crate::error::{Cause, Error};
use crate::host::Host;
use crate::limits::{self, Growth, Limits};
use crate::live::Shadow;
use crate::machine::{Callee, End, Machine, TableId};
use crate::memory::Mapping;
use crate::module::ModuleInfo;
use crate::setup::Imports;
use crate::stop::StopHandle;
use crate::tier::Tier;

/// Fuel for one portion, roughly its number of instructions: a fraction of a millisecond.
const PORTION: u64 = 50_000;
/// Bytes of stack that one call is taken to need, to turn the stack's size into a depth. Wasmtime's smallest frames
/// are of about this size.
const FRAME: usize = 32;

/// Bytes that the save paths may always use.
const CONTROL_ROOM: u64 = 16 << 20;

/// A host reference: the number under which the host knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostRef(pub(super) u64);

/// A wasmi engine.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    engine: Engine,
}

impl Backend {
    /// Sets up an engine. Only movable modules are metered.
    pub(crate) fn new(wasm_stack: usize, movable: bool) -> Self {
        let mut config = Config::default();
        config
            .consume_fuel(movable)
            // Translating a function at its first call takes fuel, and cannot be resumed when a portion does not
            // suffice.
            .compilation_mode(if movable { CompilationMode::Eager } else { CompilationMode::LazyTranslation })
            .wasm_multi_memory(true)
            .wasm_memory64(true)
            .wasm_tail_call(true)
            .wasm_extended_const(true)
            .wasm_custom_page_sizes(true)
            .wasm_wide_arithmetic(true)
            .wasm_simd(true)
            .wasm_relaxed_simd(true)
            .ignore_custom_sections(true)
            .set_min_stack_height(wasm_stack.min(1 << 10))
            .set_max_stack_height(wasm_stack.max(1 << 10))
            .set_max_recursion_depth((wasm_stack / FRAME).max(16));
        Self { engine: Engine::new(&config) }
    }

    /// Compiles a module.
    pub(crate) fn compile(&self, wasm: &[u8]) -> Result<Module, Error> {
        let mended = mend(wasm);
        Module::new(&self.engine, mended.as_deref().unwrap_or(wasm))
            .map_err(|error| Error::Compile { tier: Tier::Wasmi, source: Cause::new(error) })
    }
}

/// What host functions and the limiter need.
pub(super) struct Context {
    pub(super) host: Box<dyn Host>,
    pub(super) memory: Option<Memory>,
    pub(super) control: Option<Memory>,
    /// Where polls beside calls have a flag of their own.
    pub(super) calls: Option<Memory>,
    limits: Limits,
    limiter: StoreLimits,
}

impl Context {
    /// Says who grows memories and tables from now on. While the stack is saved (`unwinding`), its record may
    /// exceed the program's own limits. wasmi does not tell the limiter which memory grows.
    pub(super) fn set_growth(&mut self, growth: Growth, unwinding: bool) {
        let size = |limit| usize::try_from(limit).unwrap_or(usize::MAX);
        let (memory, table) = limits::bounds(growth, unwinding, &self.limits);
        self.limiter = StoreLimitsBuilder::new()
            .memory_size(size(memory))
            .table_elements(size(table))
            .instances(usize::MAX)
            .tables(usize::MAX)
            .memories(usize::MAX)
            .build();
    }
}

/// An instance and handles to all of its state.
pub(crate) struct WasmiMachine {
    store: Store<Context>,
    instance: Instance,
    memories: Vec<Memory>,
    tables: Vec<Table>,
    /// `None`: immutable.
    globals: Vec<Option<Global>>,
    references: Vec<Table>,
    functions: Option<Table>,
    resume: Option<Table>,
    control: Option<Memory>,
    count: Option<Global>,
    stop: StopHandle,
    /// Index of every function that escapes, by its handle.
    identities: Option<HashMap<String, u32>>,
    /// A copy of the memories for other threads, if any wants one.
    shadow: Option<Arc<Shadow>>,
}

impl WasmiMachine {
    pub(crate) fn new(
        module: &Module,
        info: &ModuleInfo,
        map: Option<&Map>,
        imports: Imports,
        host: Box<dyn Host>,
        limits: Limits,
        stop: &StopHandle,
    ) -> Result<Self, Error> {
        let tier = Tier::Wasmi;
        let context =
            Context { host, memory: None, control: None, calls: None, limits, limiter: StoreLimits::default() };
        let mut store = Store::new(module.engine(), context);
        store.data_mut().set_growth(Growth::Engine, false);
        store.limiter(|context| &mut context.limiter);
        if map.is_some() {
            // Instantiation is not portioned.
            store.set_fuel(u64::MAX).map_err(|error| Error::Instantiate { tier, source: Cause::new(error) })?;
        }
        let externs: Vec<wasmi::Extern> = imports
            .into_iter()
            .map(|import| host::import(&mut store, import.number, &import.params, import.results).into())
            .collect();
        let instance = Instance::new(&mut store, module, &externs)
            .map_err(|error| Error::Instantiate { tier, source: Cause::new(error) })?;
        let memory = info.host_memory.as_ref().and_then(|name| instance.get_memory(&store, name));
        store.data_mut().memory = memory;
        let mut machine = Self {
            store,
            instance,
            memories: Vec::new(),
            tables: Vec::new(),
            globals: Vec::new(),
            references: Vec::new(),
            functions: None,
            resume: None,
            control: None,
            count: None,
            stop: stop.clone(),
            identities: None,
            shadow: None,
        };
        if let Some(map) = map {
            machine.resolve(map)?;
            machine.make_room(&limits)?;
            stop.attach_polled();
        }
        machine.store.data_mut().set_growth(Growth::Program, false);
        Ok(machine)
    }

    fn resolve(&mut self, map: &Map) -> Result<(), Error> {
        let (store, instance) = (&mut self.store, self.instance);
        let missing = |name: &str| Error::Instrumentation(format!("there is no export {name:?} of the right kind"));
        let memory = |store: &Store<Context>, name: &str| instance.get_memory(store, name).ok_or_else(|| missing(name));
        for index in 0..map.memories.len() as u32 {
            self.memories.push(memory(store, &exports::memory(index))?);
        }
        let control = memory(store, exports::CONTROL)?;
        if control.data_size(&*store) < (map.control.frames as usize).max(16) {
            return Err(Error::Instrumentation("the control memory is too small".to_owned()));
        }
        let calls = instance.get_memory(&*store, exports::CALLS);
        if calls.is_some_and(|calls| calls.data_size(&*store) < 4) {
            return Err(Error::Instrumentation("the memory with the flag for calls is too small".to_owned()));
        }
        (store.data_mut().control, store.data_mut().calls) = (Some(control), calls);
        self.control = Some(control);
        let table = |store: &Store<Context>, name: &str| instance.get_table(store, name).ok_or_else(|| missing(name));
        for index in 0..map.tables.len() as u32 {
            self.tables.push(table(store, &exports::table(index))?);
        }
        for index in 0..map.ref_tables.len() as u32 {
            self.references.push(table(store, &exports::ref_table(index))?);
        }
        self.functions = instance.get_table(&*store, exports::FUNCTIONS);
        self.resume = instance.get_table(&*store, exports::RESUME);
        for (index, global) in (0_u32..).zip(&map.globals) {
            let name = exports::global(index);
            self.globals.push(match global.mutable {
                true => Some(instance.get_global(&*store, &name).ok_or_else(|| missing(&name))?),
                false => None,
            });
        }
        self.count = instance.get_global(&*store, exports::COUNT);
        Ok(())
    }

    /// Gives the control memory room for deep stacks if the program's own limit is small: wasmi does not tell which
    /// memory grows, so the save paths may later be held to that limit.
    fn make_room(&mut self, limits: &Limits) -> Result<(), Error> {
        let control = self.control();
        let missing = CONTROL_ROOM.saturating_sub(control.data_size(&self.store) as u64).div_ceil(1 << 16);
        if limits.memory_bytes < CONTROL_ROOM && missing > 0 {
            let grown = control.grow(&mut self.store, missing);
            grown.map_err(|error| Error::Instantiate { tier: Tier::Wasmi, source: Cause::new(error) })?;
        }
        Ok(())
    }

    fn table(&self, table: TableId) -> Table {
        match table {
            TableId::Program(index) => self.tables[index as usize],
            TableId::References(index) => self.references[index as usize],
        }
    }

    fn control(&self) -> Memory {
        self.control.expect("only called for instrumented modules")
    }

    /// Runs a call to its end, in portions if the module is metered.
    fn run(&mut self, function: Func, args: &[Val], results: &mut [Val]) -> Result<(), wasmi::Error> {
        if self.control.is_none() {
            return function.call(&mut self.store, args, results);
        }
        self.refuel(0)?;
        let mut call = function.call_resumable(&mut self.store, args, results)?;
        loop {
            call = match call {
                ResumableCall::Finished => return Ok(()),
                ResumableCall::HostTrap(trap) => return Err(trap.into_host_error()),
                ResumableCall::OutOfFuel(out) => {
                    self.refuel(out.required_fuel())?;
                    out.resume(&mut self.store, results)?
                }
            }
        }
    }

    /// Grants the next portion, and passes on a stop request.
    fn refuel(&mut self, required: u64) -> Result<(), wasmi::Error> {
        if self.stop.is_requested() && self.word(ControlLayout::FLAG) == 0 {
            self.set_flags(1);
        }
        if self.shadow.as_ref().is_some_and(|shadow| shadow.is_wanted()) {
            self.renew_shadow(false);
        }
        self.store.set_fuel(PORTION.max(required))
    }

    fn renew_shadow(&self, standing: bool) {
        if let Some(shadow) = &self.shadow {
            shadow.renew(self.memories.iter().map(|memory| memory.data(&self.store)), standing);
        }
    }

    fn read(&mut self, value: &Val) -> Result<Value, Cause> {
        Ok(match value {
            Val::I32(value) => Value::I32(*value),
            Val::I64(value) => Value::I64(*value),
            Val::F32(value) => Value::F32(value.to_bits()),
            Val::F64(value) => Value::F64(value.to_bits()),
            Val::V128(value) => Value::V128(value.as_u128()),
            Val::FuncRef(Nullable::Null) => Value::FuncRef(None),
            Val::FuncRef(Nullable::Val(function)) => {
                let identity = identity(function);
                let index = self.identities()?.get(&identity);
                Value::FuncRef(Some(*index.ok_or_else(|| Cause::new("a function that is not the module's"))?))
            }
            Val::ExternRef(Nullable::Null) => Value::ExternRef(None),
            Val::ExternRef(Nullable::Val(reference)) => match reference.data(&self.store).downcast_ref::<HostRef>() {
                Some(HostRef(number)) => Value::ExternRef(Some(*number)),
                None => return Err(Cause::new("an external reference that is not the host's")),
            },
        })
    }

    fn write(&mut self, value: &Value) -> Result<Val, Cause> {
        Ok(match *value {
            Value::I32(value) => Val::I32(value),
            Value::I64(value) => Val::I64(value),
            Value::F32(bits) => Val::F32(wasmi::F32::from_bits(bits)),
            Value::F64(bits) => Val::F64(wasmi::F64::from_bits(bits)),
            Value::V128(bits) => Val::V128(bits.into()),
            Value::FuncRef(None) => Val::FuncRef(Nullable::Null),
            Value::FuncRef(Some(index)) => {
                match self.functions.and_then(|table| table.get(&self.store, u64::from(index))) {
                    Some(Ref::Func(Nullable::Val(function))) => Val::FuncRef(Nullable::Val(function)),
                    _ => return Err(Cause::new(format!("function {index} cannot be referred to"))),
                }
            }
            Value::ExternRef(None) => Val::ExternRef(Nullable::Null),
            Value::ExternRef(Some(number)) => {
                Val::ExternRef(Nullable::Val(ExternRef::new(&mut self.store, HostRef(number))))
            }
            Value::ExnRef(_) => return Err(Cause::new("the engine wasmi has no exceptions")),
        })
    }

    fn identities(&mut self) -> Result<&HashMap<String, u32>, Cause> {
        if self.identities.is_none() {
            let mut identities = HashMap::new();
            let size = self.functions.map_or(0, |table| table.size(&self.store));
            for index in 0..size {
                let element = self.functions.and_then(|table| table.get(&self.store, index));
                if let Some(Ref::Func(Nullable::Val(function))) = element
                    && identities.insert(identity(&function), index as u32).is_some()
                {
                    return Err(Cause::new("the engine does not tell functions apart"));
                }
            }
            self.identities = Some(identities);
        }
        Ok(self.identities.get_or_insert_default())
    }
}

/// What tells functions apart. wasmi's handles cannot be compared, but their debug text contains all of them
/// (store and index), and [`WasmiMachine::identities`] fails should that ever change.
fn identity(function: &Func) -> String {
    format!("{function:?}")
}

fn reference(value: Val) -> Result<Ref, Cause> {
    match value {
        Val::FuncRef(function) => Ok(Ref::Func(function)),
        Val::ExternRef(external) => Ok(Ref::Extern(external)),
        _ => Err(Cause::new("not a reference")),
    }
}

impl Machine for WasmiMachine {
    fn call(&mut self, callee: Callee<'_>, args: &[Value]) -> Result<End, Error> {
        let function = match callee {
            Callee::Export(name) => {
                self.instance.get_func(&self.store, name).ok_or_else(|| Error::NoExport(name.to_owned()))?
            }
            Callee::Resume(index) => {
                let table = self.resume.ok_or(Error::NotResumable)?;
                match table.get(&self.store, u64::from(index)) {
                    Some(Ref::Func(Nullable::Val(function))) => function,
                    _ => return Err(Error::Rewind(format!("function {index} cannot be resumed"))),
                }
            }
        };
        let values = args
            .iter()
            .map(|arg| self.write(arg).map_err(|source| Error::Value { place: format!("the argument {arg}"), source }));
        let values: Vec<Val> = values.collect::<Result<_, _>>()?;
        let ty = function.ty(&self.store);
        let mut results: Vec<Val> = ty.results().iter().map(|ty| Val::default_for_ty(*ty)).collect();
        if let Some(shadow) = &self.shadow {
            shadow.set_running();
        }
        let ran = self.run(function, &values, &mut results);
        self.renew_shadow(true);
        let stopped = self.control.is_some() && self.word(ControlLayout::STATE) == ControlState::Unwinding as u32;
        self.store.data_mut().set_growth(Growth::Program, false);
        match ran {
            Ok(()) if stopped => Ok(End::Stopped),
            Ok(()) => {
                let results: Result<_, _> = results.iter().map(|result| self.read(result)).collect();
                let place = "a result of the function".to_owned();
                Ok(End::Finished(results.map_err(|source| Error::Value { place, source })?))
            }
            Err(error) => Ok(end(&error)),
        }
    }

    fn memory(&self, index: u32) -> &[u8] {
        self.memories[index as usize].data(&self.store)
    }

    fn memory_mut(&mut self, index: u32) -> &mut [u8] {
        self.memories[index as usize].data_mut(&mut self.store)
    }

    fn grow_memory(&mut self, index: u32, pages: u64) -> Result<(), Cause> {
        self.store.data_mut().set_growth(Growth::Engine, false);
        let grown = self.memories[index as usize].grow(&mut self.store, pages);
        self.store.data_mut().set_growth(Growth::Program, false);
        grown.map(drop).map_err(Cause::new)
    }

    fn populated(&self, _: u32, _: u64) -> Option<Vec<Range<u64>>> {
        None
    }

    fn fixed_memory(&self, _: u32) -> Option<(*mut u8, usize)> {
        None
    }

    fn read_table(&mut self, table: TableId) -> Result<Vec<Value>, Cause> {
        let table = self.table(table);
        let size = table.size(&self.store);
        let mut elements = Vec::new();
        for index in 0..size {
            let element = match table.get(&self.store, index) {
                Some(Ref::Func(function)) => Val::FuncRef(function),
                Some(Ref::Extern(external)) => Val::ExternRef(external),
                None => return Err(Cause::new("the table shrank")),
            };
            elements.push(self.read(&element)?);
        }
        Ok(elements)
    }

    fn write_table(&mut self, table: TableId, elements: &[Value]) -> Result<(), Cause> {
        let table = self.table(table);
        let size = table.size(&self.store);
        let missing = (elements.len() as u64).saturating_sub(size);
        for (index, element) in (0_u64..).zip(elements) {
            let reference = reference(self.write(element)?)?;
            if index == size {
                self.store.data_mut().set_growth(Growth::Engine, false);
                let grown = table.grow(&mut self.store, missing, reference);
                self.store.data_mut().set_growth(Growth::Program, false);
                grown.map_err(Cause::new)?;
            } else {
                table.set(&mut self.store, index, reference).map_err(Cause::new)?;
            }
        }
        Ok(())
    }

    fn global(&mut self, index: u32) -> Result<Value, Cause> {
        let global = self.globals[index as usize].ok_or_else(|| Cause::new("the global is immutable"))?;
        let value = global.get(&self.store);
        self.read(&value)
    }

    fn set_global(&mut self, index: u32, value: &Value) -> Result<(), Cause> {
        let global = self.globals[index as usize].ok_or_else(|| Cause::new("the global is immutable"))?;
        let value = self.write(value)?;
        global.set(&mut self.store, value).map_err(Cause::new)
    }

    fn count(&mut self) -> Option<i64> {
        self.count?.get(&self.store).i64()
    }

    fn set_count(&mut self, count: i64) -> bool {
        self.count.is_some_and(|global| global.set(&mut self.store, Val::I64(count)).is_ok())
    }

    fn word(&self, offset: u32) -> u32 {
        let bytes = self.control().data(&self.store).get(offset as usize..).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    fn set_word(&mut self, offset: u32, value: u32) {
        let written = self.control().write(&mut self.store, offset as usize, &value.to_le_bytes());
        debug_assert!(written.is_ok(), "the control memory holds its words");
    }

    fn set_flags(&mut self, value: u32) {
        if let Some(calls) = self.store.data().calls {
            let written = calls.write(&mut self.store, 0, &value.to_le_bytes());
            debug_assert!(written.is_ok(), "the memory holds its word");
        }
        self.set_word(ControlLayout::FLAG, value);
    }

    fn read_control(&self, offset: u32, length: u32) -> Option<Vec<u8>> {
        let end = offset as usize + length as usize;
        Some(self.control().data(&self.store).get(offset as usize..end)?.to_vec())
    }

    fn write_control(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Cause> {
        let control = self.control();
        let end = u64::from(offset) + bytes.len() as u64;
        let missing = end.saturating_sub(control.data_size(&self.store) as u64).div_ceil(1 << 16);
        if missing > 0 {
            self.store.data_mut().set_growth(Growth::Engine, false);
            let grown = control.grow(&mut self.store, missing);
            self.store.data_mut().set_growth(Growth::Program, false);
            grown.map_err(Cause::new)?;
        }
        control.write(&mut self.store, offset as usize, bytes).map_err(Cause::new)
    }

    fn exceptions(&self) -> usize {
        0
    }

    fn exception(&mut self, _: usize) -> Result<Exception, Cause> {
        Err(Cause::new("the engine wasmi has no exceptions"))
    }

    fn create_exception(&mut self, _: usize, _: &Exception) -> Result<(), Cause> {
        Err(Cause::new("the engine wasmi has no exceptions"))
    }

    fn forget_exceptions(&mut self) {}

    fn host(&mut self) -> &mut dyn Host {
        &mut *self.store.data_mut().host
    }

    fn set_host(&mut self, host: Box<dyn Host>) {
        self.store.data_mut().host = host;
    }

    fn mapping(&self, _: u32) -> Option<Arc<Mapping>> {
        None
    }

    fn attach_shadow(&mut self, shadow: Arc<Shadow>) {
        self.shadow = Some(shadow);
        self.renew_shadow(true);
    }
}
