//! An instance in Wasmtime.

use core::ops::Range;
use core::sync::atomic::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use dunlin_base::Value;
use dunlin_instrument::{ControlLayout, ControlState, Map, exports};
use dunlin_snapshot::Exception;
use wasmtime::{
    AsContextMut, ExnRef, ExnRefPre, ExnType, ExternRef, Global, Instance, Memory, Module, OwnedRooted, Ref,
    ResourceLimiter, RootScope, Store, Table, Tag, Val,
};

use super::config::Backend;
use super::host;
use super::trap::end;
use crate::error::{Cause, Error};
use crate::host::Host;
use crate::limits::{self, Growth, Limits};
use crate::live::Shadow;
use crate::machine::{Callee, End, Machine, TableId};
use crate::memory::Mapping;
use crate::module::ModuleInfo;
use crate::setup::Imports;
use crate::stop::{Flags, StopHandle};
use crate::tier::Tier;

/// A host reference: the number under which the host knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostRef(pub(super) u64);

/// What host functions and the limiter need.
pub(super) struct Context {
    pub(super) host: Box<dyn Host>,
    pub(super) memory: Option<Memory>,
    pub(super) flags: Option<Arc<Flags>>,
    limits: Limits,
    growth: Growth,
}

impl Context {
    fn unwinding(&self) -> bool {
        self.flags.as_ref().is_some_and(|flags| {
            u32::from_le(flags.control.word(ControlLayout::STATE).load(Ordering::Relaxed))
                == ControlState::Unwinding as u32
        })
    }
}

impl ResourceLimiter for Context {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired as u64 <= limits::bounds(self.growth, self.unwinding(), &self.limits).0)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired as u64 <= limits::bounds(self.growth, self.unwinding(), &self.limits).1)
    }
}

/// An instance and handles to all of its state.
pub(crate) struct WasmtimeMachine {
    store: Store<Context>,
    instance: Instance,
    /// All memories of the original module, and their mappings.
    memories: Vec<(Memory, Arc<Mapping>)>,
    tables: Vec<Table>,
    /// `None`: immutable.
    globals: Vec<Option<Global>>,
    tags: Vec<Tag>,
    references: Vec<Table>,
    functions: Option<Table>,
    resume: Option<Table>,
    control: Option<(Memory, Arc<Mapping>)>,
    count: Option<Global>,
    translation: Translation,
}

/// Function identities and numbered exceptions.
#[derive(Default)]
struct Translation {
    /// Index of every function that escapes, by its address in Wasmtime.
    identities: Option<HashMap<usize, u32>>,
    /// Exceptions that were read, by number, and their numbers by address.
    exceptions: Vec<OwnedRooted<ExnRef>>,
    exception_numbers: HashMap<u32, u32>,
    /// Exceptions that were created, by number.
    created: Vec<Option<OwnedRooted<ExnRef>>>,
}

impl Translation {
    /// An engine's value as a portable one.
    fn read(
        &mut self,
        store: &mut impl AsContextMut<Data = Context>,
        functions: Option<Table>,
        value: Val,
    ) -> Result<Value, Cause> {
        Ok(match value {
            Val::I32(value) => Value::I32(value),
            Val::I64(value) => Value::I64(value),
            Val::F32(bits) => Value::F32(bits),
            Val::F64(bits) => Value::F64(bits),
            Val::V128(bits) => Value::V128(bits.as_u128()),
            Val::FuncRef(None) => Value::FuncRef(None),
            Val::FuncRef(Some(function)) => {
                let identity = function.to_raw(&mut *store).addr();
                let index = self.identities(store, functions).get(&identity);
                Value::FuncRef(Some(*index.ok_or_else(|| Cause::new("a function that is not the module's"))?))
            }
            Val::ExternRef(None) => Value::ExternRef(None),
            Val::ExternRef(Some(reference)) => {
                let data = reference.data(&*store).map_err(Cause::new)?;
                let host = data.and_then(|data| data.downcast_ref::<HostRef>());
                let HostRef(number) = host.ok_or_else(|| Cause::new("an external reference that is not the host's"))?;
                Value::ExternRef(Some(*number))
            }
            Val::ExnRef(None) => Value::ExnRef(None),
            Val::ExnRef(Some(exception)) => {
                let identity = exception.to_raw(&mut *store).map_err(Cause::new)?;
                let next = self.exceptions.len() as u32;
                let number = *self.exception_numbers.entry(identity).or_insert(next);
                if number == next {
                    self.exceptions.push(exception.to_owned_rooted(&mut *store).map_err(Cause::new)?);
                }
                Value::ExnRef(Some(number))
            }
            Val::AnyRef(_) | Val::ContRef(_) => return Err(Cause::new("a reference of a type that cannot be carried")),
        })
    }

