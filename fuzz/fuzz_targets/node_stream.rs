//! Goal: greetings, replies and pieces of connections from another node end in a value or an error, without a panic and
//! without allocating by a length that they declare; and a piece never has more bytes than came.
//!
//! Method: the input is read as it is, and as JSON behind a length that is put right.

#![no_main]

use dunlin_node::hostile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for bytes in [data.to_vec(), [&(data.len() as u32).to_le_bytes(), data].concat()] {
        hostile::greeting(&bytes);
        hostile::reply(&bytes);
    }
    assert!(hostile::pieces(data) <= data.len());
});
