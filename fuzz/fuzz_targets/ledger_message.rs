//! Goal: questions to a ledger and its answers end in a value or an error, without a panic and without allocating by a
//! length that they declare; and what is read is written back as the same bytes.
//!
//! Method: the input is read as both, and again behind each kind, so that the decoders are reached.

#![no_main]

use dunlin_handover::codec::Wire;
use dunlin_ledger::{Answer, Question};
use libfuzzer_sys::fuzz_target;

fn canonical<T: Wire>(bytes: &[u8]) {
    if let Ok(value) = T::from_bytes(bytes) {
        assert_eq!(value.to_bytes(), bytes, "{} has two encodings", T::WHAT);
    }
}

fuzz_target!(|data: &[u8]| {
    canonical::<Question>(data);
    canonical::<Answer>(data);
    for kind in [1, 2] {
        let bytes = [&[kind], data].concat();
        canonical::<Question>(&bytes);
        canonical::<Answer>(&bytes);
    }
});
