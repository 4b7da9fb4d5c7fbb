//! The destination of a live migration.
//!
//! ```text
//!   Listening ─> Welcomed ─> Judging ─> Preparing ─> Receiving ─> Staging ─> Waiting ─> Activating ─> Ended(Live)
//!       │            │          │           │            │           │          │            │             ▲
//!       └────────────┴──────────┴───────────┴────────────┴───────────┘          │            │ post-copy   │
//!                               ▼                                               │            ▼             │
//!                      Ended(Failed), nothing kept  <── the ledger went on ─────┤          Lazy ──> Sealing┘
//!                                                       without us              │           │ ▲
//!                      Ended(Parked), staged copy kept <── nobody decides ──────┘ link lost ▼ │ Reattach
//!                                                                                         Paused ──> GivingBack
//! ```
//!
//! Up to `Staging` the destination forgets everything when anything goes wrong. Once it has signed that the state is
//! staged it deletes nothing until the ledger's signed word says that no transfer can come, and it runs nothing until
//! that word says that it is the holder: not the source's word, and not a receipt alone.

mod await_commit;
mod io;
mod lazy;
mod receive;

use core::time::Duration;
use std::collections::VecDeque;

use dunlin_base::Digest;

use crate::ids::{Entropy, Key, Nonce, PlatformId, Time};
use crate::ledger::{Record, Staged};
use crate::message::{
    Abort, AbortCode, Evidence, Features, Final, Guard, Hello, Link, MemoryShape, Message, PageRequest, Text, Versions,
};
use crate::party::{Keys, LedgerReply, Limits, Party, ProtocolError};

pub use io::{Action, Arrival, Event, Outcome};

/// Everything that a destination needs to know at its start.
#[derive(Debug)]
pub struct Config {
    /// The only policy under which a service is taken.
    pub policy_hash: Digest,
    /// The instance key that the channel authenticated at the other end, if it did.
    pub peer: Option<Key>,
    /// What this side can do.
    pub features: Features,
    /// Evidence about this instance.
    pub evidence: Evidence,
    /// Protocol versions.
    pub versions: Versions,
    /// Keys of this side; the holder key must be fresh.
    pub keys: Keys,
    /// Times.
    pub limits: Limits,
    /// The channel's guard.
    pub guard: Box<dyn Guard>,
    /// Random bytes.
    pub entropy: Entropy,
}

/// The state machine of a destination.
///
/// After every call to a `handle_*` method, call `poll_transmit` and `poll_action` until both are empty, and
/// `poll_timeout` for when to call `handle_timeout` next.
#[derive(Debug)]
pub struct Destination {
    party: Party,
    policy_hash: Digest,
    peer: Option<Key>,
    features: Features,
    evidence: Evidence,
    versions: Versions,
    /// The challenge that the source's reading must carry.
    challenge: Nonce,
    phase: Phase,
    actions: VecDeque<Action>,
    arrival: Option<Offered>,
    faults: Vec<PageRequest>,
    /// Since when the program waits for pages, and for how long it waited before that.
    blocked: (Option<Time>, Duration),
}

/// What is known about the service once its offer was checked.
#[derive(Debug)]
struct Offered {
    hello: Hello,
    record: Record,
    /// Digest of the source's evidence.
    evidence: Digest,
    memories: Vec<MemoryShape>,
    dry_run: bool,
}

#[derive(Debug)]
enum Phase {
    Listening,
    Welcomed(Hello),
    Judging,
    Preparing(Preparing),
    Receiving(Receiving),
    Staging(Final),
    Waiting(Waiting),
    Activating { record: Record, last: Final },
    Lazy(Lazy),
    Sealing(Lazy),
    Paused(Paused),
    GivingBack(GivingBack),
    Ended(Outcome),
}

