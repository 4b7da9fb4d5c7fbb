//! Open files and directories across a move.

mod support;

use dunlin_host::{Config, Error, Limits, Mount, World, kind};
use support::*;

const ROOT: i32 = 3;

#[test]
fn open_files_continue_where_they_were() {
    let dir = TempDir::new();
    dir.file("in", "0123456789");
    let mut guest = Guest::new(dir.config());
    let input = guest.path_open(ROOT, "in", 0, READ, 0).unwrap();
    let output = guest.path_open(ROOT, "out", CREATE | EXCLUSIVE | TRUNCATE, WRITE, 0).unwrap();
    let log = guest.path_open(ROOT, "log", CREATE, READ | WRITE, APPEND).unwrap();
    assert_eq!(guest.read(input, 4).unwrap(), b"0123");
    assert_eq!(guest.write(output, b"abc"), Ok(3));
    assert_eq!(guest.write(log, b"one"), Ok(3));
    let mut guest = guest.moved(dir.config());
    assert_eq!(guest.read(input, 100).unwrap(), b"456789");
    assert_eq!(guest.write(output, b"def"), Ok(3));
    assert_eq!(guest.write(log, b"two"), Ok(3));
    assert_eq!((dir.read("out"), dir.read("log")), ("abcdef".to_owned(), "onetwo".to_owned()));
    assert_eq!(guest.read(output, 1), Err(BADF));
    assert_eq!(guest.write(input, b"x"), Err(BADF));
    assert_eq!(guest.path_open(ROOT, "in", 0, READ, 0), Ok(log + 1));
}

#[test]
fn a_copy_of_the_directory_will_do() {
    let (here, there) = (TempDir::new(), TempDir::new());
    std::fs::create_dir(here.path().join("sub")).unwrap();
    std::fs::create_dir(there.path().join("sub")).unwrap();
    here.file("sub/f", "same text");
    there.file("sub/f", "same text");
    let mut guest = Guest::new(here.config());
    let sub = guest.path_open(ROOT, "sub", DIRECTORY, READ, 0).unwrap();
    let file = guest.path_open(sub, "f", 0, READ | WRITE, 0).unwrap();
    assert_eq!(guest.read(file, 5).unwrap(), b"same ");
    let mut guest = guest.moved(there.config());
    assert_eq!(guest.write(file, b"TEXT"), Ok(4));
    assert_eq!((here.read("sub/f"), there.read("sub/f")), ("same text".to_owned(), "same TEXT".to_owned()));
    assert!(guest.path_open(sub, "f", 0, READ, 0).is_ok());
}

#[test]
fn renamed_files_are_found() {
    let dir = TempDir::new();
    dir.file("old", "0123");
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let mut guest = Guest::new(dir.config());
    let file = guest.path_open(ROOT, "old", 0, READ, 0).unwrap();
    let sub = guest.path_open(ROOT, "sub", 0, READ, 0).unwrap();
    guest.read(file, 1).unwrap();
    std::fs::rename(dir.path().join("sub"), dir.path().join("bus")).unwrap();
    std::fs::rename(dir.path().join("old"), dir.path().join("bus/new")).unwrap();
    dir.file("old", "another file");
    let mut guest = guest.moved(dir.config());
    assert_eq!(guest.read(file, 10).unwrap(), b"123");
    assert!(guest.path_open(sub, "new", 0, READ, 0).is_ok());
}

#[test]
fn files_moved_out_of_the_mount_are_refused() {
    let (dir, elsewhere) = (TempDir::new(), TempDir::new());
    dir.file("f", "x");
    let mut guest = Guest::new(dir.config());
    let file = guest.path_open(ROOT, "f", 0, READ, 0).unwrap();
    std::fs::rename(dir.path().join("f"), elsewhere.path().join("f")).unwrap();
    let error = guest.world.freeze().unwrap_err();
    assert!(matches!(error, Error::NotMovable { fd, .. } if fd == file as u32), "{error}");
    assert_eq!(guest.read(file, 1).unwrap(), b"x", "it goes on here");
}

#[test]
fn deleted_files_travel() {
    let dir = TempDir::new();
    dir.file("f", "0123456789");
    let mut guest = Guest::new(dir.config());
    let file = guest.path_open(ROOT, "f", 0, READ | WRITE, 0).unwrap();
    guest.read(file, 3).unwrap();
    std::fs::remove_file(dir.path().join("f")).unwrap();
    for _ in 0..2 {
        guest = guest.moved(dir.config());
    }
    assert_eq!(guest.read(file, 2).unwrap(), b"34");
    assert_eq!(guest.write(file, b"FIVE"), Ok(4));
    let (at, count) = guest.vectors(&[(BUFFER, 100)]);
    assert_eq!(call!(guest, fd_pread, file, at, count, 0_u64, RESULT), SUCCESS);
    assert_eq!(guest.bytes(BUFFER, 10), b"01234FIVE9");
    assert!(!dir.path().join("f").exists());
    let limits = Limits { carried_bytes: 9, ..Limits::default() };
    let sections = guest.world.freeze().unwrap();
    let mut limited = thaw(&sections, dir.config().limits(limits));
    assert!(matches!(limited.freeze(), Err(Error::NotMovable { .. })));
}

#[test]
fn a_deleted_directory_is_refused() {
    let dir = TempDir::new();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let mut guest = Guest::new(dir.config());
    let sub = guest.path_open(ROOT, "sub", DIRECTORY, READ, 0).unwrap();
    std::fs::remove_dir(dir.path().join("sub")).unwrap();
    assert!(matches!(guest.world.freeze(), Err(Error::NotMovable { .. })));
    assert_eq!(call!(guest, fd_close, sub), SUCCESS);
    assert!(guest.world.freeze().is_ok());
}

