//! A state on stable storage: one file that is written, and put on stable storage piece by piece, while memory arrives,
//! so that the stop only appends what is left.
//!
//! ```text
//!   "dunlin staged 1\0", then records: u32 length, u8 kind, body
//!     1  pages, as in a message            4  arrival: who sent it, and the digest of all of this
//!     2  pages that stayed behind          5  what a source must remember (post-copy)
//!     3  the state besides memory
//! ```
//!
//! A later record about a page replaces an earlier one. A record that is cut off at the end was not finished, and is not
//! there. In a sealed file all of this is sealed ([`Shelf`]); in one that is not, nothing else protects it. Whoever
//! loads either compares the digest of the state with the ledger's.

use core::ops::{Deref, Range};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use dunlin_base::{Digest, PAGE_SIZE, is_zero};
use dunlin_handover::codec::{DecodeError, Wire};
use dunlin_handover::destination::Arrival;
use dunlin_handover::message::{Content, LeftBehind, MAX_FRAME, Pages};
use dunlin_handover::source::Retained;

use super::Error;
use super::outgoing::PageSet;
use super::shelf::{Shelf, Sink};

const MAGIC: &[u8; 16] = b"dunlin staged 1\0";
const PAGES: u8 = 1;
const BEHIND: u8 = 2;
const REST: u8 = 3;
const ARRIVAL: u8 = 4;
const RETAINED: u8 = 5;

/// Largest state besides memory.
const MAX_REST: usize = 1 << 30;
/// Most memories of a program.
const MEMORIES: usize = 64;
/// Most pages of a memory: 4 GiB.
const LARGEST: u64 = 1 << 20;
/// Messages that wait for the disk.
const QUEUE: usize = 8;
/// Bytes after which what was written is put on stable storage without being asked: whoever waits at the stop waits for
/// no more than this.
const PIECE: usize = 16 << 20;

