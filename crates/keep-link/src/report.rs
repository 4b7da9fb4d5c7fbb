//! What a keep tells its node.

use core::time::Duration;

use dunlin_base::Digest;
use dunlin_handover::codec::{DecodeError, Reader, Wire, Writer};
use dunlin_handover::message::Blocked;
use dunlin_handover::statistics::Statistics;
use dunlin_handover::{Key, LedgerCall, MigrationId, wire_struct, wire_tags};

use crate::order::{BrokerCall, Call};
use crate::packet::messages;
use crate::spec::{ConnectionId, OrderId, WishId, put_text};

/// Longest public key in bytes.
const MAX_KEY: usize = 4 * 1024;
/// Longest short text (a name, a destination) in bytes.
const MAX_NAME: usize = 256;
/// Longest text for people in bytes.
const MAX_TEXT: usize = 4 * 1024;
/// Longest backtrace in bytes.
const MAX_BACKTRACE: usize = 32 * 1024;
/// Longest evidence, and longest endorsements, in bytes.
const MAX_EVIDENCE: usize = 64 * 1024;
/// Longest binding, in bytes.
const MAX_BINDING: usize = 8 * 1024;
/// Most connections that move with a service.
const MAX_CONNECTIONS: usize = 4096;

messages! {
    /// A message of a keep to its node.
    Report, "report" {
        /// The first: a keep that waits.
        Ready(Ready) = 1,
        /// The order was carried out.
        Done(Call) = 2,
        /// It was not.
        Failed(Failed) = 3,
        /// The service runs.
        Running(Running) = 16,
        /// The program is over, and with it the keep.
        Ended(Ended) = 17,
        /// The state is on stable storage and in the ledger.
        Checkpointed(Checkpointed) = 18,
        /// What runs here.
        Attested(Attested) = 19,
        /// How a migration stands.
        Progress(Progress) = 32,
        /// A migration has come to another phase.
        Phase(Phase) = 33,
        /// A migration is over for the source.
        Left(Left) = 34,
        /// A migration is over for the destination, or the service runs there and memory still comes.
        Arrived(Arrived) = 35,
        /// A question to the ledger, to be carried and answered.
        Ledger(LedgerCall) = 48,
        /// The program wishes to move.
        Wish(Wish) = 49,
        /// A connection is there; its descriptors come with this.
        Connected(Connected) = 50,
        /// The program has closed a connection: let it end.
        Closed(Closed) = 51,
        /// The keep needs a stream to the broker; answered by the order of the same name.
        Broker(BrokerCall) = 52,
        /// The keep needs evidence of the machine's platform; answered by the order of the same name.
        Proof(ProofCall) = 53,
        /// How things stand.
        Status(StatusReport) = 64,
        /// Something worth logging.
        Note(Note) = 65,
    }
}

impl Report {
    /// How many descriptors go with it.
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Connected(connected) => 1 + usize::from(connected.carried),
            _ => 0,
        }
    }
}

/// Writes texts with their limits. Every field must be listed.
macro_rules! with_texts {
    ($ty:ident, $what:literal, { $($field:ident $(: $limit:ident)?),* $(,)? }) => {
        impl Wire for $ty {
            const WHAT: &'static str = $what;

            fn write(&self, out: &mut Writer) {
                let Self { $($field),* } = self;
                $(with_texts!(@write out, $field $(, $limit)?);)*
            }

            fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self { $($field: with_texts!(@read input, $what $(, $limit)?)),* })
            }
        }
    };
    (@write $out:ident, $field:ident) => { $out.put($field) };
    (@write $out:ident, $field:ident, $limit:ident) => { put_text($out, $field, $limit) };
    (@read $input:ident, $what:literal) => { $input.take()? };
    (@read $input:ident, $what:literal, $limit:ident) => { $input.text($what, $limit)? };
}

/// A keep's call for evidence of the machine's platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofCall {
    /// The keep's number of it.
    pub call: u64,
    /// What the evidence is to be bound to, at most 8 KiB: the keep's own key among it.
    pub binding: Vec<u8>,
}

impl Wire for ProofCall {
    const WHAT: &'static str = "call for a proof";

    fn write(&self, out: &mut Writer) {
        let Self { call, binding } = self;
        out.put(call);
        out.blob(binding);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { call: input.take()?, binding: input.blob("binding", MAX_BINDING)? })
    }
}

/// A keep that waits for its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The oldest protocol version that it speaks. This report is in the newest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
    /// What it is, with its version.
    pub product: String,
    /// Thumbprint of its instance key, which was drawn at its start and never leaves it.
    pub holder: Key,
    /// The public half of that key (SubjectPublicKeyInfo), for a certificate.
    pub public_key: Vec<u8>,
}

