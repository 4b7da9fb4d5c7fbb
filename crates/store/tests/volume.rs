//! What a volume promises beside being a file system: damage is found, hostile chunks are refused, quotas hold, deleted
//! files live while they are open, volumes travel, garbage goes.

mod common;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::SeekFrom;
use std::sync::Arc;

use common::{Random, volume_options};
use dunlin_base::Digest;
use dunlin_store::{
    Ahead, ChunkKind, ChunkStore, Error, FileKind, HEAD, ImportError, Ino, Manifest, MemoryStore, OpenFlags, Options,
    Plain, Quota, Roots, SealError, Sealing, Store, Volume, export, import, missing, missing_beside,
};

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

fn new_volume(options: Options) -> (Arc<MemoryStore>, Volume) {
    let store = Arc::new(MemoryStore::new());
    let volume = Volume::create(store.clone(), options).unwrap();
    (store, volume)
}

fn put(volume: &mut Volume, path: &str, bytes: &[u8]) {
    let file = volume.open_file(ROOT, path, OpenFlags { truncate: true, ..WRITE }).unwrap();
    assert_eq!(volume.write(file, bytes).unwrap(), bytes.len());
    volume.close(file).unwrap();
}

fn get(volume: &mut Volume, path: &str) -> Result<Vec<u8>, Error> {
    let file = volume.open_file(ROOT, path, READ)?;
    let mut bytes = vec![0; usize::try_from(volume.stat(file)?.size.min(1 << 20)).unwrap()];
    let mut done = 0;
    while done < bytes.len() {
        match volume.read(file, &mut bytes[done..]) {
            Ok(read) => done += read,
            Err(error) => {
                volume.close(file)?;
                return Err(error);
            }
        }
    }
    volume.close(file)?;
    Ok(bytes)
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.next() as u8).collect()
}

/// A volume with everything in it that can be.
fn furnished() -> (Arc<MemoryStore>, Volume) {
    let (store, mut volume) = new_volume(volume_options());
    volume.make_directory(ROOT, "d").unwrap();
    put(&mut volume, "d/large", &noise(1, 300_000));
    put(&mut volume, "small", b"small");
    volume.make_symlink("d/large", ROOT, "link").unwrap();
    volume.link(ROOT, "small", false, ROOT, "d/hard").unwrap();
    (0..40).for_each(|number| put(&mut volume, &format!("d/{number}"), &[number]));
    let sparse = volume.open_file(ROOT, "sparse", WRITE).unwrap();
    volume.write_at(sparse, b"far", 1 << 40).unwrap();
    volume.unlink(ROOT, "sparse").unwrap();
    volume.commit().unwrap();
    (store, volume)
}

/// Reads everything; gives up at the first error.
fn walk(volume: &mut Volume, path: &str, left: &mut u32) -> Result<(), Error> {
    let handle = volume.open_file(ROOT, path, READ)?;
    let entries = volume.read_directory(handle, 0, 1000)?;
    volume.close(handle)?;
    for entry in entries {
        *left = left.saturating_sub(1);
        if *left == 0 {
            return Ok(());
        }
        let path = format!("{path}/{}", entry.name);
        match entry.kind {
            FileKind::Directory => walk(volume, &path, left)?,
            FileKind::File => drop(get(volume, &path)?),
            FileKind::Symlink => drop(volume.read_link(ROOT, &path)?),
        }
    }
    Ok(())
}

/// A store of which one chunk has other bytes.
#[derive(Debug)]
struct Tampered {
    store: Arc<MemoryStore>,
    chunk: Digest,
    bytes: Option<Vec<u8>>,
}

impl ChunkStore for Tampered {
    fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, dunlin_store::StoreError> {
        if *digest == self.chunk { Ok(self.bytes.clone()) } else { self.store.get(digest) }
    }
    fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), dunlin_store::StoreError> {
        self.store.put(digest, bytes)
    }
    fn contains(&self, digest: &Digest) -> Result<bool, dunlin_store::StoreError> {
        self.store.contains(digest)
    }
    fn list(&self) -> Result<Vec<Digest>, dunlin_store::StoreError> {
        self.store.list()
    }
    fn retain(&self, needed: &BTreeSet<Digest>) -> Result<u64, dunlin_store::StoreError> {
        self.store.retain(needed)
    }
    fn stored_bytes(&self) -> u64 {
        self.store.stored_bytes()
    }
    fn sync(&self) -> Result<(), dunlin_store::StoreError> {
        self.store.sync()
    }
}

