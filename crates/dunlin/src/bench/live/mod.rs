//! `dunlin bench live`: what a move costs while the service runs and is asked.
//!
//! Two processes, each as a keep would be, a ledger on stable storage, and a client that asks at fixed times. The
//! service goes back and forth. What the source, the destination and the client measured stands side by side, and
//! beside it what the same stream carries when nothing but bytes travel.

mod channel;
mod client;
mod names;
mod orders;
mod place;
mod report;
mod road;
mod stage;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::machine::Machine;
use super::statistics::Samples;
use crate::failure::{Exit, Failure, Result};
use crate::guests::Guests;
use crate::text::{self, milliseconds};
use orders::How;
use report::{Limit, Raw, Row, Storage};
use stage::{Scene, Stage};

pub(crate) use orders::Way;
pub(crate) use place::follow;
pub(crate) use report::Report;
pub(crate) use road::{Link, relay};

/// What is to be measured.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) guests: PathBuf,
    pub(crate) storage: PathBuf,
    pub(crate) memories: Vec<u64>,
    pub(crate) rates: Vec<u64>,
    pub(crate) ways: Vec<Way>,
    pub(crate) links: Vec<Link>,
    /// Moves of each combination.
    pub(crate) moves: usize,
    pub(crate) max_downtime: Duration,
    pub(crate) compress: bool,
    /// Pauses that must be kept or make the move fail.
    pub(crate) limits: Vec<Duration>,
    pub(crate) plain: bool,
}

impl Setup {
    /// What is measured if nothing else was asked for.
    pub(crate) fn new(guests: PathBuf, storage: PathBuf, quick: bool) -> Self {
        let milliseconds = |list: &[u64]| list.iter().map(|number| Duration::from_millis(*number)).collect();
        Self {
            guests,
            storage,
            memories: if quick { vec![16] } else { vec![16, 64, 256, 1024] },
            rates: if quick { vec![0, 10_000] } else { vec![0, 1_000, 10_000, 100_000] },
            ways: Way::ALL.to_vec(),
            links: if quick { vec![Link::Loopback] } else { Link::ALL.to_vec() },
            moves: if quick { 2 } else { 6 },
            max_downtime: Duration::from_millis(300),
            compress: false,
            limits: if quick { milliseconds(&[300]) } else { milliseconds(&[1, 10, 300]) },
            plain: false,
        }
    }
}

/// Pages that the service changes in a second on a link that would never carry more.
const SLOW_RATE: u64 = 200;

/// Measures everything, line by line.
pub(crate) fn measure(setup: &Setup) -> Result<Report> {
    let machine = Machine::look();
    let module = Guests::open(&setup.guests)?.path("dirtier");
    if !module.is_file() {
        let message = format!("{} is missing: build the guests by `cargo xtask guests`", module.display());
        return Err(Failure::new(Exit::Unavailable, message));
    }
    let mut report = Report::new(machine, storage(&setup.storage)?, !setup.plain, setup.moves);
    let authority = if setup.plain { None } else { Some(channel::authority()?) };
    let mut number = 0;
    let mut next = || {
        number += 1;
        number
    };
    for mebibytes in &setup.memories {
        report.raw.push(raw(*mebibytes, &authority)?);
    }
    for link in &setup.links {
        for mebibytes in &setup.memories {
            for rate in &setup.rates {
                // Slow links carry little memory and few changes in a time that anybody waits for.
                let little = matches!(link, Link::Fast | Link::Slow);
                if little && *mebibytes > 16 || *link == Link::Gigabit && *mebibytes > 64 {
                    continue;
                }
                let rate = if *link == Link::Slow { (*rate).min(SLOW_RATE) } else { *rate };
                for way in &setup.ways {
                    let scene = Scene {
                        module: &module,
                        mebibytes: *mebibytes,
                        rate,
                        link: *link,
                        storage: &setup.storage,
                        authority: authority.clone(),
                    };
                    let moves = if *link == Link::Loopback { setup.moves } else { setup.moves.min(2) };
                    let row = row(&scene, next(), *way, moves, setup);
                    match row {
                        Ok(row) => {
                            text::note(row.line());
                            report.rows.push(row);
                        }
                        Err(failure) if *link != Link::Loopback => {
                            let what = format!("{}: {}", link.text(), failure.whole());
                            if !report.missing.contains(&what) {
                                report.missing.push(what);
                            }
                        }
                        Err(failure) => return Err(failure),
                    }
                }
            }
        }
    }
    let memory = setup.memories.iter().copied().filter(|mebibytes| *mebibytes <= 256).max().unwrap_or(16);
    for limit in &setup.limits {
        for rate in [0, 10_000, 100_000] {
            let scene = Scene {
                module: &module,
                mebibytes: memory,
                rate,
                link: Link::Loopback,
                storage: &setup.storage,
                authority: authority.clone(),
            };
            let found = limited(&scene, next(), *limit, setup.moves)?;
            text::note(found.line());
            report.limits.push(found);
        }
    }
    if let Err(why) = super::criu::check() {
        report.missing.push(format!("CRIU beside it: {why}"));
    }
    Ok(report)
}

