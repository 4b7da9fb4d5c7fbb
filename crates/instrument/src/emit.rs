//! What both code generators write with: a code buffer with branch hints, temporary locals, accesses to records.

use std::collections::HashMap;
use std::ops::Range;

use wasm_encoder::{BlockType, Encode, Instruction, MemArg};
use wasmparser::Operator;

use crate::Poll;
use crate::body::Op;
use crate::map::{ControlLayout, Slot};
use crate::plan::Point;
use crate::sections::Additions;
use crate::ty::{Heap, Ty};

/// Code under construction.
#[derive(Debug, Default)]
pub(crate) struct Code {
    pub(crate) bytes: Vec<u8>,
    /// Offsets of branches of which one way is almost never gone, and whether the other is the branch taken.
    pub(crate) hints: Vec<(u32, bool)>,
}

impl Code {
    pub(crate) fn push(&mut self, instruction: Instruction<'_>) {
        instruction.encode(&mut self.bytes);
    }

    /// Copies bytes of the original.
    pub(crate) fn copy(&mut self, module: &[u8], range: Range<usize>) {
        self.bytes.extend_from_slice(&module[range]);
    }

    /// Copies an operator, or writes it if the pass made it.
    pub(crate) fn operator(&mut self, module: &[u8], op: &Op<'_>) {
        if !op.range.is_empty() {
            return self.copy(module, op.range.clone());
        }
        match op.op {
            Operator::Call { function_index } => self.push(Instruction::Call(function_index)),
            Operator::Return => self.push(Instruction::Return),
            ref other => unreachable!("the pass makes no {other:?}"),
        }
    }

    /// Tells whether the branch that is written next is almost always taken, or almost never.
    pub(crate) fn hint(&mut self, taken: bool) {
        self.hints.push((self.bytes.len() as u32, taken));
    }

    /// An `if` that is almost never taken.
    pub(crate) fn push_unlikely(&mut self, instruction: Instruction<'_>) {
        self.hint(false);
        self.push(instruction);
    }
}

/// Temporary locals, one for each place and type, declared behind the function's own.
#[derive(Debug)]
pub(crate) struct Temps {
    first: u32,
    index: HashMap<(Bank, u32, Ty), u32>,
    types: Vec<Ty>,
}

/// What a temporary stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Bank {
    /// The operand at a height.
    Operand,
    /// An argument of a call that may be issued again, kept beside the results at the same height.
    Argument,
    /// A helper of the pass.
    Helper,
}

impl Temps {
    pub(crate) fn new(first: u32) -> Self {
        Self { first, index: HashMap::new(), types: Vec::new() }
    }

    /// The local for a place.
    pub(crate) fn local(&mut self, bank: Bank, place: u32, ty: Ty) -> u32 {
        let ty = ty.nullable();
        *self.index.entry((bank, place, ty)).or_insert_with(|| {
            self.types.push(ty);
            self.first + self.types.len() as u32 - 1
        })
    }

    /// The types of all temporaries, in order.
    pub(crate) fn types(&self) -> &[Ty] {
        &self.types
    }
}

/// Numbers of the pass's own locals.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Helpers {
    /// Address of the record being written or read.
    pub(crate) top: u32,
    /// Safepoint being saved.
    pub(crate) safepoint: u32,
    /// Bytes of its values.
    pub(crate) size: u32,
}

impl Helpers {
    pub(crate) fn new(temps: &mut Temps) -> Self {
        let mut local = |number| temps.local(Bank::Helper, number, Ty::I32);
        Self { top: local(0), safepoint: local(1), size: local(2) }
    }
}

/// An access to the control memory.
pub(crate) fn control(additions: &Additions, offset: u32) -> MemArg {
    MemArg { offset: offset.into(), align: 0, memory_index: additions.control_memory }
}

/// The local that holds a live value.
pub(crate) fn source(temps: &mut Temps, point: &Point, slot: Slot, ty: Ty) -> u32 {
    match slot {
        Slot::Local(local) => local,
        Slot::Operand(height) => temps.local(Bank::Operand, height, ty),
        Slot::Argument(index) => temps.local(Bank::Argument, index, ty),
        Slot::Result(index) => temps.local(Bank::Operand, point.base + index, ty),
    }
}

/// Which of the two flags a poll reads; see [`crate::exports::CALLS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flag {
    /// The one whose address an engine keeps in a register over a loop.
    Loops,
    /// The one whose address an engine loads where it is needed.
    Calls,
}

impl Flag {
    /// Pushes its address, and tells how to reach it from there. Where there is one flag only, both are that one.
    fn address(self, code: &mut Code, additions: &Additions) -> MemArg {
        match (self, additions.calls_memory) {
            (Self::Calls, Some(memory_index)) => {
                code.push(Instruction::I64Const(0));
                MemArg { offset: 0, align: 2, memory_index }
            }
            _ => {
                code.push(Instruction::I32Const(0));
                MemArg { align: 2, ..control(additions, ControlLayout::FLAG) }
            }
        }
    }

