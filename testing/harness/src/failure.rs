//! What was found to be wrong.

use core::fmt;

/// A difference that a test reports, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(String);

impl Failure {
    /// A failure described by `text`.
    pub fn new(text: impl fmt::Display) -> Self {
        Self(text.to_string())
    }

    /// What went wrong in doing `what`, with all causes.
    pub fn of(what: impl fmt::Display, error: &(impl fmt::Debug + fmt::Display)) -> Self {
        Self(format!("{what}: {error:#}: {error:?}"))
    }

    /// The same, found in doing `what`.
    #[must_use]
    pub fn within(self, what: impl fmt::Display) -> Self {
        Self(format!("{what}: {}", self.0))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for Failure {}

/// Returns a [`Failure`] with a formatted text.
macro_rules! fail {
    ($($text:tt)*) => {
        return Err($crate::failure::Failure::new(format!($($text)*)))
    };
}

pub(crate) use fail;
