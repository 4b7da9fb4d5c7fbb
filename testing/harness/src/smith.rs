//! Random modules: instrumented against plain, and stopped and restored against undisturbed.

use arbitrary::Unstructured;
use dunlin_base::Value;
use dunlin_engine::{Code, Entry, Instance, Outcome, Tier, TrapKind};
use dunlin_instrument::{Error, Options, Poll, Variant, instrument};
use wasm_smith::{Config, Module};
use wasmparser::{CompositeInnerType, ExternalKind, Parser, Payload, TypeRef, ValType};

use crate::expose::with_getters;
use crate::failure::{Failure, fail};
use crate::master::{NEVER, same_picture};
use crate::plain::{Ended, Picture, Plain, PlainModule};
use crate::random::Random;
use crate::subject::{Call, ENGINES, LIMITS, Stopped, Subject, chain};
use crate::world::{Env, World};

/// What was done with the modules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Modules tried.
    pub modules: u64,
    /// Of these, modules that are not carried, or that nothing can be called of.
    pub skipped: u64,
    /// Engines that refuse a module as its author built it: it does not move there.
    pub refusing: u64,
    /// Calls compared.
    pub calls: u64,
    /// Of these, calls that trapped.
    pub traps: u64,
    /// Calls that were stopped and moved.
    pub moved: u64,
    /// Moves.
    pub moves: u64,
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: Self) {
        self.modules += other.modules;
        self.skipped += other.skipped;
        self.refusing += other.refusing;
        self.calls += other.calls;
        self.traps += other.traps;
        self.moved += other.moved;
        self.moves += other.moves;
    }
}

/// What a module may import: functions that [`Env`] has.
const IMPORTS: &str = r#"(module
    (import "env" "a" (func))
    (import "env" "b" (func (param i32) (result i32)))
    (import "env" "c" (func (param i64 f32) (result f64)))
    (import "env" "d" (func (param f64 i32) (result i64 i32)))
    (import "env" "e" (func (param externref) (result externref)))
    (import "env" "f" (func (param v128) (result v128))))"#;

/// Loop rounds and calls that one module may make before it traps.
const FUEL: u32 = 2000;
/// Calls of each module.
const CALLS: usize = 6;
/// Moves of one call; then it runs on.
const MOVES: u64 = 12;

/// The module that follows from a seed. `exceptions` tells whether it may use them: wasmi takes it otherwise.
///
/// # Errors
/// If the generator fails.
pub fn module(seed: u64, exceptions: bool) -> Result<Vec<u8>, Failure> {
    let mut random = Random::new(seed);
    let imports = wat::parse_str(IMPORTS).map_err(|error| Failure::new(error.to_string()))?;
    let config = Config {
        available_imports: (random.below(3) > 0).then_some(imports),
        exceptions_enabled: exceptions,
        export_everything: true,
        canonicalize_nans: true,
        // The generator makes NaNs canonical after every operation but the relaxed ones.
        relaxed_simd_enabled: false,
        gc_enabled: false,
        threads_enabled: false,
        custom_page_sizes_enabled: random.below(4) == 0,
        wide_arithmetic_enabled: true,
        allow_start_export: true,
        disallow_traps: random.below(2) == 0,
        min_funcs: 2,
        max_funcs: 12,
        max_imports: 6,
        max_instructions: 150,
        max_memories: 3,
        max_tables: 3,
        max_memory32_bytes: 4 << 16,
        max_memory64_bytes: 4 << 16,
        memory_max_size_required: true,
        max_table_elements: 100,
        table_max_size_required: true,
        max_data_segments: 6,
        max_element_segments: 6,
        max_globals: 12,
        max_types: 20,
        max_tags: 4,
        ..Config::default()
    };
    let bytes = random.bytes(6000);
    let mut module =
        Module::new(config, &mut Unstructured::new(&bytes)).map_err(|error| Failure::of("generating", &error))?;
    module.ensure_termination(FUEL).map_err(|error| Failure::new(error.to_string()))?;
    Ok(module.to_bytes())
}

/// All tiers, or those that `DUNLIN_SMITH_TIERS` names: which of them a difference needs.
fn tiers() -> Vec<Tier> {
    let Ok(names) = std::env::var("DUNLIN_SMITH_TIERS") else { return Tier::ALL.to_vec() };
    Tier::ALL.into_iter().filter(|tier| names.split(',').any(|name| name == tier.to_string())).collect()
}

