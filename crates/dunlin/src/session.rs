//! One program from its start or snapshot to its end or next snapshot.

use core::any::Any;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use dunlin_base::Digest;
use dunlin_engine::{Code, Engine, Entry, Instance, Limits, Outcome, Settings, Tier};
use dunlin_host::{Config, World};
use dunlin_instrument::{Map, Options, PASS_VERSION, Phase, Poll, Variant};
use dunlin_snapshot::{Snapshot, State};

use crate::failure::{Exit, Failure, Result};
use crate::features;
use crate::file;
use crate::host::{Home, Lent};
use crate::meter::Meter;
use crate::module::{Compiled, Module, on_stack};
use crate::names::Names;
use crate::parse;
use crate::report::run::{Ended, Report, Stopped, Times};
use crate::stop::Control;
use crate::text;

/// When the program stops, and what becomes of it then.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Stopping")]
pub(crate) struct StopArgs {
    /// Stop at the K-th safepoint that is executed, counted from here: every run stops at the same place
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) stop_at_safepoint: Option<i64>,
    /// Ask for a stop after this time, as in 250ms or 1.5s
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    pub(crate) stop_after: Option<Duration>,
    /// Where to write the snapshot [default: APP.snap in the current directory; for restore, FILE itself]
    #[arg(long, value_name = "FILE")]
    pub(crate) snapshot: Option<PathBuf>,
    /// Leave the module out of the snapshot: whoever restores it brings the module
    #[arg(long)]
    pub(crate) no_embed_module: bool,
    /// Write what happened, with all times, to FILE as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

impl StopArgs {
    fn asks(&self) -> bool {
        self.stop_at_safepoint.is_some() || self.stop_after.is_some()
    }

    pub(crate) fn poll(&self) -> Poll {
        if self.stop_at_safepoint.is_some() { Poll::Count } else { Poll::Flag }
    }
}

/// Which engine, and how much of the machine it may take.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineArgs {
    /// The engine: cranelift (native code), pulley or wasmi (interpreters)
    #[arg(long, value_name = "TIER", default_value = "cranelift", value_parser = ["cranelift", "pulley", "wasmi"])]
    tier: String,
    /// The most that each memory of the program can hold: `memory.grow` fails beyond
    #[arg(long, alias = "max-memory", value_name = "SIZE", default_value = "4GiB", value_parser = parse::size)]
    limit_memory: u64,
    /// The most elements that each table of the program can hold: `table.grow` fails beyond
    #[arg(long, alias = "max-table", value_name = "N", default_value_t = 10_000_000)]
    limit_table: u64,
    /// Native stack for the program's calls: it traps beyond
    #[arg(long, alias = "stack", value_name = "SIZE", default_value = "32MiB", value_parser = parse::size)]
    limit_stack: u64,
    /// Processor time of the program over its whole life, moves included: beyond, it ends with code 152
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    limit_cpu: Option<Duration>,
}

impl EngineArgs {
    fn engine(&self) -> Result<Engine> {
        let tier: Tier =
            self.tier.parse().map_err(Failure::because(Exit::Usage, "--tier names no engine".to_owned()))?;
        let wasm_stack = usize::try_from(self.limit_stack).unwrap_or(usize::MAX);
        let settings = Settings { wasm_stack, ..Settings::default() };
        Engine::new(tier, settings).map_err(Failure::engine("the engine cannot start"))
    }

    fn limits(&self) -> Limits {
        Limits { memory_bytes: self.limit_memory, table_elements: self.limit_table }
    }
}