impl Roots for Tampered {
    fn root(&self, name: &str) -> Result<Option<Digest>, dunlin_store::StoreError> {
        self.store.root(name)
    }
    fn set_root(&self, name: &str, root: Option<Digest>) -> Result<(), dunlin_store::StoreError> {
        self.store.set_root(name, root)
    }
    fn roots(&self) -> Result<Vec<(String, Digest)>, dunlin_store::StoreError> {
        self.store.roots()
    }
}

#[test]
fn every_flipped_bit_and_every_lost_chunk_is_found() {
    let (store, mut volume) = furnished();
    volume.collect_garbage().unwrap();
    let manifest = volume.manifest().unwrap();
    let mut flips = 0;
    for digest in &manifest.chunks {
        let good = store.get(digest).unwrap().unwrap();
        let bits = good.len() * 8;
        // All bits of the root, and some of everything else, shifting through the bytes.
        let step = if good.len() == 4096 {
            4001
        } else if *digest == manifest.root {
            1
        } else {
            5
        };
        let flipped = (0..bits).step_by(step).map(|bit| {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            Some(bad)
        });
        for bytes in flipped.chain([None]) {
            let lost = bytes.is_none();
            let tampered = Arc::new(Tampered { store: store.clone(), chunk: *digest, bytes });
            let told = Volume::open(tampered.clone(), volume_options()).and_then(|mut volume| {
                walk(&mut volume, ".", &mut u32::MAX.clone())?;
                // The deleted file that was open.
                for ino in volume.orphans() {
                    let open = dunlin_store::OpenFile { ino, read: true, write: false, append: false, offset: 1 << 40 };
                    let handle = volume.reopen(open)?;
                    volume.read(handle, &mut [0; 3])?;
                }
                Ok(())
            });
            match told {
                Err(Error::Damaged { digest: told, .. }) => assert_eq!(told, *digest),
                other => panic!("chunk {digest}, lost {lost}: {other:?}"),
            }
            flips += 1;
        }
    }
    assert!(flips > 5000, "{flips}");
}

/// Chunks as an attacker makes them: changed, with a digest that fits, all the way up to the root.
#[test]
fn hostile_chunks_are_refused_or_harmless() {
    let (store, mut volume) = furnished();
    let manifest = volume.manifest().unwrap();
    let mut random = Random::new(3);
    let (mut refused, mut harmless) = (0, 0);
    let chunks: Vec<_> = manifest.chunks.iter().map(|digest| (*digest, store.get(digest).unwrap().unwrap())).collect();
    let records: Vec<_> = chunks.iter().filter(|(_, bytes)| bytes.len() > 8 && bytes.len() != 4096).collect();
    for _ in 0..2500 {
        let (digest, bytes) = records[random.below(records.len() as u64) as usize];
        let mut bytes = bytes.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(6) {
                5 => {
                    let end = (at + 8).min(bytes.len());
                    bytes[at..end].fill(0xff);
                }
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5) as usize],
                3 => bytes.truncate(at.max(1)),
                _ => {
                    let other = &records[random.below(records.len() as u64) as usize].0.0;
                    let end = (at + 32).min(bytes.len());
                    bytes[at..end].copy_from_slice(&other[..end - at]);
                }
            }
        }
        let hostile = Arc::new(MemoryStore::new());
        // Whatever names the changed chunk names its new digest, and so on upward.
        let mut changed = vec![(*digest, Digest::of(&bytes))];
        hostile.put(&changed[0].1, &bytes).unwrap();
        let mut root = if *digest == manifest.root { changed[0].1 } else { manifest.root };
        while let Some((old, new)) = changed.pop() {
            for (digest, bytes) in &chunks {
                let leaf = bytes.len() == 4096;
                let Some(at) = bytes.windows(32).position(|window| !leaf && window == old.0) else {
                    hostile.put(digest, bytes).unwrap();
                    continue;
                };
                let mut bytes = bytes.clone();
                bytes[at..at + 32].copy_from_slice(&new.0);
                let to = Digest::of(&bytes);
                hostile.put(&to, &bytes).unwrap();
                changed.push((*digest, to));
                if *digest == manifest.root {
                    root = to;
                }
            }
        }
        hostile.set_root(HEAD, Some(root)).unwrap();
        let used = |hostile: Arc<MemoryStore>| {
            let mut volume = Volume::open(hostile, volume_options())?;
            walk(&mut volume, ".", &mut 500)?;
            let _ = volume.rename(ROOT, "small", ROOT, "d/5");
            let _ = volume.rename(ROOT, "d", ROOT, "d/x");
            if let Ok(file) = volume.open_file(ROOT, "d/large", WRITE) {
                let _ = volume.write_at(file, &[7; 5000], 300_000);
                let _ = volume.set_len(file, 100);
                let _ = volume.seek(file, SeekFrom::End(0));
            }
            let _ = volume.unlink(ROOT, "d/7");
            let _ = volume.remove_directory(ROOT, "d");
            let _ = volume.make_directory(ROOT, "d/new");
            volume.reap()?;
            volume.manifest()?;
            volume.collect_garbage()
        };
        match used(hostile) {
            Ok(_) => harmless += 1,
            Err(Error::Damaged { .. } | Error::Inconsistent(_)) => refused += 1,
            // A changed entry or kind, which contradicts nothing that was read.
            Err(error) => assert!(
                ["ENOENT", "ENOTDIR", "EISDIR", "EINVAL", "ELOOP", "ENOSPC", "EFBIG"].contains(&error.errno()),
                "{error:?}"
            ),
        }
    }
    assert!(refused > 500 && harmless > 100, "{refused} refused, {harmless} harmless");
}

