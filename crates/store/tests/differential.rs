//! The volume against a directory of the host: random operations give the same results, errors and contents.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use common::{Random, TempDir, volume_options};
use dunlin_store::{Error, FileKind, Handle, Ino, MemoryStore, OpenFlags, SetTime, Store, Volume};

const ROOT: Ino = Ino::ROOT;

/// What an operation gave: a text of its result, or the name of the error number.
type Outcome = Result<String, String>;

fn host(result: io::Result<String>) -> Outcome {
    result.map_err(|error| {
        let name = match error.raw_os_error() {
            Some(1) => "EPERM",
            Some(2) => "ENOENT",
            Some(9) => "EBADF",
            Some(16) => "EBUSY",
            Some(17) => "EEXIST",
            Some(20) => "ENOTDIR",
            Some(21) => "EISDIR",
            Some(22) => "EINVAL",
            Some(36) => "ENAMETOOLONG",
            Some(39) => "ENOTEMPTY",
            Some(40) => "ELOOP",
            _ => panic!("no name for {error:?}"),
        };
        name.to_owned()
    })
}

fn ours(result: Result<String, Error>) -> Outcome {
    result.map_err(|error| error.errno().to_owned())
}

fn done<T, E>(result: Result<T, E>) -> Result<String, E> {
    result.map(|_| String::new())
}

fn random_path(random: &mut Random) -> String {
    let names = ["a", "b", "c", "d", "e", "long-name-long-name", "."];
    let depth = 1 + random.below(3);
    let mut path: Vec<_> = (0..depth).map(|_| names[random.below(names.len() as u64) as usize]).collect();
    if random.below(8) == 0 && path.len() > 1 && path[0] != "." {
        path.insert(1, "..");
    }
    // A last component of `.` or `..` is refused differently by the calls of std, and tested on its own.
    if matches!(path.last(), Some(&"." | &"..")) {
        path.push("f");
    }
    let mut path = path.join("/");
    if random.below(12) == 0 {
        path.push('/');
    }
    path
}

fn bytes_of(random: &mut Random) -> Vec<u8> {
    let len = match random.below(4) {
        0 => random.below(20),
        1 => random.below(5000),
        2 => 4096,
        _ => random.below(30_000),
    };
    let zeros = random.below(5) == 0;
    (0..len).map(|_| if zeros { 0 } else { random.next() as u8 }).collect()
}

struct Pair {
    volume: Volume,
    store: Arc<dyn Store>,
    directory: TempDir,
    open: Vec<(Handle, File, bool)>,
}

impl Pair {
    fn path(&self, path: &str) -> std::path::PathBuf {
        // A path of std drops no slash at its end.
        format!("{}/{path}", self.directory.path().display()).into()
    }

