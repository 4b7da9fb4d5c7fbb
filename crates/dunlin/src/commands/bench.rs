//! `dunlin bench`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};

use crate::bench::overhead::Effort;
use crate::bench::{attest, capture, live, moved, overhead, volume, wasi};
use crate::failure::{Exit, Failure, Result};
use crate::parse;
use crate::report::run::json;
use crate::text;

/// Measure what being movable costs
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    #[command(before_help = OVERHEAD)]
    Overhead(Overhead),
    #[command(before_help = CAPTURE)]
    Capture(Capture),
    #[command(before_help = WASI)]
    Wasi(Wasi),
    #[command(before_help = VOLUME)]
    Volume(Volume),
    #[command(before_help = ATTEST)]
    Attest(Attest),
    #[command(before_help = LIVE)]
    Live(Live),
    /// One side of `bench live`, which starts it
    #[command(hide = true)]
    LivePlace {
        /// The socket where orders come from
        #[arg(long)]
        orders: PathBuf,
    },
    /// The delay of a link of `bench live`, which starts it
    #[command(hide = true)]
    LiveRelay {
        /// Where to listen
        #[arg(long)]
        listen: SocketAddr,
        /// Where to connect
        #[arg(long)]
        to: SocketAddr,
        /// How long each byte is held
        #[arg(long)]
        delay_us: u64,
    },
}

const OVERHEAD: &str = "\
Examples:
  cargo xtask guests                          build the kernels first
  dunlin bench overhead --quick               a first impression in a minute
  dunlin bench overhead --json > cost.json    everything, for programs";

const CAPTURE: &str = "\
Examples:
  cargo xtask guests                          build the guests first
  dunlin bench capture";

const WASI: &str = "\
Examples:
  cargo xtask guests                                          build the guests first
  (cd testing/guests && cargo build --release -p kv)          and one for this machine
  (cd testing/peer && cargo build --release)                  and Wasmtime's WASI
  dunlin bench wasi";

/// Sockets and files, against native code and Wasmtime's own WASI
#[derive(Debug, Args)]
struct Wasi {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Where the guests are
    #[arg(long, value_name = "DIR", default_value = "testing/guests")]
    guests: PathBuf,
    /// Wasmtime's WASI to compare with
    #[arg(long, value_name = "FILE", default_value = "testing/peer/target/release/dunlin-peer")]
    peer: PathBuf,
    /// The key-value guest built for this machine
    #[arg(long, value_name = "FILE", default_value = "testing/guests/target/release/kv")]
    native: PathBuf,
    /// How often each side is measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Requests of each command in a round
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    requests: u32,
    /// Size of the file in MiB
    #[arg(long, value_name = "MIB", default_value_t = 32)]
    size: u32,
}

const VOLUME: &str = "\
Examples:
  dunlin bench volume
  dunlin bench volume --at /var/lib/dunlin --json     on the disk that is to be used
  cargo xtask guests                                  build the guests first
  dunlin bench volume --moves 5 --size 256            what moving with a volume costs";

/// A private volume, against a mounted directory and native files, or what moving with it costs
#[derive(Debug, Args)]
struct Volume {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// How often each side is measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Instead of that, move a service with a volume between two nodes, so often in each mode
    #[arg(long, value_name = "N", conflicts_with = "rounds", conflicts_with = "files")]
    moves: Option<usize>,
    /// Where the guests are, for moves
    #[arg(long, value_name = "DIR", default_value = "testing/guests")]
    guests: PathBuf,
    /// Size of the large file in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    size: u32,
    /// How many small files
    #[arg(long, value_name = "N", default_value_t = 1000)]
    files: u32,
    /// Measure in a directory of its own in here, instead of in the system's for temporary files
    #[arg(long, value_name = "DIR")]
    at: Option<PathBuf>,
}

const ATTEST: &str = "\
Examples:
  dunlin bench attest
  dunlin bench attest --tpm /dev/tpmrm0 --json";

/// Trust: how long appraisal takes for each technology, alone and many at once, and a TPM's quote
#[derive(Debug, Args)]
struct Attest {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Appraisals of each technology at each degree of concurrency
    #[arg(long, value_name = "N", default_value_t = 200)]
    rounds: usize,
    /// The TPM to measure, instead of a software TPM that is started for it
    #[arg(long, value_name = "DEVICE")]
    tpm: Option<dunlin_attest_tpm::Device>,
}

const LIVE: &str = "\
Examples:
  cargo xtask guests                                          build the guests first
  dunlin bench live --quick                                   a first impression
  dunlin bench live --memory 256 --rate 10000 --mode precopy --moves 200";

/// Moving while it runs: pauses in parts and as a client sees them, against the raw stream
#[derive(Debug, Args)]
struct Live {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Little memory, few moves, loopback only
    #[arg(long)]
    quick: bool,
    /// Where the guests are
    #[arg(long, value_name = "DIR", default_value = "testing/guests")]
    guests: PathBuf,
    /// Where states are staged and the ledger is [default: /dev/shm if it is there]
    #[arg(long, value_name = "DIR")]
    storage: Option<PathBuf>,
    /// Memory of the service, in MiB
    #[arg(long, value_name = "MIB", value_delimiter = ',')]
    memory: Vec<u64>,
    /// Pages that the service changes in a second
    #[arg(long, value_name = "N", value_delimiter = ',')]
    rate: Vec<u64>,
    /// How the state travels
    #[arg(long, value_name = "MODE", value_delimiter = ',', value_enum)]
    mode: Vec<live::Way>,
    /// The link between the two places
    #[arg(long, value_name = "LINK", value_delimiter = ',', value_enum)]
    link: Vec<live::Link>,
    /// Moves of each combination
    #[arg(long, value_name = "N")]
    moves: Option<usize>,
    /// The longest pause that is aimed at
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    max_downtime: Option<Duration>,
    /// Longest pauses that are kept or make the move fail; 0s measures none
    #[arg(long, value_name = "TIME", value_delimiter = ',', value_parser = parse::duration)]
    limit: Vec<Duration>,
    /// Compress pages
    #[arg(long)]
    compress: bool,
    /// Without encryption
    #[arg(long)]
    plain: bool,
}

