//! Generates the code that a program starts with: the original code, with polls and save paths.
//!
//! Nothing is moved or renamed. Operands that a safepoint must save are copied into temporaries right before it, which costs
//! nothing in a compiled function; values below a block's base are copied before the block begins, since code inside cannot
//! reach them. Every slot of the operand stack that a temporary mirrors is marked, so that it is copied once.

use wasm_encoder::Instruction;
use wasmparser::Operator;

use crate::Poll;
use crate::body::{BlockKind, Body, Op};
use crate::bulk::{Bulk, Step};
use crate::emit::{self, Bank, Code, Flag, Helpers, Temps};
use crate::map::SafepointKind;
use crate::module::Module;
use crate::plan::FunctionPlan;
use crate::save::{self, Saves};
use crate::sections::Additions;
use crate::ty::Ty;
use crate::unroll::{self, Copied, Form};

/// Generates one function's body, local declarations included.
pub(crate) fn function(
    module: &Module<'_>,
    body: &Body<'_>,
    plan: &FunctionPlan,
    poll: Poll,
    additions: &mut Additions,
) -> Code {
    let mut temps = Temps::new(body.locals.len() as u32);
    let helpers = Helpers::new(&mut temps);
    let saves = Saves::of(&plan.points, &mut temps);
    let mut fresh = Fresh {
        module,
        body,
        plan,
        poll,
        additions,
        temps,
        helpers,
        saves,
        code: Code::default(),
        stack: Vec::new(),
        depth: 0,
        frames: Vec::new(),
        dead_ends: body.dead_ends(),
        copying: Vec::new(),
        flag: flag(body, plan),
    };
    fresh.function();
    let Fresh { code, temps, .. } = fresh;
    let mut declarations = Vec::new();
    let (runs, bytes) = emit::declare(temps.types().iter().copied());
    let own = &module.bytes[body.declarations.clone()];
    let mut reader = wasmparser::BinaryReader::new(own, 0);
    let own_runs = reader.read_var_u32().expect("validated");
    wasm_encoder::Encode::encode(&(own_runs + runs), &mut declarations);
    declarations.extend_from_slice(&own[reader.original_position()..]);
    declarations.extend_from_slice(&bytes);
    emit::finish(code, declarations)
}

struct Fresh<'a, 'm> {
    module: &'m Module<'a>,
    body: &'m Body<'a>,
    plan: &'m FunctionPlan,
    poll: Poll,
    additions: &'m mut Additions,
    temps: Temps,
    helpers: Helpers,
    saves: Saves,
    code: Code,
    /// The operand stack: type, and whether the slot's temporary holds the same value.
    stack: Vec<(Ty, bool)>,
    /// Wasm labels open inside the wrapper's two blocks.
    depth: u32,
    /// For each open block, the stack at its start with parameters (for `else`).
    frames: Vec<Vec<(Ty, bool)>>,
    /// Where control goes straight to a panic.
    dead_ends: Vec<bool>,
    /// The loops whose copied bodies are being written, outermost first.
    copying: Vec<Copied>,
    /// Which flag this function's polls read.
    flag: Flag,
}

/// A function with a loop that polls at its head has the address of the flag for loops at hand, so its other polls
/// read that one, too.
fn flag(body: &Body<'_>, plan: &FunctionPlan) -> Flag {
    let mut loops = plan.points.iter().filter(|point| point.kind == SafepointKind::Loop);
    if loops.any(|point| form(body, plan, point.op) != Form::Latch) { Flag::Loops } else { Flag::Calls }
}

fn form(body: &Body<'_>, plan: &FunctionPlan, index: usize) -> Form {
    unroll::form(body, index, |at| plan.at(at).is_some_and(|at| plan.points[at].kind != SafepointKind::Loop))
}

impl Fresh<'_, '_> {
    fn function(&mut self) {
        let results = self.body.blocks[0].results.clone();
        let saves = !self.plan.points.is_empty();
        if saves {
            // tail: { segments: { body: { ...the original... } return } ... } save tail
            for _ in 0..=self.saves.segments() {
                self.code.push(Instruction::Block(wasm_encoder::BlockType::Empty));
            }
            let ty = emit::block_type(self.additions, &results);
            self.code.push(Instruction::Block(ty));
        }
        self.frames.push(Vec::new());
        let mut index = 0;
        while index < self.body.ops.len() {
            index = self.op(index);
        }
        if saves {
            self.code.push(Instruction::Return);
            self.code.push(Instruction::End);
            for segment in 0..self.saves.segments() {
                self.saves.segment(&mut self.code, self.additions, self.helpers, segment);
                let next = self.label(self.saves.after_segment(segment));
                // Labels before the next segment's are closed by then.
                self.code.push(Instruction::Br(next - segment as u32 - 1));
                self.code.push(Instruction::End);
            }
            save::tail(&mut self.code, self.additions, self.helpers, self.body);
            self.code.push(Instruction::End);
        }
    }

