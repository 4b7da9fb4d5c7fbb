//! Goal: whoever takes a service shows the ledger evidence that was made for that, and the ledger finds out itself what the
//! policy says of it, whatever the holder before says.
//!
//! Method: proofs of honest instances on simulated machines, of which one thing is changed; the judge alone, and in a ledger.

mod world;

use std::sync::Arc;

use dunlin_attest::{Attester as _, BindingContext, Bytes, Role};
use dunlin_attested::{Asker, BoundEvidence, InstanceSigner as _, Judge, LedgerProof};
use dunlin_base::Digest;
use dunlin_handover::codec::Wire as _;
use dunlin_handover::ledger::{
    Candidate, Ledger as _, MAX_PROOF, MemoryLedger, Operation, Recovery, Refused, Request, Signature, Signer as _,
    Staged, Takes,
};
use dunlin_handover::{Key, MigrationId, Nonce, OperationId, PlatformId};
use dunlin_identity::{PrivateKey, Verifier};
use world::{Keep, NOW, World, between, honest, keep, module, roots, world};

const MACHINE: PlatformId = PlatformId([0x77; 32]);

/// What both sides of an honest handshake have shown: the source's, the destination's.
fn session(world: &World) -> (BoundEvidence, BoundEvidence) {
    let (a, b) = between(world, honest(world));
    let (a, b) = (a.expect("an end").expect("trust"), b.expect("an end").expect("trust"));
    assert_eq!((&a.own, &b.own), (&b.peer.shown, &a.peer.shown));
    (a.own, b.own)
}

fn holder(keep: &Keep) -> Key {
    Key(keep.instance.spki().0)
}

fn proof(world: &World, candidate: BoundEvidence, source: Option<BoundEvidence>) -> LedgerProof {
    let object = dunlin_attest::Policy::sign(&world.text, &world.owner).expect("a policy");
    let policy = Some((object, world.owner.verifying_key().to_bytes()));
    LedgerProof { name: "shop".to_owned(), policy, candidate, source }
}

fn candidate<'a>(world: &World, to: &Keep, takes: Takes, evidence: Digest, proof: &'a [u8]) -> Candidate<'a> {
    Candidate {
        service: world.record.service,
        policy_hash: world.record.policy_hash,
        holder: holder(to),
        platform: Some(MACHINE),
        evidence,
        takes,
        epoch: world.record.epoch,
        version: world.record.version,
        from: world.record.holder,
        proof,
    }
}

fn judge(world: &World) -> Judge {
    Judge::new(world.ledger.key(), Some(roots()))
}

/// Evidence of an instance that asks for the service itself.
fn asks(world: &World, asker: &Asker, keep: &Keep) -> BoundEvidence {
    let kem = Bytes::from([7; 32]);
    let binding = asker.binding(keep.instance.verifying_key(), kem, &world.policy, module(), keep.provider);
    shows(keep, binding)
}

fn shows(keep: &Keep, binding: BindingContext) -> BoundEvidence {
    let (evidence, endorsements) = keep.attester.prove(&binding).expect("evidence");
    BoundEvidence { binding, evidence: evidence.to_cbor(), endorsements: endorsements.to_cbor() }
}

fn asker(world: &World, keep: &Keep) -> Asker {
    let record = &world.record;
    Asker {
        service: record.service,
        epoch: record.epoch,
        version: record.version,
        holder: holder(keep),
        platform: MACHINE,
    }
}

#[track_caller]
fn refuses(world: &World, candidate: &Candidate<'_>, why: &str) {
    let found = judge(world).appraise(candidate, NOW).expect_err(why);
    assert!(found.contains(why), "{found}");
}

