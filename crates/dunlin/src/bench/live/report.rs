//! What was measured, for programs and for people.

use serde::Serialize;

use super::orders::Way;
use super::road::Link;
use super::stage::{Move, Scene};
use super::{client::Heard, orders::Arrived, orders::Left};
use crate::bench::machine::Machine;
use crate::bench::statistics::{Samples, Spread};
use crate::text::{self, Table, milliseconds};

/// All that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(super) machine: Machine,
    pub(super) storage: Storage,
    pub(super) encrypted: bool,
    pub(super) moves: usize,
    pub(super) raw: Vec<Raw>,
    pub(super) rows: Vec<Row>,
    pub(super) limits: Vec<Limit>,
    /// What could not be measured here, and why.
    pub(super) missing: Vec<String>,
}

/// Where states are staged and the ledger is.
#[derive(Debug, Serialize)]
pub(super) struct Storage {
    pub(super) directory: String,
    /// Until 64 KiB that were appended are on it, at the median.
    pub(super) sync_ms: f64,
}

/// The baseline: bytes through the stream, and nothing else.
#[derive(Debug, Serialize)]
pub(super) struct Raw {
    pub(super) mebibytes: u64,
    pub(super) encrypted: bool,
    pub(super) mb_per_second: f64,
}

/// One combination.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    mebibytes: u64,
    dirty_pages_per_second: u64,
    mode: Way,
    link: Link,
    moved: usize,
    /// Why the others did not.
    failed: Vec<String>,
    tracking: String,
    /// The pause as the source measured it.
    downtime: Spread,
    /// The longest wait of the client for an answer that the pause held up.
    client_in_pause: Spread,
    /// The longest wait of the client during a move.
    client: Spread,
    /// The longest wait of the client while nothing moved.
    client_at_rest_ms: f64,
    /// Medians of what the pause was made of.
    parts: Parts,
    total_time: Spread,
    setup_ms: f64,
    /// Medians over the moves.
    transferred_bytes: f64,
    precopy_bytes: f64,
    downtime_bytes: f64,
    postcopy_bytes: f64,
    duplicate_pages: f64,
    dirty_sync_count: f64,
    dirty_pages_rate: f64,
    cpu_throttle_percentage: f64,
    postcopy_requests: f64,
    postcopy_blocktime_ms: f64,
    /// What travelled in the time between the end of setup and the end of the move.
    mb_per_second: f64,
    source_cpu_ms: f64,
    destination_cpu_ms: f64,
    source_peak_bytes: f64,
    destination_peak_bytes: f64,
    /// By how much the epoch rose: once for each move.
    pub(super) epochs: u64,
    asked: u64,
    answered: u64,
    wrong: u64,
    last_words: String,
    #[serde(skip)]
    samples: Vec<Sample>,
}

/// Parts of the pause, in milliseconds.
#[derive(Debug, Default, Serialize)]
struct Parts {
    time_to_safepoint: f64,
    capture: f64,
    staged: f64,
    commit: f64,
    activate: f64,
    expected: f64,
    /// Of `staged`, at the destination: until everything besides memory was restored.
    destination_restore: f64,
    /// Of `staged`, at the destination: until it was on stable storage.
    destination_staging: f64,
    /// From the ledger's word until the program was let run.
    destination_run: f64,
    /// From the ledger's word until its first call of its host.
    destination_first_call: f64,
}

#[derive(Debug)]
struct Sample {
    left: Left,
    arrived: Arrived,
    in_pause_ms: f64,
    longest_ms: f64,
}

fn longest(heard: &Heard) -> f64 {
    milliseconds(heard.longest())
}

/// The client's longest wait that has to do with the pause: as the source measured it, until the program ran.
fn in_pause(Move { left, arrived, heard }: &Move) -> f64 {
    let end = arrived.ran_at_us;
    milliseconds(heard.longest_between(end.saturating_sub((left.downtime_ms * 1e3) as u64), end))
}

