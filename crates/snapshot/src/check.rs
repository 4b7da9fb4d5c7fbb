//! What must be true of a state: in itself, and as the state of an instance of one module.

use dunlin_base::{PAGE_SIZE, Value, ValueType, is_zero, page_count};
use dunlin_instrument::{FunctionInfo, LiveValue, Map, MemoryInfo, Phase, Safepoint, TableInfo};

use crate::{Entry, Error, Exception, Frame, HOST_KINDS, Limits, Memory, Page, Problem, SectionKind, State, Table};

/// Checks a state that did not come through [`Envelope::decode`](crate::Envelope::decode), for instance one that was
/// received in parts, by the same rules.
///
/// # Errors
/// [`Error::State`].
pub fn check(state: &State, map: &Map, limits: &Limits) -> Result<(), Error> {
    let State { entry, frames, globals, tables, memories, dropped_data, dropped_elems, exceptions, host } = state;
    canonical(state)?;
    let at = |kind, item: Option<usize>| {
        move |problem| Error::State { kind, item: item.and_then(|item| u32::try_from(item).ok()), problem }
    };

    if let Some(entry) = entry {
        entry_of(map, entry).map_err(at(SectionKind::Entry, None))?;
    }
    limit("number of frames", frames.len() as u64, limits.frames.into()).map_err(at(SectionKind::Frames, None))?;
    let mut outer: Option<(usize, &Frame)> = None;
    for (index, one) in frames.iter().enumerate() {
        frame(map, one).map_err(at(SectionKind::Frames, Some(index)))?;
        if let Some((index, outer)) = outer {
            link(map, outer, Some(one)).map_err(at(SectionKind::Frames, Some(index)))?;
        }
        outer = Some((index, one));
    }
    if let Some((index, innermost)) = outer {
        link(map, innermost, None).map_err(at(SectionKind::Frames, Some(index)))?;
    }

    globals_of(map, globals).map_err(at(SectionKind::Globals, None))?;

    count("tables", tables.len(), map.tables.len()).map_err(at(SectionKind::Tables, None))?;
    let mut spent = 0;
    for (index, (table, info)) in tables.iter().zip(&map.tables).enumerate() {
        let Table { elements } = table;
        table_size(info, elements.len() as u64)
            .and_then(|()| spend(&mut spent, elements.len() as u64, "number of table elements", limits.table_elements))
            .and_then(|()| {
                let mut elements = (0..).zip(elements);
                elements.try_for_each(|(index, element)| value(map, index, element, info.ty, info.nullable))
            })
            .map_err(at(SectionKind::Tables, Some(index)))?;
    }

    count("memories", memories.len(), map.memories.len()).map_err(at(SectionKind::Memories, None))?;
    let (mut sizes, mut contents) = (0, 0);
    for (index, (memory, info)) in memories.iter().zip(&map.memories).enumerate() {
        let Memory { size, pages } = memory;
        let bytes = pages.iter().map(|(_, page)| if let Page::Bytes(bytes) = page { bytes.len() as u64 } else { 0 });
        memory_size(info, *size)
            .and_then(|()| spend(&mut sizes, *size, "memory size", limits.memory_bytes))
            .and_then(|()| spend(&mut contents, bytes.sum(), "size of page contents", limits.page_bytes))
            .map_err(at(SectionKind::Memories, Some(index)))?;
    }

    segments("data segment", dropped_data, map.data_segments)
        .and_then(|()| segments("element segment", dropped_elems, map.elem_segments))
        .map_err(at(SectionKind::Dropped, None))?;

    limit("number of exceptions", exceptions.len() as u64, limits.exceptions.into())
        .map_err(at(SectionKind::Exceptions, None))?;
    for (index, one) in exceptions.iter().enumerate() {
        exception(map, one).map_err(at(SectionKind::Exceptions, Some(index)))?;
    }

    let mut spent = 0;
    for section in host {
        spend(&mut spent, section.bytes.len() as u64, "size of host sections", limits.host_bytes)
            .map_err(at(SectionKind::from_number(HOST_KINDS | section.kind), None))?;
    }
    Ok(())
}

