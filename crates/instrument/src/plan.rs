//! Where a module's safepoints are and what each one saves. Everything that the two code generators and the map must
//! agree on is decided here, once.

use crate::body::Body;
use crate::bulk;
use crate::liveness::live_locals;
use crate::map::{LiveValue, SafepointKind, Slot};
use crate::module::Module;
use crate::reach::{Reach, needs_poll};
use crate::save;
use crate::ty::Ty;
use crate::unroll::{self, Form};
use crate::{Blocker, Error};

/// More saved values than this in one module are refused: they would only stand for a module made to exhaust memory.
const MAX_LIVE_VALUES: usize = 1 << 26;

/// The safepoints of a module.
#[derive(Debug)]
pub(crate) struct Plan {
    /// One for each body.
    pub(crate) functions: Vec<FunctionPlan>,
    pub(crate) safepoints: u32,
}

/// The safepoints of a function, in the order of their operators.
#[derive(Debug, Default)]
pub(crate) struct FunctionPlan {
    /// Number of the first.
    pub(crate) first: u32,
    pub(crate) points: Vec<Point>,
}

/// A safepoint.
#[derive(Debug)]
pub(crate) struct Point {
    /// Index of its operator.
    pub(crate) op: usize,
    pub(crate) kind: SafepointKind,
    /// Height of the operand stack below the operator's operands: where results go.
    pub(crate) base: u32,
    pub(crate) live: Vec<(Slot, Ty)>,
}

impl Point {
    /// The values as the map lists them.
    pub(crate) fn live_values(&self) -> Vec<LiveValue> {
        self.live.iter().map(|(slot, ty)| LiveValue { slot: *slot, ty: ty.value_type() }).collect()
    }
}

impl FunctionPlan {
    /// The safepoint at an operator: its position in `points`.
    pub(crate) fn at(&self, op: usize) -> Option<usize> {
        self.points.binary_search_by_key(&op, |point| point.op).ok()
    }

    /// Whether a safepoint lies among these operators.
    pub(crate) fn any_in(&self, ops: std::ops::Range<usize>) -> bool {
        let next = self.points.partition_point(|point| point.op < ops.start);
        self.points.get(next).is_some_and(|point| point.op < ops.end)
    }
}

impl Plan {
    /// Places the safepoints of a module.
    pub(crate) fn of(module: &Module<'_>) -> Result<Self, Error> {
        let reach = Reach::of(module);
        let blockers = tail_calls_of_imports(module, &reach);
        if !blockers.is_empty() {
            return Err(Error::Blocked(blockers));
        }
        let mut plan = Plan { functions: Vec::with_capacity(module.bodies.len()), safepoints: 0 };
        let mut values = 0;
        for body in &module.bodies {
            let points = if reach.stops(body.function) { points(module, body, &reach) } else { Vec::new() };
            values += points.iter().map(|point| point.live.len()).sum::<usize>();
            if values > MAX_LIVE_VALUES {
                return Err(Error::Limit {
                    what: "the number of values saved at safepoints",
                    limit: MAX_LIVE_VALUES as u64,
                });
            }
            let first = plan.safepoints;
            plan.safepoints += points.len() as u32;
            plan.functions.push(FunctionPlan { first, points });
        }
        Ok(plan)
    }
}

/// Tail calls through references that may reach an import. The host may ask for its call to be issued again, and then no frame
/// would be left that can.
fn tail_calls_of_imports(module: &Module<'_>, reach: &Reach) -> Vec<Blocker> {
    let calls =
        module.bodies.iter().flat_map(|body| body.tail_calls_by_reference.iter().map(|call| (body.function, *call)));
    calls
        .filter(|(_, (_, ty))| reach.reaches_import(module.canonical[*ty as usize]))
        .map(|(function, (offset, ty))| Blocker {
            function: Some(function),
            offset,
            feature: "tail call through a reference that may reach an import",
            detail: format!(
                "a function of type {ty} is imported, and a reference to it exists or may come from the host"
            ),
        })
        .collect()
}

fn points(module: &Module<'_>, body: &Body<'_>, reach: &Reach) -> Vec<Point> {
    let kind = |index: usize| {
        let long = bulk::is_long(body, index).then_some(SafepointKind::Bulk);
        reach.call_kind(module, &body.ops[index].op).or(long)
    };
    let mut kinds: Vec<Option<SafepointKind>> = (0..body.ops.len()).map(kind).collect();
    // Inner loops first: a loop whose every round enters one that polls at its head needs no poll of its own. A bulk
    // instruction polls only if it is long indeed.
    let others = kinds.clone();
    let is_call = |at: usize| others[at].is_some_and(|kind| kind != SafepointKind::Bulk);
    let mut polled_on_entry = vec![false; kinds.len()];
    for (index, op) in body.ops.iter().enumerate().rev() {
        if matches!(op.op, wasmparser::Operator::Loop { .. })
            && body.blocks[op.block as usize].targeted
            && needs_poll(body, index, |inner| is_call(inner) || polled_on_entry[inner])
        {
            kinds[index] = Some(SafepointKind::Loop);
            let form = unroll::form(body, index, |at| others[at].is_some());
            polled_on_entry[index] = form != Form::Latch;
        }
    }
    let ops: Vec<usize> = (0..kinds.len()).filter(|index| kinds[*index].is_some()).collect();
    let locals = live_locals(body, &ops);
    let mut counts = Vec::with_capacity(ops.len());
    let mut points: Vec<Point> = ops
        .iter()
        .zip(locals)
        .map(|(index, locals)| {
            let op = &body.ops[*index];
            let kind = kinds[*index].expect("filtered");
            let stack = &body.stacks[index];
            let mut live: Vec<(Slot, Ty)> =
                locals.into_iter().map(|local| (Slot::Local(local), body.locals[local as usize])).collect();
            let below = match kind {
                SafepointKind::Loop | SafepointKind::TailCall => stack.len(),
                _ => op.base as usize,
            };
            live.extend(stack[..below].iter().enumerate().map(|(height, ty)| (Slot::Operand(height as u32), *ty)));
            counts.push(live.len());
            if kind.keeps_arguments() {
                live.extend(body.pops(op).iter().enumerate().map(|(index, ty)| (Slot::Argument(index as u32), *ty)));
            }
            if kind.can_reissue() || kind.can_have_callee() {
                live.extend(body.pushes(op).iter().enumerate().map(|(index, ty)| (Slot::Result(index as u32), *ty)));
            }
            Point { op: *index, kind, base: op.base, live }
        })
        .collect();
    save::order(&mut points, &counts);
    points
}
