//! The chunks of a volume.
//!
//! A chunk is sealed with a nonce that follows from its contents (AES-256-GCM-SIV): equal chunks become equal bytes, and
//! nothing needs to be counted or remembered. Each is sealed under the key of the epoch in which it was written. A new
//! holder gets few keys from the broker, so the root carries, sealed, the chunk keys of all earlier epochs. Where a state of
//! the service travels with the volume, it can have the keys itself, as [`VolumeSeal::keys`] gives them: they open also
//! what an earlier stay left in the store.
//!
//! ```text
//!   chunk   sealed bytes | tag 16 | epoch u64
//!   root    the same, and sealed with it: (epoch u64, key 32)*, count u32
//!   keys    (epoch u64, key 32)*, epochs rising
//! ```

use core::fmt;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use aes_gcm_siv::aead::inout::InOutBuf;
use aes_gcm_siv::{AeadInOut as _, Aes256GcmSiv, KeyInit as _, Nonce, Tag};
use dunlin_store::{ChunkKind, SealError, Sealing};
use zeroize::{Zeroize as _, Zeroizing};

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
    ring: RwLock<Ring>,
}

impl fmt::Debug for VolumeSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeSeal").field("epoch", &self.ring().current).finish_non_exhaustive()
    }
}

/// The keys, by epoch.
#[derive(Default)]
struct Ring {
    keys: BTreeMap<u64, ChunkKey>,
    /// What is sealed, is sealed under the key of this epoch.
    current: u64,
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
        let seal = Self::without_keys(current.service());
        for key in [earlier, Some(current)].into_iter().flatten() {
            seal.advance(key);
        }
        seal
    }

    /// For a volume whose keys come later, with [`Self::take`] or [`Self::advance`]; until then nothing opens, and what is
    /// sealed is lost.
    pub fn without_keys(service: ServiceId) -> Self {
        Self { service, ring: RwLock::default() }
    }

    /// From here on seals under the key of a new epoch. The key of another service is not taken, and neither is that of
    /// an earlier epoch, nor any once the volume has chunks of [`MAX_EPOCHS`]: it then goes on under the last one.
    pub fn advance(&self, key: &EpochKey) {
        let mut ring = self.ring_mut();
        let newer = ring.keys.is_empty() || key.epoch() > ring.current;
        if key.service() == self.service && newer && ring.keys.len() < MAX_EPOCHS {
            ring.keys.insert(key.epoch(), ChunkKey::new(key.chunks()));
            ring.current = key.epoch();
        }
    }

    /// The keys with which another instance can open all of it.
    pub fn keys(&self) -> Zeroizing<Vec<u8>> {
        let ring = self.ring();
        let mut out = Zeroizing::new(Vec::with_capacity(ring.keys.len() * ENTRY));
        for (epoch, key) in &ring.keys {
            out.extend_from_slice(&epoch.to_le_bytes());
            out.extend_from_slice(key.secret.bytes());
        }
        out
    }

    /// Takes the keys that another instance gave, and seals under the newest one until [`Self::advance`].
    ///
    /// # Errors
    /// [`SealError`] when they are not what [`Self::keys`] gives, or there are keys already.
    pub fn take(&self, keys: &[u8]) -> Result<(), SealError> {
        let (entries, rest) = keys.as_chunks::<ENTRY>();
        let mut ring = self.ring_mut();
        if !rest.is_empty() || entries.len() > MAX_EPOCHS || !ring.keys.is_empty() {
            return Err(SealError);
        }
        let mut taken = BTreeMap::new();
        for entry in entries {
            let (epoch, key) = entry_of(entry).ok_or(SealError)?;
            if taken.last_key_value().is_some_and(|(last, _)| *last >= epoch) {
                return Err(SealError);
            }
            taken.insert(epoch, key);
        }
        ring.current = taken.last_key_value().map_or(0, |(last, _)| *last);
        ring.keys = taken;
        Ok(())
    }

    /// How many epochs' chunks can be opened.
    pub fn epochs(&self) -> usize {
        self.ring().keys.len()
    }

    fn ring(&self) -> RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_mut(&self) -> RwLockWriteGuard<'_, Ring> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn associated(&self, epoch: u64, kind: ChunkKind, associated: &[u8]) -> Vec<u8> {
        [b"dunlin chunk 1\0".as_slice(), &self.service, &epoch.to_le_bytes(), &[kind as u8], associated].concat()
    }

    /// The keys of all earlier epochs, as they follow a root.
    fn append_ring(ring: &Ring, out: &mut Vec<u8>) {
        let earlier = ring.keys.range(..ring.current);
        out.reserve(ring.keys.len() * ENTRY + 4 + TAIL);
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
            let mut ring = self.ring_mut();
            for entry in rest.get(start..).unwrap_or_default().as_chunks::<ENTRY>().0 {
                let (number, key) = entry_of(entry).ok_or(SealError)?;
                if number >= epoch {
                    return Err(SealError);
                }
                ring.keys.entry(number).or_insert(key);
            }
        }
        // The buffer goes on to be the root's, and its spare room is not to hold keys.
        plain.get_mut(start..).unwrap_or_default().zeroize();
        plain.truncate(start);
        Ok(())
    }
}

