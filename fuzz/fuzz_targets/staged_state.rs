//! Goal: a file with a staged state, of which the disk may have made anything, ends in a state or an error, without a
//! panic and without allocating by a length or a number of pages that it declares; what is a state has a digest.
//!
//! Method: the input is read as a file, and again as a list of records behind a right beginning, of which kind and
//! length are put right, so that the decoders are reached.

#![no_main]

use dunlin_base::Digest;
use dunlin_keep::migrate::read;
use libfuzzer_sys::fuzz_target;

const MAGIC: &[u8] = b"dunlin staged 1\0";

fn check(file: &[u8]) {
    if let Ok(staged) = read(file) {
        let sizes: Vec<u64> = staged.pages.iter().map(|_| 1 << 32).collect();
        let digest = |fresh: bool| staged.digest(&Digest([0; 32]), &sizes, |_, _, _| fresh);
        let count: usize = staged.pages.iter().map(|pages| pages.len()).sum();
        // Each page is hashed; a few kilobytes can stand for a million of them.
        if count < 1024 {
            assert_eq!(count > 0, digest(true) != digest(false), "pages that differ from fresh ones are in the digest");
        }
        assert_eq!(staged.missing.is_empty(), staged.missing.ranges().is_empty());
    }
}

fuzz_target!(|data: &[u8]| {
    check(data);
    let mut file = MAGIC.to_vec();
    let mut rest = data;
    while let Some((head, more)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_le_bytes([head[1], head[2]])).min(more.len());
        let (body, more) = more.split_at(length);
        file.extend((length as u32).to_le_bytes());
        file.push(1 + head[0] % 5);
        file.extend(body);
        rest = more;
    }
    check(&file);
});
