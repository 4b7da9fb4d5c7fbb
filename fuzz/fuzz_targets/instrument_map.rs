//! The pass on bytes that may or may not be a module: it never panics, what it writes is valid in every variant, and the map
//! is one for all variants and consistent with itself.
#![no_main]

use dunlin_instrument::{Options, Poll, Variant, instrument};
use libfuzzer_sys::fuzz_target;
use wasmparser::{Validator, WasmFeatures};

fuzz_target!(|bytes: &[u8]| {
    let fresh = match instrument(bytes, Options::default()) {
        Ok(fresh) => fresh,
        Err(_) => return,
    };
    let map = &fresh.map;
    let mut next = 0;
    for (index, function) in map.functions.iter().enumerate() {
        if function.safepoints > 0 {
            assert_eq!(function.first_safepoint, next, "safepoints are numbered in function order");
            next += function.safepoints;
            let own = &map.safepoints[function.first_safepoint as usize..next as usize];
            assert!(own.iter().all(|safepoint| safepoint.function as usize == index));
        }
    }
    assert_eq!(next as usize, map.safepoints.len());
    let largest = map.safepoints.iter().map(|safepoint| safepoint.values_size() + 8).max().unwrap_or(0);
    assert_eq!(map.control.largest_record, largest);
    for poll in [Poll::Flag, Poll::Count] {
        for variant in [Variant::Fresh, Variant::Resume] {
            let out = instrument(bytes, Options { poll, variant }).expect("one variant is like another");
            assert_eq!(out.map, *map);
            if let Err(error) = Validator::new_with_features(WasmFeatures::all()).validate_all(&out.wasm) {
                panic!("{poll:?} {variant:?}: {error}");
            }
        }
    }
});