/// Begins a program and stays with it.
pub(crate) fn begin(module: &Module, engine: &EngineArgs, stop: StopArgs, config: Config) -> Result<ExitCode> {
    let control = listen()?;
    let engine_args = engine;
    let engine = engine.engine()?;
    let options = Options { poll: stop.poll(), variant: Variant::Fresh };
    let Compiled { code, blockers, instrument, compile } = module.compile(&engine, options)?;
    if let Some(reasons) = &blockers {
        let why = format!("{} cannot be stopped: {}", module.path.display(), reasons.join("; "));
        if stop.asks() || engine_args.limit_cpu.is_some() {
            let list: String = reasons.iter().map(|reason| format!("\n  {reason}")).collect();
            let message = format!(
                "{} cannot be stopped; without a stop or a limit of processor time it can run:{list}",
                module.path.display()
            );
            return Err(Failure::new(Exit::Unavailable, message));
        }
        control.refuse(why);
    }
    let world = World::new(config).map_err(Failure::because(Exit::Config, "the program's world cannot be made"))?;
    announce(&world);
    let home = Home::new(world);
    let start = Instant::now();
    let lent = lend(&home)?;
    let instance = Instance::new(&code, lent, engine_args.limits())
        .map_err(Failure::engine(format!("{} cannot be started", module.path.display())))?;
    let times = Times { instrument, compile, instantiate: start.elapsed(), ..Times::default() };
    let stop_snapshot = stop.snapshot.clone().unwrap_or_else(|| {
        let name = module.path.file_name().map(PathBuf::from).unwrap_or_else(|| PathBuf::from("program"));
        name.with_extension("snap")
    });
    let limits = engine_args.limits();
    let limit_cpu = engine_args.limit_cpu;
    let mut session =
        Session { module, engine, limits, limit_cpu, stop, stop_snapshot, control, home, times, executed: None };
    session.follow(instance, false, blockers.is_none())
}

/// Goes on with a program from a decoded snapshot.
pub(crate) struct Resumption<'a> {
    pub(crate) module: &'a Module,
    pub(crate) engine: Engine,
    pub(crate) control: Control,
    pub(crate) code: Code,
    pub(crate) state: State,
    pub(crate) times: Times,
    pub(crate) default_snapshot: PathBuf,
}

impl Resumption<'_> {
    pub(crate) fn go_on(self, engine: &EngineArgs, stop: StopArgs, config: Config) -> Result<ExitCode> {
        let Self { module, engine: built, control, code, state, mut times, default_snapshot } = self;
        let start = Instant::now();
        let world = World::thaw(&state.host, config)
            .map_err(Failure::because(Exit::Config, "the program's world cannot be restored on this host"))?;
        announce(&world);
        let home = Home::new(world);
        times.thaw = start.elapsed();
        let start = Instant::now();
        let lent = lend(&home)?;
        let limits = engine.limits();
        let instance = Instance::restore(&code, &state, lent, limits)
            .map_err(Failure::engine("the program cannot be restored"))?;
        times.instantiate = start.elapsed();
        drop(state);
        let stop_snapshot = stop.snapshot.clone().unwrap_or(default_snapshot);
        let mut session = Session {
            module,
            engine: built,
            limits,
            limit_cpu: engine.limit_cpu,
            stop,
            stop_snapshot,
            control,
            home,
            times,
            executed: None,
        };
        session.follow(instance, true, true)
    }
}

/// The engine, and the ear for requests: there before anything that takes time.
pub(crate) fn prepare(engine: &EngineArgs) -> Result<(Engine, Control)> {
    let control = listen()?;
    Ok((engine.engine()?, control))
}

fn listen() -> Result<Control> {
    Control::listening().map_err(Failure::because(Exit::Software, "SIGUSR1 cannot be listened for"))
}

/// Says where the program listens: with port 0 nobody could know.
fn announce(world: &World) {
    for address in world.listening() {
        text::note(format!("the program listens on {address}"));
    }
}

fn lend(home: &Home) -> Result<Box<Lent>> {
    home.lend().map(Box::new).ok_or_else(|| Failure::new(Exit::Software, "the program's world is in use"))
}

/// The world in which an instance runs.
fn world_of(instance: &mut Instance) -> Option<&mut World> {
    let host: &mut dyn Any = instance.host_mut();
    host.downcast_mut::<Lent>().and_then(Lent::world)
}

/// Makes durable what a program that is over has left in its volume, and tells what went wrong with it.
fn keep_volume(instance: &mut Instance) -> Result<()> {
    let Some(world) = world_of(instance) else { return Ok(()) };
    if let Some(trouble) = world.volume_trouble() {
        text::note(format!("the program's volume failed, which it was told as EIO: {trouble}"));
    }
    world.commit_volume().map_err(Failure::because(Exit::CannotCreate, "what the program has written is not durable"))
}

struct Session<'a> {
    module: &'a Module,
    engine: Engine,
    limits: Limits,
    limit_cpu: Option<Duration>,
    stop: StopArgs,
    stop_snapshot: PathBuf,
    control: Control,
    home: Home,
    times: Times,
    /// Safepoints executed, if they are counted.
    executed: Option<i64>,
}