    /// A portable value as the engine's.
    fn write(
        &self,
        store: &mut impl AsContextMut<Data = Context>,
        functions: Option<Table>,
        value: &Value,
    ) -> Result<Val, Cause> {
        Ok(match *value {
            Value::I32(value) => Val::I32(value),
            Value::I64(value) => Val::I64(value),
            Value::F32(bits) => Val::F32(bits),
            Value::F64(bits) => Val::F64(bits),
            Value::V128(bits) => Val::V128(bits.into()),
            Value::FuncRef(None) => Val::FuncRef(None),
            Value::FuncRef(Some(index)) => match functions.map(|table| table.get(&mut *store, u64::from(index))) {
                Some(Some(Ref::Func(Some(function)))) => Val::FuncRef(Some(function)),
                _ => return Err(Cause::new(format!("function {index} cannot be referred to"))),
            },
            Value::ExternRef(None) => Val::ExternRef(None),
            Value::ExternRef(Some(number)) => {
                Val::ExternRef(Some(ExternRef::new(&mut *store, HostRef(number)).map_err(Cause::new)?))
            }
            Value::ExnRef(None) => Val::ExnRef(None),
            Value::ExnRef(Some(number)) => match self.created.get(number as usize) {
                Some(Some(exception)) => Val::ExnRef(Some(exception.to_rooted(&mut *store))),
                _ => return Err(Cause::new(format!("there is no exception {number}"))),
            },
        })
    }

    /// The index of every function that escapes, by its address in Wasmtime: each function of an instance has
    /// exactly one.
    fn identities(
        &mut self,
        store: &mut impl AsContextMut<Data = Context>,
        functions: Option<Table>,
    ) -> &HashMap<usize, u32> {
        self.identities.get_or_insert_with(|| {
            let size = functions.map_or(0, |table| table.size(&*store));
            let mut identities = HashMap::new();
            for index in 0..size {
                let element = functions.and_then(|table| table.get(&mut *store, index));
                if let Some(Ref::Func(Some(function))) = element {
                    identities.insert(function.to_raw(&mut *store).addr(), index as u32);
                }
            }
            identities
        })
    }
}

/// What an instance is made from.
pub(crate) struct Parts<'a> {
    pub(crate) tier: Tier,
    pub(crate) backend: &'a Backend,
    pub(crate) module: &'a Module,
    pub(crate) info: &'a ModuleInfo,
    pub(crate) map: Option<&'a Map>,
}

impl WasmtimeMachine {
    pub(crate) fn new(
        parts: &Parts<'_>,
        imports: Imports,
        host: Box<dyn Host>,
        limits: Limits,
        stop: &StopHandle,
    ) -> Result<Self, Error> {
        let Parts { tier, backend, module, info, map } = *parts;
        let context = Context { host, memory: None, flags: None, limits, growth: Growth::Engine };
        let mut store = Store::new(&backend.engine, context);
        store.limiter(|context| context);
        // Nobody advances the epoch.
        store.set_epoch_deadline(u64::MAX / 2);
        let externs: Vec<wasmtime::Extern> = imports
            .into_iter()
            .map(|import| host::import(&mut store, import.number, import.params, import.results).into())
            .collect();
        let instance = Instance::new(&mut store, module, &externs)
            .map_err(|error| Error::Instantiate { tier, source: Cause::new(error) })?;
        let memory = info.host_memory.as_ref().and_then(|name| instance.get_memory(&mut store, name));
        store.data_mut().memory = memory;
        let mut machine = Self {
            store,
            instance,
            memories: Vec::new(),
            tables: Vec::new(),
            globals: Vec::new(),
            tags: Vec::new(),
            references: Vec::new(),
            functions: None,
            resume: None,
            control: None,
            count: None,
            translation: Translation::default(),
        };
        if let Some(map) = map {
            machine.resolve(map, &backend.memories, stop)?;
        }
        machine.store.data_mut().growth = Growth::Program;
        Ok(machine)
    }

