//! The driver of a source.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use dunlin_base::{Digest, PAGE_SIZE, with_causes};
use dunlin_engine::Tracker;
use dunlin_handover::LedgerCall;
use dunlin_handover::converge::Mode;
use dunlin_handover::message::{Chunk, Guard};
use dunlin_handover::source::{Action, Config, Event, Outcome, Source as Machine};
use dunlin_handover::statistics::Statistics;

use super::link::{Connection, Input, Pulse, Stream, ledger};
use super::outgoing::Outgoing;
use super::shelf::Shelf;
use super::stage::{Order, Stager};
use super::volume::{Ahead, Supply};
use super::{Clock, Error, LedgerWay, OnPhase, Progress};

/// Bytes of the module or of the state besides memory in one message.
const CHUNK: usize = 256 << 10;

/// A program that stands at a safepoint and has no effects any more.
#[derive(Debug, Clone, Copy)]
pub struct Stopped {
    /// The last version that the ledger acknowledged.
    pub version: u64,
    /// From the request to the safepoint.
    pub time_to_safepoint: Duration,
}

/// The running program, as a source sees it.
pub trait Program: Send {
    /// Asks it to stop, without waiting; `stopped` is called once it stands, or with the reason why it never will.
    fn stop(&mut self, stopped: Box<dyn FnOnce(Result<Stopped, String>) + Send>);

    /// The state of the stopped program besides memory, as `dunlin_snapshot::rest` writes it.
    ///
    /// # Errors
    /// Why it cannot be captured, for people.
    fn rest(&mut self) -> Result<Vec<u8>, String>;

    /// Lets it go on in its own memory, in this epoch, whether it has stopped already or not.
    fn go_on(&mut self, epoch: u64);

    /// Slows it down by this many percent; 0 lets it run freely.
    fn throttle(&mut self, percent: u8);

    /// It is not to run here any more, unless [`Program::go_on`] follows: in post-copy the destination may give it back.
    fn fence(&mut self);
}

/// A move away from here.
pub struct Source {
    /// Of the machine.
    pub config: Config,
    /// The module as its author built it, for a destination that lacks it.
    pub module: Arc<[u8]>,
    /// Watches the program's memories.
    pub tracker: Tracker,
    /// Its private volume, if it has one.
    pub volume: Option<Box<dyn Supply>>,
    /// Whether pages are compressed (Zstandard).
    pub compress: bool,
    /// The file in which post-copy keeps the whole state until the destination has it.
    pub retain: Shelf,
    /// Makes a guard for a link that comes back.
    pub guard: Box<dyn Fn() -> Box<dyn Guard> + Send>,
    /// What is measured.
    pub progress: Progress,
}

/// Acts on a move away from here while it goes on. It can be cloned and sent anywhere.
#[derive(Clone)]
pub struct SourceHandle(Sender<Input<Local>>);

impl SourceHandle {
    /// Stops the move, if it can still be stopped; the outcome tells.
    pub fn cancel(&self) {
        let _over = self.0.send(Input::Cancel);
    }

    /// In post-copy: a new stream to the destination, after the link was lost.
    pub fn reconnect(&self, stream: Stream) {
        let _over = self.0.send(Input::Reconnect(stream));
    }
}

impl core::fmt::Debug for SourceHandle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SourceHandle").finish_non_exhaustive()
    }
}

impl core::fmt::Debug for Source {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Source").field("config", &self.config).finish_non_exhaustive()
    }
}

/// How it went.
#[derive(Debug)]
pub struct SourceReport {
    /// What became of the service.
    pub outcome: Outcome,
    /// What was measured.
    pub statistics: Statistics,
    /// How changed pages were found.
    pub method: dunlin_engine::Method,
}

/// What only a source hears.
pub(crate) enum Local {
    Stopped(Result<Stopped, String>),
}

/// A source that can be run.
pub struct SourceRun {
    parts: Source,
    inputs: Sender<Input<Local>>,
    heard: Receiver<Input<Local>>,
    on_phase: OnPhase,
}

impl core::fmt::Debug for SourceRun {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.parts.fmt(f)
    }
}

impl Source {
    /// Gets ready: the handle works from here on.
    pub fn prepare(self) -> (SourceRun, SourceHandle) {
        let (inputs, heard) = channel();
        let handle = SourceHandle(inputs.clone());
        (SourceRun { parts: self, inputs, heard, on_phase: OnPhase::default() }, handle)
    }
}