/// Why a staged state cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The file cannot be read.
    #[error("the staged state cannot be read")]
    Read(#[source] io::Error),
    /// It is sealed with another key, or was changed.
    #[error("the staged state cannot be opened")]
    Seal(#[source] dunlin_seal::Error),
    /// It is not a staged state.
    #[error("the file is not a staged state of a version that this program knows")]
    Magic,
    /// A record is not one.
    #[error("record {number} of the staged state is damaged")]
    Record {
        /// Its number, from 0.
        number: u64,
        /// What is wrong.
        #[source]
        source: DecodeError,
    },
    /// A record has a length or kind that none has.
    #[error("record {number} of the staged state has an impossible length or kind")]
    Form {
        /// Its number, from 0.
        number: u64,
    },
    /// Pages do not unpack to what they should be.
    #[error("pages of the staged state cannot be unpacked")]
    Pack,
}

pub(crate) enum Order {
    Pages(Pages),
    Behind(LeftBehind),
    Rest(Vec<u8>),
    Arrival(Box<Arrival>),
    Retained(Retained),
    /// Put all of it on stable storage and say so.
    Sync(SyncSender<io::Result<()>>),
}

/// Writes a staged state in a thread of its own.
#[derive(Debug)]
pub(crate) struct Stager {
    shelf: Shelf,
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Stager {
    /// Begins a new file, replacing one of the same name.
    pub(crate) fn create(shelf: impl Into<Shelf>) -> Result<Self, Error> {
        let shelf = shelf.into();
        let (orders, taken) = sync_channel(QUEUE);
        let at = shelf.clone();
        let thread = thread::Builder::new().name("dunlin-stager".to_owned()).spawn(move || serve(&at, &taken));
        Ok(Self { shelf, orders: Some(orders), thread: Some(thread.map_err(Error::Thread)?) })
    }

    pub(crate) fn put(&self, order: Order) {
        // A stager that failed says so when it is asked to make all of it stable.
        let _failed = self.orders.as_ref().map(|orders| orders.send(order));
    }

    /// Asks for everything to be put on stable storage. The answer comes from [`Stager::synced`].
    pub(crate) fn sync(&self) -> Receiver<io::Result<()>> {
        let (done, answer) = sync_channel(1);
        self.put(Order::Sync(done));
        answer
    }

    pub(crate) fn synced(answer: &Receiver<io::Result<()>>) -> Result<(), String> {
        match answer.recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("the state cannot be written: {error}")),
            Err(_) => Err("the state cannot be written".to_owned()),
        }
    }

    /// Deletes the file.
    pub(crate) fn delete(mut self) {
        self.end();
        let _gone = fs::remove_file(self.shelf.path());
    }

    fn end(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

impl Drop for Stager {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve(shelf: &Shelf, orders: &Receiver<Order>) {
    let mut file = begin(shelf);
    let mut unstable = 0;
    for order in orders {
        let written = match (&mut file, &order) {
            (Err(_), Order::Sync(_)) => Ok(()),
            (Err(_), _) => continue,
            (Ok(file), Order::Pages(pages)) => {
                let bytes = pages.to_bytes();
                unstable += bytes.len();
                let mut written = record(file, PAGES, &bytes);
                if unstable >= PIECE {
                    unstable = 0;
                    written = written.and_then(|()| file.sync());
                }
                written
            }
            (Ok(file), Order::Behind(left)) => record(file, BEHIND, &left.to_bytes()),
            (Ok(file), Order::Rest(rest)) => record(file, REST, rest),
            (Ok(file), Order::Arrival(arrival)) => record(file, ARRIVAL, &arrival.to_bytes()),
            (Ok(file), Order::Retained(retained)) => record(file, RETAINED, &retained.to_bytes()),
            (Ok(file), Order::Sync(_)) => {
                unstable = 0;
                file.sync()
            }
        };
        if let Err(error) = written {
            file = Err(error);
        }
        if let Order::Sync(done) = order {
            let answer = match &file {
                Ok(_) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            let _gone = done.send(answer);
        }
    }
    if let Ok(mut file) = file {
        let _unfinished = file.flush();
    }
}

fn begin(shelf: &Shelf) -> io::Result<Sink> {
    let mut file = shelf.create()?;
    file.write_all(MAGIC)?;
    // The name is to survive, not only the bytes.
    if let Some(directory) = shelf.path().parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(file)
}

fn record(file: &mut Sink, kind: u8, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(&[kind])?;
    file.write_all(body)
}

/// A staged state as it was loaded. Nothing in it is to be believed before its digest was compared with the ledger's.
#[derive(Debug, Default)]
pub struct Staged {
    /// Where it came from; `None` for what a source retained, or an unfinished file.
    pub arrival: Option<Arrival>,
    /// What a source retained it for.
    pub retained: Option<Retained>,
    /// The state besides memory.
    pub rest: Vec<u8>,
    /// The pages of each memory.
    pub pages: Vec<BTreeMap<u64, Contents>>,
    /// Pages that were to come later and did not come.
    pub missing: Missing,
}

/// The bytes of a page. A page of zeros takes no memory, however many of them a file says there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents(Option<Vec<u8>>);

impl Deref for Contents {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[0; PAGE_SIZE])
    }
}

impl From<Contents> for Vec<u8> {
    fn from(contents: Contents) -> Self {
        contents.0.unwrap_or_else(|| vec![0; PAGE_SIZE])
    }
}

impl From<Contents> for Box<[u8]> {
    fn from(contents: Contents) -> Self {
        Vec::from(contents).into()
    }
}

/// Pages that are not there, by memory.
#[derive(Debug, Clone, Default)]
pub struct Missing(Vec<PageSet>);

impl Missing {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.iter().map(PageSet::count).sum()
    }

    /// Whether everything is there.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Memories and ranges of pages, ascending.
    pub fn ranges(&self) -> Vec<(usize, Range<u64>)> {
        let of = |(index, set): (usize, &PageSet)| set.ranges(0).map(|range| (index, range)).collect::<Vec<_>>();
        self.0.iter().enumerate().flat_map(of).collect()
    }

    fn of(&mut self, memory: usize) -> &mut PageSet {
        if self.0.len() <= memory {
            self.0.resize_with(memory + 1, PageSet::default);
        }
        &mut self.0[memory]
    }
}

/// Loads a staged state.
///
/// # Errors
/// [`StageError`].
pub fn load(shelf: impl Into<Shelf>) -> Result<Staged, StageError> {
    read(shelf.into().open().map_err(StageError::Seal)?)
}

/// Reads a staged state.
///
/// # Errors
/// [`StageError`].
pub fn read(mut file: impl Read) -> Result<Staged, StageError> {
    let mut magic = [0; 16];
    file.read_exact(&mut magic).map_err(|_| StageError::Magic)?;
    if &magic != MAGIC {
        return Err(StageError::Magic);
    }
    let mut staged = Staged::default();
    for number in 0.. {
        let mut head = [0; 5];
        match file.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(StageError::Read(error)),
        }
        let [a, b, c, d, kind] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > if kind == REST { MAX_REST } else { MAX_FRAME } {
            return Err(StageError::Form { number });
        }
        // Memory grows with what is really there, whatever the length says.
        let mut body = Vec::new();
        let read = file.by_ref().take(length as u64).read_to_end(&mut body).map_err(StageError::Read)?;
        if read < length {
            break;
        }
        let damaged = |source| StageError::Record { number, source };
        match kind {
            PAGES => {
                let pages = Pages::from_bytes(&body).map_err(damaged)?;
                let index = pages.memory as usize;
                if index >= MEMORIES || pages.end() > LARGEST {
                    return Err(StageError::Form { number });
                }
                if staged.pages.len() <= index {
                    staged.pages.resize_with(index + 1, BTreeMap::new);
                }
                let missing = staged.missing.of(index);
                let mut each = |page: u64, bytes: &[u8]| {
                    missing.remove(page);
                    let zero = bytes.len() == PAGE_SIZE && is_zero(bytes);
                    staged.pages[index].insert(page, Contents((!zero).then(|| bytes.to_vec())));
                };
                unpack(&pages, &mut each).map_err(|()| StageError::Pack)?;
            }
            BEHIND => {
                let left = LeftBehind::from_bytes(&body).map_err(damaged)?;
                let index = left.memory as usize;
                if index >= MEMORIES || left.end() > LARGEST {
                    return Err(StageError::Form { number });
                }
                for (first, count) in &left.ranges {
                    staged.missing.of(index).insert(*first..first + u64::from(*count));
                }
            }
            REST => staged.rest = body,
            ARRIVAL => staged.arrival = Some(Arrival::from_bytes(&body).map_err(damaged)?),
            RETAINED => staged.retained = Some(Retained::from_bytes(&body).map_err(damaged)?),
            _ => return Err(StageError::Form { number }),
        }
    }
    Ok(staged)
}

