//! The second oracle: the module as its author built it, run on Wasmtime directly, past everything of ours.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use dunlin_base::{PAGE_SIZE, Value, ValueType, is_zero};
use dunlin_engine::{Flow, Host, TrapKind};
use wasmtime::{
    AsContextMut, Caller, Config, Engine, ExternRef, Func, HeapType, Instance, Memory, Module, Ref, Store, Val, ValType,
};

use crate::expose::{Exposed, expose};
use crate::failure::{Failure, fail};

/// Bytes of native stack that programs under test may use, on every engine.
pub(crate) const STACK: usize = 32 << 20;

/// Wasmtime with every feature of the modules under test.
pub(crate) static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let mut config = Config::new();
    enable_all(&mut config);
    config.max_wasm_stack(STACK).async_stack_size(STACK + (1 << 20));
    Engine::new(&config).expect("Wasmtime runs on the machines that tests run on")
});

/// The same with Wasmtime's portable interpreter.
static PULLEY: LazyLock<Engine> = LazyLock::new(|| {
    let mut config = Config::new();
    enable_all(&mut config);
    config.max_wasm_stack(STACK).async_stack_size(STACK + (1 << 20));
    config.target("pulley64").expect("Wasmtime has its interpreter");
    Engine::new(&config).expect("Wasmtime runs on the machines that tests run on")
});

/// Switches on every feature of the modules under test.
pub(crate) fn enable_all(config: &mut Config) {
    config
        .wasm_relaxed_simd(true)
        .relaxed_simd_deterministic(true)
        .wasm_tail_call(true)
        .wasm_multi_memory(true)
        .wasm_memory64(true)
        .wasm_function_references(true)
        .wasm_gc(true)
        .wasm_exceptions(true)
        .wasm_extended_const(true)
        .wasm_wide_arithmetic(true)
        .wasm_custom_page_sizes(true);
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It returned these values.
    Finished(Vec<Value>),
    /// The program ended with this code.
    Exited(i32),
    /// It trapped.
    Trapped(TrapKind),
}

/// The pages of a memory that are not zero.
pub type Pages = BTreeMap<u64, Box<[u8]>>;

/// What is left when a run has ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Picture {
    /// Size and pages that are not zero of each memory.
    pub memories: Vec<(u64, Pages)>,
    /// The mutable globals.
    pub globals: Vec<Value>,
    /// The elements of the tables.
    pub tables: Vec<Vec<Value>>,
}

/// A compiled module as its author built it.
#[derive(Debug)]
pub struct PlainModule {
    module: Module,
    exposed: Exposed,
}

/// An instance of it.
pub struct Plain<'a> {
    store: Store<Context>,
    instance: Instance,
    exposed: &'a Exposed,
    identities: HashMap<usize, u32>,
    fresh: Vec<Pages>,
}

struct Context {
    host: Box<dyn Host>,
    memory: Option<Memory>,
}

/// A reference of the host's, by its number.
#[derive(Debug)]
pub(crate) struct HostRef(pub(crate) u64);

#[derive(Debug)]
struct Exit(i32);

#[derive(Debug)]
struct HostTrap(String);

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit with {}", self.0)
    }
}

impl std::fmt::Display for HostTrap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Exit {}
impl std::error::Error for HostTrap {}

impl PlainModule {
    /// Compiles a module.
    ///
    /// # Errors
    /// If Wasmtime does not take it.
    pub fn new(wasm: &[u8]) -> Result<Self, Failure> {
        Self::on(&ENGINE, wasm)
    }

    /// Compiles a module for Wasmtime's portable interpreter.
    ///
    /// # Errors
    /// If Wasmtime does not take it.
    pub fn interpreted(wasm: &[u8]) -> Result<Self, Failure> {
        Self::on(&PULLEY, wasm)
    }

    fn on(engine: &Engine, wasm: &[u8]) -> Result<Self, Failure> {
        let exposed = expose(wasm).ok_or_else(|| Failure::new("not a module"))?;
        let module = Module::new(engine, &exposed.wasm).map_err(|error| Failure::of("plain Wasmtime", &error))?;
        Ok(Self { module, exposed })
    }

