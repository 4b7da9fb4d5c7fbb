//! Checks that a state is one of a module before anything is made of it.

use dunlin_base::{PAGE_SIZE, Value, ValueType, page_count};
use dunlin_instrument::{ControlLayout, Map, Phase, SafepointKind, exports};
use dunlin_snapshot::{Entry, Exception, Frame, Memory, Page, State};

use crate::error::Error;
use crate::limits::{CONTROL_LIMIT, Limits};
use crate::module::ModuleInfo;

/// Why a state is not one of the module it is restored into.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A list has another length than the module's.
    #[error("it has {found} {what}, the module has {expected}")]
    Number {
        /// Of what.
        what: &'static str,
        /// How many the state has.
        found: usize,
        /// How many the module has.
        expected: usize,
    },
    /// It has no frame at all.
    #[error("its call stack is empty")]
    NoFrames,
    /// Nothing tells how the stack was entered.
    #[error("it does not tell which entry is on the stack")]
    NoEntry,
    /// The module has no such entry.
    #[error("{0} is said to be on the stack, which the module does not have")]
    UnknownEntry(Entry),
    /// The outermost frame cannot be that of the entry.
    #[error("{entry} is said to be on the stack, but it cannot have led to function {function}, the outermost there")]
    ForeignEntry {
        /// The entry.
        entry: Entry,
        /// The function of the outermost frame.
        function: u32,
    },
    /// The call stack is larger than any that can be saved.
    #[error("its call stack takes {size} bytes, more than the {limit} that can be restored")]
    StackSize {
        /// Its size in the control memory.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The module has no such safepoint.
    #[error("frame {frame} stands at safepoint {safepoint}, which the module does not have")]
    Safepoint {
        /// Depth of the frame, 0 for the outermost.
        frame: usize,
        /// The number.
        safepoint: u32,
    },
    /// No frame can stand on this side of its safepoint, at its place in the stack.
    #[error("frame {frame} cannot stand {} safepoint {safepoint}", match .phase { Phase::At => "at", Phase::Inside => "inside" })]
    Phase {
        /// Depth of the frame, 0 for the outermost.
        frame: usize,
        /// The number.
        safepoint: u32,
        /// The side.
        phase: Phase,
    },
    /// A value is of another type than its place.
    #[error("{place} holds {value}, but its type is {ty}")]
    Type {
        /// Which place.
        place: String,
        /// What it holds.
        value: Value,
        /// The type.
        ty: ValueType,
    },
    /// A null where none may stand.
    #[error("{place} holds null, but its type does not allow it")]
    Null {
        /// Which place.
        place: String,
    },
    /// A reference to a function that the module does not have or never hands out.
    #[error("{place} refers to function {function}, to which the module hands out no reference")]
    Function {
        /// Which place.
        place: String,
        /// The index.
        function: u32,
    },
    /// A reference to an exception that the state does not have.
    #[error("{place} refers to exception {exception}, which the state does not have")]
    Exception {
        /// Which place.
        place: String,
        /// The index.
        exception: u32,
    },
    /// An exception whose payload contains itself.
    #[error("exception {0} contains itself")]
    ExceptionCycle(usize),
    /// An exception of a tag that the module does not have.
    #[error("exception {exception} has tag {tag}, which the module does not have")]
    Tag {
        /// The exception.
        exception: usize,
        /// The tag.
        tag: u32,
    },
    /// A size that the memory or table cannot have.
    #[error("{what} has a size of {size}, but it can only have {allowed}")]
    Size {
        /// Which memory or table.
        what: String,
        /// Its size, in bytes or elements.
        size: u64,
        /// Which sizes there are.
        allowed: String,
    },
    /// A page that is not in order.
    #[error("page {page} of memory {memory} {problem}")]
    Page {
        /// The memory.
        memory: usize,
        /// The page's number.
        page: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// A list of segments that is not in order.
    #[error("segment {segment} in the list of dropped {what} segments is out of order, or the module does not have it")]
    Segment {
        /// `data` or `element`.
        what: &'static str,
        /// The segment.
        segment: u32,
    },
}

/// Checks a whole state.
pub(crate) fn state(state: &State, map: &Map, info: &ModuleInfo, limits: &Limits) -> Result<(), Error> {
    let mutable = map.globals.iter().filter(|global| global.mutable).count();
    number("globals", state.globals.len(), mutable)?;
    number("tables", state.tables.len(), map.tables.len())?;
    number("memories", state.memories.len(), map.memories.len())?;
    frames(state, map)?;
    entry(state, map, info)?;
    let values = Values { map, state };
    let globals = map.globals.iter().enumerate().filter(|(_, global)| global.mutable);
    for ((index, global), value) in globals.zip(&state.globals) {
        values.check(value, global.ty, global.nullable, || format!("global {index}"))?;
    }
    for (index, (table, info)) in state.tables.iter().zip(&map.tables).enumerate() {
        let size = table.elements.len() as u64;
        if size < info.minimum || info.maximum.is_some_and(|maximum| size > maximum) {
            let allowed = range(info.minimum, info.maximum, "elements");
            return Err(StateError::Size { what: format!("table {index}"), size, allowed }.into());
        }
        within(&format!("table {index}"), size, limits.table_elements)?;
        for (at, element) in table.elements.iter().enumerate() {
            values.check(element, info.ty, info.nullable, || format!("element {at} of table {index}"))?;
        }
    }
    for (index, memory) in state.memories.iter().enumerate() {
        check_memory(index, memory, map, limits)?;
    }
    segments("data", &state.dropped_data, map.data_segments)?;
    segments("element", &state.dropped_elems, map.elem_segments)?;
    for (index, exception) in state.exceptions.iter().enumerate() {
        let types = map.tags.get(exception.tag as usize);
        let types = types.ok_or(StateError::Tag { exception: index, tag: exception.tag })?;
        number("values in an exception", exception.values.len(), types.len())?;
        for (at, (value, ty)) in exception.values.iter().zip(types).enumerate() {
            values.check(value, *ty, true, || format!("value {at} of exception {index}"))?;
        }
    }
    creation_order(&state.exceptions)?;
    Ok(())
}

/// The order in which exceptions can be created: each after those that its payload refers to.
pub(crate) fn creation_order(exceptions: &[Exception]) -> Result<Vec<usize>, StateError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; exceptions.len()];
    let mut order = Vec::with_capacity(exceptions.len());
    // A stack of our own: the nesting comes from outside.
    let mut open: Vec<(usize, usize)> = Vec::new();
    for root in 0..exceptions.len() {
        if marks[root] == Mark::New {
            marks[root] = Mark::Open;
            open.push((root, 0));
        }
        while let Some((index, at)) = open.pop() {
            let rest = exceptions[index].values.iter().enumerate().skip(at);
            let mut inner = rest.filter_map(|(at, value)| match value {
                Value::ExnRef(Some(inner)) => Some((at, *inner as usize)),
                _ => None,
            });
            match inner.next() {
                None => {
                    marks[index] = Mark::Done;
                    order.push(index);
                }
                Some((at, inner)) => {
                    open.push((index, at + 1));
                    match marks.get(inner) {
                        Some(Mark::New) => {
                            marks[inner] = Mark::Open;
                            open.push((inner, 0));
                        }
                        Some(Mark::Done) => {}
                        Some(Mark::Open) => return Err(StateError::ExceptionCycle(inner)),
                        None => {
                            let place = format!("exception {index}");
                            return Err(StateError::Exception { place, exception: inner as u32 });
                        }
                    }
                }
            }
        }
    }
    Ok(order)
}

