//! The files that a program sees, and what it has open: directories of the host that are mounted ([`host`]) and its
//! private volume ([`volume`]), behind one interface ([`backing`]).
//!
//! State: which mounts there are, and for each open file or directory its path beneath its mount, mode, offset and
//! listing in progress; the private volume's root, and for what is open in it inode, mode and offset.

pub(crate) mod backing;
pub(crate) mod content;
mod host;
pub(crate) mod listing;
pub(crate) mod open;
pub(crate) mod paths;
pub(crate) mod stat;
pub(crate) mod state;
pub(crate) mod volume;
pub(crate) mod volume_ahead;
pub(crate) mod volume_state;

use cap_std::fs::Dir;

use crate::config::{Config, Mount};
use crate::errno::Errno;
use crate::error::Error;
use crate::memory::Memory;
use crate::preview1::descriptors::{Object, Table};
use crate::preview1::files::backing::{Content, Tree};
use crate::preview1::files::host::{HostDirectory, Place, open_mount};
use crate::preview1::files::listing::ListingV1;
use crate::preview1::files::volume::MountedVolume;
use crate::preview1::files::volume_ahead::VolumeHandle;

/// The kinds of files that preview 1 knows.
pub(crate) mod filetype {
    use std::fs::FileType;
    use std::os::unix::fs::FileTypeExt as _;

    pub(crate) const UNKNOWN: u8 = 0;
    pub(crate) const BLOCK_DEVICE: u8 = 1;
    pub(crate) const CHARACTER_DEVICE: u8 = 2;
    pub(crate) const DIRECTORY: u8 = 3;
    pub(crate) const REGULAR: u8 = 4;
    pub(crate) const SOCKET_STREAM: u8 = 6;
    pub(crate) const SYMBOLIC_LINK: u8 = 7;

    /// The kind of an open file.
    pub(crate) fn of_file(file_type: &FileType) -> u8 {
        if file_type.is_file() {
            REGULAR
        } else if file_type.is_dir() {
            DIRECTORY
        } else if file_type.is_symlink() {
            SYMBOLIC_LINK
        } else if file_type.is_block_device() {
            BLOCK_DEVICE
        } else if file_type.is_char_device() {
            CHARACTER_DEVICE
        } else {
            UNKNOWN
        }
    }

    /// The kind that a `st_mode` or directory entry tells.
    pub(crate) fn of_mode(file_type: rustix::fs::FileType) -> u8 {
        use rustix::fs::FileType as Type;
        match file_type {
            Type::RegularFile => REGULAR,
            Type::Directory => DIRECTORY,
            Type::Symlink => SYMBOLIC_LINK,
            Type::BlockDevice => BLOCK_DEVICE,
            Type::CharacterDevice => CHARACTER_DEVICE,
            _ => UNKNOWN,
        }
    }
}

/// The mounts of a program, and its private volume.
#[derive(Debug)]
pub(crate) struct Files {
    mounts: Vec<Mounted>,
    volume: Option<MountedVolume>,
}

/// A mounted directory.
#[derive(Debug)]
struct Mounted {
    guest: String,
    writable: bool,
    root: Dir,
}

/// What a file or directory was opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// An open file.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) mode: Mode,
    pub(crate) append: bool,
    /// Those of the flags that ask for writes to reach the disk.
    pub(crate) synchronous: u32,
    pub(crate) offset: u64,
    pub(crate) content: Content,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) mode: Mode,
    /// Whether it is a mount or the private volume, which the program found open.
    pub(crate) preopened: bool,
    /// Of a directory of the host only: a volume's cookies mean the same at any time.
    pub(crate) listing: Option<ListingV1>,
    pub(crate) tree: Tree,
}

impl Files {
    /// Opens the configured mounts and the private volume.
    pub(crate) fn new(config: &Config, table: &mut Table) -> Result<Self, Error> {
        let mut mounted: Vec<Mounted> = Vec::new();
        for (index, mount) in (0_u32..).zip(&config.mounts) {
            check_path(&mount.guest, &mounted)?;
            let guest = mount.guest.clone();
            let Mount { host, writable, .. } = mount;
            let failed = |source| Error::Mount { host: host.clone(), guest: guest.clone(), source };
            let root = open_mount(host).map_err(failed)?;
            let dir = root.try_clone().map_err(failed)?;
            let place = Place { mount: index, path: String::new(), writable: *writable };
            let tree = Tree::Host(HostDirectory { place, dir });
            preopen(table, Mode { read: true, write: *writable }, tree)?;
            mounted.push(Mounted { guest, writable: *writable, root });
        }
        let mut volume = None;
        if let Some(offer) = &config.volume {
            let opened = MountedVolume::begin(offer, config.source)?;
            check_path(&opened.guest, &mounted)?;
            preopen(table, Mode { read: true, write: true }, opened.root()?)?;
            volume = Some(opened);
        }
        Ok(Self { mounts: mounted, volume })
    }

    /// Where the program sees the mount or volume that `directory` is.
    fn guest_path(&self, directory: &Directory) -> &str {
        match &directory.tree {
            Tree::Host(host) => self.mounts.get(host.place.mount as usize).map_or("", |mount| mount.guest.as_str()),
            Tree::Volume(_) => self.volume.as_ref().map_or("", |volume| volume.guest.as_str()),
        }
    }

    /// Makes durable what a program that is over has left in its volume.
    pub(crate) fn commit_volume(&mut self) -> Result<(), Error> {
        self.volume.as_ref().map_or(Ok(()), |volume| volume.act("commit", |volume| volume.commit().map(drop)))
    }

    /// The first failure of the volume that was not the program's doing.
    pub(crate) fn volume_trouble(&self) -> Option<String> {
        self.volume.as_ref()?.trouble()
    }

    /// The private volume, for others.
    pub(crate) fn volume(&self) -> Option<VolumeHandle> {
        self.volume.as_ref().map(MountedVolume::handle)
    }

    /// The private volume.
    pub(crate) fn volume_mut(&mut self) -> Option<&mut MountedVolume> {
        self.volume.as_mut()
    }
}

fn check_path(guest: &str, others: &[Mounted]) -> Result<(), Error> {
    if guest.contains('\0') {
        return Err(Error::ZeroByte { what: format!("mount path {guest:?}") });
    }
    if others.iter().any(|other| other.guest == guest) {
        return Err(Error::DuplicateMount { guest: guest.to_owned() });
    }
    Ok(())
}

fn preopen(table: &mut Table, mode: Mode, tree: Tree) -> Result<(), Error> {
    table.insert_initial(Object::Directory(Directory { mode, preopened: true, listing: None, tree }))
}

/// The directory behind a descriptor: `EBADF` for another object.
fn directory(table: &Table, fd: u32, rights: u64) -> Result<&Directory, Errno> {
    match &table.get(fd, rights)?.object {
        Object::Directory(directory) => Ok(directory),
        _ => Err(Errno::Badf),
    }
}

/// The file behind a descriptor: `EBADF` for another object.
fn file(table: &Table, fd: u32, rights: u64) -> Result<&File, Errno> {
    match &table.get(fd, rights)?.object {
        Object::File(file) => Ok(file),
        _ => Err(Errno::Badf),
    }
}

/// The directory and the path that two or three parameters from `at` on name: descriptor, pointer, length.
fn directory_and_path<'a>(
    table: &'a Table,
    memory: &'a Memory<'_>,
    [fd, path, len]: [u32; 3],
    rights: u64,
) -> Result<(&'a Directory, &'a str), Errno> {
    let path = memory.text(path, len)?;
    Ok((directory(table, fd, rights)?, path))
}
