//! The socket between a node and a keep: packets and their descriptors, in one piece or not at all.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::packet::{MAX_DESCRIPTORS, MAX_PACKET, Packet};

/// One end of a `SOCK_SEQPACKET` pair. A packet and its descriptors arrive together or not at all, so that no
/// descriptor can be taken for another packet's.
///
/// Blocks unless the socket was made non-blocking; then a call that would block gives
/// [`std::io::ErrorKind::WouldBlock`], and a runtime can wait for the descriptor.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What came.
#[derive(Debug)]
pub struct Received {
    /// The packet's bytes, at most [`MAX_PACKET`].
    pub bytes: Vec<u8>,
    /// The descriptors beside it, closed on `exec`.
    pub descriptors: Vec<OwnedFd>,
}

/// The link cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The system says no.
    #[error("the socket between node and keep failed")]
    Io(#[from] std::io::Error),
    /// The other side sent more than a packet may have. What of it came is thrown away.
    #[error("the other side sent a packet with more than {MAX_PACKET} bytes or {MAX_DESCRIPTORS} descriptors")]
    Truncated,
}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl Channel {
    /// Two ends. Both are closed on `exec`.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn pair() -> Result<(Self, Self), ChannelError> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // A packet goes in one piece or not at all, and the system's usual buffer is too small for the largest.
        for end in [&one, &other] {
            set_socket_send_buffer_size(end, MAX_PACKET)?;
        }
        Ok((Self(one), Self(other)))
    }

    /// The end behind a descriptor.
    ///
    /// # Errors
    /// When it is not a `SOCK_SEQPACKET` socket.
    pub fn new(descriptor: OwnedFd) -> Result<Self, ChannelError> {
        if rustix::net::sockopt::socket_type(&descriptor)? != SocketType::SEQPACKET {
            return Err(Errno::PROTOTYPE.into());
        }
        Ok(Self(descriptor))
    }

    /// The descriptor.
    pub fn into_descriptor(self) -> OwnedFd {
        self.0
    }

    /// Sends a packet with the descriptors that belong to it, in their order.
    ///
    /// # Errors
    /// When the other end is gone (`BrokenPipe`, `ConnectionReset`), and as the system says.
    pub fn send(&self, packet: &Packet, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Errno::INVAL.into());
        }
        loop {
            match sendmsg(&self.0, &[IoSlice::new(packet.bytes())], &mut ancillary, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                sent => return Ok(sent.map(drop)?),
            }
        }
    }

    /// Receives the next packet; `None` once the other end is closed.
    ///
    /// # Errors
    /// [`ChannelError::Truncated`], and as the system says.
    pub fn receive(&self) -> Result<Option<Received>, ChannelError> {
        let Some(length) = self.next_length()? else { return Ok(None) };
        let mut bytes = vec![0; length.min(MAX_PACKET)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut into = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
                received => break received?,
            }
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(ChannelError::Truncated);
        }
        if received.bytes == 0 && descriptors.is_empty() {
            return Ok(None);
        }
        bytes.truncate(received.bytes);
        Ok(Some(Received { bytes, descriptors }))
    }

    /// How long the next packet is, from the system, not from the other side.
    fn next_length(&self) -> Result<Option<usize>, ChannelError> {
        loop {
            match rustix::net::recv(&self.0, &mut [0_u8; 0], RecvFlags::PEEK | RecvFlags::TRUNC) {
                Err(Errno::INTR) => {}
                // What a socket says whose other end was closed with packets unread.
                Err(Errno::CONNRESET) => return Ok(None),
                length => return Ok(Some(length?.1)),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