    fn step(&mut self, random: &mut Random) -> (String, Outcome, Outcome) {
        let path = random_path(random);
        let at = self.path(&path);
        let v = &mut self.volume;
        let pick = |open: &Vec<(Handle, File, bool)>, random: &mut Random| {
            (!open.is_empty()).then(|| random.below(open.len() as u64) as usize)
        };
        match random.below(22) {
            0 | 1 => {
                (format!("mkdir {path}"), ours(done(v.make_directory(ROOT, &path))), host(done(fs::create_dir(at))))
            }
            2 => (format!("rmdir {path}"), ours(done(v.remove_directory(ROOT, &path))), host(done(fs::remove_dir(at)))),
            3 | 4 => (format!("unlink {path}"), ours(done(v.unlink(ROOT, &path))), host(done(fs::remove_file(at)))),
            5 | 6 => {
                let to = random_path(random);
                let told = (ours(done(v.rename(ROOT, &path, ROOT, &to))), host(done(fs::rename(at, self.path(&to)))));
                (format!("rename {path} {to}"), told.0, told.1)
            }
            7 => {
                let to = random_path(random);
                let told =
                    (ours(done(v.link(ROOT, &path, false, ROOT, &to))), host(done(fs::hard_link(at, self.path(&to)))));
                (format!("link {path} {to}"), told.0, told.1)
            }
            8 => {
                // Relative to the directory of the link: it cannot leave the volume, but it can form loops.
                let target = ["a", "b", "c/d", "b/", "missing", "./a", "d"][random.below(7) as usize];
                let told = ours(done(v.make_symlink(target, ROOT, &path)));
                (format!("symlink {target} {path}"), told, host(done(std::os::unix::fs::symlink(target, at))))
            }
            9 => {
                let told = host(fs::read_link(at).map(|path| path.to_str().unwrap().to_owned()));
                (format!("readlink {path}"), ours(v.read_link(ROOT, &path)), told)
            }
            10 => {
                let follow = random.below(2) == 0;
                let stat = v.stat_path(ROOT, &path, follow).map(|stat| {
                    let size = if stat.kind == FileKind::Directory { 0 } else { stat.size };
                    let links = if stat.kind == FileKind::Directory { 0 } else { stat.links };
                    format!("{:?} {size} {links}", stat.kind)
                });
                let real = if follow { fs::metadata(at) } else { fs::symlink_metadata(at) }.map(|stat| {
                    if stat.is_dir() {
                        return "Directory 0 0".to_owned();
                    }
                    let kind = if stat.is_symlink() { FileKind::Symlink } else { FileKind::File };
                    format!("{kind:?} {} {}", stat.len(), stat.nlink())
                });
                (format!("stat {path} {follow}"), ours(stat), host(real))
            }
            11..=13 => {
                let mut bit = || random.below(2) == 0;
                let mut flags =
                    OpenFlags { read: true, write: bit(), create: bit(), follow: bit(), ..OpenFlags::default() };
                if flags.write {
                    (flags.append, flags.truncate) = (bit() && bit(), bit() && bit());
                }
                // std makes files only when it also writes to them.
                flags.create &= flags.write;
                flags.exclusive = flags.create && bit() && bit();
                if flags.append {
                    // std has no way to ask for both.
                    flags.truncate = false;
                }
                // O_NOFOLLOW.
                let custom = if flags.follow { 0 } else { 0o400_000 };
                let real = OpenOptions::new()
                    .read(true)
                    .write(flags.write)
                    .append(flags.append)
                    .create(flags.create)
                    .create_new(flags.exclusive)
                    .truncate(flags.truncate)
                    .custom_flags(custom)
                    .open(at);
                let volume = v.open_file(ROOT, &path, flags);
                let text = format!("open {path} {flags:?}");
                match (volume, real) {
                    (Ok(handle), Ok(file)) => {
                        if file.metadata().unwrap().is_file() && self.open.len() < 20 {
                            self.open.push((handle, file, flags.append));
                        } else {
                            self.volume.close(handle).unwrap();
                        }
                        (text, Ok(String::new()), Ok(String::new()))
                    }
                    (volume, real) => (text, ours(done(volume)), host(done(real))),
                }
            }
            14 | 15 => {
                let Some(which) = pick(&self.open, random) else { return Self::nothing() };
                let bytes = bytes_of(random);
                let (handle, file, append) = &mut self.open[which];
                if random.below(2) == 0 {
                    let real = file.write(&bytes).map(|written| format!("{written}"));
                    let told = v.write(*handle, &bytes).map(|written| format!("{written}"));
                    (format!("write {which} {}", bytes.len()), ours(told), host(real))
                } else {
                    let offset = random.below(90_000);
                    let real = file.write_at(&bytes, offset).map(|written| format!("{written}"));
                    let told = v.write_at(*handle, &bytes, offset).map(|written| format!("{written}"));
                    (format!("pwrite {which} {} at {offset} append {append}", bytes.len()), ours(told), host(real))
                }
            }
            16 | 17 => {
                let Some(which) = pick(&self.open, random) else { return Self::nothing() };
                let (handle, file, _) = &mut self.open[which];
                let mut buffers = [vec![1; random.below(40_000) as usize], Vec::new()];
                buffers[1] = buffers[0].clone();
                let (told, real) = if random.below(2) == 0 {
                    (v.read(*handle, &mut buffers[0]), file.read(&mut buffers[1]))
                } else {
                    let offset = random.below(100_000);
                    (v.read_at(*handle, &mut buffers[0], offset), file.read_at(&mut buffers[1], offset))
                };
                assert!(buffers[0] == buffers[1], "read {which}: other bytes");
                let text = |read: usize| format!("{read}");
                (format!("read {which}"), ours(told.map(text)), host(real.map(text)))
            }
            18 => {
                let Some(which) = pick(&self.open, random) else { return Self::nothing() };
                let size = random.below(100_000);
                let (handle, file, _) = &self.open[which];
                let told = ours(done(v.set_len(*handle, size)));
                (format!("truncate {which} {size}"), told, host(done(file.set_len(size))))
            }
            19 => {
                let Some(which) = pick(&self.open, random) else { return Self::nothing() };
                let (handle, file, _) = &mut self.open[which];
                let to = match random.below(3) {
                    0 => SeekFrom::Start(random.below(80_000)),
                    1 => SeekFrom::Current(random.below(4000) as i64 - 2000),
                    _ => SeekFrom::End(random.below(4000) as i64 - 2000),
                };
                let text = |offset: u64| offset.to_string();
                (format!("seek {which} {to:?}"), ours(v.seek(*handle, to).map(text)), host(file.seek(to).map(text)))
            }
            20 => {
                let Some(which) = pick(&self.open, random) else { return Self::nothing() };
                let (handle, file, _) = self.open.swap_remove(which);
                let told = v.stat(handle).map(|stat| format!("{} {}", stat.size, stat.links));
                let stat = file.metadata().unwrap();
                self.volume.close(handle).unwrap();
                (format!("close {which}"), ours(told), Ok(format!("{} {}", stat.len(), stat.nlink())))
            }
            _ => {
                if random.below(4) == 0 {
                    self.move_volume();
                } else {
                    v.commit().unwrap();
                }
                Self::nothing()
            }
        }
    }

