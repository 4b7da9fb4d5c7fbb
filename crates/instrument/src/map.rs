//! The map: what each safepoint of a module is, and which typed values are live there.
//!
//! The map is derived from the original module alone; every variant of the instrumented module (fresh or
//! resumable, flag or counter) shares it, so a snapshot taken in one is understood by all.

use std::sync::OnceLock;

use dunlin_base::{Digest, Hasher, Value, ValueType};

/// The version of the pass. It is part of every map's digest: frames captured by one version are never
/// decoded with the map of another.
pub const PASS_VERSION: u32 = 3;

/// Everything an engine and a snapshot decoder must know about an instrumented module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// SHA-256 of the original module.
    pub module: Digest,
    /// Number of imported functions; they come first in the function index space.
    pub imported_functions: u32,
    /// The type of every function of the original module, imported ones first.
    pub functions: Vec<FunctionInfo>,
    /// All safepoints. A safepoint's number is its index here; those of one function are consecutive.
    pub safepoints: Vec<Safepoint>,
    /// All memories of the original module.
    pub memories: Vec<MemoryInfo>,
    /// All tables of the original module.
    pub tables: Vec<TableInfo>,
    /// All globals of the original module.
    pub globals: Vec<GlobalInfo>,
    /// Parameter types of every exception tag.
    pub tags: Vec<Vec<ValueType>>,
    /// Number of data segments.
    pub data_segments: u32,
    /// Number of element segments.
    pub elem_segments: u32,
    /// The start function, which the instrumented module does not run by itself.
    pub start: Option<u32>,
    /// Where things lie in the control memory.
    pub control: ControlLayout,
    /// For each type of reference that can be live at a safepoint, the private table that carries it.
    pub ref_tables: Vec<ValueType>,
    /// Its own digest, once somebody has asked for it: no part of what it says. A map is not changed after that.
    pub known_digest: KnownDigest,
}

/// A digest that takes a millisecond or more for a large module, and is asked for while a program stands.
#[derive(Debug, Default)]
pub struct KnownDigest(OnceLock<Digest>);

impl Clone for KnownDigest {
    /// Knows nothing: the copy may become another map.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for KnownDigest {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for KnownDigest {}

/// A function's type and the range of its safepoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Parameter types.
    pub params: Vec<ValueType>,
    /// Result types.
    pub results: Vec<ValueType>,
    /// Number of its first safepoint.
    pub first_safepoint: u32,
    /// How many safepoints it has (0: it can never be on a captured stack).
    pub safepoints: u32,
    /// Whether a table, a global or `ref.func` can hand out a reference to it.
    pub escapes: bool,
}

/// A point at which a frame can be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Safepoint {
    /// The function it lies in.
    pub function: u32,
    /// Byte offset of its instruction in the original module.
    pub offset: u32,
    /// What happens there.
    pub kind: SafepointKind,
    /// The values saved in the frame record, in this order.
    pub live: Vec<LiveValue>,
}

impl Safepoint {
    /// Bytes of values in its frame record, without the trailer.
    pub fn values_size(&self) -> u32 {
        self.live.iter().map(|live| live.ty.size()).sum()
    }
}

/// What happens at a safepoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SafepointKind {
    /// At a loop's head, before the next iteration.
    Loop,
    /// At a call of a Wasm function. [`Phase::Inside`]: the callee is the next frame. [`Phase::At`]: the
    /// callee has returned, its results are the last live values.
    Call,
    /// At a call of an imported function. [`Phase::Inside`]: the host asked for the call to be issued again.
    /// [`Phase::At`]: it has returned.
    Import,
    /// At a call through a reference that may reach a Wasm function or an imported one. [`Phase::Inside`]: as in
    /// [`SafepointKind::Import`] if this is the innermost frame, else as in [`SafepointKind::Call`].
    IndirectCall,
    /// Before a tail call.
    TailCall,
    /// Inside a bulk instruction (`memory.fill` and the like), of which a part is done; the arguments tell the rest.
    Bulk,
}

impl SafepointKind {
    /// Whether a frame inside this call can be the innermost one: the host asked for the call to be issued again.
    pub const fn can_reissue(self) -> bool {
        matches!(self, Self::Import | Self::IndirectCall)
    }

