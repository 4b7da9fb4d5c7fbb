//! The master property: a run that is stopped anywhere, written to bytes, and restored anywhere ends as if nothing had
//! happened.
//!
//! For each safepoint k of a run, the program is run on each engine until its k-th safepoint and captured. All engines
//! must give the same bytes. These bytes are restored on each engine, and the run must end there as the undisturbed one
//! did: since the bytes are equal, this covers every ordered pair of engines.

use dunlin_base::PAGE_SIZE;
use dunlin_engine::{Instance, Outcome, Tier};
use dunlin_instrument::{Options, Poll, Variant};
use dunlin_snapshot::{Page, State};

use crate::failure::{Failure, fail};
use crate::plain::{Ended, Pages, Picture, Plain, PlainModule};
use crate::random::Random;
use crate::subject::{Call, Codes, ENGINES, End, Stopped, Subject, compile};
use crate::world::World;

/// How thorough to be.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Runs with at most this many safepoints are stopped at every one.
    pub exhaustive: u64,
    /// Of longer runs, how many safepoints are chosen.
    pub samples: u64,
    /// Stops of the run that is stopped at every safepoint one after the other; then it runs on.
    pub storm: u64,
    /// Lengths of the chains of moves that are tried, each from every engine on.
    pub hops: &'static [u64],
    /// What the choice follows from.
    pub seed: u64,
}

impl Effort {
    /// Every safepoint of up to 2,000; 40 of more.
    pub const fn thorough(seed: u64) -> Self {
        Self { exhaustive: 2000, samples: 40, storm: 3000, hops: &[2, 3, 10], seed }
    }

    /// A few safepoints, for large programs.
    pub const fn sampled(samples: u64, seed: u64) -> Self {
        Self { exhaustive: samples, samples, storm: samples, hops: &[3], seed }
    }
}

/// A count of safepoints that no run comes to the end of.
pub const NEVER: i64 = i64::MIN / 2;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Safepoints that the undisturbed run passed.
    pub safepoints: u64,
    /// How many of them the run was stopped at.
    pub stops: u64,
    /// Ordered pairs of engines.
    pub pairs: u64,
    /// Moves of all runs together.
    pub moves: u64,
}

/// Shows the property for one call of one module.
///
/// # Errors
/// The first difference found, with all that is needed to find it again.
pub fn master_property(subject: &Subject, call: &Call, world: &dyn World, effort: Effort) -> Result<Report, Failure> {
    on_stack(|| Master { subject, call, world, effort }.run())
        .map_err(|failure| failure.within(format_args!("{}, {call:?}, seed {}", subject.name, effort.seed)))
}

/// Runs `f` with native stack for programs, so that each run does not start a thread of its own.
pub fn on_stack<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    ENGINES[0].on_stack(f).expect("a thread can be started")
}

struct Master<'a> {
    subject: &'a Subject,
    call: &'a Call,
    world: &'a dyn World,
    effort: Effort,
}

