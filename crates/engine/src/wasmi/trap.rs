//! wasmi's errors as ours.

use core::fmt;

use wasmi::TrapCode;
use wasmi::errors::HostError;

use crate::error::{Trap, TrapKind};
use crate::machine::End;

/// How a host function ends the program; travels through wasmi as an error.
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
impl HostError for Ended {}

/// What an error returned by a call means. wasmi keeps no backtrace.
pub(super) fn end(error: &wasmi::Error) -> End {
    let (kind, message) = if let Some(ended) = error.downcast_ref::<Ended>() {
        match ended {
            Ended::Exit(code) => return End::Exited(*code),
            Ended::Trap(message) => (TrapKind::Host, message.clone()),
        }
    } else if let Some(code) = error.as_trap_code() {
        let kind = kind(code);
        (kind, if kind == TrapKind::Other { code.to_string() } else { kind.to_string() })
    } else {
        (TrapKind::Other, error.to_string())
    };
    End::Trapped(Trap { kind, message, backtrace: String::new() })
}

fn kind(code: TrapCode) -> TrapKind {
    match code {
        TrapCode::UnreachableCodeReached => TrapKind::Unreachable,
        TrapCode::MemoryOutOfBounds => TrapKind::MemoryOutOfBounds,
        TrapCode::TableOutOfBounds => TrapKind::TableOutOfBounds,
        TrapCode::IndirectCallToNull => TrapKind::IndirectCallToNull,
        TrapCode::BadSignature => TrapKind::BadSignature,
        TrapCode::IntegerDivisionByZero => TrapKind::IntegerDivisionByZero,
        TrapCode::IntegerOverflow => TrapKind::IntegerOverflow,
        TrapCode::BadConversionToInteger => TrapKind::BadConversionToInteger,
        TrapCode::StackOverflow => TrapKind::StackOverflow,
        TrapCode::OutOfFuel | TrapCode::GrowthOperationLimited | TrapCode::OutOfSystemMemory => TrapKind::Other,
    }
}
