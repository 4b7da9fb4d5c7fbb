//! A module under test, compiled for every engine that can take it.

use std::sync::{Arc, LazyLock};

use dunlin_base::{Digest, Value, with_causes};
use dunlin_engine::{Code, Engine, Entry, Instance, Limits, Outcome, Settings, Tier};
use dunlin_instrument::{Map, Options, PASS_VERSION, Poll, Variant, instrument};
use dunlin_snapshot::{Envelope, Features, Module, Snapshot, State, encode};

use crate::failure::{Failure, fail};
use crate::plain::{Ended, STACK};
use crate::world::World;

/// One engine of each tier, in the order of [`Tier::ALL`].
pub static ENGINES: LazyLock<[Engine; 3]> = LazyLock::new(|| {
    Tier::ALL.map(|tier| {
        Engine::new(tier, Settings { wasm_stack: STACK, ..Settings::default() })
            .expect("every tier runs on the machines that tests run on")
    })
});

/// What instances under test may use: more than the default, for the case with addresses beyond 4 GiB.
pub const LIMITS: Limits = Limits { memory_bytes: 8 << 30, table_elements: 10_000_000 };

/// What a run calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// The start function runs undisturbed if there is one; then this export is called.
    Invoke {
        /// Its name.
        export: String,
        /// Its arguments.
        args: Vec<Value>,
    },
    /// These entries run one after the other.
    Entries(Vec<Entry>),
}

/// A module with all that is made of it.
#[derive(Debug)]
pub struct Subject {
    /// For messages.
    pub name: String,
    /// The original module.
    pub wasm: Vec<u8>,
    /// The map that all its variants share.
    pub map: Arc<Map>,
    /// Its code on each engine that can take it.
    pub codes: Vec<Codes>,
    /// The other engines, and why.
    pub refused: Vec<(Tier, String)>,
    shipping: Shipping,
}

/// The variants of a module on one engine.
#[derive(Debug)]
pub struct Codes {
    /// Which engine.
    pub tier: Tier,
    /// What a program starts with, counting.
    pub fresh: Code,
    /// What a program goes on with, counting.
    pub resume: Code,
}

/// Writes and reads the snapshots of one module.
#[derive(Debug)]
pub struct Shipping {
    map: Arc<Map>,
    map_digest: Digest,
}

impl Shipping {
    /// For the module with this map.
    pub fn new(map: Arc<Map>) -> Self {
        let map_digest = map.digest();
        Self { map, map_digest }
    }

    /// The bytes of a snapshot.
    ///
    /// # Errors
    /// If the state is not in the form that snapshots need.
    pub fn encode(&self, state: State) -> Result<Vec<u8>, Failure> {
        let snapshot = Snapshot {
            module: Module { digest: self.map.module, embedded: None },
            map_digest: self.map_digest,
            pass_version: PASS_VERSION,
            features: Features::default(),
            product: None,
            state,
            extra: Vec::new(),
        };
        encode(&snapshot).map_err(|error| chain("encoding", &error))
    }

    /// The state in the bytes of a snapshot.
    ///
    /// # Errors
    /// If the decoder refuses it.
    pub fn decode(&self, bytes: &[u8]) -> Result<State, Failure> {
        let envelope = Envelope::open(bytes, &dunlin_snapshot::Limits::default());
        let envelope = envelope.map_err(|error| chain("opening the snapshot", &error))?;
        Ok(envelope.decode(&self.map).map_err(|error| chain("decoding the snapshot", &error))?.state)
    }
}

/// Compiles an instrumented module for an engine of [`ENGINES`].
///
/// # Errors
/// If the engine refuses it, with its reason.
pub fn compile(engine: &Engine, wasm: &[u8], options: Options) -> Result<Code, Failure> {
    let instrumented = instrument(wasm, options).map_err(|error| chain("instrumenting", &error))?;
    Code::instrumented(engine, &instrumented).map_err(|error| chain(engine.tier(), &error))
}

/// An error with all its causes.
pub fn chain(what: impl core::fmt::Display, error: &dyn core::error::Error) -> Failure {
    Failure::new(with_causes(error)).within(what)
}

impl Subject {
    /// Instruments and compiles a module for the tiers in `tiers`.
    ///
    /// # Errors
    /// If it cannot be instrumented, its variants do not share one map, or no engine takes it.
    pub fn new(name: impl Into<String>, wasm: &[u8], tiers: &[Tier]) -> Result<Self, Failure> {
        let name = name.into();
        let options = |variant| Options { poll: Poll::Count, variant };
        let made = |variant| instrument(wasm, options(variant)).map_err(|error| chain("instrumenting", &error));
        let (fresh, resume) = (made(Variant::Fresh)?, made(Variant::Resume)?);
        if fresh.map != resume.map {
            fail!("{name}: the two variants have different maps");
        }
        let map = fresh.map;
        let (mut codes, mut refused) = (Vec::new(), Vec::new());
        for engine in ENGINES.iter().filter(|engine| tiers.contains(&engine.tier())) {
            let code = |wasm: &[u8]| Code::shared(engine, wasm, map.clone());
            match (code(&fresh.wasm), code(&resume.wasm)) {
                (Ok(fresh), Ok(resume)) => codes.push(Codes { tier: engine.tier(), fresh, resume }),
                (Err(error), Err(_)) => refused.push((engine.tier(), chain(engine.tier(), &error).to_string())),
                (Ok(_), Err(error)) | (Err(error), Ok(_)) => {
                    return Err(chain(format!("{name}: {} takes one variant only", engine.tier()), &error));
                }
            }
        }
        if codes.is_empty() {
            fail!("{name}: no engine takes it: {refused:?}");
        }
        let shipping = Shipping::new(map.clone());
        Ok(Self { name, wasm: wasm.to_vec(), map, codes, refused, shipping })
    }

