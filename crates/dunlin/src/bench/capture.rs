//! `dunlin bench capture`: what stopping a program, keeping it and going on cost, with CRIU beside it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dunlin_engine::{Code, Engine, Entry, Instance, Limits, Outcome, Settings, Tier};
use dunlin_host::{Capture, World};
use dunlin_instrument::{Map, Options, PASS_VERSION, Poll, Variant, instrument};
use dunlin_snapshot::{Envelope, Snapshot};
use serde::Serialize;

use super::criu::{self, Criu};
use super::machine::Machine;
use crate::failure::{Exit, Failure, Result};
use crate::guests::{Bench, Guests};
use crate::module::Module;
use crate::text::{self, Table, milliseconds};
use crate::{features, file};

/// Of the kernels, which are alike in this, only these are measured.
const KERNELS: [&str; 4] = ["gemm", "hash_map", "binary_trees", "coremark"];

/// All that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    guests: Vec<Guest>,
    /// Why there is no baseline.
    criu_problem: Option<String>,
}

/// One guest, stopped in the middle of its safepoints.
#[derive(Debug, Serialize)]
struct Guest {
    name: String,
    run_ms: f64,
    frames: usize,
    memory_bytes: u64,
    /// Without the module, which the other side often has.
    snapshot_bytes: usize,
    module_bytes: usize,
    /// From standing at the safepoint to having all state in memory.
    capture_ms: f64,
    encode_ms: f64,
    write_ms: f64,
    /// Instrumenting and compiling for a restore: done ahead where the module is known ahead.
    compile_ms: f64,
    decode_ms: f64,
    /// From the decoded state to an instance that can go on.
    restore_ms: f64,
    criu: Option<Criu>,
    criu_problem: Option<String>,
}

/// Measures, with files in `scratch`.
pub(crate) fn measure(directory: &Path, scratch: &Path) -> Result<Report> {
    let machine = Machine::look();
    let guests = Guests::open(directory)?;
    let engine =
        Engine::new(Tier::Cranelift, Settings::default()).map_err(Failure::engine("the engine cannot start"))?;
    let criu = criu::check();
    if let Err(problem) = &criu {
        text::note(format!("no baseline: {problem}"));
    }
    let mut found = Vec::new();
    for bench in &guests.benches {
        if bench.module == "kernels" && !KERNELS.contains(&bench.name.as_str()) {
            continue;
        }
        text::note(&bench.name);
        let mut guest = guest(&guests.module(&bench.module)?, bench, &engine, scratch)?;
        if criu.is_ok() {
            // In a process of its own, the guest is compiled before it runs.
            let length = Duration::from_secs_f64((guest.compile_ms + guest.run_ms / 2.0) / 1e3);
            match criu::measure(&guests, bench, scratch, length) {
                Ok(measured) => guest.criu = Some(measured),
                Err(problem) => guest.criu_problem = Some(problem),
            }
        }
        found.push(guest);
    }
    Ok(Report { machine, guests: found, criu_problem: criu.err() })
}

struct Compiled {
    fresh: Code,
    map: Arc<Map>,
}

fn compile(module: &Module, engine: &Engine) -> Result<Compiled> {
    let fresh = instrument(&module.wasm, Options { poll: Poll::Count, variant: Variant::Fresh })
        .map_err(Failure::because(Exit::Unavailable, "a guest cannot be moved"))?;
    let map = fresh.map;
    let fresh =
        Code::shared(engine, &fresh.wasm, map.clone()).map_err(Failure::engine("a guest cannot be compiled"))?;
    Ok(Compiled { fresh, map })
}

fn begin(code: &Code, bench: &Bench, output: &Capture, count: i64) -> Result<Instance> {
    let mut instance = super::startup::instance(code, bench.config(output))?;
    instance.set_count(count).map_err(Failure::engine("safepoints cannot be counted"))?;
    Ok(instance)
}

