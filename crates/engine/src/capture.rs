//! From a stopped instance to plain data.

use core::ops::Range;
use std::collections::HashMap;

use dunlin_base::{PAGE_SIZE, Value, ValueType, is_zero, page_count};
use dunlin_instrument::{ControlLayout, Map, Phase, Safepoint};
use dunlin_snapshot::{Frame, Memory, Page, State, Table};

use crate::error::{Cause, Error};
use crate::machine::{Machine, TableId};
use crate::module::{Fresh, ModuleInfo};

/// What of memory is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Every page that differs from a fresh memory.
    All,
    /// Only the sizes.
    None,
}

/// Reads everything but the host's state; frames only if asked for. Exceptions are numbered in the order in which
/// they appear in frames, globals, tables and exceptions.
pub(crate) fn read(
    machine: &mut dyn Machine,
    map: &Map,
    info: &ModuleInfo,
    frames: bool,
    pages: Pages,
) -> Result<State, Error> {
    machine.forget_exceptions();
    let mut state = State::default();
    if frames {
        state.frames = read_frames(machine, map)?;
    }
    for (index, _) in (0_u32..).zip(&map.globals).filter(|(_, global)| global.mutable) {
        let value = machine.global(index);
        state.globals.push(value.map_err(|source| Error::Value { place: format!("global {index}"), source })?);
    }
    for index in 0..map.tables.len() as u32 {
        state.tables.push(Table { elements: table(machine, index)? });
    }
    for index in 0..map.memories.len() as u32 {
        let fresh = info.fresh.get(index as usize).filter(|_| pages == Pages::All);
        state.memories.push(fresh.map_or_else(
            || Memory { size: machine.memory(index).len() as u64, pages: Vec::new() },
            |fresh| read_memory(machine, index, fresh),
        ));
    }
    state.dropped_data = dropped(machine, map.control.dropped_data, map.data_segments)?;
    state.dropped_elems = dropped(machine, map.control.dropped_elems, map.elem_segments)?;
    let mut next = 0;
    while next < machine.exceptions() {
        let exception = machine.exception(next);
        state.exceptions.push(exception.map_err(|source| Error::Value { place: format!("exception {next}"), source })?);
        next += 1;
    }
    number_exceptions(&mut state);
    Ok(state)
}

/// Numbers exceptions in the order in which they appear. The machine numbers them as it meets them, in tables that hold
/// what frames save in the order of saving, and beside it what was saved before.
fn number_exceptions(state: &mut State) {
    let found = core::mem::take(&mut state.exceptions);
    let mut order: Vec<u32> = Vec::new();
    let mut numbers = HashMap::new();
    let mut visit = |value: &mut Value, order: &mut Vec<u32>| {
        if let Value::ExnRef(Some(number)) = value {
            *number = *numbers.entry(*number).or_insert_with(|| {
                order.push(*number);
                order.len() as u32 - 1
            });
        }
    };
    let frames = state.frames.iter_mut().flat_map(|frame| &mut frame.values);
    let tables = state.tables.iter_mut().flat_map(|table| &mut table.elements);
    frames.chain(&mut state.globals).chain(tables).for_each(|value| visit(value, &mut order));
    while let Some(number) = order.get(state.exceptions.len()) {
        let mut exception = found[*number as usize].clone();
        exception.values.iter_mut().for_each(|value| visit(value, &mut order));
        state.exceptions.push(exception);
    }
}

/// The function of the outermost frame of a saved stack.
pub(crate) fn outermost(machine: &dyn Machine, map: &Map) -> Option<u32> {
    let top = machine.word(ControlLayout::TOP);
    let trailer = top.checked_sub(ControlLayout::TRAILER).filter(|at| *at >= map.control.frames)?;
    let bytes = machine.read_control(trailer, 4)?;
    Some(map.safepoint(u32::from_le_bytes(*bytes.first_chunk()?))?.function)
}

/// The elements of a table of the original module.
pub(crate) fn table(machine: &mut dyn Machine, index: u32) -> Result<Vec<Value>, Error> {
    machine
        .read_table(TableId::Program(index))
        .map_err(|source| Error::Value { place: format!("table {index}"), source })
}

