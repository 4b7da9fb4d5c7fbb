//! What is open, and what is in files: handles, reading, writing, size, times.

use std::io::SeekFrom;

use crate::error::Error;
use crate::record::FileKind;
use crate::seal::ChunkKind;
use crate::tree::Leaf;
use crate::volume::inodes::{Body, charge_of_file};
use crate::volume::paths::Last;
use crate::volume::{CHANGED, Ino, Volume};
use crate::{MAX_ALLOCATION, MAX_FILE, MAX_OPEN};

/// The number of something open. Numbers of closed handles are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(pub u32);

/// What a handle is: plain data, with which it can be opened again in the volume of the same commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFile {
    /// The inode.
    pub ino: Ino,
    /// Whether it is open for reading.
    pub read: bool,
    /// Whether it is open for writing.
    pub write: bool,
    /// Whether writes go to the end.
    pub append: bool,
    /// Where the next read or write is, in bytes.
    pub offset: u64,
}

/// What is known about an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its number.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// How many names it has; of a directory, 2 and the number of directories in it.
    pub links: u32,
    /// Bytes.
    pub size: u64,
    /// Bytes that it is charged for.
    pub allocated: u64,
    /// Time of access, in nanoseconds since 1970: as it was set, or when the inode was made.
    pub accessed: u64,
    /// Time of the last change to the contents, in nanoseconds since 1970.
    pub modified: u64,
    /// Time of the last change to the inode, in nanoseconds since 1970.
    pub changed: u64,
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// It stays.
    Keep,
    /// The time of the volume's clock.
    Now,
    /// Nanoseconds since 1970.
    At(u64),
}

impl Volume {
    /// Opens an inode again, of which the handle was `open`.
    ///
    /// # Errors
    /// [`Error::TooManyOpen`], [`Error::Inconsistent`] when there is no such inode, [`Error::IsDirectory`] for writing to
    /// a directory.
    pub fn reopen(&mut self, open: OpenFile) -> Result<Handle, Error> {
        self.admit_handle()?;
        let live = self.live(open.ino.0)?;
        match live.kind() {
            FileKind::Directory if open.write => return Err(Error::IsDirectory),
            FileKind::Symlink => return Err(Error::Loop { limit: 0 }),
            _ => {}
        }
        live.opens += 1;
        let free = (0u32..).zip(self.handles.keys()).find(|(free, used)| free != *used);
        let handle = free.map_or(self.handles.len() as u32, |(free, _)| free);
        self.handles.insert(handle, open);
        Ok(Handle(handle))
    }

    /// What a handle is.
    ///
    /// # Errors
    /// [`Error::BadHandle`].
    pub fn opened(&self, handle: Handle) -> Result<OpenFile, Error> {
        self.handles.get(&handle.0).copied().ok_or(Error::BadHandle)
    }

    /// Closes a handle. A file without a name ends with its last handle.
    ///
    /// # Errors
    /// [`Error::BadHandle`].
    pub fn close(&mut self, handle: Handle) -> Result<(), Error> {
        let open = self.handles.remove(&handle.0).ok_or(Error::BadHandle)?;
        let live = self.live(open.ino.0)?;
        live.opens = live.opens.saturating_sub(1);
        if live.opens == 0 && live.links == 0 {
            self.forget(open.ino.0);
        }
        Ok(())
    }

    /// Reads from the handle's offset and advances it. 0 is the end of the file.
    ///
    /// # Errors
    /// As `read(2)`.
    pub fn read(&mut self, handle: Handle, buffer: &mut [u8]) -> Result<usize, Error> {
        let offset = self.opened(handle)?.offset;
        let read = self.read_at(handle, buffer, offset)?;
        self.set_offset(handle, offset + read as u64);
        Ok(read)
    }

