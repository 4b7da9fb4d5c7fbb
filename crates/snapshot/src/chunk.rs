//! Page contents, compressed in independent chunks.
//!
//! A chunk is one zstd frame in one particular shape (single segment, content size present in its shortest form,
//! neither checksum nor dictionary), so that the size it decompresses to is known, and compared with what the page
//! list demands, before a decompressor sees it. A chunk that does not become smaller is stored as it is.

use std::io;

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Bytes of page contents per chunk; the last chunk of a memory may have fewer.
pub const CHUNK_SIZE: usize = 256 << 10;

/// Makes chunks smaller.
///
/// The identity of a snapshot's bytes rests on its compressor: equal states give equal bytes only with equal
/// compressors.
pub trait Compressor {
    /// The zstd frame for `chunk`, with single segment and content size; whatever is not smaller than `chunk` means
    /// that `chunk` is stored as it is.
    ///
    /// # Errors
    /// The compressor's own, for instance that it has no memory left.
    fn compress<'a>(&'a mut self, chunk: &'a [u8]) -> io::Result<&'a [u8]>;
}

/// Stores every chunk as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stored;

impl Compressor for Stored {
    fn compress<'a>(&'a mut self, chunk: &'a [u8]) -> io::Result<&'a [u8]> {
        Ok(chunk)
    }
}

/// The compressor of the format's native encoder: libzstd, level 1, one thread.
#[cfg(not(target_family = "wasm"))]
pub struct Zstd {
    context: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

#[cfg(not(target_family = "wasm"))]
impl Zstd {
    /// The level. Part of the identity of the bytes.
    pub const LEVEL: i32 = 1;

    /// A compressor; it can be used for any number of snapshots.
    ///
    /// # Errors
    /// libzstd's, when it has no memory left.
    pub fn new() -> io::Result<Self> {
        let mut context = zstd::bulk::Compressor::new(Self::LEVEL)?;
        context.include_checksum(false)?;
        context.include_contentsize(true)?;
        context.include_dictid(false)?;
        Ok(Self { context, buffer: vec![0; zstd::zstd_safe::compress_bound(CHUNK_SIZE)] })
    }
}

#[cfg(not(target_family = "wasm"))]
impl core::fmt::Debug for Zstd {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Zstd").finish_non_exhaustive()
    }
}

#[cfg(not(target_family = "wasm"))]
impl Compressor for Zstd {
    fn compress<'a>(&'a mut self, chunk: &'a [u8]) -> io::Result<&'a [u8]> {
        let length = self.context.compress_to_buffer(chunk, self.buffer.as_mut_slice())?;
        Ok(self.buffer.get(..length).unwrap_or(chunk))
    }
}

/// A chunk as it stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredChunk<'a> {
    /// The memory it belongs to.
    pub memory: u32,
    /// Bytes that it decompresses to.
    pub size: usize,
    /// What is stored: a zstd frame if it is shorter than `size`, else the contents.
    pub stored: &'a [u8],
}

/// Why a chunk cannot be decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkProblem {
    /// Not a zstd frame of the shape that the format prescribes.
    #[error("its first bytes are not the zstd frame header for {size} bytes")]
    Shape {
        /// Bytes that the chunk must decompress to.
        size: usize,
    },
    /// The compressed data is malformed.
    #[error("zstd: {0}")]
    Zstd(String),
    /// It decompresses to another number of bytes.
    #[error("it does not decompress to {size} bytes")]
    Size {
        /// Bytes that the chunk must decompress to.
        size: usize,
    },
    /// Something follows the compressed data.
    #[error("{0} bytes follow the compressed data")]
    Trailing(usize),
}

/// Decompresses chunks one after the other.
#[derive(Default)]
pub(crate) struct Decompressor {
    frames: Option<FrameDecoder>,
    buffer: Vec<u8>,
}