#[test]
fn a_tree_that_repeats_itself_does_not_take_forever() {
    // A directory whose tree has 64^10 times the same page, and a file whose tree has 64^10 times the same block.
    let (store, mut volume) = new_volume(volume_options());
    volume.make_directory(ROOT, "d").unwrap();
    put(&mut volume, "d/x", b"x");
    put(&mut volume, "f", b"block");
    let manifest = volume.manifest().unwrap();
    let node_of = |child: Digest| {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        (0..64).for_each(|_| bytes.extend(child.0));
        let digest = Digest::of(&bytes);
        store.put(&digest, &bytes).unwrap();
        digest
    };
    let chunk_with = |what: &[u8]| {
        let found = manifest.chunks.iter().find(|digest| {
            let bytes = store.get(digest).unwrap().unwrap();
            **digest != manifest.root && bytes.windows(what.len()).any(|window| window == what)
        });
        *found.unwrap()
    };
    for leaf in [Digest::of(b"block"), chunk_with(b"\x01x")] {
        let top = (0..10).fold(leaf, |below, _| node_of(below));
        let page = chunk_with(&leaf.0);
        let mut bytes = store.get(&page).unwrap().unwrap();
        let at = bytes.windows(32).position(|window| window == leaf.0).unwrap();
        bytes[at - 1] = 10;
        bytes[at..at + 32].copy_from_slice(&top.0);
        let new_page = Digest::of(&bytes);
        store.put(&new_page, &bytes).unwrap();
        let mut root = store.get(&manifest.root).unwrap().unwrap();
        let at = root.windows(32).position(|window| window == page.0).unwrap();
        root[at..at + 32].copy_from_slice(&new_page.0);
        let digest = Digest::of(&root);
        store.put(&digest, &root).unwrap();
        let mut volume = Volume::open_at(store.clone(), digest, volume_options()).unwrap();
        if leaf == Digest::of(b"block") {
            assert_eq!(get(&mut volume, "f").unwrap(), b"block");
            let file = volume.open_file(ROOT, "f", WRITE).unwrap();
            assert!(matches!(volume.set_len(file, 0), Err(Error::Inconsistent(_))));
        } else {
            assert!(matches!(get(&mut volume, "d/x"), Err(Error::Inconsistent(_))));
        }
        assert!(volume.manifest().unwrap().chunks.len() < 30);
    }
}

