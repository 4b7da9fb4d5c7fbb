//! The record of one service.

use dunlin_base::Digest;

use super::{Candidate, Takes};
use crate::codec::{wire_struct, wire_tags};
use crate::ids::{Key, PlatformId, ServiceId};

/// What the ledger says about a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    /// Which service.
    pub service: ServiceId,
    /// Rises with every change of holder; the fencing token. 1 after creation.
    pub epoch: u64,
    /// Instance key of the keep that owns the service.
    pub holder: Option<Key>,
    /// The machine that the holder runs on.
    pub holder_platform: Option<PlatformId>,
    /// Rises with every committed state.
    pub version: u64,
    /// Digest of the last committed state.
    pub state_hash: Digest,
    /// The epoch in which that state was written; 0 before the first. Its key, and no other one, opens it.
    pub state_epoch: u64,
    /// Digest of the policy in force.
    pub policy_hash: Digest,
    /// Rises with every policy.
    pub policy_version: u64,
    /// Where the service is in its life.
    pub status: Status,
    /// Digest of the receipt before the one that carries this record; zero in the first.
    pub prev: Digest,
}

wire_struct!(Record, "record", {
    service,
    epoch,
    holder,
    holder_platform,
    version,
    state_hash,
    state_epoch,
    policy_hash,
    policy_version,
    status,
    prev,
});

impl Record {
    /// Whether `key` owns the service in exactly this epoch.
    pub fn is_held_by(&self, key: Key, epoch: u64) -> bool {
        self.status == Status::Held && self.holder == Some(key) && self.epoch == epoch
    }

    /// Who would be the next holder, as long as nothing more is known of it.
    pub(crate) fn candidate(&self, holder: Key, evidence: Digest, takes: Takes) -> Candidate<'static> {
        Candidate {
            service: self.service,
            policy_hash: self.policy_hash,
            holder,
            platform: None,
            evidence,
            takes,
            epoch: self.epoch,
            version: self.version,
            from: self.holder,
            proof: &[],
        }
    }
}

/// Where a service is in its life. This list is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Created, never started.
    Created,
    /// Owned by the holder.
    Held,
    /// Ended by its owner, for ever.
    Retired,
}

wire_tags!(Status, "status", { Created = 0, Held = 1, Retired = 2 });
