//! From the greeting to the last byte before the commit.

use core::time::Duration;

use dunlin_base::{Digest, PAGE_SIZE};

use super::{Action, Copying, Departure, Event, Finishing, Outcome, Phase, Retained, Serving, Source, Step};
use crate::converge::{Confirm, Convergence, Decision, Mode, Scan, TimeoutAction, Unconverged};
use crate::ids::Time;
use crate::ledger::{Candidate, Reading, Staged, Takes};
use crate::message::{
    AbortCode, Blocked, Content, Final, MAX_HELD_CHUNKS, MAX_PAGES, MemoryShape, Message, Offer, Pages, Round,
    Versions, VolumeChunks, VolumeHeld, Welcome,
};
use crate::party::ProtocolError;
use crate::statistics::Status;

/// Most bytes that wait in the link before more pages are asked for. Enough to keep a fast link busy.
const ROOM: usize = 4 << 20;
/// The same after the switch, where a page that the program waits for queues behind them.
const ROOM_LAZY: usize = 256 << 10;
/// In mode `postcopy`, the volume goes ahead of the stop in at most so many rounds.
const VOLUME_ROUNDS: u32 = 3;

impl Source {
    pub(super) fn welcomed(&mut self, now: Time, welcome: Welcome) -> Result<(), ProtocolError> {
        let version = welcome.version;
        if self.versions.common(Versions { oldest: version, newest: version }) != Some(version) {
            let why = "it chooses a version that was not offered";
            return Err(ProtocolError::Unacceptable { message: "Welcome", why });
        }
        self.party.link.agree(version);
        let evidence = Digest::of(&welcome.evidence.0);
        let candidate = self.record.candidate(welcome.holder, evidence, Takes::Transfer(self.migration));
        let candidate = Candidate { platform: Some(welcome.platform), ..candidate };
        // No byte of the service goes to a destination that the policy does not permit.
        if let Err(reason) = self.party.keys.checks.appraise(&candidate) {
            self.statistics.blocked_reasons.push(format!("policy: {reason}"));
            self.give_up(now, AbortCode::Policy, &format!("the policy does not permit the destination: {reason}"));
            return Ok(());
        }
        self.control = Convergence::new(self.options.clone(), welcome.features.postcopy, now);
        let call = self.party.read_for(now, welcome.nonce);
        self.welcome = Some(welcome);
        self.actions.push_back(Action::Ledger(call));
        self.phase = Phase::Vouching;
        Ok(())
    }

    pub(super) fn vouched(&mut self, now: Time, reading: Reading) {
        if !reading.record.is_held_by(self.party.keys.holder.key(), self.record.epoch) {
            self.actions.push_back(Action::Fence);
            self.end(now, Outcome::Superseded);
            return;
        }
        let offer = Offer {
            reading,
            module: self.offer.module,
            snapshot_version: self.offer.snapshot_version,
            memories: self.offer.memories.clone(),
            needs: self.offer.needs.clone(),
            mode: self.options.mode,
            dry_run: self.dry_run,
            evidence: self.offer.evidence.clone(),
        };
        self.party.send(now, &Message::Offer(offer));
        self.phase = Phase::Offering;
    }

    pub(super) fn accepted(&mut self, now: Time, module_wanted: bool) {
        if self.dry_run {
            self.send_abort(now, AbortCode::DryRun, "the dry run is over");
            return self.end(now, Outcome::DryRun { blocked: Vec::new() });
        }
        if module_wanted {
            self.actions.push_back(Action::SendModule);
        }
        self.phase = Phase::Preparing;
    }

    pub(super) fn refused(&mut self, now: Time, reasons: Vec<Blocked>) {
        self.statistics.blocked_reasons = reasons.iter().map(ToString::to_string).collect();
        if self.dry_run {
            return self.end(now, Outcome::DryRun { blocked: reasons });
        }
        let listed = self.statistics.blocked_reasons.join("; ");
        self.give_up(now, AbortCode::Policy, &format!("the destination refuses: {listed}"));
    }

    pub(super) fn prepared(&mut self, now: Time) {
        self.statistics.setup_time = now.since(self.started);
        self.statistics.status = Status::Active;
        let postcopy = self.welcome.as_ref().is_some_and(|welcome| welcome.features.postcopy);
        self.control = Convergence::new(self.options.clone(), postcopy, now);
        self.scan(now);
    }

