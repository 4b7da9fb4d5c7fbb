//! Files and directories: each function by its effect on the host's directory and its error numbers.

mod support;

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::time::{Duration, UNIX_EPOCH};

use dunlin_host::{Config, Error, Limits, Mount, World};
use support::*;

const ROOT: i32 = 3;

#[test]
fn preopened_directories_tell_their_paths() {
    let dir = TempDir::new();
    let mut guest = Guest::new(dir.config());
    assert_eq!(call!(guest, fd_prestat_get, ROOT, RESULT), SUCCESS);
    assert_eq!((guest.u32_at(RESULT), guest.u32_at(RESULT + 4)), (0, 5));
    assert_eq!(call!(guest, fd_prestat_dir_name, ROOT, BUFFER, 4), NAMETOOLONG);
    assert_eq!(call!(guest, fd_prestat_dir_name, ROOT, BUFFER, 5), SUCCESS);
    assert_eq!(guest.bytes(BUFFER, 5), b"/data");
    assert_eq!(call!(guest, fd_prestat_get, 1, RESULT), BADF);
    assert_eq!(call!(guest, fd_prestat_get, 4, RESULT), BADF);
    assert_eq!(call!(guest, fd_prestat_dir_name, 1, BUFFER, 5), NOTDIR);
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let sub = guest.path_open(ROOT, "sub", DIRECTORY, READ, 0).unwrap();
    assert_eq!(call!(guest, fd_prestat_get, sub, RESULT), BADF);
}

#[test]
fn mounts_that_cannot_be_are_refused() {
    let dir = TempDir::new();
    let twice = dir.config().mount(dir.mount());
    assert!(matches!(World::new(twice), Err(Error::DuplicateMount { .. })));
    let nowhere = Mount { host: dir.path().join("none"), ..dir.mount() };
    assert!(matches!(World::new(Config::new().mount(nowhere)), Err(Error::Mount { .. })));
}

#[test]
fn files_are_read_written_and_sought() {
    let dir = TempDir::new();
    let mut guest = Guest::new(dir.config());
    let fd = guest.path_open(ROOT, "new", CREATE | EXCLUSIVE, READ | WRITE, 0).unwrap();
    assert_eq!(guest.path_open(ROOT, "new", CREATE | EXCLUSIVE, READ | WRITE, 0), Err(EXIST));
    assert_eq!(guest.write(fd, b"0123456789"), Ok(10));
    assert_eq!(call!(guest, fd_tell, fd, RESULT), SUCCESS);
    assert_eq!(guest.u64_at(RESULT), 10);
    for (delta, whence, position) in [(2_i64, 0, 2), (3, 1, 5), (-4, 1, 1), (-3, 2, 7), (100, 2, 110)] {
        assert_eq!(call!(guest, fd_seek, fd, delta, whence, RESULT), SUCCESS);
        assert_eq!(guest.u64_at(RESULT), position);
    }
    for (delta, whence) in [(-1_i64, 0), (-111, 1), (-11, 2), (0, 3), (i64::MIN, 2)] {
        assert_eq!(call!(guest, fd_seek, fd, delta, whence, RESULT), INVAL, "{delta} {whence}");
    }
    assert_eq!(guest.read(fd, 10).unwrap(), b"", "beyond the end");
    assert_eq!(call!(guest, fd_seek, fd, 0_u64, 0, RESULT), SUCCESS);
    let (at, count) = guest.vectors(&[(BUFFER, 3), (0, 0), (BUFFER + 3, 100)]);
    assert_eq!(call!(guest, fd_read, fd, at, count, RESULT), SUCCESS);
    assert_eq!((guest.u32_at(RESULT), guest.bytes(BUFFER, 10)), (10, &b"0123456789"[..]));
    let (at, count) = guest.vectors(&[(BUFFER, 4)]);
    assert_eq!(call!(guest, fd_pread, fd, at, count, 8_u64, RESULT), SUCCESS);
    assert_eq!((guest.u32_at(RESULT), guest.bytes(BUFFER, 2)), (2, &b"89"[..]));
    guest.put(BUFFER, b"ABCD");
    assert_eq!(call!(guest, fd_pwrite, fd, at, count, 4_u64, RESULT), SUCCESS);
    assert_eq!(dir.read("new"), "0123ABCD89");
    assert_eq!(call!(guest, fd_pread, fd, at, count, -1_i64, RESULT), INVAL);
    assert_eq!(call!(guest, fd_pwrite, fd, at, count, -1_i64, RESULT), INVAL);
    assert_eq!(call!(guest, fd_tell, fd, RESULT), SUCCESS);
    assert_eq!(guest.u64_at(RESULT), 10, "positioned calls leave the offset");
    assert_eq!(call!(guest, fd_sync, fd), SUCCESS);
    assert_eq!(call!(guest, fd_datasync, fd), SUCCESS);
    assert_eq!(call!(guest, fd_close, fd), SUCCESS);
    assert_eq!(guest.read(fd, 1), Err(BADF));
}

