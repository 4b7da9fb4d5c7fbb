//! The encoding of frozen state: what `dunlin-wire` has no words for. Lengths and counts take 64 bits, because the
//! contents of a file may.

use dunlin_wire::ReadError;

/// Why frozen state cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The bytes do not hold what they should.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A field has a value that no writer produces.
    #[error("the {what} before byte {offset} is invalid")]
    Invalid {
        /// Which field.
        what: &'static str,
        /// Where the field ends.
        offset: u64,
    },
    /// A count of items is larger than what follows can hold.
    #[error("at byte {offset}: {count} items cannot follow, {left} bytes are left")]
    Count {
        /// Where the count is.
        offset: u64,
        /// The count.
        count: u64,
        /// What is left behind it.
        left: u64,
    },
}

/// Collects the bytes of a section.
#[derive(Debug, Default)]
pub(crate) struct Writer(dunlin_wire::Writer);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.u8(value);
    }

    pub(crate) fn flag(&mut self, value: bool) {
        self.0.u8(value.into());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.u32(value);
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.u64(value);
    }

    pub(crate) fn u128(&mut self, value: u128) {
        self.0.u128(value);
    }

    pub(crate) fn array(&mut self, bytes: &[u8; 32]) {
        self.0.bytes(bytes);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.u64(bytes.len() as u64);
        self.0.bytes(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// The number of items and then each of them.
    pub(crate) fn list<T>(&mut self, items: &[T], write: impl Fn(&T, &mut Self)) {
        self.0.u64(items.len() as u64);
        items.iter().for_each(|item| write(item, self));
    }

    /// Whether there is an item, and then the item.
    pub(crate) fn option<T>(&mut self, item: Option<&T>, write: impl Fn(&T, &mut Self)) {
        self.flag(item.is_some());
        if let Some(item) = item {
            write(item, self);
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

/// Takes fields off a section's bytes.
#[derive(Debug)]
pub(crate) struct Reader<'a>(dunlin_wire::Reader<'a>);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(dunlin_wire::Reader::new(bytes))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.0.u8()?)
    }

    pub(crate) fn flag(&mut self, what: &'static str) -> Result<bool, CodecError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.invalid(what)),
        }
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(self.0.u32()?)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(self.0.u64()?)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, CodecError> {
        Ok(self.0.u128()?)
    }

    pub(crate) fn array(&mut self) -> Result<[u8; 32], CodecError> {
        Ok(self.0.array()?)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.u64()?;
        Ok(self.0.bytes(len)?)
    }

    pub(crate) fn text(&mut self, what: &'static str) -> Result<String, CodecError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| self.invalid(what))
    }

    /// A list, whose items are read one after the other: what is allocated grows with what is there.
    pub(crate) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        let offset = self.0.offset();
        let count = self.u64()?;
        let left = self.0.left();
        // No item is shorter than a byte.
        if count > left {
            return Err(CodecError::Count { offset, count, left });
        }
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }

    /// The counterpart of [`Writer::option`].
    pub(crate) fn option<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<T>, CodecError> {
        if self.flag(what)? { read(self).map(Some) } else { Ok(None) }
    }

    /// The error that the field just read is wrong.
    pub(crate) fn invalid(&self, what: &'static str) -> CodecError {
        CodecError::Invalid { what, offset: self.0.offset() }
    }

    /// Checks that nothing is left.
    pub(crate) fn finish(self) -> Result<(), CodecError> {
        Ok(self.0.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back() {
        let mut writer = Writer::default();
        writer.flag(true);
        writer.text("\u{e4}hre");
        writer.list(&[1_u32, 2], |item, writer| writer.u32(*item));
        writer.option(None, |item: &u8, writer| writer.u8(*item));
        writer.option(Some(&7), |item, writer| writer.u8(*item));
        let bytes = writer.finish();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.flag("flag"), Ok(true));
        assert_eq!(reader.text("text"), Ok("\u{e4}hre".to_owned()));
        assert_eq!(reader.list(Reader::u32), Ok(vec![1, 2]));
        assert_eq!(reader.option("option", Reader::u8), Ok(None));
        assert_eq!(reader.option("option", Reader::u8), Ok(Some(7)));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn wrong_bytes_are_refused() {
        let huge = u64::MAX.to_le_bytes();
        assert!(matches!(Reader::new(&huge).bytes(), Err(CodecError::Read(_))));
        let count = CodecError::Count { offset: 0, count: u64::MAX, left: 0 };
        assert_eq!(Reader::new(&huge).list(Reader::u8), Err(count));
        assert_eq!(Reader::new(&[2]).flag("flag"), Err(CodecError::Invalid { what: "flag", offset: 1 }));
        assert!(matches!(Reader::new(&[1, 0, 0, 0, 0, 0, 0, 0, 0xff]).text("text"), Err(CodecError::Invalid { .. })));
        assert!(matches!(Reader::new(&[2]).finish(), Err(CodecError::Read(_))));
    }
}
