//! The bytes of every message, request, receipt and record, pinned by files that change only on purpose:
//! `DUNLIN_BLESS=1` writes them anew.

#[allow(unreachable_pub, dead_code, reason = "shared with other test programs")]
#[path = "world/keys.rs"]
mod keys;

use std::fmt::Write as _;
use std::path::PathBuf;

use dunlin_base::{Digest, PAGE_SIZE};
use dunlin_handover::codec::Wire;
use dunlin_handover::converge::Mode;
use dunlin_handover::ledger::{
    Authority, LedgerState, Operation, Reading, Receipt, Record, Recovery, Refused, Request, Signature, Staged, Status,
};
use dunlin_handover::message::{
    Abort, AbortCode, Blocked, BlockedCode, ChannelGuard, Chunk, Complete, Content, Evidence, Features, Final, Hello,
    LeftBehind, Link, MemoryShape, Message, Offer, PageRequest, Pages, Reattach, Round, Run, Text, VolumeChunks,
    VolumeHeld, Welcome,
};
use dunlin_handover::{Key, MigrationId, Nonce, OperationId, PlatformId, ServiceId};
use keys::{TestChecks, TestKey, ledger_key};

fn record() -> Record {
    Record {
        service: ServiceId([0x51; 16]),
        epoch: 0x0102,
        holder: Some(Key([0x52; 32])),
        holder_platform: Some(PlatformId([0x53; 32])),
        version: 0x0304,
        state_hash: Digest([0x54; 32]),
        state_epoch: 3,
        policy_hash: Digest([0x55; 32]),
        policy_version: 7,
        status: Status::Held,
        prev: Digest([0x56; 32]),
    }
}

fn staged() -> Staged {
    Staged {
        service: ServiceId([0x51; 16]),
        migration: MigrationId([0x61; 16]),
        epoch: 0x0102,
        version: 0x0305,
        state_hash: Digest([0x62; 32]),
        holder: Key([0x63; 32]),
        platform: PlatformId([0x64; 32]),
        complete: true,
        signature: Signature(vec![0x65; 3]),
    }
}

fn receipt() -> Receipt {
    Receipt {
        index: 9,
        operation: OperationId([0x71; 16]),
        request: Digest([0x72; 32]),
        record: record(),
        ledger: Key([0x73; 32]),
        signature: Signature(vec![0x74; 3]),
    }
}

fn reading() -> Reading {
    Reading {
        record: record(),
        index: 9,
        head: Digest([0x75; 32]),
        nonce: Nonce([0x76; 32]),
        ledger: Key([0x73; 32]),
        signature: Signature(vec![0x74; 3]),
    }
}

fn messages() -> Vec<Message> {
    let (migration, service) = (MigrationId([0x61; 16]), ServiceId([0x51; 16]));
    let chunk = Chunk { offset: 4, total: 16, bytes: b"piece".to_vec() };
    let round = Round { round: 2, pages: 3 };
    let runs = vec![
        Run { first: 1, count: 1, content: Content::Bytes(vec![0xaa; PAGE_SIZE]) },
        Run { first: 2, count: 5, content: Content::Zero },
        Run { first: 9, count: 2, content: Content::Zstd(vec![0xbb; 12]) },
    ];
    vec![
        Message::Hello(Hello {
            oldest: 1,
            newest: 2,
            migration,
            service,
            holder: Key([0x52; 32]),
            nonce: Nonce([0x57; 32]),
        }),
        Message::Welcome(Welcome {
            version: 1,
            holder: Key([0x63; 32]),
            platform: PlatformId([0x64; 32]),
            nonce: Nonce([0x58; 32]),
            features: Features { postcopy: true, zstd: false },
            evidence: Evidence(b"evidence".to_vec()),
        }),
        Message::Offer(Offer {
            reading: reading(),
            module: Digest([0x59; 32]),
            snapshot_version: 1,
            memories: vec![MemoryShape { pages: 16, maximum: 32 }],
            needs: vec![Text::new("simd")],
            mode: Mode::Auto,
            dry_run: false,
            evidence: Evidence(Vec::new()),
        }),
        Message::Accept(true),
        Message::Refuse(vec![Blocked { code: BlockedCode::Needs, text: Text::new("no simd here") }]),
        Message::Module(chunk.clone()),
        Message::Prepared(1500),
        Message::VolumeHeld(VolumeHeld(vec![Digest([0x5a; 32]), Digest([0x5b; 32])])),
        Message::Pages(Pages { round: 2, memory: 0, runs }),
        Message::RoundEnd(round),
        Message::RoundAck(round),
        Message::State(chunk),
        Message::Final(Final {
            epoch: 0x0102,
            version: 0x0305,
            state_hash: Digest([0x62; 32]),
            pages: 3,
            lazy_pages: 0,
            retained: None,
        }),
        Message::LeftBehind(LeftBehind { memory: 0, ranges: vec![(4, 2), (10, 1)] }),
        Message::VolumeChunks(VolumeChunks(vec![b"sealed".to_vec(), vec![0xcc; 3]])),
        Message::Staged(staged()),
        Message::Committed(receipt()),
        Message::Activated(900),
        Message::PageRequest(PageRequest { memory: 0, first: 4, count: 2 }),
        Message::PushEnd(3),
        Message::Complete(Complete { pages: 3, blocktime: 250 }),
        Message::Reattach(Reattach { migration, service, epoch: 0x0103, placed: 1 }),
        Message::Reattached(staged()),
        Message::Placed(2),
        Message::Ping(1),
        Message::Pong(1),
        Message::Abort(Abort { code: AbortCode::Cancelled, text: Text::new("cancelled") }),
    ]
}

