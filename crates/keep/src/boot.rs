//! From what state a service starts: what the ledger says, and what is stored here.
//!
//! ```text
//!   read the ledger ──┬── nobody holds it ────────────> claim ──> from the beginning
//!                     ├── held by this machine
//!                     │     version 0 ───────────────> resume ─> from the beginning: nothing was ever committed
//!                     │     its state is here ───────> resume ─> from that state
//!                     │     its state is not here ───> failed
//!                     └── held elsewhere, retired ───> failed
//! ```
//!
//! The instance is made before the epoch is taken, so that the epoch is only taken by somebody who can go on.

use std::path::PathBuf;

use dunlin_base::Digest;
use dunlin_handover::boot::{Blob, Boot, decide};
use dunlin_handover::ledger::{Reading, Record, Status};
use dunlin_instrument::Map;
use dunlin_keep_link::Spec;
use dunlin_snapshot::{Envelope, Memory, Page, State};

use crate::error::Failure;
use crate::migrate::outgoing::text;
use crate::migrate::{Staged, load};
use crate::offer::Loaded;
use crate::office::Office;
use crate::states::{Found, States};

/// How a service starts.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The record before this instance takes the service.
    record: Record,
    /// Whether anybody has held it.
    held: bool,
    pub(crate) from: From,
}

/// From what.
#[derive(Debug)]
pub(crate) enum From {
    /// From its beginning.
    Beginning,
    /// From a stored state, which is the committed one.
    State {
        /// All of it.
        state: Box<State>,
        /// Where it is stored.
        path: PathBuf,
    },
}

/// Finds out how the service can start here.
pub(crate) fn plan(office: &mut Office, states: &States, spec: &Spec, loaded: &Loaded) -> Result<Plan, Failure> {
    let reading = office.read()?;
    let record = reading.record;
    if record.policy_hash != spec.policy {
        let reason = format!("the policy in force is {}, the node named {}", record.policy_hash, spec.policy);
        return Err(Failure::Invalid(reason));
    }
    let here = Some(office.who().platform());
    let beginning = |held| Plan { record, held, from: From::Beginning };
    match record.status {
        Status::Created => Ok(beginning(false)),
        Status::Retired => Err(Failure::NotHolder("its owner has retired the service".to_owned())),
        Status::Held if record.holder_platform != here => Err(match record.holder_platform {
            Some(platform) => Failure::Elsewhere(platform),
            None => Failure::NotHolder("nobody holds it".to_owned()),
        }),
        Status::Held if record.version == 0 => Ok(beginning(true)),
        Status::Held => from_stored(office, &reading, states, loaded),
    }
}

impl Plan {
    /// Takes the service. The program may run once this has returned.
    pub(crate) fn take(&self, office: &mut Office) -> Result<Record, Failure> {
        if self.held { office.resume(&self.record) } else { office.claim(&self.record) }
    }
}

fn from_stored(office: &Office, reading: &Reading, states: &States, loaded: &Loaded) -> Result<Plan, Failure> {
    loaded.check_movable()?;
    let record = reading.record;
    let map = loaded.code.map().ok_or_else(|| Failure::NotMovable("it has no map".to_owned()))?;
    let mut found = states.list()?;
    let keys = &office.who().keys;
    let missing = || Failure::StateMissing { version: record.version, state_hash: record.state_hash };
    loop {
        let blobs: Vec<Blob> = found.iter().map(|found| found.blob).collect();
        let decided = decide(reading, reading.nonce, keys.ledger, &*keys.checks, office.who().platform(), &blobs);
        let index = match decided {
            Ok(Boot::Resume { blob }) => blob,
            Ok(_) => return Err(missing()),
            Err(error) => return Err(Failure::NotHolder(error.to_string())),
        };
        let Found { path, blob } = found.swap_remove(index);
        // What a name claims may be wrong, by accident or not: then it is as if it were not there.
        if blob.complete
            && let Ok(staged) = load(states.shelf(&path))
            && let Ok(state) = open(&staged, map, loaded, &record.state_hash)
        {
            let from = From::State { state: Box::new(state), path };
            return Ok(Plan { record, held: true, from });
        }
    }
}

/// The whole state, if it is the one with this digest.
fn open(staged: &Staged, map: &Map, loaded: &Loaded, expected: &Digest) -> Result<State, String> {
    let mut state = decode(&staged.rest, map)?;
    let sizes: Vec<u64> = state.memories.iter().map(|memory| memory.size).collect();
    let is_fresh = |memory: usize, page, bytes: &[u8]| loaded.code.is_fresh(memory, page, bytes);
    let found = staged.digest(&map.module, &sizes, is_fresh);
    if found != *expected {
        return Err(format!("the stored state has the digest {found}, not {expected}"));
    }
    for (memory, pages) in state.memories.iter_mut().zip(&staged.pages) {
        let pages = pages.iter().map(|(number, bytes)| (*number, Page::Bytes(bytes.clone().into())));
        *memory = Memory { size: memory.size, pages: pages.collect() };
    }
    Ok(state)
}

/// A state without the contents of memories.
pub(crate) fn decode(rest: &[u8], map: &Map) -> Result<State, String> {
    let envelope = Envelope::open(rest, &dunlin_snapshot::Limits::default()).map_err(|error| text(&error))?;
    Ok(envelope.decode(map).map_err(|error| text(&error))?.state)
}
