//! B12 to B15, as far as they are about tokens and other signed objects.

use ciborium::Value;
use coset::{CborSerializable as _, CoseKeyBuilder, CoseSign1, HeaderBuilder, TaggedCborSerializable as _, iana};

use super::support::{
    self, NOW, VERIFIER, binding, context, key, policy_text, signed, sim_block, sim_claims, sim_policy,
};
use crate::token::{Expectation, IssueError, Token, TokenError, issue, verify};
use crate::{BindingContext, CoseError, Policy, Tier, VerifyingKey};

fn session() -> BindingContext {
    binding(sim_policy().hash())
}

fn token() -> Vec<u8> {
    let session = session();
    let appraisal = sim_policy().appraise(&sim_claims(&session), &context(&session));
    assert_eq!(appraisal.reasons(), []);
    issue(&appraisal, "broker-1", 300, &key(VERIFIER)).expect("issues")
}

fn check(token: &[u8], change: impl FnOnce(&mut Expectation<'_>)) -> Result<Token, TokenError> {
    let (session, confirmation) = (session(), key(support::INSTANCE).verifying_key());
    let mut expect =
        Expectation { audience: "broker-1", nonce: &session.peer_nonce, confirmation: &confirmation, now: NOW };
    change(&mut expect);
    verify(token, &sim_policy(), &expect)
}

#[test]
fn a_token_says_what_was_appraised() {
    let token = check(&token(), |_| {}).expect("verifies");
    let session = session();
    assert_eq!((token.service.as_str(), token.epoch, token.module), ("shop", 7, session.module));
    assert_eq!((token.policy, token.policy_version), (sim_policy().hash(), 3));
    assert_eq!(token.binding.0, session.report_data().as_bytes());
    assert_eq!((token.issued, token.expires), (NOW, NOW + 300));
    assert_eq!((token.provider.as_deref(), token.platform.as_str()), (Some("acme"), "sim:laptop"));
    // Simulation is never affirmed, and says so.
    assert_eq!((token.class, token.vector.status()), (crate::Class::Sim, Tier::Warning));
    assert!(token.warnings.iter().any(|warning| warning.starts_with("SIMULATED")));
}

/// The claims a relying party of any make can read, by the numbers of CWT, EAT and EAR.
#[test]
fn a_token_has_the_shape_of_ear() {
    let sign1 = CoseSign1::from_tagged_slice(&token()).expect("COSE");
    let claims: Value = ciborium::from_reader(&sign1.payload.expect("a payload")[..]).expect("CBOR");
    let Value::Map(claims) = claims else { panic!("a map") };
    let get = |number: u64| claims.iter().find(|(key, _)| *key == number.into()).map(|(_, value)| value.clone());
    for number in [3u64, 4, 6, 8, 10, 265, 266, 1004] {
        assert!(get(number).is_some(), "claim {number}");
    }
    let Some(Value::Map(submodules)) = get(266) else { panic!("submodules") };
    let Value::Map(keep) = &submodules[0].1 else { panic!("a submodule") };
    for number in [1000u64, 1001, 1003] {
        assert!(keep.iter().any(|(key, _)| *key == number.into()), "claim {number}");
    }
}

fn rebuilt(change: impl FnOnce(&mut CoseSign1)) -> Vec<u8> {
    let mut sign1 = CoseSign1::from_tagged_slice(&token()).expect("COSE");
    change(&mut sign1);
    sign1.protected.original_data = None;
    let content_type = "application/eat+cwt; eat_profile=\"tag:dunlin-project,2026:ear\"";
    sign1.signature = key(VERIFIER).sign(&sign1.tbs_data(content_type.as_bytes())).to_vec();
    sign1.to_tagged_vec().expect("encodes")
}

#[test]
fn b12_unknown_critical_fields_are_refused() {
    assert!(check(&rebuilt(|_| {}), |_| {}).is_ok(), "the tool itself changes nothing");
    let critical = rebuilt(|sign1| {
        sign1.protected.header.crit = vec![coset::RegisteredLabelWithPrivate::Text("future".to_owned())];
        sign1.protected.header.rest = vec![(coset::Label::Text("future".to_owned()), Value::Bool(true))];
    });
    assert!(matches!(check(&critical, |_| {}), Err(TokenError::Signed(CoseError::Header(_)))));
    let unprotected = rebuilt(|sign1| sign1.unprotected.key_id = vec![1]);
    assert!(matches!(check(&unprotected, |_| {}), Err(TokenError::Signed(CoseError::Header(_)))));
    let algorithm = rebuilt(|sign1| {
        sign1.protected.header.alg = Some(coset::RegisteredLabelWithPrivate::Assigned(iana::Algorithm::ES384));
    });
    assert!(matches!(check(&algorithm, |_| {}), Err(TokenError::Signed(CoseError::Header(_)))));
    let claim = rebuilt(|sign1| {
        let payload = sign1.payload.take().expect("a payload");
        let Value::Map(mut claims) = ciborium::from_reader(&payload[..]).expect("CBOR") else { panic!("a map") };
        claims.push((9999.into(), Value::Bool(true)));
        sign1.payload = Some(crate::cbor::encode(&Value::Map(claims)));
    });
    assert!(matches!(check(&claim, |_| {}), Err(TokenError::Cbor(_))));
}

/// Regression: a public key broker accepts the key that the token itself brings along.
#[test]
fn b13_a_key_that_the_token_brings_along_is_not_used() {
    let attacker = key(support::OTHER);
    let session = session();
    let appraisal = sim_policy().appraise(&sim_claims(&session), &context(&session));
    let forged = issue(&appraisal, "broker-1", 300, &attacker).expect("issues");
    assert!(matches!(check(&forged, |_| {}), Err(TokenError::Signed(CoseError::UnknownKey(_)))));
    // With the key in the header, in every place where one could be.
    let point = attacker.verifying_key().to_bytes();
    let cose_key =
        CoseKeyBuilder::new_ec2_pub_key_y_sign(iana::EllipticCurve::P_256, point[1..].to_vec(), point[0] == 3);
    let cose_key = cose_key.build().to_vec().expect("encodes");
    let cose_key: Value = ciborium::from_reader(&cose_key[..]).expect("CBOR");
    for label in ["jwk", "cose_key", "x5c"] {
        for protected in [true, false] {
            let mut sign1 = CoseSign1::from_tagged_slice(&forged).expect("COSE");
            let extra = HeaderBuilder::new().text_value(label.to_owned(), cose_key.clone()).build();
            if protected {
                sign1.protected.header.rest = extra.rest;
                sign1.protected.original_data = None;
            } else {
                sign1.unprotected = extra;
            }
            let content_type = "application/eat+cwt; eat_profile=\"tag:dunlin-project,2026:ear\"";
            sign1.signature = attacker.sign(&sign1.tbs_data(content_type.as_bytes())).to_vec();
            let outcome = check(&sign1.to_tagged_vec().expect("encodes"), |_| {});
            assert!(matches!(outcome, Err(TokenError::Signed(_))), "{label}: {outcome:?}");
        }
    }
    // The attacker's signature under the verifier's key identifier.
    let named = rebuilt(|_| {});
    let mut sign1 = CoseSign1::from_tagged_slice(&named).expect("COSE");
    let content_type = "application/eat+cwt; eat_profile=\"tag:dunlin-project,2026:ear\"";
    sign1.signature = attacker.sign(&sign1.tbs_data(content_type.as_bytes())).to_vec();
    let outcome = check(&sign1.to_tagged_vec().expect("encodes"), |_| {});
    assert_eq!(outcome, Err(TokenError::Signed(CoseError::Signature)));
}

#[test]
fn b13_without_verifiers_in_the_policy_no_token_is_accepted() {
    let text =
        policy_text("sim", &sim_block()).replace(&format!("verifiers = [\"{}\"]", key(VERIFIER).verifying_key()), "");
    let policy: Policy = signed(&text);
    let session = session();
    let confirmation = key(support::INSTANCE).verifying_key();
    let expect =
        Expectation { audience: "broker-1", nonce: &session.peer_nonce, confirmation: &confirmation, now: NOW };
    assert!(matches!(verify(&token(), &policy, &expect), Err(TokenError::Signed(CoseError::UnknownKey(_)))));
}

#[test]
fn b14_a_token_outside_its_time_is_refused() {
    let token = token();
    for (now, good) in
        [(NOW - 1, false), (NOW, true), (NOW + 300, true), (NOW + 301, false), (u64::MAX, false), (0, false)]
    {
        let outcome = check(&token, |expect| expect.now = now);
        assert_eq!(outcome.is_ok(), good, "at {now}: {outcome:?}");
        assert!(good || matches!(outcome, Err(TokenError::Time { .. })));
    }
    // A verifier that signs for longer than five minutes is not believed.
    let long = rebuilt(|sign1| {
        let payload = sign1.payload.take().expect("a payload");
        let Value::Map(mut claims) = ciborium::from_reader(&payload[..]).expect("CBOR") else { panic!("a map") };
        for (key, value) in &mut claims {
            if *key == 4.into() {
                *value = (NOW + 301).into();
            }
        }
        sign1.payload = Some(crate::cbor::encode(&Value::Map(claims)));
    });
    assert!(matches!(check(&long, |_| {}), Err(TokenError::Time { .. })));
}

#[test]
fn b14_no_token_is_issued_for_longer_than_allowed() {
    let session = session();
    let appraisal = sim_policy().appraise(&sim_claims(&session), &context(&session));
    for seconds in [0, 301, u64::MAX] {
        let outcome = issue(&appraisal, "broker-1", seconds, &key(VERIFIER));
        assert_eq!(outcome, Err(IssueError::Lifetime { asked: seconds, limit: 300 }));
    }
    let mut session = session;
    session.epoch = 8;
    let denied = sim_policy().appraise(&sim_claims(&binding(sim_policy().hash())), &context(&session));
    assert!(matches!(issue(&denied, "broker-1", 60, &key(VERIFIER)), Err(IssueError::Denied(1))));
}

#[test]
fn b15_a_token_for_another_is_refused() {
    let token = token();
    let outcome = check(&token, |expect| expect.audience = "broker-2");
    assert!(matches!(outcome, Err(TokenError::Audience { .. })), "{outcome:?}");
    let outcome = check(&token, |expect| expect.nonce = &[9; 32]);
    assert_eq!(outcome, Err(TokenError::Nonce));
    let other: &'static VerifyingKey = Box::leak(Box::new(key(support::OTHER).verifying_key()));
    let outcome = check(&token, |expect| expect.confirmation = other);
    assert_eq!(outcome, Err(TokenError::Confirmation));
    let another = signed(&policy_text("sim", &sim_block()).replace("version = 3", "version = 4"));
    let (session, confirmation) = (session(), key(support::INSTANCE).verifying_key());
    let expect =
        Expectation { audience: "broker-1", nonce: &session.peer_nonce, confirmation: &confirmation, now: NOW };
    assert!(matches!(verify(&token, &another, &expect), Err(TokenError::Policy { .. })));
}

#[test]
fn b15_an_object_of_another_kind_is_refused() {
    let policy = Policy::sign(&policy_text("sim", &sim_block()), &key(VERIFIER)).expect("signs");
    assert!(matches!(check(&policy, |_| {}), Err(TokenError::Signed(CoseError::Header(_)))));
    let outcome = Policy::verify(&token(), "shop", &[key(VERIFIER).verifying_key()], None);
    assert!(matches!(outcome, Err(crate::PolicyError::Signed(CoseError::Header(_)))));
}

#[test]
fn every_bit_flip_of_a_token_is_refused() {
    let token = token();
    for at in 0..token.len() {
        for bit in 0..8 {
            let mut changed = token.clone();
            changed[at] ^= 1 << bit;
            assert!(check(&changed, |_| {}).is_err(), "bit {bit} of byte {at}");
        }
    }
}
