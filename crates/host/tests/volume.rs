//! The private volume: each function by its effect, and what is open in it across moves.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use dunlin_base::Digest;
use dunlin_host::{Carry, Config, Error, Limits, Needs, PrivateVolume, Source, World, kind};
use dunlin_snapshot::HostSection;
use dunlin_store::{MemoryStore, Options, Store, Volume};
use support::*;

const ROOT: i32 = 3;

fn store() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

fn with(volume: PrivateVolume) -> Config {
    Config::new().source(Source::Deterministic { seed: 1 }).volume(volume)
}

fn on(store: &Arc<dyn Store>) -> Config {
    with(PrivateVolume::new(store.clone()))
}

fn contents(guest: &mut Guest, path: &str) -> Vec<u8> {
    let fd = guest.path_open(ROOT, path, 0, READ, 0).unwrap();
    let bytes = guest.read(fd, 60_000).unwrap();
    assert_eq!(call!(guest, fd_close, fd), SUCCESS);
    bytes
}

fn write_file(guest: &mut Guest, path: &str, bytes: &[u8]) {
    let fd = guest.path_open(ROOT, path, CREATE | TRUNCATE, WRITE, 0).unwrap();
    assert_eq!(guest.write(fd, bytes), Ok(bytes.len()));
    assert_eq!(call!(guest, fd_close, fd), SUCCESS);
}

fn rename(guest: &mut Guest, old: &str, new: &str) -> i32 {
    let (old, old_len) = guest.text(old);
    let (new, new_len) = guest.text2(new);
    call!(guest, path_rename, ROOT, old, old_len, ROOT, new, new_len)
}

fn unlink(guest: &mut Guest, path: &str) -> i32 {
    let (path, len) = guest.text(path);
    call!(guest, path_unlink_file, ROOT, path, len)
}

fn mkdir(guest: &mut Guest, path: &str) -> i32 {
    let (path, len) = guest.text(path);
    call!(guest, path_create_directory, ROOT, path, len)
}

/// Names from `cookie` on, through a buffer of `size` bytes.
fn list(guest: &mut Guest, fd: i32, mut cookie: u64, size: i32) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        assert_eq!(call!(guest, fd_readdir, fd, BUFFER, size, cookie, RESULT), SUCCESS);
        let used = guest.u32_at(RESULT) as usize;
        let mut at = 0;
        while at + 24 <= used {
            let entry = BUFFER as i32 + at as i32;
            let len = guest.u32_at(entry + 16) as usize;
            if at + 24 + len > used {
                break;
            }
            cookie = guest.u64_at(entry);
            names.push(String::from_utf8(guest.bytes(entry as u32 + 24, len).to_vec()).unwrap());
            at += 24 + len;
        }
        if used < size as usize {
            return names;
        }
    }
}

