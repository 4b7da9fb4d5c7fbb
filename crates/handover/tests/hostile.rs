//! One side is the real machine, the other a hand-written peer, host or ledger that lies.

#[allow(unreachable_pub, dead_code, reason = "shared with other test programs")]
#[path = "world/keys.rs"]
mod keys;

use std::time::Duration;

use dunlin_base::Digest;
use dunlin_handover::converge::{Mode, Options};
use dunlin_handover::destination::{self, Destination};
use dunlin_handover::ledger::{LedgerState, Operation, Reading, Record, Recovery, Request, Signature, Staged};
use dunlin_handover::message::{
    Abort, AbortCode, Chunk, Content, Evidence, Features, Final, HashChain, Hello, LeftBehind, Link, MAX_HELD,
    MAX_HELD_CHUNKS, MemoryShape, Message, Offer, PageRequest, Pages, Reattach, Role, Round, Run, Text, Versions,
    VolumeChunks, VolumeHeld, Welcome,
};
use dunlin_handover::source::{self, Source};
use dunlin_handover::{
    Entropy, LedgerAnswer, LedgerQuery, LedgerReply, Limits, MigrationId, Nonce, OperationId, ServiceId, Time,
};
use keys::{TestChecks, TestKey, keys, ledger_key};

const SERVICE: ServiceId = ServiceId([1; 16]);
const MIGRATION: MigrationId = MigrationId([2; 16]);
const NOW: Time = Time(1_000_000);

fn a() -> TestKey {
    TestKey::named("a")
}

fn b() -> TestKey {
    TestKey::named("b")
}

/// A ledger in which `a` on `pa` holds the service at epoch 2.
fn ledger() -> LedgerState {
    let (owner, pa, mut state) = (TestKey::named("owner"), TestKey::named("pa"), LedgerState::default());
    let create = Operation::Create {
        owner: owner.0,
        state_hash: hash(0),
        policy_hash: hash(100),
        policy_version: 1,
        recovery: Recovery::default(),
    };
    apply(&mut state, create, &[owner]);
    let claim = Operation::Claim { holder: a().0, platform: pa.platform(), evidence: hash(1) };
    apply(&mut state, claim, &[a(), pa]);
    state
}

fn apply(state: &mut LedgerState, action: Operation, signers: &[TestKey]) {
    let (epoch, version) = state.record().map_or((0, 0), |record| (record.epoch, record.version));
    let operation = OperationId([epoch as u8 + 1; 16]);
    let plain = Request::new(SERVICE, operation, epoch, version, action);
    let request = signers.iter().fold(plain, |request, signer| request.signed(signer));
    state.apply(&request, &TestChecks::default(), &ledger_key()).expect("the scene is in order");
}

fn hash(number: u8) -> Digest {
    Digest::of(&[number])
}

/// The other end of the channel to the machine under test.
struct Peer(Link);

impl Peer {
    fn new(role: Role) -> Self {
        Self::speaking(role, 1)
    }

    fn speaking(role: Role, version: u16) -> Self {
        Self(Link::new(Box::new(HashChain::new(&[9; 32], role)), version))
    }

    fn frame(&mut self, message: &Message) -> Vec<u8> {
        self.0.send(message);
        self.0.poll().expect("just sent")
    }

    fn hear(&mut self, frame: Option<Vec<u8>>) -> Message {
        self.0.receive(&frame.expect("the machine says something")).expect("the machine is honest")
    }
}

fn destination() -> (Destination, Peer) {
    let config = destination::Config {
        policy_hash: hash(100),
        peer: Some(a().0),
        features: Features { postcopy: true, zstd: false },
        evidence: Evidence(Vec::new()),
        versions: Versions::SUPPORTED,
        keys: keys(b(), TestKey::named("pb")),
        limits: Limits::default(),
        guard: Box::new(HashChain::new(&[9; 32], Role::Destination)),
        entropy: Entropy::new([1; 32]),
    };
    (Destination::new(config, NOW), Peer::new(Role::Source))
}

fn hello() -> Hello {
    Hello { oldest: 1, newest: 1, migration: MIGRATION, service: SERVICE, holder: a().0, nonce: Nonce([3; 32]) }
}

