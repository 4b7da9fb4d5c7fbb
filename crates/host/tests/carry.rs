//! Connections that stay open while their program moves: real sockets, and a carrier that relays as a node does.

mod support;

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dunlin_host::{Carrier, Config, ConnectionId, Connections, kind};
use support::*;

const LISTENER: i32 = 3;
const PEEK: i32 = 1;

/// What a node knows about its keep's connections.
#[derive(Debug, Default)]
struct Node {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    named: u8,
    /// Duplicates of the sockets that the program uses.
    duplicates: Vec<(ConnectionId, u32, OwnedFd)>,
    /// The node's ends of the pairs of connections that moved here.
    ends: Vec<(ConnectionId, UnixStream)>,
    closed: Vec<ConnectionId>,
    refuses: bool,
}

impl Carrier for Node {
    fn connected(&self, listener: u32, socket: BorrowedFd<'_>) -> io::Result<ConnectionId> {
        let mut state = self.state.lock().unwrap();
        state.named += 1;
        let id = ConnectionId([state.named; 16]);
        state.duplicates.push((id, listener, socket.try_clone_to_owned()?));
        Ok(id)
    }

    fn carried(&self, id: ConnectionId, listener: u32) -> io::Result<OwnedFd> {
        let mut state = self.state.lock().unwrap();
        if state.refuses {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (keep, node) = UnixStream::pair()?;
        state.duplicates.push((id, listener, keep.try_clone()?.into()));
        state.ends.push((id, node));
        Ok(keep.into())
    }

    fn closed(&self, id: ConnectionId) {
        let mut state = self.state.lock().unwrap();
        state.duplicates.retain(|(other, ..)| *other != id);
        state.closed.push(id);
    }
}

impl Node {
    fn duplicate(&self, id: ConnectionId) -> TcpStream {
        let state = self.state.lock().unwrap();
        let (.., socket) = state.duplicates.iter().find(|(other, ..)| *other == id).unwrap();
        let stream = TcpStream::from(socket.try_clone().unwrap());
        stream.set_nonblocking(false).unwrap();
        stream
    }

    fn end(&self, id: ConnectionId) -> TcpStream {
        let mut state = self.state.lock().unwrap();
        let at = state.ends.iter().position(|(other, _)| *other == id).unwrap();
        TcpStream::from(OwnedFd::from(state.ends.remove(at).1))
    }
}

/// Relays both directions until both have ended.
fn relay(one: &TcpStream, other: &TcpStream) -> [JoinHandle<()>; 2] {
    let pump = |from: &TcpStream, to: &TcpStream| {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        })
    };
    [pump(one, other), pump(other, one)]
}

fn node() -> Arc<Node> {
    Arc::new(Node::default())
}

fn config(node: &Arc<Node>) -> Config {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    Config::new().listener(Arc::new(listener.into())).carrier(node.clone())
}

/// A program with an accepted connection, and its client.
fn connected(node: &Arc<Node>) -> (Guest, i32, TcpStream, ConnectionId) {
    let mut guest = Guest::new(config(node));
    let client = TcpStream::connect(guest.world.listening()[0]).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(call!(guest, sock_accept, LISTENER, 0, RESULT), SUCCESS);
    let fd = guest.u32_at(RESULT) as i32;
    let id = guest.world.carried().first().unwrap().id;
    (guest, fd, client, id)
}

/// Moves the program from one node to another, with the relay that this takes.
fn moved(guest: Guest, from: &Arc<Node>, to: &Arc<Node>, id: ConnectionId) -> (Guest, [JoinHandle<()>; 2]) {
    let left = from.duplicate(id);
    let guest = guest.moved(config(to));
    let threads = relay(&left, &to.end(id));
    (guest, threads)
}

fn read_exactly(guest: &mut Guest, fd: i32, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let read = guest.read(fd, (len - bytes.len()) as u32).unwrap();
        assert!(!read.is_empty(), "the connection ended after {} of {len} bytes", bytes.len());
        bytes.extend(read);
    }
    bytes
}

#[test]
fn nothing_is_lost_or_doubled_over_three_moves() {
    let (first, second) = (node(), node());
    let (mut guest, fd, mut client, id) = connected(&first);
    let mut answers = client.try_clone().unwrap();
    let mut threads = Vec::new();
    let mut number = 0_u32;
    for hop in 0..4 {
        for _ in 0..20 {
            client.write_all(&number.to_le_bytes()).unwrap();
            assert_eq!(read_exactly(&mut guest, fd, 4), number.to_le_bytes());
            assert_eq!(guest.write(fd, &number.to_le_bytes()), Ok(4));
            number += 1;
        }
        // Read by the world and not by the program; in the socket; and an answer that nobody has fetched.
        client.write_all(b"peeked").unwrap();
        let (at, count) = guest.vectors(&[(BUFFER, 6)]);
        assert_eq!(call!(guest, sock_recv, fd, at, count, PEEK, RESULT, RESULT + 8), SUCCESS);
        client.write_all(b"unread").unwrap();
        assert_eq!(guest.write(fd, b"sent"), Ok(4));
        if hop < 3 {
            // A return to the first node is one more hop: what is on the way stays in order.
            let (from, to) = if hop % 2 == 0 { (&first, &second) } else { (&second, &first) };
            if hop == 1 {
                // The duplicate of the first stay has done its work: the next one is that of the second.
                first.state.lock().unwrap().duplicates.clear();
            }
            if hop == 2 {
                second.state.lock().unwrap().duplicates.clear();
            }
            let (arrived, relays) = moved(guest, from, to, id);
            guest = arrived;
            threads.extend(relays);
        }
        assert_eq!(read_exactly(&mut guest, fd, 12), b"peekedunread");
        let mut expected: Vec<u8> = (number - 20..number).flat_map(u32::to_le_bytes).collect();
        expected.extend(b"sent");
        let mut received = vec![0; expected.len()];
        answers.read_exact(&mut received).unwrap();
        assert_eq!(received, expected, "hop {hop}");
    }
    assert_eq!(call!(guest, fd_close, fd), SUCCESS);
    drop(guest);
    let mut rest = Vec::new();
    answers.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    drop((client, answers));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(second.state.lock().unwrap().closed, [id]);
}