#[test]
fn directories_are_synchronised() {
    let dir = TempDir::new();
    let mut guest = Guest::new(dir.config());
    let (path, len) = guest.text("d");
    assert_eq!(call!(guest, path_create_directory, ROOT, path, len), SUCCESS);
    let fd = guest.path_open(ROOT, "d", DIRECTORY, READ, 0).unwrap();
    for directory in [ROOT, fd] {
        assert_eq!(call!(guest, fd_sync, directory), SUCCESS);
        assert_eq!(call!(guest, fd_datasync, directory), SUCCESS);
    }
    assert_eq!(call!(guest, fd_sync, 1), BADF, "a stream is neither");
}

#[test]
fn modes_are_kept() {
    let dir = TempDir::new();
    dir.file("f", "text");
    let mut guest = Guest::new(dir.config());
    let reading = guest.path_open(ROOT, "f", 0, READ, 0).unwrap();
    assert_eq!(guest.write(reading, b"x"), Err(BADF));
    assert_eq!(guest.write(reading, b""), Err(BADF));
    let writing = guest.path_open(ROOT, "f", 0, WRITE, 0).unwrap();
    assert_eq!(guest.read(writing, 1), Err(BADF));
    assert_eq!(guest.read(writing, 0), Err(BADF));
    let appending = guest.path_open(ROOT, "f", 0, READ | WRITE, APPEND).unwrap();
    assert_eq!(guest.write(appending, b" and more"), Ok(9));
    assert_eq!(call!(guest, fd_tell, appending, RESULT), SUCCESS);
    assert_eq!(guest.u64_at(RESULT), 13);
    assert_eq!(call!(guest, fd_fdstat_set_flags, appending, 0), SUCCESS);
    assert_eq!(call!(guest, fd_seek, appending, 0_u64, 0, RESULT), SUCCESS);
    assert_eq!(guest.write(appending, b"T"), Ok(1));
    assert_eq!(dir.read("f"), "Text and more");
    let truncating = guest.path_open(ROOT, "f", TRUNCATE, WRITE, 16).unwrap();
    assert_eq!(guest.write(truncating, b"new"), Ok(3), "synchronously");
    assert_eq!(dir.read("f"), "new");
    assert_eq!(call!(guest, fd_fdstat_set_flags, truncating, 16 | APPEND), SUCCESS);
    assert_eq!(call!(guest, fd_fdstat_set_flags, truncating, 2), INVAL);
    assert_eq!(call!(guest, fd_fdstat_set_flags, truncating, 32), INVAL);
    assert_eq!(call!(guest, fd_fdstat_get, truncating, RESULT), SUCCESS);
    assert_eq!(guest.bytes(RESULT as u32, 4), [4, 0, 17, 0]);
    assert_eq!(guest.u64_at(RESULT + 8) & (READ | WRITE), WRITE);
}