    /// What it holds.
    pub fn exposed(&self) -> &Exposed {
        &self.exposed
    }
}

impl<'a> Plain<'a> {
    /// Makes an instance. The start function does not run.
    ///
    /// # Errors
    /// If an import is missing, or segments do not fit.
    pub fn new(module: &'a PlainModule, host: Box<dyn Host>) -> Result<Self, Failure> {
        let mut imports = Vec::new();
        let mut store = Store::new(module.module.engine(), Context { host, memory: None });
        for import in module.module.imports() {
            let (from, name) = (import.module(), import.name());
            let Some(ty) = import.ty().func().cloned() else { fail!("imports {from}.{name}, which is not a function") };
            let types =
                |types: &mut dyn Iterator<Item = ValType>| types.map(|ty| value_type(&ty)).collect::<Option<Vec<_>>>();
            let number = types(&mut ty.params())
                .zip(types(&mut ty.results()))
                .and_then(|(params, results)| store.data().host.resolve(from, name, &params, &results));
            let Some(number) = number else { fail!("imports {from}.{name}, which the host does not have") };
            let results: Vec<ValueType> = ty.results().filter_map(|ty| value_type(&ty)).collect();
            let call = move |caller: Caller<'_, Context>, args: &[Val], out: &mut [Val]| {
                call_host(caller, number, args, &results, out)
            };
            imports.push(Func::new(&mut store, ty, call).into());
        }
        let instance = Instance::new(&mut store, &module.module, &imports)
            .map_err(|error| Failure::of("instantiating", &error))?;
        // The start function may be an import, which sees no instance: the host finds the memory here.
        let memory = ["memory", "x:m0"].into_iter().find_map(|name| instance.get_memory(&mut store, name));
        store.data_mut().memory = memory;
        let mut plain =
            Self { store, instance, exposed: &module.exposed, identities: HashMap::new(), fresh: Vec::new() };
        for index in 0..module.exposed.functions {
            let function = instance.get_func(&mut plain.store, &format!("x:f{index}")).expect("exposed");
            plain.identities.insert(function.to_raw(&mut plain.store) as usize, index);
        }
        plain.fresh = plain.memories().into_iter().map(|(_, pages)| pages).collect();
        Ok(plain)
    }

    /// Calls an exported function.
    ///
    /// # Errors
    /// If there is no such function, or the arguments or results are not of types that can be compared.
    pub fn call(&mut self, name: &str, args: &[Value]) -> Result<Ended, Failure> {
        let Some(function) = self.instance.get_func(&mut self.store, name) else { fail!("exports no {name:?}") };
        let args = args.iter().map(|arg| self.lower(*arg)).collect::<Result<Vec<_>, _>>()?;
        let count = function.ty(&self.store).results().len();
        let mut results = vec![Val::I32(0); count];
        match function.call(&mut self.store, &args, &mut results) {
            Ok(()) => {
                let values = results.iter().map(|result| self.lift(result)).collect::<Result<_, _>>()?;
                Ok(Ended::Finished(values))
            }
            Err(error) => {
                // The exception that was thrown stays with the store otherwise.
                let _ = self.store.take_pending_exception();
                Ok(match error.downcast_ref::<Exit>() {
                    Some(Exit(code)) => Ended::Exited(*code),
                    None => Ended::Trapped(trap_kind(&error)),
                })
            }
        }
    }

    /// Calls the start function, if there is one.
    ///
    /// # Errors
    /// As [`Plain::call`].
    pub fn start(&mut self) -> Result<Ended, Failure> {
        match self.exposed.start {
            Some(start) => self.call(&format!("x:f{start}"), &[]),
            None => Ok(Ended::Finished(Vec::new())),
        }
    }

    /// The host.
    pub fn host(&mut self) -> &mut dyn Host {
        &mut *self.store.data_mut().host
    }

    /// The pages that are not zero of each memory as it was before any code ran.
    pub fn fresh(&self) -> &[Pages] {
        &self.fresh
    }

    /// Memories, mutable globals and tables.
    ///
    /// # Errors
    /// If a value is not of a type that can be compared.
    pub fn picture(&mut self) -> Result<Picture, Failure> {
        let memories = self.memories();
        let mut globals = Vec::new();
        for index in (0..self.exposed.globals.len()).filter(|index| self.exposed.globals[*index]) {
            let global = self.instance.get_global(&mut self.store, &format!("x:g{index}")).expect("exposed");
            let value = global.get(&mut self.store);
            globals.push(self.lift(&value)?);
        }
        let mut tables = Vec::new();
        for index in 0..self.exposed.tables {
            let table = self.instance.get_table(&mut self.store, &format!("x:t{index}")).expect("exposed");
            let mut elements = Vec::new();
            for element in 0..table.size(&self.store) {
                let value = match table.get(&mut self.store, element).expect("below its size") {
                    Ref::Func(function) => Val::FuncRef(function),
                    Ref::Extern(reference) => Val::ExternRef(reference),
                    Ref::Exn(exception) => Val::ExnRef(exception),
                    Ref::Any(_) => fail!("a table of garbage-collected references"),
                };
                elements.push(self.lift(&value)?);
            }
            tables.push(elements);
        }
        Ok(Picture { memories, globals, tables })
    }

    fn memories(&mut self) -> Vec<(u64, Pages)> {
        let exposed = self.exposed;
        (0..exposed.memories)
            .map(|index| {
                let memory = self.instance.get_memory(&mut self.store, &format!("x:m{index}")).expect("exposed");
                let bytes = memory.data(&self.store);
                let pages = (0..).zip(bytes.chunks(PAGE_SIZE)).filter(|(_, page)| !is_zero(page));
                (bytes.len() as u64, pages.map(|(number, page)| (number, page.into())).collect())
            })
            .collect()
    }

    fn lower(&mut self, value: Value) -> Result<Val, Failure> {
        Ok(match value {
            Value::I32(value) => Val::I32(value),
            Value::I64(value) => Val::I64(value),
            Value::F32(bits) => Val::F32(bits),
            Value::F64(bits) => Val::F64(bits),
            Value::V128(bits) => Val::V128(bits.into()),
            Value::FuncRef(None) => Val::FuncRef(None),
            Value::FuncRef(Some(index)) => {
                Val::FuncRef(self.instance.get_func(&mut self.store, &format!("x:f{index}")))
            }
            Value::ExternRef(None) => Val::ExternRef(None),
            Value::ExternRef(Some(number)) => Val::ExternRef(Some(
                ExternRef::new(&mut self.store, HostRef(number)).map_err(|error| Failure::of("externref", &error))?,
            )),
            Value::ExnRef(_) => Val::ExnRef(None),
        })
    }

    /// Exceptions are all the same here: which one it is, programs show by catching it.
    fn lift(&mut self, value: &Val) -> Result<Value, Failure> {
        Ok(match value {
            Val::FuncRef(Some(function)) => {
                let raw = function.to_raw(&mut self.store) as usize;
                let Some(index) = self.identities.get(&raw) else { fail!("a function of another module") };
                Value::FuncRef(Some(*index))
            }
            Val::ExnRef(Some(_)) => Value::ExnRef(Some(0)),
            other => match simple(&self.store, other) {
                Some(value) => value,
                None => fail!("a value of a type that is not compared: {other:?}"),
            },
        })
    }
}

