//! From the greeting to the statement that everything is staged.

use dunlin_base::Digest;

use super::{Action, Arrival, Destination, Offered, Outcome, Phase, Preparing, Waiting};
use crate::ids::Time;
use crate::ledger::{Checks, Record, Signature, Staged};
use crate::message::{
    Abort, AbortCode, Blocked, BlockedCode, Chunk, Final, Hello, LeftBehind, Message, Offer, Pages, Round, Text,
    Versions, Welcome,
};
use crate::party::ProtocolError;

impl Destination {
    pub(super) fn greeted(&mut self, now: Time, hello: Hello) {
        let theirs = Versions { oldest: hello.oldest, newest: hello.newest };
        let Some(version) = self.versions.common(theirs) else {
            let Versions { oldest, newest } = self.versions;
            let text = format!("source speaks {} to {}, destination {oldest} to {newest}", hello.oldest, hello.newest);
            return self.refuse(now, vec![Blocked { code: BlockedCode::Version, text: Text::new(&text) }]);
        };
        if self.peer.is_some_and(|peer| peer != hello.holder) {
            let text = Text::new("the instance key is not the one that the channel authenticated");
            return self.refuse(now, vec![Blocked { code: BlockedCode::NotHolder, text }]);
        }
        self.party.service = hello.service;
        self.party.link.agree(version);
        let welcome = Welcome {
            version,
            holder: self.party.keys.holder.key(),
            platform: self.platform(),
            nonce: self.challenge,
            features: self.features,
            evidence: self.evidence.clone(),
        };
        self.party.send(now, &Message::Welcome(welcome));
        self.phase = Phase::Welcomed(hello);
    }

    /// Takes state from nobody but the holder of this moment, and only under our own policy.
    pub(super) fn offered(&mut self, now: Time, hello: Hello, offer: Offer) {
        let mut reasons = Vec::new();
        let mut block = |code, text: &str| reasons.push(Blocked { code, text: Text::new(text) });
        let record = offer.reading.record;
        let fresh = offer.reading.is_fresh(self.party.keys.ledger, self.challenge, &*self.party.keys.checks);
        if !fresh || record.service != hello.service || !record.is_held_by(hello.holder, record.epoch) {
            block(BlockedCode::NotHolder, "the ledger does not say, freshly, that the source holds the service");
        }
        if record.policy_hash != self.policy_hash {
            block(BlockedCode::Policy, "the service is under another policy than this destination");
        }
        if offer.mode == crate::converge::Mode::Postcopy && !self.features.postcopy {
            block(BlockedCode::Mode, "post-copy is not supported here");
        }
        if !reasons.is_empty() {
            return self.refuse(now, reasons);
        }
        let (memories, dry_run) = (offer.memories.clone(), offer.dry_run);
        let evidence = Digest::of(&offer.evidence.0);
        self.arrival = Some(Offered { hello, record, evidence, memories, dry_run });
        self.actions.push_back(Action::Judge(Box::new(offer)));
        self.phase = Phase::Judging;
    }

    pub(super) fn judged(&mut self, now: Time, reasons: Vec<Blocked>, module_wanted: bool) {
        if !reasons.is_empty() {
            return self.refuse(now, reasons);
        }
        self.party.send(now, &Message::Accept(module_wanted));
        if self.arrival.as_ref().is_some_and(|arrival| arrival.dry_run) {
            return self.end(Outcome::DryRun);
        }
        if !module_wanted {
            self.actions.push_back(Action::Prepare);
        }
        self.phase = Phase::Preparing(Preparing { module: module_wanted.then_some((0, None)) });
    }