#[test]
fn a_client_that_has_ended_its_direction_gets_its_answer_after_the_move() {
    let (first, second) = (node(), node());
    let (mut guest, fd, mut client, id) = connected(&first);
    client.write_all(b"the last request").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_exactly(&mut guest, fd, 3), b"the");
    let (mut guest, threads) = moved(guest, &first, &second, id);
    assert_eq!(read_exactly(&mut guest, fd, 13), b" last request");
    assert_eq!(guest.read(fd, 10).unwrap(), b"");
    assert_eq!(guest.write(fd, b"the answer"), Ok(10));
    assert!(guest.world.carried()[0].ended);
    assert_eq!(call!(guest, fd_close, fd), SUCCESS);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "the answer");
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_program_that_has_ended_its_direction_still_hears_its_client() {
    let (first, second) = (node(), node());
    let (mut guest, fd, mut client, id) = connected(&first);
    assert_eq!(guest.write(fd, b"goodbye"), Ok(7));
    assert_eq!(call!(guest, sock_shutdown, fd, 2), SUCCESS);
    assert!(guest.world.carried()[0].shut);
    let (mut guest, threads) = moved(guest, &first, &second, id);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "goodbye");
    assert_eq!(guest.write(fd, b"x"), Err(PIPE), "it stays shut");
    client.write_all(b"still here").unwrap();
    assert_eq!(read_exactly(&mut guest, fd, 10), b"still here");
    drop(client);
    assert_eq!(guest.read(fd, 10).unwrap(), b"");
    drop(guest);
    second.state.lock().unwrap().duplicates.clear();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn closing_reaches_the_client_although_the_node_has_the_socket_too() {
    let first = node();
    let (mut guest, fd, mut client, id) = connected(&first);
    let held = first.duplicate(id);
    assert_eq!(guest.write(fd, b"all"), Ok(3));
    assert_eq!(call!(guest, fd_close, fd), SUCCESS);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "all");
    assert_eq!(first.state.lock().unwrap().closed, [id]);
    assert_eq!(guest.world.carried(), []);
    drop(held);
}

#[test]
fn a_program_that_is_over_ends_its_connections_and_one_that_moved_does_not() {
    let first = node();
    let (mut guest, _, client, id) = connected(&first);
    let sections = guest.world.freeze().unwrap();
    drop(guest);
    client.set_nonblocking(true).unwrap();
    let open = (&client).read(&mut [0; 1]);
    assert!(matches!(open, Err(error) if error.kind() == io::ErrorKind::WouldBlock), "the client notices nothing");
    client.set_nonblocking(false).unwrap();
    assert_eq!(first.state.lock().unwrap().closed, []);
    let second = node();
    let mut arrived = thaw(&sections, config(&second));
    arrived.close_connections();
    assert_eq!(second.state.lock().unwrap().closed, [id]);
}

#[test]
fn without_a_carrier_at_the_new_host_what_travelled_can_still_be_read() {
    let refusing = node();
    refusing.state.lock().unwrap().refuses = true;
    let listener = || Config::new().listener(Arc::new(TcpListener::bind("127.0.0.1:0").unwrap().into()));
    for there in [listener().connections(Connections::Carry), config(&refusing)] {
        let first = node();
        let (mut guest, fd, mut client, _) = connected(&first);
        client.write_all(b"unread").unwrap();
        let (at, count) = guest.vectors(&[(BUFFER, 6)]);
        assert_eq!(call!(guest, sock_recv, fd, at, count, PEEK | 2, RESULT, RESULT + 8), SUCCESS);
        let mut guest = guest.moved(there);
        assert_eq!(guest.read(fd, 10).unwrap(), b"unread");
        assert_eq!(guest.read(fd, 10), Err(CONNRESET));
        assert_eq!(guest.write(fd, b"x"), Err(PIPE));
    }
}

#[test]
fn a_damaged_section_opens_nothing() {
    let first = node();
    let (mut guest, _, _client, _) = connected(&first);
    let sections = guest.world.freeze().unwrap();
    let carried = sections.iter().position(|section| section.kind == kind::CARRIED).unwrap();
    for length in 0..sections[carried].bytes.len() {
        let mut cut = sections.clone();
        cut[carried].bytes.truncate(length);
        let second = node();
        assert!(dunlin_host::World::thaw(&cut, config(&second)).is_err(), "cut to {length}");
        assert!(second.state.lock().unwrap().ends.is_empty());
    }
}

#[test]
fn an_offered_listener_may_be_of_another_kind_and_shared() {
    let dir = TempDir::new();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let shared = Arc::new(OwnedFd::from(listener));
    let mut guest = Guest::new(Config::new().listener(shared.clone()));
    let mut client = UnixStream::connect(&path).unwrap();
    assert_eq!(call!(guest, sock_accept, LISTENER, 0, RESULT), SUCCESS);
    let fd = guest.u32_at(RESULT) as i32;
    client.write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&mut guest, fd, 5), b"hello");
    drop(guest);
    // It belongs to whoever offered it: a program that leaves does not end it.
    let _waiting = UnixStream::connect(&path).unwrap();
    let mut guest = Guest::new(Config::new().listener(shared));
    assert_eq!(call!(guest, sock_accept, LISTENER, 0, RESULT), SUCCESS);
}
