//! The whole crate behind exported functions. Built for wasm32-unknown-unknown it must import nothing, which
//! `cargo test -p dunlin-snapshot --test purity -- --ignored` checks.

#![allow(unsafe_code, reason = "exported names")]

use dunlin_base::Digest;
use dunlin_instrument::{KnownDigest, Map};
use dunlin_snapshot::{Envelope, Limits, Stored, check, compare, encode_with};

/// Runs every entrance of the crate over `length` bytes at `bytes` and returns a number that depends on all of them.
///
/// # Safety
/// `bytes` must be the address of `length` readable bytes.
// SAFETY: no other item of this library has the name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn snapshot(bytes: *const u8, length: usize) -> usize {
    // SAFETY: the caller's contract.
    let bytes = unsafe { core::slice::from_raw_parts(bytes, length) };
    let Ok(envelope) = Envelope::open(bytes, &Limits::default()) else { return 1 };
    let map = empty_map(envelope.header().module);
    let (Ok(a), Ok(b)) = (envelope.peek(), envelope.decode(&map)) else { return 2 };
    let Ok(()) = check(&a.state, &map, &Limits::default()) else { return 3 };
    let Ok(encoded) = encode_with(&b, &mut Stored) else { return 4 };
    encoded.len() + compare(&a.state, &b.state).len() + envelope.chunks().map_or(0, |chunks| chunks.len())
}

fn empty_map(module: Digest) -> Map {
    Map {
        module,
        imported_functions: 0,
        functions: Vec::new(),
        safepoints: Vec::new(),
        memories: Vec::new(),
        tables: Vec::new(),
        globals: Vec::new(),
        tags: Vec::new(),
        data_segments: 0,
        elem_segments: 0,
        start: None,
        control: dunlin_instrument::ControlLayout {
            dropped_data: 0,
            dropped_elems: 0,
            frames: 0,
            largest_record: 0,
            pages: 0,
        },
        ref_tables: Vec::new(),
        known_digest: KnownDigest::default(),
    }
}