impl SourceRun {
    /// Calls `on_phase` with the name of each phase that the machine comes to.
    #[must_use]
    pub fn watched(mut self, on_phase: Box<dyn FnMut(&'static str) + Send>) -> Self {
        self.on_phase = OnPhase::new(on_phase);
        self
    }

    /// Moves the program over `stream`; returns when it is decided where the service runs (and, in post-copy, when the
    /// destination needs nothing more).
    ///
    /// # Errors
    /// [`Error`] before anything was sent; the program runs on here then.
    pub fn run(
        self,
        program: &mut dyn Program,
        stream: Stream,
        way: Box<dyn LedgerWay>,
    ) -> Result<SourceReport, Error> {
        let Self { parts, inputs, heard, mut on_phase } = self;
        let Source { config, module, tracker, volume, compress, retain, guard, progress } = parts;
        let clock = Clock::start();
        let calls = ledger(way, inputs.clone())?;
        let pulse = Pulse::new(&config.limits);
        let connection = Connection::open(0, stream, &inputs, &pulse)?;
        let module_digest = config.module;
        let mode = config.options.mode;
        let method = tracker.method();
        let mut driver = Driver {
            machine: Machine::new(config, clock.now()),
            clock,
            program,
            outgoing: Outgoing::new(tracker, compress),
            volume: Ahead::new(volume),
            module,
            module_digest,
            retain,
            retained: None,
            mode,
            stands: false,
            leaves_behind: false,
            scanned: u64::MAX,
            unsettled: false,
            calls,
            inputs,
            connection: Some(connection),
            pulse,
            links: 0,
            unsent: None,
        };
        driver.pump();
        on_phase.now(driver.machine.phase());
        while driver.machine.outcome().is_none() {
            progress.set(driver.machine.statistics(clock.now()));
            let wait = driver.machine.poll_timeout().map_or(Duration::from_secs(1), |due| due.since(clock.now()));
            driver.pulse.rest();
            let input = heard.recv_timeout(wait);
            driver.pulse.work();
            match input {
                Ok(Input::Reconnect(stream)) => driver.reconnect(stream, &*guard),
                Ok(input) => driver.input(input),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    driver.machine.handle_timeout(clock.now());
                }
            }
            driver.pump();
            on_phase.now(driver.machine.phase());
        }
        driver.finish();
        // One to which the service came back is the committed state until the next checkpoint.
        if matches!(driver.machine.outcome(), Some(Outcome::Stayed { .. })) {
            driver.forget_kept();
        }
        let statistics = driver.machine.statistics(clock.now());
        progress.set(statistics.clone());
        let outcome = driver.machine.outcome().cloned().unwrap_or(Outcome::Superseded);
        Ok(SourceReport { outcome, statistics, method })
    }
}

struct Driver<'a> {
    machine: Machine,
    clock: Clock,
    program: &'a mut dyn Program,
    outgoing: Outgoing,
    volume: Ahead,
    module: Arc<[u8]>,
    module_digest: Digest,
    retain: Shelf,
    retained: Option<Stager>,
    mode: Mode,
    /// The program was asked to stop, and was not let run since.
    stands: bool,
    /// Memory stays behind: the kept copy is what the service may have to go back to.
    leaves_behind: bool,
    /// Pages that the last scan found.
    scanned: u64,
    /// A round has left, and the digests above its pages are not up to date.
    unsettled: bool,
    calls: Sender<LedgerCall>,
    inputs: Sender<Input<Local>>,
    connection: Option<Connection>,
    pulse: Arc<Pulse>,
    links: u64,
    /// A frame for which the writer had no room.
    unsent: Option<Vec<u8>>,
}