/// What must be true of a state in itself: everything that makes its bytes the only ones for it.
pub(crate) fn canonical(state: &State) -> Result<(), Error> {
    let at = |kind, item: Option<usize>, problem| {
        Err(Error::State { kind, item: item.and_then(|item| u32::try_from(item).ok()), problem })
    };
    if state.frames.is_empty() {
        return at(SectionKind::Frames, None, Problem::NoFrames);
    }
    match &state.entry {
        None => return at(SectionKind::Entry, None, Problem::NoEntry),
        Some(Entry::Export(name)) => {
            if let Err(problem) = limit("length of the entry's name", name.len() as u64, LONGEST_NAME) {
                return at(SectionKind::Entry, None, problem);
            }
        }
        Some(Entry::Start) => {}
    }
    for (index, memory) in state.memories.iter().enumerate() {
        if let Err(problem) = pages(memory) {
            return at(SectionKind::Memories, Some(index), problem);
        }
    }
    for list in [&state.dropped_data, &state.dropped_elems] {
        if !list.is_sorted_by(|a, b| a < b) {
            return at(SectionKind::Dropped, None, Problem::NotCanonical("segments are not in ascending order"));
        }
    }
    if let Err(problem) = exception_graph(state) {
        return at(SectionKind::Exceptions, None, problem);
    }
    for section in &state.host {
        if section.kind >= HOST_KINDS {
            let problem =
                Problem::Index { what: "host section kind", index: section.kind.into(), count: HOST_KINDS.into() };
            return at(SectionKind::Unknown(section.kind), None, problem);
        }
    }
    if let Some([_, second]) = state.host.array_windows().find(|[a, b]| a.kind >= b.kind) {
        let problem = Problem::NotCanonical("host sections are not in ascending order of their kinds");
        return at(SectionKind::Host(second.kind), None, problem);
    }
    Ok(())
}

fn pages(memory: &Memory) -> Result<(), Problem> {
    let Memory { size, pages } = memory;
    if !pages.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(Problem::NotCanonical("pages are not in ascending order"));
    }
    for (number, page) in pages {
        let expected = page_size(*size, *number)?;
        if let Page::Bytes(bytes) = page {
            count("bytes in a page", bytes.len(), expected)?;
            not_zero(bytes)?;
        }
    }
    Ok(())
}

/// Length of page `number` in a memory of `size` bytes.
pub(crate) fn page_size(size: u64, number: u64) -> Result<usize, Problem> {
    let left = number.checked_mul(PAGE_SIZE as u64).and_then(|start| size.checked_sub(start)).filter(|left| *left > 0);
    let left = left.ok_or(Problem::Page { page: number, count: page_count(size) })?;
    Ok(usize::try_from(left).unwrap_or(PAGE_SIZE).min(PAGE_SIZE))
}

/// A page of zeros has its own form.
pub(crate) fn not_zero(page: &[u8]) -> Result<(), Problem> {
    if is_zero(page) { Err(Problem::NotCanonical("a page of zeros is given as bytes")) } else { Ok(()) }
}

/// Exceptions are numbered in the order in which references to them appear (frames, globals, tables, then the
/// payloads of the exceptions themselves), all are referred to, and none contains itself.
pub(crate) fn exception_graph(state: &State) -> Result<(), Problem> {
    let frames = state.frames.iter().flat_map(|frame| &frame.values);
    let tables = state.tables.iter().flat_map(|table| &table.elements);
    let count = state.exceptions.len() as u64;
    let mut seen = 0u64;
    let visit = |value: &Value, seen: &mut u64| match value {
        Value::ExnRef(Some(index)) if u64::from(*index) >= count => {
            Err(Problem::Index { what: "exception", index: u64::from(*index), count })
        }
        Value::ExnRef(Some(index)) if u64::from(*index) > *seen => {
            Err(Problem::NotCanonical("exceptions are not in the order of their first appearance"))
        }
        Value::ExnRef(Some(index)) if u64::from(*index) == *seen => {
            *seen += 1;
            Ok(())
        }
        _ => Ok(()),
    };
    frames.chain(&state.globals).chain(tables).try_for_each(|value| visit(value, &mut seen))?;
    for (index, exception) in (0..).zip(&state.exceptions) {
        if index >= seen {
            return Err(Problem::NotCanonical("nothing refers to an exception"));
        }
        exception.values.iter().try_for_each(|value| visit(value, &mut seen))?;
    }
    acyclic(&state.exceptions)
}