#[test]
fn sizes_change() {
    let dir = TempDir::new();
    dir.file("f", "0123456789");
    let limits = Limits { file_bytes: Some(1000), ..Limits::default() };
    let mut guest = Guest::new(dir.config().limits(limits));
    let fd = guest.path_open(ROOT, "f", 0, READ | WRITE, 0).unwrap();
    assert_eq!(call!(guest, fd_filestat_set_size, fd, 4_u64), SUCCESS);
    assert_eq!(dir.read("f"), "0123");
    assert_eq!(call!(guest, fd_allocate, fd, 2_u64, 6_u64), SUCCESS);
    assert_eq!(dir.read("f"), "0123\0\0\0\0");
    assert_eq!(call!(guest, fd_allocate, fd, 0_u64, 0_u64), INVAL);
    assert_eq!(call!(guest, fd_allocate, fd, u64::MAX, 2_u64), FBIG);
    assert_eq!(call!(guest, fd_filestat_set_size, fd, 1001_u64), FBIG);
    assert_eq!(call!(guest, fd_seek, fd, 999_u64, 0, RESULT), SUCCESS);
    assert_eq!(guest.write(fd, b"ab"), Err(FBIG));
    assert_eq!(guest.write(fd, b"a"), Ok(1));
    assert_eq!(call!(guest, fd_fdstat_set_flags, fd, APPEND), SUCCESS);
    assert_eq!(guest.write(fd, b"a"), Err(FBIG));
    for advice in 0..6 {
        assert_eq!(call!(guest, fd_advise, fd, 0_u64, 10_u64, advice), SUCCESS);
    }
    assert_eq!(call!(guest, fd_advise, fd, 0_u64, 10_u64, 6), INVAL);
    assert_eq!(call!(guest, fd_advise, ROOT, 0_u64, 10_u64, 0), BADF);
    assert_eq!(call!(guest, fd_filestat_set_size, ROOT, 0_u64), BADF);
    let unlimited = &mut Guest::new(dir.config());
    let fd = unlimited.path_open(ROOT, "f", 0, READ | WRITE, 0).unwrap();
    assert_eq!(call!(unlimited, fd_filestat_set_size, fd, u64::MAX), INVAL);
}

#[test]
fn statistics_and_times() {
    let dir = TempDir::new();
    dir.file("f", "12345");
    symlink("f", dir.path().join("link")).unwrap();
    let mut guest = Guest::new(dir.config());
    let fd = guest.path_open(ROOT, "f", 0, READ, 0).unwrap();
    assert_eq!(call!(guest, fd_filestat_set_times, fd, 1_500_000_000_000_000_007_u64, 0_u64, 1), SUCCESS);
    let (path, len) = guest.text("link");
    assert_eq!(call!(guest, path_filestat_set_times, ROOT, 1, path, len, 0_u64, 1_000_000_000_u64, 4), SUCCESS);
    assert_eq!(call!(guest, path_filestat_set_times, ROOT, 0, path, len, 3_u64, 4_u64, 5), SUCCESS);
    let metadata = std::fs::metadata(dir.path().join("f")).unwrap();
    assert_eq!(metadata.accessed().unwrap(), UNIX_EPOCH + Duration::from_nanos(1_500_000_000_000_000_007));
    assert_eq!(metadata.modified().unwrap(), UNIX_EPOCH + Duration::from_secs(1));
    let link = std::fs::symlink_metadata(dir.path().join("link")).unwrap();
    assert_eq!((link.atime(), link.atime_nsec(), link.mtime_nsec()), (0, 3, 4));

    assert_eq!(call!(guest, fd_filestat_get, fd, RESULT), SUCCESS);
    let by_fd = guest.bytes(RESULT as u32, 64).to_vec();
    assert_eq!(call!(guest, path_filestat_get, ROOT, 1, path, len, RESULT), SUCCESS);
    assert_eq!(guest.bytes(RESULT as u32, 64), by_fd);
    assert_eq!(guest.u64_at(RESULT + 8), metadata.ino());
    assert_eq!(guest.bytes(RESULT as u32 + 16, 1), [4]);
    assert_eq!((guest.u64_at(RESULT + 24), guest.u64_at(RESULT + 32)), (1, 5));
    assert_eq!((guest.u64_at(RESULT + 40), guest.u64_at(RESULT + 48)), (1_500_000_000_000_000_007, 1_000_000_000));
    assert_eq!(call!(guest, path_filestat_get, ROOT, 0, path, len, RESULT), SUCCESS);
    assert_eq!(guest.bytes(RESULT as u32 + 16, 1), [7]);

    assert_eq!(call!(guest, fd_filestat_set_times, fd, 0_u64, 0_u64, 2 | 8), SUCCESS);
    let now = std::fs::metadata(dir.path().join("f")).unwrap().modified().unwrap();
    assert!(now.elapsed().unwrap() < Duration::from_secs(5));
    assert_eq!(call!(guest, fd_filestat_set_times, fd, 0_u64, 0_u64, 3), INVAL);
    assert_eq!(call!(guest, fd_filestat_set_times, fd, 0_u64, 0_u64, 16), INVAL);
    assert_eq!(call!(guest, fd_filestat_set_times, 1, 0_u64, 0_u64, 2), BADF);
    assert_eq!(call!(guest, fd_filestat_set_times, ROOT, 0_u64, 77_u64, 4), SUCCESS);
    assert_eq!(std::fs::metadata(dir.path()).unwrap().mtime_nsec(), 77);
    assert_eq!(call!(guest, path_filestat_set_times, ROOT, 0, path, len, 0_u64, 0_u64, 12), INVAL);
    assert_eq!(call!(guest, path_filestat_get, ROOT, 2, path, len, RESULT), INVAL);
    let (path, len) = guest.text("none");
    assert_eq!(call!(guest, path_filestat_get, ROOT, 0, path, len, RESULT), NOENT);
    assert_eq!(call!(guest, fd_filestat_get, ROOT, RESULT), SUCCESS);
    assert_eq!(guest.bytes(RESULT as u32 + 16, 1), [3]);
}

