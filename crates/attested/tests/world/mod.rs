//! A service, two providers with simulated machines, a ledger, and handshakes between them whose messages can be
//! tampered with.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::Path;
use std::sync::Arc;

use dunlin_attest::{Attester, Bytes, Evidence, Policy, SigningKey, SimRoots, TpmEvent, TpmEventKind, VerifyingKey};
use dunlin_attest_sim::SimAttester;
use dunlin_attested::{Action, Config, Done, Handshake, InstanceSigner, Refused, SessionFacts, Side, Terms, Trust};
use dunlin_base::Digest;
use dunlin_handover::ledger::{Reading, Record, Signature, Signer as _, Status};
use dunlin_handover::{Key, MigrationId, Nonce, PlatformId, ServiceId};
use dunlin_identity::{PrivateKey, Verifier};

/// 2026-11-20.
pub(crate) const NOW: u64 = 1_795_132_800;
/// The program that the simulated machines are taken to run: any file does.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

/// The key of an instance in the two forms that it has.
#[derive(Debug, Clone)]
pub(crate) struct Instance(pub(crate) PrivateKey);

impl Instance {
    pub(crate) fn generate() -> Self {
        Self(PrivateKey::generate().expect("a key"))
    }

    pub(crate) fn spki(&self) -> Digest {
        Digest(self.0.public().thumbprint().0)
    }
}

impl InstanceSigner for Instance {
    fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey::from_bytes(&self.0.public().compressed()).expect("a key")
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = dunlin_handover::ledger::Signer::sign(&self.0, message);
        *signature.last_chunk().expect("64 bytes behind the key")
    }
}

/// A keep on a machine of a provider.
pub(crate) struct Keep {
    pub(crate) instance: Instance,
    pub(crate) provider: &'static str,
    pub(crate) attester: SimAttester,
}

pub(crate) struct World {
    pub(crate) owner: SigningKey,
    pub(crate) ledger: PrivateKey,
    pub(crate) policy: Policy,
    /// Of the policy.
    pub(crate) text: String,
    /// At acme, the holder.
    pub(crate) a: Keep,
    /// At acme.
    pub(crate) b: Keep,
    /// At bolt, which the policy does not let in.
    pub(crate) c: Keep,
    pub(crate) record: Record,
}

pub(crate) fn module() -> Digest {
    Digest::of(b"module")
}

pub(crate) fn signing(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32]).expect("a key")
}

pub(crate) fn runtime() -> Digest {
    Digest::of(&std::fs::read(PROGRAM).expect("the program"))
}

/// The owner's policy, with these lines changed.
pub(crate) fn policy_text(ledger: &PrivateKey, changes: &[(&str, &str)]) -> String {
    let ledger = VerifyingKey::from_bytes(&ledger.public().compressed()).expect("a key");
    let (acme, bolt) = (signing(2).verifying_key(), signing(3).verifying_key());
    let (module, runtime) = (module(), runtime());
    let mut text = format!(
        r#"
format = 1
service = "shop"
version = 3
issued = 2026-01-01T00:00:00Z
expires = 2027-06-01T00:00:00Z
class_floor = "sim"
modules = ["sha256:{module}"]
[sim]
accept = [{{ runtime = "{runtime}" }}]
[[provider]]
id = "acme"
key = "{acme}"
platforms = ["sim:acme-a", "sim:acme-b"]
[[provider]]
id = "bolt"
key = "{bolt}"
platforms = ["sim:bolt-c"]
[migration]
providers = ["acme"]
[ledger]
id = "ledger-1"
keys = ["{ledger}"]
quorum = 1
"#
    );
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    text
}

pub(crate) fn signed(text: &str, owner: &SigningKey) -> Policy {
    let signed = Policy::sign(text, owner).expect("a policy");
    Policy::verify(&signed, "shop", &[owner.verifying_key()], None).expect("a policy")
}

pub(crate) fn keep(provider: &'static str, machine: &str, module: Digest, policy: Digest) -> Keep {
    let attester = SimAttester::of_program(machine, Path::new(PROGRAM)).expect("an attester");
    for (kind, digest) in [(TpmEventKind::Module, module), (TpmEventKind::Policy, policy)] {
        attester.measure(TpmEvent { kind, digest }).expect("measured");
    }
    Keep { instance: Instance::generate(), provider, attester }
}

pub(crate) fn roots() -> SimRoots {
    dunlin_attest_sim::roots(["acme-a", "acme-b", "bolt-c"]).expect("roots")
}

pub(crate) fn world() -> World {
    let (owner, ledger) = (signing(1), PrivateKey::generate().expect("a key"));
    let text = policy_text(&ledger, &[]);
    let policy = signed(&text, &owner);
    let at = |provider, machine| keep(provider, machine, module(), policy.hash());
    let (a, b, c) = (at("acme", "acme-a"), at("acme", "acme-b"), at("bolt", "bolt-c"));
    let record = Record {
        service: ServiceId([5; 16]),
        epoch: 7,
        holder: Some(Key(a.instance.spki().0)),
        holder_platform: Some(PlatformId([6; 32])),
        version: 4,
        state_hash: Digest::of(b"state"),
        state_epoch: 3,
        policy_hash: policy.hash(),
        policy_version: 3,
        status: Status::Held,
        prev: Digest::of(b"previous"),
    };
    World { owner, ledger, policy, text, a, b, c, record }
}

