//! A segment: a file of records that only grows, until it is finished with an index and another one is begun.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dunlin_base::Digest;

use crate::directory::medium::{Medium, MediumFile};
use crate::directory::record::{Commit, Entry, HEAD, Head, Position, RecordKind, decode_index, encode_index};

const MAGIC: &[u8; 8] = b"\x89DUNSEG\n";
const VERSION: u16 = 1;
/// Magic, version, six bytes of zero, number.
pub(super) const START: usize = 24;
const SEAL_MAGIC: &[u8; 8] = b"DUNSEAL\x01";
/// Magic and the offset of the index, at the very end.
const SEAL: usize = 16;
/// A segment is finished when it has become as long. Less than 2^32, so that an index can tell.
pub(super) const FULL: u64 = 64 << 20;

/// What a segment's name begins with while it is not complete.
pub(super) const UNFINISHED: &str = "new";

/// Where a segment is.
pub(super) fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}"))
}

/// The number of the segment with this name; `None` for other names.
pub(super) fn number(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name, 16).ok()?;
    (format!("{number:016x}") == name).then_some(number)
}

/// The first bytes of a segment.
fn start(number: u64) -> [u8; START] {
    let mut bytes = [0; START];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Makes a segment that begins with `commit`, durably. Until it has its name, nobody looks at it. Its file and length.
pub(super) fn begin(
    medium: &dyn Medium,
    directory: &Path,
    number: u64,
    commit: &Commit,
) -> io::Result<(Arc<dyn MediumFile>, u64)> {
    let mut bytes = start(number).to_vec();
    append(&mut bytes, RecordKind::Commit, Position { segment: number, offset: START as u64 }, &commit.encode());
    let unfinished = directory.join(UNFINISHED);
    let file = medium.create(&unfinished)?;
    file.write_all_at(&bytes, 0)?;
    file.sync()?;
    medium.rename(&unfinished, &path(directory, number))?;
    medium.sync_directory(directory)?;
    Ok((file, bytes.len() as u64))
}

/// Adds a record to bytes that will be written; `at` is where it will be.
pub(super) fn append(bytes: &mut Vec<u8>, kind: RecordKind, at: Position, body: &[u8]) {
    bytes.extend(Head::of(kind, at, body).encode());
    bytes.extend(body);
}

/// The bytes that finish a segment of `len` bytes.
pub(super) fn finish(number: u64, len: u64, entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(&mut bytes, RecordKind::Index, Position { segment: number, offset: len }, &encode_index(entries));
    bytes.extend(SEAL_MAGIC);
    bytes.extend(len.to_le_bytes());
    bytes
}

/// What is wrong with a segment.
pub(super) type Problem = &'static str;

/// The chunks of a finished segment, as its index tells; `None` if it has none that is whole.
pub(super) fn read_index(file: &dyn MediumFile, number: u64, len: u64) -> io::Result<Option<Vec<Entry>>> {
    let Some(end) = len.checked_sub(SEAL as u64) else { return Ok(None) };
    let mut seal = [0; SEAL];
    file.read_exact_at(&mut seal, end)?;
    let (magic, offset) = seal.split_at(8);
    let offset = offset.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let body = offset.checked_add(HEAD as u64).filter(|body| *body <= end);
    let Some(body) = body.filter(|_| magic == SEAL_MAGIC) else { return Ok(None) };
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, offset)?;
    let Some(head) = Head::decode(&head).filter(|head| body + u64::from(head.len) == end) else { return Ok(None) };
    let mut bytes = vec![0; head.len as usize];
    file.read_exact_at(&mut bytes, body)?;
    let whole = head.kind == RecordKind::Index && head.fits(Position { segment: number, offset }, &bytes);
    Ok(if whole { decode_index(&bytes, offset) } else { None })
}

/// What the records of a segment say.
#[derive(Debug)]
pub(super) struct Scan {
    /// What holds since its last commit.
    pub(super) commit: Commit,
    /// All chunks. Of a segment that was finished, all are there, also those whose commit is in the next segment.
    pub(super) entries: Vec<Entry>,
    /// How many of them come before that commit.
    pub(super) committed: usize,
    /// Where that commit ends. If the segment is the newest, what follows never came to be.
    pub(super) end: u64,
}

/// Reads a segment record by record, up to the last commit before which everything is whole.
///
/// What was written before an earlier commit had been brought to the disk before what follows that commit was written.
/// So only what lies between the last two commits can be incomplete, and is checked; the chunks before are checked
/// when they are read, like all.
pub(super) fn scan(file: &dyn MediumFile, number: u64) -> io::Result<Result<Scan, Problem>> {
    let len = file.size()?;
    if len < START as u64 {
        return Ok(Err("it is too short"));
    }
    let mut first = [0; START];
    file.read_exact_at(&mut first, 0)?;
    if first[..8] != *MAGIC {
        return Ok(Err("it is no segment"));
    }
    if first[8..10] != VERSION.to_le_bytes() {
        return Ok(Err("its format is of another version, which this build does not know"));
    }
    if first != start(number) {
        return Ok(Err("it says that it is another segment"));
    }
    let (mut earlier, mut last): (Option<Mark>, Option<Mark>) = (None, None);
    let mut entries: Vec<Entry> = Vec::new();
    let mut offset = START as u64;
    while let Some(body) = offset.checked_add(HEAD as u64).filter(|body| *body <= len) {
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head, offset)?;
        let Some(head) = Head::decode(&head).filter(|head| body + u64::from(head.len) <= len) else { break };
        let end = body + u64::from(head.len);
        match head.kind {
            RecordKind::Chunk => {
                let Ok(offset) = u32::try_from(body) else { break };
                entries.push(Entry { digest: head.digest, offset, len: head.len });
            }
            RecordKind::Commit => {
                let bytes = read(file, body, head.len)?;
                let whole = head.fits(Position { segment: number, offset }, &bytes);
                let Some(commit) = Commit::decode(&bytes).filter(|_| whole) else { break };
                earlier = last.replace(Mark { commit, entries: entries.len(), end });
            }
            RecordKind::Index => break,
        }
        offset = end;
    }
    let Some(last) = last else { return Ok(Err("it has no commit that is whole")) };
    let before = earlier.as_ref().map_or(0, |mark| mark.entries);
    let mark = if is_whole(file, &entries[before..last.entries])? { Some(last) } else { earlier };
    let Some(Mark { commit, entries: committed, end }) = mark else {
        return Ok(Err("it has no commit that is whole"));
    };
    Ok(Ok(Scan { commit, entries, committed, end }))
}

/// A commit that was met.
struct Mark {
    commit: Commit,
    /// How many chunks were met before it.
    entries: usize,
    end: u64,
}

fn read(file: &dyn MediumFile, offset: u64, len: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Whether these chunks are what they should be.
fn is_whole(file: &dyn MediumFile, entries: &[Entry]) -> io::Result<bool> {
    for entry in entries {
        let bytes = read(file, entry.offset.into(), entry.len)?;
        if Digest::of(&bytes) != entry.digest {
            return Ok(false);
        }
    }
    Ok(true)
}
