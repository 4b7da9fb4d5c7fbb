//! The bounded, deterministic byte encoding that records, requests, receipts and messages share.
//!
//! Little-endian integers of fixed width, lists and texts behind a 32-bit length with a limit, enums behind a tag.
//! One value has exactly one encoding: a decoder accepts nothing that it would not write itself, and a length read
//! from outside never decides an allocation.

use dunlin_base::Digest;
use dunlin_wire::ReadError;

/// Bytes that are not the encoding of what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end too early, go on too long, or hold a length above the limit.
    #[error("{what} cannot be read: the input is cut off, damaged, or not of this format")]
    Read {
        /// What was being read.
        what: &'static str,
        /// Where and how.
        #[source]
        source: ReadError,
    },
    /// A tag, flag or version that this program does not know.
    #[error("{what} has the unknown value {value}: the sender is newer than this program, or the bytes are damaged")]
    Unknown {
        /// What was being read.
        what: &'static str,
        /// The value.
        value: u64,
    },
    /// A field contradicts another one, or is not in its one canonical form.
    #[error("{what} is not valid: {why}")]
    Invalid {
        /// What was being read.
        what: &'static str,
        /// The rule that it breaks.
        why: &'static str,
    },
}

/// A value with a stable encoding.
pub trait Wire: Sized {
    /// Name in error messages.
    const WHAT: &'static str;

    /// Appends the encoding.
    fn write(&self, out: &mut Writer);

    /// Reads one value.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not an encoding.
    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// The encoding.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write(&mut out);
        out.finish()
    }

    /// Reads a value that must fill `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not exactly one encoding.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let value = Self::read(&mut input)?;
        input.finish(Self::WHAT)?;
        Ok(value)
    }
}

/// Appends encodings.
#[derive(Debug, Default)]
pub struct Writer(dunlin_wire::Writer);

impl Writer {
    /// Appends any value.
    pub fn put<T: Wire>(&mut self, value: &T) {
        value.write(self);
    }

    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.bytes(bytes);
    }

    /// Appends a length and the bytes. Everything that this crate encodes is far below 4 GiB by its own limits.
    pub fn blob(&mut self, bytes: &[u8]) {
        self.put(&(bytes.len() as u32));
        self.raw(bytes);
    }

    /// Appends a length and the values.
    pub fn list<T: Wire>(&mut self, values: &[T]) {
        self.put(&(values.len() as u32));
        values.iter().for_each(|value| self.put(value));
    }

    /// The bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

/// Reads encodings from untrusted bytes.
#[derive(Debug)]
pub struct Reader<'a>(dunlin_wire::Reader<'a>);

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(dunlin_wire::Reader::new(bytes))
    }

    /// Reads any value.
    ///
    /// # Errors
    /// As the value's own decoder.
    pub fn take<T: Wire>(&mut self) -> Result<T, DecodeError> {
        T::read(self)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Read`].
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        self.0.array().map_err(|source| DecodeError::Read { what, source })
    }

    /// How many values or bytes follow: a 32-bit number of at most `limit`.
    ///
    /// # Errors
    /// [`DecodeError::Read`], also when fewer bytes are left than that.
    pub fn count(&mut self, what: &'static str, limit: usize) -> Result<usize, DecodeError> {
        self.0.count(1, limit as u64).map_err(|source| DecodeError::Read { what, source })
    }

    /// A length-prefixed run of at most `limit` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Read`].
    pub fn blob(&mut self, what: &'static str, limit: usize) -> Result<Vec<u8>, DecodeError> {
        let length = self.count(what, limit)?;
        self.0.bytes(length as u64).map(<[u8]>::to_vec).map_err(|source| DecodeError::Read { what, source })
    }

    /// A length-prefixed UTF-8 text of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Reader::blob`]; [`DecodeError::Invalid`] when it is not UTF-8.
    pub fn text(&mut self, what: &'static str, limit: usize) -> Result<String, DecodeError> {
        String::from_utf8(self.blob(what, limit)?).map_err(|_| DecodeError::Invalid { what, why: "text is UTF-8" })
    }

    /// A length-prefixed list of at most `limit` values. Grows as values really arrive.
    ///
    /// # Errors
    /// [`DecodeError::Read`], and as the values' own decoder.
    pub fn list<T: Wire>(&mut self, what: &'static str, limit: usize) -> Result<Vec<T>, DecodeError> {
        let length = self.count(what, limit)?;
        let mut values = Vec::new();
        for _ in 0..length {
            values.push(self.take()?);
        }
        Ok(values)
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// [`DecodeError::Read`].
    pub fn finish(self, what: &'static str) -> Result<(), DecodeError> {
        self.0.finish().map_err(|source| DecodeError::Read { what, source })
    }
}