#[test]
fn names_are_made_changed_and_removed() {
    let dir = TempDir::new();
    let at = |name: &str| dir.path().join(name);
    let mut guest = Guest::new(dir.config());
    let (path, len) = guest.text("sub");
    assert_eq!(call!(guest, path_create_directory, ROOT, path, len), SUCCESS);
    assert_eq!(call!(guest, path_create_directory, ROOT, path, len), EXIST);
    assert!(at("sub").is_dir());
    dir.file("sub/a", "a");
    assert_eq!(call!(guest, path_remove_directory, ROOT, path, len), NOTEMPTY);
    assert_eq!(call!(guest, path_unlink_file, ROOT, path, len), ISDIR);

    let sub = guest.path_open(ROOT, "sub", DIRECTORY, READ, 0).unwrap();
    let (old, old_len) = guest.text("a");
    let (new, new_len) = guest.text2("b");
    assert_eq!(call!(guest, path_link, sub, 0, old, old_len, ROOT, new, new_len), SUCCESS);
    assert_eq!(call!(guest, path_link, sub, 0, old, old_len, ROOT, new, new_len), EXIST);
    assert_eq!(call!(guest, path_link, sub, 1, old, old_len, ROOT, new, new_len), INVAL);
    assert_eq!(std::fs::metadata(at("b")).unwrap().nlink(), 2);
    let (new, new_len) = guest.text2("c");
    assert_eq!(call!(guest, path_rename, sub, old, old_len, ROOT, new, new_len), SUCCESS);
    assert_eq!(call!(guest, path_rename, sub, old, old_len, ROOT, new, new_len), NOENT);
    assert!(at("c").exists() && !at("sub/a").exists());
    let (file, file_len) = guest.text("c");
    let (new, new_len) = guest.text2("d/");
    assert_eq!(call!(guest, path_rename, ROOT, file, file_len, ROOT, new, new_len), NOTDIR, "a file is no directory");
    assert!(at("c").exists() && !at("d").exists());

    let (target, target_len) = guest.text("sub/../c");
    let (link, link_len) = guest.text2("link");
    assert_eq!(call!(guest, path_symlink, target, target_len, ROOT, link, link_len), SUCCESS);
    assert_eq!(call!(guest, path_symlink, target, target_len, ROOT, link, link_len), EXIST);
    assert_eq!(call!(guest, path_readlink, ROOT, link, link_len, BUFFER, 100, RESULT), SUCCESS);
    assert_eq!((guest.u32_at(RESULT), guest.bytes(BUFFER, 8)), (8, &b"sub/../c"[..]));
    assert_eq!(call!(guest, path_readlink, ROOT, link, link_len, BUFFER, 3, RESULT), SUCCESS);
    assert_eq!(guest.u32_at(RESULT), 3, "cut to the buffer");
    let (path, len) = guest.text("c");
    assert_eq!(call!(guest, path_readlink, ROOT, path, len, BUFFER, 3, RESULT), INVAL);
    assert_eq!(call!(guest, path_remove_directory, ROOT, path, len), NOTDIR);
    assert_eq!(call!(guest, path_unlink_file, ROOT, link, link_len), SUCCESS);
    assert_eq!(call!(guest, path_unlink_file, ROOT, path, len), SUCCESS);
    let (path, len) = guest.text("sub");
    assert_eq!(call!(guest, path_remove_directory, ROOT, path, len), SUCCESS);
    assert!(!at("sub").exists() && !at("c").exists() && at("b").exists());
}