    pub(super) fn copy_event(&mut self, now: Time, event: Event) {
        let sends_volume = self.sends_volume();
        match (&mut self.phase, event) {
            (Phase::Preparing, Event::Module(chunk)) if chunk.is_well_formed() => {
                self.party.send(now, &Message::Module(chunk));
            }
            (Phase::Copying(copying), Event::Scanned { pages, volume }) if copying.step == Step::Scanning => {
                self.found_volume(volume);
                self.scanned(now, pages, pages_of(volume));
            }
            (_, Event::VolumeChunks(chunks)) if sends_volume && chunks.is_well_formed() => {
                self.volume_chunks(now, chunks);
            }
            (_, Event::Pages(pages)) if pages.is_well_formed() => self.pages(now, pages),
            (Phase::Copying(_), Event::BatchEnd { left }) => self.batch_ended(now, left),
            (Phase::Stopping { lazy }, Event::Stopped { version, time_to_safepoint }) => {
                let lazy = *lazy;
                self.stopped(now, lazy, version, time_to_safepoint);
            }
            (Phase::Finishing(finishing), Event::Scanned { pages, volume }) => {
                let finishing = *finishing;
                self.found_volume(volume);
                self.scanned_last(now, finishing, pages.saturating_add(pages_of(volume)));
            }
            (Phase::Finishing(_), Event::BatchEnd { left }) => {
                self.statistics.ram.remaining = left.saturating_mul(PAGE_SIZE as u64);
                if left > 0 {
                    self.wanted = Some(self.round);
                    self.want_pages(now);
                } else {
                    self.actions.push_back(Action::Capture { retain: None });
                }
            }
            (Phase::Finishing(_), Event::State(chunk)) if chunk.is_well_formed() => {
                self.statistics.ram.downtime_bytes += chunk.bytes.len() as u64;
                self.party.send(now, &Message::State(chunk));
            }
            (Phase::Finishing(finishing), Event::LeftBehind(left)) if finishing.lazy && left.is_well_formed() => {
                finishing.lazy_pages = finishing.lazy_pages.saturating_add(left.count());
                self.party.send(now, &Message::LeftBehind(left));
            }
            (Phase::Finishing(finishing), Event::Captured { state_hash }) => {
                let finishing = *finishing;
                self.captured(now, finishing, state_hash);
            }
            (Phase::Serving(serving), Event::BatchEnd { left }) => {
                if left > 0 {
                    self.wanted = Some(self.round);
                    self.want_pages(now);
                } else if !serving.push_ended {
                    serving.push_ended = true;
                    let sent = serving.window.sent();
                    self.party.send(now, &Message::PushEnd(sent));
                }
            }
            (
                Phase::Preparing | Phase::Copying(_) | Phase::Finishing(_),
                Event::Module(_) | Event::Pages(_) | Event::VolumeChunks(_) | Event::State(_) | Event::LeftBehind(_),
            ) => {
                self.give_up(now, AbortCode::Local, "the driver gave pages or chunks that break the format's limits");
            }
            // Reports that cross with a cancel or an end.
            (_, _) => {}
        }
    }

    /// Asks for the next batch of pages when one is wanted, the link has room and the bandwidth limit allows it.
    pub(super) fn want_pages(&mut self, now: Time) {
        if let Some(round) = self.wanted
            && self.has_room()
            && self.not_before <= now
        {
            self.wanted = None;
            self.actions.push_back(Action::SendPages { round, max: self.batch() });
        }
    }

    pub(super) fn has_room(&self) -> bool {
        let room = if matches!(self.phase, Phase::Serving(_)) { ROOM_LAZY } else { ROOM };
        self.party.connected && self.party.link.queued() < room && self.batch() > 0
    }

    /// How many pages may leave in one message.
    fn batch(&self) -> u32 {
        match &self.phase {
            Phase::Serving(serving) if self.party.link.version() >= 3 => {
                u32::try_from(serving.window.room()).unwrap_or(MAX_PAGES).min(MAX_PAGES)
            }
            _ => MAX_PAGES,
        }
    }

    pub(super) fn time_limit(&self) -> Option<Time> {
        let limit = self.options.timeout.filter(|_| self.options.timeout_action == TimeoutAction::Abort)?;
        Some(self.started + self.statistics.setup_time + limit)
    }

    pub(super) fn time_is_up(&self, now: Time) -> bool {
        self.time_limit().is_some_and(|limit| limit <= now)
    }

    fn scan(&mut self, now: Time) {
        let bytes = self.party.link.bytes();
        self.phase = Phase::Copying(Copying { step: Step::Scanning, pages: 0, bytes, since: now, ended: now });
        self.actions.push_back(Action::Scan);
    }

