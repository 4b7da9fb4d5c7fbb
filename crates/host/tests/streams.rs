//! Standard streams: reading, writing, waiting, and moving in the middle.

mod support;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dunlin_engine::Flow;
use dunlin_host::{Config, Input, Limits, Output, World};
use support::*;

fn pipe() -> (Arc<OwnedFd>, OwnedFd) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    (Arc::new(read), write)
}

#[test]
fn output_uses_all_buffers_and_is_not_repeated() {
    let (config, out, err) = captured();
    let mut guest = Guest::new(config.clone());
    guest.put(BUFFER, b"hello, world");
    let (at, count) = guest.vectors(&[(BUFFER, 5), (0, 0), (BUFFER + 5, 7)]);
    assert_eq!(call!(guest, fd_write, 1, at, count, RESULT), SUCCESS);
    assert_eq!(guest.u32_at(RESULT), 12);
    assert_eq!(guest.write(2, b"oops"), Ok(4));
    let mut guest = guest.moved(config);
    assert_eq!(guest.write(1, b"!"), Ok(1));
    assert_eq!((out.contents(), err.contents()), (b"hello, world!".to_vec(), b"oops".to_vec()));
    assert_eq!(guest.write(0, b"x"), Err(BADF));
    assert_eq!(guest.read(1, 1), Err(BADF));
}

#[test]
fn streams_have_no_positions() {
    let (config, ..) = captured();
    let mut guest = Guest::new(config);
    for fd in 0..3 {
        assert_eq!(call!(guest, fd_seek, fd, 0_u64, 0, RESULT), SPIPE);
        assert_eq!(call!(guest, fd_tell, fd, RESULT), SPIPE);
    }
    let (at, count) = guest.vectors(&[(BUFFER, 1)]);
    assert_eq!(call!(guest, fd_pread, 0, at, count, 0_u64, RESULT), SPIPE);
    assert_eq!(call!(guest, fd_pwrite, 1, at, count, 0_u64, RESULT), SPIPE);
    assert_eq!(call!(guest, fd_pread, 1, at, count, 0_u64, RESULT), BADF);
    assert_eq!(call!(guest, fd_fdstat_get, 1, RESULT), SUCCESS);
    assert_eq!(guest.bytes(RESULT as u32, 1), [0], "no terminal");
    assert_eq!(guest.u64_at(RESULT + 8), WRITE);
    assert_eq!(call!(guest, fd_filestat_get, 0, RESULT), SUCCESS);
    assert_eq!(call!(guest, fd_sync, 1), BADF);
    assert_eq!(call!(guest, fd_advise, 1, 0_u64, 0_u64, 0), BADF);
}

#[test]
fn unread_input_moves() {
    let config = || Config::new().stdin(Input::Bytes(b"one two three".to_vec()));
    let mut guest = Guest::new(config());
    assert_eq!(guest.read(0, 4).unwrap(), b"one ");
    // The bytes in the new configuration are those of a program that begins.
    let mut guest = guest.moved(config());
    let (at, count) = guest.vectors(&[(BUFFER, 2), (BUFFER + 2, 2)]);
    assert_eq!(call!(guest, fd_read, 0, at, count, RESULT), SUCCESS);
    assert_eq!(guest.bytes(BUFFER, 4), b"two ");
    let mut guest = guest.moved(Config::new());
    assert_eq!(guest.read(0, 100).unwrap(), b"three");
    assert_eq!(guest.read(0, 100).unwrap(), b"");
}

#[test]
fn input_from_the_new_host_follows_the_unread_rest() {
    let (read, write) = pipe();
    let mut guest = Guest::new(Config::new().stdin(Input::Fd(read)));
    rustix::io::write(&write, b"abc").unwrap();
    assert_eq!(guest.read(0, 100).unwrap(), b"abc");
    let (read, write) = pipe();
    let mut guest = guest.moved(Config::new().stdin(Input::Fd(read)));
    rustix::io::write(&write, b"def").unwrap();
    assert_eq!(guest.read(0, 2).unwrap(), b"de");
    assert_eq!(guest.read(0, 2).unwrap(), b"f");
    drop(write);
    assert_eq!(guest.read(0, 2).unwrap(), b"");
    // It has ended, and the next host does not begin it again.
    let (read, write) = pipe();
    let mut guest = guest.moved(Config::new().stdin(Input::Fd(read.clone())));
    rustix::io::write(&write, b"x").unwrap();
    assert_eq!(guest.read(0, 2).unwrap(), b"");
}

