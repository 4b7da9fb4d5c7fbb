//! One of the two worlds of a script: a store, the modules in it, and what they are linked with.

use std::collections::HashMap;
use std::sync::LazyLock;

use dunlin_base::Value;
use dunlin_engine::TrapKind;
use dunlin_instrument::exports;
use wasmtime::{
    Config, Engine, ExternRef, Global, GlobalType, Instance, Linker, Memory, MemoryType, Module, Mutability, Ref,
    RefType, Store, Table, TableType, Val, ValType,
};

use super::pattern::Item;
use crate::plain::{HostRef, enable_all, trap_kind};

/// Wasmtime as it comes, with every feature: a small stack, so that scripts that exhaust it are quick.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let mut config = Config::new();
    enable_all(&mut config);
    Engine::new(&config).expect("Wasmtime runs on the machines that tests run on")
});

/// How a directive ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    Returned(Vec<Item>),
    Trapped(TrapKind),
    /// The module was not accepted, or could not be linked.
    Refused,
    /// There is no such module, export, or argument type.
    Unknown,
}

pub(super) struct Side {
    store: Store<()>,
    linker: Linker<()>,
    named: HashMap<String, Instance>,
    current: Option<Instance>,
}

impl Side {
    pub(super) fn new() -> wasmtime::Result<Self> {
        let (mut store, mut linker) = (Store::new(&ENGINE, ()), Linker::new(&ENGINE));
        linker.allow_shadowing(true);
        spectest(&mut store, &mut linker)?;
        Ok(Self { store, linker, named: HashMap::new(), current: None })
    }

    /// Makes an instance of a module and lets its start function run; the start function of an instrumented module is
    /// an export.
    pub(super) fn instantiate(&mut self, wasm: &[u8], name: Option<&str>) -> Ended {
        self.current = None;
        let Ok(module) = Module::new(&ENGINE, wasm) else { return Ended::Refused };
        let instance = match self.linker.instantiate(&mut self.store, &module) {
            Ok(instance) => instance,
            Err(error) => return self.error(&error),
        };
        if let Some(start) = instance.get_func(&mut self.store, exports::START)
            && let Err(error) = start.call(&mut self.store, &[], &mut [])
        {
            return self.error(&error);
        }
        self.current = Some(instance);
        if let Some(name) = name {
            self.named.insert(name.to_owned(), instance);
        }
        Ended::Returned(Vec::new())
    }

    pub(super) fn register(&mut self, module: Option<&str>, name: &str) -> Ended {
        match self.instance(module).map(|instance| self.linker.instance(&mut self.store, name, instance).is_ok()) {
            Some(true) => Ended::Returned(Vec::new()),
            _ => Ended::Unknown,
        }
    }

    pub(super) fn invoke(&mut self, module: Option<&str>, name: &str, args: &[Value]) -> Ended {
        let Some(function) = self.instance(module).and_then(|one| one.get_func(&mut self.store, name)) else {
            return Ended::Unknown;
        };
        let args: wasmtime::Result<Vec<Val>> = args.iter().map(|arg| self.lower(*arg)).collect();
        let Ok(args) = args else { return Ended::Unknown };
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        match function.call(&mut self.store, &args, &mut results) {
            Ok(()) => Ended::Returned(results.iter().map(|result| Item::of(&self.store, result)).collect()),
            Err(error) => self.error(&error),
        }
    }

    pub(super) fn get(&mut self, module: Option<&str>, name: &str) -> Ended {
        match self.instance(module).and_then(|one| one.get_global(&mut self.store, name)) {
            Some(global) => {
                let value = global.get(&mut self.store);
                Ended::Returned(vec![Item::of(&self.store, &value)])
            }
            None => Ended::Unknown,
        }
    }

    fn instance(&self, name: Option<&str>) -> Option<Instance> {
        match name {
            Some(name) => self.named.get(name).copied(),
            None => self.current,
        }
    }

    fn error(&mut self, error: &wasmtime::Error) -> Ended {
        // What was thrown stays with the store otherwise.
        let _ = self.store.take_pending_exception();
        if error.is::<wasmtime::Trap>() || error.is::<wasmtime::ThrownException>() {
            Ended::Trapped(trap_kind(error))
        } else {
            Ended::Refused
        }
    }

    fn lower(&mut self, value: Value) -> wasmtime::Result<Val> {
        Ok(match value {
            Value::I32(value) => Val::I32(value),
            Value::I64(value) => Val::I64(value),
            Value::F32(bits) => Val::F32(bits),
            Value::F64(bits) => Val::F64(bits),
            Value::V128(bits) => Val::V128(bits.into()),
            Value::FuncRef(_) => Val::FuncRef(None),
            Value::ExternRef(None) => Val::ExternRef(None),
            Value::ExternRef(Some(number)) => Val::ExternRef(Some(ExternRef::new(&mut self.store, HostRef(number))?)),
            Value::ExnRef(_) => Val::ExnRef(None),
        })
    }
}

/// The module that scripts may import from.
fn spectest(store: &mut Store<()>, linker: &mut Linker<()>) -> wasmtime::Result<()> {
    let name = "spectest";
    linker.func_wrap(name, "print", || {})?;
    linker.func_wrap(name, "print_i32", |_: i32| {})?;
    linker.func_wrap(name, "print_i64", |_: i64| {})?;
    linker.func_wrap(name, "print_f32", |_: f32| {})?;
    linker.func_wrap(name, "print_f64", |_: f64| {})?;
    linker.func_wrap(name, "print_i32_f32", |_: i32, _: f32| {})?;
    linker.func_wrap(name, "print_f64_f64", |_: f64, _: f64| {})?;
    for (global, ty, value) in [
        ("global_i32", ValType::I32, Val::I32(666)),
        ("global_i64", ValType::I64, Val::I64(666)),
        ("global_f32", ValType::F32, Val::F32(666.6_f32.to_bits())),
        ("global_f64", ValType::F64, Val::F64(666.6_f64.to_bits())),
    ] {
        let global_value = Global::new(&mut *store, GlobalType::new(ty, Mutability::Const), value)?;
        linker.define(&mut *store, name, global, global_value)?;
    }
    let table = Table::new(&mut *store, TableType::new(RefType::FUNCREF, 10, Some(20)), Ref::Func(None))?;
    linker.define(&mut *store, name, "table", table)?;
    let table = Table::new(&mut *store, TableType::new64(RefType::FUNCREF, 10, Some(20)), Ref::Func(None))?;
    linker.define(&mut *store, name, "table64", table)?;
    let memory = Memory::new(&mut *store, MemoryType::new(1, Some(2)))?;
    linker.define(&mut *store, name, "memory", memory)?;
    Ok(())
}

/// Whether Wasmtime takes these bytes for a module.
pub(super) fn accepts(wasm: &[u8]) -> bool {
    Module::validate(&ENGINE, wasm).is_ok()
}