    /// `volume`: chunks of the volume, as the pages that they would fill.
    fn scanned(&mut self, now: Time, pages: u64, volume: u64) {
        let dirty_pages = pages.saturating_add(volume);
        self.statistics.ram.remaining = dirty_pages.saturating_mul(PAGE_SIZE as u64);
        // Memory can come after the switch, a volume cannot.
        if self.options.mode == Mode::Postcopy && volume > 0 && self.round < VOLUME_ROUNDS {
            return self.next_round(now);
        }
        match self.control.after_scan(Scan { now, dirty_pages }) {
            Decision::NextRound { throttle } => {
                if throttle > 0 {
                    self.actions.push_back(Action::Throttle(throttle));
                }
                self.next_round(now);
            }
            Decision::Stop => self.stop(false),
            Decision::Postcopy => self.stop(true),
            Decision::Fail(why) => self.unconverged(now, why),
        }
    }

    fn next_round(&mut self, now: Time) {
        self.round += 1;
        self.statistics.ram.dirty_sync_count += 1;
        let bytes = self.party.link.bytes();
        self.phase = Phase::Copying(Copying { step: Step::Sending, pages: 0, bytes, since: now, ended: now });
        self.wanted = Some(self.round);
        self.want_pages(now);
    }

    /// The destination has chunks of the volume from an earlier stay of the service.
    pub(super) fn volume_held(&mut self, held: VolumeHeld) -> Result<(), ProtocolError> {
        self.held = self.held.saturating_add(held.0.len() as u64);
        if self.held > MAX_HELD_CHUNKS as u64 {
            let why = "it claims more chunks of the volume than a volume can have";
            return Err(ProtocolError::Unacceptable { message: "VolumeHeld", why });
        }
        self.actions.push_back(Action::VolumeHeld(held));
        Ok(())
    }

    /// Whether the service's volume goes ahead of the state: the destination takes chunks of it. Known from
    /// [`Action::Scan`] on.
    pub fn sends_volume(&self) -> bool {
        self.party.link.version() >= 2
    }

    /// So many bytes of the volume are still to be sent.
    fn found_volume(&mut self, bytes: u64) {
        self.statistics.ram.total = bytes_of(&self.offer.memories).saturating_add(self.volume).saturating_add(bytes);
    }

    fn volume_chunks(&mut self, now: Time, chunks: VolumeChunks) {
        self.volume = self.volume.saturating_add(chunks.bytes());
        let ram = &mut self.statistics.ram;
        match &self.phase {
            Phase::Copying(copying) if copying.step == Step::Sending => ram.precopy_bytes += chunks.bytes(),
            Phase::Finishing(_) => ram.downtime_bytes += chunks.bytes(),
            _ => return,
        }
        self.party.send(now, &Message::VolumeChunks(chunks));
    }

    fn pages(&mut self, now: Time, pages: Pages) {
        let (count, zeros) = (pages.count(), pages.zeros());
        let carried: u64 = pages
            .runs
            .iter()
            .map(|run| match &run.content {
                Content::Zero => 0,
                Content::Bytes(bytes) | Content::Zstd(bytes) => bytes.len() as u64,
            })
            .sum();
        let ram = &mut self.statistics.ram;
        match &mut self.phase {
            Phase::Copying(copying) if copying.step == Step::Sending => {
                copying.pages += count;
                ram.precopy_bytes += carried;
            }
            Phase::Finishing(finishing) => {
                finishing.pages += count;
                ram.downtime_bytes += carried;
            }
            Phase::Serving(Serving { window, .. }) => {
                window.send(count);
                ram.postcopy_bytes += carried;
            }
            _ => return,
        }
        ram.duplicate += zeros;
        ram.normal += count - zeros;
        ram.normal_bytes += carried;
        self.party.send(now, &Message::Pages(pages));
    }

    fn batch_ended(&mut self, now: Time, left: u64) {
        let Phase::Copying(copying) = &mut self.phase else { return };
        if copying.step != Step::Sending {
            return;
        }
        self.statistics.ram.remaining = left.saturating_mul(PAGE_SIZE as u64);
        let sent = self.party.link.bytes() - copying.bytes;
        self.not_before = now + self.control.pause_for_limit(sent, copying.since, now);
        // A round that outlasts the time limit is cut short: the next scan decides with what is left.
        let late =
            self.options.timeout.is_some_and(|limit| now.since(self.started + self.statistics.setup_time) >= limit);
        if left > 0 && !late {
            self.wanted = Some(self.round);
            return self.want_pages(now);
        }
        copying.step = Step::Acking;
        copying.ended = now;
        let round = Round { round: self.round, pages: copying.pages };
        self.party.send(now, &Message::RoundEnd(round));
    }

