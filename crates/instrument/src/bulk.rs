//! Bulk instructions that may take long, written in chunks with a safepoint between them.
//!
//! ```text
//! block $rest                        ;; the arguments d, s (or a value) and n are in locals
//!   br_if $rest (n <= CHUNK)
//!   loop $next
//!     d, s, n = step d s n
//!     poll
//!     br_if $next (n > CHUNK)
//!   end
//! end
//! op d s n
//!
//! step: br_if $all (d + n < d)       ;; and s: beyond every memory
//!       op (d + n) (s + n) 0         ;; traps if any of it is out of bounds, and does nothing else
//!       op d s CHUNK                 ;; and on to the next ones up, or down where d > s in one memory
//!       return
//!   $all: op d s n                   ;; traps
//! ```
//!
//! Nothing is written unless all of it is in bounds, as the specification wants it. What is left to do is told by the
//! arguments, so they are what a frame keeps.

use wasm_encoder::{BlockType, Instruction};
use wasmparser::Operator;

use crate::Poll;
use crate::body::{Body, Op};
use crate::emit::{self, Bank, Code, Temps};
use crate::ty::Ty;

/// Bytes of memory, or elements of a table, between two polls: some tens of microseconds, several hundred where the
/// system has to find each page first.
const BYTES: u32 = 256 << 10;
const ELEMENTS: u32 = 4 << 10;

/// The same where safepoints are counted: small, so that small programs stop inside too.
const COUNTED_BYTES: u32 = 256;
const COUNTED_ELEMENTS: u32 = 8;

/// What the operands of a bulk instruction are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Place, value, count.
    Fill,
    /// Two places, count; `overlaps` if both may be in one memory or table.
    Copy { overlaps: bool },
    /// Place, place in a segment, count.
    Init,
}

fn shape(op: &Operator<'_>) -> Option<(Shape, u32, u32)> {
    Some(match *op {
        Operator::MemoryFill { .. } => (Shape::Fill, BYTES, COUNTED_BYTES),
        Operator::MemoryCopy { dst_mem, src_mem } => {
            (Shape::Copy { overlaps: dst_mem == src_mem }, BYTES, COUNTED_BYTES)
        }
        Operator::MemoryInit { .. } => (Shape::Init, BYTES, COUNTED_BYTES),
        Operator::TableFill { .. } => (Shape::Fill, ELEMENTS, COUNTED_ELEMENTS),
        Operator::TableCopy { dst_table, src_table } => {
            (Shape::Copy { overlaps: dst_table == src_table }, ELEMENTS, COUNTED_ELEMENTS)
        }
        Operator::TableInit { .. } => (Shape::Init, ELEMENTS, COUNTED_ELEMENTS),
        _ => return None,
    })
}

/// Whether an operator is a bulk instruction.
pub(crate) fn is_bulk(op: &Operator<'_>) -> bool {
    shape(op).is_some()
}

/// Whether the operator at `index` is a bulk instruction that may take longer than one chunk.
pub(crate) fn is_long(body: &Body<'_>, index: usize) -> bool {
    let Some((_, chunk, _)) = shape(&body.ops[index].op) else { return false };
    // The count is the last operand, so a constant right before is the count.
    let count = match index.checked_sub(1).map(|before| &body.ops[before].op) {
        Some(Operator::I32Const { value }) => u64::from(*value as u32),
        Some(Operator::I64Const { value }) => *value as u64,
        _ => return true,
    };
    count > chunk.into()
}

/// One step of a bulk instruction: a function of the pass, shared by all that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// The instruction's bytes.
    op: Vec<u8>,
    shape: Shape,
    chunk: u32,
    types: [Ty; 3],
}

impl Step {
    /// That of a bulk instruction.
    pub(crate) fn of(module: &[u8], body: &Body<'_>, op: &Op<'_>, poll: Poll) -> Self {
        let (shape, chunk, counted) = shape(&op.op).expect("called for bulk instructions");
        let types = *body.pops(op).first_chunk().expect("bulk instructions have three operands");
        let chunk = if poll == Poll::Count { counted } else { chunk };
        Self { op: module[op.range.clone()].to_vec(), shape, chunk, types }
    }

    /// The parameters of the function: the arguments.
    pub(crate) fn params(&self) -> [Ty; 3] {
        self.types.map(Ty::nullable)
    }

    /// Its results: what the arguments that change have become.
    pub(crate) fn results(&self) -> Vec<Ty> {
        self.changing().map(|place| self.types[place]).collect()
    }