#[test]
fn files_are_written_read_and_sought() {
    let store = store();
    let mut guest = Guest::new(on(&store));
    assert_eq!(call!(guest, fd_prestat_get, ROOT, RESULT), SUCCESS);
    assert_eq!((guest.u32_at(RESULT), guest.u32_at(RESULT + 4)), (0, 5));
    assert_eq!(call!(guest, fd_prestat_dir_name, ROOT, BUFFER, 5), SUCCESS);
    assert_eq!(guest.bytes(BUFFER, 5), b"/data");
    let fd = guest.path_open(ROOT, "new", CREATE | EXCLUSIVE, READ | WRITE, 0).unwrap();
    assert_eq!(guest.path_open(ROOT, "new", CREATE | EXCLUSIVE, READ | WRITE, 0), Err(EXIST));
    assert_eq!(guest.write(fd, b"0123456789"), Ok(10));
    for (delta, whence, position) in [(2_i64, 0, 2), (3, 1, 5), (-4, 1, 1), (-3, 2, 7), (100, 2, 110)] {
        assert_eq!(call!(guest, fd_seek, fd, delta, whence, RESULT), SUCCESS);
        assert_eq!(guest.u64_at(RESULT), position);
    }
    assert_eq!(guest.read(fd, 10).unwrap(), b"", "beyond the end");
    guest.put(BUFFER, b"ABCD");
    let (at, count) = guest.vectors(&[(BUFFER, 1), (0, 0), (BUFFER + 1, 3)]);
    assert_eq!(call!(guest, fd_pwrite, fd, at, count, 4_u64, RESULT), SUCCESS);
    assert_eq!(guest.u32_at(RESULT), 4);
    assert_eq!(call!(guest, fd_pwrite, fd, at, count, -1_i64, RESULT), INVAL);
    assert_eq!(call!(guest, fd_pread, fd, at, count, -1_i64, RESULT), INVAL);
    assert_eq!(contents(&mut guest, "new"), b"0123ABCD89");
    let appending = guest.path_open(ROOT, "new", 0, READ | WRITE, APPEND).unwrap();
    assert_eq!(guest.write(appending, b"ef"), Ok(2));
    assert_eq!(call!(guest, fd_tell, appending, RESULT), SUCCESS);
    assert_eq!(guest.u64_at(RESULT), 12);
    assert_eq!(call!(guest, fd_fdstat_get, appending, RESULT), SUCCESS);
    assert_eq!(guest.bytes(RESULT as u32, 4), [4, 0, 1, 0]);
    let reading = guest.path_open(ROOT, "new", 0, READ, 0).unwrap();
    assert_eq!(guest.write(reading, b"x"), Err(BADF));
    assert_eq!(guest.write(reading, b""), Err(BADF));
    let writing = guest.path_open(ROOT, "new", 0, WRITE, 0).unwrap();
    assert_eq!((guest.read(writing, 1), guest.read(writing, 0)), (Err(BADF), Err(BADF)));
    for call in ["fd_sync", "fd_datasync"] {
        assert_eq!(guest.errno(call, &[fd.value()]), SUCCESS);
    }
    assert_eq!(guest.path_open(ROOT, "none", 0, READ, 0), Err(NOENT));
    assert_eq!(guest.path_open(ROOT, "../x", CREATE, READ, 0), Err(PERM));
    assert_eq!(guest.path_open(ROOT, "/x", CREATE, READ, 0), Err(PERM));
    assert_eq!(guest.path_open(ROOT, "new", DIRECTORY, READ, 0), Err(NOTDIR));
}

#[test]
fn sizes_are_changed_and_room_is_allocated() {
    let store = store();
    let mut guest = Guest::new(with(PrivateVolume::new(store).limit(1 << 20)));
    let fd = guest.path_open(ROOT, "f", CREATE, READ | WRITE, 0).unwrap();
    assert_eq!(guest.write(fd, b"0123456789"), Ok(10));
    assert_eq!(call!(guest, fd_filestat_set_size, fd, 4_u64), SUCCESS);
    assert_eq!(call!(guest, fd_allocate, fd, 2_u64, 6_u64), SUCCESS);
    assert_eq!(contents(&mut guest, "f"), b"0123\0\0\0\0");
    for (offset, len, errno) in [
        (0_u64, 0_u64, INVAL),
        (u64::MAX, 2, INVAL),
        (1 << 62, 1 << 62, INVAL),
        (0, 2 << 20, NOSPC),
        (0, 1 << 40, FBIG),
    ] {
        let expected = if (offset, len) == (1 << 62, 1 << 62) { FBIG } else { errno };
        assert_eq!(call!(guest, fd_allocate, fd, offset, len), expected, "{offset} {len}");
    }
    assert_eq!(call!(guest, fd_filestat_set_size, fd, u64::MAX), INVAL);
    assert_eq!(call!(guest, fd_allocate, fd, 0_u64, 900_000_u64), SUCCESS);
    // What is allocated is there to be written, also when nothing else is.
    let other = guest.path_open(ROOT, "other", CREATE, WRITE, 0).unwrap();
    let mut written = 0;
    while let Ok(more) = guest.write(other, &[7; 50_000]) {
        written += more;
    }
    assert!((50_000..150_000).contains(&written), "{written}");
    assert_eq!(guest.write(other, b"x"), Err(NOSPC));
    assert_eq!(call!(guest, fd_seek, fd, 800_000_u64, 0, RESULT), SUCCESS);
    assert_eq!(guest.write(fd, &[1; 50_000]), Ok(50_000));
    assert_eq!(unlink(&mut guest, "other"), SUCCESS);
    assert_eq!(guest.write(other, b"x"), Err(NOSPC), "an open file keeps its room");
    assert_eq!(call!(guest, fd_close, other), SUCCESS);
    assert_eq!(mkdir(&mut guest, "d"), SUCCESS);
    for advice in 0..6 {
        assert_eq!(call!(guest, fd_advise, fd, 0_u64, 10_u64, advice), SUCCESS);
    }
    assert_eq!(call!(guest, fd_advise, fd, 0_u64, 10_u64, 6), INVAL);
}

