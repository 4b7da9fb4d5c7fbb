//! What happens to names: open, make, remove, rename, link, list.

use crate::error::Error;
use crate::record::{FileKind, is_name};
use crate::volume::inodes::{Live, charge_of_entry};
use crate::volume::paths::{Last, Place, Target};
use crate::volume::{Handle, Ino, OpenFile, Volume};
use crate::{MAX_LINKS, MAX_PATH};

/// How to open. All `false` opens nothing but the name: neither for reading nor for writing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenFlags {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Writes go to the end.
    pub append: bool,
    /// Make the file if it does not exist.
    pub create: bool,
    /// With `create`: fail if it exists.
    pub exclusive: bool,
    /// Empty the file; needs `write`.
    pub truncate: bool,
    /// Fail if it is not a directory.
    pub directory: bool,
    /// Follow a symbolic link in the last place.
    pub follow: bool,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Where to continue behind this entry.
    pub cookie: u64,
    /// Its inode.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// Its name.
    pub name: String,
}

impl Volume {
    /// Opens the file or directory that `path` leads to from the directory `at`.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open_file(&mut self, at: Ino, path: &str, flags: OpenFlags) -> Result<Handle, Error> {
        let exclusive = flags.create && flags.exclusive;
        if flags.truncate && !flags.write {
            return Err(Error::Invalid("truncating needs writing"));
        }
        if flags.create && flags.directory {
            return Err(Error::Invalid("open cannot make a directory"));
        }
        self.admit_handle()?;
        if flags.create && path.ends_with('/') {
            self.resolve(at.0, path, Last::Name)?;
            return Err(Error::IsDirectory);
        }
        let last = match (exclusive || !flags.follow, flags.create) {
            (true, _) => Last::Look,
            (false, true) => Last::Create,
            (false, false) => Last::Follow,
        };
        let (ino, kind) = match self.resolve(at.0, path, last)? {
            Target::Directory(_) | Target::Name(Place { entry: Some(_), .. }) if exclusive => {
                return Err(Error::Exists);
            }
            Target::Directory(ino) => (ino, FileKind::Directory),
            Target::Name(Place { entry: Some(entry), .. }) => entry,
            Target::Name(place) => {
                if !flags.create {
                    return Err(Error::NotFound);
                }
                if place.slash {
                    return Err(Error::IsDirectory);
                }
                let now = (self.clock)();
                (self.make(&place, Live::file(now), now)?, FileKind::File)
            }
        };
        let open = OpenFile { ino: Ino(ino), read: flags.read, write: flags.write, append: flags.append, offset: 0 };
        match kind {
            FileKind::Directory if flags.create || flags.write || flags.truncate => return Err(Error::IsDirectory),
            FileKind::File | FileKind::Symlink if flags.directory => return Err(Error::NotDirectory),
            FileKind::Symlink => return Err(Error::Loop { limit: 0 }),
            _ => {}
        }
        if flags.truncate {
            self.truncate(ino, 0)?;
        }
        self.reopen(open)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As `mkdir(2)`.
    pub fn make_directory(&mut self, at: Ino, path: &str) -> Result<Ino, Error> {
        let Target::Name(place) = self.resolve(at.0, path, Last::Name)? else { return Err(Error::Exists) };
        if place.entry.is_some() {
            return Err(Error::Exists);
        }
        if self.live(place.directory)?.links >= MAX_LINKS {
            return Err(Error::TooManyLinks);
        }
        let now = (self.clock)();
        let ino = self.make(&place, Live::directory(place.directory, now), now)?;
        self.live(place.directory)?.links += 1;
        Ok(Ino(ino))
    }

    /// Makes a symbolic link with the text `target`.
    ///
    /// # Errors
    /// As `symlink(2)`.
    pub fn make_symlink(&mut self, target: &str, at: Ino, path: &str) -> Result<Ino, Error> {
        if target.is_empty() {
            return Err(Error::NotFound);
        }
        if target.len() > MAX_PATH {
            return Err(Error::NameTooLong);
        }
        if target.contains('\0') {
            return Err(Error::Invalid("a symbolic link with a NUL byte"));
        }
        let place = self.free_name(at, path)?;
        let now = (self.clock)();
        self.make(&place, Live::symlink(target, now), now).map(Ino)
    }

