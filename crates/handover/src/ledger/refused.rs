//! Why the ledger says no.

use core::fmt;

use crate::codec::{DecodeError, Reader, Wire, Writer, wire_tags};

/// Longest reason of a denial in bytes.
const MAX_REASON: usize = 512;

/// Why an operation did not take effect. The record is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// No record.
    #[error("the ledger knows no such service: create it first")]
    NoSuchService,
    /// A record exists.
    #[error("the service exists already in the ledger")]
    ServiceExists,
    /// The owner ended the service.
    #[error("the service was retired by its owner")]
    Retired,
    /// The record moved on: whoever sent this is not, or no longer, entitled to.
    #[error("the record is at epoch {epoch} version {version}, the request expects another: read the ledger again")]
    Stale {
        /// The record's epoch.
        epoch: u64,
        /// The record's version.
        version: u64,
    },
    /// A signature is missing or wrong.
    #[error("the operation needs a valid signature of {0}")]
    NotAuthorised(Authority),
    /// The id was used for another request.
    #[error("the operation id was used for a different request: draw a new one")]
    OperationReused,
    /// The operation does not fit the record's status.
    #[error("the service is in a status that does not allow this operation")]
    WrongStatus,
    /// A commit follows another state than the record's.
    #[error("the commit follows another state than the committed one")]
    WrongParent,
    /// The staged statement is about something else, or not signed by the destination.
    #[error("the destination's staged statement does not vouch for this transfer")]
    NotStaged,
    /// The destination staged a part only and the source retains nothing.
    #[error("the destination staged a part of the state and the source does not retain the rest")]
    NothingRetained,
    /// The policy is not newer.
    #[error("the policy's version must be higher than the one in force")]
    PolicyNotNewer,
    /// The recovery set is malformed.
    #[error("the recovery set must have ascending keys and a threshold that they can reach")]
    BadRecovery,
    /// The policy does not let the candidate hold the service.
    #[error("the policy does not permit the new holder: {0}")]
    Denied(String),
    /// A counter would overflow.
    #[error("a counter of the record is at its end")]
    Exhausted,
}

impl Wire for Refused {
    const WHAT: &'static str = "refusal";

    fn write(&self, out: &mut Writer) {
        match self {
            Self::NoSuchService => out.put(&1u8),
            Self::ServiceExists => out.put(&2u8),
            Self::Retired => out.put(&3u8),
            Self::Stale { epoch, version } => {
                out.put(&4u8);
                out.put(epoch);
                out.put(version);
            }
            Self::NotAuthorised(authority) => {
                out.put(&5u8);
                out.put(authority);
            }
            Self::OperationReused => out.put(&6u8),
            Self::WrongStatus => out.put(&7u8),
            Self::WrongParent => out.put(&8u8),
            Self::NotStaged => out.put(&9u8),
            Self::NothingRetained => out.put(&10u8),
            Self::PolicyNotNewer => out.put(&11u8),
            Self::BadRecovery => out.put(&12u8),
            Self::Denied(reason) => {
                out.put(&13u8);
                out.blob(cut(reason).as_bytes());
            }
            Self::Exhausted => out.put(&14u8),
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.take::<u8>()? {
            1 => Self::NoSuchService,
            2 => Self::ServiceExists,
            3 => Self::Retired,
            4 => Self::Stale { epoch: input.take()?, version: input.take()? },
            5 => Self::NotAuthorised(input.take()?),
            6 => Self::OperationReused,
            7 => Self::WrongStatus,
            8 => Self::WrongParent,
            9 => Self::NotStaged,
            10 => Self::NothingRetained,
            11 => Self::PolicyNotNewer,
            12 => Self::BadRecovery,
            13 => Self::Denied(input.text("reason", MAX_REASON)?),
            14 => Self::Exhausted,
            value => return Err(DecodeError::Unknown { what: Self::WHAT, value: value.into() }),
        })
    }
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_REASON);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Whose signature an operation needs. This list is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Authority {
    /// The service's owner.
    Owner,
    /// The current holder.
    Holder,
    /// The machine of the holder.
    Platform,
    /// The instance that is to become the holder.
    NewHolder,
    /// The owner, or enough keys of the recovery set.
    Recovery,
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Owner => "the owner",
            Self::Holder => "the holder",
            Self::Platform => "the holder's platform",
            Self::NewHolder => "the new holder",
            Self::Recovery => "the owner or the recovery set",
        })
    }
}

wire_tags!(Authority, "authority", { Owner = 1, Holder = 2, Platform = 3, NewHolder = 4, Recovery = 5 });
