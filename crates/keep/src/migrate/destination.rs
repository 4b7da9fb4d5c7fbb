//! The driver of a destination.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use dunlin_base::{Digest, with_causes};
use dunlin_engine::Prepared;
use dunlin_handover::LedgerCall;
use dunlin_handover::destination::{Action, Arrival, Config, Destination as Machine, Event, Outcome};
use dunlin_handover::ledger::Record;
use dunlin_handover::message::{Blocked, Guard, MAX_HELD, MAX_HELD_CHUNKS, Offer, PageRequest, VolumeHeld};
use dunlin_snapshot::MemoryTree;

use super::incoming::{Arriving, Incoming, digest_of};
use super::link::{Connection, Input, Pulse, Stream, ledger};
use super::shelf::Shelf;
use super::stage::{Order, Stager};
use super::{Clock, Error, LedgerWay, OnPhase};

/// Largest module and largest state besides memory that are taken.
const MAX_BLOB: usize = 1 << 30;
/// How often a driver that waits for the compiler looks around.
const BREATH: Duration = Duration::from_millis(20);

/// Whether a page is as in a fresh instance: memory, page, contents.
pub type IsFresh = Box<dyn Fn(usize, u64, &[u8]) -> bool + Send>;

/// The place that a program is to move to.
pub trait Lodging: Send {
    /// Everything that stands in the way of taking this service, and whether its module must be sent.
    fn judge(&mut self, offer: &Offer) -> (Vec<Blocked>, bool);

    /// Compiles and instantiates the module with this digest, which is `module` if it was asked for.
    ///
    /// # Errors
    /// Why that cannot be done, for people; also that the bytes have another digest.
    fn prepare(&mut self, digest: &Digest, module: Option<Vec<u8>>) -> Result<Prepared, String>;

    /// The chunks of the service's private volume that are here already.
    ///
    /// # Errors
    /// Why they cannot be listed, for people.
    fn volume_held(&mut self) -> Result<Vec<Digest>, String> {
        Ok(Vec::new())
    }

    /// Puts chunks of the volume to those that are here.
    ///
    /// # Errors
    /// Why they cannot be stored, for people.
    fn store_volume(&mut self, _chunks: &[Vec<u8>]) -> Result<(), String> {
        Err("a program without a volume has no chunks of one".to_owned())
    }

    /// Has the chunks that came on stable storage.
    ///
    /// # Errors
    /// Why that cannot be done, for people.
    fn sync_volume(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// The sizes in bytes of the memories that the state besides memory speaks of.
    ///
    /// # Errors
    /// Why `rest` is not such a state.
    fn sizes(&mut self, rest: &[u8]) -> Result<Vec<u64>, String>;

    /// Restores everything besides memory, so that [`Lodging::run`] can be quick. Nothing runs yet.
    ///
    /// # Errors
    /// Why that cannot be done, for people.
    fn restore(&mut self, prepared: Prepared, rest: &[u8]) -> Result<(), String>;

    /// So many pages of memory come after the program runs. Called before [`Lodging::run`].
    fn expect(&mut self, _pages: u64) {}

    /// The ledger says that this instance is the holder: lets the program run, with effects.
    ///
    /// # Errors
    /// Why that cannot be done, for people.
    fn run(&mut self, record: &Record) -> Result<(), String>;

    /// Stops the running program where it is, with its effects, without waiting.
    fn pause(&mut self);

    /// Lets it run on.
    fn unpause(&mut self);

    /// How to tell pages that are as in a fresh instance of the module.
    fn is_fresh(&self) -> IsFresh;

    /// Nothing of this program ever runs here.
    fn fence(&mut self);
}

/// A move to here.
pub struct Destination {
    /// Of the machine.
    pub config: Config,
    /// The file in which the state is staged.
    pub stage: Shelf,
    /// Makes a guard for a link that comes back.
    pub guard: Box<dyn Fn() -> Box<dyn Guard> + Send>,
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Acts on a move to here while it goes on. It can be cloned and sent anywhere.
#[derive(Clone)]
pub struct DestinationHandle(Sender<Input<Local>>);

impl DestinationHandle {
    /// Stops the move, if it can still be stopped; the outcome tells.
    pub fn cancel(&self) {
        let _over = self.0.send(Input::Cancel);
    }

    /// In post-copy: a new stream to the source, after the link was lost.
    pub fn reconnect(&self, stream: Stream) {
        let _over = self.0.send(Input::Reconnect(stream));
    }
}

impl fmt::Debug for DestinationHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DestinationHandle").finish_non_exhaustive()
    }
}