macro_rules! wire_int {
    ($($ty:ident),*) => {$(
        impl Wire for $ty {
            const WHAT: &'static str = stringify!($ty);

            fn write(&self, out: &mut Writer) {
                out.raw(&self.to_le_bytes());
            }

            fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                input.array(Self::WHAT).map(Self::from_le_bytes)
            }
        }
    )*};
}
wire_int!(u8, u16, u32, u64);

impl Wire for bool {
    const WHAT: &'static str = "flag";

    fn write(&self, out: &mut Writer) {
        out.put(&u8::from(*self));
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.take::<u8>()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(DecodeError::Unknown { what: Self::WHAT, value: value.into() }),
        }
    }
}

impl Wire for Digest {
    const WHAT: &'static str = "digest";

    fn write(&self, out: &mut Writer) {
        out.raw(&self.0);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.array(Self::WHAT).map(Self)
    }
}

impl<T: Wire> Wire for Option<T> {
    const WHAT: &'static str = T::WHAT;

    fn write(&self, out: &mut Writer) {
        out.put(&self.is_some());
        if let Some(value) = self {
            out.put(value);
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(if input.take()? { Some(input.take()?) } else { None })
    }
}

/// Implements [`Wire`](crate::codec::Wire) for a struct, field by field in the order given. Every field must be listed.
#[macro_export]
macro_rules! wire_struct {
    ($ty:ident, $what:literal, { $($field:ident),* $(,)? }) => {
        impl $crate::codec::Wire for $ty {
            const WHAT: &'static str = $what;

            fn write(&self, out: &mut $crate::codec::Writer) {
                let Self { $($field),* } = self;
                $(out.put($field);)*
            }

            fn read(input: &mut $crate::codec::Reader<'_>) -> Result<Self, $crate::codec::DecodeError> {
                Ok(Self { $($field: input.take()?),* })
            }
        }
    };
}
pub use wire_struct;

/// Implements [`Wire`](crate::codec::Wire) for an enum without fields, as the given tag byte.
#[macro_export]
macro_rules! wire_tags {
    ($ty:ident, $what:literal, { $($variant:ident = $tag:literal),* $(,)? }) => {
        impl $crate::codec::Wire for $ty {
            const WHAT: &'static str = $what;

            fn write(&self, out: &mut $crate::codec::Writer) {
                out.put(&match self { $(Self::$variant => $tag),* as u8 });
            }

            fn read(input: &mut $crate::codec::Reader<'_>) -> Result<Self, $crate::codec::DecodeError> {
                match input.take::<u8>()? {
                    $($tag => Ok(Self::$variant),)*
                    value => Err($crate::codec::DecodeError::Unknown { what: $what, value: value.into() }),
                }
            }
        }
    };
}
pub use wire_tags;

#[cfg(test)]
mod tests {
    use dunlin_wire::ReadProblem;

    use super::*;

    #[track_caller]
    fn problem<T: core::fmt::Debug>(read: Result<T, DecodeError>) -> ReadProblem {
        match read {
            Err(DecodeError::Read { source, .. }) => source.problem,
            other => panic!("not a problem of reading: {other:?}"),
        }
    }

    #[test]
    fn refuses_what_it_would_not_write() {
        assert!(matches!(bool::from_bytes(&[2]), Err(DecodeError::Unknown { value: 2, .. })));
        assert_eq!(problem(u32::from_bytes(&[1, 2, 3])), ReadProblem::Short { wanted: 4, left: 3 });
        assert_eq!(problem(u16::from_bytes(&[1, 2, 3])), ReadProblem::Trailing { left: 1 });
        assert_eq!(Option::<u16>::from_bytes(&[1, 2, 3]), Ok(Some(0x0302)));
        let latin = [1, 0, 0, 0, 0xe9];
        assert!(matches!(Reader::new(&latin).text("text", 9), Err(DecodeError::Invalid { .. })));
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        let mut bytes = u32::MAX.to_le_bytes().to_vec();
        bytes.extend([0; 8]);
        let wanted = u32::MAX.into();
        let short = ReadProblem::Short { wanted, left: 8 };
        assert_eq!(problem(Reader::new(&bytes).list::<u64>("list", usize::MAX)), short);
        assert_eq!(problem(Reader::new(&bytes).blob("blob", usize::MAX)), short);
        assert_eq!(problem(Reader::new(&bytes).blob("blob", 16)), ReadProblem::Count { count: wanted, limit: 16 });
    }
}
