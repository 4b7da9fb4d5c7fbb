//! Programs that call with whatever arguments: every function answers with an error number at worst.

mod support;

use std::time::{Duration, Instant};

use dunlin_base::{Value, ValueType};
use dunlin_engine::Flow;
use dunlin_host::{Config, Limits, matrix};
use support::*;

/// Numbers that follow from a seed (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn number(&mut self) -> u64 {
        match self.below(8) {
            0 => self.below(8),
            1 => self.below(64),
            2 => self.below(1 << 16),
            3 => u64::MAX - self.below(64),
            4 => u64::from(u32::MAX) - self.below(1 << 17),
            5 => (1 << self.below(64)) - self.below(2),
            6 => 128 * 1024 - self.below(64),
            _ => self.next(),
        }
    }
}

fn value(ty: ValueType, number: u64) -> Value {
    match ty {
        ValueType::I32 => Value::I32(number as i32),
        _ => Value::I64(number as i64),
    }
}

#[test]
fn random_arguments_give_error_numbers() {
    let dir = TempDir::new();
    dir.file("f", "some text");
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let limits = Limits { descriptors: 40, file_bytes: Some(1 << 20), ..Limits::default() };
    let seed = 0x5eed_0001;
    let mut numbers = Numbers(seed);
    for round in 0..40 {
        let config = dir.config().listen("127.0.0.1:0").limits(limits);
        let mut guest = Guest::new(config.clone());
        // Nothing may block: what would is issued again.
        let interrupt = guest.world.interrupter();
        interrupt();
        for byte in &mut guest.memory {
            *byte = if numbers.below(3) == 0 { numbers.next() as u8 } else { 0 };
        }
        for (at, path) in ["f", "sub", "new", "../f", "sub/x"].iter().enumerate() {
            guest.put(at as u32 * 8, path.as_bytes());
        }
        for step in 0..2000 {
            let entries = matrix();
            let nth = numbers.below(entries.len() as u64) as usize;
            let entry = matrix().nth(nth).unwrap();
            if entry.name == "fd_close" && numbers.below(4) != 0 {
                continue;
            }
            let args: Vec<Value> = entry
                .params
                .iter()
                .map(|ty| {
                    let number = if numbers.below(3) == 0 { numbers.below(40) } else { numbers.number() };
                    value(*ty, number)
                })
                .collect();
            let started = Instant::now();
            let (flow, errno) = guest.flow(entry.name, &args);
            let what = format!("seed {seed:#x} round {round} step {step}: {} {args:?}", entry.name);
            assert!(started.elapsed() < Duration::from_secs(20), "{what} took {:?}", started.elapsed());
            match flow {
                Flow::Return => assert!((0..=76).contains(&errno), "{what}: {errno}"),
                Flow::Reissue => assert!(entry.blocks, "{what} cannot block"),
                Flow::Exit(_) => assert_eq!(entry.name, "proc_exit"),
                Flow::Trap(_) => assert!(entry.name == "proc_exit" || entry.name == "proc_raise", "{what}"),
            }
        }
        if let Ok(sections) = guest.world.freeze() {
            drop(guest);
            // Files may be gone, but nothing panics.
            let _ = dunlin_host::World::thaw(&sections, config);
        }
    }
}

#[test]
fn overlapping_and_huge_buffers_are_harmless() {
    let dir = TempDir::new();
    dir.file("f", "0123456789");
    let mut guest = Guest::new(dir.config());
    let fd = guest.path_open(3, "f", 0, READ, 0).unwrap();
    // The buffers overlap each other and the array that describes them.
    let (at, count) = guest.vectors(&[(256, 4), (258, 4), (0, 0)]);
    assert_eq!(call!(guest, fd_read, fd, at, count, RESULT), SUCCESS);
    assert_eq!((guest.u32_at(RESULT), guest.bytes(256, 6)), (8, &b"014567"[..]));
    let (at, count) = guest.vectors(&[(0, u32::MAX)]);
    assert_eq!(call!(guest, fd_read, fd, at, count, RESULT), FAULT);
    assert_eq!(call!(guest, fd_read, fd, 0, -1, RESULT), FAULT);
    assert_eq!(call!(guest, fd_write, 1, at, count, RESULT), FAULT);
    let (at, count) = guest.vectors(&[(BUFFER, 1), (u32::MAX, 1)]);
    assert_eq!(call!(guest, fd_write, 1, at, count, RESULT), FAULT);
    let (at, count) = guest.vectors(&[(BUFFER, 1)]);
    assert_eq!(call!(guest, fd_read, fd, at, count, -4), FAULT);
    assert_eq!(guest.read(fd, 10).unwrap(), b"89", "a call that cannot tell its result does nothing");
}

