//! Reads and writes the fixed-width little-endian bytes that formats and protocols are made of, and cuts a
//! stream of bytes into frames. It knows no format. It must never panic on bytes from outside, allocate because
//! a length from outside says so, or do I/O.
//!
//! All integers have a fixed width: a number has one encoding, so bytes that decode are canonical as far as
//! this crate is concerned.

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

mod frame;
mod reader;
mod writer;

pub use frame::{FRAME_HEADER, FrameError, Frames, write_frame};
pub use reader::{ReadError, ReadProblem, Reader};
pub use writer::{TooLong, Writer};