    /// Sets it.
    pub(crate) fn raise(self, code: &mut Code, additions: &Additions) {
        let place = self.address(code, additions);
        code.push(Instruction::I32Const(1));
        code.push(Instruction::I32Store(place));
    }
}

/// Pushes whether to stop.
pub(crate) fn poll(code: &mut Code, additions: &Additions, kind: Poll, flag: Flag) {
    match kind {
        Poll::Flag => {
            let place = flag.address(code, additions);
            code.push(Instruction::I32Load(place));
        }
        Poll::Count => code.push(Instruction::Call(additions.count_function.expect("counting modules have it"))),
    }
}

/// Notes in the control memory that a segment was dropped.
pub(crate) fn mark(code: &mut Code, additions: &Additions, at: u32) {
    code.push(Instruction::I32Const(0));
    code.push(Instruction::I32Const(1));
    code.push(Instruction::I32Store8(control(additions, at)));
}

/// Loads a live value back from the record at `helpers.top` into its local.
pub(crate) fn restore_value(
    code: &mut Code,
    additions: &mut Additions,
    helpers: Helpers,
    offset: u32,
    ty: Ty,
    local: u32,
) {
    code.push(Instruction::LocalGet(helpers.top));
    code.push(load(ty, control(additions, offset)));
    if matches!(ty, Ty::Ref { .. }) {
        let table = additions.ref_table(ty);
        code.push(Instruction::TableGet(table));
    }
    code.push(Instruction::LocalSet(local));
}

/// Reads a local whose declared type is nullable.
pub(crate) fn get(code: &mut Code, local: u32, ty: Ty) {
    code.push(Instruction::LocalGet(local));
    if ty.is_non_null() {
        code.push(Instruction::RefAsNonNull);
    }
}

/// The type of a block without parameters.
pub(crate) fn block_type(additions: &mut Additions, results: &[Ty]) -> BlockType {
    match results {
        [] => BlockType::Empty,
        [ty] => BlockType::Result(ty.encoded()),
        _ => BlockType::FunctionType(additions.ty(&[], results)),
    }
}

/// A complete body: local declarations, then code. The hints' offsets become relative to its start.
pub(crate) fn finish(mut code: Code, declarations: Vec<u8>) -> Code {
    let shift = declarations.len() as u32;
    let mut bytes = declarations;
    bytes.append(&mut code.bytes);
    Code { bytes, hints: code.hints.into_iter().map(|(offset, taken)| (offset + shift, taken)).collect() }
}

/// Encodes declarations of locals, runs folded.
pub(crate) fn declare(types: impl IntoIterator<Item = Ty>) -> (u32, Vec<u8>) {
    let mut runs: Vec<(u32, Ty)> = Vec::new();
    for ty in types {
        match runs.last_mut() {
            Some((count, last)) if *last == ty => *count += 1,
            _ => runs.push((1, ty)),
        }
    }
    let mut bytes = Vec::new();
    for (count, ty) in &runs {
        count.encode(&mut bytes);
        ty.encoded().encode(&mut bytes);
    }
    (runs.len() as u32, bytes)
}

/// Something of a type, for a result that nobody looks at.
pub(crate) fn dummy(code: &mut Code, additions: &mut Additions, ty: Ty) {
    match ty {
        Ty::I32 => code.push(Instruction::I32Const(0)),
        Ty::I64 => code.push(Instruction::I64Const(0)),
        Ty::F32 => code.push(Instruction::F32Const(0.0.into())),
        Ty::F64 => code.push(Instruction::F64Const(0.0.into())),
        Ty::V128 => code.push(Instruction::V128Const(0)),
        Ty::Ref { heap, nullable: true } => code.push(Instruction::RefNull(heap.encoded())),
        Ty::Ref { heap: heap @ (Heap::Func | Heap::Concrete(_)), nullable: false } => {
            let function = additions.dummy_function(heap);
            code.push(Instruction::RefFunc(function));
        }
        // Such results are refused when the module is read; nobody looks at this value.
        Ty::Ref { .. } => code.push(Instruction::Unreachable),
    }
}

pub(crate) fn store(ty: Ty, at: MemArg) -> Instruction<'static> {
    match ty {
        Ty::I32 | Ty::Ref { .. } => Instruction::I32Store(at),
        Ty::I64 => Instruction::I64Store(at),
        Ty::F32 => Instruction::F32Store(at),
        Ty::F64 => Instruction::F64Store(at),
        Ty::V128 => Instruction::V128Store(at),
    }
}

fn load(ty: Ty, at: MemArg) -> Instruction<'static> {
    match ty {
        Ty::I32 | Ty::Ref { .. } => Instruction::I32Load(at),
        Ty::I64 => Instruction::I64Load(at),
        Ty::F32 => Instruction::F32Load(at),
        Ty::F64 => Instruction::F64Load(at),
        Ty::V128 => Instruction::V128Load(at),
    }
}