/// Takes exceptions away as long as there is one that no other contains. What remains is a cycle.
fn acyclic(exceptions: &[Exception]) -> Result<(), Problem> {
    let inner = |exception: &Exception| {
        exception
            .values
            .iter()
            .filter_map(|value| if let Value::ExnRef(index) = value { *index } else { None })
            .collect()
    };
    let mut containers = vec![0u64; exceptions.len()];
    for inside in exceptions.iter().flat_map(|exception| -> Vec<u32> { inner(exception) }) {
        if let Some(containers) = containers.get_mut(inside as usize) {
            *containers += 1;
        }
    }
    let mut free: Vec<usize> =
        (0..).zip(&containers).filter(|(_, count)| **count == 0).map(|(index, _)| index).collect();
    let mut taken = 0;
    while let Some(exception) = free.pop().and_then(|index| exceptions.get(index)) {
        taken += 1;
        for inside in inner(exception) {
            if let Some(containers) = containers.get_mut(inside as usize) {
                *containers -= 1;
                if *containers == 0 {
                    free.push(inside as usize);
                }
            }
        }
    }
    if taken == exceptions.len() {
        return Ok(());
    }
    let exception = (0..).zip(&containers).find(|(_, count)| **count > 0).map_or(0, |(index, _)| index);
    Err(Problem::ExceptionCycle { exception })
}

/// The longest name of an entry. Compilers make names of some hundred bytes at most.
pub(crate) const LONGEST_NAME: u64 = 1 << 16;

/// The module has the entry, as far as its map tells: it does not know the exports.
pub(crate) fn entry_of(map: &Map, entry: &Entry) -> Result<(), Problem> {
    if *entry == Entry::Start && map.start.is_none() { Err(Problem::NoStart) } else { Ok(()) }
}

/// The safepoint of a frame.
pub(crate) fn safepoint(map: &Map, number: u32) -> Result<&Safepoint, Problem> {
    let unknown = Problem::Index { what: "safepoint", index: number.into(), count: map.safepoints.len() as u64 };
    map.safepoint(number).ok_or(unknown)
}

/// A frame's values are the live ones of its safepoint.
pub(crate) fn frame(map: &Map, frame: &Frame) -> Result<(), Problem> {
    let live = &safepoint(map, frame.safepoint)?.live;
    count("live values", frame.values.len(), live.len())?;
    let mut values = (0..).zip(frame.values.iter().zip(live));
    values.try_for_each(|(index, (found, live))| value(map, index, found, live.ty, true))
}

/// A frame calls the one after it, the last one calls nothing or the host.
pub(crate) fn link(map: &Map, frame: &Frame, next: Option<&Frame>) -> Result<(), Problem> {
    let number = frame.safepoint;
    let here = safepoint(map, number)?;
    match (next, frame.phase, here.kind) {
        (None, Phase::At, _) => Ok(()),
        (None, Phase::Inside, kind) if kind.can_reissue() => Ok(()),
        (None, Phase::Inside, _) => Err(Problem::CallWithoutCallee { safepoint: number }),
        (Some(next), Phase::Inside, kind) if kind.can_have_callee() => {
            let callee = safepoint(map, next.safepoint)?.function;
            let results = function(map, callee)?.results.as_slice();
            // After a call its results are the last live values, so their types stand at the end of the list.
            let expected = here.live.len().checked_sub(results.len()).and_then(|start| here.live.get(start..));
            let fit = |expected: &[LiveValue]| expected.iter().zip(results).all(|(live, ty)| fits(*ty, live.ty));
            if expected.is_some_and(fit) { Ok(()) } else { Err(Problem::Results { safepoint: number, callee }) }
        }
        (Some(_), _, _) => Err(Problem::NotInCall { safepoint: number }),
    }
}

/// Whether a result of type `found` can stand where a call site has `expected`. Equal function types can have
/// different indices, so two typed function references are left to the engine.
fn fits(found: ValueType, expected: ValueType) -> bool {
    found == expected
        || matches!((found, expected), (ValueType::TypedFuncRef(_), ValueType::FuncRef | ValueType::TypedFuncRef(_)))
}

