//! Listeners and connections over TCP on the loopback interface.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use dunlin_engine::Flow;
use dunlin_host::{Config, Connections, Error, Limits, World};
use support::*;

const LISTENER: i32 = 3;
const PEEK: i32 = 1;
const WAIT_ALL: i32 = 2;

fn config() -> Config {
    Config::new().listen("127.0.0.1:0")
}

fn connect(guest: &Guest) -> TcpStream {
    let address: SocketAddr = guest.world.listening()[0];
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client
}

/// A program with an accepted connection, and its client.
fn connected(config: Config) -> (Guest, i32, TcpStream) {
    let mut guest = Guest::new(config);
    let client = connect(&guest);
    assert_eq!(call!(guest, sock_accept, LISTENER, 0, RESULT), SUCCESS);
    let fd = guest.u32_at(RESULT) as i32;
    (guest, fd, client)
}

fn receive(guest: &mut Guest, fd: i32, len: u32, flags: i32) -> Result<Vec<u8>, i32> {
    let (at, count) = guest.vectors(&[(BUFFER, len / 2), (BUFFER + len / 2, len - len / 2)]);
    match call!(guest, sock_recv, fd, at, count, flags, RESULT, RESULT + 8) {
        0 => Ok(guest.bytes(BUFFER, guest.u32_at(RESULT) as usize).to_vec()),
        errno => Err(errno),
    }
}

fn send(guest: &mut Guest, fd: i32, bytes: &[u8]) -> Result<usize, i32> {
    guest.put(BUFFER, bytes);
    let (at, count) = guest.vectors(&[(BUFFER, bytes.len() as u32)]);
    match call!(guest, sock_send, fd, at, count, 0, RESULT) {
        0 => Ok(guest.u32_at(RESULT) as usize),
        errno => Err(errno),
    }
}

#[test]
fn a_server_talks_to_its_client() {
    let (mut guest, fd, mut client) = connected(config());
    client.write_all(b"request").unwrap();
    assert_eq!(receive(&mut guest, fd, 7, PEEK | WAIT_ALL).unwrap(), b"request");
    assert_eq!(receive(&mut guest, fd, 3, PEEK).unwrap(), b"req");
    assert_eq!(receive(&mut guest, fd, 20, 0).unwrap(), b"request");
    client.write_all(b"more").unwrap();
    assert_eq!(guest.read(fd, 2).unwrap(), b"mo");
    assert_eq!(guest.read(fd, 20).unwrap(), b"re");
    assert_eq!(send(&mut guest, fd, b"answer"), Ok(6));
    assert_eq!(guest.write(fd, b"!"), Ok(1));
    assert_eq!(call!(guest, sock_shutdown, fd, 2), SUCCESS);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer!");
    assert_eq!(send(&mut guest, fd, b"x"), Err(PIPE));
    drop(client);
    assert_eq!(receive(&mut guest, fd, 20, 0).unwrap(), b"");
    assert_eq!(receive(&mut guest, fd, 20, PEEK).unwrap(), b"");
    assert_eq!(call!(guest, fd_fdstat_get, fd, RESULT), SUCCESS);
    assert_eq!(guest.bytes(RESULT as u32, 1), [6]);
    assert_eq!(call!(guest, fd_filestat_get, LISTENER, RESULT), SUCCESS);
    assert_eq!(guest.bytes(RESULT as u32 + 16, 1), [6]);
    assert_eq!(call!(guest, fd_close, fd), SUCCESS);
}