fn row(scene: &Scene<'_>, number: u64, way: Way, moves: usize, setup: &Setup) -> Result<Row> {
    let max_downtime_us = u64::try_from(setup.max_downtime.as_micros()).unwrap_or(u64::MAX);
    let how = How { mode: way, max_downtime_us, strict: false, auto_converge: false, compress: setup.compress };
    let mut stage = Stage::open(scene, number)?;
    let rest = stage.rest();
    let mut row = Row::new(scene, way, &rest);
    let epoch = stage.epoch()?;
    for _ in 0..moves {
        row.add(&stage.go(how)?);
    }
    row.epochs = stage.epoch()? - epoch;
    row.close(stage.close()?);
    Ok(row)
}

/// Whether a pause that is asked for is kept, or the move fails.
fn limited(scene: &Scene<'_>, number: u64, limit: Duration, moves: usize) -> Result<Limit> {
    let max_downtime_us = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
    let how = How { mode: Way::Precopy, max_downtime_us, strict: true, auto_converge: false, compress: false };
    let mut stage = Stage::open(scene, number)?;
    let mut found = Limit::new(scene, limit);
    for _ in 0..moves {
        found.add(&stage.go(how)?);
    }
    found.close(stage.close()?);
    Ok(found)
}

/// What the same kind of stream carries when nothing but bytes travel: the best of three.
fn raw(mebibytes: u64, authority: &Option<(Vec<u8>, Vec<u8>)>) -> Result<Raw> {
    let security = channel::Security::of(authority)?;
    let mut best = 0.0_f64;
    for _ in 0..3 {
        best = best.max(channel::raw(&security, mebibytes << 20)?);
    }
    Ok(Raw { mebibytes, encrypted: authority.is_some(), mb_per_second: best / 1e6 })
}

/// What it costs to put little on the storage where states are staged.
fn storage(directory: &Path) -> Result<Storage> {
    use std::io::Write as _;
    let failed = || Failure::because(Exit::CannotCreate, format!("cannot write below {}", directory.display()));
    let path = directory.join(format!("dunlin-live-{}.probe", std::process::id()));
    let mut file = std::fs::File::create(&path).map_err(failed())?;
    let mut times = Samples::default();
    let piece = vec![1; 64 << 10];
    for _ in 0..20 {
        let start = Instant::now();
        file.write_all(&piece).and_then(|()| file.sync_data()).map_err(failed())?;
        times.add(milliseconds(start.elapsed()));
    }
    let _gone = std::fs::remove_file(&path);
    Ok(Storage { directory: directory.display().to_string(), sync_ms: times.median() })
}
