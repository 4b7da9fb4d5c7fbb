//! `dunlin bench overhead`: what being movable costs while nobody moves.
//!
//! Every kernel runs in three ways, in one process and alternating round by round: as it was built, movable, and as it
//! was built with Wasmtime's epoch interruption. So a disturbance of the machine meets all three alike.

use std::path::Path;
use std::time::Instant;

use dunlin_base::Value;
use dunlin_engine::{Entry, Instance, Outcome};
use dunlin_host::{Capture, Config};
use serde::Serialize;

use super::latency::{self, Latencies, Random};
use super::machine::Machine;
use super::startup::{self, Codes, Engines, Startup, instance};
use super::statistics::{Samples, Spread, Summary};
use crate::failure::{Exit, Failure, Result};
use crate::guests::{Bench, Guests};
use crate::text::{self, Table, milliseconds};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Rounds of each kernel.
    pub(crate) rounds: usize,
    /// Stops of each kernel.
    pub(crate) requests: usize,
    /// Compilations of each module.
    pub(crate) compilations: usize,
    /// Whether the builds with vector instructions are measured too.
    pub(crate) variants: bool,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Overhead {
    machine: Machine,
    seed: u64,
    rounds: usize,
    kernels: Vec<Kernel>,
    modules: Vec<Startup>,
    movable: Ratios,
    epoch: Ratios,
    /// Kernels on which being movable costs more than epoch interruption, by the shortest times.
    not_below_epoch: Vec<String>,
    compile: Summary,
    code_size: Summary,
    start: Summary,
    to_safepoint: Spread,
    captured: Spread,
    /// Requests to stop that came after the program's end, and are not counted.
    missed_requests: usize,
}

/// Times of the changed code over times of the plain code.
#[derive(Debug, Serialize)]
struct Ratios {
    min: Summary,
    median: Summary,
}

#[derive(Debug, Serialize)]
struct Kernel {
    name: String,
    module: String,
    plain_min_ms: f64,
    plain_median_ms: f64,
    movable_min_ratio: f64,
    movable_median_ratio: f64,
    epoch_min_ratio: f64,
    epoch_median_ratio: f64,
    to_safepoint: Spread,
    captured: Spread,
}