#[test]
fn a_program_without_memory_gets_errors() {
    for entry in matrix().filter(|entry| entry.returns && !entry.blocks) {
        let mut guest = Guest::new(Config::new().arg("x"));
        guest.memory.clear();
        let args: Vec<Value> = entry.params.iter().map(|ty| value(*ty, 0)).collect();
        let (flow, errno) = guest.flow(entry.name, &args);
        assert_eq!(flow, Flow::Return, "{}", entry.name);
        let succeeds = [
            "fd_close",
            "fd_fdstat_set_rights",
            "proc_raise",
            "sched_yield",
            "random_get",
            "fd_renumber",
            "fd_fdstat_set_flags",
        ];
        // There is no variable to tell, hence nothing to write.
        let succeeds = succeeds.contains(&entry.name) || entry.name == "environ_get";
        assert_eq!(errno == 0, succeeds, "{}: {errno}", entry.name);
    }
}

#[test]
fn descriptors_run_out_with_an_error() {
    let dir = TempDir::new();
    dir.file("f", "x");
    let limits = Limits { descriptors: 20, ..Limits::default() };
    let mut guest = Guest::new(dir.config().listen("127.0.0.1:0").limits(limits));
    let mut open = Vec::new();
    let error = loop {
        match guest.path_open(3, "f", 0, READ, 0) {
            Ok(fd) => open.push(fd),
            Err(errno) => break errno,
        }
    };
    assert_eq!((error, open.len()), (MFILE, 20 - 5));
    // Nothing is made for a descriptor that there is no room for, and no connection is taken from the queue.
    assert_eq!(guest.path_open(3, "new", CREATE, WRITE, 0), Err(MFILE));
    assert!(!dir.path().join("new").exists());
    let _client = std::net::TcpStream::connect(guest.world.listening()[0]).unwrap();
    assert_eq!(call!(guest, sock_accept, 4, 0, RESULT), MFILE);
    assert_eq!(call!(guest, fd_close, open[0]), SUCCESS);
    assert_eq!(call!(guest, sock_accept, 4, 0, RESULT), SUCCESS);
    assert_eq!(guest.u32_at(RESULT) as i32, open[0]);
    // Renaming descriptors makes no more of them.
    assert_eq!(call!(guest, fd_renumber, open[1], open[2]), SUCCESS);
    assert_eq!(call!(guest, fd_renumber, open[2], -1), BADF);
    assert!(guest.path_open(3, "f", 0, READ, 0).is_ok());
    assert_eq!(guest.path_open(3, "f", 0, READ, 0), Err(MFILE));
}

#[test]
fn a_link_that_changes_all_the_time_never_leads_outside() {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    let (dir, outside) = (TempDir::new(), TempDir::new());
    outside.file("f", "secret");
    std::fs::create_dir(dir.path().join("inside")).unwrap();
    dir.file("inside/f", "public");
    let way = dir.path().join("way");
    symlink("inside", &way).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Not by the program, which could not make such links, but by somebody who shares the directory.
        scope.spawn(|| {
            let fresh = dir.path().join("fresh");
            let targets = [outside.path(), std::path::Path::new("inside"), outside.path(), std::path::Path::new("/")];
            for target in targets.iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                symlink(target, &fresh).unwrap();
                std::fs::rename(&fresh, &way).unwrap();
            }
        });
        let mut guest = Guest::new(dir.config());
        let (mut inside, mut refused) = (0, 0);
        for _ in 0..4000 {
            match guest.path_open(3, "way/f", 0, READ, 0) {
                Ok(fd) => {
                    assert_eq!(guest.read(fd, 10).unwrap(), b"public");
                    assert_eq!(call!(guest, fd_close, fd), SUCCESS);
                    inside += 1;
                }
                Err(_) => refused += 1,
            }
            let (at, len) = guest.text("way/planted");
            let created = call!(guest, path_create_directory, 3, at, len);
            let (at, len) = guest.text("way/planted");
            let removed = call!(guest, path_remove_directory, 3, at, len);
            assert!((0..=76).contains(&created) && (0..=76).contains(&removed));
            let (from, from_len) = guest.text("way/f");
            let (to, to_len) = guest.text2("way/g");
            call!(guest, path_rename, 3, from, from_len, 3, to, to_len);
            call!(guest, path_rename, 3, to, to_len, 3, from, from_len);
            dir.file("inside/f", "public");
        }
        over.store(true, Ordering::Relaxed);
        assert!(inside > 0 && refused > 0, "{inside} opened, {refused} refused: both ways were met");
    });
    assert_eq!(outside.read("f"), "secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1, "nothing was made, renamed or removed there");
}