impl Decompressor {
    /// The `size` bytes (at most [`CHUNK_SIZE`]) that `stored` stands for.
    pub(crate) fn open<'a>(&'a mut self, stored: &'a [u8], size: usize) -> Result<&'a [u8], ChunkProblem> {
        if stored.len() == size {
            return Ok(stored);
        }
        if size > CHUNK_SIZE || !stored.starts_with(&frame_header(size)) {
            return Err(ChunkProblem::Shape { size });
        }
        let frames = self.frames.get_or_insert_default();
        frames.set_max_window_size(CHUNK_SIZE as u64);
        let zstd = |error: &dyn core::fmt::Display| ChunkProblem::Zstd(error.to_string());
        let mut source = stored;
        frames.reset(&mut source).map_err(|error| zstd(&error))?;
        // One block at a time. A block that overshoots does so by less than 1.5 MB; then this ends.
        while !frames.is_finished() {
            frames.decode_blocks(&mut source, BlockDecodingStrategy::UptoBlocks(1)).map_err(|error| zstd(&error))?;
            if !frames.is_finished() && frames.can_collect() > 0 {
                return Err(ChunkProblem::Size { size });
            }
        }
        if frames.can_collect() != size {
            return Err(ChunkProblem::Size { size });
        }
        if !source.is_empty() {
            return Err(ChunkProblem::Trailing(source.len()));
        }
        self.buffer.resize(CHUNK_SIZE, 0);
        let contents = self.buffer.get_mut(..size).ok_or(ChunkProblem::Size { size })?;
        io::Read::read_exact(frames, contents).map_err(|error| zstd(&error))?;
        Ok(contents)
    }
}

/// The only accepted beginning of a frame that decompresses to `size` bytes: magic, single segment, content size in
/// the shortest form (RFC 8878, 3.1.1.1).
fn frame_header(size: usize) -> Vec<u8> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    const SINGLE_SEGMENT: u8 = 1 << 5;
    let size = size as u64;
    // The number of content size bytes is 1, 2 or 4; two bytes hold the size minus 256.
    let (flag, content_size, bytes) = match size {
        0..256 => (0, size, 1),
        256..65_792 => (1, size - 256, 2),
        _ => (2, size, 4),
    };
    let mut header = MAGIC.to_vec();
    header.push(flag << 6 | SINGLE_SEGMENT);
    header.extend(content_size.to_le_bytes().iter().take(bytes));
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(size: usize) -> Vec<u8> {
        (0..size).map(|index| (index / 7 % 31 * (index / 1000 % 3)) as u8).collect()
    }

    #[test]
    fn what_libzstd_writes_has_the_accepted_shape() {
        let mut zstd = Zstd::new().unwrap();
        let mut decompressor = Decompressor::default();
        for size in [200, 255, 256, 4096, 65_535, 65_791, 65_792, 65_793, 131_072, 200_000, CHUNK_SIZE] {
            let contents = sample(size);
            let stored = zstd.compress(&contents).unwrap().to_vec();
            assert!(stored.len() < size && stored.starts_with(&frame_header(size)), "{size}");
            assert_eq!(decompressor.open(&stored, size), Ok(&contents[..]), "{size}");
        }
    }

    #[test]
    fn another_version_of_libzstd_is_a_decision() {
        // A different version may compress differently. Restoring is not affected, but the golden files are: see
        // "Compression" in docs/formats/snapshot.md before changing this number.
        assert_eq!(zstd::zstd_safe::version_number(), 10507);
    }

    #[test]
    fn refuses_other_shapes_and_sizes() {
        let contents = sample(5000);
        let stored = Zstd::new().unwrap().compress(&contents).unwrap().to_vec();
        let mut decompressor = Decompressor::default();
        assert_eq!(decompressor.open(&stored, 4999), Err(ChunkProblem::Shape { size: 4999 }));
        for (byte, bit) in [(0, 0), (4, 2), (4, 0), (4, 5), (5, 0)] {
            let mut other = stored.clone();
            other[byte] ^= 1 << bit;
            assert_eq!(decompressor.open(&other, 5000), Err(ChunkProblem::Shape { size: 5000 }), "byte {byte}");
        }
        for end in 0..stored.len() {
            assert!(decompressor.open(&stored[..end], 5000).is_err(), "cut at {end}");
        }
        let longer = [&stored[..], &[0]].concat();
        assert_eq!(decompressor.open(&longer, 5000), Err(ChunkProblem::Trailing(1)));
        assert!(decompressor.open(&[stored.clone(), stored.clone()].concat(), 5000).is_err());
        assert_eq!(decompressor.open(&stored, 5000), Ok(&contents[..]), "usable after errors");
    }

    #[test]
    fn a_frame_that_says_less_than_it_holds_is_refused() {
        // 4096 announced, and 128 KiB in RLE blocks of 4096: one more block than fits must end it.
        let mut stored = frame_header(4096);
        for _ in 0..32 {
            stored.extend([(4096u32 << 3 | 1 << 1) as u8, (4096u32 << 3 >> 8) as u8, (4096u32 << 3 >> 16) as u8, 7]);
        }
        let mut decompressor = Decompressor::default();
        assert_eq!(decompressor.open(&stored, 4096), Err(ChunkProblem::Size { size: 4096 }));
    }
}
