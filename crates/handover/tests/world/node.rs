//! A machine: a disk that survives, and an instance that does not.

use std::collections::BTreeSet;

use dunlin_handover::destination::{Arrival, Destination};
use dunlin_handover::source::{Retained, Source};

use super::guest::{Guest, State};
use super::keys::TestKey;

#[derive(Debug)]
pub struct Node {
    pub platform: TestKey,
    pub alive: bool,
    /// Rises with every death; what was meant for an earlier life does not arrive.
    pub life: u64,
    pub disk: Vec<Blob>,
    /// Chunks of the program's volume.
    pub store: BTreeSet<Vec<u8>>,
    pub instance: Option<Instance>,
}

impl Node {
    pub fn new(index: usize) -> Self {
        let platform = TestKey::named(&format!("platform{index}"));
        Self { platform, alive: true, life: 0, disk: Vec::new(), store: BTreeSet::new(), instance: None }
    }
}

/// A sealed state on a disk.
#[derive(Debug, Clone)]
pub struct Blob {
    pub kind: Kind,
    pub version: u64,
    pub state: State,
    /// Digest of the state that this is (a staged part of).
    pub hash: dunlin_base::Digest,
    pub missing: BTreeSet<u64>,
}

#[derive(Debug, Clone)]
pub enum Kind {
    /// A committed state that this node ran from.
    Own,
    Staged(Box<Arrival>),
    Retained {
        retained: Retained,
        key: TestKey,
        record: dunlin_handover::ledger::Record,
    },
}

impl Blob {
    pub fn whole(kind: Kind, version: u64, state: State) -> Self {
        Self { kind, version, hash: state.hash(), state, missing: BTreeSet::new() }
    }
}

#[derive(Debug)]
pub struct Instance {
    pub key: TestKey,
    pub guest: Guest,
    pub machine: Option<Machine>,
    /// The time for which a timeout is queued.
    pub armed: Option<dunlin_handover::Time>,
    pub stopping: bool,
}

impl Instance {
    pub fn new(key: TestKey, state: State) -> Self {
        Self { key, guest: Guest::new(state, 1), machine: None, armed: None, stopping: false }
    }
}

#[derive(Debug)]
pub enum Machine {
    Source(Box<Source>),
    Destination(Box<Destination>),
}
