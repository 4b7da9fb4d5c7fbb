//! Deterministic CBOR (RFC 8949, section 4.2.1): one encoding for each value, so that what is hashed or
//! signed cannot be written in two ways. The decoder refuses everything that the encoder would not write.

use ciborium::Value;

/// Why bytes are not one of this crate's CBOR objects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// Longer than the format allows.
    #[error("{length} bytes are more than the {limit} that are allowed here")]
    TooLong {
        /// What it is.
        length: usize,
        /// What it may be.
        limit: usize,
    },
    /// Not CBOR, or cut off.
    #[error("not a complete CBOR item: {0}")]
    Syntax(String),
    /// CBOR, but not in the one deterministic form, or with bytes after it.
    #[error("not in deterministic form, or followed by other bytes")]
    NotDeterministic,
    /// A field that must be there is not.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A field has another type or size than the format says.
    #[error("field {field} must be {expected}")]
    Type {
        /// Which field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A field that this version does not know. All fields are critical.
    #[error("unknown field {0}; every field is critical")]
    Unknown(String),
}

/// Encodes deterministically: shortest heads, definite lengths, map keys in bytewise order.
pub(crate) fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put(value, &mut out);
    out
}

fn head(major: u8, number: u64, out: &mut Vec<u8>) {
    let major = major << 5;
    match number {
        0..=23 => out.push(major | number as u8),
        24..=0xff => out.extend([major | 24, number as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend((number as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend((number as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend(number.to_be_bytes());
        }
    }
}

fn put(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Integer(integer) => {
            let number = i128::from(*integer);
            // ciborium's integers are those of CBOR: -2^64 to 2^64-1, so both casts are exact.
            if number >= 0 { head(0, number as u64, out) } else { head(1, (-1 - number) as u64, out) }
        }
        Value::Bytes(bytes) => {
            head(2, bytes.len() as u64, out);
            out.extend(bytes);
        }
        Value::Text(text) => {
            head(3, text.len() as u64, out);
            out.extend(text.as_bytes());
        }
        Value::Array(items) => {
            head(4, items.len() as u64, out);
            items.iter().for_each(|item| put(item, out));
        }
        Value::Map(entries) => {
            head(5, entries.len() as u64, out);
            let mut entries: Vec<_> = entries.iter().map(|(key, value)| (encode(key), value)).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            for (key, value) in entries {
                out.extend(key);
                put(value, out);
            }
        }
        Value::Tag(tag, inner) => {
            head(6, *tag, out);
            put(inner, out);
        }
        Value::Bool(flag) => out.push(if *flag { 0xf5 } else { 0xf4 }),
        // Null stands for itself; floating point numbers have no place in any format of this crate, and
        // what they become here never equals what was read.
        _ => out.push(0xf6),
    }
}

fn what_is_wrong<E>(error: &ciborium::de::Error<E>) -> String {
    use ciborium::de::Error;
    match error {
        // A slice can only be too short.
        Error::Io(_) => "it ends too early".to_owned(),
        Error::Syntax(at) => format!("byte {at} is wrong"),
        Error::Semantic(Some(at), what) => format!("{what} at byte {at}"),
        Error::Semantic(None, what) => what.clone(),
        Error::RecursionLimitExceeded => "it is nested too deeply".to_owned(),
    }
}

/// Decodes one item that fills `bytes` and is in deterministic form.
pub(crate) fn decode(bytes: &[u8], limit: usize) -> Result<Value, CborError> {
    if bytes.len() > limit {
        return Err(CborError::TooLong { length: bytes.len(), limit });
    }
    let value: Value = ciborium::de::from_reader_with_recursion_limit(bytes, 16)
        .map_err(|error| CborError::Syntax(what_is_wrong(&error)))?;
    if has_twin_keys(&value) || encode(&value) != bytes {
        return Err(CborError::NotDeterministic);
    }
    Ok(value)
}

fn has_twin_keys(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_twin_keys),
        Value::Tag(_, inner) => has_twin_keys(inner),
        Value::Map(entries) => {
            let mut keys: Vec<_> = entries.iter().map(|(key, _)| encode(key)).collect();
            keys.sort();
            keys.windows(2).any(|pair| matches!(pair, [a, b] if a == b))
                || entries.iter().any(|(key, value)| has_twin_keys(key) || has_twin_keys(value))
        }
        _ => false,
    }
}

/// A map with integer or text keys whose entries are taken one by one; what is left over is an error.
#[derive(Debug)]
pub(crate) struct Fields(Vec<(Value, Value)>);

impl Fields {
    pub(crate) fn new(value: Value, field: &'static str) -> Result<Self, CborError> {
        match value {
            Value::Map(entries) => Ok(Self(entries)),
            _ => Err(CborError::Type { field, expected: "a map" }),
        }
    }

    pub(crate) fn decode(bytes: &[u8], limit: usize) -> Result<Self, CborError> {
        Self::new(decode(bytes, limit)?, "(whole)")
    }

    pub(crate) fn optional(&mut self, key: impl Into<Value>) -> Option<Value> {
        let key = key.into();
        let at = self.0.iter().position(|(name, _)| *name == key)?;
        Some(self.0.swap_remove(at).1)
    }

    pub(crate) fn take(&mut self, key: impl Into<Value>, field: &'static str) -> Result<Value, CborError> {
        self.optional(key).ok_or(CborError::Missing(field))
    }

    pub(crate) fn bytes(&mut self, key: impl Into<Value>, field: &'static str) -> Result<Vec<u8>, CborError> {
        bytes(self.take(key, field)?, field)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        key: impl Into<Value>,
        field: &'static str,
    ) -> Result<[u8; N], CborError> {
        let value = self.bytes(key, field)?;
        value.try_into().map_err(|_| CborError::Type { field, expected: "a byte string of the fixed size" })
    }

    pub(crate) fn text(&mut self, key: impl Into<Value>, field: &'static str) -> Result<String, CborError> {
        text(self.take(key, field)?, field)
    }

    pub(crate) fn uint(&mut self, key: impl Into<Value>, field: &'static str) -> Result<u64, CborError> {
        uint(self.take(key, field)?, field)
    }

    pub(crate) fn list(&mut self, key: impl Into<Value>, field: &'static str) -> Result<Vec<Value>, CborError> {
        match self.take(key, field)? {
            Value::Array(items) => Ok(items),
            _ => Err(CborError::Type { field, expected: "an array" }),
        }
    }

    pub(crate) fn finish(self) -> Result<(), CborError> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => Err(CborError::Unknown(match key {
                Value::Text(name) => name.clone(),
                Value::Integer(number) => i128::from(*number).to_string(),
                _ => "(neither a number nor a text)".to_owned(),
            })),
        }
    }
}

