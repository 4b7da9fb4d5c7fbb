//! Goal: greetings, replies and pieces of connections from another node, and copies of checkpoints, end in a value or an
//! error, without a panic and without allocating by a length that they declare; a piece never has more bytes than came, and
//! a copy that is taken is the same when it is written again.
//!
//! Method: the input is read as it is, as JSON behind a length that is put right, and as a copy whose head is what comes
//! before the first zero.

#![no_main]

use dunlin_node::hostile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for bytes in [data.to_vec(), [&(data.len() as u32).to_le_bytes(), data].concat()] {
        hostile::greeting(&bytes);
        hostile::reply(&bytes);
    }
    assert!(hostile::pieces(data) <= data.len());
    hostile::backup(data);
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let head = [b"DUNLINBK".as_slice(), &1_u32.to_le_bytes(), &(end as u32).to_le_bytes(), &data[..end]].concat();
    hostile::backup(&[&head[..], data.get(end + 1..).unwrap_or_default()].concat());
});
