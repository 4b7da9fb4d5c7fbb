//! Files and directories of the program's private volume, which `dunlin-store` keeps.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dunlin_base::Digest;
use dunlin_store::{
    Ahead, DirectoryEntry, Error as VolumeError, FileKind, Handle, Ino, OpenFile, OpenFlags, Options, Quota, SetTime,
    Volume,
};
use rustix::fs::Advice;

use crate::config::{Carry, PrivateVolume, Source};
use crate::errno::Errno;
use crate::error::Error;
use crate::memory::{self, Memory};
use crate::preview1::clocks::VIRTUAL_EPOCH;
use crate::preview1::files::backing::{Content, Opened, Opening, To, Tree};
use crate::preview1::files::stat::{Stat, Time};
use crate::preview1::files::volume_ahead::VolumeHandle;
use crate::preview1::files::{Mode, filetype};

/// The device that all files of a volume are on: one that the host's own files are never on, whose numbers have 32 bits.
const DEVICE: u64 = 1 << 63;

/// What the volume's usual quota of inodes counts for one.
const BYTES_OF_INODE: u64 = 4096;

/// The fewest inodes that a limited volume may have.
const FEWEST_INODES: u64 = 1024;

/// A volume that everything open in it shares.
#[derive(Debug)]
pub(crate) struct Shared {
    volume: Mutex<Volume>,
    /// The first failure that is not the program's doing: it is told no more than `EIO`.
    trouble: Mutex<Option<String>>,
    /// What of it goes to another host ahead of a freeze.
    pub(super) ahead: Mutex<Option<Ahead>>,
}

/// A program's private volume.
#[derive(Debug)]
pub(crate) struct MountedVolume {
    pub(super) guest: String,
    pub(super) shared: Arc<Shared>,
    pub(crate) carry: Carry,
    /// The roots at the latest freezes, the last one last.
    pub(super) lineage: Vec<Digest>,
    _committer: Option<Committer>,
}

/// An open file or directory of a volume.
#[derive(Debug)]
pub(crate) struct Node {
    shared: Arc<Shared>,
    handle: Handle,
    ino: Ino,
}

