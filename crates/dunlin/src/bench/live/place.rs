//! One of the two processes between which the service moves: `dunlin bench live-place`.

use std::io::{BufReader, stdin};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use core::any::Any;

use dunlin_base::{Digest, PAGE_SIZE, Value, ValueType};
use dunlin_engine::{Code, Engine, Entry, Flow, Host, Instance, Lazy, Limits, Prepared, Settings, Tier, Tracker};
use dunlin_handover::ledger::Record;
use dunlin_handover::message::{Blocked, Evidence, Features, MemoryShape, Offer, Versions};
use dunlin_handover::{Entropy, Keys, MigrationId, ServiceId, destination, source};
use dunlin_host::{Config, Input, Output, World};
use dunlin_identity::PrivateKey;
use dunlin_instrument::{Options as PassOptions, PASS_VERSION, Poll, Variant};
use dunlin_keep::migrate::{Destination, IsFresh, Lodging, Progress, Resident, Runner, Source, Track};
use dunlin_snapshot::{Envelope, Snapshot};

use super::channel::{End, Security};
use super::names::{Asking, checker, fresh, policy};
use super::orders::{Answer, Arrived, How, Left, Order, Setting, Used, clock_us, hear, say};
use crate::failure::{Exit, Failure, Result};
use crate::module::Module;
use crate::text::milliseconds;

/// Longest wait for a program that was let run to call its host.
const FIRST_CALL: Duration = Duration::from_secs(2);

/// Follows the orders that come from the socket `orders` until it ends. The service's standard streams are the socket
/// that is this process's standard input.
pub(crate) fn follow(orders: &Path) -> Result<()> {
    let mut out = UnixStream::connect(orders).map_err(network())?;
    let mut orders = BufReader::new(out.try_clone().map_err(network())?);
    let socket = stdin().as_fd().try_clone_to_owned().map_err(network())?;
    let Some(setting) = hear::<Setting>(&mut orders)? else { return Ok(()) };
    let mut place = Place::new(setting, socket)?;
    while let Some(order) = hear::<Order>(&mut orders)? {
        let answer = match order {
            Order::Start => place.start().map(|()| Answer::Running),
            Order::Leave { address, how } => {
                TcpStream::connect(address).map_err(network()).and_then(|stream| place.leave(stream, how))
            }
            Order::Arrive { address } => TcpListener::bind(address).map_err(network()).and_then(|listener| {
                say(&mut out, &Answer::Listening(listener.local_addr().map_err(network())?))?;
                let (stream, _) = listener.accept().map_err(network())?;
                place.arrive(stream)
            }),
        };
        let answer = answer.unwrap_or_else(|failure| Answer::Failed(failure.whole()));
        say(&mut out, &answer)?;
    }
    Ok(())
}

fn network() -> impl FnOnce(std::io::Error) -> Failure {
    Failure::because(Exit::Unavailable, "the two places cannot reach each other")
}

struct Place {
    setting: Setting,
    module: Module,
    code: Code,
    security: Security,
    socket: Arc<OwnedFd>,
    platform: PrivateKey,
    running: Option<(Runner, PrivateKey)>,
}

impl Place {
    fn new(setting: Setting, socket: OwnedFd) -> Result<Self> {
        let engine = Engine::new(Tier::Cranelift, Settings::default());
        let engine = engine.map_err(Failure::engine("the engine cannot start"))?;
        let module = Module::read(&setting.module)?;
        let compiled = module.compile(&engine, PassOptions { poll: Poll::Flag, variant: Variant::Resume })?;
        let security = Security::of(&setting.authority)?;
        let (socket, platform) = (Arc::new(socket), fresh()?);
        Ok(Self { setting, code: compiled.code, module, security, socket, platform, running: None })
    }

    fn service(&self) -> ServiceId {
        ServiceId(self.setting.service)
    }

    fn keys(&self, holder: PrivateKey) -> Keys {
        let ledger = dunlin_handover::Key(self.setting.ledger_key);
        Keys { holder: Arc::new(holder), platform: Arc::new(self.platform.clone()), checks: checker(), ledger }
    }

    fn config(&self) -> Config {
        Config::new()
            .arg("dirtier")
            .args(&self.setting.arguments)
            .stdin(Input::Fd(self.socket.clone()))
            .stdout(Output::Fd(self.socket.clone()))
            .stderr(Output::Inherit)
    }