    pub(super) fn pages(&mut self, pages: Pages) -> Result<(), ProtocolError> {
        self.check_bounds(pages.memory, pages.end())?;
        let Phase::Receiving(receiving) = &mut self.phase else { return Ok(()) };
        if Some(pages.round) != receiving.round.checked_add(1) {
            let why = "they belong to another round";
            return Err(ProtocolError::Unacceptable { message: "Pages", why });
        }
        receiving.pages = receiving.pages.saturating_add(pages.count());
        self.actions.push_back(Action::StorePages(pages));
        Ok(())
    }

    pub(super) fn left_behind(&mut self, left: LeftBehind) -> Result<(), ProtocolError> {
        self.check_bounds(left.memory, left.end())?;
        let Phase::Receiving(receiving) = &mut self.phase else { return Ok(()) };
        receiving.left_behind = receiving.left_behind.saturating_add(left.count());
        self.actions.push_back(Action::MarkMissing(left));
        Ok(())
    }

    pub(super) fn check_bounds(&self, memory: u32, end: u64) -> Result<(), ProtocolError> {
        let memories = self.arrival.as_ref().map_or(&[][..], |arrival| &arrival.memories);
        let shape = usize::try_from(memory).ok().and_then(|index| memories.get(index));
        match shape {
            Some(shape) if end <= shape.maximum => Ok(()),
            _ => Err(ProtocolError::Unacceptable { message: "Pages", why: "they lie outside the memories offered" }),
        }
    }

    pub(super) fn round_ended(&mut self, now: Time, round: Round) -> Result<(), ProtocolError> {
        let Phase::Receiving(receiving) = &mut self.phase else { return Ok(()) };
        if Some(round.round) != receiving.round.checked_add(1) || round.pages != receiving.pages {
            let why = "the round's number or number of pages differs from what arrived";
            return Err(ProtocolError::Unacceptable { message: "RoundEnd", why });
        }
        receiving.round = round.round;
        receiving.pages = 0;
        self.party.send(now, &Message::RoundAck(round));
        Ok(())
    }

    pub(super) fn stage(&mut self, last: Final) -> Result<(), ProtocolError> {
        let unacceptable = |why| Err(ProtocolError::Unacceptable { message: "Final", why });
        let (Phase::Receiving(receiving), Some(arrival)) = (&self.phase, &self.arrival) else { return Ok(()) };
        if last.pages != receiving.pages
            || last.lazy_pages != receiving.left_behind
            || receiving.state.1 != Some(receiving.state.0)
        {
            return unacceptable("pages or state are missing");
        }
        if last.epoch != arrival.record.epoch || last.version <= arrival.record.version {
            return unacceptable("its epoch or version does not follow the offer");
        }
        if last.lazy_pages > 0 && last.retained.is_none() {
            return unacceptable("pages stay behind and the source does not say that it keeps them");
        }
        if last.retained.is_some() && !self.features.postcopy {
            return unacceptable("post-copy is not supported here");
        }
        if let Some(retained) = &last.retained {
            let epoch = last.epoch.saturating_add(1);
            let (version, state_hash, state_epoch) = (last.version, last.state_hash, last.epoch);
            let after = Record { epoch, version, state_hash, state_epoch, ..arrival.record };
            if !arrival.is_retained(retained, &after, &*self.party.keys.checks) {
                return unacceptable("the source's statement about what it keeps does not fit");
            }
        }
        let Offered { hello, record, evidence, memories, .. } = arrival;
        let (hello, memories) = (hello.clone(), memories.clone());
        let arrival = Arrival { hello, record: *record, evidence: *evidence, memories, last: last.clone() };
        self.actions.push_back(Action::Stage(Box::new(arrival)));
        self.phase = Phase::Staging(last);
        Ok(())
    }