#[test]
fn names_behave_as_programs_rely_on() {
    let store = store();
    let mut guest = Guest::new(on(&store));
    write_file(&mut guest, "old", b"old");
    write_file(&mut guest, "new", b"new");
    let kept = guest.path_open(ROOT, "old", 0, READ, 0).unwrap();
    assert_eq!(rename(&mut guest, "new", "old"), SUCCESS, "over another file");
    assert_eq!(contents(&mut guest, "old"), b"new");
    assert_eq!(guest.read(kept, 10).unwrap(), b"old", "what was open stays");
    assert_eq!(mkdir(&mut guest, "d"), SUCCESS);
    assert_eq!(mkdir(&mut guest, "d"), EXIST);
    assert_eq!(mkdir(&mut guest, "d/e"), SUCCESS);
    assert_eq!(rename(&mut guest, "old", "d"), ISDIR);
    assert_eq!(rename(&mut guest, "d", "old"), NOTDIR);
    assert_eq!(rename(&mut guest, "d", "d/e/f"), INVAL);
    assert_eq!(rename(&mut guest, "old", "x/"), NOTDIR);
    let (path, len) = guest.text("d");
    assert_eq!(call!(guest, path_remove_directory, ROOT, path, len), NOTEMPTY);
    assert_eq!(unlink(&mut guest, "d"), ISDIR);
    let (path, len) = guest.text("old");
    let (new, new_len) = guest.text2("d/link");
    assert_eq!(call!(guest, path_link, ROOT, 0, path, len, ROOT, new, new_len), SUCCESS);
    assert_eq!(call!(guest, path_link, ROOT, 1, path, len, ROOT, new, new_len), INVAL);
    assert_eq!(call!(guest, path_filestat_get, ROOT, 0, path, len, RESULT), SUCCESS);
    assert_eq!((guest.u64_at(RESULT + 24), guest.u64_at(RESULT + 32)), (2, 3), "links and size");
    let (target, target_len) = guest.text("../old");
    let (link, link_len) = guest.text2("d/symbolic");
    assert_eq!(call!(guest, path_symlink, target, target_len, ROOT, link, link_len), SUCCESS);
    assert_eq!(contents(&mut guest, "d/symbolic"), b"new");
    assert_eq!(call!(guest, path_readlink, ROOT, link, link_len, BUFFER, 3, RESULT), SUCCESS);
    assert_eq!((guest.u32_at(RESULT), guest.bytes(BUFFER, 3)), (3, &b"../"[..]));
    let (target, target_len) = guest.text("/etc/passwd");
    assert_eq!(call!(guest, path_symlink, target, target_len, ROOT, link, link_len), PERM);
    let fd = guest.path_open(ROOT, "d/symbolic", 0, READ, 0).unwrap();
    assert_eq!(call!(guest, fd_filestat_set_times, fd, 5_u64, 7_u64, 5), SUCCESS);
    assert_eq!(call!(guest, fd_filestat_get, fd, RESULT), SUCCESS);
    assert_eq!((guest.u64_at(RESULT + 40), guest.u64_at(RESULT + 48)), (5, 7));
    let (path, len) = guest.text("none");
    assert_eq!(call!(guest, path_filestat_set_times, ROOT, 1, path, len, 0_u64, 0_u64, 10), NOENT);
}

