//! A function body, decoded: its live operators with their operand types, and its blocks.
//!
//! Code that validation knows to be unreachable is dropped here, so that no later step meets an operand without a type.

use std::collections::HashMap;
use std::ops::Range;

use wasmparser::{BlockType, Catch, FuncValidator, FunctionBody, Operator, ValidatorResources};

use crate::Blocker;
use crate::bulk;
use crate::features;
use crate::module::Module;
use crate::ty::{Ty, TypeNames};

/// A decoded function body.
#[derive(Debug)]
pub(crate) struct Body<'a> {
    /// Index in the module's function index space.
    pub(crate) function: u32,
    /// Bytes of the whole body, local declarations included, in the module.
    pub(crate) range: Range<usize>,
    /// Bytes of the local declarations in the module.
    pub(crate) declarations: Range<usize>,
    /// Types of parameters and locals.
    pub(crate) locals: Vec<Ty>,
    pub(crate) ops: Vec<Op<'a>>,
    /// Block 0 is the function itself.
    pub(crate) blocks: Vec<Block>,
    /// The whole operand stack before an operator, for those that can be safepoints.
    pub(crate) stacks: HashMap<usize, Vec<Ty>>,
    /// Offset and type of each tail call through a reference.
    pub(crate) tail_calls_by_reference: Vec<(usize, u32)>,
    /// Arena of operand types.
    types: Vec<Ty>,
    /// Arena of branch targets.
    targets: Vec<u32>,
}

/// A live operator.
#[derive(Debug)]
pub(crate) struct Op<'a> {
    pub(crate) op: Operator<'a>,
    /// Its bytes in the module; empty for an operator that the pass made.
    pub(crate) range: Range<usize>,
    /// The innermost block it lies in; for `block`, `loop`, `if`, `try_table`, `else` and `end`, the block itself.
    pub(crate) block: u32,
    /// Height of the operand stack below what it pops.
    pub(crate) base: u32,
    /// For `else` and `end`: whether the code before falls through to it.
    pub(crate) falls: bool,
    types: u32,
    pops: u32,
    pushes: u32,
    first_target: u32,
    target_count: u32,
}

/// A block, loop, `if`, `try_table` or the function.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) kind: BlockKind,
    /// Index of the operator that begins it (0 for the function).
    pub(crate) start: usize,
    /// Index of its `else`.
    pub(crate) else_at: Option<usize>,
    /// Index of its `end`.
    pub(crate) end: usize,
    pub(crate) parent: u32,
    /// Height of the operand stack below its parameters.
    pub(crate) base: u32,
    pub(crate) params: Vec<Ty>,
    pub(crate) results: Vec<Ty>,
    /// Whether a branch goes to its label.
    pub(crate) targeted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockKind {
    Function,
    Block,
    Loop,
    If,
    Try,
}

impl Block {
    /// The types that a branch to its label carries.
    pub(crate) fn label_types(&self) -> &[Ty] {
        if self.kind == BlockKind::Loop { &self.params } else { &self.results }
    }
}

impl<'a> Body<'a> {
    /// The types an operator pops, bottom first.
    pub(crate) fn pops(&self, op: &Op<'a>) -> &[Ty] {
        &self.types[op.types as usize..][..op.pops as usize]
    }

    /// The types an operator pushes, bottom first.
    pub(crate) fn pushes(&self, op: &Op<'a>) -> &[Ty] {
        &self.types[(op.types + op.pops) as usize..][..op.pushes as usize]
    }

    /// The blocks an operator can branch to: for `br_table` the default last, for `try_table` in the order of its clauses.
    pub(crate) fn targets(&self, op: &Op<'a>) -> &[u32] {
        &self.targets[op.first_target as usize..][..op.target_count as usize]
    }

    /// Whether a local, a block or an operator is written in terms of the function references proposal.
    pub(crate) fn names_function_types(&self) -> bool {
        let blocks = self.blocks.iter().flat_map(|block| block.params.iter().chain(&block.results));
        self.locals.iter().chain(blocks).any(|ty| ty.names_function_type())
            || self.ops.iter().any(|op| match op.op {
                Operator::RefNull { hty } => matches!(hty, wasmparser::HeapType::Concrete(_)),
                Operator::TypedSelect { ty: wasmparser::ValType::Ref(ty) } => {
                    ty.type_index().is_some() || !ty.is_nullable()
                }
                _ => features::proposal(&op.op) == "function_references",
            })
    }

