//! A database on a private volume whose disk stops at every operation: what was committed is there, and it is whole.
//! `DUNLIN_VOLUME_STOPS` limits how many stops are tried, `DUNLIN_SEED` chooses what the disk forgets.

#[path = "../../../crates/store/tests/common/disk.rs"]
mod disk;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use disk::Disk;
use dunlin_engine::{Code, Entry, Instance, Outcome};
use dunlin_harness::{ENGINES, LIMITS, Random, compile, number, on_stack, seed};
use dunlin_host::{Capture, Config, Output, PrivateVolume, World};
use dunlin_store::DirectoryStore;

const ROUNDS: &str = "4";

/// Runs the database, and gives its code and what it printed; `None` if its disk does not even let it begin.
fn run(code: &Code, disk: &Disk, rounds: &str, journal: &str) -> Option<(i32, String)> {
    let store = DirectoryStore::open_on(Arc::new(disk.clone()), "/store").ok()?;
    let stdout = Capture::new();
    let config = Config::new()
        .args(["database", "/data", rounds, journal])
        .stdout(Output::Capture(stdout.clone()))
        .volume(PrivateVolume::new(Arc::new(store)));
    let world = World::new(config).ok()?;
    let mut instance = Instance::new(code, Box::new(world), LIMITS).unwrap();
    let exit = match instance.run(&Entry::command()).unwrap() {
        Outcome::Exited(exit) => exit,
        Outcome::Finished(_) => 0,
        other => panic!("{other:?}"),
    };
    Some((exit, String::from_utf8(stdout.contents()).unwrap()))
}

#[test]
fn a_database_survives_a_stop_at_every_write() {
    survives("TRUNCATE");
}

/// The deletion of a journal is the commit, and durable with the sync of its directory.
#[test]
fn a_database_that_deletes_its_journal_survives_a_stop_at_every_write() {
    survives("DELETE");
}

fn survives(journal: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/out/database.wasm");
    let wasm = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: run cargo xtask guests", path.display()));
    let seed = seed();
    println!("seed {seed}");
    on_stack(|| {
        let code = compile(&ENGINES[0], &wasm, dunlin_instrument::Options::default()).unwrap();
        let whole = Disk::new(u64::MAX);
        let (exit, printed) = run(&code, &whole, ROUNDS, journal).unwrap();
        assert!(exit == 0 && printed.contains("\nok after 4 rounds, sum 200000"), "{printed}");
        let total = whole.changes();
        assert!(total > 30, "the database changes its disk {total} times");
        let step = (total / number("DUNLIN_VOLUME_STOPS").unwrap_or(total).max(1)).max(1);
        let mut random = Random::new(seed);
        let mut reached = [0_u64; 5];
        for stop in (0..=total).step_by(step as usize) {
            let disk = Disk::new(stop);
            let stopped = run(&code, &disk, ROUNDS, journal);
            let printed = stopped.map_or_else(String::new, |(_, printed)| printed);
            let told: u64 =
                printed.lines().filter_map(|line| line.strip_prefix("round ")?.parse().ok()).max().unwrap_or(0);
            let recovered = disk.recover(|limit| random.below(limit));
            let (exit, verdict) =
                run(&code, &recovered, "0", journal).unwrap_or_else(|| panic!("stopped at {stop}: lost"));
            let found = verdict.strip_prefix("ok after ").and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
            let found = found.unwrap_or_else(|| panic!("stopped at {stop}: {exit}, {verdict}"));
            assert!(verdict.contains("sum 200000"), "stopped at {stop}: {verdict}");
            assert!(
                found == told || found == told + 1,
                "stopped at {stop}: {told} rounds were committed, {found} are there"
            );
            reached[found as usize] += 1;
        }
        if step == 1 {
            assert!(reached.iter().all(|count| *count > 0), "{reached:?}");
        }
    });
}
