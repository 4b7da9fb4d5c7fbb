//! Moved in the middle of a call that blocks, or between two calls of which the second depends on the first.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use dunlin_engine::Flow;
use dunlin_host::{Config, Connections};
use support::*;

const LISTENER: i32 = 3;
const APPEND: i32 = 1;
const NONBLOCK: i32 = 4;

#[test]
fn flags_and_rights_move() {
    let dir = TempDir::new();
    dir.file("f", "0123");
    let mut guest = Guest::new(dir.config());
    let fd = guest.path_open(3, "f", 0, READ | WRITE, 0).unwrap();
    assert_eq!(call!(guest, fd_fdstat_set_flags, fd, APPEND | NONBLOCK), SUCCESS);
    let seek = 1_u64 << 2;
    assert_eq!(call!(guest, fd_fdstat_get, fd, RESULT), SUCCESS);
    let rights = guest.u64_at(RESULT + 8) & !seek;
    assert_eq!(call!(guest, fd_fdstat_set_rights, fd, rights, rights), SUCCESS);
    assert_eq!(call!(guest, fd_fdstat_get, fd, RESULT), SUCCESS);
    let before = guest.bytes(RESULT as u32, 24).to_vec();

    let mut guest = guest.moved(dir.config());
    assert_eq!(call!(guest, fd_fdstat_get, fd, RESULT), SUCCESS);
    assert_eq!(guest.bytes(RESULT as u32, 24), before);
    assert_eq!(call!(guest, fd_seek, fd, 1_i64, 0, RESULT), NOTCAPABLE);
    assert_eq!(guest.write(fd, b"45").unwrap(), 2);
    assert_eq!(dir.read("f"), "012345", "it still appends");
}

#[test]
fn directories_are_told_on_after_a_move() {
    let (one, two) = (TempDir::new(), TempDir::new());
    let config = || {
        let mut second = two.mount();
        second.guest = "/more".to_owned();
        one.config().mount(second)
    };
    let mut guest = Guest::new(config());
    // A C library asks for one after the other when it starts, and may be moved between.
    assert_eq!(call!(guest, fd_prestat_get, 3, RESULT), SUCCESS);
    assert_eq!(guest.u32_at(RESULT + 4), 5);
    let mut guest = guest.moved(config());
    assert_eq!(call!(guest, fd_prestat_dir_name, 3, BUFFER, 5), SUCCESS);
    assert_eq!(guest.bytes(BUFFER, 5), b"/data");
    assert_eq!(call!(guest, fd_prestat_get, 4, RESULT), SUCCESS);
    let mut guest = guest.moved(config());
    assert_eq!(call!(guest, fd_prestat_dir_name, 4, BUFFER, 5), SUCCESS);
    assert_eq!(guest.bytes(BUFFER, 5), b"/more");
    assert_eq!(call!(guest, fd_prestat_get, 5, RESULT), BADF);
}

#[test]
fn offsets_go_on() {
    let dir = TempDir::new();
    dir.file("f", "0123456789");
    let mut guest = Guest::new(dir.config());
    let fd = guest.path_open(3, "f", 0, READ, 0).unwrap();
    let other = guest.path_open(3, "f", 0, READ, 0).unwrap();
    assert_eq!(call!(guest, fd_seek, fd, 4_i64, 0, RESULT), SUCCESS);
    // Beyond the end, and back from there.
    assert_eq!(call!(guest, fd_seek, other, 5_i64, 2, RESULT), SUCCESS);
    let mut guest = guest.moved(dir.config());
    assert_eq!(call!(guest, fd_seek, fd, 2_i64, 1, RESULT), SUCCESS);
    assert_eq!(guest.u64_at(RESULT), 6);
    assert_eq!(call!(guest, fd_tell, other, RESULT), SUCCESS);
    assert_eq!(guest.u64_at(RESULT), 15);
    assert_eq!(guest.read(fd, 10).unwrap(), b"6789");
    assert_eq!(guest.read(other, 10).unwrap(), b"");
}

fn interrupted(guest: &Guest) {
    let interrupt = guest.world.interrupter();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        interrupt();
    });
}

