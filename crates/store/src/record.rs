//! The encodings: root record, pages of inodes, pages of directory entries. docs/formats/volume.md draws them.

use dunlin_base::Digest;
use dunlin_wire::{Reader, Writer};

use crate::error::Damage;
use crate::tree::{MAX_HEIGHT, Stored};
use crate::{MAX_FILE, MAX_LINKS, MAX_NAME, MAX_OPEN, MAX_PATH};

const MAGIC: &[u8; 8] = b"\x89DUNVOL\n";
const VERSION: u16 = 1;
/// Inodes of a page.
pub(crate) const INODES: u64 = 16;
/// Directory entries of a page.
pub(crate) const ENTRIES: u64 = 32;
/// No volume lives long enough to count further. Counting on from here does not overflow.
const MAX_COUNT: u64 = 1 << 62;
/// The first cookie of an entry: 1 and 2 are left for `.` and `..`.
pub(crate) const FIRST_COOKIE: u64 = 3;

/// What identifies a volume at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) id: [u8; 16],
    pub(crate) generation: u64,
    pub(crate) block_bits: u8,
    pub(crate) quota_bytes: u64,
    pub(crate) quota_inodes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) used_inodes: u64,
    pub(crate) next_inode: u64,
    pub(crate) table: Stored,
    /// Inodes without a name that were open, ascending.
    pub(crate) orphans: Vec<u64>,
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FileKind {
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
}

/// An inode as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) links: u32,
    /// Access, modification, change: nanoseconds since 1970.
    pub(crate) times: [u64; 3],
    pub(crate) body: BodyRecord,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BodyRecord {
    File { size: u64, blocks: u64, tree: Stored },
    Directory { size: u64, parent: u64, next_cookie: u64, tree: Stored },
    Symlink { target: String },
}

/// An entry of a directory as it is stored; its cookie follows from its page and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryRecord {
    pub(crate) inode: u64,
    pub(crate) kind: FileKind,
    pub(crate) name: String,
}

impl Root {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.bytes(MAGIC);
        writer.u16(VERSION);
        writer.u8(self.block_bits);
        writer.bytes(&self.id);
        for number in
            [self.generation, self.quota_bytes, self.quota_inodes, self.used_bytes, self.used_inodes, self.next_inode]
        {
            writer.u64(number);
        }
        write_stored(&mut writer, self.table);
        // There are at most MAX_OPEN of them.
        writer.u32(self.orphans.len() as u32);
        self.orphans.iter().for_each(|orphan| writer.u64(*orphan));
        writer.into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let mut reader = Reader::new(bytes);
        if reader.array()? != *MAGIC {
            return Err(Damage::Magic);
        }
        let version = reader.u16()?;
        if version != VERSION {
            return Err(Damage::Version(version));
        }
        let block_bits = reader.u8()?;
        check((12..=20).contains(&block_bits), "the block size is not one of 4 KiB to 1 MiB")?;
        let root = Self {
            block_bits,
            id: reader.array()?,
            generation: reader.u64()?,
            quota_bytes: reader.u64()?,
            quota_inodes: reader.u64()?,
            used_bytes: reader.u64()?,
            used_inodes: reader.u64()?,
            next_inode: reader.u64()?,
            table: read_stored(&mut reader)?,
            orphans: {
                let count = reader.count(8, MAX_OPEN as u64)?;
                (0..count).map(|_| reader.u64()).collect::<Result<_, _>>()?
            },
        };
        reader.finish()?;
        check(root.generation <= MAX_COUNT && root.next_inode <= MAX_COUNT, "the volume is older than any can be")?;
        check(root.used_inodes <= root.next_inode, "more inodes are in use than were ever made")?;
        check(root.orphans.is_sorted_by(|one, other| one < other), "the deleted files are not in order")?;
        check(root.orphans.iter().all(|orphan| *orphan < root.next_inode), "a deleted file was never made")?;
        check(root.next_inode > 1 && root.table.is_some(), "there is no root directory")?;
        Ok(root)
    }
}