    fn start(&mut self) -> Result<()> {
        let holder = fresh()?;
        Asking::new(&self.setting.ledger).claim(self.service(), &holder, &self.platform)?;
        let world = World::new(self.config()).map_err(Failure::because(Exit::Config, "no world for the service"))?;
        let host = Box::new(Watched { world, first_call: None });
        let instance = Instance::new(&self.code, host, Limits::default());
        let mut instance = instance.map_err(Failure::engine("the service cannot start"))?;
        attend(&mut instance);
        let runner = Runner::start(
            instance,
            Entry::command(),
            false,
            Box::new(Here { version: 0, socket: self.socket.clone() }),
        );
        self.running = Some((runner.map_err(thread())?, holder));
        Ok(())
    }

    fn leave(&mut self, stream: TcpStream, how: How) -> Result<Answer> {
        let (mut runner, holder) =
            self.running.take().ok_or_else(|| Failure::new(Exit::Software, "no service runs here"))?;
        let meter = Meter::start();
        let mut asking = Asking::new(&self.setting.ledger);
        let record = asking.record(self.service())?;
        let tracker = watch(&runner).map_err(|why| Failure::new(Exit::Software, why))?;
        let memories = (0..tracker.memories()).map(|index| {
            let pages = tracker.size(index).div_ceil(PAGE_SIZE as u64);
            MemoryShape { pages, maximum: (4 << 30) / PAGE_SIZE as u64 }
        });
        let session = self.security.open(stream, End::Source)?;
        let (run, _handle) = Source {
            config: source::Config {
                migration: MigrationId(random()?),
                record,
                module: Digest::of(&self.module.wasm),
                snapshot_version: 1,
                memories: memories.collect(),
                needs: Vec::new(),
                evidence: Evidence(Vec::new()),
                options: how.options(),
                dry_run: false,
                versions: Versions::SUPPORTED,
                keys: self.keys(holder.clone()),
                limits: dunlin_handover::Limits::default(),
                guard: session.guard,
                entropy: Entropy::new(random()?),
            },
            module: self.module.wasm.clone().into(),
            tracker,
            volume: None,
            compress: how.compress,
            retain: self.setting.storage.join(format!("retained-{}", std::process::id())).into(),
            guard: Box::new(|| Box::new(dunlin_handover::message::ChannelGuard)),
            progress: Progress::default(),
        }
        .prepare();
        let way = Box::new(move |call: &_| asking.ask(call));
        let report = run.run(&mut runner, session.stream, way).map_err(thread())?;
        let moved = matches!(report.outcome, source::Outcome::Moved { .. });
        if matches!(report.outcome, source::Outcome::Stayed { .. }) {
            self.running = Some((runner, holder));
        }
        let statistics = report.statistics;
        let part = |time: Option<Duration>| milliseconds(time.unwrap_or_default());
        let (downtime, ram) = (statistics.downtime, statistics.ram);
        Ok(Answer::Left(Box::new(Left {
            moved,
            outcome: format!("{:?}", report.outcome),
            method: report.method.to_string(),
            total_time_ms: milliseconds(statistics.total_time),
            setup_time_ms: milliseconds(statistics.setup_time),
            downtime_ms: milliseconds(downtime.total()),
            expected_downtime_ms: milliseconds(statistics.expected_downtime),
            time_to_safepoint_ms: part(downtime.time_to_safepoint),
            capture_ms: part(downtime.capture),
            staged_ms: part(downtime.staged),
            commit_ms: part(downtime.commit),
            activate_ms: part(downtime.activate),
            cpu_throttle_percentage: statistics.cpu_throttle_percentage,
            transferred: ram.transferred,
            duplicate: ram.duplicate,
            normal: ram.normal,
            dirty_sync_count: ram.dirty_sync_count,
            dirty_pages_rate: ram.dirty_pages_rate,
            mbps: ram.mbps,
            precopy_bytes: ram.precopy_bytes,
            downtime_bytes: ram.downtime_bytes,
            postcopy_bytes: ram.postcopy_bytes,
            postcopy_requests: ram.postcopy_requests,
            postcopy_blocktime_ms: milliseconds(ram.postcopy_blocktime),
            used: meter.end(),
        })))
    }

