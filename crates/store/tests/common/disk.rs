//! A disk that stops at any operation, and forgets, sector by sector, what it was not made to keep.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dunlin_store::{Medium, MediumFile};

/// What a disk writes at once.
const SECTOR: usize = 512;

/// A disk that stops after a number of changes.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Contents by number.
    files: Vec<Contents>,
    /// Names as the process sees them, and as they are on the disk.
    names: BTreeMap<PathBuf, usize>,
    kept_names: BTreeMap<PathBuf, usize>,
    changes: u64,
    stop_after: u64,
}

#[derive(Debug, Default, Clone)]
struct Contents {
    now: Vec<u8>,
    kept: Vec<u8>,
}

#[derive(Debug)]
struct OpenFile {
    disk: Disk,
    file: usize,
}

impl Disk {
    pub fn new(stop_after: u64) -> Self {
        Self(Arc::new(Mutex::new(State { stop_after, ..State::default() })))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.0.lock().unwrap();
        if state.changes >= state.stop_after {
            return Err(io::Error::other("the disk has stopped"));
        }
        state.changes += 1;
        change(&mut state)
    }

    /// How many changes there were.
    pub fn changes(&self) -> u64 {
        self.0.lock().unwrap().changes
    }

    /// The bytes of the first file, to be damaged.
    pub fn first_file<T>(&self, act: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        act(&mut self.0.lock().unwrap().files[0].now)
    }

    fn view<T>(&self, view: impl FnOnce(&State) -> io::Result<T>) -> io::Result<T> {
        view(&self.0.lock().unwrap())
    }

    /// The disk after the power is back: of what it was not made to keep, any sectors and names may be there.
    pub fn recover(&self, mut below: impl FnMut(u64) -> u64) -> Self {
        let state = self.0.lock().unwrap();
        // Now and then it has taken everything.
        if below(4) == 0 {
            let mut files = state.files.clone();
            files.iter_mut().for_each(|file| file.kept = file.now.clone());
            let names = state.names.clone();
            let state = State { files, kept_names: names.clone(), names, changes: 0, stop_after: u64::MAX };
            return Self(Arc::new(Mutex::new(state)));
        }
        let mut names = state.kept_names.clone();
        let all: BTreeSet<_> = state.names.keys().chain(state.kept_names.keys()).collect();
        for name in all {
            if state.names.get(name) != state.kept_names.get(name) && below(2) == 0 {
                match state.names.get(name) {
                    Some(file) => names.insert(name.clone(), *file),
                    None => names.remove(name),
                };
            }
        }
        let mut files = state.files.clone();
        for Contents { now, kept } in &mut files {
            let longest = now.len().max(kept.len());
            let len = if now.len() == kept.len() {
                now.len()
            } else if below(2) == 0 {
                longest.min(kept.len() + below(longest as u64 - kept.len().min(longest - 1) as u64) as usize)
            } else {
                now.len()
            };
            let mut after = vec![0; len];
            for (at, sector) in after.chunks_mut(SECTOR).enumerate() {
                let from = if below(2) == 0 { &*now } else { &*kept };
                let from = from.get(at * SECTOR..).unwrap_or_default();
                let fits = from.len().min(sector.len());
                sector[..fits].copy_from_slice(&from[..fits]);
            }
            // What both agree on is there.
            for (at, byte) in after.iter_mut().enumerate() {
                if let (Some(one), Some(other)) = (now.get(at), kept.get(at))
                    && one == other
                {
                    *byte = *one;
                }
            }
            (*now, *kept) = (after.clone(), after);
        }
        let state = State { files, kept_names: names.clone(), names, changes: 0, stop_after: u64::MAX };
        Self(Arc::new(Mutex::new(state)))
    }
}

fn gone() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl Medium for Disk {
    fn make_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.view(|state| {
            let beneath = state.names.keys().filter(|name| name.parent() == Some(path));
            Ok(beneath.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned())).collect())
        })
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn MediumFile>> {
        let file = self.change(|state| {
            state.files.push(Contents::default());
            let file = state.files.len() - 1;
            state.names.insert(path.to_owned(), file);
            Ok(file)
        })?;
        Ok(Arc::new(OpenFile { disk: self.clone(), file }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn MediumFile>> {
        let file = self.view(|state| state.names.get(path).copied().ok_or_else(gone))?;
        Ok(Arc::new(OpenFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            let file = state.names.remove(from).ok_or_else(gone)?;
            state.names.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|state| state.names.remove(path).map(drop).ok_or_else(gone))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.change(|state| {
            let beneath = |name: &PathBuf| name.parent() == Some(path);
            state.kept_names.retain(|name, _| !beneath(name));
            let now = state.names.iter().filter(|(name, _)| beneath(name)).map(|(name, file)| (name.clone(), *file));
            state.kept_names.extend(now.collect::<Vec<_>>());
            Ok(())
        })
    }
}

impl MediumFile for OpenFile {
    fn size(&self) -> io::Result<u64> {
        self.disk.view(|state| Ok(state.files[self.file].now.len() as u64))
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.view(|state| {
            let from = state.files[self.file].now.get(offset as usize..offset as usize + bytes.len());
            bytes.copy_from_slice(from.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
            Ok(())
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.change(|state| {
            let now = &mut state.files[self.file].now;
            let end = offset as usize + bytes.len();
            if now.len() < end {
                now.resize(end, 0);
            }
            now[offset as usize..end].copy_from_slice(bytes);
            Ok(())
        })
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.disk.change(|state| {
            state.files[self.file].now.resize(size as usize, 0);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.change(|state| {
            let file = &mut state.files[self.file];
            file.kept = file.now.clone();
            Ok(())
        })
    }
}
