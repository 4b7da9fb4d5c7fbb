//! What becomes of a service when a process dies in the middle of a move. `docs/handover.md` has the rules and the tests
//! that kill at every message; here real processes are killed, at moments that the phases of the move give.
//!
//! In every row: afterwards the service runs at exactly one node, the ledger names that node, and its state is not older
//! than the last committed one.

#[path = "common/cluster.rs"]
mod cluster;
mod common;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cluster::{Client, Cluster, PATIENCE};

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    SourceKeep,
    SourceNode,
    DestinationKeep,
    DestinationNode,
    Ledger,
    /// Nobody dies: the streams between source and destination are cut.
    Link,
}

/// What was seen of a move whose victim died.
#[derive(Debug)]
struct Row {
    mode: &'static str,
    victim: Victim,
    moment: String,
    node: String,
    counter: u64,
}

/// Counted and committed before each move.
const COMMITTED: u64 = 3;

/// Kills `victim` as soon as the move has come to its `phase`-th phase, and lets everybody come back.
fn kill(mode: &'static str, victim: Victim, phase: usize) -> Row {
    let name = format!("crash-{mode}-{victim:?}-{phase}").to_lowercase();
    let mut cluster = match victim {
        Victim::Link => Cluster::over_tcp(&name, &["l", "a", "b"]),
        _ => Cluster::new(&name, &["l", "a", "b"]),
    };
    let address = cluster.deploy("a", "kv");
    let mut client = Client::connect(&address);
    assert_eq!(client.ask("DEBUG POPULATE 8000 key 512"), "+OK");
    for number in 1..=COMMITTED {
        assert_eq!(client.ask("INCR n"), format!(":{number}"));
    }
    cluster.json("a", &["checkpoint", "kv", "--json"]);
    // What comes after the commit may be lost with the source, or not.
    assert_eq!(client.ask("INCR n"), format!(":{}", COMMITTED + 1));
    // Slow enough that phases last.
    let start = ["migrate", "kv", "--to", "b", "--mode", mode, "--bandwidth", "8MiB", "--detach"];
    let process = cluster.json("a", &["describe", "kv", "--json"])["process"].as_u64();
    let ran = cluster.ask("a", &start);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let moment = wait_for_phase(&cluster, ran.stdout.trim(), phase);
    match victim {
        Victim::SourceKeep => end(process.map(|pid| pid as u32)),
        Victim::DestinationKeep => end(arriving(&cluster)),
        Victim::SourceNode => cluster.kill("a"),
        Victim::DestinationNode => cluster.kill("b"),
        Victim::Ledger => cluster.kill("l"),
        Victim::Link => cluster.cut("b"),
    }
    std::thread::sleep(Duration::from_millis(300));
    for node in ["l", "a", "b"] {
        if !cluster.is_up(node) {
            cluster.start(node);
        }
    }
    let node = settled(&cluster);
    let counter = count(&cluster, &node).expect("it is known where it runs");
    assert!(counter >= COMMITTED, "{mode}, {victim:?} at {moment}: {counter} is older than what was committed");
    // One that waited for memory may have gone back to where the whole of it is, or still get it.
    over(&cluster);
    let node = settled(&cluster);
    // Exactly one: the other node sends those who come to it there, unless it forgets a service that never came.
    let other = if node == "a" { "b" } else { "a" };
    if let Some(seen) = count(&cluster, other) {
        assert_eq!(seen, counter + 1, "{mode}, {victim:?} at {moment}");
    }
    // And it can move again.
    assert_eq!(cluster.migrate("kv", other, &[])["state"], "done");
    Row { mode, victim, moment, node, counter }
}

fn end(pid: Option<u32>) {
    let pid = pid.and_then(|pid| rustix::process::Pid::from_raw(pid as i32)).expect("the keep is known");
    // It may have ended in this moment.
    let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// The keep of node b that has the most memory mapped is the one that has work.
fn arriving(cluster: &Cluster) -> Option<u32> {
    let memory = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default().to_owned();
        line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or_default()
    };
    cluster.keeps("b").into_iter().max_by_key(memory)
}

/// Follows the job until its `count`-th phase or its end; the phase's name.
fn wait_for_phase(cluster: &Cluster, id: &str, count: usize) -> String {
    let mut watch = Command::new(env!("CARGO_BIN_EXE_dunlin"));
    watch.args(["job", "watch", id]).env("DUNLIN_DIR", cluster.dir()).env("DUNLIN_NODE", "a");
    let mut child = watch.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut last = "its end".to_owned();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    for (number, line) in lines.enumerate() {
        if let Some(phase) = line.split("  ").nth(2) {
            last = phase.to_owned();
        }
        if number >= count {
            break;
        }
    }
    let _over = child.kill();
    let _over = child.wait();
    last
}

/// Waits until the service runs, and the ledger says the same as the nodes.
fn settled(cluster: &Cluster) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let node = cluster.runs("l", "kv");
        let info = cluster.ask(&node, &["describe", "kv", "--json"]);
        if info.code == Some(0) && info.json()["ledger"]["holder"] == node.as_str() && info.json()["state"] == "running"
        {
            return node;
        }
        assert!(Instant::now() < until, "node and ledger do not agree: {}", info.stdout);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until no move goes on.
fn over(cluster: &Cluster) {
    let until = Instant::now() + PATIENCE;
    while cluster.json("l", &["job", "ls", "--json"]).as_array().unwrap().iter().any(|job| job["state"] == "running") {
        assert!(Instant::now() < until, "{}", cluster.ask("l", &["job", "ls"]).stdout);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What the counter was, as whoever answers through a node says; `None` once that node does not know the service. A node
/// that has just come back may listen elsewhere than before, if its port was taken.
fn count(cluster: &Cluster, node: &str) -> Option<u64> {
    let until = Instant::now() + PATIENCE;
    while let Some(address) = &cluster.known_address(node, "kv") {
        let answer = Client::try_connect(address).and_then(|mut client| client.try_ask("INCR n"));
        match answer {
            Ok(answer) => return Some(answer.trim_start_matches(':').parse::<u64>().unwrap() - 1),
            Err(error) => assert!(Instant::now() < until, "{address}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    None
}

fn matrix(mode: &'static str) {
    let victims = [
        Victim::SourceKeep,
        Victim::SourceNode,
        Victim::DestinationKeep,
        Victim::DestinationNode,
        Victim::Ledger,
        Victim::Link,
    ];
    for victim in victims {
        // In post-copy, memory is still on its way long after the switch.
        let phases: &[usize] = if mode == "postcopy" { &[1, 3, 5, 8] } else { &[1, 3, 5] };
        for &phase in phases {
            // One row alone, for whoever looks into it: DUNLIN_CRASH=SourceKeep-8.
            if std::env::var("DUNLIN_CRASH").is_ok_and(|row| row != format!("{victim:?}-{phase}")) {
                continue;
            }
            let row = kill(mode, victim, phase);
            println!(
                "{:<9} {:<16} killed in {:<24} → runs at {}, counter {}",
                row.mode,
                format!("{:?}", row.victim),
                row.moment,
                row.node,
                row.counter
            );
        }
    }
}

#[test]
fn pre_copy() {
    matrix("precopy");
}

#[test]
fn post_copy() {
    matrix("postcopy");
}

#[test]
fn stop_and_copy() {
    matrix("stop");
}