#[test]
fn the_quota_of_bytes_holds_and_comes_back() {
    let quota = Quota { bytes: 100_000, inodes: 100 };
    let (store, mut volume) = new_volume(Options { quota: Some(quota), ..volume_options() });
    let file = volume.open_file(ROOT, "f", WRITE).unwrap();
    let written = volume.write(file, &[1; 200_000]).unwrap();
    assert!((90_000..=100_000).contains(&written) && written % 4096 == 0, "{written}");
    let full = volume.write(file, &[1]).unwrap_err();
    assert_eq!(full.errno(), "ENOSPC");
    assert_eq!(volume.stat(file).unwrap().size, written as u64);
    // What is there can be overwritten, and a hole costs nothing.
    assert_eq!(volume.write_at(file, &[2; 4096], 0).unwrap(), 4096);
    volume.set_len(file, 1 << 40).unwrap();
    volume.commit().unwrap();
    assert!(volume.usage().used.bytes <= quota.bytes);
    let mut volume = Volume::open(store.clone(), volume_options()).unwrap();
    assert_eq!(volume.usage().quota, quota);
    let file = volume.open_file(ROOT, "f", WRITE).unwrap();
    volume.set_len(file, 10).unwrap();
    assert_eq!(volume.write(file, &[3; 50_000]).unwrap(), 50_000);
    let larger = Options { quota: Some(Quota { bytes: 1 << 30, inodes: 100 }), ..volume_options() };
    volume.commit().unwrap();
    let mut volume = Volume::open(store, larger).unwrap();
    put(&mut volume, "g", &[0; 200_000]);
    volume.unlink(ROOT, "f").unwrap();
    volume.unlink(ROOT, "g").unwrap();
    assert_eq!(volume.usage().used, Quota { bytes: 0, inodes: 1 });
}

#[test]
fn the_quota_of_inodes_holds_and_comes_back() {
    let quota = Quota { bytes: 1 << 20, inodes: 10 };
    let (_, mut volume) = new_volume(Options { quota: Some(quota), ..volume_options() });
    (0..9).for_each(|number| put(&mut volume, &format!("{number}"), b""));
    assert_eq!(volume.open_file(ROOT, "x", WRITE).unwrap_err().errno(), "ENOSPC");
    assert_eq!(volume.make_directory(ROOT, "x").unwrap_err().errno(), "ENOSPC");
    assert_eq!(volume.make_symlink("x", ROOT, "x").unwrap_err().errno(), "ENOSPC");
    volume.link(ROOT, "0", false, ROOT, "x").unwrap();
    volume.unlink(ROOT, "x").unwrap();
    volume.unlink(ROOT, "0").unwrap();
    volume.make_directory(ROOT, "x").unwrap();
}

#[test]
fn a_deleted_file_lives_while_it_is_open_and_moves_with_its_handle() {
    let (store, mut volume) = new_volume(volume_options());
    put(&mut volume, "f", &noise(9, 10_000));
    let file = volume.open_file(ROOT, "f", OpenFlags { append: true, ..WRITE }).unwrap();
    let other = volume.open_file(ROOT, "f", READ).unwrap();
    volume.unlink(ROOT, "f").unwrap();
    assert_eq!(volume.open_file(ROOT, "f", READ).unwrap_err().errno(), "ENOENT");
    put(&mut volume, "f", b"another");
    volume.write(file, b"more").unwrap();
    volume.seek(other, SeekFrom::Start(9_999)).unwrap();
    volume.commit().unwrap();
    volume.collect_garbage().unwrap();
    let frozen = [volume.opened(file).unwrap(), volume.opened(other).unwrap()];
    drop(volume);
    let mut volume = Volume::open(store.clone(), volume_options()).unwrap();
    let [file, other] = frozen.map(|open| volume.reopen(open).unwrap());
    volume.reap().unwrap();
    let mut bytes = [0; 10];
    assert_eq!(volume.read(other, &mut bytes).unwrap(), 5);
    assert_eq!(&bytes[1..5], b"more");
    assert_eq!(volume.stat(file).unwrap().links, 0);
    assert_eq!(get(&mut volume, "f").unwrap(), b"another");
    volume.commit().unwrap();
    // Nobody opens it again: it goes.
    let mut volume = Volume::open(store, volume_options()).unwrap();
    assert_eq!(volume.orphans(), [frozen[0].ino]);
    volume.reap().unwrap();
    assert_eq!(volume.orphans(), []);
    assert_eq!(volume.usage().used.inodes, 2);
    assert_eq!(volume.reopen(frozen[0]).unwrap_err().errno(), "EIO");
}