/// How it went.
#[derive(Debug)]
pub struct DestinationReport {
    /// What became of the service.
    pub outcome: Outcome,
    /// What the pause was made of here.
    pub parts: Parts,
}

/// Parts of the pause at the destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Parts {
    /// Digesting and restoring everything besides memory, while the rest is written to stable storage.
    pub restore: Duration,
    /// Until it was on stable storage.
    pub staging: Duration,
    /// From the ledger's word until the program ran.
    pub run: Duration,
}

/// What only a destination hears.
pub(crate) enum Local {
    Fault(u32, u64),
}

/// A destination that can be run.
pub struct DestinationRun {
    parts: Destination,
    inputs: Sender<Input<Local>>,
    heard: Receiver<Input<Local>>,
    on_phase: OnPhase,
}

impl fmt::Debug for DestinationRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.fmt(f)
    }
}

impl Destination {
    /// Gets ready: the handle works from here on.
    pub fn prepare(self) -> (DestinationRun, DestinationHandle) {
        let (inputs, heard) = channel();
        let handle = DestinationHandle(inputs.clone());
        (DestinationRun { parts: self, inputs, heard, on_phase: OnPhase::default() }, handle)
    }
}

impl DestinationRun {
    /// Calls `on_phase` with the name of each phase that the machine comes to.
    #[must_use]
    pub fn watched(mut self, on_phase: Box<dyn FnMut(&'static str) + Send>) -> Self {
        self.on_phase = OnPhase::new(on_phase);
        self
    }

    /// Takes a program over `stream`; returns when it is decided whether it runs here (and, in post-copy, when it
    /// needs nothing more).
    ///
    /// # Errors
    /// [`Error`] before anything was received.
    pub fn run(
        self,
        lodging: &mut dyn Lodging,
        stream: Stream,
        way: Box<dyn LedgerWay>,
    ) -> Result<DestinationReport, Error> {
        let Self { parts: Destination { config, stage, guard }, inputs, heard, mut on_phase } = self;
        let clock = Clock::start();
        let calls = ledger(way, inputs.clone())?;
        let pulse = Pulse::new(&config.limits);
        let connection = Connection::open(0, stream, &inputs, &pulse)?;
        let mut driver = Driver {
            machine: Machine::new(config, clock.now()),
            clock,
            lodging,
            stage,
            stager: None,
            calls,
            inputs,
            heard,
            connection: Some(connection),
            pulse,
            links: 0,
            unsent: None,
            offered: None,
            module: Vec::new(),
            rest: Vec::new(),
            sizes: Vec::new(),
            incoming: None,
            arriving: None,
            spent: Vec::new(),
            unstable: false,
            parts: Parts::default(),
        };
        driver.pump();
        on_phase.now(driver.machine.phase());
        while driver.machine.outcome().is_none() {
            let wait = driver.machine.poll_timeout().map_or(Duration::from_secs(1), |due| due.since(clock.now()));
            driver.pulse.rest();
            let input = driver.heard.recv_timeout(wait);
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
        let outcome = driver.machine.outcome().cloned().unwrap_or(Outcome::Parked);
        Ok(DestinationReport { outcome, parts: driver.parts })
    }
}

struct Driver<'a> {
    machine: Machine,
    clock: Clock,
    lodging: &'a mut dyn Lodging,
    stage: Shelf,
    stager: Option<Stager>,
    calls: Sender<LedgerCall>,
    inputs: Sender<Input<Local>>,
    heard: Receiver<Input<Local>>,
    connection: Option<Connection>,
    pulse: Arc<Pulse>,
    links: u64,
    /// A frame for which the writer had no room.
    unsent: Option<Vec<u8>>,
    offered: Option<Digest>,
    module: Vec<u8>,
    rest: Vec<u8>,
    sizes: Vec<u64>,
    incoming: Option<Incoming>,
    arriving: Option<Arriving>,
    /// Digests that are of no use any more.
    spent: Vec<MemoryTree>,
    /// Pages or chunks of the volume came that may not be on stable storage yet.
    unstable: bool,
    parts: Parts,
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
            Input::Local(Local::Fault(memory, first)) => {
                self.machine.handle_local(now, Event::Fault(PageRequest { memory, first, count: 1 }));
            }
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

    fn pump(&mut self) {
        loop {
            let mut idle = true;
            if let Some(frame) = self.unsent.take() {
                self.unsent = self.connection.as_ref().and_then(|open| open.send(frame));
                idle = self.unsent.is_some();
            }
            if self.unsent.is_none()
                && let Some(frame) = self.machine.poll_transmit()
            {
                let round_ends = self.stabilise();
                self.unsent = self.connection.as_ref().and_then(|open| open.send(frame));
                if let Some(incoming) = self.incoming.as_mut().filter(|_| round_ends) {
                    incoming.settle();
                }
                idle = false;
            }
            if let Some(action) = self.machine.poll_action() {
                if let Err(reason) = self.act(action) {
                    self.machine.handle_local(self.clock.now(), Event::Failed(reason));
                }
                idle = false;
            }
            if idle {
                return;
            }
        }
    }

    /// Before the stop, what is said to the source (that a round arrived) is said when what came in the round is on
    /// stable storage: so the source measures storage too, and the stop finds little that is not. Returns whether there
    /// were any.
    fn stabilise(&mut self) -> bool {
        if !core::mem::take(&mut self.unstable) || self.incoming.is_none() {
            return false;
        }
        let Some(stager) = &self.stager else { return false };
        let answer = stager.sync();
        let volume = self.lodging.sync_volume();
        if let Err(reason) = Stager::synced(&answer).and(volume) {
            self.report(Event::Failed(reason));
        }
        true
    }

    fn report(&mut self, event: Event) {
        self.machine.handle_local(self.clock.now(), event);
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Ledger(call) => drop(self.calls.send(call)),
            Action::Judge(offer) => {
                let (reasons, module_wanted) = self.lodging.judge(&offer);
                self.offered = Some(offer.module);
                self.report(Event::Judged { reasons, module_wanted });
            }
            Action::StoreModule(chunk) => append(&mut self.module, &chunk.bytes)?,
            Action::Prepare => {
                let start = Instant::now();
                let digest = self.offered.ok_or("nothing was offered")?;
                let module = core::mem::take(&mut self.module);
                let module = (!module.is_empty()).then_some(module);
                self.incoming = Some(Incoming::new(self.prepare(&digest, module)?));
                self.stager = Some(Stager::create(self.stage.clone()).map_err(|error| with_causes(&error))?);
                let mut held = self.lodging.volume_held()?;
                held.truncate(MAX_HELD_CHUNKS);
                held.chunks(MAX_HELD).for_each(|held| self.report(Event::VolumeHeld(VolumeHeld(held.to_vec()))));
                self.report(Event::Prepared { took: start.elapsed() });
            }
            Action::StorePages(pages) => {
                self.incoming.as_mut().ok_or("nothing was prepared")?.store(&pages)?;
                self.put(Order::Pages(pages));
                self.unstable = true;
            }
            Action::StoreVolume(chunks) => {
                self.lodging.store_volume(&chunks.0)?;
                self.unstable = true;
            }
            Action::StoreState(chunk) => append(&mut self.rest, &chunk.bytes)?,
            Action::MarkMissing(left) => {
                self.incoming.as_mut().ok_or("nothing was prepared")?.left_behind(&left);
                self.put(Order::Behind(left));
            }
            Action::Stage(arrival) => {
                let state_hash = self.stage(*arrival)?;
                self.report(Event::Staged { state_hash });
            }
            Action::Activate { record, lazy_pages } => {
                let start = Instant::now();
                self.lodging.expect(lazy_pages);
                self.lodging.run(&record)?;
                self.parts.run = start.elapsed();
                let restore = self.parts.restore + self.parts.run;
                self.report(Event::Activated { restore });
            }
            Action::PlacePages(pages) => {
                let arriving = self.arriving.as_mut().ok_or("no page is missing here")?;
                arriving.place(&pages)?;
                let missing = arriving.lazy.missing();
                self.put(Order::Pages(pages));
                self.report(Event::Placed { missing });
            }
            Action::PauseGuest => self.lodging.pause(),
            Action::UnpauseGuest => self.lodging.unpause(),
            Action::Seal => {
                let answer = self.stager.as_ref().ok_or("nothing was staged")?.sync();
                Stager::synced(&answer)?;
                let module = self.offered.ok_or("nothing was offered")?;
                let arriving = self.arriving.as_mut().ok_or("no page is missing here")?;
                arriving.lazy.end().map_err(|error| with_causes(&error))?;
                let state_hash = digest_of(&mut arriving.trees, &module, &self.rest, &self.sizes);
                self.report(Event::Sealed { state_hash });
            }
            Action::Discard => {
                self.incoming = None;
                if let Some(stager) = self.stager.take() {
                    stager.delete();
                }
            }
            Action::Fence => self.lodging.fence(),
            // A later version of the machine may ask for more; it is built together with this driver.
            other => return Err(format!("this driver cannot do {other:?}")),
        }
        Ok(())
    }

