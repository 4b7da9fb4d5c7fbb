//! Goal: no bytes make the outer decoder panic, and no change goes unnoticed.
//!
//! Method: the bytes are opened as they are and with the digest put right. What opens must list sections that cover
//! the file exactly, and must not open after one bit was flipped.

#![no_main]

#[path = "../../crates/snapshot/tests/common/mod.rs"]
mod common;

use dunlin_snapshot::{Envelope, HEADER_SIZE, Header, Limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let limits = Limits::default();
    let _ = Header::parse(data);
    let _ = Envelope::open(data, &limits);
    if data.len() < HEADER_SIZE {
        return;
    }
    let mut bytes = data.to_vec();
    common::reseal(&mut bytes);
    let Ok(envelope) = Envelope::open(&bytes, &limits) else { return };
    let covered: usize = envelope.sections().iter().map(|section| 16 + section.body.len()).sum();
    assert_eq!(HEADER_SIZE + covered, bytes.len());
    let _ = (envelope.module(), envelope.chunks(), envelope.peek(), envelope.skipped().count());
    let at = data.iter().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let (byte, bit) = (at % bytes.len(), at / 7 % 8);
    bytes[byte] ^= 1 << bit;
    assert!(Envelope::open(&bytes, &limits).is_err(), "bit {bit} of byte {byte} was flipped");
});
