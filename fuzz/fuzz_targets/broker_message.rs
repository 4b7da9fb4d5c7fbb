//! Goal: messages to and from a broker end in a value or an error, without a panic and without allocating by a length
//! that they declare; what is read is written back as the same bytes; and whatever a broker is sent, it releases nothing
//! to somebody without evidence.
//!
//! Method: the input is read as a message, and again behind the version byte, so that the decoders are reached. What was
//! read is given to a broker that has a session open.

#![no_main]

use std::sync::Arc;

use dunlin_attest::SigningKey;
use dunlin_broker::{Broker, Input, Message, Output, Roots};
use dunlin_handover::codec::Wire as _;
use dunlin_handover::ledger::{Candidate, Checks};
use dunlin_handover::{Entropy, Key};
use libfuzzer_sys::fuzz_target;

#[derive(Debug)]
struct Nobody;

impl Checks for Nobody {
    fn verify(&self, _: Key, _: &[u8], _: &[u8]) -> bool {
        false
    }

    fn appraise(&self, _: &Candidate<'_>) -> Result<(), String> {
        Err("nobody".to_owned())
    }
}

fn read(bytes: &[u8]) {
    let Ok(message) = Message::from_bytes(bytes) else { return };
    assert_eq!(message.to_bytes(), bytes, "{} has two encodings", message.name());
    let key = SigningKey::from_bytes(&[1; 32]).expect("a key");
    let mut broker = Broker::new(key, Arc::new(Nobody), Roots::Production, Entropy::new([2; 32]));
    let output = broker.step(Input::Message(message), 0);
    assert!(!matches!(output, Output::Record { .. } | Output::Reply(Message::Answer(_))));
}

fuzz_target!(|data: &[u8]| {
    read(data);
    read(&[&[1], data].concat());
});
