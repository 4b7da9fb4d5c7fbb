//! Goal: whatever stands behind a right header, decoding ends without a panic and within the limits, and bytes that
//! are accepted are the only bytes for what they hold.
//!
//! Method: the fields that a fuzzer cannot guess (magic, version, length, digest, module, map) are put right, the
//! rest is decoded with a fixed map. What is accepted must pass `check` and, written again with the same compressed
//! chunks, must give the same bytes.

#![no_main]

#[path = "../../crates/snapshot/tests/common/mod.rs"]
mod common;

use dunlin_snapshot::{Envelope, FORMAT_VERSION, HEADER_SIZE, Limits, MAGIC, check, encode, encode_with};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if data.len() < HEADER_SIZE {
        return;
    }
    let map = common::map();
    let mut bytes = data.to_vec();
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[56..88].copy_from_slice(&map.module.0);
    bytes[88..120].copy_from_slice(&map.digest().0);
    bytes[120..124].copy_from_slice(&dunlin_instrument::PASS_VERSION.to_le_bytes());
    common::reseal(&mut bytes);

    let mut limits = Limits::default();
    (limits.memory_bytes, limits.page_bytes, limits.table_elements) = (4 << 20, 2 << 20, 100_000);
    let Ok(envelope) = Envelope::open(&bytes, &limits) else { return };
    let _ = envelope.peek();
    let Ok(snapshot) = envelope.decode(&map) else { return };
    check(&snapshot.state, &map, &limits).unwrap();
    assert!(encode_with(&snapshot, &mut common::Replay::of(&bytes)).unwrap() == bytes, "not canonical");
    let native = encode(&snapshot).unwrap();
    assert!(Envelope::open(&native, &limits).unwrap().decode(&map).unwrap() == snapshot, "does not survive");
});
