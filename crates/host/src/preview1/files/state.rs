//! Freezing and thawing what is open.
//!
//! A file is found again by its path beneath its mount. The path is not always the one by which it was opened: it may
//! have been renamed since. So a freeze checks that the path leads to the open file, and else asks the system where
//! the file is now. A file that has been deleted is nowhere: its contents travel.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::FileExt as _;

use cap_std::fs::{Dir, MetadataExt as _};
use dunlin_snapshot::HostSection;
use rustix::fs::MemfdFlags;

use crate::codec::{CodecError, Reader, Writer};
use crate::config::{self, Limits};
use crate::error::Error;
use crate::needs::MountNeed;
use crate::preview1::descriptors::{DescriptorV1, Object, Table};
use crate::preview1::fdstat::flags;
use crate::preview1::files::backing::{Content, Tree};
use crate::preview1::files::host::{HostDirectory, HostFile, Place, open_mount, options};
use crate::preview1::files::listing::ListingV1;
use crate::preview1::files::{Directory, File, Files, Mode, Mounted};
use crate::sections::{Frozen, Sections, kind};

/// Mounts and what is open, at a freeze.
pub(crate) struct FilesV1 {
    mounts: Vec<MountV1>,
    open: Vec<OpenV1>,
}

struct MountV1 {
    guest: String,
    writable: bool,
}

struct OpenV1 {
    descriptor: DescriptorV1,
    mount: u32,
    path: String,
    mode: Mode,
    what: WhatV1,
}

enum WhatV1 {
    Directory {
        preopened: bool,
        listing: Option<ListingV1>,
    },
    File {
        append: bool,
        synchronous: u32,
        offset: u64,
        /// The contents of a file that has been deleted.
        deleted: Option<Vec<u8>>,
    },
}

impl Frozen for FilesV1 {
    const KIND: u16 = kind::FILES;
    const VERSION: u16 = 1;

    fn write(&self, writer: &mut Writer) {
        writer.list(&self.mounts, |mount, writer| {
            writer.text(&mount.guest);
            writer.flag(mount.writable);
        });
        writer.list(&self.open, OpenV1::write);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let mounts = reader
            .list(|reader| Ok(MountV1 { guest: reader.text("mount path")?, writable: reader.flag("mount mode")? }))?;
        let open = reader.list(|reader| OpenV1::read(reader, mounts.len()))?;
        Ok(Self { mounts, open })
    }
}

impl FilesV1 {
    /// The mounts that a host must have.
    pub(crate) fn needs(self) -> Vec<MountNeed> {
        let Self { mounts, open } = self;
        let mut needs: Vec<_> = mounts
            .into_iter()
            .map(|MountV1 { guest, writable }| MountNeed { guest, writable, open: Vec::new() })
            .collect();
        for OpenV1 { mount, path, what, .. } in open {
            let deleted = matches!(what, WhatV1::File { deleted: Some(_), .. });
            if !path.is_empty() && !deleted {
                needs[mount as usize].open.push(path);
            }
        }
        needs
    }
}

impl OpenV1 {
    fn write(&self, writer: &mut Writer) {
        let Self { descriptor, mount, path, mode, what } = self;
        descriptor.write(writer);
        writer.u32(*mount);
        writer.text(path);
        writer.flag(mode.read);
        writer.flag(mode.write);
        match what {
            WhatV1::Directory { preopened, listing } => {
                writer.flag(true);
                writer.flag(*preopened);
                writer.option(listing.as_ref(), ListingV1::write);
            }
            WhatV1::File { append, synchronous, offset, deleted } => {
                writer.flag(false);
                writer.flag(*append);
                writer.u32(*synchronous);
                writer.u64(*offset);
                writer.option(deleted.as_ref(), |contents, writer| writer.bytes(contents));
            }
        }
    }

    fn read(reader: &mut Reader<'_>, mounts: usize) -> Result<Self, CodecError> {
        let descriptor = DescriptorV1::read(reader)?;
        let mount = reader.u32()?;
        if mount as usize >= mounts {
            return Err(reader.invalid("mount number"));
        }
        let path = reader.text("path")?;
        let mode = Mode { read: reader.flag("mode")?, write: reader.flag("mode")? };
        let what = if reader.flag("kind of file")? {
            let preopened = reader.flag("kind of directory")?;
            WhatV1::Directory { preopened, listing: reader.option("listing", ListingV1::read)? }
        } else {
            let append = reader.flag("mode")?;
            let synchronous = reader.u32()?;
            if synchronous & !flags::SYNCHRONOUS != 0 {
                return Err(reader.invalid("mode"));
            }
            let offset = reader.u64()?;
            let deleted = reader.option("deletion", |reader| reader.bytes().map(<[u8]>::to_vec))?;
            WhatV1::File { append, synchronous, offset, deleted }
        };
        Ok(Self { descriptor, mount, path, mode, what })
    }
}

