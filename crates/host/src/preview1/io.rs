//! `fd_read`, `fd_write` and their positioned variants, over everything that can be read and written. The state is
//! that of the objects.

use crate::errno::Errno;
use crate::memory::{self, Memory};
use crate::preview1::descriptors::{Descriptor, Object};
use crate::preview1::{Break, Params, rights};
use crate::world::World;

pub(crate) fn fd_read(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let vectors = memory.vectors(params.u32(1), params.u32(2))?;
    let result = params.u32(3);
    memory.range(result, 1, 4)?;
    let Descriptor { common, object } = world.table.get_mut(params.u32(0), rights::FD_READ)?;
    let read = match object {
        Object::File(file) => file.read(memory, &vectors)?,
        Object::Stdin => world.streams.read(memory, &vectors, common.nonblocking, &world.waker)?,
        Object::Connection(connection) => connection.read(memory, &vectors, common.nonblocking, &world.waker)?,
        Object::Stdout | Object::Stderr | Object::Directory(_) | Object::Listener(_) => {
            return Err(Errno::Badf.into());
        }
    };
    Ok(memory.write_u32(result, read as u32)?)
}

pub(crate) fn fd_pread(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let vectors = memory.vectors(params.u32(1), params.u32(2))?;
    let result = params.u32(4);
    memory.range(result, 1, 4)?;
    let read = match &world.table.get(params.u32(0), rights::FD_READ | rights::FD_SEEK)?.object {
        Object::File(file) => file.read_at(memory, &vectors, params.u64(3))?,
        Object::Stdin | Object::Connection(_) => return Err(Errno::Spipe.into()),
        _ => return Err(Errno::Badf.into()),
    };
    Ok(memory.write_u32(result, read as u32)?)
}

pub(crate) fn fd_write(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let vectors = memory.vectors(params.u32(1), params.u32(2))?;
    let result = params.u32(3);
    memory.range(result, 1, 4)?;
    let Descriptor { common, object } = world.table.get_mut(params.u32(0), rights::FD_WRITE)?;
    let (waker, limits) = (&world.waker, &world.limits);
    let written = match object {
        Object::File(file) => file.write(memory, &vectors, limits)?,
        Object::Stdout => world.streams.write(false, memory, &vectors, common.nonblocking, waker, limits)?,
        Object::Stderr => world.streams.write(true, memory, &vectors, common.nonblocking, waker, limits)?,
        Object::Connection(connection) => connection.write(memory, &vectors, common.nonblocking, waker)?,
        Object::Stdin | Object::Directory(_) | Object::Listener(_) => return Err(Errno::Badf.into()),
    };
    debug_assert!(written <= memory::total(&vectors), "no more is written than was given");
    Ok(memory.write_u32(result, written as u32)?)
}

pub(crate) fn fd_pwrite(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let vectors = memory.vectors(params.u32(1), params.u32(2))?;
    let result = params.u32(4);
    memory.range(result, 1, 4)?;
    let written = match &world.table.get(params.u32(0), rights::FD_WRITE | rights::FD_SEEK)?.object {
        Object::File(file) => file.write_at(memory, &vectors, params.u64(3), &world.limits)?,
        Object::Stdout | Object::Stderr | Object::Connection(_) => return Err(Errno::Spipe.into()),
        _ => return Err(Errno::Badf.into()),
    };
    Ok(memory.write_u32(result, written as u32)?)
}
