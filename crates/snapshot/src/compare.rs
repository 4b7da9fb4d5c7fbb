//! How two states differ.

use core::fmt;
use std::collections::BTreeMap;

use dunlin_base::Value;

use crate::{Entry, HostSection, Memory, Page, State};

/// One difference between two states. `a` and `b` are the two sides.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The stacks were entered by different entries.
    Entry {
        /// The entry.
        a: Option<Entry>,
        /// The entry.
        b: Option<Entry>,
    },
    /// The stacks are not equally deep.
    Depth {
        /// Number of frames.
        a: usize,
        /// Number of frames.
        b: usize,
    },
    /// A frame that both have differs in its safepoint or phase.
    Place {
        /// Which frame, counted from the outermost.
        frame: usize,
        /// Safepoint.
        a: u32,
        /// Safepoint.
        b: u32,
    },
    /// Values of a frame that stands at the same place in both differ.
    FrameValues {
        /// Which frame, counted from the outermost.
        frame: usize,
        /// Which of its values.
        values: Vec<usize>,
    },
    /// A mutable global differs, or exists on one side only.
    Global {
        /// Which of the mutable globals.
        global: usize,
        /// Its value.
        a: Option<Value>,
        /// Its value.
        b: Option<Value>,
    },
    /// A table differs in its size, or exists on one side only.
    TableSize {
        /// Which table.
        table: usize,
        /// Number of elements.
        a: Option<usize>,
        /// Number of elements.
        b: Option<usize>,
    },
    /// Elements that a table has on both sides differ.
    TableElements {
        /// Which table.
        table: usize,
        /// Which of its elements.
        elements: Vec<usize>,
    },
    /// A memory differs in its size, or exists on one side only.
    MemorySize {
        /// Which memory.
        memory: usize,
        /// Size in bytes.
        a: Option<u64>,
        /// Size in bytes.
        b: Option<u64>,
    },
    /// Pages of a memory differ; a page that only one side lists differs.
    Pages {
        /// Which memory.
        memory: usize,
        /// Their numbers.
        pages: Vec<u64>,
    },
    /// Data segments that only one side has dropped.
    DroppedData(Vec<u32>),
    /// Element segments that only one side has dropped.
    DroppedElems(Vec<u32>),
    /// Exceptions that differ, or that exist on one side only.
    Exceptions(Vec<usize>),
    /// A host section differs, or exists on one side only.
    Host {
        /// Its kind.
        kind: u16,
    },
}

/// All differences between two states, in the order of the parts of [`State`]; none if and only if they are equal.
pub fn compare(a: &State, b: &State) -> Vec<Difference> {
    let mut found = Vec::new();
    if a.entry != b.entry {
        found.push(Difference::Entry { a: a.entry.clone(), b: b.entry.clone() });
    }
    if a.frames.len() != b.frames.len() {
        found.push(Difference::Depth { a: a.frames.len(), b: b.frames.len() });
    }
    for (frame, (left, right)) in a.frames.iter().zip(&b.frames).enumerate() {
        if (left.safepoint, left.phase) != (right.safepoint, right.phase) {
            found.push(Difference::Place { frame, a: left.safepoint, b: right.safepoint });
        } else if left.values != right.values {
            found.push(Difference::FrameValues { frame, values: unequal(&left.values, &right.values) });
        }
    }
    for global in unequal(&a.globals, &b.globals) {
        let value = |state: &State| state.globals.get(global).copied();
        found.push(Difference::Global { global, a: value(a), b: value(b) });
    }
    for table in unequal(&a.tables, &b.tables) {
        let elements = |state: &'_ State| state.tables.get(table).map(|table| table.elements.len());
        if elements(a) != elements(b) {
            found.push(Difference::TableSize { table, a: elements(a), b: elements(b) });
        }
        if let (Some(left), Some(right)) = (a.tables.get(table), b.tables.get(table)) {
            let pairs = left.elements.iter().zip(&right.elements).enumerate();
            let elements: Vec<_> = pairs.filter(|(_, (a, b))| a != b).map(|(index, _)| index).collect();
            if !elements.is_empty() {
                found.push(Difference::TableElements { table, elements });
            }
        }
    }
    for memory in unequal(&a.memories, &b.memories) {
        let (left, right) = (a.memories.get(memory), b.memories.get(memory));
        let size = |side: Option<&Memory>| side.map(|memory| memory.size);
        if size(left) != size(right) {
            found.push(Difference::MemorySize { memory, a: size(left), b: size(right) });
        }
        if let (Some(left), Some(right)) = (left, right) {
            let pages = one_sided(keyed(&left.pages), keyed(&right.pages));
            if !pages.is_empty() {
                found.push(Difference::Pages { memory, pages });
            }
        }
    }
    let segments = |list: &[u32]| list.iter().map(|segment| (*segment, ())).collect::<BTreeMap<_, _>>();
    if a.dropped_data != b.dropped_data {
        found.push(Difference::DroppedData(one_sided(segments(&a.dropped_data), segments(&b.dropped_data))));
    }
    if a.dropped_elems != b.dropped_elems {
        found.push(Difference::DroppedElems(one_sided(segments(&a.dropped_elems), segments(&b.dropped_elems))));
    }
    if a.exceptions != b.exceptions {
        found.push(Difference::Exceptions(unequal(&a.exceptions, &b.exceptions)));
    }
    let host = |state: &'_ State| -> BTreeMap<u16, HostSection> {
        state.host.iter().map(|section| (section.kind, section.clone())).collect()
    };
    if a.host != b.host {
        found.extend(one_sided(host(a), host(b)).into_iter().map(|kind| Difference::Host { kind }));
    }
    found
}

