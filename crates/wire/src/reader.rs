//! A cursor over bytes that are not trusted.

/// Why bytes could not be read, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {problem}")]
pub struct ReadError {
    /// Offset of the item that could not be read, counted from the origin given to [`Reader::at`].
    pub offset: u64,
    /// What is wrong with it.
    pub problem: ReadProblem,
}

/// What is wrong with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadProblem {
    /// The bytes end too early.
    #[error("{wanted} bytes are needed and {left} are left")]
    Short {
        /// Bytes that the item needs.
        wanted: u64,
        /// Bytes that are there.
        left: u64,
    },
    /// More bytes than the contents account for.
    #[error("{left} bytes follow the end")]
    Trailing {
        /// How many.
        left: u64,
    },
    /// A count is above what the caller permits.
    #[error("a count of {count} is above the limit of {limit}")]
    Count {
        /// The count that was read.
        count: u64,
        /// What the caller permits.
        limit: u64,
    },
}

/// A cursor over bytes that are not trusted. Every read is checked, nothing is allocated.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    offset: u64,
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self::at(bytes, 0)
    }

    /// Reads `bytes`, which lie `offset` bytes behind the origin that errors count from.
    pub fn at(bytes: &'a [u8], offset: u64) -> Self {
        Self { rest: bytes, offset }
    }

    /// Where the next item begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that are left.
    pub fn left(&self) -> u64 {
        self.rest.len() as u64
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`ReadProblem::Short`].
    pub fn bytes(&mut self, count: u64) -> Result<&'a [u8], ReadError> {
        let split = usize::try_from(count).ok().and_then(|count| self.rest.split_at_checked(count));
        let Some((bytes, rest)) = split else { return Err(self.short(count)) };
        self.rest = rest;
        self.offset = self.offset.saturating_add(count);
        Ok(bytes)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`ReadProblem::Short`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let Some((bytes, rest)) = self.rest.split_first_chunk::<N>() else { return Err(self.short(N as u64)) };
        self.rest = rest;
        self.offset = self.offset.saturating_add(N as u64);
        Ok(*bytes)
    }

    /// A reader of the next `count` bytes alone.
    ///
    /// # Errors
    /// [`ReadProblem::Short`].
    pub fn part(&mut self, count: u64) -> Result<Reader<'a>, ReadError> {
        let offset = self.offset;
        Ok(Self::at(self.bytes(count)?, offset))
    }

    /// A byte.
    ///
    /// # Errors
    /// [`ReadProblem::Short`].
    pub fn u8(&mut self) -> Result<u8, ReadError> {
        self.array().map(u8::from_le_bytes)
    }

    /// A 16-bit number.
    ///
    /// # Errors
    /// [`ReadProblem::Short`].
    pub fn u16(&mut self) -> Result<u16, ReadError> {
        self.array().map(u16::from_le_bytes)
    }

    /// A 32-bit number.
    ///
    /// # Errors
    /// [`ReadProblem::Short`].
    pub fn u32(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_le_bytes)
    }

    /// A 64-bit number.
    ///
    /// # Errors
    /// [`ReadProblem::Short`].
    pub fn u64(&mut self) -> Result<u64, ReadError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A 128-bit number.
    ///
    /// # Errors
    /// [`ReadProblem::Short`].
    pub fn u128(&mut self) -> Result<u128, ReadError> {
        self.array().map(u128::from_le_bytes)
    }

    /// A 32-bit count of items that each take at least `smallest` bytes of what follows: it may size an
    /// allocation, because the bytes for that many items are there.
    ///
    /// # Errors
    /// [`ReadProblem::Count`] when it is above `limit`, [`ReadProblem::Short`] when so many items cannot follow.
    pub fn count(&mut self, smallest: u64, limit: u64) -> Result<usize, ReadError> {
        let offset = self.offset;
        let count = u64::from(self.u32()?);
        if count > limit {
            return Err(ReadError { offset, problem: ReadProblem::Count { count, limit } });
        }
        let wanted = count.saturating_mul(smallest.max(1));
        let short = ReadError { offset, problem: ReadProblem::Short { wanted, left: self.left() } };
        if wanted > self.left() {
            return Err(short);
        }
        usize::try_from(count).map_err(|_| short)
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`ReadProblem::Trailing`] when bytes are left.
    pub fn finish(self) -> Result<(), ReadError> {
        match self.left() {
            0 => Ok(()),
            left => Err(ReadError { offset: self.offset, problem: ReadProblem::Trailing { left } }),
        }
    }

    fn short(&self, wanted: u64) -> ReadError {
        ReadError { offset: self.offset, problem: ReadProblem::Short { wanted, left: self.left() } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_little_endian() {
        let bytes: Vec<u8> = (1..=31).collect();
        let mut reader = Reader::at(&bytes, 100);
        assert_eq!(reader.u8(), Ok(0x01));
        assert_eq!(reader.u16(), Ok(0x0302));
        assert_eq!(reader.u32(), Ok(0x0706_0504));
        assert_eq!(reader.u64(), Ok(0x0f0e_0d0c_0b0a_0908));
        assert_eq!(reader.u128(), Ok(0x1f1e_1d1c_1b1a_1918_1716_1514_1312_1110));
        assert_eq!((reader.offset(), reader.left()), (131, 0));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn refuses_what_is_not_there_and_stays_where_it_was() {
        let mut reader = Reader::at(&[1, 2, 3], 10);
        let short = |wanted| ReadError { offset: 10, problem: ReadProblem::Short { wanted, left: 3 } };
        assert_eq!(reader.u32(), Err(short(4)));
        assert_eq!(reader.bytes(1 << 63), Err(short(1 << 63)));
        assert_eq!(reader.bytes(u64::MAX), Err(short(u64::MAX)));
        assert_eq!(reader.part(4).err(), Some(short(4)));
        assert_eq!(reader.clone().finish(), Err(ReadError { offset: 10, problem: ReadProblem::Trailing { left: 3 } }));
        assert_eq!(reader.bytes(3), Ok(&[1, 2, 3][..]));
    }

    #[test]
    fn a_part_ends_before_its_neighbour() {
        let mut reader = Reader::new(&[1, 2, 3, 4]);
        reader.u8().unwrap();
        let mut part = reader.part(2).unwrap();
        assert_eq!(part.u16(), Ok(0x0302));
        assert_eq!(part.u8(), Err(ReadError { offset: 3, problem: ReadProblem::Short { wanted: 1, left: 0 } }));
        assert_eq!(reader.u8(), Ok(4));
    }

    #[test]
    fn a_count_is_backed_by_bytes() {
        let bytes = [3, 0, 0, 0, 9, 9, 9, 9, 9, 9];
        assert_eq!(Reader::new(&bytes).count(2, 3), Ok(3));
        let over = ReadError { offset: 0, problem: ReadProblem::Count { count: 3, limit: 2 } };
        assert_eq!(Reader::new(&bytes).count(2, 2), Err(over));
        let short = |wanted| Err(ReadError { offset: 0, problem: ReadProblem::Short { wanted, left: 6 } });
        assert_eq!(Reader::new(&bytes).count(3, 3), short(9));
        assert_eq!(Reader::new(&bytes).count(u64::MAX, 3), short(u64::MAX));
        assert_eq!(Reader::new(&[255, 255, 255, 255]).count(0, u64::MAX).map_err(|error| error.offset), Err(0));
    }
}
