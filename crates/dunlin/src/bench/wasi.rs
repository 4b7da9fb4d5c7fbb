//! What WASI costs: a service on TCP, and files. Everything runs in processes of its own, in turns, so that what else the
//! machine does hits both sides.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Serialize;

use super::machine::Machine;
use super::statistics::Samples;
use crate::failure::{Exit, Failure, Result};
use crate::text::Table;

/// What is measured, and with what.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) guests: PathBuf,
    /// `dunlin-peer`, of `testing/peer`: Wasmtime's WASI.
    pub(crate) peer: PathBuf,
    /// The key-value guest built for this machine.
    pub(crate) native: PathBuf,
    pub(crate) rounds: usize,
    /// Requests of one round of each command.
    pub(crate) requests: u32,
    /// Size of the file.
    pub(crate) mebibytes: u32,
    pub(crate) scratch: PathBuf,
}

/// The whole measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    /// Against the same server built for this machine, since Wasmtime's preview 1 has no sockets.
    service: Vec<Service>,
    service_ratio: Option<f64>,
    /// Against Wasmtime's preview 1, in the same directory.
    files: Vec<Access>,
    missing: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Service {
    command: String,
    dunlin_per_second: f64,
    native_per_second: f64,
    ratio: f64,
}

#[derive(Debug, Serialize)]
struct Access {
    access: String,
    dunlin_ms: f64,
    wasmtime_ms: f64,
    /// Of the throughputs.
    ratio: f64,
}

/// Measures what can be measured here.
pub(crate) fn measure(setup: &Setup) -> Result<Report> {
    let machine = Machine::look();
    let own = std::env::current_exe().map_err(Failure::because(Exit::Software, "dunlin does not know where it is"))?;
    let mut missing = Vec::new();
    let service = if !setup.native.is_file() {
        let build = "cd testing/guests && cargo build --release -p kv";
        missing.push(format!("{} is not there: {build}", setup.native.display()));
        Vec::new()
    } else if Command::new("redis-benchmark").arg("--version").stdout(Stdio::null()).status().is_err() {
        missing.push("redis-benchmark is not there: apt-get install redis-tools".to_owned());
        Vec::new()
    } else {
        services(setup, &own)?
    };
    let files = if setup.peer.is_file() {
        accesses(setup, &own)?
    } else {
        let build = "cd testing/peer && cargo build --release";
        missing.push(format!("{} is not there: {build}", setup.peer.display()));
        Vec::new()
    };
    let logs: Vec<f64> = service.iter().map(|one| one.ratio.ln()).collect();
    let service_ratio = (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp());
    Ok(Report { machine, service, service_ratio, files, missing })
}

/// A process that is ended with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn services(setup: &Setup, own: &Path) -> Result<Vec<Service>> {
    let failed = || Failure::because::<std::io::Error>(Exit::Software, "a server cannot be started");
    let module = module(setup, "kv")?;
    let mut child = Command::new(own)
        .args(["run", "--listen", "127.0.0.1:0"])
        .arg(module)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed())?;
    let stderr = child.stderr.take();
    let _dunlin = Ended(child);
    let mut line = String::new();
    let mut stderr = BufReader::new(stderr.ok_or_else(|| Failure::new(Exit::Software, "no pipe"))?);
    stderr.read_line(&mut line).map_err(failed())?;
    let address: SocketAddr = line
        .rsplit(' ')
        .next()
        .and_then(|word| word.trim().parse().ok())
        .ok_or_else(|| Failure::new(Exit::Software, format!("the server does not say where it listens: {line}")))?;

    // The native server takes its listener as descriptor 3, like any socket-activated one: a shell moves it there.
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed())?;
    let native_address = listener.local_addr().map_err(failed())?;
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).map_err(|error| failed()(error.into()))?;
    let script = format!("exec \"$0\" 3<&{}", listener.as_raw_fd());
    let child = Command::new("sh").args(["-c", &script]).arg(&setup.native).spawn().map_err(failed())?;
    let _native = Ended(child);
    drop(listener);
    for address in [address, native_address] {
        TcpStream::connect(address).map_err(failed())?;
    }

    let mut samples: BTreeMap<String, [Samples; 2]> = BTreeMap::new();
    for round in 0..setup.rounds {
        for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let port = [address, native_address][side].port();
            for (command, per_second) in requests(setup, port)? {
                samples.entry(command).or_default()[side].add(per_second);
            }
        }
    }
    let service = |(command, [dunlin, native]): (String, [Samples; 2])| {
        let (dunlin, native) = (dunlin.median(), native.median());
        Service { command, dunlin_per_second: dunlin, native_per_second: native, ratio: dunlin / native }
    };
    Ok(samples.into_iter().map(service).collect())
}