/// Indices at which two lists differ; those that only one of them has among them.
fn unequal<T: PartialEq>(a: &[T], b: &[T]) -> Vec<usize> {
    (0..a.len().max(b.len())).filter(|index| a.get(*index) != b.get(*index)).collect()
}

/// Keys whose values differ, those that only one side has among them.
fn one_sided<K: Ord + Copy, V: PartialEq>(a: BTreeMap<K, V>, mut b: BTreeMap<K, V>) -> Vec<K> {
    let mut keys: Vec<K> =
        a.into_iter().filter(|(key, value)| b.remove(key).as_ref() != Some(value)).map(|(key, _)| key).collect();
    keys.extend(b.into_keys());
    keys.sort_unstable();
    keys
}

fn keyed(pages: &[(u64, Page)]) -> BTreeMap<u64, &Page> {
    pages.iter().map(|(number, page)| (*number, page)).collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry { a, b } => write!(f, "entered by {}, {}", Or(a), Or(b)),
            Self::Depth { a, b } => write!(f, "{a} frames, {b} frames"),
            Self::Place { frame, a, b } if a == b => write!(f, "frame {frame}: on different sides of safepoint {a}"),
            Self::Place { frame, a, b } => write!(f, "frame {frame}: safepoint {a}, safepoint {b}"),
            Self::FrameValues { frame, values } => write!(f, "frame {frame}: values {}", Ranges(values)),
            Self::Global { global, a, b } => write!(f, "mutable global {global}: {}, {}", Or(a), Or(b)),
            Self::TableSize { table, a, b } => write!(f, "table {table}: {} elements, {} elements", Or(a), Or(b)),
            Self::TableElements { table, elements } => write!(f, "table {table}: elements {}", Ranges(elements)),
            Self::MemorySize { memory, a, b } => write!(f, "memory {memory}: {} bytes, {} bytes", Or(a), Or(b)),
            Self::Pages { memory, pages } => write!(f, "memory {memory}: {} pages: {}", pages.len(), Ranges(pages)),
            Self::DroppedData(segments) => write!(f, "dropped data segments: {}", Ranges(segments)),
            Self::DroppedElems(segments) => write!(f, "dropped element segments: {}", Ranges(segments)),
            Self::Exceptions(exceptions) => write!(f, "exceptions {}", Ranges(exceptions)),
            Self::Host { kind } => write!(f, "host section {kind}"),
        }
    }
}

struct Or<'a, T>(&'a Option<T>);

impl<T: fmt::Display> fmt::Display for Or<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("no"),
        }
    }
}

/// Ascending numbers, neighbours drawn together.
struct Ranges<'a, T>(&'a [T]);

impl<T: Copy + fmt::Display + TryInto<u64>> fmt::Display for Ranges<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: &T| (*value).try_into().ok();
        let neighbours = |a: &T, b: &T| number(a).and_then(|a: u64| a.checked_add(1)) == number(b);
        for (index, range) in self.0.chunk_by(neighbours).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            match range {
                [first, .., last] => write!(f, "{separator}{first}-{last}")?,
                [one] => write!(f, "{separator}{one}")?,
                [] => {}
            }
        }
        Ok(())
    }
}
