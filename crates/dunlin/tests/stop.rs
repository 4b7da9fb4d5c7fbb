//! Stopping and going on: every way to ask for a stop, hops over all engines, and refusals.

mod common;

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Child;
use std::time::{Duration, Instant};

use common::{Ran, Scratch, built};

const TIERS: [&str; 3] = ["cranelift", "pulley", "wasmi"];

fn sums() -> String {
    (1..=40_u32).map(|n| format!("{}\n", n * (n + 1) / 2)).collect()
}

#[test]
fn a_stop_at_a_counted_safepoint_is_the_same_in_every_engine() {
    let scratch = Scratch::new("stop-counted");
    let app = scratch.guest("count");
    let mut digests = Vec::new();
    for tier in TIERS {
        let snapshot = format!("{tier}.snap");
        let stop =
            ["run", "--tier", tier, "--deterministic", "1", "--stop-at-safepoint", "500", "--snapshot", &snapshot];
        let ran = scratch.dunlin(&[&stop[..], &["--report", "report.json", &app]].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(sums().starts_with(&ran.stdout) && ran.stdout.len() < sums().len(), "{}", ran.stdout);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        assert!(ran.stderr.contains("stopped by --stop-at-safepoint in "), "{}", ran.stderr);
        assert!(ran.stderr.contains(&snapshot), "{}", ran.stderr);
        let report = scratch.json("report.json");
        assert_eq!(report["outcome"], "stopped");
        assert_eq!(report["safepoints_executed"], 500);
        assert_eq!(report["bytes"], scratch.read(&snapshot).len());
        digests.push(report["digest"].clone());

        let rest = scratch.dunlin(&["restore", "--deterministic", "1", &snapshot]);
        rest.expect(0, &sums()[ran.stdout.len()..]);
        assert!(scratch.has(&snapshot), "a snapshot stays until another one replaces it");
    }
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
}

#[test]
fn a_program_hops_over_engines_until_it_ends() {
    let scratch = Scratch::new("stop-hops");
    let app = scratch.guest("count");
    let stop = ["--stop-at-safepoint", "97"];
    let first = scratch.dunlin(&[&["run"], &stop[..], &[&app]].concat());
    assert!(first.stderr.contains("stopped"), "{}", first.stderr);
    // By default the snapshot lies where the command ran, and each further stop replaces it.
    let mut output = first.stdout;
    let mut hops = 0;
    loop {
        let tier = TIERS[(hops + 1) % TIERS.len()];
        let ran = scratch.dunlin(&[&["restore", "--tier", tier], &stop[..], &["count.snap"]].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        output += &ran.stdout;
        if !ran.stderr.contains("stopped") {
            break;
        }
        hops += 1;
        assert!(hops < 1000, "it does not end");
    }
    assert_eq!(output, sums());
    assert!(hops >= 5, "only {hops} hops");
}

#[test]
fn a_program_that_ends_first_writes_nothing() {
    let scratch = Scratch::new("stop-late");
    let app = scratch.guest("count");
    for stop in [["--stop-at-safepoint", "1000000"], ["--stop-after", "10m"]] {
        let ran = scratch.dunlin(&[&["run", "--report", "report.json"], &stop[..], &[&app]].concat());
        ran.expect(0, &sums());
        assert_eq!(ran.stderr, "");
        assert_eq!(scratch.json("report.json")["outcome"], "exited");
        assert!(!scratch.has("count.snap"));
    }
}

#[test]
fn a_stop_after_a_time_leaves_a_loop_without_calls() {
    let scratch = Scratch::new("stop-after");
    let app = scratch.guest("spin");
    let ran = scratch.dunlin(&["run", "--stop-after", "50ms", "--report", "report.json", &app]);
    ran.expect(0, "begun\n");
    assert!(ran.stderr.contains("after --stop-after in spin (function 1) at 0x"), "{}", ran.stderr);
    let report = scratch.json("report.json");
    assert_eq!((report["by"].as_str(), report["frames"].as_u64()), (Some("--stop-after"), Some(2)));
    assert!(report["run_ms"].as_f64().unwrap() >= 49.0);
    assert!(report["to_safepoint_ms"].as_f64().unwrap() < 5000.0);
    for tier in TIERS {
        let again = ["restore", "--tier", tier, "--stop-after", "20ms", "spin.snap"];
        let ran = scratch.dunlin(&again);
        ran.expect(0, "");
        assert!(ran.stderr.contains("in spin (function 1)"), "{}", ran.stderr);
    }
}

#[test]
fn a_signal_stops_a_loop() {
    let scratch = Scratch::new("stop-signal");
    let app = scratch.guest("spin");
    let ran = signal_after_its_first_line(scratch.spawn(&["run", &app]));
    ran.expect(0, "");
    assert!(ran.stderr.contains(" after SIGUSR1 in "), "{}", ran.stderr);
    assert!(scratch.has("spin.snap"));
}

#[test]
fn a_signal_stops_a_program_that_waits_for_input() {
    let scratch = Scratch::new("stop-wait");
    let app = scratch.guest("ask");
    let ran = signal_after_its_first_line(scratch.spawn(&["run", &app]));
    ran.expect(0, "");
    assert!(ran.stderr.contains("after SIGUSR1"), "{}", ran.stderr);
    // The call is issued again where the program goes on.
    for tier in TIERS {
        scratch.dunlin_with(&["restore", "--tier", tier, "ask.snap"], b"an answer\n").expect(0, "an answer\n");
    }
}

#[test]
fn the_module_can_stay_out_of_the_snapshot() {
    let scratch = Scratch::new("stop-module");
    let app = scratch.guest("count");
    let first = scratch.dunlin(&["run", "--stop-at-safepoint", "500", "--no-embed-module", &app]);
    let digest = dunlin_base::Digest::of(&scratch.read(&app)).to_string();
    scratch.dunlin(&["restore", "count.snap"]).refuses(66, &["does not carry its module", &digest, "--module"]);
    let other = scratch.guest("spin");
    scratch
        .dunlin(&["restore", "--module", &other, "count.snap"])
        .refuses(65, &["count.snap cannot be restored", "was taken from module", &digest]);
    let rest = scratch.dunlin(&["restore", "--module", &app, "count.snap"]);
    rest.expect(0, &sums()[first.stdout.len()..]);
}

#[test]
fn a_module_that_cannot_be_moved_runs_and_refuses_to_stop() {
    let scratch = Scratch::new("stop-blocked");
    let app = scratch.guest("blocked");
    scratch.dunlin_with(&["run", &app], b"some input").expect(0, "some input");
    for stop in [["--stop-at-safepoint", "5"], ["--stop-after", "1ms"]] {
        let ran = scratch.dunlin(&[&["run"], &stop[..], &[&app]].concat());
        // Every reason, with its function.
        ran.refuses(69, &["blocked.wasm cannot be stopped", "GC types", "make (function 2)", "other (function 3)"]);
    }
    // A signal is refused at once, and the program goes on.
    let mut child = scratch.spawn(&["run", &app]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"x").unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    signal(&child);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("SIGUSR1: not stopped, the program goes on") && line.contains("GC types"), "{line}");
    stdin.write_all(b"yz").unwrap();
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("yz", Some(0)));
}

