//! What a private volume costs: the same accesses to files in it, in a mounted directory, and in native files, in turns.
//! The first two go through the functions that a program calls; no program runs, so that nothing else is measured.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use dunlin_base::Value;
use dunlin_base::ValueType::I32;
use dunlin_engine::{Flow, Host as _};
use dunlin_host::{Config, MODULE, Mount, PrivateVolume, World, matrix};
use dunlin_store::DirectoryStore;
use serde::Serialize;

use super::machine::Machine;
use super::statistics::Samples;
use crate::failure::{Exit, Failure, Result};
use crate::text::Table;

/// What is measured.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) rounds: usize,
    /// Size of the large file.
    pub(crate) mebibytes: u32,
    /// How many small files.
    pub(crate) files: u32,
    pub(crate) scratch: PathBuf,
}

/// The whole measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    rounds: usize,
    mebibytes: u32,
    small_files: u32,
    accesses: Vec<Access>,
}

#[derive(Debug, Serialize)]
struct Access {
    access: String,
    /// In the order of [`Side::ALL`].
    sides: Vec<Times>,
    /// The volume's throughput in that of the mounted directory, from the minima.
    volume_to_directory: f64,
    /// The same in that of a native file.
    volume_to_native: f64,
}

#[derive(Debug, Serialize)]
struct Times {
    side: &'static str,
    min_ms: f64,
    median_ms: f64,
}

/// Where files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Volume,
    Directory,
    Native,
}

impl Side {
    const ALL: [Self; 3] = [Self::Volume, Self::Directory, Self::Native];

    fn name(self) -> &'static str {
        match self {
            Self::Volume => "volume",
            Self::Directory => "directory",
            Self::Native => "native",
        }
    }
}

/// Sizes of one read or write.
const PIECES: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];
/// Writes that are made durable one by one.
const SYNCS: u32 = 50;
/// Bytes of a small file.
const SMALL: usize = 2000;

/// Measures all sides in turns.
pub(crate) fn measure(setup: &Setup) -> Result<Report> {
    let mut samples: Vec<(String, [Samples; 3])> = Vec::new();
    for round in 0..setup.rounds {
        for turn in 0..Side::ALL.len() {
            let at = (round + turn) % Side::ALL.len();
            let side = Side::ALL[at];
            let path = setup.scratch.join(format!("{}-{round}", side.name()));
            fs::create_dir_all(&path).map_err(broken)?;
            for (access, time) in one_round(setup, side, &path)? {
                let known = samples.iter().position(|(name, _)| *name == access);
                let place = known.unwrap_or_else(|| {
                    samples.push((access, Default::default()));
                    samples.len() - 1
                });
                samples[place].1[at].add(time);
            }
            fs::remove_dir_all(&path).map_err(broken)?;
        }
    }
    let access = |(access, sides): (String, [Samples; 3])| {
        let [volume, directory, native] = sides.each_ref().map(Samples::min);
        let times = Side::ALL.iter().zip(&sides).map(|(side, samples)| Times {
            side: side.name(),
            min_ms: samples.min(),
            median_ms: samples.median(),
        });
        Access {
            access,
            sides: times.collect(),
            volume_to_directory: directory / volume,
            volume_to_native: native / volume,
        }
    };
    Ok(Report {
        machine: Machine::look(),
        rounds: setup.rounds,
        mebibytes: setup.mebibytes,
        small_files: setup.files,
        accesses: samples.into_iter().map(access).collect(),
    })
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::because(Exit::Software, "the measurement failed")(error.into())
}