#[test]
fn a_directory_is_listed_while_it_changes_and_while_it_moves() {
    let store = store();
    let mut guest = Guest::new(on(&store));
    for number in 0..600 {
        write_file(&mut guest, &format!("f{number}"), b"");
    }
    let fd = guest.path_open(ROOT, ".", DIRECTORY, READ, 0).unwrap();
    let all = list(&mut guest, fd, 0, 4096);
    assert_eq!(all.len(), 602);
    assert_eq!(&all[..3], [".", "..", "f0"]);
    for size in [30, 57, 65_536] {
        assert_eq!(list(&mut guest, fd, 0, size), all, "{size}");
    }
    // Half of a listing; then every second file goes, some come, and the program moves.
    assert_eq!(call!(guest, fd_readdir, fd, BUFFER, 24 * 300, 0_u64, RESULT), SUCCESS);
    let mut seen = BTreeSet::new();
    let (mut at, mut cookie) = (BUFFER as i32, 0);
    while at + 24 + 4 < BUFFER as i32 + 24 * 300 {
        let len = guest.u32_at(at + 16) as usize;
        if at + 24 + len as i32 > BUFFER as i32 + 24 * 300 {
            break;
        }
        cookie = guest.u64_at(at);
        assert!(seen.insert(String::from_utf8(guest.bytes(at as u32 + 24, len).to_vec()).unwrap()));
        at += 24 + len as i32;
    }
    for number in (0..600).step_by(2) {
        assert_eq!(unlink(&mut guest, &format!("f{number}")), SUCCESS);
    }
    write_file(&mut guest, "late", b"");
    let mut guest = guest.moved(on(&store));
    for name in list(&mut guest, fd, cookie, 300) {
        assert!(seen.insert(name), "nothing is listed twice");
    }
    assert!((1..600).step_by(2).all(|number| seen.contains(&format!("f{number}"))), "what stays is listed");
    assert!(seen.contains("late"));
}

#[test]
fn everything_that_is_open_moves() {
    let (here, there) = (store(), store());
    let mut guest = Guest::new(on(&here));
    mkdir(&mut guest, "d");
    let file = guest.path_open(ROOT, "f", CREATE, READ | WRITE, 0).unwrap();
    let log = guest.path_open(ROOT, "d/log", CREATE, WRITE, APPEND).unwrap();
    let directory = guest.path_open(ROOT, "d", DIRECTORY, READ, 0).unwrap();
    assert_eq!(guest.write(file, b"0123456789"), Ok(10));
    assert_eq!(guest.write(log, b"one"), Ok(3));
    assert_eq!(call!(guest, fd_seek, file, 4_u64, 0, RESULT), SUCCESS);
    // A file that is deleted and one that has another name; a descriptor that was renumbered.
    let deleted = guest.path_open(ROOT, "deleted", CREATE, READ | WRITE, 0).unwrap();
    assert_eq!(guest.write(deleted, b"still here"), Ok(10));
    assert_eq!(unlink(&mut guest, "deleted"), SUCCESS);
    assert_eq!(rename(&mut guest, "f", "d/g"), SUCCESS);
    let extra = guest.path_open(ROOT, "d/g", 0, READ, 0).unwrap();
    assert_eq!(call!(guest, fd_renumber, extra, log), SUCCESS);
    let mut guest = guest.moved(on(&there));
    assert_eq!(guest.read(file, 100).unwrap(), b"456789");
    assert_eq!(guest.read(log, 3).unwrap(), b"012", "renumbered");
    assert_eq!(call!(guest, fd_seek, deleted, 0_u64, 0, RESULT), SUCCESS);
    assert_eq!(guest.read(deleted, 100).unwrap(), b"still here");
    let name = guest.path_open(directory, "log", 0, READ, 0).unwrap();
    assert_eq!(guest.read(name, 100).unwrap(), b"one");
    assert_eq!(call!(guest, fd_prestat_get, directory, RESULT), BADF);
    assert_eq!(call!(guest, fd_prestat_get, ROOT, RESULT), SUCCESS);
    // And back, with a directory that is gone.
    assert_eq!(call!(guest, fd_close, name), SUCCESS);
    assert_eq!(unlink(&mut guest, "d/log"), SUCCESS);
    assert_eq!(rename(&mut guest, "d/g", "g"), SUCCESS);
    let (path, len) = guest.text("d");
    assert_eq!(call!(guest, path_remove_directory, ROOT, path, len), SUCCESS);
    assert_eq!(guest.write(deleted, b"!"), Ok(1));
    let mut guest = guest.moved(on(&here));
    assert_eq!(list(&mut guest, directory, 0, 1000), [".", ".."]);
    assert_eq!(guest.path_open(directory, "x", CREATE, WRITE, 0), Err(NOENT));
    assert_eq!(call!(guest, fd_seek, deleted, 5_u64, 0, RESULT), SUCCESS);
    assert_eq!(guest.read(deleted, 100).unwrap(), b" here!");
    assert_eq!(contents(&mut guest, "g"), b"0123456789");
    // Once it is closed, its room is free.
    let used = Needs::of(&guest.world.freeze().unwrap()).unwrap().volume.unwrap().used_bytes;
    assert_eq!(call!(guest, fd_close, deleted), SUCCESS);
    let after = Needs::of(&guest.world.freeze().unwrap()).unwrap().volume.unwrap().used_bytes;
    assert_eq!(used - after, 4096);
}