/// Requests per second of each command, and of pipelined ones.
fn requests(setup: &Setup, port: u16) -> Result<Vec<(String, f64)>> {
    let failed = || Failure::new(Exit::Software, "redis-benchmark failed");
    let mut found = Vec::new();
    for (tests, pipeline, mark) in
        [("ping_mbulk,set,get,incr,lpush,rpop,hset,zadd", 1, ""), ("set,get", 16, ", 16 at once")]
    {
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", "127.0.0.1", "--csv", "-p", &port.to_string(), "-t", tests]);
        command.args(["-n", &(setup.requests * pipeline).to_string(), "-P", &pipeline.to_string()]);
        let output =
            command.output().map_err(Failure::because(Exit::Unavailable, "redis-benchmark cannot be started"))?;
        if !output.status.success() {
            return Err(failed());
        }
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let mut cells = line.split(',').map(|cell| cell.trim_matches('"'));
            let (Some(name), Some(rate)) = (cells.next(), cells.next()) else { continue };
            // The first line is a heading.
            let Ok(rate) = rate.parse() else { continue };
            found.push((format!("{name}{mark}"), rate));
        }
    }
    if found.is_empty() { Err(failed()) } else { Ok(found) }
}

fn accesses(setup: &Setup, own: &Path) -> Result<Vec<Access>> {
    let module = module(setup, "files")?;
    let directory = format!("{}::/data", setup.scratch.display());
    let size = setup.mebibytes.to_string();
    let mut samples: BTreeMap<String, [Samples; 2]> = BTreeMap::new();
    for round in 0..setup.rounds {
        for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let mut command = Command::new([own, &setup.peer][side]);
            if side == 0 {
                command.args(["run", "--dir", &directory]).arg(&module);
            } else {
                command.arg(&module).args(["--dir", &directory]);
            }
            let output = command.args(["--", "/data", &size]).output();
            let output = output.map_err(Failure::because(Exit::Software, "the program cannot be started"))?;
            if !output.status.success() {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(Failure::new(Exit::Software, format!("the program failed: {text}")));
            }
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                let mut words = line.split(' ');
                if let (Some(name), Some(Ok(time))) = (words.next(), words.next().map(str::parse::<f64>)) {
                    samples.entry(name.to_owned()).or_default()[side].add(time / 1e6);
                }
            }
        }
    }
    let access = |(access, [dunlin, wasmtime]): (String, [Samples; 2])| {
        let (dunlin, wasmtime) = (dunlin.min(), wasmtime.min());
        Access { access, dunlin_ms: dunlin, wasmtime_ms: wasmtime, ratio: wasmtime / dunlin }
    };
    Ok(samples.into_iter().map(access).collect())
}

fn module(setup: &Setup, name: &str) -> Result<PathBuf> {
    let path = setup.guests.join("out").join(name).with_extension("wasm");
    fs::canonicalize(&path).map_err(|error| {
        let message = format!("{} is missing: build the guests by `cargo xtask guests`", path.display());
        Failure::because(Exit::Unavailable, message)(error)
    })
}

impl Report {
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n", self.machine.text());
        if let Some(ratio) = self.service_ratio {
            text += "\na key-value service under redis-benchmark, against itself built for this machine (medians)\n";
            let mut table = Table::new(&["command", "requests/s", "native", "ratio"]);
            for Service { command, dunlin_per_second, native_per_second, ratio } in &self.service {
                table.row([
                    command.clone(),
                    format!("{dunlin_per_second:.0}"),
                    format!("{native_per_second:.0}"),
                    format!("{ratio:.2}"),
                ]);
            }
            text += &table.render("");
            text += &format!("geometric mean {ratio:.2}\n");
        }
        if !self.files.is_empty() {
            text += "\nfiles, against the same module in Wasmtime's WASI (minima)\n";
            let mut table = Table::new(&["access", "time", "wasmtime", "throughput ratio"]);
            for Access { access, dunlin_ms, wasmtime_ms, ratio } in &self.files {
                table.row([
                    access.clone(),
                    format!("{dunlin_ms:.2} ms"),
                    format!("{wasmtime_ms:.2} ms"),
                    format!("{ratio:.2}"),
                ]);
            }
            text += &table.render("");
        }
        for missing in &self.missing {
            text += &format!("\nnot measured: {missing}\n");
        }
        text
    }
}