#[test]
fn nonblocking_sockets_say_again() {
    let mut guest = Guest::new(config());
    assert_eq!(call!(guest, fd_fdstat_set_flags, LISTENER, NONBLOCK), SUCCESS);
    assert_eq!(call!(guest, sock_accept, LISTENER, 0, RESULT), AGAIN);
    let _client = connect(&guest);
    let started = Instant::now();
    while call!(guest, sock_accept, LISTENER, NONBLOCK, RESULT) == AGAIN {
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    let fd = guest.u32_at(RESULT) as i32;
    assert_eq!(receive(&mut guest, fd, 4, 0), Err(AGAIN));
    assert_eq!(receive(&mut guest, fd, 4, PEEK), Err(AGAIN));
    let block = vec![7; 64 * 1024];
    while send(&mut guest, fd, &block).is_ok() {
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(send(&mut guest, fd, &block), Err(AGAIN));
}

#[test]
fn what_is_no_socket_is_refused() {
    let (mut guest, fd, _client) = connected(config());
    let (at, count) = guest.vectors(&[(BUFFER, 4)]);
    assert_eq!(call!(guest, sock_accept, 0, 0, RESULT), NOTSOCK);
    assert_eq!(call!(guest, sock_accept, 77, 0, RESULT), BADF);
    assert_eq!(call!(guest, sock_accept, fd, 0, RESULT), INVAL);
    assert_eq!(call!(guest, sock_accept, LISTENER, 1, RESULT), INVAL);
    assert_eq!(call!(guest, sock_recv, 0, at, count, 0, RESULT, RESULT), NOTSOCK);
    assert_eq!(call!(guest, sock_recv, LISTENER, at, count, 0, RESULT, RESULT), 53);
    assert_eq!(call!(guest, sock_recv, fd, at, count, 4, RESULT, RESULT), INVAL);
    assert_eq!(call!(guest, sock_send, 1, at, count, 0, RESULT), NOTSOCK);
    assert_eq!(call!(guest, sock_send, fd, at, count, 1, RESULT), INVAL);
    assert_eq!(call!(guest, sock_shutdown, 1, 1), NOTSOCK);
    assert_eq!(call!(guest, sock_shutdown, 99, 1), BADF);
    assert_eq!(call!(guest, sock_shutdown, fd, 0), INVAL);
    assert_eq!(call!(guest, sock_shutdown, fd, 4), INVAL);
    assert_eq!(guest.read(LISTENER, 1), Err(BADF));
    assert_eq!(call!(guest, fd_seek, fd, 0_u64, 0, RESULT), SPIPE);
}

#[test]
fn blocked_calls_are_interrupted_without_loss() {
    let policy = || config().connections(Connections::Close);
    let (mut guest, fd, mut client) = connected(policy());
    let interrupt = guest.world.interrupter();
    let (at, count) = guest.vectors(&[(BUFFER, 10)]);
    client.write_all(b"12345").unwrap();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        interrupt();
        Instant::now()
    });
    // Five of ten bytes have been received when the stop is requested.
    assert_eq!(flow!(guest, sock_recv, fd, at, count, WAIT_ALL, RESULT, RESULT + 8), Flow::Reissue);
    let late = Instant::now().duration_since(thread.join().unwrap());
    assert!(late < Duration::from_millis(100), "{late:?}");
    assert_eq!(flow!(guest, sock_accept, LISTENER, 0, RESULT), Flow::Reissue);
    client.write_all(b"67890 and unread").unwrap();
    drop(client);
    std::thread::sleep(Duration::from_millis(20));
    let mut guest = guest.moved(policy());
    assert_eq!(call!(guest, sock_recv, fd, at, count, WAIT_ALL, RESULT, RESULT + 8), SUCCESS);
    assert_eq!(guest.bytes(BUFFER, 10), b"1234567890");
    assert_eq!(receive(&mut guest, fd, 100, 0).unwrap(), b" and unread");
    assert_eq!(receive(&mut guest, fd, 100, 0).unwrap(), b"", "the peer had ended it");
}

#[test]
fn open_connections_refuse_or_close() {
    let (mut guest, fd, mut client) = connected(config());
    let error = guest.world.freeze().unwrap_err();
    assert!(matches!(error, Error::NotMovable { fd: at, .. } if at == fd as u32), "{error}");
    client.write_all(b"still here").unwrap();
    assert_eq!(receive(&mut guest, fd, 10, WAIT_ALL).unwrap(), b"still here");

    let closing = || config().connections(Connections::Close);
    let (mut guest, fd, mut client) = connected(closing());
    client.write_all(b"unread").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let sections = guest.world.freeze().unwrap();
    assert_eq!(sections, {
        let again = guest.world.freeze().unwrap();
        let clocks = dunlin_host::kind::CLOCKS;
        sections
            .iter()
            .zip(again)
            .map(|(old, new)| if new.kind == clocks { old.clone() } else { new })
            .collect::<Vec<_>>()
    });
    // A freeze leaves the connection usable, in case the move does not happen.
    assert_eq!(receive(&mut guest, fd, 3, 0).unwrap(), b"unr");
    let mut moved = Guest { world: thaw(&sections, closing()), memory: guest.memory.clone() };
    assert_eq!(receive(&mut moved, fd, 100, 0).unwrap(), b"unread");
    assert_eq!(receive(&mut moved, fd, 100, 0), Err(CONNRESET));
    assert_eq!(send(&mut moved, fd, b"x"), Err(PIPE));
    assert_eq!(call!(moved, sock_shutdown, fd, 1), 53);
    // A connection that has ended can move even where open ones cannot.
    let sections = moved.world.freeze().unwrap();
    assert!(thaw(&sections, config()).freeze().is_ok());
    let few = closing().limits(Limits { carried_bytes: 2, ..Limits::default() });
    let (mut guest, _, mut client) = connected(few);
    client.write_all(b"too much").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    client.write_all(b"too much").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(matches!(guest.world.freeze(), Err(Error::NotMovable { .. })));
}

#[test]
fn listeners_listen_again() {
    let mut guest = Guest::new(config().listen("127.0.0.1:0"));
    assert_eq!(guest.world.listening().len(), 2);
    assert_eq!(call!(guest, fd_close, LISTENER), SUCCESS);
    let sections = guest.world.freeze().unwrap();
    let error = World::thaw(&sections, config()).unwrap_err();
    assert!(error.to_string().contains("listener 2"), "{error}");
    let mut guest = guest.moved(config().listen("127.0.0.1:0"));
    let mut client = connect(&guest);
    assert_eq!(call!(guest, sock_accept, LISTENER + 1, 0, RESULT), SUCCESS);
    assert_eq!(guest.u32_at(RESULT), 3, "the lowest free number");
    client.write_all(b"hello").unwrap();
    assert_eq!(receive(&mut guest, 3, 5, WAIT_ALL).unwrap(), b"hello");
    let taken = guest.world.listening()[0].to_string();
    assert!(matches!(World::new(Config::new().listen(taken)), Err(Error::Listen { .. })));
}
