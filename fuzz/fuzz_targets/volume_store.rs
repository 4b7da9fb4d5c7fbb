//! Goal: a volume and its segments on a disk of which an adversary may have made anything end in contents or an error,
//! without a panic and without allocating by a length that they declare; and no chunk is handed out under a digest that
//! is not its own.
//!
//! Method: the input is a list of records, of which kind and length are put right. They become a segment, whose digests are
//! put right; and chunks of a volume, in which a run of 0xee stands for the digest of the chunk before, so that trees can
//! be made. The last one is the root. A volume that opens is walked and read.

#![no_main]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dunlin_base::Digest;
use dunlin_store::{
    ChunkStore as _, DirectoryStore, Ino, Manifest, Medium, MediumFile, MemoryStore, OpenFlags, Options, Roots as _,
    Volume,
};
use libfuzzer_sys::fuzz_target;

/// Files in memory.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<BTreeMap<PathBuf, Arc<Contents>>>>);

#[derive(Debug, Default)]
struct Contents(Mutex<Vec<u8>>);

impl Medium for Disk {
    fn make_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let files = self.0.lock().expect("nobody panics");
        let beneath = files.keys().filter(|name| name.parent() == Some(path));
        Ok(beneath.filter_map(|name| Some(name.file_name()?.to_str()?.to_owned())).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn MediumFile>> {
        let file = Arc::new(Contents::default());
        self.0.lock().expect("nobody panics").insert(path.to_owned(), file.clone());
        Ok(file)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn MediumFile>> {
        let files = self.0.lock().expect("nobody panics");
        files.get(path).map(|file| file.clone() as _).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.lock().expect("nobody panics");
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().expect("nobody panics").remove(path);
        Ok(())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl MediumFile for Contents {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().expect("nobody panics").len() as u64)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let contents = self.0.lock().expect("nobody panics");
        let from = usize::try_from(offset).ok().and_then(|offset| contents.get(offset..));
        let part = from.and_then(|from| from.get(..bytes.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(part);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut contents = self.0.lock().expect("nobody panics");
        let (start, length) = (offset as usize, contents.len());
        contents.resize(length.max(start + bytes.len()), 0);
        contents[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.lock().expect("nobody panics").resize(size as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a store that has this as its only segment.
fn segment(bytes: Vec<u8>) {
    let disk = Disk::default();
    let path = Path::new("segments").join(format!("{:016x}", 1));
    disk.0.lock().expect("nobody panics").insert(path, Arc::new(Contents(Mutex::new(bytes))));
    let Ok(store) = DirectoryStore::open_on(Arc::new(disk), "") else { return };
    let _ = store.roots();
    for digest in store.list().into_iter().flatten().take(64) {
        // The store does not verify; whoever asks does.
        let _ = store.get(&digest);
    }
}

/// A record of a segment, with right digests.
fn record(offset: u64, kind: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = [kind.to_le_bytes(), (body.len() as u32).to_le_bytes()].concat();
    let about = [&1u64.to_le_bytes()[..], &offset.to_le_bytes(), &kind.to_le_bytes(), body].concat();
    bytes.extend(if kind == 1 { Digest::of(body).0 } else { Digest::of(&about).0 });
    let head = Digest::of(&bytes).0;
    bytes.extend(&head[..8]);
    bytes.extend(body);
    bytes
}

/// Opens a volume with these chunks, of which the last one is the root.
fn volume(chunks: &[Vec<u8>]) {
    let store = Arc::new(MemoryStore::new());
    let mut last = Digest([0; 32]);
    for chunk in chunks {
        let mut chunk = chunk.clone();
        while let Some(at) = chunk.windows(32).position(|window| window == [0xee; 32]) {
            chunk[at..at + 32].copy_from_slice(&last.0);
        }
        last = Digest::of(&chunk);
        let _ = store.put(&last, &chunk);
    }
    let Ok(mut volume) = Volume::open_at(store, last, Options::default()) else { return };
    let _ = volume.usage();
    let reading = OpenFlags { read: true, follow: true, ..OpenFlags::default() };
    let Ok(root) = volume.open_file(Ino::ROOT, ".", reading) else { return };
    for entry in volume.read_directory(root, 0, 64).into_iter().flatten() {
        let _ = volume.stat_path(Ino::ROOT, &entry.name, true);
        let _ = volume.read_link(Ino::ROOT, &entry.name);
        if let Ok(file) = volume.open_file(Ino::ROOT, &entry.name, reading) {
            let _ = volume.read_at(file, &mut [0; 4096], 0);
            let _ = volume.close(file);
        }
    }
    let _ = volume.manifest();
}

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::decode(data) {
        assert_eq!(manifest.encode(), data, "a manifest has two encodings");
    }
    segment(data.to_vec());
    let mut start = b"\x89DUNSEG\n".to_vec();
    start.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    start.extend(1u64.to_le_bytes());
    let (mut file, mut chunks, mut rest) = (start, Vec::new(), data);
    while let Some((head, more)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_le_bytes([head[1], head[2]])).min(more.len());
        let (body, more) = more.split_at(length);
        file.extend(record(file.len() as u64, u32::from(head[0] % 4), body));
        chunks.push(body.to_vec());
        rest = more;
    }
    segment(file);
    if let Some(root) = chunks.last_mut() {
        root.splice(..0, *b"\x89DUNVOL\n\x01\0");
    }
    volume(&chunks);
});