/// Generates the module of a seed and compares everything.
///
/// # Errors
/// What differs.
pub fn check(seed: u64) -> Result<Tally, Failure> {
    let wasm = module(seed, seed.is_multiple_of(2))?;
    check_module(&wasm, seed, &tiers()).map_err(|failure| failure.within(format_args!("module of seed {seed}")))
}

/// Compares everything of one module on the engines in `tiers`.
///
/// # Errors
/// What differs.
pub fn check_module(wasm: &[u8], seed: u64, tiers: &[Tier]) -> Result<Tally, Failure> {
    let mut tally = Tally { modules: 1, ..Tally::default() };
    match instrument(wasm, Options { poll: Poll::Flag, variant: Variant::Fresh }) {
        Ok(_) => {}
        Err(Error::Blocked(_) | Error::Limit { .. }) => {
            tally.skipped = 1;
            return Ok(tally);
        }
        Err(error) => return Err(chain("instrumenting", &error)),
    }
    let mut random = Random::new(seed ^ 0x5eed);
    let calls = calls(wasm, &mut random);
    let mut all = vec![Call::Entries(vec![Entry::Start])];
    all.extend(calls);
    let mut subject = Subject::new("random", wasm, tiers)?;
    if let Some((tier, text)) = subject.refused.iter().find(|(tier, _)| *tier != Tier::Wasmi) {
        fail!("{tier} refuses it: {text}");
    }
    let module = PlainModule::new(wasm)?;
    let Ok(mut plain) = Plain::new(&module, Env::default().fresh()) else {
        // Active segments that do not fit: the others must refuse too.
        if Instance::new(&subject.codes[0].fresh, Env::default().fresh(), LIMITS).is_ok() {
            fail!("it can be instantiated, but only instrumented");
        }
        tally.skipped = 1;
        return Ok(tally);
    };
    let flag = instrument(wasm, Options { poll: Poll::Flag, variant: Variant::Fresh });
    let flag = flag.map_err(|error| chain("instrumenting", &error))?;
    let flag = Code::instrumented(&ENGINES[0], &flag).map_err(|error| chain("compiling", &error))?;
    let world = Env::default();
    let native = course(&mut plain, &all)?;
    let mut takers = Vec::new();
    for codes in subject.codes {
        if on_tier(codes.tier, &native, wasm, &all)? {
            takers.push(codes);
        } else {
            tally.refusing += 1;
        }
    }
    subject.codes = takers;
    let mut plain = Plain::new(&module, world.fresh())?;
    let mut production = new_instance(&flag, &world)?;
    let mut movers: Vec<Mover<'_>> = Vec::new();
    for first in 0..subject.codes.len() {
        let instance = new_instance(&subject.codes[first].fresh, &world)?;
        movers.push(Mover { subject: &subject, at: first, instance: Some(instance), seen: Vec::new(), last: None });
    }
    for call in &all {
        let expected = match call {
            Call::Entries(_) => plain.start()?,
            Call::Invoke { export, args } => plain.call(export, args)?,
        };
        if matches!(expected, Ended::Trapped(TrapKind::StackOverflow)) {
            // Where the stack ends depends on the frames' sizes.
            break;
        }
        tally.calls += 1;
        tally.traps += u64::from(matches!(expected, Ended::Trapped(_)));
        let within = |failure: Failure| failure.within(format!("{call:?}"));
        let outcome = subject.run(&mut production, call).map_err(within)?;
        let end = subject.end(&mut production, outcome, &world, &[]).map_err(within)?;
        same(&expected, &end.ended, "instrumented").map_err(within)?;
        let picture = plain.picture().map_err(within)?;
        same_picture(&picture, plain.fresh(), &end.state).map_err(within)?;
        let seen = world.seen(plain.host());
        if end.seen != seen {
            return Err(within(Failure::new("the host of the instrumented module saw something else")));
        }
        for mover in &mut movers {
            let moves = mover.call(call, &world, &mut random).map_err(within)?;
            mover.compare(&world, &seen, &expected, &end).map_err(within)?;
            tally.moved += u64::from(moves > 0);
            tally.moves += moves;
        }
        if matches!(expected, Ended::Trapped(_)) && matches!(call, Call::Entries(_)) {
            break;
        }
    }
    Ok(tally)
}

/// How the calls of a run ended, and what was left in the end where that can be seen.
#[derive(Debug, PartialEq, Eq)]
struct Course {
    /// How each call ended, and what was left then.
    steps: Vec<(Ended, Picture)>,
}