#[test]
fn a_snapshot_that_cannot_be_written_leaves_the_program_running() {
    let scratch = Scratch::new("stop-unwritable");
    let app = scratch.guest("count");
    let ran = scratch.dunlin(&["run", "--stop-at-safepoint", "500", "--snapshot", "missing/a.snap", &app]);
    ran.expect(0, &sums());
    assert!(ran.stderr.contains("cannot write missing/a.snap"), "{}", ran.stderr);
    assert!(ran.stderr.contains("the program goes on here"), "{}", ran.stderr);
}

#[test]
fn damage_is_refused() {
    let scratch = Scratch::new("stop-damage");
    let app = scratch.guest("count");
    scratch.dunlin(&["run", "--stop-at-safepoint", "500", &app]);
    let good = scratch.read("count.snap");
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    scratch.write("bad.snap", &bad);
    scratch.dunlin(&["restore", "bad.snap"]).refuses(65, &["bad.snap cannot be restored", "the snapshot is damaged"]);
    scratch.write("short.snap", &good[..good.len() - 1]);
    scratch.dunlin(&["restore", "short.snap"]).refuses(65, &["the copy is incomplete"]);
    let mut newer = good;
    newer[8] = 9;
    scratch.write("newer.snap", &newer);
    scratch.dunlin(&["restore", "newer.snap"]).refuses(65, &["format version 9"]);
    scratch.write("text.snap", b"hello");
    scratch.dunlin(&["restore", "text.snap"]).refuses(65, &["not a Dunlin snapshot"]);
    scratch.dunlin(&["restore", &app]).refuses(65, &["count.wasm is a module", "dunlin run"]);
    scratch.dunlin(&["run", "count.snap"]).refuses(65, &["count.snap is a snapshot", "dunlin restore"]);
    scratch.dunlin(&["restore", "none.snap"]).refuses(66, &["cannot read none.snap"]);
}

