//! Wasmtime's errors as ours.

use core::fmt;
use core::fmt::Write as _;

use wasmtime::{ThrownException, WasmBacktrace};

use crate::error::{Trap, TrapKind};
use crate::machine::End;

/// How a host function ends the program; travels through Wasmtime as an error.
#[derive(Debug)]
pub(super) enum Ended {
    Exit(i32),
    Trap(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit with {code}"),
            Self::Trap(message) => f.write_str(message),
        }
    }
}

impl core::error::Error for Ended {}

/// What an error returned by a call means.
pub(super) fn end(error: &wasmtime::Error) -> End {
    let (backtrace, function) = error.downcast_ref::<WasmBacktrace>().map(describe).unwrap_or_default();
    let (kind, text) = if let Some(ended) = error.downcast_ref::<Ended>() {
        match ended {
            Ended::Exit(code) => return End::Exited(*code),
            Ended::Trap(message) => (TrapKind::Host, message.clone()),
        }
    } else if let Some(trap) = error.downcast_ref::<wasmtime::Trap>() {
        let kind = kind(*trap);
        (kind, if kind == TrapKind::Other { trap.to_string() } else { kind.to_string() })
    } else if error.is::<ThrownException>() {
        (TrapKind::UncaughtException, TrapKind::UncaughtException.to_string())
    } else {
        (TrapKind::Other, format!("{:#}", error.root_cause()))
    };
    let message = function.map_or_else(|| text.clone(), |function| format!("{text} in {function}"));
    End::Trapped(Trap { kind, message, backtrace })
}

fn describe(backtrace: &WasmBacktrace) -> (String, Option<String>) {
    let names = backtrace.frames().iter().map(|frame| match frame.func_name() {
        Some(name) => format!("{name} (function {})", frame.func_index()),
        None => format!("function {}", frame.func_index()),
    });
    let names: Vec<String> = names.collect();
    let mut text = String::new();
    for (number, name) in names.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{number:>3}: {name}");
    }
    (text, names.into_iter().next())
}

fn kind(trap: wasmtime::Trap) -> TrapKind {
    use wasmtime::Trap as T;
    match trap {
        T::UnreachableCodeReached => TrapKind::Unreachable,
        T::MemoryOutOfBounds => TrapKind::MemoryOutOfBounds,
        T::TableOutOfBounds => TrapKind::TableOutOfBounds,
        T::IndirectCallToNull => TrapKind::IndirectCallToNull,
        T::BadSignature => TrapKind::BadSignature,
        T::IntegerDivisionByZero => TrapKind::IntegerDivisionByZero,
        T::IntegerOverflow => TrapKind::IntegerOverflow,
        T::BadConversionToInteger => TrapKind::BadConversionToInteger,
        T::StackOverflow => TrapKind::StackOverflow,
        T::NullReference => TrapKind::NullReference,
        _ => TrapKind::Other,
    }
}
