//! `cargo xtask deny`: licences, duplicates, sources and advisories of all dependencies, as `deny.toml` says.

use crate::Result;
use crate::command::{self, Missing, cargo, find};

/// Runs cargo-deny, if it is installed.
pub(crate) fn run() -> Result {
    if find("cargo-deny").is_none() {
        return Err(Missing("cargo-deny is missing: cargo install cargo-deny --locked".into()).into());
    }
    command::run(&mut cargo(["deny", "--locked", "--all-features", "check", "bans", "licenses", "sources"]))?;
    advisories()
}

/// The list of known faults lies on GitHub, which not every network reaches: then nothing is known, and that is said.
fn advisories() -> Result {
    if let Err(error) = command::run(&mut cargo(["deny", "--locked", "fetch", "db"])) {
        println!("advisories NOT CHECKED: the advisory database could not be fetched ({error})");
        return Ok(());
    }
    command::run(&mut cargo(["deny", "--locked", "--all-features", "check", "--disable-fetch", "advisories"]))
}