#[test]
fn everything_that_is_missing_is_named() {
    let (dir, empty) = (TempDir::new(), TempDir::new());
    dir.file("one", "1");
    dir.file("two", "2");
    let other = Mount { guest: "/other".to_owned(), ..dir.mount() };
    let mut guest = Guest::new(dir.config().mount(other.clone()));
    guest.path_open(ROOT, "one", 0, READ, 0).unwrap();
    guest.path_open(ROOT, "two", 0, READ, 0).unwrap();
    guest.path_open(ROOT + 1, "two", 0, READ, 0).unwrap();
    let sections = guest.world.freeze().unwrap();
    let error = World::thaw(&sections, empty.config()).unwrap_err();
    let Error::Missing { missing } = &error else { panic!("{error}") };
    assert_eq!(missing.len(), 3, "{error}");
    for part in ["`/other`", "`one` under `/data`", "`two` under `/data`"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    std::fs::create_dir(empty.path().join("one")).unwrap();
    empty.file("two", "");
    let error = World::thaw(&sections, empty.config().mount(other.clone())).unwrap_err();
    assert!(error.to_string().contains("`one`") && !error.to_string().contains("`two`"), "{error}");
    assert!(World::thaw(&sections, dir.config().mount(other)).is_ok());
}

#[test]
fn a_narrower_mount_is_refused_and_a_wider_one_gives_no_more() {
    let dir = TempDir::new();
    dir.file("f", "x");
    let mut guest = Guest::new(dir.config());
    guest.path_open(ROOT, "f", 0, READ, 0).unwrap();
    let sections = guest.world.freeze().unwrap();
    let error = World::thaw(&sections, dir.read_only()).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
    assert!(error.to_string().contains("`/data`") && error.to_string().contains("read-only"), "{error}");
    let mut guest = Guest::new(dir.read_only());
    let reading = guest.path_open(ROOT, "f", 0, READ, 0).unwrap();
    let mut guest = guest.moved(dir.config());
    assert_eq!(guest.read(reading, 1).unwrap(), b"x");
    assert_eq!(guest.path_open(ROOT, "f", 0, WRITE, 0), Err(PERM));
}

#[test]
fn thawed_worlds_freeze_to_the_same_bytes() {
    let dir = TempDir::new();
    dir.file("a", "a");
    dir.file("gone", "gone");
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let config = || dir.config().source(dunlin_host::Source::Deterministic { seed: 1 });
    let mut guest = Guest::new(config());
    guest.path_open(ROOT, "a", 0, READ | WRITE, APPEND | NONBLOCK).unwrap();
    guest.path_open(ROOT, "sub", 0, READ, 0).unwrap();
    guest.path_open(ROOT, "gone", 0, READ, 2).unwrap();
    std::fs::remove_file(dir.path().join("gone")).unwrap();
    assert_eq!(call!(guest, fd_readdir, ROOT, BUFFER, 60, 0_u64, RESULT), SUCCESS);
    let sections = guest.world.freeze().unwrap();
    assert_eq!(World::thaw(&sections, config()).unwrap().freeze().unwrap(), sections);
}

#[test]
fn damaged_sections_are_refused_and_never_panic() {
    let dir = TempDir::new();
    dir.file("a", "a");
    let mut guest = Guest::new(dir.config().arg("x").env("a", "b").listen("127.0.0.1:0"));
    guest.path_open(ROOT, "a", 0, READ, 0).unwrap();
    assert_eq!(call!(guest, fd_readdir, ROOT, BUFFER, 60, 0_u64, RESULT), SUCCESS);
    let sections = guest.world.freeze().unwrap();
    let config = || dir.config().listen("127.0.0.1:0");
    for at in 0..sections.len() {
        for len in 0..sections[at].bytes.len() {
            let mut cut = sections.clone();
            cut[at].bytes.truncate(len);
            let error = World::thaw(&cut, config()).unwrap_err();
            assert!(matches!(error, Error::BadSection { .. }), "{error}");
            for value in [0xff, 0x01, 0x80] {
                let mut changed = sections.clone();
                changed[at].bytes[len] ^= value;
                // Some changes make another valid state; the others are errors.
                let _ = World::thaw(&changed, config());
            }
        }
        let mut longer = sections.clone();
        longer[at].bytes.push(0);
        assert!(matches!(World::thaw(&longer, config()), Err(Error::BadSection { .. })));
        let mut newer = sections.clone();
        newer[at].version = 2;
        assert!(matches!(World::thaw(&newer, config()), Err(Error::UnknownVersion { version: 2, .. })));
        let mut twice = sections.clone();
        twice.push(sections[at].clone());
        assert!(matches!(World::thaw(&twice, config()), Err(Error::DuplicateSection { .. })));
        let mut without = sections.clone();
        let removed = without.remove(at);
        let thawed = World::thaw(&without, config());
        if removed.kind == kind::SOCKETS {
            assert!(thawed.is_ok());
        } else {
            assert!(matches!(thawed, Err(Error::MissingSection { kind }) if kind == removed.kind));
        }
    }
    let mut foreign = sections.clone();
    foreign.push(dunlin_snapshot::HostSection { kind: 999, version: 1, mandatory: true, bytes: vec![] });
    assert!(matches!(World::thaw(&foreign, config()), Err(Error::UnknownSection { kind: 999 })));
    foreign.last_mut().unwrap().mandatory = false;
    assert!(World::thaw(&foreign, config()).is_ok());
    let few = config().limits(Limits { descriptors: 3, ..Limits::default() });
    assert!(matches!(World::thaw(&sections, few), Err(Error::TooManyDescriptors { .. })));
    assert!(matches!(World::thaw(&[], Config::new()), Err(Error::MissingSection { .. })));
}
