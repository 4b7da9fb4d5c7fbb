//! The bytes of a volume. `DUNLIN_BLESS=1` writes them anew, which is right only before a format has been released.

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use common::volume_options;
use dunlin_store::{ChunkStore as _, Ino, MemoryStore, OpenFlags, Quota, Volume};

#[test]
fn the_bytes_of_root_inodes_entries_and_nodes_are_what_they_were() {
    let store = Arc::new(MemoryStore::new());
    let quota = Some(Quota { bytes: 1 << 30, inodes: 1000 });
    let mut volume = Volume::create(store.clone(), dunlin_store::Options { quota, ..volume_options() }).unwrap();
    let flags = OpenFlags { write: true, create: true, ..OpenFlags::default() };
    let file = volume.open_file(Ino::ROOT, "file", flags).unwrap();
    volume.write(file, b"first").unwrap();
    volume.write_at(file, b"far", 4096 * 70).unwrap();
    volume.make_directory(Ino::ROOT, "directory").unwrap();
    volume.make_symlink("file", Ino::ROOT, "directory/symlink").unwrap();
    volume.link(Ino::ROOT, "file", false, Ino::ROOT, "hard").unwrap();
    let deleted = volume.open_file(Ino::ROOT, "deleted", flags).unwrap();
    volume.unlink(Ino::ROOT, "deleted").unwrap();
    volume.sync(deleted).unwrap();
    volume.collect_garbage().unwrap();
    let manifest = volume.manifest().unwrap();
    let mut text = format!("root {}\n", manifest.root);
    for digest in &manifest.chunks {
        let bytes = store.get(digest).unwrap().unwrap();
        writeln!(text, "\n{digest}").unwrap();
        for (at, row) in (0..).step_by(16).zip(bytes.chunks(16)) {
            write!(text, "{at:04x} ").unwrap();
            row.iter().for_each(|byte| write!(text, " {byte:02x}").unwrap());
            text.push('\n');
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/volume-1.txt");
    if std::env::var_os("DUNLIN_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &text).unwrap();
    }
    let recorded = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, recorded, "a changed encoding needs a new format version");
}