#[test]
fn a_directory_can_be_listed_while_it_changes() {
    let (store, mut volume) = new_volume(volume_options());
    (0..100).for_each(|number| put(&mut volume, &format!("{number}"), b""));
    let handle = volume.open_file(ROOT, ".", READ).unwrap();
    let mut seen = BTreeSet::new();
    let mut cookie = 0;
    let mut handle_now = handle;
    while let Some(last) = volume.read_directory(handle_now, cookie, 7).unwrap().into_iter().last().map(|e| e.cookie) {
        for entry in volume.read_directory(handle_now, cookie, 7).unwrap() {
            assert!(seen.insert(entry.name), "seen twice");
        }
        cookie = last;
        // Odd numbers go, new names come, and the volume moves.
        let _ = volume.unlink(ROOT, &format!("{}", seen.len() / 2 * 2 + 1));
        if seen.len() < 100 {
            put(&mut volume, &format!("new {}", seen.len()), b"");
        }
        volume.commit().unwrap();
        let open = volume.opened(handle_now).unwrap();
        volume = Volume::open(store.clone(), volume_options()).unwrap();
        handle_now = volume.reopen(open).unwrap();
    }
    assert!((0..100).step_by(2).all(|number| seen.contains(&number.to_string())));
}

#[test]
fn paths_stay_inside_and_limits_hold() {
    let (_, mut volume) = new_volume(volume_options());
    let d = volume.make_directory(ROOT, "d").unwrap();
    put(&mut volume, "secret", b"");
    volume.make_symlink("../secret", ROOT, "d/up").unwrap();
    volume.make_symlink("/secret", ROOT, "absolute").unwrap();
    volume.make_symlink("loop", ROOT, "loop").unwrap();
    let mut errno = |at, path: &str| volume.open_file(at, path, READ).map_or_else(|error| error.errno(), |_| "fine");
    assert_eq!(errno(d, "../secret"), "EPERM");
    assert_eq!(errno(d, "up"), "EPERM");
    assert_eq!(errno(ROOT, "d/up"), "fine");
    assert_eq!(errno(ROOT, "d/../secret"), "fine");
    assert_eq!(errno(ROOT, ".."), "EPERM");
    assert_eq!(errno(ROOT, "/secret"), "EPERM");
    assert_eq!(errno(ROOT, "absolute"), "EPERM");
    assert_eq!(errno(ROOT, "loop"), "ELOOP");
    assert_eq!(errno(ROOT, ""), "ENOENT");
    assert_eq!(errno(ROOT, "a\0b"), "EINVAL");
    assert_eq!(errno(ROOT, &"a".repeat(256)), "ENAMETOOLONG");
    assert_eq!(errno(ROOT, &"a/".repeat(2100)), "ENAMETOOLONG");
    assert_eq!(errno(Ino(999), "x"), "EIO");
    put(&mut volume, &"a".repeat(255), b"");
    let file = volume.open_file(ROOT, "big", WRITE).unwrap();
    assert_eq!(volume.write_at(file, b"xy", dunlin_store::MAX_FILE - 1).unwrap(), 1);
    assert_eq!(volume.write_at(file, b"x", dunlin_store::MAX_FILE).unwrap_err().errno(), "EFBIG");
    assert_eq!(volume.set_len(file, u64::MAX).unwrap_err().errno(), "EFBIG");
    volume.commit().unwrap();
    let mut byte = [0];
    assert_eq!(volume.read_at(file, &mut byte, dunlin_store::MAX_FILE - 1).unwrap(), 1);
    assert_eq!(byte, *b"x");
    for (result, name) in [
        (volume.rename(ROOT, ".", ROOT, "x"), "EBUSY"),
        (volume.rename(ROOT, "d", ROOT, "d/x"), "EINVAL"),
        (volume.link(ROOT, "d", false, ROOT, "e"), "EPERM"),
        (volume.remove_directory(ROOT, "."), "EINVAL"),
        (volume.unlink(ROOT, "d"), "EISDIR"),
    ] {
        assert_eq!(result.unwrap_err().errno(), name);
    }
    // Nothing can be made in a directory that is gone.
    volume.unlink(ROOT, "d/up").unwrap();
    let handle = volume.open_file(ROOT, "d", READ).unwrap();
    volume.remove_directory(ROOT, "d").unwrap();
    assert_eq!(volume.make_directory(d, "x").unwrap_err().errno(), "ENOENT");
    assert_eq!(volume.read_directory(handle, 0, 10).unwrap(), []);
    volume.close(handle).unwrap();
    assert_eq!(volume.close(handle).unwrap_err().errno(), "EBADF");
}