#[test]
fn huge_counts_of_buffers_are_errors_or_bounded() {
    let dir = TempDir::new();
    let mut guest = Guest::new(dir.config());
    let fd = guest.path_open(3, "f", CREATE, READ | WRITE, 0).unwrap();
    // A count whose array would leave memory, wrap around, or end exactly beyond it.
    for count in [u32::MAX, 1 << 29, (1 << 29) + 1, 1 << 31, 16 * 1024 + 1] {
        for function in ["fd_read", "fd_write"] {
            let args = [fd as u32, 0, count, RESULT as u32].map(|arg| Value::I32(arg as i32));
            assert_eq!(guest.errno(function, &args), FAULT, "{function} {count}");
        }
        let args = [fd as u32, 0, count].map(|arg| Value::I32(arg as i32));
        let args = [&args[..], &[Value::I64(0), Value::I32(RESULT)]].concat();
        assert_eq!(guest.errno("fd_pwrite", &args), FAULT);
    }
    // As many as memory holds, each of one byte: as many are used as the system takes at once.
    let count = 8 * 1024_u32;
    for nth in 0..count {
        guest.put(nth * 8, &[60_000_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat());
    }
    guest.put(60_000, b"x");
    // The array lies over the place for the result, which is written last.
    assert_eq!(call!(guest, fd_write, fd, 0, count, 100_000), SUCCESS);
    let written = guest.u32_at(100_000);
    assert!((1..=count).contains(&written), "{written}");
    assert_eq!(dir.read("f").len(), written as usize);
}

/// Every function, with each of its arguments in turn such a number, the others being ones that work.
#[test]
fn lengths_of_all_ones_and_pointers_at_the_end_of_memory_are_errors() {
    let dir = TempDir::new();
    let size = 128 * 1024_i32;
    let hostile = [-1, i32::MAX, i32::MIN, size, size - 1, size - 3, size - 7, size - 8, size - 23];
    for entry in matrix() {
        for at in 0..entry.params.len() {
            for number in hostile {
                dir.file("f", "some text");
                let mut guest = Guest::new(dir.config().arg("program").env("NAME", "value").listen("127.0.0.1:0"));
                let interrupt = guest.world.interrupter();
                interrupt();
                guest.path_open(3, "f", 0, READ | WRITE, 0).unwrap();
                let file = entry.name.starts_with("fd_");
                let mut args: Vec<Value> = entry.params.iter().map(|ty| value(*ty, 256)).collect();
                args[0] = value(entry.params[0], if file { 5 } else { 3 });
                args[at] = value(entry.params[at], number as u32 as u64);
                let before = guest.memory.len();
                let (flow, errno) = guest.flow(entry.name, &args);
                let what = format!("{} {args:?}", entry.name);
                match flow {
                    Flow::Return => assert!((0..=76).contains(&errno), "{what}: {errno}"),
                    Flow::Reissue => assert!(entry.blocks, "{what}"),
                    Flow::Exit(_) => assert_eq!(entry.name, "proc_exit"),
                    Flow::Trap(_) => assert!(matches!(entry.name, "proc_exit" | "proc_raise"), "{what}"),
                }
                assert_eq!(guest.memory.len(), before);
            }
        }
    }
    // Where the number is a pointer or length that is used, the error is `EFAULT`.
    let mut guest = Guest::new(dir.config());
    assert_eq!(call!(guest, random_get, 0, -1), FAULT);
    assert_eq!(call!(guest, random_get, size - 1, 2), FAULT);
    assert_eq!(call!(guest, clock_time_get, 0, 0_u64, size - 7), FAULT);
    assert_eq!(call!(guest, fd_prestat_get, 3, size - 7), FAULT);
    assert_eq!(call!(guest, fd_readdir, 3, 0, -1, 0_u64, 512), FAULT);
    assert_eq!(call!(guest, path_create_directory, 3, 0, -1), FAULT);
    assert_eq!(call!(guest, poll_oneoff, size - 47, 0, 1, 512), FAULT);
    assert_eq!(call!(guest, poll_oneoff, 0, 0, -1, 512), FAULT);
}
