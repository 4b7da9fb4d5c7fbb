//! Who owns a service, and at which state: the only arbiter of ownership.
//!
//! ```text
//!            create            claim                 commit (version + 1)
//!   vacant ─────────> Created ───────> Held(holder) ──────┐
//!                        │               │  ▲  ▲ └────────┘
//!                        │ recover       │  │  └ resume, transfer, recover (epoch + 1, new holder)
//!                        └───────────────┼──┘
//!                          retire        ▼
//!                        └─────────> Retired (epoch + 1, for ever)
//! ```
//!
//! Every [`Operation`] is a compare-and-swap on `(epoch, version)`, idempotent by its operation id, signed by the
//! authority that the operation names, and answered by a [`Receipt`] that is chained by hash to the one before it. The
//! epoch rises with every change of holder and is the fencing token: nothing that an earlier holder sends later can
//! take effect.
//!
//! [`LedgerState::apply`] is the whole rule book and has no storage. Each storage keeps the bytes of one
//! [`LedgerState`] per service and makes "load, apply, store durably" one atomic step before it lets the receipt out.

mod history;
mod memory;
mod operation;
mod receipt;
mod record;
mod refused;
mod state;

pub use history::{HistoryError, verify_history};
pub use memory::MemoryLedger;
pub use operation::{Operation, Recovery, Request, Signature, Staged};
pub use receipt::{Reading, Receipt};
pub use record::{Record, Status};
pub use refused::{Authority, Refused};
pub use state::LedgerState;

use dunlin_base::Digest;

use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::ids::{Key, MigrationId, Nonce, PlatformId, ServiceId};

/// What a storage of ledger states offers to the rest of the program.
pub trait Ledger {
    /// What can go wrong with the storage itself. Whether an operation took effect is then unknown, and the caller
    /// sends the same request again.
    type Error;

    /// Applies one request durably. The receipt leaves only after the new state is on stable storage.
    ///
    /// # Errors
    /// The outer error when the storage fails, the inner one when the rules say no.
    fn apply(&mut self, request: &Request) -> Result<Result<Receipt, Refused>, Self::Error>;

    /// The current record of a service, signed together with the caller's nonce.
    ///
    /// # Errors
    /// As [`Ledger::apply`].
    fn read(&mut self, service: ServiceId, nonce: Nonce) -> Result<Result<Reading, Refused>, Self::Error>;

    /// Whether the policy in force lets a destination take its service, as far as that can be said before the transfer.
    ///
    /// # Errors
    /// As [`Ledger::apply`].
    fn appraise(&mut self, nomination: &Nomination) -> Result<Result<(), Refused>, Self::Error>;
}

/// Longest signature in bytes (large enough for the post-quantum schemes of today).
pub const MAX_SIGNATURE: usize = 8192;

/// Longest proof beside a request, in bytes: evidence, what belongs to it, and a policy.
pub const MAX_PROOF: usize = 96 << 10;

/// Makes signatures with one key. Where the key lives is the implementor's business.
pub trait Signer: core::fmt::Debug + Send + Sync {
    /// Thumbprint of the public key.
    fn key(&self) -> Key;

    /// Signs `message`. The result is at most [`MAX_SIGNATURE`] bytes.
    fn sign(&self, message: &[u8]) -> Vec<u8>;
}

/// Checks what comes from outside. Must be a function of its arguments, of fixed roots and of the time.
pub trait Checks: core::fmt::Debug + Send + Sync {
    /// Whether `signature` was made over `message` by the private half of `key`.
    fn verify(&self, key: Key, message: &[u8], signature: &[u8]) -> bool;

    /// Whether the service's policy lets this candidate hold the service.
    ///
    /// # Errors
    /// The reason, for people.
    fn appraise(&self, candidate: &Candidate<'_>) -> Result<(), String>;
}

/// Who wants to hold a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Which service.
    pub service: ServiceId,
    /// Digest of the policy in force.
    pub policy_hash: Digest,
    /// The candidate's instance key.
    pub holder: Key,
    /// The machine it runs on, as soon as it has said so.
    pub platform: Option<PlatformId>,
    /// Digest of its evidence.
    pub evidence: Digest,
    /// How it is to become the holder.
    pub takes: Takes,
    /// The epoch that ends then.
    pub epoch: u64,
    /// The version of the record until then.
    pub version: u64,
    /// Who holds the service until then.
    pub from: Option<Key>,
    /// What came beside the request; empty where nothing did, as before there is one.
    pub proof: &'a [u8],
}

/// Who is to take a service in a migration that is about to begin. Nobody signs it, since it changes nothing: it lets the
/// ledger say no before anything has moved, and appraise while the program still runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nomination {
    /// Which service.
    pub service: ServiceId,
    /// The epoch of the record.
    pub epoch: u64,
    /// Which migration.
    pub migration: MigrationId,
    /// The destination's instance key.
    pub holder: Key,
    /// Digest of its evidence.
    pub evidence: Digest,
    /// As in [`Request::proof`].
    pub proof: Vec<u8>,
}

impl Wire for Nomination {
    const WHAT: &'static str = "nomination";

    fn write(&self, out: &mut Writer) {
        let Self { service, epoch, migration, holder, evidence, proof } = self;
        out.put(service);
        out.put(epoch);
        out.put(migration);
        out.put(holder);
        out.put(evidence);
        out.blob(proof);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (service, epoch, migration) = (input.take()?, input.take()?, input.take()?);
        let (holder, evidence) = (input.take()?, input.take()?);
        Ok(Self { service, epoch, migration, holder, evidence, proof: input.blob("proof", MAX_PROOF)? })
    }
}

/// How an instance becomes the holder of a service. This list is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Takes {
    /// By starting it for the first time.
    Claim,
    /// By starting it again on the same machine, or by taking back a transfer.
    Resume,
    /// By this migration.
    Transfer(MigrationId),
    /// By its owner's will.
    Recover,
}
