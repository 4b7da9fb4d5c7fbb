//! What may be released: functions of the ledger's words, without state.

use dunlin_handover::Key;
use dunlin_handover::ledger::Record;

use crate::message::Denied;

/// Whether the record makes `instance` the holder in `epoch`.
pub(crate) fn holder(record: &Record, instance: Key, epoch: u64) -> Result<(), Denied> {
    if record.is_held_by(instance, epoch) { Ok(()) } else { Err(Denied::NotHolder) }
}

/// The epoch in which the last committed state was written. Before the first commit there is none.
pub(crate) fn written_in(record: &Record) -> Option<u64> {
    (record.version > 0).then_some(record.state_epoch)
}
