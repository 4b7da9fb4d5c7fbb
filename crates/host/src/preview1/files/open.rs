//! `path_open`.

use crate::errno::Errno;
use crate::memory::Memory;
use crate::preview1::descriptors::{Common, Object};
use crate::preview1::fdstat::flags;
use crate::preview1::files::backing::{Opened, Opening};
use crate::preview1::files::{Directory, File, Mode};
use crate::preview1::{Break, Params, rights};
use crate::world::World;

/// The lookup flag that the last component of a path may be a symbolic link.
pub(crate) const FOLLOW: u32 = 1;

/// Flags of `path_open`.
const CREATE: u32 = 1;
const DIRECTORY: u32 = 1 << 1;
const EXCLUSIVE: u32 = 1 << 2;
const TRUNCATE: u32 = 1 << 3;

pub(crate) fn path_open(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let follow = params.flags(1, FOLLOW)? != 0;
    let open_flags = params.flags(4, CREATE | DIRECTORY | EXCLUSIVE | TRUNCATE)?;
    let requested = params.u64(5);
    if (requested | params.u64(6)) & !rights::ALL != 0 {
        return Err(Errno::Inval.into());
    }
    let descriptor_flags = params.flags(7, flags::ALL)?;
    let result = params.u32(8);
    memory.range(result, 1, 4)?;
    let path = memory.text(params.u32(2), params.u32(3))?;

    let parent = world.table.get(params.u32(0), rights::PATH_OPEN)?;
    let directory = match &parent.object {
        Object::Directory(directory) => directory,
        Object::File(_) => return Err(Errno::Notdir.into()),
        _ => return Err(Errno::Badf.into()),
    };
    let creates = if open_flags & CREATE != 0 { rights::PATH_CREATE_FILE } else { 0 };
    if requested & parent.common.lost_inheriting != 0 || creates & parent.common.lost != 0 {
        return Err(Errno::Notcapable.into());
    }
    if open_flags & DIRECTORY != 0 && open_flags & (CREATE | EXCLUSIVE | TRUNCATE) != 0 {
        return Err(Errno::Inval.into());
    }
    let mut mode = Mode { read: requested & rights::FD_READ != 0, write: requested & rights::FD_WRITE != 0 };
    // What is not opened for writing is opened for reading, so that the system lets it be opened at all.
    mode.read |= !mode.write;
    mode.write |= open_flags & (CREATE | TRUNCATE) != 0;
    if mode.write {
        directory.tree.check_writable()?;
    }
    world.table.check_room()?;

    let how = Opening {
        mode,
        follow,
        create: open_flags & CREATE != 0,
        exclusive: open_flags & EXCLUSIVE != 0,
        truncate: open_flags & TRUNCATE != 0,
    };
    let opened = directory.tree.open(path, how)?;
    let is_directory = matches!(opened, Opened::Directory(_));
    let object = match opened {
        Opened::Directory(tree) => Object::Directory(Directory { mode, preopened: false, listing: None, tree }),
        Opened::File(_) if open_flags & DIRECTORY != 0 => return Err(Errno::Notdir.into()),
        Opened::File(content) => Object::File(File {
            mode,
            append: descriptor_flags & flags::APPEND != 0,
            synchronous: descriptor_flags & flags::SYNCHRONOUS,
            offset: 0,
            content,
        }),
    };
    let common = Common {
        nonblocking: !is_directory && descriptor_flags & flags::NONBLOCK != 0,
        lost: parent.common.lost_inheriting,
        lost_inheriting: parent.common.lost_inheriting,
    };
    let fd = world.table.insert(common, object)?;
    Ok(memory.write_u32(result, fd)?)
}
