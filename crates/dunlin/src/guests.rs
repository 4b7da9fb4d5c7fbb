//! The programs that benchmarks run: what `testing/guests/guests.toml` says about them.

use std::path::{Path, PathBuf};

use dunlin_base::Digest;
use dunlin_host::{Capture, Config, Input, Output, Source};
use serde::Deserialize;

use crate::failure::{Exit, Failure, Result};
use crate::file;
use crate::module::Module;

/// A directory of guests.
#[derive(Debug)]
pub(crate) struct Guests {
    directory: PathBuf,
    pub(crate) benches: Vec<Bench>,
}

#[derive(Debug, Deserialize)]
struct List {
    guest: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    name: String,
    module: String,
    #[serde(default)]
    variants: Vec<String>,
    bench: Option<Run>,
}

/// A run of a guest.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Run {
    /// An export `(size, repeat) -> checksum` that does the same work.
    export: Option<String>,
    size: Option<i32>,
    args: Vec<String>,
    stdin: Option<String>,
    stdin_file: Option<PathBuf>,
    stdout: Option<String>,
    stdout_sha256: Option<String>,
}

/// A benchmark.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    pub(crate) name: String,
    pub(crate) module: String,
    pub(crate) variants: Vec<String>,
    run: Run,
    stdin: Vec<u8>,
}

impl Guests {
    /// Reads the list.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let path = directory.join("guests.toml");
        let text = file::read(&path).map_err(|failure| {
            let message = "benchmarks run in the source tree, or with --guests naming its directory testing/guests";
            Failure::because(Exit::NoInput, message)(failure)
        })?;
        let wrong = || format!("{} is not a list of guests", path.display());
        let text = String::from_utf8(text).map_err(Failure::because(Exit::Data, wrong()))?;
        let list: List = toml::from_str(&text).map_err(Failure::because(Exit::Data, wrong()))?;
        let mut benches = Vec::new();
        for Entry { name, module, variants, bench } in list.guest {
            let Some(run) = bench else { continue };
            let stdin = match (&run.stdin, &run.stdin_file) {
                (Some(text), _) => text.clone().into_bytes(),
                (None, Some(file)) => file::read(&directory.join(file))?,
                (None, None) => Vec::new(),
            };
            benches.push(Bench { name, module, variants, run, stdin });
        }
        Ok(Self { directory: directory.to_owned(), benches })
    }

    /// A guest's module.
    pub(crate) fn module(&self, name: &str) -> Result<Module> {
        let path = self.path(name);
        if !path.is_file() {
            let message = format!("{} is missing: build the guests by `cargo xtask guests`", path.display());
            return Err(Failure::new(Exit::Unavailable, message));
        }
        Module::read(&path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join("out").join(name).with_extension("wasm")
    }
}

impl Bench {
    /// The export and size, if the work can be done without the whole program.
    pub(crate) fn export(&self) -> Option<(&str, i32)> {
        Some((self.run.export.as_deref()?, self.run.size?))
    }

    /// The checksum that the export must return.
    pub(crate) fn checksum(&self) -> Option<i64> {
        let word = self.run.stdout.as_deref()?.split_whitespace().next_back()?;
        Some(u64::from_str_radix(word, 16).ok()?.cast_signed())
    }

    /// The world in which the whole program runs, with its output in `output`. Clocks and random numbers are the same
    /// in every run.
    pub(crate) fn config(&self, output: &Capture) -> Config {
        Config::new()
            .arg(&self.module)
            .args(&self.run.args)
            .stdin(Input::Bytes(self.stdin.clone()))
            .stdout(Output::Capture(output.clone()))
            .source(Source::Deterministic { seed: 1 })
    }

    /// Arguments and input of the whole program.
    pub(crate) fn command(&self) -> (&[String], &[u8]) {
        (&self.run.args, &self.stdin)
    }

    /// Checks what the whole program printed.
    pub(crate) fn check(&self, output: &[u8]) -> Result<()> {
        let right = match (&self.run.stdout, &self.run.stdout_sha256) {
            (Some(text), _) => output == text.as_bytes(),
            (None, Some(digest)) => Digest::of(output).to_string() == *digest,
            (None, None) => true,
        };
        if right {
            return Ok(());
        }
        Err(Failure::new(Exit::Software, format!("{} printed something else than guests.toml says", self.name)))
    }
}
