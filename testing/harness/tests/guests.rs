//! Every program of `testing/guests` goes on exactly, wherever it is stopped. They are large, so some stops are chosen:
//! `DUNLIN_GUEST_STOPS` raises their number for each program, and `DUNLIN_GUEST` names one program, to run no other.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use dunlin_engine::{Entry, Outcome, Tier};
use dunlin_harness::guests::{Guest, guests};
use dunlin_harness::{
    Call, Ended, Failure, Files, NEVER, Plain, PlainModule, Random, Subject, World, chain, number, on_stack, seed,
};

/// Stops of one run of a program; it moves on from engine to engine at each.
const STOPS: u64 = 10;

#[test]
fn every_guest_prints_the_same_wherever_it_is_moved() {
    let (seed, stops) = (seed(), number("DUNLIN_GUEST_STOPS").unwrap_or(STOPS));
    println!("seed {seed}, {stops} stops for each run");
    let only = std::env::var("DUNLIN_GUEST").ok();
    let mut by_module: BTreeMap<String, Vec<Guest>> = BTreeMap::new();
    for guest in guests().unwrap_or_else(|failure| panic!("{failure}")) {
        if only.as_ref().is_none_or(|only| *only == guest.module) {
            by_module.entry(guest.module.clone()).or_default().push(guest);
        }
    }
    assert!(!by_module.is_empty(), "there is no program {only:?}");
    // Large modules first: they take longest to compile.
    let mut modules: Vec<Vec<Guest>> = by_module.into_values().collect();
    modules.sort_by_key(|guests| std::cmp::Reverse(guests[0].wasm.len()));
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                on_stack(|| {
                    while let Some(guests) = modules.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(failure) = module(guests, stops, seed) {
                            failures.lock().unwrap().push(failure.to_string());
                        }
                    }
                });
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "seed {seed}:\n{}", failures.join("\n"));
}

fn module(guests: &[Guest], stops: u64, seed: u64) -> Result<(), Failure> {
    let first = &guests[0];
    let subject = Subject::new(&first.module, &first.wasm, &Tier::ALL)?;
    if !subject.refused.is_empty() {
        return Err(Failure::new(format!("{}: refused by {:?}", first.module, subject.refused)));
    }
    let plain = PlainModule::new(&first.wasm)?;
    for guest in guests {
        let moves = moved(&subject, &plain, guest, stops, seed).map_err(|failure| failure.within(&guest.name))?;
        println!("{}: {} safepoints, {} moves", guest.name, moves.0, moves.1);
    }
    Ok(())
}

/// Runs a program plain, undisturbed, and moved from engine to engine. Tells its safepoints and the moves.
fn moved(subject: &Subject, plain: &PlainModule, guest: &Guest, stops: u64, seed: u64) -> Result<(u64, u64), Failure> {
    let world = &guest.world;
    let call = Call::Entries(Entry::command());
    let codes = &subject.codes;
    let mut oracle = Plain::new(plain, world.fresh())?;
    oracle.start()?;
    let ended = oracle.call("_start", &[])?;
    let code = match ended {
        Ended::Exited(code) => code,
        Ended::Finished(_) => 0,
        Ended::Trapped(_) => return Err(Failure::new(format!("plain: {ended:?}"))),
    };
    if code != guest.exit {
        return Err(Failure::new(format!("plain: it ended with code {code}")));
    }
    guest.printed(&world.seen(oracle.host()))?;

    let mut instance = subject.begin(&codes[0].fresh, world, &call)?;
    instance.set_count(i64::MAX).map_err(|error| chain("setting the count", &error))?;
    let outcome = subject.run(&mut instance, &call)?;
    let safepoints = (i64::MAX - instance.count().unwrap_or(i64::MAX)) as u64;
    let expected = subject.end(&mut instance, outcome, world, &[])?;
    if expected.ended != ended
        || expected.seen != world.seen(oracle.host())
        || expected.left != world.left(oracle.host())
    {
        return Err(Failure::new(format!(
            "instrumented: {:?}, plain {ended:?}, or printed or left otherwise",
            expected.ended
        )));
    }
    // A program that looks at files has inode numbers and times of its host in its memory.
    let host_files = world.files == Files::Directory;
    if !host_files {
        dunlin_harness::same_picture(&oracle.picture()?, oracle.fresh(), &expected.state)?;
    }

    // One run, moved at chosen safepoints. Only short stretches are run on the slow engines, so that the whole stays
    // short: what comes next there is a small part of the way, and the rest is gone on Cranelift.
    let mut random = Random::new(seed);
    let portion = (safepoints / (stops / 2).max(1)).max(1);
    let short = portion.min(20_000);
    let mut stretch = |slow: bool| 1 + random.below(if slow { short } else { 2 * portion }) as i64;
    let mut instance = subject.begin(&codes[0].fresh, world, &call)?;
    let set = |instance: &mut dunlin_engine::Instance, count| {
        instance.set_count(count).map_err(|error| chain("setting the count", &error))
    };
    set(&mut instance, stretch(false))?;
    let mut outcome = subject.run(&mut instance, &call)?;
    let (mut moves, mut at, mut seen) = (0, 0, Vec::new());
    // From the first engine on, nine moves go over every ordered pair of engines once.
    const WAY: [usize; 9] = [0, 1, 1, 2, 2, 0, 2, 1, 0];
    while outcome == Outcome::Stopped {
        let stopped = subject.capture(instance, world)?;
        seen.extend_from_slice(&stopped.seen);
        let to = if moves < stops { WAY[moves as usize % WAY.len()] } else { 0 };
        moves += 1;
        let place = format!("move {moves}, from {} to {}", codes[at].tier, codes[to].tier);
        at = to;
        let within = |failure: Failure| failure.within(&place);
        instance = subject.restore(&codes[to].resume, &stopped.bytes, world).map_err(within)?;
        set(&mut instance, if moves <= stops { stretch(to != 0) } else { NEVER })?;
        outcome = subject.resume(&mut instance, &call).map_err(within)?;
    }
    let mut end = subject.end(&mut instance, outcome, world, &seen)?;
    if host_files {
        end.state.clone_from(&expected.state);
    }
    end.same_as(&expected)?;
    Ok((safepoints, moves))
}
