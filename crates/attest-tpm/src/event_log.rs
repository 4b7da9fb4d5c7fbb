//! What was extended into register 15 since the machine started, in order: the register alone is one number.
//!
//! A file with one event in each line, `runtime <64 digits>`. It belongs into a directory that is empty after a start of
//! the machine, as the register is. Nothing trusts the file: a verifier replays it against the quoted register.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use dunlin_attest::{TpmEvent, TpmEventKind};
use dunlin_base::{Digest, Hasher};

use crate::client::Tpm;
use crate::codes::TpmError;

/// The register of the log.
pub(crate) const EVENT_PCR: u8 = 15;
/// As many as a verifier reads.
const MAX_EVENTS: usize = 1024;
const MAX_FILE: u64 = 128 * 1024;

/// Why there is no event log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventLogError {
    /// The file.
    #[error("the event log {path} cannot be used")]
    File {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A line that is no event.
    #[error("line {line} of the event log is not an event")]
    Line {
        /// Which one, from 1.
        line: usize,
    },
    /// More than a verifier reads.
    #[error("the event log has more than {MAX_EVENTS} events; restart the machine")]
    TooMany,
    /// The register has another value.
    #[error(
        "register {EVENT_PCR} has a value to which the event log does not lead: something else extended it, or the log was lost; restart the machine"
    )]
    OtherRegister,
    /// The TPM.
    #[error("the TPM did not read or extend register {EVENT_PCR}")]
    Tpm(#[from] TpmError),
}

/// An event log in its file.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    events: Vec<TpmEvent>,
}

impl EventLog {
    /// Reads the log and compares it with the register. An event that was written down, but not extended before a
    /// crash, is extended now.
    ///
    /// # Errors
    ///
    /// When the file is no log, or does not lead to the register.
    pub fn open(path: &Path, tpm: &mut Tpm) -> Result<Self, EventLogError> {
        let file = |source| EventLogError::File { path: path.to_owned(), source };
        let text = match fs::metadata(path) {
            Ok(about) if about.len() > MAX_FILE => return Err(EventLogError::TooMany),
            Ok(_) => fs::read_to_string(path).map_err(file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(file(error)),
        };
        let events = parse(&text)?;
        let register = tpm.pcr_read(&[EVENT_PCR])?;
        let leads = |events: &[TpmEvent]| register == [replay(events)];
        if !leads(&events) {
            match events.split_last() {
                Some((last, before)) if leads(before) => tpm.pcr_extend(EVENT_PCR, last.extension())?,
                _ => return Err(EventLogError::OtherRegister),
            }
        }
        Ok(Self { path: path.to_owned(), events })
    }

    /// The events, the first one first.
    pub fn events(&self) -> &[TpmEvent] {
        &self.events
    }

    /// Writes an event down, then extends the register with it. What is there already is not measured again, so that
    /// a service that starts a thousand times is one event.
    ///
    /// # Errors
    ///
    /// When the file cannot be written, or the TPM refuses.
    pub fn measure(&mut self, event: TpmEvent, tpm: &mut Tpm) -> Result<(), EventLogError> {
        if self.events.contains(&event) {
            return Ok(());
        }
        if self.events.len() >= MAX_EVENTS {
            return Err(EventLogError::TooMany);
        }
        let append = || {
            let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            file.write_all(line(event).as_bytes())?;
            file.sync_data()
        };
        append().map_err(|source| EventLogError::File { path: self.path.clone(), source })?;
        self.events.push(event);
        Ok(tpm.pcr_extend(EVENT_PCR, event.extension())?)
    }
}

/// Reads the text of a log. A last line without an end was being written when the machine stopped: it is left out.
///
/// # Errors
///
/// For lines that are no event, and for more events than a verifier reads.
pub fn parse(text: &str) -> Result<Vec<TpmEvent>, EventLogError> {
    let whole = text.rfind('\n').map_or("", |end| text.get(..=end).unwrap_or_default());
    let mut events = Vec::new();
    for (line, number) in whole.split_terminator('\n').zip(1..) {
        let event = line.split_once(' ').and_then(|(kind, digest)| {
            let kind = TpmEventKind::ALL.into_iter().find(|known| known.name() == kind)?;
            Some(TpmEvent { kind, digest: digest.parse::<Digest>().ok()? })
        });
        if events.len() >= MAX_EVENTS {
            return Err(EventLogError::TooMany);
        }
        events.push(event.ok_or(EventLogError::Line { line: number })?);
    }
    Ok(events)
}

fn line(event: TpmEvent) -> String {
    format!("{} {}\n", event.kind.name(), event.digest)
}

/// The value of the register after `events`.
fn replay(events: &[TpmEvent]) -> Digest {
    events.iter().fold(Digest([0; 32]), |value, event| {
        let mut hasher = Hasher::default();
        hasher.update(&value.0);
        hasher.update(&event.extension().0);
        hasher.finish()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_round_trip_and_a_torn_last_line_is_left_out() {
        let events = [TpmEventKind::Runtime, TpmEventKind::Policy, TpmEventKind::Module]
            .map(|kind| TpmEvent { kind, digest: Digest::of(kind.name().as_bytes()) });
        let text: String = events.into_iter().map(line).collect();
        assert_eq!(parse(&text).expect("a log"), events);
        for cut in 1..line(events[2]).len() {
            assert_eq!(parse(&text[..text.len() - cut]).expect("a log"), events[..2]);
        }
        for bad in ["boot 00\n", "runtime\n", "runtime 0\n", "\n", "runtime  \n"] {
            assert!(matches!(parse(bad), Err(EventLogError::Line { line: 1 })), "{bad:?}");
        }
        assert!(matches!(parse(&line(events[0]).repeat(1025)), Err(EventLogError::TooMany)));
    }
}
