//! A volume whose store stops at every operation, or whose process is killed, opens as some commit left it.

mod common;

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Random, TempDir, volume_options};
use dunlin_base::Digest;
use dunlin_store::{ChunkStore, DirectoryStore, Error, Ino, MemoryStore, OpenFlags, Roots, Store, StoreError, Volume};

const ROOT: Ino = Ino::ROOT;
const READ: OpenFlags = OpenFlags {
    read: true,
    write: false,
    append: false,
    create: false,
    exclusive: false,
    truncate: false,
    directory: false,
    follow: true,
};
const WRITE: OpenFlags = OpenFlags { write: true, create: true, ..READ };

/// A disk that stops after a number of changes. What was not synced by then is there in part, as a seed has it.
#[derive(Debug)]
struct Disk {
    kept: MemoryStore,
    state: Mutex<DiskState>,
}

#[derive(Debug)]
struct DiskState {
    unsynced: HashMap<Digest, Vec<u8>>,
    left: u64,
    used: u64,
    /// Whether the change at which the disk stops still happens.
    last_happens: bool,
}

impl Disk {
    fn new(left: u64, last_happens: bool) -> Self {
        let state = DiskState { unsynced: HashMap::new(), left, used: 0, last_happens };
        Self { kept: MemoryStore::new(), state: Mutex::new(state) }
    }

    fn change(&self, change: impl FnOnce(&mut DiskState)) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap();
        state.used += 1;
        let stopped = || StoreError::Io {
            action: "write",
            path: PathBuf::from("a disk that has stopped"),
            source: io::Error::other("stopped"),
        };
        if state.left == 0 {
            return Err(stopped());
        }
        state.left -= 1;
        if state.left > 0 {
            change(&mut state);
            return Ok(());
        }
        if state.last_happens {
            change(&mut state);
        }
        Err(stopped())
    }

    /// What is on the disk after the power is back.
    fn recover(&self, random: &mut Random) -> Arc<dyn Store> {
        let recovered = MemoryStore::new();
        for digest in self.kept.list().unwrap() {
            recovered.put(&digest, &self.kept.get(&digest).unwrap().unwrap()).unwrap();
        }
        let state = self.state.lock().unwrap();
        let mut unsynced: Vec<_> = state.unsynced.iter().collect();
        unsynced.sort();
        for (digest, bytes) in unsynced {
            if random.below(2) == 0 {
                recovered.put(digest, bytes).unwrap();
            }
        }
        for (name, root) in self.kept.roots().unwrap() {
            recovered.set_root(&name, Some(root)).unwrap();
        }
        Arc::new(recovered)
    }
}

impl ChunkStore for Disk {
    fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(bytes) = self.state.lock().unwrap().unsynced.get(digest) {
            return Ok(Some(bytes.clone()));
        }
        self.kept.get(digest)
    }

    fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        self.change(|state| {
            state.unsynced.insert(*digest, bytes.to_vec());
        })
    }

    fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.get(digest)?.is_some())
    }

    fn list(&self) -> Result<Vec<Digest>, StoreError> {
        let mut digests = self.kept.list()?;
        digests.extend(self.state.lock().unwrap().unsynced.keys());
        Ok(digests)
    }

    fn retain(&self, needed: &BTreeSet<Digest>) -> Result<u64, StoreError> {
        self.change(|state| {
            state.unsynced.retain(|digest, _| needed.contains(digest));
            self.kept.retain(needed).unwrap();
        })?;
        Ok(0)
    }

    fn stored_bytes(&self) -> u64 {
        0
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.change(|state| {
            for (digest, bytes) in state.unsynced.drain() {
                self.kept.put(&digest, &bytes).unwrap();
            }
        })
    }
}

impl Roots for Disk {
    fn root(&self, name: &str) -> Result<Option<Digest>, StoreError> {
        self.kept.root(name)
    }

    fn set_root(&self, name: &str, root: Option<Digest>) -> Result<(), StoreError> {
        self.change(|state| {
            for (digest, bytes) in state.unsynced.drain() {
                self.kept.put(&digest, &bytes).unwrap();
            }
            self.kept.set_root(name, root).unwrap();
        })
    }

    fn roots(&self) -> Result<Vec<(String, Digest)>, StoreError> {
        self.kept.roots()
    }
}

