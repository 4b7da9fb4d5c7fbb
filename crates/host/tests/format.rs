//! The bytes of each section, as the first version wrote them. They are never regenerated: a difference means that a
//! section has to get another version, and that this one has to be kept readable.

mod support;

use std::sync::Arc;

use dunlin_engine::Flow;
use dunlin_host::{Config, Connections, Input, Source, kind};
use dunlin_snapshot::HostSection;
use support::*;

fn config(dir: &TempDir, input: &Arc<std::os::fd::OwnedFd>) -> Config {
    dir.config()
        .arg("tool")
        .env("A", "1")
        .stdin(Input::Fd(input.clone()))
        .listen("127.0.0.1:0")
        .connections(Connections::Close)
        .source(Source::Deterministic { seed: 42 })
}

/// Kind and hexadecimal bytes of each section of the state that [`guest`] makes.
const GOLDEN: [(u16, &str); 7] = [
    (kind::ARGS, "01000000000000000400000000000000746f6f6c01000000000000000300000000000000413d31"),
    (kind::CLOCKS, "01e803000000000000"),
    (kind::RANDOM, "012a0000000000000002000000000000000000000000000000"),
    (
        kind::FILES,
        "010000000000000005000000000000002f64617461010300000000000000030000000000000000000000000000000000\
         000000000000000000000000000000010101010005000000000000000000000000000000000000000000000000010000\
         00000000006601010001000000000700000000000000000600000001bdffff3f00000000bfffff3f0000000000000000\
         000000000000000001000000100000000000000000000000010400000000000000676f6e65",
    ),
    (
        kind::STREAMS,
        "020000000000000000000000000000000000000000000000000000000000010000000000000000000000000000000000\
         000000010000000000000000000000000000000000",
    ),
    (kind::POLL, "00040000004000000100000040000000e803000000000000"),
    (
        kind::SOCKETS,
        "0200000000000000020000000000000000000000000000000000000000010600000000000000756e7265616401040000\
         0000000000000000000000000000000000000000000000",
    ),
];

/// A program with something of everything.
fn guest(dir: &TempDir, input: &Arc<std::os::fd::OwnedFd>) -> Guest {
    dir.file("f", "0123456789");
    dir.file("gone", "gone");
    let mut guest = Guest::new(config(dir, input));
    let file = guest.path_open(3, "f", 0, READ | WRITE, APPEND).unwrap();
    guest.read(file, 7).unwrap();
    let deleted = guest.path_open(3, "gone", 0, READ, NONBLOCK | 16).unwrap();
    std::fs::remove_file(dir.path().join("gone")).unwrap();
    assert_eq!(call!(guest, fd_fdstat_set_rights, deleted, READ, 0_u64), SUCCESS);
    assert_eq!(call!(guest, fd_close, 2), SUCCESS);
    let address = guest.world.listening()[0];
    let mut client = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut client, b"unread").unwrap();
    drop(client);
    assert_eq!(call!(guest, sock_accept, 4, 0, RESULT), SUCCESS);
    assert_eq!(guest.u32_at(RESULT), 2);
    assert_eq!(call!(guest, random_get, BUFFER, 5), SUCCESS);
    assert_eq!(call!(guest, clock_time_get, 1, 0_u64, RESULT), SUCCESS);
    // Wait for input, which does not come before a stop is requested.
    let mut subscription = [0; 48];
    subscription[8] = 1;
    guest.put(TEXT, &subscription);
    let interrupt = guest.world.interrupter();
    interrupt();
    assert_eq!(flow!(guest, poll_oneoff, TEXT, BUFFER, 1, RESULT), Flow::Reissue);
    guest
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn sections_are_written_as_ever() {
    let dir = TempDir::new();
    let (read, _write) = rustix::pipe::pipe().unwrap();
    let sections = guest(&dir, &Arc::new(read)).world.freeze().unwrap();
    let written: Vec<_> = sections.iter().map(|section| (section.kind, hex(&section.bytes))).collect();
    let golden: Vec<_> = GOLDEN.iter().map(|(kind, bytes)| (*kind, (*bytes).to_owned())).collect();
    assert_eq!(written, golden);
    assert!(sections.iter().all(|section| section.version == 1 && section.mandatory));
}

#[test]
fn old_sections_are_read() {
    let dir = TempDir::new();
    dir.file("f", "0123456789");
    let (read, write) = rustix::pipe::pipe().unwrap();
    let read = Arc::new(read);
    let sections: Vec<HostSection> = GOLDEN
        .iter()
        .map(|(kind, bytes)| HostSection { kind: *kind, version: 1, mandatory: true, bytes: unhex(bytes) })
        .collect();
    let world = thaw(&sections, config(&dir, &read));
    let mut guest = Guest { world, memory: vec![0; 128 * 1024] };
    rustix::io::write(&write, b"x").unwrap();
    let mut subscription = [0; 48];
    subscription[8] = 1;
    guest.put(TEXT, &subscription);
    assert_eq!(call!(guest, poll_oneoff, TEXT, BUFFER, 1, RESULT), SUCCESS);
    assert_eq!(guest.read(5, 100).unwrap(), b"789");
    assert_eq!(guest.read(6, 100).unwrap(), b"gone");
    assert_eq!(guest.read(2, 100).unwrap(), b"unread");
    assert_eq!(guest.read(2, 100).unwrap(), b"");
    assert_eq!(call!(guest, clock_time_get, 1, 0_u64, RESULT), SUCCESS);
    assert_eq!(guest.u64_at(RESULT), 2000);
    assert_eq!(sections[0].kind, kind::ARGS);
}
