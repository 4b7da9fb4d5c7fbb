//! What a destination asks of its driver and hears from it.

use core::time::Duration;

use dunlin_base::Digest;

use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::ledger::Record;
use crate::message::{
    Blocked, Chunk, Final, Guard, Hello, LeftBehind, MAX_MEMORIES, MemoryShape, Offer, PageRequest, Pages,
    VolumeChunks, VolumeHeld,
};
use crate::party::LedgerCall;

/// Something that the driver must do. Actions come in order and are done in order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Carry a question to the ledger; answer with `handle_ledger_reply`.
    Ledger(LedgerCall),
    /// Look at the offer and answer with [`Event::Judged`], listing everything that stands in the way.
    Judge(Box<Offer>),
    /// Take a piece of the module. After the last one its digest is checked by [`Action::Prepare`].
    StoreModule(Chunk),
    /// Compile, instantiate and pre-populate; say with [`Event::VolumeHeld`] which chunks of the service's volume are here
    /// already, and answer with [`Event::Prepared`].
    Prepare,
    /// Put chunks of the service's volume to the others. They are to be on stable storage when the state is staged.
    StoreVolume(VolumeChunks),
    /// Put pages into the prepared instance and into what will be staged. A later round replaces an earlier one.
    StorePages(Pages),
    /// Take a piece of the state besides memory.
    StoreState(Chunk),
    /// Compute the digest of the received state, seal it with this instance's keys to stable storage, and only then
    /// answer with [`Event::Staged`]. In post-copy, pages that did not come are left out, the announced digest
    /// (which covers them) is taken on trust, and the arrival is staged too, for
    /// [`Destination::restarted`](super::Destination::restarted).
    Stage(Box<Arrival>),
    /// This instance is the holder: run, with effects, in the record's epoch. Answer with [`Event::Activated`].
    Activate {
        /// The ledger's word.
        record: Box<Record>,
        /// Pages that are still to come; touching one is [`Event::Fault`].
        lazy_pages: u64,
    },
    /// These pages stay at the source for now. What came of them before is old and must not be used.
    MarkMissing(LeftBehind),
    /// Add pages that are still missing to what is staged and put them into the running instance, never one that is
    /// there already, wake who waits for them, and answer with [`Event::Placed`].
    PlacePages(Pages),
    /// Stop the running program where it is, with its effects: the link is lost.
    PauseGuest,
    /// Let it run on.
    UnpauseGuest,
    /// Everything is here: complete what is staged, on stable storage, and answer with [`Event::Sealed`]. Only after
    /// that may this instance commit a state of its own.
    Seal,
    /// Nothing of this migration will ever be needed: delete what was received and staged.
    Discard,
    /// The service was given back: this instance never runs again, wipe its keys.
    Fence,
}

/// What a destination knows about a service that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The source's greeting.
    pub hello: Hello,
    /// The record when the source offered the service.
    pub record: Record,
    /// Digest of the source's evidence.
    pub evidence: Digest,
    /// Its memories then, with how far they can grow.
    pub memories: Vec<MemoryShape>,
    /// The source's last word before the switch.
    pub last: Final,
}

impl Wire for Arrival {
    const WHAT: &'static str = "arrival";

    fn write(&self, out: &mut Writer) {
        let Self { hello, record, evidence, memories, last } = self;
        out.put(hello);
        out.put(record);
        out.put(evidence);
        out.list(memories);
        out.put(last);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            hello: input.take()?,
            record: input.take()?,
            evidence: input.take()?,
            memories: input.list("memories", MAX_MEMORIES)?,
            last: input.take()?,
        })
    }
}

/// Something that the driver reports.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The answer to an offer.
    Judged {
        /// Everything that stands in the way; empty for yes.
        reasons: Vec<Blocked>,
        /// Whether the module must be sent.
        module_wanted: bool,
    },
    /// These chunks of the service's volume need not be sent. Without effect if the source does not know of such.
    VolumeHeld(VolumeHeld),
    /// Ready for pages, after this time of work.
    Prepared {
        /// How long it took.
        took: Duration,
    },
    /// On stable storage.
    Staged {
        /// Digest of what was received, computed here (in post-copy: the announced one).
        state_hash: Digest,
    },
    /// The program runs.
    Activated {
        /// How long restoring took.
        restore: Duration,
    },
    /// The program waits for pages.
    Fault(PageRequest),
    /// Pages were put in place.
    Placed {
        /// How many are still missing.
        missing: u64,
    },
    /// The whole state, as it was at the switch, is on stable storage.
    Sealed {
        /// Its digest, computed here.
        state_hash: Digest,
    },
    /// Something local cannot be done; for people.
    Failed(String),
    /// The channel is gone.
    LinkLost,
    /// In the post-copy phase: a new channel to the source.
    Reconnected(Box<dyn Guard>),
    /// Stop the move. Without effect once the state is staged: then the ledger decides.
    Cancel,
}

/// How a migration ended for the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The service runs here.
    Live {
        /// In this epoch.
        epoch: u64,
    },
    /// It would have been taken.
    DryRun,
    /// It was not taken.
    Refused(Vec<Blocked>),
    /// It did not come; nothing of it is kept.
    Failed(String),
    /// It is staged here, and this instance cannot go on: nobody says whether it is to run, or something local failed
    /// after the switch. What was staged is kept; a new instance asks the ledger, as after a crash.
    Parked,
    /// It ran here, the link was lost for too long, and it was given back.
    GaveBack,
}
