//! The counterpart of the reader.

/// A count that does not fit its 32-bit field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{count} items do not fit a 32-bit count")]
pub struct TooLong {
    /// The count.
    pub count: u64,
}

/// Appends fixed-width little-endian items to bytes.
#[derive(Debug, Clone, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// A writer with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends a 16-bit number.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends a 32-bit number.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends a 64-bit number.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends a 128-bit number.
    pub fn u128(&mut self, value: u128) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends a count that [`Reader::count`](crate::Reader::count) reads.
    ///
    /// # Errors
    /// [`TooLong`] when it does not fit 32 bits.
    pub fn count(&mut self, count: usize) -> Result<(), TooLong> {
        self.u32(u32::try_from(count).map_err(|_| TooLong { count: count as u64 })?);
        Ok(())
    }

    /// Overwrites bytes at `offset` that were written before; whether they had been.
    #[must_use]
    pub fn overwrite(&mut self, offset: usize, bytes: &[u8]) -> bool {
        let Some(end) = offset.checked_add(bytes.len()) else { return false };
        self.bytes.get_mut(offset..end).map(|target| target.copy_from_slice(bytes)).is_some()
    }

    /// What was written.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reader;

    #[test]
    fn the_reader_reads_what_was_written() {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.u16(0x0203);
        writer.u32(0x0405_0607);
        writer.u64(u64::MAX - 1);
        writer.u128(u128::MAX - 2);
        writer.count(2).unwrap();
        writer.bytes(b"ab");
        let bytes = writer.into_bytes();
        let mut reader = Reader::new(&bytes);
        assert_eq!((reader.u8(), reader.u16(), reader.u32()), (Ok(1), Ok(0x0203), Ok(0x0405_0607)));
        assert_eq!((reader.u64(), reader.u128()), (Ok(u64::MAX - 1), Ok(u128::MAX - 2)));
        assert_eq!((reader.count(1, 2), reader.bytes(2)), (Ok(2), Ok(&b"ab"[..])));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn overwrites_only_what_exists() {
        let mut writer = Writer::new();
        writer.u32(0);
        assert!(writer.overwrite(1, &[7, 8]));
        assert!(!writer.overwrite(3, &[9, 9]));
        assert!(!writer.overwrite(usize::MAX, &[9]));
        assert_eq!(writer.as_slice(), [0, 7, 8, 0]);
        assert_eq!((writer.len(), writer.is_empty()), (4, false));
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn a_count_of_more_than_32_bits_is_an_error() {
        assert_eq!(Writer::new().count(1 << 32), Err(TooLong { count: 1 << 32 }));
    }
}
