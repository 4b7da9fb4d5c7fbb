//! Objects as streams: parts of at most 64 KiB, each sealed for its place, the last one marked.
//!
//! ```text
//!   header, then parts: u32 (length of the plain bytes, bit 31 set in the last part), sealed bytes, 16-byte tag
//! ```

use core::fmt;
use std::io::{self, Read, Write};

use aes_gcm_siv::Tag;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::object::{PartCipher, TAG};

/// The most plain bytes of a part.
pub(crate) const PART: usize = 64 * 1024;
const LAST: u32 = 1 << 31;

/// Seals what is written to it.
///
/// [`Write::flush`] seals what there is and hands it on, so that a crash loses nothing that was flushed;
/// [`SealedWriter::finish`] seals the end. Dropped before, the object has no end, and is read as one that was cut off.
pub struct SealedWriter<W> {
    inner: W,
    cipher: PartCipher,
    plain: Zeroizing<Vec<u8>>,
    /// After a failed write nobody knows what is in the file, so nothing more is written.
    broken: bool,
}

impl<W: fmt::Debug> fmt::Debug for SealedWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedWriter").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<W: Write> SealedWriter<W> {
    pub(crate) fn begin(mut inner: W, cipher: PartCipher, header: &[u8]) -> Result<Self, Error> {
        inner.write_all(header)?;
        Ok(Self { inner, cipher, plain: Zeroizing::new(Vec::with_capacity(PART)), broken: false })
    }

    /// Seals the end of the object.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<W, Error> {
        self.part(LAST)?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    /// What is under this writer, for instance to have it made durable after a flush.
    pub fn get_ref(&self) -> &W {
        &self.inner
    }

    fn part(&mut self, last: u32) -> Result<(), Error> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(io::Error::other("an earlier write of this sealed object failed").into());
        }
        let head = (self.plain.len() as u32 | last).to_le_bytes();
        let tag = self.cipher.seal(&head, last != 0, &mut self.plain)?;
        self.inner.write_all(&head)?;
        self.inner.write_all(&self.plain)?;
        self.inner.write_all(&tag)?;
        self.plain.clear();
        self.broken = false;
        Ok(())
    }
}

impl<W: Write> Write for SealedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.plain.len() == PART {
            self.part(0)?;
        }
        let room = PART - self.plain.len();
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.plain.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.plain.is_empty() {
            self.part(0)?;
        }
        self.inner.flush()
    }
}

/// Opens what is read from it: nothing comes out that was not authenticated, in its place.
///
/// The end of the underlying stream is only the end of the object if it was sealed as that; otherwise reading fails with
/// [`Error::Truncated`], unless [`SealedReader::up_to_a_crash`] was asked for.
pub struct SealedReader<R> {
    inner: R,
    cipher: PartCipher,
    plain: Zeroizing<Vec<u8>>,
    given: usize,
    ended: bool,
    accepts_cut: bool,
}

impl<R: fmt::Debug> fmt::Debug for SealedReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedReader").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<R: Read> SealedReader<R> {
    pub(crate) fn begin(inner: R, cipher: PartCipher) -> Self {
        Self { inner, cipher, plain: Zeroizing::new(Vec::new()), given: 0, ended: false, accepts_cut: false }
    }

    /// Reads up to where a writer crashed, or somebody cut the object off. Only for contents that tell themselves
    /// whether they are complete, by a digest that the ledger knows.
    #[must_use]
    pub fn up_to_a_crash(mut self) -> Self {
        self.accepts_cut = true;
        self
    }

    /// Opens the next part; `false` at the end.
    fn part(&mut self) -> Result<bool, Error> {
        if self.ended {
            return Ok(false);
        }
        self.plain.clear();
        self.given = 0;
        let mut head = [0; 4];
        if !fill(&mut self.inner, &mut head)? {
            return self.cut();
        }
        let number = u32::from_le_bytes(head);
        let (length, last) = ((number & !LAST) as usize, number & LAST != 0);
        if length > PART {
            return Err(Error::Length { part: self.cipher.part() });
        }
        self.plain.resize(length, 0);
        let mut tag = [0; TAG];
        if !fill(&mut self.inner, &mut self.plain)? || !fill(&mut self.inner, &mut tag)? {
            self.plain.clear();
            return self.cut();
        }
        if let Err(error) = self.cipher.open(&head, last, &mut self.plain, &Tag::from(tag)) {
            self.plain.clear();
            self.ended = true;
            return Err(error);
        }
        self.ended = last;
        if last && fill(&mut self.inner, &mut [0; 1])? {
            self.plain.clear();
            return Err(Error::Trailing);
        }
        Ok(true)
    }

    fn cut(&mut self) -> Result<bool, Error> {
        self.ended = true;
        if self.accepts_cut { Ok(false) } else { Err(Error::Truncated) }
    }
}

impl<R: Read> Read for SealedReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given == self.plain.len() && !out.is_empty() {
            if !self.part()? {
                return Ok(0);
            }
        }
        let ready = self.plain.get(self.given..).unwrap_or_default();
        let count = ready.len().min(out.len());
        for (place, byte) in out.iter_mut().zip(ready) {
            *place = *byte;
        }
        self.given += count;
        Ok(count)
    }
}

/// Reads all of `buffer`; `false` when the stream ends before that.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<bool, Error> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The error of this crate that a reader has wrapped.
pub(crate) fn inner(error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(Error::Io)
}