/// The values are those of the mutable globals.
pub(crate) fn globals_of(map: &Map, globals: &[Value]) -> Result<(), Problem> {
    count("mutable globals", globals.len(), mutable_globals(map))?;
    let infos = map.globals.iter().filter(|global| global.mutable);
    let mut values = (0..).zip(globals.iter().zip(infos));
    values.try_for_each(|(index, (found, info))| value(map, index, found, info.ty, info.nullable))
}

pub(crate) fn mutable_globals(map: &Map) -> usize {
    map.globals.iter().filter(|global| global.mutable).count()
}

/// A table has a size that it can have grown to.
pub(crate) fn table_size(info: &TableInfo, found: u64) -> Result<(), Problem> {
    size(found, info.minimum, info.maximum.unwrap_or(u64::MAX), 1)
}

/// A memory has a size that it can have grown to.
pub(crate) fn memory_size(info: &MemoryInfo, found: u64) -> Result<(), Problem> {
    let bytes = |pages: u64| {
        let bytes = u128::from(pages).checked_shl(info.page_size_log2).unwrap_or(u128::MAX);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    };
    let addressable = if info.memory64 { u64::MAX } else { 1 << 32 };
    let maximum = info.maximum.map_or(addressable, bytes).min(addressable);
    size(found, bytes(info.minimum), maximum, bytes(1))
}

fn size(found: u64, minimum: u64, maximum: u64, multiple_of: u64) -> Result<(), Problem> {
    if (minimum..=maximum).contains(&found) && found.is_multiple_of(multiple_of) {
        Ok(())
    } else {
        Err(Problem::Size { found, minimum, maximum, multiple_of })
    }
}

/// Dropped segments exist.
pub(crate) fn segments(what: &'static str, dropped: &[u32], count: u32) -> Result<(), Problem> {
    match dropped.iter().find(|index| **index >= count) {
        Some(index) => Err(Problem::Index { what, index: u64::from(*index), count: count.into() }),
        None => Ok(()),
    }
}

/// An exception's payload is that of its tag.
pub(crate) fn exception(map: &Map, exception: &Exception) -> Result<(), Problem> {
    let types = payload(map, exception.tag)?;
    count("payload values", exception.values.len(), types.len())?;
    let mut values = (0..).zip(exception.values.iter().zip(types));
    values.try_for_each(|(index, (found, ty))| value(map, index, found, *ty, true))
}

/// The payload types of a tag.
pub(crate) fn payload(map: &Map, tag: u32) -> Result<&[ValueType], Problem> {
    let unknown = Problem::Index { what: "tag", index: tag.into(), count: map.tags.len() as u64 };
    usize::try_from(tag).ok().and_then(|tag| map.tags.get(tag)).map(Vec::as_slice).ok_or(unknown)
}

/// A value can stand where the module has type `ty`. Exceptions are looked at by [`exception_graph`]; host
/// references by the host.
pub(crate) fn value(map: &Map, index: u64, found: &Value, ty: ValueType, nullable: bool) -> Result<(), Problem> {
    if !found.is_a(ty) {
        return Err(Problem::Type { index, found: *found, expected: ty });
    }
    match found {
        Value::FuncRef(None) | Value::ExternRef(None) | Value::ExnRef(None) if !nullable => {
            Err(Problem::Null { index })
        }
        Value::FuncRef(Some(number)) if !function(map, *number)?.escapes => {
            Err(Problem::NotReferable { index, function: *number })
        }
        _ => Ok(()),
    }
}

fn function(map: &Map, number: u32) -> Result<&FunctionInfo, Problem> {
    let unknown = Problem::Index { what: "function", index: number.into(), count: map.functions.len() as u64 };
    usize::try_from(number).ok().and_then(|number| map.functions.get(number)).ok_or(unknown)
}

pub(crate) fn count(what: &'static str, found: usize, expected: usize) -> Result<(), Problem> {
    if found == expected {
        Ok(())
    } else {
        Err(Problem::Count { what, found: found as u64, expected: expected as u64 })
    }
}

pub(crate) fn limit(what: &'static str, value: u64, limit: u64) -> Result<(), Problem> {
    if value > limit { Err(Problem::Limit { what, value, limit }) } else { Ok(()) }
}

/// Adds `amount` to what was spent of a limit.
pub(crate) fn spend(spent: &mut u64, amount: u64, what: &'static str, most: u64) -> Result<(), Problem> {
    *spent = spent.saturating_add(amount);
    limit(what, *spent, most)
}
