//! Where a loop's poll stands, and how often its body is written.
//!
//! A small innermost loop is written several times behind one poll at its head, so that one poll serves several rounds. A loop
//! around other loops or calls has its poll behind its body: it is entered often and goes round seldom, and so pays for none.
//!
//! ```text
//! loop $l  BODY  end      =>      block $exit                                block $exit
//!                                   loop $l                                    loop $l
//!                                     poll                                       block $next
//!                                     block $next                                  BODY (continue = br $next)
//!                                       BODY (continue = br $next)                 br $exit
//!                                       br $exit                                 end
//!                                     end                                        poll
//!                                     ...                                        br $l
//!                                     BODY (continue = br $l)                  end
//!                                   end                                      end
//!                                 end
//! ```
//!
//! Every copy keeps the loop's own exits, so nothing needs to be known about its trip count. `$next` takes the place of `$l`
//! in the copy's labels, so only branches that leave the loop are written anew. Either way the safepoint is the loop's head:
//! behind the body the next thing that happens is the next round.

use wasm_encoder::Instruction;
use wasmparser::Operator;

use crate::body::{BlockKind, Body, Op};

/// Copies of a loop are made until they have about this many operators together.
const BUDGET: usize = 128;
/// Never more copies than this.
const MAX_COPIES: usize = 4;

/// How a polled loop is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// With the poll at its head, and the body this many times.
    Head(usize),
    /// With the poll behind its body.
    Latch,
}

/// The form of the loop at `index`. `stops` tells which operators are safepoints other than loops.
pub(crate) fn form(body: &Body<'_>, index: usize, stops: impl Fn(usize) -> bool) -> Form {
    let block = &body.blocks[body.ops[index].block as usize];
    let inner = index + 1..block.end;
    if !block.params.is_empty() || body.ops[inner.clone()].iter().any(|op| matches!(op.op, Operator::TryTable { .. })) {
        return Form::Head(1);
    }
    let innermost = inner.clone().all(|at| {
        let op = &body.ops[at];
        match op.op {
            Operator::Loop { .. } => !body.blocks[op.block as usize].targeted,
            // A call that can stop costs more than the poll; only one that never comes back (a panic) is off the way.
            _ => !stops(at) || matches!(body.ops[at + 1].op, Operator::Unreachable),
        }
    });
    if innermost { Form::Head((BUDGET / inner.len().max(1)).clamp(1, MAX_COPIES)) } else { Form::Latch }
}

/// The loop of a copied body, and how many labels that copy has more than the original between itself and what lies around.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copied {
    pub(crate) block: u32,
    pub(crate) shift: u32,
}

/// A branch inside the bodies of the loops `copied` (outermost first), written anew if it leaves any of them.
pub(crate) fn branch(body: &Body<'_>, op: &Op<'_>, copied: &[Copied]) -> Option<Instruction<'static>> {
    let targets = body.targets(op);
    // What a loop encloses was opened after it; of what encloses it, all was opened before.
    let shift = |target: u32| {
        let function = body.blocks[target as usize].kind == BlockKind::Function;
        copied.iter().filter(|copied| function || target < copied.block).map(|copied| copied.shift).sum::<u32>()
    };
    if targets.iter().all(|target| shift(*target) == 0) {
        return None;
    }
    let depth = |position: usize, depth: u32| depth + shift(targets[position]);
    Some(match &op.op {
        Operator::Br { relative_depth } => Instruction::Br(depth(0, *relative_depth)),
        Operator::BrIf { relative_depth } => Instruction::BrIf(depth(0, *relative_depth)),
        Operator::BrOnNull { relative_depth } => Instruction::BrOnNull(depth(0, *relative_depth)),
        Operator::BrOnNonNull { relative_depth } => Instruction::BrOnNonNull(depth(0, *relative_depth)),
        Operator::BrTable { targets: table } => {
            let depths = table.targets().flatten().chain([table.default()]);
            let mut depths: Vec<u32> = depths.enumerate().map(|(position, own)| depth(position, own)).collect();
            let default = depths.pop().expect("the default is always there");
            Instruction::BrTable(depths.into(), default)
        }
        other => unreachable!("{other:?} has no targets"),
    })
}
