//! Why bytes are not an acceptable snapshot.

use dunlin_base::{Digest, Value, ValueType};
use dunlin_wire::ReadProblem;

use crate::{ChunkProblem, FORMAT_VERSION, Features, HEADER_SIZE, SectionKind};

/// Why bytes are not an acceptable snapshot. The variants stand in the order in which things are checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes do not begin with the magic.
    #[error("not a Dunlin snapshot: the magic at byte 0 is missing; check that this is the right file")]
    Magic,
    /// The bytes end within the header.
    #[error("the snapshot ends at byte {length}, within its header of {HEADER_SIZE} bytes; copy it again")]
    Header {
        /// How many bytes there are.
        length: u64,
    },
    /// Another format version.
    #[error(
        "the snapshot has format version {version} (byte 8), this release reads version {FORMAT_VERSION}; \
         restore it with the release that wrote it, or a later one"
    )]
    Version {
        /// The version that stands in the header.
        version: u32,
    },
    /// The length in the header is not the number of bytes.
    #[error(
        "the header announces {announced} bytes (byte 16) and there are {length}; the copy is incomplete, copy it again"
    )]
    Length {
        /// The length in the header.
        announced: u64,
        /// How many bytes there are.
        length: u64,
    },
    /// The snapshot as a whole is above a limit.
    #[error(
        "the snapshot's {what} of {value} is above the limit of {limit}; raise the limit if the snapshot is trusted"
    )]
    Limit {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        value: u64,
        /// What is accepted.
        limit: u64,
    },
    /// The bytes are not those that were written.
    #[error(
        "the snapshot is damaged: its header names the digest {announced} (byte 24), its bytes have {computed}; copy it again"
    )]
    Digest {
        /// The digest in the header.
        announced: Digest,
        /// The digest of the bytes.
        computed: Digest,
    },
    /// Bits of the header that mean nothing in this format version.
    #[error(
        "the header's flags (byte 124) have the bits {bits:#x}, which format version {FORMAT_VERSION} does not define"
    )]
    Flags {
        /// The undefined bits.
        bits: u32,
    },
    /// The list of sections is malformed.
    #[error("the list of sections is malformed at byte {offset}; whatever wrote it does not write valid snapshots")]
    Sections {
        /// Offset in the file.
        offset: u64,
        /// What is wrong there.
        #[source]
        problem: Problem,
    },
    /// A section that must be understood is not.
    #[error(
        "the snapshot needs section kind {:#06x} version {version} (byte {offset}), which this release does not know; \
         restore it with a later release", kind.number()
    )]
    Mandatory {
        /// The kind.
        kind: SectionKind,
        /// The version of its encoding.
        version: u16,
        /// Offset of its body in the file.
        offset: u64,
    },
    /// A section is missing, or there although the header says that it is not.
    #[error("the snapshot has {} section '{kind}'; whatever wrote it does not write valid snapshots", if *.present { "an undeclared" } else { "no" })]
    Presence {
        /// The section.
        kind: SectionKind,
        /// Whether it is there.
        present: bool,
    },
    /// The snapshot belongs to another module.
    #[error(
        "the snapshot was taken from module {snapshot}, it is to be restored with {given}; use the module it was taken from"
    )]
    ForeignModule {
        /// The module in the header.
        snapshot: Digest,
        /// The module of the map.
        given: Digest,
    },
    /// The snapshot was captured with another map.
    #[error(
        "the snapshot's frames were captured with map {snapshot} of instrumentation version {snapshot_pass}, this release \
         instruments the module with map {given}, version {given_pass}; restore it with the release that took it"
    )]
    ForeignMap {
        /// The map in the header.
        snapshot: Digest,
        /// Version of the pass that made it.
        snapshot_pass: u32,
        /// The digest of the given map.
        given: Digest,
        /// Version of the pass of this release.
        given_pass: u32,
    },
    /// The module needs features that are not available.
    #[error(
        "the snapshot's module needs WebAssembly features that are not available here: {missing}; restore it on another engine"
    )]
    Features {
        /// The missing ones.
        missing: Features,
    },
    /// The contents of a section are not acceptable.
    #[error("the {kind} section is not acceptable at byte {offset}{}; the bytes are as they were written: take another snapshot", item.map(|item| format!(" (item {item})")).unwrap_or_default())]
    Section {
        /// The section.
        kind: SectionKind,
        /// Offset in the file.
        offset: u64,
        /// Which frame, table, memory or exception.
        item: Option<u32>,
        /// What is wrong there.
        #[source]
        problem: Problem,
    },
    /// State that did not come from bytes is not acceptable.
    #[error("the state's {kind} are not acceptable{}", item.map(|item| format!(" (item {item})")).unwrap_or_default())]
    State {
        /// The section it would stand in.
        kind: SectionKind,
        /// Which frame, table, memory or exception.
        item: Option<u32>,
        /// What is wrong there.
        #[source]
        problem: Problem,
    },
}

