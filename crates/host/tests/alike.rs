//! The same calls on a mounted directory and on a private volume: results, error numbers and files are equal.
//! `DUNLIN_WASI_SEQUENCES` and `DUNLIN_SEED` run more, or others.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use dunlin_host::{Config, PrivateVolume};
use dunlin_store::MemoryStore;
use support::*;

const ROOT: i32 = 3;
/// Paths that name the same things in many ways, and some that lead out.
const PATHS: [&str; 22] = [
    "a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "l", "l/a", "d/../a", "./b", "a/", "d/", "d/e/", "a/x", "none/x", "",
    ".", "..", "d/../..", "/a", "loop",
];

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn path(&mut self) -> &'static str {
        PATHS[self.below(PATHS.len() as u64) as usize]
    }
}

/// A call, to be made on either side.
#[derive(Debug, Clone)]
enum Op {
    Open { dir: i32, path: &'static str, flags: i32, rights: u64, fd_flags: i32 },
    Close { fd: i32 },
    Write { fd: i32, len: u32, byte: u8 },
    Read { fd: i32, len: u32 },
    Pwrite { fd: i32, len: u32, byte: u8, offset: u64 },
    Pread { fd: i32, len: u32, offset: u64 },
    Seek { fd: i32, delta: i64, whence: i32 },
    SetSize { fd: i32, size: u64 },
    Allocate { fd: i32, offset: u64, len: u64 },
    SetFlags { fd: i32, flags: i32 },
    FdStat { fd: i32 },
    Sync { fd: i32 },
    Renumber { from: i32, to: i32 },
    Mkdir { dir: i32, path: &'static str },
    Rmdir { dir: i32, path: &'static str },
    Unlink { dir: i32, path: &'static str },
    Rename { dir: i32, old: &'static str, to: i32, new: &'static str },
    Link { dir: i32, old: &'static str, to: i32, new: &'static str },
    Symlink { text: &'static str, dir: i32, path: &'static str },
    Readlink { dir: i32, path: &'static str, room: i32 },
    Stat { dir: i32, path: &'static str, follow: i32 },
    List { fd: i32 },
}

fn choose(random: &mut Random) -> Op {
    // Few descriptors, so that most are open; now and then the root's, a stream's and one that is never open.
    let fd = [3, 4, 4, 5, 5, 6, 7, 8, 1, 99][random.below(10) as usize];
    let dir = [3, 3, 3, 3, 4, 5, 6, 99][random.below(8) as usize];
    let (path, other) = (random.path(), random.path());
    let len = [0, 1, 100, 5000, 70_000][random.below(5) as usize];
    let offset = [0, 1, 4095, 65_536, 200_000, i64::MAX as u64, u64::MAX][random.below(7) as usize];
    let byte = random.below(255) as u8 + 1;
    match random.below(30) {
        0..=6 => Op::Open {
            dir,
            path,
            flags: [0, 1, 1, 1, 2, 5, 8, 9, 3, 13][random.below(10) as usize],
            rights: [READ, WRITE, READ | WRITE, READ | WRITE, 0][random.below(5) as usize],
            fd_flags: [0, 0, APPEND, 16][random.below(4) as usize],
        },
        7 => Op::Close { fd },
        8 | 9 => Op::Write { fd, len, byte },
        10 => Op::Read { fd, len },
        11 => Op::Pwrite { fd, len, byte, offset },
        12 => Op::Pread { fd, len, offset },
        13 => Op::Seek {
            fd,
            delta: [0, 1, -1, 5000, i64::MIN, i64::MAX][random.below(6) as usize],
            whence: random.below(4) as i32,
        },
        14 => Op::SetSize { fd, size: [0, 3, 5000, 100_000, u64::MAX][random.below(5) as usize] },
        15 => Op::Allocate { fd, offset: [0, 3, 70_000, u64::MAX][random.below(4) as usize], len: len.into() },
        16 => Op::SetFlags { fd, flags: [0, APPEND, 16][random.below(3) as usize] },
        17 => Op::FdStat { fd },
        18 => Op::Sync { fd },
        19 => Op::Renumber { from: fd, to: [4, 5, 6, 99][random.below(4) as usize] },
        20 => Op::Mkdir { dir, path },
        21 => Op::Rmdir { dir, path },
        22 => Op::Unlink { dir, path },
        23 | 24 => Op::Rename { dir, old: path, to: [3, 3, 4, 5][random.below(4) as usize], new: other },
        25 => Op::Link { dir, old: path, to: 3, new: other },
        26 => Op::Symlink {
            text: ["a", "d", "loop", "../x", "d/e", "none", "/a"][random.below(7) as usize],
            dir,
            path: other,
        },
        27 => Op::Readlink { dir, path, room: [0, 1, 100][random.below(3) as usize] },
        28 => Op::Stat { dir, path, follow: random.below(2) as i32 },
        _ => Op::List { fd },
    }
}

impl Op {
    /// Whether one of its paths ends with a slash, or names no name.
    fn is_strange(&self) -> bool {
        let strange = |path: &str| path.ends_with('/') || path.ends_with('.') || path.is_empty();
        match self {
            Self::Open { path, .. }
            | Self::Mkdir { path, .. }
            | Self::Rmdir { path, .. }
            | Self::Unlink { path, .. }
            | Self::Symlink { path, .. } => strange(path),
            Self::Rename { old, new, .. } | Self::Link { old, new, .. } => strange(old) || strange(new),
            _ => false,
        }
    }
}

fn is_error(result: &str) -> bool {
    result != "0" && !result.starts_with("Ok(")
}

/// What a call gives, as text. What tells where it was made is left out: inodes, devices, times, sizes of directories.
fn apply(guest: &mut Guest, op: &Op) -> String {
    let stat = |guest: &Guest| {
        let at = RESULT;
        let kind = guest.bytes(at as u32 + 16, 1)[0];
        if kind == 3 {
            "a directory".to_owned()
        } else {
            format!("{kind} {} {}", guest.u64_at(at + 24), guest.u64_at(at + 32))
        }
    };
    match *op {
        Op::Open { dir, path, flags, rights, fd_flags } => {
            format!("{:?}", guest.path_open(dir, path, flags, rights, fd_flags))
        }
        Op::Close { fd } => call!(guest, fd_close, fd).to_string(),
        Op::Write { fd, len, byte } => format!("{:?}", guest.write(fd, &vec![byte; len as usize])),
        Op::Read { fd, len } => format!("{:?}", guest.read(fd, len)),
        Op::Pwrite { fd, len, byte, offset } => {
            guest.put(BUFFER, &vec![byte; len as usize]);
            let (at, count) = guest.vectors(&[(BUFFER, len)]);
            let errno = call!(guest, fd_pwrite, fd, at, count, offset, RESULT);
            if errno == 0 { guest.u32_at(RESULT).to_string() } else { format!("error {errno}") }
        }
        Op::Pread { fd, len, offset } => {
            let (at, count) = guest.vectors(&[(BUFFER, len)]);
            let errno = call!(guest, fd_pread, fd, at, count, offset, RESULT);
            if errno == 0 {
                format!("{:?}", guest.bytes(BUFFER, guest.u32_at(RESULT) as usize))
            } else {
                format!("error {errno}")
            }
        }
        Op::Seek { fd, delta, whence } => {
            let errno = call!(guest, fd_seek, fd, delta, whence, RESULT);
            if errno == 0 { guest.u64_at(RESULT).to_string() } else { format!("error {errno}") }
        }
        Op::SetSize { fd, size } => call!(guest, fd_filestat_set_size, fd, size).to_string(),
        Op::Allocate { fd, offset, len } => call!(guest, fd_allocate, fd, offset, len).to_string(),
        Op::SetFlags { fd, flags } => call!(guest, fd_fdstat_set_flags, fd, flags).to_string(),
        Op::FdStat { fd } => {
            let errno = call!(guest, fd_fdstat_get, fd, RESULT);
            if errno != 0 {
                return format!("error {errno}");
            }
            let fdstat = format!("{:?}", guest.bytes(RESULT as u32, 24));
            let errno = call!(guest, fd_filestat_get, fd, RESULT);
            if errno == 0 { format!("{fdstat} {}", stat(guest)) } else { format!("{fdstat} error {errno}") }
        }
        Op::Sync { fd } => call!(guest, fd_sync, fd).to_string(),
        Op::Renumber { from, to } => call!(guest, fd_renumber, from, to).to_string(),
        Op::Mkdir { dir, path } => {
            let (path, len) = guest.text(path);
            call!(guest, path_create_directory, dir, path, len).to_string()
        }
        Op::Rmdir { dir, path } => {
            let (path, len) = guest.text(path);
            call!(guest, path_remove_directory, dir, path, len).to_string()
        }
        Op::Unlink { dir, path } => {
            let (path, len) = guest.text(path);
            call!(guest, path_unlink_file, dir, path, len).to_string()
        }
        Op::Rename { dir, old, to, new } => {
            let ((old, old_len), (new, new_len)) = (guest.text(old), guest.text2(new));
            call!(guest, path_rename, dir, old, old_len, to, new, new_len).to_string()
        }
        Op::Link { dir, old, to, new } => {
            let ((old, old_len), (new, new_len)) = (guest.text(old), guest.text2(new));
            call!(guest, path_link, dir, 0, old, old_len, to, new, new_len).to_string()
        }
        Op::Symlink { text, dir, path } => {
            let ((text, text_len), (path, len)) = (guest.text(text), guest.text2(path));
            call!(guest, path_symlink, text, text_len, dir, path, len).to_string()
        }
        Op::Readlink { dir, path, room } => {
            let (path, len) = guest.text(path);
            let errno = call!(guest, path_readlink, dir, path, len, BUFFER, room, RESULT);
            if errno == 0 {
                format!("{:?}", guest.bytes(BUFFER, guest.u32_at(RESULT) as usize))
            } else {
                format!("error {errno}")
            }
        }
        Op::Stat { dir, path, follow } => {
            let (path, len) = guest.text(path);
            let errno = call!(guest, path_filestat_get, dir, follow, path, len, RESULT);
            if errno == 0 { stat(guest) } else { format!("error {errno}") }
        }
        Op::List { fd } => {
            let errno = call!(guest, fd_readdir, fd, BUFFER, 60_000, 0_u64, RESULT);
            if errno != 0 {
                return format!("error {errno}");
            }
            // The order is each side's own.
            let mut names = BTreeSet::new();
            let (mut at, end) = (BUFFER as i32, BUFFER as i32 + guest.u32_at(RESULT) as i32);
            while at < end {
                let len = guest.u32_at(at + 16);
                let name = String::from_utf8(guest.bytes(at as u32 + 24, len as usize).to_vec()).unwrap();
                names.insert((name, guest.bytes(at as u32 + 20, 1)[0]));
                at += 24 + len as i32;
            }
            format!("{names:?}")
        }
    }
}

/// All files, as a program sees them.
fn everything(guest: &mut Guest, path: &str, into: &mut Vec<String>) {
    let Ok(fd) = guest.path_open(ROOT, path, DIRECTORY, READ, 0) else {
        into.push(format!("{path} cannot be listed"));
        return;
    };
    let listing = apply(guest, &Op::List { fd });
    into.push(format!("{path} {listing}"));
    assert_eq!(call!(guest, fd_readdir, fd, BUFFER, 60_000, 0_u64, RESULT), SUCCESS);
    let (mut at, end) = (BUFFER as i32, BUFFER as i32 + guest.u32_at(RESULT) as i32);
    let mut found = BTreeSet::new();
    while at < end {
        let len = guest.u32_at(at + 16);
        let name = String::from_utf8(guest.bytes(at as u32 + 24, len as usize).to_vec()).unwrap();
        found.insert((name, guest.bytes(at as u32 + 20, 1)[0]));
        at += 24 + len as i32;
    }
    assert_eq!(call!(guest, fd_close, fd), SUCCESS);
    for (name, kind) in found {
        if name == "." || name == ".." {
            continue;
        }
        let below = format!("{path}/{name}");
        if kind == 3 {
            everything(guest, &below, into);
        } else if kind == 4 {
            let fd = guest.path_open(ROOT, &below, 0, READ, 0).unwrap();
            let mut all = Vec::new();
            loop {
                let bytes = guest.read(fd, 60_000).unwrap();
                if bytes.is_empty() {
                    break;
                }
                all.extend(bytes);
            }
            into.push(format!("{below} {} {}", all.len(), dunlin_base::Digest::of(&all)));
            assert_eq!(call!(guest, fd_close, fd), SUCCESS);
        }
    }
}

#[test]
fn a_volume_behaves_as_a_directory_of_the_host() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (first, count) = (number("DUNLIN_SEED").unwrap_or(1), number("DUNLIN_WASI_SEQUENCES").unwrap_or(25));
    for seed in first..first + count {
        let mut random = Random(seed);
        let dir = TempDir::new();
        let mut host = Guest::new(dir.config());
        let volume = || Config::new().volume(PrivateVolume::new(Arc::new(MemoryStore::new())));
        let mut private = Guest::new(volume());
        for setup in ["d", "d/e"] {
            for guest in [&mut host, &mut private] {
                apply(guest, &Op::Mkdir { dir: ROOT, path: setup });
            }
        }
        for (text, path) in [("d", "l"), ("loop", "loop")] {
            for guest in [&mut host, &mut private] {
                apply(guest, &Op::Symlink { text, dir: ROOT, path });
            }
        }
        let mut made = Vec::new();
        for step in 0..80 {
            let op = choose(&mut random);
            made.push(op.clone());
            let (expected, found) = (apply(&mut host, &op), apply(&mut private, &op));
            // Of several reasons to refuse a strange path, each side may name another one.
            if found != expected && !(op.is_strange() && is_error(&found) && is_error(&expected)) {
                panic!(
                    "seed {seed}, step {step}: {found} on the volume, {expected} in the directory: {op:?} after {made:#?}"
                );
            }
            if step % 20 == 19 {
                private = private.moved(volume());
            }
        }
        let (mut expected, mut found) = (Vec::new(), Vec::new());
        // Descriptors that are left open do not matter for this, but there must be room.
        everything(&mut host, ".", &mut expected);
        everything(&mut private, ".", &mut found);
        assert_eq!(found, expected, "seed {seed}, volume (left) against directory");
    }
}
