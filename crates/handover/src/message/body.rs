//! The messages and their bodies.

use core::fmt;

use dunlin_base::Digest;

use super::pages::{LeftBehind, Pages};
use super::volume::{VolumeChunks, VolumeHeld};
use crate::codec::{DecodeError, Reader, Wire, Writer, wire_struct, wire_tags};
use crate::converge::Mode;
use crate::ids::{Key, MigrationId, Nonce, PlatformId, ServiceId};
use crate::ledger::{Reading, Receipt, Staged};

/// Longest evidence in bytes.
const MAX_EVIDENCE: usize = 64 * 1024;
/// Most memories of a module.
pub(crate) const MAX_MEMORIES: usize = 64;
/// Most requirements in an offer and reasons in a refusal.
const MAX_TEXTS: usize = 64;
/// Longest text in bytes.
const MAX_TEXT: usize = 256;
/// Most bytes of a module or of the state besides memory in one message.
const MAX_CHUNK: usize = 512 * 1024;

macro_rules! messages {
    ($($(#[$doc:meta])* $tag:literal $name:ident $(($body:ty))?,)*) => {
        /// A message, by its kind number on the wire. This list is complete for this version of the protocol.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum Message {
            $($(#[$doc])* $name $(($body))?,)*
        }

        impl Message {
            /// The kind number on the wire.
            pub const fn kind(&self) -> u8 {
                match self { $(messages!(@pattern $name $(($body))?) => $tag,)* }
            }

            /// The name, for logs and errors.
            pub const fn name(&self) -> &'static str {
                match self { $(messages!(@pattern $name $(($body))?) => stringify!($name),)* }
            }

            /// The version of the protocol that has it first.
            pub const fn since(&self) -> u16 {
                match self {
                    Self::VolumeHeld(_) | Self::VolumeChunks(_) => 2,
                    Self::Placed(_) => 3,
                    _ => 1,
                }
            }

            pub(super) fn write_body(&self, out: &mut Writer) {
                match self { $(messages!(@bind $name body $(($body))?) => { messages!(@write out body $(($body))?); })* }
            }

            pub(super) fn read_body(kind: u8, input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                match kind {
                    $($tag => Ok(messages!(@read $name input $(($body))?)),)*
                    value => Err(DecodeError::Unknown { what: "message kind", value: value.into() }),
                }
            }
        }
    };
    (@pattern $name:ident) => { Self::$name };
    (@pattern $name:ident ($body:ty)) => { Self::$name(_) };
    (@bind $name:ident $body:ident) => { Self::$name };
    (@bind $name:ident $bound:ident ($body:ty)) => { Self::$name($bound) };
    (@write $out:ident $bound:ident) => {};
    (@write $out:ident $bound:ident ($body:ty)) => { $out.put($bound) };
    (@read $name:ident $input:ident) => { Self::$name };
    (@read $name:ident $input:ident ($body:ty)) => { Self::$name($input.take::<$body>()?) };
}

messages! {
    /// Source: who I am, what I want to move, what I speak.
    0x01 Hello(Hello),
    /// Destination: what we speak, who I am.
    0x02 Welcome(Welcome),
    /// Source: the service, with the ledger's fresh word that it is mine.
    0x03 Offer(Offer),
    /// Destination: yes. Says whether the module must be sent.
    0x04 Accept(bool),
    /// Destination: no, with every reason.
    0x05 Refuse(Vec<Blocked>),
    /// Source: a piece of the module.
    0x06 Module(Chunk),
    /// Destination: compiled, instantiated, waiting for pages. Says how long that took in microseconds.
    0x07 Prepared(u64),
    /// Destination: these chunks of the service's volume need not be sent. Since version 2.
    0x08 VolumeHeld(VolumeHeld),
    /// Source: pages, in every phase.
    0x10 Pages(Pages),
    /// Source: the round is over, with the number of pages that it had.
    0x11 RoundEnd(Round),
    /// Destination: the round has arrived.
    0x12 RoundAck(Round),
    /// Source: a piece of the state besides memory: frames, globals, tables, the world around the program.
    0x13 State(Chunk),
    /// Source: the program is stopped, this was all, and this is its digest.
    0x14 Final(Final),
    /// Source: these pages stay behind for post-copy; what the destination has of them is old.
    0x15 LeftBehind(LeftBehind),
    /// Source: chunks of the service's volume, ahead of the state that names them. Since version 2.
    0x16 VolumeChunks(VolumeChunks),
    /// Destination: it is on stable storage here.
    0x20 Staged(Staged),
    /// Source: the ledger's receipt for the transfer.
    0x21 Committed(Receipt),
    /// Destination: the program runs here. Says how long restoring took in microseconds.
    0x22 Activated(u64),
    /// Destination: the program waits for these pages.
    0x30 PageRequest(PageRequest),
    /// Source: every page was sent, with their number.
    0x31 PushEnd(u64),
    /// Destination: I have all of it on stable storage; forget your copy.
    0x32 Complete(Complete),
    /// Destination, first on a new link: I lost you, let us go on.
    0x33 Reattach(Reattach),
    /// Source: the ledger says that you hold the service; everything that stayed behind comes again. Carries a
    /// statement about what is kept that is good for the destination's present epoch.
    0x34 Reattached(Staged),
    /// Destination: so many of the pages that came over this link after the switch are in place. Since version 3.
    0x35 Placed(u64),
    /// Either: are you there?
    0x40 Ping(u64),
    /// Either: yes.
    0x41 Pong(u64),
    /// Either: I give up.
    0x42 Abort(Abort),
}

/// The first message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hello {
    /// Oldest protocol version that the source speaks.
    pub oldest: u16,
    /// Newest protocol version that the source speaks.
    pub newest: u16,
    /// This attempt.
    pub migration: MigrationId,
    /// What moves.
    pub service: ServiceId,
    /// The source's instance key.
    pub holder: Key,
    /// The source's challenge.
    pub nonce: Nonce,
}

wire_struct!(Hello, "hello", { oldest, newest, migration, service, holder, nonce });

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Welcome {
    /// The version from here on.
    pub version: u16,
    /// The destination's fresh instance key.
    pub holder: Key,
    /// Its machine.
    pub platform: PlatformId,
    /// The destination's challenge; the source's reading of the ledger must carry it.
    pub nonce: Nonce,
    /// What it can do.
    pub features: Features,
    /// Evidence about it, for whoever appraises.
    pub evidence: Evidence,
}

wire_struct!(Welcome, "welcome", { version, holder, platform, nonce, features, evidence });

/// What a destination can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Features {
    /// Run while memory is still coming.
    pub postcopy: bool,
    /// Unpack pages compressed with Zstandard.
    pub zstd: bool,
}

