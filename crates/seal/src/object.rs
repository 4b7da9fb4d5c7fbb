//! Objects: a snapshot, a staged state, a value. Each gets a key of its own from a random salt, so that no two of them
//! share a key and a counter can number the parts of one.

use core::fmt;
use std::io::{Read, Write};

use aes_gcm_siv::aead::inout::InOutBuf;
use aes_gcm_siv::{AeadInOut as _, Aes256GcmSiv, KeyInit as _, Nonce, Tag};

use crate::error::Error;
use crate::keys::{ServiceId, expand};
use crate::memory::{Secret, with_clean_stack};
use crate::stream::{SealedReader, SealedWriter};

pub(crate) const MAGIC: &[u8; 16] = b"dunlin sealed 1\0";
/// Magic, scope, kind, epoch, version, salt.
pub(crate) const HEADER: usize = 16 + 1 + 1 + 8 + 8 + SALT;
pub(crate) const SALT: usize = 32;
pub(crate) const TAG: usize = 16;
/// The longest name.
const MAX_NAME: usize = 4096;

/// What an object is. Part of what is authenticated, so that no object passes for one of another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// A snapshot.
    Snapshot = 1,
    /// A state that waits on a machine for its service, or that a source keeps until the other side has all of it.
    Staged = 2,
    /// A checkpoint of a committed state.
    Checkpoint = 3,
    /// A value that a program has put away.
    Value = 4,
    /// A secret of the owner, in the broker.
    Secret = 5,
    /// A secret key of an instance.
    Instance = 6,
    /// Machine code that a keep compiled, for the next keep on its machine.
    Code = 7,
}

impl Kind {
    fn of(number: u8) -> Option<Self> {
        let states = [Self::Snapshot, Self::Staged, Self::Checkpoint];
        let others = [Self::Value, Self::Secret, Self::Instance, Self::Code];
        states.into_iter().chain(others).find(|kind| *kind as u8 == number)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Snapshot => "a snapshot",
            Self::Staged => "a staged state",
            Self::Checkpoint => "a checkpoint",
            Self::Value => "a value",
            Self::Secret => "a secret",
            Self::Instance => "an instance key",
            Self::Code => "compiled code",
        })
    }
}

/// What an object is sealed as: it opens as nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label<'a> {
    /// What it is.
    pub kind: Kind,
    /// What it is called, for instance the name of its file. At most 4096 bytes.
    pub name: &'a str,
    /// Which version of it. An object with another version is refused.
    pub version: u64,
}

/// Whose key it is. Part of every header and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Scope {
    Epoch = 1,
    Machine = 2,
    Broker = 3,
    Staging = 4,
}

/// Seals objects under one key, and opens them.
pub struct ObjectSeal {
    scope: Scope,
    service: ServiceId,
    epoch: u64,
    secret: Secret,
}

