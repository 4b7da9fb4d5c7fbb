//! A value that nobody but the service may see is searched for in everything that the nodes have: what they store, what
//! they relay, and their memory. One service has it in its memory, and moves; one also has it in a file of its volume.

#[path = "common/cluster.rs"]
mod cluster;
mod common;

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use cluster::{Cluster, PATIENCE, Record};

/// What the service is called: a text that the nodes do know, to see that the searches find what is there.
const NAME: &str = "keeper-of-canaries";
/// How much of the service's memory is noise, which no compression makes smaller.
const NOISE: usize = 1 << 20;

/// A value drawn for this run, and a module that makes it of two values that have nothing of it: nodes hold the module.
struct Canary {
    module: String,
    needles: Vec<Vec<u8>>,
}

impl Canary {
    fn new() -> Self {
        let mut drawn = [0; 64];
        File::open("/dev/urandom").unwrap().read_exact(&mut drawn).unwrap();
        let (one, other) = drawn.split_at(32);
        let value: Vec<u8> = one.iter().zip(other).map(|(a, b)| a ^ b).collect();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        // Halves, in case it is cut somewhere; and in the digits that JSON and logs would have.
        let needles = value.chunks(16).flat_map(|half| [half.to_vec(), hex(half).into_bytes()]).collect();
        let text = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\{byte:02x}")).collect::<String>();
        let module = MODULE.replace("ONE", &text(one)).replace("OTHER", &text(other));
        Self { module: module.replace("NOISE", &NOISE.to_string()), needles }
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.needles.iter().any(|needle| contains(bytes, needle))
    }
}

/// Fills memory with noise, makes the value, puts it into a file, says so, and sleeps for ever.
const MODULE: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_sync" (func $sync (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "path_open"
        (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 18)
    (data (i32.const 1024) "ONE")
    (data (i32.const 1088) "OTHER")
    (data (i32.const 1152) "\00\10\00\00\20\00\00\00")
    (data (i32.const 1160) "\c0\04\00\00\0a\00\00\00")
    (data (i32.const 1216) "it has it\n")
    (data (i32.const 1232) "file")
    (func $must (param i32) (if (local.get 0) (then unreachable)))
    (func $fill (local $i i32) (local $x i64)
        (loop $more
            (local.set $x (i64.add (i64.mul (local.get $x) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
            (i32.store (i32.add (i32.const 65536) (local.get $i)) (i32.wrap_i64 (i64.shr_u (local.get $x) (i64.const 32))))
            (local.set $i (i32.add (local.get $i) (i32.const 4)))
            (br_if $more (i32.lt_u (local.get $i) (i32.const NOISE)))))
    (func $reveal (local $i i32)
        (loop $more
            (i32.store8 (i32.add (i32.const 4096) (local.get $i))
                (i32.xor (i32.load8_u (i32.add (i32.const 1024) (local.get $i)))
                    (i32.load8_u (i32.add (i32.const 1088) (local.get $i)))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $i) (i32.const 32)))))
    (func $put (local $fd i32)
        (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 1232) (i32.const 4)
            (i32.const 1) (i64.const 80) (i64.const 0) (i32.const 0) (i32.const 512)))
        (local.set $fd (i32.load (i32.const 512)))
        (call $must (call $write (local.get $fd) (i32.const 1152) (i32.const 1) (i32.const 520)))
        (call $must (call $sync (local.get $fd))))
    (func (export "_start")
        (call $fill)
        (call $reveal)
        (call $put)
        (call $must (call $write (i32.const 1) (i32.const 1160) (i32.const 1) (i32.const 520)))
        (loop $forever
            (i32.store (i32.const 16) (i32.const 1))
            (i64.store (i32.const 24) (i64.const 20000000))
            (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
            (br $forever))))"#;

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    // Most pieces do not have the first byte, or all bytes are alike: looking for that byte first is quick.
    let starts = bytes.chunks(64).enumerate().filter(|(_, piece)| piece.contains(&needle[0]));
    let mut places = starts.flat_map(|(number, piece)| {
        piece.iter().enumerate().filter(|(_, byte)| **byte == needle[0]).map(move |(at, _)| number * 64 + at)
    });
    places.any(|at| bytes[at..].starts_with(needle))
}

/// All that a process has in memory, piece by piece with an overlap, but for files that it has mapped to read them. Says how
/// much that is.
fn memory_of(process: u32, mut look: impl FnMut(&[u8])) -> usize {
    const PIECE: u64 = 1 << 20;
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let mut piece = vec![0; PIECE as usize + 64];
    let mut total = 0;
    for line in maps.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (range, rights, file) = (fields[0], fields[1], fields.get(5));
        let only_a_file = file.is_some_and(|file| file.starts_with('/')) && !rights.contains('w');
        if !rights.starts_with('r') || only_a_file {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let [mut at, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        while at < end {
            let length = (end - at).min(piece.len() as u64) as usize;
            // Some ranges are of the kernel or gone by now.
            let read = memory.read_at(&mut piece[..length], at).unwrap_or(0);
            look(&piece[..read]);
            total += read;
            at += PIECE;
        }
    }
    total
}

/// Every file below a folder; says how many bytes that is.
fn files_of(folder: &Path, look: &mut impl FnMut(&Path, &[u8])) -> usize {
    let mut total = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).map(|found| found.file_type());
        if kind.as_ref().is_ok_and(fs::FileType::is_dir) {
            total += files_of(&path, look);
        } else if kind.is_ok_and(|kind| kind.is_file()) {
            let bytes = fs::read(&path).unwrap();
            look(&path, &bytes);
            total += bytes.len();
        }
    }
    total
}