impl Inode {
    fn write(&self, writer: &mut Writer) {
        let kind = match self.body {
            BodyRecord::File { .. } => FileKind::File,
            BodyRecord::Directory { .. } => FileKind::Directory,
            BodyRecord::Symlink { .. } => FileKind::Symlink,
        };
        writer.u8(kind as u8);
        writer.u32(self.links);
        self.times.iter().for_each(|time| writer.u64(*time));
        match &self.body {
            BodyRecord::File { size, blocks, tree } => {
                writer.u64(*size);
                writer.u64(*blocks);
                write_stored(writer, *tree);
            }
            BodyRecord::Directory { size, parent, next_cookie, tree } => {
                writer.u64(*size);
                writer.u64(*parent);
                writer.u64(*next_cookie);
                write_stored(writer, *tree);
            }
            BodyRecord::Symlink { target } => {
                // At most MAX_PATH.
                writer.u16(target.len() as u16);
                writer.bytes(target.as_bytes());
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Damage> {
        let kind = FileKind::read(reader)?;
        let links = reader.u32()?;
        check(links <= MAX_LINKS, "an inode has more links than it can have")?;
        let times = [reader.u64()?, reader.u64()?, reader.u64()?];
        let body = match kind {
            FileKind::File => {
                let body = (reader.u64()?, reader.u64()?, read_stored(reader)?);
                let (size, blocks, tree) = body;
                check(size <= MAX_FILE, "a file is larger than it can be")?;
                check(blocks <= MAX_COUNT, "a file has more blocks than it can have")?;
                check((blocks == 0) == tree.is_none(), "a file's blocks and tree disagree")?;
                BodyRecord::File { size, blocks, tree }
            }
            FileKind::Directory => {
                let (size, parent, next_cookie) = (reader.u64()?, reader.u64()?, reader.u64()?);
                let possible = FIRST_COOKIE..=MAX_COUNT;
                check(possible.contains(&next_cookie), "a directory's next cookie is out of range")?;
                BodyRecord::Directory { size, parent, next_cookie, tree: read_stored(reader)? }
            }
            FileKind::Symlink => {
                let len = reader.u16()?.into();
                check((1..=MAX_PATH as u64).contains(&len), "a symbolic link is empty or too long")?;
                BodyRecord::Symlink { target: text(reader, len)? }
            }
        };
        Ok(Self { links, times, body })
    }
}

impl FileKind {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Damage> {
        match reader.u8()? {
            1 => Ok(Self::File),
            2 => Ok(Self::Directory),
            3 => Ok(Self::Symlink),
            _ => Err(Damage::Value("an inode is of no known kind")),
        }
    }
}

/// A page of inodes: each with its place.
pub(crate) fn encode_inodes(page: &[(u8, Inode)]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u16(page.iter().fold(0, |set, (place, _)| set | 1 << place));
    page.iter().for_each(|(_, inode)| inode.write(&mut writer));
    writer.into_bytes()
}

pub(crate) fn decode_inodes(bytes: &[u8]) -> Result<Vec<(u8, Inode)>, Damage> {
    let mut reader = Reader::new(bytes);
    let set = reader.u16()?;
    check(set != 0, "a page of inodes is empty")?;
    let mut page = Vec::new();
    for place in (0..INODES as u8).filter(|place| set >> place & 1 != 0) {
        page.push((place, Inode::read(&mut reader)?));
    }
    reader.finish()?;
    Ok(page)
}

/// A page of a directory: each entry with its place, which is the low bits of its cookie.
pub(crate) fn encode_entries<'a>(page: impl Iterator<Item = (u8, u64, FileKind, &'a str)>) -> Vec<u8> {
    let mut set = 0u32;
    let mut entries = Writer::new();
    for (place, inode, kind, name) in page {
        set |= 1 << place;
        entries.u64(inode);
        entries.u8(kind as u8);
        // At most MAX_NAME.
        entries.u8(name.len() as u8);
        entries.bytes(name.as_bytes());
    }
    let mut writer = Writer::new();
    writer.u32(set);
    writer.bytes(entries.as_slice());
    writer.into_bytes()
}

pub(crate) fn decode_entries(bytes: &[u8]) -> Result<Vec<(u8, EntryRecord)>, Damage> {
    let mut reader = Reader::new(bytes);
    let set = reader.u32()?;
    check(set != 0, "a page of a directory is empty")?;
    let mut page = Vec::new();
    for place in (0..ENTRIES as u8).filter(|place| set >> place & 1 != 0) {
        let inode = reader.u64()?;
        let kind = FileKind::read(&mut reader)?;
        let len = reader.u8()?.into();
        let name = text(&mut reader, len)?;
        check(is_name(&name), "a directory has an entry that is not a name")?;
        page.push((place, EntryRecord { inode, kind, name }));
    }
    reader.finish()?;
    Ok(page)
}

/// Whether `name` can be an entry of a directory.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name != "." && name != ".." && !name.contains(['/', '\0'])
}

fn write_stored(writer: &mut Writer, stored: Stored) {
    writer.u8(stored.is_some().into());
    if let Some((height, digest)) = stored {
        writer.u8(height);
        writer.bytes(&digest.0);
    }
}

fn read_stored(reader: &mut Reader<'_>) -> Result<Stored, Damage> {
    match reader.u8()? {
        0 => Ok(None),
        1 => {
            let height = reader.u8()?;
            check(height <= MAX_HEIGHT, "a tree is too high")?;
            Ok(Some((height, Digest(reader.array()?))))
        }
        _ => Err(Damage::Value("a flag is neither 0 nor 1")),
    }
}

fn text(reader: &mut Reader<'_>, len: u64) -> Result<String, Damage> {
    let text = std::str::from_utf8(reader.bytes(len)?).map_err(|_| Damage::Value("a name is not UTF-8"))?;
    Ok(text.to_owned())
}

fn check(good: bool, problem: &'static str) -> Result<(), Damage> {
    if good { Ok(()) } else { Err(Damage::Value(problem)) }
}
