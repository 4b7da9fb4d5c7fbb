//! A store in a directory of the host.
//!
//! ```text
//! lock                       held while the store is open
//! segments/NUMBER            records one after the other: chunks, and commits with all root pointers
//! ```
//!
//! The newest segment grows; when it is long enough it is finished with an index, and another one is begun. What was
//! put becomes durable with one write and one request to bring it to the disk, however many chunks there are: a commit
//! counts only if every chunk since the commit before is whole, so it does not matter in which order the disk took them.

pub(crate) mod medium;
mod record;
mod segment;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dunlin_base::Digest;

use crate::directory::medium::{HostMedium, Medium, MediumFile};
use crate::directory::record::{Commit, Entry, HEAD, MAX_ROOTS, Position, RecordKind};
use crate::directory::segment::{FULL, Scan};
use crate::store::{ChunkStore, MAX_STORED, Roots, StoreError, check_name};

/// Bytes that are collected before they are written.
const BUFFER: usize = 1 << 20;
/// Finished segments that are kept open for reading.
const OPEN: usize = 64;
/// The newest segment is finished early, so that what nobody needs can leave it, when it is as long.
const WORTHWHILE: u64 = 1 << 20;

/// A store in a directory of the host. One process at a time has it open.
#[derive(Debug)]
pub struct DirectoryStore {
    state: Mutex<State>,
    /// Held for its lock.
    _lock: Option<File>,
}

#[derive(Debug)]
struct State {
    medium: Arc<dyn Medium>,
    /// Where the segments are.
    path: PathBuf,
    /// All segments by their numbers; the last one is the newest.
    segments: BTreeMap<u64, Segment>,
    index: HashMap<Digest, Place>,
    newest: Newest,
    commit: Commit,
    /// Whether chunks were put since the last commit.
    dirty: bool,
    /// Whether it is unknown what is on the disk.
    poisoned: bool,
}

#[derive(Debug)]
struct Segment {
    len: u64,
    /// Open, if it was used lately.
    file: Option<Arc<dyn MediumFile>>,
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy)]
struct Place {
    segment: u64,
    offset: u32,
    len: u32,
}

/// The segment that grows.
#[derive(Debug)]
struct Newest {
    number: u64,
    file: Arc<dyn MediumFile>,
    /// What has been given to the file.
    written: u64,
    /// What follows and has not been.
    buffer: Vec<u8>,
    entries: Vec<Entry>,
}

impl DirectoryStore {
    /// Opens the store in `path`, and makes it if there is none. What an earlier process left unfinished is dropped.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process has it open, [`StoreError::Segment`] when it is damaged,
    /// [`StoreError::Io`] when the system refuses.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        fs::create_dir_all(&path).map_err(failed("create", &path))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(failed("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: lock_path }),
            Err(TryLockError::Error(source)) => return Err(failed("lock", &lock_path)(source)),
        }
        Ok(Self { _lock: Some(lock), ..Self::open_on(Arc::new(HostMedium), path)? })
    }

    /// The same on a file system of the caller's. That nobody else has the store open is the caller's business, too.
    ///
    /// # Errors
    /// As [`DirectoryStore::open`].
    pub fn open_on(medium: Arc<dyn Medium>, path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let state = State::open(medium, path.into())?;
        Ok(Self { state: Mutex::new(state), _lock: None })
    }

    /// The state, to be changed.
    fn state(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        // A panic while the lock was held may have left a change half-done.
        let state = self.state.lock().map_err(|_| StoreError::Poisoned)?;
        if state.poisoned { Err(StoreError::Poisoned) } else { Ok(state) }
    }

    /// The state, to be looked at.
    fn view(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChunkStore for DirectoryStore {
    fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let mut state = self.view();
        match state.index.get(digest).copied() {
            Some(place) => state.read(place).map(Some),
            None => Ok(None),
        }
    }

    fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let mut state = self.state()?;
        if state.index.contains_key(digest) {
            return Ok(());
        }
        state.add(digest, bytes)
    }

    fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.view().index.contains_key(digest))
    }

    fn size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        Ok(self.view().index.get(digest).map(|place| place.len.into()))
    }

    fn list(&self) -> Result<Vec<Digest>, StoreError> {
        Ok(self.view().index.keys().copied().collect())
    }

    fn retain(&self, needed: &BTreeSet<Digest>) -> Result<u64, StoreError> {
        self.state()?.retain(needed)
    }

    fn stored_bytes(&self) -> u64 {
        self.view().segments.values().map(|segment| segment.len).sum()
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.state()?;
        if state.dirty { state.commit(None) } else { Ok(()) }
    }
}