/// One thing to do again and again.
pub(super) enum Work<'a> {
    /// An export, in an instance that stays.
    Export { name: &'a str, size: i32, checksum: Option<i64> },
    /// The whole program, in an instance of its own.
    Program { bench: &'a Bench, output: Capture },
}

impl<'a> Work<'a> {
    pub(super) fn of(bench: &'a Bench) -> Self {
        match bench.export() {
            Some((name, size)) => Self::Export { name, size, checksum: bench.checksum() },
            None => Self::Program { bench, output: Capture::new() },
        }
    }

    pub(super) fn config(&self) -> Config {
        match self {
            Self::Export { .. } => Config::new(),
            Self::Program { bench, output } => bench.config(output),
        }
    }

    pub(super) fn run(&self, instance: &mut Instance) -> Result<Outcome> {
        let outcome = match self {
            Self::Export { name, size, .. } => instance.invoke(name, &[Value::I32(*size), Value::I32(1)]),
            Self::Program { .. } => instance.run(&Entry::command()),
        };
        outcome.map_err(Failure::engine("a guest cannot be run"))
    }

    fn check(&self, outcome: &Outcome, printed: &[u8]) -> Result<()> {
        match (self, outcome) {
            (Self::Export { checksum, .. }, Outcome::Finished(values)) => match (values.as_slice(), checksum) {
                ([Value::I64(value)], Some(expected)) if value == expected => Ok(()),
                (_, None) => Ok(()),
                _ => Err(Failure::new(Exit::Software, format!("{} returned {values:x?}", self.name()))),
            },
            (Self::Program { bench, .. }, Outcome::Finished(_) | Outcome::Exited(0)) => bench.check(printed),
            _ => Err(Failure::new(Exit::Software, format!("{} ended with {outcome:?}", self.name()))),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Export { name, .. } => name,
            Self::Program { bench, .. } => &bench.name,
        }
    }
}

/// Measures all guests.
pub(crate) fn measure(directory: &Path, effort: Effort, seed: u64) -> Result<Overhead> {
    let machine = Machine::look();
    let guests = Guests::open(directory)?;
    let engines = Engines::new()?;
    let mut names: Vec<&str> = Vec::new();
    for bench in &guests.benches {
        let variants = bench.variants.iter().filter(|_| effort.variants);
        for name in core::iter::once(&bench.module).chain(variants) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    let mut random = Random(seed);
    let (mut kernels, mut modules, mut all) = (Vec::new(), Vec::new(), Latencies::default());
    for name in names {
        text::note(format!("compiling {name}"));
        let module = guests.module(name)?;
        let (codes, startup) = startup::measure(name, &module, &engines, effort.compilations)?;
        modules.push(startup);
        let runs =
            guests.benches.iter().filter(|bench| bench.module == name || bench.variants.iter().any(|v| v == name));
        for bench in runs {
            // One thread with a large stack for all rounds: its start is not what is measured.
            let kernel = engines
                .normal
                .on_stack(|| kernel(name, bench, &codes, effort, &mut random, &mut all))
                .map_err(Failure::engine("a guest's thread cannot be started"))??;
            text::note(kernel.line());
            kernels.push(kernel);
        }
    }
    Ok(Overhead::of(machine, seed, effort, kernels, modules, &all))
}

fn kernel(
    module: &str,
    bench: &Bench,
    codes: &Codes,
    effort: Effort,
    random: &mut Random,
    all: &mut Latencies,
) -> Result<Kernel> {
    let work = Work::of(bench);
    let [plain, movable, epoch] = times(&work, bench, codes, effort.rounds)?;
    let latencies = latency::measure(&codes.movable, &work, movable.min(), effort.requests, random)?;
    all.extend(&latencies);
    Ok(Kernel {
        name: bench.name.clone(),
        module: module.to_owned(),
        plain_min_ms: plain.min(),
        plain_median_ms: plain.median(),
        movable_min_ratio: movable.min() / plain.min(),
        movable_median_ratio: movable.median() / plain.median(),
        epoch_min_ratio: epoch.min() / plain.min(),
        epoch_median_ratio: epoch.median() / plain.median(),
        to_safepoint: latencies.to_safepoint.spread(),
        captured: latencies.captured.spread(),
    })
}

/// Runs the work `rounds` times in each of the three ways, in milliseconds.
fn times(work: &Work<'_>, bench: &Bench, codes: &Codes, rounds: usize) -> Result<[Samples; 3]> {
    let ways = [&codes.plain, &codes.movable, &codes.epoch];
    let mut samples: [Samples; 3] = Default::default();
    let mut instances = match work {
        Work::Export { .. } => {
            ways.iter().map(|code| instance(code, Config::new()).map(Some)).collect::<Result<Vec<_>>>()?
        }
        Work::Program { .. } => vec![None, None, None],
    };
    // The first round warms caches up and does not count.
    for round in 0..=rounds.max(1) {
        for turn in 0..ways.len() {
            // Nobody is always first.
            let way = (turn + round) % ways.len();
            let output = Capture::new();
            let mut own = None;
            let program = match &mut instances[way] {
                Some(program) => program,
                None => own.insert(instance(ways[way], bench.config(&output))?),
            };
            let start = Instant::now();
            let outcome = work.run(program)?;
            let time = milliseconds(start.elapsed());
            work.check(&outcome, &output.contents())?;
            if round > 0 {
                samples[way].add(time);
            }
        }
    }
    Ok(samples)
}

impl Overhead {
    fn of(
        machine: Machine,
        seed: u64,
        effort: Effort,
        kernels: Vec<Kernel>,
        modules: Vec<Startup>,
        all: &Latencies,
    ) -> Self {
        let ratio = |of: fn(&Kernel) -> f64| {
            let names: Vec<(String, f64)> =
                kernels.iter().map(|kernel| (format!("{} ({})", kernel.name, kernel.module), of(kernel))).collect();
            Summary::of(names.iter().map(|(name, ratio)| (name.as_str(), *ratio)))
        };
        let module =
            |of: fn(&Startup) -> f64| Summary::of(modules.iter().map(|startup| (startup.module.as_str(), of(startup))));
        let not_below_epoch = kernels.iter().filter(|kernel| kernel.movable_min_ratio >= kernel.epoch_min_ratio);
        Self {
            movable: Ratios { min: ratio(|k| k.movable_min_ratio), median: ratio(|k| k.movable_median_ratio) },
            epoch: Ratios { min: ratio(|k| k.epoch_min_ratio), median: ratio(|k| k.epoch_median_ratio) },
            not_below_epoch: not_below_epoch.map(|kernel| format!("{} ({})", kernel.name, kernel.module)).collect(),
            compile: module(|m| m.compile_ratio),
            code_size: module(|m| m.code_ratio),
            start: module(|m| m.start_ratio),
            to_safepoint: all.to_safepoint.spread(),
            captured: all.captured.spread(),
            missed_requests: all.missed,
            machine,
            seed,
            rounds: effort.rounds,
            kernels,
            modules,
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut out = format!("{}\n{} rounds, seed {}\n\n", self.machine.text(), self.rounds, self.seed);
        let mut table = Table::new(&[
            "kernel",
            "module",
            ">plain",
            ">movable",
            ">(median)",
            ">epoch",
            ">(median)",
            ">to safepoint",
            ">captured",
        ]);
        for kernel in &self.kernels {
            table.row([
                kernel.name.clone(),
                kernel.module.clone(),
                text::time_of(kernel.plain_min_ms),
                format!("{:.3}", kernel.movable_min_ratio),
                format!("{:.3}", kernel.movable_median_ratio),
                format!("{:.3}", kernel.epoch_min_ratio),
                format!("{:.3}", kernel.epoch_median_ratio),
                text::time_of(kernel.to_safepoint.max),
                text::time_of(kernel.captured.max),
            ]);
        }
        out.push_str(&table.render(""));
        out.push_str(
            "\nplain: shortest time. Ratios: shortest times (and medians) over plain. Stops: longest of all.\n\n",
        );
        let mut table = Table::new(&[
            "module",
            ">wasm",
            ">movable",
            ">instrument",
            ">compile",
            ">ratio",
            ">code ratio",
            ">start ratio",
        ]);
        for module in &self.modules {
            table.row([
                module.module.clone(),
                text::bytes(module.wasm_bytes as u64),
                text::bytes(module.movable_wasm_bytes as u64),
                text::time_of(module.instrument_ms),
                text::time_of(module.movable_compile_ms),
                format!("{:.2}", module.compile_ratio),
                format!("{:.2}", module.code_ratio),
                format!("{:.2}", module.start_ratio),
            ]);
        }
        out.push_str(&table.render(""));
        out.push('\n');
        let mut table = Table::new(&["", ">geomean", ">worst", "of"]);
        for (what, summary) in [
            ("time, movable, shortest", &self.movable.min),
            ("time, movable, median", &self.movable.median),
            ("time, epoch, shortest", &self.epoch.min),
            ("time, epoch, median", &self.epoch.median),
            ("compile time", &self.compile),
            ("code size", &self.code_size),
            ("start time", &self.start),
        ] {
            let (geomean, worst) = (format!("{:.3}", summary.geomean), format!("{:.3}", summary.worst));
            table.row([what.to_owned(), geomean, worst, summary.worst_of.clone()]);
        }
        out.push_str(&table.render(""));
        let mut table = Table::new(&["\nstop", ">p50", ">p99", ">max", ">samples"]);
        for (what, spread) in [("to safepoint", self.to_safepoint), ("captured", self.captured)] {
            let Spread { samples, p50, p99, max } = spread;
            let times = [p50, p99, max].map(text::time_of);
            let [p50, p99, max] = times;
            table.row([what.to_owned(), p50, p99, max, samples.to_string()]);
        }
        out.push_str(&table.render(""));
        if self.not_below_epoch.is_empty() {
            out.push_str("\nbelow epoch interruption on every kernel\n");
        } else {
            out.push_str(&format!("\nnot below epoch interruption: {}\n", self.not_below_epoch.join(", ")));
        }
        out
    }
}

impl Kernel {
    fn line(&self) -> String {
        format!(
            "{:<15} {:<13} plain {:>8}  movable {:.3}  epoch {:.3}",
            self.name,
            self.module,
            text::time_of(self.plain_min_ms),
            self.movable_min_ratio,
            self.epoch_min_ratio
        )
    }
}
