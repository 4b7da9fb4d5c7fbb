//! Files and directories of the host, beneath its mounts.
//!
//! Nothing outside of a mounted directory can be reached: `cap-std` resolves every path, with its symbolic links,
//! beneath the directory it starts from.

use std::fs;
use std::io::{self, ErrorKind, IoSlice};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use cap_fs_ext::{DirExt as _, FollowSymlinks, OpenOptionsFollowExt as _};
use cap_std::fs::{Dir, Metadata, OpenOptions, OpenOptionsExt as _};
use rustix::fs::{Advice, FallocateFlags, Mode as RawMode, OFlags, Timestamps};
use rustix::io::ReadWriteFlags;

use crate::errno::Errno;
use crate::memory::Memory;
use crate::preview1::files::backing::{Content, Opened, Opening, To, Tree};
use crate::preview1::files::stat::{Stat, Time};
use crate::preview1::files::{Mode, filetype};

/// Where in the mounts something was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which mount.
    pub(super) mount: u32,
    /// The path beneath it, as the program composed it. Empty for the mount itself.
    pub(super) path: String,
    /// Whether the mount permits changes.
    pub(super) writable: bool,
}

/// An open file of the host.
#[derive(Debug)]
pub(crate) struct HostFile {
    pub(super) place: Place,
    pub(super) file: fs::File,
}

/// An open directory of the host.
#[derive(Debug)]
pub(crate) struct HostDirectory {
    pub(super) place: Place,
    pub(super) dir: Dir,
}

impl Place {
    /// The place that `path` leads to from this directory.
    fn join(&self, path: &str) -> Self {
        let path = if self.path.is_empty() { path.to_owned() } else { format!("{}/{path}", self.path) };
        Self { path, ..self.clone() }
    }

    pub(super) fn check_writable(&self) -> Result<(), Errno> {
        if self.writable { Ok(()) } else { Err(Errno::Perm) }
    }
}

impl HostFile {
    pub(super) fn len(&self) -> Result<u64, Errno> {
        Ok(self.file.metadata()?.len())
    }

    pub(super) fn filetype(&self) -> Result<u8, Errno> {
        Ok(filetype::of_file(&self.file.metadata()?.file_type()))
    }

    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        Ok(Stat::of(&Metadata::from_file(&self.file)?))
    }

    pub(super) fn read_at(
        &self,
        memory: &mut Memory<'_>,
        vectors: &[Range<usize>],
        offset: u64,
    ) -> Result<usize, Errno> {
        if vectors.is_empty() {
            // The system still says whether the file can be read.
            self.file.read_at(&mut [], offset)?;
        }
        let mut done = 0;
        for vector in vectors {
            let at = offset.checked_add(done as u64).ok_or(Errno::Overflow)?;
            let buffer = memory.at_mut(vector);
            let read = loop {
                match self.file.read_at(buffer, at) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    read => break read,
                }
            };
            match read {
                Ok(read) => done += read,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error.into()),
            }
            if matches!(read, Ok(read) if read < vector.len()) {
                break;
            }
        }
        Ok(done)
    }

    pub(super) fn write_at(&self, memory: &Memory<'_>, vectors: &[Range<usize>], to: To) -> Result<usize, Errno> {
        let slices: Vec<_> = vectors.iter().map(|vector| IoSlice::new(memory.at(vector))).collect();
        Ok(rustix::io::retry_on_intr(|| match to {
            To::End => rustix::io::pwritev2(&self.file, &slices, 0, ReadWriteFlags::APPEND),
            To::Offset(offset) => rustix::io::pwritev(&self.file, &slices, offset),
        })?)
    }

    pub(super) fn sync(&self, data: bool) -> Result<(), Errno> {
        Ok(if data { self.file.sync_data() } else { self.file.sync_all() }?)
    }

    pub(super) fn set_len(&self, len: u64) -> Result<(), Errno> {
        Ok(self.file.set_len(len)?)
    }

    pub(super) fn allocate(&self, offset: u64, len: u64) -> Result<(), Errno> {
        Ok(rustix::fs::fallocate(&self.file, FallocateFlags::empty(), offset, len)?)
    }

    pub(super) fn advise(&self, offset: u64, len: u64, advice: Advice) -> Result<(), Errno> {
        Ok(rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(len), advice)?)
    }

    pub(super) fn set_own_times(&self, times: [Time; 2]) -> Result<(), Errno> {
        Ok(rustix::fs::futimens(&self.file, &timestamps(times))?)
    }
}