    /// Folds the types of references to functions onto `funcref`.
    pub(crate) fn forget_function_types(&mut self) {
        let stacks = self.stacks.values_mut().flatten();
        for ty in self.types.iter_mut().chain(stacks) {
            *ty = ty.forget_function_type();
        }
    }

    /// Whether it has an instruction whose effect the pass must note.
    pub(crate) fn drops_segments(&self) -> bool {
        self.ops.iter().any(|op| matches!(op.op, Operator::DataDrop { .. } | Operator::ElemDrop { .. }))
    }

    /// Whether it calls anything and stays on the stack meanwhile.
    pub(crate) fn calls(&self) -> bool {
        self.ops
            .iter()
            .any(|op| matches!(op.op, Operator::Call { .. } | Operator::CallIndirect { .. } | Operator::CallRef { .. }))
    }

    /// For each operator, whether control that arrives there goes straight to an `unreachable`: a panic or an abort.
    pub(crate) fn dead_ends(&self) -> Vec<bool> {
        let mut dead = vec![false; self.ops.len() + 1];
        for (index, op) in self.ops.iter().enumerate().rev() {
            dead[index] = match op.op {
                Operator::Unreachable => true,
                Operator::Br { .. } => {
                    let target = &self.blocks[self.targets(op)[0] as usize];
                    target.kind != BlockKind::Loop && dead[target.end]
                }
                Operator::Else => dead[self.blocks[op.block as usize].end],
                // These branch, repeat or leave.
                Operator::If { .. }
                | Operator::Loop { .. }
                | Operator::TryTable { .. }
                | Operator::BrIf { .. }
                | Operator::BrTable { .. }
                | Operator::BrOnNull { .. }
                | Operator::BrOnNonNull { .. }
                | Operator::Return
                | Operator::Throw { .. }
                | Operator::ThrowRef
                | Operator::ReturnCall { .. }
                | Operator::ReturnCallIndirect { .. }
                | Operator::ReturnCallRef { .. } => false,
                _ => dead[index + 1],
            };
        }
        dead
    }

    /// Decodes and validates one body. What cannot be carried is added to `blockers`.
    pub(crate) fn decode(
        module: &Module<'a>,
        names: &TypeNames<'_>,
        validator: &mut FuncValidator<ValidatorResources>,
        body: &FunctionBody<'a>,
        blockers: &mut Vec<Blocker>,
    ) -> wasmparser::Result<Self> {
        let function = validator.index();
        let signature = module.signature_of(function);
        let mut reader = body.get_binary_reader();
        let declarations_start = reader.original_position();
        validator.read_locals(&mut reader)?;
        let declarations = declarations_start..reader.original_position();
        let mut decoder = Decoder {
            names,
            module,
            blockers,
            open: vec![0],
            stack: Vec::new(),
            dead: None,
            body: Body {
                function,
                range: body.range(),
                declarations,
                locals: Vec::new(),
                ops: Vec::new(),
                blocks: vec![Block {
                    kind: BlockKind::Function,
                    start: 0,
                    else_at: None,
                    end: 0,
                    parent: 0,
                    base: 0,
                    params: Vec::new(),
                    results: signature.results.clone(),
                    targeted: false,
                }],
                stacks: HashMap::new(),
                tail_calls_by_reference: Vec::new(),
                types: Vec::new(),
                targets: Vec::new(),
            },
        };
        for index in 0..validator.len_locals() {
            let ty = validator.get_local_type(index).expect("index is below the count");
            match names.ty(ty) {
                Ok(ty) => decoder.body.locals.push(ty),
                Err(feature) => decoder.block(body.range().start, feature, format!("local {index}")),
            }
        }
        if decoder.body.locals.len() < validator.len_locals() as usize {
            validator.validate(body)?;
            return Ok(decoder.body);
        }
        let mut ops = wasmparser::OperatorsReader::new(reader);
        while !ops.eof() {
            let start = ops.original_position();
            let op = ops.read()?;
            decoder.op(validator, op, start..ops.original_position())?;
        }
        ops.finish()?;
        Ok(decoder.body)
    }
}

struct Decoder<'a, 'm> {
    names: &'m TypeNames<'m>,
    module: &'m Module<'a>,
    blockers: &'m mut Vec<Blocker>,
    open: Vec<u32>,
    stack: Vec<Ty>,
    /// In unreachable code: how many blocks were begun in it.
    dead: Option<u32>,
    body: Body<'a>,
}

