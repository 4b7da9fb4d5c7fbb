//! `poll_oneoff`: what is ready, timeouts, and sleeps that are interrupted and moved.

mod support;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dunlin_engine::Flow;
use dunlin_host::{Config, Input, Limits, Output, Source, kind};
use support::*;

const MS: u64 = 1_000_000;

const REALTIME: u32 = 0;
const MONOTONIC: u32 = 1;

fn clock(userdata: u64, id: u32, timeout: u64, flags: u16) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..8].copy_from_slice(&userdata.to_le_bytes());
    bytes[16..20].copy_from_slice(&id.to_le_bytes());
    bytes[24..32].copy_from_slice(&timeout.to_le_bytes());
    bytes[40..42].copy_from_slice(&flags.to_le_bytes());
    bytes
}

fn descriptor(userdata: u64, kind: u8, fd: u32) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..8].copy_from_slice(&userdata.to_le_bytes());
    bytes[8] = kind;
    bytes[16..20].copy_from_slice(&fd.to_le_bytes());
    bytes
}

/// Userdata, kind, bytes and flags of each event.
type Events = Vec<(u64, u8, u64, u8)>;

fn poll(guest: &mut Guest, subscriptions: &[[u8; 48]]) -> Result<Events, i32> {
    guest.put(TEXT, &subscriptions.concat());
    match call!(guest, poll_oneoff, TEXT, BUFFER, subscriptions.len() as i32, RESULT) {
        0 => Ok(events(guest)),
        errno => Err(errno),
    }
}

fn events(guest: &Guest) -> Events {
    (0..guest.u32_at(RESULT))
        .map(|at| {
            let at = BUFFER + at * 32;
            assert_eq!(guest.bytes(at + 8, 2), [0, 0], "no error");
            let field = |offset| guest.u64_at((at + offset) as i32);
            (field(0), guest.bytes(at + 10, 1)[0], field(16), guest.bytes(at + 24, 1)[0])
        })
        .collect()
}

fn pipe() -> (Arc<OwnedFd>, OwnedFd) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    (Arc::new(read), write)
}

#[test]
fn sleeps_last_as_long_as_asked() {
    let mut guest = Guest::new(Config::new());
    for (id, absolute) in [(MONOTONIC, false), (REALTIME, false), (MONOTONIC, true), (REALTIME, true)] {
        assert_eq!(call!(guest, clock_time_get, id, 0_u64, RESULT), SUCCESS);
        let now = guest.u64_at(RESULT);
        let timeout = if absolute { now + 20 * MS } else { 20 * MS };
        let started = Instant::now();
        let sleep = clock(7, id, timeout, absolute.into());
        assert_eq!(poll(&mut guest, &[sleep]), Ok(vec![(7, 0, 0, 0)]));
        let slept = started.elapsed();
        assert!(slept >= Duration::from_millis(19) && slept < Duration::from_secs(5), "{slept:?}");
    }
    let past = clock(1, MONOTONIC, 0, 1);
    let never = clock(2, MONOTONIC, u64::MAX, 0);
    assert_eq!(poll(&mut guest, &[never, past]), Ok(vec![(1, 0, 0, 0)]));
}

#[test]
fn wrong_subscriptions_are_refused() {
    let mut guest = Guest::new(Config::new().limits(Limits { subscriptions: 3, ..Limits::default() }));
    assert_eq!(call!(guest, poll_oneoff, TEXT, BUFFER, 0, RESULT), INVAL);
    assert_eq!(call!(guest, poll_oneoff, TEXT, BUFFER, -1, RESULT), FAULT);
    assert_eq!(call!(guest, poll_oneoff, -4, BUFFER, 1, RESULT), FAULT);
    assert_eq!(call!(guest, poll_oneoff, TEXT, -4, 1, RESULT), FAULT);
    assert_eq!(call!(guest, poll_oneoff, TEXT, BUFFER, 1, -1), FAULT);
    assert_eq!(poll(&mut guest, &[clock(0, 1, 0, 0); 4]), Err(NOMEM));
    assert_eq!(poll(&mut guest, &[clock(0, 2, 0, 0)]), Err(INVAL));
    assert_eq!(poll(&mut guest, &[clock(0, 9, 0, 0)]), Err(INVAL));
    assert_eq!(poll(&mut guest, &[clock(0, 1, 0, 2)]), Err(INVAL));
    assert_eq!(poll(&mut guest, &[descriptor(0, 3, 0)]), Err(INVAL));
    assert_eq!(poll(&mut guest, &[descriptor(0, 1, 9)]), Err(BADF));
    assert_eq!(poll(&mut guest, &[descriptor(0, 1, 1)]), Err(BADF), "output is not read");
    assert_eq!(poll(&mut guest, &[descriptor(0, 2, 0)]), Err(BADF), "input is not written");
}

#[test]
fn streams_and_files_become_ready() {
    let dir = TempDir::new();
    dir.file("f", "12345");
    let (read, write) = pipe();
    let mut guest = Guest::new(dir.config().stdin(Input::Fd(read)));
    let file = guest.path_open(3, "f", 0, READ | WRITE, 0).unwrap() as u32;
    let timeout = clock(9, MONOTONIC, 10 * MS, 0);
    assert_eq!(poll(&mut guest, &[descriptor(1, 1, 0), timeout]), Ok(vec![(9, 0, 0, 0)]));
    rustix::io::write(&write, b"abc").unwrap();
    assert_eq!(poll(&mut guest, &[timeout, descriptor(1, 1, 0)]), Ok(vec![(1, 1, 3, 0)]));
    assert_eq!(
        poll(&mut guest, &[descriptor(1, 1, 0), descriptor(2, 2, 1), descriptor(3, 1, file), descriptor(4, 2, file)]),
        Ok(vec![(1, 1, 3, 0), (2, 2, 1, 0), (3, 1, 5, 0), (4, 2, 1, 0)])
    );
    guest.read(file as i32, 100).unwrap();
    assert_eq!(poll(&mut guest, &[descriptor(3, 1, file)]), Ok(vec![(3, 1, 0, 1)]), "at its end");
    guest.read(0, 100).unwrap();
    drop(write);
    assert_eq!(poll(&mut guest, &[descriptor(1, 1, 0)]), Ok(vec![(1, 1, 0, 1)]), "hung up");
}