impl std::fmt::Debug for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plain").field("exposed", self.exposed).finish_non_exhaustive()
    }
}

/// The kind of the trap that an error stands for.
pub(crate) fn trap_kind(error: &wasmtime::Error) -> TrapKind {
    use wasmtime::Trap as T;
    if error.is::<HostTrap>() {
        return TrapKind::Host;
    }
    if error.is::<wasmtime::ThrownException>() {
        return TrapKind::UncaughtException;
    }
    match error.downcast_ref::<T>() {
        Some(T::UnreachableCodeReached) => TrapKind::Unreachable,
        Some(T::MemoryOutOfBounds) => TrapKind::MemoryOutOfBounds,
        Some(T::TableOutOfBounds) => TrapKind::TableOutOfBounds,
        Some(T::IndirectCallToNull) => TrapKind::IndirectCallToNull,
        Some(T::BadSignature) => TrapKind::BadSignature,
        Some(T::IntegerDivisionByZero) => TrapKind::IntegerDivisionByZero,
        Some(T::IntegerOverflow) => TrapKind::IntegerOverflow,
        Some(T::BadConversionToInteger) => TrapKind::BadConversionToInteger,
        Some(T::StackOverflow) => TrapKind::StackOverflow,
        Some(T::NullReference) => TrapKind::NullReference,
        _ => TrapKind::Other,
    }
}