/// Searches what these nodes hold at this moment.
#[track_caller]
fn do_not_hold(nodes: &[&str], canary: &Canary, cluster: &Cluster, when: &str) {
    for node in nodes {
        let (mut found, mut known) = (false, false);
        let total = memory_of(cluster.pid(node), |piece| {
            found |= canary.is_in(piece);
            known |= contains(piece, NAME.as_bytes());
        });
        assert!(known && total > 1 << 20, "the search of node {node}'s memory finds what is there: {total} bytes");
        assert!(!found, "in the memory of node {node} {when}");
        let mut known = false;
        let folder = cluster.dir().join("nodes").join(node);
        files_of(&folder, &mut |path, bytes| {
            known |= contains(bytes, NAME.as_bytes());
            assert!(!canary.is_in(bytes), "in {} {when}", path.display());
        });
        assert!(known, "the search of node {node}'s files finds what is there");
    }
}

/// And that the search finds it where it must be, which is a keep of this node.
#[track_caller]
fn a_keep_holds(canary: &Canary, cluster: &Cluster, node: &str) {
    let holds = |keep: &u32| {
        let mut found = false;
        memory_of(*keep, |piece| found |= canary.is_in(piece));
        found
    };
    let holders = cluster.keeps(node).iter().filter(|keep| holds(keep)).count();
    assert_eq!(holders, 1, "the keep at node {node} has it");
}

/// Deploys the program at `a`, and waits until it has the value.
#[track_caller]
fn deployed(canary: &Canary, cluster: &Cluster, options: &[&str]) {
    // Without a volume it has nowhere to put it but its memory.
    let text = if options.is_empty() { canary.module.replace("(call $put)", "") } else { canary.module.clone() };
    let module = cluster.scratch.module("program", &text);
    assert!(!canary.is_in(&cluster.scratch.read(&module)), "the module has nothing of it");
    let path = cluster.scratch.path().join(module);
    let ran = cluster.ask("a", &[&["deploy", path.to_str().unwrap(), "--name", NAME], options].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let until = Instant::now() + PATIENCE;
    while !cluster.ask("a", &["logs", NAME]).stdout.contains("it has it") {
        assert!(Instant::now() < until, "{}", cluster.logs(NAME));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    a_keep_holds(canary, cluster, "a");
    cluster.json("a", &["checkpoint", NAME, "--json"]);
    assert!(stored(cluster, "states") > NOISE, "its memory is stored");
}

/// How many bytes a folder of the service has at `a`.
fn stored(cluster: &Cluster, folder: &str) -> usize {
    files_of(&cluster.dir().join("nodes/a/services").join(NAME).join(folder), &mut |_, _| ())
}

/// Moves the program from `a` to `b` and back, and begins a move that is given up.
fn travels(canary: &Canary, cluster: &Cluster, records: &[Record]) {
    let recorded = || records.iter().map(|record| record.lock().unwrap().len()).sum::<usize>();
    deployed(canary, cluster, &[]);
    for (to, mode) in [("b", "precopy"), ("a", "postcopy")] {
        let before = recorded();
        assert_eq!(cluster.migrate(NAME, to, &["--mode", mode])["state"], "done");
        assert!(recorded() - before > NOISE, "its memory went by: {before}, then {}", recorded());
        assert_eq!(cluster.runs("a", NAME), to);
        a_keep_holds(canary, cluster, to);
        do_not_hold(&["a", "b"], canary, cluster, &format!("after the move to {to}"));
    }
    // In the middle of a move that would take long.
    let before = recorded();
    let slow = ["migrate", NAME, "--to", "b", "--mode", "precopy", "--bandwidth", "64KiB", "--detach"];
    let job = cluster.ask("a", &slow).stdout.trim().to_owned();
    let until = Instant::now() + PATIENCE;
    while recorded() - before < 100 << 10 {
        assert!(Instant::now() < until, "{}", cluster.logs(NAME));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    do_not_hold(&["a", "b"], canary, cluster, "in the middle of a move");
    let given_up = cluster.ask("a", &["job", "abort", &job]);
    assert_eq!(given_up.code, Some(0), "it was in the middle: {}", given_up.stderr);
    for record in records {
        assert!(!canary.is_in(&record.lock().unwrap()), "in the traffic");
    }
}

#[test]
fn a_canary_is_not_in_what_nodes_on_one_machine_store_relay_or_hold() {
    let (canary, cluster) = (Canary::new(), Cluster::new("canary", &["a", "b"]));
    let records = [cluster.tap("a"), cluster.tap("b")];
    travels(&canary, &cluster, &records);
    // The nodes' own talk is seen in clear.
    assert!(records.iter().any(|record| contains(&record.lock().unwrap(), NAME.as_bytes())));
}

#[test]
fn a_canary_is_not_in_what_nodes_store_relay_or_hold_over_tcp() {
    let (canary, cluster) = (Canary::new(), Cluster::over_tcp("canary-tcp", &["a", "b"]));
    let records = [cluster.record("a"), cluster.record("b")];
    travels(&canary, &cluster, &records);
    // Streams that began before the recording did are not in it, and all others are TLS.
    assert!(records.iter().all(|record| !contains(&record.lock().unwrap(), NAME.as_bytes())));
}

#[test]
fn a_canary_in_a_volume_is_not_in_what_its_node_stores_or_holds() {
    let (canary, cluster) = (Canary::new(), Cluster::new("canary-volume", &["a"]));
    deployed(&canary, &cluster, &["--volume", "/data"]);
    assert!(stored(&cluster, "volume") > 32, "its file is stored");
    do_not_hold(&["a"], &canary, &cluster, "after a checkpoint");
    assert_eq!(cluster.ask("a", &["stop", NAME]).code, Some(0));
    do_not_hold(&["a"], &canary, &cluster, "once it has stopped");
}
