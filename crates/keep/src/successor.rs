//! A weak move: instead of the program, a new instance of it leaves, which stands at the beginning of its export `arrive`.
//!
//! The new instance is made here and runs until it would do something: its world answers no call, so that it stops in
//! the first one, which is made where it arrives. Until the ledger has decided, the old instance is here and waits.

use dunlin_base::{Value, ValueType, with_causes};
use dunlin_engine::{Entry, Flow, Host, Instance, Outcome, Tracker};
use dunlin_host::{Config, World};
use dunlin_snapshot::HostSection;

use crate::boot::VolumeKeys;
use crate::error::Failure;
use crate::offer::{Loaded, limits};
use crate::service::rest_of;

/// The export in which it begins.
pub(crate) const ARRIVE: &str = "arrive";

/// How an instance is entered that stopped in `entry`: as a command, or as one that arrived.
pub(crate) fn entries(entry: Option<&Entry>) -> Vec<Entry> {
    match entry {
        Some(Entry::Export(name)) if name == ARRIVE => vec![Entry::Start, Entry::Export(ARRIVE.to_owned())],
        _ => Entry::command(),
    }
}

/// A new instance that stands before it has had any effect.
#[derive(Debug)]
pub(crate) struct Successor(Instance);

impl Successor {
    pub(crate) fn new(loaded: &Loaded, spec: &dunlin_keep_link::Spec) -> Result<Self, Failure> {
        let refused = |error: dunlin_engine::Error| Failure::NotMovable(with_causes(&error));
        let world = World::new(Config::new()).map_err(|error| Failure::NotMovable(with_causes(&error)))?;
        let mut instance = Instance::new(&loaded.code, Box::new(Still(world)), limits(spec)).map_err(refused)?;
        // If it computes for long before it calls anything, it stops on the way.
        instance.stop_handle().request();
        match instance.run(&entries(Some(&Entry::Export(ARRIVE.to_owned())))).map_err(refused)? {
            Outcome::Stopped => Ok(Self(instance)),
            _ => Err(Failure::NotMovable(format!("its export {ARRIVE:?} ends before it does anything"))),
        }
    }

    /// Watches its memories, which do not change any more.
    pub(crate) fn tracker(&mut self) -> Result<Tracker, Failure> {
        self.0.tracker(false).map_err(|error| Failure::Busy(with_causes(&error)))
    }

    /// Its state besides memory, with the world that its predecessor leaves it.
    pub(crate) fn rest(&mut self, host: Vec<HostSection>, volume_keys: Option<VolumeKeys>) -> Result<Vec<u8>, String> {
        let mut state = self.0.capture_rest().map_err(|error| with_causes(&error))?;
        state.host = host;
        rest_of(&self.0, state, volume_keys)
    }
}

/// A world that answers no call: whoever makes one stops in it, and makes it again elsewhere.
#[derive(Debug)]
struct Still(World);

impl Host for Still {
    fn resolve(&self, module: &str, name: &str, params: &[ValueType], results: &[ValueType]) -> Option<u32> {
        self.0.resolve(module, name, params, results)
    }

    fn call(&mut self, _: u32, _: &mut [u8], _: &[Value], _: &mut [Value]) -> Flow {
        Flow::Reissue
    }
}
