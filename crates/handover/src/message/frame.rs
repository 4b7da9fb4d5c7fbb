//! Frames: a message with its length, version, sequence number and tag, and the link that keeps them in order.
//!
//! ```text
//!   offset  size
//!        0     4  length of everything after this field
//!        4     2  protocol version
//!        6     1  kind
//!        7     1  zero
//!        8     8  sequence number, from 0 in each direction of each link
//!       16     n  body
//!   16 + n    16  tag, made by the guard over everything before it
//! ```

use core::fmt;
use std::collections::VecDeque;

use dunlin_base::{Digest, Hasher, PAGE_SIZE};

use super::body::Message;
use super::pages::MAX_PAGES;
use crate::codec::{DecodeError, Reader, Writer};

/// Largest frame in bytes, with its length field. A reader allocates no more, whatever a length says.
pub const MAX_FRAME: usize = MAX_PAGES as usize * PAGE_SIZE + 128 * 1024;

const HEADER: usize = 16;
const TAG: usize = 16;

/// Bytes that are not the next frame of this link. The link is unusable from there on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length is impossible.
    #[error("a frame of {length} bytes is not between {} and {MAX_FRAME} bytes long", HEADER + TAG)]
    Length {
        /// The claimed or given length.
        length: u64,
    },
    /// The given bytes are not one whole frame.
    #[error("the frame says {claimed} bytes, {given} were given")]
    Cut {
        /// What the length field says.
        claimed: usize,
        /// What came.
        given: usize,
    },
    /// Dropped, repeated or reordered.
    #[error("frame {found} came where {expected} was due: something on the way dropped, repeated or reordered frames")]
    Sequence {
        /// The next sequence number.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// Changed on the way, or from another link.
    #[error("frame {sequence} is not authentic: it was changed on the way or belongs to another link")]
    Tag {
        /// Its sequence number.
        sequence: u64,
    },
    /// A version that was not agreed on.
    #[error("the frame has protocol version {found}, agreed was {agreed}")]
    Version {
        /// What came.
        found: u16,
        /// What was negotiated.
        agreed: u16,
    },
    /// Authentic, in order, and nonsense.
    #[error("frame {sequence} cannot be decoded")]
    Decode {
        /// Its sequence number.
        sequence: u64,
        /// What is wrong.
        #[source]
        source: DecodeError,
    },
}

/// The protocol versions that a side speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Versions {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

impl Versions {
    /// What this program speaks. Version 1 has no messages for volumes: their contents travel with the state. Up to version 2
    /// a destination does not say which pages are in place, and its source sends them in post-copy as fast as it can.
    pub const SUPPORTED: Self = Self { oldest: 1, newest: 3 };

    /// The newest version that both speak.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest && newest >= other.oldest).then_some(newest)
    }
}

/// Which end of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The source of the migration.
    Source,
    /// Its destination.
    Destination,
}

/// Authenticates frames. Encryption is the channel's business; this is where a side makes sure that what it takes
/// is what the other side of *this* channel sent, in that order.
pub trait Guard: fmt::Debug + Send {
    /// The tag of the next frame to send.
    fn seal(&mut self, frame: &[u8]) -> [u8; 16];

    /// Whether `tag` is the right one for the next frame received.
    fn open(&mut self, frame: &[u8], tag: [u8; 16]) -> bool;
}

/// A keyed chain of SHA-256 over everything that was sent in one direction. Costs one hash of every byte.
#[derive(Clone)]
pub struct HashChain {
    sent: Digest,
    received: Digest,
}

impl HashChain {
    /// `secret` is known to the two ends of this channel only (its exporter value).
    pub fn new(secret: &[u8; 32], role: Role) -> Self {
        let direction = |name: &[u8]| {
            let mut hasher = Hasher::default();
            hasher.update(b"dunlin link 1\0");
            hasher.update(secret);
            hasher.update(name);
            hasher.finish()
        };
        let (forth, back) = (direction(b"source"), direction(b"destination"));
        match role {
            Role::Source => Self { sent: forth, received: back },
            Role::Destination => Self { sent: back, received: forth },
        }
    }

    fn next(chain: Digest, frame: &[u8]) -> (Digest, [u8; 16]) {
        let mut hasher = Hasher::default();
        hasher.update(&chain.0);
        hasher.update(frame);
        let Digest(bytes) = hasher.finish();
        // One half is the tag and public, the other carries the chain and stays secret.
        let (mut tag, mut carried) = ([0; 16], Hasher::default());
        tag.copy_from_slice(&bytes[..16]);
        carried.update(&chain.0);
        carried.update(&bytes[16..]);
        (carried.finish(), tag)
    }
}

