//! What is behind an open file or directory: a directory of the host, or the program's private volume. What differs
//! between the two is behind [`Content`] and [`Tree`], and nothing else knows.

use std::ops::Range;

use rustix::fs::Advice;

use crate::errno::Errno;
use crate::memory::Memory;
use crate::preview1::files::Mode;
use crate::preview1::files::host::{HostDirectory, HostFile};
use crate::preview1::files::stat::{Stat, Time};
use crate::preview1::files::volume::Node;

/// What is in an open file.
#[derive(Debug)]
pub(crate) enum Content {
    Host(HostFile),
    Volume(Node),
}

/// The names in an open directory, and everything beneath it.
#[derive(Debug)]
pub(crate) enum Tree {
    Host(HostDirectory),
    Volume(Node),
}

/// How to open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub(super) mode: Mode,
    /// Whether the last component may be a symbolic link.
    pub(super) follow: bool,
    pub(super) create: bool,
    /// With `create`: it must not exist.
    pub(super) exclusive: bool,
    pub(super) truncate: bool,
}

/// What was opened.
#[derive(Debug)]
pub(super) enum Opened {
    File(Content),
    Directory(Tree),
}

/// Where a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Offset(u64),
    /// The end, wherever that is by then.
    End,
}

/// Does the same to either kind.
macro_rules! either {
    ($one:expr, $it:ident => $call:expr) => {
        match $one {
            Self::Host($it) => $call,
            Self::Volume($it) => $call,
        }
    };
}

impl Content {
    /// `EPERM` unless it may be changed at all.
    pub(super) fn check_writable(&self) -> Result<(), Errno> {
        match self {
            Self::Host(file) => file.place.check_writable(),
            Self::Volume(_) => Ok(()),
        }
    }

    pub(crate) fn len(&self) -> Result<u64, Errno> {
        either!(self, it => it.len())
    }

    pub(crate) fn filetype(&self) -> Result<u8, Errno> {
        either!(self, it => it.filetype())
    }

    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        either!(self, it => it.stat())
    }

    /// Reads into the buffers; less than they hold only at the end. 0 at the end.
    pub(super) fn read_at(
        &self,
        memory: &mut Memory<'_>,
        vectors: &[Range<usize>],
        offset: u64,
    ) -> Result<usize, Errno> {
        either!(self, it => it.read_at(memory, vectors, offset))
    }

    /// Writes what is in the buffers, or as much of it as there is room for.
    pub(super) fn write_at(&self, memory: &Memory<'_>, vectors: &[Range<usize>], to: To) -> Result<usize, Errno> {
        either!(self, it => it.write_at(memory, vectors, to))
    }

    /// Makes everything written durable; with `data`, not what is only known about the file.
    pub(super) fn sync(&self, data: bool) -> Result<(), Errno> {
        either!(self, it => it.sync(data))
    }

    pub(super) fn set_len(&self, len: u64) -> Result<(), Errno> {
        either!(self, it => it.set_len(len))
    }

    pub(super) fn allocate(&self, offset: u64, len: u64) -> Result<(), Errno> {
        either!(self, it => it.allocate(offset, len))
    }

    pub(super) fn advise(&self, offset: u64, len: u64, advice: Advice) -> Result<(), Errno> {
        either!(self, it => it.advise(offset, len, advice))
    }

    /// Sets the times of access and modification.
    pub(super) fn set_times(&self, times: [Time; 2]) -> Result<(), Errno> {
        either!(self, it => it.set_own_times(times))
    }
}

impl Tree {
    /// `EPERM` unless it may be changed at all.
    pub(super) fn check_writable(&self) -> Result<(), Errno> {
        match self {
            Self::Host(directory) => directory.place.check_writable(),
            Self::Volume(_) => Ok(()),
        }
    }

    pub(super) fn open(&self, path: &str, how: Opening) -> Result<Opened, Errno> {
        either!(self, it => it.open(path, how))
    }

    /// What is known about the directory itself.
    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        either!(self, it => it.stat())
    }

    pub(super) fn stat_of(&self, path: &str, follow: bool) -> Result<Stat, Errno> {
        either!(self, it => it.stat_of(path, follow))
    }

    /// Makes the names in it durable.
    pub(super) fn sync(&self) -> Result<(), Errno> {
        match self {
            Self::Host(directory) => directory.sync(),
            Self::Volume(node) => node.sync(false),
        }
    }

    /// Sets the times of access and modification of the directory itself.
    pub(super) fn set_times(&self, times: [Time; 2]) -> Result<(), Errno> {
        either!(self, it => it.set_own_times(times))
    }

    pub(super) fn set_times_of(&self, path: &str, follow: bool, times: [Time; 2]) -> Result<(), Errno> {
        either!(self, it => it.set_times_of(path, follow, times))
    }

    pub(super) fn create_directory(&self, path: &str) -> Result<(), Errno> {
        either!(self, it => it.create_directory(path))
    }

    pub(super) fn remove_directory(&self, path: &str) -> Result<(), Errno> {
        either!(self, it => it.remove_directory(path))
    }

    pub(super) fn unlink(&self, path: &str) -> Result<(), Errno> {
        either!(self, it => it.unlink(path))
    }

    /// Gives what `path` names another name in `to`. A symbolic link is not followed.
    pub(super) fn link(&self, path: &str, to: &Self, new: &str) -> Result<(), Errno> {
        match (self, to) {
            (Self::Host(from), Self::Host(to)) => from.link(path, to, new),
            (Self::Volume(from), Self::Volume(to)) => from.link(path, to, new),
            _ => Err(Errno::Xdev),
        }
    }

    pub(super) fn rename(&self, path: &str, to: &Self, new: &str) -> Result<(), Errno> {
        match (self, to) {
            (Self::Host(from), Self::Host(to)) => from.rename(path, to, new),
            (Self::Volume(from), Self::Volume(to)) => from.rename(path, to, new),
            _ => Err(Errno::Xdev),
        }
    }

    pub(super) fn symlink(&self, contents: &str, path: &str) -> Result<(), Errno> {
        either!(self, it => it.symlink(contents, path))
    }

    pub(super) fn read_link(&self, path: &str) -> Result<String, Errno> {
        either!(self, it => it.read_link(path))
    }
}