pub(crate) fn bytes(value: Value, field: &'static str) -> Result<Vec<u8>, CborError> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        _ => Err(CborError::Type { field, expected: "a byte string" }),
    }
}

pub(crate) fn text(value: Value, field: &'static str) -> Result<String, CborError> {
    match value {
        Value::Text(text) => Ok(text),
        _ => Err(CborError::Type { field, expected: "a text" }),
    }
}

pub(crate) fn uint(value: Value, field: &'static str) -> Result<u64, CborError> {
    let expected = "an unsigned number";
    match value {
        Value::Integer(number) => u64::try_from(number).map_err(|_| CborError::Type { field, expected }),
        _ => Err(CborError::Type { field, expected }),
    }
}

/// A map with these entries.
pub(crate) fn map<K: Into<Value>, const N: usize>(entries: [(K, Value); N]) -> Value {
    Value::Map(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoder_agrees_with_the_examples_of_rfc_8949() {
        let hex = |value: Value| crate::Bytes(encode(&value)).to_string();
        assert_eq!(hex(1_000_000.into()), "1a000f4240");
        assert_eq!(hex(u64::MAX.into()), "1bffffffffffffffff");
        assert_eq!(hex((-1000).into()), "3903e7");
        assert_eq!(hex("IETF".into()), "6449455446");
        assert_eq!(hex(map([("b", Value::Array(vec![2.into(), 3.into()])), ("a", 1.into())])), "a26161016162820203");
        assert_eq!(hex(Value::Tag(1, Box::new(1_363_896_240.into()))), "c11a514b67b0");
    }

    #[test]
    fn only_the_deterministic_form_is_read() {
        assert!(decode(&[0xa1, 0x01, 0x02], 16).is_ok());
        for bad in [
            &[0x18, 0x01][..],                                             // 1 in two bytes
            &[0x9f, 0x01, 0xff],                                           // indefinite length
            &[0xa2, 0x02, 0x00, 0x01, 0x00],                               // keys out of order
            &[0xa2, 0x01, 0x00, 0x01, 0x00],                               // the same key twice
            &[0x01, 0x00],                                                 // bytes after the item
            &[0xf9, 0x3c, 0x00],                                           // a floating point number
            &[0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00], // a huge declared length
            &[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00], // the same for an array
            &[0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00], // the same for a map
            &[],
        ] {
            assert!(decode(bad, 16).is_err(), "{bad:02x?}");
        }
        assert!(decode(&[0x81; 64], 64).is_err(), "deep nesting");
    }
}
