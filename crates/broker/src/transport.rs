//! Both sides over a stream of bytes: frames of a 32-bit length and a message; blocking.

use core::fmt;
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use dunlin_attest::Attester;
use dunlin_handover::codec::Wire as _;
use dunlin_handover::ledger::Reading;
use dunlin_handover::{Nonce, ServiceId};

use crate::client::{Fetch, Party, Released};
use crate::error::FetchError;
use crate::message::{Denied, MAX_MESSAGE, Message, Want};
use crate::record::ReleaseLog;
use crate::server::{Broker, Input, Output};

/// What a broker needs besides itself.
pub trait Surroundings: fmt::Debug + Sync {
    /// Reads the ledger. `None` when it cannot be reached.
    fn read_ledger(&self, service: ServiceId, nonce: Nonce) -> Option<Reading>;

    /// Seconds since 1970.
    fn now(&self) -> u64;
}

/// Answers the instance at the other end of `stream` until it closes.
///
/// # Errors
/// [`FetchError::Io`] and [`FetchError::Decode`]: the connection is of no more use. The broker is.
pub fn serve(
    mut stream: impl Read + Write,
    broker: &Mutex<Broker>,
    log: &Mutex<ReleaseLog>,
    around: &dyn Surroundings,
) -> Result<(), FetchError> {
    while let Some(message) = receive(&mut stream)? {
        let mut input = Input::Message(message);
        let reply = loop {
            let output = broker.lock().unwrap_or_else(PoisonError::into_inner).step(input, around.now());
            input = match output {
                Output::Reply(message) => break message,
                Output::ReadLedger { session, service, nonce } => {
                    Input::Ledger(session, around.read_ledger(service, nonce).map(Box::new))
                }
                Output::Record { session, release } => {
                    let done = log.lock().unwrap_or_else(PoisonError::into_inner).append(&release);
                    Input::Recorded(session, done.is_ok())
                }
            };
        };
        send(&mut stream, &reply)?;
    }
    Ok(())
}

/// Asks the broker at the other end of `stream`. `nonce` is random.
///
/// # Errors
/// [`FetchError`].
pub fn fetch(
    mut stream: impl Read + Write,
    party: &Party,
    want: Want,
    attester: &dyn Attester,
    nonce: Nonce,
) -> Result<Released, FetchError> {
    let (fetch, hello) = Fetch::begin(party, want, nonce, [0; 32]);
    send(&mut stream, &hello)?;
    let challenged = fetch.challenged(due(&mut stream)?)?;
    let (evidence, endorsements) = attester.prove(challenged.binding())?;
    let (asked, ask) = challenged.ask(&evidence, &endorsements);
    send(&mut stream, &ask)?;
    asked.answered(due(&mut stream)?)
}

fn due(stream: &mut impl Read) -> Result<Message, FetchError> {
    receive(stream)?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof).into())
}

fn send(stream: &mut impl Write, message: &Message) -> Result<(), FetchError> {
    let bytes = message.to_bytes();
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length as usize <= MAX_MESSAGE);
    let length = length.ok_or(FetchError::Denied(Denied::Busy))?;
    stream.write_all(&[&length.to_le_bytes()[..], &bytes].concat())?;
    Ok(stream.flush()?)
}

/// The next message; nothing when the stream ends before it.
fn receive(stream: &mut impl Read) -> Result<Option<Message>, FetchError> {
    let mut head = [0; 4];
    let mut filled = 0;
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let length = u32::from_le_bytes(head) as usize;
    if length > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is longer than any may be").into());
    }
    // Grows as bytes arrive.
    let mut bytes = Vec::new();
    stream.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Some(Message::from_bytes(&bytes)?))
}
