//! Why something is not sealed or not opened. No variant carries a byte of a key or of a plain text.

use std::io;
use std::path::PathBuf;

use crate::object::Kind;

/// Why something is not sealed or not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It does not begin as a sealed object does.
    #[error("this is not a sealed object of a version that this program knows")]
    Magic,
    /// The object ends before its end was sealed.
    #[error("the sealed object is cut off: its last part is missing; fetch it again or take an older copy")]
    Truncated,
    /// Something follows what was sealed as the end.
    #[error("bytes follow the end of the sealed object")]
    Trailing,
    /// A part has a length that no part has.
    #[error("part {part} of the sealed object has an impossible length")]
    Length {
        /// Its number, from 0.
        part: u64,
    },
    /// Sealed for something else.
    #[error("the object was sealed as {found}, and {expected} is wanted: files were exchanged")]
    OtherKind {
        /// What the object says.
        found: String,
        /// What is wanted.
        expected: Kind,
    },
    /// Sealed under the key of another epoch.
    #[error("the object was sealed in epoch {found}, the key at hand is that of epoch {key}")]
    OtherEpoch {
        /// What the object says; 0 for a machine's own key.
        found: u64,
        /// The key's; 0 for a machine's own key.
        key: u64,
    },
    /// Another version than the one that is wanted.
    #[error(
        "the object has version {found}, and version {expected} is wanted: it is older or of a state never committed"
    )]
    OtherVersion {
        /// What the object says.
        found: u64,
        /// What is wanted.
        expected: u64,
    },
    /// The bytes are not what was sealed under this key and label.
    #[error("part {part} does not open: it was changed, or sealed for another service, name or key")]
    Seal {
        /// Its number, from 0.
        part: u64,
    },
    /// More than this crate seals in one piece.
    #[error("{0} is longer than can be sealed")]
    TooLong(&'static str),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes, so nothing is sealed: {0}")]
    Random(String),
    /// The file of a key.
    #[error("the key file {} cannot be used: {problem}", path.display())]
    KeyFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// The process cannot be protected.
    #[error("this process cannot be kept out of core dumps: {0}")]
    Process(#[source] io::Error),
    /// The file or stream under the object.
    #[error("the sealed object cannot be read or written")]
    Io(#[from] io::Error),
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => error,
            Error::Truncated => Self::new(io::ErrorKind::UnexpectedEof, error),
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}
