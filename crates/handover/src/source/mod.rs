//! The source of a live migration.
//!
//! ```text
//!   Greeting ─> Vouching ─> Offering ─> Preparing ─> Copying ─> Stopping ─> Finishing ─> Staging ─> Transferring
//!      │            │           │            │          │  ▲        │            │           │            │
//!      │            │           │            │          │  └────────┼── retry ───┘           │            │
//!      └────────────┴───────────┴────────────┴──────────┴──────┬────┴────────────────────────┘            │
//!                                                              ▼                                          │
//!                                  Ended(Stayed, same epoch)        Ended(Stayed, epoch + 1) <── abort ───┤
//!                                                                                                         │ receipt:
//!                                                                                                         │ the commit
//!                       Ended(Moved) <── Complete ── Serving <── post-copy ──┬── Committed ──────> Ended(Moved)
//!                                                    │   ▲                   └───────────────────────────┘
//!                                         link lost  ▼   │ Reattach
//!                                                    Paused ──> Ended(Returned): given back through the ledger
//! ```
//!
//! Up to `Staging` the source can stop at any moment and simply go on, because no request that could give the
//! service away exists yet. From the moment that a `Transfer` is signed, only the ledger knows: the source either
//! sees it applied, or takes a new epoch, after which it can never be applied.

mod commit;
mod copy;
mod io;
mod lazy;

use core::time::Duration;
use std::collections::VecDeque;

use dunlin_base::{Digest, PAGE_SIZE};

use crate::converge::{Convergence, Options};
use crate::ids::{Entropy, MigrationId, PlatformId, Time};
use crate::ledger::{Record, Staged};
use crate::message::{
    Abort, AbortCode, Evidence, Guard, Hello, Link, MemoryShape, Message, PageRequest, Round, Text, Versions, Welcome,
};
use crate::party::{Keys, LedgerReply, Limits, Party, ProtocolError};
use crate::statistics::{Statistics, Status};

pub use io::{Action, Event, Outcome, Retained};

/// Everything that a source needs to know at its start.
#[derive(Debug)]
pub struct Config {
    /// This attempt.
    pub migration: MigrationId,
    /// The record as this holder knows it.
    pub record: Record,
    /// Identity of the module.
    pub module: Digest,
    /// Version of the snapshot format.
    pub snapshot_version: u16,
    /// The memories now.
    pub memories: Vec<MemoryShape>,
    /// What the service needs of a host, by name.
    pub needs: Vec<Text>,
    /// Evidence about this instance.
    pub evidence: Evidence,
    /// Limits and wishes.
    pub options: Options,
    /// Only ask whether it would work.
    pub dry_run: bool,
    /// Protocol versions.
    pub versions: Versions,
    /// Keys of this side.
    pub keys: Keys,
    /// Times.
    pub limits: Limits,
    /// The channel's guard.
    pub guard: Box<dyn Guard>,
    /// Random bytes.
    pub entropy: Entropy,
}

/// The state machine of a source.
///
/// After every call to a `handle_*` method, call `poll_transmit` and `poll_action` until both are empty, and
/// `poll_timeout` for when to call `handle_timeout` next.
#[derive(Debug)]
pub struct Source {
    party: Party,
    migration: MigrationId,
    record: Record,
    offer: OfferParts,
    options: Options,
    versions: Versions,
    dry_run: bool,
    phase: Phase,
    control: Convergence,
    welcome: Option<Welcome>,
    actions: VecDeque<Action>,
    /// A batch of pages is wanted as soon as the link has room.
    wanted: Option<u32>,
    /// The earliest time of that batch, when the bandwidth is limited.
    not_before: Time,
    round: u32,
    /// Chunks of the volume that the destination says it has.
    held: u64,
    /// Bytes of chunks of the volume that were sent.
    volume: u64,
    started: Time,
    ended: Option<Time>,
    mark: Time,
    cancelling: bool,
    statistics: Statistics,
}

#[derive(Debug)]
struct OfferParts {
    module: Digest,
    snapshot_version: u16,
    memories: Vec<MemoryShape>,
    needs: Vec<Text>,
    evidence: Evidence,
}

