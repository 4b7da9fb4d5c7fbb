//! Clients that others wrote, across moves: they must not notice.

#[path = "common/cluster.rs"]
mod cluster;
mod common;

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster::Cluster;

/// A program of the system; `None`, loudly, where it is missing and this is not CI.
fn find(program: &str) -> Option<PathBuf> {
    let directories = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&directories).map(|directory| directory.join(program)).find(|path| path.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{program} is missing: .ci/run installs it");
        eprintln!("SKIPPED: {program} is missing");
    }
    found
}

#[test]
fn redis_benchmark_runs_across_moves_without_an_error() {
    let Some(program) = find("redis-benchmark") else { return };
    let cluster = Cluster::new("redis", &["a", "b"]);
    let address = cluster.deploy("a", "kv");
    let (host, port) = address.rsplit_once(':').unwrap();
    let count = 60_000;
    let mut benchmark = Command::new(program);
    benchmark.args(["-h", host, "-p", port, "-n", &count.to_string(), "-c", "20", "-t", "set,get,incr,lpush"]);
    benchmark.arg("--csv").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = benchmark.spawn().unwrap();
    let mut moves = 0;
    let mut to = "b";
    while child.try_wait().unwrap().is_none() {
        let mode = ["precopy", "postcopy", "hybrid", "stop", "auto"][moves % 5];
        let job = cluster.migrate("kv", to, &["--mode", mode]);
        assert_eq!(job["state"], "done", "{job}");
        moves += 1;
        to = if to == "b" { "a" } else { "b" };
        std::thread::sleep(Duration::from_millis(100));
    }
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !said.to_lowercase().contains("error"), "{said}");
    // One line for each command, with its requests a second.
    let results = said.lines().filter(|line| line.starts_with('"') && !line.contains("rps")).count();
    assert!(results >= 4 && moves >= 3, "{moves} moves\n{said}");
}

#[test]
fn a_download_of_100_megabytes_crosses_moves_byte_exact() {
    let Some(program) = find("curl") else { return };
    let cluster = Cluster::new("curl", &["a", "b"]);
    let address = cluster.deploy("a", "http");
    let length: u64 = 100_000_000;
    let mut curl = Command::new(program);
    curl.args(["--silent", "--show-error", "--fail", "--output", "-"]);
    curl.arg(format!("http://{address}/bytes/{length}")).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = curl.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // What may have come so far: a part of it with each move, so that none finds it over, however slow this machine is.
    let allowed = Arc::new(AtomicU64::new(0));
    let limit = allowed.clone();
    let checking = std::thread::spawn(move || {
        let mut at = 0;
        let mut bytes = vec![0; 1 << 20];
        loop {
            let room = limit.load(Ordering::SeqCst).saturating_sub(at).min(bytes.len() as u64) as usize;
            if room == 0 {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let read = stdout.read(&mut bytes[..room]).unwrap();
            if read == 0 {
                return at;
            }
            for byte in &bytes[..read] {
                let word = (at / 8_u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
                assert_eq!(*byte, word[(at % 8) as usize], "byte {at}");
                at += 1;
            }
        }
    });
    for to in ["b", "a", "b"] {
        allowed.fetch_add(length / 4, Ordering::SeqCst);
        assert_eq!(cluster.migrate("http", to, &[])["state"], "done");
        assert_eq!(child.try_wait().unwrap(), None, "it is over before the moves are");
    }
    allowed.store(u64::MAX, Ordering::SeqCst);
    let status = child.wait().unwrap();
    assert_eq!((status.code(), checking.join().unwrap()), (Some(0), length));
}