#[test]
fn opening_follows_the_flags() {
    let dir = TempDir::new();
    dir.file("f", "x");
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    symlink("f", dir.path().join("link")).unwrap();
    let mut guest = Guest::new(dir.config());
    assert_eq!(guest.path_open(ROOT, "none", 0, READ, 0), Err(NOENT));
    assert_eq!(guest.path_open(ROOT, "", 0, READ, 0), Err(NOENT));
    assert_eq!(guest.path_open(ROOT, "f", DIRECTORY, READ, 0), Err(NOTDIR));
    assert_eq!(guest.path_open(ROOT, "f/x", 0, READ, 0), Err(NOTDIR));
    assert_eq!(guest.path_open(ROOT, "f", DIRECTORY | CREATE, READ, 0), Err(INVAL));
    assert_eq!(guest.path_open(ROOT, "f", 16, READ, 0), Err(INVAL));
    assert_eq!(guest.path_open(ROOT, "f", 0, READ, 32), Err(INVAL));
    assert_eq!(guest.path_open(ROOT, "f", 0, READ | 1 << 30, 0), Err(INVAL));
    assert_eq!(guest.path_open(ROOT, "sub", 0, READ | WRITE, 0), Err(ISDIR));
    assert_eq!(guest.path_open(1, "f", 0, READ, 0), Err(BADF));
    let file = guest.path_open(ROOT, "link", 0, READ, 0).unwrap();
    assert_eq!(guest.path_open(file, "f", 0, READ, 0), Err(NOTDIR));
    let (path, len) = guest.text("link");
    assert_eq!(call!(guest, path_open, ROOT, 0, path, len, 0, READ, 0_u64, 0, RESULT), LOOP, "not followed");
    assert_eq!(call!(guest, path_create_directory, file, path, len), BADF);
    let limits = Limits { descriptors: 5, ..Limits::default() };
    let mut guest = Guest::new(dir.config().limits(limits));
    assert_eq!(guest.path_open(ROOT, "f", 0, READ, 0), Ok(4));
    assert_eq!(guest.path_open(ROOT, "made", CREATE, WRITE, 0), Err(MFILE));
    assert!(!dir.path().join("made").exists(), "nothing is made when there is no room for it");
}

#[test]
fn nothing_outside_of_a_mount_is_reached() {
    let dir = TempDir::new();
    std::fs::create_dir(dir.path().join("inside")).unwrap();
    dir.file("secret", "secret");
    dir.file("inside/own", "own");
    let inside = dir.path().join("inside");
    symlink("../secret", inside.join("up")).unwrap();
    symlink(dir.path().join("secret"), inside.join("absolute")).unwrap();
    symlink("..", inside.join("parent")).unwrap();
    symlink("loop", inside.join("loop")).unwrap();
    let mut guest =
        Guest::new(Config::new().mount(Mount { host: inside.clone(), guest: "/".to_owned(), writable: true }));
    let secret = dir.path().join("secret");
    let paths = ["../secret", "up", "absolute", "parent/secret", "own/../../secret", "./../inside/own"];
    for path in paths.into_iter().chain([secret.to_str().unwrap(), "/etc/passwd", "/"]) {
        let errno = guest.path_open(ROOT, path, 0, READ, 0).unwrap_err();
        assert!([PERM, NOTDIR].contains(&errno), "{path}: {errno}");
        let errno = guest.path_open(ROOT, path, CREATE | TRUNCATE, WRITE, 0).unwrap_err();
        assert!([PERM, NOTDIR].contains(&errno), "{path}: {errno}");
    }
    assert_eq!(guest.path_open(ROOT, "loop", 0, READ, 0), Err(LOOP));
    for target in ["/etc/passwd", "/"] {
        let (target, target_len) = guest.text(target);
        let (link, link_len) = guest.text2("made");
        assert_eq!(call!(guest, path_symlink, target, target_len, ROOT, link, link_len), PERM);
    }
    let (old, old_len) = guest.text("own");
    let (new, new_len) = guest.text2("../moved");
    assert_eq!(call!(guest, path_rename, ROOT, old, old_len, ROOT, new, new_len), PERM);
    assert_eq!(call!(guest, path_link, ROOT, 0, old, old_len, ROOT, new, new_len), PERM);
    let (path, len) = guest.text("../secret");
    assert_eq!(call!(guest, path_unlink_file, ROOT, path, len), PERM);
    assert_eq!(call!(guest, path_filestat_get, ROOT, 1, path, len, RESULT), PERM);
    assert_eq!(call!(guest, path_filestat_set_times, ROOT, 0, path, len, 0_u64, 0_u64, 2), PERM);
    assert_eq!(call!(guest, path_readlink, ROOT, path, len, BUFFER, 10, RESULT), PERM);
    let (path, len) = guest.text("../made");
    assert_eq!(call!(guest, path_create_directory, ROOT, path, len), PERM);
    assert_eq!(call!(guest, path_remove_directory, ROOT, path, len), PERM);
    assert_eq!(dir.read("secret"), "secret");

    let (path, len) = guest.text("a\0b");
    assert_eq!(call!(guest, path_create_directory, ROOT, path, len), INVAL);
    guest.put(TEXT, &[0xff, 0xfe]);
    assert_eq!(call!(guest, path_create_directory, ROOT, TEXT, 2), ILSEQ);
    assert_eq!(call!(guest, path_create_directory, ROOT, 0, 100_000), NAMETOOLONG);
    let long = "x".repeat(300);
    let (path, len) = guest.text(&long);
    assert_eq!(call!(guest, path_create_directory, ROOT, path, len), NAMETOOLONG);
}