#[test]
fn a_full_pipe_is_not_ready() {
    let (read, write) = pipe();
    let write = Arc::new(write);
    let mut guest = Guest::new(Config::new().stdout(Output::Fd(write)));
    assert_eq!(call!(guest, fd_fdstat_set_flags, 1, NONBLOCK), SUCCESS);
    while guest.write(1, &[b'x'; 4096]).is_ok() {}
    assert_eq!(guest.write(1, b"x"), Err(AGAIN));
    let timeout = clock(9, MONOTONIC, MS, 0);
    assert_eq!(poll(&mut guest, &[descriptor(1, 2, 1), timeout]), Ok(vec![(9, 0, 0, 0)]));
    rustix::io::read(&*read, &mut [0; 8192]).unwrap();
    assert_eq!(poll(&mut guest, &[descriptor(1, 2, 1), timeout]), Ok(vec![(1, 2, 1, 0)]));
}

#[test]
fn an_interrupted_sleep_sleeps_the_rest_after_the_move() {
    let mut guest = Guest::new(Config::new());
    // Long enough that a machine which is busy elsewhere does not blur what is asked here.
    guest.put(TEXT, &clock(5, MONOTONIC, 1000 * MS, 0));
    let interrupt = guest.world.interrupter();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(600));
        interrupt();
    });
    let started = Instant::now();
    assert_eq!(flow!(guest, poll_oneoff, TEXT, BUFFER, 1, RESULT), Flow::Reissue);
    thread.join().unwrap();
    assert_eq!(flow!(guest, poll_oneoff, TEXT, BUFFER, 1, RESULT), Flow::Reissue, "interrupted for good");
    let slept = started.elapsed();
    let sections = guest.world.freeze().unwrap();
    assert!(sections.iter().any(|section| section.kind == kind::POLL));
    // The transit does not count.
    std::thread::sleep(Duration::from_millis(100));
    let mut guest = Guest { world: thaw(&sections, Config::new()), memory: guest.memory };
    let started = Instant::now();
    assert_eq!(call!(guest, poll_oneoff, TEXT, BUFFER, 1, RESULT), SUCCESS);
    assert_eq!(events(&guest), [(5, 0, 0, 0)]);
    let total = slept + started.elapsed();
    assert!(total >= Duration::from_millis(990) && total < Duration::from_millis(1600), "{total:?}");
    let started = Instant::now();
    assert_eq!(call!(guest, poll_oneoff, TEXT, BUFFER, 1, RESULT), SUCCESS);
    assert!(started.elapsed() >= Duration::from_millis(999), "the next one is a sleep of its own");
    assert!(guest.world.freeze().unwrap().iter().all(|section| section.kind != kind::POLL));
}

#[test]
fn another_call_forgets_the_interrupted_one() {
    let mut guest = Guest::new(Config::new());
    guest.put(TEXT, &clock(5, MONOTONIC, 50 * MS, 0));
    let interrupt = guest.world.interrupter();
    interrupt();
    assert_eq!(flow!(guest, poll_oneoff, TEXT, BUFFER, 1, RESULT), Flow::Reissue);
    std::thread::sleep(Duration::from_millis(60));
    guest.world.clear_interrupt();
    assert_eq!(call!(guest, sched_yield), SUCCESS);
    let started = Instant::now();
    assert_eq!(call!(guest, poll_oneoff, TEXT, BUFFER, 1, RESULT), SUCCESS);
    assert!(started.elapsed() >= Duration::from_millis(49));
}

#[test]
fn a_request_does_not_hide_what_is_ready() {
    let (read, write) = pipe();
    let mut guest = Guest::new(Config::new().stdin(Input::Fd(read)));
    let interrupt = guest.world.interrupter();
    interrupt();
    guest.put(TEXT, &descriptor(1, 1, 0));
    assert_eq!(flow!(guest, poll_oneoff, TEXT, BUFFER, 1, RESULT), Flow::Reissue);
    rustix::io::write(&write, b"x").unwrap();
    assert_eq!(poll(&mut guest, &[descriptor(1, 1, 0)]), Ok(vec![(1, 1, 1, 0)]));
    assert_eq!(poll(&mut guest, &[clock(3, MONOTONIC, 0, 0)]), Ok(vec![(3, 0, 0, 0)]), "nothing to wait for");
}

#[test]
fn virtual_time_passes_at_once() {
    let mut guest = Guest::new(Config::new().source(Source::Deterministic { seed: 0 }));
    let started = Instant::now();
    let hour = 3_600_000 * MS;
    let subscriptions = [clock(1, MONOTONIC, hour, 0), clock(2, REALTIME, hour / 2, 0), descriptor(3, 1, 0)];
    assert_eq!(poll(&mut guest, &subscriptions[..2]), Ok(vec![(2, 0, 0, 0)]));
    assert_eq!(call!(guest, clock_time_get, MONOTONIC, 0_u64, RESULT), SUCCESS);
    assert_eq!(guest.u64_at(RESULT), hour / 2 + 1000);
    assert_eq!(poll(&mut guest, &subscriptions), Ok(vec![(3, 1, 0, 1)]), "what is ready comes before time");
    assert!(started.elapsed() < Duration::from_secs(1));
}
