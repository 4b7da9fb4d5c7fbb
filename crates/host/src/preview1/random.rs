//! Random numbers: a ChaCha20 stream. State: what makes the stream of the next host differ from all others.
//!
//! The key is never in a snapshot. A freeze carries a hash of it, and the thaw hashes that together with fresh bytes
//! from its system: two continuations of one snapshot differ, and a host whose system gives predictable bytes still
//! cannot predict the stream unless it also reads the snapshot. Under [`Source::Deterministic`] seed and position are
//! the state.

use std::fmt;

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};
use dunlin_base::Digest;
use dunlin_snapshot::HostSection;

use crate::codec::{CodecError, Reader, Writer};
use crate::config::Source;
use crate::error::Error;
use crate::memory::Memory;
use crate::preview1::{Break, Params};
use crate::sections::{Frozen, Sections, kind};
use crate::world::World;

/// What the hash of a key that travels begins with.
const CARRY: &[u8] = b"dunlin random carry 1\0";

/// What the hash that makes a key begins with.
const KEY: &[u8] = b"dunlin random key 1\0";

/// What the hash that makes a key of a seed begins with.
const SEED: &[u8] = b"dunlin insecure seed 1\0";

/// The stream at a freeze.
enum RandomV1 {
    /// A hash of the key.
    Carry([u8; 32]),
    /// A deterministic stream and how many 32-bit words it has given.
    Deterministic { seed: u64, position: u128 },
}

/// The first position that a stream does not have: it has 2^64 blocks of 16 words.
const POSITIONS: u128 = 1 << 68;

impl Frozen for RandomV1 {
    const KIND: u16 = kind::RANDOM;
    const VERSION: u16 = 1;

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Carry(carry) => {
                writer.flag(false);
                writer.array(carry);
            }
            Self::Deterministic { seed, position } => {
                writer.flag(true);
                writer.u64(*seed);
                writer.u128(*position);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        if !reader.flag("kind of random numbers")? {
            return Ok(Self::Carry(reader.array()?));
        }
        let (seed, position) = (reader.u64()?, reader.u128()?);
        if position >= POSITIONS {
            return Err(reader.invalid("position"));
        }
        Ok(Self::Deterministic { seed, position })
    }
}

/// A program's random numbers.
pub(crate) struct Random {
    source: Source,
    stream: ChaCha20Rng,
}

impl fmt::Debug for Random {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Random").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Random {
    pub(crate) fn new(source: Source) -> Result<Self, Error> {
        match source {
            Source::System => Self::from_system(&[0; 32]),
            Source::Deterministic { seed } => Ok(Self::from_seed(seed, 0)),
        }
    }

    fn from_system(carry: &[u8; 32]) -> Result<Self, Error> {
        let mut fresh = [0; 32];
        getrandom::fill(&mut fresh).map_err(Error::Entropy)?;
        let key = Digest::of(&[KEY, carry, &fresh].concat());
        Ok(Self { source: Source::System, stream: ChaCha20Rng::from_seed(key.0) })
    }

    fn from_seed(seed: u64, position: u128) -> Self {
        let key = Digest::of(&[SEED, &seed.to_le_bytes()].concat());
        let mut stream = ChaCha20Rng::from_seed(key.0);
        stream.set_word_pos(position);
        Self { source: Source::Deterministic { seed }, stream }
    }

    pub(crate) fn source(&self) -> Source {
        self.source
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        self.stream.fill_bytes(bytes);
    }

    pub(crate) fn freeze(&self) -> HostSection {
        let frozen = match self.source {
            Source::System => RandomV1::Carry(Digest::of(&[CARRY, &self.stream.get_seed()].concat()).0),
            Source::Deterministic { seed } => RandomV1::Deterministic { seed, position: self.stream.get_word_pos() },
        };
        frozen.section()
    }

    pub(crate) fn thaw(sections: &Sections<'_>, source: Source) -> Result<Self, Error> {
        match (sections.required()?, source) {
            (RandomV1::Carry(carry), Source::System) => Self::from_system(&carry),
            // The snapshot's seed counts: it is the stream that the program has begun.
            (RandomV1::Deterministic { seed, position }, Source::Deterministic { .. }) => {
                Ok(Self::from_seed(seed, position))
            }
            (RandomV1::Carry(_), here) => {
                Err(Error::OtherSource { snapshot: Source::System.name(), here: here.name() })
            }
            (RandomV1::Deterministic { seed, .. }, here) => {
                Err(Error::OtherSource { snapshot: Source::Deterministic { seed }.name(), here: here.name() })
            }
        }
    }
}

pub(crate) fn random_get(world: &mut World, memory: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    world.random.fill(memory.bytes_mut(params.u32(0), params.u32(1))?);
    Ok(())
}