impl Driver<'_> {
    fn input(&mut self, input: Input<Local>) {
        let now = self.clock.now();
        match input {
            Input::Frame(link, frame) => {
                let Some(connection) = self.connection.as_ref().filter(|open| open.number() == link) else { return };
                connection.taken();
                if self.machine.handle_message(now, &frame).is_err() {
                    self.pump();
                    self.close();
                } else if self.machine.poll_timeout().is_some_and(|due| due <= now) {
                    // While frames come without a break, nothing else says that this side lives.
                    self.machine.handle_timeout(now);
                }
            }
            Input::LinkLost(link) => {
                if self.connection.as_ref().is_some_and(|open| open.number() == link) {
                    self.close();
                    self.machine.handle_local(now, Event::LinkLost);
                }
            }
            Input::Alive(link) => {
                if let Some(connection) = self.connection.as_ref().filter(|open| open.number() == link) {
                    connection.heard_alive();
                    self.machine.handle_alive(now);
                }
            }
            Input::Ledger(reply) => self.machine.handle_ledger_reply(now, *reply),
            Input::Cancel => self.machine.handle_local(now, Event::Cancel),
            Input::Local(Local::Stopped(Ok(Stopped { version, time_to_safepoint }))) => {
                self.machine.handle_local(now, Event::Stopped { version, time_to_safepoint });
            }
            Input::Local(Local::Stopped(Err(reason))) => self.machine.handle_local(now, Event::Failed(reason)),
            Input::Room | Input::Reconnect(_) => {}
        }
    }

    fn reconnect(&mut self, stream: Stream, guard: &dyn Fn() -> Box<dyn Guard>) {
        self.links += 1;
        self.close();
        if let Ok(connection) = Connection::open(self.links, stream, &self.inputs, &self.pulse) {
            self.connection = Some(connection);
            self.machine.handle_local(self.clock.now(), Event::Reconnected(guard()));
        }
    }

    fn close(&mut self) {
        self.connection = None;
        self.unsent = None;
    }

    /// Carries everything out that the machine asks for, as far as the link has room.
    fn pump(&mut self) {
        loop {
            let mut idle = true;
            if let Some(frame) = self.unsent.take() {
                self.unsent = self.connection.as_ref().and_then(|open| open.send(frame));
                idle = self.unsent.is_some();
            }
            if self.unsent.is_none()
                && let Some(frame) = self.machine.poll_transmit(self.clock.now())
            {
                self.unsent = self.connection.as_ref().and_then(|open| open.send(frame));
                idle = false;
            }
            if let Some(action) = self.machine.poll_action() {
                self.act(action);
                idle = false;
            }
            if idle && core::mem::take(&mut self.unsettled) && !self.stands {
                self.outgoing.settle();
            } else if idle {
                return;
            }
        }
    }

    fn report(&mut self, event: Event) {
        self.machine.handle_local(self.clock.now(), event);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Ledger(call) => drop(self.calls.send(call)),
            Action::SendModule => {
                let module = self.module.clone();
                self.chunks(&module, Event::Module);
            }
            Action::Throttle(percent) => self.program.throttle(percent),
            Action::Scan => match self.scan() {
                Ok((pages, volume)) => self.report(Event::Scanned { pages, volume }),
                Err(reason) => self.report(Event::Failed(reason)),
            },
            Action::VolumeHeld(held) => self.volume.held(held.0),
            Action::SendPages { round, max } => match self.send(round, max) {
                Ok(left) => self.report(Event::BatchEnd { left }),
                Err(reason) => self.report(Event::Failed(reason)),
            },
            Action::StopGuest => {
                self.stands = true;
                let inputs = self.inputs.clone();
                self.program.stop(Box::new(move |stopped| {
                    let _over = inputs.send(Input::Local(Local::Stopped(stopped)));
                }));
            }
            Action::Capture { retain } => match self.capture(retain) {
                Ok((rest, left, state_hash)) => {
                    self.volume.end();
                    left.into_iter().for_each(|left| self.report(Event::LeftBehind(left)));
                    self.chunks(&rest, Event::State);
                    self.report(Event::Captured { state_hash });
                }
                Err(reason) => self.report(Event::Failed(reason)),
            },
            Action::ResumeGuest { epoch } => {
                self.stands = false;
                self.program.go_on(epoch);
            }
            Action::Fence => {
                if !self.leaves_behind {
                    // The copy was begun in case of need, and there was none.
                    self.forget_kept();
                }
                self.program.fence();
            }
            Action::ServePages(request) => {
                let end = request.first.saturating_add(request.count.into());
                if let Some(pages) = self.outgoing.pages(u32::MAX, request.memory, request.first..end) {
                    self.report(Event::Pages(pages));
                }
            }
            Action::RestartPush => self.outgoing.restart_push(),
            Action::Release => self.forget_kept(),
            // A later version of the machine may ask for more; it is built together with this driver.
            other => self.report(Event::Failed(format!("this driver cannot do {other:?}"))),
        }
    }

    /// Sends chunks of the volume, or pages; tells how much is left, in pages. In post-copy, memory comes after the switch.
    fn send(&mut self, round: u32, max: u32) -> Result<u64, String> {
        let memory_waits = self.mode == Mode::Postcopy && !self.stands;
        if let Some(chunks) = self.volume.batch()? {
            self.report(Event::VolumeChunks(chunks));
        } else if !memory_waits && let Some(pages) = self.outgoing.batch(round, max) {
            if let Some(stager) = self.retained.as_ref().filter(|_| !self.leaves_behind) {
                self.outgoing.has_kept(&pages);
                stager.put(Order::Pages(pages.clone()));
            }
            self.report(Event::Pages(pages));
        }
        let pages = if memory_waits { 0 } else { self.outgoing.unsent() };
        self.unsettled = pages == 0;
        Ok(pages.saturating_add(self.volume.unsent().div_ceil(PAGE_SIZE as u64)))
    }

    /// Finds what changed: pages, and bytes of the volume. Where memory is likely to be left behind, the copy that is then
    /// kept grows while the program runs, so that the stop need not wait for all of it.
    fn scan(&mut self) -> Result<(u64, u64), String> {
        let volume = if self.machine.sends_volume() { self.volume.scan()? } else { 0 };
        Ok((self.scan_memory()?, volume))
    }

    fn scan_memory(&mut self) -> Result<u64, String> {
        let pages = self.outgoing.scan()?;
        let before = core::mem::replace(&mut self.scanned, pages);
        if self.stands {
            return Ok(pages);
        }
        let shrinks = pages < before - before / 10;
        let likely = match self.mode {
            Mode::Stop | Mode::Precopy => false,
            Mode::Postcopy => true,
            Mode::Hybrid | Mode::Auto => !shrinks && self.outgoing.reads_freely(),
        };
        if likely && self.retained.is_none() {
            self.begin_keeping()?;
            self.keep();
            self.outgoing.settle();
            return Ok(self.outgoing.unsent());
        }
        Ok(pages)
    }

    fn begin_keeping(&mut self) -> Result<(), String> {
        self.retained = Some(Stager::create(self.retain.clone()).map_err(|error| with_causes(&error))?);
        self.outgoing.begin_keeping();
        Ok(())
    }

    fn keep(&mut self) {
        if let Some(stager) = &self.retained {
            self.outgoing.keep(&mut |pages| stager.put(Order::Pages(pages)));
        }
    }

    fn capture(
        &mut self,
        retain: Option<dunlin_handover::source::Retained>,
    ) -> Result<(Vec<u8>, Vec<dunlin_handover::message::LeftBehind>, Digest), String> {
        let rest = self.program.rest()?;
        let mut left = Vec::new();
        if let Some(retained) = retain {
            if self.retained.is_none() {
                self.begin_keeping()?;
            }
            self.keep();
            self.leaves_behind = true;
            left = self.outgoing.leave_behind();
            let stager = self.retained.as_ref().ok_or("nothing is kept")?;
            stager.put(Order::Rest(rest.clone()));
            stager.put(Order::Retained(retained));
            Stager::synced(&stager.sync())?;
        }
        let digest = self.outgoing.state_digest(&self.module_digest, &rest);
        Ok((rest, left, digest))
    }

    fn chunks(&mut self, bytes: &[u8], event: fn(Chunk) -> Event) {
        let total = bytes.len() as u64;
        for (number, piece) in bytes.chunks(CHUNK).enumerate() {
            let offset = (number * CHUNK) as u64;
            self.report(event(Chunk { offset, total, bytes: piece.to_vec() }));
        }
    }

    /// Deletes the kept copy: the program goes on here, or the destination has everything.
    fn forget_kept(&mut self) {
        if let Some(stager) = self.retained.take() {
            stager.delete();
        }
    }

    /// Sends what the machine still has to say, and closes the link.
    fn finish(&mut self) {
        while let Some(connection) = &self.connection {
            let frame = self.unsent.take().or_else(|| self.machine.poll_transmit(self.clock.now()));
            let Some(frame) = frame else { break };
            self.unsent = connection.send(frame);
            if self.unsent.is_some() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if let Some(mut connection) = self.connection.take() {
            connection.finish();
        }
    }
}