    /// Whether its frames keep the arguments of the instruction.
    pub const fn keeps_arguments(self) -> bool {
        self.can_reissue() || matches!(self, Self::Bulk)
    }

    /// Whether a frame inside this call can have a callee's frame above it.
    pub const fn can_have_callee(self) -> bool {
        matches!(self, Self::Call | Self::IndirectCall)
    }
}

/// Which side of a call a frame stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// At the safepoint itself; for calls, after the callee returned.
    At,
    /// The call has not completed.
    Inside,
}

/// One saved value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveValue {
    /// Where the program keeps it.
    pub slot: Slot,
    /// Its type.
    pub ty: ValueType,
}

/// Where the program keeps a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// A local variable or parameter.
    Local(u32),
    /// An operand, counted from the bottom of the function's operand stack.
    Operand(u32),
    /// An argument of a call that may have to be issued again (for an indirect call, its callee operand comes last), or of
    /// the rest of a bulk instruction.
    Argument(u32),
    /// A result of a call that has returned; zero or null while the call has not completed.
    Result(u32),
}

/// A memory of the original module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Whether it is imported.
    pub imported: bool,
    /// Whether addresses are 64-bit.
    pub memory64: bool,
    /// log2 of the page size in bytes (16 unless custom page sizes are used).
    pub page_size_log2: u32,
    /// Initial size in its pages.
    pub minimum: u64,
    /// Declared limit in its pages.
    pub maximum: Option<u64>,
}

/// A table of the original module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableInfo {
    /// Whether it is imported.
    pub imported: bool,
    /// Element type.
    pub ty: ValueType,
    /// Whether null may stand in it.
    pub nullable: bool,
    /// Initial number of elements.
    pub minimum: u64,
    /// Declared limit.
    pub maximum: Option<u64>,
}

/// A global of the original module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalInfo {
    /// Whether it is imported.
    pub imported: bool,
    /// Type.
    pub ty: ValueType,
    /// Whether null may stand in it.
    pub nullable: bool,
    /// Whether it can change; only such globals are state.
    pub mutable: bool,
}

/// Offsets in the control memory, a private 32-bit memory that the pass adds as the last memory.
///
/// ```text
///  0  u32  flag      nonzero: a poll leaves the fast path
///  4  u32  state     0 running, 1 unwinding, 2 rewinding
///  8  u32  top       address behind the last frame record
/// 12  u32  reserved
/// 16  u8 x data_segments    1: dropped     at dropped_data
///     u8 x elem_segments    1: dropped     at dropped_elems
///     frame records, innermost first        at frames
/// ```
///
/// A frame record is the live values in map order, packed without padding, little-endian, then
/// `u32 safepoint` and `u32 phase` (0 at, 1 inside). A reference is stored as an index into the private table
/// of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlLayout {
    /// Offset of the bytes that tell which data segments were dropped.
    pub dropped_data: u32,
    /// Offset of the bytes that tell which element segments were dropped.
    pub dropped_elems: u32,
    /// Offset of the first frame record.
    pub frames: u32,
    /// Size of the largest frame record; the instrumented code always keeps that much room, and grows the memory for it.
    pub largest_record: u32,
    /// Initial size of the control memory in 64 KiB pages.
    pub pages: u32,
}

impl ControlLayout {
    /// Offset of the flag.
    pub const FLAG: u32 = 0;
    /// Offset of the state.
    pub const STATE: u32 = 4;
    /// Offset of the top of the frame stack.
    pub const TOP: u32 = 8;
    /// Bytes behind the values of a record: safepoint and phase.
    pub const TRAILER: u32 = 8;
}

/// Values of the control memory's state word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlState {
    /// The program runs, or has ended.
    Running = 0,
    /// Frames are being saved.
    Unwinding = 1,
    /// Frames are being restored.
    Rewinding = 2,
}