    fn resolve(&mut self, map: &Map, known: &crate::memory::Memories, stop: &StopHandle) -> Result<(), Error> {
        let (store, instance) = (&mut self.store, self.instance);
        let missing = |name: &str| Error::Instrumentation(format!("there is no export {name:?} of the right kind"));
        let memory = |store: &mut Store<Context>, name: &str| {
            let memory = instance.get_memory(&mut *store, name).ok_or_else(|| missing(name))?;
            let mapping = known.at(memory.data_ptr(&*store));
            Ok::<_, Error>((memory, mapping.ok_or_else(|| missing(name))?))
        };
        for index in 0..map.memories.len() as u32 {
            self.memories.push(memory(store, &exports::memory(index))?);
        }
        let control = memory(store, exports::CONTROL)?;
        if control.1.size() < map.control.frames as usize || control.1.size() < 16 {
            return Err(Error::Instrumentation("the control memory is too small".to_owned()));
        }
        let calls =
            instance.get_memory(&mut *store, exports::CALLS).map(|_| memory(store, exports::CALLS)).transpose()?;
        let calls = calls.map(|(_, mapping)| mapping);
        if calls.as_ref().is_some_and(|calls| calls.size() < 4) {
            return Err(Error::Instrumentation("the memory with the flag for calls is too small".to_owned()));
        }
        let flags = Arc::new(Flags { control: control.1.clone(), calls });
        // The page is made now: made at the first request, it would interrupt the processor that polls it, for 15 µs.
        flags.set(0);
        stop.attach_words(&flags);
        store.data_mut().flags = Some(flags);
        self.control = Some(control);
        let table =
            |store: &mut Store<Context>, name: &str| instance.get_table(store, name).ok_or_else(|| missing(name));
        for index in 0..map.tables.len() as u32 {
            self.tables.push(table(store, &exports::table(index))?);
        }
        for index in 0..map.ref_tables.len() as u32 {
            self.references.push(table(store, &exports::ref_table(index))?);
        }
        self.functions = instance.get_table(&mut *store, exports::FUNCTIONS);
        self.resume = instance.get_table(&mut *store, exports::RESUME);
        for (index, global) in (0_u32..).zip(&map.globals) {
            let name = exports::global(index);
            self.globals.push(match global.mutable {
                true => Some(instance.get_global(&mut *store, &name).ok_or_else(|| missing(&name))?),
                false => None,
            });
        }
        for index in 0..map.tags.len() as u32 {
            let name = exports::tag(index);
            self.tags.push(instance.get_tag(&mut *store, &name).ok_or_else(|| missing(&name))?);
        }
        self.count = instance.get_global(&mut *store, exports::COUNT);
        Ok(())
    }

    fn table(&self, table: TableId) -> Table {
        match table {
            TableId::Program(index) => self.tables[index as usize],
            TableId::References(index) => self.references[index as usize],
        }
    }

    fn control(&self) -> &Mapping {
        &self.control.as_ref().expect("only called for instrumented modules").1
    }
}

