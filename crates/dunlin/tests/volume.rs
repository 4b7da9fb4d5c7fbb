//! Private volumes with the real program: across stops, stores and kills.

mod common;

use std::io::{BufRead as _, BufReader, Read as _};
use std::time::Duration;

use common::{Scratch, built};

fn rounds(printed: &str) -> Option<u64> {
    printed.lines().filter_map(|line| line.strip_prefix("round ")?.parse().ok()).max()
}

/// What the database's own check says: how many rounds are there, if it is whole.
#[track_caller]
fn whole(scratch: &Scratch, store: &str) -> u64 {
    whole_by(scratch, store, "TRUNCATE")
}

/// The same for a database that ends its journal like this.
#[track_caller]
fn whole_by(scratch: &Scratch, store: &str, journal: &str) -> u64 {
    let database = built("database");
    let ran = scratch.dunlin(&["run", "--volume", store, database.to_str().unwrap(), "--", "/data", "0", journal]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let rest = ran.stdout.strip_prefix("ok after ").unwrap_or_else(|| panic!("{ran:?}"));
    assert!(rest.contains("sum 200000"), "{ran:?}");
    rest.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_killed_database_has_every_round_that_it_has_told_of() {
    kill_repeatedly("volume-kill", "TRUNCATE");
}

/// The deletion of a journal is the commit, and durable with the sync of its directory.
#[test]
fn a_killed_database_that_deletes_its_journal_has_every_round_too() {
    kill_repeatedly("volume-kill-delete", "DELETE");
}

fn kill_repeatedly(name: &str, journal: &str) {
    let scratch = Scratch::new(name);
    let database = built("database");
    let kills: u64 = std::env::var("DUNLIN_VOLUME_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(6);
    for kill in 0..kills {
        let app = database.to_str().unwrap();
        let mut child = scratch.spawn(&["run", "--volume", "store", app, "--", "/data", "1000000", journal]);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        // It gets some way, and is killed wherever it is then.
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        std::thread::sleep(Duration::from_millis(7 + kill * 23 % 160));
        child.kill().unwrap();
        child.wait().unwrap();
        output.read_to_string(&mut line).unwrap();
        // The last line may have been cut off.
        let end = line.rfind('\n').map_or(0, |end| end);
        let told = rounds(&line[..end]).unwrap();
        let found = whole_by(&scratch, "store", journal);
        assert!(found >= told, "kill {kill}: {told} rounds were told of, {found} are there");
    }
}

#[test]
fn a_stopped_database_goes_on_with_any_store_and_is_never_turned_back_silently() {
    let scratch = Scratch::new("volume-moves");
    let database = built("database");
    let app = database.to_str().unwrap();
    let ran = scratch.dunlin(&[
        "run",
        "--volume",
        "here:/data",
        "--stop-at-safepoint",
        "600000",
        "--snapshot",
        "a.snap",
        app,
        "--",
        "/data",
        "40",
    ]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let told = rounds(&ran.stdout).unwrap();
    assert!((1..40).contains(&told), "it is in the middle: {ran:?}");
    // What the snapshot needs is told, and missed.
    let seen = scratch.dunlin(&["inspect", "a.snap"]);
    assert!(seen.stdout.contains("a volume as /data: "), "{}", seen.stdout);
    let seen = scratch.dunlin(&["inspect", "--json", "a.snap"]).json();
    let volume = &seen["needs"]["volume"];
    assert_eq!(
        (volume["guest"].as_str(), volume["chunks"].as_u64()),
        (Some("/data"), volume["carried_chunks"].as_u64())
    );
    assert!(volume["carried_bytes"].as_u64().unwrap() > 10_000, "{volume}");
    scratch.dunlin(&["restore", "a.snap"]).refuses(78, &["`/data`", "--volume DIR"]);
    // Another store takes what travelled; the run ends there as it would have here.
    let there = scratch.dunlin(&[
        "restore",
        "--volume",
        "there",
        "--tier",
        "pulley",
        "--stop-after",
        "1ms",
        "--snapshot",
        "b.snap",
        "--volume-known",
        "a.snap",
        "a.snap",
    ]);
    assert_eq!(there.code, Some(0), "{there:?}");
    let part = scratch.dunlin(&["inspect", "--json", "b.snap"]).json();
    let part = &part["needs"]["volume"];
    assert!(part["carried_chunks"].as_u64().unwrap() < part["chunks"].as_u64().unwrap(), "{part}");
    scratch.dunlin(&["restore", "--volume", "third", "b.snap"]).refuses(78, &["not all", "store"]);
    // Back where it began, which has what was left out: it descends from what is there.
    let back = scratch.dunlin(&["restore", "--volume", "here", "b.snap"]);
    assert_eq!(back.code, Some(0), "{back:?}");
    assert!(
        back.stdout.ends_with(" moves 3998\n") || back.stdout.contains("ok after 40 rounds, sum 200000"),
        "{back:?}"
    );
    // Now the old snapshot would undo that.
    scratch.dunlin(&["restore", "--volume", "here", "a.snap"]).refuses(78, &["has changed since", "--rewind-volume"]);
    assert_eq!(whole(&scratch, "here"), 40);
    let again = scratch.dunlin(&[
        "restore",
        "--volume",
        "here",
        "--rewind-volume",
        "--stop-after",
        "1ms",
        "--snapshot",
        "c.snap",
        "a.snap",
    ]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(whole(&scratch, "here") < 40);
    scratch.dunlin(&["run", "--volume", "", app]).refuses(64, &["names no directory"]);
    scratch.dunlin(&["restore", "--volume", "here", "--volume-known", app, "a.snap"]).refuses(65, &["does not tell"]);
}

#[test]
fn a_full_volume_is_no_space_left() {
    let scratch = Scratch::new("volume-full");
    let database = built("database");
    let arguments =
        ["run", "--volume", "store", "--limit-volume", "64KiB", database.to_str().unwrap(), "--", "/data", "1000"];
    let ran = scratch.dunlin(&arguments);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("database or disk is full"), "{ran:?}");
    // With more room it goes on from the last round.
    let told = rounds(&ran.stdout).unwrap();
    assert_eq!(whole(&scratch, "store"), told);
}

#[test]
fn mounts_are_told_and_missed() {
    let scratch = Scratch::new("mounts");
    let database = built("database");
    std::fs::create_dir(scratch.path().join("d")).unwrap();
    let app = database.to_str().unwrap();
    let ran = scratch.dunlin(&[
        "run",
        "--dir",
        "d::/data",
        "--stop-at-safepoint",
        "600000",
        "--snapshot",
        "a.snap",
        app,
        "--",
        "/data",
        "20",
    ]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let seen = scratch.dunlin(&["inspect", "a.snap"]);
    assert!(seen.stdout.contains("a directory as /data, to be changed; open: "), "{}", seen.stdout);
    let mounts = &scratch.dunlin(&["inspect", "--json", "a.snap"]).json()["needs"]["mounts"];
    assert_eq!((mounts[0]["guest"].as_str(), mounts[0]["writable"].as_bool()), (Some("/data"), Some(true)));
    assert_eq!(mounts[0]["open"][0].as_str(), Some("ledger.db"), "{mounts}");
    scratch.dunlin(&["restore", "a.snap"]).refuses(78, &["a directory mounted as `/data`"]);
    scratch.dunlin(&["restore", "--dir", "d::/data::ro", "a.snap"]).refuses(78, &["`/data`", "offered read-only"]);
    scratch.dunlin(&["restore", "--volume", "s", "--dir", "d::/data", "a.snap"]).refuses(78, &["without one"]);
    let ended = scratch.dunlin(&["restore", "--dir", "d::/data", "a.snap"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("ok after 20 rounds, sum 200000"), "{ended:?}");
}