impl Live {
    fn setup(&self) -> live::Setup {
        let shared_memory = Path::new("/dev/shm");
        let usual = || if shared_memory.is_dir() { shared_memory.to_owned() } else { std::env::temp_dir() };
        let storage = self.storage.clone().unwrap_or_else(usual);
        let mut setup = live::Setup::new(self.guests.clone(), storage, self.quick);
        fn replace<T: Clone>(list: &mut Vec<T>, wanted: &[T]) {
            if !wanted.is_empty() {
                *list = wanted.to_vec();
            }
        }
        replace(&mut setup.memories, &self.memory);
        replace(&mut setup.rates, &self.rate);
        replace(&mut setup.ways, &self.mode);
        replace(&mut setup.links, &self.link);
        replace(&mut setup.limits, &self.limit);
        setup.limits.retain(|limit| !limit.is_zero());
        setup.moves = self.moves.unwrap_or(setup.moves);
        setup.max_downtime = self.max_downtime.unwrap_or(setup.max_downtime);
        (setup.compress, setup.plain) = (self.compress, self.plain);
        setup
    }
}

/// While nobody moves: time, code size, start, and how soon a program can be stopped
#[derive(Debug, Args)]
struct Overhead {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Fewer rounds, and no builds with vector instructions
    #[arg(long)]
    quick: bool,
    /// Rounds of each kernel, instead of 21 (5 with --quick)
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Where the guests are
    #[arg(long, value_name = "DIR", default_value = "testing/guests")]
    guests: PathBuf,
    /// Repeat the stops of an earlier measurement
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Stopping in the middle and going on: times and sizes, with CRIU beside them where it works
#[derive(Debug, Args)]
struct Capture {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Where the guests are
    #[arg(long, value_name = "DIR", default_value = "testing/guests")]
    guests: PathBuf,
}

pub(crate) fn run(bench: &Bench) -> Result<ExitCode> {
    match &bench.command {
        BenchCommand::Overhead(Overhead { json: as_json, quick, rounds, guests, seed }) => {
            let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_millis() as u64);
            let full = Effort { rounds: 21, requests: 20, compilations: 3, variants: true };
            let less = Effort { rounds: 5, requests: 4, compilations: 1, variants: false };
            let mut effort = if *quick { less } else { full };
            effort.rounds = rounds.unwrap_or(effort.rounds);
            let report = overhead::measure(guests, effort, seed.unwrap_or(clock))?;
            text::print(&if *as_json { json(&report)? } else { report.text() });
        }
        BenchCommand::Wasi(Wasi { json: as_json, guests, peer, native, rounds, requests, size }) => {
            let report = with_scratch(|scratch| {
                wasi::measure(&wasi::Setup {
                    guests: guests.clone(),
                    peer: peer.clone(),
                    native: native.clone(),
                    rounds: *rounds,
                    requests: *requests,
                    mebibytes: *size,
                    scratch: scratch.to_owned(),
                })
            })?;
            text::print(&if *as_json { json(&report)? } else { report.text() });
        }
        BenchCommand::Volume(Volume { json: as_json, rounds, moves, guests, size, files, at }) => {
            let measured = |scratch: &Path| {
                let (scratch, mebibytes) = (scratch.to_owned(), *size);
                if let Some(rounds) = *moves {
                    let setup = moved::Setup { rounds, mebibytes, guests: guests.clone(), scratch };
                    let report = moved::measure(&setup)?;
                    return if *as_json { json(&report) } else { Ok(report.text()) };
                }
                let report = volume::measure(&volume::Setup { rounds: *rounds, mebibytes, files: *files, scratch })?;
                if *as_json { json(&report) } else { Ok(report.text()) }
            };
            text::print(&match at {
                Some(directory) => with_scratch_in(directory, measured),
                None => with_scratch(measured),
            }?);
        }
        BenchCommand::Capture(Capture { json: as_json, guests }) => {
            let report = with_scratch(|scratch| capture::measure(guests, scratch))?;
            text::print(&if *as_json { json(&report)? } else { report.text() });
        }
        BenchCommand::Attest(Attest { json: as_json, rounds, tpm }) => {
            let report = with_scratch(|scratch| attest::measure(*rounds, tpm.as_ref(), scratch))?;
            text::print(&if *as_json { json(&report)? } else { report.text() });
        }
        BenchCommand::Live(live) => {
            let report = live::measure(&live.setup())?;
            text::print(&if live.json { json(&report)? } else { report.text() });
        }
        BenchCommand::LivePlace { orders } => live::follow(orders)?,
        BenchCommand::LiveRelay { listen, to, delay_us } => {
            live::relay(*listen, *to, Duration::from_micros(*delay_us))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a measurement with a directory that goes with it.
fn with_scratch<T>(measure: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    with_scratch_in(&std::env::temp_dir(), measure)
}

fn with_scratch_in<T>(directory: &Path, measure: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let scratch = directory.join(format!("dunlin-bench-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)
        .map_err(Failure::because(Exit::CannotCreate, format!("cannot create {}", scratch.display())))?;
    let report = measure(&scratch);
    // What is left over lies in the system's directory for such things.
    let _ = std::fs::remove_dir_all(&scratch);
    report
}
