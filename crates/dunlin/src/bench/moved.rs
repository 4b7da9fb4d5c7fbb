//! What moving a service with a private volume costs: it goes from one node to another, and back to where most of the volume
//! still is, in each mode. In mode `stop` the volume goes while the program stands, which is what the other modes are
//! compared with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dunlin_base::Digest;
use dunlin_node::{
    ApiClient, Deploy, JobInfo, JobState, LimitsInfo, Line, ModeName, Node, ServiceInfo, StopRequest, Stored, TierName,
};
use serde::Serialize;

use super::machine::Machine;
use super::statistics::Samples;
use crate::commands::{migrate, nodes};
use crate::failure::{Exit, Failure, Result};
use crate::guests::Guests;
use crate::remote::{self, refused};
use crate::text::{self, Table};

/// What is measured.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) rounds: usize,
    /// What is in the volume.
    pub(crate) mebibytes: u32,
    pub(crate) guests: PathBuf,
    pub(crate) scratch: PathBuf,
}

const MODES: [(ModeName, &str); 4] = [
    (ModeName::Stop, "stop"),
    (ModeName::Precopy, "precopy"),
    (ModeName::Postcopy, "postcopy"),
    (ModeName::Auto, "auto"),
];
/// The service writes to its log between moves.
const REST: Duration = Duration::from_millis(300);
/// How long it may take to fill the volume.
const FILLING: Duration = Duration::from_secs(300);

/// The whole measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    rounds: usize,
    mebibytes: u32,
    moves: Vec<Row>,
}

/// Moves of one kind: medians.
#[derive(Debug, Serialize)]
struct Row {
    mode: &'static str,
    /// Whether the destination has the volume of an earlier stay.
    back: bool,
    pause_ms: f64,
    total_ms: f64,
    /// Bytes that travelled, in the whole move and in the pause.
    bytes: f64,
    bytes_in_pause: f64,
}

#[derive(Debug, Default)]
struct Seen {
    pause: Samples,
    total: Samples,
    bytes: Samples,
    in_pause: Samples,
}

/// Measures all modes in turns.
pub(crate) fn measure(setup: &Setup) -> Result<Report> {
    let module = std::fs::read(Guests::open(&setup.guests)?.path("archive")).map_err(Failure::because(
        Exit::NoInput,
        "the guest archive cannot be read: build it with `cargo xtask guests`",
    ))?;
    let runtime = remote::runtime(true)?;
    let seen = runtime.block_on(async {
        let names = ["a".to_owned(), "b".to_owned()];
        let nodes = nodes::start(&setup.scratch, &names, 2).await?;
        let seen = rounds(&nodes, setup, &module).await;
        for node in &nodes {
            node.shut_down().await;
        }
        seen
    })?;
    runtime.shutdown_timeout(Duration::from_secs(2));
    let rows = MODES.iter().zip(&seen).flat_map(|((_, mode), both)| {
        both.iter().zip([false, true]).map(|(seen, back)| Row {
            mode,
            back,
            pause_ms: seen.pause.median(),
            total_ms: seen.total.median(),
            bytes: seen.bytes.median(),
            bytes_in_pause: seen.in_pause.median(),
        })
    });
    let moves = rows.collect();
    Ok(Report { machine: Machine::look(), rounds: setup.rounds, mebibytes: setup.mebibytes, moves })
}

async fn rounds(nodes: &[Arc<Node>], setup: &Setup, module: &[u8]) -> Result<[[Seen; 2]; MODES.len()]> {
    let first = nodes.first().ok_or_else(|| Failure::new(Exit::Software, "there are no nodes"))?;
    let api = ApiClient::at_socket(first.api_socket());
    let digest = Digest::of(module).to_string();
    let failed = || refused("the module is not stored");
    let stored: Stored = api.put(&format!("/v1/modules/{digest}"), module.to_vec()).await.map_err(failed())?;
    let mut seen: [[Seen; 2]; MODES.len()] = Default::default();
    for round in 0..setup.rounds {
        for turn in 0..MODES.len() {
            let at = (round + turn) % MODES.len();
            let (mode, name) = MODES[at];
            // One that no node knows.
            let name = format!("{name}-{round}");
            begin(&api, &name, &stored.module, setup.mebibytes).await?;
            for (to, seen) in ["b", "a"].into_iter().zip(&mut seen[at]) {
                tokio::time::sleep(REST).await;
                let statistics = moved(&api, &name, to, mode).await?.statistics;
                seen.pause.add(statistics.downtime);
                seen.total.add(statistics.total_time);
                seen.bytes.add(statistics.ram.transferred as f64);
                seen.in_pause.add(statistics.ram.downtime_bytes as f64);
            }
            end(&api, &name).await?;
        }
    }
    Ok(seen)
}

/// Deploys the service and waits until its volume is full.
async fn begin(api: &ApiClient, name: &str, module: &str, mebibytes: u32) -> Result<()> {
    let kibibytes = u64::from(mebibytes) << 10;
    let request = Deploy {
        name: name.to_owned(),
        module: module.to_owned(),
        args: vec!["/data".to_owned(), kibibytes.to_string(), "0".to_owned()],
        env: Default::default(),
        listen: Vec::new(),
        volume: Some("/data".to_owned()),
        tier: TierName::Cranelift,
        limits: LimitsInfo::default(),
        policy: None,
    };
    let deployed: ServiceInfo =
        api.post("/v1/services", &request).await.map_err(refused("the service is not deployed"))?;
    let path = format!("/v1/services/{}/logs?follow=true", deployed.line.name);
    let until_ready = api.lines(&path, |line: Line| line.text != "ready");
    let late = |_| Failure::new(Exit::Software, "the volume is not filled in time");
    tokio::time::timeout(FILLING, until_ready).await.map_err(late)?.map_err(refused("the log cannot be read"))
}

async fn moved(api: &ApiClient, name: &str, to: &str, mode: ModeName) -> Result<JobInfo> {
    let job = migrate::carried_out(api, name, to, mode, 20.0).await?;
    if job.state == JobState::Done {
        return Ok(job);
    }
    let why = job.message.clone().unwrap_or_default();
    Err(Failure::new(Exit::Software, format!("the service does not move to {to} by {mode:?}: {why}")))
}

async fn end(api: &ApiClient, name: &str) -> Result<()> {
    let path = format!("/v1/services/{name}");
    let stop: std::result::Result<(), _> = api.post(&format!("{path}/stop"), &StopRequest { kill: true }).await;
    stop.map_err(refused("the service does not stop"))?;
    api.delete(&format!("{path}?force=true")).await.map_err(refused("the service is not removed"))
}

impl Report {
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.machine.text());
        text += &format!(
            "a service with {} MiB in its volume moves to another node and back, in each mode: medians of {} rounds\n",
            self.mebibytes, self.rounds
        );
        let mut table = Table::new(&["mode", "to a node that has", ">pause", ">whole move", ">sent", ">in the pause"]);
        for Row { mode, back, pause_ms, total_ms, bytes, bytes_in_pause } in &self.moves {
            let has = if *back { "most of it" } else { "nothing" };
            table.row([
                (*mode).to_owned(),
                has.to_owned(),
                text::time_of(*pause_ms),
                text::time_of(*total_ms),
                text::bytes(*bytes as u64),
                text::bytes(*bytes_in_pause as u64),
            ]);
        }
        text + &table.render("")
    }
}
