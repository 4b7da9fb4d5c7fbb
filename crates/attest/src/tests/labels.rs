//! E26 and E27: evidence under a wrong label, and parsers under changed and random bytes.

use super::amd::Bytes as Random;
use super::support::{self, NOW, binding, sim_roots};
use super::{samples, tpm};
use crate::{Endorsements, Evidence, SnpReport, TrustRoots, Verifier, VerifyError};
use rsa::rand_core::Rng as _;

#[test]
fn e26_evidence_under_another_label_is_refused() {
    let binding = binding(support::sim_policy().hash());
    let Evidence::Sim(token) = support::sim_evidence(&binding) else { panic!("sim") };
    let (tpm, _) = tpm::Machine::new().evidence(&binding);
    let Evidence::Tpm(quote) = tpm else { panic!("TPM") };
    let mut all: Vec<_> =
        samples::all().iter().map(|sample| (sample.name, sample.bytes().to_vec(), Some(sample.clone()))).collect();
    all.push(("sim", token, None));
    all.push(("tpm", quote.attest.clone(), None));
    type Make = fn(Vec<u8>) -> Evidence;
    let labels: [(&str, Make); 4] =
        [("sgx", Evidence::Sgx), ("tdx", Evidence::Tdx), ("snp", Evidence::Snp), ("sim", Evidence::Sim)];
    let mut pairs = 0;
    for (name, bytes, sample) in &all {
        for (label, make) in labels {
            if *name == label || (*name, label) == ("td15ex", "tdx") {
                continue;
            }
            let evidence = make(bytes.clone());
            let (endorsements, now) = match sample {
                Some(sample) => (sample.endorsements.clone(), sample.now),
                None => (Endorsements::default(), NOW),
            };
            let outcome = Verifier::inspect(&evidence, &endorsements, now, &TrustRoots::vendor());
            assert!(matches!(outcome, Err(VerifyError::Mislabelled { .. })), "{name} as {label}: {outcome:?}");
            let outcome = Verifier::inspect(&evidence, &endorsements, now, &sim_roots());
            assert!(matches!(outcome, Err(VerifyError::Mislabelled { .. })), "{name} as {label}: {outcome:?}");
            pairs += 1;
        }
        // Anything at all in the place of a TPM's attestation.
        let mut machine = tpm::Machine::new();
        if *name != "tpm" {
            machine.attest = Some(bytes.clone());
            let (evidence, endorsements) = machine.evidence(&binding);
            assert!(Verifier::inspect(&evidence, &endorsements, NOW, &machine.roots()).is_err(), "{name} as tpm");
            pairs += 1;
        }
    }
    assert_eq!(pairs, 24);
}

/// A short run of what the fuzz targets do for long: changed and random bytes never panic, never verify
/// and never make anything allocate by a length that they declare.
#[test]
fn e27_changed_and_random_bytes_never_panic() {
    let mut random = Random(27);
    let binding = binding(support::sim_policy().hash());
    let mut seeds: Vec<Vec<u8>> = samples::all().iter().map(|sample| sample.bytes().to_vec()).collect();
    let (tpm, endorsements) = tpm::Machine::new().evidence(&binding);
    seeds.extend([tpm.to_cbor(), endorsements.to_cbor(), support::sim_evidence(&binding).to_cbor(), binding.to_cbor()]);
    seeds.extend(samples::all().iter().map(|sample| sample.endorsements.to_cbor()));
    for round in 0..400 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=(random.next_u32() % 8) {
            let at = random.next_u32() as usize % bytes.len();
            match random.next_u32() % 4 {
                0 => bytes[at] = random.next_u32() as u8,
                1 => bytes[at] = 0xff,
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, random.next_u32() as u8),
            }
        }
        everything(&bytes);
    }
    for length in 0..300 {
        let mut bytes = vec![0; length];
        random.fill_bytes(&mut bytes);
        everything(&bytes);
    }
}

fn everything(bytes: &[u8]) {
    let policy = support::sim_policy();
    let _ = SnpReport::parse(bytes);
    let _ = crate::BindingContext::from_cbor(bytes);
    let _ = Endorsements::from_cbor(bytes);
    let _ = crate::Policy::verify(bytes, "shop", &[policy.signer()], None);
    let mut evidence = vec![
        Evidence::sgx_from_buffer(bytes),
        Evidence::tdx_from_buffer(bytes),
        Evidence::Snp(bytes.to_vec()),
        Evidence::Sim(bytes.to_vec()),
    ];
    evidence.extend(Evidence::from_cbor(bytes));
    for evidence in evidence {
        let endorsements = Endorsements::from_cbor(bytes).unwrap_or_default();
        let _ = Verifier::inspect(&evidence, &endorsements, NOW, &sim_roots());
        let _ = Verifier::inspect(&evidence, &endorsements, NOW, &TrustRoots::vendor());
    }
}

#[test]
fn containers_round_trip() {
    let binding = binding(support::sim_policy().hash());
    let (tpm, statement) = tpm::Machine::new().evidence(&binding);
    let mut all: Vec<_> = samples::all().into_iter().map(|sample| (sample.evidence, sample.endorsements)).collect();
    all.push((tpm, statement));
    all.push((support::sim_evidence(&binding), Endorsements::default()));
    for (evidence, endorsements) in all {
        assert_eq!(Evidence::from_cbor(&evidence.to_cbor()).as_ref(), Ok(&evidence));
        assert_eq!(Endorsements::from_cbor(&endorsements.to_cbor()).as_ref(), Ok(&endorsements));
    }
}
