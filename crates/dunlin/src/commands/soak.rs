//! `dunlin soak`, hidden: moves a service back and forth under load for as long as one likes, and looks for what is lost,
//! doubled or left behind. `cargo xtask soak` runs it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use dunlin_node::{ApiClient, JobState, ModeName, Node, ServiceInfo};
use serde::Serialize;

use super::demo::Directory;
use super::demo::live::{self, NAME};
use crate::commands::{migrate, nodes};
use crate::failure::{Exit, Failure, Result};
use crate::load::{Load, Totals};
use crate::remote::{self, refused};
use crate::report::run::json;
use crate::text;

/// Move a service back and forth under load
#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    minutes: f64,
    /// Requests a second
    #[arg(long, value_name = "N", default_value_t = 1000)]
    rate: u64,
    /// How many values of 512 bytes the service holds
    #[arg(long, value_name = "N", default_value_t = 4000)]
    values: u64,
    /// Undisturbed time between two moves
    #[arg(long, value_name = "TIME", value_parser = crate::parse::duration, default_value = "50ms")]
    rest: Duration,
    /// As JSON
    #[arg(long)]
    json: bool,
}

const MODES: [ModeName; 5] = [ModeName::Precopy, ModeName::Postcopy, ModeName::Hybrid, ModeName::Stop, ModeName::Auto];
/// After so many failed moves there is no point in more.
const MOST_FAILURES: usize = 20;
/// Moves before the first count of what there is: pools, caches and rings are full then.
const WARM_UP: usize = 20;
/// Between two lines about how it goes.
const EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Default, Serialize)]
struct Outcome {
    minutes: f64,
    moves: usize,
    modes: BTreeMap<String, Mode>,
    failed: Vec<String>,
    totals: Totals,
    counters_are_right: bool,
    before: Resources,
    after: Resources,
    /// What there was meanwhile, once a minute, moves that were under way included.
    course: Vec<Moment>,
    left_behind: Vec<String>,
}

/// How it stood.
#[derive(Debug, Serialize)]
struct Moment {
    minutes: f64,
    moves: usize,
    requests: u64,
    broken_connections: u64,
    resources: Resources,
}

#[derive(Debug, Default, Serialize)]
struct Mode {
    moves: usize,
    pause_p50_ms: f64,
    pause_p99_ms: f64,
    pause_max_ms: f64,
    clients_waited_max_ms: f64,
    #[serde(skip)]
    pauses: Vec<f64>,
}

/// What this process and its children have.
#[derive(Debug, Clone, Default, Serialize)]
struct Resources {
    descriptors: usize,
    threads: usize,
    children: usize,
    files: usize,
    memory_bytes: u64,
    keeps_memory_bytes: u64,
}