/// Everything that is in a volume, as text.
fn contents(volume: &mut Volume, path: &str, into: &mut String) {
    let handle = volume.open_file(ROOT, path, READ).unwrap();
    for entry in volume.read_directory(handle, 0, usize::MAX).unwrap() {
        let path = format!("{path}/{}", entry.name);
        let stat = volume.stat_path(ROOT, &path, false).unwrap();
        *into += &format!("{path} {:?} {} {}\n", stat.kind, stat.size, stat.links);
        match entry.kind {
            dunlin_store::FileKind::Directory => contents(volume, &path, into),
            dunlin_store::FileKind::Symlink => *into += &volume.read_link(ROOT, &path).unwrap(),
            dunlin_store::FileKind::File => {
                let file = volume.open_file(ROOT, &path, READ).unwrap();
                let mut bytes = vec![0; stat.size as usize];
                assert_eq!(volume.read(file, &mut bytes).unwrap(), bytes.len());
                *into += &format!("{}\n", Digest::of(&bytes));
                volume.close(file).unwrap();
            }
        }
    }
    volume.close(handle).unwrap();
}

fn text(volume: &mut Volume) -> String {
    let mut into = String::new();
    contents(volume, ".", &mut into);
    into
}

/// The workload: after each commit that succeeded, the contents are noted; before each, those that it would leave.
fn workload(store: Arc<dyn Store>, noted: &mut Vec<String>, next: &mut Option<String>) -> Result<(), Error> {
    *next = Some(String::new());
    let mut volume = Volume::create(store, volume_options())?;
    let mut commit = |volume: &mut Volume| {
        *next = Some(text(volume));
        volume.commit()?;
        noted.extend(next.take());
        Ok::<_, Error>(())
    };
    commit(&mut volume)?;
    let mut random = Random::new(11);
    for round in 0..12u64 {
        if round % 3 == 0 {
            volume.make_directory(ROOT, &format!("d{round}"))?;
        }
        let name = format!("d{}/f", round / 3 * 3);
        let file = volume.open_file(ROOT, &name, WRITE)?;
        let bytes: Vec<u8> = (0..9000).map(|_| random.next() as u8).collect();
        volume.write_at(file, &bytes, random.below(30_000))?;
        // A journal as a database has it: written, then renamed over.
        let journal = volume.open_file(ROOT, "new", WRITE)?;
        volume.write(journal, format!("round {round}").as_bytes())?;
        volume.rename(ROOT, "new", ROOT, "current")?;
        volume.close(journal)?;
        if round % 4 == 3 {
            volume.set_len(file, 5000)?;
            volume.make_symlink("current", ROOT, &format!("link{round}"))?;
        }
        commit(&mut volume)?;
        if round == 7 {
            volume.unlink(ROOT, "d0/f")?;
            volume.remove_directory(ROOT, "d0")?;
            commit(&mut volume)?;
            volume.collect_garbage()?;
        }
        volume.close(file)?;
    }
    Ok(())
}

#[test]
fn a_stop_at_every_write_leaves_the_old_or_the_new_contents() {
    let disk = Arc::new(Disk::new(u64::MAX, true));
    let (mut noted, mut next) = (Vec::new(), None);
    workload(disk.clone(), &mut noted, &mut next).unwrap();
    let total = disk.state.lock().unwrap().used;
    assert_eq!(noted.len(), 14);
    assert!(total > 120, "the workload changes the disk {total} times");
    let (mut old, mut new) = (0, 0);
    for (stop, last_happens) in (1..=total).flat_map(|stop| [(stop, false), (stop, true)]) {
        let disk = Arc::new(Disk::new(stop, last_happens));
        let (mut noted, mut next) = (Vec::new(), None);
        workload(disk.clone(), &mut noted, &mut next).unwrap_err();
        let recovered = disk.recover(&mut Random::new(stop));
        match Volume::open(recovered.clone(), volume_options()) {
            Ok(mut volume) => {
                let found = text(&mut volume);
                if noted.last() == Some(&found) {
                    old += 1;
                } else {
                    assert_eq!(next.as_ref(), Some(&found), "stopped at {stop}: neither the old nor the new contents");
                    new += 1;
                }
                // And it can be used: what the stop left behind goes, what is needed stays.
                volume.make_directory(ROOT, "after").unwrap();
                volume.collect_garbage().unwrap();
                let left = recovered.list().unwrap();
                assert_eq!(left.len(), volume.manifest().unwrap().chunks.len());
                assert!(text(&mut Volume::open(recovered, volume_options()).unwrap()).contains("after"));
            }
            Err(Error::NoVolume { .. }) => assert!(noted.is_empty(), "stopped at {stop}: a committed volume is gone"),
            Err(error) => panic!("stopped at {stop}: {error:?}"),
        }
    }
    assert!(old > 150 && new > 10, "{old} stops left the old contents, {new} the new ones");
}

