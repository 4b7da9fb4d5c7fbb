//! From what state a service starts: what the ledger says, and what is stored here.
//!
//! ```text
//!   read the ledger ──┬── nobody holds it ────────────> claim ──> from the beginning
//!                     ├── held by this machine
//!                     │     version 0 ───────────────> resume ─> from the beginning: nothing was ever committed
//!                     │     its state is here ───────> resume ─> broker: keys ─> from that state
//!                     │     its state is not here ───> failed
//!                     ├── held elsewhere ────────────> failed, unless its owner recovers it: as if it were held here
//!                     └── retired ───────────────────> failed
//! ```
//!
//! The broker gives keys to nobody but the holder, so the epoch is taken before the state is opened. If that state then
//! turns out to be another one than its name says, the start fails, and the next one takes the next epoch.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dunlin_base::{Digest, with_causes};
use dunlin_handover::boot::{Blob, Boot, decide};
use dunlin_handover::ledger::{Reading, Record, Status};
use dunlin_instrument::Map;
use dunlin_keep_link::{Origin, Spec};
use dunlin_seal::{ObjectSeal, VolumeSeal};
use dunlin_snapshot::{Envelope, Extra, Memory, Page, Snapshot, State};
use zeroize::Zeroizing;

use crate::error::Failure;
use crate::migrate::{Shelf, Staged, load};
use crate::offer::Loaded;
use crate::office::Office;
use crate::states::{Found, States};

/// How a service starts.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The record before this instance takes the service.
    record: Record,
    take: Take,
    /// What is stored here, and the reading by which one of it is chosen; without it the service starts from its
    /// beginning.
    stored: Option<(Box<Reading>, Vec<Found>)>,
}

/// By which operation of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Take {
    Claim,
    Resume,
    Recover,
}

/// A stored state, which is the committed one.
#[derive(Debug)]
pub(crate) struct Stored {
    /// All of it.
    pub(crate) state: State,
    /// The keys of its volume.
    pub(crate) volume_keys: VolumeKeys,
    /// Where it is stored.
    pub(crate) path: PathBuf,
}

/// Kind and version of the section of a state that has the keys of its volume.
const VOLUME_KEYS: (u16, u16) = (0x0100, 1);

/// The keys of a volume, as they travel with the state.
pub(crate) struct VolumeKeys(Zeroizing<Vec<u8>>);

impl fmt::Debug for VolumeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeKeys").finish_non_exhaustive()
    }
}

impl VolumeKeys {
    /// What opens the volume as it was committed last.
    pub(crate) fn of(seal: &VolumeSeal) -> Self {
        Self(seal.keys())
    }

    /// Gives them to the seal of the volume here.
    pub(crate) fn give(&self, seal: &VolumeSeal) -> Result<(), String> {
        seal.take(&self.0).map_err(|_| "the keys of its volume are none".to_owned())
    }

    /// As a section of the state.
    pub(crate) fn section(&self) -> Extra {
        let (kind, version) = VOLUME_KEYS;
        Extra { kind, version, bytes: self.0.to_vec() }
    }
}

/// Finds out how the service can start here.
pub(crate) fn plan(
    office: &mut Office,
    states: &States,
    spec: &Spec,
    loaded: &Loaded,
    origin: Origin,
) -> Result<Plan, Failure> {
    let reading = office.read()?;
    let record = reading.record;
    if record.policy_hash != spec.policy {
        let reason = format!("the policy in force is {}, the node named {}", record.policy_hash, spec.policy);
        return Err(Failure::Invalid(reason));
    }
    let here = Some(office.who().platform());
    let elsewhere = record.holder_platform != here;
    let take = match record.status {
        Status::Created => Take::Claim,
        Status::Retired => return Err(Failure::NotHolder("its owner has retired the service".to_owned())),
        Status::Held if elsewhere && origin == Origin::Recovered => Take::Recover,
        Status::Held if elsewhere => {
            return Err(match record.holder_platform {
                Some(platform) => Failure::Elsewhere(platform),
                None => Failure::NotHolder("nobody holds it".to_owned()),
            });
        }
        Status::Held => Take::Resume,
    };
    if take == Take::Claim || record.version == 0 {
        return Ok(Plan { record, take, stored: None });
    }
    loaded.check_movable()?;
    let found = states.list(&record)?;
    choose(office, &reading, take, &found)?;
    Ok(Plan { record, take, stored: Some((Box::new(reading), found)) })
}

