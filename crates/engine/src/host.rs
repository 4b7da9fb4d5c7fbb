//! What the engine asks of the world around a program.

use core::any::Any;

use dunlin_base::{Value, ValueType};

/// What became of an imported function's call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    /// It returned; the results are written.
    Return,
    /// A stop was requested while it would have blocked and it has had no effect that issuing it again with the
    /// same arguments would repeat: unwind, and issue it again after the move.
    Reissue,
    /// The program ends with this code (`proc_exit`).
    Exit(i32),
    /// The program traps with this message.
    Trap(String),
}

/// The world around one program: everything that it can import.
pub trait Host: Any + Send {
    /// The number under which [`Host::call`] knows an import; `None` when there is no such import or its type is
    /// another one.
    fn resolve(&self, module: &str, name: &str, params: &[ValueType], results: &[ValueType]) -> Option<u32>;

    /// Calls import `function`. `memory` is the program's memory exported as `memory`, or else its first memory, or
    /// empty. `results` has the length of the import's results and is filled with zeros.
    fn call(&mut self, function: u32, memory: &mut [u8], args: &[Value], results: &mut [Value]) -> Flow;
}
