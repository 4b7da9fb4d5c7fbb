//! The kinds of sections.

use core::fmt;

/// First section kind that belongs to the host. Section kind `HOST_KINDS + k` carries the host section of kind `k`.
pub const HOST_KINDS: u16 = 0x8000;

/// Bytes before a section's body.
pub(crate) const SECTION_HEADER: u64 = 16;
/// The flag of a section that a reader must understand.
pub(crate) const MANDATORY: u32 = 1;
/// The version of every section of this crate.
pub(crate) const SECTION_VERSION: u16 = 1;

/// What a section holds. Kinds are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SectionKind {
    /// The embedded module (1).
    Module,
    /// The call stack (2).
    Frames,
    /// The mutable globals (3).
    Globals,
    /// The tables (4).
    Tables,
    /// The memories (5).
    Memories,
    /// The dropped segments (6).
    Dropped,
    /// The exceptions (7).
    Exceptions,
    /// What took the snapshot, for people (8).
    Meta,
    /// The entry that is on the call stack (9).
    Entry,
    /// The host section of this kind (0x8000 and above).
    Host(u16),
    /// None of these.
    Unknown(u16),
}

impl SectionKind {
    /// The kind with this number.
    pub const fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Module,
            2 => Self::Frames,
            3 => Self::Globals,
            4 => Self::Tables,
            5 => Self::Memories,
            6 => Self::Dropped,
            7 => Self::Exceptions,
            8 => Self::Meta,
            9 => Self::Entry,
            HOST_KINDS.. => Self::Host(number - HOST_KINDS),
            _ => Self::Unknown(number),
        }
    }

    /// The kind's number.
    pub const fn number(self) -> u16 {
        match self {
            Self::Module => 1,
            Self::Frames => 2,
            Self::Globals => 3,
            Self::Tables => 4,
            Self::Memories => 5,
            Self::Dropped => 6,
            Self::Exceptions => 7,
            Self::Meta => 8,
            Self::Entry => 9,
            Self::Host(kind) => HOST_KINDS | kind,
            Self::Unknown(number) => number,
        }
    }

    /// Whether this crate decodes the body.
    pub(crate) const fn is_core(self) -> bool {
        !matches!(self, Self::Host(_) | Self::Unknown(_))
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Module => f.write_str("module"),
            Self::Frames => f.write_str("frames"),
            Self::Globals => f.write_str("globals"),
            Self::Tables => f.write_str("tables"),
            Self::Memories => f.write_str("memories"),
            Self::Dropped => f.write_str("dropped segments"),
            Self::Exceptions => f.write_str("exceptions"),
            Self::Meta => f.write_str("meta"),
            Self::Entry => f.write_str("entry"),
            Self::Host(kind) => write!(f, "host {kind}"),
            Self::Unknown(number) => write!(f, "unknown {number:#06x}"),
        }
    }
}

/// A section as it stands in the file, not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section<'a> {
    /// What it holds.
    pub kind: SectionKind,
    /// Version of its encoding.
    pub version: u16,
    /// Whether a reader that does not know kind and version must refuse the snapshot.
    pub mandatory: bool,
    /// Offset of its body in the file.
    pub offset: u64,
    /// Its body.
    pub body: &'a [u8],
}

impl Section<'_> {
    /// Whether this version can decode it, or hands it to the host as it is.
    pub const fn is_known(&self) -> bool {
        match self.kind {
            SectionKind::Host(_) => true,
            SectionKind::Unknown(_) => false,
            _ => self.version == SECTION_VERSION,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_kinds_are_one_to_one() {
        for number in 0..=u16::MAX {
            assert_eq!(SectionKind::from_number(number).number(), number);
        }
        assert_eq!(SectionKind::from_number(0x8003), SectionKind::Host(3));
        assert_eq!(SectionKind::from_number(0x7fff), SectionKind::Unknown(0x7fff));
    }
}
