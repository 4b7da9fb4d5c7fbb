//! E1 to E7, E10 and E24: genuine samples, and what can be done to their bytes.

use super::samples::{self, Sample};
use super::{amd, intel, support};
use crate::{
    AmdCollateral, Class, Collateral, Endorsements, Evidence, SimRoots, Technology, TrustRoots, UnboundClaims,
    Verifier, VerifyError,
};

fn inspect(sample: &Sample, bytes: Vec<u8>) -> Result<UnboundClaims, VerifyError> {
    Verifier::inspect(&sample.with_bytes(bytes), &sample.endorsements, sample.now, &TrustRoots::vendor())
}

#[test]
fn e01_every_sample_verifies_inside_its_window() {
    let expected = [
        ("sgx", Technology::Sgx, "sgx:", None),
        ("tdx", Technology::Tdx, "tdx:", None),
        ("td15ex", Technology::Tdx, "tdx:", None),
        ("snp", Technology::Snp, "snp:d49554ec717f4e5b", Some("Milan")),
    ];
    for (sample, (name, technology, platform, product)) in samples::all().iter().zip(expected) {
        assert_eq!(sample.name, name);
        let expected = support::demanded(&sample.inspect());
        let claims =
            Verifier::appraise(&sample.evidence, &sample.endorsements, &expected, sample.now, &TrustRoots::vendor())
                .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!((claims.class, claims.technology), (Class::HwTee, technology), "{name}");
        assert!(claims.platform.as_str().starts_with(platform), "{name}: {}", claims.platform);
        assert_eq!(claims.snp.as_ref().map(|snp| snp.product.as_str()), product, "{name}");
        assert_eq!((claims.debug, claims.migratable, claims.label.clone()), (false, false, None), "{name}");
    }
    let snp = samples::snp().inspect();
    let tcb = snp.claims().snp.as_ref().expect("SNP claims").tcb;
    assert_eq!((tcb.reported.bootloader, tcb.reported.tee, tcb.reported.snp, tcb.reported.microcode), (3, 0, 8, 115));
    assert_eq!((tcb.current, tcb.committed, tcb.launch), (tcb.reported, tcb.reported, tcb.reported));
    let sgx = samples::sgx().inspect();
    let tcb = sgx.claims().tcb.as_ref().expect("TCB claims");
    assert_eq!(tcb.status, crate::TcbStatus::ConfigurationAndSWHardeningNeeded);
    assert_eq!(tcb.advisories, ["INTEL-SA-00289", "INTEL-SA-00615"]);
}

#[test]
fn e01_the_wrong_report_data_is_refused_for_every_sample() {
    let binding = support::binding(dunlin_base::Digest::of(b"policy"));
    for sample in samples::all() {
        let outcome = Verifier::appraise(
            &sample.evidence,
            &sample.endorsements,
            &binding.report_data(),
            sample.now,
            &TrustRoots::vendor(),
        );
        assert!(matches!(outcome, Err(VerifyError::ReportData)), "{}: {outcome:?}", sample.name);
    }
}

/// The window is the intersection of all dates that were relied on.
fn window(sample: &Sample) -> (u64, u64) {
    let at = |now| Verifier::inspect(&sample.evidence, &sample.endorsements, now, &TrustRoots::vendor()).is_ok();
    // Both edges by bisection between a good second and one that is far outside.
    let edge = |mut bad: u64| {
        let mut good = sample.now;
        while good.abs_diff(bad) > 1 {
            let middle = good.min(bad) + good.abs_diff(bad) / 2;
            if at(middle) { good = middle } else { bad = middle }
        }
        good
    };
    (edge(0), edge(4_000_000_000))
}

#[test]
fn e02_one_second_outside_the_window_is_refused() {
    // The latest beginning and the earliest end of everything that is relied on, read with openssl
    // (seconds since 1970). What ends first for "tdx" is a revocation list, which is stale in its last second.
    let expected = [
        ("sgx", 1_750_330_571, 1_752_919_278),
        ("tdx", 1_750_329_147, 1_752_919_235 - 1),
        ("td15ex", 1_791_419_306, 1_794_008_711),
        ("snp", 1_680_549_823, 1_901_474_623),
    ];
    let found: Vec<_> = samples::all().iter().map(|sample| (sample.name, window(sample).0, window(sample).1)).collect();
    assert_eq!(found, expected);
    for (sample, (_, from, to)) in samples::all().iter().zip(expected) {
        for now in [from - 1, to + 1] {
            let outcome = Verifier::inspect(&sample.evidence, &sample.endorsements, now, &TrustRoots::vendor());
            assert!(outcome.is_err(), "{} at {now}", sample.name);
        }
    }
}