impl Staged {
    /// The digest of the state, for a state of the module `module`; pages that are as in a fresh instance (`is_fresh`,
    /// by memory, page and contents) are taken for that.
    pub fn digest(&self, module: &Digest, sizes: &[u64], is_fresh: impl Fn(usize, u64, &[u8]) -> bool) -> Digest {
        let memories = sizes.iter().enumerate().map(|(index, size)| {
            let mut tree = dunlin_snapshot::MemoryTree::default();
            for (number, bytes) in self.pages.get(index).into_iter().flatten() {
                let fresh = is_fresh(index, *number, bytes);
                tree.set(*number, (!fresh).then(|| dunlin_snapshot::page_digest(bytes)));
            }
            tree.digest(*size)
        });
        dunlin_snapshot::state_digest(module, &self.rest, &memories.collect::<Vec<_>>())
    }
}

/// Calls `each` with every page of a message. A run of zeros gives whole pages.
pub(crate) fn unpack(pages: &Pages, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), ()> {
    for run in &pages.runs {
        let full = run.count as usize * PAGE_SIZE;
        let unpacked;
        let bytes: &[u8] = match &run.content {
            Content::Zero => {
                (run.first..run.first + u64::from(run.count)).for_each(|page| each(page, &[0; PAGE_SIZE]));
                continue;
            }
            Content::Bytes(bytes) => bytes,
            Content::Zstd(packed) => {
                unpacked = decompress(packed, full).ok_or(())?;
                &unpacked
            }
        };
        for (page, bytes) in (run.first..).zip(bytes.chunks(PAGE_SIZE)) {
            each(page, bytes);
        }
    }
    Ok(())
}

/// Unpacks to at most `full` bytes, and to more than all but the last page.
pub(crate) fn decompress(packed: &[u8], full: usize) -> Option<Vec<u8>> {
    let mut input = packed;
    let decoder = ruzstd::decoding::StreamingDecoder::new(&mut input).ok()?;
    let mut out = Vec::new();
    decoder.take(full as u64 + 1).read_to_end(&mut out).ok()?;
    (out.len() <= full && out.len() > full - PAGE_SIZE).then_some(out)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dunlin_handover::message::Run;
    use dunlin_seal::LocalKey;

    use super::*;

    const CANARY: &[u8] = b"what nobody without the key may read";

    #[test]
    fn a_sealed_state_is_read_with_its_own_key_only_and_shows_nothing() {
        let directory = std::env::temp_dir().join(format!("dunlin-stage-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("staged");
        let shelf = |key: &[u8]| Shelf::sealed(&path, Arc::new(LocalKey::derived(key).objects([7; 16])));
        let page = [CANARY, &[0; PAGE_SIZE]].concat()[..PAGE_SIZE].to_vec();

        let stager = Stager::create(shelf(b"here")).unwrap();
        stager.put(Order::Rest(CANARY.to_vec()));
        let runs = vec![Run { first: 3, count: 1, content: Content::Bytes(page.clone()) }];
        stager.put(Order::Pages(Pages { round: 0, memory: 0, runs }));
        Stager::synced(&stager.sync()).unwrap();
        // Here the process could die: what comes now is not on storage yet.
        let at_sync = fs::read(&path).unwrap();
        stager.put(Order::Rest(b"later".to_vec()));
        drop(stager);

        let loaded = load(shelf(b"here")).unwrap();
        assert_eq!(loaded.rest, b"later");
        fs::write(&path, &at_sync).unwrap();
        let loaded = load(shelf(b"here")).unwrap();
        assert_eq!((&loaded.rest[..], &loaded.pages[0][&3][..]), (CANARY, &page[..]));
        assert!(!at_sync.windows(8).any(|window| CANARY.windows(8).any(|part| part == window)));
        assert!(matches!(load(&path), Err(StageError::Magic)), "without a key");
        for (key, change) in [(&b"there"[..], None), (b"here", Some(100)), (b"here", Some(20))] {
            let mut bytes = at_sync.clone();
            if let Some(at) = change {
                bytes[at] ^= 1;
            }
            fs::write(&path, bytes).unwrap();
            assert!(load(shelf(key)).is_err(), "{key:?} {change:?}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