/// What is wrong with a piece of state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The bytes end too early or too late.
    #[error("{0}")]
    Bytes(ReadProblem),
    /// Something that is not written the one way in which it may be.
    #[error("not in canonical form: {0}")]
    NotCanonical(&'static str),
    /// A byte that stands for nothing.
    #[error("{byte:#04x} is no {what}")]
    Byte {
        /// What is expected there.
        what: &'static str,
        /// What is there.
        byte: u8,
    },
    /// More than is accepted.
    #[error("{what} of {value} above the limit of {limit}; raise the limit if the snapshot is trusted")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        value: u64,
        /// What is accepted.
        limit: u64,
    },
    /// A number of things that is not the module's.
    #[error("{found} {what}, the module has {expected}")]
    Count {
        /// What is counted.
        what: &'static str,
        /// The number in the snapshot.
        found: u64,
        /// The number in the module.
        expected: u64,
    },
    /// A number that names nothing in the module.
    #[error("{what} {index} does not exist, the module has {count}")]
    Index {
        /// What is named.
        what: &'static str,
        /// The number.
        index: u64,
        /// How many there are.
        count: u64,
    },
    /// A value of another type.
    #[error("value {index} is {found:?}, the module has {expected} there")]
    Type {
        /// Which value.
        index: u64,
        /// The value.
        found: Value,
        /// The type.
        expected: ValueType,
    },
    /// A null where the module has none.
    #[error("value {index} is null, the module has none there")]
    Null {
        /// Which value.
        index: u64,
    },
    /// A reference to a function that the module never hands out.
    #[error("value {index} refers to function {function}, to which the module never hands out a reference")]
    NotReferable {
        /// Which value.
        index: u64,
        /// The function.
        function: u32,
    },
    /// A stack without frames.
    #[error("a stopped instance has at least one frame")]
    NoFrames,
    /// A frame in the middle of the stack that is not in a call.
    #[error("the frame calls the next one but does not stand inside a call of a Wasm function (safepoint {safepoint})")]
    NotInCall {
        /// Its safepoint.
        safepoint: u32,
    },
    /// An innermost frame that is in a call.
    #[error("the innermost frame stands inside something that is no call of an import (safepoint {safepoint})")]
    CallWithoutCallee {
        /// Its safepoint.
        safepoint: u32,
    },
    /// A callee that does not return what its caller waits for.
    #[error("the next frame's function {callee} does not return what the call at safepoint {safepoint} expects")]
    Results {
        /// The caller's safepoint.
        safepoint: u32,
        /// The callee.
        callee: u32,
    },
    /// Nothing tells how the stack was entered.
    #[error("it does not tell which entry is on the stack")]
    NoEntry,
    /// The start function is on the stack of a module that has none.
    #[error("the start function is said to be on the stack, but the module has none")]
    NoStart,
    /// A size that the module cannot have reached.
    #[error("a size of {found}, the module permits {minimum} to {maximum}{}", if *.multiple_of > 1 { format!(" in steps of {multiple_of}") } else { String::new() })]
    Size {
        /// The size in the snapshot.
        found: u64,
        /// Size of a fresh instance.
        minimum: u64,
        /// Largest size.
        maximum: u64,
        /// What it must be a multiple of.
        multiple_of: u64,
    },
    /// A page behind the end of its memory.
    #[error("page {page} lies behind the end of the memory, which has {count} pages")]
    Page {
        /// The page.
        page: u64,
        /// How many there are.
        count: u64,
    },
    /// Compressed page contents that do not decompress to what was announced.
    #[error("compressed page contents cannot be decompressed")]
    Chunk(#[source] ChunkProblem),
    /// An exception contains itself.
    #[error("exception {exception} contains itself")]
    ExceptionCycle {
        /// The exception.
        exception: u32,
    },
    /// The embedded module is not the one in the header.
    #[error("the embedded module has the digest {computed}, the header names {announced}")]
    ModuleDigest {
        /// The digest in the header.
        announced: Digest,
        /// The digest of the bytes.
        computed: Digest,
    },
}
