//! What goes over the HTTP API, as JSON. Names of statistics are those of QEMU's `query-migrate`, times are
//! milliseconds, sizes bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use dunlin_handover::converge::{Mode, Options, TimeoutAction};
use dunlin_handover::statistics::{Downtime, Ram, Statistics};
use dunlin_keep_link::{Limits, Tier};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A service to be made and started.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// What people call it: letters, digits, `-`, `_` and `.`, at most 63, beginning with a letter or digit.
    pub name: String,
    /// SHA-256 of the module, which was uploaded before.
    pub module: String,
    /// Arguments after the program's name.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Addresses at which it listens, `HOST:PORT`.
    #[serde(default)]
    pub listen: Vec<String>,
    /// Where the program sees its private volume.
    #[serde(default)]
    pub volume: Option<String>,
    /// The engine.
    #[serde(default)]
    pub tier: TierName,
    /// How much it may have.
    #[serde(default)]
    pub limits: LimitsInfo,
    /// Its owner's policy. Without one, every keep of a known provider may hold it.
    #[serde(default)]
    pub policy: Option<PolicyInfo>,
}

/// A policy as its owner signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyInfo {
    /// The signed object, in hexadecimal digits.
    pub object: String,
    /// The key that signed it, in hexadecimal digits.
    pub signer: String,
}

/// What a client asks of the keep in which a service runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttestRequest {
    /// The client's nonce: 64 hexadecimal digits.
    pub challenge: String,
}

/// Evidence of the keep in which a service runs, in hexadecimal digits. Only who appraises it knows what it is worth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttestDone {
    /// The evidence.
    pub evidence: String,
    /// What belongs to it.
    pub endorsements: String,
    /// What it is bound to.
    pub binding: String,
}

/// Which engine runs a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TierName {
    /// Native code.
    #[default]
    Cranelift,
    /// Wasmtime's portable interpreter.
    Pulley,
    /// An interpreter of another family.
    Wasmi,
}

impl From<TierName> for Tier {
    fn from(name: TierName) -> Self {
        match name {
            TierName::Cranelift => Self::Cranelift,
            TierName::Pulley => Self::Pulley,
            TierName::Wasmi => Self::Wasmi,
        }
    }
}

/// How much a service may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsInfo {
    /// Bytes of each memory.
    pub memory_bytes: u64,
    /// Elements of each table.
    pub table_elements: u64,
    /// Bytes of native stack.
    pub stack_bytes: u64,
    /// Open descriptors, connections among them.
    pub descriptors: u32,
    /// Percent of one processor.
    pub cpu_percent: Option<u8>,
}

impl Default for LimitsInfo {
    fn default() -> Self {
        let Limits { memory_bytes, table_elements, stack_bytes, descriptors, cpu_percent } = Limits::default();
        Self { memory_bytes, table_elements, stack_bytes, descriptors, cpu_percent }
    }
}

impl From<LimitsInfo> for Limits {
    fn from(info: LimitsInfo) -> Self {
        let LimitsInfo { memory_bytes, table_elements, stack_bytes, descriptors, cpu_percent } = info;
        Self { memory_bytes, table_elements, stack_bytes, descriptors, cpu_percent }
    }
}

/// What a service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// It is being started, or started again.
    Starting,
    /// It runs here.
    Running,
    /// It runs here and moves away.
    Leaving,
    /// It is on its way here.
    Arriving,
    /// It was stopped, with its state kept.
    Stopped,
    /// The program ended by itself, or trapped.
    Ended,
    /// It should run and cannot; `message` says why.
    Failed,
    /// It runs on another node.
    Away,
}

/// A service in a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServiceLine {
    /// Its name.
    pub name: String,
    /// The node where it is.
    pub node: String,
    /// What it does there.
    pub state: ServiceState,
    /// Epoch in the ledger, as far as the node knows.
    pub epoch: Option<u64>,
    /// Last committed version.
    pub version: Option<u64>,
    /// Where clients reach it at this node.
    pub listen: Vec<String>,
    /// Why it is in this state, for people.
    pub message: Option<String>,
}