#[test]
fn a_missing_directory_is_named() {
    let scratch = Scratch::new("stop-mount");
    scratch.write("hello.txt", b"from the file\n");
    let app = scratch.guest("dir");
    let stopped = scratch.dunlin(&["run", "--dir", ".::/data", "--stop-at-safepoint", "1000", &app]);
    assert!(stopped.stderr.contains("stopped"), "{}", stopped.stderr);
    scratch.dunlin(&["restore", "dir.snap"]).refuses(78, &["cannot be restored on this host", "/data"]);
    scratch.dunlin(&["restore", "--dir", ".::/data", "dir.snap"]).expect(0, "from the file\n");
}

/// Sends SIGUSR1 once the program has printed a line, and waits for its end.
fn signal_after_its_first_line(mut child: Child) -> Ran {
    let mut byte = [0];
    let stdout = child.stdout.as_mut().unwrap();
    while byte[0] != b'\n' {
        stdout.read_exact(&mut byte).unwrap();
    }
    signal(&child);
    let input = child.stdin.take();
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it does not stop");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(input);
    Ran::of(child.wait_with_output().unwrap())
}

fn signal(child: &Child) {
    let process = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(process, rustix::process::Signal::USR1).unwrap();
}

#[test]
fn a_service_with_connections_goes_on_and_moves_when_they_are_gone() {
    let scratch = Scratch::new("stop-service");
    let kv = built("kv");
    let mut child = scratch.spawn(&["run", "--listen", "127.0.0.1:0", kv.to_str().unwrap()]);
    let mut messages = BufReader::new(child.stderr.take().unwrap());
    let mut connection = TcpStream::connect(announced(&mut messages)).unwrap();
    assert_eq!(ask(&mut connection, "SET key value\r\n"), "+OK\r\n");
    // With a connection open it refuses, and serves on.
    signal(&child);
    let why = lines_until(&mut messages, "the program goes on here");
    assert!(why.contains("cannot be stopped now") && why.contains("descriptor"), "{why}");
    assert_eq!(ask(&mut connection, "GET key\r\n"), "$5\r\nvalue\r\n");
    assert_eq!(ask(&mut connection, "QUIT\r\n"), "+OK\r\n");
    assert_eq!(connection.read(&mut [0]).unwrap(), 0, "the service closes the connection");
    // Without, it stops, and goes on at another address with all that it knows.
    signal(&child);
    let stopped = lines_until(&mut messages, "stopped");
    assert!(stopped.contains("kv.snap"), "{stopped}");
    assert_eq!(child.wait().unwrap().code(), Some(0));

    scratch.dunlin(&["restore", "kv.snap"]).refuses(78, &["this host lacks what the program has open"]);
    let restore = ["restore", "--tier", "pulley", "--connections", "close", "--listen", "127.0.0.1:0", "kv.snap"];
    let mut child = scratch.spawn(&restore);
    let mut messages = BufReader::new(child.stderr.take().unwrap());
    let mut connection = TcpStream::connect(announced(&mut messages)).unwrap();
    assert_eq!(ask(&mut connection, "GET key\r\n"), "$5\r\nvalue\r\n");
    // Here it was told to let them go.
    signal(&child);
    lines_until(&mut messages, "stopped");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn announced(messages: &mut impl BufRead) -> String {
    let line = lines_until(messages, "listens on");
    line.trim_end().rsplit_once(' ').unwrap().1.to_owned()
}

/// All that is said up to a line with this word.
fn lines_until(messages: &mut impl BufRead, word: &str) -> String {
    let mut all = String::new();
    loop {
        let mut line = String::new();
        assert_ne!(messages.read_line(&mut line).unwrap(), 0, "{word:?} was not said: {all}");
        all += &line;
        if line.contains(word) {
            return all;
        }
    }
}

/// Sends a command in the Redis protocol, and reads the reply that is expected to come in one piece.
fn ask(connection: &mut TcpStream, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let parts: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    connection.write_all(format!("*{}\r\n{parts}", words.len()).as_bytes()).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut reply = [0; 256];
    let length = connection.read(&mut reply).unwrap();
    String::from_utf8_lossy(&reply[..length]).into_owned()
}