/// All accesses once. Times in milliseconds.
fn one_round(setup: &Setup, side: Side, path: &Path) -> Result<Vec<(String, f64)>> {
    let size = (setup.mebibytes as usize) << 20;
    let mut times = Vec::new();
    // What is written is not alike, or a volume would keep one chunk for all.
    let mut buffer = vec![0; PIECES[2]];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut fill = |bytes: &mut [u8]| {
        for word in bytes.chunks_mut(8) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let len = word.len();
            word.copy_from_slice(&random.to_le_bytes()[..len]);
        }
        random
    };
    fill(&mut buffer);
    let mut on = open(side, path)?;
    for piece in PIECES {
        let name = label(piece);
        let order = |shuffled: bool| {
            let count = size / piece;
            // Steps of an odd length visit each of a power of two exactly once.
            (0..count).map(
                move |at| if shuffled { at.wrapping_mul(0x9E37_79B1) % count.next_power_of_two() % count } else { at },
            )
        };
        for shuffled in [false, true] {
            let how = if shuffled { "random" } else { "sequential" };
            on.open("large")?;
            let start = Instant::now();
            for at in order(shuffled) {
                // A stamp makes each block differ from all others, at little cost.
                let stamp = (at as u64) << 8 | u64::from(shuffled);
                for block in buffer[..piece].chunks_mut(4096) {
                    let mixed = u64::from_le_bytes([
                        block[0], block[1], block[2], block[3], block[4], block[5], block[6], block[7],
                    ]);
                    block[..8].copy_from_slice(&mixed.wrapping_mul(31).wrapping_add(stamp).to_le_bytes());
                }
                on.write(&buffer[..piece], (at * piece) as u64)?;
            }
            on.sync()?;
            times.push((format!("{how} write, {name}"), milliseconds(start)));
            on.close()?;
            // What a process has in memory is not what a volume costs.
            drop(on);
            on = open(side, path)?;
            on.open("large")?;
            let start = Instant::now();
            for at in order(shuffled) {
                on.read(&mut buffer[..piece], (at * piece) as u64)?;
            }
            times.push((format!("{how} read, {name}"), milliseconds(start)));
            on.close()?;
        }
    }
    on.open("large")?;
    let start = Instant::now();
    for at in 0..SYNCS {
        fill(&mut buffer[..4096]);
        on.write(&buffer[..4096], u64::from(at % 16) * 65_536)?;
        on.sync()?;
    }
    times.push((format!("{SYNCS} writes of 4 KiB, each made durable"), milliseconds(start)));
    on.close()?;
    let names: Vec<String> = (0..setup.files).map(|number| format!("small-{number}")).collect();
    let start = Instant::now();
    for name in &names {
        fill(&mut buffer[..SMALL]);
        on.open(name)?;
        on.write(&buffer[..SMALL], 0)?;
        on.close()?;
    }
    // All that came before is durable with the last one: on the host a whole file system's sync would say as much.
    on.open("small-0")?;
    on.sync()?;
    on.close()?;
    times.push((format!("{} small files written", setup.files), milliseconds(start)));
    drop(on);
    let mut on = open(side, path)?;
    let start = Instant::now();
    for name in &names {
        on.open(name)?;
        on.read(&mut buffer[..SMALL], 0)?;
        on.close()?;
    }
    times.push((format!("{} small files read", setup.files), milliseconds(start)));
    let start = Instant::now();
    for name in &names {
        on.remove(name)?;
    }
    times.push((format!("{} small files removed", setup.files), milliseconds(start)));
    Ok(times)
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn label(piece: usize) -> String {
    if piece < 1 << 20 { format!("{} KiB", piece >> 10) } else { format!("{} MiB", piece >> 20) }
}

/// One file at a time.
trait Files {
    /// Opens a file, and makes it if it is not there.
    fn open(&mut self, name: &str) -> Result<()>;
    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()>;
    fn read(&mut self, bytes: &mut [u8], offset: u64) -> Result<()>;
    fn sync(&mut self) -> Result<()>;
    fn close(&mut self) -> Result<()>;
    fn remove(&mut self, name: &str) -> Result<()>;
}

fn open(side: Side, path: &Path) -> Result<Box<dyn Files>> {
    let config = match side {
        Side::Native => return Ok(Box::new(Native { path: path.to_owned(), file: None })),
        Side::Directory => {
            Config::new().mount(Mount { host: path.to_owned(), guest: "/data".to_owned(), writable: true })
        }
        Side::Volume => {
            let store = DirectoryStore::open(path).map_err(broken)?;
            Config::new().volume(PrivateVolume::new(Arc::new(store)))
        }
    };
    Ok(Box::new(Program::new(World::new(config).map_err(broken)?)?))
}

/// Native files.
struct Native {
    path: PathBuf,
    file: Option<File>,
}

impl Native {
    fn file(&self) -> Result<&File> {
        self.file.as_ref().ok_or_else(|| broken("no file is open"))
    }
}

impl Files for Native {
    fn open(&mut self, name: &str) -> Result<()> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.path.join(name));
        self.file = Some(file.map_err(broken)?);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file()?.write_all_at(bytes, offset).map_err(broken)
    }

    fn read(&mut self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file()?.read_exact_at(bytes, offset).map_err(broken)
    }

    fn sync(&mut self) -> Result<()> {
        self.file()?.sync_data().map_err(broken)
    }

    fn close(&mut self) -> Result<()> {
        self.file = None;
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        fs::remove_file(self.path.join(name)).map_err(broken)
    }
}

