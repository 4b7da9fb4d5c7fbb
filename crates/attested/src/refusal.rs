//! Why a handshake ended without trust.

use std::error::Error;
use std::fmt;

use dunlin_base::with_causes;
use dunlin_handover::codec::{DecodeError, Reader, Wire, Writer};
use dunlin_handover::{wire_struct, wire_tags};

/// Longest explanation of one reason, in bytes.
const MAX_TEXT: usize = 512;

/// The check that failed. The numbers are never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Check {
    /// The version of this protocol.
    Version,
    /// Both are the same side: a message came back to its sender.
    Side,
    /// Another migration.
    Migration,
    /// Another service.
    Service,
    /// Another epoch.
    Epoch,
    /// Another policy.
    Policy,
    /// Another module.
    Module,
    /// Another ledger.
    Ledger,
    /// A nonce that is none, was used, or has expired.
    Nonce,
    /// An instance key that is not the key of the session.
    InstanceKey,
    /// A signature that does not fit this session.
    Signature,
    /// Evidence that is not genuine, or not of this session.
    Evidence,
    /// Genuine evidence of something that the policy does not accept.
    Appraisal,
    /// The ledger does not say that the source holds the service.
    Holder,
    /// A message that is none, or has no place here.
    Message,
    /// Something failed at the side that says so.
    Local,
}

wire_tags!(Check, "check of a handshake", {
    Version = 1,
    Side = 2,
    Migration = 3,
    Service = 4,
    Epoch = 5,
    Policy = 6,
    Module = 7,
    Ledger = 8,
    Nonce = 9,
    InstanceKey = 10,
    Signature = 11,
    Evidence = 12,
    Appraisal = 13,
    Holder = 14,
    Message = 15,
    Local = 16,
});

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The check that failed.
    pub check: Check,
    /// What was found, for people.
    pub text: ReasonText,
}

wire_struct!(Reason, "reason", { check, text });

/// An explanation of at most 512 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasonText(String);

impl ReasonText {
    /// As a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Wire for ReasonText {
    const WHAT: &'static str = "text of a reason";

    fn write(&self, out: &mut Writer) {
        out.blob(self.0.as_bytes());
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.text(Self::WHAT, MAX_TEXT).map(Self)
    }
}

impl Reason {
    /// A reason; what is too long is cut.
    pub fn new(check: Check, text: impl Into<String>) -> Self {
        let mut text = text.into();
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        Self { check, text: ReasonText(text) }
    }

    /// A reason from an error and its causes.
    pub(crate) fn of(check: Check, error: &dyn Error) -> Self {
        Self::new(check, with_causes(error))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.check, self.text.0)
    }
}

/// Who refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// This side.
    Here,
    /// The other side; its reasons are its word.
    There,
}

/// The end of a handshake without trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Who refused.
    pub by: Party,
    /// All reasons.
    pub reasons: Vec<Reason>,
}

impl Refused {
    /// Whether a certain check failed.
    pub fn failed(&self, check: Check) -> bool {
        self.reasons.iter().any(|reason| reason.check == check)
    }
}

impl Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.by {
            Party::Here => "the other keep is refused",
            Party::There => "the other keep refuses this one",
        })?;
        self.reasons.iter().enumerate().try_for_each(|(index, reason)| {
            f.write_str(if index == 0 { ": " } else { "; " })?;
            reason.fmt(f)
        })
    }
}