    fn arrive(&mut self, stream: TcpStream) -> Result<Answer> {
        let meter = Meter::start();
        let holder = fresh()?;
        let session = self.security.open(stream, End::Destination)?;
        let (run, _handle) = Destination {
            config: destination::Config {
                policy_hash: policy(),
                peer: None,
                features: Features { postcopy: Lazy::is_available(), zstd: true },
                evidence: Evidence(Vec::new()),
                versions: Versions::SUPPORTED,
                keys: self.keys(holder.clone()),
                limits: dunlin_handover::Limits::default(),
                guard: session.guard,
                entropy: Entropy::new(random()?),
            },
            stage: self.setting.storage.join(format!("staged-{}", std::process::id())).into(),
            guard: Box::new(|| Box::new(dunlin_handover::message::ChannelGuard)),
        }
        .prepare();
        let mut asking = Asking::new(&self.setting.ledger);
        let way = Box::new(move |call: &_| asking.ask(call));
        let mut room = Room {
            socket: self.socket.clone(),
            code: self.code.clone(),
            config: self.config(),
            decoded: None,
            instance: None,
            track: None,
            runner: None,
            first_call: Arc::default(),
            let_run: None,
            ran_at_us: 0,
        };
        let report = run.run(&mut room, session.stream, way).map_err(thread())?;
        let mut arrived = Arrived {
            live: room.runner.is_some(),
            outcome: format!("{:?}", report.outcome),
            restore_ms: milliseconds(report.parts.restore),
            staging_ms: milliseconds(report.parts.staging),
            run_ms: milliseconds(report.parts.run),
            first_call_ms: None,
            ran_at_us: room.ran_at_us,
            used: meter.end(),
        };
        if let (Some(runner), Some(since)) = (room.runner, room.let_run) {
            while room.first_call.get().is_none() && since.elapsed() < FIRST_CALL {
                std::thread::sleep(Duration::from_millis(1));
            }
            arrived.first_call_ms = room.first_call.get().map(|at| milliseconds(at.duration_since(since)));
            self.running = Some((runner, holder));
        }
        Ok(Answer::Arrived(arrived))
    }
}

/// Watches the service's memories from now on. It stands for a moment.
fn watch(runner: &Runner) -> Result<Tracker, String> {
    runner.stand()?;
    let tracker = runner.look(|instance, _| instance.tracker(false));
    runner.go_on();
    tracker?.map_err(|error| error.to_string())
}

fn thread() -> impl FnOnce(dunlin_keep::migrate::Error) -> Failure {
    Failure::because(Exit::Software, "the move cannot begin")
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(Failure::because(Exit::Software, "the system gives no random numbers"))?;
    Ok(bytes)
}

/// A world that tells when it is first called.
struct Watched {
    world: World,
    first_call: Option<Arc<OnceLock<Instant>>>,
}

impl Host for Watched {
    fn resolve(&self, module: &str, name: &str, params: &[ValueType], results: &[ValueType]) -> Option<u32> {
        self.world.resolve(module, name, params, results)
    }

    fn call(&mut self, function: u32, memory: &mut [u8], args: &[Value], results: &mut [Value]) -> Flow {
        if let Some(first) = self.first_call.take() {
            let _once = first.set(Instant::now());
        }
        self.world.call(function, memory, args, results)
    }
}

fn world(instance: &mut Instance) -> Option<&mut World> {
    let host: &mut dyn Any = instance.host_mut();
    host.downcast_mut::<Watched>().map(|watched| &mut watched.world)
}

/// Requests to stop also end calls that block.
fn attend(instance: &mut Instance) {
    let handle = instance.stop_handle();
    if let Some(world) = world(instance) {
        handle.on_request(Box::new(world.interrupter()));
    }
}

/// What is known about the service that runs here.
struct Here {
    version: u64,
    socket: Arc<OwnedFd>,
}

impl Resident for Here {
    fn version(&self) -> u64 {
        self.version
    }

