//! Which proposal an operator belongs to, and which proposals the pass cannot carry.

use wasmparser::Operator;

macro_rules! define_proposal {
    ($(@$proposal:ident $op:ident $({ $($arg:ident: $argty:ty),* })? => $visit:ident ($($ann:tt)*))*) => {
        /// The proposal that brought an operator, in the parser's spelling.
        pub(crate) fn proposal(op: &Operator<'_>) -> &'static str {
            match op {
                $(Operator::$op { .. } => stringify!($proposal),)*
                _ => "unknown",
            }
        }
    };
}
wasmparser::for_each_operator!(define_proposal);

/// The feature that makes an operator impossible to carry, if it does.
pub(crate) fn refused(op: &Operator<'_>) -> Option<&'static str> {
    match proposal(op) {
        "mvp"
        | "sign_extension"
        | "saturating_float_to_int"
        | "bulk_memory"
        | "reference_types"
        | "simd"
        | "relaxed_simd"
        | "tail_call"
        | "function_references"
        | "exceptions"
        | "memory_control"
        | "wide_arithmetic" => None,
        "gc" => Some("GC types"),
        "threads" => Some("threads (shared memory, atomics)"),
        "shared_everything_threads" => Some("shared-everything threads"),
        "legacy_exceptions" => Some("legacy exceptions"),
        "stack_switching" => Some("stack switching"),
        "custom_descriptors" => Some("custom descriptors"),
        _ => Some("a proposal unknown to the instrumentation"),
    }
}
