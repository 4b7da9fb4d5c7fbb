//! Reads and writes through a volume and through `std::fs` on the same disk, and prints both.
//!
//! `cargo run --release -p dunlin-store --example store_throughput [DIRECTORY]`

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use dunlin_store::{DirectoryStore, Ino, OpenFlags, Options, Volume};

/// Bytes of the file.
const SIZE: usize = 128 << 20;
const PIECE: usize = 64 << 10;
/// What a database reads and writes.
const PAGE: usize = 4096;

type Outcome = Result<(), Box<dyn Error>>;

/// One file, in a volume or on the host.
trait Subject {
    fn write(&mut self, bytes: &[u8], offset: u64) -> Outcome;
    fn read(&mut self, bytes: &mut [u8], offset: u64) -> Outcome;
    fn sync(&mut self) -> Outcome;
    /// Forgets what is cached, as far as a program can.
    fn reopen(&mut self) -> Outcome;
}

struct InVolume {
    path: PathBuf,
    open: Option<(Volume, dunlin_store::Handle)>,
}

impl InVolume {
    fn parts(&mut self) -> Result<&mut (Volume, dunlin_store::Handle), &'static str> {
        self.open.as_mut().ok_or("the volume is closed")
    }
}

impl Subject for InVolume {
    fn write(&mut self, bytes: &[u8], offset: u64) -> Outcome {
        let (volume, file) = self.parts()?;
        if volume.write_at(*file, bytes, offset)? == bytes.len() { Ok(()) } else { Err("a short write".into()) }
    }

    fn read(&mut self, bytes: &mut [u8], offset: u64) -> Outcome {
        let (volume, file) = self.parts()?;
        if volume.read_at(*file, bytes, offset)? == bytes.len() { Ok(()) } else { Err("a short read".into()) }
    }

    fn sync(&mut self) -> Outcome {
        let (volume, file) = self.parts()?;
        Ok(volume.sync(*file)?)
    }

    fn reopen(&mut self) -> Outcome {
        // The old one holds the lock.
        let existed = self.open.take().is_some();
        let store = Arc::new(DirectoryStore::open(&self.path)?);
        let mut volume =
            if existed { Volume::open(store, Options::default())? } else { Volume::create(store, Options::default())? };
        let flags = OpenFlags { read: true, write: true, create: true, ..OpenFlags::default() };
        let file = volume.open_file(Ino::ROOT, "f", flags)?;
        self.open = Some((volume, file));
        Ok(())
    }
}

impl Subject for File {
    fn write(&mut self, bytes: &[u8], offset: u64) -> Outcome {
        Ok(self.write_all_at(bytes, offset)?)
    }

    fn read(&mut self, bytes: &mut [u8], offset: u64) -> Outcome {
        Ok(self.read_exact_at(bytes, offset)?)
    }

    fn sync(&mut self) -> Outcome {
        Ok(self.sync_data()?)
    }

    fn reopen(&mut self) -> Outcome {
        Ok(())
    }
}

/// Operations and seconds for each kind of work.
fn measure(subject: &mut dyn Subject) -> Result<Vec<(&'static str, f64)>, Box<dyn Error>> {
    let mut results = Vec::new();
    let mut piece: Vec<u8> = (0..PIECE as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut timed = |name, work: &mut dyn FnMut() -> Outcome| {
        let start = Instant::now();
        work()?;
        results.push((name, start.elapsed().as_secs_f64()));
        Ok::<_, Box<dyn Error>>(())
    };
    subject.reopen()?;
    timed("write 128 MiB in pieces of 64 KiB, then sync", &mut || {
        for offset in (0..SIZE).step_by(PIECE) {
            piece[..8].copy_from_slice(&(offset as u64).to_le_bytes());
            subject.write(&piece, offset as u64)?;
        }
        subject.sync()
    })?;
    subject.reopen()?;
    timed("read 128 MiB in pieces of 64 KiB", &mut || {
        (0..SIZE).step_by(PIECE).try_for_each(|offset| subject.read(&mut piece, offset as u64))
    })?;
    let spread = |number: usize| (number.wrapping_mul(7919) % (16 << 20 >> 12) * PAGE) as u64;
    timed("read 50 000 pages of 4 KiB within 16 MiB", &mut || {
        (0..50_000).try_for_each(|number| subject.read(&mut piece[..PAGE], spread(number)))
    })?;
    timed("write 20 000 pages of 4 KiB within 16 MiB, then sync", &mut || {
        (0..20_000).try_for_each(|number| subject.write(&piece[..PAGE], spread(number)))?;
        subject.sync()
    })?;
    timed("100 times: write a page of 4 KiB, sync", &mut || {
        (0..100usize).try_for_each(|number| {
            piece[..8].copy_from_slice(&number.to_le_bytes());
            subject.write(&piece[..PAGE], spread(number))?;
            subject.sync()
        })
    })?;
    Ok(results)
}

fn main() -> Outcome {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let base = base.join(format!("dunlin-throughput-{}", std::process::id()));
    fs::create_dir_all(&base)?;
    let done = compare(&base);
    fs::remove_dir_all(&base)?;
    done
}

fn compare(base: &Path) -> Outcome {
    let options = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(base.join("f"));
    let host = measure(&mut options()?)?;
    let volume = measure(&mut InVolume { path: base.join("store"), open: None })?;
    println!("{:55} {:>10} {:>10} {:>6}", "", "std::fs s", "volume s", "ratio");
    for ((name, host), (_, volume)) in host.iter().zip(&volume) {
        println!("{name:55} {host:>10.4} {volume:>10.4} {:>6.2}", host / volume);
    }
    Ok(())
}