#[test]
fn a_volume_travels_and_only_what_is_missing_is_sent() {
    let (store, mut volume) = furnished();
    let manifest = Manifest::decode(&volume.manifest().unwrap().encode()).unwrap();
    let there: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let first = missing(&manifest, &*there).unwrap();
    assert_eq!(first.len(), manifest.chunks.len());
    let bytes = |wanted: &[Digest]| -> Vec<_> { export(&*store, wanted).map(|chunk| chunk.unwrap().1).collect() };
    // One is lost on the way, and one too many comes.
    let incomplete = import(&*there, &manifest, bytes(&first[1..]));
    assert!(matches!(incomplete, Err(ImportError::Missing { count: 1, .. })));
    assert!(there.root(HEAD).unwrap().is_none());
    assert!(matches!(import(&*there, &manifest, [b"x".to_vec()]), Err(ImportError::Unlisted(_))));
    import(&*there, &manifest, bytes(&first[..1])).unwrap();
    let mut moved = Volume::open(there.clone(), volume_options()).unwrap();
    assert_eq!(moved.committed(), manifest.root);
    assert_eq!(get(&mut moved, "link").unwrap(), noise(1, 300_000));

    // A small change sends a small part, in the other direction as well.
    let file = moved.open_file(ROOT, "d/large", WRITE).unwrap();
    moved.write_at(file, b"changed", 200_000).unwrap();
    let back = moved.manifest().unwrap();
    let wanted = missing(&back, &*store).unwrap();
    assert!(wanted.len() < 10 && back.chunks.len() > 100, "{} of {}", wanted.len(), back.chunks.len());
    let bytes: Vec<_> = export(&*there, &wanted).map(|chunk| chunk.unwrap().1).collect();
    import(&*store, &back, bytes).unwrap();
    let mut again = Volume::open(store, volume_options()).unwrap();
    assert_eq!(&get(&mut again, "d/large").unwrap()[200_000..200_007], b"changed");
}

#[test]
fn most_of_a_volume_goes_ahead_while_it_is_in_use() {
    let (store, mut volume) = furnished();
    let there: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let mut ahead = Ahead::default();
    let root = volume.commit().unwrap();
    ahead.look(&*store, &Plain, root).unwrap();
    let first = Manifest::of(&*store, &Plain, root).unwrap();
    let all: u64 = first.chunks.iter().map(|digest| store.size(digest).unwrap().unwrap()).sum();
    assert_eq!(ahead.unsent(), all);
    let mut sent = 0;
    while ahead.unsent() > 0 {
        let chunks = ahead.batch(&*store, 20_000).unwrap();
        let bytes: usize = chunks.iter().map(Vec::len).sum();
        assert!(bytes <= 20_000 || chunks.len() == 1);
        sent += bytes as u64;
        chunks.iter().for_each(|chunk| there.put(&Digest::of(chunk), chunk).unwrap());
    }
    assert_eq!((sent, ahead.batch(&*store, 20_000).unwrap()), (all, Vec::new()));

    // What is written meanwhile is a small part, and what it has replaced may be gone when it is to be sent.
    let file = volume.open_file(ROOT, "d/large", WRITE).unwrap();
    volume.write_at(file, b"changed", 200_000).unwrap();
    let second = volume.commit().unwrap();
    ahead.look(&*store, &Plain, second).unwrap();
    assert!((1..all / 4).contains(&ahead.unsent()), "{} of {all}", ahead.unsent());
    volume.write_at(file, b"again", 200_000).unwrap();
    volume.collect_garbage().unwrap();
    let kept = ahead.batch(&*store, 1 << 20).unwrap();
    assert_eq!(ahead.unsent(), 0);
    kept.iter().for_each(|chunk| there.put(&Digest::of(chunk), chunk).unwrap());
    // A root that is not whole any more is no obstacle to the next one.
    assert!(ahead.look(&*store, &Plain, second).is_err());
    let last = volume.commit().unwrap();
    ahead.look(&*store, &Plain, last).unwrap();
    let manifest = Manifest::of(&*store, &Plain, last).unwrap();
    let rest: Vec<(Digest, Vec<u8>)> = ahead.rest(&*store).map(Result::unwrap).collect();
    let lacks = missing(&manifest, &*there).unwrap();
    assert!(!lacks.is_empty() && lacks.iter().all(|lack| rest.iter().any(|(digest, _)| digest == lack)));
    let came = rest.iter().map(|(digest, _)| *digest).collect();
    let beside = |came| missing_beside(&*there, &Plain, last, came);
    assert!(beside(&came).is_err(), "the root is not there");
    let left_out = lacks.iter().find(|lack| **lack != last).unwrap();
    for (digest, chunk) in rest.iter().filter(|(digest, _)| digest != left_out) {
        there.put(digest, chunk).unwrap();
    }
    assert!(beside(&came).map_or(true, |missing| missing == [*left_out]), "what came names one that did not");
    let (_, chunk) = rest.iter().find(|(digest, _)| digest == left_out).unwrap();
    there.put(left_out, chunk).unwrap();
    assert_eq!(beside(&came).unwrap(), []);
    import(&*there, &manifest, []).unwrap();
    let mut moved = Volume::open(there, volume_options()).unwrap();
    assert_eq!(&get(&mut moved, "d/large").unwrap()[200_000..200_007], b"agained");

    // And back: what is there is not sent.
    let mut back = Ahead::default();
    back.held(store.list().unwrap());
    back.look(&*store, &Plain, last).unwrap();
    assert_eq!(back.unsent(), 0);
}