/// Runs all calls, until the start function or the stack fails.
fn course(plain: &mut Plain<'_>, all: &[Call]) -> Result<Course, Failure> {
    let mut steps = Vec::new();
    for call in all {
        let ended = match call {
            Call::Entries(_) => plain.start()?,
            Call::Invoke { export, args } => plain.call(export, args)?,
        };
        let last = ends_all(call, &ended);
        steps.push((ended, plain.picture()?));
        if last {
            break;
        }
    }
    Ok(Course { steps })
}

/// Whether nothing is called after this.
fn ends_all(call: &Call, ended: &Ended) -> bool {
    match ended {
        Ended::Trapped(TrapKind::StackOverflow) | Ended::Exited(_) => true,
        Ended::Trapped(_) => matches!(call, Call::Entries(_)),
        _ => false,
    }
}

/// Whether a tier takes the module as its author built it, which must then take this course there, too. In wasmi only results
/// and global numbers are looked at.
fn on_tier(tier: Tier, native: &Course, wasm: &[u8], all: &[Call]) -> Result<bool, Failure> {
    match tier {
        Tier::Cranelift => Ok(true),
        Tier::Pulley => {
            let module = PlainModule::interpreted(wasm)?;
            if course(&mut Plain::new(&module, Env::default().fresh())?, all)? != *native {
                fail!("as built, {tier} takes another course");
            }
            Ok(true)
        }
        Tier::Wasmi => {
            let Some(engine) = ENGINES.iter().find(|engine| engine.tier() == tier) else { return Ok(false) };
            let (wasm, getters) = with_getters(wasm).unwrap_or_else(|| (wasm.to_vec(), Vec::new()));
            // Unreachable code with exceptions is gone from the instrumented module only.
            let Ok(code) = Code::plain(engine, &wasm) else { return Ok(false) };
            let mut instance = new_instance(&code, &Env::default())?;
            for (call, (expected, left)) in all.iter().zip(&native.steps) {
                let outcome = match call {
                    Call::Entries(entries) => instance.run(entries),
                    Call::Invoke { export, args } => instance.invoke(export, args),
                };
                // Functions have no number where a module is not instrumented: one that is a result cannot be told.
                let Ok(outcome) = outcome else { return Ok(true) };
                let ended = match outcome {
                    Outcome::Finished(values) => Ended::Finished(values),
                    Outcome::Exited(code) => Ended::Exited(code),
                    Outcome::Trapped(trap) => Ended::Trapped(trap.kind),
                    Outcome::Stopped => fail!("as built, it stops"),
                };
                if !alike(&ended, expected) {
                    fail!("as built, {call:?} ended with {ended:?} on {tier}, and with {expected:?} on cranelift");
                }
                let numbers = left
                    .globals
                    .iter()
                    .filter(|value| !matches!(value, Value::FuncRef(_) | Value::ExternRef(_) | Value::ExnRef(_)));
                for (name, expected) in getters.iter().zip(numbers) {
                    let got = instance.invoke(name, &[]).map_err(|error| chain("plain", &error))?;
                    if got != Outcome::Finished(vec![*expected]) {
                        fail!("as built, {call:?} left {got:?} on {tier}, and {expected} on cranelift");
                    }
                }
            }
            Ok(true)
        }
    }
}

/// Whether two calls ended alike. Functions have no number where a module is not instrumented.
fn alike(a: &Ended, b: &Ended) -> bool {
    let blur = |ended: &Ended| match ended {
        Ended::Finished(values) => Ended::Finished(
            values
                .iter()
                .map(|value| if let Value::FuncRef(Some(_)) = value { Value::FuncRef(Some(0)) } else { *value })
                .collect(),
        ),
        other => other.clone(),
    };
    blur(a) == blur(b)
}

fn new_instance(code: &Code, world: &dyn World) -> Result<Instance, Failure> {
    Instance::new(code, world.fresh(), LIMITS).map_err(|error| chain("instantiating", &error))
}

fn same(expected: &Ended, found: &Ended, what: &str) -> Result<(), Failure> {
    if expected == found { Ok(()) } else { fail!("plain ended with {expected:?}, {what} with {found:?}") }
}

/// A program that moves at random while it is called.
struct Mover<'a> {
    subject: &'a Subject,
    at: usize,
    instance: Option<Instance>,
    seen: Vec<u8>,
    /// How the last call ended.
    last: Option<Outcome>,
}

