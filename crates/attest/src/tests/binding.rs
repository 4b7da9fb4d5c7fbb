//! B9 to B12, as far as they are about report data.

use dunlin_base::Digest;

use super::support::{self, NOW, binding, sim_claims, sim_evidence, sim_policy, sim_roots};
use crate::cbor;
use crate::{BindingContext, Bytes, ChallengeError, Challenges, Endorsements, ReportData, Role, Verifier, VerifyError};
use ciborium::Value;

#[test]
fn b09_a_nonce_is_good_for_one_answer() {
    let mut challenges = Challenges::new(2);
    let nonce = [1; 32];
    challenges.give_out(nonce, 100).expect("the first");
    assert_eq!(challenges.give_out(nonce, 100), Err(ChallengeError::Repeated));
    assert_eq!(challenges.take(&nonce, 101), Ok(()));
    assert_eq!(challenges.take(&nonce, 101), Err(ChallengeError::NotOutstanding));
    assert_eq!(challenges.take(&[2; 32], 101), Err(ChallengeError::NotOutstanding));
    assert_eq!(challenges.give_out([0; 32], 100), Err(ChallengeError::Zero));
    challenges.give_out([3; 32], 100).expect("room");
    challenges.give_out([4; 32], 100).expect("room");
    assert_eq!(challenges.give_out([5; 32], 100), Err(ChallengeError::Full(2)));
    assert_eq!(challenges.take(&[3; 32], 401), Err(ChallengeError::NotOutstanding), "after five minutes");
    challenges.give_out([5; 32], 401).expect("the old ones were forgotten");
}

/// The same evidence is refused for the next nonce, however often its bytes were seen.
#[test]
fn b09_evidence_for_an_old_nonce_is_refused() {
    let first = binding(sim_policy().hash());
    let evidence = sim_evidence(&first);
    let mut second = first.clone();
    second.peer_nonce = [0x23; 32];
    for _ in 0..3 {
        let at = |session: &BindingContext| {
            Verifier::appraise(&evidence, &Endorsements::default(), &session.report_data(), NOW, &sim_roots())
        };
        assert!(at(&first).is_ok());
        assert!(matches!(at(&second), Err(VerifyError::ReportData)));
    }
}

/// One field at a time.
fn variations() -> Vec<(&'static str, BindingContext)> {
    let base = || binding(sim_policy().hash());
    let with = |name, change: fn(&mut BindingContext)| {
        let mut context = base();
        change(&mut context);
        (name, context)
    };
    vec![
        with("role", |context| context.role = Role::Source),
        with("exporter", |context| context.exporter[31] ^= 1),
        with("nonce", |context| context.peer_nonce[0] ^= 1),
        with("own SPKI", |context| context.own_spki.0[5] ^= 1),
        with("peer SPKI", |context| context.peer_spki.0[5] ^= 1),
        with("swapped SPKIs", |context| core::mem::swap(&mut context.own_spki, &mut context.peer_spki)),
        with("instance key", |context| context.instance_key = support::key(support::OTHER).verifying_key()),
        with("KEM key", |context| context.kem_key = Bytes::from([0x34; 32])),
        with("service", |context| context.service.push('2')),
        with("epoch", |context| context.epoch += 1),
        with("migration", |context| context.migration[0] ^= 1),
        with("policy", |context| context.policy.0[0] ^= 1),
        with("module", |context| context.module.0[0] ^= 1),
        with("provider", |context| context.provider = "acme2".to_owned()),
        with("ledger", |context| context.ledger = "ledger-2".to_owned()),
        // Bytes that move from one text into the next must not hash the same.
        with("moved bytes", |context| {
            context.provider = "acmel".to_owned();
            context.ledger = "edger-1".to_owned();
        }),
    ]
}

#[test]
fn b10_another_value_of_any_field_is_refused() {
    let right = binding(sim_policy().hash());
    let evidence = sim_evidence(&right);
    for (name, wrong) in variations() {
        let outcome = Verifier::appraise(&evidence, &Endorsements::default(), &wrong.report_data(), NOW, &sim_roots());
        assert!(matches!(outcome, Err(VerifyError::ReportData)), "{name}: {outcome:?}");
    }
}

