//! Goal: frames, ledger objects and messages from outside end in a value or an error, without a panic and without
//! allocating by a length that they declare; and what is read is written back as the same bytes.
//!
//! Method: the input is read as every object of the protocol, and as a run of frames to a source and to a
//! destination, whose channel guard lets everything through so that the decoders and state machines are reached.

#![no_main]

use std::sync::Arc;

use dunlin_base::Digest;
use dunlin_handover::codec::Wire;
use dunlin_handover::converge::Options;
use dunlin_handover::destination::{self, Destination};
use dunlin_handover::ledger::{Candidate, Checks, LedgerState, Reading, Receipt, Record, Refused, Request, Signer};
use dunlin_handover::ledger::{Staged, Status};
use dunlin_handover::message::{
    ChannelGuard, Evidence, Features, Link, MemoryShape, Versions, VolumeChunks, VolumeHeld,
};
use dunlin_handover::source::{self, Source};
use dunlin_handover::{Entropy, Key, Keys, Limits, MigrationId, PlatformId, ServiceId, Time};
use libfuzzer_sys::fuzz_target;

/// Signs nothing and believes everything: the deeper states are reached.
#[derive(Debug)]
struct Gullible;

impl Signer for Gullible {
    fn key(&self) -> Key {
        Key([1; 32])
    }

    fn sign(&self, _: &[u8]) -> Vec<u8> {
        Vec::new()
    }
}

impl Checks for Gullible {
    fn verify(&self, _: Key, _: &[u8], _: &[u8]) -> bool {
        true
    }

    fn appraise(&self, _: &Candidate<'_>) -> Result<(), String> {
        Ok(())
    }
}

fn canonical<T: Wire>(data: &[u8]) {
    if let Ok(value) = T::from_bytes(data) {
        assert_eq!(value.to_bytes(), data, "{} has two encodings", T::WHAT);
    }
}

fn keys() -> Keys {
    Keys { holder: Arc::new(Gullible), platform: Arc::new(Gullible), checks: Arc::new(Gullible), ledger: Key([1; 32]) }
}

fn destination() -> Destination {
    let config = destination::Config {
        policy_hash: Digest([0; 32]),
        peer: None,
        features: Features { postcopy: true, zstd: true },
        evidence: Evidence::default(),
        versions: Versions::SUPPORTED,
        keys: keys(),
        limits: Limits::default(),
        guard: Box::new(ChannelGuard),
        entropy: Entropy::new([1; 32]),
    };
    Destination::new(config, Time(0))
}

fn source() -> Source {
    let record = Record {
        service: ServiceId([0; 16]),
        epoch: 1,
        holder: Some(Key([1; 32])),
        holder_platform: Some(PlatformId([1; 32])),
        version: 0,
        state_hash: Digest([0; 32]),
        state_epoch: 3,
        policy_hash: Digest([0; 32]),
        policy_version: 1,
        status: Status::Held,
        prev: Digest([0; 32]),
    };
    let config = source::Config {
        migration: MigrationId([0; 16]),
        record,
        module: Digest([0; 32]),
        snapshot_version: 1,
        memories: vec![MemoryShape { pages: 1, maximum: 2 }],
        needs: Vec::new(),
        evidence: Evidence::default(),
        options: Options::default(),
        dry_run: false,
        versions: Versions::SUPPORTED,
        keys: keys(),
        limits: Limits::default(),
        guard: Box::new(ChannelGuard),
        entropy: Entropy::new([2; 32]),
    };
    Source::new(config, Time(0))
}

fuzz_target!(|data: &[u8]| {
    canonical::<Request>(data);
    canonical::<Receipt>(data);
    canonical::<Reading>(data);
    canonical::<Staged>(data);
    canonical::<Refused>(data);
    canonical::<LedgerState>(data);
    canonical::<destination::Arrival>(data);
    canonical::<source::Retained>(data);
    if let Ok(message) = Link::new(Box::new(ChannelGuard), 1).receive(data) {
        let version = u16::from_le_bytes([data[4], data[5]]);
        let mut link = Link::new(Box::new(ChannelGuard), version);
        link.send(&message);
        assert_eq!(link.poll().as_deref(), Some(data), "{} has two encodings", message.name());
    }
    // Kind and body of each frame come from the input; length, version and sequence are put right.
    let (mut destination, mut source) = (destination(), source());
    let (mut rest, mut sequence) = (data, 0u64);
    while let Some((head, more)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_le_bytes([head[1], head[2]])).min(more.len());
        let (body, more) = more.split_at(length);
        let mut frame = ((12 + length + 16) as u32).to_le_bytes().to_vec();
        frame.extend(Versions::SUPPORTED.newest.to_le_bytes());
        frame.extend([head[0], 0]);
        frame.extend(sequence.to_le_bytes());
        frame.extend(body);
        frame.extend([0; 16]);
        let now = Time(sequence);
        let _ = destination.handle_message(now, &frame);
        let _ = source.handle_message(now, &frame);
        // A driver that does everything at once.
        destination.handle_local(now, destination::Event::Judged { reasons: Vec::new(), module_wanted: false });
        destination.handle_local(now, destination::Event::VolumeHeld(VolumeHeld(vec![Digest([0; 32])])));
        destination.handle_local(now, destination::Event::Prepared { took: core::time::Duration::ZERO });
        destination.handle_local(now, destination::Event::Staged { state_hash: Digest([0; 32]) });
        source.handle_local(now, source::Event::Scanned { pages: 0, volume: 1 });
        source.handle_local(now, source::Event::VolumeChunks(VolumeChunks(vec![vec![0]])));
        source.handle_local(now, source::Event::BatchEnd { left: 0 });
        while destination.poll_action().is_some() || destination.poll_transmit().is_some() {}
        while source.poll_action().is_some() || source.poll_transmit(now).is_some() {}
        (rest, sequence) = (more, sequence + 1);
    }
});