impl HostDirectory {
    pub(super) fn open(&self, path: &str, how: Opening) -> Result<Opened, Errno> {
        let mut options = options(how.mode, how.follow);
        if how.create && how.exclusive {
            options.create_new(true);
        } else {
            options.create(how.create);
        }
        options.truncate(how.truncate);
        let opened = self.dir.open_with(path, &options)?.into_std();
        let place = self.place.join(path);
        Ok(if opened.metadata()?.is_dir() {
            Opened::Directory(Tree::Host(Self { place, dir: Dir::from_std_file(opened) }))
        } else {
            Opened::File(Content::Host(HostFile { place, file: opened }))
        })
    }

    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        Ok(Stat::of(&self.dir.dir_metadata()?))
    }

    pub(super) fn stat_of(&self, path: &str, follow: bool) -> Result<Stat, Errno> {
        Ok(Stat::of(&if follow { self.dir.metadata(path)? } else { self.dir.symlink_metadata(path)? }))
    }

    pub(super) fn sync(&self) -> Result<(), Errno> {
        Ok(rustix::fs::fsync(&self.dir)?)
    }

    pub(super) fn set_own_times(&self, times: [Time; 2]) -> Result<(), Errno> {
        Ok(rustix::fs::futimens(&self.dir, &timestamps(times))?)
    }

    pub(super) fn set_times_of(&self, path: &str, follow: bool, times: [Time; 2]) -> Result<(), Errno> {
        let [access, modification] = times.map(Time::for_path);
        if follow {
            self.dir.set_times(path, access, modification)?;
        } else {
            self.dir.set_symlink_times(path, access, modification)?;
        }
        Ok(())
    }

    pub(super) fn create_directory(&self, path: &str) -> Result<(), Errno> {
        Ok(self.dir.create_dir(path)?)
    }

    pub(super) fn remove_directory(&self, path: &str) -> Result<(), Errno> {
        // `cap-std` takes a slash at the end for `/.`, which cannot be removed.
        let bare = path.trim_end_matches('/');
        Ok(self.dir.remove_dir(if bare.is_empty() { path } else { bare })?)
    }

    pub(super) fn unlink(&self, path: &str) -> Result<(), Errno> {
        Ok(self.dir.remove_file(path)?)
    }

    pub(super) fn link(&self, path: &str, to: &Self, new: &str) -> Result<(), Errno> {
        Ok(self.dir.hard_link(path, &to.dir, new)?)
    }

    pub(super) fn rename(&self, path: &str, to: &Self, new: &str) -> Result<(), Errno> {
        // Only a directory can get a name that says it is one; `cap-std` drops the slash.
        if new.ends_with('/') && self.dir.symlink_metadata(path).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(Errno::Notdir);
        }
        Ok(self.dir.rename(path, &to.dir, new)?)
    }

    pub(super) fn symlink(&self, contents: &str, path: &str) -> Result<(), Errno> {
        Ok(self.dir.symlink(contents, path)?)
    }

    pub(super) fn read_link(&self, path: &str) -> Result<String, Errno> {
        self.dir.read_link(path)?.into_os_string().into_string().map_err(|_| Errno::Ilseq)
    }
}

/// Opens a directory of the host to be mounted. Unlike `Dir::open_ambient_dir`, so that it can also be listed and its
/// times be set.
pub(super) fn open_mount(host: &Path) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Dir::from_std_file(rustix::fs::open(host, flags, RawMode::empty())?.into()))
}

/// How to open what is there.
pub(super) fn options(mode: Mode, follow: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(mode.read).write(mode.write);
    options.follow(if follow { FollowSymlinks::Yes } else { FollowSymlinks::No });
    // A named pipe must not make this wait for its other end.
    options.custom_flags(OFlags::NONBLOCK.bits() as i32);
    options
}

fn timestamps([access, modification]: [Time; 2]) -> Timestamps {
    Timestamps { last_access: access.for_system(), last_modification: modification.for_system() }
}
