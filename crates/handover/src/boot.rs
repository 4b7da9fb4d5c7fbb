//! What a keep may do when it starts: nothing, before the ledger has said so freshly.
//!
//! ```text
//!   read the ledger with a fresh nonce ──> decide ──┬─> Resume ──> send the request ──> receipt ──> run in epoch + 1
//!                                                   ├─> NotHere: the service is elsewhere, blobs are void
//!                                                   └─> Missing: the service is here and its state is not
//! ```
//!
//! A blob says what was once true. Whoever holds the disk can present any old one, or several at once; only the
//! compare-and-swap of `Resume` decides which of two instances goes on.

use dunlin_base::Digest;

use crate::ids::{Key, Nonce, OperationId, PlatformId};
use crate::ledger::{Checks, Operation, Reading, Receipt, Request, Signer, Status};

/// A sealed state on this machine: a checkpoint, a staged arrival, or what a source retained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blob {
    /// The version that its writer knew or expected.
    pub version: u64,
    /// Digest of the state in it.
    pub state_hash: Digest,
    /// Whether the whole state is in it; otherwise pages must still come from the source of a post-copy migration.
    pub complete: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Boot {
    /// Open this blob and take the next epoch with [`resume`]. Run only after [`resumed`] has checked the receipt.
    Resume {
        /// Index in the list that was given.
        blob: usize,
    },
    /// The service is not held here. No blob may be opened. What was staged for a move that the ledger still allows
    /// (same epoch, next version) must be kept, and the ledger be asked again: the transfer may be on its way.
    NotHere {
        /// Where it is held.
        platform: Option<PlatformId>,
    },
    /// The service is held here and none of the blobs is its committed state: recover it from elsewhere.
    Missing {
        /// The version that is needed.
        version: u64,
        /// Its digest.
        state_hash: Digest,
    },
}

/// Why a start is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The reading is old, of another ledger, or changed.
    #[error("the ledger's reading is not fresh or not genuine: read again with a new nonce")]
    NotFresh,
    /// The receipt does not make this instance the holder.
    #[error("the ledger's receipt does not make this instance the holder")]
    NotHolder,
}

/// Decides what an instance that starts on `platform` may do.
///
/// # Errors
/// [`BootError::NotFresh`].
pub fn decide(
    reading: &Reading,
    nonce: Nonce,
    ledger: Key,
    checks: &dyn Checks,
    platform: PlatformId,
    blobs: &[Blob],
) -> Result<Boot, BootError> {
    if !reading.is_fresh(ledger, nonce, checks) {
        return Err(BootError::NotFresh);
    }
    let record = &reading.record;
    if record.status != Status::Held || record.holder_platform != Some(platform) {
        return Ok(Boot::NotHere { platform: record.holder_platform });
    }
    // The digest decides. The version in a blob may be older: giving a state back raises the version only.
    let of_state = |blob: &&(usize, &Blob)| blob.1.state_hash == record.state_hash;
    let found: Vec<(usize, &Blob)> = blobs.iter().enumerate().collect();
    let whole = found.iter().filter(of_state).find(|(_, blob)| blob.complete);
    let committed = whole.or_else(|| found.iter().find(of_state)).map(|(index, _)| *index);
    Ok(match committed {
        Some(blob) => Boot::Resume { blob },
        None => Boot::Missing { version: record.version, state_hash: record.state_hash },
    })
}

/// The request with which an instance with a new key takes the next epoch on the holder's machine.
pub fn resume(
    reading: &Reading,
    operation: OperationId,
    instance: &dyn Signer,
    platform: &dyn Signer,
    evidence: Digest,
) -> Request {
    let record = &reading.record;
    let action = Operation::Resume { holder: instance.key(), platform: PlatformId(platform.key().0), evidence };
    let (service, epoch, version) = (record.service, record.epoch, record.version);
    Request::new(service, operation, epoch, version, action).signed(platform).signed(instance)
}

/// Checks the answer to `request` and returns the epoch in which the instance runs.
///
/// # Errors
/// [`BootError::NotHolder`].
pub fn resumed(
    request: &Request,
    receipt: &Receipt,
    instance: Key,
    ledger: Key,
    checks: &dyn Checks,
) -> Result<u64, BootError> {
    let epoch = request.epoch.checked_add(1).ok_or(BootError::NotHolder)?;
    let ours = receipt.is_genuine(ledger, checks)
        && receipt.request == request.digest()
        && receipt.record.is_held_by(instance, epoch);
    if ours { Ok(epoch) } else { Err(BootError::NotHolder) }
}
