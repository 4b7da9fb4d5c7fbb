//! Starting other programs.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Result, root};

/// A program that is needed and not there, with what brings it. `cargo xtask test` goes on without it, except in CI.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) String);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// The cargo that runs this task, in the root of the repository.
pub(crate) fn cargo<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Runs a program to its end, its output going where ours goes.
pub(crate) fn run(command: &mut Command) -> Result {
    let status = command.stdin(Stdio::null()).status().map_err(|error| cannot_start(command, &error))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed: {status}", describe(command)).into()) }
}

/// Runs a program and gives its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(|error| cannot_start(command, &error))?;
    if !output.status.success() {
        return Err(format!("{} failed: {}", describe(command), output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Where a program lies, if it is in the search path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let directories = env::var_os("PATH")?;
    env::split_paths(&directories).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// Adds a compilation target to the toolchain if it is not there.
pub(crate) fn need_target(target: &str) -> Result {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()))?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(target).join("lib").is_dir() {
        return Ok(());
    }
    run(Command::new("rustup").args(["target", "add", target]).current_dir(root())).map_err(|error| {
        Missing(format!("the Rust target {target} is missing; `rustup target add {target}` did not work: {error}"))
            .into()
    })
}

/// What cargo says about the workspace, or about the manifest given.
pub(crate) fn metadata(args: &[&str]) -> Result<Value> {
    let text = output(cargo(["metadata", "--format-version", "1", "--locked"]).args(args))?;
    Ok(serde_json::from_str(&text)?)
}

fn describe(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn cannot_start(command: &Command, error: &std::io::Error) -> String {
    format!("cannot start {}: {error}", command.get_program().to_string_lossy())
}