/// Flips bits of `bytes` in `range` and gives each changed copy to `check`.
fn flip(
    sample: &Sample,
    range: core::ops::Range<usize>,
    bits: impl Fn(usize) -> core::ops::Range<u8>,
    check: impl Fn(usize, u8, Result<UnboundClaims, VerifyError>),
) {
    for at in range {
        for bit in bits(at) {
            let mut bytes = sample.bytes().to_vec();
            bytes[at] ^= 1 << bit;
            check(at, bit, inspect(sample, bytes));
        }
    }
}

fn every_signed_bit(sample: &Sample) {
    flip(
        sample,
        0..sample.signed,
        |_| 0..8,
        |at, bit, outcome| {
            assert!(outcome.is_err(), "{}: bit {bit} of byte {at:#x}", sample.name);
        },
    );
}

#[test]
fn e03_every_bit_flip_of_the_signed_area_is_refused_sgx() {
    every_signed_bit(&samples::sgx());
}

#[test]
fn e03_every_bit_flip_of_the_signed_area_is_refused_tdx() {
    every_signed_bit(&samples::tdx());
}

#[test]
fn e03_every_bit_flip_of_the_signed_area_is_refused_td15ex() {
    every_signed_bit(&samples::td15ex());
}

#[test]
fn e03_every_bit_flip_of_the_signed_area_is_refused_snp() {
    every_signed_bit(&samples::snp());
}

/// Regression: a public verifier re-serialises the report before it hashes it, so that 16 reserved bits
/// inside the signed area and 416 outside of it can be flipped.
#[test]
fn e03_every_other_bit_flip_of_a_snp_report_is_refused_too() {
    let sample = samples::snp();
    flip(
        &sample,
        sample.signed..sample.bytes().len(),
        |_| 0..8,
        |at, bit, outcome| {
            assert!(outcome.is_err(), "bit {bit} of byte {at:#x}");
        },
    );
}

/// Outside the signed area a quote has bytes that nothing signs (line breaks and unused certificates of
/// its PEM text). Flipping them may be accepted, but never changes what is claimed.
#[test]
fn e04_malleable_bytes_do_not_change_claims() {
    for sample in [samples::sgx(), samples::tdx(), samples::td15ex()] {
        let claims = sample.inspect();
        let accepted = std::cell::Cell::new(0);
        // One bit of every second byte: which one, depends on the place.
        let bit_of = |at: usize| {
            let bit = (at / 2 % 8) as u8;
            if at.is_multiple_of(2) { bit..bit + 1 } else { 0..0 }
        };
        flip(&sample, sample.signed..sample.bytes().len(), bit_of, |at, bit, outcome| {
            if let Ok(changed) = outcome {
                accepted.set(accepted.get() + 1);
                assert_eq!(changed, claims, "{}: bit {bit} of byte {at:#x}", sample.name);
            }
        });
        // If nothing was accepted, this test would show nothing.
        assert!(accepted.get() > 0, "{}", sample.name);
    }
}

#[test]
fn e05_every_truncation_is_refused() {
    for sample in samples::all() {
        for length in 0..sample.bytes().len() {
            let outcome = inspect(&sample, sample.bytes()[..length].to_vec());
            assert!(matches!(outcome, Err(VerifyError::Malformed { .. })), "{} at {length}: {outcome:?}", sample.name);
        }
    }
}

#[test]
fn e06_trailing_bytes_are_refused() {
    for sample in samples::all() {
        for more in [&[0][..], &[1], &[0; 70], &[0xff; 4096]] {
            let outcome = inspect(&sample, [sample.bytes(), more].concat());
            assert!(matches!(outcome, Err(VerifyError::Malformed { .. })), "{}: {outcome:?}", sample.name);
        }
        let outcome = inspect(&sample, [sample.bytes(), &[0; 100_000]].concat());
        assert!(matches!(outcome, Err(VerifyError::Malformed { .. })), "{}: {outcome:?}", sample.name);
    }
}

/// A platform hands out its buffer, whose end is zeros. The attester's side cuts them, and only them.
#[test]
fn e06_only_zero_padding_is_cut_from_a_buffer() {
    let sample = samples::tdx();
    let padded = [sample.bytes(), &[0; 70]].concat();
    assert_eq!(Evidence::tdx_from_buffer(&padded), sample.evidence);
    let dirty = [sample.bytes(), &[0, 0, 1, 0]].concat();
    assert_eq!(Evidence::tdx_from_buffer(&dirty), Evidence::Tdx(dirty.clone()));
    assert!(inspect(&sample, dirty).is_err());
}