impl fmt::Debug for ObjectSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectSeal").field("scope", &self.scope).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl ObjectSeal {
    pub(crate) fn new(scope: Scope, service: ServiceId, epoch: u64, secret: Secret) -> Self {
        Self { scope, service, epoch, secret }
    }

    /// Seals all of `plain`.
    ///
    /// # Errors
    /// [`Error::Random`], [`Error::TooLong`].
    pub fn seal(&self, label: &Label<'_>, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let parts = plain.len() / crate::stream::PART + 1;
        let mut writer = self.writer(label, Vec::with_capacity(HEADER + plain.len() + parts * (4 + TAG)))?;
        writer.write_all(plain)?;
        writer.finish()
    }

    /// Opens what [`Self::seal`] or a finished [`SealedWriter`] made with the same label.
    ///
    /// # Errors
    /// For everything else.
    pub fn open(&self, label: &Label<'_>, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let mut reader = self.reader(label, sealed)?;
        let mut plain = Vec::with_capacity(sealed.len());
        reader.read_to_end(&mut plain).map_err(crate::stream::inner)?;
        Ok(plain)
    }

    /// Begins an object that is written piece by piece.
    ///
    /// # Errors
    /// [`Error::Random`], [`Error::TooLong`], [`Error::Io`].
    pub fn writer<W: Write>(&self, label: &Label<'_>, inner: W) -> Result<SealedWriter<W>, Error> {
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt).map_err(|error| Error::Random(error.to_string()))?;
        let header =
            Header { scope: self.scope as u8, kind: label.kind as u8, epoch: self.epoch, salt, version: label.version };
        SealedWriter::begin(inner, self.cipher(label, &header)?, &header.to_bytes())
    }

    /// Begins to read an object.
    ///
    /// # Errors
    /// [`Error::Io`], and for objects that are not sealed as `label` and under this key.
    pub fn reader<R: Read>(&self, label: &Label<'_>, mut inner: R) -> Result<SealedReader<R>, Error> {
        let mut bytes = [0; HEADER];
        inner.read_exact(&mut bytes).map_err(|_| Error::Magic)?;
        let header = Header::from_bytes(&bytes).ok_or(Error::Magic)?;
        if header.kind != label.kind as u8 {
            let found = Kind::of(header.kind).map_or_else(|| format!("kind {}", header.kind), |kind| kind.to_string());
            return Err(Error::OtherKind { found, expected: label.kind });
        }
        if (header.scope, header.epoch) != (self.scope as u8, self.epoch) {
            return Err(Error::OtherEpoch { found: header.epoch, key: self.epoch });
        }
        if header.version != label.version {
            return Err(Error::OtherVersion { found: header.version, expected: label.version });
        }
        Ok(SealedReader::begin(inner, self.cipher(label, &header)?))
    }

    /// The cipher of one object. Everything that names the object is in its key.
    fn cipher(&self, label: &Label<'_>, header: &Header) -> Result<PartCipher, Error> {
        if label.name.len() > MAX_NAME {
            return Err(Error::TooLong("the name of the object"));
        }
        let name_length = (label.name.len() as u32).to_le_bytes();
        let parts =
            [b"dunlin object 1\0".as_slice(), &self.service, &header.to_bytes(), &name_length, label.name.as_bytes()];
        let key = expand(&self.secret, &parts);
        let cipher = with_clean_stack(|| Box::new(Aes256GcmSiv::new(key.bytes().into())));
        Ok(PartCipher { cipher, part: 0 })
    }
}

/// What an object begins with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    scope: u8,
    kind: u8,
    epoch: u64,
    version: u64,
    salt: [u8; SALT],
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let parts: [&[u8]; 6] =
            [MAGIC, &[self.scope], &[self.kind], &self.epoch.to_le_bytes(), &self.version.to_le_bytes(), &self.salt];
        for (place, byte) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *place = *byte;
        }
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<16>()?;
        let ([scope, kind], rest) = rest.split_first_chunk::<2>()?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first_chunk::<8>()?;
        let salt = rest.try_into().ok()?;
        let (epoch, version) = (u64::from_le_bytes(*epoch), u64::from_le_bytes(*version));
        (magic == MAGIC).then_some(Self { scope: *scope, kind: *kind, epoch, version, salt })
    }
}

/// The key of one object and the number of its next part. It is made for one writer or reader and only counts up.
pub(crate) struct PartCipher {
    cipher: Box<Aes256GcmSiv>,
    part: u64,
}

impl PartCipher {
    /// The number of the part that is next.
    pub(crate) fn part(&self) -> u64 {
        self.part
    }

    /// Seals the next part in place. `head` is authenticated with it.
    pub(crate) fn seal(&mut self, head: &[u8], last: bool, buffer: &mut [u8]) -> Result<Tag, Error> {
        let nonce = self.next(last);
        let sealed = self.cipher.encrypt_inout_detached(&nonce, head, InOutBuf::from(buffer));
        sealed.map_err(|_| Error::TooLong("a part of the object"))
    }

    /// Opens the next part in place.
    pub(crate) fn open(&mut self, head: &[u8], last: bool, buffer: &mut [u8], tag: &Tag) -> Result<(), Error> {
        let part = self.part;
        let nonce = self.next(last);
        let opened = self.cipher.decrypt_inout_detached(&nonce, head, InOutBuf::from(buffer), tag);
        opened.map_err(|_| Error::Seal { part })
    }

    fn next(&mut self, last: bool) -> Nonce {
        let mut nonce = Nonce::default();
        for (place, byte) in nonce.iter_mut().zip(self.part.to_le_bytes().into_iter().chain([u8::from(last)])) {
            *place = byte;
        }
        self.part += 1;
        nonce
    }
}