pub(crate) fn run(args: &Soak) -> Result<ExitCode> {
    let directory = Directory::new(None)?;
    let runtime = remote::runtime(true)?;
    let outcome = runtime.block_on(async {
        let names = ["a".to_owned(), "b".to_owned()];
        let nodes = nodes::start(directory.path(), &names, 2).await?;
        let soaked = soak(args, &nodes, directory.path()).await;
        for node in &nodes {
            node.shut_down().await;
        }
        let mut outcome = soaked?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let children = children().len();
        if children > 0 {
            outcome.left_behind.push(format!("{children} processes after the nodes had ended"));
        }
        Ok::<_, Failure>(outcome)
    })?;
    runtime.shutdown_timeout(Duration::from_secs(2));
    text::print(&if args.json { json(&outcome)? } else { table(&outcome) });
    let right = outcome.failed.is_empty()
        && outcome.left_behind.is_empty()
        && outcome.counters_are_right
        && outcome.totals.is_exact();
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn soak(args: &Soak, nodes: &[Arc<Node>], directory: &Path) -> Result<Outcome> {
    let api = ApiClient::at_socket(nodes[0].api_socket());
    let service: ServiceInfo = live::deploy(&api).await?;
    let address = live::address(&service.line)?;
    let values = (args.values, 512);
    live::blocking(move || live::fill(address, values)).await?;
    let rate = args.rate;
    let failed = || "the clients cannot connect";
    let load =
        live::blocking(move || Load::start(address, 8, rate).map_err(Failure::because(Exit::Software, failed())));
    let load = load.await?;
    let mut outcome = Outcome::default();
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(args.minutes.max(0.0) * 60.0);
    let signal = tokio::spawn(nodes::end_of_service());
    text::note("the service is under load and moves; Ctrl-C ends that with what was found");
    let mut tried = 0;
    while (Instant::now() < end || outcome.moves <= WARM_UP) && !signal.is_finished() {
        if outcome.moves == WARM_UP && outcome.before.descriptors == 0 {
            outcome.before = settled(directory).await;
        }
        if begun.elapsed() >= EVERY * (outcome.course.len() as u32 + 1) {
            let minutes = begun.elapsed().as_secs_f64() / 60.0;
            let (moves, requests, broken_connections) = (outcome.moves, load.sent(), load.broken());
            let moment = Moment { minutes, moves, requests, broken_connections, resources: resources(directory) };
            text::note(moment.line(args.minutes, outcome.failed.len()));
            outcome.course.push(moment);
        }
        let mode = MODES[tried % MODES.len()];
        tried += 1;
        let to = if place(&api).await? == "a" { "b" } else { "a" };
        let hopped = migrate::carried_out(&api, NAME, to, mode, 10.0).await;
        tokio::time::sleep(args.rest).await;
        let seen = load.look();
        let job = match hopped {
            Ok(job) if job.state == JobState::Done => job,
            Ok(job) => {
                let why = job.message.unwrap_or_default();
                outcome.failed.push(format!("move {tried}, {mode:?} to {to}: {why}"));
                if outcome.failed.len() > MOST_FAILURES {
                    break;
                }
                continue;
            }
            Err(failure) => {
                outcome.failed.push(format!("move {tried}, {mode:?} to {to}: {failure}"));
                break;
            }
        };
        outcome.moves += 1;
        let mode = outcome.modes.entry(format!("{mode:?}").to_lowercase()).or_default();
        mode.moves += 1;
        mode.pauses.push(job.statistics.downtime);
        mode.clients_waited_max_ms = mode.clients_waited_max_ms.max(seen.longest_wait_ms);
    }
    outcome.minutes = begun.elapsed().as_secs_f64() / 60.0;
    if signal.is_finished() {
        signal.await.map_err(Failure::because(Exit::Software, "signals cannot be heard"))??;
        text::note("ended by a signal; this is what was found so far");
    }
    outcome.after = settled(directory).await;
    if outcome.moves > WARM_UP {
        outcome.left_behind = left_behind(&outcome.before, &outcome.after);
    }
    outcome.totals = live::blocking(move || Ok(load.finish())).await?;
    outcome.counters_are_right = live::check(nodes, &outcome.totals).await?;
    for mode in outcome.modes.values_mut() {
        mode.pauses.sort_by(f64::total_cmp);
        let part = |part: f64| {
            let at = ((mode.pauses.len() as f64 * part).ceil() as usize).saturating_sub(1);
            mode.pauses.get(at).copied().unwrap_or_default()
        };
        (mode.pause_p50_ms, mode.pause_p99_ms, mode.pause_max_ms) = (part(0.5), part(0.99), part(1.0));
    }
    Ok(outcome)
}

/// The node at which the service is.
async fn place(api: &ApiClient) -> Result<String> {
    let service: ServiceInfo =
        api.get(&format!("/v1/services/{NAME}")).await.map_err(refused("the service cannot be described"))?;
    Ok(service.line.node)
}

impl Moment {
    fn line(&self, of: f64, failed: usize) -> String {
        let Resources { descriptors, memory_bytes, keeps_memory_bytes, .. } = self.resources;
        format!(
            "{:.0} of {of} min: {}, {failed} failed; {} requests, {} connections broken; {descriptors} descriptors, nodes {}, \
             keeps {}",
            self.minutes,
            text::count(self.moves, "move"),
            self.requests,
            self.broken_connections,
            text::bytes(memory_bytes),
            text::bytes(keeps_memory_bytes),
        )
    }
}

/// What there is once keeps that are over have ended, and the pools are full.
async fn settled(directory: &Path) -> Resources {
    tokio::time::sleep(Duration::from_secs(2)).await;
    resources(directory)
}

fn resources(directory: &Path) -> Resources {
    let children = children();
    let keeps_memory_bytes = children.iter().map(|pid| memory(&format!("/proc/{pid}/status"))).sum();
    Resources {
        descriptors: entries(Path::new("/proc/self/fd")),
        threads: entries(Path::new("/proc/self/task")),
        children: children.len(),
        files: files(directory),
        memory_bytes: memory("/proc/self/status"),
        keeps_memory_bytes,
    }
}

fn left_behind(before: &Resources, after: &Resources) -> Vec<String> {
    let mut left = Vec::new();
    let mut more = |what: &str, before: u64, after: u64, allowed: u64| {
        if after > before + allowed {
            left.push(format!("{what}: {before} before, {after} after"));
        }
    };
    more("descriptors", before.descriptors as u64, after.descriptors as u64, 8);
    more("threads", before.threads as u64, after.threads as u64, 8);
    more("processes", before.children as u64, after.children as u64, 0);
    more("files", before.files as u64, after.files as u64, 8);
    // Allocators do not give everything back.
    let slack = |bytes: u64| bytes / 4 + (16 << 20);
    more("bytes of the nodes", before.memory_bytes, after.memory_bytes, slack(before.memory_bytes));
    let keeps = before.keeps_memory_bytes;
    more("bytes of the keeps", keeps, after.keeps_memory_bytes, slack(keeps));
    left
}

/// Processes that this one has started.
fn children() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

/// Files below a directory, but for the list of jobs, which is bounded by itself.
fn files(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() && entry.file_name() != "jobs" => files(&entry.path()),
            Ok(kind) if kind.is_dir() => 0,
            _ => 1,
        })
        .sum()
}

