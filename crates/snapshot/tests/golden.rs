//! Snapshots of format version 1 that every later release must read.
//!
//! `DUNLIN_BLESS=1 cargo test -p dunlin-snapshot --test golden` writes the files anew. That is right only before the
//! format version is released, or when a new version of libzstd compresses differently; in
//! the second case the first two assertions must hold for the old files before they are replaced.

mod common;

use std::path::Path;

use common::{Random, Replay, full_snapshot, map, small, snapshot};
use dunlin_snapshot::{Envelope, Limits, Snapshot, encode, encode_with};

fn golden() -> [(&'static str, Snapshot); 3] {
    [
        ("v1-small.snap", snapshot(small())),
        ("v1-full.snap", full_snapshot()),
        ("v1-seeded.snap", snapshot(Random(1).state())),
    ]
}

#[test]
fn golden_files_are_read_and_written_the_same() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    for (name, snapshot) in golden() {
        let path = directory.join(name);
        let bytes = encode(&snapshot).unwrap();
        if std::env::var_os("DUNLIN_BLESS").is_some_and(|value| value == "1") {
            std::fs::write(&path, &bytes).unwrap();
        }
        let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let read = Envelope::open(&file, &Limits::default()).unwrap().decode(&map()).unwrap();
        assert!(read == snapshot, "{name} does not hold the state that it was written for");
        // First what no version of libzstd can change, then all of it.
        assert!(encode_with(&read, &mut Replay::of(&file)).unwrap() == file, "{name}: the format has changed");
        assert!(bytes == file, "{name}: compression has changed, see docs/formats/snapshot.md");
    }
}