#[test]
fn e07_a_quote_with_the_collateral_of_another_is_refused() {
    let samples = samples::all();
    for evidence in &samples {
        for other in samples.iter().filter(|other| other.name != evidence.name) {
            let outcome =
                Verifier::inspect(&evidence.evidence, &other.endorsements, evidence.now, &TrustRoots::vendor());
            assert!(outcome.is_err(), "{} with the collateral of {}", evidence.name, other.name);
        }
        let outcome =
            Verifier::inspect(&evidence.evidence, &Endorsements::default(), evidence.now, &TrustRoots::vendor());
        assert!(matches!(outcome, Err(VerifyError::MissingEndorsement { .. })), "{}: {outcome:?}", evidence.name);
    }
}

#[test]
fn e10_genuine_evidence_under_another_root_is_refused() {
    let machine = amd::Machine::genoa();
    let mut milan = machine.clone();
    milan.product = crate::AmdProduct::Milan;
    let roots = SimRoots {
        intel: Some(intel::root()),
        amd: vec![(milan.product, amd::ark(milan.product))],
        ..SimRoots::default()
    };
    for sample in samples::all() {
        let outcome = Verifier::inspect(&sample.evidence, &sample.endorsements, sample.now, &roots);
        assert!(outcome.is_err(), "{}", sample.name);
        let outcome = Verifier::inspect(&sample.evidence, &sample.endorsements, sample.now, &SimRoots::default());
        assert!(matches!(outcome, Err(VerifyError::NoRoot { .. })), "{}: {outcome:?}", sample.name);
    }
}

/// The same genuine evidence gives the same claims, but test roots can only call it simulated.
#[test]
fn e10_test_roots_only_give_class_sim() {
    let genuine = samples::snp();
    let ark = include_bytes!("../../roots/amd/milan-ark.der").to_vec();
    let ask = include_bytes!("../../roots/amd/milan-ask.der").to_vec();
    let roots = SimRoots { amd: vec![(crate::AmdProduct::Milan, ark)], ..SimRoots::default() };
    let Collateral::Amd(collateral) = genuine.endorsements.collateral.clone() else { panic!("AMD") };
    let collateral = AmdCollateral { intermediate: Some(ask), ..collateral };
    let endorsements = Endorsements { collateral: Collateral::Amd(collateral), statement: None };
    let claims = Verifier::inspect(&genuine.evidence, &endorsements, genuine.now, &roots).expect("verifies");
    assert_eq!(claims.claims().class, Class::Sim);
    assert!(claims.claims().label.as_ref().is_some_and(|label| label.starts_with("SIMULATED")));
    assert_eq!(genuine.inspect().claims().class, Class::HwTee);
}

#[test]
fn e10_the_built_in_roots_are_those_of_the_package_they_came_from() {
    let roots = [
        ("milan/ark", &include_bytes!("../../roots/amd/milan-ark.der")[..]),
        ("milan/ask", include_bytes!("../../roots/amd/milan-ask.der")),
        ("genoa/ark", include_bytes!("../../roots/amd/genoa-ark.der")),
        ("genoa/ask", include_bytes!("../../roots/amd/genoa-ask.der")),
        ("turin/ark", include_bytes!("../../roots/amd/turin-ark.der")),
        ("turin/ask", include_bytes!("../../roots/amd/turin-ask.der")),
    ];
    for (name, der) in roots {
        let pem = samples::read("sev", &format!("src/certs/snp/builtin/{name}.pem"));
        let (_, original) = x509_cert::der::pem::decode_vec(&pem).expect("PEM");
        assert_eq!(original, der, "{name}");
    }
}

#[test]
fn e24_the_outdated_sample_is_refused() {
    let sample = samples::outdated();
    let inside = (1_700_000_000..1_800_000_000u64).step_by(7 * 86_400);
    let mut rules = std::collections::BTreeSet::new();
    for now in inside {
        match Verifier::inspect(&sample.evidence, &sample.endorsements, now, &TrustRoots::vendor()) {
            Err(VerifyError::Dcap { rule, .. }) => rules.insert(rule),
            outcome => panic!("{outcome:?}"),
        };
    }
    assert!(rules.contains("No matching TCB level found"), "{rules:?}");
}
