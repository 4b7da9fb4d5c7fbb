//! Modules of ours that programs import beside WASI: how their functions are found and called.

use dunlin_base::{Value, ValueType};
use dunlin_engine::Flow;

use crate::memory::Memory;
use crate::preview1::{Params, Run, told};
use crate::world::World;

/// One function. Each returns an error number.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) params: &'static [ValueType],
    pub(crate) run: Run,
}

/// The functions of one module.
pub(crate) struct Interface {
    pub(crate) module: &'static str,
    /// Numbers of its functions begin here, so that no other module's are the same.
    pub(crate) first: u32,
    pub(crate) functions: &'static [Function],
}

impl Interface {
    /// The number of a function of these types.
    pub(crate) fn resolve(&self, module: &str, name: &str, params: &[ValueType], results: &[ValueType]) -> Option<u32> {
        if module != self.module {
            return None;
        }
        let at = self.functions.iter().position(|function| function.name == name)?;
        (self.functions[at].params == params && results == [ValueType::I32]).then_some(self.first + at as u32)
    }

    /// Calls a function, if `number` is one of this module's.
    pub(crate) fn call(
        &self,
        world: &mut World,
        number: u32,
        memory: &mut [u8],
        args: &[Value],
        results: &mut [Value],
    ) -> Option<Flow> {
        let function = self.functions.get(number.checked_sub(self.first)? as usize)?;
        let fits =
            args.len() == function.params.len() && args.iter().zip(function.params).all(|(arg, ty)| arg.is_a(*ty));
        let [result] = results else {
            return Some(Flow::Trap(format!("`{}` was called with other results", function.name)));
        };
        if !fits {
            return Some(Flow::Trap(format!("`{}` was called with arguments of other types", function.name)));
        }
        // As for every call that is not the poll itself.
        world.pending_poll = None;
        let outcome = (function.run)(world, &mut Memory::new(memory), Params::new(args));
        match told(outcome) {
            Ok(errno) => *result = Value::I32(errno),
            Err(flow) => return Some(flow),
        }
        Some(Flow::Return)
    }
}
