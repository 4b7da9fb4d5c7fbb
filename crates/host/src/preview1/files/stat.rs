//! What is known about files: kind, size, times.

use std::time::Duration;

use cap_fs_ext::SystemTimeSpec;
use cap_std::fs::{Metadata, MetadataExt as _};
use cap_std::time::{SystemClock, SystemTime};
use rustix::fs::{FileType, Timespec, UTIME_NOW, UTIME_OMIT};

use crate::errno::Errno;
use crate::memory::Memory;
use crate::preview1::descriptors::Object;
use crate::preview1::files::open::FOLLOW;
use crate::preview1::files::{directory, directory_and_path, filetype};
use crate::preview1::{Break, Params, rights};
use crate::world::World;

/// Which times to set, and to what.
const ATIME: u32 = 1;
const ATIME_NOW: u32 = 1 << 1;
const MTIME: u32 = 1 << 2;
const MTIME_NOW: u32 = 1 << 3;

/// What is known about a file, as preview 1 lays it out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stat {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) filetype: u8,
    pub(super) links: u64,
    pub(super) size: u64,
    /// Access, modification, change: nanoseconds since 1970.
    pub(super) times: [u64; 3],
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    Keep,
    Now,
    At(u64),
}

impl Stat {
    fn bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&self.device.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.inode.to_le_bytes());
        bytes[16] = self.filetype;
        bytes[24..32].copy_from_slice(&self.links.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.size.to_le_bytes());
        for (at, time) in self.times.iter().enumerate() {
            bytes[40 + at * 8..48 + at * 8].copy_from_slice(&time.to_le_bytes());
        }
        bytes
    }

    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            filetype: filetype::of_mode(FileType::from_raw_mode(metadata.mode())),
            links: metadata.nlink(),
            size: metadata.size(),
            times: [
                nanoseconds_since_1970(metadata.atime(), metadata.atime_nsec()),
                nanoseconds_since_1970(metadata.mtime(), metadata.mtime_nsec()),
                nanoseconds_since_1970(metadata.ctime(), metadata.ctime_nsec()),
            ],
        }
    }
}

/// 0 for times before 1970, which preview 1 cannot say.
fn nanoseconds_since_1970(seconds: i64, nanoseconds: i64) -> u64 {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    u64::try_from(total.max(0)).unwrap_or(u64::MAX)
}

impl Time {
    fn pair(params: &Params<'_>, first: usize) -> Result<[Self; 2], Errno> {
        let flags = params.flags(first + 2, ATIME | ATIME_NOW | MTIME | MTIME_NOW)?;
        let one = |set: u32, now: u32, time: u64| match (flags & set != 0, flags & now != 0) {
            (true, true) => Err(Errno::Inval),
            (true, false) => Ok(Self::At(time)),
            (false, true) => Ok(Self::Now),
            (false, false) => Ok(Self::Keep),
        };
        Ok([one(ATIME, ATIME_NOW, params.u64(first))?, one(MTIME, MTIME_NOW, params.u64(first + 1))?])
    }

    pub(super) fn for_system(self) -> Timespec {
        let (tv_sec, tv_nsec) = match self {
            Self::Keep => (0, UTIME_OMIT),
            Self::Now => (0, UTIME_NOW),
            Self::At(time) => ((time / 1_000_000_000) as _, (time % 1_000_000_000) as _),
        };
        Timespec { tv_sec, tv_nsec }
    }

    pub(super) fn for_path(self) -> Option<SystemTimeSpec> {
        match self {
            Self::Keep => None,
            Self::Now => Some(SystemTimeSpec::SymbolicNow),
            Self::At(time) => {
                let time: SystemTime = SystemClock::UNIX_EPOCH + Duration::from_nanos(time);
                Some(SystemTimeSpec::Absolute(time))
            }
        }
    }
}

pub(crate) fn fd_filestat_get(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let stream = |filetype| Stat { filetype, ..Stat::default() };
    let stat = match &world.table.get(params.u32(0), rights::FD_FILESTAT_GET)?.object {
        Object::Stdin => stream(world.streams.input_filetype()),
        Object::Stdout => stream(world.streams.stdout.filetype()),
        Object::Stderr => stream(world.streams.stderr.filetype()),
        Object::Listener(_) | Object::Connection(_) => stream(filetype::SOCKET_STREAM),
        Object::Directory(directory) => directory.tree.stat()?,
        Object::File(file) => file.content.stat()?,
    };
    Ok(memory.write(params.u32(1), &stat.bytes())?)
}

pub(crate) fn path_filestat_get(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let follow = params.flags(1, FOLLOW)? != 0;
    let at = [params.u32(0), params.u32(2), params.u32(3)];
    let (directory, path) = directory_and_path(&world.table, memory, at, rights::PATH_FILESTAT_GET)?;
    let stat = directory.tree.stat_of(path, follow)?;
    Ok(memory.write(params.u32(4), &stat.bytes())?)
}

pub(crate) fn fd_filestat_set_times(world: &mut World, _: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let times = Time::pair(&params, 1)?;
    match &world.table.get(params.u32(0), rights::FD_FILESTAT_SET_TIMES)?.object {
        Object::File(file) => {
            file.content.check_writable()?;
            file.content.set_times(times)?;
        }
        Object::Directory(directory) => {
            directory.tree.check_writable()?;
            directory.tree.set_times(times)?;
        }
        _ => return Err(Errno::Badf.into()),
    }
    Ok(())
}

pub(crate) fn path_filestat_set_times(
    world: &mut World,
    memory: &mut Memory<'_>,
    params: Params<'_>,
) -> Result<(), Break> {
    let follow = params.flags(1, FOLLOW)? != 0;
    let times = Time::pair(&params, 4)?;
    let path = memory.text(params.u32(2), params.u32(3))?;
    let directory = directory(&world.table, params.u32(0), rights::PATH_FILESTAT_SET_TIMES)?;
    directory.tree.check_writable()?;
    Ok(directory.tree.set_times_of(path, follow, times)?)
}