impl Mover<'_> {
    fn call(&mut self, call: &Call, world: &dyn World, random: &mut Random) -> Result<u64, Failure> {
        let Some(mut instance) = self.instance.take() else { fail!("an earlier call went wrong") };
        let subject = self.subject;
        let mut moves = 0;
        let next = |moves: u64, random: &mut Random| match moves < MOVES {
            true => {
                let most = 1 << random.below(7);
                1 + random.below(most) as i64
            }
            false => NEVER,
        };
        set_count(&mut instance, next(0, random))?;
        let mut outcome = subject.run(&mut instance, call)?;
        while outcome == Outcome::Stopped {
            moves += 1;
            let Stopped { bytes, seen } = subject.capture(instance, world)?;
            self.seen.extend_from_slice(&seen);
            let to = random.below(subject.codes.len() as u64) as usize;
            let codes = &subject.codes[to];
            let place = format!("move {moves}, from {} to {}", subject.codes[self.at].tier, codes.tier);
            self.at = to;
            instance = subject.restore(&codes.resume, &bytes, world).map_err(|failure| failure.within(&place))?;
            set_count(&mut instance, next(moves, random))?;
            outcome = subject.resume(&mut instance, call).map_err(|failure| failure.within(&place))?;
        }
        self.last = Some(outcome);
        self.instance = Some(instance);
        Ok(moves)
    }

    fn compare(
        &mut self,
        world: &dyn World,
        seen: &[u8],
        expected: &Ended,
        undisturbed: &crate::End,
    ) -> Result<(), Failure> {
        let Some((instance, outcome)) = self.instance.as_mut().zip(self.last.take()) else { return Ok(()) };
        let end = self.subject.end(instance, outcome, world, &self.seen)?;
        same(expected, &end.ended, "moved")?;
        let mut compared = undisturbed.clone();
        compared.seen = seen.to_vec();
        end.same_as(&compared).map_err(|failure| failure.within("moved"))
    }
}

fn set_count(instance: &mut Instance, count: i64) -> Result<(), Failure> {
    instance.set_count(count).map_err(|error| chain("setting the count", &error))
}

/// Some calls of exported functions, with random arguments.
fn calls(wasm: &[u8], random: &mut Random) -> Vec<Call> {
    let exports = exported(wasm).unwrap_or_default();
    if exports.is_empty() {
        return Vec::new();
    }
    (0..CALLS)
        .map(|_| {
            let (export, params) = &exports[random.below(exports.len() as u64) as usize];
            let args = params.iter().map(|ty| argument(*ty, random)).collect();
            Call::Invoke { export: export.clone(), args }
        })
        .collect()
}

/// The exported functions of the module itself with their parameters.
fn exported(wasm: &[u8]) -> Option<Vec<(String, Vec<ValType>)>> {
    let (mut types, mut functions, mut exports, mut imported) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            Payload::TypeSection(section) => {
                for group in section {
                    for ty in group.ok()?.into_types() {
                        types.push(match ty.composite_type.inner {
                            CompositeInnerType::Func(ty) => ty.params().to_vec(),
                            _ => return None,
                        });
                    }
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let TypeRef::Func(ty) = import.ok()?.ty {
                        functions.push(ty);
                        imported += 1;
                    }
                }
            }
            Payload::FunctionSection(section) => functions.extend(section.into_iter().filter_map(Result::ok)),
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.ok()?;
                    if export.kind == ExternalKind::Func && export.index >= imported {
                        exports.push((export.name.to_owned(), export.index));
                    }
                }
            }
            _ => {}
        }
    }
    let named = exports.into_iter().filter_map(|(name, index)| {
        let ty = *functions.get(index as usize)?;
        Some((name, types.get(ty as usize)?.clone()))
    });
    Some(named.collect())
}

fn argument(ty: ValType, random: &mut Random) -> Value {
    let number = match random.below(3) {
        0 => random.below(5),
        1 => random.number(),
        _ => u64::MAX - random.below(3),
    };
    match ty {
        ValType::I32 => Value::I32(number as i32),
        ValType::I64 => Value::I64(number as i64),
        ValType::F32 => Value::F32((random.below(1 << 20) as f32 / 8.0).to_bits()),
        ValType::F64 => Value::F64((random.below(1 << 40) as f64 / 8.0).to_bits()),
        ValType::V128 => Value::V128(u128::from(number) << 64 | u128::from(random.number())),
        ValType::Ref(ty) if ty.is_extern_ref() => {
            Value::ExternRef((!number.is_multiple_of(3)).then_some(number % 1000))
        }
        ValType::Ref(ty) if ty.is_func_ref() => Value::FuncRef(None),
        ValType::Ref(_) => Value::ExnRef(None),
    }
}
