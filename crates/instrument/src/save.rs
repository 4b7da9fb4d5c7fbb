//! The save paths of one function: what a stop costs in code.
//!
//! A function with hundreds of calls has hundreds of safepoints, at most of which much the same values are live. Written out at
//! each, their saving is most of the function, and the compiler, for which each is a use of a value, keeps fewer values in
//! registers where the program really runs. So records begin with the values that are live at most safepoints ([`order`]),
//! and safepoints whose records begin alike share the code that saves what they share:
//!
//! ```text
//! block $tail block $a block $b block $c
//!   ...code, with at each safepoint: if stop { save what is only live here; size, number := ...; br $c (or $b, $a, $tail) }
//!   return
//! end $c  save what records that begin with a b c have behind b
//! end $b  save what records that begin with a b have behind a;  br $a
//! end $a  save a
//! end $tail  write the record's trailer and return
//! ```

use std::collections::HashMap;

use wasm_encoder::Instruction;

use crate::body::Body;
use crate::emit::{Code, Flag, Helpers, Temps, control, dummy, source, store};
use crate::map::{ControlLayout, ControlState, Slot};
use crate::plan::Point;
use crate::sections::Additions;
use crate::ty::Ty;

/// Sorts the first `counts[i]` values of the i-th safepoint so that those that are live at most safepoints come first.
pub(crate) fn order(points: &mut [Point], counts: &[usize]) {
    let mut frequency: HashMap<Slot, usize> = HashMap::new();
    for (point, count) in points.iter().zip(counts) {
        for (slot, _) in &point.live[..*count] {
            *frequency.entry(*slot).or_default() += 1;
        }
    }
    for (point, count) in points.iter_mut().zip(counts) {
        point.live[..*count].sort_by_key(|(slot, _)| (core::cmp::Reverse(frequency[slot]), *slot));
    }
}

/// A value in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Element {
    local: u32,
    ty: Ty,
    offset: u32,
}

/// Code that saves values for all safepoints whose records have them.
#[derive(Debug)]
struct Segment {
    elements: Vec<Element>,
    /// The segment that comes after it, always a later one; `None` for the tail.
    next: Option<usize>,
}

/// What one safepoint saves itself.
#[derive(Debug)]
struct Site {
    elements: Vec<Element>,
    /// Growing their table is a call, and nothing else is to be live across it: they are saved last, by the safepoint itself.
    references: Vec<Element>,
    next: Option<usize>,
    size: u32,
}

/// The save paths of one function.
#[derive(Debug)]
pub(crate) struct Saves {
    segments: Vec<Segment>,
    sites: Vec<Site>,
}

/// Records that begin alike, as a tree: each node stands for the values on the way from the root to it.
#[derive(Debug, Default)]
struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    element: Element,
    parent: Option<usize>,
    /// How many records begin so.
    records: usize,
    /// The children that more than one record has.
    shared: usize,
    /// Whether a safepoint leaves the rest of its record to this one.
    is_target: bool,
}

impl Saves {
    /// Plans the save paths for these safepoints.
    pub(crate) fn of(points: &[Point], temps: &mut Temps) -> Self {
        let mut sites = Vec::with_capacity(points.len());
        for point in points {
            let mut site = Site { elements: Vec::new(), references: Vec::new(), next: None, size: 0 };
            for (slot, ty) in &point.live {
                let element = Element { local: source(temps, point, *slot, *ty), ty: *ty, offset: site.size };
                site.size += ty.value_type().size();
                let list = if matches!(ty, Ty::Ref { .. }) { &mut site.references } else { &mut site.elements };
                list.push(element);
            }
            sites.push(site);
        }
        let mut tree = Tree::default();
        let mut index = HashMap::new();
        let ways: Vec<Vec<usize>> = sites.iter().map(|site| tree.add(site, &mut index)).collect();
        for (site, way) in sites.iter_mut().zip(ways) {
            let shared = way.iter().take_while(|node| tree.nodes[**node].records > 1).count();
            if let Some(last) = shared.checked_sub(1).map(|last| way[last]) {
                tree.nodes[last].is_target = true;
                site.elements.drain(..shared);
                site.next = Some(last);
            }
        }
        let (segments, of_node) = tree.segments();
        for site in &mut sites {
            site.next = site.next.map(|node| of_node[node]);
        }
        Self { segments, sites }
    }

    /// How many pieces of code safepoints share. Their labels are open around the function's body, the first one innermost,
    /// and that of the tail around them all.
    pub(crate) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Where a safepoint goes on: a segment, or the tail.
    pub(crate) fn after_site(&self, point: usize) -> Option<usize> {
        self.sites[point].next
    }

    /// Where a segment goes on.
    pub(crate) fn after_segment(&self, segment: usize) -> Option<usize> {
        self.segments[segment].next
    }

    /// Writes what a safepoint saves itself, and notes which it is: `number`.
    pub(crate) fn site(
        &self,
        code: &mut Code,
        additions: &mut Additions,
        helpers: Helpers,
        (point, number): (usize, u32),
    ) {
        let Site { elements, references, size, .. } = &self.sites[point];
        self.save(code, additions, helpers, elements);
        for Element { local, ty, offset } in references {
            let table = additions.ref_table(*ty);
            begin(code, additions);
            code.push(Instruction::LocalGet(*local));
            code.push(Instruction::I32Const(1));
            code.push(Instruction::TableGrow(table));
            code.push(Instruction::I32Store(control(additions, *offset)));
        }
        code.push(Instruction::I32Const(*size as i32));
        code.push(Instruction::LocalSet(helpers.size));
        code.push(Instruction::I32Const(number as i32));
        code.push(Instruction::LocalSet(helpers.safepoint));
    }