fn frames(state: &State, map: &Map) -> Result<(), Error> {
    let Some(last) = state.frames.len().checked_sub(1) else { return Err(StateError::NoFrames.into()) };
    let values = Values { map, state };
    let mut size = 0;
    for (depth, frame) in state.frames.iter().enumerate() {
        let Frame { safepoint: number_, phase, values: live } = frame;
        let safepoint = map.safepoint(*number_).ok_or(StateError::Safepoint { frame: depth, safepoint: *number_ })?;
        let possible = match phase {
            Phase::At => depth == last,
            Phase::Inside if depth == last => safepoint.kind.can_reissue(),
            Phase::Inside => safepoint.kind.can_have_callee(),
        };
        if !possible {
            return Err(StateError::Phase { frame: depth, safepoint: *number_, phase: *phase }.into());
        }
        number("values in a frame", live.len(), safepoint.live.len())?;
        for (value, place) in live.iter().zip(&safepoint.live) {
            values.check(value, place.ty, true, || format!("{:?} of frame {depth}", place.slot))?;
        }
        size += u64::from(safepoint.values_size()) + u64::from(ControlLayout::TRAILER);
    }
    // The control memory is addressed with 32 bits.
    if size > CONTROL_LIMIT - u64::from(map.control.frames).min(CONTROL_LIMIT) {
        return Err(StateError::StackSize { size, limit: CONTROL_LIMIT }.into());
    }
    Ok(())
}

