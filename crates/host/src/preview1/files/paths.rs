//! Names: preopened directories, and creating, linking, renaming and removing.

use crate::errno::Errno;
use crate::memory::Memory;
use crate::preview1::descriptors::Object;
use crate::preview1::files::open::FOLLOW;
use crate::preview1::files::{directory, directory_and_path};
use crate::preview1::{Break, Params, rights};
use crate::world::World;

/// The only kind of preopened object.
const PREOPEN_DIRECTORY: u32 = 0;

pub(crate) fn fd_prestat_get(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let Object::Directory(directory) = &world.table.get(params.u32(0), 0)?.object else {
        return Err(Errno::Badf.into());
    };
    if !directory.preopened {
        return Err(Errno::Badf.into());
    }
    let len = u32::try_from(world.files.guest_path(directory).len()).map_err(|_| Errno::Overflow)?;
    let mut stat = [0; 8];
    stat[..4].copy_from_slice(&PREOPEN_DIRECTORY.to_le_bytes());
    stat[4..].copy_from_slice(&len.to_le_bytes());
    Ok(memory.write(params.u32(1), &stat)?)
}

pub(crate) fn fd_prestat_dir_name(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    match &world.table.get(params.u32(0), 0)?.object {
        Object::Directory(directory) if directory.preopened => {
            let path = world.files.guest_path(directory);
            if path.len() > params.u32(2) as usize {
                return Err(Errno::Nametoolong.into());
            }
            Ok(memory.write(params.u32(1), path.as_bytes())?)
        }
        _ => Err(Errno::Notdir.into()),
    }
}

pub(crate) fn path_create_directory(
    world: &mut World,
    memory: &mut Memory<'_>,
    params: Params<'_>,
) -> Result<(), Break> {
    let at = [params.u32(0), params.u32(1), params.u32(2)];
    let (directory, path) = directory_and_path(&world.table, memory, at, rights::PATH_CREATE_DIRECTORY)?;
    directory.tree.check_writable()?;
    Ok(directory.tree.create_directory(path)?)
}

pub(crate) fn path_remove_directory(
    world: &mut World,
    memory: &mut Memory<'_>,
    params: Params<'_>,
) -> Result<(), Break> {
    let at = [params.u32(0), params.u32(1), params.u32(2)];
    let (directory, path) = directory_and_path(&world.table, memory, at, rights::PATH_REMOVE_DIRECTORY)?;
    directory.tree.check_writable()?;
    Ok(directory.tree.remove_directory(path)?)
}

pub(crate) fn path_unlink_file(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let at = [params.u32(0), params.u32(1), params.u32(2)];
    let (directory, path) = directory_and_path(&world.table, memory, at, rights::PATH_UNLINK_FILE)?;
    directory.tree.check_writable()?;
    Ok(directory.tree.unlink(path)?)
}

/// Makes a hard link. That the old path's symbolic link is followed cannot be asked for: `EINVAL`.
pub(crate) fn path_link(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let follow = params.flags(1, FOLLOW)? != 0;
    let old_path = memory.text(params.u32(2), params.u32(3))?;
    let new_path = memory.text(params.u32(5), params.u32(6))?;
    let old = directory(&world.table, params.u32(0), rights::PATH_LINK_SOURCE)?;
    let new = directory(&world.table, params.u32(4), rights::PATH_LINK_TARGET)?;
    old.tree.check_writable()?;
    new.tree.check_writable()?;
    if follow {
        return Err(Errno::Inval.into());
    }
    Ok(old.tree.link(old_path, &new.tree, new_path)?)
}

pub(crate) fn path_rename(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let old_path = memory.text(params.u32(1), params.u32(2))?;
    let new_path = memory.text(params.u32(4), params.u32(5))?;
    let old = directory(&world.table, params.u32(0), rights::PATH_RENAME_SOURCE)?;
    let new = directory(&world.table, params.u32(3), rights::PATH_RENAME_TARGET)?;
    old.tree.check_writable()?;
    new.tree.check_writable()?;
    Ok(old.tree.rename(old_path, &new.tree, new_path)?)
}

/// Makes a symbolic link. One that begins at the root would leave the mount: `EPERM`.
pub(crate) fn path_symlink(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let contents = memory.text(params.u32(0), params.u32(1))?;
    let at = [params.u32(2), params.u32(3), params.u32(4)];
    let (directory, path) = directory_and_path(&world.table, memory, at, rights::PATH_SYMLINK)?;
    directory.tree.check_writable()?;
    Ok(directory.tree.symlink(contents, path)?)
}

/// Reads a symbolic link, cut to the buffer's length.
pub(crate) fn path_readlink(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let at = [params.u32(0), params.u32(1), params.u32(2)];
    let (buffer, room, result) = (params.u32(3), params.u32(4), params.u32(5));
    let (directory, path) = directory_and_path(&world.table, memory, at, rights::PATH_READLINK)?;
    let contents = directory.tree.read_link(path)?;
    let bytes = contents.as_bytes();
    let bytes = &bytes[..bytes.len().min(room as usize)];
    memory.range(result, 1, 4)?;
    memory.write(buffer, bytes)?;
    Ok(memory.write_u32(result, bytes.len() as u32)?)
}
