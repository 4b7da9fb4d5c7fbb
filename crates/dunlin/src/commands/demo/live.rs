//! `dunlin demo`: a service moves between two nodes while clients use it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dunlin_base::Digest;
use dunlin_node::{
    ApiClient, Deploy, DowntimeParts, JobInfo, JobState, LimitsInfo, ModeName, Node, ServiceInfo, ServiceLine, Stored,
    TierName,
};
use serde::Serialize;

use super::Directory;
use crate::commands::{migrate, nodes};
use crate::failure::{Exit, Failure, Result};
use crate::load::{Load, Seen, Totals, counter};
use crate::remote::{self, refused};
use crate::report::run::json;
use crate::text;

/// A service in 200 KB that speaks the Redis protocol.
const PROGRAM: &[u8] = include_bytes!("../../../assets/kv.wasm");

pub(crate) const NAME: &str = "kv";
const CONNECTIONS: u64 = 8;
/// Requests a second.
const RATE: u64 = 2000;
/// What the service holds, besides the counters: as many values of so many bytes.
const VALUES: (u64, u64) = (60_000, 512);
/// Undisturbed time before, between and after moves.
const REST: Duration = Duration::from_millis(1200);

const ROUTE: [(&str, ModeName); 6] = [
    ("b", ModeName::Precopy),
    ("a", ModeName::Postcopy),
    ("b", ModeName::Hybrid),
    ("a", ModeName::Stop),
    ("b", ModeName::Auto),
    ("a", ModeName::Auto),
];

#[derive(Debug, Serialize)]
struct Outcome {
    undisturbed: Seen,
    moves: Vec<Hop>,
    totals: Totals,
    /// Every counter, read through both nodes, is at the number of requests that were sent.
    counters_are_right: bool,
}

/// One move.
#[derive(Debug, Serialize)]
struct Hop {
    at_ms: f64,
    job: JobInfo,
    seen: Seen,
}

