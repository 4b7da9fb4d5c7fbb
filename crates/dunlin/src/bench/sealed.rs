//! What sealing costs: the same values put into a plain and a sealed volume, and read back.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use dunlin_seal::{ServiceRoot, VolumeSeal};
use dunlin_store::{DirectoryStore, Ino, OpenFlags, Options, Plain, Sealing, Volume};
use serde::Serialize;

use super::statistics::Samples;
use crate::failure::{Exit, Failure, Result};
use crate::text::{self, Table};

/// The sizes of the values.
const SIZES: [usize; 9] = [256, 1024, 4096, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20, 5_000_000];
/// About how much is written in one commit.
const BATCH: usize = 16 << 20;
/// What a sealed volume should reach of a plain one's throughput, from this size on.
const GOAL: f64 = 0.8;
const GOAL_FROM: usize = 64 << 10;

/// All sizes.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Sealed throughput by plain throughput.
    goal: f64,
    goal_from_bytes: usize,
    reached: bool,
    rows: Vec<Row>,
}

/// One size, in megabytes each second.
#[derive(Debug, Serialize)]
struct Row {
    bytes: usize,
    values: usize,
    put_plain: f64,
    put_sealed: f64,
    put_ratio: f64,
    get_plain: f64,
    get_sealed: f64,
    get_ratio: f64,
}

/// Measures each size `rounds` times, plain and sealed in turns.
pub(super) fn measure(rounds: usize, scratch: &Path) -> Result<Report> {
    let root = ServiceRoot::generate().map_err(broken)?;
    let sealed: Arc<dyn Sealing> = Arc::new(VolumeSeal::new(&root.epoch_key([1; 16], 1), None));
    let kinds: [(&str, Arc<dyn Sealing>); 2] = [("plain", Arc::new(Plain)), ("sealed", sealed)];
    let rounds = rounds.clamp(3, 15);
    let mut rows = Vec::new();
    for bytes in SIZES {
        let values = (BATCH / bytes).clamp(4, 512);
        let mut times = [const { [const { Vec::new() }; 2] }; 2];
        for round in 0..rounds {
            for (kind, (name, sealing)) in kinds.iter().enumerate() {
                let path = scratch.join(format!("{name}-{bytes}-{round}"));
                let (put, get) = once(&path, sealing, bytes, values)?;
                times[kind][0].push(put);
                times[kind][1].push(get);
                std::fs::remove_dir_all(&path).map_err(broken)?;
            }
        }
        let megabytes = (bytes * values) as f64 / 1e6;
        let rate = |times: &Vec<f64>| {
            let mut samples = Samples::default();
            times.iter().for_each(|time| samples.add(*time));
            megabytes / samples.median()
        };
        let [[put_plain, get_plain], [put_sealed, get_sealed]] = times.each_ref().map(|kind| kind.each_ref().map(rate));
        let (put_ratio, get_ratio) = (put_sealed / put_plain, get_sealed / get_plain);
        rows.push(Row { bytes, values, put_plain, put_sealed, put_ratio, get_plain, get_sealed, get_ratio });
    }
    let large = rows.iter().filter(|row| row.bytes >= GOAL_FROM);
    let reached = large.clone().all(|row| row.put_ratio >= GOAL && row.get_ratio >= GOAL);
    Ok(Report { goal: GOAL, goal_from_bytes: GOAL_FROM, reached, rows })
}

impl Report {
    pub(super) fn text(&self) -> String {
        let mut table = Table::new(&["value", ">put MB/s", ">sealed", ">ratio", ">get MB/s", ">sealed", ">ratio"]);
        for row in &self.rows {
            table.row([
                text::bytes(row.bytes as u64),
                format!("{:.0}", row.put_plain),
                format!("{:.0}", row.put_sealed),
                format!("{:.2}", row.put_ratio),
                format!("{:.0}", row.get_plain),
                format!("{:.0}", row.get_sealed),
                format!("{:.2}", row.get_ratio),
            ]);
        }
        format!(
            "Sealed volume against a plain one, committed and synchronised (goal {GOAL} from {} on)\n{}",
            text::bytes(GOAL_FROM as u64),
            table.render("  ")
        )
    }
}

/// Seconds to put all values and commit, and seconds to read them back after the volume was opened again.
fn once(path: &Path, sealing: &Arc<dyn Sealing>, bytes: usize, values: usize) -> Result<(f64, f64)> {
    let options = || Options { sealing: sealing.clone(), id: [3; 16], ..Options::default() };
    let store = Arc::new(DirectoryStore::open(path).map_err(broken)?);
    let mut volume = Volume::create(store.clone(), options()).map_err(broken)?;
    // Different contents: equal chunks would be stored once.
    let mut value: Vec<u8> = (0..bytes).map(|index| ((index * 31) >> 3) as u8).collect();
    let begin = Instant::now();
    for number in 0..values {
        for (index, block) in value.chunks_mut(1 << 12).enumerate() {
            block[..8].copy_from_slice(&(number as u64).to_le_bytes());
            block[8..16].copy_from_slice(&(index as u64).to_le_bytes());
        }
        let flags = OpenFlags { write: true, create: true, ..OpenFlags::default() };
        let handle = volume.open_file(Ino::ROOT, &number.to_string(), flags).map_err(broken)?;
        let written = volume.write(handle, &value).map_err(broken)?;
        if written != bytes {
            return Err(Failure::new(Exit::Software, "a value was cut"));
        }
        volume.close(handle).map_err(broken)?;
    }
    volume.commit().map_err(broken)?;
    let put = begin.elapsed().as_secs_f64();
    drop(volume);
    let mut volume = Volume::open(store, options()).map_err(broken)?;
    let begin = Instant::now();
    for number in 0..values {
        let flags = OpenFlags { read: true, ..OpenFlags::default() };
        let handle = volume.open_file(Ino::ROOT, &number.to_string(), flags).map_err(broken)?;
        let mut filled = 0;
        while filled < bytes {
            match volume.read(handle, &mut value[filled..]).map_err(broken)? {
                0 => return Err(Failure::new(Exit::Software, "a value came back cut")),
                count => filled += count,
            }
        }
        volume.close(handle).map_err(broken)?;
    }
    Ok((put, begin.elapsed().as_secs_f64()))
}

fn broken<E: Into<Box<dyn std::error::Error + Send + Sync>>>(error: E) -> Failure {
    Failure::because(Exit::Software, "the sealed store cannot be measured")(error)
}
