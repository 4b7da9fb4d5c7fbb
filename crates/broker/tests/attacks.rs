//! S3, S5 and S7 to S10 of the list of attacks, and what else may be tried on a broker.

mod common;

use common::{Instance, NOW, ROOT, SECRET, SERVICE, TestKey, World, ledger_key, module, policy, root, signing};
use dunlin_attest::Endorsements;
use dunlin_base::Digest;
use dunlin_broker::{Brokers, Denied, Fetch, FetchError, KemKey, Message, Released, Want};
use dunlin_handover::Nonce;
use dunlin_handover::codec::Wire as _;
use dunlin_handover::ledger::Reading;
use dunlin_seal::{Kind, Label};

fn secret() -> Want {
    Want::Secret("tls-key".to_owned())
}

fn denied<T: std::fmt::Debug>(outcome: Result<T, FetchError>) -> Denied {
    match outcome {
        Err(FetchError::Denied(denied)) => denied,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_holder_gets_its_key_and_its_secrets() {
    let one = Instance::new("one");
    let mut world = World::held_by(&one);
    assert_eq!(world.keys(&one), Ok((2, None)));
    match world.ask(&one, secret()).unwrap() {
        Released::Secret(bytes) => assert_eq!(&bytes[..], SECRET),
        other => panic!("{other:?}"),
    }
    for absent in ["for-another", "no-such"] {
        let want = Want::Secret(absent.to_owned());
        assert_eq!(denied(world.ask(&one, want)), Denied::NoSuchSecret, "{absent}");
    }
    let wants: Vec<_> = world.released.iter().map(|release| (&release.want, release.epoch)).collect();
    assert_eq!(wants, [(&Want::Keys, 2), (&secret(), 2)]);
    assert_eq!(world.released[0].holder, one.key().0);
}

#[test]
fn s03_another_measurement_or_module_gets_nothing() {
    // A genuine platform on which another program runs, and which holds the service by the ledger.
    let other = Instance::with_program("one", "/bin/sh".as_ref());
    let mut world = World::held_by(&other);
    let Denied::Policy(reasons) = world.keys(&other).unwrap_err() else { panic!("not by the policy") };
    assert!(reasons.contains("Measurement"), "{reasons}");
    let mut module = Instance::new("one");
    module.party.module = Digest::of(b"some module");
    let mut world = World::held_by(&module);
    let Denied::Policy(reasons) = world.keys(&module).unwrap_err() else { panic!("not by the policy") };
    assert!(reasons.contains("Module"), "{reasons}");
    let mut foreign = Instance::new("one");
    foreign.party.provider = "umbrella".to_owned();
    let mut world = World::held_by(&foreign);
    assert!(matches!(world.keys(&foreign), Err(Denied::Policy(_))));
    // A machine that nobody vouches for.
    let unknown = Instance::new("three");
    let mut world = World::held_by(&unknown);
    assert!(matches!(world.keys(&unknown), Err(Denied::Evidence(_))));
    assert!(world.released.is_empty());
}

#[test]
fn s05_a_state_carried_to_another_machine_finds_no_key_there() {
    let (one, two) = (Instance::new("one"), Instance::new("two"));
    let mut world = World::held_by(&one);
    let label = Label { kind: Kind::Checkpoint, name: "state", version: 0 };
    let Ok(Released::Keys { own, .. }) = world.ask(&one, Want::Keys) else { panic!("the holder gets it") };
    let sealed = own.objects().seal(&label, b"state").unwrap();
    // The whole disk is copied to machine two, which is genuine and permitted.
    assert_eq!(world.keys(&two), Err(Denied::NotHolder));
    let resumed = world.resume(&two);
    assert!(resumed.is_err(), "the ledger lets only the holder's machine resume: {resumed:?}");
    assert_eq!(world.keys(&two.in_epoch(3)), Err(Denied::NotHolder));
    assert_eq!(own.objects().open(&label, &sealed).unwrap(), b"state");
    assert_eq!(world.released.len(), 1);
}

#[test]
fn s07_perfect_evidence_of_somebody_who_is_not_the_holder_is_not_enough() {
    let (one, two) = (Instance::new("one"), Instance::new("two"));
    let mut nobody = World::new();
    assert_eq!(nobody.keys(&two), Err(Denied::NotHolder), "held by nobody");
    let mut world = World::held_by(&one);
    for epoch in [0, 1, 2, 3, u64::MAX] {
        assert_eq!(world.keys(&Instance::new("two").in_epoch(epoch)), Err(Denied::NotHolder), "epoch {epoch}");
    }
    // Nor is the holder in another epoch.
    for epoch in [1, 3] {
        let outcome = world.keys(&Instance::new("one").in_epoch(epoch));
        assert_eq!(outcome, Err(Denied::NotHolder));
    }
    assert_eq!(denied(world.ask(&two, secret())), Denied::NotHolder);
    assert!(world.released.is_empty());
    assert_eq!(world.keys(&one), Ok((2, None)));
}

#[test]
fn s08_the_previous_holder_gets_nothing_after_the_transfer() {
    let (one, two) = (Instance::new("one"), Instance::new("two").in_epoch(3));
    let mut world = World::held_by(&one);
    assert_eq!(world.keys(&one), Ok((2, None)));
    world.transfer(&one, &two, 7);
    assert_eq!(world.keys(&one), Err(Denied::NotHolder));
    let one = one.in_epoch(3);
    assert_eq!(world.keys(&one), Err(Denied::NotHolder), "it claims the new epoch");
    assert_eq!(denied(world.ask(&one, secret())), Denied::NotHolder);
    assert_eq!(world.keys(&two), Ok((3, Some(2))), "its own, and that of the state it took over");
}

#[test]
fn s09_of_two_that_want_to_hold_the_service_exactly_one_gets_keys() {
    let first = Instance::new("one");
    let mut world = World::held_by(&first);
    // Two instances start from one state on the holder's machine, as a host can have them do.
    let racers = [Instance::new("one").in_epoch(3), Instance::new("one").in_epoch(3)];
    let record = world.read().record;
    let mut won = 0;
    for racer in &racers {
        let resume = dunlin_handover::ledger::Operation::Resume {
            holder: racer.key().0,
            platform: racer.platform.platform(),
            evidence: Digest([2; 32]),
        };
        won += usize::from(world.apply((record.epoch, record.version), resume, &[racer.key(), racer.platform]).is_ok());
    }
    assert_eq!(won, 1);
    let outcomes = racers.each_ref().map(|racer| world.keys(racer));
    assert_eq!(outcomes, [Ok((3, None)), Err(Denied::NotHolder)]);
    assert_eq!(world.keys(&first), Err(Denied::NotHolder));
}

#[test]
fn s10_answers_are_encrypted_to_the_attested_key_and_to_nothing_else() {
    let one = Instance::new("one");
    let mut world = World::held_by(&one);
    world.ask(&one, secret()).unwrap();
    world.ask(&one, Want::Keys).unwrap();
    // Whoever carries the messages sees neither.
    let key = root().epoch_key(SERVICE.0, 2);
    for message in &world.wire {
        for hidden in [SECRET, key.expose().as_slice(), ROOT.as_slice()] {
            assert!(!message.windows(8).any(|window| hidden.windows(8).any(|part| part == window)));
        }
    }
    // A relay puts its own key in place of the instance's.
    let relay = KemKey::from_seed(&[9; 32]);
    let begin = |world: &mut World| {
        let (fetch, hello) = Fetch::begin(&one.party, secret(), Nonce([8; 32]), [0; 32]);
        let challenged = fetch.challenged(world.reply(hello)).unwrap();
        let evidence = one.evidence(challenged.binding());
        challenged.ask(&evidence, &Endorsements::default())
    };
    let (_, ask) = begin(&mut world);
    let Message::Ask(mut ask) = ask else { panic!("an ask") };
    ask.kem_key = relay.public();
    let reply = world.reply(Message::Ask(ask));
    assert!(matches!(&reply, Message::Refusal(refusal) if refusal.reason == Denied::Signature), "{reply:?}");
    // A compromised instance signs another key than the one in its evidence.
    let mut other = Instance::new("one");
    let attested = other.party.kem.public();
    let mut world = World::held_by(&other);
    let (fetch, hello) = Fetch::begin(&other.party, secret(), Nonce([8; 32]), [0; 32]);
    let challenged = fetch.challenged(world.reply(hello)).unwrap();
    let evidence = other.evidence(challenged.binding());
    other.party.kem = std::sync::Arc::new(KemKey::from_seed(&[9; 32]));
    assert_ne!(other.party.kem.public(), attested);
    let (fetch, hello) = Fetch::begin(&other.party, secret(), Nonce([8; 32]), [0; 32]);
    let challenged = fetch.challenged(world.reply(hello)).unwrap();
    let (asked, ask) = challenged.ask(&evidence, &Endorsements::default());
    assert!(matches!(denied(asked.answered(world.reply(ask))), Denied::Evidence(_)));
}

#[test]
fn s10_an_answer_is_good_for_its_question_only() {
    let one = Instance::new("one");
    let mut world = World::held_by(&one);
    let asked = |world: &mut World, nonce: u8| {
        let (fetch, hello) = Fetch::begin(&one.party, secret(), Nonce([nonce; 32]), [0; 32]);
        let challenged = fetch.challenged(world.reply(hello)).unwrap();
        let evidence = one.evidence(challenged.binding());
        challenged.ask(&evidence, &Endorsements::default())
    };
    let (first, ask) = asked(&mut world, 1);
    let answer = world.reply(ask.clone());
    // The question again: its session had its answer.
    let again = world.reply(ask);
    assert!(matches!(&again, Message::Refusal(refusal) if refusal.reason == Denied::Session), "{again:?}");
    // The answer to another question.
    let (second, _) = asked(&mut world, 1);
    assert!(matches!(second.answered(answer.clone()), Err(FetchError::NotGenuine)));
    assert!(matches!(first.answered(answer.clone()), Ok(Released::Secret(_))));
    // Every bit of an answer counts.
    let bytes = answer.to_bytes();
    let (_, ask) = asked(&mut world, 2);
    let Message::Answer(_) = world.reply(ask) else { panic!("answered") };
    // Of the long middle part some bits are tried: each needs a session of its own.
    for bit in (0..bytes.len() * 8).filter(|bit| *bit < 400 || bit % 31 == 0) {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let Ok(message) = Message::from_bytes(&changed) else { continue };
        let mut fresh = World::held_by(&one);
        let (fetch, hello) = Fetch::begin(&one.party, secret(), Nonce([1; 32]), [0; 32]);
        // The same world answers the same: its randomness is fixed.
        let challenged = fetch.challenged(fresh.reply(hello)).unwrap();
        let evidence = one.evidence(challenged.binding());
        let (asked, _) = challenged.ask(&evidence, &Endorsements::default());
        assert!(asked.answered(message).is_err(), "bit {bit}");
    }
}

#[test]
fn m10_keys_of_two_epochs_are_released_and_no_others() {
    let (one, two) = (Instance::new("one"), Instance::new("two"));
    let mut world = World::held_by(&one);
    assert_eq!(world.keys(&one), Ok((2, None)), "nothing was ever written");
    world.commit(&one, 5);
    assert_eq!(world.keys(&one), Ok((2, None)), "one key when both epochs are one");
    let two = two.in_epoch(3);
    world.transfer(&one, &two, 7);
    // A transfer writes a state too: the source wrote it, in its epoch.
    assert_eq!(world.keys(&two), Ok((3, Some(2))));
    // An instance that takes over later in epoch 5, without a commit since: 5 and 2, and neither 3 nor 4.
    let third = Instance::new("two").in_epoch(4);
    world.resume(&third).unwrap();
    let fourth = Instance::new("two").in_epoch(5);
    world.resume(&fourth).unwrap();
    assert_eq!(world.keys(&fourth), Ok((5, Some(2))));
    // What was written in epoch 2 is not the last state any more.
    world.commit(&fourth, 8);
    assert_eq!(world.keys(&fourth), Ok((5, None)));
}

#[test]
fn m10_a_forged_epoch_of_the_last_commit_is_no_word_of_the_ledger() {
    let (one, two) = (Instance::new("one"), Instance::new("two"));
    let two = two.in_epoch(3);
    let mut world = World::held_by(&one);
    world.transfer(&one, &two, 7);
    assert_eq!(world.keys(&two), Ok((3, Some(2))));
    for forge in [
        |mut reading: Reading| {
            reading.record.state_epoch = 1;
            Some(reading)
        },
        |mut reading: Reading| {
            reading.record.state_epoch = 4;
            Some(reading)
        },
        |mut reading: Reading| {
            reading.record.version += 1;
            Some(reading)
        },
        |mut reading: Reading| {
            reading.head = Digest([1; 32]);
            Some(reading)
        },
    ] {
        world.reading = forge;
        assert_eq!(world.keys(&two), Err(Denied::Ledger));
    }
}

#[test]
fn readings_that_are_old_forged_missing_or_of_another_ledger_release_nothing() {
    let (one, two) = (Instance::new("one"), Instance::new("two"));
    let tricks: [fn(Reading) -> Option<Reading>; 4] = [
        |_| None,
        |reading| Some(Reading { nonce: Nonce([0; 32]), ..reading }),
        |reading| Some(Reading { ledger: TestKey::named("mallory").0, ..reading }),
        |mut reading| {
            reading.record.holder = Some(Instance::new("two").key().0);
            Some(reading)
        },
    ];
    for trick in tricks {
        let mut world = World::held_by(&one);
        world.reading = trick;
        assert_eq!(world.keys(&one), Err(Denied::Ledger));
        assert_eq!(world.keys(&two), Err(Denied::Ledger));
        assert!(world.released.is_empty());
    }
    // A reading for the right nonce, of the time before a transfer: signed by another key, as only a forger can.
    let mut world = World::held_by(&one);
    world.reading = |mut reading| {
        let mallory = TestKey::named("mallory");
        reading.record.epoch = 2;
        reading.ledger = ledger_key().0;
        let signed = dunlin_handover::ledger::Signer::sign(&mallory, &reading.signed_bytes());
        reading.signature = dunlin_handover::ledger::Signature(signed);
        Some(reading)
    };
    assert_eq!(world.keys(&one), Err(Denied::Ledger));
}

#[test]
fn nothing_is_released_that_is_not_on_record() {
    let one = Instance::new("one");
    let mut world = World::held_by(&one);
    world.records = false;
    assert_eq!(world.keys(&one), Err(Denied::Record));
    assert_eq!(denied(world.ask(&one, secret())), Denied::Record);
    world.records = true;
    assert_eq!(world.keys(&one), Ok((2, None)));
    assert_eq!(world.released.len(), 1);
}

#[test]
fn sessions_end_in_time_and_are_limited() {
    let one = Instance::new("one");
    let mut world = World::held_by(&one);
    let (fetch, hello) = Fetch::begin(&one.party, Want::Keys, Nonce([1; 32]), [0; 32]);
    let challenged = fetch.challenged(world.reply(hello.clone())).unwrap();
    let evidence = one.evidence(challenged.binding());
    let (asked, ask) = challenged.ask(&evidence, &Endorsements::default());
    world.now = NOW + 301;
    assert_eq!(denied(asked.answered(world.reply(ask))), Denied::Session);
    let mut begun = 0;
    while let Message::Challenge(_) = world.reply(hello.clone()) {
        begun += 1;
        assert!(begun <= 1024);
    }
    assert_eq!(world.keys(&one), Err(Denied::Busy));
    world.now += 301;
    assert_eq!(world.keys(&one), Ok((2, None)));
}

#[test]
fn a_broker_that_the_policy_does_not_name_is_told_nothing() {
    let mut one = Instance::new("one");
    one.party.brokers = Brokers::Named(vec![signing(4).verifying_key()]);
    let mut world = World::held_by(&one);
    assert!(matches!(world.ask(&one, secret()), Err(FetchError::WrongBroker)));
    assert_eq!(world.wire.len(), 2, "hello and challenge: no evidence was sent");
    // One that imitates the named one has not its key to sign with.
    let mut one = Instance::new("one");
    one.party.brokers = Brokers::Named(vec![common::broker_key()]);
    let mut world = World::held_by(&one);
    let (fetch, hello) = Fetch::begin(&one.party, secret(), Nonce([1; 32]), [0; 32]);
    let challenged = fetch.challenged(world.reply(hello)).unwrap();
    let evidence = one.evidence(challenged.binding());
    let (asked, ask) = challenged.ask(&evidence, &Endorsements::default());
    let Message::Answer(mut answer) = world.reply(ask) else { panic!("answered") };
    answer.sealed.push(0);
    assert!(matches!(asked.answered(Message::Answer(answer)), Err(FetchError::NotGenuine)));
    assert_eq!(module(), one.party.module);
    assert_eq!(policy().hash(), one.party.policy);
}
