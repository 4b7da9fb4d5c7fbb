//! `fd_fdstat_*`: a descriptor's kind, flags and rights.

use crate::errno::Errno;
use crate::memory::Memory;
use crate::preview1::descriptors::{Descriptor, Object};
use crate::preview1::files::filetype;
use crate::preview1::{Break, Params, rights};
use crate::world::World;

/// Flags of a descriptor.
pub(crate) mod flags {
    pub(crate) const APPEND: u32 = 1;
    pub(crate) const DSYNC: u32 = 1 << 1;
    pub(crate) const NONBLOCK: u32 = 1 << 2;
    pub(crate) const RSYNC: u32 = 1 << 3;
    pub(crate) const SYNC: u32 = 1 << 4;
    /// Those that ask for writes to reach the disk.
    pub(crate) const SYNCHRONOUS: u32 = DSYNC | RSYNC | SYNC;
    pub(crate) const ALL: u32 = APPEND | NONBLOCK | SYNCHRONOUS;
}

/// The rights of a descriptor and of what is opened from it, but for what has been given up.
fn full_rights(object: &Object) -> (u64, u64) {
    match object {
        Object::Stdin => (rights::FD_READ, rights::FD_READ),
        Object::Stdout | Object::Stderr => (rights::FD_WRITE, rights::FD_WRITE),
        Object::Directory(directory) if directory.preopened => (rights::DIRECTORY, rights::INHERITED),
        Object::Directory(directory) => {
            let mut base =
                rights::ALL & !(rights::FD_SEEK | rights::FD_FILESTAT_SET_SIZE | rights::PATH_FILESTAT_SET_SIZE);
            base &= !rights::FD_WRITE;
            if !directory.mode.read {
                base &= !(rights::FD_READ | rights::FD_READDIR);
            }
            // Wasmtime leaves writing out of what can be opened from here, and then C libraries cannot ask for it.
            (base, base | rights::INHERITED)
        }
        Object::File(file) => {
            let mut base = rights::ALL;
            if !file.mode.read {
                base &= !(rights::FD_READ | rights::FD_READDIR);
            }
            if !file.mode.write {
                base &= !rights::FD_WRITE;
            }
            (base, base)
        }
        Object::Listener(_) => (rights::LISTENER, rights::CONNECTION),
        Object::Connection(_) => (rights::CONNECTION, rights::CONNECTION),
    }
}

/// A descriptor's present rights.
fn present_rights(descriptor: &Descriptor) -> (u64, u64) {
    let (base, inheriting) = full_rights(&descriptor.object);
    (base & !descriptor.common.lost, inheriting & !descriptor.common.lost_inheriting)
}

pub(crate) fn fd_fdstat_get(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let descriptor = world.table.get(params.u32(0), 0)?;
    let mut flags = 0;
    let filetype = match &descriptor.object {
        Object::Stdin => world.streams.input_filetype(),
        Object::Stdout => world.streams.stdout.filetype(),
        Object::Stderr => world.streams.stderr.filetype(),
        Object::Directory(_) => filetype::DIRECTORY,
        Object::File(file) => {
            flags |= file.synchronous;
            if file.append {
                flags |= flags::APPEND;
            }
            file.content.filetype()?
        }
        Object::Listener(_) | Object::Connection(_) => filetype::SOCKET_STREAM,
    };
    if descriptor.common.nonblocking {
        flags |= flags::NONBLOCK;
    }
    let (base, inheriting) = present_rights(descriptor);
    let mut stat = [0; 24];
    stat[0] = filetype;
    stat[2..4].copy_from_slice(&(flags as u16).to_le_bytes());
    stat[8..16].copy_from_slice(&base.to_le_bytes());
    stat[16..24].copy_from_slice(&inheriting.to_le_bytes());
    Ok(memory.write(params.u32(1), &stat)?)
}

/// Sets `APPEND` and `NONBLOCK`. Whether writes reach the disk is settled when a file is opened: `EINVAL`.
pub(crate) fn fd_fdstat_set_flags(world: &mut World, _: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let flags = params.flags(1, flags::ALL)?;
    let descriptor = world.table.get_mut(params.u32(0), rights::FD_FDSTAT_SET_FLAGS)?;
    let append = flags & flags::APPEND != 0;
    let synchronous = flags & flags::SYNCHRONOUS;
    match &mut descriptor.object {
        Object::Directory(_) => return Err(Errno::Badf.into()),
        Object::File(file) if synchronous == file.synchronous => file.append = append,
        Object::File(_) => return Err(Errno::Inval.into()),
        // Nothing else has an end to append to, so the flag would be a wish that is always granted.
        _ if synchronous == 0 => {}
        _ => return Err(Errno::Inval.into()),
    }
    descriptor.common.nonblocking = flags & flags::NONBLOCK != 0;
    Ok(())
}

/// Gives up rights. `ENOTCAPABLE` when a right is asked for that the descriptor does not have.
pub(crate) fn fd_fdstat_set_rights(world: &mut World, _: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let descriptor = world.table.get_mut(params.u32(0), 0)?;
    let (base, inheriting) = (params.u64(1), params.u64(2));
    if (base | inheriting) & !rights::ALL != 0 {
        return Err(Errno::Inval.into());
    }
    let (present_base, present_inheriting) = present_rights(descriptor);
    if base & !present_base != 0 || inheriting & !present_inheriting != 0 {
        return Err(Errno::Notcapable.into());
    }
    descriptor.common.lost |= present_base & !base;
    descriptor.common.lost_inheriting |= present_inheriting & !inheriting;
    Ok(())
}