#[derive(Debug)]
enum Phase {
    Greeting,
    Vouching,
    Offering,
    Preparing,
    Copying(Copying),
    Stopping { lazy: bool },
    Finishing(Finishing),
    Staging(Departure),
    Transferring(Transferring),
    Committed { until: Time },
    Serving(Serving),
    Paused(Serving),
    Ended(Outcome),
}

impl Phase {
    fn name(&self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Vouching => "vouching",
            Self::Offering => "offering",
            Self::Preparing => "preparing",
            Self::Copying(_) => "copying",
            Self::Stopping { .. } => "stopping",
            Self::Finishing(_) => "finishing",
            Self::Staging(_) => "staging",
            Self::Transferring(_) => "transferring",
            Self::Committed { .. } => "committed",
            Self::Serving(_) => "serving",
            Self::Paused(_) => "paused",
            Self::Ended(_) => "ended",
        }
    }
}

/// One round of pre-copy.
#[derive(Debug, Clone, Copy)]
struct Copying {
    step: Step,
    /// Pages given to the link in this round.
    pages: u64,
    /// Bytes on the link when the round began.
    bytes: u64,
    /// When it began.
    since: Time,
    /// When its end was sent.
    ended: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Scanning,
    Sending,
    Acking,
}

/// The program stands still and the rest of its state goes out.
#[derive(Debug, Clone, Copy)]
struct Finishing {
    lazy: bool,
    /// The last acknowledged version.
    version: u64,
    /// Pages sent since the last round.
    pages: u64,
    /// Pages that stay behind for post-copy.
    lazy_pages: u64,
    deadline: Option<Time>,
}

/// What has left and is to be committed.
#[derive(Debug, Clone, Copy)]
struct Departure {
    version: u64,
    state_hash: Digest,
    lazy: bool,
    deadline: Option<Time>,
}

/// A signed transfer is on its way.
#[derive(Debug)]
struct Transferring {
    departure: Departure,
    staged: Staged,
    /// Why it is to be undone, if it still can be.
    abort: Option<(AbortCode, String)>,
    /// Whether the request that makes it impossible is on its way.
    fencing: bool,
    /// When the ledger may be asked again how things stand.
    look_again: Time,
    /// The destination has read the ledger before us and runs already; how long restoring took there.
    activated: Option<u64>,
    /// Pages that it asked for meanwhile.
    early: Vec<PageRequest>,
}

/// Most requests that are remembered before the source itself knows of the commit.
const MAX_EARLY: usize = 1024;

/// Memory goes out after the switch.
#[derive(Debug)]
struct Serving {
    departure: Departure,
    platform: PlatformId,
    activated: bool,
    window: lazy::Window,
    push_ended: bool,
    /// A destination that waits for the ledger to confirm its epoch.
    reattach: Option<u64>,
    look_again: Time,
}

impl Serving {
    fn new(departure: Departure, platform: PlatformId, look_again: Time) -> Self {
        let window = lazy::Window::new();
        Self { departure, platform, activated: false, window, push_ended: false, reattach: None, look_again }
    }
}

impl Source {
    /// Starts a migration: greets the destination at the other end of the channel.
    pub fn new(config: Config, now: Time) -> Self {
        let Config { migration, record, module, snapshot_version, memories, needs, .. } = config;
        let Config { evidence, options, dry_run, versions, keys, limits, guard, entropy, .. } = config;
        let link = Link::new(guard, versions.newest);
        let mut party = Party::new(record.service, keys, limits, entropy, link, now);
        let hello = Hello {
            oldest: versions.oldest,
            newest: versions.newest,
            migration,
            service: record.service,
            holder: party.keys.holder.key(),
            nonce: party.entropy.nonce(),
        };
        party.send(now, &Message::Hello(hello));
        let mut statistics = Statistics { status: Status::Setup, ..Statistics::default() };
        statistics.ram.total = copy::bytes_of(&memories);
        Self {
            party,
            migration,
            record,
            offer: OfferParts { module, snapshot_version, memories, needs, evidence },
            control: Convergence::new(options.clone(), false, now),
            options,
            versions,
            dry_run,
            phase: Phase::Greeting,
            welcome: None,
            actions: VecDeque::new(),
            wanted: None,
            not_before: now,
            round: 0,
            held: 0,
            volume: 0,
            started: now,
            ended: None,
            mark: now,
            cancelling: false,
            statistics,
        }
    }