fn guest(module: &Module, bench: &Bench, engine: &Engine, scratch: &Path) -> Result<Guest> {
    let failed = |what: &str| format!("{}: {what}", bench.name);
    let Compiled { fresh, map } = compile(module, engine)?;

    let output = Capture::new();
    let mut whole = begin(&fresh, bench, &output, i64::MAX)?;
    let start = Instant::now();
    let outcome = whole.run(&Entry::command()).map_err(Failure::engine(failed("cannot be run")))?;
    let run_ms = milliseconds(start.elapsed());
    ended(bench, &outcome, &output)?;
    let safepoints = i64::MAX - whole.count().unwrap_or(i64::MAX);

    let output = Capture::new();
    let mut program = begin(&fresh, bench, &output, (safepoints / 2).max(1))?;
    let outcome = program.run(&Entry::command()).map_err(Failure::engine(failed("cannot be run")))?;
    if outcome != Outcome::Stopped {
        return Err(Failure::new(Exit::Software, failed("did not stop in the middle")));
    }
    let start = Instant::now();
    let mut state = program.capture().map_err(Failure::engine(failed("cannot be captured")))?;
    let host: &mut dyn core::any::Any = program.host_mut();
    let world = host.downcast_mut::<World>().map(World::freeze);
    state.host =
        world.unwrap_or(Ok(Vec::new())).map_err(Failure::because(Exit::Software, failed("cannot be frozen")))?;
    let capture_ms = milliseconds(start.elapsed());
    drop(program);

    let (frames, memory_bytes) = (state.frames.len(), state.memories.iter().map(|memory| memory.size).sum());
    let needed = features::of(&module.wasm).map_err(Failure::because(Exit::Data, failed("cannot be read")))?;
    let snapshot = Snapshot {
        module: dunlin_snapshot::Module { digest: map.module, embedded: None },
        map_digest: map.digest(),
        pass_version: PASS_VERSION,
        features: needed,
        product: None,
        state,
        extra: Vec::new(),
    };
    let start = Instant::now();
    let bytes =
        dunlin_snapshot::encode(&snapshot).map_err(Failure::because(Exit::Software, failed("cannot be encoded")))?;
    let encode_ms = milliseconds(start.elapsed());
    drop(snapshot);
    let path = scratch.join("bench.snap");
    let start = Instant::now();
    file::write_atomically(&path, &bytes)?;
    let write_ms = milliseconds(start.elapsed());

    let start = Instant::now();
    let resumable = instrument(&module.wasm, Options { poll: Poll::Flag, variant: Variant::Resume })
        .map_err(Failure::because(Exit::Software, failed("cannot be instrumented")))?;
    let code =
        Code::shared(engine, &resumable.wasm, resumable.map).map_err(Failure::engine(failed("cannot be compiled")))?;
    let compile_ms = milliseconds(start.elapsed());

    let start = Instant::now();
    let bytes = file::read(&path)?;
    let snapshot = Envelope::open(&bytes, &dunlin_snapshot::Limits::default())
        .and_then(|envelope| envelope.decode(&map))
        .map_err(Failure::because(Exit::Software, failed("cannot be decoded")))?;
    let decode_ms = milliseconds(start.elapsed());

    let start = Instant::now();
    let world = World::thaw(&snapshot.state.host, bench.config(&output))
        .map_err(Failure::because(Exit::Software, failed("cannot be thawed")))?;
    let mut program = Instance::restore(&code, &snapshot.state, Box::new(world), Limits::default())
        .map_err(Failure::engine(failed("cannot be restored")))?;
    let restore_ms = milliseconds(start.elapsed());
    let outcome = program.resume(&Entry::command()).map_err(Failure::engine(failed("cannot go on")))?;
    ended(bench, &outcome, &output)?;

    Ok(Guest {
        name: bench.name.clone(),
        run_ms,
        frames,
        memory_bytes,
        snapshot_bytes: bytes.len(),
        module_bytes: module.wasm.len(),
        capture_ms,
        encode_ms,
        write_ms,
        compile_ms,
        decode_ms,
        restore_ms,
        criu: None,
        criu_problem: None,
    })
}

fn ended(bench: &Bench, outcome: &Outcome, output: &Capture) -> Result<()> {
    match outcome {
        Outcome::Finished(_) | Outcome::Exited(0) => bench.check(&output.contents()),
        other => Err(Failure::new(Exit::Software, format!("{} ended with {other:?}", bench.name))),
    }
}

impl Report {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut out = format!("{}\n\n", self.machine.text());
        let mut table = Table::new(&[
            "guest",
            ">frames",
            ">memory",
            ">snapshot",
            ">capture",
            ">encode",
            ">write",
            ">decode",
            ">restore",
            ">compile",
            ">CRIU size",
            ">dump",
            ">restore",
        ]);
        for guest in &self.guests {
            let baseline = guest.criu.as_ref().map_or([const { String::new() }; 3], |criu| {
                [text::bytes(criu.bytes), text::time_of(criu.dump_ms), text::time_of(criu.restore_ms)]
            });
            let [size, dump, restore] = baseline;
            table.row([
                guest.name.clone(),
                guest.frames.to_string(),
                text::bytes(guest.memory_bytes),
                text::bytes(guest.snapshot_bytes as u64),
                text::time_of(guest.capture_ms),
                text::time_of(guest.encode_ms),
                text::time_of(guest.write_ms),
                text::time_of(guest.decode_ms),
                text::time_of(guest.restore_ms),
                text::time_of(guest.compile_ms),
                size,
                dump,
                restore,
            ]);
        }
        out.push_str(&table.render(""));
        out.push_str(
            "\nsnapshot: without the module. capture: from standing at a safepoint to all state in memory. compile:\n\
             instrumenting and compiling for the restore, which can be done ahead. Every guest ended with the right output.\n",
        );
        if let Some(problem) = &self.criu_problem {
            out.push_str(&format!("CRIU does not work here: {problem}\n"));
        }
        for guest in &self.guests {
            if let Some(problem) = &guest.criu_problem {
                out.push_str(&format!("CRIU failed on {}: {problem}\n", guest.name));
            }
        }
        out
    }
}