    /// An instance that has done what comes before `call`.
    ///
    /// # Errors
    /// If it cannot be made, or its start function does not return.
    pub fn begin(&self, code: &Code, world: &dyn World, call: &Call) -> Result<Instance, Failure> {
        let made = Instance::new(code, world.fresh(), LIMITS);
        let mut instance = made.map_err(|error| chain("instantiating", &error))?;
        if let (Call::Invoke { .. }, Some(_)) = (call, self.map.start) {
            let outcome = instance.run(&[Entry::Start]).map_err(|error| chain("the start function", &error))?;
            if outcome != Outcome::Finished(Vec::new()) {
                fail!("the start function: {outcome:?}");
            }
        }
        Ok(instance)
    }

    /// Runs `call`.
    ///
    /// # Errors
    /// If the engine refuses it.
    pub fn run(&self, instance: &mut Instance, call: &Call) -> Result<Outcome, Failure> {
        let outcome = match call {
            Call::Invoke { export, args } => instance.invoke(export, args),
            Call::Entries(entries) => instance.run(entries),
        };
        outcome.map_err(|error| chain("running", &error))
    }

    /// Takes the snapshot of a stopped instance, and what its host saw.
    ///
    /// # Errors
    /// If it cannot be captured or encoded.
    pub fn capture(&self, mut instance: Instance, world: &dyn World) -> Result<Stopped, Failure> {
        let mut state = instance.capture().map_err(|error| chain("capturing", &error))?;
        state.host = world.freeze(instance.host_mut());
        Ok(Stopped { bytes: self.shipping.encode(state)?, seen: world.seen(instance.host_mut()) })
    }

    /// Makes an instance from a snapshot's bytes.
    ///
    /// # Errors
    /// If they are refused.
    pub fn restore(&self, code: &Code, bytes: &[u8], world: &dyn World) -> Result<Instance, Failure> {
        let state = self.shipping.decode(bytes)?;
        let restored = Instance::restore(code, &state, world.thaw(&state.host), LIMITS);
        restored.map_err(|error| chain(format!("restoring on {}", code.engine().tier()), &error))
    }

    /// The state in a snapshot's bytes.
    ///
    /// # Errors
    /// If they are refused.
    pub fn decode(&self, bytes: &[u8]) -> Result<State, Failure> {
        self.shipping.decode(bytes)
    }

    /// Goes on.
    ///
    /// # Errors
    /// If the stack cannot be rebuilt.
    pub fn resume(&self, instance: &mut Instance, call: &Call) -> Result<Outcome, Failure> {
        let entries: &[Entry] = if let Call::Entries(entries) = call { entries } else { &[] };
        let tier = instance.code().engine().tier();
        instance.resume(entries).map_err(|error| chain(format!("resuming on {tier}"), &error))
    }

    /// How a run ended and what it left. `before` is what earlier hosts of the same run saw.
    ///
    /// # Errors
    /// If it has not ended, or left something that cannot be carried.
    pub fn end(
        &self,
        instance: &mut Instance,
        outcome: Outcome,
        world: &dyn World,
        before: &[u8],
    ) -> Result<End, Failure> {
        let ended = match outcome {
            Outcome::Finished(values) => Ended::Finished(values),
            Outcome::Exited(code) => Ended::Exited(code),
            Outcome::Trapped(trap) => Ended::Trapped(trap.kind),
            Outcome::Stopped => fail!("it stopped, but was not asked to"),
        };
        let state = instance.observe().map_err(|error| chain("observing", &error))?;
        let seen = [before, &world.seen(instance.host_mut())].concat();
        Ok(End { ended, state, seen, left: world.left(instance.host_mut()) })
    }
}

/// A stopped program on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// The snapshot.
    pub bytes: Vec<u8>,
    /// What its host saw so far.
    pub seen: Vec<u8>,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// How it ended.
    pub ended: Ended,
    /// Memories, globals, tables, dropped segments.
    pub state: State,
    /// What the hosts saw, one after the other.
    pub seen: Vec<u8>,
    /// What the program left in its world.
    pub left: Vec<u8>,
}

impl End {
    /// Nothing, if the two ends are equal.
    ///
    /// # Errors
    /// All that differs.
    pub fn same_as(&self, expected: &Self) -> Result<(), Failure> {
        if self.ended != expected.ended {
            fail!("it ended with {:?}, not with {:?}", self.ended, expected.ended);
        }
        if self.state != expected.state {
            let differences = dunlin_snapshot::compare(&self.state, &expected.state);
            let texts: Vec<String> = differences.iter().map(ToString::to_string).collect();
            fail!("the final state differs: {}", texts.join("; "));
        }
        if self.seen != expected.seen {
            let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned();
            fail!("the host saw {:?}, not {:?}", text(&self.seen), text(&expected.seen));
        }
        if self.left != expected.left {
            let at = self.left.iter().zip(&expected.left).position(|(a, b)| a != b);
            let (ours, theirs) = (self.left.len(), expected.left.len());
            fail!("files or world differ at the end: {ours} and {theirs} bytes, first at {at:?}");
        }
        Ok(())
    }
}
