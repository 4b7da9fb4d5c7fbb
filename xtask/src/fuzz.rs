//! `cargo xtask fuzz [--seconds N] [TARGET]`: runs the fuzz targets of `fuzz/`, each for a bounded time.

use std::process::Command;

use crate::command::{self, Missing, find, output};
use crate::{Result, root};

const SECONDS: u32 = 10;

/// Runs one target, or all.
pub(crate) fn run(args: &[&str]) -> Result {
    let (seconds, target) = match args {
        [] => (SECONDS, None),
        ["--seconds", seconds] => (seconds.parse()?, None),
        ["--seconds", seconds, target] | [target, "--seconds", seconds] => (seconds.parse()?, Some(*target)),
        [target] if !target.starts_with('-') => (SECONDS, Some(*target)),
        _ => return Err("usage: cargo xtask fuzz [--seconds N] [TARGET]".into()),
    };
    if !root().join("fuzz/Cargo.toml").is_file() {
        println!("there is nothing to fuzz: fuzz/Cargo.toml is not there");
        return Ok(());
    }
    need_tools()?;
    let known = output(&mut cargo_fuzz(&["list"]))?;
    if let Some(target) = target.filter(|target| !known.lines().any(|line| line == *target)) {
        return Err(format!("no fuzz target {target}; there are:\n{known}").into());
    }
    for name in known.lines().filter(|name| target.is_none_or(|target| target == *name)) {
        println!("fuzzing {name} for {seconds} s");
        let time = format!("-max_total_time={seconds}");
        command::run(&mut cargo_fuzz(&[
            "run",
            name,
            "--",
            &time,
            "-rss_limit_mb=4096",
            "-timeout=20",
            "-verbosity=0",
            "-print_final_stats=1",
        ]))?;
    }
    Ok(())
}

fn cargo_fuzz(args: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz"]).args(args).current_dir(root());
    // Ours is the toolchain that is pinned; fuzzing needs the nightly one.
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    command
}

fn need_tools() -> Result {
    let toolchains = find("rustup").map(|rustup| output(Command::new(rustup).args(["toolchain", "list"])));
    if !matches!(toolchains, Some(Ok(list)) if list.lines().any(|line| line.starts_with("nightly-"))) {
        let text = "a nightly toolchain is missing: rustup toolchain install nightly --profile minimal";
        return Err(Missing(text.into()).into());
    }
    if find("cargo-fuzz").is_none() {
        return Err(Missing("cargo-fuzz is missing: cargo install cargo-fuzz --locked".into()).into());
    }
    Ok(())
}