#[test]
fn a_read_only_mount_stays_as_it_is() {
    let dir = TempDir::new();
    dir.file("f", "text");
    let mut guest = Guest::new(dir.read_only());
    let fd = guest.path_open(ROOT, "f", 0, READ, 0).unwrap();
    assert_eq!(guest.read(fd, 10).unwrap(), b"text");
    assert_eq!(guest.write(fd, b"x"), Err(BADF));
    for (open, rights) in [(0, WRITE), (TRUNCATE, READ), (CREATE, READ)] {
        assert_eq!(guest.path_open(ROOT, "f", open, rights, 0), Err(PERM));
    }
    let (path, len) = guest.text("f");
    let (new, new_len) = guest.text2("g");
    assert_eq!(call!(guest, path_create_directory, ROOT, new, new_len), PERM);
    assert_eq!(call!(guest, path_unlink_file, ROOT, path, len), PERM);
    assert_eq!(call!(guest, path_remove_directory, ROOT, path, len), PERM);
    assert_eq!(call!(guest, path_rename, ROOT, path, len, ROOT, new, new_len), PERM);
    assert_eq!(call!(guest, path_link, ROOT, 0, path, len, ROOT, new, new_len), PERM);
    assert_eq!(call!(guest, path_symlink, path, len, ROOT, new, new_len), PERM);
    assert_eq!(call!(guest, path_filestat_set_times, ROOT, 0, path, len, 0_u64, 0_u64, 2), PERM);
    assert_eq!(call!(guest, fd_filestat_set_times, fd, 0_u64, 0_u64, 2), PERM);
    assert_eq!(call!(guest, fd_filestat_set_times, ROOT, 0_u64, 0_u64, 2), PERM);
    assert_eq!(call!(guest, fd_filestat_set_size, fd, 0_u64), PERM);
    assert_eq!(call!(guest, fd_allocate, fd, 0_u64, 100_u64), PERM);
    assert_eq!(dir.read("f"), "text");
}

#[test]
fn given_up_rights_are_lost() {
    let dir = TempDir::new();
    dir.file("f", "text");
    let mut guest = Guest::new(dir.config());
    let fd = guest.path_open(ROOT, "f", 0, READ | WRITE, 0).unwrap();
    assert_eq!(call!(guest, fd_fdstat_set_rights, fd, READ | TELL, 0_u64), SUCCESS);
    assert_eq!(guest.write(fd, b"x"), Err(NOTCAPABLE));
    assert_eq!(call!(guest, fd_seek, fd, 1_u64, 0, RESULT), NOTCAPABLE);
    assert_eq!(call!(guest, fd_seek, fd, 0_u64, 1, RESULT), SUCCESS, "telling is another right");
    assert_eq!(guest.read(fd, 2).unwrap(), b"te");
    assert_eq!(call!(guest, fd_fdstat_set_rights, fd, READ | WRITE, 0_u64), NOTCAPABLE);
    assert_eq!(call!(guest, fd_fdstat_set_rights, fd, 1_u64 << 30, 0_u64), INVAL);
    assert_eq!(call!(guest, fd_fdstat_set_rights, 99, 0_u64, 0_u64), BADF);

    assert_eq!(call!(guest, fd_fdstat_get, ROOT, RESULT), SUCCESS);
    let (base, inheriting) = (guest.u64_at(RESULT + 8), guest.u64_at(RESULT + 16));
    assert_eq!(call!(guest, fd_fdstat_set_rights, ROOT, base, inheriting & !WRITE), SUCCESS);
    assert_eq!(guest.path_open(ROOT, "f", 0, READ | WRITE, 0), Err(NOTCAPABLE));
    let mut guest = guest.moved(dir.config());
    assert_eq!(guest.path_open(ROOT, "f", 0, WRITE, 0), Err(NOTCAPABLE), "also after a move");
    assert_eq!(guest.write(fd, b"x"), Err(NOTCAPABLE));
    let reading = guest.path_open(ROOT, "f", 0, READ, 0).unwrap();
    assert_eq!(call!(guest, fd_fdstat_get, reading, RESULT), SUCCESS);
    assert_eq!(guest.u64_at(RESULT + 8) & WRITE, 0);
}

