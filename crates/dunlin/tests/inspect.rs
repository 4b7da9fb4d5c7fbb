//! What `inspect` and `wasi matrix` print, pinned for small guests.

mod common;

use common::{Scratch, built, golden};

#[test]
fn modules() {
    let scratch = Scratch::new("inspect-module");
    for name in ["count", "blocked"] {
        let app = scratch.guest(name);
        let text = scratch.dunlin(&["inspect", &app]);
        assert_eq!(text.code, Some(0), "{}", text.stderr);
        golden(&format!("inspect-{name}.txt"), &without_sizes(&text.stdout));
        let mut json = scratch.dunlin(&["inspect", "--json", &app]).json();
        let sizes = json["size"].as_array().unwrap();
        assert_eq!(sizes.len(), if name == "count" { 3 } else { 1 });
        assert!(sizes.windows(2).all(|pair| pair[0]["bytes"].as_u64() < pair[1]["bytes"].as_u64()), "{sizes:?}");
        // What changes with every change of the instrumentation.
        json["size"].take();
        if json["instrumentation"].is_object() {
            json["instrumentation"]["map_sha256"].take();
        }
        golden(&format!("inspect-{name}.json"), &format!("{:#}\n", sorted(json)));
    }
    let foreign =
        scratch.module("foreign", r#"(module (import "env" "f" (func (param i32))) (memory (import "env" "m") 1))"#);
    let json = scratch.dunlin(&["inspect", "--json", &foreign]).json();
    assert_eq!((json["imports"][0]["supported"].as_bool(), json["command"].as_bool()), (Some(false), Some(false)));
    assert!(scratch.dunlin(&["inspect", &foreign]).stdout.contains("env.f  (i32) -> ()  MISSING"));
}

#[test]
fn a_real_module_compiled() {
    let scratch = Scratch::new("inspect-compile");
    let json = scratch.dunlin(&["inspect", "--compile", "--json", built("timers").to_str().unwrap()]).json();
    assert_eq!(json["movable"], true);
    let code = json["code"].as_array().unwrap();
    assert_eq!(code.len(), 9, "three engines, three forms: {code:?}");
    let bytes = |tier: &str, what: &str| {
        let found = code.iter().find(|code| code["tier"] == tier && code["what"] == what);
        found.unwrap()["bytes"].as_u64()
    };
    assert!(bytes("cranelift", "movable") > bytes("cranelift", "as built"));
    assert!(bytes("cranelift", "resumable") > bytes("cranelift", "movable"));
    assert!(bytes("pulley", "as built").is_some());
    assert_eq!(bytes("wasmi", "movable"), None);
}

#[test]
fn snapshots_and_their_differences() {
    let scratch = Scratch::new("inspect-snapshot");
    let app = scratch.guest("count");
    for (stop, snapshot) in [("500", "a.snap"), ("501", "b.snap")] {
        let ran =
            scratch.dunlin(&["run", "--deterministic", "1", "--stop-at-safepoint", stop, "--snapshot", snapshot, &app]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    let text = scratch.dunlin(&["inspect", "--all", "a.snap"]);
    golden("inspect-snapshot.txt", &without_digest(&text.stdout));
    let json = scratch.dunlin(&["inspect", "--json", "a.snap"]).json();
    assert_eq!(json["kind"], "snapshot");
    assert_eq!((json["restorable"].as_bool(), json["module_embedded"].as_bool()), (Some(true), Some(true)));
    assert_eq!(json["frames"][0]["name"], "main");
    assert_eq!(json["frames"][0]["values"][0]["place"], "local 0 i");
    assert_eq!(json["globals"][0]["place"], "global 0 lines");
    assert_eq!(json["bytes"], scratch.read("a.snap").len());

    scratch.dunlin(&["inspect", "a.snap", "a.snap"]).expect(0, "a.snap and a.snap hold the same state\n");
    let differences = scratch.dunlin(&["inspect", "a.snap", "b.snap"]);
    assert_eq!(differences.code, Some(1));
    golden("inspect-differences.txt", &differences.stdout);
    let json = scratch.dunlin(&["inspect", "--json", "a.snap", "b.snap"]);
    assert_eq!((json.code, json.json()["equal"].as_bool()), (Some(1), Some(false)));
    scratch.dunlin(&["inspect", "a.snap", &app]).refuses(65, &["count.wasm is not a snapshot"]);
}

#[test]
fn a_snapshot_without_its_module() {
    let scratch = Scratch::new("inspect-bare");
    let app = scratch.guest("count");
    scratch.dunlin(&["run", "--stop-at-safepoint", "500", "--no-embed-module", &app]);
    let bare = scratch.dunlin(&["inspect", "count.snap"]);
    assert!(bare.stdout.contains("the module is not at hand: give it by --module"), "{}", bare.stdout);
    assert!(bare.stdout.contains("safepoint "), "{}", bare.stdout);
    let named = scratch.dunlin(&["inspect", "--module", &app, "count.snap"]);
    assert!(named.stdout.contains("main (function "), "{}", named.stdout);
    let other = scratch.guest("spin");
    scratch.dunlin(&["inspect", "--module", &other, "count.snap"]).refuses(65, &["another module"]);
}

#[test]
fn what_is_neither_is_refused() {
    let scratch = Scratch::new("inspect-neither");
    scratch.write("text", b"hello");
    scratch.dunlin(&["inspect", "text"]).refuses(65, &["text is not a module or a snapshot"]);
    scratch.write("broken.wasm", b"\0asm\x01\0\0\0\x01\x7f");
    scratch.dunlin(&["inspect", "broken.wasm"]).refuses(65, &["broken.wasm cannot be inspected"]);
    scratch.dunlin(&["inspect", "none"]).refuses(66, &["cannot read none"]);
}

#[test]
fn the_matrix_lists_every_function() {
    let scratch = Scratch::new("wasi-matrix");
    let json = scratch.dunlin(&["wasi", "matrix", "--json"]).json();
    let functions = json.as_array().unwrap();
    assert_eq!(functions.len(), dunlin_host::matrix().len());
    let text = scratch.dunlin(&["wasi", "matrix"]).stdout;
    for function in functions {
        assert!(text.contains(function["name"].as_str().unwrap()));
    }
}

/// The snapshot's own digest covers the product's version and the compressor's choice: it may change.
fn without_digest(text: &str) -> String {
    text.lines()
        .map(|line| line.split_once(": snapshot, ").map_or(line, |_| "a.snap: snapshot"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// Sizes change with every change of the instrumentation.
fn without_sizes(text: &str) -> String {
    let size = |line: &&str| !line.starts_with("  movable ") && !line.starts_with("  resumable ");
    text.lines().filter(size).map(|line| format!("{line}\n")).collect()
}

/// The same with the members of every object in the order of their names, whether or not another crate of the build
/// asks `serde_json` to keep the order in which they stand.
fn sorted(json: serde_json::Value) -> serde_json::Value {
    match json {
        serde_json::Value::Array(items) => items.into_iter().map(sorted).collect(),
        serde_json::Value::Object(members) => {
            let mut members: Vec<_> = members.into_iter().map(|(name, member)| (name, sorted(member))).collect();
            members.sort_by(|(one, _), (other, _)| one.cmp(other));
            serde_json::Value::Object(members.into_iter().collect())
        }
        other => other,
    }
}
