//! `cargo xtask smith [--modules N] [--seed S]`: random modules, instrumented against plain, and stopped and moved against
//! undisturbed. What CI checks of it is the ordinary test with its few hundred modules; this is the long run.

use crate::Result;
use crate::command::{self, cargo};

const MODULES: &str = "100000";

/// Runs the long run with an optimised build.
pub(crate) fn run(args: &[&str]) -> Result {
    let usage = || "usage: cargo xtask smith [--modules N] [--seed S]";
    let (mut modules, mut seed) = (MODULES, None);
    for pair in args.chunks(2) {
        match *pair {
            ["--modules", number] => modules = number,
            ["--seed", number] => seed = Some(number),
            _ => return Err(usage().into()),
        }
    }
    for number in [Some(modules), seed].into_iter().flatten() {
        number.parse::<u64>().map_err(|error| format!("{number:?} is no number: {error}; {}", usage()))?;
    }
    let test = ["test", "--release", "--locked", "-p", "dunlin-harness", "--test", "smith", "--"];
    let mut run = cargo(test.into_iter().chain(["--ignored", "--exact", "long_run", "--nocapture"]));
    run.env("DUNLIN_SMITH_MODULES", modules);
    if let Some(seed) = seed {
        run.env("DUNLIN_SEED", seed);
    }
    command::run(&mut run)
}
