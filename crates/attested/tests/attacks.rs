//! Goal: evidence is good for one session, one direction, one migration and one policy, and every other use of it is
//! refused with all reasons. The names are those of the list of attacks.
//!
//! Method: handshakes between state machines, whose messages, evidence, readings or terms are changed in one way.

mod world;

use std::cell::RefCell;

use dunlin_attest::{Attester as _, BindingContext, Bytes, Class, Evidence, Role};
use dunlin_attested::{Attest, Check, Config, Handshake, InstanceSigner as _, Message, Party, Refused, Side};
use dunlin_base::Digest;
use dunlin_handover::codec::Wire as _;
use dunlin_handover::ledger::{Record, Signature};
use dunlin_handover::{Key, MigrationId, Nonce, ServiceId};
use world::{
    Keep, Meddler, NOW, World, between, honest, keep, module, policy_text, refused, shake, signed, signing, world,
};

fn checks(refused: &Refused) -> Vec<Check> {
    let mut checks: Vec<Check> = refused.reasons.iter().map(|reason| reason.check).collect();
    checks.sort_unstable();
    checks.dedup();
    checks
}

/// An independent writing of what the documentation says is signed.
fn sign_as(signer: &Keep, proof: &mut Attest, side: Side, config: &Config, challenges: &[Vec<u8>; 2]) {
    let mut unsigned = proof.to_bytes();
    unsigned.truncate(unsigned.len() - 64);
    let mut transcript = b"dunlin attested transcript 1\0".to_vec();
    challenges.iter().for_each(|challenge| transcript.extend(&challenge[1..]));
    let mut signed = b"dunlin attested channel 1\0".to_vec();
    signed.push(if side == Side::Source { 1 } else { 2 });
    signed.extend(config.session.exporter);
    signed.extend(config.session.own_spki.0);
    signed.extend(config.session.peer_spki.0);
    signed.extend(Digest::of(&transcript).0);
    signed.extend(Digest::of(&unsigned).0);
    proof.signature = signer.instance.sign(&signed);
}

/// The context of `keep`'s evidence as `config` of that side has it.
fn context(world: &World, keep: &Keep, config: &Config, role: Role, peer_nonce: [u8; 32]) -> BindingContext {
    BindingContext {
        role,
        exporter: config.session.exporter,
        peer_nonce,
        own_spki: config.session.own_spki,
        peer_spki: config.session.peer_spki,
        instance_key: keep.instance.verifying_key(),
        kem_key: config.kem_key.clone(),
        service: "shop".to_owned(),
        epoch: world.record.epoch,
        migration: config.terms.migration.0,
        policy: world.policy.hash(),
        module: module(),
        provider: keep.provider.to_owned(),
        ledger: "ledger-1".to_owned(),
    }
}

/// What `a` finds when the destination's proof is changed by `change` and signed again with the key of `b`.
fn resigned(world: &World, change: impl Fn(&mut Attest, &Config)) -> Refused {
    let (a, b) = world.configs();
    let challenges = RefCell::new([Vec::new(), Vec::new()]);
    let config = b.clone();
    let meddler = Meddler {
        message: Box::new(|side, number, bytes| match (side, number) {
            (Side::Source, 0) => challenges.borrow_mut()[0] = bytes.clone(),
            (Side::Destination, 0) => challenges.borrow_mut()[1] = bytes.clone(),
            (Side::Destination, 1) => {
                let Ok(Message::Attest(mut proof)) = Message::from_bytes(bytes) else { panic!("not a proof") };
                change(&mut proof, &config);
                sign_as(&world.b, &mut proof, Side::Destination, &config, &challenges.borrow());
                *bytes = Message::Attest(proof).to_bytes();
            }
            _ => {}
        }),
        ..honest(world)
    };
    let (a, b) = shake((&world.a, a), (&world.b, b), meddler);
    let told = refused(b);
    let found = refused(a);
    assert_eq!((found.by, told.by), (Party::Here, Party::There));
    assert_eq!(found.reasons, told.reasons, "the other side hears all reasons");
    found
}

