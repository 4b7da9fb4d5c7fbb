//! What goes to a ledger and comes back: one frame each, a 32-bit little-endian length before it.
//!
//! ```text
//! question  0  u8   1 call, 2 history            answer  0  u8   1 reply, 2 history
//!           1       the call, or                         1       the reply, or
//!                   u64 id, service, u64 from,                   u64 id, list of receipts
//!                   u16 count
//! ```

use dunlin_handover::codec::{DecodeError, Reader, Wire, Writer};
use dunlin_handover::ledger::Receipt;
use dunlin_handover::{LedgerCall, LedgerReply, MAX_CALL, MAX_REPLY, ServiceId};

/// Most bytes of a question.
pub const MAX_QUESTION: usize = MAX_CALL + 1;

/// Most receipts in one answer; whoever wants more asks again.
pub(crate) const MAX_RECEIPTS: u16 = 32;

/// Most bytes of an answer.
pub const MAX_ANSWER: usize = 16 + MAX_RECEIPTS as usize * MAX_REPLY;

/// What is asked of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// An operation or a reading.
    Call(LedgerCall),
    /// Receipts of a service, oldest first, from an index on.
    History {
        /// To be given back with the answer.
        id: u64,
        /// Which service.
        service: ServiceId,
        /// Index of the first receipt.
        from: u64,
        /// How many at most; an answer has at most 32.
        count: u16,
    },
}

impl Question {
    /// What the answer will carry.
    pub fn id(&self) -> u64 {
        match self {
            Self::Call(call) => call.id,
            Self::History { id, .. } => *id,
        }
    }
}

impl Wire for Question {
    const WHAT: &'static str = "question to the ledger";

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Call(call) => {
                out.put(&1u8);
                out.put(call);
            }
            Self::History { id, service, from, count } => {
                out.put(&2u8);
                out.put(id);
                out.put(service);
                out.put(from);
                out.put(count);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.take::<u8>()? {
            1 => Self::Call(input.take()?),
            2 => Self::History { id: input.take()?, service: input.take()?, from: input.take()?, count: input.take()? },
            value => return Err(DecodeError::Unknown { what: Self::WHAT, value: value.into() }),
        })
    }
}

/// What a ledger answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a call.
    Reply(Box<LedgerReply>),
    /// Receipts; none when there are none from that index on.
    History {
        /// Of the question.
        id: u64,
        /// Oldest first.
        receipts: Vec<Receipt>,
    },
}

impl Answer {
    /// Of the question.
    pub fn id(&self) -> u64 {
        match self {
            Self::Reply(reply) => reply.id,
            Self::History { id, .. } => *id,
        }
    }
}

impl Wire for Answer {
    const WHAT: &'static str = "answer of the ledger";

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Reply(reply) => {
                out.put(&1u8);
                out.put(&**reply);
            }
            Self::History { id, receipts } => {
                out.put(&2u8);
                out.put(id);
                out.list(receipts);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.take::<u8>()? {
            1 => Self::Reply(Box::new(input.take()?)),
            2 => Self::History { id: input.take()?, receipts: input.list("receipts", MAX_RECEIPTS.into())? },
            value => return Err(DecodeError::Unknown { what: Self::WHAT, value: value.into() }),
        })
    }
}