    /// Its body.
    pub(crate) fn function(&self) -> Code {
        let mut code = Code { bytes: vec![0], hints: Vec::new() };
        let code = &mut code;
        code.push(Instruction::Block(BlockType::Empty));
        for &place in self.places() {
            self.get(code, place);
            self.add_count(code, place);
            self.get(code, place);
            code.push(if self.wide(place) { Instruction::I64LtU } else { Instruction::I32LtU });
            code.push(Instruction::BrIf(0));
        }
        self.ahead(code);
        self.constant(code, COUNT, 0);
        code.bytes.extend_from_slice(&self.op);
        if self.shape == (Shape::Copy { overlaps: true }) {
            // Upwards, so the upper end first; both places are in one memory and so of one type.
            self.get(code, 0);
            self.get(code, 1);
            code.push(if self.wide(0) { Instruction::I64GtU } else { Instruction::I32GtU });
            code.push(Instruction::If(BlockType::Empty));
            self.advance(code, COUNT, false);
            self.ahead(code);
            self.constant(code, COUNT, self.chunk);
            code.bytes.extend_from_slice(&self.op);
            code.push(Instruction::Else);
            self.forward(code);
            code.push(Instruction::End);
        } else {
            self.forward(code);
        }
        self.changing().for_each(|place| self.get(code, place));
        code.push(Instruction::Return);
        code.push(Instruction::End);
        (0..3).for_each(|place| self.get(code, place));
        code.bytes.extend_from_slice(&self.op);
        code.push(Instruction::Unreachable);
        code.push(Instruction::End);
        std::mem::take(code)
    }

    fn forward(&self, code: &mut Code) {
        self.get(code, 0);
        self.get(code, 1);
        self.constant(code, COUNT, self.chunk);
        code.bytes.extend_from_slice(&self.op);
        for &place in self.places() {
            self.advance(code, place, true);
        }
        self.advance(code, COUNT, false);
    }

    /// The first two operands, moved by the count.
    fn ahead(&self, code: &mut Code) {
        for place in 0..2 {
            self.get(code, place);
            if self.places().contains(&place) {
                self.add_count(code, place);
            }
        }
    }

    /// The operands that are places.
    fn places(&self) -> &'static [usize] {
        if self.shape == Shape::Fill { &[0] } else { &[0, 1] }
    }

    /// The operands that a step changes.
    fn changing(&self) -> impl Iterator<Item = usize> {
        self.places().iter().copied().chain([COUNT])
    }

    fn wide(&self, place: usize) -> bool {
        self.types[place] == Ty::I64
    }

    /// Parameters are the locals of the function.
    fn get(&self, code: &mut Code, place: usize) {
        emit::get(code, place as u32, self.types[place]);
    }

    fn add_count(&self, code: &mut Code, place: usize) {
        self.get(code, COUNT);
        if self.wide(place) && !self.wide(COUNT) {
            code.push(Instruction::I64ExtendI32U);
        }
        code.push(if self.wide(place) { Instruction::I64Add } else { Instruction::I32Add });
    }

    fn constant(&self, code: &mut Code, place: usize, value: u32) {
        code.push(constant(self.types[place], value));
    }

    /// Moves an operand by a chunk.
    fn advance(&self, code: &mut Code, place: usize, up: bool) {
        self.get(code, place);
        self.constant(code, place, self.chunk);
        code.push(match (self.wide(place), up) {
            (true, true) => Instruction::I64Add,
            (true, false) => Instruction::I64Sub,
            (false, true) => Instruction::I32Add,
            (false, false) => Instruction::I32Sub,
        });
        code.push(Instruction::LocalSet(place as u32));
    }
}

/// A bulk instruction whose arguments are in their temporaries.
#[derive(Debug)]
pub(crate) struct Bulk {
    step: Step,
    function: u32,
    locals: [u32; 3],
}

impl Bulk {
    /// The bulk instruction with this step, its arguments in the temporaries for arguments.
    pub(crate) fn new(step: Step, function: u32, temps: &mut Temps) -> Self {
        let locals = [0, 1, 2].map(|place| temps.local(Bank::Argument, place as u32, step.types[place]));
        Self { step, function, locals }
    }

    /// Everything before the poll. Opens two labels.
    pub(crate) fn open(&self, code: &mut Code) {
        code.push(Instruction::Block(BlockType::Empty));
        self.is_long(code);
        code.push(Instruction::I32Eqz);
        code.hint(true);
        code.push(Instruction::BrIf(0));
        code.push(Instruction::Loop(BlockType::Empty));
        for local in self.locals {
            code.push(Instruction::LocalGet(local));
        }
        code.push(Instruction::Call(self.function));
        let changing: Vec<usize> = self.step.changing().collect();
        for place in changing.into_iter().rev() {
            code.push(Instruction::LocalSet(self.locals[place]));
        }
    }

    /// Everything behind the poll: closes the labels and does the rest.
    pub(crate) fn close(&self, code: &mut Code) {
        self.is_long(code);
        code.push(Instruction::BrIf(0));
        code.push(Instruction::End);
        code.push(Instruction::End);
        for (local, ty) in self.locals.into_iter().zip(self.step.types) {
            emit::get(code, local, ty);
        }
        code.bytes.extend_from_slice(&self.step.op);
    }

    /// Pushes whether more than a chunk is left.
    fn is_long(&self, code: &mut Code) {
        let ty = self.step.types[COUNT];
        code.push(Instruction::LocalGet(self.locals[COUNT]));
        code.push(constant(ty, self.step.chunk));
        code.push(if ty == Ty::I64 { Instruction::I64GtU } else { Instruction::I32GtU });
    }
}

fn constant(ty: Ty, value: u32) -> Instruction<'static> {
    if ty == Ty::I64 { Instruction::I64Const(value.into()) } else { Instruction::I32Const(value as i32) }
}

const COUNT: usize = 2;
