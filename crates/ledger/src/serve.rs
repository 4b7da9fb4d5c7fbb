//! Answering and asking over a stream of bytes: blocking, one question at a time.

use std::io::{self, Read, Write};

use dunlin_handover::codec::Wire;
use dunlin_handover::ledger::Receipt;
use dunlin_handover::{LedgerAnswer, LedgerCall, ServiceId};

use crate::error::CallError;
use crate::store::RedbLedger;
use crate::wire::{Answer, MAX_ANSWER, MAX_QUESTION, Question};

/// Answers questions until the other side closes. A question that cannot be read ends the connection.
///
/// # Errors
/// [`CallError`] of the connection. When the ledger's own storage fails, nothing is answered: the asker must take the
/// outcome for unknown.
pub fn serve(mut stream: impl Read + Write, ledger: &RedbLedger) -> Result<(), CallError> {
    while let Some(bytes) = receive(&mut stream, MAX_QUESTION)? {
        let answer = ledger.answer(&Question::from_bytes(&bytes)?)?;
        send(&mut stream, &answer)?;
    }
    Ok(())
}

/// The asking side.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
    asked: u64,
}

impl<S: Read + Write> Client<S> {
    /// Asks over `stream`, where a ledger is at the other end.
    pub fn new(stream: S) -> Self {
        Self { stream, asked: 0 }
    }

    /// Carries a call, of which the id is the caller's.
    ///
    /// # Errors
    /// [`CallError`]: whether the call took effect is then unknown, and the connection is of no more use.
    pub fn call(&mut self, call: LedgerCall) -> Result<LedgerAnswer, CallError> {
        match self.ask(&Question::Call(call))? {
            Answer::Reply(reply) => Ok(reply.answer),
            Answer::History { .. } => Err(CallError::Mismatch),
        }
    }

    /// Receipts from index `from` on, as many as one answer carries.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn history(&mut self, service: ServiceId, from: u64) -> Result<Vec<Receipt>, CallError> {
        self.asked += 1;
        match self.ask(&Question::History { id: self.asked, service, from, count: u16::MAX })? {
            Answer::History { receipts, .. } => Ok(receipts),
            Answer::Reply(_) => Err(CallError::Mismatch),
        }
    }

    fn ask(&mut self, question: &Question) -> Result<Answer, CallError> {
        send(&mut self.stream, question)?;
        let bytes =
            receive(&mut self.stream, MAX_ANSWER)?.ok_or(io::ErrorKind::UnexpectedEof).map_err(io::Error::from)?;
        let answer = Answer::from_bytes(&bytes)?;
        if answer.id() == question.id() { Ok(answer) } else { Err(CallError::Mismatch) }
    }
}

fn send(stream: &mut impl Write, value: &impl Wire) -> Result<(), CallError> {
    let payload = value.to_bytes();
    let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&payload);
    stream.write_all(&bytes)?;
    Ok(stream.flush()?)
}

/// One frame; nothing when the stream ends before it.
fn receive(stream: &mut impl Read, limit: usize) -> Result<Option<Vec<u8>>, CallError> {
    let mut header = [0; 4];
    let mut filled = 0;
    while filled < header.len() {
        match stream.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let length = u32::from_le_bytes(header);
    if length as usize > limit {
        return Err(CallError::TooLong { length: length.into(), limit });
    }
    // Grows as bytes arrive.
    let mut bytes = Vec::new();
    stream.take(length.into()).read_to_end(&mut bytes)?;
    if bytes.len() < length as usize {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Some(bytes))
}