#[test]
fn garbage_goes_and_pinned_roots_stay() {
    let (store, mut volume) = new_volume(volume_options());
    put(&mut volume, "f", &noise(1, 50_000));
    let pinned = volume.pin("snapshot-1").unwrap();
    put(&mut volume, "f", &noise(2, 50_000));
    volume.commit().unwrap();
    put(&mut volume, "f", &noise(3, 50_000));
    assert!(volume.collect_garbage().unwrap() >= 12, "the second contents");
    let mut old = Volume::open_at(store.clone(), pinned, volume_options()).unwrap();
    assert_eq!(get(&mut old, "f").unwrap(), noise(1, 50_000));
    assert_eq!(get(&mut volume, "f").unwrap(), noise(3, 50_000));
    volume.unpin("snapshot-1").unwrap();
    assert!(volume.collect_garbage().unwrap() >= 12);
    assert!(Volume::open_at(store.clone(), pinned, volume_options()).is_err());
    assert!(matches!(volume.unpin(HEAD), Err(Error::Invalid(_))));
    assert_eq!(store.list().unwrap().len(), volume.manifest().unwrap().chunks.len());
}

#[test]
fn equal_contents_are_stored_once_and_commits_of_nothing_change_nothing() {
    let (store, mut volume) = new_volume(volume_options());
    put(&mut volume, "a", &noise(1, 40_960));
    let one = volume.commit().unwrap();
    let chunks = store.list().unwrap().len();
    assert_eq!(volume.commit().unwrap(), one);
    put(&mut volume, "b", &noise(1, 40_960));
    volume.commit().unwrap();
    assert!(store.list().unwrap().len() <= chunks + 3, "a root, a page of inodes, a page of entries");
}

/// A seal that tells kinds and volumes apart, to see that the volume uses it for every chunk.
#[derive(Debug)]
struct Masked;

impl Sealing for Masked {
    fn seal<'a>(&self, _: ChunkKind, associated: &[u8], plain: &'a [u8]) -> Cow<'a, [u8]> {
        let mut sealed = Digest::of(&[associated, plain].concat()).0.to_vec();
        sealed.extend(plain.iter().map(|byte| byte ^ 0xa5));
        Cow::Owned(sealed)
    }

    fn open<'a>(&self, _: ChunkKind, associated: &[u8], sealed: Cow<'a, [u8]>) -> Result<Cow<'a, [u8]>, SealError> {
        let (tag, masked) = sealed.split_at_checked(32).ok_or(SealError)?;
        let plain: Vec<_> = masked.iter().map(|byte| byte ^ 0xa5).collect();
        if Digest::of(&[associated, &plain].concat()).0 != *tag {
            return Err(SealError);
        }
        Ok(Cow::Owned(plain))
    }
}

#[test]
fn every_chunk_passes_through_the_seal() {
    let options = || Options { sealing: Arc::new(Masked), ..volume_options() };
    let (store, mut volume) = new_volume(options());
    put(&mut volume, "name", b"contents that are not to be seen");
    volume.manifest().unwrap();
    for digest in store.list().unwrap() {
        let bytes = store.get(&digest).unwrap().unwrap();
        for plain in [&b"contents"[..], b"name", b"DUNVOL"] {
            assert!(!bytes.windows(plain.len()).any(|window| window == plain));
        }
    }
    let mut again = Volume::open(store.clone(), options()).unwrap();
    assert_eq!(get(&mut again, "name").unwrap(), b"contents that are not to be seen");
    assert!(matches!(Volume::open(store, volume_options()), Err(Error::Damaged { .. })));
}