    fn rest(&mut self, instance: &mut Instance) -> Result<Vec<u8>, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let map = instance.code().map().ok_or("the service cannot move")?.clone();
        let mut state = instance.capture_rest().map_err(|error| text(&error))?;
        let world = world(instance).ok_or("the service has no world")?;
        state.host = world.freeze().map_err(|error| text(&error))?;
        let snapshot = Snapshot {
            module: dunlin_snapshot::Module { digest: map.module, embedded: None },
            map_digest: map.digest(),
            pass_version: PASS_VERSION,
            features: dunlin_snapshot::Features::default(),
            product: None,
            state,
            extra: Vec::new(),
        };
        dunlin_snapshot::rest(&snapshot).map_err(|error| text(&error))
    }

    fn go_on(&mut self, instance: &mut Instance) {
        if let Some(world) = world(instance) {
            world.clear_interrupt();
        }
    }

    /// The client is to hear the end, though the other place has the socket, too.
    fn over(&mut self, _instance: &mut Instance) {
        let _gone = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Write);
    }
}

/// Where an arriving service is to live.
struct Room {
    code: Code,
    socket: Arc<OwnedFd>,
    config: Config,
    decoded: Option<dunlin_snapshot::State>,
    instance: Option<Instance>,
    track: Option<Track>,
    runner: Option<Runner>,
    first_call: Arc<OnceLock<Instant>>,
    let_run: Option<Instant>,
    ran_at_us: u64,
}

impl Room {
    fn state(&self, rest: &[u8]) -> Result<dunlin_snapshot::State, String> {
        let map = self.code.map().ok_or("the service cannot move")?;
        let limits = dunlin_snapshot::Limits::default();
        let envelope = Envelope::open(rest, &limits).map_err(|error| error.to_string())?;
        Ok(envelope.decode(map).map_err(|error| error.to_string())?.state)
    }
}

impl Lodging for Room {
    fn judge(&mut self, _: &Offer) -> (Vec<Blocked>, bool) {
        (Vec::new(), false)
    }

    fn prepare(&mut self, _: &Digest, _: Option<Vec<u8>>) -> Result<Prepared, String> {
        let world = World::new(self.config.clone()).map_err(|error| error.to_string())?;
        let host = Box::new(Watched { world, first_call: None });
        self.track = Some(Track::new(self.code.engine()).map_err(|error| error.to_string())?);
        Prepared::new(&self.code, host, Limits::default()).map_err(|error| error.to_string())
    }

    fn sizes(&mut self, rest: &[u8]) -> Result<Vec<u64>, String> {
        let state = self.state(rest)?;
        let sizes = state.memories.iter().map(|memory| memory.size).collect();
        self.decoded = Some(state);
        Ok(sizes)
    }

    fn restore(&mut self, prepared: Prepared, rest: &[u8]) -> Result<(), String> {
        let state = self.decoded.take().map_or_else(|| self.state(rest), Ok)?;
        let world = World::thaw(&state.host, self.config.clone()).map_err(|error| error.to_string())?;
        let host = Box::new(Watched { world, first_call: Some(self.first_call.clone()) });
        let mut instance = prepared.finish(&state, host).map_err(|error| error.to_string())?;
        attend(&mut instance);
        self.instance = Some(instance);
        Ok(())
    }

    fn run(&mut self, record: &Record) -> Result<(), String> {
        self.let_run = Some(Instant::now());
        let instance = self.instance.take().ok_or("nothing was restored")?;
        let resident = Box::new(Here { version: record.version, socket: self.socket.clone() });
        let track = self.track.take().ok_or("nothing was prepared")?;
        self.runner = Some(Runner::on(track, instance, Entry::command(), true, resident));
        self.ran_at_us = clock_us();
        Ok(())
    }

    fn pause(&mut self) {
        if let Some(runner) = &self.runner {
            runner.pause();
        }
    }

    fn unpause(&mut self) {
        if let Some(runner) = &self.runner {
            runner.unpause();
        }
    }

    fn is_fresh(&self) -> IsFresh {
        let code = self.code.clone();
        Box::new(move |memory, number, page| code.is_fresh(memory, number, page))
    }

    fn fence(&mut self) {
        self.runner = None;
    }
}

/// What this process uses from now on.
struct Meter {
    cpu: Duration,
}

impl Meter {
    fn start() -> Self {
        // From here on the peak is that of the move; a system that does not allow this reports the peak since the start.
        let _unsupported = std::fs::write("/proc/self/clear_refs", "5");
        Self { cpu: cpu() }
    }

    fn end(&self) -> Used {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        let cpu_ms = milliseconds(cpu().saturating_sub(self.cpu));
        Used { cpu_ms, peak_bytes: peak.map_or(0, |kilobytes: u64| kilobytes * 1024) }
    }
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