/// The entry exists, and the outermost frame is its own or one that took its place by a tail call, with the same results.
fn entry(state: &State, map: &Map, info: &ModuleInfo) -> Result<(), StateError> {
    let entry = state.entry.as_ref().ok_or(StateError::NoEntry)?;
    let called = match entry {
        Entry::Start => map.start,
        Entry::Export(name) if name.starts_with(exports::PREFIX) => None,
        Entry::Export(name) => info.exported_functions.get(name).copied(),
    };
    let called = called.ok_or_else(|| StateError::UnknownEntry(entry.clone()))?;
    let outermost = state.frames.first().and_then(|frame| map.safepoint(frame.safepoint));
    let function = outermost.ok_or(StateError::NoFrames)?.function;
    let of = |index: u32| map.functions.get(index as usize);
    let replaced = || {
        let info = of(called)?;
        let own = map.safepoints.get(info.first_safepoint as usize..)?.get(..info.safepoints as usize)?;
        let tail_calls = own.iter().any(|safepoint| safepoint.kind == SafepointKind::TailCall);
        Some(tail_calls && info.results == of(function)?.results)
    };
    if called == function || replaced().unwrap_or(false) {
        return Ok(());
    }
    Err(StateError::ForeignEntry { entry: entry.clone(), function })
}

struct Values<'a> {
    map: &'a Map,
    state: &'a State,
}

impl Values<'_> {
    fn check(
        &self,
        value: &Value,
        ty: ValueType,
        nullable: bool,
        place: impl Fn() -> String,
    ) -> Result<(), StateError> {
        if !value.is_a(ty) {
            return Err(StateError::Type { place: place(), value: *value, ty });
        }
        match *value {
            Value::FuncRef(None) | Value::ExternRef(None) | Value::ExnRef(None) if !nullable => {
                Err(StateError::Null { place: place() })
            }
            Value::FuncRef(Some(function))
                if !self.map.functions.get(function as usize).is_some_and(|function| function.escapes) =>
            {
                Err(StateError::Function { place: place(), function })
            }
            Value::ExnRef(Some(exception)) if exception as usize >= self.state.exceptions.len() => {
                Err(StateError::Exception { place: place(), exception })
            }
            _ => Ok(()),
        }
    }
}

fn check_memory(index: usize, memory: &Memory, map: &Map, limits: &Limits) -> Result<(), Error> {
    let info = &map.memories[index];
    let size = memory.size;
    let unit = 1_u64.checked_shl(info.page_size_log2).unwrap_or(1);
    let pages = size / unit;
    if !size.is_multiple_of(unit) || pages < info.minimum || info.maximum.is_some_and(|maximum| pages > maximum) {
        let allowed = format!("{} of {unit} bytes", range(info.minimum, info.maximum, "pages"));
        return Err(StateError::Size { what: format!("memory {index}"), size, allowed }.into());
    }
    within(&format!("memory {index}"), size, limits.memory_bytes)?;
    let mut next = 0;
    for (page, contents) in &memory.pages {
        let wrong = |problem| Err(StateError::Page { memory: index, page: *page, problem }.into());
        if *page < next {
            return wrong("is not in ascending order");
        }
        if *page >= page_count(size) {
            return wrong("lies behind the memory's end");
        }
        let length = (size - page * PAGE_SIZE as u64).min(PAGE_SIZE as u64);
        if matches!(contents, Page::Bytes(bytes) if bytes.len() as u64 != length) {
            return wrong("has the wrong length");
        }
        next = page + 1;
    }
    Ok(())
}

fn number(what: &'static str, found: usize, expected: usize) -> Result<(), StateError> {
    if found == expected { Ok(()) } else { Err(StateError::Number { what, found, expected }) }
}

fn within(what: &str, wanted: u64, limit: u64) -> Result<(), Error> {
    if wanted <= limit { Ok(()) } else { Err(Error::Limit { what: what.to_owned(), wanted, limit }) }
}

fn range(minimum: u64, maximum: Option<u64>, unit: &str) -> String {
    maximum.map_or_else(|| format!("{minimum} {unit} or more"), |maximum| format!("{minimum} to {maximum} {unit}"))
}

fn segments(what: &'static str, list: &[u32], count: u32) -> Result<(), StateError> {
    let mut next = 0;
    for segment in list {
        if *segment < next || *segment >= count {
            return Err(StateError::Segment { what, segment: *segment });
        }
        next = segment + 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exception(inner: &[Option<u32>]) -> Exception {
        Exception { tag: 0, values: inner.iter().map(|inner| Value::ExnRef(*inner)).collect() }
    }

    #[test]
    fn exceptions_are_created_inside_out() {
        let list = [exception(&[Some(2), Some(1)]), exception(&[None]), exception(&[Some(1), Some(1)])];
        assert_eq!(creation_order(&list), Ok(vec![1, 2, 0]));
        let list = [exception(&[]), exception(&[Some(2)]), exception(&[Some(0), Some(1)])];
        assert_eq!(creation_order(&list), Err(StateError::ExceptionCycle(1)));
        assert!(matches!(creation_order(&[exception(&[Some(7)])]), Err(StateError::Exception { exception: 7, .. })));
    }

    #[test]
    fn deep_nesting_takes_no_native_stack() {
        let list: Vec<_> = (1..=1_000_000).map(|next| exception(&[(next < 1_000_000).then_some(next)])).collect();
        assert_eq!(creation_order(&list).unwrap().first(), Some(&999_999));
    }
}
