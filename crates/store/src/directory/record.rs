//! The records of a segment: chunks, commits, and the index of a finished segment.

use std::collections::BTreeMap;

use dunlin_base::Digest;
use dunlin_wire::{ReadError, Reader, Writer};

use crate::store::{MAX_STORED, check_name};

/// Bytes of a record before its body.
pub(super) const HEAD: usize = 48;
/// The most roots that a store has names for.
pub(super) const MAX_ROOTS: usize = 1024;
/// The longest body of a commit: as many roots as there can be, with names as long as they can be.
const MAX_COMMIT: usize = 8 + 4 + MAX_ROOTS * (1 + 64 + 32);
/// Bytes of an entry of an index.
const ENTRY: usize = 40;
/// The longest body of an index. A segment is finished long before it has as many chunks.
const MAX_INDEX: usize = 64 << 20;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum RecordKind {
    Chunk = 1,
    Commit = 2,
    Index = 3,
}

/// What stands before a record's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: RecordKind,
    pub(super) len: u32,
    /// Of the body; of a record that is no chunk, of its place and the body.
    pub(super) digest: Digest,
}

/// Where a record is: a commit that a disk shows at another place than where it was written is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

impl Head {
    pub(super) fn of(kind: RecordKind, at: Position, body: &[u8]) -> Self {
        // No body is longer than MAX_INDEX.
        Self { kind, len: body.len() as u32, digest: digest_of(kind, at, body) }
    }

    pub(super) fn encode(&self) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..4].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&self.len.to_le_bytes());
        bytes[8..40].copy_from_slice(&self.digest.0);
        let check = Digest::of(&bytes[..40]);
        bytes[40..].copy_from_slice(&check.0[..8]);
        bytes
    }

    /// `None` for bytes that are not a head.
    pub(super) fn decode(bytes: &[u8; HEAD]) -> Option<Self> {
        if bytes[40..] != Digest::of(&bytes[..40]).0[..8] {
            return None;
        }
        let mut reader = Reader::new(bytes);
        let (kind, len) = (reader.u32().ok()?, reader.u32().ok()?);
        let (kind, most) = match kind {
            1 => (RecordKind::Chunk, MAX_STORED),
            2 => (RecordKind::Commit, MAX_COMMIT),
            3 => (RecordKind::Index, MAX_INDEX),
            _ => return None,
        };
        let digest = Digest(reader.array().ok()?);
        (len as usize <= most).then_some(Self { kind, len, digest })
    }

    /// Whether `body` is what was written here.
    pub(super) fn fits(&self, at: Position, body: &[u8]) -> bool {
        body.len() == self.len as usize && digest_of(self.kind, at, body) == self.digest
    }
}

fn digest_of(kind: RecordKind, Position { segment, offset }: Position, body: &[u8]) -> Digest {
    if kind == RecordKind::Chunk {
        return Digest::of(body);
    }
    let mut bytes = segment.to_le_bytes().to_vec();
    bytes.extend(offset.to_le_bytes());
    bytes.extend((kind as u32).to_le_bytes());
    bytes.extend(body);
    Digest::of(&bytes)
}

/// What holds from a commit on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Commit {
    /// Grows by 1 with each commit of a store.
    pub(super) sequence: u64,
    pub(super) roots: BTreeMap<String, Digest>,
}

impl Commit {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u64(self.sequence);
        // At most MAX_ROOTS, and names of at most 64 bytes.
        writer.u32(self.roots.len() as u32);
        for (name, root) in &self.roots {
            writer.u8(name.len() as u8);
            writer.bytes(name.as_bytes());
            writer.bytes(&root.0);
        }
        writer.into_bytes()
    }

    /// `None` for bytes that are no commit.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let sequence = reader.u64().ok()?;
        let count = reader.count(34, MAX_ROOTS as u64).ok()?;
        let mut roots = BTreeMap::new();
        for _ in 0..count {
            let len = reader.u8().ok()?.into();
            let name = std::str::from_utf8(reader.bytes(len).ok()?).ok()?.to_owned();
            check_name(&name).ok()?;
            roots.insert(name, Digest(reader.array().ok()?));
        }
        reader.finish().ok()?;
        Some(Self { sequence, roots })
    }
}

/// A chunk of a segment: where its body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) digest: Digest,
    pub(super) offset: u32,
    pub(super) len: u32,
}

pub(super) fn encode_index(entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::new();
    for Entry { digest, offset, len } in entries {
        writer.bytes(&digest.0);
        writer.u32(*offset);
        writer.u32(*len);
    }
    writer.into_bytes()
}

/// The entries of an index, of which each must be within a segment of `len` bytes.
pub(super) fn decode_index(bytes: &[u8], len: u64) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    for bytes in bytes.chunks(ENTRY) {
        let entry = read_entry(bytes).ok()?;
        if entry.len as usize > MAX_STORED || u64::from(entry.offset) + u64::from(entry.len) > len {
            return None;
        }
        entries.push(entry);
    }
    Some(entries)
}

fn read_entry(bytes: &[u8]) -> Result<Entry, ReadError> {
    let mut reader = Reader::new(bytes);
    let entry = Entry { digest: Digest(reader.array()?), offset: reader.u32()?, len: reader.u32()? };
    reader.finish()?;
    Ok(entry)
}
