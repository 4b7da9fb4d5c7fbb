//! Which functions can reach a safepoint: a call graph, closed over calls through references.

use wasmparser::Operator;

use crate::body::{BlockKind, Body};
use crate::bulk;
use crate::map::SafepointKind;
use crate::module::Module;

/// The answer for every function and every function type.
#[derive(Debug)]
pub(crate) struct Reach {
    imported: u32,
    functions: Vec<bool>,
    /// By canonical type: whether a call through a reference can reach a function that stops.
    types: Vec<bool>,
    /// By canonical type: whether a call through a reference can reach an imported function.
    types_import: Vec<bool>,
}

impl Reach {
    /// Closes the call graph of a module. A function can stop if it has a loop, a tail call, a long bulk instruction or a call of an
    /// import, lies on a cycle of the graph (recursion is bounded only by the stack, its time is not), or calls one that can.
    pub(crate) fn of(module: &Module<'_>) -> Self {
        let functions = module.functions.len();
        let node_of_type = |ty: u32| functions + ty as usize;
        let mut edges: Vec<Vec<usize>> = vec![Vec::new(); functions + module.type_count as usize];
        let mut stops = vec![false; edges.len()];
        stops[..module.imported_functions as usize].fill(true);
        for function in &module.escaping {
            edges[node_of_type(module.functions[*function as usize])].push(*function as usize);
        }
        for body in &module.bodies {
            let function = body.function as usize;
            stops[function] = body.blocks.iter().any(|block| block.kind == BlockKind::Loop && block.targeted);
            for (index, op) in body.ops.iter().enumerate() {
                stops[function] |= bulk::is_long(body, index);
                let callee = match &op.op {
                    Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                        *function_index as usize
                    }
                    Operator::CallIndirect { type_index, .. }
                    | Operator::ReturnCallIndirect { type_index, .. }
                    | Operator::CallRef { type_index }
                    | Operator::ReturnCallRef { type_index } => node_of_type(module.canonical[*type_index as usize]),
                    _ => continue,
                };
                edges[function].push(callee);
                stops[function] |= is_tail_call(&op.op);
            }
            edges[function].sort_unstable();
            edges[function].dedup();
        }
        for node in cycles(&edges) {
            stops[node] = true;
        }
        spread_to_callers(&edges, &mut stops);
        // A host that supplies tables, globals or results that are references can put any function behind them.
        let foreign = module.tables.iter().any(|table| table.imported)
            || module.globals.iter().any(|global| global.imported && global.ty.is_ref())
            || (0..module.imported_functions)
                .any(|function| module.signature_of(function).results.iter().any(|ty| ty.value_type().is_ref()));
        let mut types_import = vec![foreign; module.type_count as usize];
        for function in module.escaping.range(..module.imported_functions) {
            types_import[module.functions[*function as usize] as usize] = true;
        }
        let types = stops.split_off(functions);
        Self { imported: module.imported_functions, functions: stops, types, types_import }
    }

    /// Whether a function can be on a captured stack.
    pub(crate) fn stops(&self, function: u32) -> bool {
        function >= self.imported && self.functions[function as usize]
    }

    /// Whether a call through a reference of this type can reach an imported function.
    pub(crate) fn reaches_import(&self, ty: u32) -> bool {
        self.types_import[ty as usize]
    }

    /// What kind of safepoint a call is, if it is one. Loops are looked at elsewhere.
    pub(crate) fn call_kind(&self, module: &Module<'_>, op: &Operator<'_>) -> Option<SafepointKind> {
        match op {
            _ if is_tail_call(op) => Some(SafepointKind::TailCall),
            Operator::Call { function_index } if *function_index < self.imported => Some(SafepointKind::Import),
            Operator::Call { function_index } => {
                self.functions[*function_index as usize].then_some(SafepointKind::Call)
            }
            Operator::CallIndirect { type_index, .. } | Operator::CallRef { type_index } => {
                let ty = module.canonical[*type_index as usize] as usize;
                if self.types_import[ty] {
                    Some(SafepointKind::IndirectCall)
                } else {
                    self.types[ty].then_some(SafepointKind::Call)
                }
            }
            _ => None,
        }
    }
}