impl Roots for DirectoryStore {
    fn root(&self, name: &str) -> Result<Option<Digest>, StoreError> {
        check_name(name)?;
        Ok(self.view().commit.roots.get(name).copied())
    }

    fn set_root(&self, name: &str, root: Option<Digest>) -> Result<(), StoreError> {
        check_name(name)?;
        let mut state = self.state()?;
        if root.is_some() && state.commit.roots.len() >= MAX_ROOTS && !state.commit.roots.contains_key(name) {
            return Err(StoreError::TooManyRoots { limit: MAX_ROOTS });
        }
        let mut roots = state.commit.roots.clone();
        match root {
            Some(root) => roots.insert(name.to_owned(), root),
            None => roots.remove(name),
        };
        state.commit(Some(roots))
    }

    fn roots(&self) -> Result<Vec<(String, Digest)>, StoreError> {
        Ok(self.view().commit.roots.clone().into_iter().collect())
    }
}

impl State {
    fn open(medium: Arc<dyn Medium>, store: PathBuf) -> Result<Self, StoreError> {
        let path = store.join("segments");
        medium.make_directory(&path).map_err(failed("create", &path))?;
        medium.sync_directory(&store).map_err(failed("write to disk", &store))?;
        let names = medium.list(&path).map_err(failed("list", &path))?;
        if names.iter().any(|name| name == segment::UNFINISHED) {
            let unfinished = path.join(segment::UNFINISHED);
            medium.remove(&unfinished).map_err(failed("delete", &unfinished))?;
        }
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number(name)).collect();
        numbers.sort_unstable();
        let mut index = HashMap::new();
        let mut segments = BTreeMap::new();
        let Some(last) = numbers.pop() else {
            let commit = Commit::default();
            let (file, len) =
                segment::begin(&*medium, &path, 1, &commit).map_err(failed("begin a segment in", &path))?;
            segments.insert(1, Segment { len, file: None });
            let newest = Newest { number: 1, file, written: len, buffer: Vec::new(), entries: Vec::new() };
            return Ok(Self { medium, path, segments, index, newest, commit, dirty: false, poisoned: false });
        };
        for number in numbers {
            let (len, entries) = finished(&*medium, &path, number)?;
            index.extend(entries.into_iter().map(|entry| (entry.digest, Place::of(number, entry))));
            segments.insert(number, Segment { len, file: None });
        }
        let name = segment::path(&path, last);
        let file = medium.open(&name).map_err(failed("open", &name))?;
        let scan = segment::scan(&*file, last).map_err(failed("read", &name))?;
        let damaged = |problem| StoreError::Segment { path: name.clone(), problem };
        let Scan { commit, mut entries, committed, end } = scan.map_err(damaged)?;
        entries.truncate(committed);
        // What follows never came to be: it must not be met again when something else has been written over its start.
        if file.size().map_err(failed("read", &name))? > end {
            file.set_size(end).and_then(|()| file.sync()).map_err(failed("cut", &name))?;
        }
        index.extend(entries.iter().map(|entry| (entry.digest, Place::of(last, *entry))));
        segments.insert(last, Segment { len: end, file: None });
        let newest = Newest { number: last, file, written: end, buffer: Vec::new(), entries };
        Ok(Self { medium, path, segments, index, newest, commit, dirty: false, poisoned: false })
    }

    fn read(&mut self, place: Place) -> Result<Vec<u8>, StoreError> {
        let Place { segment, offset, len } = place;
        let mut bytes = vec![0; len as usize];
        if segment == self.newest.number {
            if let Some(within) = u64::from(offset).checked_sub(self.newest.written) {
                // Chunks are put into the buffer whole.
                let within = within as usize;
                if let Some(found) = self.newest.buffer.get(within..within + len as usize) {
                    bytes.copy_from_slice(found);
                }
                return Ok(bytes);
            }
            let file = &self.newest.file;
            let name = || segment::path(&self.path, segment);
            file.read_exact_at(&mut bytes, offset.into()).map_err(|source| failed("read", &name())(source))?;
            return Ok(bytes);
        }
        let name = segment::path(&self.path, segment);
        let file = self.file(segment).map_err(failed("open", &name))?;
        file.read_exact_at(&mut bytes, offset.into()).map_err(failed("read", &name))?;
        Ok(bytes)
    }

    /// A finished segment, open.
    fn file(&mut self, number: u64) -> io::Result<Arc<dyn MediumFile>> {
        if let Some(file) = self.segments.get(&number).and_then(|segment| segment.file.clone()) {
            return Ok(file);
        }
        if self.segments.values().filter(|segment| segment.file.is_some()).count() >= OPEN {
            self.segments.values_mut().for_each(|segment| segment.file = None);
        }
        let file = self.medium.open(&segment::path(&self.path, number))?;
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.file = Some(file.clone());
        }
        Ok(file)
    }

    /// Adds a chunk to the newest segment.
    fn add(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        if bytes.len() > MAX_STORED {
            return Err(StoreError::TooLarge { digest: *digest });
        }
        if self.newest.end() >= FULL {
            self.roll()?;
        }
        if self.newest.buffer.len() >= BUFFER {
            self.write()?;
        }
        let at = self.newest.append(RecordKind::Chunk, bytes);
        // A segment that is not full ends before 2^32.
        let entry = Entry { digest: *digest, offset: (at + HEAD as u64) as u32, len: bytes.len() as u32 };
        self.newest.entries.push(entry);
        self.index.insert(*digest, Place::of(self.newest.number, entry));
        self.grown();
        self.dirty = true;
        Ok(())
    }

    /// Makes everything durable, with these root pointers or those there are.
    fn commit(&mut self, roots: Option<BTreeMap<String, Digest>>) -> Result<(), StoreError> {
        let commit =
            Commit { sequence: self.commit.sequence + 1, roots: roots.unwrap_or_else(|| self.commit.roots.clone()) };
        let before = self.newest.buffer.len();
        self.newest.append(RecordKind::Commit, &commit.encode());
        if let Err(error) = self.write() {
            // It is not on the disk as a whole, and the next attempt writes over it.
            self.newest.buffer.truncate(before);
            return Err(error);
        }
        self.grown();
        self.bring_to_disk()?;
        self.commit = commit;
        self.dirty = false;
        Ok(())
    }

    /// Gives the file what is in the buffer.
    fn write(&mut self) -> Result<(), StoreError> {
        let Newest { number, file, written, buffer, .. } = &mut self.newest;
        let name = segment::path(&self.path, *number);
        file.write_all_at(buffer, *written).map_err(failed("write", &name))?;
        *written += buffer.len() as u64;
        buffer.clear();
        Ok(())
    }

    fn bring_to_disk(&mut self) -> Result<(), StoreError> {
        let name = segment::path(&self.path, self.newest.number);
        self.newest.file.sync().map_err(|source| {
            // After a failed fsync the system may report success for bytes that it has dropped: no second try.
            self.poisoned = true;
            failed("write to disk", &name)(source)
        })
    }

    /// Finishes the newest segment and begins another one. Root pointers stay what they are.
    fn roll(&mut self) -> Result<(), StoreError> {
        let before = self.newest.buffer.len();
        let end = self.newest.end();
        self.newest.buffer.extend(segment::finish(self.newest.number, end, &self.newest.entries));
        if let Err(error) = self.write() {
            self.newest.buffer.truncate(before);
            return Err(error);
        }
        self.grown();
        self.bring_to_disk()?;
        let number = self.newest.number + 1;
        let begun = segment::begin(&*self.medium, &self.path, number, &self.commit);
        let (file, len) = begun.map_err(|source| {
            // The finished segment must not grow, and perhaps there is another one.
            self.poisoned = true;
            failed("begin a segment in", &self.path)(source)
        })?;
        self.segments.insert(number, Segment { len, file: None });
        self.newest = Newest { number, file, written: len, buffer: Vec::new(), entries: Vec::new() };
        Ok(())
    }

    /// Drops the chunks that are not needed, and gives back the room of segments that hold little else.
    fn retain(&mut self, needed: &BTreeSet<Digest>) -> Result<u64, StoreError> {
        let before = self.index.len();
        self.index.retain(|digest, _| needed.contains(digest));
        let dropped = (before - self.index.len()) as u64;
        let newest = self.newest.end();
        if newest > WORTHWHILE && self.live().get(&self.newest.number).copied().unwrap_or(0) * 2 < newest {
            self.roll()?;
        }
        let live = self.live();
        let sparse: BTreeSet<u64> = self
            .segments
            .iter()
            .filter(|(number, segment)| {
                **number != self.newest.number && live.get(*number).copied().unwrap_or(0) * 2 < segment.len
            })
            .map(|(number, _)| *number)
            .collect();
        let moving: Vec<_> =
            self.index.iter().filter(|(_, place)| sparse.contains(&place.segment)).map(|(d, p)| (*d, *p)).collect();
        for (digest, place) in moving {
            let bytes = self.read(place)?;
            self.add(&digest, &bytes)?;
        }
        if sparse.is_empty() {
            return Ok(dropped);
        }
        // Only what is elsewhere, durably, can be deleted.
        self.commit(None)?;
        for number in sparse {
            let name = segment::path(&self.path, number);
            self.segments.remove(&number);
            self.medium.remove(&name).map_err(failed("delete", &name))?;
        }
        self.medium.sync_directory(&self.path).map_err(failed("write to disk", &self.path))?;
        Ok(dropped)
    }

    /// The bytes of chunks by segment.
    fn live(&self) -> HashMap<u64, u64> {
        let mut live = HashMap::new();
        for place in self.index.values() {
            *live.entry(place.segment).or_default() += u64::from(place.len) + HEAD as u64;
        }
        live
    }

    fn grown(&mut self) {
        let len = self.newest.end();
        if let Some(segment) = self.segments.get_mut(&self.newest.number) {
            segment.len = len;
        }
    }
}

impl Newest {
    /// Where the next record will be.
    fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn append(&mut self, kind: RecordKind, body: &[u8]) -> u64 {
        let offset = self.end();
        segment::append(&mut self.buffer, kind, Position { segment: self.number, offset }, body);
        offset
    }
}

impl Place {
    fn of(segment: u64, Entry { digest: _, offset, len }: Entry) -> Self {
        Self { segment, offset, len }
    }
}

/// The length and the chunks of a finished segment.
fn finished(medium: &dyn Medium, directory: &Path, number: u64) -> Result<(u64, Vec<Entry>), StoreError> {
    let name = segment::path(directory, number);
    let file = medium.open(&name).map_err(failed("open", &name))?;
    let len = file.size().map_err(failed("read", &name))?;
    if let Some(entries) = segment::read_index(&*file, number, len).map_err(failed("read", &name))? {
        return Ok((len, entries));
    }
    // Its index is damaged: the records tell the same, more slowly.
    let scan = segment::scan(&*file, number).map_err(failed("read", &name))?;
    let Scan { entries, .. } = scan.map_err(|problem| StoreError::Segment { path: name, problem })?;
    Ok((len, entries))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}