impl Files {
    pub(crate) fn freeze(&self, table: &Table, limits: &Limits) -> Result<HostSection, Error> {
        let mounts =
            self.mounts.iter().map(|mount| MountV1 { guest: mount.guest.clone(), writable: mount.writable }).collect();
        let mut open = Vec::new();
        for (descriptor, object) in table.iter() {
            open.extend(match object {
                Object::Directory(directory) => self.freeze_directory(descriptor, directory)?,
                Object::File(file) => self.freeze_file(descriptor, file, limits)?,
                _ => None,
            });
        }
        Ok(FilesV1 { mounts, open }.section())
    }

    /// `None` for a directory that is not on the host.
    fn freeze_directory(&self, descriptor: DescriptorV1, directory: &Directory) -> Result<Option<OpenV1>, Error> {
        let Directory { mode, preopened, listing, tree } = directory;
        let Tree::Host(HostDirectory { place, dir }) = tree else { return Ok(None) };
        let path = if *preopened {
            String::new()
        } else {
            let fd = descriptor.fd;
            self.find(fd, place, dir)?.ok_or_else(|| Error::NotMovable {
                fd,
                why: "its directory has been deleted; close it first".to_owned(),
            })?
        };
        let what = WhatV1::Directory { preopened: *preopened, listing: listing.clone() };
        Ok(Some(OpenV1 { descriptor, mount: place.mount, path, mode: *mode, what }))
    }

    /// `None` for a file that is not on the host.
    fn freeze_file(&self, descriptor: DescriptorV1, file: &File, limits: &Limits) -> Result<Option<OpenV1>, Error> {
        let File { mode, append, synchronous, offset, content } = file;
        let Content::Host(HostFile { place, file: open }) = content else { return Ok(None) };
        let path = self.find(descriptor.fd, place, open)?;
        let deleted = if path.is_none() { Some(contents(descriptor.fd, *mode, open, limits)?) } else { None };
        let what = WhatV1::File { append: *append, synchronous: *synchronous, offset: *offset, deleted };
        Ok(Some(OpenV1 { descriptor, mount: place.mount, path: path.unwrap_or_default(), mode: *mode, what }))
    }

    /// The path beneath its mount of something open; `None` when it has been deleted.
    fn find(&self, fd: u32, place: &Place, open: impl AsFd) -> Result<Option<String>, Error> {
        let failed = |source: io::Error| Error::Freeze { fd, source };
        let stat = rustix::fs::fstat(&open).map_err(|error| failed(error.into()))?;
        if stat.st_nlink == 0 {
            return Ok(None);
        }
        let Some(mount) = self.mounts.get(place.mount as usize) else { return Ok(None) };
        let leads_here = |path: &str| {
            let path = if path.is_empty() { "." } else { path };
            mount.root.metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (stat.st_dev, stat.st_ino))
        };
        if leads_here(&place.path) {
            return Ok(Some(place.path.clone()));
        }
        let absolute = |fd: i32| fs::read_link(format!("/proc/self/fd/{fd}"));
        let root = absolute(mount.root.as_fd().as_raw_fd()).map_err(failed)?;
        let now = absolute(open.as_fd().as_raw_fd()).map_err(failed)?;
        match now.strip_prefix(&root).ok().and_then(|path| path.to_str()) {
            Some(path) if leads_here(path) => Ok(Some(path.to_owned())),
            _ => {
                let why = format!(
                    "`{}` under `{}` is not the file that was opened, and that one cannot be found; close it first",
                    place.path, mount.guest
                );
                Err(Error::NotMovable { fd, why })
            }
        }
    }

    /// Mounts and opens what the snapshot tells. What the host lacks is added to `missing`.
    pub(crate) fn thaw(
        sections: &Sections<'_>,
        offered: &[config::Mount],
        limits: &Limits,
        table: &mut Table,
        missing: &mut Vec<String>,
    ) -> Result<Self, Error> {
        let FilesV1 { mounts, open } = sections.required()?;
        if open.len() > limits.descriptors as usize {
            return Err(Error::TooManyDescriptors { open: open.len(), limit: limits.descriptors });
        }
        let mounted: Vec<Option<Mounted>> = mounts
            .iter()
            .map(|mount| match mount.find(offered) {
                Ok(mounted) => Some(mounted),
                Err(why) => {
                    missing.push(why);
                    None
                }
            })
            .collect();
        for open in open {
            // A missing mount has been named once; what was open in it is not listed as well.
            let Some(Some(mount)) = mounted.get(open.mount as usize) else { continue };
            let (descriptor, path) = (open.descriptor, open.path.clone());
            match open.reopen(mount) {
                Ok(object) => table.insert_at(descriptor, object)?,
                Err(error) => missing.push(format!("`{path}` under `{}` ({error})", mount.guest)),
            }
        }
        Ok(Self { mounts: mounted.into_iter().flatten().collect(), volume: None })
    }
}

