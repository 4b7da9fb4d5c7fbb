//! What may be released: functions of the ledger's words, without state.

use dunlin_handover::Key;
use dunlin_handover::ledger::{Checks, Record};

use crate::message::{Before, Denied, Written};

/// Whether the record makes `instance` the holder in `epoch`.
pub(crate) fn holder(record: &Record, instance: Key, epoch: u64) -> Result<(), Denied> {
    if record.is_held_by(instance, epoch) { Ok(()) } else { Err(Denied::NotHolder) }
}

/// The epoch in which the last committed state was written, if one was and it is proven. Before the first commit there
/// is none.
pub(crate) fn written_in(
    record: &Record,
    written: Option<&Written>,
    ledger: Key,
    checks: &dyn Checks,
) -> Result<Option<u64>, Denied> {
    let Some(Written { before, after }) = written else { return Ok(None) };
    let (earlier, head, genuine) = match before {
        Before::Receipt(receipt) => (&receipt.record, receipt.digest(), receipt.is_genuine(ledger, checks)),
        // The nonce was that of whoever asked then. Only whether the ledger said it matters here.
        Before::Reading(reading) => (&reading.record, reading.head, reading.is_fresh(ledger, reading.nonce, checks)),
    };
    let later = &after.record;
    let proven = genuine
        && after.is_genuine(ledger, checks)
        && later.prev == head
        && earlier.service == record.service
        && later.service == record.service
        && earlier.version.checked_add(1) == Some(later.version)
        && (later.version, later.state_hash) == (record.version, record.state_hash);
    if proven { Ok(Some(earlier.epoch)) } else { Err(Denied::NotWritten) }
}
