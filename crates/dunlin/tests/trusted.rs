//! Programs with trusted surroundings: what they get, what a move in the middle changes (nothing), and what is found on
//! the disk (nothing).

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Ran, Scratch, built};

const CANARY: &[u8] = b"canary 7f3a91c2 that nobody but the program may see";

/// A trusted module: its input in capital letters.
const UPPER: &str = r#"
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $at i32) (local $letter i32)
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 1024))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (block $end
      (loop $next
        (br_if $end (i32.ge_u (local.get $at) (i32.load (i32.const 8))))
        (local.set $letter (i32.load8_u offset=64 (local.get $at)))
        (if (i32.and (i32.ge_u (local.get $letter) (i32.const 97)) (i32.le_u (local.get $letter) (i32.const 122)))
          (then (i32.store8 offset=64 (local.get $at) (i32.sub (local.get $letter) (i32.const 32)))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))
"#;

#[track_caller]
fn ok(ran: Ran) -> Ran {
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran
}

/// The program `attested`, and a folder in which it finds two secrets.
fn prepared(name: &str) -> (Scratch, String) {
    let scratch = Scratch::new(name);
    let app = built("attested").to_str().unwrap().to_owned();
    scratch.module("upper", UPPER);
    scratch.write("tls.key", b"a private key");
    scratch.write("canary", CANARY);
    for folder in ["here", "there"] {
        for (name, file) in [("tls-key", "tls.key"), ("canary", "canary")] {
            ok(scratch.dunlin(&["broker", "secret", "--trust", folder, "--module", &app, name, file]));
        }
    }
    (scratch, app)
}

fn run(scratch: &Scratch, app: &str, stop: &[&str]) -> Ran {
    let arguments = [&["run", "--trust", "here", "--trusted", "upper=upper.wasm"], stop, &[app, "--", "2", "6"]];
    scratch.dunlin(&arguments.concat())
}

fn expected() -> String {
    let round = |number: usize| {
        let lines = [
            "evidence, challenge in it 1 time(s)".to_owned(),
            "secret tls-key of 13 bytes".to_owned(),
            format!("secret canary of {} bytes", CANARY.len()),
            format!("large 6291456 bytes {:016x} true", sum(number)),
            format!("{} values, absent: Some(44)", number + 4),
            format!("run: CONFIGURATION {number}"),
        ];
        lines.iter().map(|line| format!("round {number}: {line}\n")).collect::<String>()
    };
    format!("{}{}done, canary of {} bytes\n", round(0), round(1), CANARY.len())
}

/// FNV-1a of the large value of a round.
fn sum(number: usize) -> u64 {
    (0..6 << 20)
        .map(|index: usize| (index >> 9) as u8 ^ number as u8)
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// The canary, its digits, and parts of both.
fn shows(bytes: &[u8]) -> bool {
    let digits: String = CANARY.iter().map(|byte| format!("{byte:02x}")).collect();
    let needles = [&CANARY[..15], &CANARY[16..], &digits.as_bytes()[..30]];
    needles.iter().any(|needle| bytes.windows(needle.len()).any(|window| window == *needle))
}

#[test]
fn a_program_gets_evidence_secrets_a_sealed_store_and_trusted_modules() {
    let (scratch, app) = prepared("trusted-all");
    let ran = ok(run(&scratch, &app, &[]));
    assert_eq!(ran.stdout, expected());
    assert!(ran.stderr.contains("SIMULATED"), "{}", ran.stderr);
    // What it has put away is there the next time.
    let again = ok(run(&scratch, &app, &[]));
    assert_eq!(again.stdout, expected().replace("round 0: 4 values", "round 0: 5 values"));
    // Another program finds neither the secrets nor the store of this one.
    let mut other = fs::read(&app).unwrap();
    other.extend_from_slice(&[0, 2, 1, b'x']);
    scratch.write("other.wasm", &other);
    let foreign = ok(run(&scratch, "other.wasm", &[]));
    assert!(foreign.stdout.contains("round 0: no secret canary"), "{}", foreign.stdout);
    assert!(foreign.stdout.contains("round 0: 2 values"), "{}", foreign.stdout);
    // And without surroundings there is nothing.
    let without = scratch.dunlin(&["run", &app]);
    assert_eq!(without.stdout, "round 0: error 58\n");
}

#[test]
fn a_move_in_the_middle_of_trusted_work_changes_nothing() {
    let (scratch, app) = prepared("trusted-move");
    let expected = expected();
    let mut moved = 0;
    for safepoint in ["1", "4000", "20000", "1000000", "9000000", "14000000"] {
        for folder in ["here/values", "there/values"] {
            let _ = fs::remove_dir_all(scratch.path().join(folder));
        }
        let stop = ["--stop-at-safepoint", safepoint, "--snapshot", "app.snap"];
        let first = ok(run(&scratch, &app, &stop));
        if !first.stderr.contains("stopped") {
            continue;
        }
        moved += 1;
        let there = ["restore", "--trust", "there", "--trusted", "upper=upper.wasm", "app.snap"];
        let second = ok(scratch.dunlin(&there));
        assert_eq!(format!("{}{}", first.stdout, second.stdout), expected, "stopped at {safepoint}");
    }
    assert!(moved >= 4, "only {moved} of the stops were inside the program");
    let nothing = scratch.dunlin(&["restore", "app.snap"]);
    assert_eq!(nothing.code, Some(78), "{}", nothing.stderr);
    assert!(nothing.stderr.contains("trusted surroundings"), "{}", nothing.stderr);
}

#[test]
fn a_canary_is_found_nowhere_on_the_disk() {
    let (scratch, app) = prepared("trusted-canary");
    let ran = ok(run(&scratch, &app, &[]));
    assert!(ran.stdout.contains(&format!("canary of {} bytes", CANARY.len())), "it had it: {}", ran.stdout);
    assert!(!shows(ran.stdout.as_bytes()) && !shows(ran.stderr.as_bytes()));
    let mut looked = 0;
    for path in files(&scratch.path().join("here")) {
        assert!(!shows(&fs::read(&path).unwrap()), "{}", path.display());
        looked += 1;
    }
    assert!(looked >= 8, "a root, two secrets, the record, an index and values: {looked}");
    // The way of looking finds it where it is.
    assert!(shows(&scratch.read("canary")));
}

#[test]
fn a_sealed_volume_shows_nothing_and_opens_with_its_key_only() {
    let scratch = Scratch::new("trusted-volume");
    let shell = built("shell").to_str().unwrap().to_owned();
    let text = String::from_utf8(CANARY.to_vec()).unwrap();
    let shell = |seal: &[&str], line: &str| {
        let arguments = [&["run", "--volume", "store"], seal, &[shell.as_str()]].concat();
        scratch.dunlin_with(&arguments, format!("{line}\n").as_bytes())
    };
    let key = ["--seal", "volume.key"];
    ok(shell(&key, &format!("echo {text} > /data/said")));
    assert_eq!(ok(shell(&key, "cat /data/said")).stdout, format!("{text}\n"));
    let stored = files(&scratch.path().join("store"));
    assert!(stored.iter().any(|path| path.metadata().unwrap().len() > CANARY.len() as u64), "{stored:?}");
    for path in stored {
        let bytes = fs::read(&path).unwrap();
        assert!(!shows(&bytes), "{}", path.display());
        assert!(!bytes.windows(4).any(|window| window == b"said"), "{}", path.display());
    }
    for wrong in [&[][..], &["--seal", "another.key"]] {
        let refused = shell(wrong, "cat /data/said");
        assert_ne!(refused.code, Some(0));
        assert!(!refused.stdout.contains(&text), "{}", refused.stdout);
    }
    assert_eq!(ok(shell(&key, "cat /data/said")).stdout, format!("{text}\n"));
}