impl fmt::Debug for HashChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashChain(..)")
    }
}

impl Guard for HashChain {
    fn seal(&mut self, frame: &[u8]) -> [u8; 16] {
        let (chain, tag) = Self::next(self.sent, frame);
        self.sent = chain;
        tag
    }

    fn open(&mut self, frame: &[u8], tag: [u8; 16]) -> bool {
        let (chain, expected) = Self::next(self.received, frame);
        self.received = chain;
        // All bytes, always: the time must not tell how many were right.
        expected.iter().zip(tag).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }
}

/// For a channel that authenticates every byte itself and ends in this process (TLS): tags are zero.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChannelGuard;

impl Guard for ChannelGuard {
    fn seal(&mut self, _: &[u8]) -> [u8; 16] {
        [0; 16]
    }

    fn open(&mut self, _: &[u8], tag: [u8; 16]) -> bool {
        tag == [0; 16]
    }
}

/// One end of a channel: numbers and tags what goes out, checks what comes in.
#[derive(Debug)]
pub struct Link {
    guard: Box<dyn Guard>,
    version: u16,
    sent: u64,
    received: u64,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    bytes: u64,
}

impl Link {
    /// A fresh end. `version` is that of the first message, before one is agreed on.
    pub fn new(guard: Box<dyn Guard>, version: u16) -> Self {
        Self { guard, version, sent: 0, received: 0, queue: VecDeque::new(), queued: 0, bytes: 0 }
    }

    /// From here on frames must have this version.
    pub fn agree(&mut self, version: u16) {
        self.version = version;
    }

    /// The version that was agreed on, or that of the first message.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Queues a message.
    pub fn send(&mut self, message: &Message) {
        let mut out = Writer::default();
        out.put(&0u32);
        out.put(&self.version);
        out.put(&message.kind());
        out.put(&0u8);
        out.put(&self.sent);
        message.write_body(&mut out);
        let mut frame = out.finish();
        let length = (frame.len() - 4 + TAG) as u32;
        frame[..4].copy_from_slice(&length.to_le_bytes());
        let tag = self.guard.seal(&frame);
        frame.extend_from_slice(&tag);
        self.sent += 1;
        self.bytes += frame.len() as u64;
        self.queued += frame.len();
        self.queue.push_back(frame);
    }

    /// The next frame to send.
    pub fn poll(&mut self) -> Option<Vec<u8>> {
        let frame = self.queue.pop_front()?;
        self.queued -= frame.len();
        Some(frame)
    }