/// Frame records lie innermost first, each with its trailer behind it: read backwards, they come outermost first.
fn read_frames(machine: &mut dyn Machine, map: &Map) -> Result<Vec<Frame>, Error> {
    let damaged = |what: &str| Error::Unwind(format!("the saved stack is damaged: {what}"));
    let bottom = map.control.frames;
    let top = machine.word(ControlLayout::TOP);
    let length = top.checked_sub(bottom).ok_or_else(|| damaged("it ends before it begins"))?;
    let bytes = machine.read_control(bottom, length).ok_or_else(|| damaged("it ends beyond its memory"))?;
    let mut carriers: Vec<Option<Vec<Value>>> = vec![None; map.ref_tables.len()];
    let mut frames = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (before, trailer) = rest.split_last_chunk::<8>().ok_or_else(|| damaged("a record is cut off"))?;
        let word = |at: usize| u32::from_le_bytes([trailer[at], trailer[at + 1], trailer[at + 2], trailer[at + 3]]);
        let number = word(0);
        let phase = match word(4) {
            0 => Phase::At,
            1 => Phase::Inside,
            _ => return Err(damaged("a record has no valid phase")),
        };
        let safepoint = map.safepoint(number).ok_or_else(|| damaged("a record has no valid safepoint"))?;
        let start = before.len().checked_sub(safepoint.values_size() as usize);
        let start = start.ok_or_else(|| damaged("a record is cut off"))?;
        let values = read_values(machine, map, safepoint, &before[start..], &mut carriers, frames.len())?;
        frames.push(Frame { safepoint: number, phase, values });
        rest = &before[..start];
    }
    if frames.is_empty() {
        return Err(damaged("it holds no frame"));
    }
    Ok(frames)
}

fn read_values(
    machine: &mut dyn Machine,
    map: &Map,
    safepoint: &Safepoint,
    mut bytes: &[u8],
    carriers: &mut [Option<Vec<Value>>],
    depth: usize,
) -> Result<Vec<Value>, Error> {
    fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
        let (first, rest) = bytes.split_first_chunk().expect("a record holds as many bytes as its values have");
        *bytes = rest;
        *first
    }
    let mut values = Vec::with_capacity(safepoint.live.len());
    for live in &safepoint.live {
        values.push(match live.ty {
            ValueType::I32 => Value::I32(i32::from_le_bytes(take(&mut bytes))),
            ValueType::I64 => Value::I64(i64::from_le_bytes(take(&mut bytes))),
            ValueType::F32 => Value::F32(u32::from_le_bytes(take(&mut bytes))),
            ValueType::F64 => Value::F64(u64::from_le_bytes(take(&mut bytes))),
            ValueType::V128 => Value::V128(u128::from_le_bytes(take(&mut bytes))),
            ValueType::FuncRef | ValueType::TypedFuncRef(_) | ValueType::ExternRef | ValueType::ExnRef => {
                let index = u32::from_le_bytes(take(&mut bytes)) as usize;
                let place = || format!("{:?} of frame {depth} ({})", live.slot, live.ty);
                let lacking = |text: &str| Error::Value { place: place(), source: Cause::new(text) };
                let number = map.ref_table(live.ty).ok_or_else(|| lacking("there is no table for its type"))?;
                let carrier = &mut carriers[number as usize];
                if carrier.is_none() {
                    let elements = machine.read_table(TableId::References(number));
                    *carrier = Some(elements.map_err(|source| Error::Value { place: place(), source })?);
                }
                let element = carrier.as_ref().and_then(|elements| elements.get(index)).copied();
                element.ok_or_else(|| lacking("it is not in the table for its type"))?
            }
        });
    }
    Ok(values)
}

fn dropped(machine: &dyn Machine, offset: u32, segments: u32) -> Result<Vec<u32>, Error> {
    let bytes = machine.read_control(offset, segments);
    let bytes = bytes.ok_or_else(|| Error::Instrumentation("the control memory is too small".to_owned()))?;
    Ok((0..).zip(bytes).filter(|(_, dropped)| *dropped != 0).map(|(index, _)| index).collect())
}

/// The pages that differ from the fresh memory.
fn read_memory(machine: &dyn Machine, index: u32, fresh: &Fresh) -> Memory {
    let bytes = machine.memory(index);
    let size = bytes.len() as u64;
    let total = page_count(size);
    let all = |ranges: &mut Vec<Range<u64>>| ranges.push(0..total);
    let ranges = machine.populated(index, total).unwrap_or_else(|| {
        let mut ranges = Vec::with_capacity(1);
        all(&mut ranges);
        ranges
    });
    let mut pages = Vec::new();
    let mut fresh = fresh.pages();
    let mut next = 0;
    for range in ranges {
        // A page that was never touched is zero; that is a difference only where data was, and putting the data
        // there touched it, unless the system took it away since.
        unpopulated(&mut fresh, next..range.start, &mut pages);
        next = range.end;
        for number in range {
            let start = number as usize * PAGE_SIZE;
            let page = &bytes[start..bytes.len().min(start + PAGE_SIZE)];
            let page = match fresh.get(number) {
                None if is_zero(page) => continue,
                Some(same) if page == &same[..page.len()] => continue,
                Some(_) if is_zero(page) => Page::Zero,
                _ => Page::Bytes(page.into()),
            };
            pages.push((number, page));
        }
    }
    unpopulated(&mut fresh, next..total, &mut pages);
    Memory { size, pages }
}

fn unpopulated(fresh: &mut crate::module::FreshPages<'_>, range: Range<u64>, pages: &mut Vec<(u64, Page)>) {
    let mut number = range.start;
    while let Some(at) = fresh.next_from(number).filter(|at| *at < range.end) {
        if fresh.get(at).is_some_and(|page| !is_zero(page)) {
            pages.push((at, Page::Zero));
        }
        number = at + 1;
    }
}