fn offer(reading: Reading) -> Message {
    Message::Offer(Offer {
        reading,
        module: hash(50),
        snapshot_version: 1,
        memories: vec![MemoryShape { pages: 4, maximum: 8 }],
        needs: Vec::new(),
        mode: Mode::Stop,
        dry_run: false,
        evidence: Evidence(Vec::new()),
    })
}

/// Greets, and offers what `reading` says, made from the honest reading for the destination's nonce.
fn offered(reading: impl FnOnce(Reading, Nonce) -> Reading) -> (Destination, Peer, Option<destination::Action>) {
    let (mut machine, mut peer) = destination();
    machine.handle_message(NOW, &peer.frame(&Message::Hello(hello()))).unwrap();
    let Message::Welcome(welcome) = peer.hear(machine.poll_transmit()) else { panic!("no welcome") };
    let honest = ledger().read(welcome.nonce, &ledger_key()).unwrap();
    let frame = peer.frame(&offer(reading(honest, welcome.nonce)));
    machine.handle_message(NOW, &frame).unwrap();
    let action = machine.poll_action();
    (machine, peer, action)
}

/// A destination that is ready for pages.
fn receiving() -> (Destination, Peer) {
    let (mut machine, mut peer, _) = offered(|reading, _| reading);
    machine.handle_local(NOW, destination::Event::Judged { reasons: Vec::new(), module_wanted: false });
    machine.handle_local(NOW, destination::Event::Prepared { took: Duration::ZERO });
    while let Some(frame) = machine.poll_transmit() {
        peer.hear(Some(frame));
    }
    while machine.poll_action().is_some() {}
    (machine, peer)
}

/// A destination that has staged and waits for the ledger.
fn waiting() -> (Destination, Peer, LedgerState) {
    let (mut machine, mut peer) = receiving();
    let state = Chunk { offset: 0, total: 1, bytes: vec![0] };
    machine.handle_message(NOW, &peer.frame(&Message::State(state))).unwrap();
    machine.handle_message(NOW, &peer.frame(&Message::Final(last()))).unwrap();
    machine.handle_local(NOW, destination::Event::Staged { state_hash: hash(1) });
    let Message::Staged(staged) = peer.hear(machine.poll_transmit()) else { panic!("not staged") };
    while machine.poll_action().is_some() {}
    let mut moved = ledger();
    let transfer = Operation::Transfer { state_hash: hash(1), evidence: hash(1), retained: false, staged };
    apply(&mut moved, transfer, &[a()]);
    (machine, peer, moved)
}

fn last() -> Final {
    Final { epoch: 2, version: 1, state_hash: hash(1), pages: 0, lazy_pages: 0, retained: None }
}

fn activates(machine: &mut Destination) -> bool {
    core::iter::from_fn(|| machine.poll_action()).any(|action| matches!(action, destination::Action::Activate { .. }))
}

/// The machine's next question.
fn question(machine: &mut Destination) -> (u64, Nonce) {
    loop {
        match machine.poll_action().expect("it asks the ledger") {
            destination::Action::Ledger(call) => match call.query {
                LedgerQuery::Read { nonce, .. } => return (call.id, nonce),
                other => panic!("a destination that waits asks for {other:?}"),
            },
            _ => continue,
        }
    }
}

#[test]
fn m13_state_is_taken_from_the_holder_of_this_moment_only() {
    let accepted = |action: Option<destination::Action>| matches!(action, Some(destination::Action::Judge(_)));
    assert!(accepted(offered(|reading, _| reading).2), "the honest case");
    let (machine, _, action) = offered(|_, _| ledger().read(Nonce([7; 32]), &ledger_key()).unwrap());
    assert!(!accepted(action), "a reading for another nonce");
    assert!(matches!(machine.outcome(), Some(destination::Outcome::Refused(_))));
    let moved_on = |_, nonce| waiting().2.read(nonce, &ledger_key()).unwrap();
    assert!(!accepted(offered(moved_on).2), "the service is held elsewhere");
    let other = |_, nonce| ledger().read(nonce, &TestKey::named("other")).unwrap();
    assert!(!accepted(offered(other).2), "another ledger");
    let forged = |mut reading: Reading, _| {
        reading.record.version = 5;
        reading
    };
    assert!(!accepted(offered(forged).2), "a changed reading");
}

