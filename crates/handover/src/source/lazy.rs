//! After the switch: memory that stayed behind follows.

use super::{Action, Outcome, Phase, Source};
use crate::ids::Time;
use crate::ledger::Record;
use crate::message::{Guard, Link, Message, PageRequest, Reattach};
use crate::party::ProtocolError;
use crate::statistics::Status;

impl Source {
    pub(super) fn page_requested(&mut self, request: PageRequest) {
        self.statistics.ram.postcopy_requests += 1;
        self.actions.push_back(Action::ServePages(request));
    }

    /// The link is lost; everything is kept until the destination is back or has given the service back.
    pub(super) fn pause(&mut self, now: Time) {
        self.party.connected = false;
        self.wanted = None;
        self.phase = match core::mem::replace(&mut self.phase, Phase::Greeting) {
            Phase::Serving(mut serving) | Phase::Paused(mut serving) => {
                serving.reattach = None;
                serving.look_again = now + self.party.limits.ledger_retry;
                Phase::Paused(serving)
            }
            other => other,
        };
        self.statistics.status = Status::PostcopyPaused;
    }

    pub(super) fn reconnected(&mut self, now: Time, guard: Box<dyn Guard>) {
        if matches!(self.phase, Phase::Paused(_)) {
            self.party.reconnect(now, Link::new(guard, self.versions.newest));
            self.statistics.status = Status::PostcopyRecover;
        }
    }

    /// The destination is back, perhaps restarted in a later epoch. The ledger says whether it is the holder.
    pub(super) fn reattaching(&mut self, now: Time, reattach: &Reattach) -> Result<(), ProtocolError> {
        if reattach.service != self.record.service || reattach.migration != self.migration {
            let why = "it is about another migration";
            return Err(ProtocolError::Unacceptable { message: "Reattach", why });
        }
        if let Phase::Paused(serving) = &mut self.phase {
            serving.reattach = Some(reattach.epoch);
        }
        self.look_again(now);
        Ok(())
    }

    /// The ledger's signed word while memory is still here.
    pub(super) fn watched(&mut self, now: Time, record: &Record) {
        let (Phase::Serving(serving) | Phase::Paused(serving)) = &mut self.phase else { return };
        let here = self.party.keys.holder.key();
        let epoch = record.epoch;
        let returned = epoch > self.record.epoch.saturating_add(1) && record.is_held_by(here, epoch);
        if returned && record.state_hash == serving.departure.state_hash {
            // Nothing ran here since the stop, and the state that was retained is the committed one.
            self.record = *record;
            self.actions.push_back(Action::ResumeGuest { epoch });
            self.actions.push_back(Action::Throttle(0));
            return self.end(now, Outcome::Returned { epoch });
        }
        let theirs = record.holder_platform == Some(serving.platform);
        if record.epoch <= self.record.epoch {
            return;
        }
        if record.state_hash != serving.departure.state_hash {
            // A later state was committed, and a holder commits only what it has sealed: this one is history.
            self.actions.push_back(Action::Release);
            let outcome = if theirs { Outcome::Moved { confirmed: true } } else { Outcome::Superseded };
            return self.end(now, outcome);
        }
        if theirs && serving.reattach == Some(record.epoch) {
            self.resume_serving(now, record);
        }
    }

    fn resume_serving(&mut self, now: Time, record: &Record) {
        let staged = self.retained(record.epoch, record.version.saturating_add(1), record.state_hash);
        self.phase = match core::mem::replace(&mut self.phase, Phase::Greeting) {
            Phase::Paused(mut serving) => {
                serving.reattach = None;
                serving.push_ended = false;
                serving.pushed = 0;
                serving.activated = true;
                Phase::Serving(serving)
            }
            other => other,
        };
        self.statistics.status = Status::PostcopyActive;
        self.party.send(now, &Message::Reattached(staged));
        self.actions.push_back(Action::RestartPush);
        self.wanted = Some(self.round);
        self.want_pages(now);
    }
}