/// Everything about a service.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServiceInfo {
    /// As in a list.
    #[serde(flatten)]
    pub line: ServiceLine,
    /// Its id in the ledger.
    pub id: String,
    /// SHA-256 of the module.
    pub module: String,
    /// Arguments.
    pub args: Vec<String>,
    /// Names of its environment variables; their values are not shown.
    pub env: Vec<String>,
    /// The engine.
    pub tier: TierName,
    /// Limits.
    pub limits: LimitsInfo,
    /// Where the program sees its volume.
    pub volume: Option<String>,
    /// Digest of its owner's policy, if there is one.
    pub policy: Option<String>,
    /// Why it cannot move, if it cannot.
    pub pinned: Option<String>,
    /// Process id of its keep.
    pub process: Option<u32>,
    /// Bytes of its memories.
    pub memory_bytes: Option<u64>,
    /// Open connections.
    pub connections: Option<u32>,
    /// Processor time of its keep.
    pub cpu_ms: Option<f64>,
    /// How long it has been running here.
    pub uptime_ms: Option<f64>,
    /// What the ledger says; nothing when it cannot be reached.
    pub ledger: Option<Owner>,
}

/// What the ledger says about a service.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Owner {
    /// Rises with every change of holder.
    pub epoch: u64,
    /// Rises with every committed state.
    pub version: u64,
    /// The node that holds it, if it is one of the known ones, else the machine's id.
    pub holder: Option<String>,
    /// Digest of the committed state.
    pub state: String,
    /// `created`, `held` or `retired`.
    pub status: String,
}

/// How to stop.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopRequest {
    /// At once, without keeping what came after the last checkpoint.
    pub kill: bool,
}

/// How to bring a service back.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RecoverRequest {
    /// Also if it runs at another node; it ends there, without what came after its last checkpoint.
    pub force: bool,
}

/// A committed state.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CheckpointDone {
    /// Version in the ledger.
    pub version: u64,
    /// Digest of the state.
    pub state: String,
    /// Size on storage.
    pub bytes: u64,
    /// How long the program stood still.
    pub pause_ms: f64,
    /// From the order until the ledger's acknowledgement.
    pub took_ms: f64,
}

/// How the state travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ModeName {
    /// Stop, then copy.
    Stop,
    /// Copy while the program runs, then stop and copy the rest.
    Precopy,
    /// Stop at once, fetch memory after the switch.
    Postcopy,
    /// Pre-copy, then post-copy when it does not converge.
    Hybrid,
    /// Whatever is best.
    #[default]
    Auto,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Stop => Self::Stop,
            ModeName::Precopy => Self::Precopy,
            ModeName::Postcopy => Self::Postcopy,
            ModeName::Hybrid => Self::Hybrid,
            ModeName::Auto => Self::Auto,
        }
    }
}

/// What to do when the limits of a move cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TimeoutActionName {
    /// Give up; the program goes on at the source.
    #[default]
    Abort,
    /// Stop the program and copy the rest, however long it takes.
    Stop,
    /// Switch to post-copy.
    Postcopy,
}

impl From<TimeoutActionName> for TimeoutAction {
    fn from(name: TimeoutActionName) -> Self {
        match name {
            TimeoutActionName::Abort => Self::Abort,
            TimeoutActionName::Stop => Self::Stop,
            TimeoutActionName::Postcopy => Self::Postcopy,
        }
    }
}

