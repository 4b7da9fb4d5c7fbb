//! What the serving guests share: the inherited listener, one poll over everything, and buffers that do not move.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Duration;

/// Where the host puts the listening socket: after the three standard streams, if it offers no directories.
const LISTENER: i32 = 3;

/// What one read takes at most.
const CHUNK: usize = 64 << 10;

/// Times that one connection is answered before it is the turn of the others.
const TURNS: usize = 16;

/// Connections that one poll may accept, so that those that are there are not forgotten over those that come.
const ACCEPTS: usize = 64;

/// One connection: bytes that came and were not used yet, and bytes to send.
pub struct Peer {
    stream: TcpStream,
    pub input: Queue,
    pub output: Queue,
    /// More may come.
    pub open: bool,
    /// It is to be closed once the output is sent.
    pub done: bool,
}

/// A byte queue. What is taken from the front is only moved away when it is the larger part.
#[derive(Default)]
pub struct Queue {
    bytes: Vec<u8>,
    start: usize,
}

impl Queue {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Where to append.
    pub fn sink(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}

/// What a service does with its connections.
pub trait Service {
    /// What it keeps about each connection.
    type State: Default;

    /// Uses what is in `peer.input` and appends to `peer.output`. It is called again when more has come, and when
    /// the output has been sent.
    fn step(&mut self, peer: &mut Peer, state: &mut Self::State);

    /// How long the service can wait before `tick` has something to do. Nothing: for ever.
    fn patience(&self) -> Option<Duration>;

    /// What is due now.
    fn tick(&mut self);
}

/// Serves the inherited listener for ever: one thread, nothing blocks but the poll.
pub fn serve<S: Service>(service: &mut S) -> io::Result<()> {
    // SAFETY: the program was started with this descriptor open for it, and takes it only here.
    let listener = unsafe { TcpListener::from_raw_fd(LISTENER) };
    listener.set_nonblocking(true)?;
    let mut clients: Vec<(Peer, S::State)> = Vec::new();
    // Without descriptors left, newcomers wait in the queue of the listener until somebody leaves.
    let mut full = false;
    let mut polled = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        polled.clear();
        let entry = |fd, events| libc::pollfd { fd, events, revents: 0 };
        polled.extend(clients.iter().map(|(peer, _)| entry(peer.stream.as_raw_fd(), peer.interest())));
        if !full {
            polled.push(entry(listener.as_raw_fd(), libc::POLLIN));
        }
        wait(&mut polled, service.patience())?;
        service.tick();
        let before = clients.len();
        let mut ready = polled.iter().map(|entry| entry.revents != 0);
        clients.retain_mut(|(peer, state)| {
            let ready = ready.next().unwrap_or(true);
            // A client that fails is gone; the others do not notice.
            !ready || peer.advance(service, state, &mut chunk).unwrap_or(false)
        });
        if ready.next().unwrap_or(false) {
            for _ in 0..ACCEPTS {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(true)?;
                        _ = stream.set_nodelay(true);
                        clients.push((Peer::new(stream), S::State::default()));
                    }
                    Err(error) if transient(&error) => break,
                    Err(error) if exhausted(&error) && !clients.is_empty() => {
                        full = true;
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        full &= clients.len() >= before;
    }
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        Self { stream, input: Queue::default(), output: Queue::default(), open: true, done: false }
    }

    /// Who does not read answers gets no more of them.
    fn interest(&self) -> i16 {
        if self.output.is_empty() { libc::POLLIN } else { libc::POLLOUT }
    }

    /// Reads, answers and writes as much as is possible now. False if the client is done with.
    fn advance<S: Service>(&mut self, service: &mut S, state: &mut S::State, chunk: &mut [u8]) -> io::Result<bool> {
        if self.output.is_empty() && self.open {
            match self.stream.read(chunk) {
                Ok(0) => self.open = false,
                Ok(length) => self.input.sink().extend_from_slice(&chunk[..length]),
                Err(error) if transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
        for turn in 0.. {
            if self.output.is_empty() && !self.done {
                service.step(self, state);
            }
            if self.output.is_empty() {
                break;
            }
            if turn == TURNS {
                return Ok(true);
            }
            match self.stream.write(self.output.bytes()) {
                Ok(0) => return Ok(false),
                Ok(length) => self.output.consume(length),
                Err(error) if transient(&error) => return Ok(true),
                Err(error) => return Err(error),
            }
            if !self.output.is_empty() {
                return Ok(true);
            }
        }
        Ok(self.open && !self.done)
    }
}

/// Whether it may work the next time.
pub fn transient(error: &io::Error) -> bool {
    // A client that left before it was accepted is nobody's loss.
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted)
}

/// Whether there are no descriptors left.
fn exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Waits until a socket has news or the time is over.
fn wait(polled: &mut [libc::pollfd], patience: Option<Duration>) -> io::Result<()> {
    // Rounded up: a moment too early would be for nothing.
    let millis = patience.map_or(-1, |time| i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
    // SAFETY: the pointer and the length are those of one live slice of pollfd.
    let result = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, millis) };
    if result >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if transient(&error) { Ok(()) } else { Err(error) }
}
