//! The portable form of a stopped instance: typed frames, memories, tables, globals and host state, and the
//! file format that carries them. Identical state gives identical bytes on every engine and CPU. This crate must
//! never trust a byte it reads, let a length from outside decide an allocation, or do I/O.
//!
//! Bytes are read in two steps. [`Envelope::open`] checks magic, version, length and digest and tells which module
//! and map the snapshot belongs to; [`Envelope::decode`] decodes the state and checks every value of it against
//! that map. [`encode`] is the way back. The format is drawn in `docs/formats/snapshot.md`.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::cast_possible_truncation,
        clippy::host_endian_bytes,
        clippy::big_endian_bytes
    )
)]

mod check;
mod chunk;
mod compare;
mod decode;
mod digest;
mod encode;
mod envelope;
mod error;
mod features;
mod header;
mod limits;
mod section;
mod snapshot;
mod state;
mod value;

pub use check::check;
#[cfg(not(target_family = "wasm"))]
pub use chunk::Zstd;
pub use chunk::{CHUNK_SIZE, ChunkProblem, Compressor, Stored, StoredChunk};
pub use compare::{Difference, compare};
pub use digest::{MemoryTree, digest_of, page_digest, rest, state_digest};
#[cfg(not(target_family = "wasm"))]
pub use encode::encode;
pub use encode::{EncodeError, encode_with};
pub use envelope::Envelope;
pub use error::{Error, Problem};
pub use features::Features;
pub use header::{FORMAT_VERSION, HEADER_SIZE, Header, MAGIC};
pub use limits::Limits;
pub use section::{HOST_KINDS, Section, SectionKind};
pub use snapshot::{Extra, Module, Snapshot};
pub use state::{Entry, Exception, Frame, HostSection, Memory, Page, State, Table};
