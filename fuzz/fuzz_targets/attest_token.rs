//! Goal: tokens, platform statements and contexts from outside are read without a panic, and only the one encoding
//! of each is read.
//!
//! Method: bytes are taken as they are, and as the payload of an object that is signed here with the key that is
//! trusted, so that everything behind the signature is reached.

#![no_main]

use std::sync::OnceLock;

use coset::{CoseSign1Builder, HeaderBuilder, TaggedCborSerializable as _, iana};
use dunlin_attest::{BindingContext, Endorsements, Evidence, Policy, SigningKey, SimRoots, Verifier, token};
use libfuzzer_sys::fuzz_target;

const TOKEN: &str = "application/eat+cwt; eat_profile=\"tag:dunlin-project,2026:ear\"";
const STATEMENT: &str = "application/vnd.dunlin.platform+cbor";
const SIM: &str = "application/vnd.dunlin.sim+cbor";

fn key() -> SigningKey {
    SigningKey::from_bytes(&[1; 32]).unwrap()
}

fn policy() -> &'static Policy {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    POLICY.get_or_init(|| {
        let key = key().verifying_key();
        let digest = "00".repeat(32);
        let text = format!(
            "format = 1\nservice = \"shop\"\nversion = 1\nissued = 2026-01-01T00:00:00Z\nexpires = 2027-01-01T00:00:00Z\n\
             class_floor = \"sim\"\nmodules = [\"{digest}\"]\nsim.accept = [{{ runtime = \"{digest}\" }}]\n\
             insecure.any_provider = true\nledger = {{ id = \"l\", keys = [\"{key}\"], quorum = 1 }}\n\
             token.verifiers = [\"{key}\"]\n"
        );
        Policy::verify(&Policy::sign(&text, &self::key()).unwrap(), "shop", &[key], None).unwrap()
    })
}

fn signed(content_type: &str, payload: &[u8]) -> Vec<u8> {
    let protected = HeaderBuilder::new()
        .algorithm(iana::Algorithm::ES256)
        .content_type(content_type.to_owned())
        .key_id(key().verifying_key().thumbprint().0.to_vec())
        .build();
    CoseSign1Builder::new()
        .protected(protected)
        .payload(payload.to_vec())
        .create_signature(content_type.as_bytes(), |message| key().sign(message).to_vec())
        .build()
        .to_tagged_vec()
        .unwrap()
}

fuzz_target!(|data: &[u8]| {
    // One way for each run, because each of them costs signatures.
    let Some((choice, data)) = data.split_first() else { return };
    let confirmation = policy().signer();
    let expect =
        token::Expectation { audience: "me", nonce: &[7; 32], confirmation: &confirmation, now: 1_780_000_000 };
    let roots = || SimRoots {
        keys: vec![confirmation],
        providers: vec![("acme".to_owned(), confirmation)],
        ..SimRoots::default()
    };
    let inspect = |token: Vec<u8>, statement: Option<Vec<u8>>| {
        let endorsements = Endorsements { statement, ..Endorsements::default() };
        let _ = Verifier::inspect(&Evidence::Sim(token), &endorsements, 0, &roots());
    };
    match choice % 6 {
        0 => {
            if let Ok(context) = BindingContext::from_cbor(data) {
                assert_eq!(context.to_cbor(), data, "the context is not canonical");
            }
        }
        1 => drop(token::verify(data, policy(), &expect)),
        2 => drop(token::verify(&signed(TOKEN, data), policy(), &expect)),
        3 => inspect(data.to_vec(), None),
        4 => inspect(signed(SIM, data), None),
        _ => {
            // A simulated machine that is sound, so that the statement is reached.
            let (label, machine) = ("SIMULATED: this proves nothing about the machine or its operator", "sim:laptop");
            let mut payload = vec![0xa6, 0x00, 0x78, label.len() as u8];
            payload.extend(label.as_bytes());
            payload.extend([0x01, 0x60 | machine.len() as u8]);
            payload.extend(machine.as_bytes());
            for field in 2..=4 {
                payload.extend([field, 0x58, 32]);
                payload.extend([field; 32]);
            }
            payload.extend([0x05, 0x58, 64]);
            payload.extend([5; 64]);
            inspect(signed(SIM, &payload), Some(signed(STATEMENT, data)));
        }
    }
});