    fn nothing() -> (String, Outcome, Outcome) {
        (String::new(), Ok(String::new()), Ok(String::new()))
    }

    /// Commits, and goes on from what is in the store, with every handle opened again.
    fn move_volume(&mut self) {
        self.volume.commit().unwrap();
        let mut moved = Volume::open(self.store.clone(), volume_options()).unwrap();
        for (handle, _, _) in &mut self.open {
            *handle = moved.reopen(self.volume.opened(*handle).unwrap()).unwrap();
        }
        moved.reap().unwrap();
        assert_eq!(moved.usage(), self.volume.usage());
        self.volume = moved;
    }
}

/// Compares whole trees.
fn compare(volume: &mut Volume, path: &str, real: &Path) -> u64 {
    let flags = OpenFlags { read: true, ..OpenFlags::default() };
    let handle = volume.open_file(ROOT, path, flags).unwrap();
    let mut entries = volume.read_directory(handle, 0, usize::MAX).unwrap();
    volume.close(handle).unwrap();
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    let mut names: Vec<_> =
        fs::read_dir(real).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(entries.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>(), names, "in {path}");
    let mut inodes = 0;
    for entry in entries {
        let (path, real) = (format!("{path}/{}", entry.name), real.join(&entry.name));
        let stat = fs::symlink_metadata(&real).unwrap();
        let told = volume.stat_path(ROOT, &path, false).unwrap();
        assert_eq!((told.kind, told.ino), (entry.kind, entry.ino));
        inodes += 1;
        match entry.kind {
            FileKind::Directory => {
                assert!(stat.is_dir());
                let below = fs::read_dir(&real).unwrap();
                let below = below.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir()).count();
                assert_eq!(told.links as usize, 2 + below, "{path}");
                inodes += compare(volume, &path, &real);
            }
            FileKind::Symlink => {
                assert_eq!(volume.read_link(ROOT, &path).unwrap(), fs::read_link(&real).unwrap().to_str().unwrap());
            }
            FileKind::File => {
                assert!(stat.is_file());
                assert_eq!((told.size, u64::from(told.links)), (stat.len(), stat.nlink()), "{path}");
                let handle = volume.open_file(ROOT, &path, flags).unwrap();
                let mut bytes = vec![0; stat.len() as usize];
                assert_eq!(volume.read(handle, &mut bytes).unwrap(), bytes.len());
                volume.close(handle).unwrap();
                assert!(bytes == fs::read(&real).unwrap(), "contents of {path}");
            }
        }
    }
    inodes
}

