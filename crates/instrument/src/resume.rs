//! Generates, beside each function that can be captured, one that resumes a captured frame of it.
//!
//! The code is written in register form: every operand lives in a temporary local, and every block is `[] -> []`. Then a
//! `block` means nothing but its label at its end, and can begin earlier. So within a *region* (the function, a loop's body, a
//! `try_table`'s body) all labels are opened at the region's start, in reverse order of their ends, and one `br_table` there
//! can jump forward to any point of the region. A point inside an inner region is reached in two steps: to the position before
//! that region, then by the inner region's own dispatch. Control flow stays reducible, and the code between runs as always.
//!
//! ```text
//! block $c block $b block $a          ;; one label for each way into the region
//!   dispatch: br_table $a $b $c
//!   ...code before a...
//! end $a  ...code between a and b...
//! end $b  loop  (own labels, own dispatch)  end
//! end $c  ...
//! ```

use wasm_encoder::Instruction;
use wasmparser::{Catch, Operator};

use crate::Poll;
use crate::body::{Block, BlockKind, Body, Op};
use crate::bulk::{Bulk, Step};
use crate::emit::{self, Bank, Code, Flag, Helpers, Temps, control};
use crate::map::{ControlLayout, ControlState, SafepointKind};
use crate::module::Module;
use crate::plan::FunctionPlan;
use crate::save::{self, Saves};
use crate::sections::Additions;
use crate::ty::Ty;

/// Generates the function that resumes a frame of `body`. Its type is `[] -> results`.
pub(crate) fn function(
    module: &Module<'_>,
    body: &Body<'_>,
    plan: &FunctionPlan,
    poll: Poll,
    additions: &mut Additions,
) -> Code {
    let mut temps = Temps::new(body.locals.len() as u32);
    let helpers = Helpers::new(&mut temps);
    let pending = temps.local(Bank::Helper, 3, Ty::I32);
    let phase = temps.local(Bank::Helper, 4, Ty::I32);
    let saves = Saves::of(&plan.points, &mut temps);
    let labels = region_labels(body, plan);
    let mut resume = Resume {
        module,
        body,
        plan,
        poll,
        additions,
        temps,
        helpers,
        saves,
        pending,
        phase,
        labels,
        code: Code::default(),
        open: Vec::new(),
    };
    resume.function();
    let Resume { code, temps, .. } = resume;
    let locals = body.locals.iter().map(|ty| ty.nullable()).chain(temps.types().iter().copied());
    let (runs, bytes) = emit::declare(locals);
    let mut declarations = Vec::new();
    wasm_encoder::Encode::encode(&runs, &mut declarations);
    declarations.extend_from_slice(&bytes);
    emit::finish(code, declarations)
}

/// A label that is open somewhere in the generated code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    /// The save tail at the function's end.
    Tail,
    /// A piece of the save paths before it.
    Segment(usize),
    /// The end of a `block` or `if`.
    End(u32),
    /// The `else` of an `if`.
    Else(u32),
    /// The head of a loop.
    Head(u32),
    /// The end of a `try_table` itself.
    Try(u32),
    /// Behind a `try_table` and its landing pads.
    After(u32),
    /// Where clause number `1` of `try_table` `0` lands.
    Land(u32, u32),
    /// Before an inner region: a point inside it is pending.
    Before(u32),
    /// A frame inside the call of a safepoint resumes here.
    Inside(u32),
    /// The test behind the call of a safepoint.
    Check(u32),
    /// A frame at a safepoint resumes here.
    At(u32),
    /// Nobody branches there by name.
    Scratch,
}