#[test]
fn every_message_has_its_golden_frame() {
    for message in messages() {
        let mut link = Link::new(Box::new(ChannelGuard), message.since());
        link.send(&message);
        let frame = link.poll().unwrap();
        golden(&format!("message-{:02x}-{}", message.kind(), message.name().to_lowercase()), &frame);
        assert_eq!(Link::new(Box::new(ChannelGuard), message.since()).receive(&frame), Ok(message));
    }
}

#[test]
fn a_changed_frame_is_refused_or_is_the_one_encoding_of_another_message() {
    let mut taken = 0;
    for message in messages() {
        let mut link = Link::new(Box::new(ChannelGuard), message.since());
        link.send(&message);
        let frame = link.poll().unwrap();
        // Not in the tag, and not in every byte of a page.
        for bit in (0..(frame.len() - 16) * 8).filter(|bit| *bit < 4096 || bit % 997 == 0) {
            let mut changed = frame.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let version = u16::from_le_bytes([changed[4], changed[5]]);
            if let Ok(other) = Link::new(Box::new(ChannelGuard), version).receive(&changed) {
                let mut link = Link::new(Box::new(ChannelGuard), version);
                link.send(&other);
                assert_eq!(link.poll().unwrap(), changed, "{other:?} has two encodings");
                taken += 1;
            }
        }
    }
    assert!(taken > 1000, "ids and digests can be anything");
}

#[test]
fn every_kind_of_message_is_in_the_golden_list() {
    let known: Vec<u8> = messages().iter().map(Message::kind).collect();
    for kind in 0..=255u8 {
        let mut frame = vec![28 + 4, 0, 0, 0, 2, 0, kind, 0];
        frame.extend([0; 28]);
        let refused = Link::new(Box::new(ChannelGuard), 2).receive(&frame).err();
        let unknown = refused.is_some_and(|error| format!("{error:?}").contains("message kind"));
        assert_eq!(unknown, !known.contains(&kind), "kind {kind:#04x}");
    }
}

#[test]
fn ledger_objects_have_their_golden_bytes() {
    let (key, platform, evidence) = (Key([0x52; 32]), PlatformId([0x53; 32]), Digest([0x5a; 32]));
    let state_hash = Digest([0x62; 32]);
    let recovery = Recovery { threshold: 1, keys: vec![Key([1; 32]), Key([2; 32])] };
    let operations = [
        Operation::Create {
            owner: key,
            state_hash,
            policy_hash: Digest([0x55; 32]),
            policy_version: 1,
            recovery: recovery.clone(),
        },
        Operation::Claim { holder: key, platform, evidence },
        Operation::Commit { parent: Digest([0x54; 32]), state_hash },
        Operation::Resume { holder: key, platform, evidence },
        Operation::Transfer { state_hash, evidence, retained: false, staged: staged() },
        Operation::Recover { holder: key, platform, evidence },
        Operation::UpdatePolicy { policy_hash: Digest([0x55; 32]), policy_version: 2, recovery },
        Operation::Retire,
    ];
    for (number, action) in operations.into_iter().enumerate() {
        let signatures = vec![(key, vec![0x77; 3])];
        let operation = OperationId([0x71; 16]);
        let request = Request {
            service: ServiceId([0x51; 16]),
            operation,
            epoch: 5,
            version: 6,
            action,
            signatures,
            proof: vec![0x78; 2],
        };
        pinned(&format!("request-{}", number + 1), &request);
    }
    pinned("record", &record());
    pinned("receipt", &receipt());
    pinned("reading", &reading());
    for (name, refused) in [
        ("refused-stale", Refused::Stale { epoch: 3, version: 4 }),
        ("refused-not-authorised", Refused::NotAuthorised(Authority::Platform)),
        ("refused-denied", Refused::Denied("not in the policy".to_owned())),
    ] {
        pinned(name, &refused);
    }
}

#[test]
fn the_state_of_a_ledger_survives_its_encoding_and_a_torn_one_is_refused() {
    let owner = TestKey::named("owner");
    let create = Operation::Create {
        owner: owner.0,
        state_hash: Digest([1; 32]),
        policy_hash: Digest([2; 32]),
        policy_version: 1,
        recovery: Recovery::default(),
    };
    let (service, operation) = (ServiceId([1; 16]), OperationId([1; 16]));
    let request = Request::new(service, operation, 0, 0, create);
    let mut state = LedgerState::default();
    state.apply(&request.signed(&owner), &TestChecks::default(), &ledger_key()).unwrap();
    pinned("ledger-state", &state);
    pinned("ledger-state-vacant", &LedgerState::default());
    let mut mixed = state.to_bytes();
    // The version of the record, but not that in its receipt.
    mixed[3 + 16 + 8 + 2] ^= 1;
    assert!(LedgerState::from_bytes(&mixed).unwrap_err().to_string().contains("ledger state"));
}

#[track_caller]
fn pinned<T: Wire + PartialEq + std::fmt::Debug>(name: &str, value: &T) {
    let bytes = value.to_bytes();
    golden(name, &bytes);
    assert_eq!(T::from_bytes(&bytes).as_ref(), Ok(value));
    for length in 0..bytes.len() {
        assert!(T::from_bytes(&bytes[..length]).is_err(), "{name} cut to {length} bytes is taken");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(T::from_bytes(&longer).is_err(), "{name} with a byte more is taken");
}

/// Compares with the file of this name, as lines of 16 bytes in hexadecimal.
#[track_caller]
fn golden(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    let mut text = String::new();
    for line in bytes.chunks(16) {
        let line: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{}", line.join(" ")).unwrap();
    }
    if std::env::var_os("DUNLIN_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let pinned = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, pinned, "{name} is encoded otherwise than in {}", path.display());
}
