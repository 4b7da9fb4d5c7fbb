//! Chunks of the service's private volume on their way, ahead of the state that names them.
//!
//! A chunk is known by the SHA-256 of its sealed bytes, so neither side believes a name, and whoever has one from an
//! earlier stay of the service need not be sent it again.

use core::fmt;

use dunlin_base::Digest;

use crate::codec::{DecodeError, Reader, Wire, Writer};

/// Most digests in one message.
pub const MAX_HELD: usize = 8192;
/// Most chunks that a destination can say it has: as many as 256 GiB have in blocks of 64 KiB. Bounds what a source keeps of
/// them in memory.
pub const MAX_HELD_CHUNKS: usize = 1 << 22;
/// Most bytes of chunks in one message: as many as the largest chunk of a volume can have.
pub const MAX_VOLUME_BYTES: usize = (1 << 20) + 4096;
/// Most chunks in one message.
const MAX_CHUNKS: usize = 4096;

/// Chunks of the service's volume that the destination has already: at least one, at most [`MAX_HELD`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VolumeHeld(pub Vec<Digest>);

impl VolumeHeld {
    /// Whether a decoder would take these.
    pub fn is_well_formed(&self) -> bool {
        (1..=MAX_HELD).contains(&self.0.len())
    }
}

impl Wire for VolumeHeld {
    const WHAT: &'static str = "chunks held";

    fn write(&self, out: &mut Writer) {
        out.list(&self.0);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let held = Self(input.list(Self::WHAT, MAX_HELD)?);
        if !held.is_well_formed() {
            return Err(DecodeError::Invalid { what: Self::WHAT, why: "a message names at least one" });
        }
        Ok(held)
    }
}

/// Sealed chunks, whole: 1 to 4096 of them, none empty, with at most [`MAX_VOLUME_BYTES`] bytes together.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct VolumeChunks(pub Vec<Vec<u8>>);

impl fmt::Debug for VolumeChunks {
    /// Sizes only: a log is no place for a volume, sealed or not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeChunks({} of {} bytes)", self.0.len(), self.bytes())
    }
}

impl VolumeChunks {
    /// The bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|chunk| chunk.len() as u64).sum()
    }

    /// Whether a decoder would take these.
    pub fn is_well_formed(&self) -> bool {
        (1..=MAX_CHUNKS).contains(&self.0.len())
            && self.bytes() <= MAX_VOLUME_BYTES as u64
            && self.0.iter().all(|chunk| !chunk.is_empty())
    }
}

impl Wire for VolumeChunks {
    const WHAT: &'static str = "volume chunks";

    fn write(&self, out: &mut Writer) {
        out.put(&(self.0.len() as u32));
        self.0.iter().for_each(|chunk| out.blob(chunk));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut chunks = Self(Vec::new());
        for _ in 0..input.count(Self::WHAT, MAX_CHUNKS)? {
            chunks.0.push(input.blob(Self::WHAT, MAX_VOLUME_BYTES)?);
        }
        if !chunks.is_well_formed() {
            let why = "1 to 4096 chunks of at least one byte, together at most 1 MiB and 4 KiB";
            return Err(DecodeError::Invalid { what: Self::WHAT, why });
        }
        Ok(chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_too_many_and_too_large_are_refused() {
        assert!(VolumeHeld::from_bytes(&VolumeHeld(Vec::new()).to_bytes()).is_err());
        assert!(VolumeHeld::from_bytes(&VolumeHeld(vec![Digest([1; 32]); MAX_HELD]).to_bytes()).is_ok());
        assert!(VolumeHeld::from_bytes(&VolumeHeld(vec![Digest([1; 32]); MAX_HELD + 1]).to_bytes()).is_err());
        let taken = |chunks: Vec<Vec<u8>>| VolumeChunks::from_bytes(&VolumeChunks(chunks).to_bytes()).is_ok();
        assert!(taken(vec![vec![1; MAX_VOLUME_BYTES]]) && taken(vec![vec![1]; MAX_CHUNKS]));
        assert!(!taken(Vec::new()) && !taken(vec![Vec::new()]) && !taken(vec![vec![1]; MAX_CHUNKS + 1]));
        assert!(!taken(vec![vec![1; MAX_VOLUME_BYTES + 1]]) && !taken(vec![vec![1; MAX_VOLUME_BYTES], vec![1]]));
    }
}
