//! `cargo xtask soak`: a service moves between two nodes under load for as long as one likes. What is lost, doubled or left
//! behind (processes, descriptors, files, memory) is a fault.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::command::{self, cargo};
use crate::{Result, root};

/// How long in CI.
const MINUTES: &str = "1";

/// Runs it for as long as in CI, with the binaries that come with the tests of the workspace: another selection of packages
/// would build the engines anew.
pub(crate) fn brief() -> Result {
    command::run(&mut cargo(["test", "--locked", "--workspace", "--no-run"]))?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    command::run(Command::new(target.join("debug/dunlin")).args(["soak", "--minutes", MINUTES]))
}

/// Runs it as the caller says: `--minutes N` and options of `dunlin soak`.
pub(crate) fn run(args: &[&str]) -> Result {
    match args {
        ["--minutes", minutes, rest @ ..] if minutes.parse::<f64>().is_ok() => soak(minutes, rest),
        [] => soak(MINUTES, &[]),
        _ => Err("usage: cargo xtask soak [--minutes N] [--rate N] [--values N] [--rest TIME] [--json]".into()),
    }
}

fn soak(minutes: &str, rest: &[&str]) -> Result {
    let packages = ["--locked", "--release", "-p", "dunlin", "-p", "dunlin-keep-process"];
    command::run(cargo(["build"]).args(packages).current_dir(root()))?;
    let run = ["run", "--locked", "--release", "-p", "dunlin", "--", "soak", "--minutes", minutes];
    command::run(cargo(run).args(rest).current_dir(root()))
}