/// A move.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MigrateRequest {
    /// The node to which it goes.
    pub to: String,
    /// How.
    pub mode: ModeName,
    /// Longest pause that is acceptable, in milliseconds; without it 300.
    pub max_downtime_ms: Option<f64>,
    /// Most bytes a second before the stop.
    pub bandwidth: Option<u64>,
    /// Most rounds of pre-copy.
    pub max_rounds: Option<u32>,
    /// Longest time from the first round to the stop, in milliseconds.
    pub timeout_ms: Option<f64>,
    /// What then.
    pub timeout_action: TimeoutActionName,
    /// Slow the program down when it dirties memory faster than it can be sent.
    pub auto_converge: bool,
    /// Only ask whether it would work, and what stands in the way.
    pub dry_run: bool,
}

impl MigrateRequest {
    /// As the keep takes it.
    pub(crate) fn options(&self) -> Options {
        let default = Options::default();
        let time = |ms: f64| Duration::try_from_secs_f64(ms / 1e3).unwrap_or(Duration::MAX);
        Options {
            mode: self.mode.into(),
            max_downtime: self.max_downtime_ms.map_or(default.max_downtime, time),
            bandwidth_limit: self.bandwidth,
            max_rounds: self.max_rounds.unwrap_or(default.max_rounds),
            timeout: self.timeout_ms.map(time),
            timeout_action: self.timeout_action.into(),
            auto_converge: self.auto_converge,
            ..default
        }
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// It goes on.
    Running,
    /// It did what it should.
    Done,
    /// It did not; everything is as it was, or as `message` says.
    Failed,
    /// Somebody gave it up.
    Aborted,
}

impl JobState {
    /// Whether nothing more happens.
    pub const fn is_over(self) -> bool {
        !matches!(self, Self::Running)
    }
}

/// A move, as a job.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JobInfo {
    /// Its id.
    pub id: String,
    /// The service.
    pub service: String,
    /// From this node.
    pub from: String,
    /// To this one.
    pub to: String,
    /// The mode that was asked for.
    pub mode: ModeName,
    /// Where it stands.
    pub state: JobState,
    /// The phase of the hand-over at the source.
    pub phase: String,
    /// Phases with the time at which they began.
    pub phases: Vec<PhaseMark>,
    /// When it began, seconds since the Unix epoch.
    pub started: f64,
    /// For people: how it ended.
    pub message: Option<String>,
    /// What stands in the way, by name.
    pub blocked: Vec<String>,
    /// Connections that moved along.
    pub connections: usize,
    /// What was measured.
    pub statistics: StatisticsInfo,
}

/// When a phase began.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PhaseMark {
    /// Its name.
    pub phase: String,
    /// Since the job began.
    pub at_ms: f64,
}

/// What was measured about a move.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct StatisticsInfo {
    /// `setup`, `active`, `device`, `postcopy-active`, `completed`, ...
    pub status: String,
    /// From the request until now, or until its end.
    pub total_time: f64,
    /// Until the first round began.
    pub setup_time: f64,
    /// How long the program stood still.
    pub downtime: f64,
    /// Its parts.
    pub downtime_parts: DowntimeParts,
    /// The pause that a stop would have taken at the last scan.
    pub expected_downtime: f64,
    /// How much the program is slowed down.
    pub cpu_throttle_percentage: u8,
    /// What stands in the way, by name.
    pub blocked_reasons: Vec<String>,
    /// Why it failed.
    pub error_desc: Option<String>,
    /// Memory.
    pub ram: RamStatistics,
}

/// The parts of a pause.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DowntimeParts {
    /// Until the program stood at a safepoint.
    pub time_to_safepoint: Option<f64>,
    /// Until the rest of the state was handed to the link.
    pub capture: Option<f64>,
    /// Until the destination had staged everything.
    pub staged: Option<f64>,
    /// Until the ledger's receipt.
    pub commit: Option<f64>,
    /// Until the destination's word that the program runs.
    pub activate: Option<f64>,
    /// Of that, restoring, as the destination measured it.
    pub restore: Option<f64>,
}

