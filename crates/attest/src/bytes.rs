//! Byte strings whose text form is lower-case hexadecimal, in policies and in output.

use core::fmt;
use core::str::FromStr;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

/// A byte string; its text form is lower-case hexadecimal.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// Whether every byte is zero (also true of the empty string).
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }
}

impl<T: AsRef<[u8]>> From<T> for Bytes {
    fn from(bytes: T) -> Self {
        Self(bytes.as_ref().to_vec())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({self})")
    }
}

/// A text that is not an even number of hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an even number of hexadecimal digits")]
pub struct ParseHexError;

impl FromStr for Bytes {
    type Err = ParseHexError;

    fn from_str(text: &str) -> Result<Self, ParseHexError> {
        let (pairs, odd) = text.as_bytes().as_chunks::<2>();
        if !odd.is_empty() {
            return Err(ParseHexError);
        }
        let nibble = |digit: u8| (digit as char).to_digit(16).ok_or(ParseHexError);
        pairs
            .iter()
            .map(|&[high, low]| Ok((nibble(high)? * 16 + nibble(low)?) as u8))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_bad_text_is_refused() {
        assert_eq!("00ffA0".parse(), Ok(Bytes(vec![0, 255, 160])));
        assert_eq!(Bytes(vec![0, 255, 160]).to_string(), "00ffa0");
        for bad in ["0", "0g", "é0"] {
            assert_eq!(bad.parse::<Bytes>(), Err(ParseHexError), "{bad}");
        }
    }
}