    /// Writes one operator (or an unrolled loop) and tells which comes next.
    fn op(&mut self, index: usize) -> usize {
        let body = self.body;
        let op = &body.ops[index];
        match &op.op {
            Operator::Loop { .. } => {
                if let Some(point) = self.plan.at(index) {
                    match form(body, self.plan, index) {
                        Form::Head(1) => {}
                        Form::Head(copies) => return self.repeated(index, point, copies),
                        Form::Latch => return self.latched(index, point),
                    }
                }
                self.start(index);
            }
            Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => self.start(index),
            Operator::Else => {
                self.copy(index);
                self.stack.clone_from(self.frames.last().expect("inside a block"));
            }
            Operator::End => {
                self.copy(index);
                self.frames.pop();
                self.depth = self.depth.saturating_sub(1);
                self.leave(index);
            }
            Operator::DataDrop { data_index } => {
                self.copy(index);
                let at = self.additions.control.dropped_data + data_index;
                emit::mark(&mut self.code, self.additions, at);
            }
            Operator::ElemDrop { elem_index } => {
                self.copy(index);
                let at = self.additions.control.dropped_elems + elem_index;
                emit::mark(&mut self.code, self.additions, at);
            }
            _ => match self.plan.at(index) {
                Some(point) if self.plan.points[point].kind == SafepointKind::TailCall => {
                    self.sync(self.stack.len());
                    self.poll_and_save(point);
                    self.copy(index);
                    self.leave(index);
                }
                Some(point) if self.plan.points[point].kind == SafepointKind::Bulk => self.bulk(index, point),
                Some(point) => self.call(index, point),
                None => {
                    self.copy(index);
                    self.leave(index);
                }
            },
        }
        index + 1
    }

    fn copy(&mut self, index: usize) {
        let op = &self.body.ops[index];
        // Ways that end in a panic are cold. Compilers of today's programs do not say so, and without it the panics lie
        // between the loops.
        let (taken, falls) = match op.op {
            Operator::BrIf { .. } => {
                let target = &self.body.blocks[self.body.targets(op)[0] as usize];
                (target.kind != BlockKind::Loop && self.dead_ends[target.end], self.dead_ends[index + 1])
            }
            Operator::If { .. } => {
                let block = &self.body.blocks[op.block as usize];
                (self.dead_ends[index + 1], self.dead_ends[block.else_at.map_or(block.end, |at| at + 1)])
            }
            _ => (false, false),
        };
        if taken != falls {
            self.code.hint(falls);
        }
        match unroll::branch(self.body, op, &self.copying) {
            Some(branch) => self.code.push(branch),
            None => self.code.operator(self.module.bytes, op),
        }
    }

    /// Applies an operator's effect to the tracked stack.
    fn leave(&mut self, index: usize) {
        let op = &self.body.ops[index];
        self.stack.truncate(op.base as usize);
        self.stack.extend(self.body.pushes(op).iter().map(|ty| (*ty, false)));
    }

    fn start(&mut self, index: usize) {
        let op = &self.body.ops[index];
        let block = &self.body.blocks[op.block as usize];
        if self.plan.any_in(index..block.end) {
            self.sync(op.base as usize);
        }
        self.copy(index);
        self.depth += 1;
        let base = op.base as usize;
        self.stack.truncate(base + block.params.len());
        if block.kind == BlockKind::Loop {
            for slot in &mut self.stack[base..] {
                slot.1 = false;
            }
        }
        self.frames.push(self.stack.clone());
        if let Some(point) = self.plan.at(index) {
            self.sync(self.stack.len());
            self.poll_and_save(point);
        }
    }

    fn call(&mut self, index: usize, point: usize) {
        let op = &self.body.ops[index];
        let base = op.base as usize;
        self.sync(base);
        if self.plan.points[point].kind.can_reissue() {
            self.take_arguments(op);
            for (place, ty) in self.body.pops(op).iter().enumerate() {
                let local = self.temps.local(Bank::Argument, place as u32, *ty);
                emit::get(&mut self.code, local, *ty);
            }
        }
        self.copy(index);
        self.leave(index);
        // The results are part of the record, so the stack above the operands is moved to temporaries and back.
        for height in (base..self.stack.len()).rev() {
            self.set(height);
        }
        self.poll_and_save(point);
        for height in base..self.stack.len() {
            self.get(height);
        }
    }