    pub(super) fn staged(&mut self, now: Time, last: Final, state_hash: Digest) {
        let Some(arrival) = &self.arrival else { return };
        if state_hash != last.state_hash {
            let text = "the state that arrived has another digest than the one that was sent";
            return self.give_up(now, AbortCode::Digest, text);
        }
        let staged = Staged {
            service: arrival.record.service,
            migration: arrival.hello.migration,
            epoch: last.epoch,
            version: last.version,
            state_hash,
            holder: self.party.keys.holder.key(),
            platform: self.platform(),
            complete: last.retained.is_none(),
            signature: Signature::default(),
        }
        .signed(&*self.party.keys.holder);
        self.party.send(now, &Message::Staged(staged.clone()));
        let wait = self.party.limits.ledger_retry;
        let until = now + self.party.limits.decision;
        self.phase = Phase::Waiting(Waiting { last, staged, look_again: now + wait, wait, until });
    }

    pub(super) fn give_up(&mut self, now: Time, code: AbortCode, reason: &str) {
        match &self.phase {
            Phase::Ended(_) => {}
            Phase::Waiting(_) => self.look_again(now),
            Phase::Activating { .. } | Phase::Lazy(_) | Phase::Sealing(_) => {
                // The service is ours: what fails now is for a restart on this machine, from what was staged.
                self.send_abort(now, code, reason);
                self.actions.push_back(Action::PauseGuest);
                self.end(Outcome::Parked);
            }
            Phase::Paused(_) | Phase::GivingBack(_) => {}
            _ => {
                self.send_abort(now, code, reason);
                self.actions.push_back(Action::Discard);
                self.end(Outcome::Failed(reason.to_owned()));
            }
        }
    }

    pub(super) fn peer_gave_up(&mut self, now: Time, abort: &Abort) {
        let reason = format!("the source gave up: {}", abort.text);
        match (&self.phase, abort.code) {
            (Phase::Judging | Phase::Preparing(_), AbortCode::DryRun) => self.end(Outcome::DryRun),
            // With these words a source says that no transfer of its can be applied any more: it has signed none, or has
            // taken the next epoch. Only after a message that it could not read does it give the link up before it knows.
            (Phase::Waiting(_), code) if code != AbortCode::Protocol => {
                self.actions.push_back(Action::Discard);
                self.end(Outcome::Failed(reason));
            }
            _ => self.lost(now, &reason),
        }
    }

    /// The link is of no use any more.
    pub(super) fn lost(&mut self, now: Time, reason: &str) {
        match &self.phase {
            Phase::Waiting(_) => {
                self.party.connected = false;
                self.look_again(now);
            }
            Phase::Activating { .. } | Phase::Sealing(_) => self.party.connected = false,
            Phase::Lazy(_) | Phase::Paused(_) => self.pause(now),
            _ => {
                self.give_up(now, AbortCode::Timeout, reason);
                self.party.connected = false;
            }
        }
    }

    fn refuse(&mut self, now: Time, reasons: Vec<Blocked>) {
        self.party.send(now, &Message::Refuse(reasons.clone()));
        self.actions.push_back(Action::Discard);
        self.end(Outcome::Refused(reasons));
    }
}

impl Offered {
    /// Whether the source says that it keeps the state of `record`, in a statement good for a transfer from there.
    pub(super) fn is_retained(&self, retained: &Staged, record: &Record, checks: &dyn Checks) -> bool {
        retained.service == record.service
            && retained.holder == self.hello.holder
            && retained.epoch == record.epoch
            && Some(retained.version) == record.version.checked_add(1)
            && retained.state_hash == record.state_hash
            && retained.complete
            && retained.is_genuine(checks)
    }
}

/// Chunks come in order, without gaps, and agree about the size of the whole.
pub(super) fn in_order(progress: &mut Option<(u64, Option<u64>)>, chunk: &Chunk) -> Result<(), &'static str> {
    let Some((next, total)) = progress else { return Err("it was not asked for") };
    if chunk.offset != *next || total.is_some_and(|total| total != chunk.total) {
        return Err("chunks come in order and agree about the size of the whole");
    }
    *next = chunk.offset.saturating_add(chunk.bytes.len() as u64);
    *total = Some(chunk.total);
    Ok(())
}
