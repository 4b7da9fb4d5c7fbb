//! Programs that run: exit codes, streams, arguments, limits, and what cannot be loaded.

mod common;

use common::{Scratch, built, guest_data};

#[test]
fn streams_and_exit_codes_are_the_programs_own() {
    let scratch = Scratch::new("run-own");
    let expected: String = (1..=40_u32).map(|n| format!("{}\n", n * (n + 1) / 2)).collect();
    for tier in ["cranelift", "pulley", "wasmi"] {
        let ran = scratch.dunlin(&["run", "--tier", tier, &scratch.guest("count")]);
        ran.expect(0, &expected);
        assert_eq!(ran.stderr, "");
        scratch.dunlin(&["run", "--tier", tier, &scratch.guest("exit")]).expect(42, "");
    }
    let pipe = built("pipe");
    let pipe = pipe.to_str().unwrap();
    scratch.dunlin_with(&["run", pipe, "--", "grep", "b"], b"abc\nxyz\nbb\n").expect(0, "abc\nbb\n");
    scratch.dunlin_with(&["run", pipe, "--", "grep", "zebra"], b"abc\n").expect(1, "");
}

#[test]
fn a_real_program_prints_what_it_should() {
    let scratch = Scratch::new("run-real");
    let ran = scratch.dunlin_with(&["run", built("invert").to_str().unwrap()], &guest_data("small.png"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    // The digest that guests.toml names.
    let digest = dunlin_base::Digest::of(&ran.bytes).to_string();
    assert_eq!(digest, "e4712413c6f2b7699d86669b33114bf770c2157b3e74f2392fb70f66debc1725");
}

#[test]
fn a_trap_names_its_function() {
    let scratch = Scratch::new("run-trap");
    let app = scratch.guest("trap");
    let ran = scratch.dunlin(&["run", "--report", "report.json", &app]);
    ran.expect(134, "");
    assert!(ran.stderr.contains("integer divide by zero in divide"), "{}", ran.stderr);
    assert!(ran.stderr.contains("1: main"), "{}", ran.stderr);
    assert_eq!(scratch.json("report.json")["outcome"], "trapped");
    scratch.dunlin(&["run", "--tier", "wasmi", &app]).refuses(134, &["integer divide by zero"]);
}

#[test]
fn directories_and_environment_reach_the_program() {
    let scratch = Scratch::new("run-dir");
    scratch.write("hello.txt", b"from the file\n");
    let app = scratch.guest("dir");
    scratch.dunlin(&["run", "--dir", ".::/", &app]).expect(0, "from the file\n");
    scratch.dunlin(&["run", "--dir", ".::/::ro", &app]).expect(0, "from the file\n");
    // The error number of a bad descriptor.
    scratch.dunlin(&["run", &app]).expect(8, "");
    scratch.dunlin(&["run", "--dir", "missing::/", &app]).refuses(78, &["cannot mount directory missing as `/`"]);
}

#[test]
fn limits_hold() {
    let scratch = Scratch::new("run-limits");
    let app = scratch.guest("count");
    let refused = ["memory 0 needs 65536, but the limit is 1024"];
    scratch.dunlin(&["run", "--max-memory", "1KiB", &app]).refuses(78, &refused);
    let deep = scratch.module(
        "deep",
        r#"(module (func $f (param i32) (result i32) (i32.add (i32.const 1) (call $f (local.get 0))))
            (func (export "_start") (drop (call $f (i32.const 0)))))"#,
    );
    scratch.dunlin(&["run", "--stack", "256KiB", &deep]).refuses(134, &["call stack exhausted"]);
}

#[test]
fn what_cannot_be_loaded_is_refused_with_the_reason() {
    let scratch = Scratch::new("run-refused");
    scratch.dunlin(&["run", "none.wasm"]).refuses(66, &["cannot read none.wasm", "No such file"]);
    scratch.write("text.wasm", b"hello");
    scratch.dunlin(&["run", "text.wasm"]).refuses(65, &["text.wasm is not a WebAssembly module"]);
    scratch.write("broken.wasm", b"\0asm\x01\0\0\0\x01\x7f");
    scratch
        .dunlin(&["run", "broken.wasm"])
        .refuses(65, &["broken.wasm cannot be loaded", "not a valid WebAssembly module"]);
    let library = scratch.module("library", r#"(module (func (export "f")))"#);
    scratch.dunlin(&["run", &library]).refuses(65, &["exports no function \"_start\""]);
    let foreign = scratch.module("foreign", r#"(module (import "env" "f" (func)) (func (export "_start")))"#);
    scratch.dunlin(&["run", &foreign]).refuses(78, &["env.f () -> ()"]);
}

#[test]
fn wrong_usage_is_64() {
    let scratch = Scratch::new("run-usage");
    for wrong in [
        &["run"][..],
        &["run", "--tier", "v8", "a.wasm"],
        &["run", "--stop-after", "soon", "a.wasm"],
        &["run", "--stop-at-safepoint", "0", "a.wasm"],
        &["run", "--dir", "", "a.wasm"],
        &["run", "--env", "=x", "a.wasm"],
        &["inspect"],
    ] {
        let ran = scratch.dunlin(wrong);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(64), ""), "{wrong:?}: {}", ran.stderr);
    }
    let ran = scratch.dunlin(&["restoer", "x"]);
    ran.refuses(64, &["'restore'"]);
}

#[test]
fn processor_time_is_limited_over_moves() {
    let scratch = Scratch::new("run-cpu");
    let app = scratch.guest("spin");
    for tier in ["cranelift", "pulley", "wasmi"] {
        let arguments = ["run", "--tier", tier, "--limit-cpu", "50ms", "--report", "report.json", &app];
        let ran = scratch.dunlin(&arguments);
        ran.expect(152, "begun\n");
        assert!(ran.stderr.contains("used up its 50.0 ms of processor time"), "{}", ran.stderr);
        let report = scratch.json("report.json");
        assert_eq!((&report["outcome"], &report["limit"]), (&"exhausted".into(), &"cpu".into()));
    }
    // What was used before a move counts after it.
    let first = ["run", "--limit-cpu", "10s", "--stop-after", "400ms", "--snapshot", "spin.snap", &app];
    assert_eq!(scratch.dunlin(&first).code, Some(0));
    let second = ["restore", "--limit-cpu", "1us", "--snapshot", "other.snap", "spin.snap"];
    scratch.dunlin(&second).refuses(152, &["used up"]);
    assert!(!scratch.has("other.snap"));
    // A program that waits uses nothing.
    let blocked = scratch.guest("ask");
    scratch.dunlin_with(&["run", "--limit-cpu", "5s", &blocked], b"input\n").expect(0, "begun\ninput\n");
    let fixed = scratch.guest("blocked");
    scratch.dunlin(&["run", "--limit-cpu", "5s", &fixed]).refuses(69, &["limit of processor time"]);
}