impl Row {
    pub(super) fn new(scene: &Scene<'_>, mode: Way, rest: &Heard) -> Self {
        let none = Samples::default().spread();
        Self {
            mebibytes: scene.mebibytes,
            dirty_pages_per_second: scene.rate,
            mode,
            link: scene.link,
            moved: 0,
            failed: Vec::new(),
            tracking: String::new(),
            downtime: none,
            client_in_pause: none,
            client: none,
            client_at_rest_ms: longest(rest),
            parts: Parts::default(),
            total_time: none,
            setup_ms: 0.0,
            transferred_bytes: 0.0,
            precopy_bytes: 0.0,
            downtime_bytes: 0.0,
            postcopy_bytes: 0.0,
            duplicate_pages: 0.0,
            dirty_sync_count: 0.0,
            dirty_pages_rate: 0.0,
            cpu_throttle_percentage: 0.0,
            postcopy_requests: 0.0,
            postcopy_blocktime_ms: 0.0,
            mb_per_second: 0.0,
            source_cpu_ms: 0.0,
            destination_cpu_ms: 0.0,
            source_peak_bytes: 0.0,
            destination_peak_bytes: 0.0,
            epochs: 0,
            asked: 0,
            answered: 0,
            wrong: rest.wrong,
            last_words: String::new(),
            samples: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, one: &Move) {
        let (Move { left, arrived, heard }, in_pause_ms) = (one, in_pause(one));
        self.wrong += heard.wrong;
        if !left.moved {
            self.failed.push(left.outcome.clone());
            return;
        }
        self.moved += 1;
        self.samples.push(Sample {
            left: left.clone(),
            arrived: arrived.clone(),
            in_pause_ms,
            longest_ms: longest(heard),
        });
    }

    /// Takes what the client counted in the end, and sums up.
    pub(super) fn close(&mut self, (asked, answered, last_words): (u64, u64, String)) {
        (self.asked, self.answered, self.last_words) = (asked, answered, last_words);
        let all = |of: &dyn Fn(&Sample) -> f64| {
            let mut samples = Samples::default();
            self.samples.iter().for_each(|sample| samples.add(of(sample)));
            samples
        };
        let median = |of: &dyn Fn(&Sample) -> f64| all(of).median();
        let parts = Parts {
            time_to_safepoint: median(&|s| s.left.time_to_safepoint_ms),
            capture: median(&|s| s.left.capture_ms),
            staged: median(&|s| s.left.staged_ms),
            commit: median(&|s| s.left.commit_ms),
            activate: median(&|s| s.left.activate_ms),
            expected: median(&|s| s.left.expected_downtime_ms),
            destination_restore: median(&|s| s.arrived.restore_ms),
            destination_staging: median(&|s| s.arrived.staging_ms),
            destination_run: median(&|s| s.arrived.run_ms),
            destination_first_call: median(&|s| s.arrived.first_call_ms.unwrap_or_default()),
        };
        let speed = median(&|s| {
            let seconds = (s.left.total_time_ms - s.left.setup_time_ms) / 1e3;
            s.left.transferred as f64 / 1e6 / seconds.max(1e-9)
        });
        let (downtime, client) = (all(&|s| s.left.downtime_ms).spread(), all(&|s| s.longest_ms).spread());
        self.client_in_pause = all(&|s| s.in_pause_ms).spread();
        let total_time = all(&|s| s.left.total_time_ms).spread();
        let numbers = [
            median(&|s| s.left.setup_time_ms),
            median(&|s| s.left.transferred as f64),
            median(&|s| s.left.precopy_bytes as f64),
            median(&|s| s.left.downtime_bytes as f64),
            median(&|s| s.left.postcopy_bytes as f64),
            median(&|s| s.left.duplicate as f64),
            median(&|s| s.left.dirty_sync_count as f64),
            median(&|s| s.left.dirty_pages_rate as f64),
            median(&|s| f64::from(s.left.cpu_throttle_percentage)),
            median(&|s| s.left.postcopy_requests as f64),
            median(&|s| s.left.postcopy_blocktime_ms),
            median(&|s| s.left.used.cpu_ms),
            median(&|s| s.arrived.used.cpu_ms),
            median(&|s| s.left.used.peak_bytes as f64),
            median(&|s| s.arrived.used.peak_bytes as f64),
        ];
        [
            self.setup_ms,
            self.transferred_bytes,
            self.precopy_bytes,
            self.downtime_bytes,
            self.postcopy_bytes,
            self.duplicate_pages,
            self.dirty_sync_count,
            self.dirty_pages_rate,
            self.cpu_throttle_percentage,
            self.postcopy_requests,
            self.postcopy_blocktime_ms,
            self.source_cpu_ms,
            self.destination_cpu_ms,
            self.source_peak_bytes,
            self.destination_peak_bytes,
        ] = numbers;
        self.tracking = self.samples.first().map(|sample| sample.left.method.clone()).unwrap_or_default();
        (self.parts, self.mb_per_second) = (parts, speed);
        (self.downtime, self.client, self.total_time) = (downtime, client, total_time);
    }

    pub(super) fn line(&self) -> String {
        format!(
            "{:>5} MiB {:>7}/s {:<9} {:<18} {}/{} moved, pause {} (client {}), total {}",
            self.mebibytes,
            self.dirty_pages_per_second,
            self.mode.name(),
            self.link.text(),
            self.moved,
            self.moved + self.failed.len(),
            text::time_of(self.downtime.p50),
            text::time_of(self.client.p50),
            text::time_of(self.total_time.p50),
        )
    }
}

/// A longest pause that was asked for, with a move that fails rather than pause for longer.
#[derive(Debug, Serialize)]
pub(super) struct Limit {
    mebibytes: u64,
    dirty_pages_per_second: u64,
    max_downtime_ms: f64,
    moved: usize,
    failed: Vec<String>,
    /// Of the moves.
    longest_downtime_ms: f64,
    longest_client_ms: f64,
    /// Of the moves that failed: how long the program stood all the same.
    longest_failed_client_ms: f64,
    lost: u64,
    wrong: u64,
    last_words: String,
}

impl Limit {
    pub(super) fn new(scene: &Scene<'_>, limit: std::time::Duration) -> Self {
        Self {
            mebibytes: scene.mebibytes,
            dirty_pages_per_second: scene.rate,
            max_downtime_ms: milliseconds(limit),
            moved: 0,
            failed: Vec::new(),
            longest_downtime_ms: 0.0,
            longest_client_ms: 0.0,
            longest_failed_client_ms: 0.0,
            lost: 0,
            wrong: 0,
            last_words: String::new(),
        }
    }

