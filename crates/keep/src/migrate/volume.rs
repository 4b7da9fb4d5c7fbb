//! The private volume of a program that moves: its chunks go ahead of the state, while the program runs.

use dunlin_base::Digest;
use dunlin_handover::message::{MAX_VOLUME_BYTES, VolumeChunks};

/// The volume, as a source sees it.
pub trait Supply: Send {
    /// The destination has these chunks.
    fn held(&mut self, digests: Vec<Digest>);

    /// Makes durable what the program has written, and finds what the destination lacks: how many bytes.
    ///
    /// # Errors
    /// Why that cannot be done, for people.
    fn scan(&mut self) -> Result<u64, String>;

    /// The bytes that the destination lacks, as of the last scan.
    fn unsent(&self) -> u64;

    /// The next chunks, of at most so many bytes together; none when the destination has all.
    ///
    /// # Errors
    /// Why they cannot be read, for people.
    fn batch(&mut self, bytes: usize) -> Result<Vec<Vec<u8>>, String>;
}

/// What goes ahead, or nothing.
#[derive(Default)]
pub(super) struct Ahead(Option<Box<dyn Supply>>);

impl Ahead {
    pub(super) fn new(supply: Option<Box<dyn Supply>>) -> Self {
        Self(supply)
    }

    pub(super) fn held(&mut self, digests: Vec<Digest>) {
        if let Some(supply) = &mut self.0 {
            supply.held(digests);
        }
    }

    pub(super) fn scan(&mut self) -> Result<u64, String> {
        self.0.as_mut().map_or(Ok(0), |supply| supply.scan())
    }

    pub(super) fn unsent(&self) -> u64 {
        self.0.as_ref().map_or(0, |supply| supply.unsent())
    }

    /// As one message.
    pub(super) fn batch(&mut self) -> Result<Option<VolumeChunks>, String> {
        let Some(supply) = &mut self.0 else { return Ok(None) };
        let chunks = supply.batch(MAX_VOLUME_BYTES)?;
        Ok((!chunks.is_empty()).then_some(VolumeChunks(chunks)))
    }

    /// What has not gone goes with the state.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }
}