#[test]
fn a_volume_does_what_a_directory_of_the_host_does() {
    let (mut operations, mut successes) = (0, 0);
    for seed in 0..80 {
        let mut random = Random::new(seed);
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let volume = Volume::create(store.clone(), volume_options()).unwrap();
        let mut pair = Pair { volume, store, directory: TempDir::new(), open: Vec::new() };
        let mut log = Vec::new();
        for _ in 0..500 {
            let (text, ours, host) = pair.step(&mut random);
            if text.is_empty() {
                continue;
            }
            log.push(text);
            let tail = &log[log.len().saturating_sub(30)..];
            assert_eq!(ours, host, "seed {seed}, volume left, host right, after {tail:#?}");
            operations += 1;
            successes += u32::from(ours.is_ok());
        }
        let root = pair.directory.path().to_owned();
        compare(&mut pair.volume, ".", &root);
        for (handle, _, _) in std::mem::take(&mut pair.open) {
            pair.volume.close(handle).unwrap();
        }
        pair.move_volume();
        compare(&mut pair.volume, ".", &root);
        // Nothing is lost and nothing stays: removing everything gives back the whole quota.
        remove_all(&mut pair.volume, ".");
        assert_eq!(pair.volume.usage().used.inodes, 1, "seed {seed}");
        assert_eq!(pair.volume.usage().used.bytes, 0, "seed {seed}");
        pair.volume.collect_garbage().unwrap();
        assert!(pair.store.list().unwrap().len() <= 2, "the root and its page of inodes");
    }
    assert!(operations > 15_000 && successes > 3000, "{successes} of {operations} operations did something");
}

fn remove_all(volume: &mut Volume, path: &str) {
    let handle = volume.open_file(ROOT, path, OpenFlags { read: true, ..OpenFlags::default() }).unwrap();
    // A cookie stays good while what it was read with is removed.
    let mut cookie = 0;
    while let Some(entry) = volume.read_directory(handle, cookie, 1).unwrap().pop() {
        cookie = entry.cookie;
        let path = format!("{path}/{}", entry.name);
        if entry.kind == FileKind::Directory {
            remove_all(volume, &path);
            volume.remove_directory(ROOT, &path).unwrap();
        } else {
            volume.unlink(ROOT, &path).unwrap();
        }
    }
    volume.close(handle).unwrap();
}

#[test]
fn times_are_set_and_kept() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let mut volume = Volume::create(store.clone(), volume_options()).unwrap();
    let flags = OpenFlags { write: true, create: true, ..OpenFlags::default() };
    let handle = volume.open_file(ROOT, "f", flags).unwrap();
    volume.set_times(handle, SetTime::At(5), SetTime::At(7)).unwrap();
    volume.set_times_path(ROOT, "f", true, SetTime::Keep, SetTime::At(9)).unwrap();
    volume.commit().unwrap();
    let stat = Volume::open(store, volume_options()).unwrap().stat_path(ROOT, "f", true).unwrap();
    assert_eq!((stat.accessed, stat.modified, stat.changed), (5, 9, common::NOW));
    volume.write(handle, b"x").unwrap();
    assert_eq!(volume.stat(handle).unwrap().modified, common::NOW);
}