/// Names under which the instrumented module exports what the engine needs. An original module that exports
/// a name with [`exports::PREFIX`] is refused.
pub mod exports {
    /// All names below begin with this.
    pub const PREFIX: &str = "dunlin:";
    /// The control memory.
    pub const CONTROL: &str = "dunlin:control";
    /// A 64-bit memory whose first word is the flag, once more: this one is read by polls behind and beside calls, the one in
    /// the control memory by those in loops. It is there if there are such polls, unless safepoints are counted.
    ///
    /// The control memory never moves, so engines keep its address in a register over a whole loop, to the advantage of loops
    /// without calls. Over a call, that is one more register for the callee to save: a fifth of the time of a short
    /// recursive function. The address of a memory that may move is loaded where it is needed.
    pub const CALLS: &str = "dunlin:calls";
    /// Mutable `i64` global that counts safepoints down (only with [`Poll::Count`](crate::Poll::Count)): the
    /// poll that makes it zero stops.
    pub const COUNT: &str = "dunlin:count";
    /// Table of funcref: element i is function i of the original module if it escapes, else null.
    pub const FUNCTIONS: &str = "dunlin:functions";
    /// Table of funcref: element i resumes function i. Its type is `[] -> results of i`. Only in
    /// [`Variant::Resume`](crate::Variant::Resume).
    pub const RESUME: &str = "dunlin:resume";
    /// The start function, under the type `[] -> []`.
    pub const START: &str = "dunlin:start";
    /// `[] -> []`: drops the segments whose bytes in the control memory are 1. Only in
    /// [`Variant::Resume`](crate::Variant::Resume), and only where a module drops segments.
    pub const DROP: &str = "dunlin:drop";
    /// Memory `index` of the original module.
    pub fn memory(index: u32) -> String {
        format!("dunlin:m{index}")
    }
    /// Table `index` of the original module.
    pub fn table(index: u32) -> String {
        format!("dunlin:t{index}")
    }
    /// Mutable global `index` of the original module.
    pub fn global(index: u32) -> String {
        format!("dunlin:g{index}")
    }
    /// Tag `index` of the original module.
    pub fn tag(index: u32) -> String {
        format!("dunlin:e{index}")
    }
    /// Private table number `index` of [`Map::ref_tables`](crate::Map::ref_tables).
    pub fn ref_table(index: u32) -> String {
        format!("dunlin:r{index}")
    }
}

impl Map {
    /// The digest of the map: equal if and only if frames mean the same. Computed once.
    pub fn digest(&self) -> Digest {
        *self.known_digest.0.get_or_init(|| self.compute_digest())
    }

    fn compute_digest(&self) -> Digest {
        let mut hasher = Hasher::default();
        hasher.update(b"dunlin map\0");
        hasher.update(&PASS_VERSION.to_le_bytes());
        hasher.update(&self.module.0);
        for safepoint in &self.safepoints {
            let Safepoint { function, offset, kind, live } = safepoint;
            hasher.update(&function.to_le_bytes());
            hasher.update(&offset.to_le_bytes());
            hasher.update(&[*kind as u8]);
            hasher.update(&(live.len() as u64).to_le_bytes());
            for LiveValue { slot, ty } in live {
                let (kind, index) = match slot {
                    Slot::Local(index) => (0, *index),
                    Slot::Operand(index) => (1, *index),
                    Slot::Argument(index) => (2, *index),
                    Slot::Result(index) => (3, *index),
                };
                hasher.update(&[kind]);
                hasher.update(&index.to_le_bytes());
                hasher.update(ty.to_string().as_bytes());
                hasher.update(&[0]);
            }
        }
        hasher.finish()
    }

    /// The safepoint with this number.
    pub fn safepoint(&self, number: u32) -> Option<&Safepoint> {
        self.safepoints.get(number as usize)
    }

    /// The private table that carries references of type `ty`.
    pub fn ref_table(&self, ty: ValueType) -> Option<u32> {
        self.ref_tables.iter().position(|table| *table == ty).map(|index| index as u32)
    }

    /// Values that fill a frame record at `safepoint` when all of them are zero or null.
    pub fn zeroed(&self, safepoint: u32) -> Option<Vec<Value>> {
        Some(self.safepoint(safepoint)?.live.iter().map(|live| Value::default_of(live.ty)).collect())
    }
}