#[test]
fn a_migration_is_taken_with_what_the_destination_proved_to_its_source() {
    let world = world();
    let (source, destination) = session(&world);
    let named = destination.digest();
    let takes = Takes::Transfer(MigrationId([8; 16]));
    let bytes = proof(&world, destination, Some(source.clone())).to_bytes();
    let good = candidate(&world, &world.b, takes, named, &bytes);
    judge(&world).appraise(&good, NOW).expect("accepted");

    refuses(&world, &Candidate { proof: &[], ..good }, "none came with the request");
    refuses(&world, &Candidate { evidence: Digest::of(b"another"), ..good }, "not the one that the request names");
    refuses(&world, &Candidate { holder: holder(&world.c), ..good }, "of another instance");
    for other in [
        Candidate { takes: Takes::Transfer(MigrationId([9; 16])), ..good },
        Candidate { epoch: 8, ..good },
        Candidate { from: Some(holder(&world.c)), ..good },
        Candidate { from: None, ..good },
    ] {
        refuses(&world, &other, "made for another epoch");
    }
    for takes in [Takes::Claim, Takes::Resume, Takes::Recover] {
        refuses(&world, &Candidate { takes, ..good }, "is not what takes a service so");
    }
    refuses(&world, &Candidate { policy_hash: Digest::of(b"another"), ..good }, "is in force");
    // The source's evidence takes nothing in the destination's name.
    let bytes = proof(&world, source.clone(), None).to_bytes();
    let reflected = candidate(&world, &world.b, takes, source.digest(), &bytes);
    refuses(&world, &reflected, "of another instance");
}

#[test]
fn every_changed_byte_of_a_proof_is_refused_or_says_the_same() {
    let world = world();
    let (source, destination) = session(&world);
    let whole = proof(&world, destination.clone(), Some(source));
    let bytes = whole.to_bytes();
    assert!(bytes.len() < MAX_PROOF / 4, "{}", bytes.len());
    let takes = Takes::Transfer(MigrationId([8; 16]));
    let good = candidate(&world, &world.b, takes, destination.digest(), &bytes);
    judge(&world).appraise(&good, NOW).expect("accepted");
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        // A new judge each time: one that found the candidate fit would not look again.
        if judge(&world).appraise(&Candidate { proof: &changed, ..good }, NOW).is_ok() {
            // Whatever is accepted has the same evidence, bound to the same, under the same policy.
            let read = LedgerProof::from_bytes(&changed).expect("it was read").candidate;
            assert_eq!((&read.binding, &read.evidence), (&destination.binding, &destination.evidence));
        }
    }
    for length in 0..bytes.len() {
        let cut = Candidate { proof: &bytes[..length], ..good };
        assert!(judge(&world).appraise(&cut, NOW).is_err(), "{length}");
    }
}

#[test]
fn a_destination_that_was_nominated_is_fit_for_its_migration_and_a_while_only() {
    let world = world();
    let (source, destination) = session(&world);
    let takes = Takes::Transfer(MigrationId([8; 16]));
    let named = destination.digest();
    let bytes = proof(&world, destination, Some(source)).to_bytes();
    let judge = judge(&world);
    let transfer = candidate(&world, &world.b, takes, named, &[]);
    assert!(judge.appraise(&transfer, NOW).is_err(), "nobody has shown anything");
    judge.appraise(&Candidate { platform: None, proof: &bytes, ..transfer }, NOW).expect("nominated");
    // The source may commit in between.
    for later in [0, 1, 300] {
        judge.appraise(&Candidate { version: 5 + later, ..transfer }, NOW + later).expect("remembered");
    }
    let others = [
        Candidate { policy_hash: Digest::of(b"a newer policy"), ..transfer },
        Candidate { evidence: Digest::of(b"other evidence"), ..transfer },
        Candidate { holder: holder(&world.c), ..transfer },
        Candidate { from: Some(holder(&world.c)), ..transfer },
        Candidate { epoch: 8, ..transfer },
        Candidate { takes: Takes::Transfer(MigrationId([9; 16])), ..transfer },
        Candidate { takes: Takes::Recover, ..transfer },
        Candidate { service: dunlin_handover::ServiceId([6; 16]), ..transfer },
    ];
    for other in others {
        assert!(judge.appraise(&other, NOW).is_err(), "{other:?}");
    }
    assert!(judge.appraise(&transfer, NOW + 301).is_err(), "what was found grows old");
    assert!(judge.appraise(&transfer, NOW).is_err(), "and a clock that is turned back brings nothing back");
}

