//! The programs of `testing/guests`, with what they must print.

use std::fs;
use std::path::PathBuf;

use dunlin_base::Digest;
use serde::Deserialize;

use crate::failure::{Failure, fail};
use crate::world::{Command, Files};

/// One run of a program.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The run's name.
    pub name: String,
    /// The file's name in `out`, without `.wasm`.
    pub module: String,
    /// The module.
    pub wasm: Vec<u8>,
    /// Its world.
    pub world: Command,
    /// The code with which it ends.
    pub exit: i32,
    expected: Expected,
}

#[derive(Debug, Clone)]
enum Expected {
    Text(String),
    Digest(String),
}

#[derive(Deserialize)]
struct List {
    guest: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    module: String,
    #[serde(default)]
    variants: Vec<String>,
    args: Vec<String>,
    stdin: Option<String>,
    stdin_file: Option<String>,
    #[serde(default)]
    files: bool,
    #[serde(default)]
    exit: i32,
    stdout: Option<String>,
    stdout_sha256: Option<String>,
}

impl Guest {
    /// Nothing, if `output` is what the program must print.
    ///
    /// # Errors
    /// If it is not.
    pub fn printed(&self, output: &[u8]) -> Result<(), Failure> {
        let same = match &self.expected {
            Expected::Text(text) => output == text.as_bytes(),
            Expected::Digest(digest) => Digest::of(output).to_string() == *digest,
        };
        if same { Ok(()) } else { fail!("{}: it printed {:?}", self.name, String::from_utf8_lossy(output)) }
    }
}

/// All runs of all programs, each variant on its own.
///
/// # Errors
/// If the programs have not been built.
pub fn guests() -> Result<Vec<Guest>, Failure> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../guests");
    let read = |path: &str| {
        let path = directory.join(path);
        fs::read(&path).map_err(|error| {
            Failure::new(format!("{}: {error}: build the programs with `cargo xtask guests`", path.display()))
        })
    };
    let text = String::from_utf8_lossy(&read("guests.toml")?).into_owned();
    let list: List = toml::from_str(&text).map_err(|error| Failure::new(format!("guests.toml: {error}")))?;
    let mut guests = Vec::new();
    for entry in list.guest {
        let stdin = match (&entry.stdin, &entry.stdin_file) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(file)) => read(file)?,
            (None, None) => Vec::new(),
        };
        let expected = match (entry.stdout, entry.stdout_sha256) {
            (Some(text), _) => Expected::Text(text),
            (None, Some(digest)) => Expected::Digest(digest),
            (None, None) => fail!("guests.toml: {} does not tell what it prints", entry.name),
        };
        for module in core::iter::once(&entry.module).chain(&entry.variants) {
            let places: &[Files] = if entry.files { &[Files::Directory, Files::Volume] } else { &[Files::None] };
            for files in places.iter().copied() {
                let args = core::iter::once(module).chain(&entry.args).cloned().collect();
                let name =
                    if *module == entry.module { entry.name.clone() } else { format!("{} ({module})", entry.name) };
                guests.push(Guest {
                    name: if files == Files::Volume { format!("{name} on its volume") } else { name },
                    module: module.clone(),
                    wasm: read(&format!("out/{module}.wasm"))?,
                    world: Command { args, stdin: stdin.clone(), files },
                    exit: entry.exit,
                    expected: expected.clone(),
                });
            }
        }
    }
    Ok(guests)
}
