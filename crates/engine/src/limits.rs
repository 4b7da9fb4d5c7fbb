//! What an instance may use.

/// Bytes to which the control memory may grow while the stack is saved, whatever the program's own limit. The
/// program's stack bounds it in practice.
pub(crate) const CONTROL_LIMIT: u64 = 1 << 30;

/// Limits of one instance. A program that grows beyond them sees its `memory.grow` or `table.grow` fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of each memory.
    pub memory_bytes: u64,
    /// Elements of each table.
    pub table_elements: u64,
}

impl Default for Limits {
    /// 4 GiB for each memory, ten million elements for each table.
    fn default() -> Self {
        Self { memory_bytes: 4 << 30, table_elements: 10_000_000 }
    }
}

/// Who grows memories and tables at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Growth {
    /// The engine, which has checked the limits itself.
    Engine,
    /// The program.
    Program,
}

/// The limits in force: bytes of a memory and elements of a table.
pub(crate) fn bounds(growth: Growth, unwinding: bool, limits: &Limits) -> (u64, u64) {
    match growth {
        Growth::Engine => (u64::MAX, u64::MAX),
        // While the stack is saved, only the save paths run, and they grow only what is private to them.
        Growth::Program if unwinding => {
            (limits.memory_bytes.max(CONTROL_LIMIT), limits.table_elements.max(CONTROL_LIMIT / 16))
        }
        Growth::Program => (limits.memory_bytes, limits.table_elements),
    }
}
