//! `fd_readdir`. State: the entries of a listing in progress.
//!
//! A listing of a directory of the host is taken when it begins (cookie 0), in the order of names, and kept until it
//! has been read to its end: so a cookie means the same entry whatever happens to the directory meanwhile, and on
//! another host. In the private volume an entry has its cookie for life, so there is nothing to keep: what is made
//! during a listing is listed, what is removed is not, and everything else is listed exactly once.

use cap_std::fs::MetadataExt as _;
use rustix::fs::{Dir as Entries, FileType};

use crate::codec::{CodecError, Reader, Writer};
use crate::errno::Errno;
use crate::memory::Memory;
use crate::preview1::descriptors::Object;
use crate::preview1::files::backing::Tree;
use crate::preview1::files::filetype;
use crate::preview1::files::host::HostDirectory;
use crate::preview1::files::volume::{Node, filetype_of};
use crate::preview1::{Break, Params, rights};
use crate::world::World;

/// Bytes of an entry before its name.
const HEAD: usize = 24;

/// Entries of a volume's directory that are fetched at once.
const BATCH: usize = 256;

/// The entries of a directory: both the live state and the frozen one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListingV1(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: String,
    inode: u64,
    filetype: u8,
}

impl ListingV1 {
    fn take(directory: &HostDirectory, limit: u32) -> Result<Self, Errno> {
        // What `..` of a mount is on the host is none of the program's business. Both are told even of a directory
        // that has been deleted.
        let own = directory.dir.dir_metadata()?.ino();
        let mut entries = Entry::special(own).to_vec();
        for entry in Entries::read_from(&directory.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_str().map_err(|_| Errno::Ilseq)?;
            if name == "." || name == ".." {
                continue;
            }
            if entries.len() >= limit as usize {
                return Err(Errno::Nomem);
            }
            let filetype = match entry.file_type() {
                // Some file systems leave it out of their directories.
                FileType::Unknown => directory
                    .dir
                    .symlink_metadata(name)
                    .map_or(filetype::UNKNOWN, |metadata| filetype::of_mode(FileType::from_raw_mode(metadata.mode()))),
                known => filetype::of_mode(known),
            };
            entries.push(Entry { name: name.to_owned(), inode: entry.ino(), filetype });
        }
        entries[2..].sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Self(entries))
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.list(&self.0, |entry, writer| {
            writer.text(&entry.name);
            writer.u64(entry.inode);
            writer.u8(entry.filetype);
        });
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let entry = |reader: &mut Reader<'_>| {
            Ok(Entry { name: reader.text("name")?, inode: reader.u64()?, filetype: reader.u8()? })
        };
        Ok(Self(reader.list(entry)?))
    }
}

impl Entry {
    /// `.` and `..`.
    fn special(own: u64) -> [Self; 2] {
        [(".", own), ("..", 0)].map(|(name, inode)| Self {
            name: name.to_owned(),
            inode,
            filetype: filetype::DIRECTORY,
        })
    }

    fn head(&self, next: u64) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&next.to_le_bytes());
        head[8..16].copy_from_slice(&self.inode.to_le_bytes());
        head[16..20].copy_from_slice(&(self.name.len() as u32).to_le_bytes());
        head[20] = self.filetype;
        head
    }
}

/// Fills the buffer with entries from `cookie` on; the last one is cut when there is no more room. Less than the
/// buffer's length means that the directory is at its end.
pub(crate) fn fd_readdir(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let (at, len, cookie, result) = (params.u32(1), params.u32(2), params.u64(3), params.u32(4));
    memory.range(result, 1, 4)?;
    memory.range(at, len, 1)?;
    let limit = world.limits.directory_entries;
    let Object::Directory(directory) = &mut world.table.get_mut(params.u32(0), rights::FD_READDIR)?.object else {
        return Err(Errno::Badf.into());
    };
    let host = match &directory.tree {
        Tree::Host(host) => host,
        Tree::Volume(node) => {
            let mut page = Page::new(memory.bytes_mut(at, len)?);
            page.fill(node, cookie)?;
            let used = page.used;
            return Ok(memory.write_u32(result, used as u32)?);
        }
    };
    let listing = match directory.listing.take() {
        Some(listing) if cookie != 0 => listing,
        _ => ListingV1::take(host, limit)?,
    };
    let mut page = Page::new(memory.bytes_mut(at, len)?);
    let first = usize::try_from(cookie).unwrap_or(usize::MAX);
    for (next, entry) in (1..).zip(&listing.0).skip(first) {
        if !page.put(next, entry) {
            break;
        }
    }
    let used = page.used;
    if page.is_full() {
        directory.listing = Some(listing);
    }
    Ok(memory.write_u32(result, used as u32)?)
}

/// The buffer that entries are put into.
struct Page<'a> {
    buffer: &'a mut [u8],
    used: usize,
}

impl<'a> Page<'a> {
    fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, used: 0 }
    }

    fn is_full(&self) -> bool {
        self.used == self.buffer.len()
    }

    /// Puts an entry, or as much of it as there is room for. Whether there is room for more.
    fn put(&mut self, next: u64, entry: &Entry) -> bool {
        for bytes in [&entry.head(next)[..], entry.name.as_bytes()] {
            let room = &mut self.buffer[self.used..];
            let fits = bytes.len().min(room.len());
            room[..fits].copy_from_slice(&bytes[..fits]);
            self.used += fits;
        }
        !self.is_full()
    }

    /// Puts the entries of a volume's directory behind `cookie`.
    fn fill(&mut self, node: &Node, mut cookie: u64) -> Result<(), Errno> {
        for (next, entry) in (1..).zip(&Entry::special(node.ino().0)) {
            if cookie < next {
                if !self.put(next, entry) {
                    return Ok(());
                }
                cookie = next;
            }
        }
        loop {
            let entries = node.entries(cookie, BATCH)?;
            let Some(last) = entries.last() else { return Ok(()) };
            cookie = last.cookie;
            for found in entries {
                let entry = Entry { name: found.name, inode: found.ino.0, filetype: filetype_of(found.kind) };
                if !self.put(found.cookie, &entry) {
                    return Ok(());
                }
            }
        }
    }
}