#[test]
fn both_sides_prove_themselves_and_know_each_other() {
    let world = world();
    let (a, b) = between(&world, honest(&world));
    let (a, b) = (a.expect("an end").expect("trust"), b.expect("an end").expect("trust"));
    assert_eq!(a.peer.holder, Key(world.b.instance.spki().0));
    assert_eq!(b.peer.holder, Key(world.a.instance.spki().0));
    assert_eq!((a.peer.claims.platform.as_str(), b.peer.claims.platform.as_str()), ("sim:acme-b", "sim:acme-a"));
    assert_eq!(a.peer.shown, b.own);
    assert_eq!(b.peer.shown, a.own);
    assert_eq!(b.peer.reading.as_ref().expect("a reading").record, world.record);
    assert_eq!((a.epoch, b.epoch), (7, 7));
    assert_eq!(a.peer.claims.class, Class::Sim);
    assert!(a.peer.warnings().iter().any(|warning| warning.contains("SIMULATED")), "{:?}", a.peer.warnings());
    // The helper of the tests signs as the documentation says: unchanged, its proof is accepted.
    let (source, destination) = world.configs();
    let challenges = RefCell::new([Vec::new(), Vec::new()]);
    let config = destination.clone();
    let meddler = Meddler {
        message: Box::new(|side, number, bytes| match (side, number) {
            (Side::Source, 0) => challenges.borrow_mut()[0] = bytes.clone(),
            (Side::Destination, 0) => challenges.borrow_mut()[1] = bytes.clone(),
            (Side::Destination, 1) => {
                let Ok(Message::Attest(mut proof)) = Message::from_bytes(bytes) else { panic!("not a proof") };
                sign_as(&world.b, &mut proof, Side::Destination, &config, &challenges.borrow());
                // Another signature, since each draws a number, and as good.
                *bytes = Message::Attest(proof).to_bytes();
            }
            _ => {}
        }),
        ..honest(&world)
    };
    let (a, _) = shake((&world.a, source), (&world.b, destination), meddler);
    assert!(a.expect("an end").is_ok());
}

#[test]
fn b01_evidence_of_another_session_is_refused() {
    let world = world();
    let old = RefCell::new(Vec::new());
    let record = Meddler {
        message: Box::new(|side, number, bytes| {
            if (side, number) == (Side::Destination, 1) {
                *old.borrow_mut() = bytes.clone();
            }
        }),
        ..honest(&world)
    };
    let (a, _) = between(&world, record);
    assert!(a.expect("an end").is_ok());
    // The same two keeps meet again: with other nonces, and then in another session as well.
    for exporter in [[0x42; 32], [0x43; 32]] {
        let replay = Meddler {
            message: Box::new(|side, number, bytes| {
                if (side, number) == (Side::Destination, 1) {
                    *bytes = old.borrow().clone();
                }
            }),
            nonces: ([3; 32], [4; 32]),
            ..honest(&world)
        };
        let a = world.config(Side::Source, &world.a, &world.b, exporter);
        let b = world.config(Side::Destination, &world.b, &world.a, exporter);
        let (a, _) = shake((&world.a, a), (&world.b, b), replay);
        assert_eq!(checks(&refused(a)), [Check::Signature, Check::Evidence]);
    }
    // Signed anew by a thief of the key, the evidence is still of the other session.
    let Ok(Message::Attest(stolen)) = Message::from_bytes(&old.borrow()) else { panic!("not a proof") };
    let again = &world;
    let found = {
        let (mut a, mut b) = again.configs();
        (a.session.exporter, b.session.exporter) = ([0x43; 32], [0x43; 32]);
        let challenges = RefCell::new([Vec::new(), Vec::new()]);
        let config = b.clone();
        let meddler = Meddler {
            message: Box::new(|side, number, bytes| match (side, number) {
                (Side::Source, 0) => challenges.borrow_mut()[0] = bytes.clone(),
                (Side::Destination, 0) => challenges.borrow_mut()[1] = bytes.clone(),
                (Side::Destination, 1) => {
                    let mut proof = stolen.clone();
                    sign_as(&again.b, &mut proof, Side::Destination, &config, &challenges.borrow());
                    *bytes = Message::Attest(proof).to_bytes();
                }
                _ => {}
            }),
            ..honest(again)
        };
        refused(shake((&again.a, a), (&again.b, b), meddler).0)
    };
    assert_eq!(checks(&found), [Check::Evidence]);
}