/// For each block that is a region, its labels in the order in which they end.
fn region_labels(body: &Body<'_>, plan: &FunctionPlan) -> Vec<Vec<Label>> {
    let mut labels = vec![Vec::new(); body.blocks.len()];
    for (index, op) in body.ops.iter().enumerate() {
        let block = &body.blocks[op.block as usize];
        let starts = matches!(op.op, Operator::Loop { .. } | Operator::TryTable { .. });
        // The operators that begin a region belong to the one around it.
        let region = region_of(body, if starts { block.parent } else { op.block });
        let list = &mut labels[region as usize];
        let point = plan.at(index);
        match op.op {
            Operator::Loop { .. } | Operator::TryTable { .. } => {
                list.extend(point.map(|point| Label::At(point as u32)));
                if plan.any_in(index + 1..block.end) {
                    list.push(Label::Before(op.block));
                }
            }
            Operator::Else => list.push(Label::Else(op.block)),
            Operator::End => match block.kind {
                BlockKind::If => list.push(Label::End(op.block)),
                BlockKind::Block if block.targeted => list.push(Label::End(op.block)),
                _ => {}
            },
            _ => {
                if let Some(point) = point {
                    list.extend(ways_in(plan.points[point].kind).iter().map(|way| way(point as u32)));
                }
            }
        }
    }
    labels
}

/// The labels of a call's safepoint in the order in which they end.
fn ways_in(kind: SafepointKind) -> &'static [fn(u32) -> Label] {
    match kind {
        SafepointKind::Call => &[Label::Inside, Label::Check, Label::At],
        SafepointKind::Import | SafepointKind::IndirectCall => &[Label::Inside, Label::At],
        SafepointKind::TailCall | SafepointKind::Loop | SafepointKind::Bulk => &[Label::At],
    }
}

/// The innermost region around (or at) a block.
fn region_of(body: &Body<'_>, mut block: u32) -> u32 {
    while matches!(body.blocks[block as usize].kind, BlockKind::Block | BlockKind::If) {
        block = body.blocks[block as usize].parent;
    }
    block
}

struct Resume<'a, 'm> {
    module: &'m Module<'a>,
    body: &'m Body<'a>,
    plan: &'m FunctionPlan,
    poll: Poll,
    additions: &'m mut Additions,
    temps: Temps,
    helpers: Helpers,
    saves: Saves,
    /// Local: 0, or 1 + 2 * position of the safepoint to resume at + 1 if inside its call.
    pending: u32,
    /// Local: the phase of the record.
    phase: u32,
    labels: Vec<Vec<Label>>,
    code: Code,
    open: Vec<Label>,
}

