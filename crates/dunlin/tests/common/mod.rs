//! Running the real program, small guests, and golden files.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "shared by test programs that each use a part")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A directory of its own for one test, empty at its start.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("dunlin-{name}"));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Compiles a guest of `tests/guests` into the directory.
    pub fn guest(&self, name: &str) -> String {
        let text = fs::read_to_string(source(&format!("guests/{name}.wat"))).unwrap();
        self.module(name, &text)
    }

    pub fn module(&self, name: &str, wat: &str) -> String {
        let file = format!("{name}.wasm");
        self.write(&file, &wat::parse_str(wat).unwrap());
        file
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.join(name), bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }

    pub fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&self.read(name)).unwrap()
    }

    /// Runs dunlin in the directory, with nothing to read.
    pub fn dunlin(&self, arguments: &[&str]) -> Ran {
        self.dunlin_with(arguments, b"")
    }

    pub fn dunlin_with(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut child = self.spawn(arguments);
        let mut stdin = child.stdin.take().unwrap();
        // A program that does not read its input closes it.
        let _ = stdin.write_all(input);
        drop(stdin);
        Ran::of(child.wait_with_output().unwrap())
    }

    pub fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
        command.args(arguments).current_dir(&self.0).env_remove("NO_COLOR").env_remove("COLUMNS");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

/// What a run of dunlin did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub bytes: Vec<u8>,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            bytes: output.stdout,
        }
    }

    /// Asserts exit code and standard output.
    #[track_caller]
    pub fn expect(&self, code: i32, stdout: &str) {
        assert_eq!((self.code, self.stdout.as_str()), (Some(code), stdout), "standard error: {}", self.stderr);
    }

    /// Asserts a failure that says all of this.
    #[track_caller]
    pub fn refuses(&self, code: i32, words: &[&str]) {
        self.expect(code, "");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is missing in: {}", self.stderr);
        }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// Compares with a file of `tests/golden`; DUNLIN_BLESS=1 writes it.
#[track_caller]
pub fn golden(name: &str, text: &str) {
    let path = source("golden").join(name);
    if std::env::var_os("DUNLIN_BLESS").is_some() {
        fs::write(&path, text).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == expected,
        "{} is not what dunlin prints now; if that is right, run the tests with DUNLIN_BLESS=1:\n{text}",
        path.display()
    );
}

/// A built guest.
#[track_caller]
pub fn built(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing/guests/out").join(name).with_extension("wasm");
    assert!(path.is_file(), "{} is missing: run cargo xtask guests", path.display());
    path.canonicalize().unwrap()
}

pub fn guest_data(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing/guests/data").join(name)).unwrap()
}