    pub(super) fn add(&mut self, Move { left, arrived: _, heard }: &Move) {
        self.wrong += heard.wrong;
        if left.moved {
            self.moved += 1;
            self.longest_downtime_ms = self.longest_downtime_ms.max(left.downtime_ms);
            self.longest_client_ms = self.longest_client_ms.max(longest(heard));
        } else {
            self.failed.push(left.outcome.clone());
            self.longest_failed_client_ms = self.longest_failed_client_ms.max(longest(heard));
        }
    }

    pub(super) fn close(&mut self, (asked, answered, last_words): (u64, u64, String)) {
        (self.lost, self.last_words) = (asked - answered, last_words);
    }

    pub(super) fn line(&self) -> String {
        format!(
            "{:>5} MiB {:>7}/s at most {}: {} moved (longest pause {}), {} failed (client waited {})",
            self.mebibytes,
            self.dirty_pages_per_second,
            text::time_of(self.max_downtime_ms),
            self.moved,
            text::time_of(self.longest_downtime_ms),
            self.failed.len(),
            text::time_of(self.longest_failed_client_ms),
        )
    }
}

impl Report {
    pub(super) fn new(machine: Machine, storage: Storage, encrypted: bool, moves: usize) -> Self {
        let (raw, rows, limits, missing) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { machine, storage, encrypted, moves, raw, rows, limits, missing }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let Storage { directory, sync_ms } = &self.storage;
        let mut out = format!(
            "{}\n{} of each kind, states staged below {directory} ({} to sync 64 KiB), {}\n\n",
            self.machine.text(),
            text::count(self.moves, "move"),
            text::time_of(*sync_ms),
            if self.encrypted { "encrypted (TLS 1.3)" } else { "not encrypted" },
        );
        out += &self.rows_text();
        out += &self.parts_text();
        out += &self.raw_text();
        out += &self.limits_text();
        for missing in &self.missing {
            out += &format!("\nnot measured: {missing}\n");
        }
        out
    }