#[test]
fn chunks_that_the_other_side_has_do_not_travel() {
    let (here, there) = (store(), store());
    let mut guest = Guest::new(on(&here));
    write_file(&mut guest, "big", &[9; 50_000]);
    let first = guest.world.freeze().unwrap();
    let needs = |sections: &[HostSection]| Needs::of(sections).unwrap().volume.unwrap();
    let all = needs(&first).contents.unwrap();
    assert_eq!(all.needed.len() as u64, all.chunks);
    assert!(all.bytes > 50_000);
    drop(thaw(&first, on(&there)));
    // The other side has those; a little changes.
    write_file(&mut guest, "small", b"small");
    let known = all.needed.iter().copied().collect();
    guest.world.carry(Carry::Without(Arc::new(known)));
    let second = guest.world.freeze().unwrap();
    let part = needs(&second).contents.unwrap();
    assert!(part.bytes < 2000 && part.chunks < part.needed.len() as u64, "{part:?}");
    let mut moved = Guest { world: thaw(&second, on(&there)), memory: guest.memory.clone() };
    assert_eq!(contents(&mut moved, "big"), [9; 50_000]);
    assert_eq!(contents(&mut moved, "small"), b"small");
    // Elsewhere they are missed.
    let error = World::thaw(&second, on(&store())).unwrap_err();
    assert!(matches!(error, Error::VolumeContents { .. }), "{error}");
    guest.world.carry(Carry::Nothing);
    let bare = guest.world.freeze().unwrap();
    assert!(bare.iter().all(|section| section.kind != kind::VOLUME_CONTENTS));
    let error = World::thaw(&bare, on(&store())).unwrap_err();
    assert!(matches!(error, Error::Volume { .. }), "{error}");
    assert!(World::thaw(&bare, on(&there)).is_ok());
    let limits = Limits { volume_contents: 1000, ..Limits::default() };
    let mut small = thaw(&bare, on(&there).limits(limits));
    assert!(matches!(small.freeze(), Err(Error::VolumeTooLarge { limit: 1000, .. })));
}

