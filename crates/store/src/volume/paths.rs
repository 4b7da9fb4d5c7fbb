//! From paths to inodes. A path cannot leave the directory that it is relative to.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::record::FileKind;
use crate::volume::Volume;
use crate::{MAX_NAME, MAX_PATH, MAX_SYMLINKS};

/// What happens to a symbolic link in the last place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// It is followed.
    Follow,
    /// It is followed, and a slash behind the last name is refused with `EISDIR`.
    Create,
    /// It is followed only before a slash.
    Look,
    /// It is a name like any other.
    Name,
}

/// Where a path leads.
#[derive(Debug)]
pub(super) enum Target {
    /// To a directory by `.`, `..` or nothing.
    Directory(u64),
    /// To a name in a directory, which may be free.
    Name(Place),
}

#[derive(Debug)]
pub(super) struct Place {
    pub(super) directory: u64,
    pub(super) name: String,
    pub(super) entry: Option<(u64, FileKind)>,
    /// Whether a slash follows.
    pub(super) slash: bool,
}

impl Volume {
    pub(super) fn resolve(&mut self, at: u64, path: &str, last: Last) -> Result<Target, Error> {
        check(path)?;
        if path.is_empty() {
            return Err(Error::NotFound);
        }
        self.directory(at)?;
        // The directories on the way, so that `..` is where the way came from.
        let mut way = vec![at];
        let mut rest = components(path);
        let mut slash = path.ends_with('/');
        let mut links = 0;
        let mut here = at;
        while let Some(name) = rest.pop() {
            match &*name {
                "." => continue,
                ".." => {
                    way.pop();
                    here = *way.last().ok_or(Error::NotPermitted("the path leads out of its directory"))?;
                    continue;
                }
                name if name.len() > MAX_NAME => return Err(Error::NameTooLong),
                _ => {}
            }
            let done = rest.is_empty();
            if done && slash && last == Last::Create {
                return Err(Error::IsDirectory);
            }
            let entry = self.directory(here)?.find(&name).map(|entry| (entry.inode, entry.kind));
            match entry {
                None if done => {
                    return Ok(Target::Name(Place { directory: here, name, entry, slash }));
                }
                None => return Err(Error::NotFound),
                Some((ino, FileKind::Symlink))
                    if !done || matches!(last, Last::Follow | Last::Create) || (slash && last == Last::Look) =>
                {
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(Error::Loop { limit: MAX_SYMLINKS });
                    }
                    let target = self.target(ino)?;
                    check(&target)?;
                    slash |= done && target.ends_with('/');
                    rest.extend(components(&target));
                }
                Some((ino, FileKind::Directory)) if !done => {
                    way.push(ino);
                    here = ino;
                }
                Some((_, FileKind::Directory)) => {
                    return Ok(Target::Name(Place { directory: here, name, entry, slash }));
                }
                Some(_) if !done || (slash && last != Last::Name) => return Err(Error::NotDirectory),
                Some(_) => return Ok(Target::Name(Place { directory: here, name, entry, slash })),
            }
        }
        Ok(Target::Directory(here))
    }

    /// The inode that a path leads to.
    pub(super) fn find(&mut self, at: u64, path: &str, last: Last) -> Result<u64, Error> {
        match self.resolve(at, path, last)? {
            Target::Directory(ino) => Ok(ino),
            Target::Name(place) => place.entry.map(|(ino, _)| ino).ok_or(Error::NotFound),
        }
    }

    /// Whether the directory `above` is `ino` or a directory above it.
    pub(super) fn is_above(&mut self, above: u64, mut ino: u64) -> Result<bool, Error> {
        let mut way = BTreeSet::new();
        while way.insert(ino) {
            if ino == above {
                return Ok(true);
            }
            let parent = self.directory(ino)?.parent;
            if parent == ino {
                return Ok(false);
            }
            ino = parent;
        }
        Err(Error::Inconsistent("a directory is beneath itself"))
    }
}

fn check(path: &str) -> Result<(), Error> {
    if path.len() > MAX_PATH {
        return Err(Error::NameTooLong);
    }
    if path.contains('\0') {
        return Err(Error::Invalid("a path with a NUL byte"));
    }
    if path.starts_with('/') {
        return Err(Error::NotPermitted("the path is absolute"));
    }
    Ok(())
}

/// The components, the first one last.
fn components(path: &str) -> Vec<String> {
    path.split('/').rev().filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
