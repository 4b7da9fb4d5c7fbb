//! What moves with a program of its trusted surroundings. The store's values are in it as the program sees them: a
//! snapshot carries the program's memory as well, and is sealed as a whole where it has to be. The other host seals them
//! anew, under its own epoch's key.

use super::{MAX_KEY, MAX_VALUE, MAX_VALUES};
use crate::codec::{CodecError, Reader, Writer};
use crate::sections::{Frozen, kind};

/// The state at a freeze.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TrustV1 {
    /// Ascending by handle.
    pub(crate) results: Vec<(u32, Vec<u8>)>,
    pub(crate) pending: Option<(String, Vec<u8>)>,
    /// Ascending by key.
    pub(crate) values: Vec<(String, Vec<u8>)>,
}

fn write_value((key, value): &(String, Vec<u8>), writer: &mut Writer) {
    writer.text(key);
    writer.bytes(value);
}

fn read_value(reader: &mut Reader<'_>) -> Result<(String, Vec<u8>), CodecError> {
    let key = reader.text("key of a sealed value")?;
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(reader.invalid("key of a sealed value"));
    }
    let value = reader.bytes()?;
    if value.len() > MAX_VALUE {
        return Err(reader.invalid("length of a sealed value"));
    }
    Ok((key, value.to_vec()))
}

impl Frozen for TrustV1 {
    const KIND: u16 = kind::TRUST;
    const VERSION: u16 = 1;

    fn write(&self, writer: &mut Writer) {
        let Self { results, pending, values } = self;
        writer.list(results, |(handle, bytes), writer| {
            writer.u32(*handle);
            writer.bytes(bytes);
        });
        writer.option(pending.as_ref(), write_value);
        writer.list(values, write_value);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let results = reader.list(|reader| Ok((reader.u32()?, reader.bytes()?.to_vec())))?;
        if results.len() > super::MAX_RESULTS || !results.is_sorted_by(|one, other| one.0 < other.0) {
            return Err(reader.invalid("results"));
        }
        if results.last().is_some_and(|(handle, _)| *handle as usize >= super::MAX_RESULTS) {
            return Err(reader.invalid("handle of a result"));
        }
        let pending = reader.option("value that is being put away", read_value)?;
        let values = reader.list(read_value)?;
        if values.len() > MAX_VALUES || !values.is_sorted_by(|one, other| one.0 < other.0) {
            return Err(reader.invalid("keys of sealed values"));
        }
        Ok(Self { results, pending, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_ever() {
        let state = TrustV1 {
            results: vec![(0, b"r".to_vec())],
            pending: Some(("p".to_owned(), vec![1])),
            values: vec![("k".to_owned(), vec![2, 3])],
        };
        let section = state.section();
        assert_eq!((section.kind, section.version, section.mandatory), (13, 1, true));
        let expected = [
            &1_u64.to_le_bytes()[..],
            &[0, 0, 0, 0],
            &1_u64.to_le_bytes(),
            b"r",
            &[1],
            &1_u64.to_le_bytes(),
            b"p",
            &1_u64.to_le_bytes(),
            &[1],
            &1_u64.to_le_bytes(),
            &1_u64.to_le_bytes(),
            b"k",
            &2_u64.to_le_bytes(),
            &[2, 3],
        ];
        assert_eq!(section.bytes, expected.concat());
        assert_eq!(TrustV1::read(&mut Reader::new(&section.bytes)), Ok(state));
        for length in 0..section.bytes.len() {
            assert!(TrustV1::read(&mut Reader::new(&section.bytes[..length])).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn handles_and_keys_out_of_order_are_refused() {
        let value = |key: &str| (key.to_owned(), Vec::new());
        let wrong = [
            TrustV1 { results: vec![(1, Vec::new()), (0, Vec::new())], ..TrustV1::default() },
            TrustV1 { results: vec![(256, Vec::new())], ..TrustV1::default() },
            TrustV1 { values: vec![value("b"), value("a")], ..TrustV1::default() },
            TrustV1 { values: vec![value("a"), value("a")], ..TrustV1::default() },
            TrustV1 { values: vec![value("")], ..TrustV1::default() },
            TrustV1 { pending: Some(value(&"k".repeat(257))), ..TrustV1::default() },
        ];
        for state in wrong {
            let bytes = state.section().bytes;
            assert!(TrustV1::read(&mut Reader::new(&bytes)).is_err(), "{state:?}");
        }
    }
}