#[test]
fn most_of_a_volume_goes_ahead_of_the_freeze_and_its_state_needs_the_rest_of_the_store() {
    let (here, there) = (store(), store());
    let mut guest = Guest::new(on(&here));
    let needs = |sections: &[HostSection]| Needs::of(sections).unwrap().volume.unwrap();
    for number in 0..8 {
        write_file(&mut guest, &format!("file {number}"), &[number; 50_000]);
    }
    let handle = guest.world.volume().unwrap();
    let mut ahead = handle.send_ahead();
    let all = ahead.scan().unwrap();
    let mut sent = 0;
    loop {
        let chunks = ahead.batch(100_000).unwrap();
        if chunks.is_empty() {
            break;
        }
        sent += chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        chunks.iter().for_each(|chunk| there.put(&Digest::of(chunk), chunk).unwrap());
    }
    assert_eq!((sent, ahead.unsent()), (all, 0));
    // The program goes on; what it writes now goes with the state.
    write_file(&mut guest, "small", b"small");
    let frozen = guest.world.freeze().unwrap();
    let part = needs(&frozen).contents.unwrap();
    assert!(part.bytes < 2000 && part.chunks == part.needed.len() as u64, "{part:?}");
    let error = World::thaw(&frozen, on(&store())).unwrap_err();
    assert!(matches!(error, Error::VolumeContents { .. } | Error::Volume { .. }), "{error}");
    let arriving = |store: &Arc<dyn Store>| with(PrivateVolume::new(store.clone()).complete(true));
    let error = World::thaw(&frozen, arriving(&store())).unwrap_err();
    assert!(matches!(error, Error::VolumeContents { .. } | Error::Volume { .. }), "{error}");
    let mut moved = Guest { world: thaw(&frozen, arriving(&there)), memory: guest.memory.clone() };
    assert_eq!(contents(&mut moved, "file 7"), [7; 50_000]);

    // Whatever becomes of the volume there, the program can begin again from the state.
    let moved_handle = moved.world.volume().unwrap();
    write_file(&mut moved, "file 7", &[8; 50_000]);
    moved.world.commit_volume().unwrap();
    let collect = || Volume::open(there.clone(), Options::default()).unwrap().collect_garbage().unwrap();
    collect();
    let again = thaw(&frozen, with(PrivateVolume::new(there.clone()).rewind(true)));
    let mut again = Guest { world: again, memory: guest.memory.clone() };
    assert_eq!(contents(&mut again, "file 7"), [7; 50_000]);
    drop(again);
    // Until there is another state.
    moved_handle.was_committed(false).unwrap();
    assert!(collect() > 0);
    assert!(World::thaw(&frozen, with(PrivateVolume::new(there.clone()).rewind(true))).is_err());

    // When nothing goes ahead any more, a state has all of it.
    drop(ahead);
    let whole = needs(&guest.world.freeze().unwrap()).contents.unwrap();
    assert_eq!(whole.chunks, whole.needed.len() as u64);
}

#[test]
fn a_store_that_does_not_fit_is_refused() {
    let here = store();
    let mut guest = Guest::new(on(&here));
    write_file(&mut guest, "f", b"one");
    let old = guest.world.freeze().unwrap();
    let error = World::thaw(&old, Config::new().source(Source::Deterministic { seed: 1 })).unwrap_err();
    assert!(error.to_string().contains("`/data`") && error.to_string().contains("--volume"), "{error}");
    let elsewhere = with(PrivateVolume::new(here.clone()).guest("/other"));
    assert!(matches!(World::thaw(&old, elsewhere), Err(Error::Missing { .. })));
    let none = Guest::new(Config::new().source(Source::Deterministic { seed: 1 })).world.freeze().unwrap();
    assert!(matches!(World::thaw(&none, on(&here)), Err(Error::NeedlessVolume)));
    let foreign = store();
    drop(World::new(
        Config::new().source(Source::Deterministic { seed: 2 }).volume(PrivateVolume::new(foreign.clone())),
    ));
    for rewind in [false, true] {
        let error = World::thaw(&old, with(PrivateVolume::new(foreign.clone()).rewind(rewind))).unwrap_err();
        assert!(matches!(error, Error::OtherVolume { .. }), "{error}");
    }
    let twice = on(&here).mount(TempDir::new().mount());
    assert!(matches!(World::new(twice), Err(Error::Mount { .. } | Error::DuplicateMount { .. })));
}

#[test]
fn an_older_state_replaces_a_newer_one_only_when_asked() {
    let (here, there) = (store(), store());
    let mut guest = Guest::new(on(&here));
    write_file(&mut guest, "f", b"one");
    let old = guest.world.freeze().unwrap();
    // It goes on elsewhere and comes back: what is here is an ancestor, and nothing is lost.
    let mut guest = Guest { world: thaw(&old, on(&there)), memory: guest.memory };
    write_file(&mut guest, "f", b"two");
    let new = guest.world.freeze().unwrap();
    let mut guest = Guest { world: thaw(&new, on(&here)), memory: guest.memory };
    assert_eq!(contents(&mut guest, "f"), b"two");
    // Until the first commit, the store stays as it was, so the older one would still fit.
    assert!(World::thaw(&old, on(&here)).is_ok());
    guest.world.commit_volume().unwrap();
    let error = World::thaw(&old, on(&here)).unwrap_err();
    assert!(matches!(error, Error::VolumeMovedOn { .. }) && error.to_string().contains("--rewind-volume"), "{error}");
    drop(guest);
    let world = thaw(&old, with(PrivateVolume::new(here.clone()).rewind(true)));
    let mut guest = Guest { world, memory: vec![0; 128 * 1024] };
    assert_eq!(contents(&mut guest, "f"), b"one");
    guest.world.commit_volume().unwrap();
    // Now the newer one is the stranger: it does not descend from what is here.
    assert!(World::thaw(&new, on(&here)).is_ok(), "the old state is its ancestor");
    write_file(&mut guest, "f", b"another way");
    guest.world.commit_volume().unwrap();
    assert!(matches!(World::thaw(&new, on(&here)), Err(Error::VolumeMovedOn { .. })));
}

