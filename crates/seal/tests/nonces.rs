//! S11: no key and nonce are ever used for two different messages, whatever crashes, moves or is put back.

mod common;

use std::collections::{HashMap, HashSet};
use std::io::Write as _;

use common::{key, label};
use dunlin_seal::VolumeSeal;
use dunlin_store::{ChunkKind, Sealing as _};

/// The key of an object follows from the epoch's key and all of its header; the nonce is the number of the part. Both can
/// be read off the sealed bytes.
fn uses(sealed: &[u8]) -> Vec<(Vec<u8>, u64)> {
    let (header, mut rest) = sealed.split_at(66);
    let mut uses = Vec::new();
    while let Some((head, body)) = rest.split_first_chunk::<4>() {
        uses.push((header.to_vec(), uses.len() as u64));
        let length = (u32::from_le_bytes(*head) & !(1 << 31)) as usize + 16;
        rest = &body[length.min(body.len())..];
    }
    uses
}

#[test]
fn s11_no_object_shares_key_and_nonce_with_another() {
    let mut seen = HashSet::new();
    let mut count = 0;
    for round in 0..500u64 {
        // A process that starts again, or on another machine, with the same key: from nothing but its bytes.
        let held = key(7);
        let again = dunlin_seal::EpochKey::from_bytes(held.service(), held.epoch(), held.expose());
        for objects in [held.objects(), again.objects()] {
            let whole = objects.seal(&label("state", 1), &vec![round as u8; 70_000]).unwrap();
            // One that dies in the middle and is begun anew under the same label, with other contents.
            let mut cut = objects.writer(&label("state", 1), Vec::new()).unwrap();
            cut.write_all(&round.to_le_bytes()).unwrap();
            cut.flush().unwrap();
            let cut = cut.get_ref().clone();
            for once in uses(&whole).into_iter().chain(uses(&cut)) {
                assert!(seen.insert(once), "round {round}");
                count += 1;
            }
        }
    }
    assert_eq!((seen.len(), count), (3000, 3000), "two parts of each whole object, one of each that was cut off");
}

#[test]
fn s11_the_nonce_of_a_chunk_is_a_function_of_key_and_contents() {
    let mut of_nonce: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let mut of_contents: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    for start in 0..3 {
        // Started again, moved, put back to an older copy: the sealer has no state that could be lost.
        let _ = start;
        for number in 0..2000u32 {
            let seal = VolumeSeal::new(&key(7 + u64::from(number % 2)), None);
            for kind in [ChunkKind::Data, ChunkKind::Node] {
                let contents = [&number.to_le_bytes()[..], &[0; 100]].concat();
                let sealed = seal.seal(kind, b"volume", &contents).into_owned();
                let tag_at = sealed.len() - 24;
                let nonce = sealed[tag_at..].to_vec();
                let what = [&contents[..], &[kind as u8]].concat();
                let first = of_nonce.entry(nonce).or_insert_with(|| what.clone());
                assert_eq!(*first, what, "one synthetic nonce for two messages");
                let first = of_contents.entry(what).or_insert_with(|| sealed.clone());
                assert_eq!(*first, sealed, "equal contents are equal bytes, so nothing is learned from both");
            }
        }
    }
    assert_eq!(of_nonce.len(), 4000);
}