fn entry_of(entry: &[u8; ENTRY]) -> Option<(u64, ChunkKey)> {
    let (number, key) = entry.split_first_chunk::<8>()?;
    let fill = |place: &mut [u8; KEY]| place.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    Some((u64::from_le_bytes(*number), ChunkKey::new(Secret::fill(fill))))
}

impl Sealing for VolumeSeal {
    fn seal<'a>(&self, kind: ChunkKind, associated: &[u8], plain: &'a [u8]) -> Cow<'a, [u8]> {
        let mut out = Vec::with_capacity(plain.len() + TAIL);
        out.extend_from_slice(plain);
        let ring = self.ring();
        let epoch = ring.current;
        if kind == ChunkKind::Root {
            Self::append_ring(&ring, &mut out);
        }
        let associated = self.associated(epoch, kind, associated);
        // Lengths are far below the cipher's limit.
        let seal = |key: &ChunkKey| {
            key.cipher.encrypt_inout_detached(&Nonce::default(), &associated, InOutBuf::from(out.as_mut_slice())).ok()
        };
        let Some(tag) = ring.keys.get(&epoch).and_then(seal) else {
            // Nothing plain may leave, whatever happens: this opens under no key.
            out.zeroize();
            return Cow::Owned(out);
        };
        out.extend_from_slice(&tag);
        out.extend_from_slice(&epoch.to_le_bytes());
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
            let ring = self.ring();
            let key = ring.keys.get(&epoch).ok_or(SealError)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::ServiceRoot;

    const SERVICE: ServiceId = [7; 16];

    fn root() -> ServiceRoot {
        ServiceRoot::from_bytes(&[5; 32])
    }

    #[test]
    fn keys_that_travel_open_what_any_earlier_holder_sealed() {
        let first = VolumeSeal::new(&root().epoch_key(SERVICE, 1), None);
        let chunk = first.seal(ChunkKind::Data, b"v", b"contents").into_owned();
        let top = first.seal(ChunkKind::Root, b"v", b"root").into_owned();
        // Two holders that change nothing, then one that does.
        let mut keys = first.keys();
        assert_eq!(keys.len(), ENTRY);
        for epoch in 2..5 {
            let next = VolumeSeal::without_keys(SERVICE);
            next.take(&keys).unwrap();
            assert_eq!(next.open(ChunkKind::Root, b"v", Cow::Borrowed(&top)).unwrap(), &b"root"[..]);
            next.advance(&root().epoch_key(SERVICE, epoch));
            keys = next.keys();
            assert_eq!(keys.len(), epoch as usize * ENTRY);
        }
        let last = VolumeSeal::without_keys(SERVICE);
        last.take(&keys).unwrap();
        assert_eq!(last.open(ChunkKind::Data, b"v", Cow::Borrowed(&chunk)).unwrap(), &b"contents"[..]);
        // One that has the last key only finds the others in the root.
        let newer = last.seal(ChunkKind::Root, b"v", b"newer").into_owned();
        let reader = VolumeSeal::new(&root().epoch_key(SERVICE, 4), None);
        assert!(reader.open(ChunkKind::Data, b"v", Cow::Borrowed(&chunk)).is_err(), "the root comes first");
        assert_eq!(reader.open(ChunkKind::Root, b"v", Cow::Borrowed(&newer)).unwrap(), &b"newer"[..]);
        assert_eq!(reader.open(ChunkKind::Data, b"v", Cow::Borrowed(&chunk)).unwrap(), &b"contents"[..]);
    }

    #[test]
    fn epochs_only_rise_and_are_bounded() {
        let seal = VolumeSeal::new(&root().epoch_key(SERVICE, 9), None);
        seal.advance(&root().epoch_key(SERVICE, 8));
        seal.advance(&root().epoch_key([8; 16], 10));
        assert_eq!(seal.epochs(), 1);
        let tail = |seal: &VolumeSeal| {
            let sealed = seal.seal(ChunkKind::Data, b"v", b"x").into_owned();
            u64::from_le_bytes(*sealed.last_chunk().unwrap())
        };
        assert_eq!(tail(&seal), 9);
        let mut keys = Vec::new();
        for epoch in 0..MAX_EPOCHS as u64 {
            keys.extend_from_slice(&epoch.to_le_bytes());
            keys.extend_from_slice(&[1; KEY]);
        }
        let full = VolumeSeal::without_keys(SERVICE);
        full.take(&keys).unwrap();
        full.advance(&root().epoch_key(SERVICE, MAX_EPOCHS as u64));
        assert_eq!(tail(&full), MAX_EPOCHS as u64 - 1, "it goes on under the last key");
        let top = full.seal(ChunkKind::Root, b"v", b"root").into_owned();
        full.open(ChunkKind::Root, b"v", Cow::Owned(top)).unwrap();
    }

    #[test]
    fn what_is_no_list_of_keys_is_refused() {
        let entry = |epoch: u64| [&epoch.to_le_bytes()[..], &[1; KEY]].concat();
        for wrong in [&entry(1)[1..], &[entry(2), entry(2)].concat(), &[entry(2), entry(1)].concat()] {
            assert!(VolumeSeal::without_keys(SERVICE).take(wrong).is_err());
        }
        let seal = VolumeSeal::without_keys(SERVICE);
        seal.take(&entry(1)).unwrap();
        assert!(seal.take(&entry(2)).is_err(), "there are keys already");
    }
}
