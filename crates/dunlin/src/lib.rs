//! The command line of Dunlin: runs WebAssembly programs, stops them into snapshots, restores those, looks into both
//! and measures. It puts the other crates together and talks to people. It must never hold a mechanism that another
//! crate could need, and never print to standard output anything but a program's own output or what was asked for.

mod bench;
mod cli;
mod commands;
mod failure;
mod features;
mod file;
mod guests;
mod host;
mod keys;
mod load;
mod meter;
mod module;
mod names;
mod parse;
mod remote;
mod report;
mod session;
mod stop;
mod text;
mod trust;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::Cli;
use crate::failure::Exit;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to do when the terminal is gone.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    match commands::run(cli.command) {
        Ok(code) => code,
        Err(failure) => {
            text::error(&failure);
            failure.exit.into()
        }
    }
}
