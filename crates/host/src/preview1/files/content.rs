//! What is in a file: reading, writing, size, offset.

use std::ops::Range;

use rustix::fs::Advice;

use crate::config::Limits;
use crate::errno::Errno;
use crate::memory::{self, Memory};
use crate::preview1::descriptors::{Object, Table};
use crate::preview1::fdstat::flags;
use crate::preview1::files::backing::To;
use crate::preview1::files::{File, file};
use crate::preview1::{Break, Params, rights};
use crate::world::World;

/// Where `fd_seek` counts from.
const SET: u32 = 0;
const CURRENT: u32 = 1;
const END: u32 = 2;

impl File {
    /// Reads from the offset and advances it.
    pub(crate) fn read(&mut self, memory: &mut Memory<'_>, vectors: &[Range<usize>]) -> Result<usize, Errno> {
        let read = self.read_at(memory, vectors, self.offset)?;
        self.offset = self.offset.checked_add(read as u64).ok_or(Errno::Overflow)?;
        Ok(read)
    }

    /// Reads from `offset`. 0 at the end.
    pub(crate) fn read_at(
        &self,
        memory: &mut Memory<'_>,
        vectors: &[Range<usize>],
        offset: u64,
    ) -> Result<usize, Errno> {
        self.content.read_at(memory, vectors, offset)
    }

    /// Writes at the offset, or at the end of a file in append mode, and advances the offset to behind it.
    pub(crate) fn write(
        &mut self,
        memory: &Memory<'_>,
        vectors: &[Range<usize>],
        limits: &Limits,
    ) -> Result<usize, Errno> {
        let written = self.write_at(memory, vectors, self.offset, limits)?;
        self.offset = if self.append {
            self.content.len()?
        } else {
            self.offset.checked_add(written as u64).ok_or(Errno::Overflow)?
        };
        Ok(written)
    }

    /// Writes at `offset`, or at the end of a file in append mode.
    pub(crate) fn write_at(
        &self,
        memory: &Memory<'_>,
        vectors: &[Range<usize>],
        offset: u64,
        limits: &Limits,
    ) -> Result<usize, Errno> {
        let start = if self.append && limits.file_bytes.is_some() { self.content.len()? } else { offset };
        check_size(start.checked_add(memory::total(vectors) as u64), limits)?;
        let written = self.content.write_at(memory, vectors, if self.append { To::End } else { To::Offset(offset) })?;
        if self.synchronous != 0 {
            self.content.sync(self.synchronous & (flags::SYNC | flags::RSYNC) == 0)?;
        }
        Ok(written)
    }
}

/// `EFBIG` when a file may not become as large as `end`.
fn check_size(end: Option<u64>, limits: &Limits) -> Result<(), Errno> {
    match (end, limits.file_bytes) {
        // Without a limit the system decides.
        (None, Some(_)) => Err(Errno::Fbig),
        (Some(end), Some(limit)) if end > limit => Err(Errno::Fbig),
        _ => Ok(()),
    }
}

/// The file behind a descriptor that can be sought: `ESPIPE` for a stream, `EBADF` for what has no bytes.
fn seekable(table: &mut Table, fd: u32, rights: u64) -> Result<&mut File, Errno> {
    match &mut table.get_mut(fd, rights)?.object {
        Object::File(file) => Ok(file),
        Object::Directory(_) => Err(Errno::Badf),
        _ => Err(Errno::Spipe),
    }
}

pub(crate) fn fd_seek(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let delta = params.u64(1).cast_signed();
    let whence = params.u32(2) & 0xff;
    let right = if delta == 0 && whence == CURRENT { rights::FD_TELL } else { rights::FD_SEEK };
    memory.range(params.u32(3), 1, 8)?;
    let file = seekable(&mut world.table, params.u32(0), right)?;
    let base = match whence {
        SET => 0,
        CURRENT => file.offset,
        END => file.content.len()?,
        _ => return Err(Errno::Inval.into()),
    };
    file.offset = base.checked_add_signed(delta).ok_or(Errno::Inval)?;
    Ok(memory.write_u64(params.u32(3), file.offset)?)
}

pub(crate) fn fd_tell(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let file = seekable(&mut world.table, params.u32(0), rights::FD_TELL)?;
    Ok(memory.write_u64(params.u32(1), file.offset)?)
}

pub(crate) fn fd_advise(world: &mut World, _: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let advice = match params.u32(3) & 0xff {
        0 => Advice::Normal,
        1 => Advice::Sequential,
        2 => Advice::Random,
        3 => Advice::WillNeed,
        4 => Advice::DontNeed,
        5 => Advice::NoReuse,
        _ => return Err(Errno::Inval.into()),
    };
    let file = file(&world.table, params.u32(0), rights::FD_ADVISE)?;
    Ok(file.content.advise(params.u64(1), params.u64(2), advice)?)
}

pub(crate) fn fd_allocate(world: &mut World, _: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let file = file(&world.table, params.u32(0), rights::FD_ALLOCATE)?;
    let (offset, len) = (params.u64(1), params.u64(2));
    file.content.check_writable()?;
    check_size(offset.checked_add(len), &world.limits)?;
    Ok(file.content.allocate(offset, len)?)
}

pub(crate) fn fd_filestat_set_size(world: &mut World, _: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let file = file(&world.table, params.u32(0), rights::FD_FILESTAT_SET_SIZE)?;
    file.content.check_writable()?;
    check_size(Some(params.u64(1)), &world.limits)?;
    Ok(file.content.set_len(params.u64(1))?)
}

pub(crate) fn fd_datasync(world: &mut World, _: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    Ok(sync(world, params.u32(0), rights::FD_DATASYNC, true)?)
}

pub(crate) fn fd_sync(world: &mut World, _: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    Ok(sync(world, params.u32(0), rights::FD_SYNC, false)?)
}

/// Makes contents durable, or the names in a directory: whoever replaces a file or takes one away wants both. A directory
/// says of no such right, and none is needed. Wasmtime's implementation refuses; databases that delete their journal need it.
fn sync(world: &World, fd: u32, right: u64, data: bool) -> Result<(), Errno> {
    match &world.table.get(fd, 0)?.object {
        Object::Directory(directory) => directory.tree.sync(),
        _ => file(&world.table, fd, right)?.content.sync(data),
    }
}