#[test]
fn m13_a_peer_with_another_key_than_the_channels_is_refused() {
    let (mut machine, mut peer) = destination();
    let other = Hello { holder: TestKey::named("c").0, ..hello() };
    machine.handle_message(NOW, &peer.frame(&Message::Hello(other))).unwrap();
    assert!(matches!(peer.hear(machine.poll_transmit()), Message::Refuse(_)));
}

#[test]
fn m7_nothing_runs_on_the_sources_word_nor_on_a_receipt_alone() {
    let (mut machine, mut peer, moved) = waiting();
    let receipt = moved.recent().last().unwrap().clone();
    machine.handle_message(NOW, &peer.frame(&Message::Committed(receipt))).unwrap();
    let (id, nonce) = question(&mut machine);
    assert!(!activates(&mut machine), "a receipt is a reason to ask, not to run");
    // The ledger as it was before: the source lied.
    let answer = LedgerAnswer::Reading(ledger().read(nonce, &ledger_key()).unwrap());
    machine.handle_ledger_reply(NOW, LedgerReply { id, answer });
    assert!(!activates(&mut machine));
    assert_eq!(machine.phase(), "waiting");
    // And now as it is.
    machine.handle_timeout(NOW + Duration::from_secs(3));
    let (id, nonce) = question(&mut machine);
    let answer = LedgerAnswer::Reading(moved.read(nonce, &ledger_key()).unwrap());
    machine.handle_ledger_reply(NOW, LedgerReply { id, answer });
    assert!(activates(&mut machine));
}

#[test]
fn m8_answers_that_are_forged_stale_or_of_another_ledger_are_no_answers() {
    let (mut machine, mut peer, moved) = waiting();
    let mut forged = moved.recent().last().unwrap().clone();
    forged.signature = Signature(vec![0; 32]);
    machine.handle_message(NOW, &peer.frame(&Message::Committed(forged))).unwrap();
    assert!(machine.poll_action().is_none(), "a forged receipt is not even a reason to ask");
    machine.handle_timeout(NOW + Duration::from_secs(1));
    let (id, nonce) = question(&mut machine);
    let stale = moved.read(Nonce([0; 32]), &ledger_key()).unwrap();
    let other = moved.read(nonce, &TestKey::named("other")).unwrap();
    let mut changed = ledger().read(nonce, &ledger_key()).unwrap();
    changed.record = *moved.record().unwrap();
    let receipt = moved.recent().last().unwrap().clone();
    for answer in [
        LedgerAnswer::Reading(stale),
        LedgerAnswer::Reading(other),
        LedgerAnswer::Reading(changed),
        LedgerAnswer::Receipt(receipt),
        LedgerAnswer::Unreachable,
    ] {
        machine.handle_ledger_reply(NOW, LedgerReply { id, answer: answer.clone() });
        assert!(!activates(&mut machine), "{answer:?}");
    }
    let genuine = LedgerAnswer::Reading(moved.read(nonce, &ledger_key()).unwrap());
    machine.handle_ledger_reply(NOW, LedgerReply { id: id + 1, answer: genuine.clone() });
    assert!(!activates(&mut machine), "the answer to another call");
    machine.handle_ledger_reply(NOW, LedgerReply { id, answer: genuine });
    assert!(activates(&mut machine));
}

#[test]
fn m12_what_was_staged_must_have_the_digest_that_was_sent() {
    let (mut machine, mut peer) = receiving();
    let state = Chunk { offset: 0, total: 1, bytes: vec![0] };
    machine.handle_message(NOW, &peer.frame(&Message::State(state))).unwrap();
    machine.handle_message(NOW, &peer.frame(&Message::Final(last()))).unwrap();
    machine.handle_local(NOW, destination::Event::Staged { state_hash: hash(2) });
    assert!(matches!(peer.hear(machine.poll_transmit()), Message::Abort(_)), "no word that it is staged");
    let actions: Vec<_> = core::iter::from_fn(|| machine.poll_action()).collect();
    assert_eq!(actions.last(), Some(&destination::Action::Discard));
}

