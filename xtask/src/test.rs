//! `cargo xtask test`: all that CI checks.
//!
//! Every step runs, whatever the others did. The tests come last, so that their closing lines close the output.

use std::env;
use std::time::Instant;

use crate::command::{self, Missing, cargo, find};
use crate::{Result, aarch64, deny, floors, fuzz, guests, purity, root, soak, words};

type Step = (&'static str, fn() -> Result);

const STEPS: &[Step] = &[
    ("format", format),
    ("words", words::run),
    ("floors", floors::run),
    ("deny", deny::run),
    ("guests", guests::build),
    ("lints", lints),
    ("documentation", documentation),
    ("purity", purity::run),
    ("aarch64", aarch64::run),
    ("peer", peer),
    ("fuzz", || fuzz::run(&[])),
    ("examples", examples),
    ("soak", soak::brief),
];

/// Runs the steps, then the tests.
pub(crate) fn run() -> Result {
    let mut faults = Vec::new();
    for (name, step) in STEPS {
        println!("== {name}");
        let start = Instant::now();
        match step() {
            Ok(()) => println!("== {name} passed in {} s", start.elapsed().as_secs()),
            // In CI everything is installed, so what is missing there is a fault.
            Err(error) if error.is::<Missing>() && env::var_os("CI").is_none() => {
                println!("== {name} SKIPPED: {error}")
            }
            Err(error) => {
                println!("== {name} FAILED: {error}");
                faults.push(*name);
            }
        }
    }
    println!("== tests");
    tests()?;
    if faults.is_empty() { Ok(()) } else { Err(format!("failed before the tests: {}", faults.join(", ")).into()) }
}

fn format() -> Result {
    command::run(&mut cargo(["fmt", "--all", "--check"]))?;
    command::run(cargo(["fmt", "--all", "--check"]).current_dir(root().join("testing/guests")))
}

/// Our WASI against Wasmtime's.
fn peer() -> Result {
    let directory = root().join("testing/peer");
    let run = |args: &[&str]| {
        let mut cargo = cargo(args.iter().copied());
        command::run(cargo.env("CARGO_TARGET_DIR", root().join("target")).current_dir(&directory))
    };
    run(&["fmt", "--check"])?;
    run(&["clippy", "--locked", "--all-targets", "--", "-Dwarnings"])?;
    run(&["test", "--locked"])
}

fn lints() -> Result {
    command::run(&mut cargo(["clippy", "--workspace", "--all-targets", "--locked", "--", "-Dwarnings"]))?;
    let mut guests = cargo(["clippy", "--release", "--locked", "--target", "wasm32-wasip1", "--", "-Dwarnings"]);
    let directory = root().join("testing/guests");
    command::run(guests.env("CARGO_TARGET_DIR", directory.join("target")).current_dir(directory))
}

fn documentation() -> Result {
    command::run(cargo(["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "-Dwarnings"))
}

/// The examples in the documentation, which nextest does not run.
fn examples() -> Result {
    command::run(&mut cargo(["test", "--workspace", "--doc", "--locked"]))
}

/// Samples are drawn from this seed unless the caller names another: what passes here once passes again. The long runs, which
/// are commands of their own, draw new ones.
const SEED: &str = "20261120";

fn tests() -> Result {
    let seed = env::var("DUNLIN_SEED").unwrap_or_else(|_| SEED.to_owned());
    if find("cargo-nextest").is_some() {
        return command::run(
            cargo(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]).env("DUNLIN_SEED", seed),
        );
    }
    command::run(cargo(["test", "--workspace", "--all-targets", "--locked"]).env("DUNLIN_SEED", seed))
}