impl Wire for Ready {
    const WHAT: &'static str = "ready";

    fn write(&self, out: &mut Writer) {
        let Self { oldest, newest, product, holder, public_key } = self;
        out.put(oldest);
        out.put(newest);
        put_text(out, product, MAX_NAME);
        out.put(holder);
        out.blob(public_key);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            oldest: input.take()?,
            newest: input.take()?,
            product: input.text("product", MAX_NAME)?,
            holder: input.take()?,
            public_key: input.blob("public key", MAX_KEY)?,
        })
    }
}

/// An order was not carried out. Unless the code says otherwise, everything is as it was before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The order.
    pub order: OrderId,
    /// The kind of reason, for programs.
    pub code: FailCode,
    /// What, why, and what to do, for people.
    pub text: String,
}

with_texts!(Failed, "failure", { order, code, text: MAX_TEXT });

/// Why an order was not carried out. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FailCode {
    /// The order does not fit what the keep does just now.
    State,
    /// The order contradicts itself or the keep.
    Invalid,
    /// The module is another one than announced, cannot be compiled, or needs what is not there.
    Module,
    /// The program cannot be stopped and captured; it can run.
    NotMovable,
    /// Something open cannot be carried at this moment.
    Busy,
    /// The ledger says that the service is not to run here.
    NotHolder,
    /// The committed state is not among the stored ones.
    StateMissing,
    /// The ledger cannot be reached.
    Ledger,
    /// The system lets the keep not do what it must: files, memory, descriptors.
    System,
    /// The program ended meanwhile.
    Over,
    /// The other keep did not prove what it is, or the policy does not permit it.
    Untrusted,
    /// The broker cannot be reached, or gives no keys.
    Keys,
}

wire_tags!(FailCode, "failure code", {
    State = 1, Invalid = 2, Module = 3, NotMovable = 4, Busy = 5, NotHolder = 6, StateMissing = 7, Ledger = 8,
    System = 9, Over = 10, Untrusted = 11, Keys = 12,
});

/// Evidence for a client's nonce, in the containers of the crate `attest`. The node carries it, and cannot make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// The order.
    pub order: OrderId,
    /// The evidence, at most 64 KiB.
    pub evidence: Vec<u8>,
    /// What belongs to it, at most 64 KiB.
    pub endorsements: Vec<u8>,
    /// What it is bound to, at most 8 KiB.
    pub binding: Vec<u8>,
}

impl Wire for Attested {
    const WHAT: &'static str = "attested";

    fn write(&self, out: &mut Writer) {
        let Self { order, evidence, endorsements, binding } = self;
        out.put(order);
        out.blob(evidence);
        out.blob(endorsements);
        out.blob(binding);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            order: input.take()?,
            evidence: input.blob("evidence", MAX_EVIDENCE)?,
            endorsements: input.blob("endorsements", MAX_EVIDENCE)?,
            binding: input.blob("binding", MAX_BINDING)?,
        })
    }
}

/// The service runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The order.
    pub order: OrderId,
    /// In this epoch.
    pub epoch: u64,
    /// From this version.
    pub version: u64,
    /// Why the program cannot move; `None` if it can.
    pub pinned: Option<String>,
    /// From the order until here.
    pub took: Duration,
}

impl Wire for Running {
    const WHAT: &'static str = "running";

    fn write(&self, out: &mut Writer) {
        let Self { order, epoch, version, pinned, took } = self;
        out.put(order);
        out.put(epoch);
        out.put(version);
        out.put(&pinned.is_some());
        if let Some(text) = pinned {
            put_text(out, text, MAX_TEXT);
        }
        out.put(took);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (order, epoch, version) = (input.take()?, input.take()?, input.take()?);
        let pinned = if input.take()? { Some(input.text(Self::WHAT, MAX_TEXT)?) } else { None };
        Ok(Self { order, epoch, version, pinned, took: input.take()? })
    }
}

/// The program is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The order that ended it, if one did.
    pub order: Option<OrderId>,
    /// How.
    pub how: EndedHow,
}

wire_struct!(Ended, "end", { order, how });

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndedHow {
    /// By itself, with this code.
    Exited(u32),
    /// By a trap.
    Trapped {
        /// What happened.
        message: String,
        /// Where, a line for each frame.
        backtrace: String,
    },
    /// Suspended: it goes on from this version when it starts again.
    Suspended {
        /// The version.
        version: u64,
    },
    /// Killed by an order.
    Killed,
    /// The keep could not go on with it.
    Broken(String),
}

