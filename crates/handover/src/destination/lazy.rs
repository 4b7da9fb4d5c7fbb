//! The program runs here while its memory is still arriving.

use dunlin_base::Digest;

use super::{Action, Destination, GivingBack, Lazy, Outcome, Paused, Phase};
use crate::ids::Time;
use crate::ledger::{Operation, Request, Staged};
use crate::message::{AbortCode, Complete, Guard, Link, Message, PLACED_EVERY, PageRequest, Pages, Reattach};
use crate::party::ProtocolError;

/// Most requests remembered while the link is down. A program has few threads; each waits for one run of pages.
const MAX_FAULTS: usize = 1024;

impl Destination {
    pub(super) fn lazy_pages(&mut self, pages: Pages) -> Result<(), ProtocolError> {
        self.check_bounds(pages.memory, pages.end())?;
        let Phase::Lazy(lazy) = &mut self.phase else { return Ok(()) };
        self.faults.retain(|fault| !covers(&pages, fault));
        lazy.received = lazy.received.saturating_add(pages.count());
        lazy.unplaced = lazy.unplaced.saturating_add(1);
        self.actions.push_back(Action::PlacePages(pages));
        Ok(())
    }

    pub(super) fn push_ended(&mut self, now: Time, pages: u64) -> Result<(), ProtocolError> {
        let Phase::Lazy(lazy) = &mut self.phase else { return Ok(()) };
        if pages != lazy.received {
            let why = "the number of pages differs from what arrived";
            return Err(ProtocolError::Unacceptable { message: "PushEnd", why });
        }
        lazy.push_ended = true;
        self.settle_memory(now);
        Ok(())
    }

    pub(super) fn placed(&mut self, now: Time, missing: u64) {
        if let Phase::Lazy(lazy) | Phase::Paused(Paused { lazy, .. }) = &mut self.phase {
            lazy.missing = missing;
            lazy.unplaced = lazy.unplaced.saturating_sub(1);
        }
        self.say_what_is_placed(now);
        if self.faults.is_empty()
            && let Some(since) = self.blocked.0.take()
        {
            self.blocked.1 = self.blocked.1.saturating_add(now.since(since));
        }
        self.settle_memory(now);
    }

    fn say_what_is_placed(&mut self, now: Time) {
        let Phase::Lazy(Lazy { unplaced: 0, received, said, .. }) = &mut self.phase else { return };
        let message = Message::Placed(*received);
        if received.saturating_sub(*said) >= PLACED_EVERY && message.since() <= self.party.link.version() {
            *said = *received;
            self.party.send(now, &message);
        }
    }

    pub(super) fn fault(&mut self, now: Time, request: PageRequest) {
        self.blocked.0.get_or_insert(now);
        if self.faults.len() < MAX_FAULTS && !self.faults.contains(&request) {
            self.faults.push(request);
        }
        if matches!(self.phase, Phase::Lazy(_)) {
            self.party.send(now, &Message::PageRequest(request));
        }
    }

    pub(super) fn sealed(&mut self, now: Time, state_hash: Digest) {
        let Phase::Sealing(lazy) = &self.phase else { return };
        if state_hash == lazy.last.state_hash {
            let (epoch, pages) = (lazy.record.epoch, lazy.last.lazy_pages);
            let blocktime = u64::try_from(self.blocked.1.as_micros()).unwrap_or(u64::MAX);
            self.party.send(now, &Message::Complete(Complete { pages, blocktime }));
            return self.end(Outcome::Live { epoch });
        }
        // The program ran on memory that is not what the source had. The source still has it.
        self.phase = match core::mem::replace(&mut self.phase, Phase::Listening) {
            Phase::Sealing(lazy) => Phase::Lazy(lazy),
            other => other,
        };
        self.send_abort(
            now,
            AbortCode::Digest,
            "the memory that arrived has another digest than the one that was sent",
        );
        self.pause(now);
        self.give_back(now);
    }

    /// The link is lost: the program stands still, exactly where it is, until memory comes again.
    pub(super) fn pause(&mut self, now: Time) {
        self.party.connected = false;
        self.phase = match core::mem::replace(&mut self.phase, Phase::Listening) {
            Phase::Lazy(lazy) => {
                self.actions.push_back(Action::PauseGuest);
                Phase::Paused(Paused { lazy, since: now, attached: false })
            }
            Phase::Paused(paused) => Phase::Paused(Paused { attached: false, ..paused }),
            other => other,
        };
    }