/// Whether a loop can come around without passing the test behind a call, so that its head needs a poll.
pub(crate) fn needs_poll(body: &Body<'_>, header: usize, is_checked_call: impl Fn(usize) -> bool) -> bool {
    let this = body.ops[header].block;
    let end = body.blocks[this as usize].end;
    // Whether control can be here, arrive at a label, or enter an `else`, with no test passed since the head. That is only
    // ever lost on the way, so one pass in text order sees everything; inner loops need no second one.
    let mut clean = true;
    let mut at_label = vec![false; body.blocks.len()];
    let mut at_if = vec![false; body.blocks.len()];
    for index in header + 1..end {
        let op = &body.ops[index];
        let block = op.block as usize;
        match op.op {
            Operator::If { .. } => at_if[block] = clean,
            Operator::Else => {
                at_label[block] |= clean && op.falls;
                clean = at_if[block];
            }
            Operator::End => {
                let skips = at_if[block] && body.blocks[block].else_at.is_none();
                clean = (clean && op.falls) || at_label[block] || skips;
            }
            _ => {}
        }
        if !clean {
            continue;
        }
        let targets = body.targets(op);
        if targets.contains(&this) {
            return true;
        }
        // For `try_table` that is the state at its start: whatever throws inside is no cleaner.
        for target in targets {
            at_label[*target as usize] = true;
        }
        if is_checked_call(index) {
            clean = false;
        }
    }
    false
}

pub(crate) fn is_tail_call(op: &Operator<'_>) -> bool {
    matches!(op, Operator::ReturnCall { .. } | Operator::ReturnCallIndirect { .. } | Operator::ReturnCallRef { .. })
}

/// Sets `stops` for every node from which one with `stops` set can be reached.
fn spread_to_callers(edges: &[Vec<usize>], stops: &mut [bool]) {
    let mut callers = vec![Vec::new(); edges.len()];
    for (caller, callees) in edges.iter().enumerate() {
        for callee in callees {
            callers[*callee].push(caller);
        }
    }
    let mut pending: Vec<usize> = (0..edges.len()).filter(|node| stops[*node]).collect();
    while let Some(node) = pending.pop() {
        for caller in &callers[node] {
            if !std::mem::replace(&mut stops[*caller], true) {
                pending.push(*caller);
            }
        }
    }
}

/// The nodes that lie on a cycle, by Tarjan's strongly connected components without recursion.
fn cycles(edges: &[Vec<usize>]) -> Vec<usize> {
    const UNSEEN: usize = usize::MAX;
    let mut number = vec![UNSEEN; edges.len()];
    let mut low = vec![0; edges.len()];
    let mut on_stack = vec![false; edges.len()];
    let (mut next, mut stack, mut found) = (0, Vec::new(), Vec::new());
    for root in 0..edges.len() {
        if number[root] != UNSEEN {
            continue;
        }
        let mut work = vec![(root, 0)];
        while let Some((node, edge)) = work.pop() {
            if edge == 0 {
                (number[node], low[node]) = (next, next);
                next += 1;
                stack.push(node);
                on_stack[node] = true;
            } else {
                let child = edges[node][edge - 1];
                low[node] = low[node].min(low[child]);
            }
            let mut descended = false;
            for (position, child) in edges[node].iter().enumerate().skip(edge) {
                if number[*child] == UNSEEN {
                    work.push((node, position + 1));
                    work.push((*child, 0));
                    descended = true;
                    break;
                }
                if on_stack[*child] {
                    low[node] = low[node].min(number[*child]);
                }
            }
            if descended || low[node] != number[node] {
                continue;
            }
            let members =
                stack.iter().rposition(|member| *member == node).map(|at| stack.split_off(at)).unwrap_or_default();
            for member in &members {
                on_stack[*member] = false;
            }
            if members.len() > 1 || edges[node].contains(&node) {
                found.extend(members);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cycles_only() {
        // 0 -> 1 -> 2 -> 1, 2 -> 3, 4 -> 4, 5 -> 0
        let edges = vec![vec![1], vec![2], vec![1, 3], vec![], vec![4], vec![0]];
        let mut found = cycles(&edges);
        found.sort_unstable();
        assert_eq!(found, [1, 2, 4]);
        let mut stops = vec![false, false, false, true, false, false];
        spread_to_callers(&edges, &mut stops);
        assert_eq!(stops, [true, true, true, true, false, true]);
    }
}