impl<'a> Resume<'a, '_> {
    fn function(&mut self) {
        self.open_block(Label::Tail);
        for segment in (0..self.saves.segments()).rev() {
            self.open_block(Label::Segment(segment));
        }
        self.open_region(0);
        self.entry();
        for index in 0..self.body.ops.len() {
            self.op(index);
        }
        for segment in 0..self.saves.segments() {
            self.close(Label::Segment(segment));
            self.saves.segment(&mut self.code, self.additions, self.helpers, segment);
            let next = self.saves.after_segment(segment);
            self.br(next.map_or(Label::Tail, Label::Segment));
        }
        self.close(Label::Tail);
        save::tail(&mut self.code, self.additions, self.helpers, self.body);
        self.code.push(Instruction::End);
    }

    // Labels.

    fn open_block(&mut self, label: Label) {
        self.code.push(Instruction::Block(wasm_encoder::BlockType::Empty));
        self.open.push(label);
    }

    fn open_region(&mut self, region: u32) {
        for index in (0..self.labels[region as usize].len()).rev() {
            self.open_block(self.labels[region as usize][index]);
        }
    }

    fn close(&mut self, label: Label) {
        let innermost = self.open.pop();
        assert_eq!(innermost, Some(label), "labels nest");
        self.code.push(Instruction::End);
    }

    fn depth(&self, label: Label) -> u32 {
        self.open.iter().rev().position(|open| *open == label).expect("the label is open") as u32
    }

    fn br(&mut self, label: Label) {
        let depth = self.depth(label);
        self.code.push(Instruction::Br(depth));
    }

    // Entry and dispatch.

    /// Takes the record off the top, restores its values and goes to its safepoint.
    fn entry(&mut self) {
        let points = self.plan.points.len();
        let Helpers { top, .. } = self.helpers;
        self.code.push(Instruction::I32Const(0));
        self.code.push(Instruction::I32Load(control(self.additions, ControlLayout::TOP)));
        self.code.push(Instruction::I32Const(ControlLayout::TRAILER as i32));
        self.code.push(Instruction::I32Sub);
        self.code.push(Instruction::LocalTee(top));
        self.code.push(Instruction::I32Load(control(self.additions, 4)));
        self.code.push(Instruction::LocalTee(self.phase));
        self.code.push(Instruction::LocalGet(top));
        self.code.push(Instruction::I32Load(control(self.additions, 0)));
        self.code.push(Instruction::I32Const(self.plan.first as i32));
        self.code.push(Instruction::I32Sub);
        self.code.push(Instruction::LocalTee(self.helpers.safepoint));
        self.code.push(Instruction::I32Const(1));
        self.code.push(Instruction::I32Shl);
        self.code.push(Instruction::I32Add);
        self.code.push(Instruction::I32Const(1));
        self.code.push(Instruction::I32Add);
        self.code.push(Instruction::LocalSet(self.pending));
        for _ in 0..points {
            self.open_block(Label::Scratch);
        }
        self.code.push(Instruction::LocalGet(self.helpers.safepoint));
        let targets: Vec<u32> = (0..points as u32).collect();
        self.code.push(Instruction::BrTable((&targets[..points - 1]).into(), points as u32 - 1));
        for point in 0..points {
            self.close(Label::Scratch);
            self.restore(point);
        }
    }

    fn restore(&mut self, index: usize) {
        let plan = self.plan;
        let point = &plan.points[index];
        let size: u32 = point.live.iter().map(|(_, ty)| ty.value_type().size()).sum();
        let Helpers { top, .. } = self.helpers;
        self.code.push(Instruction::I32Const(0));
        self.code.push(Instruction::LocalGet(top));
        self.code.push(Instruction::I32Const(size as i32));
        self.code.push(Instruction::I32Sub);
        self.code.push(Instruction::LocalTee(top));
        self.code.push(Instruction::I32Store(control(self.additions, ControlLayout::TOP)));
        let mut offset = 0;
        for (slot, ty) in &point.live {
            let local = emit::source(&mut self.temps, point, *slot, *ty);
            emit::restore_value(&mut self.code, self.additions, self.helpers, offset, *ty, local);
            offset += ty.value_type().size();
        }
        match point.kind {
            SafepointKind::Call => {
                self.code.push(Instruction::LocalGet(self.phase));
                self.code.push(Instruction::I32Eqz);
                self.running_if();
            }
            SafepointKind::IndirectCall => {
                // Inside, and no record is left: the host asked for the call to be issued again.
                self.code.push(Instruction::LocalGet(self.phase));
                self.code.push(Instruction::I32Eqz);
                self.code.push(Instruction::LocalGet(top));
                self.code.push(Instruction::I32Const(self.additions.control.frames as i32));
                self.code.push(Instruction::I32Eq);
                self.code.push(Instruction::I32Or);
                self.running_if();
            }
            SafepointKind::Import | SafepointKind::Loop | SafepointKind::TailCall | SafepointKind::Bulk => {
                self.running()
            }
        }
        if let (SafepointKind::Loop, Some(count)) = (point.kind, self.additions.count_global) {
            // The poll at the loop's head comes again at once; it is the same safepoint and is not counted twice. A count
            // that is not positive never stops, and must not be made to.
            self.code.push(Instruction::GlobalGet(count));
            self.code.push(Instruction::GlobalGet(count));
            self.code.push(Instruction::I64Const(0));
            self.code.push(Instruction::I64GtS);
            self.code.push(Instruction::I64ExtendI32U);
            self.code.push(Instruction::I64Add);
            self.code.push(Instruction::GlobalSet(count));
        }
        let (at, inside) = (self.way_to(0, index, false), self.way_to(0, index, true));
        if at != inside {
            self.code.push(Instruction::LocalGet(self.phase));
            let depth = self.depth(inside);
            self.code.push(Instruction::BrIf(depth));
        }
        self.br(at);
    }

    fn running(&mut self) {
        self.code.push(Instruction::I32Const(0));
        self.code.push(Instruction::I32Const(ControlState::Running as i32));
        self.code.push(Instruction::I32Store(control(self.additions, ControlLayout::STATE)));
    }

    fn running_if(&mut self) {
        self.code.push(Instruction::If(wasm_encoder::BlockType::Empty));
        self.running();
        self.code.push(Instruction::End);
    }

    /// The label of `region` through which a safepoint is reached.
    fn way_to(&self, region: u32, point: usize, inside: bool) -> Label {
        let plan = &self.plan.points[point];
        let op = &self.body.ops[plan.op];
        let mut home =
            if plan.kind == SafepointKind::Loop { self.body.blocks[op.block as usize].parent } else { op.block };
        home = region_of(self.body, home);
        if home == region {
            return if inside && ways_in(plan.kind).len() > 1 {
                Label::Inside(point as u32)
            } else {
                Label::At(point as u32)
            };
        }
        // The outermost region inside `region` on the way.
        loop {
            let outer = region_of(self.body, self.body.blocks[home as usize].parent);
            if outer == region {
                return Label::Before(home);
            }
            home = outer;
        }
    }

    /// At an inner region's start: if a point inside it is pending, goes there.
    fn dispatch(&mut self, region: u32) {
        let block = &self.body.blocks[region as usize];
        let first = self.plan.points.partition_point(|point| point.op <= block.start);
        let last = self.plan.points.partition_point(|point| point.op < block.end);
        if first == last {
            return;
        }
        self.open_block(Label::Scratch);
        self.code.push(Instruction::LocalGet(self.pending));
        self.code.push(Instruction::I32Const(1 + 2 * first as i32));
        self.code.push(Instruction::I32Sub);
        let targets: Vec<u32> = (first..last)
            .flat_map(|point| [false, true].map(|inside| self.depth(self.way_to(region, point, inside))))
            .collect();
        // Nothing pending: 0 minus that is beyond the table.
        self.code.push(Instruction::BrTable(targets.into(), 0));
        self.close(Label::Scratch);
    }

    fn arrived(&mut self) {
        self.code.push(Instruction::I32Const(0));
        self.code.push(Instruction::LocalSet(self.pending));
    }

    // Operators.

    fn op(&mut self, index: usize) {
        let body = self.body;
        let op = &body.ops[index];
        let point = self.plan.at(index);
        match &op.op {
            Operator::Block { .. } => {}
            Operator::Loop { .. } => self.start_loop(index),
            Operator::TryTable { .. } => self.start_try(index),
            Operator::If { .. } => {
                let block = &body.blocks[op.block as usize];
                self.get_operand(op, block.params.len());
                self.code.push(Instruction::I32Eqz);
                let label = if block.else_at.is_some() { Label::Else(op.block) } else { Label::End(op.block) };
                let depth = self.depth(label);
                self.code.push(Instruction::BrIf(depth));
            }
            Operator::Else => {
                if op.falls {
                    self.settle(op, &body.blocks[op.block as usize].results);
                    self.br(Label::End(op.block));
                }
                self.close(Label::Else(op.block));
            }
            Operator::End => self.end(op),
            Operator::Br { .. } => {
                let target = body.targets(op)[0];
                self.branch(op, target);
            }
            Operator::BrIf { .. } => {
                let target = body.targets(op)[0];
                let carried = body.blocks[target as usize].label_types().len();
                self.get_operand(op, carried);
                self.branch_if(op, target);
                self.retype(op);
            }
            Operator::BrOnNull { .. } | Operator::BrOnNonNull { .. } => {
                let last = body.pops(op).len() - 1;
                let local = self.operand(op, last);
                self.code.push(Instruction::LocalGet(local));
                self.code.push(Instruction::RefIsNull);
                if matches!(op.op, Operator::BrOnNonNull { .. }) {
                    self.code.push(Instruction::I32Eqz);
                }
                self.branch_if(op, body.targets(op)[0]);
                self.retype(op);
            }
            Operator::BrTable { .. } => self.br_table(op),
            Operator::Return => self.branch(op, 0),
            Operator::LocalGet { local_index } => {
                emit::get(&mut self.code, *local_index, body.locals[*local_index as usize]);
                self.set_results(op);
            }
            Operator::DataDrop { data_index } => {
                self.plain(op);
                let at = self.additions.control.dropped_data + data_index;
                emit::mark(&mut self.code, self.additions, at);
            }
            Operator::ElemDrop { elem_index } => {
                self.plain(op);
                let at = self.additions.control.dropped_elems + elem_index;
                emit::mark(&mut self.code, self.additions, at);
            }
            _ => match point {
                None => self.plain(op),
                Some(point) => self.call(op, point),
            },
        }
    }

    /// Operands in, the operator, results out.
    fn plain(&mut self, op: &Op<'a>) {
        for position in 0..self.body.pops(op).len() {
            self.get_operand(op, position);
        }
        self.code.operator(self.module.bytes, op);
        self.set_results(op);
    }

    fn call(&mut self, op: &Op<'a>, point: usize) {
        let kind = self.plan.points[point].kind;
        let number = point as u32;
        match kind {
            SafepointKind::TailCall => {
                self.poll_and_save(point);
                self.close(Label::At(number));
                self.arrived();
                self.plain(op);
                return;
            }
            SafepointKind::Bulk => {
                self.take_arguments(op);
                self.close(Label::At(number));
                self.arrived();
                let step = Step::of(self.module.bytes, self.body, op, self.poll);
                let function = self.additions.step_function(&step);
                let bulk = Bulk::new(step, function, &mut self.temps);
                bulk.open(&mut self.code);
                self.open.extend([Label::Scratch; 2]);
                self.poll_and_save(point);
                self.open.truncate(self.open.len() - 2);
                bulk.close(&mut self.code);
                return;
            }
            SafepointKind::Call => {
                self.plain(op);
                self.br(Label::Check(number));
                self.close(Label::Inside(number));
                self.arrived();
                self.resume_callee(op);
                self.close(Label::Check(number));
            }
            SafepointKind::Import | SafepointKind::IndirectCall => {
                self.take_arguments(op);
                self.close(Label::Inside(number));
                if kind == SafepointKind::IndirectCall {
                    self.code.push(Instruction::I32Const(0));
                    self.code.push(Instruction::I32Load(control(self.additions, ControlLayout::STATE)));
                    self.code.push(Instruction::I32Const(ControlState::Rewinding as i32));
                    self.code.push(Instruction::I32Eq);
                    self.code.push(Instruction::If(wasm_encoder::BlockType::Empty));
                    self.open.push(Label::Scratch);
                    self.arrived();
                    self.resume_callee(op);
                    self.code.push(Instruction::Else);
                }
                self.arrived();
                for (position, ty) in self.body.pops(op).iter().enumerate() {
                    let local = self.temps.local(Bank::Argument, position as u32, *ty);
                    emit::get(&mut self.code, local, *ty);
                }
                self.code.operator(self.module.bytes, op);
                self.set_results(op);
                if kind == SafepointKind::IndirectCall {
                    self.close(Label::Scratch);
                }
            }
            SafepointKind::Loop => unreachable!("loops are no calls"),
        }
        self.poll_and_save(point);
        self.close(Label::At(number));
        self.arrived();
    }

    /// Copies the operands of an operator to the temporaries for arguments.
    fn take_arguments(&mut self, op: &Op<'a>) {
        for (position, ty) in self.body.pops(op).iter().enumerate() {
            self.get_operand(op, position);
            let local = self.temps.local(Bank::Argument, position as u32, *ty);
            self.code.push(Instruction::LocalSet(local));
        }
    }

    /// Calls the function that resumes the record on top.
    fn resume_callee(&mut self, op: &Op<'a>) {
        self.code.push(Instruction::I32Const(0));
        self.code.push(Instruction::I32Load(control(self.additions, ControlLayout::TOP)));
        self.code.push(Instruction::I32Const(ControlLayout::TRAILER as i32));
        self.code.push(Instruction::I32Sub);
        self.code.push(Instruction::I32Load(control(self.additions, 0)));
        let type_index = self.additions.ty(&[], self.body.pushes(op));
        let table_index = self.additions.resume_at_table.expect("resumable modules have it");
        self.code.push(Instruction::CallIndirect { type_index, table_index });
        self.set_results(op);
    }

    fn start_loop(&mut self, index: usize) {
        let op = &self.body.ops[index];
        let point = self.plan.at(index);
        if let Some(point) = point {
            self.close(Label::At(point as u32));
            self.arrived();
        }
        self.close_before(op.block, index);
        self.code.push(Instruction::Loop(wasm_encoder::BlockType::Empty));
        self.open.push(Label::Head(op.block));
        self.open_region(op.block);
        self.dispatch(op.block);
        if let Some(point) = point {
            self.poll_and_save(point);
        }
    }

    fn close_before(&mut self, block: u32, index: usize) {
        if self.plan.any_in(index + 1..self.body.blocks[block as usize].end) {
            self.close(Label::Before(block));
        }
    }

    /// `after: { land n: { ... land 0: { try_table { region } br after } land... } }`
    fn start_try(&mut self, index: usize) {
        let op = &self.body.ops[index];
        let Operator::TryTable { try_table } = &op.op else { unreachable!("called for try_table") };
        self.close_before(op.block, index);
        self.open_block(Label::After(op.block));
        let targets = self.body.targets(op).to_vec();
        for (clause, target) in targets.iter().enumerate().rev() {
            let ty = emit::block_type(self.additions, self.body.blocks[*target as usize].label_types());
            self.code.push(Instruction::Block(ty));
            self.open.push(Label::Land(op.block, clause as u32));
        }
        let catches: Vec<wasm_encoder::Catch> = try_table
            .catches
            .iter()
            .enumerate()
            .map(|(clause, catch)| {
                let label = clause as u32;
                match catch {
                    Catch::One { tag, .. } => wasm_encoder::Catch::One { tag: *tag, label },
                    Catch::OneRef { tag, .. } => wasm_encoder::Catch::OneRef { tag: *tag, label },
                    Catch::All { .. } => wasm_encoder::Catch::All { label },
                    Catch::AllRef { .. } => wasm_encoder::Catch::AllRef { label },
                }
            })
            .collect();
        self.code.push(Instruction::TryTable(wasm_encoder::BlockType::Empty, catches.into()));
        self.open.push(Label::Try(op.block));
        self.open_region(op.block);
        self.dispatch(op.block);
    }

    fn end(&mut self, op: &Op<'a>) {
        let block = &self.body.blocks[op.block as usize];
        if op.falls {
            self.settle(op, &block.results);
        }
        match block.kind {
            BlockKind::Function => {
                if op.falls {
                    self.give_results();
                }
            }
            BlockKind::Block if block.targeted => self.close(Label::End(op.block)),
            BlockKind::Block => {}
            BlockKind::If => self.close(Label::End(op.block)),
            BlockKind::Loop => self.close(Label::Head(op.block)),
            BlockKind::Try => self.end_try(op.block, block),
        }
    }

    fn end_try(&mut self, number: u32, block: &Block) {
        self.close(Label::Try(number));
        self.br(Label::After(number));
        let targets = self.body.targets(&self.body.ops[block.start]).to_vec();
        for (clause, target) in targets.iter().enumerate() {
            self.close(Label::Land(number, clause as u32));
            let block = &self.body.blocks[*target as usize];
            for (position, ty) in block.label_types().iter().enumerate().rev() {
                let local = self.temps.local(Bank::Operand, block.base + position as u32, *ty);
                self.code.push(Instruction::LocalSet(local));
            }
            self.jump(*target);
        }
        self.close(Label::After(number));
    }

    // Branches.

    /// Moves what a branch carries to where its target expects it, and goes there.
    fn branch(&mut self, op: &Op<'a>, target: u32) {
        for (from, to) in self.moves(op, target) {
            self.code.push(Instruction::LocalGet(from));
            self.code.push(Instruction::LocalSet(to));
        }
        self.jump(target);
    }

    /// A branch taken if the value on the stack is nonzero.
    fn branch_if(&mut self, op: &Op<'a>, target: u32) {
        if target != 0 && self.moves(op, target).is_empty() {
            let depth = self.depth(self.label_of(target));
            self.code.push(Instruction::BrIf(depth));
            return;
        }
        self.code.push(Instruction::If(wasm_encoder::BlockType::Empty));
        self.open.push(Label::Scratch);
        self.branch(op, target);
        self.close(Label::Scratch);
    }

    fn br_table(&mut self, op: &Op<'a>) {
        let targets = self.body.targets(op).to_vec();
        // Targets that need moves, or are the function, get an arm of their own.
        let mut arms: Vec<u32> = targets.clone();
        arms.sort_unstable();
        arms.dedup();
        arms.retain(|target| *target == 0 || !self.moves(op, *target).is_empty());
        for _ in &arms {
            self.open_block(Label::Scratch);
        }
        let depths: Vec<u32> = targets
            .iter()
            .map(|target| match arms.iter().position(|arm| arm == target) {
                Some(arm) => arm as u32,
                None => self.depth(self.label_of(*target)),
            })
            .collect();
        let carried = self.body.pops(op).len() - 1;
        self.get_operand(op, carried);
        let (default, others) = depths.split_last().expect("the default is always there");
        self.code.push(Instruction::BrTable(others.into(), *default));
        for arm in arms {
            self.close(Label::Scratch);
            self.branch(op, arm);
        }
    }

    fn moves(&mut self, op: &Op<'a>, target: u32) -> Vec<(u32, u32)> {
        let block = &self.body.blocks[target as usize];
        let mut moves = Vec::new();
        // Downwards or in place, lowest first: no move overwrites what a later one reads.
        for (position, to) in block.label_types().iter().enumerate() {
            let from = self.operand(op, position);
            let to = self.temps.local(Bank::Operand, block.base + position as u32, *to);
            if from != to {
                moves.push((from, to));
            }
        }
        moves
    }

    fn jump(&mut self, target: u32) {
        if target == 0 {
            self.give_results();
        } else {
            self.br(self.label_of(target));
        }
    }

    fn label_of(&self, target: u32) -> Label {
        match self.body.blocks[target as usize].kind {
            BlockKind::Loop => Label::Head(target),
            BlockKind::Try => Label::Try(target),
            BlockKind::Block | BlockKind::If => Label::End(target),
            BlockKind::Function => unreachable!("the function's label is a return"),
        }
    }

    fn give_results(&mut self) {
        for (position, ty) in self.body.blocks[0].results.iter().enumerate() {
            let local = self.temps.local(Bank::Operand, position as u32, *ty);
            emit::get(&mut self.code, local, *ty);
        }
        self.code.push(Instruction::Return);
    }

    // Operands.

    /// The temporary of an operator's operand.
    fn operand(&mut self, op: &Op<'a>, position: usize) -> u32 {
        self.temps.local(Bank::Operand, op.base + position as u32, self.body.pops(op)[position])
    }

    fn get_operand(&mut self, op: &Op<'a>, position: usize) {
        let local = self.operand(op, position);
        emit::get(&mut self.code, local, self.body.pops(op)[position]);
    }

    fn set_results(&mut self, op: &Op<'a>) {
        for (position, ty) in self.body.pushes(op).iter().enumerate().rev() {
            let local = self.temps.local(Bank::Operand, op.base + position as u32, *ty);
            self.code.push(Instruction::LocalSet(local));
        }
    }

    /// Where a block ends with values of a subtype, moves them to the temporaries of the declared types.
    fn settle(&mut self, op: &Op<'a>, declared: &[Ty]) {
        for (position, ty) in declared.iter().enumerate() {
            let from = self.operand(op, position);
            let to = self.temps.local(Bank::Operand, op.base + position as u32, *ty);
            if from != to {
                self.code.push(Instruction::LocalGet(from));
                self.code.push(Instruction::LocalSet(to));
            }
        }
    }

    /// What falls through a conditional branch has the label's types.
    fn retype(&mut self, op: &Op<'a>) {
        let pushed = self.body.pushes(op).to_vec();
        self.settle(op, &pushed);
    }

    fn poll_and_save(&mut self, point: usize) {
        let in_loop = self.plan.points[point].kind == SafepointKind::Loop;
        let flag = if in_loop { Flag::Loops } else { Flag::Calls };
        emit::poll(&mut self.code, self.additions, self.poll, flag);
        self.code.push_unlikely(Instruction::If(wasm_encoder::BlockType::Empty));
        self.open.push(Label::Scratch);
        let number = self.plan.first + point as u32;
        self.saves.site(&mut self.code, self.additions, self.helpers, (point, number));
        self.br(self.saves.after_site(point).map_or(Label::Tail, Label::Segment));
        self.close(Label::Scratch);
    }
}