/// A thread that commits changes after a time.
#[derive(Debug)]
struct Committer {
    over: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Shared {
    /// Does something to the volume. A failure of its store is noted.
    fn with<T>(&self, act: impl FnOnce(&mut Volume) -> Result<T, VolumeError>) -> Result<T, Errno> {
        self.attempt(act).map_err(|error| error.as_ref().map_or(Errno::Io, Errno::from))
    }

    /// The same. `None` is a volume in which a panic has left nobody knows what.
    pub(super) fn attempt<T>(
        &self,
        act: impl FnOnce(&mut Volume) -> Result<T, VolumeError>,
    ) -> Result<T, Option<VolumeError>> {
        let mut volume = self.volume.lock().map_err(|_| None)?;
        act(&mut volume).map_err(|error| {
            if Errno::from(&error) == Errno::Io {
                let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
                trouble.get_or_insert_with(|| chain(&error));
            }
            Some(error)
        })
    }

    /// The same for whoever runs the program, which sees the volume as `guest`.
    pub(super) fn act<T>(
        &self,
        guest: &str,
        action: &'static str,
        act: impl FnOnce(&mut Volume) -> Result<T, VolumeError>,
    ) -> Result<T, Error> {
        self.attempt(act).map_err(|source| Error::Volume {
            action,
            guest: guest.to_owned(),
            source: source.unwrap_or(VolumeError::Inconsistent("an earlier call ended in a panic")),
        })
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

impl MountedVolume {
    /// The volume of a program that begins. What a program before it had open and deleted is gone.
    pub(super) fn begin(offer: &PrivateVolume, source: Source) -> Result<Self, Error> {
        let guest = offer.guest.clone().unwrap_or_else(|| PrivateVolume::GUEST.to_owned());
        let id = match source {
            Source::System => {
                let mut id = [0; 16];
                getrandom::fill(&mut id).map_err(Error::Entropy)?;
                id
            }
            Source::Deterministic { seed } => u128::from(seed).to_le_bytes(),
        };
        let options = Options { id, ..options(offer, source) };
        let opened = match Volume::open(offer.store.clone(), options.clone()) {
            Err(VolumeError::NoVolume { .. }) => Volume::create(offer.store.clone(), options),
            opened => opened.and_then(|mut volume| volume.reap().map(|()| volume)),
        };
        let failed = |source| Error::Volume { action: "open", guest: guest.clone(), source };
        let volume = opened.map_err(failed)?;
        Ok(Self::new(guest, volume, offer, Vec::new()))
    }

    pub(super) fn new(guest: String, volume: Volume, offer: &PrivateVolume, lineage: Vec<Digest>) -> Self {
        let shared =
            Arc::new(Shared { volume: Mutex::new(volume), trouble: Mutex::default(), ahead: Mutex::default() });
        let committer = offer.commit_every.map(|time| Committer::start(shared.clone(), time));
        Self { guest, shared, carry: offer.carry.clone(), lineage, _committer: committer }
    }

    /// The root directory, opened.
    pub(super) fn root(&self) -> Result<Tree, Error> {
        let open = OpenFile { ino: Ino::ROOT, read: true, write: false, append: false, offset: 0 };
        self.reopen(open).map(Tree::Volume)
    }

    /// Opens an inode again.
    pub(super) fn reopen(&self, open: OpenFile) -> Result<Node, Error> {
        self.act("reopen a file of", |volume| volume.reopen(open)).map(|handle| Node {
            shared: self.shared.clone(),
            handle,
            ino: open.ino,
        })
    }

    /// Does something to the volume for whoever runs the program.
    pub(super) fn act<T>(
        &self,
        action: &'static str,
        act: impl FnOnce(&mut Volume) -> Result<T, VolumeError>,
    ) -> Result<T, Error> {
        self.shared.act(&self.guest, action, act)
    }

    /// For whoever moves the program.
    pub(crate) fn handle(&self) -> VolumeHandle {
        VolumeHandle::new(self.guest.clone(), self.shared.clone())
    }

    /// The first failure that was not the program's doing.
    pub(super) fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a volume is opened or made.
pub(super) fn options(offer: &PrivateVolume, source: Source) -> Options {
    let quota = offer
        .bytes
        .map(|bytes| Quota { bytes, inodes: (bytes / BYTES_OF_INODE).max(FEWEST_INODES) })
        // Without a limit now there is none, whatever there was before.
        .unwrap_or(Quota { bytes: u64::MAX, inodes: u64::MAX });
    let options = Options { sealing: offer.sealing.clone(), quota: Some(quota), ..Options::default() };
    match source {
        Source::System => options,
        // Times are the same in every run.
        Source::Deterministic { .. } => Options { clock: || VIRTUAL_EPOCH, ..options },
    }
}

impl Committer {
    fn start(shared: Arc<Shared>, time: Duration) -> Self {
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let end = over.clone();
        let work = move || {
            let (over, changed) = &*end;
            loop {
                let guard = over.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = changed.wait_timeout_while(guard, time, |over| !*over);
                if *waited.unwrap_or_else(PoisonError::into_inner).0 {
                    return;
                }
                // What fails here fails again when the program asks for it, and is noted.
                let _ = shared.with(|volume| if volume.is_clean() { Ok(()) } else { volume.commit().map(drop) });
            }
        };
        // Without the thread, changes are durable when the program asks for it and when it ends.
        let thread = std::thread::Builder::new().name("volume".to_owned()).spawn(work).ok();
        Self { over, thread }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        *self.over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.over.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A volume that fails here fails the next call, too.
        let _ = self.shared.with(|volume| volume.close(self.handle));
    }
}

impl Node {
    pub(super) fn ino(&self) -> Ino {
        self.ino
    }

    pub(super) fn is_directory(&self) -> Result<bool, Error> {
        let stat = self.shared.attempt(|volume| volume.stat(self.handle));
        stat.map(|stat| stat.kind == FileKind::Directory).map_err(|_| Error::VolumeIdentity)
    }

    pub(super) fn len(&self) -> Result<u64, Errno> {
        Ok(self.shared.with(|volume| volume.stat(self.handle))?.size)
    }

    pub(super) fn filetype(&self) -> Result<u8, Errno> {
        Ok(filetype::REGULAR)
    }

    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        Ok(stat(&self.shared.with(|volume| volume.stat(self.handle))?))
    }

    pub(super) fn read_at(
        &self,
        memory: &mut Memory<'_>,
        vectors: &[Range<usize>],
        offset: u64,
    ) -> Result<usize, Errno> {
        // As the system does, for the first buffer.
        signed(offset.saturating_add(vectors.first().map_or(0, |vector| vector.len() as u64)))?;
        self.shared.with(|volume| {
            if vectors.is_empty() {
                volume.read_at(self.handle, &mut [], offset)?;
            }
            let mut done = 0;
            for vector in vectors {
                // Beyond the last possible byte of a file there is nothing.
                let Some(at) = offset.checked_add(done as u64) else { break };
                match volume.read_at(self.handle, memory.at_mut(vector), at) {
                    Ok(read) => done += read,
                    Err(_) if done > 0 => break,
                    Err(error) => return Err(error),
                }
                if done as u64 + offset < at + vector.len() as u64 {
                    break;
                }
            }
            Ok(done)
        })
    }

    pub(super) fn write_at(&self, memory: &Memory<'_>, vectors: &[Range<usize>], to: To) -> Result<usize, Errno> {
        if let To::Offset(offset) = to {
            signed(offset.saturating_add(memory::total(vectors) as u64))?;
        }
        self.shared.with(|volume| {
            let offset = match to {
                To::Offset(offset) => offset,
                To::End => volume.stat(self.handle)?.size,
            };
            if vectors.is_empty() {
                volume.write_at(self.handle, &[], offset)?;
            }
            let mut done = 0;
            for vector in vectors {
                match volume.write_at(self.handle, memory.at(vector), offset + done as u64) {
                    Ok(written) => {
                        done += written;
                        if written < vector.len() {
                            break;
                        }
                    }
                    Err(_) if done > 0 => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(done)
        })
    }

    pub(super) fn sync(&self, _data: bool) -> Result<(), Errno> {
        self.shared.with(|volume| volume.sync(self.handle))
    }

    pub(super) fn set_len(&self, len: u64) -> Result<(), Errno> {
        signed(len)?;
        self.shared.with(|volume| volume.set_len(self.handle, len))
    }

    pub(super) fn allocate(&self, offset: u64, len: u64) -> Result<(), Errno> {
        signed(offset)?;
        signed(len)?;
        self.shared.with(|volume| volume.allocate(self.handle, offset, len))
    }

    /// There is nothing that a volume could do better for knowing.
    pub(super) fn advise(&self, _offset: u64, len: u64, _advice: Advice) -> Result<(), Errno> {
        signed(len)
    }

    pub(super) fn set_own_times(&self, [access, modification]: [Time; 2]) -> Result<(), Errno> {
        self.shared.with(|volume| volume.set_times(self.handle, access.into(), modification.into()))
    }

    pub(super) fn open(&self, path: &str, how: Opening) -> Result<Opened, Errno> {
        let Opening { mode: Mode { read, write }, follow, create, exclusive, truncate } = how;
        let flags = OpenFlags { read, write, create, exclusive, truncate, follow, ..OpenFlags::default() };
        let (handle, stat) = self.shared.with(|volume| {
            let handle = volume.open_file(self.ino, path, flags)?;
            Ok((handle, volume.stat(handle)?))
        })?;
        let node = Self { shared: self.shared.clone(), handle, ino: stat.ino };
        Ok(match stat.kind {
            FileKind::Directory => Opened::Directory(Tree::Volume(node)),
            FileKind::File | FileKind::Symlink => Opened::File(Content::Volume(node)),
        })
    }

    pub(super) fn stat_of(&self, path: &str, follow: bool) -> Result<Stat, Errno> {
        Ok(stat(&self.shared.with(|volume| volume.stat_path(self.ino, path, follow))?))
    }

    pub(super) fn set_times_of(&self, path: &str, follow: bool, times: [Time; 2]) -> Result<(), Errno> {
        let [access, modification] = times.map(SetTime::from);
        self.shared.with(|volume| volume.set_times_path(self.ino, path, follow, access, modification))
    }

    pub(super) fn create_directory(&self, path: &str) -> Result<(), Errno> {
        self.shared.with(|volume| volume.make_directory(self.ino, path)).map(drop)
    }

    pub(super) fn remove_directory(&self, path: &str) -> Result<(), Errno> {
        self.shared.with(|volume| volume.remove_directory(self.ino, path))
    }

    pub(super) fn unlink(&self, path: &str) -> Result<(), Errno> {
        self.shared.with(|volume| volume.unlink(self.ino, path))
    }

    pub(super) fn link(&self, path: &str, to: &Self, new: &str) -> Result<(), Errno> {
        self.shared.with(|volume| volume.link(self.ino, path, false, to.ino, new))
    }

    pub(super) fn rename(&self, path: &str, to: &Self, new: &str) -> Result<(), Errno> {
        self.shared.with(|volume| volume.rename(self.ino, path, to.ino, new))
    }

    pub(super) fn symlink(&self, contents: &str, path: &str) -> Result<(), Errno> {
        if contents.starts_with('/') {
            // As beneath a mount: it would lead out of the volume.
            return Err(Errno::Perm);
        }
        self.shared.with(|volume| volume.make_symlink(contents, self.ino, path)).map(drop)
    }

    pub(super) fn read_link(&self, path: &str) -> Result<String, Errno> {
        self.shared.with(|volume| volume.read_link(self.ino, path))
    }

    /// Up to `limit` entries behind `cookie`, without `.` and `..`.
    pub(super) fn entries(&self, cookie: u64, limit: usize) -> Result<Vec<DirectoryEntry>, Errno> {
        self.shared.with(|volume| volume.read_directory(self.handle, cookie, limit))
    }
}

/// `EINVAL` for an offset or length that the system would take for a negative number.
fn signed(number: u64) -> Result<(), Errno> {
    i64::try_from(number).map(drop).map_err(|_| Errno::Inval)
}

/// The kind of file as preview 1 numbers it.
pub(super) fn filetype_of(kind: FileKind) -> u8 {
    match kind {
        FileKind::File => filetype::REGULAR,
        FileKind::Directory => filetype::DIRECTORY,
        FileKind::Symlink => filetype::SYMBOLIC_LINK,
    }
}

fn stat(stat: &dunlin_store::Stat) -> Stat {
    Stat {
        device: DEVICE,
        inode: stat.ino.0,
        filetype: filetype_of(stat.kind),
        links: stat.links.into(),
        size: stat.size,
        times: [stat.accessed, stat.modified, stat.changed],
    }
}

impl From<Time> for SetTime {
    fn from(time: Time) -> Self {
        match time {
            Time::Keep => Self::Keep,
            Time::Now => Self::Now,
            Time::At(at) => Self::At(at),
        }
    }
}