impl Phase {
    fn name(&self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::Welcomed(_) => "welcomed",
            Self::Judging => "judging",
            Self::Preparing(_) => "preparing",
            Self::Receiving(_) => "receiving",
            Self::Staging(_) => "staging",
            Self::Waiting(_) => "waiting",
            Self::Activating { .. } => "activating",
            Self::Lazy(_) => "lazy",
            Self::Sealing(_) => "sealing",
            Self::Paused(_) => "paused",
            Self::GivingBack(_) => "giving-back",
            Self::Ended(_) => "ended",
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Preparing {
    /// Next byte of the module, and its size once known; `None` when the module is not sent.
    module: Option<(u64, Option<u64>)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Receiving {
    /// The last round acknowledged.
    round: u32,
    /// Pages since then.
    pages: u64,
    /// Pages that stay at the source.
    left_behind: u64,
    /// Next byte of the state besides memory, and its size once known.
    state: (u64, Option<u64>),
}

/// Staged; the ledger decides.
#[derive(Debug)]
struct Waiting {
    last: Final,
    staged: Staged,
    look_again: Time,
    wait: Duration,
    until: Time,
}

#[derive(Debug)]
struct Lazy {
    record: Record,
    last: Final,
    missing: u64,
    /// Pages given to the driver and not yet reported as placed, in messages.
    unplaced: u32,
    /// Pages received on this link.
    received: u64,
    /// Of how many of them the source has heard.
    said: u64,
    push_ended: bool,
}

#[derive(Debug)]
struct Paused {
    lazy: Lazy,
    since: Time,
    /// Waiting for the source's answer to a reattach on a new link.
    attached: bool,
}

#[derive(Debug)]
struct GivingBack {
    record: Record,
    staged: Staged,
    look_again: Time,
}

impl Destination {
    /// Waits for a source's greeting.
    pub fn new(config: Config, now: Time) -> Self {
        let Config { policy_hash, peer, features, evidence, versions, keys, limits, guard, mut entropy } = config;
        let challenge = entropy.nonce();
        let link = Link::new(guard, versions.newest);
        // The service is known only once the source says which.
        let service = crate::ids::ServiceId([0; 16]);
        Self {
            party: Party::new(service, keys, limits, entropy, link, now),
            policy_hash,
            peer,
            features,
            evidence,
            versions,
            challenge,
            phase: Phase::Listening,
            actions: VecDeque::new(),
            arrival: None,
            faults: Vec::new(),
            blocked: (None, Duration::ZERO),
        }
    }

    /// Goes on after a crash in the post-copy phase: `record` is the ledger's word after this instance took the next
    /// epoch, `arrival` was staged with the state, and `missing` pages are not in it. Waits for a new channel; the
    /// program stands still until the source serves pages again.
    pub fn restarted(config: Config, arrival: Arrival, record: Record, missing: u64, now: Time) -> Self {
        let mut destination = Self::new(config, now);
        let Arrival { hello, record: offered, evidence, memories, last } = arrival;
        let theirs = Versions { oldest: hello.oldest, newest: hello.newest };
        if let Some(version) = destination.versions.common(theirs) {
            destination.party.link.agree(version);
        }
        destination.party.service = hello.service;
        destination.party.connected = false;
        destination.arrival = Some(Offered { hello, record: offered, evidence, memories, dry_run: false });
        let lazy = Lazy { record, last, missing, unplaced: 0, received: 0, said: 0, push_ended: false };
        destination.phase = Phase::Paused(Paused { lazy, since: now, attached: false });
        destination
    }

    /// How it ended; `None` while it goes on.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// The name of the phase, for logs.
    pub fn phase(&self) -> &'static str {
        self.phase.name()
    }

    /// Takes one frame from the source.
    ///
    /// # Errors
    /// [`ProtocolError`] when it was refused. The machine has then given the link up; close the channel.
    pub fn handle_message(&mut self, now: Time, frame: &[u8]) -> Result<(), ProtocolError> {
        if !self.party.connected {
            return Ok(());
        }
        let taken = match self.party.receive(now, frame) {
            Ok(message) => self.message(now, message),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = &taken {
            self.send_abort(now, AbortCode::Protocol, &error.to_string());
            self.lost(now, &error.to_string());
        }
        taken
    }

    /// The source says that it lives, without a message: it is busy.
    pub fn handle_alive(&mut self, now: Time) {
        self.party.alive(now);
    }

    /// Takes the ledger's answer to a call, from whatever untrusted way it came.
    pub fn handle_ledger_reply(&mut self, now: Time, reply: LedgerReply) {
        if let Some(answered) = self.party.answered(reply) {
            self.ledger_answered(now, answered);
        }
    }

    /// Takes what the driver reports.
    pub fn handle_local(&mut self, now: Time, event: Event) {
        match event {
            // Too late: the service is ours.
            Event::Cancel if matches!(self.phase, Phase::Activating { .. } | Phase::Lazy(_) | Phase::Sealing(_)) => {}
            Event::Cancel => self.give_up(now, AbortCode::Cancelled, "cancelled"),
            Event::Failed(reason) => self.give_up(now, AbortCode::Local, &reason),
            Event::LinkLost => self.lost(now, "the link to the source is lost"),
            Event::Reconnected(guard) => self.reconnected(now, guard),
            event => self.local(now, event),
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        for call in self.party.due_calls(now) {
            self.actions.push_back(Action::Ledger(call));
        }
        if self.party.keep_alive(now) {
            self.lost(now, "the source is silent");
        }
        match &self.phase {
            Phase::Waiting(waiting) if waiting.look_again <= now => self.look_again(now),
            Phase::GivingBack(giving) if giving.look_again <= now => self.look_again(now),
            Phase::Paused(paused) if self.gives_back_at(paused).is_some_and(|limit| limit <= now) => {
                self.give_back(now);
            }
            _ => {}
        }
    }

    /// When to call [`Destination::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Time> {
        let own = match &self.phase {
            Phase::Ended(_) => return None,
            Phase::Waiting(waiting) => Some(waiting.look_again),
            Phase::GivingBack(giving) => Some(giving.look_again),
            Phase::Paused(paused) => self.gives_back_at(paused),
            _ => None,
        };
        own.into_iter().chain(self.party.timeout()).min()
    }

    /// The next frame for the source.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.party.link.poll()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn message(&mut self, now: Time, message: Message) -> Result<(), ProtocolError> {
        let name = message.name();
        match (&mut self.phase, message) {
            (_, Message::Ping(_) | Message::Pong(_)) => {}
            (_, Message::Abort(abort)) => self.peer_gave_up(now, &abort),
            // What arrives late says nothing new.
            (Phase::Ended(_), _) => {}
            (Phase::Listening, Message::Hello(hello)) => self.greeted(now, hello),
            (Phase::Welcomed(hello), Message::Offer(offer)) => {
                let hello = hello.clone();
                self.offered(now, hello, offer);
            }
            (Phase::Preparing(preparing), Message::Module(chunk)) => {
                receive::in_order(&mut preparing.module, &chunk)
                    .map_err(|why| ProtocolError::Unacceptable { message: name, why })?;
                let last = chunk.offset + chunk.bytes.len() as u64 == chunk.total;
                self.actions.push_back(Action::StoreModule(chunk));
                if last {
                    self.actions.push_back(Action::Prepare);
                }
            }
            (Phase::Receiving(_), Message::Pages(pages)) => self.pages(pages)?,
            (Phase::Receiving(_), Message::VolumeChunks(chunks)) => self.actions.push_back(Action::StoreVolume(chunks)),
            (Phase::Receiving(_), Message::RoundEnd(round)) => self.round_ended(now, round)?,
            (Phase::Receiving(receiving), Message::State(chunk)) => {
                let mut state = Some(receiving.state);
                receive::in_order(&mut state, &chunk)
                    .map_err(|why| ProtocolError::Unacceptable { message: name, why })?;
                receiving.state = state.unwrap_or_default();
                self.actions.push_back(Action::StoreState(chunk));
            }
            (Phase::Receiving(_), Message::LeftBehind(left)) => self.left_behind(left)?,
            (Phase::Receiving(_), Message::Final(last)) => self.stage(last)?,
            // Only a hint to look: what counts is the ledger's answer to our own question.
            (Phase::Waiting(_), Message::Committed(receipt)) => self.told(now, &receipt),
            (Phase::Lazy(_), Message::Pages(pages)) => self.lazy_pages(pages)?,
            (Phase::Lazy(_), Message::PushEnd(pages)) => self.push_ended(now, pages)?,
            (Phase::Paused(paused), Message::Reattached(retained)) if paused.attached => {
                self.reattached(now, retained)?
            }
            // Answers to requests that everything else has overtaken.
            (Phase::Sealing(_), Message::Pages(_) | Message::PushEnd(_)) => {}
            // We have read the ledger before the source did.
            (Phase::Activating { .. } | Phase::Lazy(_) | Phase::Sealing(_), Message::Committed(_)) => {}
            (phase, _) => return Err(ProtocolError::Unexpected { phase: phase.name(), message: name }),
        }
        Ok(())
    }

    fn local(&mut self, now: Time, event: Event) {
        match (&mut self.phase, event) {
            (Phase::Judging, Event::Judged { reasons, module_wanted }) => self.judged(now, reasons, module_wanted),
            (Phase::Preparing(_), Event::VolumeHeld(held)) if held.is_well_formed() => {
                let message = Message::VolumeHeld(held);
                if message.since() <= self.party.link.version() {
                    self.party.send(now, &message);
                }
            }
            (Phase::Preparing(_), Event::Prepared { took }) => {
                self.party.send(now, &Message::Prepared(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)));
                self.phase = Phase::Receiving(Receiving::default());
            }
            (Phase::Staging(last), Event::Staged { state_hash }) => {
                let last = last.clone();
                self.staged(now, last, state_hash);
            }
            (Phase::Activating { .. }, Event::Activated { restore }) => self.activated(now, restore),
            (Phase::Lazy(_) | Phase::Paused(_), Event::Fault(request)) => self.fault(now, request),
            (Phase::Lazy(_) | Phase::Paused(_), Event::Placed { missing }) => self.placed(now, missing),
            (Phase::Sealing(_), Event::Sealed { state_hash }) => self.sealed(now, state_hash),
            // Reports that cross with an end.
            (_, _) => {}
        }
    }

    fn send_abort(&mut self, now: Time, code: AbortCode, text: &str) {
        self.party.send(now, &Message::Abort(Abort { code, text: Text::new(text) }));
    }

    fn end(&mut self, outcome: Outcome) {
        self.party.forget_calls();
        self.phase = Phase::Ended(outcome);
    }

    fn gives_back_at(&self, paused: &Paused) -> Option<Time> {
        self.party.limits.give_back.map(|limit| paused.since + limit.max(Duration::from_millis(1)))
    }

    fn platform(&self) -> PlatformId {
        PlatformId(self.party.keys.platform.key().0)
    }
}
