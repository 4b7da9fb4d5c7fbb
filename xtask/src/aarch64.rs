//! `cargo xtask aarch64`: the tests of stop, capture and restore, built for AArch64 and run under qemu.
//!
//! `.cargo/config.toml` names the linker and qemu. Beside the tests, programs are stopped on both CPUs at the same safepoints,
//! which must give the same bytes, and moved from x86-64 to AArch64 and back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{self, Missing, cargo, find, need_target, output};
use crate::{Result, guests, root};

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// The packages whose tests run. They are built in one go: a selection of packages decides the features of what they
/// need, and another selection would build the engines anew.
const TESTS: &[&str] = &["dunlin-instrument", "dunlin-snapshot", "dunlin-engine"];

/// Builds and runs them.
pub(crate) fn run() -> Result {
    for program in ["aarch64-linux-gnu-gcc", "qemu-aarch64"] {
        if find(program).is_none() {
            let packages = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user";
            return Err(Missing(format!("{program} is missing: apt-get install {packages}")).into());
        }
    }
    need_target(TARGET)?;
    let mut tests = cargo(["test", "--locked", "--target", TARGET, "--lib", "--tests"]);
    tests.args(TESTS.iter().flat_map(|package| ["--package", package]));
    command::run(&mut tests)?;
    move_between_cpus()
}

/// Guests and the two safepoints at which each is stopped.
const MOVES: &[(&str, &[&str], [&str; 2])] = &[
    ("kernels", &["gemm", "12", "1"], ["40", "90"]),
    ("kernels", &["hash_map", "150", "1"], ["300", "700"]),
    ("deep", &["500", "1"], ["300", "100"]),
    ("sqlite", &["60"], ["5000", "20000"]),
];

/// x86-64 to AArch64 and back, comparing the bytes of every snapshot.
fn move_between_cpus() -> Result {
    guests::build()?;
    // The binary for this CPU comes with the tests of the workspace, which are built in any case.
    command::run(&mut cargo(["test", "--locked", "--workspace", "--no-run"]))?;
    command::run(&mut cargo(["build", "--locked", "--package", "dunlin", "--target", TARGET]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let here = || Command::new(target.join("debug/dunlin"));
    let there = || {
        let mut command = Command::new("qemu-aarch64");
        command.args(["-L", "/usr/aarch64-linux-gnu"]).arg(target.join(TARGET).join("debug/dunlin"));
        command
    };
    let folder = target.join("cpus");
    fs::create_dir_all(&folder)?;
    for (guest, args, [first, second]) in MOVES {
        let module = root().join("testing/guests/out").join(guest).with_extension("wasm");
        let run = |mut dunlin: Command, stop: Option<(&str, &Path)>| -> Result<String> {
            dunlin.args(["run", "--deterministic", "7"]);
            if let Some((safepoint, snapshot)) = stop {
                dunlin.args(["--stop-at-safepoint", safepoint, "--snapshot"]).arg(snapshot);
            }
            output(dunlin.arg(&module).arg("--").args(*args))
        };
        let restore = |mut dunlin: Command, from: &Path, stop: Option<(&str, &Path)>| -> Result<String> {
            dunlin.args(["restore", "--deterministic", "7"]);
            if let Some((safepoint, snapshot)) = stop {
                dunlin.args(["--stop-at-safepoint", safepoint, "--snapshot"]).arg(snapshot);
            }
            output(dunlin.arg(from))
        };
        let path = |name: &str| folder.join(format!("{guest}-{name}.snap"));
        let same = |a: &Path, b: &Path| -> Result {
            if fs::read(a)? == fs::read(b)? {
                Ok(())
            } else {
                Err(format!("{} and {} differ", a.display(), b.display()).into())
            }
        };
        let whole = run(here(), None)?;
        let [x86_first, arm_first, x86_second, arm_second] = ["x1", "a1", "x2", "a2"].map(path);
        let mut moved = run(here(), Some((first, &x86_first)))?;
        run(there(), Some((first, &arm_first)))?;
        same(&x86_first, &arm_first)?;
        moved += &restore(there(), &x86_first, Some((second, &arm_second)))?;
        restore(here(), &x86_first, Some((second, &x86_second)))?;
        same(&x86_second, &arm_second)?;
        moved += &restore(here(), &arm_second, None)?;
        if moved != whole {
            return Err(
                format!("{guest} {args:?}: moved between CPUs it printed {moved:?}, undisturbed {whole:?}").into()
            );
        }
        println!("{guest} {}: x86-64 -> AArch64 -> x86-64, equal output, equal snapshots", args.join(" "));
    }
    Ok(())
}
