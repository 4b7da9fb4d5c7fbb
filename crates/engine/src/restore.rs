//! From plain data to an instance that can be resumed. The data has been validated.

use dunlin_base::{PAGE_SIZE, Value};
use dunlin_instrument::{ControlLayout, ControlState, Map, Phase, exports};
use dunlin_snapshot::{Memory, Page, State};

use crate::error::{Cause, Error};
use crate::machine::{Callee, End, Machine, TableId};
use crate::module::ModuleInfo;
use crate::validate::creation_order;

/// Writes `state` into a fresh instance, and leaves it rewinding. `drops` tells whether the module drops segments.
/// `filled`: its memories have their contents already, and this is in its tables.
pub(crate) fn write(
    machine: &mut dyn Machine,
    map: &Map,
    info: &ModuleInfo,
    state: &State,
    drops: bool,
    filled: Option<&[Vec<Value>]>,
) -> Result<(), Error> {
    for (index, memory) in (0_u32..).zip(&state.memories) {
        let unknown = filled.is_none() && info.fresh.get(index as usize).is_none_or(|fresh| fresh.unknown);
        let page_size_log2 = map.memories[index as usize].page_size_log2;
        write_memory(machine, index, memory, page_size_log2, unknown)
            .map_err(|source| Error::Value { place: format!("memory {index}"), source })?;
    }
    // An exception's payload may refer to other exceptions, which must be there first.
    for index in creation_order(&state.exceptions)? {
        machine
            .create_exception(index, &state.exceptions[index])
            .map_err(|source| Error::Value { place: format!("exception {index}"), source })?;
    }
    for (index, table) in (0_u32..).zip(&state.tables) {
        // Most programs never change a table, and each element takes a microsecond.
        if filled.and_then(|tables| tables.get(index as usize)).is_some_and(|there| *there == table.elements) {
            continue;
        }
        machine
            .write_table(TableId::Program(index), &table.elements)
            .map_err(|source| Error::Value { place: format!("table {index}"), source })?;
    }
    let mutable = (0_u32..).zip(&map.globals).filter(|(_, global)| global.mutable);
    for ((index, _), value) in mutable.zip(&state.globals) {
        machine.set_global(index, value).map_err(|source| Error::Value { place: format!("global {index}"), source })?;
    }
    drop_segments(machine, map, state, drops)?;
    write_frames(machine, map, state)?;
    machine.forget_exceptions();
    machine.set_flags(0);
    machine.set_word(ControlLayout::STATE, ControlState::Rewinding as u32);
    Ok(())
}

fn write_memory(
    machine: &mut dyn Machine,
    index: u32,
    memory: &Memory,
    page_size_log2: u32,
    unknown: bool,
) -> Result<(), Cause> {
    let missing = memory.size.saturating_sub(machine.memory(index).len() as u64) >> page_size_log2;
    if missing > 0 {
        machine.grow_memory(index, missing)?;
    }
    let bytes = machine.memory_mut(index);
    if unknown {
        bytes.fill(0);
    }
    for (number, page) in &memory.pages {
        let start = usize::try_from(number * PAGE_SIZE as u64).map_err(Cause::new)?;
        let end = bytes.len().min(start.saturating_add(PAGE_SIZE));
        let target = bytes.get_mut(start..end).ok_or_else(|| Cause::new("a page lies behind the memory's end"))?;
        match page {
            Page::Zero => target.fill(0),
            Page::Bytes(source) if source.len() == target.len() => target.copy_from_slice(source),
            Page::Bytes(_) => return Err(Cause::new("a page has the wrong length")),
        }
    }
    Ok(())
}

fn drop_segments(machine: &mut dyn Machine, map: &Map, state: &State, drops: bool) -> Result<(), Error> {
    let control = &map.control;
    let outside = |source| Error::Value { place: "the list of dropped segments".to_owned(), source };
    for (base, dropped) in [(control.dropped_data, &state.dropped_data), (control.dropped_elems, &state.dropped_elems)]
    {
        for index in dropped {
            machine.write_control(base + index, &[1]).map_err(outside)?;
        }
    }
    if state.dropped_data.is_empty() && state.dropped_elems.is_empty() {
        return Ok(());
    }
    if !drops {
        return Err(outside(Cause::new("the module never drops one")));
    }
    match machine.call(Callee::Export(exports::DROP), &[])? {
        End::Finished(_) => Ok(()),
        other => Err(Error::Rewind(format!("dropping segments ended with {other:?}"))),
    }
}

/// Fills the private tables and writes the frame records, innermost first.
fn write_frames(machine: &mut dyn Machine, map: &Map, state: &State) -> Result<(), Error> {
    let mut carriers: Vec<Vec<Value>> = vec![Vec::new(); map.ref_tables.len()];
    let mut bytes = Vec::new();
    for (depth, frame) in state.frames.iter().enumerate().rev() {
        let safepoint = map
            .safepoint(frame.safepoint)
            .ok_or(crate::validate::StateError::Safepoint { frame: depth, safepoint: frame.safepoint })?;
        for (value, live) in frame.values.iter().zip(&safepoint.live) {
            match value {
                Value::I32(value) => bytes.extend_from_slice(&value.to_le_bytes()),
                Value::I64(value) => bytes.extend_from_slice(&value.to_le_bytes()),
                Value::F32(bits) => bytes.extend_from_slice(&bits.to_le_bytes()),
                Value::F64(bits) => bytes.extend_from_slice(&bits.to_le_bytes()),
                Value::V128(bits) => bytes.extend_from_slice(&bits.to_le_bytes()),
                Value::FuncRef(_) | Value::ExternRef(_) | Value::ExnRef(_) => {
                    let number = map
                        .ref_table(live.ty)
                        .ok_or_else(|| Error::Instrumentation(format!("there is no private table for {}", live.ty)))?;
                    let carrier = &mut carriers[number as usize];
                    bytes.extend_from_slice(&(carrier.len() as u32).to_le_bytes());
                    carrier.push(*value);
                }
            }
        }
        bytes.extend_from_slice(&frame.safepoint.to_le_bytes());
        bytes.extend_from_slice(&u32::from(frame.phase == Phase::Inside).to_le_bytes());
    }
    for (number, carrier) in (0_u32..).zip(&carriers) {
        machine.write_table(TableId::References(number), carrier).map_err(|source| Error::Value {
            place: format!("the references of type {} on the stack", map.ref_tables[number as usize]),
            source,
        })?;
    }
    let stack = |source| Error::Value { place: "the stack".to_owned(), source };
    machine.write_control(map.control.frames, &bytes).map_err(stack)?;
    machine.set_word(ControlLayout::TOP, map.control.frames + bytes.len() as u32);
    Ok(())
}