#[test]
fn an_accept_that_blocks_goes_on() {
    let config = || Config::new().listen("127.0.0.1:0");
    let mut guest = Guest::new(config());
    interrupted(&guest);
    assert_eq!(flow!(guest, sock_accept, LISTENER, 0, RESULT), Flow::Reissue);
    let mut guest = guest.moved(config());
    let mut client = TcpStream::connect(guest.world.listening()[0]).unwrap();
    client.write_all(b"late").unwrap();
    assert_eq!(call!(guest, sock_accept, LISTENER, 0, RESULT), SUCCESS);
    let fd = guest.u32_at(RESULT) as i32;
    assert_eq!(guest.read(fd, 4).unwrap(), b"late");
}

#[test]
fn a_send_that_blocks_doubles_nothing() {
    let config = || Config::new().listen("127.0.0.1:0").connections(Connections::Close);
    let mut guest = Guest::new(config());
    let mut client = TcpStream::connect(guest.world.listening()[0]).unwrap();
    assert_eq!(call!(guest, sock_accept, LISTENER, NONBLOCK, RESULT), SUCCESS);
    let fd = guest.u32_at(RESULT) as i32;
    // Numbered bytes, until nothing more fits.
    let (mut sent, len) = (0_usize, 60_000_u32);
    let next = |from: usize| (from..from + len as usize).map(|at| (at % 251) as u8).collect::<Vec<u8>>();
    let (at, count) = guest.vectors(&[(BUFFER, len)]);
    loop {
        guest.put(BUFFER, &next(sent));
        match call!(guest, sock_send, fd, at, count, 0, RESULT) {
            SUCCESS => sent += guest.u32_at(RESULT) as usize,
            errno => {
                assert_eq!(errno, AGAIN);
                break;
            }
        }
    }
    assert_eq!(call!(guest, fd_fdstat_set_flags, fd, 0), SUCCESS);
    interrupted(&guest);
    assert_eq!(flow!(guest, sock_send, fd, at, count, 0, RESULT), Flow::Reissue);
    // A stop that leads to nothing: the call is issued again in the same world.
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).map(|_| all)
    });
    guest.world.clear_interrupt();
    assert_eq!(call!(guest, sock_send, fd, at, count, 0, RESULT), SUCCESS);
    sent += guest.u32_at(RESULT) as usize;
    // And one that moves: the connection ends, behind what was sent.
    let mut guest = guest.moved(config());
    assert_eq!(call!(guest, sock_send, fd, at, count, 0, RESULT), 64, "EPIPE");
    let all = reader.join().unwrap().unwrap();
    assert_eq!(all.len(), sent);
    assert!(all.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8), "nothing twice, nothing lost");
}

#[test]
fn a_connection_that_was_shut_down_stays_so() {
    let config = || Config::new().listen("127.0.0.1:0").connections(Connections::Close);
    let mut guest = Guest::new(config());
    let mut client = TcpStream::connect(guest.world.listening()[0]).unwrap();
    assert_eq!(call!(guest, sock_accept, LISTENER, 0, RESULT), SUCCESS);
    let fd = guest.u32_at(RESULT) as i32;
    client.write_all(b"before").unwrap();
    assert_eq!(guest.read(fd, 6).unwrap(), b"before");
    assert_eq!(call!(guest, sock_shutdown, fd, 2), SUCCESS);
    let mut nothing = Vec::new();
    client.read_to_end(&mut nothing).unwrap();
    assert!(nothing.is_empty(), "the other end sees that nothing follows");
    client.write_all(b"still").unwrap();
    drop(client);
    std::thread::sleep(Duration::from_millis(20));
    let mut guest = guest.moved(config());
    assert_eq!(guest.read(fd, 10).unwrap(), b"still");
    assert_eq!(guest.write(fd, b"x"), Err(64), "EPIPE");
    assert_eq!(guest.read(fd, 10).unwrap(), b"", "the other end had ended it");
}

#[test]
fn used_processor_time_moves_where_it_is_counted() {
    let mut guest = Guest::new(Config::new());
    assert_eq!(guest.world.cpu(), None);
    assert!(guest.world.freeze().unwrap().iter().all(|section| section.kind != dunlin_host::kind::USAGE));
    guest.world.add_cpu(Duration::from_millis(3));
    let mut guest = guest.moved(Config::new());
    guest.world.add_cpu(Duration::from_nanos(7));
    assert_eq!(guest.world.cpu(), Some(Duration::from_nanos(3_000_007)));
    guest.world.add_cpu(Duration::MAX);
    let guest = guest.moved(Config::new());
    assert_eq!(guest.world.cpu(), Some(Duration::from_nanos(u64::MAX)));
}