/// A stop that led to nothing: the program goes on from this state.
struct Undone {
    state: Box<State>,
    why: Failure,
}

impl Session<'_> {
    /// Runs the instance to its end or until it is stopped for good.
    fn follow(&mut self, mut instance: Instance, mut restored: bool, movable: bool) -> Result<ExitCode> {
        if let Some(count) = self.stop.stop_at_safepoint {
            instance.set_count(count).map_err(Failure::engine("safepoints cannot be counted"))?;
        }
        if let Some(delay) = self.stop.stop_after {
            self.control.after(delay).map_err(Failure::because(Exit::Software, "the timer cannot be started"))?;
        }
        loop {
            if movable {
                self.wake_on_request(&mut instance);
                self.control.attach(instance.stop_handle());
            }
            let start = Instant::now();
            let (outcome, exhausted) = self.execute(&mut instance, restored)?;
            self.times.run += start.elapsed();
            self.executed = self.stop.stop_at_safepoint.zip(instance.count()).map(|(all, left)| all - left);
            match outcome.map_err(Failure::engine("the program cannot be run"))? {
                Outcome::Finished(_) => {
                    keep_volume(&mut instance)?;
                    return self.ended(Ended::Exited { code: 0 }, ExitCode::SUCCESS);
                }
                Outcome::Exited(code) => {
                    keep_volume(&mut instance)?;
                    // As the system does it: a process has eight bits to say how it ended.
                    return self.ended(Ended::Exited { code }, ExitCode::from(code as u8));
                }
                Outcome::Trapped(trap) => {
                    keep_volume(&mut instance)?;
                    let message = text::printable(&trap.message);
                    text::note(format!("the program trapped: {message}"));
                    for line in trap.backtrace.lines() {
                        text::say(&format!("  {}\n", text::printable(line)));
                    }
                    return self.ended(Ended::Trapped { message }, Exit::Trap.into());
                }
                Outcome::Stopped if exhausted => {
                    keep_volume(&mut instance)?;
                    let limit = text::time(self.limit_cpu.unwrap_or_default());
                    text::note(format!("the program has used up its {limit} of processor time and is ended"));
                    return self.ended(Ended::Exhausted { limit: "cpu" }, Exit::CpuTime.into());
                }
                Outcome::Stopped => {}
            }
            match self.conclude(&mut instance)? {
                Ok(stopped) => {
                    text::note(stopped.line());
                    return self.ended(Ended::Stopped(stopped), ExitCode::SUCCESS);
                }
                Err(Undone { state, why }) => {
                    text::error(&why);
                    text::note("no snapshot was taken: the program goes on here");
                    drop(instance);
                    instance = self.again(&state)?;
                    restored = true;
                }
            }
        }
    }

    /// Runs the instance, within what is left of its processor time if that is limited. Tells how it ended, and whether
    /// that was because the time is used up.
    fn execute(
        &self,
        instance: &mut Instance,
        restored: bool,
    ) -> Result<(Result<Outcome, dunlin_engine::Error>, bool)> {
        let entries = Entry::command();
        let run = |instance: &mut Instance| if restored { instance.resume(&entries) } else { instance.run(&entries) };
        let Some(limit) = self.limit_cpu else { return Ok((run(instance), false)) };
        let used = world_of(instance).and_then(|world| world.cpu()).unwrap_or_default();
        let handle = instance.stop_handle();
        // The program runs on the thread that is measured.
        let (outcome, metered) = self
            .engine
            .on_stack(|| Meter::run(limit.saturating_sub(used), handle, || run(instance)))
            .map_err(Failure::engine("the program cannot be run"))?
            .map_err(Failure::because(Exit::Software, "processor time cannot be measured"))?;
        if let Some(world) = world_of(instance) {
            world.add_cpu(metered.used);
        }
        Ok((outcome, metered.exhausted))
    }

    /// Requests also end a call of the program that blocks.
    fn wake_on_request(&self, instance: &mut Instance) {
        let handle = instance.stop_handle();
        if let Some(world) = world_of(instance) {
            world.clear_interrupt();
            handle.on_request(Box::new(world.interrupter()));
        }
    }

    /// Turns a stopped instance into a snapshot.
    fn conclude(&mut self, instance: &mut Instance) -> Result<Result<Stopped, Undone>> {
        let by = self.control.stopped();
        let start = Instant::now();
        let mut state = instance.capture().map_err(Failure::engine("the stopped program cannot be captured"))?;
        let frozen = world_of(instance).map(World::freeze).unwrap_or_else(|| Ok(Vec::new()));
        match frozen {
            Ok(sections) => state.host = sections,
            Err(error) => {
                let why = Failure::because(Exit::Unavailable, "the program cannot be stopped now")(error);
                return Ok(Err(Undone { state: Box::new(state), why }));
            }
        }
        let capture = start.elapsed();
        let Some(map) = instance.code().map().cloned() else {
            return Err(Failure::new(Exit::Software, "a program that cannot be moved has stopped"));
        };
        let (by, to_safepoint) = match by {
            Some(by) => (by, instance.time_to_stop()),
            None => ("--stop-at-safepoint", None),
        };
        let stopped = self.write(state, &map).map(|written| Stopped { by, to_safepoint, capture, ..written });
        Ok(stopped)
    }

    fn write(&self, state: State, map: &Map) -> Result<Stopped, Undone> {
        let start = Instant::now();
        let needed = match features::of(&self.module.wasm) {
            Ok(needed) => needed,
            Err(error) => {
                let why = Failure::because(Exit::Software, "the module's features cannot be told")(error);
                return Err(Undone { state: Box::new(state), why });
            }
        };
        let embedded = (!self.stop.no_embed_module).then(|| self.module.wasm.clone());
        let snapshot = Snapshot {
            module: dunlin_snapshot::Module { digest: map.module, embedded },
            map_digest: map.digest(),
            pass_version: PASS_VERSION,
            features: needed,
            product: Some(format!("dunlin {}", env!("CARGO_PKG_VERSION"))),
            state,
            extra: Vec::new(),
        };
        let undone = |snapshot: Snapshot, why| Undone { state: Box::new(snapshot.state), why };
        let bytes = match dunlin_snapshot::encode(&snapshot) {
            Ok(bytes) => bytes,
            Err(error) => {
                let why = Failure::because(Exit::Software, "the snapshot cannot be written")(error);
                return Err(undone(snapshot, why));
            }
        };
        let encode = start.elapsed();
        let start = Instant::now();
        if let Err(why) = file::write_atomically(&self.stop_snapshot, &bytes) {
            return Err(undone(snapshot, why));
        }
        let write = start.elapsed();
        let frames = &snapshot.state.frames;
        let innermost = frames.last().and_then(|frame| Some((frame, map.safepoint(frame.safepoint)?)));
        let function = innermost.map_or(0, |(_, safepoint)| safepoint.function);
        let memory = snapshot.state.memories.iter().map(|memory| memory.size).sum();
        // The digest that stands in the header.
        let digest = dunlin_snapshot::Header::parse(&bytes).map_or_else(|_| Digest::of(&bytes), |header| header.digest);
        Ok(Stopped {
            by: "",
            function: Names::read(&self.module.wasm).function(function).map(str::to_owned),
            function_index: function,
            offset: innermost.map_or(0, |(_, safepoint)| safepoint.offset),
            safepoint: innermost.map_or(0, |(frame, _)| frame.safepoint),
            inside_call: innermost.is_some_and(|(frame, _)| frame.phase == Phase::Inside),
            frames: frames.len(),
            memory_bytes: memory,
            to_safepoint: None,
            capture: Duration::ZERO,
            encode,
            write,
            snapshot: self.stop_snapshot.clone(),
            bytes: bytes.len() as u64,
            digest: digest.to_string(),
        })
    }

    /// An instance in the same world that goes on from `state`.
    fn again(&self, state: &State) -> Result<Instance> {
        let analysis = self.module.analyse()?;
        let instrumented = analysis.instrument_resuming(self.stop.poll(), &on_stack(analysis.map(), state));
        let code = Code::instrumented(&self.engine, &instrumented)
            .map_err(Failure::engine("the program cannot go on here"))?;
        let lent = lend(&self.home)?;
        Instance::restore(&code, state, lent, self.limits).map_err(Failure::engine("the program cannot go on here"))
    }

    fn ended(&self, end: Ended, code: ExitCode) -> Result<ExitCode> {
        if let Some(path) = &self.stop.report {
            let tier = self.engine.tier().name();
            let report = Report { tier, times: self.times, safepoints_executed: self.executed, end };
            file::write_atomically(path, report.json()?.as_bytes())?;
        }
        Ok(code)
    }
}
