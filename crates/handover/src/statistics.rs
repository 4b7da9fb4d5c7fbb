//! What a migration reports about itself, in the words that people know from QEMU and CRIU.

use core::fmt;
use core::time::Duration;

use dunlin_base::PAGE_SIZE;

/// The state of a migration, named as in QEMU's `query-migrate`. This list is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Status {
    /// Nothing was asked for.
    #[default]
    None,
    /// Negotiation and preparation.
    Setup,
    /// Pre-copy.
    Active,
    /// The program is being stopped.
    PreSwitchover,
    /// The program is stopped; the rest of its state travels and ownership changes.
    Device,
    /// The program runs at the destination, memory still comes from the source.
    PostcopyActive,
    /// As before, and the link is lost.
    PostcopyPaused,
    /// As before, and the link is coming back.
    PostcopyRecover,
    /// Done.
    Completed,
    /// It did not work; the program is where it was.
    Failed,
    /// Being cancelled.
    Cancelling,
    /// Cancelled; the program is where it was.
    Cancelled,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Setup => "setup",
            Self::Active => "active",
            Self::PreSwitchover => "pre-switchover",
            Self::Device => "device",
            Self::PostcopyActive => "postcopy-active",
            Self::PostcopyPaused => "postcopy-paused",
            Self::PostcopyRecover => "postcopy-recover",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        })
    }
}

/// Everything measured about one migration, at any moment of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Where it is.
    pub status: Status,
    /// From the request until now, or until its end.
    pub total_time: Duration,
    /// Until the first round began.
    pub setup_time: Duration,
    /// How long the program stood still, as the source saw it.
    pub downtime: Downtime,
    /// The pause that a stop would have taken at the last scan.
    pub expected_downtime: Duration,
    /// How much the program is slowed down.
    pub cpu_throttle_percentage: u8,
    /// What stands in the way, by name.
    pub blocked_reasons: Vec<String>,
    /// Why it failed.
    pub error_desc: Option<String>,
    /// Memory.
    pub ram: Ram,
}

/// The parts of the pause. `None` where the part did not happen (yet).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Downtime {
    /// From the request to stop until the program stood at a safepoint.
    pub time_to_safepoint: Option<Duration>,
    /// From there until the rest of the state was captured and handed to the link.
    pub capture: Option<Duration>,
    /// Until the destination said that it has staged everything.
    pub staged: Option<Duration>,
    /// Until the ledger's receipt.
    pub commit: Option<Duration>,
    /// Until the destination's word that the program runs came back.
    pub activate: Option<Duration>,
    /// Of that, restoring the state, as the destination measured it.
    pub restore: Option<Duration>,
}

impl Downtime {
    /// The whole pause so far.
    pub fn total(&self) -> Duration {
        let Self { time_to_safepoint, capture, staged, commit, activate, restore: _ } = self;
        [time_to_safepoint, capture, staged, commit, activate].into_iter().flatten().sum()
    }
}

/// What happened to memory. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ram {
    /// Sent, in all messages.
    pub transferred: u64,
    /// Still to send.
    pub remaining: u64,
    /// The program's memory, and what the destination lacked of its volume.
    pub total: u64,
    /// Zero pages, which travel as a number.
    pub duplicate: u64,
    /// Pages that travelled as bytes.
    pub normal: u64,
    /// Their size.
    pub normal_bytes: u64,
    /// Pages dirtied a second between the last two scans.
    pub dirty_pages_rate: u64,
    /// Megabits a second, as acknowledged by the destination.
    pub mbps: u64,
    /// Rounds.
    pub dirty_sync_count: u64,
    /// Size of a page.
    pub page_size: u64,
    /// Pages a second, as acknowledged by the destination.
    pub pages_per_second: u64,
    /// Sent before the stop.
    pub precopy_bytes: u64,
    /// Sent while the program stood still.
    pub downtime_bytes: u64,
    /// Sent after the switch.
    pub postcopy_bytes: u64,
    /// Pages that the destination asked for.
    pub postcopy_requests: u64,
    /// How long the program waited for pages after the switch.
    pub postcopy_blocktime: Duration,
}

impl Default for Ram {
    fn default() -> Self {
        Self {
            transferred: 0,
            remaining: 0,
            total: 0,
            duplicate: 0,
            normal: 0,
            normal_bytes: 0,
            dirty_pages_rate: 0,
            mbps: 0,
            dirty_sync_count: 0,
            page_size: PAGE_SIZE as u64,
            pages_per_second: 0,
            precopy_bytes: 0,
            downtime_bytes: 0,
            postcopy_bytes: 0,
            postcopy_requests: 0,
            postcopy_blocktime: Duration::ZERO,
        }
    }
}
