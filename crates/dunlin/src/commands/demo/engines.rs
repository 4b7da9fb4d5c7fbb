//! `dunlin demo --engines`: a program that computes moves between processes and engines.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use dunlin_base::Digest;
use serde::Serialize;
use serde_json::Value;

use super::Directory;
use crate::failure::{Exit, Failure, Result};
use crate::file;
use crate::report::run::json;
use crate::text;

/// A program of 350 KB that decodes, inverts, blurs and encodes a PNG by the crate `image`.
const PROGRAM: &[u8] = include_bytes!("../../../assets/invert.wasm");
const PICTURE: &[u8] = include_bytes!("../../../assets/scene.png");

/// The engines in the order in which the program visits them; a new process each.
const ROUTE: [&str; 4] = ["cranelift", "pulley", "wasmi", "cranelift"];

#[derive(Debug, Serialize)]
struct Outcome {
    program: &'static str,
    safepoints: i64,
    undisturbed: Leg,
    legs: Vec<Leg>,
    output_sha256: [String; 2],
    equal: bool,
}

/// One process.
#[derive(Debug, Serialize)]
struct Leg {
    process: u32,
    wall_ms: f64,
    output_bytes: usize,
    /// What `run` or `restore` reported.
    report: Value,
}

pub(super) fn run(as_json: bool, directory: &Directory) -> Result<ExitCode> {
    let stage = Stage::new(directory.path(), !as_json)?;
    let outcome = stage.play()?;
    if as_json {
        text::print(&json(&outcome)?);
    }
    Ok(if outcome.equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Stage<'a> {
    directory: &'a Path,
    dunlin: PathBuf,
    talks: bool,
}

impl<'a> Stage<'a> {
    fn new(directory: &'a Path, talks: bool) -> Result<Self> {
        let dunlin =
            std::env::current_exe().map_err(Failure::because(Exit::Software, "cannot find the program dunlin"))?;
        file::write_atomically(&directory.join("invert.wasm"), PROGRAM)?;
        file::write_atomically(&directory.join("picture.png"), PICTURE)?;
        Ok(Self { directory, dunlin, talks })
    }

    fn say(&self, line: impl AsRef<str>) {
        if self.talks {
            text::print(&format!("{}\n", line.as_ref()));
        }
    }

    fn play(&self) -> Result<Outcome> {
        self.say(format!(
            "invert.wasm ({}) decodes a picture of {}, inverts it, blurs it twice and encodes it.\n",
            text::bytes(PROGRAM.len() as u64),
            text::bytes(PICTURE.len() as u64)
        ));
        let (undisturbed, whole) = self.leg(&["run", "invert.wasm"], "undisturbed")?;
        self.say(format!(
            "undisturbed   process {}, cranelift: {}, {} of output",
            undisturbed.process,
            ran(&undisturbed.report),
            text::bytes(whole.len() as u64)
        ));
        // How many safepoints there are, so that the stops are spread over the run on every machine.
        let all = i64::MAX.to_string();
        let (counted, _) = self.leg(&["run", "--stop-at-safepoint", &all, "invert.wasm"], "counted")?;
        let safepoints = counted.report["safepoints_executed"].as_i64().unwrap_or_default();
        self.say(format!("              it passes {safepoints} safepoints; the same again, with three stops:\n"));

        let mut output = Vec::new();
        let mut legs = Vec::new();
        let part = (safepoints / ROUTE.len() as i64).max(1).to_string();
        let clock = Instant::now();
        for (number, tier) in ROUTE.iter().enumerate() {
            let (from, to) = (format!("hop{number}.snap"), format!("hop{}.snap", number + 1));
            let stops = ["--stop-at-safepoint", &part, "--snapshot", &to];
            let mut arguments = vec![if number == 0 { "run" } else { "restore" }, "--tier", tier];
            arguments.extend(if number + 1 < ROUTE.len() { &stops[..] } else { &[] });
            arguments.push(if number == 0 { "invert.wasm" } else { &from });
            let begun = clock.elapsed();
            let (leg, printed) = self.leg(&arguments, &format!("leg{number}"))?;
            self.timeline(begun, tier, &leg, printed.len());
            output.extend(printed);
            legs.push(leg);
        }
        let digests = [Digest::of(&whole), Digest::of(&output)];
        let equal = digests[0] == digests[1];
        self.say(format!("\nundisturbed output  sha256:{}", digests[0]));
        self.say(format!("output after moves  sha256:{}", digests[1]));
        self.say(if equal {
            "EQUAL: four processes, three engines, one program."
        } else {
            "DIFFERENT: the moved program did not print what the undisturbed one did."
        });
        let output_sha256 = digests.map(|digest| digest.to_string());
        Ok(Outcome { program: "invert", safepoints, undisturbed, legs, output_sha256, equal })
    }

    fn timeline(&self, begun: Duration, tier: &str, leg: &Leg, printed: usize) {
        let report = &leg.report;
        let ms = |key: &str| report[key].as_f64().unwrap_or_default();
        self.say(format!("{:>9}     process {}, {tier}", text::time(begun), leg.process));
        let ready = ms("instrument_ms") + ms("compile_ms").max(ms("decode_ms")) + ms("thaw_ms") + ms("instantiate_ms");
        let detail =
            format!("(instrument {}, compile {}", ms_text(report, "instrument_ms"), ms_text(report, "compile_ms"));
        let restored = match ms("decode_ms") {
            0.0 => ")".to_owned(),
            _ => format!(
                ", decode {}, thaw {}, fill {})",
                ms_text(report, "decode_ms"),
                ms_text(report, "thaw_ms"),
                ms_text(report, "instantiate_ms")
            ),
        };
        self.say(format!("              ready in {} {detail}{restored}", text::time_of(ready)));
        if report["outcome"] == "stopped" {
            self.say(format!(
                "              {}, then stopped in {} at {:#x}, {} deep",
                ran(report),
                report["function"].as_str().unwrap_or("a function without name"),
                report["offset"].as_u64().unwrap_or_default(),
                text::count(report["frames"].as_u64().unwrap_or_default() as usize, "frame")
            ));
            self.say(format!(
                "              captured in {}, encoded in {}, written in {}: {} with the module, of {} of memory",
                ms_text(report, "capture_ms"),
                ms_text(report, "encode_ms"),
                ms_text(report, "write_ms"),
                text::bytes(report["bytes"].as_u64().unwrap_or_default()),
                text::bytes(report["memory_bytes"].as_u64().unwrap_or_default())
            ));
        } else {
            self.say(format!(
                "              {}, then ended with {} of output",
                ran(report),
                text::bytes(printed as u64)
            ));
        }
    }

    /// Runs dunlin in a process of its own to its end, with the picture as its input. Its output is kept as
    /// `<name>.out`.
    fn leg(&self, arguments: &[&str], name: &str) -> Result<(Leg, Vec<u8>)> {
        let output = self.directory.join(format!("{name}.out"));
        let report = self.directory.join(format!("{name}.json"));
        let start = Instant::now();
        let failed = || format!("`dunlin {}` cannot be run", arguments.join(" "));
        let child = self.spawn(arguments, &output, &report).map_err(Failure::because(Exit::Software, failed()))?;
        let process = child.id();
        let ended = child.wait_with_output().map_err(Failure::because(Exit::Software, failed()))?;
        let wall_ms = text::milliseconds(start.elapsed());
        if !ended.status.success() {
            let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
            let message = format!("`dunlin {}` failed ({})", arguments.join(" "), ended.status);
            return Err(Failure::because(Exit::Software, message)(said));
        }
        let printed = file::read(&output)?;
        let report = serde_json::from_slice(&file::read(&report)?)
            .map_err(Failure::because(Exit::Software, "a report of dunlin is not JSON"))?;
        Ok((Leg { process, wall_ms, output_bytes: printed.len(), report }, printed))
    }

    fn spawn(&self, arguments: &[&str], output: &Path, report: &Path) -> std::io::Result<Child> {
        let (verb, rest) = arguments.split_first().unwrap_or((&"help", &[]));
        let mut command = Command::new(&self.dunlin);
        command.arg(verb).arg("--report").arg(report).args(rest).current_dir(self.directory);
        command.stdin(File::open(self.directory.join("picture.png"))?).stdout(File::create(output)?);
        command.stderr(Stdio::piped()).spawn()
    }
}

fn ran(report: &Value) -> String {
    format!("ran for {}", ms_text(report, "run_ms"))
}

fn ms_text(report: &Value, key: &str) -> String {
    text::time_of(report[key].as_f64().unwrap_or_default())
}