    fn rows_text(&self) -> String {
        let mut table = Table::new(&[
            "memory",
            ">pages/s",
            "mode",
            "link",
            ">moved",
            ">pause",
            ">p99",
            ">client in it",
            ">p99",
            ">client",
            ">p99",
            ">at rest",
            ">total",
            ">sent",
            ">rounds",
            ">MB/s",
            ">CPU",
            ">peak",
        ]);
        for row in &self.rows {
            table.row([
                format!("{} MiB", row.mebibytes),
                row.dirty_pages_per_second.to_string(),
                row.mode.name().to_owned(),
                row.link.text().to_owned(),
                format!("{}/{}", row.moved, row.moved + row.failed.len()),
                text::time_of(row.downtime.p50),
                text::time_of(row.downtime.p99),
                text::time_of(row.client_in_pause.p50),
                text::time_of(row.client_in_pause.p99),
                text::time_of(row.client.p50),
                text::time_of(row.client.p99),
                text::time_of(row.client_at_rest_ms),
                text::time_of(row.total_time.p50),
                text::bytes(row.transferred_bytes as u64),
                format!("{:.0}", row.dirty_sync_count),
                format!("{:.0}", row.mb_per_second),
                text::time_of(row.source_cpu_ms + row.destination_cpu_ms),
                text::bytes((row.source_peak_bytes + row.destination_peak_bytes) as u64),
            ]);
        }
        let wrong: u64 = self.rows.iter().map(|row| row.wrong).sum();
        let asked: u64 = self.rows.iter().map(|row| row.asked).sum();
        let answered: u64 = self.rows.iter().map(|row| row.answered).sum();
        let damaged = self.rows.iter().filter(|row| !row.last_words.ends_with(" 0 damaged")).count();
        let moves: usize = self.rows.iter().map(|row| row.moved).sum();
        let epochs: u64 = self.rows.iter().map(|row| row.epochs).sum();
        format!(
            "{}\n{asked} questions: {} lost, {wrong} out of order or answered twice; {damaged} services with damaged \
             memory; {moves} moves, {epochs} epochs\n\n",
            table.render(""),
            asked - answered.min(asked),
        )
    }

    fn parts_text(&self) -> String {
        let mut table = Table::new(&[
            "memory",
            ">pages/s",
            "mode",
            "link",
            ">safepoint",
            ">capture",
            ">staged",
            ">commit",
            ">activate",
            "|",
            ">restore",
            ">on disk",
            ">run",
            ">first call",
        ]);
        for row in &self.rows {
            let parts = &row.parts;
            table.row([
                format!("{} MiB", row.mebibytes),
                row.dirty_pages_per_second.to_string(),
                row.mode.name().to_owned(),
                row.link.text().to_owned(),
                text::time_of(parts.time_to_safepoint),
                text::time_of(parts.capture),
                text::time_of(parts.staged),
                text::time_of(parts.commit),
                text::time_of(parts.activate),
                "|".to_owned(),
                text::time_of(parts.destination_restore),
                text::time_of(parts.destination_staging),
                text::time_of(parts.destination_run),
                text::time_of(parts.destination_first_call),
            ]);
        }
        format!(
            "the pause in parts (medians), as the source measured them | as the destination did\n{}",
            table.render("")
        )
    }

    fn raw_text(&self) -> String {
        let mut out = String::new();
        for Raw { mebibytes, encrypted, mb_per_second } in &self.raw {
            let kind = if *encrypted { "TLS 1.3" } else { "TCP" };
            out += &format!("\nraw {kind} stream of {mebibytes} MiB: {mb_per_second:.0} MB/s");
            let of_this = |row: &&Row| row.mebibytes == *mebibytes && row.link == Link::Loopback && row.moved > 0;
            for row in self.rows.iter().filter(of_this).filter(|row| row.dirty_pages_per_second == 0) {
                out += &format!(", {} {:.2} of it", row.mode.name(), row.mb_per_second / mb_per_second);
            }
        }
        out + "\n"
    }

    fn limits_text(&self) -> String {
        if self.limits.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&[
            "\nat most",
            "memory",
            ">pages/s",
            ">moved",
            ">longest pause",
            ">client",
            ">failed",
            ">client waited",
            ">lost",
        ]);
        for limit in &self.limits {
            table.row([
                text::time_of(limit.max_downtime_ms),
                format!("{} MiB", limit.mebibytes),
                limit.dirty_pages_per_second.to_string(),
                limit.moved.to_string(),
                text::time_of(limit.longest_downtime_ms),
                text::time_of(limit.longest_client_ms),
                limit.failed.len().to_string(),
                text::time_of(limit.longest_failed_client_ms),
                (limit.lost + limit.wrong).to_string(),
            ]);
        }
        table.render("")
    }
}
