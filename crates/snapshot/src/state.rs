//! What a stopped instance is, as plain data.

use core::fmt;

use dunlin_base::Value;
use dunlin_instrument::Phase;

/// Everything that a stopped instance consists of, except its module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// What of the run is on the stack. Always there in a snapshot.
    pub entry: Option<Entry>,
    /// The call stack, outermost frame first. Never empty in a snapshot; all but the last are inside a call.
    pub frames: Vec<Frame>,
    /// Values of the mutable globals, in index order.
    pub globals: Vec<Value>,
    /// All tables, in index order.
    pub tables: Vec<Table>,
    /// All memories, in index order.
    pub memories: Vec<Memory>,
    /// Data segments dropped by the program (ascending; segments that the start of an instance drops are not
    /// listed).
    pub dropped_data: Vec<u32>,
    /// Element segments dropped by the program, likewise.
    pub dropped_elems: Vec<u32>,
    /// Exceptions that an exception reference in this state points to, in order of first appearance: frames, globals,
    /// tables, then the payloads of this list. All are referred to, none contains itself.
    pub exceptions: Vec<Exception>,
    /// State of the world around the program, ascending by kind, each kind at most once.
    pub host: Vec<HostSection>,
}

/// Where a run enters the program. A run is a list of entries, of which one is on the stack.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// The module's start function; nothing if it has none.
    Start,
    /// An exported function.
    Export(String),
}

impl Entry {
    /// The entries of a WASI command: the start function, then `_start`.
    pub fn command() -> Vec<Self> {
        vec![Self::Start, Self::Export("_start".to_owned())]
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("the start function"),
            Self::Export(name) => write!(f, "export {name:?}"),
        }
    }
}

/// One frame of the call stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Number of the safepoint at which it stopped; the map tells function and types.
    pub safepoint: u32,
    /// Which side of a call it stands on.
    pub phase: Phase,
    /// Its live values, in the map's order.
    pub values: Vec<Value>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its elements.
    pub elements: Vec<Value>,
}

/// A linear memory, as its difference from a freshly instantiated one of the same module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Current size in bytes.
    pub size: u64,
    /// Pages of 4 KiB that differ from the fresh memory (zeros and the module's active data segments),
    /// ascending by page number, each at most once.
    pub pages: Vec<(u64, Page)>,
}

/// The contents of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// All zero, where the fresh memory is not.
    Zero,
    /// These bytes, not all zero: 4096 of them, fewer only in a memory's partial last page.
    Bytes(Box<[u8]>),
}

/// A caught exception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// Its tag.
    pub tag: u32,
    /// Its payload.
    pub values: Vec<Value>,
}

/// State of one part of the world around the program, opaque here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSection {
    /// Which part (assigned in the host crate, below 0x8000, never reused).
    pub kind: u16,
    /// Version of the encoding.
    pub version: u16,
    /// Whether a reader that does not know the kind must refuse.
    pub mandatory: bool,
    /// The encoded state.
    pub bytes: Vec<u8>,
}