    /// Reads from `offset`.
    ///
    /// # Errors
    /// As `pread(2)`.
    pub fn read_at(&mut self, handle: Handle, buffer: &mut [u8], offset: u64) -> Result<usize, Error> {
        let open = self.opened(handle)?;
        if !open.read {
            return Err(Error::BadHandle);
        }
        let bits = self.root.block_bits;
        self.live(open.ino.0)?;
        let Some(live) = self.live.get_mut(&open.ino.0) else { return Err(Error::BadHandle) };
        let Body::File(file) = &mut live.body else { return Err(Error::IsDirectory) };
        let left = usize::try_from(file.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = buffer.len().min(left);
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let (within, piece) = piece(at, len - done, bits);
            let target = &mut buffer[done..done + piece];
            match file.tree.get(&mut self.chunks, at >> bits) {
                Ok(Leaf::Hole) => target.fill(0),
                Ok(Leaf::Changed(bytes)) => copy(bytes, within, target),
                Ok(Leaf::Stored(digest)) => match self.chunks.load(ChunkKind::Data, digest) {
                    Ok(bytes) => copy(&bytes, within, target),
                    Err(error) if done == 0 => return Err(error),
                    Err(_) => break,
                },
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += piece;
        }
        Ok(done)
    }

    /// Writes at the handle's offset, or at the end of a file that is open for appending, and advances the offset.
    ///
    /// # Errors
    /// As `write(2)`. When the volume is full, what fits is written.
    pub fn write(&mut self, handle: Handle, bytes: &[u8]) -> Result<usize, Error> {
        let open = self.opened(handle)?;
        let written = self.write_at(handle, bytes, open.offset)?;
        let offset = if open.append { self.live(open.ino.0)?.size() } else { open.offset + written as u64 };
        self.set_offset(handle, offset);
        Ok(written)
    }

    /// Writes at `offset`, or at the end of a file that is open for appending.
    ///
    /// # Errors
    /// As `pwrite(2)` of Linux. When the volume is full, what fits is written.
    pub fn write_at(&mut self, handle: Handle, bytes: &[u8], offset: u64) -> Result<usize, Error> {
        let open = self.opened(handle)?;
        if !open.write {
            return Err(Error::BadHandle);
        }
        self.spill()?;
        let offset = if open.append { self.live(open.ino.0)?.size() } else { offset };
        let room = usize::try_from(MAX_FILE.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = bytes.len().min(room);
        if bytes.is_empty() {
            return Ok(0);
        }
        if len == 0 {
            return Err(Error::FileTooLarge);
        }
        let mut done = 0;
        while done < len {
            match self.write_piece(open.ino.0, &bytes[done..len], offset + done as u64) {
                Ok(written) => done += written,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        self.changed += done;
        let now = (self.clock)();
        let live = self.live(open.ino.0)?;
        (live.times[1], live.times[2]) = (now, now);
        self.mark(open.ino.0);
        Ok(done)
    }

    /// Moves a handle's offset.
    ///
    /// # Errors
    /// As `lseek(2)`.
    pub fn seek(&mut self, handle: Handle, to: SeekFrom) -> Result<u64, Error> {
        let open = self.opened(handle)?;
        let offset = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(delta) => open.offset.checked_add_signed(delta),
            SeekFrom::End(delta) => self.live(open.ino.0)?.size().checked_add_signed(delta),
        };
        let offset = offset.filter(|offset| *offset <= MAX_FILE).ok_or(Error::Invalid("no such offset"))?;
        self.set_offset(handle, offset);
        Ok(offset)
    }

    /// Makes a file shorter, or longer with a hole.
    ///
    /// # Errors
    /// As `ftruncate(2)`.
    pub fn set_len(&mut self, handle: Handle, size: u64) -> Result<(), Error> {
        let open = self.opened(handle)?;
        if !open.write {
            return Err(Error::Invalid("the handle is not open for writing"));
        }
        self.truncate(open.ino.0, size)
    }

    /// Makes sure that writing anywhere in the range finds room: holes become blocks of zeros, and the file ends no
    /// earlier than the range.
    ///
    /// # Errors
    /// As `posix_fallocate(3)`; [`Error::FileTooLarge`] for a range of more than [`MAX_ALLOCATION`] bytes.
    pub fn allocate(&mut self, handle: Handle, offset: u64, len: u64) -> Result<(), Error> {
        let open = self.opened(handle)?;
        if !open.write {
            return Err(Error::BadHandle);
        }
        if len == 0 {
            return Err(Error::Invalid("there is nothing to allocate"));
        }
        let end = offset.checked_add(len).filter(|end| *end <= MAX_FILE && len <= MAX_ALLOCATION);
        let end = end.ok_or(Error::FileTooLarge)?;
        let bits = self.root.block_bits;
        let blocks = offset >> bits..=(end - 1) >> bits;
        let before = self.live(open.ino.0)?.charge(bits);
        let (limit, used) = (self.root.quota_bytes, self.root.used_bytes);
        let Some(live) = self.live.get_mut(&open.ino.0) else { return Err(Error::BadHandle) };
        let Body::File(file) = &mut live.body else { return Err(Error::IsDirectory) };
        let mut holes = 0;
        for index in blocks.clone() {
            holes += u64::from(matches!(file.tree.get(&mut self.chunks, index)?, Leaf::Hole));
        }
        let size = file.size.max(end);
        let grown = charge_of_file(size, file.blocks + holes, bits).saturating_sub(before);
        if used.saturating_add(grown) > limit && grown > 0 {
            return Err(Error::NoSpace { what: "bytes", limit });
        }
        for index in blocks {
            if matches!(file.tree.get(&mut self.chunks, index)?, Leaf::Hole) {
                file.tree.change(&mut self.chunks, ChunkKind::Data, index, true)?;
                file.blocks += 1;
            }
        }
        file.size = size;
        let after = live.charge(bits);
        let now = (self.clock)();
        (live.times[1], live.times[2]) = (now, now);
        self.charge(before, after);
        self.mark(open.ino.0);
        Ok(())
    }

    /// Makes what was written through any handle durable: a commit of the whole volume. It serves `fsync` and
    /// `fdatasync`.
    ///
    /// # Errors
    /// [`Error::BadHandle`] and those of [`Volume::commit`].
    pub fn sync(&mut self, handle: Handle) -> Result<(), Error> {
        self.opened(handle)?;
        self.commit().map(drop)
    }

    /// What is known about an open file or directory.
    ///
    /// # Errors
    /// [`Error::BadHandle`].
    pub fn stat(&mut self, handle: Handle) -> Result<Stat, Error> {
        let ino = self.opened(handle)?.ino;
        self.stat_of(ino.0)
    }

    /// What is known about what `path` leads to from the directory `at`.
    ///
    /// # Errors
    /// As `stat(2)` with `follow`, else `lstat(2)`.
    pub fn stat_path(&mut self, at: Ino, path: &str, follow: bool) -> Result<Stat, Error> {
        let ino = self.find(at.0, path, if follow { Last::Follow } else { Last::Look })?;
        self.stat_of(ino)
    }

    /// Sets the times of access and modification of something open.
    ///
    /// # Errors
    /// [`Error::BadHandle`].
    pub fn set_times(&mut self, handle: Handle, accessed: SetTime, modified: SetTime) -> Result<(), Error> {
        let ino = self.opened(handle)?.ino;
        self.set_times_of(ino.0, [accessed, modified])
    }

    /// Sets the times of access and modification of what `path` leads to from the directory `at`.
    ///
    /// # Errors
    /// As `utimensat(2)`.
    pub fn set_times_path(
        &mut self,
        at: Ino,
        path: &str,
        follow: bool,
        accessed: SetTime,
        modified: SetTime,
    ) -> Result<(), Error> {
        let ino = self.find(at.0, path, if follow { Last::Follow } else { Last::Look })?;
        self.set_times_of(ino, [accessed, modified])
    }

    pub(super) fn admit_handle(&self) -> Result<(), Error> {
        if self.handles.len() < MAX_OPEN { Ok(()) } else { Err(Error::TooManyOpen { limit: MAX_OPEN }) }
    }

    pub(super) fn truncate(&mut self, ino: u64, size: u64) -> Result<(), Error> {
        if size > MAX_FILE {
            return Err(Error::FileTooLarge);
        }
        let bits = self.root.block_bits;
        let before = self.live(ino)?.charge(bits);
        let (limit, used) = (self.root.quota_bytes, self.root.used_bytes);
        let Some(live) = self.live.get_mut(&ino) else { return Err(Error::BadHandle) };
        let Body::File(file) = &mut live.body else { return Err(Error::IsDirectory) };
        let grown = charge_of_file(size, file.blocks, bits).saturating_sub(before);
        if size > file.size && grown > 0 && used.saturating_add(grown) > limit {
            return Err(Error::NoSpace { what: "bytes", limit });
        }
        if size < file.size {
            let blocks = size.div_ceil(1 << bits);
            // The last block first: it may have to be read, and then nothing has happened yet if that fails.
            let (index, within) = (size >> bits, (size & ((1 << bits) - 1)) as usize);
            if within > 0 && !matches!(file.tree.get(&mut self.chunks, index)?, Leaf::Hole) {
                file.tree.change(&mut self.chunks, ChunkKind::Data, index, false)?.0.truncate(within);
            }
            file.blocks -= file.tree.cut(&mut self.chunks, blocks, file.blocks)?;
        }
        file.size = size;
        let after = live.charge(bits);
        let now = (self.clock)();
        (live.times[1], live.times[2]) = (now, now);
        self.charge(before, after);
        self.mark(ino);
        Ok(())
    }

    /// Writes the first bytes, within one block.
    fn write_piece(&mut self, ino: u64, bytes: &[u8], at: u64) -> Result<usize, Error> {
        let bits = self.root.block_bits;
        let before = self.live(ino)?.charge(bits);
        let (limit, used) = (self.root.quota_bytes, self.root.used_bytes);
        let Some(live) = self.live.get_mut(&ino) else { return Err(Error::BadHandle) };
        let Body::File(file) = &mut live.body else { return Err(Error::IsDirectory) };
        let index = at >> bits;
        let hole = matches!(file.tree.get(&mut self.chunks, index)?, Leaf::Hole);
        let fits = |len: usize| {
            let after = charge_of_file(file.size.max(at + len as u64), file.blocks + u64::from(hole), bits);
            after <= before || used.saturating_add(after - before) <= limit
        };
        let (within, mut len) = piece(at, bytes.len(), bits);
        if !fits(len) {
            // As much as the last 4 KiB of the quota hold.
            (_, len) = piece(at, bytes.len(), 12);
            if !fits(len) {
                return Err(Error::NoSpace { what: "bytes", limit });
            }
        }
        let end = at + len as u64;
        let whole = within == 0 && (len == 1 << bits || end >= file.size);
        let (block, new) = file.tree.change(&mut self.chunks, ChunkKind::Data, index, whole)?;
        if block.len() > 1 << bits {
            return Err(Error::Inconsistent("a block is too long"));
        }
        if block.len() < within {
            block.resize(within, 0);
        }
        let overlap = len.min(block.len() - within);
        block[within..within + overlap].copy_from_slice(&bytes[..overlap]);
        block.extend_from_slice(&bytes[overlap..len]);
        file.blocks += u64::from(new);
        file.size = file.size.max(end);
        let after = live.charge(bits);
        self.charge(before, after);
        Ok(len)
    }

    /// Puts changed contents into the store when there is much of them. That is no commit.
    fn spill(&mut self) -> Result<(), Error> {
        if self.changed < CHANGED {
            return Ok(());
        }
        for ino in &self.dirty {
            if let Some(live) = self.live.get_mut(ino)
                && let Body::File(file) = &mut live.body
            {
                file.tree.flush(&mut self.chunks, ChunkKind::Data, true)?;
            }
        }
        self.changed = 0;
        Ok(())
    }

    fn stat_of(&mut self, ino: u64) -> Result<Stat, Error> {
        let bits = self.root.block_bits;
        let live = self.live(ino)?;
        let [accessed, modified, changed] = live.times;
        Ok(Stat {
            ino: Ino(ino),
            kind: live.kind(),
            links: live.links,
            size: live.size(),
            allocated: live.charge(bits),
            accessed,
            modified,
            changed,
        })
    }

    fn set_times_of(&mut self, ino: u64, times: [SetTime; 2]) -> Result<(), Error> {
        let now = (self.clock)();
        let live = self.live(ino)?;
        for (time, set) in live.times.iter_mut().zip(times) {
            match set {
                SetTime::Keep => {}
                SetTime::Now => *time = now,
                SetTime::At(at) => *time = at,
            }
        }
        live.times[2] = now;
        self.mark(ino);
        Ok(())
    }

    fn set_offset(&mut self, handle: Handle, offset: u64) {
        if let Some(open) = self.handles.get_mut(&handle.0) {
            open.offset = offset;
        }
    }
}

/// Where in its block of `2^bits` bytes the offset `at` is, and how many of `len` bytes from there are in the block.
fn piece(at: u64, len: usize, bits: u8) -> (usize, usize) {
    let within = (at & ((1 << bits) - 1)) as usize;
    (within, len.min((1 << bits) - within))
}

/// Copies from a block; what it does not hold is zero.
fn copy(block: &[u8], from: usize, target: &mut [u8]) {
    let rest = block.get(from..).unwrap_or_default();
    let len = rest.len().min(target.len());
    target[..len].copy_from_slice(&rest[..len]);
    target[len..].fill(0);
}
