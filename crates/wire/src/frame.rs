//! Cuts a stream of bytes into frames, without I/O.
//!
//! ```text
//! 0  u32   length of the payload
//! 4  u8 x length
//! ```
//!
//! The length is looked at as soon as its four bytes are there. A frame that is announced as larger than the
//! receiver permits is refused then, before any of its payload is kept.

use crate::{Reader, TooLong};

/// Bytes before a frame's payload.
pub const FRAME_HEADER: usize = 4;

/// Appends `payload` as a frame to `out`.
///
/// # Errors
/// [`TooLong`] when its length does not fit 32 bits.
pub fn write_frame(out: &mut Vec<u8>, payload: &[u8]) -> Result<(), TooLong> {
    let length = u32::try_from(payload.len()).map_err(|_| TooLong { count: payload.len() as u64 })?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

/// A peer announced a frame that is too large. The stream cannot be continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer announces a frame of {length} bytes, at most {limit} are accepted: close the connection")]
pub struct FrameError {
    /// The announced length of the payload.
    pub length: u32,
    /// What is permitted.
    pub limit: u32,
}

/// Collects received bytes and hands out whole frames.
///
/// It holds what was received and not yet handed out, and never reserves room for bytes that did not arrive.
#[derive(Debug, Clone)]
pub struct Frames {
    received: Vec<u8>,
    taken: usize,
    limit: u32,
}

impl Frames {
    /// Accepts frames whose payload has at most `limit` bytes.
    pub fn new(limit: u32) -> Self {
        Self { received: Vec::new(), taken: 0, limit }
    }

    /// Adds received bytes. Call [`Frames::next_frame`] until it gives `None` before adding more: then at most one
    /// frame and the last piece added are held.
    pub fn push(&mut self, bytes: &[u8]) {
        self.received.drain(..self.taken);
        self.taken = 0;
        self.received.extend_from_slice(bytes);
    }

    /// The payload of the next frame, if all of it has arrived.
    ///
    /// # Errors
    /// [`FrameError`] when the next frame is announced as too large, again at every further call.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let mut reader = Reader::new(self.received.get(self.taken..).unwrap_or_default());
        let Ok(length) = reader.u32() else { return Ok(None) };
        if length > self.limit {
            return Err(FrameError { length, limit: self.limit });
        }
        let Ok(payload) = reader.bytes(u64::from(length)) else { return Ok(None) };
        self.taken += FRAME_HEADER + payload.len();
        Ok(Some(payload))
    }

    /// Whether no part of a frame is waiting: the stream may end here.
    pub fn is_at_boundary(&self) -> bool {
        self.taken == self.received.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(payloads: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        payloads.iter().for_each(|payload| write_frame(&mut out, payload).unwrap());
        out
    }

    #[test]
    fn frames_survive_every_way_to_cut_the_stream() {
        let payloads: [&[u8]; 4] = [b"first", b"", b"x", b"the last one"];
        let bytes = stream(&payloads);
        for piece in 1..=bytes.len() {
            let mut frames = Frames::new(12);
            let mut seen = Vec::new();
            for part in bytes.chunks(piece) {
                frames.push(part);
                while let Some(payload) = frames.next_frame().unwrap() {
                    seen.push(payload.to_vec());
                }
            }
            assert_eq!(seen, payloads, "pieces of {piece}");
            assert!(frames.is_at_boundary());
        }
    }

    #[test]
    fn a_frame_above_the_limit_is_refused_from_its_header() {
        let mut frames = Frames::new(4);
        frames.push(&stream(&[b"okay"]));
        frames.push(&u32::MAX.to_le_bytes()[..3]);
        assert_eq!(frames.next_frame(), Ok(Some(&b"okay"[..])));
        assert_eq!(frames.next_frame(), Ok(None));
        assert!(!frames.is_at_boundary());
        frames.push(&[0xff]);
        let refused = Err(FrameError { length: u32::MAX, limit: 4 });
        assert_eq!(frames.next_frame(), refused);
        assert_eq!(frames.next_frame(), refused);
        assert!(frames.received.capacity() < 64, "nothing was reserved for the announced length");
    }
}
