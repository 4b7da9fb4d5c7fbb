//! What a source asks of its driver and hears from it.

use core::time::Duration;

use dunlin_base::Digest;

use crate::codec::wire_struct;
use crate::ids::{MigrationId, PlatformId};
use crate::message::{Blocked, Chunk, Guard, LeftBehind, PageRequest, Pages, VolumeChunks, VolumeHeld};
use crate::party::LedgerCall;

/// Something that the driver must do. Actions come in order and are done in order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Carry a question to the ledger; answer with `handle_ledger_reply`.
    Ledger(LedgerCall),
    /// Send the module as [`Event::Module`] chunks, in order.
    SendModule,
    /// Slow the program down by this many percent; 0 lets it run freely.
    Throttle(u8),
    /// Find and re-arm the pages dirtied since the last scan, add them to those still unsent, and answer with
    /// [`Event::Scanned`]. The first scan finds every page that the destination cannot derive from the module. Where
    /// [`Source::sends_volume`](super::Source::sends_volume) says so, find also the chunks that the service's volume
    /// needs and the destination does not have.
    Scan,
    /// The destination has these chunks of the service's volume.
    VolumeHeld(VolumeHeld),
    /// Give chunks of the volume as [`Event::VolumeChunks`], or up to `max` unsent pages as [`Event::Pages`], then answer
    /// with [`Event::BatchEnd`]. While the program runs in mode `postcopy`, chunks only.
    SendPages {
        /// The number to put into the pages.
        round: u32,
        /// Most pages.
        max: u32,
    },
    /// Stop the program at its next safepoint, stop its effects, and answer with [`Event::Stopped`].
    StopGuest,
    /// Give the state besides memory as [`Event::State`] chunks, and answer with [`Event::Captured`]. In post-copy
    /// (when something is to be retained), list every unsent page as [`Event::LeftBehind`] before that.
    Capture {
        /// First put the whole state, memory included, on stable storage together with this and the instance's keys,
        /// to be kept until [`Action::Release`]. After a crash, [`Source::restarted`](super::Source::restarted) goes
        /// on with it.
        retain: Option<Retained>,
    },
    /// Let the stopped (or stopping) program run on, in this epoch. Its memory is as it was at the stop.
    ResumeGuest {
        /// The epoch of the holder.
        epoch: u64,
    },
    /// This instance is not the holder any more: never run again, wipe its keys, answer clients with where it went.
    /// In post-copy, memory is kept until [`Action::Release`].
    Fence,
    /// Give these pages as [`Event::Pages`] now: the program waits for them.
    ServePages(PageRequest),
    /// Forget which pages were pushed: all that stayed behind are to be sent again.
    RestartPush,
    /// The destination has everything: delete what was kept.
    Release,
}

/// Something that the driver reports.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A piece of the module.
    Module(Chunk),
    /// A scan is done; so much is unsent.
    Scanned {
        /// Pages.
        pages: u64,
        /// Bytes of chunks of the volume.
        volume: u64,
    },
    /// Chunks of the volume.
    VolumeChunks(VolumeChunks),
    /// Pages for the destination.
    Pages(Pages),
    /// A batch is over; so much is unsent.
    BatchEnd {
        /// Pages; chunks of the volume count as the pages that they would fill.
        left: u64,
    },
    /// The program stands at a safepoint and has no effects any more.
    Stopped {
        /// The last version that the ledger acknowledged.
        version: u64,
        /// From the request to the safepoint.
        time_to_safepoint: Duration,
    },
    /// A piece of the state besides memory.
    State(Chunk),
    /// Pages that are unsent and stay behind for post-copy.
    LeftBehind(LeftBehind),
    /// The state was captured (and retained, if asked for).
    Captured {
        /// Digest of the whole state.
        state_hash: Digest,
    },
    /// Something local cannot be done; for people.
    Failed(String),
    /// The channel is gone.
    LinkLost,
    /// In the post-copy phase: a new channel to the destination.
    Reconnected(Box<dyn Guard>),
    /// Stop the move. Without effect after the commit.
    Cancel,
}

/// What a source must remember about a post-copy migration besides the state itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retained {
    /// The migration.
    pub migration: MigrationId,
    /// The last version that was acknowledged before the stop.
    pub version: u64,
    /// The machine that it goes to.
    pub platform: PlatformId,
}

wire_struct!(Retained, "retained departure", { migration, version, platform });

/// How a migration ended for the source.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The service runs at the destination.
    Moved {
        /// Whether the destination has said so. Without that, the sealed copy must be kept.
        confirmed: bool,
    },
    /// The service runs here.
    Stayed {
        /// In this epoch.
        epoch: u64,
        /// Whether somebody wished it so.
        cancelled: bool,
        /// Why, for people.
        reason: String,
    },
    /// Nothing was to be moved; the destination would have taken the service unless it said why not.
    DryRun {
        /// The destination's reasons.
        blocked: Vec<Blocked>,
    },
    /// The destination gave the service back after the switch, and it runs here.
    Returned {
        /// In this epoch.
        epoch: u64,
    },
    /// The ledger says that somebody else is the holder: an owner recovered or retired the service meanwhile.
    Superseded,
}