/// A value that means the same in every store.
pub(crate) fn simple(store: impl wasmtime::AsContext, value: &Val) -> Option<Value> {
    Some(match value {
        Val::I32(value) => Value::I32(*value),
        Val::I64(value) => Value::I64(*value),
        Val::F32(bits) => Value::F32(*bits),
        Val::F64(bits) => Value::F64(*bits),
        Val::V128(bits) => Value::V128(bits.as_u128()),
        Val::FuncRef(None) => Value::FuncRef(None),
        Val::ExternRef(None) => Value::ExternRef(None),
        Val::ExternRef(Some(reference)) => {
            let data = reference.data(&store).ok()??;
            Value::ExternRef(Some(data.downcast_ref::<HostRef>()?.0))
        }
        Val::ExnRef(None) => Value::ExnRef(None),
        _ => return None,
    })
}

fn value_type(ty: &ValType) -> Option<ValueType> {
    Some(match ty {
        ValType::I32 => ValueType::I32,
        ValType::I64 => ValueType::I64,
        ValType::F32 => ValueType::F32,
        ValType::F64 => ValueType::F64,
        ValType::V128 => ValueType::V128,
        ValType::Ref(ty) => match ty.heap_type() {
            HeapType::Extern => ValueType::ExternRef,
            HeapType::Func => ValueType::FuncRef,
            _ => return None,
        },
    })
}

fn call_host(
    mut caller: Caller<'_, Context>,
    number: u32,
    args: &[Val],
    types: &[ValueType],
    out: &mut [Val],
) -> wasmtime::Result<()> {
    let unknown = || wasmtime::Error::new(HostTrap("an argument of an unknown type".to_owned()));
    let args = args.iter().map(|arg| simple(&caller, arg).ok_or_else(unknown)).collect::<Result<Vec<_>, _>>()?;
    let mut results: Vec<Value> = types.iter().map(|ty| Value::default_of(*ty)).collect();
    let flow = match caller.data().memory {
        Some(memory) => {
            let (bytes, context) = memory.data_and_store_mut(&mut caller);
            context.host.call(number, bytes, &args, &mut results)
        }
        None => caller.data_mut().host.call(number, &mut [], &args, &mut results),
    };
    match flow {
        Flow::Return => {}
        Flow::Exit(code) => return Err(wasmtime::Error::new(Exit(code))),
        Flow::Trap(message) => return Err(wasmtime::Error::new(HostTrap(message))),
        Flow::Reissue => return Err(wasmtime::Error::new(HostTrap("nobody stops a plain module".to_owned()))),
    }
    for (slot, value) in out.iter_mut().zip(results) {
        *slot = match value {
            Value::I32(value) => Val::I32(value),
            Value::I64(value) => Val::I64(value),
            Value::F32(bits) => Val::F32(bits),
            Value::F64(bits) => Val::F64(bits),
            Value::V128(bits) => Val::V128(bits.into()),
            Value::ExternRef(Some(number)) => {
                Val::ExternRef(Some(ExternRef::new(caller.as_context_mut(), HostRef(number))?))
            }
            Value::ExternRef(None) => Val::ExternRef(None),
            Value::FuncRef(_) => Val::FuncRef(None),
            Value::ExnRef(_) => Val::ExnRef(None),
        };
    }
    Ok(())
}
