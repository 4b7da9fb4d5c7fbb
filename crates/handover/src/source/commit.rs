//! The commit, and every way not to reach it.

use core::time::Duration;

use dunlin_base::Digest;

use super::{Action, Departure, Outcome, Phase, Serving, Source, Transferring};
use crate::ids::{PlatformId, Time};
use crate::ledger::{Operation, Record, Refused, Request, Staged};
use crate::message::{AbortCode, Message};
use crate::party::{Answered, LedgerQuery, ProtocolError};
use crate::statistics::Status;

impl Source {
    /// The destination says that it can take over. From the request made here on, only the ledger decides.
    pub(super) fn staged(&mut self, now: Time, departure: Departure, staged: Staged) -> Result<(), ProtocolError> {
        let Some(welcome) = &self.welcome else { return Ok(()) };
        let honest = staged.service == self.record.service
            && staged.migration == self.migration
            && staged.epoch == self.record.epoch
            && Some(staged.version) == departure.version.checked_add(1)
            && staged.state_hash == departure.state_hash
            && staged.holder == welcome.holder
            && staged.platform == welcome.platform
            && staged.complete != departure.lazy
            && staged.is_genuine(&*self.party.keys.checks);
        if !honest {
            let why = "it is not the destination's signed word about this state";
            return Err(ProtocolError::Unacceptable { message: "Staged", why });
        }
        self.statistics.downtime.staged = Some(now.since(self.mark));
        self.mark = now;
        let action = Operation::Transfer {
            state_hash: departure.state_hash,
            evidence: Digest::of(&welcome.evidence.0),
            retained: departure.lazy,
            staged: staged.clone(),
        };
        let request = self.request(departure.version, action).signed(&*self.party.keys.holder);
        let call = self.party.apply(now, request);
        self.actions.push_back(Action::Ledger(call));
        let look_again = now + self.party.limits.ledger_retry;
        self.phase = Phase::Transferring(Transferring {
            departure,
            staged,
            abort: None,
            fencing: false,
            look_again,
            activated: None,
            early: Vec::new(),
        });
        Ok(())
    }

    pub(super) fn ledger_answered(&mut self, now: Time, answered: Answered) {
        match (&mut self.phase, answered) {
            (Phase::Vouching, Answered::Read(reading)) => self.vouched(now, *reading),
            (Phase::Vouching, Answered::Refused(_, refused)) => {
                self.give_up(now, AbortCode::Ledger, &format!("the ledger refuses: {refused}"));
            }
            (Phase::Transferring(_), Answered::Applied(request, receipt)) => match request.action {
                Operation::Transfer { .. } => {
                    self.party.send(now, &Message::Committed(*receipt));
                    self.committed(now);
                }
                _ => self.took_new_epoch(now, receipt.record),
            },
            (Phase::Transferring(transferring), Answered::Refused(query, refused)) => {
                // Unsigned, so it is only a reason to look and to try to take the next epoch.
                let applied = match query {
                    LedgerQuery::Apply(request) => Some(request.action),
                    LedgerQuery::Read { .. } | LedgerQuery::Appraise(_) => None,
                };
                if let Some(Operation::Transfer { .. }) = applied {
                    let text = format!("the ledger refuses the transfer: {refused}");
                    transferring.abort.get_or_insert((AbortCode::Ledger, text));
                } else if applied.is_some() {
                    transferring.fencing = false;
                    if let Refused::Denied(reason) = refused {
                        self.statistics.error_desc = Some(format!("cannot take a new epoch to abort: {reason}"));
                    }
                }
                self.look_again(now);
            }
            (Phase::Transferring(_), Answered::Read(reading)) => self.settle(now, &reading.record),
            (Phase::Serving(_) | Phase::Paused(_), Answered::Read(reading)) => self.watched(now, &reading.record),
            // Answers that cross with an end.
            (_, _) => {}
        }
    }

    /// Asks the ledger how things stand, once at a time.
    pub(super) fn look_again(&mut self, now: Time) {
        let wait = self.party.limits.ledger_retry.saturating_mul(2).max(Duration::from_millis(1));
        if let Phase::Transferring(Transferring { look_again, .. })
        | Phase::Serving(Serving { look_again, .. })
        | Phase::Paused(Serving { look_again, .. }) = &mut self.phase
        {
            *look_again = now + wait;
            if !self.party.is_reading() {
                let call = self.party.read(now);
                self.actions.push_back(Action::Ledger(call));
            }
        }
    }

    /// Gives the move up, for a reason that lies here.
    pub(super) fn give_up(&mut self, now: Time, code: AbortCode, reason: &str) {
        match &mut self.phase {
            Phase::Ended(_) | Phase::Committed { .. } | Phase::Serving(_) | Phase::Paused(_) => {}
            Phase::Transferring(transferring) => {
                self.statistics.status = Status::Cancelling;
                transferring.abort.get_or_insert((code, reason.to_owned()));
                self.take_new_epoch(now);
            }
            phase => {
                let standing = matches!(phase, Phase::Stopping { .. } | Phase::Finishing(_) | Phase::Staging(_));
                self.send_abort(now, code, reason);
                if standing {
                    self.actions.push_back(Action::ResumeGuest { epoch: self.record.epoch });
                }
                self.stay(now, self.record.epoch, reason);
            }
        }
    }