impl<'a> Decoder<'a, '_> {
    fn block(&mut self, offset: usize, feature: &'static str, detail: String) {
        // One reason of a kind per function is enough to act on.
        let function = Some(self.body.function);
        if !self.blockers.iter().any(|known| known.function == function && known.feature == feature) {
            self.blockers.push(Blocker { function, offset, feature, detail });
        }
    }

    fn op(
        &mut self,
        validator: &mut FuncValidator<ValidatorResources>,
        op: Operator<'a>,
        range: Range<usize>,
    ) -> wasmparser::Result<()> {
        if let Some(depth) = self.dead {
            validator.op(range.start, &op)?;
            match op {
                Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                    self.dead = Some(depth + 1);
                    return Ok(());
                }
                Operator::End if depth > 0 => {
                    self.dead = Some(depth - 1);
                    return Ok(());
                }
                Operator::Else | Operator::End if depth == 0 => {}
                _ => return Ok(()),
            }
            self.dead = None;
            self.boundary(op, range, false);
            return Ok(());
        }
        if let Some(feature) = features::refused(&op) {
            self.block(range.start, feature, format!("{op:?}").chars().take(80).collect());
            validator.op(range.start, &op)?;
            // The operand types are no longer known: the rest of this function is validated but not described.
            self.dead = Some(u32::MAX / 2);
            return Ok(());
        }
        if let Operator::ReturnCall { function_index } = op
            && function_index < self.module.imported_functions
        {
            validator.op(range.start, &op)?;
            self.tail_call_of_import(function_index, range.start);
            return Ok(());
        }
        if let Operator::ReturnCallIndirect { type_index, .. } | Operator::ReturnCallRef { type_index } = op {
            self.body.tail_calls_by_reference.push((range.start, type_index));
        }
        let arity = op.operator_arity(validator);
        let targets = self.resolve(&op);
        validator.op(range.start, &op)?;
        match op {
            Operator::Else | Operator::End => self.boundary(op, range, true),
            _ => {
                let (pops, _) = arity.expect("a validated operator has an arity");
                self.plain(validator, op, range, pops as usize, &targets);
            }
        }
        Ok(())
    }

    /// An operator that is neither `else` nor `end`.
    fn plain(
        &mut self,
        validator: &mut FuncValidator<ValidatorResources>,
        op: Operator<'a>,
        range: Range<usize>,
        pops: usize,
        targets: &[u32],
    ) {
        let index = self.body.ops.len();
        let base = self.stack.len() - pops;
        if can_be_safepoint(&op) {
            self.body.stacks.insert(index, self.stack.clone());
        }
        let unreachable = validator.get_control_frame(0).is_some_and(|frame| frame.unreachable);
        let started = started_block(&op);
        let height = validator.operand_stack_height() as usize;
        let pushes = if unreachable || started.is_some() { 0 } else { height - base };
        let types = self.body.types.len() as u32;
        self.body.types.extend_from_slice(&self.stack[base..]);
        self.stack.truncate(base);
        for depth in (0..pushes).rev() {
            let ty = validator.get_operand_type(depth).flatten();
            match ty.map(|ty| self.names.ty(ty)) {
                Some(Ok(ty)) => {
                    self.body.types.push(ty);
                    self.stack.push(ty);
                }
                Some(Err(feature)) => {
                    self.block(range.start, feature, "operand".into());
                    self.dead = Some(u32::MAX / 2);
                    return;
                }
                None => unreachable!("live code has typed operands"),
            }
        }
        let mut block = *self.open.last().expect("inside the function");
        if let Some((kind, ty)) = started {
            let (params, results) = self.block_type(ty);
            let parent = block;
            block = self.body.blocks.len() as u32;
            self.stack.extend_from_slice(&params);
            self.body.blocks.push(Block {
                kind,
                start: index,
                else_at: None,
                end: 0,
                parent,
                base: base as u32,
                params,
                results,
                targeted: false,
            });
            self.open.push(block);
        }
        let first_target = self.body.targets.len() as u32;
        self.body.targets.extend_from_slice(targets);
        for target in targets {
            self.body.blocks[*target as usize].targeted = true;
        }
        self.body.ops.push(Op {
            op,
            range,
            block,
            base: base as u32,
            falls: true,
            types,
            pops: pops as u32,
            pushes: pushes as u32,
            first_target,
            target_count: targets.len() as u32,
        });
        if unreachable {
            self.dead = Some(0);
        }
    }

    /// A tail call of an import becomes a call and a return: the host may ask for it to be issued again, and only a frame can
    /// do that. The chain of tail calls ends here, so the stack stays bounded.
    fn tail_call_of_import(&mut self, function: u32, offset: usize) {
        let signature = self.module.signature_of(function);
        let block = *self.open.last().expect("inside the function");
        let results = self.body.blocks[0].results.len();
        for (op, pops, pushes) in [
            (Operator::Call { function_index: function }, signature.params.len(), &signature.results[..]),
            (Operator::Return, results, &[]),
        ] {
            let base = self.stack.len() - pops;
            if can_be_safepoint(&op) {
                self.body.stacks.insert(self.body.ops.len(), self.stack.clone());
            }
            let types = self.body.types.len() as u32;
            self.body.types.extend_from_slice(&self.stack[base..]);
            self.body.types.extend_from_slice(pushes);
            self.stack.truncate(base);
            self.stack.extend_from_slice(pushes);
            self.body.ops.push(Op {
                op,
                range: offset..offset,
                block,
                base: base as u32,
                falls: true,
                types,
                pops: pops as u32,
                pushes: pushes.len() as u32,
                first_target: 0,
                target_count: 0,
            });
        }
        self.dead = Some(0);
    }

    /// `else` or `end` of the innermost open block.
    fn boundary(&mut self, op: Operator<'a>, range: Range<usize>, falls: bool) {
        let index = self.body.ops.len();
        let block = *self.open.last().expect("inside the function");
        let is_end = matches!(op, Operator::End);
        let entry = &mut self.body.blocks[block as usize];
        let base = entry.base as usize;
        let next = if is_end { entry.results.clone() } else { entry.params.clone() };
        if is_end {
            entry.end = index;
        } else {
            entry.else_at = Some(index);
        }
        let types = self.body.types.len() as u32;
        let pops = if falls { (self.stack.len() - base) as u32 } else { 0 };
        if falls {
            self.body.types.extend_from_slice(&self.stack[base..]);
        }
        self.stack.truncate(base);
        self.stack.extend_from_slice(&next);
        self.body.types.extend_from_slice(&next);
        if is_end {
            self.open.pop();
        }
        self.body.ops.push(Op {
            op,
            range,
            block,
            base: base as u32,
            falls,
            types,
            pops,
            pushes: next.len() as u32,
            first_target: 0,
            target_count: 0,
        });
    }

    fn block_type(&self, ty: BlockType) -> (Vec<Ty>, Vec<Ty>) {
        match ty {
            BlockType::Empty => (Vec::new(), Vec::new()),
            BlockType::Type(ty) => (Vec::new(), vec![self.names.ty(ty).expect("checked by can_name_types")]),
            BlockType::FuncType(index) => {
                let signature = self.module.signature(index);
                (signature.params.clone(), signature.results.clone())
            }
        }
    }

    /// The blocks that an operator's labels name.
    fn resolve(&self, op: &Operator<'a>) -> Vec<u32> {
        let at = |depth: u32| self.open[self.open.len() - 1 - depth as usize];
        match op {
            Operator::Br { relative_depth }
            | Operator::BrIf { relative_depth }
            | Operator::BrOnNull { relative_depth }
            | Operator::BrOnNonNull { relative_depth }
                if (*relative_depth as usize) < self.open.len() =>
            {
                vec![at(*relative_depth)]
            }
            Operator::BrTable { targets } => {
                let depths = targets.targets().flatten().chain([targets.default()]);
                depths.filter(|depth| (*depth as usize) < self.open.len()).map(at).collect()
            }
            Operator::TryTable { try_table } => {
                let depths = try_table.catches.iter().map(|catch| match catch {
                    Catch::One { label, .. } | Catch::OneRef { label, .. } => *label,
                    Catch::All { label } | Catch::AllRef { label } => *label,
                });
                depths.filter(|depth| (*depth as usize) < self.open.len()).map(at).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Whether the pass may place a safepoint at an operator.
fn can_be_safepoint(op: &Operator<'_>) -> bool {
    matches!(
        op,
        Operator::Loop { .. }
            | Operator::Call { .. }
            | Operator::CallIndirect { .. }
            | Operator::CallRef { .. }
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::ReturnCallRef { .. }
    ) || bulk::is_bulk(op)
}

fn started_block(op: &Operator<'_>) -> Option<(BlockKind, BlockType)> {
    match op {
        Operator::Block { blockty } => Some((BlockKind::Block, *blockty)),
        Operator::Loop { blockty } => Some((BlockKind::Loop, *blockty)),
        Operator::If { blockty } => Some((BlockKind::If, *blockty)),
        Operator::TryTable { try_table } => Some((BlockKind::Try, try_table.ty)),
        _ => None,
    }
}
