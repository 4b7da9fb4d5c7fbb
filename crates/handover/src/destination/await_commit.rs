//! Staged: the ledger decides what becomes of it.

use core::time::Duration;

use super::{Action, Destination, GivingBack, Lazy, Outcome, Phase, Waiting};
use crate::ids::Time;
use crate::ledger::{Receipt, Record};
use crate::message::Message;
use crate::party::Answered;

impl Destination {
    /// The source shows a receipt. That alone lets nothing run: it may be old by now.
    pub(super) fn told(&mut self, now: Time, receipt: &Receipt) {
        if receipt.is_genuine(self.party.keys.ledger, &*self.party.keys.checks) {
            self.look_again(now);
        }
    }

    /// Asks the ledger how things stand, once at a time, less often the longer it takes.
    pub(super) fn look_again(&mut self, now: Time) {
        match &mut self.phase {
            Phase::Waiting(Waiting { look_again, wait, .. }) => {
                *wait = wait.saturating_mul(2).min(self.party.limits.ledger_retry.saturating_mul(16));
                *look_again = now + (*wait).max(Duration::from_millis(1));
            }
            Phase::GivingBack(GivingBack { look_again, .. }) => {
                *look_again = now + self.party.limits.ledger_retry.saturating_mul(2).max(Duration::from_millis(1));
            }
            _ => return,
        }
        if !self.party.is_reading() {
            let call = self.party.read(now);
            self.actions.push_back(Action::Ledger(call));
        }
    }

    pub(super) fn ledger_answered(&mut self, now: Time, answered: Answered) {
        match (&mut self.phase, answered) {
            (Phase::Waiting(_), Answered::Read(reading)) => self.decided(now, &reading.record),
            (Phase::GivingBack(_), Answered::Applied(..)) => {
                self.actions.push_back(Action::Discard);
                self.end(Outcome::GaveBack);
            }
            (Phase::GivingBack(_), Answered::Refused(..)) => self.look_again(now),
            (Phase::GivingBack(giving), Answered::Read(reading)) => {
                // Whatever happened to our request: as soon as the epoch is past, the service is not ours.
                if reading.record.epoch > giving.record.epoch {
                    self.actions.push_back(Action::Discard);
                    self.end(Outcome::GaveBack);
                } else {
                    self.ask_to_give_back(now);
                }
            }
            // A refusal to read, or an answer that crosses with an end.
            (_, _) => {}
        }
    }

    /// The ledger's signed and fresh word while we wait.
    fn decided(&mut self, now: Time, record: &Record) {
        let Phase::Waiting(waiting) = &self.phase else { return };
        let here = self.party.keys.holder.key();
        let Waiting { last, staged, until, .. } = waiting;
        let arrived = last.epoch.checked_add(1).is_some_and(|epoch| record.is_held_by(here, epoch));
        if arrived && record.version == last.version && record.state_hash == last.state_hash {
            let last = last.clone();
            self.actions.push_back(Action::Activate { record: Box::new(*record), lazy_pages: last.lazy_pages });
            self.phase = Phase::Activating { record: *record, last };
            return;
        }
        let possible = record.epoch == staged.epoch && record.version.checked_add(1) == Some(staged.version);
        if !possible {
            // The transfer names an epoch and a version that will never be again.
            let reason = format!("the ledger went on without this move, to epoch {}", record.epoch);
            self.actions.push_back(Action::Discard);
            return self.end(Outcome::Failed(reason));
        }
        if *until <= now {
            self.end(Outcome::Parked);
        }
    }

    pub(super) fn activated(&mut self, now: Time, restore: Duration) {
        let micros = u64::try_from(restore.as_micros()).unwrap_or(u64::MAX);
        self.party.send(now, &Message::Activated(micros));
        let Phase::Activating { record, last } = &self.phase else { return };
        if last.retained.is_none() {
            let epoch = record.epoch;
            return self.end(Outcome::Live { epoch });
        }
        let (record, missing) = (*record, last.lazy_pages);
        let lazy = Lazy { record, last: last.clone(), missing, unplaced: 0, received: 0, said: 0, push_ended: false };
        self.phase = Phase::Lazy(lazy);
        if !self.party.connected {
            self.pause(now);
        }
    }
}