#[test]
fn b02_messages_that_come_back_to_their_sender_are_refused() {
    let world = world();
    let (config, _) = world.configs();
    let mut mirrored = Handshake::new(config, [1; 32], NOW);
    let own = mirrored.poll_transmit().expect("a challenge");
    mirrored.handle(NOW, &own);
    let found = refused(mirrored.outcome().cloned());
    assert_eq!(checks(&found), [Check::Side, Check::Nonce]);
}

#[test]
fn b02_evidence_of_the_other_role_in_the_same_session_is_refused() {
    let world = world();
    let found = resigned(&world, |proof, config| {
        let data = context(&world, &world.b, config, Role::Source, [1; 32]).report_data();
        proof.evidence = world.b.attester.evidence(&data).expect("evidence").to_cbor();
    });
    assert_eq!(checks(&found), [Check::Evidence]);
    // With the right role, the same way of making it is accepted: only the role was wrong.
    let data = context(&world, &world.b, &world.configs().1, Role::Destination, [1; 32]).report_data();
    let right = world.b.attester.evidence(&data).expect("evidence");
    let meddler = Meddler {
        evidence: Box::new(|side, given| {
            if side == Side::Destination {
                assert_eq!(given, right);
            }
            given
        }),
        ..honest(&world)
    };
    assert!(between(&world, meddler).0.expect("an end").is_ok());
}

#[test]
fn b04_a_genuine_machine_of_another_provider_is_refused() {
    let world = world();
    let exporter = [0x42; 32];
    // Under its own name: the policy does not let instances move there.
    let a = world.config(Side::Source, &world.a, &world.c, exporter);
    let c = world.config(Side::Destination, &world.c, &world.a, exporter);
    let (found, _) = shake((&world.a, a), (&world.c, c), honest(&world));
    let found = refused(found);
    assert_eq!(checks(&found), [Check::Appraisal]);
    assert!(found.reasons[0].text.as_str().starts_with("Destination"), "{found}");
    // Under a certificate of the other provider: the machine is not his.
    let posing = Keep {
        instance: world.c.instance.clone(),
        provider: "acme",
        attester: keep("", "bolt-c", module(), world.policy.hash()).attester,
    };
    let a = world.config(Side::Source, &world.a, &posing, exporter);
    let c = world.config(Side::Destination, &posing, &world.a, exporter);
    let (found, _) = shake((&world.a, a), (&posing, c), honest(&world));
    let found = refused(found);
    assert!(found.reasons.iter().any(|reason| reason.text.as_str().starts_with("OtherProvider")), "{found}");
}

#[test]
fn b08_other_keys_in_the_session_than_in_the_proof_are_refused() {
    let world = world();
    // The client's certificate is not covered by the exporter: each side names the keys that it saw.
    let (a, mut b) = world.configs();
    b.session.peer_spki = world.c.instance.spki();
    let (found, _) = shake((&world.a, a), (&world.b, b), honest(&world));
    assert_eq!(checks(&refused(found)), [Check::Signature, Check::Evidence]);
    let (mut a, b) = world.configs();
    a.session.peer_spki = world.c.instance.spki();
    let (found, _) = shake((&world.a, a), (&world.b, b), honest(&world));
    assert_eq!(checks(&refused(found)), [Check::InstanceKey, Check::Signature, Check::Evidence]);
}

