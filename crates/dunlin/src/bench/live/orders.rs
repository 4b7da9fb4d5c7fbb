//! What the measurement says to the processes that it starts, and what they answer: lines of JSON.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use dunlin_handover::converge::{Mode, Options, TimeoutAction};
use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure, Result};

/// Everything that a place needs to know at its start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Setting {
    /// The guest.
    pub(super) module: PathBuf,
    /// Its arguments.
    pub(super) arguments: Vec<String>,
    /// The ledger's socket.
    pub(super) ledger: PathBuf,
    /// The ledger's key.
    pub(super) ledger_key: [u8; 32],
    /// The service.
    pub(super) service: [u8; 16],
    /// Where states are staged.
    pub(super) storage: PathBuf,
    /// Who certifies both places to each other: certificate and key; nobody if they are not to encrypt.
    pub(super) authority: Option<(Vec<u8>, Vec<u8>)>,
}

/// What a place is to do next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Order {
    /// Begin the service here, as its first holder; answered by [`Answer::Running`].
    Start,
    /// Take the service from whoever connects; answered by [`Answer::Listening`], then [`Answer::Arrived`].
    Arrive {
        /// Where to listen.
        address: SocketAddr,
    },
    /// Move the service; answered by [`Answer::Left`].
    Leave {
        /// Where the other place, or the way to it, listens.
        address: SocketAddr,
        /// How.
        how: How,
    },
}

/// How a service is to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct How {
    pub(super) mode: Way,
    pub(super) max_downtime_us: u64,
    /// Whether a pause that does not fit makes the move fail.
    pub(super) strict: bool,
    pub(super) auto_converge: bool,
    pub(super) compress: bool,
}

/// A mode on the command line and in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    Stop,
    Precopy,
    Postcopy,
    Hybrid,
    Auto,
}

impl Way {
    pub(super) const ALL: [Self; 5] = [Self::Stop, Self::Precopy, Self::Postcopy, Self::Hybrid, Self::Auto];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Precopy => "precopy",
            Self::Postcopy => "postcopy",
            Self::Hybrid => "hybrid",
            Self::Auto => "auto",
        }
    }
}

impl How {
    pub(super) fn options(self) -> Options {
        Options {
            mode: match self.mode {
                Way::Stop => Mode::Stop,
                Way::Precopy => Mode::Precopy,
                Way::Postcopy => Mode::Postcopy,
                Way::Hybrid => Mode::Hybrid,
                Way::Auto => Mode::Auto,
            },
            max_downtime: std::time::Duration::from_micros(self.max_downtime_us),
            timeout_action: if self.strict { TimeoutAction::Abort } else { TimeoutAction::Stop },
            auto_converge: self.auto_converge,
            ..Options::default()
        }
    }
}

/// What a place says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Answer {
    Running,
    Listening(SocketAddr),
    Arrived(Arrived),
    Left(Box<Left>),
    Failed(String),
}

/// What a process used while it moved a service.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Used {
    /// Processor time, that of the service included.
    pub(super) cpu_ms: f64,
    /// The most memory that was resident.
    pub(super) peak_bytes: u64,
}

/// Now, by the clock that all processes of a machine share, in microseconds.
pub(super) fn clock_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64).saturating_mul(1_000_000).saturating_add(now.tv_nsec as u64 / 1000)
}

/// What a destination measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Arrived {
    /// Whether the service runs here now.
    pub(super) live: bool,
    pub(super) outcome: String,
    pub(super) restore_ms: f64,
    pub(super) staging_ms: f64,
    pub(super) run_ms: f64,
    /// From the ledger's word to the program's first call of its host.
    pub(super) first_call_ms: Option<f64>,
    /// When the program was let run, by the clock that all processes of a machine share.
    pub(super) ran_at_us: u64,
    pub(super) used: Used,
}

/// What a source measured. The names are those of QEMU where it has the same.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Left {
    /// Whether the service runs at the destination now.
    pub(super) moved: bool,
    pub(super) outcome: String,
    pub(super) method: String,
    pub(super) total_time_ms: f64,
    pub(super) setup_time_ms: f64,
    pub(super) downtime_ms: f64,
    pub(super) expected_downtime_ms: f64,
    pub(super) time_to_safepoint_ms: f64,
    pub(super) capture_ms: f64,
    pub(super) staged_ms: f64,
    pub(super) commit_ms: f64,
    pub(super) activate_ms: f64,
    pub(super) cpu_throttle_percentage: u8,
    pub(super) transferred: u64,
    pub(super) duplicate: u64,
    pub(super) normal: u64,
    pub(super) dirty_sync_count: u64,
    pub(super) dirty_pages_rate: u64,
    pub(super) mbps: u64,
    pub(super) precopy_bytes: u64,
    pub(super) downtime_bytes: u64,
    pub(super) postcopy_bytes: u64,
    pub(super) postcopy_requests: u64,
    pub(super) postcopy_blocktime_ms: f64,
    pub(super) used: Used,
}

/// Writes one line.
pub(super) fn say(out: &mut impl Write, value: &impl Serialize) -> Result<()> {
    let failed = || Failure::because(Exit::Software, "another process of the measurement is gone");
    let mut line = serde_json::to_vec(value).map_err(|error| failed()(std::io::Error::from(error)))?;
    line.push(b'\n');
    out.write_all(&line).and_then(|()| out.flush()).map_err(failed())
}

/// Reads one line; `None` at the end.
pub(super) fn hear<T: DeserializeOwned>(input: &mut impl BufRead) -> Result<Option<T>> {
    let mut line = String::new();
    let failed = "another process of the measurement is gone";
    if input.read_line(&mut line).map_err(Failure::because(Exit::Software, failed))? == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line)
        .map(Some)
        .map_err(Failure::because(Exit::Software, "another process of the measurement speaks nonsense"))
}
