//! A thread on which an instance runs, stops, stays and is slowed down.

use core::fmt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dunlin_base::with_causes;
use dunlin_engine::{Engine, Entry, Instance, Outcome, StopHandle};

use super::Error;
use super::source::{Program, Stopped};

/// A slowed program is stopped this often.
const PERIOD: Duration = Duration::from_millis(10);

const GONE: &str = "the program's thread is gone";

/// What the keep knows about the instance besides the engine.
pub trait Resident: Send {
    /// The version that the ledger acknowledged last.
    fn version(&self) -> u64;

    /// The state of the stopped instance besides memory, as `dunlin_snapshot::rest` writes it.
    ///
    /// # Errors
    /// Why it cannot be captured, for people.
    fn rest(&mut self, instance: &mut Instance) -> Result<Vec<u8>, String>;

    /// The stopped instance is about to go on in place.
    fn go_on(&mut self, _instance: &mut Instance) {}

    /// The program has ended by itself.
    fn over(&mut self, _instance: &mut Instance) {}
}

/// What is done with a program that stands.
type Look = Box<dyn FnOnce(&mut Instance, &mut dyn Resident) + Send>;

type OnStop = Box<dyn FnOnce(Result<Stopped, String>) + Send>;

enum Order {
    GoOn,
    Look(Look),
    End,
}

#[derive(Default)]
struct Wish {
    /// Somebody wants the program to stand.
    on_stop: Option<OnStop>,
    paused: bool,
    throttle: u8,
    /// Percent of one processor that the program never gets.
    withheld: u8,
    over: bool,
    ended: Option<Result<Outcome, String>>,
}

impl Wish {
    /// By how many percent the program is slowed down.
    fn slowed(&self) -> u8 {
        self.throttle.max(self.withheld)
    }
}

struct Shared {
    wish: Mutex<Wish>,
    changed: Condvar,
}

impl Shared {
    fn wish(&self) -> MutexGuard<'_, Wish> {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a track takes: an instance, and how to run it.
type Load = Box<dyn FnOnce() + Send>;

/// A thread that waits for an instance to run: made while nobody waits for it.
pub struct Track {
    loads: Sender<Load>,
    thread: JoinHandle<()>,
}

impl Track {
    /// A thread for instances of this engine. It ends if none comes.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn new(engine: &Engine) -> Result<Self, Error> {
        let (loads, loaded) = channel::<Load>();
        let thread = engine.spawn("dunlin-runner", move || {
            if let Ok(load) = loaded.recv() {
                load();
            }
        });
        Ok(Self { loads, thread: thread.map_err(Error::Thread)? })
    }
}

impl fmt::Debug for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Track").finish_non_exhaustive()
    }
}

/// Runs an instance. Its code is of the resumable variant, so that it can stay where it is.
pub struct Runner {
    shared: Arc<Shared>,
    stop: StopHandle,
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
    /// Started when the program is slowed down for the first time.
    throttle: Once,
}

impl Runner {
    /// Runs `instance` in a thread of its own: from the beginning, or where it was restored.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn start(
        instance: Instance,
        entries: Vec<Entry>,
        restored: bool,
        resident: Box<dyn Resident>,
    ) -> Result<Self, Error> {
        let track = Track::new(instance.code().engine())?;
        Ok(Self::on(track, instance, entries, restored, resident))
    }

    /// The same on a thread that waits for it.
    pub fn on(
        track: Track,
        instance: Instance,
        entries: Vec<Entry>,
        restored: bool,
        resident: Box<dyn Resident>,
    ) -> Self {
        let shared = Arc::new(Shared { wish: Mutex::default(), changed: Condvar::new() });
        let stop = instance.stop_handle();
        let (orders, taken) = channel();
        let for_program = shared.clone();
        let load = move || follow(instance, &entries, restored, resident, &for_program, &taken);
        // It waits for nothing else.
        let _waits = track.loads.send(Box::new(load));
        Self { shared, stop, orders, thread: Some(track.thread), throttle: Once::new() }
    }

    /// Has a thread that slows the program down. Without one it runs as fast as ever.
    fn has_throttle(&self) {
        self.throttle.call_once(|| {
            let (shared, kick) = (self.shared.clone(), self.stop.clone());
            let throttling = thread::Builder::new().name("dunlin-throttle".to_owned());
            let _none = throttling.spawn(move || throttle(&shared, &kick));
        });
    }

    /// Waits until the program has ended by itself, or the service has left.
    ///
    /// # Errors
    /// Why it cannot go on, for people.
    pub fn wait(&self) -> Result<Outcome, String> {
        let mut wish = self.shared.wish();
        loop {
            if let Some(ended) = &wish.ended {
                return ended.clone();
            }
            wish = self.shared.changed.wait(wish).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Stops the program where it is, without waiting, until [`Runner::unpause`].
    pub fn pause(&self) {
        self.shared.wish().paused = true;
        self.stop.request();
    }

    /// Lets it run on.
    pub fn unpause(&self) {
        self.shared.wish().paused = false;
        self.shared.changed.notify_all();
    }

    /// Never gives the program more than this part of one processor.
    pub fn limit(&self, percent: u8) {
        self.has_throttle();
        self.shared.wish().withheld = 100 - percent.clamp(1, 100);
        self.shared.changed.notify_all();
    }

    /// Stops the program and waits until it stands; then [`Runner::look`], and [`Runner::go_on`].
    ///
    /// # Errors
    /// Why it never will, for people.
    pub fn stand(&self) -> Result<Stopped, String> {
        let (told, stands) = channel();
        self.stop(Box::new(move |stopped| drop(told.send(stopped))));
        stands.recv().map_err(|_| GONE.to_owned())?
    }

    /// Does something with the program while it stands, on its thread.
    ///
    /// # Errors
    /// If the program is gone.
    pub fn look<R: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Instance, &mut dyn Resident) -> R + Send + 'static,
    ) -> Result<R, String> {
        let (answer, seen) = channel();
        let look = move |instance: &mut Instance, resident: &mut dyn Resident| {
            let _gone = answer.send(look(instance, resident));
        };
        self.orders.send(Order::Look(Box::new(look))).map_err(|_| GONE.to_owned())?;
        seen.recv().map_err(|_| GONE.to_owned())
    }

    /// Slows the program down by this many percent; 0 lets it run as far as its limit.
    pub fn slow(&self, percent: u8) {
        if percent > 0 {
            self.has_throttle();
        }
        self.shared.wish().throttle = percent.min(99);
        self.shared.changed.notify_all();
    }

    /// As [`Program::stop`].
    pub fn stop(&self, stopped: OnStop) {
        let mut wish = self.shared.wish();
        if let Some(ended) = &wish.ended {
            let reason = match ended {
                Ok(_) => "the program has ended".to_owned(),
                Err(reason) => reason.clone(),
            };
            drop(wish);
            return stopped(Err(reason));
        }
        wish.on_stop = Some(stopped);
        drop(wish);
        self.stop.request();
        self.shared.changed.notify_all();
    }

    /// Lets it go on, whether it has stopped already or not.
    pub fn go_on(&self) {
        // A stop that has not been reached is taken back; one that has been is followed by this order.
        let reached = self.shared.wish().on_stop.take().is_none();
        if reached {
            let _gone = self.orders.send(Order::GoOn);
        }
    }

    /// It never runs again here.
    pub fn fence(&self) {
        self.shared.wish().over = true;
        let _gone = self.orders.send(Order::End);
    }
}