impl Master<'_> {
    fn run(&self) -> Result<Report, Failure> {
        let codes = &self.subject.codes;
        let mut undisturbed: Option<(End, u64)> = None;
        for code in codes {
            let (end, passed) = self.undisturbed(code)?;
            match &undisturbed {
                None => undisturbed = Some((end, passed)),
                Some((expected, count)) => {
                    let tier = code.tier;
                    end.same_as(expected).map_err(|failure| failure.within(format!("undisturbed on {tier}")))?;
                    if passed != *count {
                        fail!("{tier} passes {passed} safepoints, {} passes {count}", codes[0].tier);
                    }
                }
            }
        }
        let Some((expected, safepoints)) = undisturbed else { fail!("there is no engine to run it") };
        self.plain_agrees(&expected)?;
        self.flag_agrees(&expected)?;
        let mut report = Report { safepoints, pairs: (codes.len() * codes.len()) as u64, ..Report::default() };
        for stop in self.stops(safepoints) {
            self.stop(stop, &expected).map_err(|failure| failure.within(format!("stopped at safepoint {stop}")))?;
            report.stops += 1;
            report.moves += codes.len() as u64;
        }
        for hops in self.effort.hops.iter().copied() {
            for first in 0..codes.len() {
                let portion = (safepoints / (hops + 1)).max(1);
                let moves = self
                    .chain(first, portion, hops, &expected)
                    .map_err(|failure| failure.within(format!("{hops} hops of {portion} safepoints each")))?;
                report.moves += moves;
            }
        }
        let storm = self.chain(0, 1, self.effort.storm, &expected).map_err(|failure| failure.within("storm"))?;
        if storm < safepoints.min(self.effort.storm) {
            fail!("the storm made {storm} moves, but there are {safepoints} safepoints");
        }
        report.moves += storm;
        Ok(report)
    }

    /// Which safepoints to stop at, counted from 1.
    fn stops(&self, safepoints: u64) -> Vec<u64> {
        if safepoints <= self.effort.exhaustive {
            return (1..=safepoints).collect();
        }
        let mut random = Random::new(self.effort.seed);
        let mut chosen: Vec<u64> = (0..self.effort.samples).map(|_| 1 + random.below(safepoints)).collect();
        chosen.extend([1, safepoints]);
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    fn undisturbed(&self, codes: &Codes) -> Result<(End, u64), Failure> {
        let Self { subject, call, world, .. } = self;
        let mut instance = subject.begin(&codes.fresh, *world, call)?;
        set_count(&mut instance, i64::MAX)?;
        let outcome = subject.run(&mut instance, call)?;
        let passed = (i64::MAX - instance.count().unwrap_or(i64::MAX)) as u64;
        Ok((subject.end(&mut instance, outcome, *world, &[])?, passed))
    }

    /// The second oracle: the module as its author built it, on Wasmtime past everything of ours.
    fn plain_agrees(&self, expected: &End) -> Result<(), Failure> {
        let module = PlainModule::new(&self.subject.wasm)?;
        let mut plain = Plain::new(&module, self.world.fresh())?;
        let ended = match self.call {
            Call::Invoke { export, args } => {
                plain.start()?;
                plain.call(export, args)?
            }
            Call::Entries(entries) => {
                let mut ended = Ended::Finished(Vec::new());
                for entry in entries {
                    ended = match entry {
                        dunlin_engine::Entry::Start => plain.start()?,
                        dunlin_engine::Entry::Export(name) => plain.call(name, &[])?,
                    };
                    if !matches!(ended, Ended::Finished(_)) {
                        break;
                    }
                }
                ended
            }
        };
        if !same_ended(&ended, &expected.ended) {
            fail!("plain: it ended with {ended:?}, instrumented with {:?}", expected.ended);
        }
        if self.world.seen(plain.host()) != expected.seen {
            fail!("plain: the host saw something else than that of the instrumented module");
        }
        same_picture(&plain.picture()?, plain.fresh(), &expected.state)
            .map_err(|failure| failure.within("plain and instrumented"))
    }

    /// What programs really run with polls the flag, and does not count.
    fn flag_agrees(&self, expected: &End) -> Result<(), Failure> {
        let Self { subject, call, world, .. } = self;
        let engine = &ENGINES[0];
        if !subject.codes.iter().any(|codes| codes.tier == engine.tier()) {
            return Ok(());
        }
        let code = compile(engine, &subject.wasm, Options { poll: Poll::Flag, variant: Variant::Fresh })?;
        let mut instance = subject.begin(&code, *world, call)?;
        let outcome = subject.run(&mut instance, call)?;
        let end = subject.end(&mut instance, outcome, *world, &[])?;
        end.same_as(expected).map_err(|failure| failure.within("with polls of the flag"))
    }

    /// Stops at one safepoint on every engine, and goes on from there on every engine.
    fn stop(&self, stop: u64, expected: &End) -> Result<(), Failure> {
        let Self { subject, call, world, .. } = self;
        let mut first: Option<(Tier, Stopped)> = None;
        for codes in &subject.codes {
            let stopped = self.stopped(codes, stop)?;
            match &first {
                None => first = Some((codes.tier, stopped)),
                Some((tier, expected)) => self
                    .same_stop(&stopped, expected)
                    .map_err(|failure| failure.within(format_args!("snapshots of {} and {tier} differ", codes.tier)))?,
            }
        }
        let Some((from, stopped)) = first else { return Ok(()) };
        for codes in &subject.codes {
            let to = codes.tier;
            let within = |failure: Failure| failure.within(format_args!("from {from} to {to}"));
            let mut instance = subject.restore(&codes.resume, &stopped.bytes, *world).map_err(within)?;
            set_count(&mut instance, NEVER)?;
            let outcome = subject.resume(&mut instance, call).map_err(within)?;
            let end = subject.end(&mut instance, outcome, *world, &stopped.seen).map_err(within)?;
            end.same_as(expected).map_err(within)?;
        }
        Ok(())
    }

    fn stopped(&self, codes: &Codes, stop: u64) -> Result<Stopped, Failure> {
        let Self { subject, call, world, .. } = self;
        let mut instance = subject.begin(&codes.fresh, *world, call)?;
        set_count(&mut instance, stop as i64)?;
        match subject.run(&mut instance, call)? {
            Outcome::Stopped => subject.capture(instance, *world),
            outcome => fail!("on {} it did not stop: {outcome:?}", codes.tier),
        }
    }

    fn same_stop(&self, stopped: &Stopped, expected: &Stopped) -> Result<(), Failure> {
        if stopped.bytes != expected.bytes {
            let (a, b) = (self.subject.decode(&stopped.bytes)?, self.subject.decode(&expected.bytes)?);
            let differences = dunlin_snapshot::compare(&a, &b);
            let texts: Vec<String> = differences.iter().map(ToString::to_string).collect();
            fail!("{}", if texts.is_empty() { "in their encoding only".to_owned() } else { texts.join("; ") });
        }
        if stopped.seen != expected.seen { fail!("the hosts saw different things") } else { Ok(()) }
    }

    /// Moves the run after every `portion` safepoints, `hops` times at most, from engine to engine. Tells how often.
    fn chain(&self, first: usize, portion: u64, hops: u64, expected: &End) -> Result<u64, Failure> {
        let Self { subject, call, world, .. } = self;
        let codes = &subject.codes;
        let tier = |hop: u64| &codes[(first + hop as usize) % codes.len()];
        let mut instance = subject.begin(&tier(0).fresh, *world, call)?;
        set_count(&mut instance, if hops == 0 { NEVER } else { portion as i64 })?;
        let mut outcome = subject.run(&mut instance, call)?;
        let (mut hop, mut seen) = (0, Vec::new());
        while outcome == Outcome::Stopped {
            let place = format!("hop {hop}, from {} to {}", tier(hop).tier, tier(hop + 1).tier);
            let within = |failure: Failure| failure.within(&place);
            let stopped = subject.capture(instance, *world).map_err(within)?;
            seen.extend_from_slice(&stopped.seen);
            hop += 1;
            instance = subject.restore(&tier(hop).resume, &stopped.bytes, *world).map_err(within)?;
            set_count(&mut instance, if hop < hops { portion as i64 } else { NEVER })?;
            outcome = subject.resume(&mut instance, call).map_err(within)?;
        }
        subject.end(&mut instance, outcome, *world, &seen)?.same_as(expected)?;
        Ok(hop)
    }
}