#[test]
fn m11_pages_rounds_and_chunks_that_contradict_each_other_are_refused() {
    let pages = |memory, first, round| {
        let runs = vec![Run { first, count: 2, content: Content::Zero }];
        Message::Pages(Pages { round, memory, runs })
    };
    let chunk = |offset, total| Message::State(Chunk { offset, total, bytes: vec![1] });
    let unsealed = Staged { signature: Signature::default(), ..retained() };
    let cases: Vec<(&str, Vec<Message>)> = vec![
        ("outside of the memory", vec![pages(0, 7, 1)]),
        ("a memory that does not exist", vec![pages(1, 0, 1)]),
        ("pages of the next round", vec![pages(0, 0, 2)]),
        (
            "a round that is longer than what came",
            vec![pages(0, 0, 1), Message::RoundEnd(Round { round: 1, pages: 3 })],
        ),
        ("a round that is skipped", vec![Message::RoundEnd(Round { round: 2, pages: 0 })]),
        ("a gap in the state", vec![chunk(0, 3), chunk(2, 3)]),
        ("a state that changes its size", vec![chunk(0, 3), chunk(1, 2)]),
        ("no state", vec![Message::Final(last())]),
        ("half a state", vec![chunk(0, 2), Message::Final(last())]),
        ("a missing page", vec![chunk(0, 1), Message::Final(Final { pages: 1, ..last() })]),
        ("another epoch", vec![chunk(0, 1), Message::Final(Final { epoch: 3, ..last() })]),
        ("an old version", vec![chunk(0, 1), Message::Final(Final { version: 0, ..last() })]),
        ("pages left behind, unlisted", vec![chunk(0, 1), Message::Final(Final { lazy_pages: 1, ..last() })]),
        (
            "pages left behind that nobody keeps",
            vec![left(1), chunk(0, 1), Message::Final(Final { lazy_pages: 1, ..last() })],
        ),
        (
            "an unsigned statement about what is kept",
            vec![left(1), chunk(0, 1), Message::Final(Final { lazy_pages: 1, retained: Some(unsealed), ..last() })],
        ),
        ("an activation", vec![Message::Activated(1)]),
        ("a second greeting", vec![Message::Hello(hello())]),
    ];
    for (what, messages) in cases {
        let (mut machine, mut peer) = receiving();
        let (wrong, right) = messages.split_last().unwrap();
        for message in right {
            machine.handle_message(NOW, &peer.frame(message)).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        assert!(machine.handle_message(NOW, &peer.frame(wrong)).is_err(), "{what} was taken");
        assert!(matches!(machine.outcome(), Some(destination::Outcome::Failed(_))), "{what}");
        let actions: Vec<_> = core::iter::from_fn(|| machine.poll_action()).collect();
        assert_eq!(actions.last(), Some(&destination::Action::Discard), "{what}");
    }
}

fn left(count: u32) -> Message {
    Message::LeftBehind(LeftBehind { memory: 0, ranges: vec![(0, count)] })
}

fn retained() -> Staged {
    Staged {
        service: SERVICE,
        migration: MIGRATION,
        epoch: 3,
        version: 2,
        state_hash: hash(1),
        holder: a().0,
        platform: TestKey::named("pa").platform(),
        complete: true,
        signature: Signature::default(),
    }
    .signed(&a())
}

fn source(record: Record) -> (Source, Peer) {
    (Source::new(source_config(record), NOW), Peer::new(Role::Destination))
}

fn source_config(record: Record) -> source::Config {
    source::Config {
        migration: MIGRATION,
        record,
        module: hash(50),
        snapshot_version: 1,
        memories: vec![MemoryShape { pages: 4, maximum: 8 }],
        needs: Vec::new(),
        evidence: Evidence(Vec::new()),
        options: Options { mode: Mode::Stop, ..Options::default() },
        dry_run: false,
        versions: Versions::SUPPORTED,
        keys: keys(a(), TestKey::named("pa")),
        limits: Limits::default(),
        guard: Box::new(HashChain::new(&[9; 32], Role::Source)),
        entropy: Entropy::new([2; 32]),
    }
}

/// A source that serves what stayed behind to a destination that has come back.
fn serving() -> (Source, Peer) {
    let retained = source::Retained { migration: MIGRATION, version: 0, platform: TestKey::named("pb").platform() };
    let mut machine = Source::restarted(source_config(*ledger().record().unwrap()), retained, hash(1), NOW);
    let mut peer = Peer::speaking(Role::Destination, Versions::SUPPORTED.newest);
    machine.handle_local(NOW, source::Event::Reconnected(Box::new(HashChain::new(&[9; 32], Role::Source))));
    let reattach = Reattach { migration: MIGRATION, service: SERVICE, epoch: 3, placed: 0 };
    machine.handle_message(NOW, &peer.frame(&Message::Reattach(reattach))).unwrap();
    answer(&mut machine, &mut waiting().2);
    assert_eq!(machine.phase(), "serving");
    assert!(matches!(peer.hear(machine.poll_transmit(NOW)), Message::Reattached(_)));
    (machine, peer)
}

/// Sends whatever may be sent that nobody asked for, from page `from` on; returns the page behind it and the largest message.
fn push(machine: &mut Source, peer: &mut Peer, from: u64) -> (u64, u32) {
    let (mut next, mut largest) = (from, 0);
    loop {
        while let Some(frame) = machine.poll_transmit(NOW) {
            peer.hear(Some(frame));
        }
        match machine.poll_action() {
            Some(source::Action::SendPages { round, max }) => {
                let runs = vec![Run { first: next, count: max, content: Content::Zero }];
                machine.handle_local(NOW, source::Event::Pages(Pages { round, memory: 0, runs }));
                machine.handle_local(NOW, source::Event::BatchEnd { left: 1 << 20 });
                (next, largest) = (next + u64::from(max), largest.max(max));
            }
            Some(_) => {}
            None => return (next, largest),
        }
    }
}

fn welcome() -> Message {
    Message::Welcome(Welcome {
        version: 1,
        holder: b().0,
        platform: TestKey::named("pb").platform(),
        nonce: Nonce([4; 32]),
        features: Features::default(),
        evidence: Evidence(Vec::new()),
    })
}

/// Answers the source's question with `state`'s word.
fn answer(machine: &mut Source, state: &mut LedgerState) {
    while let Some(action) = machine.poll_action() {
        if let source::Action::Ledger(call) = action {
            let answer = match call.query {
                LedgerQuery::Read { nonce, .. } => LedgerAnswer::Reading(state.read(nonce, &ledger_key()).unwrap()),
                LedgerQuery::Apply(request) => state
                    .apply(&request, &TestChecks::default(), &ledger_key())
                    .map_or_else(LedgerAnswer::Refused, LedgerAnswer::Receipt),
                LedgerQuery::Appraise(nomination) => panic!("no state machine nominates: {nomination:?}"),
            };
            return machine.handle_ledger_reply(NOW, LedgerReply { id: call.id, answer });
        }
    }
    panic!("the source asks nothing");
}

/// A source that waits for the destination's word, its program stopped.
fn staging() -> (Source, Peer, LedgerState) {
    let mut state = ledger();
    let (mut machine, mut peer) = source(*state.record().unwrap());
    peer.hear(machine.poll_transmit(NOW));
    machine.handle_message(NOW, &peer.frame(&welcome())).unwrap();
    answer(&mut machine, &mut state);
    machine.handle_message(NOW, &peer.frame(&Message::Accept(false))).unwrap();
    machine.handle_message(NOW, &peer.frame(&Message::Prepared(1))).unwrap();
    machine.handle_local(NOW, source::Event::Scanned { pages: 0, volume: 0 });
    machine.handle_local(NOW, source::Event::Stopped { version: 0, time_to_safepoint: Duration::ZERO });
    machine.handle_local(NOW, source::Event::Scanned { pages: 0, volume: 0 });
    machine.handle_local(NOW, source::Event::State(Chunk { offset: 0, total: 1, bytes: vec![0] }));
    machine.handle_local(NOW, source::Event::Captured { state_hash: hash(1) });
    assert_eq!(machine.phase(), "staging");
    while machine.poll_action().is_some() {}
    (machine, peer, state)
}

fn staged() -> Staged {
    Staged { epoch: 2, version: 1, holder: b().0, platform: TestKey::named("pb").platform(), ..retained() }.signed(&b())
}

#[test]
fn m9_the_source_signs_no_transfer_for_a_statement_that_does_not_fit() {
    let (mut machine, mut peer, _) = staging();
    machine.handle_message(NOW, &peer.frame(&Message::Staged(staged()))).unwrap();
    assert_eq!(machine.phase(), "transferring", "the honest case");
    for (what, staged) in [
        ("another state", Staged { state_hash: hash(2), ..staged() }.signed(&b())),
        ("another epoch", Staged { epoch: 1, ..staged() }.signed(&b())),
        ("another version", Staged { version: 2, ..staged() }.signed(&b())),
        ("another migration", Staged { migration: MigrationId([9; 16]), ..staged() }.signed(&b())),
        ("a part only", Staged { complete: false, ..staged() }.signed(&b())),
        ("somebody else", Staged { holder: TestKey::named("c").0, ..staged() }.signed(&TestKey::named("c"))),
        ("not signed", Staged { signature: Signature::default(), ..staged() }),
    ] {
        let (mut machine, mut peer, _) = staging();
        assert!(machine.handle_message(NOW, &peer.frame(&Message::Staged(staged))).is_err(), "{what}");
        assert!(matches!(machine.outcome(), Some(source::Outcome::Stayed { epoch: 2, .. })), "{what}");
        let actions: Vec<_> = core::iter::from_fn(|| machine.poll_action()).collect();
        assert!(actions.contains(&source::Action::ResumeGuest { epoch: 2 }), "{what}");
        assert!(!actions.iter().any(|action| matches!(action, source::Action::Ledger(_))), "{what}");
    }
}

#[test]
fn m16_a_cancel_after_the_transfer_was_signed_takes_a_new_epoch_or_loses_to_it() {
    // The cancel wins: the transfer that was signed can never be applied.
    let (mut machine, mut peer, mut state) = staging();
    machine.handle_message(NOW, &peer.frame(&Message::Staged(staged()))).unwrap();
    let Some(source::Action::Ledger(transfer)) = machine.poll_action() else { panic!("no transfer") };
    machine.handle_local(NOW, source::Event::Cancel);
    assert!(machine.outcome().is_none(), "nobody knows yet");
    answer(&mut machine, &mut state);
    assert!(matches!(machine.outcome(), Some(source::Outcome::Stayed { epoch: 3, cancelled: true, .. })));
    let LedgerQuery::Apply(late) = &transfer.query else { panic!("a transfer is applied") };
    assert!(state.apply(late, &TestChecks::default(), &ledger_key()).is_err());

    // The transfer wins: the program never runs here again.
    let (mut machine, mut peer, mut state) = staging();
    machine.handle_message(NOW, &peer.frame(&Message::Staged(staged()))).unwrap();
    let Some(source::Action::Ledger(transfer)) = machine.poll_action() else { panic!("no transfer") };
    let LedgerQuery::Apply(request) = &transfer.query else { panic!("a transfer is applied") };
    state.apply(request, &TestChecks::default(), &ledger_key()).unwrap();
    machine.handle_local(NOW, source::Event::Cancel);
    answer(&mut machine, &mut state);
    answer(&mut machine, &mut state);
    assert_eq!(machine.phase(), "committed");
    let actions: Vec<_> = core::iter::from_fn(|| machine.poll_action()).collect();
    assert!(actions.contains(&source::Action::Fence));
    assert!(!actions.iter().any(|action| matches!(action, source::Action::ResumeGuest { .. })));
}

#[test]
fn m16_what_was_staged_is_forgotten_at_the_sources_word_and_kept_when_the_link_is_lost() {
    let abort = |code| Message::Abort(Abort { code, text: Text::new("over") });
    for code in [AbortCode::Cancelled, AbortCode::Unconverged, AbortCode::Local, AbortCode::Timeout] {
        let (mut machine, mut peer, _) = waiting();
        machine.handle_message(NOW, &peer.frame(&abort(code))).unwrap();
        assert!(matches!(machine.outcome(), Some(destination::Outcome::Failed(_))), "{code:?}");
        let actions: Vec<_> = core::iter::from_fn(|| machine.poll_action()).collect();
        assert!(actions.contains(&destination::Action::Discard), "{code:?}");
    }
    // A source that could not read a message may have signed a transfer before.
    let (mut machine, mut peer, _) = waiting();
    machine.handle_message(NOW, &peer.frame(&abort(AbortCode::Protocol))).unwrap();
    assert_eq!(machine.phase(), "waiting");
    let (mut machine, ..) = waiting();
    machine.handle_local(NOW, destination::Event::LinkLost);
    assert_eq!(machine.phase(), "waiting");
    // And no source says so while its transfer may still be applied.
    let (mut machine, mut peer, mut state) = staging();
    machine.handle_message(NOW, &peer.frame(&Message::Staged(staged()))).unwrap();
    machine.handle_local(NOW, source::Event::Cancel);
    machine.handle_local(NOW, source::Event::Failed("something".to_owned()));
    let said = |machine: &mut Source, peer: &mut Peer| {
        core::iter::from_fn(|| machine.poll_transmit(NOW))
            .any(|frame| matches!(peer.hear(Some(frame)), Message::Abort(_)))
    };
    assert!(!said(&mut machine, &mut peer));
    let Some(source::Action::Ledger(_)) = machine.poll_action() else { panic!("no transfer") };
    answer(&mut machine, &mut state);
    assert!(matches!(machine.outcome(), Some(source::Outcome::Stayed { epoch: 3, .. })));
    assert!(said(&mut machine, &mut peer));
}

#[test]
fn claims_of_chunks_are_taken_up_to_a_limit_and_not_in_version_1() {
    let mut state = ledger();
    let (mut machine, mut peer) = source(*state.record().unwrap());
    peer.hear(machine.poll_transmit(NOW));
    let Message::Welcome(welcome) = welcome() else { panic!("it is one") };
    machine.handle_message(NOW, &peer.frame(&Message::Welcome(Welcome { version: 2, ..welcome }))).unwrap();
    peer.0.agree(2);
    answer(&mut machine, &mut state);
    machine.handle_message(NOW, &peer.frame(&Message::Accept(false))).unwrap();
    let claim = Message::VolumeHeld(VolumeHeld(vec![hash(7); MAX_HELD]));
    for _ in 0..MAX_HELD_CHUNKS / MAX_HELD {
        machine.handle_message(NOW, &peer.frame(&claim)).unwrap();
        while machine.poll_action().is_some() {}
    }
    let refused = machine.handle_message(NOW, &peer.frame(&claim)).unwrap_err();
    assert!(refused.to_string().contains("more chunks"), "{refused}");
    assert!(matches!(machine.outcome(), Some(source::Outcome::Stayed { epoch: 2, .. })));
    // To those who agreed on version 1, such messages do not exist.
    let (mut machine, mut peer, _) = staging();
    assert!(machine.handle_message(NOW, &peer.frame(&claim)).is_err());
    let (mut machine, mut peer, _) = waiting();
    let chunks = Message::VolumeChunks(VolumeChunks(vec![vec![1]]));
    assert!(machine.handle_message(NOW, &peer.frame(&chunks)).is_err());
    assert!(machine.poll_action().is_none_or(|action| !matches!(action, destination::Action::StoreVolume(_))));
}

#[test]
fn what_nobody_asked_for_is_little_while_the_program_waits_and_more_when_it_does_not() {
    let (mut machine, mut peer) = serving();
    let say = |machine: &mut Source, peer: &mut Peer, message: Message| {
        machine.handle_message(NOW, &peer.frame(&message)).unwrap();
    };
    assert_eq!(push(&mut machine, &mut peer, 0), (64, 16));
    assert_eq!(push(&mut machine, &mut peer, 64).0, 64, "nothing is in place");
    say(&mut machine, &mut peer, Message::Placed(15));
    assert_eq!(push(&mut machine, &mut peer, 64).0, 64, "less than a message");
    say(&mut machine, &mut peer, Message::Placed(16));
    assert_eq!(push(&mut machine, &mut peer, 64).0, 80);
    // As long as the program waits for nothing, more and more is on its way.
    let mut sent = 80;
    for _ in 0..8 {
        say(&mut machine, &mut peer, Message::Placed(sent));
        sent = push(&mut machine, &mut peer, sent).0;
    }
    let before = sent;
    say(&mut machine, &mut peer, Message::Placed(sent));
    let (after, largest) = push(&mut machine, &mut peer, sent);
    assert_eq!((after - before, largest), (1024, 256));
    // It waits: that is answered at once, and nothing else follows before what is on its way has come.
    say(&mut machine, &mut peer, Message::PageRequest(PageRequest { memory: 0, first: 5, count: 1 }));
    assert!(matches!(machine.poll_action(), Some(source::Action::ServePages(_))));
    say(&mut machine, &mut peer, Message::Placed(after - 64));
    assert_eq!(push(&mut machine, &mut peer, after).0, after);
    say(&mut machine, &mut peer, Message::Placed(after - 48));
    assert_eq!(push(&mut machine, &mut peer, after), (after + 16, 16));
}

#[test]
fn m11_a_destination_cannot_have_more_in_place_than_was_sent_nor_less_than_before() {
    for lies in [[65, 65], [32, 31], [u64::MAX, 0]] {
        let (mut machine, mut peer) = serving();
        push(&mut machine, &mut peer, 0);
        let taken = lies.map(|placed| machine.handle_message(NOW, &peer.frame(&Message::Placed(placed))));
        let refused = taken.into_iter().find_map(Result::err).expect("it was taken");
        assert!(refused.to_string().contains("in place"), "{refused}");
        assert_eq!(machine.phase(), "paused", "what stayed behind is kept");
    }
}

#[test]
fn m8_a_forged_refusal_or_receipt_ends_nothing_at_the_source() {
    let (mut machine, mut peer, mut state) = staging();
    machine.handle_message(NOW, &peer.frame(&Message::Staged(staged()))).unwrap();
    let Some(source::Action::Ledger(transfer)) = machine.poll_action() else { panic!("no transfer") };
    let LedgerQuery::Apply(request) = &transfer.query else { panic!("a transfer is applied") };
    let mut forged = state.clone().apply(request, &TestChecks::default(), &ledger_key()).unwrap();
    forged.signature = Signature(vec![1; 32]);
    machine.handle_ledger_reply(NOW, LedgerReply { id: transfer.id, answer: LedgerAnswer::Receipt(forged) });
    assert_eq!(machine.phase(), "transferring", "a forged receipt");
    // A host that refuses in the ledger's name makes the source ask, and then take a new epoch, before it runs on.
    let refused = LedgerAnswer::Refused(dunlin_handover::ledger::Refused::WrongStatus);
    machine.handle_ledger_reply(NOW, LedgerReply { id: transfer.id, answer: refused });
    assert_eq!(machine.phase(), "transferring", "a refusal that nobody signed");
    answer(&mut machine, &mut state);
    answer(&mut machine, &mut state);
    assert!(matches!(machine.outcome(), Some(source::Outcome::Stayed { epoch: 3, .. })));
}

#[test]
fn m13_a_source_that_is_not_the_holder_any_more_finds_out_before_it_sends_a_byte() {
    let old = *ledger().record().unwrap();
    let mut moved = waiting().2;
    let (mut machine, mut peer) = source(old);
    peer.hear(machine.poll_transmit(NOW));
    machine.handle_message(NOW, &peer.frame(&welcome())).unwrap();
    answer(&mut machine, &mut moved);
    assert_eq!(machine.outcome(), Some(&source::Outcome::Superseded));
    assert_eq!(machine.poll_action(), Some(source::Action::Fence));
    assert_eq!(machine.poll_transmit(NOW), None);
}
