//! The bytes of every message, pinned by files that change only on purpose (`DUNLIN_BLESS=1` writes them anew), and
//! what becomes of other bytes.

mod common;

use std::fmt::Write as _;
use std::path::PathBuf;

use common::{Instance, World};
use dunlin_attest::Endorsements;
use dunlin_broker::{Denied, Fetch, Message, Refusal, SessionId, Want};
use dunlin_handover::Nonce;
use dunlin_handover::codec::Wire as _;

/// Every kind of message. Nothing in them depends on this build but the evidence, which is replaced.
fn messages() -> Vec<Message> {
    let one = Instance::new("one");
    let mut world = World::held_by(&one);
    world.commit(&one, 5);
    let (fetch, hello) = Fetch::begin(&one.party, Want::Secret("tls-key".to_owned()), Nonce([8; 32]), [0; 32]);
    let challenge = world.reply(hello.clone());
    let challenged = fetch.challenged(challenge.clone()).unwrap();
    let evidence = one.evidence(challenged.binding());
    let (_, ask) = challenged.ask(&evidence, &Endorsements::default());
    let answer = world.reply(ask.clone());
    let keys = {
        let Message::Ask(mut ask) = ask.clone() else { panic!("an ask") };
        ask.want = Want::Keys;
        Message::Ask(ask)
    };
    let mut all = vec![hello, challenge, ask, keys, answer];
    let reasons = [
        Denied::NoSuchService,
        Denied::Session,
        Denied::Busy,
        Denied::Signature,
        Denied::Evidence("reason".to_owned()),
        Denied::Policy("reason".to_owned()),
        Denied::Ledger,
        Denied::NotHolder,
        Denied::NoSuchSecret,
        Denied::Record,
    ];
    all.extend(reasons.map(|reason| Message::Refusal(Refusal { session: SessionId([7; 16]), reason })));
    all
}

/// The messages whose bytes do not depend on the build.
fn fixed() -> Vec<(&'static str, Message)> {
    use dunlin_base::Digest;
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let fields = |kind: u8, parts: &[&[u8]]| {
        let bytes = [&[1, kind][..], &parts.concat()].concat();
        Message::from_bytes(&bytes).unwrap()
    };
    let point = [&[2][..], &hex(&"11".repeat(32))].concat();
    let name = b"\x02\x07\0\0\0tls-key";
    let digest = Digest([0x66; 32]);
    vec![
        ("hello", fields(1, &[&[0x51; 16], &[0x22; 32]])),
        ("challenge", fields(2, &[&[0x33; 16], &[0x44; 32], &point])),
        (
            "ask",
            fields(
                3,
                &[
                    &[0x33; 16],
                    name,
                    &9u64.to_le_bytes(),
                    &point,
                    &[0x55; 32],
                    &digest.0,
                    b"\x04\0\0\0acme",
                    b"\x03\0\0\0\x01\x02\x03",
                    b"\x01\0\0\0\xa0",
                    &[0x77; 64],
                ],
            ),
        ),
        ("answer", fields(4, &[&[0x33; 16], &[0x88; 32], b"\x02\0\0\0\x99\x99", &[0x77; 64]])),
        ("refusal", fields(5, &[&[0x33; 16], b"\x06\x03\0\0\0why"])),
    ]
}

#[test]
fn every_message_has_its_golden_bytes() {
    for (name, message) in fixed() {
        assert_eq!(message.name(), name);
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
        let mut text = String::new();
        for line in message.to_bytes().chunks(16) {
            let line: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(text, "{}", line.join(" ")).unwrap();
        }
        if std::env::var_os("DUNLIN_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            continue;
        }
        let pinned = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, pinned, "{name} is encoded otherwise than in {}", path.display());
    }
}

#[test]
fn a_message_is_read_whole_and_in_its_one_encoding() {
    for message in messages() {
        let bytes = message.to_bytes();
        assert_eq!(Message::from_bytes(&bytes).as_ref(), Ok(&message));
        for length in (0..bytes.len()).step_by(1 + bytes.len() / 400) {
            assert!(Message::from_bytes(&bytes[..length]).is_err(), "{} cut to {length}", message.name());
        }
        assert!(Message::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = Message::from_bytes(&changed) {
                assert_eq!(other.to_bytes(), changed, "{} with bit {bit} changed", message.name());
            }
        }
    }
}

#[test]
fn a_changed_request_releases_nothing() {
    let one = Instance::new("one");
    let mut world = World::held_by(&one);
    let (fetch, hello) = Fetch::begin(&one.party, Want::Keys, Nonce([8; 32]), [0; 32]);
    let challenge = world.reply(hello);
    let (_, ask) = {
        let challenged = fetch.challenged(challenge).unwrap();
        let evidence = one.evidence(challenged.binding());
        challenged.ask(&evidence, &Endorsements::default())
    };
    let bytes = ask.to_bytes();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        let Ok(message) = Message::from_bytes(&changed) else { continue };
        // A broker in the same state, with the same session open.
        let mut world = World::held_by(&one);
        let (_, hello) = Fetch::begin(&one.party, Want::Keys, Nonce([8; 32]), [0; 32]);
        world.reply(hello);
        let reply = world.reply(message);
        assert!(matches!(reply, Message::Refusal(_)), "byte {at}: {}", reply.name());
        assert!(world.released.is_empty());
    }
}