#[test]
fn an_instance_takes_a_service_itself_with_evidence_for_exactly_that() {
    let world = world();
    let position = asker(&world, &world.b);
    let shown = asks(&world, &position, &world.b);
    let bytes = proof(&world, shown.clone(), None).to_bytes();
    for takes in [Takes::Claim, Takes::Resume, Takes::Recover] {
        let good = candidate(&world, &world.b, takes, shown.digest(), &bytes);
        judge(&world).appraise(&good, NOW).expect("accepted");
        for other in [
            Candidate { epoch: 8, ..good },
            Candidate { version: 5, ..good },
            Candidate { platform: Some(PlatformId([0x78; 32])), ..good },
            Candidate { platform: None, ..good },
        ] {
            refuses(&world, &other, "made for another epoch");
        }
    }
    let moved = Takes::Transfer(MigrationId([8; 16]));
    refuses(&world, &candidate(&world, &world.b, moved, shown.digest(), &bytes), "is not what takes a service so");
    // On a machine that the policy lists for another provider than the one that it names.
    let stranger = keep("acme", "bolt-c", module(), world.policy.hash());
    let elsewhere = asks(&world, &asker(&world, &stranger), &stranger);
    let bytes = proof(&world, elsewhere.clone(), None).to_bytes();
    refuses(&world, &candidate(&world, &stranger, Takes::Claim, elsewhere.digest(), &bytes), "Provider");
}

#[test]
fn a_source_takes_its_transfer_back_and_a_destination_gives_a_service_back() {
    let world = world();
    let (source, _) = session(&world);
    let bytes = proof(&world, source.clone(), None).to_bytes();
    let back = candidate(&world, &world.a, Takes::Resume, source.digest(), &bytes);
    judge(&world).appraise(&Candidate { proof: &[], ..back }, NOW).expect("the holder takes the next epoch");
    refuses(&world, &Candidate { from: Some(holder(&world.b)), ..back }, "is not what takes a service so");
    // After the switch, the destination holds the service in the next epoch and gives it back.
    let takes = Takes::Transfer(MigrationId([8; 16]));
    let given = Candidate { takes, epoch: 8, version: 5, from: Some(holder(&world.b)), ..back };
    judge(&world).appraise(&given, NOW).expect("given back");
    refuses(&world, &Candidate { from: Some(holder(&world.c)), ..given }, "made for another epoch");
    refuses(&world, &Candidate { epoch: 7, ..given }, "made for another epoch");
}

#[test]
fn p06_a_destination_weaker_than_its_source_is_refused_by_the_ledger_too() {
    let world = world();
    let (source, destination) = session(&world);
    let takes = Takes::Transfer(MigrationId([8; 16]));
    let with = |source| proof(&world, destination.clone(), source).to_bytes();
    let compared = with(Some(source.clone()));
    let good = candidate(&world, &world.b, takes, destination.digest(), &compared);
    judge(&world).appraise(&good, NOW).expect("as strong as the source");
    let alone = with(None);
    refuses(&world, &Candidate { proof: &alone, ..good }, "source's claims are unknown");
    // Evidence of the source from another session, and somebody else's as the source's.
    let mut other = source.clone();
    other.binding.exporter = [0x43; 32];
    let other = with(Some(shows(&world.a, other.binding)));
    refuses(&world, &Candidate { proof: &other, ..good }, "not from the session with this destination");
    let mine = with(Some(destination.clone()));
    refuses(&world, &Candidate { proof: &mine, ..good }, "not from the session with this destination");
}

