//! Whoever keeps clients' connections open while a program moves.

use core::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A connection's name, for its whole life and on whatever host its program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub [u8; 16]);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A connection as a program leaves it behind when it is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CarriedConnection {
    /// Which.
    pub id: ConnectionId,
    /// The peer had ended its direction and the world has seen that: nothing is left to be read from the socket.
    pub ended: bool,
    /// The program had ended its own direction.
    pub shut: bool,
}

/// Keeps connections open while a program moves. Outside of the program, it moves the bytes between the client's
/// socket on the first host and the program on the present one.
///
/// What a world has read and its program has not travels in the snapshot. What is still in the socket when the world
/// is frozen is the carrier's to move: it reads and writes a duplicate of the socket from then on, as the
/// program did before.
///
/// Everything here is called by the program's thread.
pub trait Carrier: fmt::Debug + Send + Sync {
    /// The program has accepted a connection. The carrier names it, and duplicates its socket.
    ///
    /// # Errors
    /// The connection is then refused to the program, as if the system had refused it.
    fn connected(&self, listener: u32, socket: BorrowedFd<'_>) -> io::Result<ConnectionId>;

    /// A connection has moved here: the carrier gives its new socket, a stream of any kind.
    ///
    /// # Errors
    /// The connection has then ended for the program: what travelled can still be read, then it is as if the peer had
    /// gone.
    fn carried(&self, id: ConnectionId, listener: u32) -> io::Result<OwnedFd>;

    /// The program has closed a connection, or is over. Everything that it wrote is in the socket, and the end after
    /// it; the carrier closes its duplicates.
    fn closed(&self, id: ConnectionId);
}
