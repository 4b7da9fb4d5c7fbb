//! The baseline: the same program in the same engine, stopped and restored by CRIU, which moves whole processes
//! between equal machines.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::guests::{Bench, Guests};
use crate::text::milliseconds;

/// What CRIU took.
#[derive(Debug, Serialize)]
pub(super) struct Criu {
    pub(super) dump_ms: f64,
    pub(super) restore_ms: f64,
    pub(super) bytes: u64,
}

/// Whether CRIU works here: what `criu check` says if not.
pub(super) fn check() -> Result<(), String> {
    match Command::new("criu").arg("check").stdin(Stdio::null()).output() {
        Err(error) => Err(format!("criu cannot be started: {error}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("criu check failed ({}): {}", output.status, said(&output))),
    }
}

/// Starts the guest in a process of its own, and dumps and restores it in the middle of its run.
pub(super) fn measure(guests: &Guests, bench: &Bench, directory: &Path, length: Duration) -> Result<Criu, String> {
    let images = directory.join("criu");
    let _ = fs::remove_dir_all(&images);
    fs::create_dir_all(&images).map_err(|error| format!("cannot create {}: {error}", images.display()))?;
    let mut child = start(guests, bench, directory).map_err(|error| format!("the guest cannot be started: {error}"))?;
    // The process compiles the guest first; its code must be running when it is dumped.
    thread::sleep(length);
    let result = dump_and_restore(child.id(), &images);
    // After a dump the process is gone; else it must not go on beside the next measurement.
    let _ = child.kill();
    let _ = child.wait();
    result
}

fn start(guests: &Guests, bench: &Bench, directory: &Path) -> io::Result<Child> {
    let (arguments, input) = bench.command();
    let stdin = directory.join("criu.in");
    fs::write(&stdin, input)?;
    Command::new(std::env::current_exe()?)
        .arg("run")
        .arg(guests.path(&bench.module))
        .arg("--")
        .args(arguments)
        .stdin(File::open(stdin)?)
        .stdout(File::create(directory.join("criu.out"))?)
        .stderr(File::create(directory.join("criu.err"))?)
        .spawn()
}

fn dump_and_restore(process: u32, images: &Path) -> Result<Criu, String> {
    let start = Instant::now();
    criu(images, &["dump", "--tree", &process.to_string(), "--shell-job"])?;
    let dump_ms = milliseconds(start.elapsed());
    let files = fs::read_dir(images).map_err(|error| format!("cannot read {}: {error}", images.display()))?;
    let bytes = files.flatten().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
    let start = Instant::now();
    criu(images, &["restore", "--restore-detached", "--shell-job"])?;
    Ok(Criu { dump_ms, restore_ms: milliseconds(start.elapsed()), bytes })
}

fn criu(images: &Path, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("criu");
    command.args(arguments).arg("--images-dir").arg(images).stdin(Stdio::null());
    match command.output() {
        Err(error) => Err(format!("criu cannot be started: {error}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("criu {} failed ({}): {}", arguments.join(" "), output.status, said(&output))),
    }
}

/// The last lines of what a command printed.
fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(6)..].join("; ")
}