    /// The text of a symbolic link.
    ///
    /// # Errors
    /// As `readlink(2)`.
    pub fn read_link(&mut self, at: Ino, path: &str) -> Result<String, Error> {
        let ino = self.find(at.0, path, Last::Look)?;
        self.target(ino)
    }

    /// Gives a file or symbolic link another name. With `follow`, a symbolic link at `old` is followed.
    ///
    /// # Errors
    /// As `link(2)`.
    pub fn link(&mut self, old_at: Ino, old: &str, follow: bool, new_at: Ino, new: &str) -> Result<(), Error> {
        let ino = self.find(old_at.0, old, if follow { Last::Follow } else { Last::Look })?;
        let place = self.free_name(new_at, new)?;
        let live = self.live(ino)?;
        let (kind, links) = (live.kind(), live.links);
        if kind == FileKind::Directory {
            return Err(Error::NotPermitted("a directory has one name only"));
        }
        if links >= MAX_LINKS {
            return Err(Error::TooManyLinks);
        }
        let now = (self.clock)();
        self.add_name(&place, ino, kind, now)?;
        let live = self.live(ino)?;
        live.links += 1;
        live.times[2] = now;
        self.mark(ino);
        Ok(())
    }

    /// Removes the name of a file or symbolic link. Its inode lives on while it has another name or is open.
    ///
    /// # Errors
    /// As `unlink(2)`.
    pub fn unlink(&mut self, at: Ino, path: &str) -> Result<(), Error> {
        let Target::Name(place) = self.resolve(at.0, path, Last::Name)? else { return Err(Error::IsDirectory) };
        let (ino, kind) = place.entry.ok_or(Error::NotFound)?;
        if kind == FileKind::Directory {
            return Err(Error::IsDirectory);
        }
        if place.slash {
            return Err(Error::NotDirectory);
        }
        self.admit_unname(ino)?;
        let now = (self.clock)();
        self.remove_name(place.directory, &place.name, now)?;
        self.unname(ino, now);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As `rmdir(2)`.
    pub fn remove_directory(&mut self, at: Ino, path: &str) -> Result<(), Error> {
        let Target::Name(place) = self.resolve(at.0, path, Last::Name)? else {
            return Err(if path.trim_end_matches('/').ends_with("..") {
                Error::NotEmpty
            } else {
                Error::Invalid("`.` cannot be removed")
            });
        };
        let (ino, kind) = place.entry.ok_or(Error::NotFound)?;
        if kind != FileKind::Directory {
            return Err(Error::NotDirectory);
        }
        if !self.directory(ino)?.entries.is_empty() {
            return Err(Error::NotEmpty);
        }
        self.admit_unname(ino)?;
        let now = (self.clock)();
        self.remove_name(place.directory, &place.name, now)?;
        self.drop_subdirectory(place.directory)?;
        self.unname(ino, now);
        Ok(())
    }

    /// Gives what `old` names the name `new`; what had that name loses it in the same step.
    ///
    /// # Errors
    /// As `rename(2)`.
    pub fn rename(&mut self, old_at: Ino, old: &str, new_at: Ino, new: &str) -> Result<(), Error> {
        let from = self.resolve(old_at.0, old, Last::Name)?;
        let to = self.resolve(new_at.0, new, Last::Name)?;
        let (Target::Name(from), Target::Name(to)) = (from, to) else { return Err(Error::Busy) };
        let (ino, kind) = from.entry.ok_or(Error::NotFound)?;
        let is_directory = kind == FileKind::Directory;
        if !is_directory && (from.slash || to.slash) {
            return Err(Error::NotDirectory);
        }
        if is_directory && self.is_above(ino, to.directory)? {
            return Err(Error::Invalid("a directory cannot move beneath itself"));
        }
        self.check_alive(to.directory)?;
        if let Some((victim, victim_kind)) = to.entry {
            if victim_kind == FileKind::Directory && self.is_above(victim, from.directory)? {
                return Err(Error::NotEmpty);
            }
            if victim == ino {
                return Ok(());
            }
            match (is_directory, victim_kind == FileKind::Directory) {
                (true, false) => return Err(Error::NotDirectory),
                (false, true) => return Err(Error::IsDirectory),
                (true, true) if !self.directory(victim)?.entries.is_empty() => return Err(Error::NotEmpty),
                _ => {}
            }
            self.admit_unname(victim)?;
        }
        let moves = is_directory && from.directory != to.directory;
        if moves && to.entry.is_none() && self.live(to.directory)?.links >= MAX_LINKS {
            return Err(Error::TooManyLinks);
        }
        let freed = charge_of_entry(&from.name) + to.entry.map_or(0, |_| charge_of_entry(&to.name));
        self.admit(charge_of_entry(&to.name).saturating_sub(freed))?;
        self.live(ino)?;
        let now = (self.clock)();

        // From here on everything is in memory and nothing fails.
        if let Some((victim, victim_kind)) = to.entry {
            self.remove_name(to.directory, &to.name, now)?;
            if victim_kind == FileKind::Directory {
                self.drop_subdirectory(to.directory)?;
            }
            self.unname(victim, now);
        }
        self.remove_name(from.directory, &from.name, now)?;
        self.add_name(&to, ino, kind, now)?;
        if moves {
            self.drop_subdirectory(from.directory)?;
            self.live(to.directory)?.links += 1;
            self.directory(ino)?.parent = to.directory;
        }
        self.live(ino)?.times[2] = now;
        self.mark(ino);
        Ok(())
    }

    /// Up to `limit` entries of an open directory behind `cookie` (0 is the start), in the order in which they were
    /// made, without `.` and `..`. A cookie keeps its meaning while entries come and go: an entry that stays is listed
    /// exactly once. Cookies 1 and 2 mean the start as well, so that the caller can give them to `.` and `..`.
    ///
    /// # Errors
    /// [`Error::BadHandle`], [`Error::NotDirectory`].
    pub fn read_directory(&mut self, handle: Handle, cookie: u64, limit: usize) -> Result<Vec<DirectoryEntry>, Error> {
        let ino = self.opened(handle)?.ino;
        let Some(from) = cookie.checked_add(1) else { return Ok(Vec::new()) };
        let entries = self.directory(ino.0)?.entries.range(from..).take(limit);
        Ok(entries
            .map(|(cookie, entry)| DirectoryEntry {
                cookie: *cookie,
                ino: Ino(entry.inode),
                kind: entry.kind,
                name: entry.name.to_string(),
            })
            .collect())
    }

    /// A free name for what is not a directory.
    fn free_name(&mut self, at: Ino, path: &str) -> Result<Place, Error> {
        match self.resolve(at.0, path, Last::Name)? {
            Target::Name(place) if place.entry.is_none() && place.slash => Err(Error::NotFound),
            Target::Name(place) if place.entry.is_none() => Ok(place),
            _ => Err(Error::Exists),
        }
    }

    /// Makes an inode with a name.
    fn make(&mut self, place: &Place, live: Live, now: u64) -> Result<u64, Error> {
        self.admit_inode()?;
        self.check_alive(place.directory)?;
        let kind = live.kind();
        self.admit(charge_of_entry(&place.name) + live.charge(self.root.block_bits))?;
        let ino = self.enter(live);
        self.add_name(place, ino, kind, now)?;
        Ok(ino)
    }

    fn add_name(&mut self, place: &Place, ino: u64, kind: FileKind, now: u64) -> Result<(), Error> {
        if !is_name(&place.name) {
            return Err(Error::Invalid("not a name"));
        }
        self.check_alive(place.directory)?;
        let cost = charge_of_entry(&place.name);
        self.admit(cost)?;
        self.directory(place.directory)?.add(ino, kind, &place.name);
        self.charge(0, cost);
        self.touch(place.directory, now)
    }

    fn remove_name(&mut self, directory: u64, name: &str, now: u64) -> Result<(), Error> {
        self.directory(directory)?.remove(name);
        self.charge(charge_of_entry(name), 0);
        self.touch(directory, now)
    }

    fn drop_subdirectory(&mut self, directory: u64) -> Result<(), Error> {
        let live = self.live(directory)?;
        live.links = live.links.saturating_sub(1);
        Ok(())
    }

    fn touch(&mut self, ino: u64, now: u64) -> Result<(), Error> {
        let live = self.live(ino)?;
        (live.times[1], live.times[2]) = (now, now);
        self.mark(ino);
        Ok(())
    }

    /// Nothing can be made in a directory that has been removed.
    fn check_alive(&mut self, directory: u64) -> Result<(), Error> {
        if self.live(directory)?.links == 0 { Err(Error::NotFound) } else { Ok(()) }
    }
}
