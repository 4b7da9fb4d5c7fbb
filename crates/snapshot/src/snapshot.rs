//! A snapshot as data.

use dunlin_base::Digest;

use crate::{Features, State};

/// A stopped instance together with what must be true where it is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The module that it is an instance of.
    pub module: Module,
    /// Digest of the map that its frames were captured with.
    pub map_digest: Digest,
    /// Version of the instrumentation pass that made the map. It is part of the map's digest, and stands here so that
    /// a mismatch can be explained.
    pub pass_version: u32,
    /// WebAssembly features that the module needs.
    pub features: Features,
    /// Version of the product that took it, for people.
    pub product: Option<String>,
    /// Its state.
    pub state: State,
    /// Optional sections that this version does not know, ascending by kind: they are kept as they are.
    pub extra: Vec<Extra>,
}

/// A module, by name or by value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its bytes, when the snapshot carries them.
    pub embedded: Option<Vec<u8>>,
}

/// A section of a kind or version that is not known and not mandatory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extra {
    /// Its kind.
    pub kind: u16,
    /// Its version.
    pub version: u16,
    /// Its body.
    pub bytes: Vec<u8>,
}