#[test]
fn a_blocked_read_is_interrupted_and_loses_nothing() {
    let (read, write) = pipe();
    let config = || Config::new().stdin(Input::Fd(read.clone()));
    let mut guest = Guest::new(config());
    let (at, count) = guest.vectors(&[(BUFFER, 10)]);
    let interrupt = guest.world.interrupter();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        let now = Instant::now();
        interrupt();
        now
    });
    assert_eq!(flow!(guest, fd_read, 0, at, count, RESULT), Flow::Reissue);
    let requested = thread.join().unwrap();
    assert!(requested.elapsed() < Duration::from_secs(2), "after {:?}", requested.elapsed());
    rustix::io::write(&write, b"later").unwrap();
    let mut guest = guest.moved(config());
    assert_eq!(call!(guest, fd_read, 0, at, count, RESULT), SUCCESS);
    assert_eq!(guest.bytes(BUFFER, 5), b"later");
}

#[test]
fn a_blocked_write_is_interrupted_and_doubles_nothing() {
    let (read, write) = pipe();
    let write = Arc::new(write);
    let config = || Config::new().stdout(Output::Fd(write.clone()));
    let mut guest = Guest::new(config());
    let total: usize = 100_000;
    let pattern: Vec<u8> = (0..total).map(|at| (at % 251) as u8).collect();
    let interrupt = guest.world.interrupter();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        interrupt();
    });
    // The pipe takes 64 KiB; then the write blocks until it is interrupted, and says how far it came.
    let first = guest.write(1, &pattern).unwrap();
    assert!(first > 0 && first < total, "{first}");
    let (at, count) = guest.vectors(&[(BUFFER, 5)]);
    assert_eq!(flow!(guest, fd_write, 1, at, count, RESULT), Flow::Reissue);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut chunk = [0; 4096];
        while let Ok(read @ 1..) = rustix::io::read(&*read, &mut chunk) {
            all.extend_from_slice(&chunk[..read]);
        }
        all
    });
    let mut guest = guest.moved(config());
    assert_eq!(guest.write(1, &pattern[first..]), Ok(total - first));
    drop((guest, write));
    assert_eq!(reader.join().unwrap(), pattern);
}

#[test]
fn a_nonblocking_stream_says_again() {
    let (read, write) = pipe();
    let mut guest = Guest::new(Config::new().stdin(Input::Fd(read)));
    assert_eq!(call!(guest, fd_fdstat_set_flags, 0, NONBLOCK), SUCCESS);
    assert_eq!(guest.read(0, 1), Err(AGAIN));
    let (read, write2) = pipe();
    let mut guest = guest.moved(Config::new().stdin(Input::Fd(read)));
    assert_eq!(guest.read(0, 1), Err(AGAIN), "the flag moves");
    rustix::io::write(&write2, b"x").unwrap();
    assert_eq!(guest.read(0, 1).unwrap(), b"x");
    drop(write);
}

#[test]
fn output_is_limited_over_moves() {
    let (config, out, _) = captured();
    let config = config.limits(Limits { output_bytes: Some(10), ..Limits::default() });
    let mut guest = Guest::new(config.clone());
    assert_eq!(guest.write(1, b"1234567"), Ok(7));
    let mut guest = guest.moved(config);
    assert_eq!(guest.write(2, b"89012"), Ok(3));
    assert_eq!(guest.write(1, b"x"), Err(NOSPC));
    assert_eq!(out.contents(), b"1234567");
}

#[test]
fn a_closed_reader_is_a_broken_pipe() {
    let (read, write) = pipe();
    drop(read);
    let mut guest = Guest::new(Config::new().stdout(Output::Fd(Arc::new(write))));
    assert_eq!(guest.write(1, b"x"), Err(PIPE));
}

#[test]
fn closed_and_renumbered_streams_stay_so() {
    let (config, out, err) = captured();
    let mut guest = Guest::new(config.clone());
    assert_eq!(call!(guest, fd_close, 0), SUCCESS);
    assert_eq!(call!(guest, fd_close, 0), BADF);
    assert_eq!(call!(guest, fd_renumber, 2, 1), SUCCESS);
    assert_eq!(call!(guest, fd_renumber, 2, 1), BADF);
    assert_eq!(call!(guest, fd_renumber, 1, 9), BADF);
    assert_eq!(call!(guest, fd_renumber, 1, 1), SUCCESS);
    let mut guest = guest.moved(config);
    assert_eq!(guest.write(1, b"to error"), Ok(8));
    assert_eq!(guest.write(2, b"x"), Err(BADF));
    assert_eq!(guest.read(0, 1), Err(BADF));
    assert_eq!((out.contents(), err.contents()), (vec![], b"to error".to_vec()));
}

#[test]
fn equal_states_freeze_to_equal_bytes() {
    let config = || {
        captured()
            .0
            .arg("x")
            .stdin(Input::Bytes(b"input".to_vec()))
            .source(dunlin_host::Source::Deterministic { seed: 3 })
    };
    let mut one = Guest::new(config());
    one.read(0, 2).unwrap();
    let sections = one.world.freeze().unwrap();
    assert_eq!(sections, one.world.freeze().unwrap());
    assert_eq!(sections, World::thaw(&sections, config()).unwrap().freeze().unwrap());
    assert!(sections.is_sorted_by_key(|section| section.kind));
}