    /// Writes what a segment saves.
    pub(crate) fn segment(&self, code: &mut Code, additions: &Additions, helpers: Helpers, segment: usize) {
        self.save(code, additions, helpers, &self.segments[segment].elements);
    }

    fn save(&self, code: &mut Code, additions: &Additions, helpers: Helpers, elements: &[Element]) {
        if elements.is_empty() {
            return;
        }
        // Each piece asks anew where the record begins: handed on, it would be one more value that all of them share.
        begin(code, additions);
        code.push(Instruction::LocalSet(helpers.top));
        for Element { local, ty, offset } in elements {
            code.push(Instruction::LocalGet(helpers.top));
            code.push(Instruction::LocalGet(*local));
            code.push(store(*ty, control(additions, *offset)));
        }
    }
}

impl Tree {
    /// Adds a record, and tells the nodes on its way.
    fn add(&mut self, site: &Site, index: &mut HashMap<(Option<usize>, Element), usize>) -> Vec<usize> {
        let mut way = Vec::with_capacity(site.elements.len());
        // One with references saves everything itself.
        let elements = if site.references.is_empty() { &site.elements[..] } else { &[] };
        for element in elements {
            let parent = way.last().copied();
            let node = *index.entry((parent, *element)).or_insert_with(|| {
                self.nodes.push(Node { element: *element, parent, records: 0, shared: 0, is_target: false });
                self.nodes.len() - 1
            });
            let node_ref = &mut self.nodes[node];
            node_ref.records += 1;
            if let (2, Some(parent)) = (node_ref.records, parent) {
                self.nodes[parent].shared += 1;
            }
            way.push(node);
        }
        way
    }

    /// The shared nodes as segments, each after those that lead to it, and the segment in which each node's saving begins.
    fn segments(&self) -> (Vec<Segment>, Vec<usize>) {
        let mut segments: Vec<Segment> = Vec::new();
        let mut of_node = vec![usize::MAX; self.nodes.len()];
        // Children were made after their parents, and are written before them.
        for at in (0..self.nodes.len()).rev() {
            let node = &self.nodes[at];
            let is_head = node.records > 1 && (node.is_target || node.shared != 1);
            if !is_head {
                continue;
            }
            let segment = segments.len();
            let (mut elements, mut here) = (Vec::new(), Some(at));
            while let Some(number) = here {
                let node = &self.nodes[number];
                if number != at && (node.is_target || node.shared != 1) {
                    break;
                }
                of_node[number] = segment;
                elements.push(node.element);
                here = node.parent;
            }
            // The parent's segment is not numbered yet: its node stands for it until it is.
            segments.push(Segment { elements, next: here });
        }
        for segment in &mut segments {
            segment.next = segment.next.map(|node| of_node[node]);
        }
        (segments, of_node)
    }
}

/// Pushes where the record begins.
fn begin(code: &mut Code, additions: &Additions) {
    code.push(Instruction::I32Const(0));
    code.push(Instruction::I32Load(control(additions, ControlLayout::TOP)));
}

/// The end of a function that saves: writes the record's trailer, publishes it, and leaves dummies for the caller.
///
/// There is always room for one more record. A function without calls can only be the innermost frame, so the making of
/// more is left to the others: a call would cost it the cheaper entry of a leaf. They end in a tail call of a function that
/// does it all, which keeps them small and nothing alive.
pub(crate) fn tail(code: &mut Code, additions: &mut Additions, helpers: Helpers, body: &Body<'_>) {
    let results = &body.blocks[0].results;
    begin(code, additions);
    code.push(Instruction::LocalGet(helpers.size));
    code.push(Instruction::I32Add);
    if body.calls() {
        code.push(Instruction::LocalGet(helpers.safepoint));
        code.push(Instruction::ReturnCall(additions.commit_function(results)));
        return;
    }
    code.push(Instruction::LocalSet(helpers.top));
    end_record(code, additions, (helpers.top, helpers.safepoint));
    for ty in results {
        dummy(code, additions, *ty);
    }
}

/// Writes the trailer of the record and makes it the last one.
pub(crate) fn end_record(code: &mut Code, additions: &Additions, (top, safepoint): (u32, u32)) {
    code.push(Instruction::LocalGet(top));
    code.push(Instruction::LocalGet(safepoint));
    code.push(Instruction::I32Store(control(additions, 0)));
    // The first frame to save finds state 0: it is at its safepoint. All others find 1: they are inside a call.
    code.push(Instruction::LocalGet(top));
    code.push(Instruction::I32Const(0));
    code.push(Instruction::I32Load(control(additions, ControlLayout::STATE)));
    code.push(Instruction::I32Store(control(additions, 4)));
    if additions.calls_memory.is_some() {
        // Whichever flag the other thread has written so far: from here on, all callers find theirs.
        Flag::Calls.raise(code, additions);
        Flag::Loops.raise(code, additions);
    }
    code.push(Instruction::I32Const(0));
    code.push(Instruction::I32Const(ControlState::Unwinding as i32));
    code.push(Instruction::I32Store(control(additions, ControlLayout::STATE)));
    code.push(Instruction::I32Const(0));
    code.push(Instruction::LocalGet(top));
    code.push(Instruction::I32Const(ControlLayout::TRAILER as i32));
    code.push(Instruction::I32Add);
    code.push(Instruction::I32Store(control(additions, ControlLayout::TOP)));
}