/// Reads a whole directory with a buffer of `len` bytes as C libraries do.
fn names(guest: &mut Guest, fd: i32, len: u32) -> Vec<String> {
    let mut cookie = 0_u64;
    let mut names = Vec::new();
    loop {
        assert_eq!(call!(guest, fd_readdir, fd, BUFFER, len, cookie, RESULT), SUCCESS);
        let used = guest.u32_at(RESULT);
        let mut at = 0;
        while at + 24 <= used {
            let name_len = guest.u32_at((BUFFER + at + 16) as i32);
            if at + 24 + name_len > used {
                break;
            }
            let name = guest.bytes(BUFFER + at + 24, name_len as usize);
            names.push(String::from_utf8(name.to_vec()).unwrap());
            cookie = guest.u64_at((BUFFER + at) as i32);
            at += 24 + name_len;
        }
        if used < len {
            return names;
        }
    }
}

#[test]
fn directories_are_listed_in_order_with_any_buffer() {
    let dir = TempDir::new();
    for name in ["zebra", "apple", "mango", "a-rather-long-name-that-needs-room"] {
        dir.file(name, "");
    }
    let expected = [".", "..", "a-rather-long-name-that-needs-room", "apple", "mango", "zebra"];
    let mut guest = Guest::new(dir.config());
    for len in [60, 64, 100, 1000, 4096] {
        assert_eq!(names(&mut guest, ROOT, len), expected, "buffer of {len}");
    }
    assert_eq!(call!(guest, fd_readdir, ROOT, BUFFER, 100, u64::MAX, RESULT), SUCCESS);
    assert_eq!(guest.u32_at(RESULT), 0);
    assert_eq!(call!(guest, fd_readdir, ROOT, BUFFER, u32::MAX, 0_u64, RESULT), FAULT);
    let file = guest.path_open(ROOT, "apple", 0, READ, 0).unwrap();
    assert_eq!(call!(guest, fd_readdir, file, BUFFER, 100, 0_u64, RESULT), BADF);
    let limits = Limits { directory_entries: 5, ..Limits::default() };
    let mut guest = Guest::new(dir.config().limits(limits));
    assert_eq!(call!(guest, fd_readdir, ROOT, BUFFER, 100, 0_u64, RESULT), NOMEM);
}

#[test]
fn a_listing_in_progress_moves() {
    let (here, there) = (TempDir::new(), TempDir::new());
    for number in 0..50 {
        here.file(&format!("here-{number:02}"), "");
    }
    there.file("there", "");
    let mut guest = Guest::new(here.config());
    assert_eq!(call!(guest, fd_readdir, ROOT, BUFFER, 400, 0_u64, RESULT), SUCCESS);
    assert_eq!(guest.u32_at(RESULT), 400);
    let whole = names(&mut Guest::new(here.config()), ROOT, 4096);
    let mut guest = guest.moved(there.config());
    // The eleventh entry and those after it, from what the listing was when it began.
    assert_eq!(call!(guest, fd_readdir, ROOT, BUFFER, 31, 10_u64, RESULT), SUCCESS);
    assert_eq!(guest.bytes(BUFFER + 24, 7), whole[10].as_bytes());
    assert_eq!(names(&mut guest, ROOT, 4096), [".", "..", "there"], "a new listing is the new host's");
}