    /// Has the module compiled while the source hears that we are there: that may take long.
    fn prepare(&mut self, digest: &Digest, module: Option<Vec<u8>>) -> Result<Prepared, String> {
        let Self { lodging, machine, clock, connection, heard, inputs, unsent, .. } = self;
        let mut later = Vec::new();
        let prepared = thread::scope(|scope| {
            let work = scope.spawn(|| lodging.prepare(digest, module));
            while !work.is_finished() {
                match heard.recv_timeout(BREATH) {
                    // Nothing but signs of life is said in this phase; what it leads to is done afterwards.
                    Ok(Input::Frame(link, frame)) if connection.as_ref().is_some_and(|open| open.number() == link) => {
                        connection.iter().for_each(Connection::taken);
                        let _refused = machine.handle_message(clock.now(), &frame);
                    }
                    Ok(other) => later.push(other),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
                }
                if machine.poll_timeout().is_some_and(|due| due <= clock.now()) {
                    machine.handle_timeout(clock.now());
                }
                while unsent.is_none()
                    && let Some(frame) = machine.poll_transmit()
                {
                    *unsent = connection.as_ref().and_then(|open| open.send(frame));
                }
            }
            work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        for input in later {
            let _over = inputs.send(input);
        }
        prepared
    }

    /// Restores everything besides memory while the last of it goes to stable storage.
    fn stage(&mut self, arrival: Arrival) -> Result<Digest, String> {
        let start = Instant::now();
        let announced = arrival.last.state_hash;
        let late = arrival.last.retained.is_some();
        self.put(Order::Rest(self.rest.clone()));
        self.put(Order::Arrival(Box::new(arrival)));
        let answer = self.stager.as_ref().ok_or("nothing was staged")?.sync();
        let module = self.offered.ok_or("nothing was offered")?;
        let mut incoming = self.incoming.take().ok_or("nothing was prepared")?;
        self.sizes = self.lodging.sizes(&self.rest)?;
        let digest = incoming.state_digest(&module, &self.rest, &self.sizes);
        if !late && digest != announced {
            // The machine tells the source.
            return Ok(digest);
        }
        let (mut prepared, trees, missing) = incoming.finish();
        if late {
            for (index, size) in self.sizes.iter().enumerate() {
                prepared.grow(index, *size).map_err(|error| with_causes(&error))?;
            }
            let inputs = self.inputs.clone();
            let on_fault = move |memory: usize, page| {
                let _over = inputs.send(Input::Local(Local::Fault(memory as u32, page)));
            };
            let lazy = prepared.lazy(&missing, Box::new(on_fault)).map_err(|error| with_causes(&error))?;
            let is_fresh = self.lodging.is_fresh();
            self.arriving = Some(Arriving { lazy, trees, is_fresh });
        } else {
            // To give so much memory back takes a while, for which nobody is to wait now.
            self.spent = trees;
        }
        self.lodging.restore(prepared, &self.rest)?;
        self.parts.restore = start.elapsed();
        Stager::synced(&answer)?;
        self.parts.staging = start.elapsed();
        Ok(if late { announced } else { digest })
    }

    fn put(&self, order: Order) {
        if let Some(stager) = &self.stager {
            stager.put(order);
        }
    }

    /// Sends what the machine still has to say, and closes the link.
    fn finish(&mut self) {
        while let Some(connection) = &self.connection {
            let Some(frame) = self.unsent.take().or_else(|| self.machine.poll_transmit()) else { break };
            self.unsent = connection.send(frame);
            if self.unsent.is_some() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        if let Some(mut connection) = self.connection.take() {
            connection.finish();
        }
    }
}

fn append(blob: &mut Vec<u8>, bytes: &[u8]) -> Result<(), String> {
    if blob.len() + bytes.len() > MAX_BLOB {
        return Err(format!("more than {MAX_BLOB} bytes of module or state came"));
    }
    blob.extend_from_slice(bytes);
    Ok(())
}