wire_struct!(Features, "features", { postcopy, zstd });

/// Opaque evidence of at most 64 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Evidence(pub Vec<u8>);

impl Wire for Evidence {
    const WHAT: &'static str = "evidence";

    fn write(&self, out: &mut Writer) {
        out.blob(&self.0);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.blob(Self::WHAT, MAX_EVIDENCE).map(Self)
    }
}

/// What is to move.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Offer {
    /// The ledger's word, made for the destination's nonce: the source holds the service.
    pub reading: Reading,
    /// Identity of the module.
    pub module: Digest,
    /// Version of the snapshot format in which the state travels.
    pub snapshot_version: u16,
    /// Its memories now.
    pub memories: Vec<MemoryShape>,
    /// What it needs of a host, by name.
    pub needs: Vec<Text>,
    /// How the state travels.
    pub mode: Mode,
    /// Whether this only asks if a move would work.
    pub dry_run: bool,
    /// Evidence about the source.
    pub evidence: Evidence,
}

impl Wire for Offer {
    const WHAT: &'static str = "offer";

    fn write(&self, out: &mut Writer) {
        let Self { reading, module, snapshot_version, memories, needs, mode, dry_run, evidence } = self;
        out.put(reading);
        out.put(module);
        out.put(snapshot_version);
        out.list(memories);
        out.list(needs);
        out.put(mode);
        out.put(dry_run);
        out.put(evidence);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            reading: input.take()?,
            module: input.take()?,
            snapshot_version: input.take()?,
            memories: input.list("memories", MAX_MEMORIES)?,
            needs: input.list("needs", MAX_TEXTS)?,
            mode: input.take()?,
            dry_run: input.take()?,
            evidence: input.take()?,
        })
    }
}