fn memory(status: &str) -> u64 {
    let text = std::fs::read_to_string(status).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// What it is called, how much of it there is, and how that is written.
type Resource = (&'static str, fn(&Resources) -> u64, fn(u64) -> String);

fn table(outcome: &Outcome) -> String {
    let mut modes = text::Table::new(&["MODE", ">MOVES", ">PAUSE P50", ">P99", ">MAX", ">CLIENTS WAITED"]);
    for (name, mode) in &outcome.modes {
        modes.row([
            name.clone(),
            mode.moves.to_string(),
            text::time_of(mode.pause_p50_ms),
            text::time_of(mode.pause_p99_ms),
            text::time_of(mode.pause_max_ms),
            text::time_of(mode.clients_waited_max_ms),
        ]);
    }
    let mut resources = text::Table::new(&["WHAT", ">BEFORE", ">MOST", ">AFTER"]);
    let number = |number: u64| number.to_string();
    let rows: [Resource; 6] = [
        ("descriptors", |of| of.descriptors as u64, number),
        ("threads", |of| of.threads as u64, number),
        ("keeps", |of| of.children as u64, number),
        ("files", |of| of.files as u64, number),
        ("memory of the nodes", |of| of.memory_bytes, text::bytes),
        ("memory of the keeps", |of| of.keeps_memory_bytes, text::bytes),
    ];
    let (before, after) = (&outcome.before, &outcome.after);
    for (what, of, said) in rows {
        let most = outcome.course.iter().map(|moment| &moment.resources).chain([before, after]).map(of).max();
        resources.row([what.to_owned(), said(of(before)), said(most.unwrap_or_default()), said(of(after))]);
    }
    let totals = &outcome.totals;
    let mut said = format!(
        "{} in {:.1} minutes\n\n{}\n{}\n{} requests: lost {}, doubled {}, connections broken {}; waited {} at the median, {} \
         at the 99th percentile, {} at most\ncounters are {}\n",
        text::count(outcome.moves, "move"),
        outcome.minutes,
        modes.render(""),
        resources.render(""),
        totals.requests,
        totals.lost,
        totals.doubled,
        totals.broken_connections,
        text::time_of(totals.wait_p50_ms),
        text::time_of(totals.wait_p99_ms),
        text::time_of(totals.wait_max_ms),
        if outcome.counters_are_right { "right" } else { "WRONG" },
    );
    for line in outcome.failed.iter().map(|reason| format!("failed: {reason}\n")) {
        said.push_str(&line);
    }
    for line in outcome.left_behind.iter().map(|what| format!("left behind: {what}\n")) {
        said.push_str(&line);
    }
    said
}