    pub(super) fn reconnected(&mut self, now: Time, guard: Box<dyn Guard>) {
        let (Phase::Paused(paused), Some(arrival)) = (&mut self.phase, &self.arrival) else { return };
        paused.attached = true;
        let reattach = Reattach {
            migration: arrival.hello.migration,
            service: arrival.hello.service,
            epoch: paused.lazy.record.epoch,
            placed: paused.lazy.last.lazy_pages.saturating_sub(paused.lazy.missing),
        };
        self.party.reconnect(now, Link::new(guard, self.party.link.version()));
        self.party.send(now, &Message::Reattach(reattach));
    }

    /// The source has looked at the ledger and goes on.
    pub(super) fn reattached(&mut self, now: Time, retained: Staged) -> Result<(), ProtocolError> {
        let (Phase::Paused(Paused { lazy, .. }), Some(arrival)) = (&self.phase, &self.arrival) else { return Ok(()) };
        if !arrival.is_retained(&retained, &lazy.record, &*self.party.keys.checks) {
            let why = "the source's statement about what it keeps does not fit";
            return Err(ProtocolError::Unacceptable { message: "Reattached", why });
        }
        self.phase = match core::mem::replace(&mut self.phase, Phase::Listening) {
            Phase::Paused(Paused { mut lazy, .. }) => {
                lazy.last.retained = Some(retained);
                (lazy.received, lazy.said) = (0, 0);
                lazy.push_ended = false;
                Phase::Lazy(lazy)
            }
            other => other,
        };
        self.actions.push_back(Action::UnpauseGuest);
        for request in self.faults.clone() {
            self.party.send(now, &Message::PageRequest(request));
        }
        Ok(())
    }

    /// The link stays lost: the service goes back to the state that the source kept. The program here, paused, never
    /// runs again from the moment that this is signed.
    pub(super) fn give_back(&mut self, now: Time) {
        let Phase::Paused(paused) = &mut self.phase else { return };
        let Lazy { record, last, .. } = &paused.lazy;
        let good =
            |staged: &&Staged| staged.epoch == record.epoch && Some(staged.version) == record.version.checked_add(1);
        let Some(staged) = last.retained.as_ref().filter(good).cloned() else {
            // Made for an earlier epoch of ours: only the source, once it is back, can make another.
            paused.since = now;
            return;
        };
        let record = *record;
        self.actions.push_back(Action::Fence);
        self.phase = Phase::GivingBack(GivingBack { record, staged, look_again: now });
        self.ask_to_give_back(now);
    }

    pub(super) fn ask_to_give_back(&mut self, now: Time) {
        if self.party.is_applying() {
            return;
        }
        let (Phase::GivingBack(giving), Some(arrival)) = (&mut self.phase, &self.arrival) else { return };
        giving.look_again = now + self.party.limits.ledger_retry.saturating_mul(2);
        let (record, staged) = (giving.record, giving.staged.clone());
        let evidence = arrival.evidence;
        let action = Operation::Transfer { state_hash: record.state_hash, evidence, retained: true, staged };
        let request =
            Request::new(record.service, self.party.entropy.operation(), record.epoch, record.version, action);
        let request = request.signed(&*self.party.keys.holder);
        let call = self.party.apply(now, request);
        self.actions.push_back(Action::Ledger(call));
    }

    /// Everything was sent: either it is all here, or something was lost that a new link must bring.
    fn settle_memory(&mut self, now: Time) {
        let Phase::Lazy(lazy) = &self.phase else { return };
        if !lazy.push_ended || lazy.unplaced > 0 {
            return;
        }
        if lazy.missing > 0 {
            return self.pause(now);
        }
        self.actions.push_back(Action::Seal);
        self.phase = match core::mem::replace(&mut self.phase, Phase::Listening) {
            Phase::Lazy(lazy) => Phase::Sealing(lazy),
            other => other,
        };
    }
}

fn covers(pages: &Pages, fault: &PageRequest) -> bool {
    let end = fault.first.saturating_add(fault.count.into());
    let within =
        |run: &crate::message::Run| run.first <= fault.first && end <= run.first.saturating_add(run.count.into());
    pages.memory == fault.memory && pages.runs.iter().any(within)
}