/// The size of a memory in pages of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemoryShape {
    /// Now.
    pub pages: u64,
    /// What it can grow to while it moves. Pages past this are refused.
    pub maximum: u64,
}

impl Wire for MemoryShape {
    const WHAT: &'static str = "memory shape";

    fn write(&self, out: &mut Writer) {
        out.put(&self.pages);
        out.put(&self.maximum);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let shape = Self { pages: input.take()?, maximum: input.take()? };
        if shape.pages > shape.maximum || shape.maximum > 1 << 52 {
            return Err(DecodeError::Invalid { what: Self::WHAT, why: "pages <= maximum <= 2^52" });
        }
        Ok(shape)
    }
}

/// A text of at most 256 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Text(String);

impl Text {
    /// Cuts `text` to the limit.
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(text[..end].to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Wire for Text {
    const WHAT: &'static str = "text";

    fn write(&self, out: &mut Writer) {
        out.blob(self.0.as_bytes());
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.text(Self::WHAT, MAX_TEXT).map(Self)
    }
}

/// Why a destination says no.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Blocked {
    /// The kind of reason, for programs.
    pub code: BlockedCode,
    /// What exactly, for people.
    pub text: Text,
}

wire_struct!(Blocked, "blocked reason", { code, text });

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.text)
    }
}

impl Wire for Vec<Blocked> {
    const WHAT: &'static str = "blocked reasons";

    fn write(&self, out: &mut Writer) {
        out.list(self);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.list(Self::WHAT, MAX_TEXTS)
    }
}

/// Kinds of reasons. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum BlockedCode {
    /// No common protocol version.
    Version,
    /// The ledger does not say, freshly, that the source holds the service.
    NotHolder,
    /// A policy does not permit it.
    Policy,
    /// The snapshot format is unknown.
    SnapshotVersion,
    /// The host lacks something that the service needs.
    Needs,
    /// Not enough memory, disk or slots.
    Resources,
    /// The module is another one than announced, or cannot be compiled.
    Module,
    /// The mode is not supported.
    Mode,
    /// The destination is busy with this service already.
    Busy,
}

wire_tags!(BlockedCode, "blocked code", {
    Version = 1, NotHolder = 2, Policy = 3, SnapshotVersion = 4, Needs = 5, Resources = 6, Module = 7, Mode = 8, Busy = 9,
});

impl fmt::Display for BlockedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "protocol-version",
            Self::NotHolder => "not-holder",
            Self::Policy => "policy",
            Self::SnapshotVersion => "snapshot-version",
            Self::Needs => "host-lacks",
            Self::Resources => "resources",
            Self::Module => "module",
            Self::Mode => "mode",
            Self::Busy => "busy",
        })
    }
}

/// A piece of something larger.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Chunk {
    /// Where it belongs. Pieces come in order.
    pub offset: u64,
    /// Size of the whole.
    pub total: u64,
    /// The bytes, at most 512 KiB and at least one.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Chunk {
    /// Sizes only: a log must not hold a program's state.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({}+{} of {})", self.offset, self.bytes.len(), self.total)
    }
}