    /// The link is of no use any more.
    pub(super) fn lost(&mut self, now: Time, code: AbortCode, reason: &str) {
        match &mut self.phase {
            // The destination has staged and asks the ledger itself: the commit needs no link.
            Phase::Transferring(_) | Phase::Committed { .. } => self.party.connected = false,
            Phase::Serving(_) | Phase::Paused(_) => self.pause(now),
            _ => {
                self.give_up(now, code, reason);
                self.party.connected = false;
            }
        }
    }

    pub(super) fn peer_gave_up(&mut self, now: Time, code: AbortCode, text: &str) {
        let reason = format!("the destination gave up: {text}");
        match &self.phase {
            Phase::Serving(_) | Phase::Paused(_) | Phase::Committed { .. } | Phase::Ended(_) => {
                self.lost(now, code, &reason);
            }
            _ => self.give_up(now, code, &reason),
        }
    }

    /// Makes the signed transfer impossible: the next epoch is ours. Until the ledger says which of the two came
    /// first, the program stands still.
    fn take_new_epoch(&mut self, now: Time) {
        let Phase::Transferring(transferring) = &mut self.phase else { return };
        if transferring.fencing {
            return;
        }
        transferring.fencing = true;
        let version = transferring.departure.version;
        let action = Operation::Resume {
            holder: self.party.keys.holder.key(),
            platform: PlatformId(self.party.keys.platform.key().0),
            evidence: Digest::of(&self.offer.evidence.0),
        };
        let keys = self.party.keys.clone();
        let request = self.request(version, action).signed(&*keys.platform).signed(&*keys.holder);
        let call = self.party.apply(now, request);
        self.actions.push_back(Action::Ledger(call));
    }

    fn took_new_epoch(&mut self, now: Time, record: Record) {
        let Phase::Transferring(transferring) = &mut self.phase else { return };
        let (code, reason) = transferring.abort.take().unwrap_or((AbortCode::Ledger, "taken back".to_owned()));
        self.record = record;
        self.send_abort(now, code, &reason);
        self.actions.push_back(Action::ResumeGuest { epoch: record.epoch });
        self.stay(now, record.epoch, &reason);
    }

    /// The ledger's signed word about a transfer of which no receipt came.
    fn settle(&mut self, now: Time, record: &Record) {
        let Phase::Transferring(transferring) = &self.phase else { return };
        let here = self.party.keys.holder.key();
        let epoch = self.record.epoch;
        let there = record.holder_platform == Some(transferring.staged.platform) && record.epoch > epoch;
        if record.is_held_by(here, epoch.saturating_add(1)) && transferring.fencing {
            self.took_new_epoch(now, *record);
        } else if there && record.state_hash == transferring.departure.state_hash {
            self.committed(now);
        } else if record.is_held_by(here, epoch) {
            if transferring.abort.is_some() {
                self.take_new_epoch(now);
            }
        } else if record.epoch > epoch {
            // The destination went on already (and may have committed or moved), or an owner recovered the service.
            let gone_on = record.version > transferring.departure.version;
            self.actions.push_back(Action::Fence);
            let outcome = if gone_on { Outcome::Moved { confirmed: false } } else { Outcome::Superseded };
            self.end(now, outcome);
        }
    }

    fn committed(&mut self, now: Time) {
        self.statistics.downtime.commit = Some(now.since(self.mark));
        self.mark = now;
        let phase = core::mem::replace(&mut self.phase, Phase::Greeting);
        let Phase::Transferring(Transferring { departure, staged, activated, early, .. }) = phase else {
            self.phase = phase;
            return;
        };
        self.party.forget_calls();
        self.actions.push_back(Action::Fence);
        if departure.lazy {
            self.statistics.status = Status::PostcopyActive;
            let look_again = now + self.party.limits.peer_silence;
            self.round += 1;
            self.phase = Phase::Serving(Serving::new(departure, staged.platform, look_again));
            if !self.party.connected {
                return self.pause(now);
            }
            early.into_iter().for_each(|request| self.page_requested(request));
        } else {
            self.phase = Phase::Committed { until: now + self.party.limits.activation };
        }
        if let Some(restore) = activated {
            self.activated(now, restore);
        }
    }

    fn stay(&mut self, now: Time, epoch: u64, reason: &str) {
        self.actions.push_back(Action::Throttle(0));
        self.end(now, Outcome::Stayed { epoch, cancelled: self.cancelling, reason: reason.to_owned() });
    }

    fn request(&mut self, version: u64, action: Operation) -> Request {
        Request::new(self.record.service, self.party.entropy.operation(), self.record.epoch, version, action)
    }
}