impl Wire for EndedHow {
    const WHAT: &'static str = "way to end";

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Exited(code) => {
                out.put(&1u8);
                out.put(code);
            }
            Self::Trapped { message, backtrace } => {
                out.put(&2u8);
                put_text(out, message, MAX_TEXT);
                put_text(out, backtrace, MAX_BACKTRACE);
            }
            Self::Suspended { version } => {
                out.put(&3u8);
                out.put(version);
            }
            Self::Killed => out.put(&4u8),
            Self::Broken(text) => {
                out.put(&5u8);
                put_text(out, text, MAX_TEXT);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.take::<u8>()? {
            1 => Self::Exited(input.take()?),
            2 => Self::Trapped {
                message: input.text("trap", MAX_TEXT)?,
                backtrace: input.text("backtrace", MAX_BACKTRACE)?,
            },
            3 => Self::Suspended { version: input.take()? },
            4 => Self::Killed,
            5 => Self::Broken(input.text("what broke", MAX_TEXT)?),
            value => return Err(DecodeError::Unknown { what: Self::WHAT, value: value.into() }),
        })
    }
}

/// A checkpoint was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpointed {
    /// The order.
    pub order: OrderId,
    /// The version that the ledger acknowledged.
    pub version: u64,
    /// Digest of the state.
    pub state_hash: Digest,
    /// Size on storage.
    pub bytes: u64,
    /// How long the program stood still.
    pub pause: Duration,
    /// From the order until the ledger's acknowledgement.
    pub took: Duration,
}

wire_struct!(Checkpointed, "checkpoint", { order, version, state_hash, bytes, pause, took });

/// How a migration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The migration.
    pub migration: MigrationId,
    /// What was measured.
    pub statistics: Statistics,
}

wire_struct!(Progress, "progress", { migration, statistics });

/// A migration has come to another phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phase {
    /// The migration.
    pub migration: MigrationId,
    /// The phase's name, at the source or destination, as in the diagrams of the hand-over.
    pub name: String,
}

with_texts!(Phase, "phase", { migration, name: MAX_NAME });

/// A migration is over for the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The order.
    pub order: OrderId,
    /// The migration.
    pub migration: MigrationId,
    /// How it ended.
    pub how: LeftHow,
    /// The connections that moved with the service and are to be relayed from here on.
    pub connections: Vec<ConnectionState>,
    /// What was measured.
    pub statistics: Statistics,
}

impl Wire for Left {
    const WHAT: &'static str = "departure";

    fn write(&self, out: &mut Writer) {
        let Self { order, migration, how, connections, statistics } = self;
        out.put(order);
        out.put(migration);
        out.put(how);
        out.list(connections);
        out.put(statistics);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            order: input.take()?,
            migration: input.take()?,
            how: input.take()?,
            connections: input.list("connections", MAX_CONNECTIONS)?,
            statistics: input.take()?,
        })
    }
}

/// How a migration ended for the source. Mirrors the hand-over's outcomes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeftHow {
    /// The ledger gave the service away. A second `Left` comes with `confirmed`, when the program runs there and all
    /// memory is there.
    Moved {
        /// Whether the destination has said that it has everything and runs.
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
    /// Nothing was to be moved; empty if the destination would have taken it.
    DryRun(Vec<Blocked>),
    /// The destination gave the service back, and it runs here.
    Returned {
        /// In this epoch.
        epoch: u64,
    },
    /// Somebody else is the holder: the owner recovered or retired the service. Nothing runs here.
    Superseded,
}

impl Wire for LeftHow {
    const WHAT: &'static str = "outcome of a departure";

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Moved { confirmed } => {
                out.put(&1u8);
                out.put(confirmed);
            }
            Self::Stayed { epoch, cancelled, reason } => {
                out.put(&2u8);
                out.put(epoch);
                out.put(cancelled);
                put_text(out, reason, MAX_TEXT);
            }
            Self::DryRun(blocked) => {
                out.put(&3u8);
                out.put(blocked);
            }
            Self::Returned { epoch } => {
                out.put(&4u8);
                out.put(epoch);
            }
            Self::Superseded => out.put(&5u8),
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.take::<u8>()? {
            1 => Self::Moved { confirmed: input.take()? },
            2 => {
                Self::Stayed { epoch: input.take()?, cancelled: input.take()?, reason: input.text("reason", MAX_TEXT)? }
            }
            3 => Self::DryRun(input.take()?),
            4 => Self::Returned { epoch: input.take()? },
            5 => Self::Superseded,
            value => return Err(DecodeError::Unknown { what: Self::WHAT, value: value.into() }),
        })
    }
}

