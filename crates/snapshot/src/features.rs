//! The WebAssembly features that a module needs.

use core::fmt;

/// A set of WebAssembly features, as the bits of the snapshot header. A bit is never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Features(u64);

/// Name of each assigned bit, lowest first. Append only.
const NAMES: [&str; 16] = [
    "mutable-global",
    "saturating-float-to-int",
    "sign-extension",
    "multi-value",
    "bulk-memory",
    "reference-types",
    "simd",
    "relaxed-simd",
    "tail-call",
    "extended-const",
    "multi-memory",
    "memory64",
    "exceptions",
    "function-references",
    "custom-page-sizes",
    "wide-arithmetic",
];

impl Features {
    /// Import and export of mutable globals.
    pub const MUTABLE_GLOBAL: Self = Self(1 << 0);
    /// Conversions from float to integer that saturate.
    pub const SATURATING_FLOAT_TO_INT: Self = Self(1 << 1);
    /// Sign extension operators.
    pub const SIGN_EXTENSION: Self = Self(1 << 2);
    /// Several results, block parameters.
    pub const MULTI_VALUE: Self = Self(1 << 3);
    /// Bulk memory and table operations.
    pub const BULK_MEMORY: Self = Self(1 << 4);
    /// Reference types.
    pub const REFERENCE_TYPES: Self = Self(1 << 5);
    /// 128-bit vectors.
    pub const SIMD: Self = Self(1 << 6);
    /// Vector operations with results that depend on the implementation.
    pub const RELAXED_SIMD: Self = Self(1 << 7);
    /// Tail calls.
    pub const TAIL_CALL: Self = Self(1 << 8);
    /// Arithmetic in constant expressions.
    pub const EXTENDED_CONST: Self = Self(1 << 9);
    /// More than one memory.
    pub const MULTI_MEMORY: Self = Self(1 << 10);
    /// 64-bit addresses.
    pub const MEMORY64: Self = Self(1 << 11);
    /// Exceptions with `exnref`.
    pub const EXCEPTIONS: Self = Self(1 << 12);
    /// Typed function references.
    pub const FUNCTION_REFERENCES: Self = Self(1 << 13);
    /// Page sizes other than 64 KiB.
    pub const CUSTOM_PAGE_SIZES: Self = Self(1 << 14);
    /// 128-bit integer arithmetic.
    pub const WIDE_ARITHMETIC: Self = Self(1 << 15);
    /// Every assigned feature.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// The set with these bits, assigned or not.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Features of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Features of this set that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut separator = "";
        for bit in (0..64).filter(|bit| self.0 >> bit & 1 == 1) {
            match NAMES.get(bit) {
                Some(name) => write!(f, "{separator}{name}")?,
                None => write!(f, "{separator}bit {bit}")?,
            }
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_bits() {
        assert_eq!(Features::MUTABLE_GLOBAL.to_string(), "mutable-global");
        assert_eq!(Features::SIMD.union(Features::EXCEPTIONS).to_string(), "simd, exceptions");
        assert_eq!(Features::WIDE_ARITHMETIC.to_string(), "wide-arithmetic");
        assert_eq!(Features::from_bits(1 << 63).without(Features::ALL).to_string(), "bit 63");
        assert_eq!(Features::default().to_string(), "none");
    }
}