    /// Goes on after a crash with what [`Action::Capture`] retained, while the destination holds the service and
    /// still lacks memory. `config.record` is the record before the transfer, its epoch the one in which this side
    /// was the holder, and `config.keys` are those of that time. Waits for a new channel.
    pub fn restarted(config: Config, retained: Retained, state_hash: Digest, now: Time) -> Self {
        let Retained { migration, version, platform } = retained;
        let mut source = Self::new(Config { migration, ..config }, now);
        // The greeting was for a new migration.
        while source.party.link.poll().is_some() {}
        let departure = Departure { version, state_hash, lazy: true, deadline: None };
        source.phase = Phase::Paused(Serving::new(departure, platform, now));
        source.pause(now);
        source
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

    /// What was measured until `now`.
    pub fn statistics(&self, now: Time) -> Statistics {
        let mut statistics = self.statistics.clone();
        statistics.total_time = self.ended.unwrap_or(now).since(self.started);
        statistics.expected_downtime = self.control.expected_downtime();
        statistics.cpu_throttle_percentage = self.control.throttle();
        statistics.ram.transferred = self.party.link.bytes();
        statistics.ram.dirty_pages_rate = self.control.dirty_rate();
        statistics.ram.mbps = self.control.bandwidth().saturating_mul(8) / 1_000_000;
        statistics.ram.pages_per_second = self.control.bandwidth() / PAGE_SIZE as u64;
        statistics
    }

    /// Takes one frame from the destination.
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
            self.lost(now, AbortCode::Protocol, &error.to_string());
        }
        taken
    }

    /// The destination says that it lives, without a message: it is busy.
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
            Event::Cancel => {
                self.cancelling = true;
                self.give_up(now, AbortCode::Cancelled, "cancelled");
            }
            Event::Failed(reason) => self.give_up(now, AbortCode::Local, &reason),
            Event::LinkLost => self.lost(now, AbortCode::Timeout, "the link to the destination is lost"),
            Event::Reconnected(guard) => self.reconnected(now, guard),
            event => self.copy_event(now, event),
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        for call in self.party.due_calls(now) {
            self.actions.push_back(Action::Ledger(call));
        }
        if self.party.keep_alive(now) {
            self.lost(now, AbortCode::Timeout, "the destination is silent");
        }
        match &self.phase {
            Phase::Copying(_) | Phase::Stopping { .. } if self.time_is_up(now) => {
                self.give_up(now, AbortCode::Unconverged, "the time for the move is up");
            }
            Phase::Finishing(Finishing { deadline: Some(deadline), .. })
            | Phase::Staging(Departure { deadline: Some(deadline), .. })
                if *deadline <= now =>
            {
                self.give_up(now, AbortCode::Unconverged, "the pause became longer than max-downtime");
            }
            Phase::Transferring(Transferring { look_again, .. })
            | Phase::Serving(Serving { look_again, .. })
            | Phase::Paused(Serving { look_again, .. })
                if *look_again <= now =>
            {
                self.look_again(now);
            }
            Phase::Committed { until } if *until <= now => self.end(now, Outcome::Moved { confirmed: false }),
            _ => self.want_pages(now),
        }
    }

    /// When to call [`Source::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Time> {
        let own = match &self.phase {
            Phase::Ended(_) => return None,
            Phase::Copying(_) | Phase::Stopping { .. } => self.time_limit(),
            Phase::Finishing(Finishing { deadline, .. }) | Phase::Staging(Departure { deadline, .. }) => *deadline,
            Phase::Transferring(Transferring { look_again, .. })
            | Phase::Serving(Serving { look_again, .. })
            | Phase::Paused(Serving { look_again, .. }) => Some(*look_again),
            Phase::Committed { until } => Some(*until),
            _ => None,
        };
        // Without room, it is the next `poll_transmit` that asks for the batch.
        let batch = (self.wanted.is_some() && self.has_room()).then_some(self.not_before);
        own.into_iter().chain(batch).chain(self.party.timeout()).min()
    }

    /// The next frame for the destination.
    pub fn poll_transmit(&mut self, now: Time) -> Option<Vec<u8>> {
        let frame = self.party.link.poll();
        self.want_pages(now);
        frame
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn message(&mut self, now: Time, message: Message) -> Result<(), ProtocolError> {
        let name = message.name();
        match (&mut self.phase, message) {
            (_, Message::Ping(_) | Message::Pong(_)) => {}
            (_, Message::Abort(Abort { code, text })) => self.peer_gave_up(now, code, text.as_str()),
            // What arrives late says nothing new.
            (Phase::Ended(_), _) => {}
            (Phase::Greeting, Message::Welcome(welcome)) => self.welcomed(now, welcome)?,
            (Phase::Offering, Message::Accept(module_wanted)) => self.accepted(now, module_wanted),
            (Phase::Greeting | Phase::Offering | Phase::Preparing, Message::Refuse(reasons)) => {
                self.refused(now, reasons)
            }
            (Phase::Preparing, Message::VolumeHeld(held)) => self.volume_held(held)?,
            (Phase::Preparing, Message::Prepared(_)) => self.prepared(now),
            (Phase::Copying(copying), Message::RoundAck(round)) if copying.step == Step::Acking => {
                let expected = Round { round: self.round, pages: copying.pages };
                if round != expected {
                    return Err(ProtocolError::Unacceptable { message: name, why: "it acknowledges another round" });
                }
                self.round_acknowledged(now);
            }
            (Phase::Staging(departure), Message::Staged(staged)) => {
                let departure = *departure;
                self.staged(now, departure, staged)?;
            }
            // The destination may have read the ledger before our receipt came.
            (Phase::Transferring(transferring), Message::Activated(restore)) => {
                transferring.activated = Some(restore);
                self.look_again(now);
            }
            (Phase::Transferring(transferring), Message::PageRequest(request)) => {
                if transferring.early.len() < MAX_EARLY {
                    transferring.early.push(request);
                }
            }
            (Phase::Committed { .. }, Message::Activated(restore)) => self.activated(now, restore),
            (Phase::Serving(serving), Message::Activated(restore)) if !serving.activated => {
                self.activated(now, restore);
            }
            (Phase::Serving(_), Message::PageRequest(request)) => self.page_requested(request),
            (Phase::Serving(_), Message::Placed(pages)) => self.placed(now, pages)?,
            (Phase::Serving(_), Message::Complete(complete)) => {
                self.statistics.ram.postcopy_blocktime = Duration::from_micros(complete.blocktime);
                self.actions.push_back(Action::Release);
                self.end(now, Outcome::Moved { confirmed: true });
            }
            (Phase::Paused(_), Message::Reattach(reattach)) => self.reattaching(now, &reattach)?,
            (phase, _) => return Err(ProtocolError::Unexpected { phase: phase.name(), message: name }),
        }
        Ok(())
    }

    /// The program runs at the destination: memory that stayed behind may follow.
    fn activated(&mut self, now: Time, restore: u64) {
        self.statistics.downtime.activate = Some(now.since(self.mark));
        self.statistics.downtime.restore = Some(Duration::from_micros(restore));
        if let Phase::Serving(serving) = &mut self.phase {
            serving.activated = true;
            self.wanted = Some(self.round);
            self.not_before = now;
            self.want_pages(now);
        } else {
            self.actions.push_back(Action::Release);
            self.end(now, Outcome::Moved { confirmed: true });
        }
    }

    /// But for [`AbortCode::Protocol`], a destination that has staged the state forgets it at this word: it is only given
    /// when no transfer was signed, or the ledger has excluded it.
    fn send_abort(&mut self, now: Time, code: AbortCode, text: &str) {
        self.party.send(now, &Message::Abort(Abort { code, text: Text::new(text) }));
    }

    fn end(&mut self, now: Time, outcome: Outcome) {
        self.statistics.status = match &outcome {
            Outcome::Moved { .. } | Outcome::DryRun { .. } => Status::Completed,
            Outcome::Stayed { cancelled: true, .. } => Status::Cancelled,
            Outcome::Stayed { .. } | Outcome::Returned { .. } | Outcome::Superseded => Status::Failed,
        };
        if let Outcome::Stayed { reason, .. } = &outcome {
            self.statistics.error_desc = Some(reason.clone());
        }
        self.wanted = None;
        self.party.forget_calls();
        self.ended = Some(now);
        self.phase = Phase::Ended(outcome);
    }
}
