//! The bytes of every message, pinned by files that change only on purpose: `DUNLIN_BLESS=1` writes them anew.

use std::fmt::Write as _;
use std::path::PathBuf;

use dunlin_attest::Bytes;
use dunlin_attested::{Attest, Challenge, Check, MAX_MESSAGE, Message, Reason, Side, VERSION, Verdict};
use dunlin_base::Digest;
use dunlin_handover::codec::Wire as _;
use dunlin_handover::ledger::{Reading, Record, Signature, Status};
use dunlin_handover::{Key, MigrationId, Nonce, PlatformId, ServiceId};

fn challenge() -> Challenge {
    Challenge {
        version: VERSION,
        side: Side::Source,
        nonce: Nonce([0x11; 32]),
        migration: MigrationId([0x12; 16]),
        service: ServiceId([0x13; 16]),
        epoch: 0x0102_0304_0506_0708,
        policy: Digest([0x14; 32]),
        module: Digest([0x15; 32]),
        ledger: Key([0x16; 32]),
    }
}

fn reading() -> Reading {
    let record = Record {
        service: ServiceId([0x13; 16]),
        epoch: 2,
        holder: Some(Key([0x21; 32])),
        holder_platform: Some(PlatformId([0x22; 32])),
        version: 3,
        state_hash: Digest([0x23; 32]),
        state_epoch: 3,
        policy_hash: Digest([0x14; 32]),
        policy_version: 4,
        status: Status::Held,
        prev: Digest([0x24; 32]),
    };
    Reading {
        record,
        index: 5,
        head: Digest([0x25; 32]),
        nonce: Nonce([0x11; 32]),
        ledger: Key([0x16; 32]),
        signature: Signature(vec![0x26; 3]),
    }
}

fn proof(reading: Option<Reading>) -> Message {
    Message::Attest(Box::new(Attest {
        instance_key: [0x31; 33],
        kem_key: Bytes(vec![0x32; 4]),
        evidence: vec![0x33; 5],
        endorsements: vec![0x34; 2],
        reading,
        signature: [0x35; 64],
    }))
}

fn messages() -> Vec<(&'static str, Message)> {
    let reasons = vec![Reason::new(Check::Migration, "other"), Reason::new(Check::Appraisal, "weak")];
    vec![
        ("challenge_source", Message::Challenge(challenge())),
        ("challenge_destination", Message::Challenge(Challenge { side: Side::Destination, ..challenge() })),
        ("attest_destination", proof(None)),
        ("attest_source", proof(Some(reading()))),
        ("verdict_yes", Message::Verdict(Verdict { reasons: Vec::new() })),
        ("verdict_no", Message::Verdict(Verdict { reasons })),
    ]
}

fn lines(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a text"));
        text.push('\n');
    }
    text
}

#[test]
fn the_bytes_of_every_message_are_those_of_the_files() {
    for (name, message) in messages() {
        let bytes = message.to_bytes();
        assert_eq!(Message::from_bytes(&bytes), Ok(message), "{name}");
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).join(format!("{name}.hex"));
        if std::env::var_os("DUNLIN_BLESS").is_some() {
            std::fs::write(&path, lines(&bytes)).expect("written");
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(golden, lines(&bytes), "{name} changed; if that is meant: DUNLIN_BLESS=1");
        for length in 0..bytes.len() {
            assert!(Message::from_bytes(&bytes[..length]).is_err(), "{name} of {length} bytes");
        }
        assert!(Message::from_bytes(&[bytes.as_slice(), &[0]].concat()).is_err(), "{name} and a byte");
    }
}

#[test]
fn the_largest_message_is_within_the_limit_and_larger_parts_are_not_read() {
    let largest = |evidence, endorsements| {
        Message::Attest(Box::new(Attest {
            instance_key: [1; 33],
            kem_key: Bytes(vec![1; 2048]),
            evidence: vec![1; evidence],
            endorsements: vec![1; endorsements],
            reading: Some(Reading { signature: Signature(vec![1; 8192]), ..reading() }),
            signature: [1; 64],
        }))
        .to_bytes()
    };
    let bytes = largest(64 << 10, 512 << 10);
    assert!(bytes.len() <= MAX_MESSAGE && Message::from_bytes(&bytes).is_ok());
    assert!(Message::from_bytes(&largest((64 << 10) + 1, 0)).is_err());
    assert!(Message::from_bytes(&largest(0, (512 << 10) + 1)).is_err());
    let many = vec![Reason::new(Check::Local, "x".repeat(5000)); 100];
    let verdict = Message::Verdict(Verdict { reasons: many });
    let Ok(Message::Verdict(read)) = Message::from_bytes(&verdict.to_bytes()) else { panic!("not read") };
    assert_eq!((read.reasons.len(), read.reasons[0].text.as_str().len()), (64, 512));
}