/// Blocks that all have the same number, which grows with each commit.
const BLOCKS: u64 = 20;

/// Not a test of its own: the process that the next test kills.
#[test]
#[ignore = "started by the next test, which kills it"]
fn writer() {
    let Some(path) = std::env::var_os("DUNLIN_STORE_TEST") else { return };
    let store = Arc::new(DirectoryStore::open(path).unwrap());
    let mut volume = match Volume::open(store.clone(), volume_options()) {
        Err(Error::NoVolume { .. }) => Volume::create(store, volume_options()).unwrap(),
        volume => volume.unwrap(),
    };
    let file = volume.open_file(ROOT, "f", WRITE).unwrap();
    let mut bytes = [0; 8];
    volume.read_at(file, &mut bytes, 0).unwrap();
    let mut number = u64::from_le_bytes(bytes);
    loop {
        number += 1;
        for block in 0..BLOCKS {
            volume.write_at(file, &number.to_le_bytes(), block * 4096).unwrap();
        }
        volume.sync(file).unwrap();
        // What was said to be durable must be there.
        println!("{number}");
        if number.is_multiple_of(16) {
            volume.collect_garbage().unwrap();
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_durable() {
    let directory = TempDir::new();
    let mut random = Random::new(5);
    let mut reached = 0;
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--ignored", "--nocapture"])
            .env("DUNLIN_STORE_TEST", directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(60 + random.below(150)));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut output = String::new();
        child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        let whole = &output[..output.rfind('\n').map_or(0, |end| end)];
        let told = whole.lines().rev().find_map(|line| line.trim().parse::<u64>().ok()).unwrap_or(reached);
        let store = Arc::new(DirectoryStore::open(directory.path()).unwrap());
        let mut volume = match Volume::open(store, volume_options()) {
            Err(Error::NoVolume { .. }) if told == 0 => continue,
            volume => volume.unwrap(),
        };
        let Ok(file) = volume.open_file(ROOT, "f", READ) else {
            assert_eq!(told, 0);
            continue;
        };
        let mut bytes = [0; 8];
        volume.read_at(file, &mut bytes, 0).unwrap();
        let number = u64::from_le_bytes(bytes);
        assert!(number == told || number == told + 1, "round {round}: {told} was durable, {number} is there");
        for block in 0..BLOCKS {
            volume.read_at(file, &mut bytes, block * 4096).unwrap();
            assert_eq!(u64::from_le_bytes(bytes), number, "round {round}, block {block}");
        }
        reached = number;
    }
    assert!(reached > 0, "no process lived long enough to commit");
}

#[test]
fn a_directory_store_has_one_user_and_keeps_its_word() {
    let directory = TempDir::new();
    let store = DirectoryStore::open(directory.path()).unwrap();
    assert!(matches!(DirectoryStore::open(directory.path()), Err(StoreError::InUse { .. })));
    let digest = Digest::of(b"abc");
    store.put(&digest, b"abc").unwrap();
    assert_eq!(store.get(&digest).unwrap().unwrap(), b"abc");
    assert_eq!(store.list().unwrap(), [digest]);
    drop(store);
    let store = DirectoryStore::open(directory.path()).unwrap();
    assert!(!store.contains(&digest).unwrap(), "it was not synced");
    store.put(&digest, b"abc").unwrap();
    store.sync().unwrap();
    store.set_root("head", Some(digest)).unwrap();
    for name in ["", "../x", "A", &"a".repeat(65)] {
        assert!(matches!(store.set_root(name, Some(digest)), Err(StoreError::Name { .. })), "{name}");
    }
    drop(store);
    let store = DirectoryStore::open(directory.path()).unwrap();
    assert_eq!(store.get(&digest).unwrap().unwrap(), b"abc");
    assert_eq!(store.roots().unwrap(), [("head".to_owned(), digest)]);
    store.retain(&BTreeSet::new()).unwrap();
    assert!(!store.contains(&digest).unwrap());
}