impl World {
    pub(crate) fn terms(&self) -> Terms {
        Terms {
            migration: MigrationId([8; 16]),
            service: self.record.service,
            epoch: Some(self.record.epoch),
            module: module(),
            recorded_policy: self.policy.hash(),
            ledger: self.ledger.key(),
        }
    }

    /// What `own` knows of a session with `peer` whose exporter is `exporter`.
    pub(crate) fn config(&self, side: Side, own: &Keep, peer: &Keep, exporter: [u8; 32]) -> Config {
        Config {
            side,
            session: SessionFacts {
                exporter,
                own_spki: own.instance.spki(),
                peer_spki: peer.instance.spki(),
                own_provider: own.provider.to_owned(),
                peer_provider: peer.provider.to_owned(),
            },
            terms: self.terms(),
            trust: Trust { policy: self.policy.clone(), sim: Some(roots()) },
            checks: Arc::new(Verifier::certified()),
            signer: Arc::new(own.instance.clone()),
            kem_key: Bytes::from([own.provider.len() as u8; 32]),
            tpm_last_seen: None,
        }
    }

    /// The ledger's answer about `record`.
    pub(crate) fn reading_of(&self, record: Record, nonce: Nonce) -> Reading {
        let (index, head, ledger) = (9, Digest::of(b"head"), self.ledger.key());
        let mut reading = Reading { record, index, head, nonce, ledger, signature: Signature::default() };
        reading.signature = Signature(self.ledger.sign(&reading.signed_bytes()));
        reading
    }

    pub(crate) fn configs(&self) -> (Config, Config) {
        let exporter = [0x42; 32];
        (
            self.config(Side::Source, &self.a, &self.b, exporter),
            self.config(Side::Destination, &self.b, &self.a, exporter),
        )
    }
}

pub(crate) type Outcome = Result<Box<Done>, Refused>;

/// Changes a message on its way: who sent it, which of his it is, and its bytes.
pub(crate) type Meddle<'a> = dyn FnMut(Side, usize, &mut Vec<u8>) + 'a;

/// What the world does to a handshake.
pub(crate) struct Meddler<'a> {
    /// Sees every message on its way.
    pub(crate) message: Box<Meddle<'a>>,
    /// The ledger's answer at the source.
    pub(crate) reading: Box<dyn FnMut(Nonce) -> Result<Reading, String> + 'a>,
    /// The platform's answer.
    pub(crate) evidence: Box<dyn FnMut(Side, Evidence) -> Evidence + 'a>,
    pub(crate) nonces: ([u8; 32], [u8; 32]),
    /// When the destination appraises.
    pub(crate) later: u64,
}

pub(crate) fn honest(world: &World) -> Meddler<'_> {
    Meddler {
        message: Box::new(|_, _, _| {}),
        reading: Box::new(|nonce| Ok(world.reading_of(world.record, nonce))),
        evidence: Box::new(|_, evidence| evidence),
        nonces: ([1; 32], [2; 32]),
        later: 0,
    }
}

/// Carries a handshake between the two out, as far as it goes.
pub(crate) fn shake(
    (a, a_config): (&Keep, Config),
    (b, b_config): (&Keep, Config),
    mut meddler: Meddler<'_>,
) -> (Option<Outcome>, Option<Outcome>) {
    let mut sides = [
        (a, Handshake::new(a_config, meddler.nonces.0, NOW), Side::Source, 0),
        (b, Handshake::new(b_config, meddler.nonces.1, NOW), Side::Destination, 0),
    ];
    let mut idle = false;
    while !idle {
        idle = true;
        for at in 0..2 {
            let now = NOW + if at == 1 { meddler.later } else { 0 };
            let (keep, handshake, side, sent) = &mut sides[at];
            while let Some(action) = handshake.poll_action() {
                idle = false;
                match action {
                    Action::Evidence(binding) => {
                        let (evidence, endorsements) = keep.attester.prove(&binding).expect("evidence");
                        let evidence = (meddler.evidence)(*side, evidence);
                        handshake.evidence(now, Ok((evidence, endorsements)));
                    }
                    Action::ReadLedger { nonce, .. } => handshake.reading(now, (meddler.reading)(nonce)),
                    other => panic!("{other:?}"),
                }
            }
            let mut messages = Vec::new();
            while let Some(mut message) = handshake.poll_transmit() {
                (meddler.message)(*side, *sent, &mut message);
                *sent += 1;
                messages.push(message);
            }
            for message in messages {
                idle = false;
                sides[1 - at].1.handle(NOW + if at == 0 { meddler.later } else { 0 }, &message);
            }
        }
    }
    let [(_, a, ..), (_, b, ..)] = &sides;
    (a.outcome().cloned(), b.outcome().cloned())
}

/// Between a and b of the world.
pub(crate) fn between(world: &World, meddler: Meddler<'_>) -> (Option<Outcome>, Option<Outcome>) {
    let (a, b) = world.configs();
    shake((&world.a, a), (&world.b, b), meddler)
}

/// The refusal at one side.
#[track_caller]
pub(crate) fn refused(outcome: Option<Outcome>) -> Refused {
    outcome.expect("an outcome").expect_err("refused")
}