pub(super) fn run(as_json: bool, directory: &Directory) -> Result<ExitCode> {
    let runtime = remote::runtime(true)?;
    let outcome = runtime.block_on(async {
        let names = ["a".to_owned(), "b".to_owned()];
        let nodes = nodes::start(directory.path(), &names, 2).await?;
        let stage = Stage { nodes, talks: !as_json };
        let played = stage.play().await;
        // Whatever happened, no process stays behind.
        for node in &stage.nodes {
            node.shut_down().await;
        }
        played
    })?;
    runtime.shutdown_timeout(Duration::from_secs(2));
    if as_json {
        text::print(&json(&outcome)?);
    }
    let moved = outcome.moves.iter().all(|hop| hop.job.state == JobState::Done);
    let right = moved && outcome.counters_are_right && outcome.totals.is_exact();
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Stage {
    nodes: Vec<Arc<Node>>,
    talks: bool,
}

impl Stage {
    fn say(&self, line: impl AsRef<str>) {
        if self.talks {
            text::print(&format!("{}\n", line.as_ref()));
        }
    }

    async fn play(&self) -> Result<Outcome> {
        let api = ApiClient::at_socket(self.nodes[0].api_socket());
        let begun = Instant::now();
        let service = deploy(&api).await?;
        let first = address(&service.line)?;
        self.say(format!(
            "{NAME}.wasm ({}), a service that speaks the Redis protocol, runs on node a of two, at {first}; ready in {}.",
            text::bytes(PROGRAM.len() as u64),
            text::time(begun.elapsed())
        ));
        blocking(move || fill(first, VALUES)).await?;
        self.say(format!(
            "It holds {} values of {} bytes. {CONNECTIONS} clients send it {RATE} requests a second, whether earlier ones are \
             answered or not,\nand check every reply. It moves back and forth meanwhile; no client reconnects.\n",
            VALUES.0, VALUES.1
        ));
        let failed = || "the clients cannot connect";
        let load =
            blocking(move || Load::start(first, CONNECTIONS, RATE).map_err(Failure::because(Exit::Software, failed())));
        let load = load.await?;
        tokio::time::sleep(REST).await;
        let undisturbed = load.look();
        self.say("      at  move    mode      sent      in       rounds  pause     = safepoint capture  stage    commit   start     clients waited");
        self.say(format!(
            "{:>8}  -       undisturbed{:>80}",
            text::time(load.elapsed()),
            text::time_of(undisturbed.longest_wait_ms)
        ));
        let mut moves = Vec::new();
        for (to, mode) in ROUTE {
            let hop = self.hop(&api, &load, to, mode).await?;
            self.timeline(&hop);
            moves.push(hop);
        }
        let sent = load.sent();
        let totals = blocking(move || Ok(load.finish())).await?;
        let counters_are_right = check(&self.nodes, &totals).await?;
        self.conclude(&moves, &totals, counters_are_right, sent);
        Ok(Outcome { undisturbed, moves, totals, counters_are_right })
    }

    async fn hop(&self, api: &ApiClient, load: &Load, to: &str, mode: ModeName) -> Result<Hop> {
        load.look();
        let at_ms = text::milliseconds(load.elapsed());
        let job = migrate::carried_out(api, NAME, to, mode, 5.0).await?;
        tokio::time::sleep(REST).await;
        Ok(Hop { at_ms, job, seen: load.look() })
    }

    fn timeline(&self, hop: &Hop) {
        let Hop { at_ms, job, seen } = hop;
        let statistics = &job.statistics;
        let DowntimeParts { time_to_safepoint, capture, staged, commit, activate, restore: _ } =
            statistics.downtime_parts.clone();
        let part = |part: Option<f64>| part.map_or_else(|| "-".to_owned(), text::time_of);
        let mode = format!("{:?}", job.mode).to_lowercase();
        if job.state != JobState::Done {
            self.say(format!(
                "{:>8}  {} → {}   {mode:<8}  {}",
                text::time_of(*at_ms),
                job.from,
                job.to,
                migrate::ended(job).trim_end()
            ));
            return;
        }
        self.say(format!(
            "{:>8}  {} → {}   {mode:<8}  {:<8}  {:<7}  {:<6}  {:<8}  = {:<9} {:<8} {:<8} {:<8} {:<8}  {}",
            text::time_of(*at_ms),
            job.from,
            job.to,
            text::bytes(statistics.ram.transferred),
            text::time_of(statistics.total_time),
            statistics.ram.dirty_sync_count,
            text::time_of(statistics.downtime),
            part(time_to_safepoint),
            part(capture),
            part(staged),
            part(commit),
            part(activate),
            text::time_of(seen.longest_wait_ms)
        ));
    }

    fn conclude(&self, moves: &[Hop], totals: &Totals, counters_are_right: bool, sent: u64) {
        let done = moves.iter().filter(|hop| hop.job.state == JobState::Done).count();
        self.say(format!(
            "\n{} of {}; {} requests on {} connections: lost {}, doubled {}, connections broken {}.",
            text::count(done, "move"),
            moves.len(),
            totals.requests.max(sent),
            totals.connections,
            totals.lost,
            totals.doubled,
            totals.broken_connections
        ));
        self.say(format!(
            "Clients waited {} at the median, {} at the 99th percentile, {} at most.",
            text::time_of(totals.wait_p50_ms),
            text::time_of(totals.wait_p99_ms),
            text::time_of(totals.wait_max_ms)
        ));
        self.say(if counters_are_right && totals.is_exact() && done == moves.len() {
            "EXACT: every counter, read through both nodes, is at the number of requests that were sent."
        } else {
            "NOT EXACT: see above."
        });
    }
}

/// Whether the counters, read through every node, are at the number of requests.
pub(crate) async fn check(nodes: &[Arc<Node>], totals: &Totals) -> Result<bool> {
    let mut right = true;
    for node in nodes {
        let addresses = node.service_addresses(NAME);
        right &= !addresses.is_empty();
        for address in addresses {
            let connections = totals.connections;
            right &= blocking(move || counters(address, connections)).await? == totals.requests;
        }
    }
    Ok(right)
}

pub(crate) async fn deploy(api: &ApiClient) -> Result<ServiceInfo> {
    let module = Digest::of(PROGRAM).to_string();
    let stored: Stored = api
        .put(&format!("/v1/modules/{module}"), PROGRAM.to_vec())
        .await
        .map_err(refused("the module is not stored"))?;
    let request = Deploy {
        name: NAME.to_owned(),
        module: stored.module,
        args: Vec::new(),
        env: Default::default(),
        listen: vec!["127.0.0.1:0".to_owned()],
        volume: None,
        tier: TierName::Cranelift,
        limits: LimitsInfo::default(),
        policy: None,
    };
    api.post("/v1/services", &request).await.map_err(refused("the service is not deployed"))
}

pub(crate) fn address(line: &ServiceLine) -> Result<SocketAddr> {
    let missing = || Failure::new(Exit::Software, "the service has no address");
    line.listen.first().and_then(|address| address.parse().ok()).ok_or_else(missing)
}

/// Puts values into the service.
pub(crate) fn fill(address: SocketAddr, (count, bytes): (u64, u64)) -> Result<()> {
    let answer = ask(address, &[format!("DEBUG POPULATE {count} key {bytes}")])?;
    if answer == ["+OK"] { Ok(()) } else { Err(Failure::new(Exit::Software, format!("it says {answer:?}"))) }
}

/// The sum of all counters.
fn counters(address: SocketAddr, connections: u64) -> Result<u64> {
    let questions: Vec<String> = (0..connections).map(|number| format!("INCRBY {} 0", counter(number))).collect();
    let answers = ask(address, &questions)?;
    Ok(answers.iter().filter_map(|line| line.strip_prefix(':')?.parse::<u64>().ok()).sum())
}

fn ask(address: SocketAddr, questions: &[String]) -> Result<Vec<String>> {
    let talk = || -> std::io::Result<Vec<String>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        for question in questions {
            stream.write_all(format!("{question}\r\n").as_bytes())?;
        }
        BufReader::new(stream).lines().take(questions.len()).collect()
    };
    talk().map_err(Failure::because(Exit::Software, format!("the service does not answer at {address}")))
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let panicked = Failure::because(Exit::Software, "a part of the demonstration failed");
    tokio::task::spawn_blocking(work).await.map_err(panicked)?
}
