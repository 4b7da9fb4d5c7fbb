//! A program's memory as the functions see it: every access is checked, none panics.

use std::ops::Range;

use crate::errno::Errno;

/// How many non-empty buffers one scatter or gather call uses; what is beyond is left to the next call, as POSIX
/// permits.
const MAX_VECTORS: usize = 1024;

/// How many bytes one scatter or gather call moves at most.
const MAX_TRANSFER: usize = i32::MAX as usize;

/// The longest path that is looked at, in bytes. Longer than any that Linux takes.
const MAX_PATH: u32 = 16 * 1024;

/// A program's memory during one call.
#[derive(Debug)]
pub(crate) struct Memory<'a> {
    bytes: &'a mut [u8],
}

impl<'a> Memory<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes }
    }

    /// `count` elements of `size` bytes at `at`, or `EFAULT`.
    pub(crate) fn range(&self, at: u32, count: u32, size: u32) -> Result<Range<usize>, Errno> {
        let start = u64::from(at);
        let end = start + u64::from(count) * u64::from(size);
        if end > self.bytes.len() as u64 {
            return Err(Errno::Fault);
        }
        Ok(start as usize..end as usize)
    }

    pub(crate) fn bytes_mut(&mut self, at: u32, len: u32) -> Result<&mut [u8], Errno> {
        let range = self.range(at, len, 1)?;
        Ok(&mut self.bytes[range])
    }

    /// The bytes of a range that [`Memory::range`] or [`Memory::vectors`] gave.
    pub(crate) fn at(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }

    /// The same, to be written.
    pub(crate) fn at_mut(&mut self, range: &Range<usize>) -> &mut [u8] {
        self.bytes.get_mut(range.clone()).unwrap_or_default()
    }

    /// A path or another text: UTF-8, else `EILSEQ`.
    pub(crate) fn text(&self, at: u32, len: u32) -> Result<&str, Errno> {
        let range = self.range(at, len, 1)?;
        if len > MAX_PATH {
            return Err(Errno::Nametoolong);
        }
        std::str::from_utf8(&self.bytes[range]).map_err(|_| Errno::Ilseq)
    }

    /// The non-empty buffers of an array of (pointer, length) pairs. All are checked before anything is done with
    /// one of them.
    pub(crate) fn vectors(&self, at: u32, count: u32) -> Result<Vec<Range<usize>>, Errno> {
        let array = self.range(at, count, 8)?;
        let mut vectors = Vec::new();
        let mut total = 0;
        for pair in self.bytes[array].chunks_exact(8) {
            let (pointer, len) = (le_u32(pair), le_u32(&pair[4..]));
            if len == 0 {
                continue;
            }
            let mut range = self.range(pointer, len, 1)?;
            range.end = range.end.min(range.start + (MAX_TRANSFER - total));
            total += range.len();
            vectors.push(range);
            if vectors.len() == MAX_VECTORS || total == MAX_TRANSFER {
                break;
            }
        }
        Ok(vectors)
    }

    pub(crate) fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), Errno> {
        let len = u32::try_from(bytes.len()).map_err(|_| Errno::Overflow)?;
        self.bytes_mut(at, len)?.copy_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn write_u32(&mut self, at: u32, value: u32) -> Result<(), Errno> {
        self.write(at, &value.to_le_bytes())
    }

    pub(crate) fn write_u64(&mut self, at: u32, value: u64) -> Result<(), Errno> {
        self.write(at, &value.to_le_bytes())
    }
}

/// How many bytes `vectors` cover.
pub(crate) fn total(vectors: &[Range<usize>]) -> usize {
    vectors.iter().map(Range::len).sum()
}

/// The first two bytes; `bytes` has been cut to size by the caller.
pub(crate) fn le_u16(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

/// The first four bytes.
pub(crate) fn le_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The first eight bytes.
pub(crate) fn le_u64(bytes: &[u8]) -> u64 {
    u64::from(le_u32(bytes)) | u64::from(le_u32(&bytes[4..])) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_beyond_the_end() {
        let mut bytes = vec![0; 16];
        let mut memory = Memory::new(&mut bytes);
        assert_eq!(memory.range(0, 16, 1), Ok(0..16));
        assert_eq!(memory.range(16, 0, 1), Ok(16..16));
        for (at, len) in [(0, 17), (16, 1), (17, 0), (u32::MAX, u32::MAX), (1, u32::MAX)] {
            assert_eq!(memory.range(at, len, 1), Err(Errno::Fault), "{at} {len}");
        }
        assert_eq!(memory.range(0, u32::MAX, u32::MAX), Err(Errno::Fault));
        assert_eq!(memory.write_u64(9, 0), Err(Errno::Fault));
        assert_eq!(memory.write_u64(8, 1), Ok(()));
    }

    #[test]
    fn vectors_are_checked_before_use() {
        let mut bytes = vec![0; 64];
        let pairs: [u32; 6] = [40, 8, 99, 0, 48, 16];
        for (at, word) in pairs.iter().enumerate() {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        let memory = Memory::new(&mut bytes);
        assert_eq!(memory.vectors(0, 3), Ok(vec![40..48, 48..64]), "an empty one may point anywhere");
        assert_eq!(memory.vectors(0, 9), Err(Errno::Fault), "the array itself leaves memory");
        assert_eq!(memory.vectors(0, u32::MAX), Err(Errno::Fault));
        assert_eq!(memory.vectors(4, 1), Err(Errno::Fault), "a buffer leaves memory");
    }

    #[test]
    fn vectors_are_limited() {
        let mut bytes = Vec::new();
        for _ in 0..5000 {
            bytes.extend_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0]);
        }
        assert_eq!(Memory::new(&mut bytes).vectors(0, 5000).map(|vectors| vectors.len()), Ok(MAX_VECTORS));
    }
}
