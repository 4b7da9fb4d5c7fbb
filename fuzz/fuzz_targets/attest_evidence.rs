//! Goal: evidence and endorsements from outside end in claims or an error, without a panic and without
//! allocating by a length they declare; and what is read from a container is written back as the same bytes.
//!
//! Method: the first byte chooses the technology, so that each verifier is reached directly; one of the choices
//! reads the containers. Roots are those of production, and test roots whose only key is known here.

#![no_main]

use dunlin_attest::{AmdCollateral, Collateral, Endorsements, Evidence, SigningKey, SimRoots, TrustRoots, Verifier};
use libfuzzer_sys::fuzz_target;

/// Inside the windows of the genuine samples of 2025.
const NOW: u64 = 1_751_328_000;

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    // Two length bytes divide the rest into evidence and collateral.
    let (evidence, more) = match rest.split_first_chunk::<2>() {
        Some((length, rest)) => rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len())),
        None => (rest, &[][..]),
    };
    let intel = || Endorsements { collateral: Collateral::Intel(more.to_vec()), statement: None };
    let amd = || AmdCollateral { vek: more.to_vec(), intermediate: None, crl: Some(more.to_vec()) };
    let (evidence, endorsements) = match choice % 6 {
        0 => (Evidence::sgx_from_buffer(evidence), intel()),
        1 => (Evidence::tdx_from_buffer(evidence), intel()),
        2 => {
            let endorsements = Endorsements { collateral: Collateral::Amd(amd()), statement: None };
            (Evidence::Snp(evidence.to_vec()), endorsements)
        }
        3 => (Evidence::Sim(evidence.to_vec()), Endorsements::default()),
        _ => {
            let endorsements = match Endorsements::from_cbor(more) {
                Ok(endorsements) => {
                    assert_eq!(endorsements.to_cbor(), more, "the container is not canonical");
                    endorsements
                }
                Err(_) => Endorsements { statement: Some(more.to_vec()), ..Endorsements::default() },
            };
            let Ok(read) = Evidence::from_cbor(evidence) else { return };
            assert_eq!(read.to_cbor(), evidence, "the container is not canonical");
            (read, endorsements)
        }
    };
    let _ = Verifier::inspect(&evidence, &endorsements, NOW, &TrustRoots::vendor());
    let key = SigningKey::from_bytes(&[3; 32]).unwrap().verifying_key();
    let sim = SimRoots { keys: vec![key], providers: vec![("acme".to_owned(), key)], ..SimRoots::default() };
    let _ = Verifier::inspect(&evidence, &endorsements, NOW, &sim);
});
