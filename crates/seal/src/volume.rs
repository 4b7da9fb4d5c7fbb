//! The chunks of a volume.
//!
//! A chunk is sealed with a nonce that follows from its contents (AES-256-GCM-SIV): equal chunks become equal bytes, and
//! nothing needs to be counted or remembered. Each is sealed under the key of the epoch in which it was written. A new
//! holder gets few keys from the broker, so the root carries, sealed, the chunk keys of all earlier epochs:
//!
//! ```text
//!   chunk   sealed bytes | tag 16 | epoch u64
//!   root    the same, and sealed with it: (epoch u64, key 32)*, count u32
//! ```

use core::fmt;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use aes_gcm_siv::aead::inout::InOutBuf;
use aes_gcm_siv::{AeadInOut as _, Aes256GcmSiv, KeyInit as _, Nonce, Tag};
use dunlin_store::{ChunkKind, SealError, Sealing};
use zeroize::Zeroize as _;

use crate::keys::{EpochKey, ServiceId};
use crate::memory::{KEY, Secret, with_clean_stack};
use crate::object::TAG;

/// The most epochs whose chunks one volume can have.
pub const MAX_EPOCHS: usize = 8192;
const ENTRY: usize = 8 + KEY;
/// Tag and epoch.
const TAIL: usize = TAG + 8;

/// Seals the chunks of a service's volumes under the key of the current epoch, and opens those of earlier ones.
pub struct VolumeSeal {
    service: ServiceId,
    epoch: u64,
    ring: RwLock<BTreeMap<u64, ChunkKey>>,
}

impl fmt::Debug for VolumeSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeSeal").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

struct ChunkKey {
    secret: Secret,
    cipher: Box<Aes256GcmSiv>,
}

impl ChunkKey {
    fn new(secret: Secret) -> Self {
        let cipher = with_clean_stack(|| Box::new(Aes256GcmSiv::new(secret.bytes().into())));
        Self { secret, cipher }
    }
}

impl VolumeSeal {
    /// Seals under `current` and opens, besides, what was sealed under `earlier`: the key of the epoch in which the
    /// volume was last committed.
    pub fn new(current: &EpochKey, earlier: Option<&EpochKey>) -> Self {
        let keys = [Some(current), earlier].into_iter().flatten().filter(|key| key.service() == current.service());
        let ring = keys.map(|key| (key.epoch(), ChunkKey::new(key.chunks()))).collect();
        Self { service: current.service(), epoch: current.epoch(), ring: RwLock::new(ring) }
    }

    /// How many epochs' chunks can be opened.
    pub fn epochs(&self) -> usize {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn associated(&self, epoch: u64, kind: ChunkKind, associated: &[u8]) -> Vec<u8> {
        [b"dunlin chunk 1\0".as_slice(), &self.service, &epoch.to_le_bytes(), &[kind as u8], associated].concat()
    }

    /// The keys of all earlier epochs, as they follow a root.
    fn append_ring(&self, ring: &BTreeMap<u64, ChunkKey>, out: &mut Vec<u8>) {
        let earlier = ring.range(..self.epoch);
        out.reserve(ring.len() * ENTRY + 4 + TAIL);
        let mut count = 0u32;
        for (epoch, key) in earlier {
            out.extend_from_slice(&epoch.to_le_bytes());
            out.extend_from_slice(key.secret.bytes());
            count += 1;
        }
        out.extend_from_slice(&count.to_le_bytes());
    }

    /// Takes the keys off the end of an opened root, which was sealed in `epoch`.
    fn take_ring(&self, epoch: u64, plain: &mut Vec<u8>) -> Result<(), SealError> {
        let (rest, count) = plain.split_last_chunk::<4>().ok_or(SealError)?;
        let count = u32::from_le_bytes(*count) as usize;
        if count >= MAX_EPOCHS {
            return Err(SealError);
        }
        let start = rest.len().checked_sub(count * ENTRY).ok_or(SealError)?;
        {
            let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
            for entry in rest.get(start..).unwrap_or_default().as_chunks::<ENTRY>().0 {
                let (number, key) = entry.split_first_chunk::<8>().ok_or(SealError)?;
                let number = u64::from_le_bytes(*number);
                if number >= epoch {
                    return Err(SealError);
                }
                ring.entry(number).or_insert_with(|| {
                    let fill = |place: &mut [u8; KEY]| place.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
                    ChunkKey::new(Secret::fill(fill))
                });
            }
        }
        // The buffer goes on to be the root's, and its spare room is not to hold keys.
        plain.get_mut(start..).unwrap_or_default().zeroize();
        plain.truncate(start);
        Ok(())
    }
}

impl Sealing for VolumeSeal {
    fn seal<'a>(&self, kind: ChunkKind, associated: &[u8], plain: &'a [u8]) -> Cow<'a, [u8]> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let mut out = Vec::with_capacity(plain.len() + TAIL);
        out.extend_from_slice(plain);
        if kind == ChunkKind::Root {
            self.append_ring(&ring, &mut out);
        }
        let associated = self.associated(self.epoch, kind, associated);
        // The key of the current epoch is in the ring from the start, and lengths are far below the cipher's limit.
        let seal = |key: &ChunkKey| {
            key.cipher.encrypt_inout_detached(&Nonce::default(), &associated, InOutBuf::from(out.as_mut_slice())).ok()
        };
        let Some(tag) = ring.get(&self.epoch).and_then(seal) else {
            // Nothing plain may leave, whatever happens: this opens under no key.
            out.zeroize();
            return Cow::Owned(out);
        };
        out.extend_from_slice(&tag);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        Cow::Owned(out)
    }

    fn open<'a>(&self, kind: ChunkKind, associated: &[u8], sealed: Cow<'a, [u8]>) -> Result<Cow<'a, [u8]>, SealError> {
        let mut bytes = sealed.into_owned();
        let (rest, epoch) = bytes.split_last_chunk::<8>().ok_or(SealError)?;
        let (rest, tag) = rest.split_last_chunk::<TAG>().ok_or(SealError)?;
        let (length, tag, epoch) = (rest.len(), Tag::from(*tag), u64::from_le_bytes(*epoch));
        bytes.truncate(length);
        {
            let associated = self.associated(epoch, kind, associated);
            let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
            let key = ring.get(&epoch).ok_or(SealError)?;
            let buffer = InOutBuf::from(bytes.as_mut_slice());
            let opened = key.cipher.decrypt_inout_detached(&Nonce::default(), &associated, buffer, &tag);
            opened.map_err(|_| SealError)?;
        }
        if kind == ChunkKind::Root {
            self.take_ring(epoch, &mut bytes)?;
        }
        Ok(Cow::Owned(bytes))
    }
}
