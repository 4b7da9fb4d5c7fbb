//! Drives a handshake over a stream.

use std::io::{self, Read, Write};

use dunlin_attest::Attester;
use dunlin_base::with_causes;
use dunlin_handover::codec::Wire as _;
use dunlin_handover::ledger::Reading;
use dunlin_handover::{Nonce, ServiceId};

use crate::handshake::{Action, Done, Handshake};
use crate::message::{MAX_MESSAGE, Message, Verdict};
use crate::refusal::{Check, Reason, Refused};

/// Why there is no trust.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriveError {
    /// The stream failed.
    #[error("the stream failed during the attested handshake")]
    Stream(#[from] io::Error),
    /// A message that no keep sends.
    #[error("a message of {0} bytes was announced; at most {MAX_MESSAGE} are allowed")]
    TooLong(u32),
    /// One side refused the other.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Carries a handshake out over `reader` and `writer`: each message behind its length. Returns when both sides have
/// accepted, or one has not; the last refusal has been sent then. `read_ledger` carries a question to the ledger,
/// and is called at a source only; `now` tells seconds since 1970.
///
/// It has no limit of time: whoever calls it closes the stream when it takes too long.
///
/// # Errors
/// [`DriveError`].
pub fn run(
    mut handshake: Handshake,
    reader: &mut dyn Read,
    writer: &mut dyn Write,
    attester: &dyn Attester,
    read_ledger: &mut dyn FnMut(ServiceId, Nonce) -> Result<Reading, String>,
    now: &dyn Fn() -> u64,
) -> Result<Done, DriveError> {
    loop {
        while let Some(message) = handshake.poll_transmit() {
            send(writer, &message)?;
        }
        if let Some(outcome) = handshake.outcome() {
            return match outcome {
                Ok(done) => Ok((**done).clone()),
                Err(refused) => Err(refused.clone().into()),
            };
        }
        match handshake.poll_action() {
            Some(Action::Evidence(binding)) => {
                handshake.evidence(now(), attester.prove(&binding).map_err(|error| with_causes(&error)));
            }
            Some(Action::ReadLedger { service, nonce }) => {
                let given = read_ledger(service, nonce);
                handshake.reading(now(), given);
            }
            None => {
                let message = receive(reader)?;
                handshake.handle(now(), &message);
            }
        }
    }
}

/// Tells the other side that this one does not even begin, and why: what is against it lies at this side. Returns when the
/// other side has said its first word or nothing more: a stream that ended before would take the reason with it.
///
/// # Errors
/// If the stream fails.
pub fn decline(reader: &mut dyn Read, writer: &mut dyn Write, why: &str) -> Result<(), DriveError> {
    send(writer, &Message::Verdict(Verdict { reasons: vec![Reason::new(Check::Local, why)] }).to_bytes())?;
    receive(reader).map(drop)
}

fn send(writer: &mut dyn Write, message: &[u8]) -> io::Result<()> {
    let length = (message.len() as u32).to_le_bytes();
    writer.write_all(&[&length, message].concat())?;
    writer.flush()
}

fn receive(reader: &mut dyn Read) -> Result<Vec<u8>, DriveError> {
    let mut length = [0; 4];
    reader.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length as usize > MAX_MESSAGE {
        return Err(DriveError::TooLong(length));
    }
    // Grows with what really comes.
    let mut message = Vec::new();
    let read = reader.take(length.into()).read_to_end(&mut message)?;
    if read < length as usize {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(message)
}
