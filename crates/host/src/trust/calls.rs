//! The functions. Each checks its pointers before it does anything.

use dunlin_base::ValueType::{I32, I64};

use super::{MAX_KEY, MAX_SLICE, MAX_VALUE, MAX_VALUES, MODULE};
use crate::errno::Errno;
use crate::interface::{Function, Interface};
use crate::memory::Memory;
use crate::preview1::{Break, Params};
use crate::world::World;

/// All functions. Results go to a handle (32 bits) and a length (64 bits) in the program's memory.
pub(crate) static INTERFACE: Interface = Interface {
    module: MODULE,
    // Beyond all of preview 1.
    first: 0x1000,
    functions: &[
        // (challenge, *handle, *length): evidence of this instance for 32 bytes of somebody else's.
        Function { name: "attest", params: &[I32; 3], run: attest },
        // (name, length of it, *handle, *length): a secret of the owner or a TLS key.
        Function { name: "authenticate", params: &[I32; 4], run: authenticate },
        // (key, length of it, *handle, *length): a value of the sealed store.
        Function { name: "get", params: &[I32; 4], run: get },
        // (key, length of it, slice, length of it, more): the next slice of a value; with more = 0 the last one.
        Function { name: "put", params: &[I32; 5], run: put },
        // (*handle, *length): the keys of the sealed store, each behind its length as 32 bits.
        Function { name: "getkeys", params: &[I32; 2], run: getkeys },
        // (module, length of it, configuration, length of it, *handle, *length): its output.
        Function { name: "run", params: &[I32; 6], run },
        // (handle, offset, buffer, length of it, *read): a slice of a result.
        Function { name: "read", params: &[I32, I64, I32, I32, I32], run: read },
        // (handle)
        Function { name: "dispose", params: &[I32], run: dispose },
    ],
};

fn key<'a>(memory: &'a Memory<'_>, at: u32, len: u32) -> Result<&'a str, Errno> {
    if len as usize > MAX_KEY {
        return Err(Errno::Nametoolong);
    }
    if len == 0 { Err(Errno::Inval) } else { memory.text(at, len) }
}

/// Keeps a result and says where it is. The places were checked before, so that nothing is kept in vain.
fn give(world: &mut World, memory: &mut Memory<'_>, at: (u32, u32), bytes: Vec<u8>) -> Result<(), Break> {
    let (handle, length) = world.trust.keep(bytes)?;
    memory.write_u32(at.0, handle)?;
    memory.write_u64(at.1, length)?;
    Ok(())
}

fn places(memory: &Memory<'_>, handle: u32, length: u32) -> Result<(u32, u32), Errno> {
    memory.range(handle, 4, 1)?;
    memory.range(length, 8, 1)?;
    Ok((handle, length))
}

fn attest(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let at = places(memory, params.u32(1), params.u32(2))?;
    let challenge: [u8; 32] = memory.bytes_mut(params.u32(0), 32)?.try_into().map_err(|_| Errno::Inval)?;
    let outcome = world.trust.around()?.attest(&challenge);
    let evidence = world.trust.told(outcome)?;
    give(world, memory, at, evidence)
}

fn authenticate(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let at = places(memory, params.u32(2), params.u32(3))?;
    let outcome = world.trust.around()?.authenticate(key(memory, params.u32(0), params.u32(1))?);
    let secret = world.trust.told(outcome)?;
    give(world, memory, at, secret)
}

fn get(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let at = places(memory, params.u32(2), params.u32(3))?;
    let outcome = world.trust.around()?.get(key(memory, params.u32(0), params.u32(1))?);
    let value = world.trust.told(outcome)?;
    give(world, memory, at, value)
}

fn put(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let around = world.trust.around()?;
    let key = key(memory, params.u32(0), params.u32(1))?.to_owned();
    let slice = memory.range(params.u32(2), params.u32(3), 1)?;
    let more = params.flags(4, 1)? == 1;
    if slice.len() > MAX_SLICE {
        return Err(Errno::Fbig.into());
    }
    // A slice of another value than the one that was begun begins that one, and gives up the first.
    let mut value = match world.trust.pending.take() {
        Some((begun, value)) if begun == key => value,
        _ => Vec::new(),
    };
    if value.len() + slice.len() > MAX_VALUE {
        return Err(Errno::Fbig.into());
    }
    value.extend_from_slice(memory.at(&slice));
    if more {
        world.trust.pending = Some((key, value));
        return Ok(());
    }
    let keys = around.keys();
    let keys = world.trust.told(keys)?;
    if keys.len() >= MAX_VALUES && !keys.contains(&key) {
        return Err(Errno::Fbig.into());
    }
    let outcome = around.put(&key, &value);
    Ok(world.trust.told(outcome)?)
}

fn getkeys(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let at = places(memory, params.u32(0), params.u32(1))?;
    let outcome = world.trust.around()?.keys();
    let keys = world.trust.told(outcome)?;
    let mut list = Vec::new();
    for key in keys {
        list.extend_from_slice(&(key.len() as u32).to_le_bytes());
        list.extend_from_slice(key.as_bytes());
    }
    give(world, memory, at, list)
}

fn run(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let at = places(memory, params.u32(4), params.u32(5))?;
    let configuration = memory.range(params.u32(2), params.u32(3), 1)?;
    if configuration.len() > MAX_SLICE {
        return Err(Errno::Fbig.into());
    }
    let module = key(memory, params.u32(0), params.u32(1))?;
    let outcome = world.trust.around()?.run(module, memory.at(&configuration));
    let output = world.trust.told(outcome)?;
    give(world, memory, at, output)
}

fn read(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let result = world.trust.results.get(&params.u32(0)).ok_or(Errno::Badf)?;
    let count_at = params.u32(4);
    memory.range(count_at, 4, 1)?;
    let buffer = memory.bytes_mut(params.u32(2), params.u32(3))?;
    let offset = usize::try_from(params.u64(1)).unwrap_or(usize::MAX);
    let rest = result.get(offset..).unwrap_or_default();
    let count = rest.len().min(buffer.len()).min(MAX_SLICE);
    buffer[..count].copy_from_slice(&rest[..count]);
    memory.write_u32(count_at, count as u32)?;
    Ok(())
}

fn dispose(world: &mut World, _: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    world.trust.results.remove(&params.u32(0)).map(|_| ()).ok_or(Errno::Badf.into())
}