/// A connection that moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionState {
    /// Which.
    pub id: ConnectionId,
    /// The client had ended its direction, and the keep has seen that: nothing more is to be read here.
    pub ended: bool,
    /// The program had ended its direction: nothing more comes from it.
    pub shut: bool,
}

wire_struct!(ConnectionState, "connection", { id, ended, shut });

/// A migration at its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// The order.
    pub order: OrderId,
    /// The migration.
    pub migration: MigrationId,
    /// How it ended.
    pub how: ArrivedHow,
}

wire_struct!(Arrived, "arrival", { order, migration, how });

/// How a migration stands or ended at its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArrivedHow {
    /// The service runs here.
    Live {
        /// In this epoch.
        epoch: u64,
        /// At this version.
        version: u64,
        /// Whether all memory is here. After post-copy, a second report says so.
        complete: bool,
    },
    /// It would have been taken. The keep waits for orders again.
    DryRun,
    /// It was not taken. The keep waits for orders again.
    Refused(Vec<Blocked>),
    /// It did not come; nothing of it is kept. The keep ends.
    Failed(String),
    /// It is staged here and nobody says whether it is to run. The keep ends; start the service again on this node
    /// from what it stored, as after a crash, and keep trying until the ledger decides.
    Parked,
    /// It ran here, the link was lost for too long, and it was given back. The keep ends.
    GaveBack,
}

impl Wire for ArrivedHow {
    const WHAT: &'static str = "outcome of an arrival";

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Live { epoch, version, complete } => {
                out.put(&1u8);
                out.put(epoch);
                out.put(version);
                out.put(complete);
            }
            Self::DryRun => out.put(&2u8),
            Self::Refused(blocked) => {
                out.put(&3u8);
                out.put(blocked);
            }
            Self::Failed(text) => {
                out.put(&4u8);
                put_text(out, text, MAX_TEXT);
            }
            Self::Parked => out.put(&5u8),
            Self::GaveBack => out.put(&6u8),
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.take::<u8>()? {
            1 => Self::Live { epoch: input.take()?, version: input.take()?, complete: input.take()? },
            2 => Self::DryRun,
            3 => Self::Refused(input.take()?),
            4 => Self::Failed(input.text("failure", MAX_TEXT)?),
            5 => Self::Parked,
            6 => Self::GaveBack,
            value => return Err(DecodeError::Unknown { what: Self::WHAT, value: value.into() }),
        })
    }
}

/// The program wishes to move. Answered by the order `MigrateOut` with this wish, or by `WishRefused`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Its number.
    pub wish: WishId,
    /// Where to, in the program's words: the name of a node, or whatever the node understands.
    pub destination: String,
}

with_texts!(Wish, "wish to move", { wish, destination: MAX_NAME });

/// A connection that the program has.
///
/// With one that the keep accepted comes a duplicate of its socket. With one that moved here (`carried`) come two
/// descriptors: the node's end of a fresh stream pair, to which the node relays the client's bytes, and a duplicate of
/// the keep's end. The duplicate is left alone while the service is here. Once a `Left` lists the connection, the node reads
/// and writes the duplicate as the program did, and relays it to where the service went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Connected {
    /// Its name.
    pub id: ConnectionId,
    /// The listener that it came to, counted from 0.
    pub listener: u32,
    /// Whether it moved here with the service.
    pub carried: bool,
}

wire_struct!(Connected, "connected", { id, listener, carried });

/// The program has closed a connection. Everything that it wrote is in the socket, followed by the end; the
/// node closes its duplicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Closed {
    /// Which.
    pub id: ConnectionId,
}

wire_struct!(Closed, "closed", { id });

/// How things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusReport {
    /// The order.
    pub order: OrderId,
    /// What the keep does: `waiting`, `starting`, `running`, `stopping`, `arriving`, `leaving` or `left`.
    pub doing: String,
    /// The epoch in which it holds the service, if it does.
    pub epoch: Option<u64>,
    /// The last version that the ledger acknowledged.
    pub version: u64,
    /// Bytes of all memories of the program.
    pub memory_bytes: u64,
    /// Connections that are open.
    pub connections: u32,
    /// Processor time of the whole keep.
    pub cpu: Duration,
    /// Since the program runs here.
    pub uptime: Duration,
}

with_texts!(StatusReport, "status", {
    order, doing: MAX_NAME, epoch, version, memory_bytes, connections, cpu, uptime,
});

/// Something worth logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// For people.
    pub text: String,
}

with_texts!(Note, "note", { text: MAX_TEXT });
