//! After the switch: memory that stayed behind follows.
//!
//! What the program waits for comes behind what is on its way already, so that little must be on its way while it waits for
//! much: a window, as in TCP, which a request closes and time without requests opens.

use super::{Action, Outcome, Phase, Source};
use crate::ids::Time;
use crate::ledger::Record;
use crate::message::{Guard, Link, Message, PLACED_EVERY, PageRequest, Reattach};
use crate::party::ProtocolError;
use crate::statistics::Status;

/// Pages that are on their way while the program waits for some. Four times what a destination keeps to itself, so that it
/// never waits for pages which wait for its word.
const LEAST: u64 = 4 * PLACED_EVERY;
/// Pages that are on their way at most: a program that waits for the first time in a while waits for these, too.
const MOST: u64 = 1024;

/// Which pages are on their way to the destination, over the present link.
#[derive(Debug)]
pub(super) struct Window {
    size: u64,
    /// Pages that were sent, whether they were asked for or not.
    sent: u64,
    /// Pages of which the destination says that they are in place.
    placed: u64,
    /// How many pages had been sent when the window got this size. What comes to be in place of them says nothing of it.
    since: u64,
}

impl Window {
    pub(super) const fn new() -> Self {
        Self { size: LEAST, sent: 0, placed: 0, since: 0 }
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// How many pages may be sent that nobody asked for, in one message. Four messages fill the window, so that the way is
    /// not empty for want of an answer; smaller ones are not worth it.
    pub(super) fn room(&self) -> u64 {
        let (quarter, on_their_way) = (self.size / 4, self.sent.saturating_sub(self.placed));
        if on_their_way.saturating_add(quarter) <= self.size { quarter } else { 0 }
    }

    pub(super) fn send(&mut self, pages: u64) {
        self.sent = self.sent.saturating_add(pages);
    }

    /// The program waits: what comes before the page that it waits for is to be little from now on.
    fn asked(&mut self) {
        (self.size, self.since) = (LEAST, self.sent);
    }

    /// Takes the destination's word; gives it back if it cannot be.
    fn take(&mut self, placed: u64) -> Result<(), u64> {
        if !(self.placed..=self.sent).contains(&placed) {
            return Err(placed);
        }
        self.placed = placed;
        if placed >= self.since.saturating_add(self.size) {
            (self.size, self.since) = ((self.size * 2).min(MOST), self.sent);
        }
        Ok(())
    }
}

impl Source {
    pub(super) fn page_requested(&mut self, request: PageRequest) {
        self.statistics.ram.postcopy_requests += 1;
        if let Phase::Serving(serving) = &mut self.phase {
            serving.window.asked();
        }
        self.actions.push_back(Action::ServePages(request));
    }

    pub(super) fn placed(&mut self, now: Time, pages: u64) -> Result<(), ProtocolError> {
        if let Phase::Serving(serving) = &mut self.phase {
            let why = "more pages are in place than were sent, or fewer than before";
            let unacceptable = ProtocolError::Unacceptable { message: "Placed", why };
            serving.window.take(pages).map_err(|_| unacceptable)?;
            self.want_pages(now);
        }
        Ok(())
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
            self.party.reconnect(now, Link::new(guard, self.party.link.version()));
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
                serving.window = Window::new();
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