    pub(super) fn round_acknowledged(&mut self, now: Time) {
        let Phase::Copying(copying) = &self.phase else { return };
        let bytes = self.party.link.bytes() - copying.bytes;
        // What is still queued when the round ends is sending time, so that the way there and back is at most this.
        let round_trip = now.since(copying.ended).min(Duration::from_secs(1));
        let sending = now.since(copying.since);
        let round_trip = if copying.ended == copying.since { Duration::ZERO } else { round_trip.min(sending / 2) };
        self.control.round_sent(bytes, sending, round_trip);
        self.scan(now);
    }

    fn stop(&mut self, lazy: bool) {
        self.statistics.status = Status::PreSwitchover;
        self.phase = Phase::Stopping { lazy };
        self.actions.push_back(Action::StopGuest);
    }

    fn stopped(&mut self, now: Time, lazy: bool, version: u64, time_to_safepoint: Duration) {
        self.statistics.status = Status::Device;
        self.statistics.downtime.time_to_safepoint = Some(time_to_safepoint);
        self.mark = now;
        let deadline = self.control.deadline(now);
        self.round += 1;
        self.phase = Phase::Finishing(Finishing { lazy, version, pages: 0, lazy_pages: 0, deadline });
        self.actions.push_back(Action::Scan);
    }

    fn scanned_last(&mut self, now: Time, finishing: Finishing, pages: u64) {
        self.statistics.ram.remaining = pages.saturating_mul(PAGE_SIZE as u64);
        let confirm =
            if finishing.lazy { Confirm::Postcopy } else { self.control.confirm_stop(pages, now.since(self.mark)) };
        match confirm {
            Confirm::Go if pages == 0 => self.actions.push_back(Action::Capture { retain: None }),
            Confirm::Go => {
                // Forced or not is decided by now, and with it whether the limit is strict.
                let deadline = self.control.deadline(self.mark);
                self.phase = Phase::Finishing(Finishing { deadline, ..finishing });
                self.not_before = now;
                self.wanted = Some(self.round);
                self.want_pages(now);
            }
            Confirm::Postcopy => {
                self.phase = Phase::Finishing(Finishing { lazy: true, ..finishing });
                let retain = self.welcome.as_ref().map(|welcome| Retained {
                    migration: self.migration,
                    version: finishing.version,
                    platform: welcome.platform,
                });
                self.actions.push_back(Action::Capture { retain });
            }
            Confirm::Retry => {
                self.actions.push_back(Action::ResumeGuest { epoch: self.record.epoch });
                self.statistics.status = Status::Active;
                // No page went out under the last round's number.
                self.round -= 1;
                self.scan(now);
            }
            Confirm::Fail(why) => self.unconverged(now, why),
        }
    }

    fn captured(&mut self, now: Time, finishing: Finishing, state_hash: Digest) {
        let Finishing { lazy, version, pages, lazy_pages, deadline } = finishing;
        let Some(next) = version.checked_add(1) else {
            return self.give_up(now, AbortCode::Local, "the version of the service is at its end");
        };
        let epoch = self.record.epoch;
        // For giving back: a transfer that follows the one to come.
        let retained = lazy.then(|| self.retained(epoch.saturating_add(1), next.saturating_add(1), state_hash));
        self.party.send(now, &Message::Final(Final { epoch, version: next, state_hash, pages, lazy_pages, retained }));
        self.statistics.downtime.capture = Some(now.since(self.mark));
        self.mark = now;
        self.phase = Phase::Staging(Departure { version, state_hash, lazy, deadline });
    }

    /// The statement with which a destination in `epoch` can give the service back as `version`: the state is whole,
    /// and on this machine's storage.
    pub(super) fn retained(&self, epoch: u64, version: u64, state_hash: Digest) -> Staged {
        Staged {
            service: self.record.service,
            migration: self.migration,
            epoch,
            version,
            state_hash,
            holder: self.party.keys.holder.key(),
            platform: crate::ids::PlatformId(self.party.keys.platform.key().0),
            complete: true,
            signature: crate::ledger::Signature::default(),
        }
        .signed(&*self.party.keys.holder)
    }

    fn unconverged(&mut self, now: Time, why: Unconverged) {
        self.give_up(now, AbortCode::Unconverged, &why.to_string());
    }
}

/// The bytes of all memories.
pub(super) fn bytes_of(memories: &[MemoryShape]) -> u64 {
    let bytes = memories.iter().map(|memory| memory.pages.saturating_mul(PAGE_SIZE as u64));
    bytes.fold(0, u64::saturating_add)
}

/// The pages that so many bytes would fill.
fn pages_of(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE as u64)
}