impl Chunk {
    /// Whether a decoder would take it.
    pub fn is_well_formed(&self) -> bool {
        let end = self.offset.checked_add(self.bytes.len() as u64);
        (1..=MAX_CHUNK).contains(&self.bytes.len()) && end.is_some_and(|end| end <= self.total)
    }
}

impl Wire for Chunk {
    const WHAT: &'static str = "chunk";

    fn write(&self, out: &mut Writer) {
        out.put(&self.offset);
        out.put(&self.total);
        out.blob(&self.bytes);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let chunk = Self { offset: input.take()?, total: input.take()?, bytes: input.blob(Self::WHAT, MAX_CHUNK)? };
        if !chunk.is_well_formed() {
            return Err(DecodeError::Invalid { what: Self::WHAT, why: "1 to 512 KiB that lie within the total" });
        }
        Ok(chunk)
    }
}

/// A round of pre-copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Round {
    /// Its number, from 1.
    pub round: u32,
    /// Pages in it.
    pub pages: u64,
}

wire_struct!(Round, "round", { round, pages });

/// The end of what is copied before the switch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Final {
    /// The source's epoch.
    pub epoch: u64,
    /// The version that the transfer will create.
    pub version: u64,
    /// Digest of the whole state.
    pub state_hash: Digest,
    /// Pages sent since the last round.
    pub pages: u64,
    /// Pages that stay behind for post-copy; 0 in the other modes.
    pub lazy_pages: u64,
    /// In post-copy: the source's statement that it keeps the whole state, good for giving the service back.
    pub retained: Option<Staged>,
}

wire_struct!(Final, "final", { epoch, version, state_hash, pages, lazy_pages, retained });

/// Pages that a running program waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRequest {
    /// Index of the memory.
    pub memory: u32,
    /// First page.
    pub first: u64,
    /// How many, at most 256.
    pub count: u32,
}

impl Wire for PageRequest {
    const WHAT: &'static str = "page request";

    fn write(&self, out: &mut Writer) {
        out.put(&self.memory);
        out.put(&self.first);
        out.put(&self.count);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let request = Self { memory: input.take()?, first: input.take()?, count: input.take()? };
        if !(1..=super::MAX_PAGES).contains(&request.count) || request.first >= 1 << 52 {
            return Err(DecodeError::Invalid { what: Self::WHAT, why: "1 to 256 pages within a 64-bit memory" });
        }
        Ok(request)
    }
}

/// The end of post-copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Complete {
    /// Pages that came after the switch.
    pub pages: u64,
    /// Microseconds for which the program waited for some of them.
    pub blocktime: u64,
}

wire_struct!(Complete, "complete", { pages, blocktime });

/// Going on after the link was lost in the post-copy phase.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reattach {
    /// The migration.
    pub migration: MigrationId,
    /// The service.
    pub service: ServiceId,
    /// The destination's epoch.
    pub epoch: u64,
    /// Pages that it has.
    pub placed: u64,
}

wire_struct!(Reattach, "reattach", { migration, service, epoch, placed });

/// The end, with a reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Abort {
    /// The kind of reason, for programs.
    pub code: AbortCode,
    /// What exactly, for people.
    pub text: Text,
}

wire_struct!(Abort, "abort", { code, text });

/// Kinds of aborts. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AbortCode {
    /// An operator's wish.
    Cancelled,
    /// A dry run is over.
    DryRun,
    /// The other side broke the protocol.
    Protocol,
    /// Limits could not be kept.
    Unconverged,
    /// The digests of what was sent and what was received differ.
    Digest,
    /// Something local failed.
    Local,
    /// The other side was silent too long.
    Timeout,
    /// A policy does not permit it.
    Policy,
    /// The ledger refused.
    Ledger,
}

wire_tags!(AbortCode, "abort code", {
    Cancelled = 1, DryRun = 2, Protocol = 3, Unconverged = 4, Digest = 5, Local = 6, Timeout = 7, Policy = 8, Ledger = 9,
});