    /// Moves the operands of an operator from the stack to the temporaries for arguments.
    fn take_arguments(&mut self, op: &Op<'_>) {
        for (place, ty) in self.body.pops(op).iter().enumerate().rev() {
            let local = self.temps.local(Bank::Argument, place as u32, *ty);
            self.code.push(Instruction::LocalSet(local));
        }
    }

    fn bulk(&mut self, index: usize, point: usize) {
        let op = &self.body.ops[index];
        self.sync(op.base as usize);
        self.take_arguments(op);
        let step = Step::of(self.module.bytes, self.body, op, self.poll);
        let function = self.additions.step_function(&step);
        let bulk = Bulk::new(step, function, &mut self.temps);
        bulk.open(&mut self.code);
        self.depth += 2;
        self.poll_and_save(point);
        self.depth -= 2;
        bulk.close(&mut self.code);
        self.leave(index);
    }

    /// Writes a whole loop with one poll for several copies of its body, and tells what comes next.
    fn repeated(&mut self, index: usize, point: usize, copies: usize) -> usize {
        self.begin_exit_and_loop(index);
        self.poll_and_save(point);
        for _ in 1..copies {
            self.body_with_label(index);
        }
        self.copied_body(index, 1);
        self.end_exit_and_loop(index)
    }

    /// Writes a whole loop with its poll behind its body, and tells what comes next.
    fn latched(&mut self, index: usize, point: usize) -> usize {
        self.begin_exit_and_loop(index);
        self.body_with_label(index);
        self.poll_and_save(point);
        self.code.push(Instruction::Br(0));
        self.end_exit_and_loop(index)
    }

    fn begin_exit_and_loop(&mut self, index: usize) {
        let op = &self.body.ops[index];
        self.sync(op.base as usize);
        self.stack.truncate(op.base as usize);
        // `block` with the loop's own type: the same immediates behind another opcode.
        self.code.bytes.push(0x02);
        self.code.copy(self.module.bytes, op.range.start + 1..op.range.end);
        self.copy(index);
        self.depth += 2;
    }

    fn end_exit_and_loop(&mut self, index: usize) -> usize {
        self.code.push(Instruction::End);
        self.code.push(Instruction::End);
        self.depth -= 2;
        let end = self.body.blocks[self.body.ops[index].block as usize].end;
        self.leave(end);
        end + 1
    }

    /// The body in a block that stands for the loop's label; falling out of it leaves the loop.
    fn body_with_label(&mut self, index: usize) {
        self.code.push(Instruction::Block(wasm_encoder::BlockType::Empty));
        self.depth += 1;
        self.copied_body(index, 2);
        self.depth -= 1;
        self.code.push(Instruction::Br(2));
        self.code.push(Instruction::End);
    }

    fn copied_body(&mut self, index: usize, shift: u32) {
        let block = self.body.ops[index].block;
        let stack = self.stack.clone();
        self.copying.push(Copied { block, shift });
        let mut at = index + 1;
        while at < self.body.blocks[block as usize].end {
            at = self.op(at);
        }
        self.copying.pop();
        self.stack = stack;
    }

    /// Makes sure that the temporaries of the lowest `count` slots hold their values.
    fn sync(&mut self, count: usize) {
        let Some(low) = self.stack[..count].iter().position(|(_, synced)| !synced) else { return };
        for height in (low..self.stack.len()).rev() {
            self.set(height);
        }
        for height in low..self.stack.len() {
            self.get(height);
        }
    }

    fn set(&mut self, height: usize) {
        let (ty, synced) = &mut self.stack[height];
        *synced = true;
        let local = self.temps.local(Bank::Operand, height as u32, *ty);
        self.code.push(Instruction::LocalSet(local));
    }

    fn get(&mut self, height: usize) {
        let (ty, _) = self.stack[height];
        let local = self.temps.local(Bank::Operand, height as u32, ty);
        emit::get(&mut self.code, local, ty);
    }

    fn poll_and_save(&mut self, point: usize) {
        emit::poll(&mut self.code, self.additions, self.poll, self.flag);
        self.code.push_unlikely(Instruction::If(wasm_encoder::BlockType::Empty));
        let number = self.plan.first + point as u32;
        self.saves.site(&mut self.code, self.additions, self.helpers, (point, number));
        // Labels from inside out: this `if`, the open blocks, the body, the segments, the tail.
        let next = self.depth + 2 + self.label(self.saves.after_site(point));
        self.code.push(Instruction::Br(next));
        self.code.push(Instruction::End);
    }

    /// A segment of the save paths, or the tail, counted from the body outwards.
    fn label(&self, segment: Option<usize>) -> u32 {
        segment.unwrap_or(self.saves.segments()) as u32
    }
}
