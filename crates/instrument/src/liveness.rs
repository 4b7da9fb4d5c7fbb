//! Which locals are live where: a backward data-flow analysis over structured code.

use wasmparser::Operator;

use crate::body::{BlockKind, Body};

/// A set of locals.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Set(Vec<u64>);

impl Set {
    fn empty(locals: usize) -> Self {
        Self(vec![0; locals.div_ceil(64)])
    }

    fn insert(&mut self, local: u32) {
        self.0[local as usize / 64] |= 1 << (local % 64);
    }

    fn remove(&mut self, local: u32) {
        self.0[local as usize / 64] &= !(1 << (local % 64));
    }

    /// Adds another set's members and tells whether that changed anything.
    fn add(&mut self, other: &Self) -> bool {
        let mut changed = 0;
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            changed |= more & !*word;
            *word |= more;
        }
        changed != 0
    }

    fn clear(&mut self) {
        self.0.fill(0);
    }

    fn members(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().enumerate().flat_map(|(index, word)| {
            let mut word = *word;
            std::iter::from_fn(move || {
                let bit = word.trailing_zeros();
                (bit < 64).then(|| {
                    word &= word - 1;
                    index as u32 * 64 + bit
                })
            })
        })
    }
}

/// For each operator index in `points` (ascending), the locals whose value may still be read: for a `loop` at its head,
/// for any other operator after it.
pub(crate) fn live_locals(body: &Body<'_>, points: &[usize]) -> Vec<Vec<u32>> {
    let locals = body.locals.len();
    // What is live when a branch arrives at each block's label; for loops it is found by repetition.
    let mut at_label: Vec<Set> = vec![Set::empty(locals); body.blocks.len()];
    let mut result: Vec<Vec<u32>> = vec![Vec::new(); points.len()];
    loop {
        let mut changed = false;
        let mut live = Set::empty(locals);
        // Saved at `else` (what is live where the other arm begins), taken at `if`.
        let mut at_else: Vec<Option<Set>> = vec![None; body.blocks.len()];
        let mut next_point = points.len();
        for (index, op) in body.ops.iter().enumerate().rev() {
            let is_point = next_point > 0 && points[next_point - 1] == index;
            let is_loop = matches!(op.op, Operator::Loop { .. });
            if is_point {
                next_point -= 1;
                if !is_loop {
                    result[next_point] = live.members().collect();
                }
            }
            let block = op.block as usize;
            match op.op {
                Operator::LocalGet { local_index } => live.insert(local_index),
                Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => live.remove(local_index),
                Operator::End => {
                    if body.blocks[block].kind != BlockKind::Loop {
                        at_label[block] = live.clone();
                    }
                    if !op.falls {
                        live.clear();
                    }
                }
                Operator::Else => {
                    at_else[block] = Some(live);
                    live = if op.falls { at_label[block].clone() } else { Set::empty(locals) };
                }
                Operator::If { .. } => {
                    match at_else[block].take() {
                        Some(other) => live.add(&other),
                        None => live.add(&at_label[block]),
                    };
                }
                Operator::Loop { .. } => {
                    changed |= at_label[block].add(&live);
                    if is_point {
                        result[next_point] = live.members().collect();
                    }
                }
                Operator::Br { .. } | Operator::BrTable { .. } => {
                    live.clear();
                    for target in body.targets(op) {
                        live.add(&at_label[*target as usize]);
                    }
                }
                Operator::BrIf { .. } | Operator::BrOnNull { .. } | Operator::BrOnNonNull { .. } => {
                    live.add(&at_label[body.targets(op)[0] as usize]);
                }
                Operator::Return
                | Operator::Unreachable
                | Operator::Throw { .. }
                | Operator::ThrowRef
                | Operator::ReturnCall { .. }
                | Operator::ReturnCallIndirect { .. }
                | Operator::ReturnCallRef { .. } => live.clear(),
                _ => {}
            }
            if can_throw(&op.op) {
                // An exception goes to a clause of any enclosing `try_table`.
                let mut enclosing = op.block as usize;
                while enclosing != 0 {
                    let outer = &body.blocks[enclosing];
                    if outer.kind == BlockKind::Try {
                        for target in body.targets(&body.ops[outer.start]) {
                            live.add(&at_label[*target as usize]);
                        }
                    }
                    enclosing = outer.parent as usize;
                }
            }
        }
        if !changed {
            return result;
        }
    }
}

fn can_throw(op: &Operator<'_>) -> bool {
    matches!(
        op,
        Operator::Call { .. }
            | Operator::CallIndirect { .. }
            | Operator::CallRef { .. }
            | Operator::Throw { .. }
            | Operator::ThrowRef
    )
}
