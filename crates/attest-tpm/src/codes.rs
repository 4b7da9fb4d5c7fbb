//! What a TPM says when it does not do what it was asked, and what can go wrong on the way to it.

use std::io;

/// A response code of a TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    /// Try again: the TPM was busy.
    pub const RETRY: Self = Self(0x922);
    /// Try again: the TPM tests itself.
    pub const TESTING: Self = Self(0x90a);
    /// Try again: the TPM gave way to something else.
    pub const YIELDED: Self = Self(0x908);
    /// No slot for another object.
    pub const OBJECT_MEMORY: Self = Self(0x902);
    /// No slot for another session.
    pub const SESSION_MEMORY: Self = Self(0x903);
    /// No handle for another session.
    pub const SESSION_HANDLES: Self = Self(0x905);
    /// No slot for another object.
    pub const OBJECT_HANDLES: Self = Self(0x906);
    /// A policy is not fulfilled: for a sealed secret, the register has another value.
    pub const POLICY_FAIL: Self = Self(0x09d);
    /// The value of a register changed while a session was open.
    pub const PCR_CHANGED: Self = Self(0x128);
    /// Not allowed at this locality.
    pub const LOCALITY: Self = Self(0x907);
    /// Too many failures: objects under dictionary-attack protection stay shut for a while.
    pub const LOCKOUT: Self = Self(0x921);
    /// An NV index is there already.
    pub const NV_DEFINED: Self = Self(0x14c);
    /// An NV index was not written yet.
    pub const NV_UNINITIALIZED: Self = Self(0x14a);
    /// A handle names nothing.
    pub const HANDLE: Self = Self(0x08b);
    /// Integrity of a blob or a credential: it was made for another TPM, or changed.
    pub const INTEGRITY: Self = Self(0x09f);
    /// A value is out of range or the padding is wrong.
    pub const VALUE: Self = Self(0x084);

    /// The code without the number of the parameter, handle or session that it is about.
    pub fn base(self) -> Self {
        // Format one has bit 7 set: the low six bits and bit 7 name the error.
        if self.0 & 0x80 != 0 { Self(self.0 & 0xbf) } else { self }
    }

    pub(crate) fn asks_to_retry(self) -> bool {
        [Self::RETRY, Self::TESTING, Self::YIELDED].contains(&self)
    }

    pub(crate) fn is_exhaustion(self) -> bool {
        [Self::OBJECT_MEMORY, Self::SESSION_MEMORY, Self::SESSION_HANDLES, Self::OBJECT_HANDLES].contains(&self)
    }

    fn meaning(self) -> &'static str {
        match self.base() {
            Self::RETRY | Self::TESTING | Self::YIELDED => "the TPM stays busy",
            Self::OBJECT_MEMORY | Self::OBJECT_HANDLES => "no room for another object; others keep theirs loaded",
            Self::SESSION_MEMORY | Self::SESSION_HANDLES => "no room for another session; others keep theirs open",
            Self::POLICY_FAIL => "the policy is not fulfilled",
            Self::PCR_CHANGED => "a register changed meanwhile",
            Self::LOCKOUT => "locked after failures or unclean stops; wait, or reset the lockout",
            Self::LOCALITY => "not allowed from here",
            Self::NV_DEFINED => "the NV index is there already",
            Self::NV_UNINITIALIZED => "the NV index was never written",
            Self::HANDLE => "the handle names nothing",
            Self::INTEGRITY => "it was made for another TPM, or changed",
            Self::VALUE => "a value is out of range or was made for another key",
            _ => "see the TPM 2.0 library specification, part 2, for the code",
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#05x} ({})", self.0, self.meaning())
    }
}

/// Why something with a TPM did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// The device cannot be opened. No other one is tried.
    #[error("there is no TPM at {device}")]
    NoDevice {
        /// Where it should be.
        device: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The TPM went away in the middle.
    #[error("the TPM went away or did not answer in time")]
    Gone {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The TPM refused.
    #[error("the TPM refused {command}: {code}")]
    Refused {
        /// The command.
        command: &'static str,
        /// Why.
        code: Code,
    },
    /// What the TPM sent is not a response to what was asked.
    #[error("the response of the TPM ends inside or is wrong in {field}")]
    Malformed {
        /// Where.
        field: &'static str,
    },
    /// More than a command can carry.
    #[error("{what} has {length} bytes, the TPM takes at most {limit}")]
    TooLong {
        /// What.
        what: &'static str,
        /// What it has.
        length: usize,
        /// What it may have.
        limit: usize,
    },
}

impl TpmError {
    /// The TPM's own code, where it gave one, without the number of the parameter.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(code.base()),
            _ => None,
        }
    }
}
