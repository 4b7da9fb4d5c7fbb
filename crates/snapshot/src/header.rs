//! The fixed part in front of everything else.

use dunlin_base::{Digest, Hasher};
use dunlin_wire::{Reader, Writer};

use crate::{Error, Features};

/// The first bytes of every snapshot. The first one is not text and the last one is a line feed, so that a transfer
/// that alters either is noticed.
pub const MAGIC: [u8; 8] = *b"\x89DUNLIN\n";

/// The version of the format that this release writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// Length of the header in bytes.
pub const HEADER_SIZE: usize = 136;

/// Where the digest stands; it covers all bytes but its own.
const DIGEST: core::ops::Range<usize> = 24..56;

/// Flag: the snapshot carries its module.
const MODULE_EMBEDDED: u32 = 1;

/// The header's fields. Nothing but magic and version has been checked: bytes that are to be restored go through
/// [`Envelope::open`](crate::Envelope::open).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How many sections follow.
    pub sections: u32,
    /// Length of the snapshot in bytes, the header included.
    pub total_length: u64,
    /// SHA-256 of all bytes but these.
    pub digest: Digest,
    /// SHA-256 of the module.
    pub module: Digest,
    /// Digest of the map.
    pub map: Digest,
    /// Version of the pass that made the map.
    pub pass_version: u32,
    /// Whether the module is embedded, and undefined bits.
    flags: u32,
    /// Features that the module needs.
    pub features: Features,
}

impl Header {
    /// Reads the header from the first bytes of a snapshot; more may follow.
    ///
    /// # Errors
    /// [`Error::Magic`], [`Error::Version`], [`Error::Header`], in this order.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let length = bytes.len() as u64;
        let magic = bytes.get(..MAGIC.len()).unwrap_or(bytes);
        if !MAGIC.starts_with(magic) || magic.is_empty() {
            return Err(Error::Magic);
        }
        Self::fields(&mut Reader::new(bytes), length)
    }

    fn fields(reader: &mut Reader<'_>, length: u64) -> Result<Self, Error> {
        let short = |_| Error::Header { length };
        reader.bytes(MAGIC.len() as u64).map_err(short)?;
        let version = reader.u32().map_err(short)?;
        if version != FORMAT_VERSION {
            return Err(Error::Version { version });
        }
        Ok(Self {
            sections: reader.u32().map_err(short)?,
            total_length: reader.u64().map_err(short)?,
            digest: Digest(reader.array().map_err(short)?),
            module: Digest(reader.array().map_err(short)?),
            map: Digest(reader.array().map_err(short)?),
            pass_version: reader.u32().map_err(short)?,
            flags: reader.u32().map_err(short)?,
            features: Features::from_bits(reader.u64().map_err(short)?),
        })
    }

    /// Whether the snapshot carries its module.
    pub fn has_module(&self) -> bool {
        self.flags & MODULE_EMBEDDED != 0
    }

    /// Flag bits that this format version does not define.
    pub(crate) fn undefined_flags(&self) -> u32 {
        self.flags & !MODULE_EMBEDDED
    }

    /// Fills in the header, with the right digest, at the beginning of `bytes`, where there is room for it.
    pub(crate) fn seal(fields: &Unsealed, bytes: &mut [u8]) {
        let Unsealed { count, module, map, pass_version, embedded, features } = fields;
        let mut header = Writer::new();
        header.bytes(&MAGIC);
        header.u32(FORMAT_VERSION);
        header.u32(*count);
        header.u64(bytes.len() as u64);
        header.bytes(&[0; 32]);
        header.bytes(&module.0);
        header.bytes(&map.0);
        header.u32(*pass_version);
        header.u32(if *embedded { MODULE_EMBEDDED } else { 0 });
        header.u64(features.bits());
        put(bytes, 0, header.as_slice());
        let digest = digest_of(bytes);
        put(bytes, DIGEST.start, &digest.0);
    }
}

fn put(bytes: &mut [u8], offset: usize, part: &[u8]) {
    if let Some(target) = bytes.get_mut(offset..offset + part.len()) {
        target.copy_from_slice(part);
    }
}

/// What the encoder puts into a header.
pub(crate) struct Unsealed {
    pub(crate) count: u32,
    pub(crate) module: Digest,
    pub(crate) map: Digest,
    pub(crate) pass_version: u32,
    pub(crate) embedded: bool,
    pub(crate) features: Features,
}

/// The digest that `bytes` should carry.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(bytes.get(..DIGEST.start).unwrap_or(bytes));
    hasher.update(bytes.get(DIGEST.end..).unwrap_or_default());
    hasher.finish()
}
