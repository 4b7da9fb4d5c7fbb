//! Modules that stand alone, under a storm: each call is stopped at every safepoint, written to bytes, and goes on in
//! another instance.

use dunlin_base::Value;
use dunlin_engine::{Code, Entry, Instance, Outcome, Tier};
use dunlin_instrument::{Instrumented, Options, Poll, Variant, instrument};

use super::link::Ended;
use super::pattern::Item;
use crate::failure::{Failure, fail};
use crate::master::NEVER;
use crate::subject::{ENGINES, LIMITS, Shipping, chain};
use crate::world::{Env, World as _};

/// The most moves of one call; then it runs on.
const MOVES: u64 = 200;

/// A module under a storm.
pub(super) struct Storm {
    code: Code,
    shipping: Shipping,
    instance: Option<Instance>,
    /// Moves so far.
    pub(super) moves: u64,
}

/// Why there is no storm for a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Calm {
    /// It imports something else than functions of `spectest`, or the engine cannot take it.
    Cannot,
    /// Its start function did not return; neither does that of the others.
    Start,
}

impl Storm {
    /// An instance of a module whose start function has run.
    pub(super) fn new(wasm: &[u8], tier: Tier) -> Result<Result<Self, Calm>, Failure> {
        let options = Options { poll: Poll::Count, variant: Variant::Resume };
        let instrumented: Instrumented = instrument(wasm, options).map_err(|error| chain("instrumenting", &error))?;
        let Some(engine) = ENGINES.iter().find(|engine| engine.tier() == tier) else { return Ok(Err(Calm::Cannot)) };
        let exposed = crate::expose(wasm).ok_or_else(|| Failure::new("not a module"))?;
        if exposed.imports_state {
            return Ok(Err(Calm::Cannot));
        }
        let map = instrumented.map;
        let code = match Code::shared(engine, &instrumented.wasm, map.clone()) {
            Ok(code) => code,
            Err(_) if tier == Tier::Wasmi => return Ok(Err(Calm::Cannot)),
            Err(error) => return Err(chain("compiling", &error)),
        };
        // What else cannot be linked or instantiated is refused everywhere; the other two have shown how.
        let Ok(instance) = Instance::new(&code, Env::default().fresh(), LIMITS) else { return Ok(Err(Calm::Cannot)) };
        let mut storm = Self { code, shipping: Shipping::new(map), instance: Some(instance), moves: 0 };
        let start = [Entry::Start];
        match storm.weather(&start, |instance| instance.run(&start))? {
            Outcome::Finished(_) => Ok(Ok(storm)),
            _ => Ok(Err(Calm::Start)),
        }
    }

    /// Calls an export.
    pub(super) fn invoke(&mut self, name: &str, args: &[Value]) -> Result<Ended, Failure> {
        Ok(match self.weather(&[], |instance| instance.invoke(name, args))? {
            Outcome::Finished(values) => Ended::Returned(values.into_iter().map(Item::of_value).collect()),
            Outcome::Trapped(trap) => Ended::Trapped(trap.kind),
            other => fail!("{name}: {other:?}"),
        })
    }

    fn weather(
        &mut self,
        entries: &[Entry],
        run: impl FnOnce(&mut Instance) -> Result<Outcome, dunlin_engine::Error>,
    ) -> Result<Outcome, Failure> {
        let Some(mut instance) = self.instance.take() else { fail!("an earlier call went wrong") };
        let world = Env::default();
        let count = |instance: &mut Instance, moves: u64| {
            let set = instance.set_count(if moves < MOVES { 1 } else { NEVER });
            set.map_err(|error| chain("setting the count", &error))
        };
        count(&mut instance, 0)?;
        let mut outcome = run(&mut instance).map_err(|error| chain("running", &error))?;
        let mut moves = 0;
        while outcome == Outcome::Stopped {
            moves += 1;
            let mut state = instance.capture().map_err(|error| chain("capturing", &error))?;
            state.host = world.freeze(instance.host_mut());
            let bytes = self.shipping.encode(state)?;
            let state = self.shipping.decode(&bytes)?;
            let restored = Instance::restore(&self.code, &state, world.thaw(&state.host), LIMITS);
            instance = restored.map_err(|error| chain("restoring", &error))?;
            count(&mut instance, moves)?;
            outcome = instance.resume(entries).map_err(|error| chain(format!("resuming, move {moves}"), &error))?;
        }
        self.moves += moves;
        self.instance = Some(instance);
        Ok(outcome)
    }
}

/// Whether a call in the storm ended as it did in Wasmtime. Other engines may make other NaNs.
pub(super) fn same(storm: &Ended, plain: &Ended) -> bool {
    match (storm, plain) {
        (Ended::Returned(a), Ended::Returned(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_number(*b))
        }
        (Ended::Trapped(a), Ended::Trapped(b)) => a == b,
        _ => storm == plain,
    }
}