#[test]
fn b09_nonces_that_are_zero_mirrored_or_too_old_are_refused() {
    let world = world();
    for (nonces, at_source) in [(([0; 32], [2; 32]), true), (([1; 32], [0; 32]), false)] {
        let (a, b) = between(&world, Meddler { nonces, ..honest(&world) });
        let broken = if at_source { a } else { b };
        assert_eq!(checks(&refused(broken)), [Check::Nonce]);
    }
    let (a, b) = between(&world, Meddler { nonces: ([1; 32], [1; 32]), ..honest(&world) });
    assert_eq!(checks(&refused(b)), [Check::Nonce]);
    assert_eq!(refused(a).by, Party::There);
    let in_time = between(&world, Meddler { later: 300, ..honest(&world) });
    assert!(in_time.1.expect("an end").is_ok());
    let (a, b) = between(&world, Meddler { later: 301, ..honest(&world) });
    assert_eq!(checks(&refused(b)), [Check::Nonce]);
    assert_eq!(refused(a).by, Party::There);
}

#[test]
fn b10_another_migration_service_epoch_policy_module_or_ledger_is_refused() {
    let world = world();
    let stricter = signed(&policy_text(&world.ledger, &[("version = 3", "version = 4")]), &world.owner);
    type Change<'a> = Box<dyn Fn(&mut Config) + 'a>;
    let changes: [(Check, Change<'_>); 6] = [
        (Check::Migration, Box::new(|config| config.terms.migration = MigrationId([9; 16]))),
        (Check::Service, Box::new(|config| config.terms.service = ServiceId([9; 16]))),
        (Check::Epoch, Box::new(|config| config.terms.epoch = Some(8))),
        (Check::Policy, Box::new(|config| config.trust.policy = stricter.clone())),
        (Check::Module, Box::new(|config| config.terms.module = Digest::of(b"other"))),
        (Check::Ledger, Box::new(|config| config.terms.ledger = Key([9; 32]))),
    ];
    for (check, change) in changes {
        for at_source in [true, false] {
            let (mut a, mut b) = world.configs();
            change(if at_source { &mut a } else { &mut b });
            let (a, b) = shake((&world.a, a), (&world.b, b), honest(&world));
            // The destination is the first to compare, and before any evidence exists.
            let found = refused(b);
            assert!(found.by == Party::Here && checks(&found) == [check], "{check:?}: {found}");
            assert_eq!(refused(a).by, Party::There);
        }
    }
    // All at once: every one is told.
    let (a, mut b) = world.configs();
    b.terms.migration = MigrationId([9; 16]);
    b.terms.service = ServiceId([9; 16]);
    b.terms.epoch = Some(8);
    b.terms.module = Digest::of(b"other");
    let (_, b) = shake((&world.a, a), (&world.b, b), honest(&world));
    assert_eq!(checks(&refused(b)), [Check::Migration, Check::Service, Check::Epoch, Check::Module]);
}

#[test]
fn b10_evidence_for_another_value_of_anything_is_refused() {
    let world = world();
    type Change = (&'static str, fn(&mut BindingContext));
    let changes: [Change; 14] = [
        ("role", |context| context.role = Role::ServiceToBroker),
        ("exporter", |context| context.exporter = [0x43; 32]),
        ("nonce", |context| context.peer_nonce = [9; 32]),
        ("own key", |context| context.own_spki = Digest([9; 32])),
        ("peer key", |context| context.peer_spki = Digest([9; 32])),
        ("instance key", |context| context.instance_key = signing(9).verifying_key()),
        ("KEM key", |context| context.kem_key = Bytes::from([9; 32])),
        ("service", |context| context.service = "other".to_owned()),
        ("epoch", |context| context.epoch = 8),
        ("migration", |context| context.migration = [9; 16]),
        ("policy", |context| context.policy = Digest([9; 32])),
        ("module", |context| context.module = Digest([9; 32])),
        ("provider", |context| context.provider = "bolt".to_owned()),
        ("ledger", |context| context.ledger = "other".to_owned()),
    ];
    for (field, change) in changes {
        let found = resigned(&world, |proof, config| {
            let mut context = context(&world, &world.b, config, Role::Destination, [1; 32]);
            change(&mut context);
            proof.evidence = world.b.attester.evidence(&context.report_data()).expect("evidence").to_cbor();
        });
        assert_eq!(checks(&found), [Check::Evidence], "{field}");
    }
}

#[test]
fn b11_no_evidence_and_empty_evidence_are_refused() {
    let world = world();
    for evidence in [Vec::new(), vec![0], Evidence::Sim(Vec::new()).to_cbor(), Evidence::Snp(vec![0; 1184]).to_cbor()] {
        let found = resigned(&world, |proof, _| proof.evidence = evidence.clone());
        assert_eq!(checks(&found), [Check::Evidence]);
    }
    let found = resigned(&world, |proof, _| proof.kem_key = Bytes::default());
    assert_eq!(checks(&found), [Check::Evidence], "the key to encrypt to is bound as well");
}

#[test]
fn b12_unknown_kinds_versions_and_bytes_are_refused() {
    let world = world();
    for (side, number) in
        [(Side::Source, 0), (Side::Destination, 0), (Side::Destination, 1), (Side::Source, 1), (Side::Source, 2)]
    {
        let changes: [fn(&mut Vec<u8>); 4] = [
            |bytes| bytes[0] = 9,
            |bytes| bytes.push(0),
            |bytes| bytes.truncate(bytes.len() - 1),
            |bytes| bytes.clear(),
        ];
        for change in changes {
            let meddler = Meddler {
                message: Box::new(move |from, at, bytes| {
                    if (from, at) == (side, number) {
                        change(bytes);
                    }
                }),
                ..honest(&world)
            };
            let (a, b) = between(&world, meddler);
            let found = refused(if side == Side::Source { b } else { a });
            assert_eq!(checks(&found), [Check::Message], "{side:?} {number}");
        }
    }
}

#[test]
fn every_changed_byte_of_every_message_is_refused() {
    let world = world();
    let messages = RefCell::new(Vec::new());
    let meddler = Meddler {
        message: Box::new(|side, number, bytes| messages.borrow_mut().push((side, number, bytes.len()))),
        ..honest(&world)
    };
    let (a, b) = between(&world, meddler);
    assert!(a.expect("an end").is_ok() && b.expect("an end").is_ok());
    let messages = messages.into_inner();
    assert_eq!(messages.len(), 6, "{messages:?}");
    for (side, number, length) in messages {
        for at in 0..length {
            let meddler = Meddler {
                message: Box::new(move |from, message, bytes| {
                    if (from, message) == (side, number) {
                        bytes[at] ^= 1 << (at % 8);
                    }
                }),
                ..honest(&world)
            };
            let (a, b) = between(&world, meddler);
            let (a, b) = (a.is_some_and(|end| end.is_ok()), b.is_some_and(|end| end.is_ok()));
            let (reader, sender) = if side == Side::Source { (b, a) } else { (a, b) };
            // Whoever reads the changed message does not accept; and without his verdict the other one does not.
            // Whose verdict is changed may have the other one's already.
            assert!(!reader && (!sender || number == 2), "{side:?} {number}, byte {at}: {a} {b}");
        }
    }
}

#[test]
fn messages_out_of_order_and_after_the_end_are_refused() {
    let world = world();
    let sent = RefCell::new(Vec::new());
    let meddler =
        Meddler { message: Box::new(|side, _, bytes| sent.borrow_mut().push((side, bytes.clone()))), ..honest(&world) };
    let _ends = between(&world, meddler);
    let sent = sent.into_inner();
    let of =
        |side| sent.iter().filter(move |(from, _)| *from == side).map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>();
    let (a, b) = world.configs();
    for (config, nonce, theirs) in [(a, [1; 32], of(Side::Destination)), (b, [2; 32], of(Side::Source))] {
        for first in [1, 2] {
            let mut handshake = Handshake::new(config.clone(), nonce, NOW);
            handshake.handle(NOW, &theirs[first]);
            assert_eq!(checks(&refused(handshake.outcome().cloned())), [Check::Message]);
            handshake.handle(NOW, &theirs[0]);
            assert_eq!(checks(&refused(handshake.outcome().cloned())), [Check::Message], "the first end stays");
        }
        let mut handshake = Handshake::new(config, nonce, NOW);
        handshake.handle(NOW, &theirs[0]);
        handshake.handle(NOW, &theirs[0]);
        assert_eq!(checks(&refused(handshake.outcome().cloned())), [Check::Message]);
    }
}

#[test]
fn a_source_that_does_not_hold_the_service_is_refused() {
    let world = world();
    type Change<'a> = Box<dyn Fn(&mut Record) + 'a>;
    let changes: [Change<'_>; 5] = [
        Box::new(|record| record.holder = Some(Key(world.c.instance.spki().0))),
        Box::new(|record| record.holder = None),
        Box::new(|record| record.epoch = 8),
        Box::new(|record| record.service = ServiceId([9; 16])),
        Box::new(|record| record.policy_hash = Digest::of(b"the policy before")),
    ];
    for change in changes {
        let mut record = world.record;
        change(&mut record);
        let reading = Box::new(|nonce| Ok(world.reading_of(record, nonce)));
        let (a, b) = between(&world, Meddler { reading, ..honest(&world) });
        assert_eq!(checks(&refused(b)), [Check::Holder]);
        assert_eq!(refused(a).by, Party::There);
    }
    // An old answer, a forged one, and none.
    let old = Box::new(|_: Nonce| Ok(world.reading_of(world.record, Nonce([7; 32]))));
    let (_, b) = between(&world, Meddler { reading: old, ..honest(&world) });
    assert_eq!(checks(&refused(b)), [Check::Holder]);
    let forged = Box::new(|nonce| {
        let mut reading = world.reading_of(world.record, nonce);
        reading.signature =
            Signature(dunlin_handover::ledger::Signer::sign(&world.a.instance.0, &reading.signed_bytes()));
        Ok(reading)
    });
    let (_, b) = between(&world, Meddler { reading: forged, ..honest(&world) });
    assert_eq!(checks(&refused(b)), [Check::Holder]);
    let away = Box::new(|_: Nonce| Err("the ledger does not answer".to_owned()));
    let (a, b) = between(&world, Meddler { reading: away, ..honest(&world) });
    let found = refused(a);
    assert!(found.by == Party::Here && found.failed(Check::Local), "{found}");
    assert_eq!(refused(b).reasons, found.reasons);
}

#[test]
fn a_destination_learns_the_epoch_from_the_source_and_believes_the_ledger() {
    let world = world();
    let (a, mut b) = world.configs();
    b.terms.epoch = None;
    let (_, b) = shake((&world.a, a), (&world.b, b), honest(&world));
    assert_eq!(b.expect("an end").expect("trust").epoch, 7);
    let (mut a, mut b) = world.configs();
    (a.terms.epoch, b.terms.epoch) = (Some(6), None);
    let (_, b) = shake((&world.a, a), (&world.b, b), honest(&world));
    assert_eq!(checks(&refused(b)), [Check::Holder]);
}

#[test]
fn a_wrong_runtime_module_class_or_measured_policy_is_refused_with_every_reason() {
    let world = world();
    let with = |changes: &[(&str, &str)], b: &Keep, own_module: Digest| {
        let policy = signed(&policy_text(&world.ledger, changes), &world.owner);
        let a = keep("acme", "acme-a", module(), policy.hash());
        let (mut source, mut destination) =
            (world.config(Side::Source, &a, b, [0x42; 32]), world.config(Side::Destination, b, &a, [0x42; 32]));
        for config in [&mut source, &mut destination] {
            config.trust.policy = policy.clone();
            config.terms.module = own_module;
        }
        refused(shake((&a, source), (b, destination), honest(&world)).0)
    };
    let texts =
        |found: &Refused| found.reasons.iter().map(|reason| reason.text.as_str().to_owned()).collect::<Vec<_>>();
    let runtime = world::runtime().to_string();
    // The runtime.
    let changed = "00".repeat(32);
    let found = with(&[(&runtime, &changed)], &world.b, module());
    let found = texts(&found);
    assert!(found.iter().any(|text| text.starts_with("Measurement")), "{found:?}");
    // The policy of world.b was measured at its start; this one was not.
    assert!(found.iter().any(|text| text.starts_with("MeasuredPolicy")), "{found:?}");
    // A module that the policy does not list, on both sides.
    let found = with(&[], &world.b, Digest::of(b"other"));
    assert!(found.failed(Check::Module), "the platform measured another one: {found}");
    assert!(texts(&found).iter().any(|text| text.starts_with("Module")), "{found}");
    // A floor that no simulation reaches.
    let text = policy_text(&world.ledger, &[("class_floor = \"sim\"", "class_floor = \"measured_host\"")])
        .replace("[sim]", "[tpm]");
    let policy = signed(&text, &world.owner);
    let (mut a, mut b) = world.configs();
    (a.trust.policy, b.trust.policy) = (policy.clone(), policy);
    let (a, b) = shake((&world.a, a), (&world.b, b), honest(&world));
    let (a, b) = (refused(a), refused(b));
    let found = if a.by == Party::Here { &a } else { &b };
    assert!(found.reasons.iter().any(|reason| reason.text.as_str().starts_with("ClassFloor")), "{found}");
}

#[test]
fn p1_without_roots_for_simulation_simulated_evidence_is_refused() {
    let world = world();
    let (mut a, mut b) = world.configs();
    (a.trust.sim, b.trust.sim) = (None, None);
    let (a, b) = shake((&world.a, a), (&world.b, b), honest(&world));
    // The platform's own side notices first.
    let found = refused(b);
    assert!(found.by == Party::Here && found.failed(Check::Local), "{found}");
    assert_eq!(refused(a).by, Party::There);
}

#[test]
fn a_service_without_a_policy_moves_and_everybody_is_told_what_that_means() {
    let world = world();
    let open = |ledger| dunlin_attested::open_policy(world.record.service, &module(), ledger).expect("a policy");
    let policy = open(dunlin_handover::ledger::Signer::key(&world.ledger));
    assert_eq!(policy.hash(), open(dunlin_handover::ledger::Signer::key(&world.ledger)).hash());
    assert_ne!(policy.hash(), open(Key([9; 32])).hash(), "it names the ledger");
    let (mut a, mut b) = world.configs();
    for config in [&mut a, &mut b] {
        config.trust.policy = policy.clone();
        config.terms.recorded_policy = Digest::of(b"");
    }
    let mut record = world.record;
    record.policy_hash = Digest::of(b"");
    let reading = Box::new(|nonce| Ok(world.reading_of(record, nonce)));
    let (a, b) = shake((&world.a, a), (&world.b, b), Meddler { reading, ..honest(&world) });
    assert!(b.expect("an end").is_ok());
    let told = a.expect("an end").expect("trust").peer.warnings().join("\n");
    for needle in ["SIMULATED", "any_measurement", "any_provider"] {
        assert!(told.contains(needle), "{told}");
    }
}
