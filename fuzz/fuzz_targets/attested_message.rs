//! Goal: messages of an attested handshake end in a value or a refusal, without a panic and without allocating by a
//! length that they declare; what is read is written back as the same bytes; and no bytes end in trust.
//!
//! Method: the input is read as a message and as a proof for the ledger, which judges it, and sent as a run of messages to a source and to a destination that have
//! seen a right challenge, so that the judges of proofs are reached.

#![no_main]

use std::sync::{Arc, OnceLock};

use dunlin_attest::{Bytes, SigningKey, SimRoots};
use dunlin_attested::{
    Challenge, Config, Handshake, Judge, LedgerProof, Message, SessionFacts, Side, Terms, Trust, VERSION, open_policy,
};
use dunlin_base::Digest;
use dunlin_handover::codec::Wire as _;
use dunlin_handover::ledger::{Candidate, Checks, Takes};
use dunlin_handover::{Key, MigrationId, Nonce, PlatformId, ServiceId};
use libfuzzer_sys::fuzz_target;

/// Believes every signature of a ledger: what is behind it is reached.
#[derive(Debug)]
struct Gullible;

impl Checks for Gullible {
    fn verify(&self, _: Key, _: &[u8], _: &[u8]) -> bool {
        true
    }

    fn appraise(&self, _: &Candidate<'_>) -> Result<(), String> {
        Ok(())
    }
}

const SERVICE: ServiceId = ServiceId([1; 16]);
const LEDGER: Key = Key([2; 32]);

fn config(side: Side) -> Config {
    static TRUST: OnceLock<Trust> = OnceLock::new();
    let trust = TRUST.get_or_init(|| {
        let policy = open_policy(SERVICE, &Digest([3; 32]), LEDGER).unwrap();
        Trust { policy, sim: None }
    });
    let signer = SigningKey::from_bytes(&[4; 32]).unwrap();
    Config {
        side,
        session: SessionFacts {
            exporter: [5; 32],
            own_spki: signer.verifying_key().spki_hash(),
            peer_spki: signer.verifying_key().spki_hash(),
            own_provider: "acme".to_owned(),
            peer_provider: "acme".to_owned(),
        },
        terms: Terms {
            migration: MigrationId([6; 16]),
            service: SERVICE,
            epoch: Some(7),
            module: Digest([3; 32]),
            recorded_policy: trust.policy.hash(),
            ledger: LEDGER,
        },
        trust: trust.clone(),
        checks: Arc::new(Gullible),
        signer: Arc::new(signer),
        kem_key: Bytes(vec![8; 32]),
        tpm_last_seen: None,
    }
}

/// A proof takes no service unless its evidence is genuine, whatever the candidate says that it fits.
fn judged(data: &[u8]) {
    let Ok(proof) = LedgerProof::from_bytes(data) else { return };
    assert_eq!(proof.to_bytes(), data, "a proof has two encodings");
    let shown = &proof.candidate;
    let judge = Judge::new(LEDGER, Some(SimRoots::default()));
    let (spki, binding) = (shown.binding.instance_key.spki_hash(), &shown.binding);
    let migration = MigrationId(binding.migration);
    for takes in [Takes::Claim, Takes::Resume, Takes::Recover, Takes::Transfer(migration)] {
        let candidate = Candidate {
            service: SERVICE,
            policy_hash: binding.policy,
            holder: Key(spki.0),
            platform: Some(PlatformId([7; 32])),
            evidence: shown.digest(),
            takes,
            epoch: binding.epoch,
            version: 1,
            from: Some(Key(binding.peer_spki.0)),
            proof: data,
        };
        assert!(judge.appraise(&candidate, 1_795_132_800).is_err());
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = Message::from_bytes(data) {
        assert_eq!(message.to_bytes(), data, "{} has two encodings", message.name());
    }
    judged(data);
    for side in [Side::Source, Side::Destination] {
        let config = config(side);
        let right = Challenge {
            version: VERSION,
            side: side.other(),
            nonce: Nonce([9; 32]),
            migration: config.terms.migration,
            service: SERVICE,
            epoch: 7,
            policy: config.trust.policy.hash(),
            module: Digest([3; 32]),
            ledger: LEDGER,
        };
        let mut handshake = Handshake::new(config.clone(), [10; 32], 1_795_132_800);
        handshake.handle(1_795_132_800, data);
        assert!(!matches!(handshake.outcome(), Some(Ok(_))));
        let mut handshake = Handshake::new(config, [10; 32], 1_795_132_800);
        handshake.handle(1_795_132_800, &Message::Challenge(right).to_bytes());
        let mut rest = data;
        while let Some((head, more)) = rest.split_first_chunk::<2>() {
            let length = usize::from(u16::from_le_bytes(*head)).min(more.len());
            let (message, more) = more.split_at(length);
            handshake.handle(1_795_132_800, message);
            rest = more;
        }
        while handshake.poll_action().is_some() || handshake.poll_transmit().is_some() {}
        assert!(!matches!(handshake.outcome(), Some(Ok(_))));
    }
});