impl Plan {
    /// Takes the service.
    pub(crate) fn take(&self, office: &mut Office) -> Result<Record, Failure> {
        match self.take {
            Take::Claim => office.claim(&self.record),
            Take::Resume => office.resume(&self.record),
            Take::Recover => office.recover(&self.record),
        }
    }

    /// The state from which the holder in `epoch` goes on, or `None` if it starts from the beginning.
    pub(crate) fn state(self, office: &Office, loaded: &Loaded, epoch: u64) -> Result<Option<Stored>, Failure> {
        let Some((reading, mut found)) = self.stored else { return Ok(None) };
        let map = loaded.code.map().ok_or_else(|| Failure::NotMovable("it has no map".to_owned()))?;
        loop {
            let Found { path, blob: _, migration } = found.swap_remove(choose(office, &reading, self.take, &found)?);
            let seals = office.keys().committed(epoch, migration)?;
            // What a name claims may be wrong, by accident or not: then it is as if it were not there.
            if let Some(staged) = open_under(&path, &seals)
                && let Ok((state, volume_keys)) = open(&staged, map, loaded, &reading.record.state_hash)
            {
                return Ok(Some(Stored { state, volume_keys, path }));
            }
        }
    }
}

/// Which of the stored states is, by its name, the committed one.
fn choose(office: &Office, reading: &Reading, take: Take, found: &[Found]) -> Result<usize, Failure> {
    let (record, keys) = (&reading.record, &office.who().keys);
    let blobs: Vec<Blob> = found.iter().map(|found| found.blob).collect();
    // Where the owner recovers a service, it is held elsewhere, and the state is as good as if it were not.
    let platform = match take {
        Take::Recover => record.holder_platform.unwrap_or(office.who().platform()),
        Take::Claim | Take::Resume => office.who().platform(),
    };
    match decide(reading, reading.nonce, keys.ledger, &*keys.checks, platform, &blobs) {
        Ok(Boot::Resume { blob }) => Ok(blob),
        Ok(_) => Err(Failure::StateMissing { version: record.version, state_hash: record.state_hash }),
        Err(error) => Err(Failure::NotHolder(error.to_string())),
    }
}

/// What is stored, under the first of these seals that opens it.
fn open_under(path: &Path, seals: &[Arc<ObjectSeal>]) -> Option<Staged> {
    seals.iter().find_map(|seal| load(Shelf::sealed(path, seal.clone())).ok())
}

/// The whole state, if it is the one with this digest.
fn open(staged: &Staged, map: &Map, loaded: &Loaded, expected: &Digest) -> Result<(State, VolumeKeys), String> {
    let (mut state, volume_keys) = decode(&staged.rest, map)?;
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
    Ok((state, volume_keys))
}

/// A state without the contents of memories, and the keys of its volume.
pub(crate) fn decode(rest: &[u8], map: &Map) -> Result<(State, VolumeKeys), String> {
    let envelope = Envelope::open(rest, &dunlin_snapshot::Limits::default()).map_err(|error| with_causes(&error))?;
    let Snapshot { state, extra, .. } = envelope.decode(map).map_err(|error| with_causes(&error))?;
    let mut keys = extra.into_iter().filter(|extra| (extra.kind, extra.version) == VOLUME_KEYS);
    Ok((state, VolumeKeys(Zeroizing::new(keys.next().map_or(Vec::new(), |extra| extra.bytes)))))
}
