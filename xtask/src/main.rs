//! The tasks of this repository, run as `cargo xtask TASK`. Each task is one file here. A task must never change
//! anything but build directories, `testing/guests/out` and, when asked to bless, golden files.

mod aarch64;
mod command;
mod deny;
mod floors;
mod fuzz;
mod guests;
mod purity;
mod smith;
mod soak;
mod test;
mod words;

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What every task answers. The text says what to do about it.
type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: cargo xtask TASK

  test                           all that CI checks; the tests themselves come last
  guests [--check [--bench]]     build testing/guests into testing/guests/out; --check runs each under Wasmtime (PyPI)
  floors                         crate graph, lints and file lengths; DUNLIN_BLESS=1 rewrites docs/floors.txt
  words                          forbidden words in any file
  purity                         the pure crates need nothing from their surroundings
  aarch64                        tests of stop, capture and restore on AArch64, under qemu
  deny                           licences, advisories and sources of dependencies
  soak [--minutes N] [OPTIONS]   moves a service under load: nothing lost, doubled or left behind; options of `dunlin soak`
  fuzz [--seconds N] [TARGET]    every fuzz target, or one, for N seconds each (10)
  smith [--modules N] [--seed S] random modules, instrumented and moved, against what they are as built (100,000)";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["test"] => test::run(),
        ["guests"] => guests::build(),
        ["guests", "--check"] => guests::build().and_then(|()| guests::check(false)),
        ["guests", "--check", "--bench"] => guests::build().and_then(|()| guests::check(true)),
        ["floors"] => floors::run(),
        ["words"] => words::run(),
        ["purity"] => purity::run(),
        ["aarch64"] => aarch64::run(),
        ["deny"] => deny::run(),
        ["fuzz", ref rest @ ..] => fuzz::run(rest),
        ["smith", ref rest @ ..] => smith::run(rest),
        ["soak", ref rest @ ..] => soak::run(rest),
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root of the repository").to_path_buf()
}
