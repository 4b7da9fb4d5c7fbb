//! The engines that a program can run on.

use core::fmt;
use core::str::FromStr;

/// An engine. All tiers give the same results and capture identical state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Tier {
    /// Wasmtime with native code from Cranelift.
    #[default]
    Cranelift,
    /// Wasmtime's portable interpreter, for machines where no code may be generated.
    Pulley,
    /// The interpreter wasmi, which shares no code with Wasmtime. It has no exceptions and no typed function
    /// references.
    Wasmi,
}

impl Tier {
    /// All tiers.
    pub const ALL: [Self; 3] = [Self::Cranelift, Self::Pulley, Self::Wasmi];

    /// The tier's name, as it is written in commands and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cranelift => "cranelift",
            Self::Pulley => "pulley",
            Self::Wasmi => "wasmi",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no tier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown engine tier {0:?}: write cranelift, pulley or wasmi")]
pub struct ParseTierError(String);

impl FromStr for Tier {
    type Err = ParseTierError;

    fn from_str(text: &str) -> Result<Self, ParseTierError> {
        Self::ALL.into_iter().find(|tier| tier.name() == text).ok_or_else(|| ParseTierError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for tier in Tier::ALL {
            assert_eq!(tier.to_string().parse(), Ok(tier));
        }
        assert_eq!(
            "v8".parse::<Tier>().unwrap_err().to_string(),
            "unknown engine tier \"v8\": write cranelift, pulley or wasmi"
        );
    }
}