    /// Bytes that wait to be polled.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Bytes sent or queued since the start.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next frame. Authenticity and order are checked before anything is decoded.
    ///
    /// # Errors
    /// [`FrameError`]; the link must not be used afterwards.
    pub fn receive(&mut self, frame: &[u8]) -> Result<Message, FrameError> {
        let length = Self::frame_length(frame)?;
        if length != frame.len() {
            return Err(FrameError::Cut { claimed: length, given: frame.len() });
        }
        let cut = FrameError::Length { length: frame.len() as u64 };
        let (signed, tag) = frame.split_last_chunk::<TAG>().ok_or(cut)?;
        let mut input = Reader::new(signed);
        let header = |input: &mut Reader<'_>| -> Result<_, DecodeError> {
            let _length: u32 = input.take()?;
            Ok((input.take::<u16>()?, input.take::<u8>()?, input.take::<u8>()?, input.take::<u64>()?))
        };
        let expected = self.received;
        let decode = |source| FrameError::Decode { sequence: expected, source };
        let (version, kind, zero, sequence) = header(&mut input).map_err(decode)?;
        if sequence != expected {
            return Err(FrameError::Sequence { expected, found: sequence });
        }
        if !self.guard.open(signed, *tag) {
            return Err(FrameError::Tag { sequence });
        }
        self.received += 1;
        // The first message of either side is read in whatever version it comes: it is what agrees on one.
        if sequence != 0 && version != self.version {
            return Err(FrameError::Version { found: version, agreed: self.version });
        }
        if zero != 0 {
            return Err(decode(DecodeError::Unknown { what: "reserved byte", value: zero.into() }));
        }
        let message = Message::read_body(kind, &mut input).map_err(decode)?;
        input.finish("message").map_err(decode)?;
        if message.since() > version {
            return Err(decode(DecodeError::Unknown { what: "message kind in this version", value: kind.into() }));
        }
        Ok(message)
    }

    /// Reads the length field of a frame: how many bytes the frame has, with the length field. At least the first
    /// four bytes must be there.
    ///
    /// # Errors
    /// [`FrameError::Length`] when no frame can have this length.
    pub fn frame_length(start: &[u8]) -> Result<usize, FrameError> {
        let claimed = start.first_chunk().map(|bytes| u64::from(u32::from_le_bytes(*bytes)) + 4);
        let length = claimed.ok_or(FrameError::Length { length: start.len() as u64 })?;
        match usize::try_from(length) {
            Ok(length) if (HEADER + TAG..=MAX_FRAME).contains(&length) => Ok(length),
            _ => Err(FrameError::Length { length }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Link, Link) {
        let end = |role| Link::new(Box::new(HashChain::new(&[7; 32], role)), 1);
        (end(Role::Source), end(Role::Destination))
    }

    fn frames(link: &mut Link, count: u64) -> Vec<Vec<u8>> {
        (0..count).for_each(|token| link.send(&Message::Ping(token)));
        core::iter::from_fn(|| link.poll()).collect()
    }

    #[test]
    fn messages_cross_in_order() {
        let (mut here, mut there) = pair();
        for (token, frame) in frames(&mut here, 5).iter().enumerate() {
            assert_eq!(there.receive(frame), Ok(Message::Ping(token as u64)));
        }
        assert_eq!(here.queued(), 0);
    }

    #[test]
    fn m11_dropped_repeated_and_reordered_frames_are_refused() {
        let (mut here, _) = pair();
        let frames = frames(&mut here, 3);
        let refused = |order: &[usize], expected, found| {
            let mut there = pair().1;
            let (last, first) = order.split_last().unwrap();
            first.iter().for_each(|index| assert!(there.receive(&frames[*index]).is_ok()));
            assert_eq!(there.receive(&frames[*last]), Err(FrameError::Sequence { expected, found }));
        };
        refused(&[0, 2], 1, 2);
        refused(&[0, 0], 1, 0);
        refused(&[1], 0, 1);
    }

    #[test]
    fn m11_every_changed_bit_is_refused() {
        let (mut here, _) = pair();
        let frame = frames(&mut here, 1).remove(0);
        for bit in 0..frame.len() * 8 {
            let mut changed = frame.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(pair().1.receive(&changed).is_err(), "bit {bit}");
        }
        for length in 0..frame.len() {
            assert!(pair().1.receive(&frame[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn m11_frames_of_another_link_or_direction_are_refused() {
        let (mut here, mut there) = pair();
        let frame = frames(&mut here, 1).remove(0);
        let mut other = Link::new(Box::new(HashChain::new(&[8; 32], Role::Destination)), 1);
        assert_eq!(other.receive(&frame), Err(FrameError::Tag { sequence: 0 }));
        assert_eq!(here.receive(&frame), Err(FrameError::Tag { sequence: 0 }));
        assert!(there.receive(&frame).is_ok());
    }

    #[test]
    fn versions_meet_at_the_newest_common_one() {
        let versions = |oldest, newest| Versions { oldest, newest };
        assert_eq!(versions(1, 2).common(versions(1, 1)), Some(1));
        assert_eq!(versions(2, 3).common(versions(1, 2)), Some(2));
        assert_eq!(versions(2, 3).common(versions(3, 4)), Some(3));
        assert_eq!(versions(3, 4).common(versions(1, 2)), None);
        assert_eq!(Versions::SUPPORTED.common(Versions::SUPPORTED), Some(3));
        assert_eq!(Versions::SUPPORTED.common(versions(1, 1)), Some(1));
    }

    #[test]
    fn a_frame_of_another_version_than_agreed_is_refused() {
        let (mut here, mut there) = pair();
        here.send(&Message::Ping(0));
        here.agree(2);
        here.send(&Message::Ping(1));
        assert!(there.receive(&here.poll().unwrap()).is_ok());
        assert_eq!(there.receive(&here.poll().unwrap()), Err(FrameError::Version { found: 2, agreed: 1 }));
    }

    #[test]
    fn a_message_that_the_agreed_version_does_not_have_is_refused() {
        use crate::message::VolumeHeld;
        let held = Message::VolumeHeld(VolumeHeld(vec![Digest([1; 32])]));
        for (version, taken) in [(1, false), (2, true)] {
            let (mut here, mut there) = pair();
            here.agree(version);
            there.agree(version);
            here.send(&held);
            let received = there.receive(&here.poll().unwrap());
            assert_eq!(received.is_ok(), taken, "{received:?}");
        }
    }
}