/// Claims that were bound to one context are worth nothing with another, also if somebody tries to pass them on.
#[test]
fn b10_claims_are_only_good_for_the_context_they_were_bound_to() {
    let right = binding(sim_policy().hash());
    let claims = sim_claims(&right);
    assert!(sim_policy().appraise(&claims, &support::context(&right)).is_accepted());
    for (name, wrong) in variations() {
        let appraisal = sim_policy().appraise(&claims, &support::context(&wrong));
        assert!(appraisal.breaks(crate::Rule::OtherBinding), "{name}");
    }
}

/// Regression: a public verifier accepted evidence without report data where none was handed in.
#[test]
fn b11_empty_zero_short_and_long_report_data_is_refused() {
    let right = binding(sim_policy().hash());
    let expected = right.report_data();
    assert_ne!(expected.as_bytes(), &[0; 64]);
    let good = expected.as_bytes();
    for wrong in [Vec::new(), vec![0; 64], good[..32].to_vec(), [&good[..], &[0]].concat(), vec![0xff; 64]] {
        let payload = cbor::encode(&cbor::map([
            (0, crate::roots::SIM_LABEL.into()),
            (1, "sim:laptop".into()),
            (2, Value::Bytes(vec![1; 32])),
            (3, Value::Bytes(vec![1; 32])),
            (4, Value::Bytes(vec![1; 32])),
            (5, Value::Bytes(wrong.clone())),
        ]));
        let token = crate::verify::sim::sign_unchecked(payload, &support::key(support::SIM_PLATFORM)).expect("signs");
        let evidence = crate::Evidence::Sim(token);
        let outcome = Verifier::appraise(&evidence, &Endorsements::default(), &expected, NOW, &sim_roots());
        let fits = if wrong.len() == 64 {
            matches!(outcome, Err(VerifyError::ReportData))
        } else {
            matches!(outcome, Err(VerifyError::Malformed { .. }))
        };
        assert!(fits, "{} bytes: {outcome:?}", wrong.len());
    }
    // The same in the hardware's format: all-zero report data is only what it is, never a wildcard.
    let mut machine = super::amd::Machine::genoa();
    machine.report_data = [0; 64];
    let (evidence, endorsements) = machine.evidence();
    let outcome = Verifier::appraise(&evidence, &endorsements, &expected, super::amd::NOW, &machine.roots());
    assert!(matches!(outcome, Err(VerifyError::ReportData)), "{outcome:?}");
    machine.report_data = *expected.as_bytes();
    let (evidence, endorsements) = machine.evidence();
    assert!(Verifier::appraise(&evidence, &endorsements, &expected, super::amd::NOW, &machine.roots()).is_ok());
}

#[test]
fn b12_unknown_fields_of_a_context_are_refused() {
    let right = binding(sim_policy().hash());
    assert_eq!(BindingContext::from_cbor(&right.to_cbor()).expect("reads"), right);
    let Value::Map(mut entries) = cbor::decode(&right.to_cbor(), 4096).expect("CBOR") else { panic!("a map") };
    entries.push((99.into(), Value::Bool(true)));
    assert!(BindingContext::from_cbor(&cbor::encode(&Value::Map(entries.clone()))).is_err());
    entries.pop();
    for missing in 0..entries.len() {
        let mut fewer = entries.clone();
        fewer.remove(missing);
        assert!(BindingContext::from_cbor(&cbor::encode(&Value::Map(fewer))).is_err(), "without entry {missing}");
    }
    entries[0].1 = 2.into();
    assert!(BindingContext::from_cbor(&cbor::encode(&Value::Map(entries))).is_err(), "another version");
}

/// The encoding is part of the protocol: this value never changes for version 1.
#[test]
fn the_report_data_of_a_known_context_is_known() {
    let data: ReportData = binding(Digest([9; 32])).report_data();
    assert_eq!(Digest::of(data.as_bytes()).0, data.tpm_qualifying_data());
    assert_eq!(Bytes::from(data.as_bytes()).to_string().get(..32), Some("544078a5e83b6fc70a323201cdbefa1d"));
}