impl MountV1 {
    /// The offered mount that takes this one's place. What the program could change before it can change on.
    fn find(&self, offered: &[config::Mount]) -> Result<Mounted, String> {
        let Some(mount) = offered.iter().find(|mount| mount.guest == self.guest) else {
            return Err(format!("a directory mounted as `{}`", self.guest));
        };
        if self.writable && !mount.writable {
            let host = mount.host.display();
            return Err(format!(
                "the right to change what is mounted as `{}` ({host} is offered read-only)",
                self.guest
            ));
        }
        match open_mount(&mount.host) {
            // A host that permits more does not widen what the program was given.
            Ok(root) => Ok(Mounted { guest: self.guest.clone(), writable: self.writable, root }),
            Err(error) => Err(format!("a directory mounted as `{}` ({}: {error})", self.guest, mount.host.display())),
        }
    }
}

impl OpenV1 {
    /// Opens it again: nothing is created or truncated.
    fn reopen(self, mount: &Mounted) -> io::Result<Object> {
        let Self { descriptor: _, mount: index, path, mode, what } = self;
        let place = Place { mount: index, path, writable: mount.writable };
        let find = |path: &str, mode: Mode| {
            if path.is_empty() {
                return Ok(mount.root.try_clone()?.into_std_file());
            }
            Ok::<_, io::Error>(mount.root.open_with(path, &options(mode, true))?.into_std())
        };
        match what {
            WhatV1::Directory { preopened, listing } => {
                let found = find(&place.path, Mode { read: true, write: false })?;
                if !found.metadata()?.is_dir() {
                    return Err(ErrorKind::NotADirectory.into());
                }
                let tree = Tree::Host(HostDirectory { place, dir: Dir::from_std_file(found) });
                Ok(Object::Directory(Directory { mode, preopened, listing, tree }))
            }
            WhatV1::File { append, synchronous, offset, deleted } => {
                let file = match deleted {
                    Some(contents) => {
                        let mut file = fs::File::from(rustix::fs::memfd_create("deleted", MemfdFlags::CLOEXEC)?);
                        file.write_all(&contents)?;
                        file
                    }
                    None if mode.write && !mount.writable => {
                        return Err(io::Error::new(
                            ErrorKind::PermissionDenied,
                            "open for writing in a directory that is mounted read-only",
                        ));
                    }
                    None => find(&place.path, mode)?,
                };
                if file.metadata()?.is_dir() {
                    return Err(ErrorKind::IsADirectory.into());
                }
                let content = Content::Host(HostFile { place, file });
                Ok(Object::File(File { mode, append, synchronous, offset, content }))
            }
        }
    }
}

/// All of a deleted file.
fn contents(fd: u32, mode: Mode, file: &fs::File, limits: &Limits) -> Result<Vec<u8>, Error> {
    let failed = |source: io::Error| Error::Freeze { fd, source };
    let metadata = file.metadata().map_err(failed)?;
    let why = if !metadata.is_file() {
        Some("it has been deleted and is no regular file; close it first".to_owned())
    } else if !mode.read {
        Some("its file has been deleted and is open for writing only; close it first".to_owned())
    } else if metadata.len() > limits.carried_bytes {
        Some(format!(
            "its file has been deleted and has {} bytes, more than the limit of {}; close it first",
            metadata.len(),
            limits.carried_bytes
        ))
    } else {
        None
    };
    if let Some(why) = why {
        return Err(Error::NotMovable { fd, why });
    }
    let mut contents = vec![0; metadata.len() as usize];
    file.read_exact_at(&mut contents, 0).map_err(failed)?;
    Ok(contents)
}