impl Machine for WasmtimeMachine {
    fn call(&mut self, callee: Callee<'_>, args: &[Value]) -> Result<End, Error> {
        let function = match callee {
            Callee::Export(name) => {
                self.instance.get_func(&mut self.store, name).ok_or_else(|| Error::NoExport(name.to_owned()))?
            }
            Callee::Resume(index) => match self.resume.map(|table| table.get(&mut self.store, u64::from(index))) {
                None => return Err(Error::NotResumable),
                Some(Some(Ref::Func(Some(function)))) => function,
                Some(_) => return Err(Error::Rewind(format!("function {index} cannot be resumed"))),
            },
        };
        let (functions, translation) = (self.functions, &mut self.translation);
        let mut scope = RootScope::new(&mut self.store);
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            let value = translation.write(&mut scope, functions, arg);
            values.push(value.map_err(|source| Error::Value { place: format!("the argument {arg}"), source })?);
        }
        let mut results = vec![Val::I32(0); function.ty(&scope).results().len()];
        match function.call(&mut scope, &values, &mut results) {
            Ok(()) if scope.as_context_mut().data().unwinding() => Ok(End::Stopped),
            Ok(()) => {
                let results = results.into_iter().map(|result| translation.read(&mut scope, functions, result));
                let results = results.collect::<Result<_, _>>();
                let place = || "a result of the function".to_owned();
                Ok(End::Finished(results.map_err(|source| Error::Value { place: place(), source })?))
            }
            Err(error) => {
                let end = end(&error);
                // The store holds on to an uncaught exception until it is taken.
                let _exception = scope.as_context_mut().take_pending_exception();
                Ok(end)
            }
        }
    }

    fn memory(&self, index: u32) -> &[u8] {
        self.memories[index as usize].0.data(&self.store)
    }

    fn memory_mut(&mut self, index: u32) -> &mut [u8] {
        self.memories[index as usize].0.data_mut(&mut self.store)
    }

    fn grow_memory(&mut self, index: u32, pages: u64) -> Result<(), Cause> {
        self.store.data_mut().growth = Growth::Engine;
        let grown = self.memories[index as usize].0.grow(&mut self.store, pages);
        self.store.data_mut().growth = Growth::Program;
        grown.map(drop).map_err(Cause::new)
    }

    fn populated(&self, index: u32, pages: u64) -> Option<Vec<Range<u64>>> {
        crate::pagemap::populated(self.memories[index as usize].1.base(), pages)
    }

    fn fixed_memory(&self, index: u32) -> Option<(*mut u8, usize)> {
        let mapping = &self.memories.get(index as usize)?.1;
        Some((mapping.base(), mapping.size()))
    }

    fn read_table(&mut self, table: TableId) -> Result<Vec<Value>, Cause> {
        let table = self.table(table);
        let size = table.size(&self.store);
        let mut elements = Vec::new();
        let (functions, translation) = (self.functions, &mut self.translation);
        for index in 0..size {
            let mut scope = RootScope::new(&mut self.store);
            let element = table.get(&mut scope, index).ok_or_else(|| Cause::new("the table shrank"))?;
            elements.push(translation.read(&mut scope, functions, element.into())?);
        }
        Ok(elements)
    }

    fn write_table(&mut self, table: TableId, elements: &[Value]) -> Result<(), Cause> {
        let table = self.table(table);
        let (functions, translation) = (self.functions, &mut self.translation);
        let size = table.size(&self.store);
        let missing = (elements.len() as u64).saturating_sub(size);
        for (index, element) in (0_u64..).zip(elements) {
            let mut scope = RootScope::new(&mut self.store);
            let value = translation.write(&mut scope, functions, element)?;
            let reference = value.ref_().ok_or_else(|| Cause::new(format!("{element} is not a reference")))?;
            if index == size {
                // Tables whose elements cannot be null have no other value to grow by than an element.
                scope.as_context_mut().data_mut().growth = Growth::Engine;
                let grown = table.grow(&mut scope, missing, reference);
                scope.as_context_mut().data_mut().growth = Growth::Program;
                grown.map_err(Cause::new)?;
            } else {
                table.set(&mut scope, index, reference).map_err(Cause::new)?;
            }
        }
        Ok(())
    }

    fn global(&mut self, index: u32) -> Result<Value, Cause> {
        let global = self.globals[index as usize].ok_or_else(|| Cause::new("the global is immutable"))?;
        let mut scope = RootScope::new(&mut self.store);
        let value = global.get(&mut scope);
        self.translation.read(&mut scope, self.functions, value)
    }

    fn set_global(&mut self, index: u32, value: &Value) -> Result<(), Cause> {
        let global = self.globals[index as usize].ok_or_else(|| Cause::new("the global is immutable"))?;
        let mut scope = RootScope::new(&mut self.store);
        let value = self.translation.write(&mut scope, self.functions, value)?;
        global.set(&mut scope, value).map_err(Cause::new)
    }

    fn count(&mut self) -> Option<i64> {
        self.count?.get(&mut self.store).i64()
    }

    fn set_count(&mut self, count: i64) -> bool {
        self.count.is_some_and(|global| global.set(&mut self.store, Val::I64(count)).is_ok())
    }

    fn word(&self, offset: u32) -> u32 {
        u32::from_le(self.control().word(offset).load(Ordering::SeqCst))
    }

    fn set_word(&mut self, offset: u32, value: u32) {
        self.control().word(offset).store(value.to_le(), Ordering::SeqCst);
    }

    fn set_flags(&mut self, value: u32) {
        if let Some(flags) = &self.store.data().flags {
            flags.set(value);
        }
    }

    fn read_control(&self, offset: u32, length: u32) -> Option<Vec<u8>> {
        self.control().read(offset as usize, length as usize)
    }

    fn write_control(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Cause> {
        let (memory, mapping) = self.control.clone().expect("only called for instrumented modules");
        let end = u64::from(offset) + bytes.len() as u64;
        let missing = end.saturating_sub(mapping.size() as u64).div_ceil(1 << 16);
        if missing > 0 {
            self.store.data_mut().growth = Growth::Engine;
            let grown = memory.grow(&mut self.store, missing);
            self.store.data_mut().growth = Growth::Program;
            grown.map_err(Cause::new)?;
        }
        mapping.write(offset as usize, bytes).ok_or_else(|| Cause::new("the control memory is too small"))
    }

    fn exceptions(&self) -> usize {
        self.translation.exceptions.len()
    }

    fn exception(&mut self, index: usize) -> Result<Exception, Cause> {
        let mut scope = RootScope::new(&mut self.store);
        let exception = self.translation.exceptions[index].to_rooted(&mut scope);
        let tag = exception.tag(&mut scope).map_err(Cause::new)?;
        let number = self.tags.iter().position(|known| Tag::eq(known, &tag, &scope));
        let number = number.ok_or_else(|| Cause::new("its tag does not belong to the module"))?;
        let fields: Vec<Val> = exception.fields(&mut scope).map_err(Cause::new)?.collect();
        let values = fields.into_iter().map(|field| self.translation.read(&mut scope, self.functions, field));
        Ok(Exception { tag: number as u32, values: values.collect::<Result<_, _>>()? })
    }

    fn create_exception(&mut self, index: usize, exception: &Exception) -> Result<(), Cause> {
        let tag = *self.tags.get(exception.tag as usize).ok_or_else(|| Cause::new("there is no such tag"))?;
        let mut scope = RootScope::new(&mut self.store);
        let mut fields = Vec::with_capacity(exception.values.len());
        for value in &exception.values {
            fields.push(self.translation.write(&mut scope, self.functions, value)?);
        }
        let ty = ExnType::from_tag_type(&tag.ty(&scope)).map_err(Cause::new)?;
        let allocator = ExnRefPre::new(&mut scope, ty);
        let created = ExnRef::new(&mut scope, &allocator, &tag, &fields).map_err(Cause::new)?;
        let owned = created.to_owned_rooted(&mut scope).map_err(Cause::new)?;
        let slots = &mut self.translation.created;
        slots.resize_with(slots.len().max(index + 1), || None);
        slots[index] = Some(owned);
        Ok(())
    }

    fn forget_exceptions(&mut self) {
        self.translation.exceptions.clear();
        self.translation.created.clear();
        self.translation.exception_numbers.clear();
    }

    fn host(&mut self) -> &mut dyn Host {
        &mut *self.store.data_mut().host
    }

    fn set_host(&mut self, host: Box<dyn Host>) {
        self.store.data_mut().host = host;
    }

    fn mapping(&self, index: u32) -> Option<Arc<Mapping>> {
        Some(self.memories.get(index as usize)?.1.clone())
    }

    fn attach_shadow(&mut self, _: Arc<Shadow>) {}
}