/// A ledger whose judge appraises, with the service of the world in it, claimed by its first holder.
fn ledger(world: &World) -> MemoryLedger {
    let judge = judge(world);
    let checks = Verifier::appraising(Arc::new(move |candidate: &Candidate<'_>| judge.appraise(candidate, NOW)));
    MemoryLedger::new(Arc::new(checks), Arc::new(world.ledger.clone()))
}

#[test]
fn m20_a_source_that_was_broken_into_gives_the_service_to_no_machine_that_the_ledger_finds_unfit() {
    let mut world = world();
    let mut ledger = ledger(&world);
    let [owner, platform_a, platform_b] = [(); 3].map(|()| PrivateKey::generate().expect("a key"));
    let (service, policy_hash) = (world.record.service, world.policy.hash());
    let machine = PlatformId(platform_a.key().0);
    let create = Operation::Create {
        owner: owner.key(),
        state_hash: Digest::of(b""),
        policy_hash,
        policy_version: 3,
        recovery: Recovery::default(),
    };
    let create = Request::new(service, OperationId([1; 16]), 0, 0, create).signed(&owner);
    world.record = ledger.apply(&create).expect("stored").expect("created").record;

    // The first start, without evidence and with it.
    let position = Asker { platform: machine, ..asker(&world, &world.a) };
    let shown = asks(&world, &position, &world.a);
    let claim = Operation::Claim { holder: holder(&world.a), platform: machine, evidence: shown.digest() };
    let claim =
        Request::new(service, OperationId([2; 16]), 1, 0, claim).signed(&world.a.instance.0).signed(&platform_a);
    assert!(matches!(ledger.apply(&claim).expect("stored"), Err(Refused::Denied(_))));
    let claim = claim.with_proof(proof(&world, shown, None).to_bytes());
    world.record = ledger.apply(&claim).expect("stored").expect("claimed").record;
    assert_eq!(world.record.holder, Some(holder(&world.a)));

    // A transfer that the holder signs, to an instance that says that it has staged the state.
    let transfer = |operation: u8, world: &World, to: &Keep, evidence: Digest, proof: Vec<u8>| {
        let (epoch, version) = (world.record.epoch, world.record.version + 1);
        let mut staged = Staged {
            service,
            migration: MigrationId([8; 16]),
            epoch,
            version,
            state_hash: Digest::of(b"moved"),
            holder: holder(to),
            platform: PlatformId(platform_b.key().0),
            complete: true,
            signature: Signature(Vec::new()),
        };
        staged.signature = Signature(to.instance.0.sign(&staged.signed_bytes()));
        let action = Operation::Transfer { state_hash: Digest::of(b"moved"), evidence, retained: false, staged };
        let request = Request::new(service, OperationId([operation; 16]), epoch, world.record.version, action);
        request.signed(&world.a.instance.0).with_proof(proof)
    };
    // The source is in an attacker's hands: it names evidence that it never saw, and evidence of a forbidden machine.
    let nothing = transfer(3, &world, &world.c, Digest::of(b"evidence"), Vec::new());
    let bound = |role, own: &Keep, peer: &Keep| {
        let key = own.instance.verifying_key();
        let binding = asker(&world, own).binding(key, Bytes::from([7; 32]), &world.policy, module(), own.provider);
        let (peer_spki, exporter) = (peer.instance.spki(), [0x42; 32]);
        shows(own, BindingContext { role, peer_spki, exporter, migration: [8; 16], ..binding })
    };
    let shown = |to: &Keep| {
        let (source, destination) = (bound(Role::Source, &world.a, to), bound(Role::Destination, to, &world.a));
        (destination.digest(), proof(&world, destination, Some(source)).to_bytes())
    };
    let (named, forbidden) = shown(&world.c);
    let forbidden = transfer(4, &world, &world.c, named, forbidden);
    for request in [nothing, forbidden] {
        let answer = ledger.apply(&request).expect("stored");
        assert!(matches!(answer, Err(Refused::Denied(_))), "{answer:?}");
    }
    assert_eq!(ledger.read(service, Nonce([1; 32])).expect("stored").expect("a reading").record, world.record);

    // The same to a machine that the policy permits.
    let (named, permitted) = shown(&world.b);
    let permitted = transfer(5, &world, &world.b, named, permitted);
    let record = ledger.apply(&permitted).expect("stored").expect("transferred").record;
    assert_eq!((record.holder, record.epoch), (Some(holder(&world.b)), world.record.epoch + 1));
    // Sent again, it is answered from memory, also without the proof.
    let again = Request { proof: Vec::new(), ..permitted };
    assert_eq!(ledger.apply(&again).expect("stored").expect("the same").record, record);
}