#[test]
fn what_a_program_leaves_is_there_for_the_next() {
    let store = store();
    let mut guest = Guest::new(on(&store));
    write_file(&mut guest, "kept", b"kept");
    let deleted = guest.path_open(ROOT, "deleted", CREATE, WRITE, 0).unwrap();
    assert_eq!(guest.write(deleted, &[1; 5000]), Ok(5000));
    assert_eq!(unlink(&mut guest, "deleted"), SUCCESS);
    assert_eq!(call!(guest, fd_sync, deleted), SUCCESS);
    // It is killed: nothing is committed any more.
    write_file(&mut guest, "lost", b"lost");
    std::mem::forget(guest);
    let mut guest = Guest::new(on(&store));
    assert_eq!(contents(&mut guest, "kept"), b"kept");
    assert_eq!(guest.path_open(ROOT, "lost", 0, READ, 0), Err(NOENT));
    guest.world.commit_volume().unwrap();
    let volume = Needs::of(&guest.world.freeze().unwrap()).unwrap().volume.unwrap();
    assert_eq!((volume.used_bytes, volume.used_inodes), (4096 + 16 + 4, 2), "the deleted file is gone");
    assert_eq!(guest.world.volume_trouble(), None);
}

#[test]
fn changes_are_committed_after_a_while() {
    let store = store();
    let time = std::time::Duration::from_millis(20);
    let mut guest = Guest::new(with(PrivateVolume::new(store.clone()).commit_every(time)));
    let before = store.root("head").unwrap();
    write_file(&mut guest, "f", b"f");
    for _ in 0..500 {
        std::thread::sleep(time);
        if store.root("head").unwrap() != before {
            return;
        }
    }
    panic!("nothing was committed");
}

#[test]
fn damaged_sections_of_a_volume_are_refused_and_never_panic() {
    let here = store();
    let mut guest = Guest::new(on(&here));
    mkdir(&mut guest, "d");
    write_file(&mut guest, "d/f", b"f");
    guest.path_open(ROOT, "d/f", 0, READ | WRITE, APPEND).unwrap();
    guest.path_open(ROOT, "d", DIRECTORY, READ, 0).unwrap();
    let sections = guest.world.freeze().unwrap();
    let is_volume = |section: &&HostSection| [kind::VOLUME, kind::VOLUME_CONTENTS].contains(&section.kind);
    assert_eq!(sections.iter().filter(is_volume).count(), 2);
    for at in 0..sections.len() {
        if !is_volume(&&sections[at]) {
            continue;
        }
        for len in 0..sections[at].bytes.len() {
            let mut cut = sections.clone();
            cut[at].bytes.truncate(len);
            let error = World::thaw(&cut, on(&store())).unwrap_err();
            assert!(matches!(error, Error::BadSection { .. }), "{error}");
            for value in [0xff, 0x01, 0x80] {
                let mut changed = sections.clone();
                changed[at].bytes[len] ^= value;
                // Some changes make another valid state; the others are errors.
                let _ = World::thaw(&changed, on(&store()));
                let _ = Needs::of(&changed);
            }
        }
        let mut newer = sections.clone();
        newer[at].version = 2;
        assert!(matches!(World::thaw(&newer, on(&here)), Err(Error::UnknownVersion { version: 2, .. })));
    }
    let without: Vec<_> = sections.iter().filter(|section| section.kind != kind::VOLUME).cloned().collect();
    assert!(matches!(World::thaw(&without, on(&here)), Err(Error::MissingSection { kind: kind::VOLUME })));
    assert_eq!(thaw(&sections, on(&here)).freeze().unwrap(), sections, "a thawed world freezes to the same");
}
