//! Checking a service's chain of receipts, years later and without the ledger.

use super::{Checks, Receipt, Record, Status};
use crate::ids::Key;

/// What is wrong with a history. `index` is the position in the list that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// Not signed by the ledger.
    #[error("receipt {index} is not signed by the ledger")]
    BadSignature {
        /// Position.
        index: usize,
    },
    /// Does not follow the receipt before it.
    #[error("receipt {index} does not follow the one before it: one is missing, repeated or of another history")]
    Broken {
        /// Position.
        index: usize,
    },
    /// The record changed in a way that no operation allows.
    #[error("receipt {index} changes the record in a way that no operation does")]
    Impossible {
        /// Position.
        index: usize,
    },
}

/// Checks that `receipts` are consecutive, signed by `ledger`, and that epoch, version and policy only rise.
///
/// # Errors
/// [`HistoryError`] names the first receipt that is wrong.
pub fn verify_history(receipts: &[Receipt], ledger: Key, checks: &dyn Checks) -> Result<(), HistoryError> {
    for (index, receipt) in receipts.iter().enumerate() {
        if !receipt.is_genuine(ledger, checks) {
            return Err(HistoryError::BadSignature { index });
        }
        let Some(before) = index.checked_sub(1).and_then(|before| receipts.get(before)) else { continue };
        if receipt.record.prev != before.digest() || before.index.checked_add(1) != Some(receipt.index) {
            return Err(HistoryError::Broken { index });
        }
        if !can_follow(&before.record, &receipt.record) {
            return Err(HistoryError::Impossible { index });
        }
    }
    Ok(())
}

fn can_follow(before: &Record, after: &Record) -> bool {
    let steps = (after.epoch.wrapping_sub(before.epoch), after.version.wrapping_sub(before.version));
    let owner_changed = (after.holder, after.holder_platform) != (before.holder, before.holder_platform);
    before.status != Status::Retired
        && after.service == before.service
        && matches!(steps, (0 | 1, 0) | (0 | 1, 1))
        && (steps.0 == 1 || !owner_changed)
        && (steps.1 == 1 || after.state_hash == before.state_hash)
        && after.state_epoch == if steps.1 == 1 { before.epoch } else { before.state_epoch }
        && after.policy_version >= before.policy_version
        && (after.policy_version > before.policy_version || after.policy_hash == before.policy_hash)
}