/// What a program does, by the calls that it would make.
struct Program {
    world: World,
    memory: Vec<u8>,
    open: Option<i32>,
    /// The functions under their names.
    functions: Vec<(&'static str, u32)>,
}

/// The functions that are called.
const FUNCTIONS: [&str; 6] = ["path_open", "fd_pwrite", "fd_pread", "fd_datasync", "fd_close", "path_unlink_file"];

/// Where in the program's memory things are.
const ROOT: i32 = 3;
const RESULT: i32 = 16;
const VECTOR: i32 = 32;
const NAME: i32 = 64;
const DATA: i32 = 4096;

impl Program {
    fn new(world: World) -> Result<Self> {
        let numbered = |name| {
            let entry = matrix().find(|entry| entry.name == name)?;
            Some((name, world.resolve(MODULE, name, entry.params, &[I32])?))
        };
        let functions = FUNCTIONS.iter().filter_map(|name| numbered(*name)).collect();
        Ok(Self { world, memory: vec![0; DATA as usize + PIECES[2]], open: None, functions })
    }

    fn call(&mut self, name: &str, args: &[Value]) -> Result<()> {
        let found = self.functions.iter().find(|(known, _)| *known == name);
        let number = found.ok_or_else(|| broken("no such function"))?.1;
        let mut results = [Value::I32(0)];
        match self.world.call(number, &mut self.memory, args, &mut results) {
            Flow::Return if results == [Value::I32(0)] => Ok(()),
            flow => Err(broken(format!("{name}: {flow:?}, {results:?}"))),
        }
    }

    fn put(&mut self, at: i32, bytes: &[u8]) {
        self.memory[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    fn descriptor(&self) -> Result<Value> {
        self.open.map(Value::I32).ok_or_else(|| broken("no file is open"))
    }

    /// A positioned read or write of `len` bytes at [`DATA`].
    fn transfer(&mut self, name: &str, len: usize, offset: u64) -> Result<()> {
        let fd = self.descriptor()?;
        self.put(VECTOR, &DATA.to_le_bytes());
        self.put(VECTOR + 4, &(len as u32).to_le_bytes());
        let offset = Value::I64(offset.cast_signed());
        self.call(name, &[fd, Value::I32(VECTOR), Value::I32(1), offset, Value::I32(RESULT)])?;
        let done = &self.memory[RESULT as usize..RESULT as usize + 4];
        if done == (len as u32).to_le_bytes() { Ok(()) } else { Err(broken(format!("{name}: not all"))) }
    }
}

impl Files for Program {
    fn open(&mut self, name: &str) -> Result<()> {
        self.put(NAME, name.as_bytes());
        let rights = Value::I64((1 << 1) | (1 << 2) | (1 << 6));
        let path = [Value::I32(NAME), Value::I32(name.len() as i32)];
        let args = [
            Value::I32(ROOT),
            Value::I32(1),
            path[0],
            path[1],
            Value::I32(1),
            rights,
            rights,
            Value::I32(0),
            Value::I32(RESULT),
        ];
        self.call("path_open", &args)?;
        let at = RESULT as usize;
        let fd = self.memory[at..at + 4].iter().rev().fold(0, |number, byte| number << 8 | i32::from(*byte));
        self.open = Some(fd);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        // A program has its data in its memory already; this copy is the other sides' gain.
        self.put(DATA, bytes);
        self.transfer("fd_pwrite", bytes.len(), offset)
    }

    fn read(&mut self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.transfer("fd_pread", bytes.len(), offset)
    }

    fn sync(&mut self) -> Result<()> {
        let fd = self.descriptor()?;
        self.call("fd_datasync", &[fd])
    }

    fn close(&mut self) -> Result<()> {
        let fd = self.descriptor()?;
        self.open = None;
        self.call("fd_close", &[fd])
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        self.put(NAME, name.as_bytes());
        self.call("path_unlink_file", &[Value::I32(ROOT), Value::I32(NAME), Value::I32(name.len() as i32)])
    }
}

impl Report {
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.machine.text());
        text += &format!(
            "a file of {} MiB and {} small ones: minimum and median of {} rounds, and the volume's share of the others' throughput\n",
            self.mebibytes, self.small_files, self.rounds
        );
        let heading = ["access", ">volume", ">directory", ">native", ">of directory", ">of native"];
        let mut table = Table::new(&heading);
        for Access { access, sides, volume_to_directory, volume_to_native } in &self.accesses {
            let [volume, directory, native] = [0, 1, 2].map(|at| {
                sides
                    .get(at)
                    .map_or_else(String::new, |times| format!("{:.2} / {:.2} ms", times.min_ms, times.median_ms))
            });
            let shares = [volume_to_directory, volume_to_native].map(|share| format!("{share:.2}"));
            table.row([access.clone(), volume, directory, native, shares[0].clone(), shares[1].clone()]);
        }
        text + &table.render("")
    }
}