fn set_count(instance: &mut Instance, count: i64) -> Result<(), Failure> {
    instance.set_count(count).map_err(|error| Failure::of("setting the count", &error))
}

/// Whether two runs ended alike. Which exception a reference means is not looked at.
fn same_ended(plain: &Ended, instrumented: &Ended) -> bool {
    plain == instrumented
}

/// Nothing, if the plain instance and the observed state are in the same condition.
///
/// # Errors
/// What differs.
pub fn same_picture(plain: &Picture, fresh: &[Pages], state: &State) -> Result<(), Failure> {
    let exceptions = |values: &[dunlin_base::Value]| {
        let blur = |value: &dunlin_base::Value| match value {
            dunlin_base::Value::ExnRef(Some(_)) => dunlin_base::Value::ExnRef(Some(0)),
            other => *other,
        };
        values.iter().map(blur).collect::<Vec<_>>()
    };
    let globals = exceptions(&state.globals);
    if plain.globals != globals {
        fail!("mutable globals {:?} and {globals:?}", plain.globals);
    }
    let tables: Vec<_> = state.tables.iter().map(|table| exceptions(&table.elements)).collect();
    if plain.tables != tables {
        let shown = |tables: &[Vec<dunlin_base::Value>]| format!("{tables:?}").chars().take(2000).collect::<String>();
        fail!("tables {} and {}", shown(&plain.tables), shown(&tables));
    }
    if plain.memories.len() != state.memories.len() {
        fail!("{} memories and {}", plain.memories.len(), state.memories.len());
    }
    for (index, ((size, pages), memory)) in plain.memories.iter().zip(&state.memories).enumerate() {
        if *size != memory.size {
            fail!("memory {index}: {size} bytes and {}", memory.size);
        }
        let mut observed = fresh.get(index).cloned().unwrap_or_default();
        // What a memory of small pages grew by at the end of a 4 KiB page is zero, and no change of that page.
        for (number, page) in &mut observed {
            let length = (*size).saturating_sub(number * PAGE_SIZE as u64).min(PAGE_SIZE as u64) as usize;
            if page.len() < length {
                let mut longer = page.to_vec();
                longer.resize(length, 0);
                *page = longer.into();
            }
        }
        for (number, page) in &memory.pages {
            match page {
                Page::Zero => drop(observed.remove(number)),
                Page::Bytes(bytes) => drop(observed.insert(*number, bytes.clone())),
            }
        }
        if *pages != observed {
            let numbers = pages.keys().chain(observed.keys());
            let page = numbers.copied().find(|number| pages.get(number) != observed.get(number)).unwrap_or(0);
            let empty: Box<[u8]> = vec![0; PAGE_SIZE].into();
            let (a, b) = (pages.get(&page).unwrap_or(&empty), observed.get(&page).unwrap_or(&empty));
            let at = a.iter().zip(b).position(|(a, b)| a != b);
            fail!("memory {index}: page {page} differs first at byte {at:?}");
        }
    }
    Ok(())
}