impl Program for Runner {
    fn stop(&mut self, stopped: OnStop) {
        Self::stop(self, stopped);
    }

    fn rest(&mut self) -> Result<Vec<u8>, String> {
        self.look(|instance, resident| resident.rest(instance))?
    }

    fn go_on(&mut self, _epoch: u64) {
        Self::go_on(self);
    }

    fn throttle(&mut self, percent: u8) {
        self.slow(percent);
    }

    fn fence(&mut self) {
        // It stands, and only an order lets it go on. It ends when this is dropped.
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.shared.wish().over = true;
        self.shared.changed.notify_all();
        let _gone = self.orders.send(Order::End);
        self.stop.request();
        // The thread may wait for memory that never comes; it is not waited for.
        drop(self.thread.take());
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").finish_non_exhaustive()
    }
}

fn follow(
    mut instance: Instance,
    entries: &[Entry],
    restored: bool,
    mut resident: Box<dyn Resident>,
    shared: &Shared,
    orders: &Receiver<Order>,
) {
    let mut ran = if restored { instance.resume(entries) } else { instance.run(entries) };
    let ended = loop {
        match ran {
            Ok(Outcome::Stopped) => {}
            Ok(outcome) => {
                resident.over(&mut instance);
                break Ok(outcome);
            }
            Err(error) => break Err(with_causes(&error)),
        }
        if !stand(&mut instance, &mut *resident, shared, orders) {
            break Err("the service is not here any more".to_owned());
        }
        if let Err(error) = instance.stay() {
            break Err(with_causes(&error));
        }
        resident.go_on(&mut instance);
        // A wish that came since the program stood would be forgotten with the request.
        let wish = shared.wish();
        if wish.on_stop.is_some() || wish.paused || wish.over {
            instance.stop_handle().request();
        }
        drop(wish);
        ran = instance.resume(entries);
    };
    let mut wish = shared.wish();
    let reason = match &ended {
        Ok(_) => "the program has ended".to_owned(),
        Err(reason) => reason.clone(),
    };
    wish.ended = Some(ended);
    let on_stop = wish.on_stop.take();
    drop(wish);
    shared.changed.notify_all();
    if let Some(on_stop) = on_stop {
        on_stop(Err(reason));
    }
    // Answers to who asks for the state of a program that is gone.
    for order in orders {
        if let Order::End = order {
            return;
        }
    }
}

/// The program stands: until it may go on (`true`), or never again.
fn stand(instance: &mut Instance, resident: &mut dyn Resident, shared: &Shared, orders: &Receiver<Order>) -> bool {
    let mut wish = shared.wish();
    loop {
        if wish.over {
            return false;
        }
        if let Some(on_stop) = wish.on_stop.take() {
            drop(wish);
            let time_to_safepoint = instance.time_to_stop().unwrap_or_default();
            on_stop(Ok(Stopped { version: resident.version(), time_to_safepoint }));
            for order in orders {
                match order {
                    Order::Look(look) => look(instance, resident),
                    Order::GoOn => break,
                    Order::End => return false,
                }
            }
            wish = shared.wish();
            continue;
        }
        if wish.paused {
            wish = shared.changed.wait(wish).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let slowed = wish.slowed().min(99);
        if slowed == 0 {
            return true;
        }
        // It runs for a period in between, whatever its share is.
        let until = Instant::now() + PERIOD * u32::from(slowed) / u32::from(100 - slowed);
        while !wish.over && wish.on_stop.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            wish = shared.changed.wait_timeout(wish, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Stops the program once in each period while it is to be slow; it stands for its share of the period.
fn throttle(shared: &Shared, stop: &StopHandle) {
    let mut wish = shared.wish();
    while !wish.over && wish.ended.is_none() {
        if wish.slowed() == 0 {
            wish = shared.changed.wait(wish).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        drop(wish);
        thread::sleep(PERIOD);
        stop.request();
        wish = shared.wish();
    }
}