/// What happened to memory.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are QEMU's; docs/node.md has the list")]
pub struct RamStatistics {
    pub transferred: u64,
    pub remaining: u64,
    pub total: u64,
    pub duplicate: u64,
    pub normal: u64,
    pub normal_bytes: u64,
    pub dirty_pages_rate: u64,
    pub mbps: u64,
    pub dirty_sync_count: u64,
    pub page_size: u64,
    pub pages_per_second: u64,
    pub precopy_bytes: u64,
    pub downtime_bytes: u64,
    pub postcopy_bytes: u64,
    pub postcopy_requests: u64,
    pub postcopy_blocktime: f64,
}

impl From<&Statistics> for StatisticsInfo {
    fn from(statistics: &Statistics) -> Self {
        let Statistics {
            status,
            total_time,
            setup_time,
            downtime,
            expected_downtime,
            cpu_throttle_percentage,
            blocked_reasons,
            error_desc,
            ram,
        } = statistics;
        let Downtime { time_to_safepoint, capture, staged, commit, activate, restore } = *downtime;
        let part = |time: Option<Duration>| time.map(milliseconds);
        let Ram {
            transferred,
            remaining,
            total,
            duplicate,
            normal,
            normal_bytes,
            dirty_pages_rate,
            mbps,
            dirty_sync_count,
            page_size,
            pages_per_second,
            precopy_bytes,
            downtime_bytes,
            postcopy_bytes,
            postcopy_requests,
            postcopy_blocktime,
        } = *ram;
        Self {
            status: status.to_string(),
            total_time: milliseconds(*total_time),
            setup_time: milliseconds(*setup_time),
            downtime: milliseconds(downtime.total()),
            downtime_parts: DowntimeParts {
                time_to_safepoint: part(time_to_safepoint),
                capture: part(capture),
                staged: part(staged),
                commit: part(commit),
                activate: part(activate),
                restore: part(restore),
            },
            expected_downtime: milliseconds(*expected_downtime),
            cpu_throttle_percentage: *cpu_throttle_percentage,
            blocked_reasons: blocked_reasons.clone(),
            error_desc: error_desc.clone(),
            ram: RamStatistics {
                transferred,
                remaining,
                total,
                duplicate,
                normal,
                normal_bytes,
                dirty_pages_rate,
                mbps,
                dirty_sync_count,
                page_size,
                pages_per_second,
                precopy_bytes,
                downtime_bytes,
                postcopy_bytes,
                postcopy_requests,
                postcopy_blocktime: milliseconds(postcopy_blocktime),
            },
        }
    }
}

/// A node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Whose machine it is.
    pub provider: String,
    /// The machine's id in the ledger.
    pub platform: String,
    /// The key of the ledger that it believes.
    pub ledger: String,
    /// What it is, with its version.
    pub product: String,
    /// Process id.
    pub process: u32,
    /// Services that are here.
    pub services: usize,
    /// Keeps that wait for work.
    pub warm_keeps: usize,
}

/// Whether a node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// The one that was asked.
    This,
    /// It answers.
    Up,
    /// It does not.
    Down,
}

/// A node in a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeLine {
    /// Its name.
    pub name: String,
    /// Where other nodes reach it.
    pub address: String,
    /// Whether it answers.
    pub health: Health,
    /// What it says about itself.
    pub info: Option<NodeInfo>,
}

/// A module that was stored.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Stored {
    /// Its SHA-256.
    pub module: String,
    /// Its size.
    pub bytes: u64,
}

/// From which of the program's streams a line came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
    /// The node, about the service.
    Node,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Line {
    /// Seconds since the Unix epoch.
    pub time: f64,
    /// Where it came from.
    pub stream: Stream,
    /// The line, without its end.
    pub text: String,
}

/// Why a request was not met.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A stable word for programs: `invalid`, `not-found`, `conflict`, `busy`, `unreachable`, `failed`.
    pub code: String,
    /// What, why, and what to do, for people.
    pub message: String,
}

/// Milliseconds with the precision of a microsecond.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}
