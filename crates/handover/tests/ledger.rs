//! The ledger's rules, one by one, and what an instance that starts may do.

#[allow(unreachable_pub, dead_code, reason = "shared with other test programs")]
#[path = "world/keys.rs"]
mod keys;

use std::sync::Arc;

use dunlin_base::Digest;
use dunlin_handover::boot::{self, Blob, Boot, BootError};
use dunlin_handover::ledger::{
    Authority, HistoryError, Ledger, LedgerState, MemoryLedger, Nomination, Operation, Receipt, Record, Recovery,
    Refused, Request, Signature, Staged, Status, verify_history,
};
use dunlin_handover::{MigrationId, Nonce, OperationId, ServiceId};
use keys::{TestChecks, TestKey, ledger_key};

const SERVICE: ServiceId = ServiceId([1; 16]);

/// A service created by `owner`, claimed by `a` on `pa`, at epoch 2 and version 0.
#[derive(Clone)]
struct Scene {
    state: LedgerState,
    checks: TestChecks,
    history: Vec<Receipt>,
    next: u8,
    owner: TestKey,
    a: TestKey,
    pa: TestKey,
    b: TestKey,
    pb: TestKey,
}

impl Scene {
    fn new() -> Self {
        let named = TestKey::named;
        let (owner, a, pa, b, pb) = (named("owner"), named("a"), named("pa"), named("b"), named("pb"));
        let (state, checks) = (LedgerState::default(), TestChecks::default());
        let mut scene = Self { state, checks, history: Vec::new(), next: 0, owner, a, pa, b, pb };
        let mut recovery = Recovery { threshold: 2, keys: ["r1", "r2", "r3"].map(|name| named(name).0).to_vec() };
        recovery.keys.sort();
        let create = Operation::Create {
            owner: owner.0,
            state_hash: hash(0),
            policy_hash: Digest::of(b"policy"),
            policy_version: 1,
            recovery,
        };
        scene.apply(create, &[owner]).unwrap();
        scene.apply(claim(a, pa), &[a, pa]).unwrap();
        scene
    }

    fn record(&self) -> Record {
        *self.state.record().unwrap_or(&Record {
            service: SERVICE,
            epoch: 0,
            holder: None,
            holder_platform: None,
            version: 0,
            state_hash: hash(0),
            state_epoch: 0,
            policy_hash: hash(0),
            policy_version: 0,
            status: Status::Created,
            prev: hash(0),
        })
    }

    fn request(&mut self, action: Operation, signers: &[TestKey]) -> Request {
        self.next += 1;
        let Record { epoch, version, .. } = self.record();
        let operation = OperationId([self.next; 16]);
        let plain = Request::new(SERVICE, operation, epoch, version, action);
        signers.iter().fold(plain, |request, signer| request.signed(signer))
    }

    fn apply(&mut self, action: Operation, signers: &[TestKey]) -> Result<Receipt, Refused> {
        let request = self.request(action, signers);
        self.send(&request)
    }

    fn send(&mut self, request: &Request) -> Result<Receipt, Refused> {
        let before = self.state.clone();
        let answer = self.state.apply(request, &self.checks, &ledger_key());
        match &answer {
            Ok(receipt) if !self.history.contains(receipt) => self.history.push(receipt.clone()),
            Ok(_) => {}
            Err(_) => assert_eq!(self.state, before, "a refusal changes nothing"),
        }
        answer
    }

    fn staged(&self, state_hash: Digest) -> Staged {
        let Record { epoch, version, .. } = self.record();
        Staged {
            service: SERVICE,
            migration: MigrationId([1; 16]),
            epoch,
            version: version + 1,
            state_hash,
            holder: self.b.0,
            platform: self.pb.platform(),
            complete: true,
            signature: Signature::default(),
        }
        .signed(&self.b)
    }

    fn transfer(&self) -> Operation {
        let (state_hash, evidence) = (hash(1), Digest::of(b""));
        Operation::Transfer { state_hash, evidence, retained: false, staged: self.staged(state_hash) }
    }
}

fn hash(number: u8) -> Digest {
    Digest::of(&[number])
}

fn claim(holder: TestKey, platform: TestKey) -> Operation {
    Operation::Claim { holder: holder.0, platform: platform.platform(), evidence: Digest::of(b"") }
}

fn resume(holder: TestKey, platform: TestKey) -> Operation {
    Operation::Resume { holder: holder.0, platform: platform.platform(), evidence: Digest::of(b"") }
}

fn recover(holder: TestKey, platform: TestKey) -> Operation {
    Operation::Recover { holder: holder.0, platform: platform.platform(), evidence: Digest::of(b"") }
}

fn needs(authority: Authority) -> Result<Receipt, Refused> {
    Err(Refused::NotAuthorised(authority))
}

#[test]
fn m1_the_life_of_a_service() {
    let mut scene = Scene::new();
    let (a, b, pb, owner) = (scene.a, scene.b, scene.pb, scene.owner);
    assert_eq!((scene.record().epoch, scene.record().version, scene.record().status), (2, 0, Status::Held));
    scene.apply(Operation::Commit { parent: hash(0), state_hash: hash(9) }, &[a]).unwrap();
    let moved = scene.apply(scene.transfer(), &[a]).unwrap().record;
    assert_eq!((moved.epoch, moved.version, moved.state_hash), (3, 2, hash(1)));
    assert_eq!((moved.holder, moved.holder_platform), (Some(b.0), Some(pb.platform())));
    let retired = scene.apply(Operation::Retire, &[owner]).unwrap().record;
    assert_eq!((retired.epoch, retired.holder, retired.status), (4, None, Status::Retired));
    assert_eq!(scene.apply(Operation::Retire, &[owner]), Err(Refused::Retired));
}

#[test]
fn a_state_is_written_in_the_epoch_of_who_committed_or_gave_it_and_stays_so_when_it_is_given_back() {
    let mut scene = Scene::new();
    let (a, b, pa, pb) = (scene.a, scene.b, scene.pa, scene.pb);
    scene.apply(Operation::Commit { parent: hash(0), state_hash: hash(9) }, &[a]).unwrap();
    assert_eq!((scene.record().epoch, scene.record().state_epoch), (2, 2));
    scene.apply(resume(a, pa), &[pa, a]).unwrap();
    assert_eq!((scene.record().epoch, scene.record().state_epoch), (3, 2));
    // The source keeps the state that it gives, in its epoch.
    let lazily = Staged { complete: false, ..scene.staged(hash(1)) }.signed(&b);
    let (state_hash, evidence) = (hash(1), Digest::of(b""));
    scene.apply(Operation::Transfer { state_hash, evidence, retained: true, staged: lazily }, &[a]).unwrap();
    assert_eq!((scene.record().epoch, scene.record().state_epoch), (4, 3));
    let back = |scene: &Scene, state_hash| {
        let kept = Staged { holder: a.0, platform: pa.platform(), ..scene.staged(state_hash) }.signed(&a);
        Operation::Transfer { state_hash, evidence, retained: true, staged: kept }
    };
    // What the destination gives back is what it got; another state would be its own, written in its epoch.
    let mut other = scene.clone();
    other.apply(back(&other, hash(7)), &[b]).unwrap();
    assert_eq!((other.record().epoch, other.record().state_epoch), (5, 4));
    scene.apply(back(&scene, hash(1)), &[b]).unwrap();
    assert_eq!((scene.record().epoch, scene.record().version, scene.record().state_epoch), (5, 3, 3));
    assert_eq!(scene.record().holder, Some(a.0));
    assert_ne!(pa.platform(), pb.platform());
}

#[test]
fn a_nomination_is_about_the_record_of_this_moment_and_changes_nothing() {
    let mut scene = Scene::new();
    let (a, b, owner) = (scene.a, scene.b, scene.owner);
    let nominated = |scene: &Scene, epoch| {
        let nomination = Nomination {
            service: SERVICE,
            epoch,
            migration: MigrationId([1; 16]),
            holder: b.0,
            evidence: Digest::of(b""),
            proof: Vec::new(),
        };
        scene.state.appraise(&nomination, &scene.checks)
    };
    let before = scene.state.clone();
    assert_eq!(nominated(&scene, 2), Ok(()));
    assert_eq!(nominated(&scene, 3), Err(Refused::Stale { epoch: 2, version: 0 }));
    assert_eq!(scene.state, before);
    scene.apply(scene.transfer(), &[a]).unwrap();
    assert_eq!(nominated(&scene, 2), Err(Refused::Stale { epoch: 3, version: 1 }));
    scene.apply(Operation::Retire, &[owner]).unwrap();
    assert_eq!(nominated(&scene, 4), Err(Refused::WrongStatus));
    let nomination = Nomination {
        service: ServiceId([9; 16]),
        epoch: 4,
        migration: MigrationId([1; 16]),
        holder: b.0,
        evidence: Digest::of(b""),
        proof: Vec::new(),
    };
    assert_eq!(scene.state.appraise(&nomination, &scene.checks), Err(Refused::NoSuchService));
}

#[test]
fn m3_a_late_or_repeated_transfer_has_no_second_effect() {
    let mut scene = Scene::new();
    let (a, pa) = (scene.a, scene.pa);
    let late = scene.transfer();
    let late = scene.request(late, &[a]);
    scene.apply(resume(a, pa), &[pa, a]).unwrap();
    assert_eq!(scene.send(&late), Err(Refused::Stale { epoch: 3, version: 0 }));
    let now = scene.transfer();
    let now = scene.request(now, &[a]);
    let first = scene.send(&now).unwrap();
    assert_eq!(scene.send(&now), Ok(first), "sent again, answered again");
    assert_eq!(scene.record().epoch, 4);
}

#[test]
fn m4_m5_of_instances_started_from_old_blobs_one_wins_and_an_outdated_blob_is_refused() {
    let mut scene = Scene::new();
    let (a, pa) = (scene.a, scene.pa);
    let (one, two) = (TestKey::named("one"), TestKey::named("two"));
    scene.apply(Operation::Commit { parent: hash(0), state_hash: hash(1) }, &[a]).unwrap();
    let nonce = Nonce([3; 32]);
    let reading = scene.state.read(nonce, &ledger_key()).unwrap();
    let old = Blob { version: 0, state_hash: hash(0), complete: true };
    let current = Blob { version: 1, state_hash: hash(1), complete: true };
    let decide = |blobs: &[Blob]| {
        boot::decide(&reading, nonce, ledger_key().0, &TestChecks::default(), pa.platform(), blobs).unwrap()
    };
    assert_eq!(decide(&[old]), Boot::Missing { version: 1, state_hash: hash(1) });
    assert_eq!(decide(&[old, current]), Boot::Resume { blob: 1 });
    let partial = Blob { complete: false, ..current };
    assert_eq!(decide(&[partial, current]), Boot::Resume { blob: 1 }, "a whole one is better");
    let evidence = Digest::of(b"");
    let first = boot::resume(&reading, OperationId([101; 16]), &one, &pa, evidence);
    let second = boot::resume(&reading, OperationId([102; 16]), &two, &pa, evidence);
    let receipt = scene.send(&first).unwrap();
    assert_eq!(scene.send(&second), Err(Refused::Stale { epoch: 3, version: 1 }));
    let checks = TestChecks::default();
    assert_eq!(boot::resumed(&first, &receipt, one.0, ledger_key().0, &checks), Ok(3));
    assert_eq!(boot::resumed(&second, &receipt, two.0, ledger_key().0, &checks), Err(BootError::NotHolder));
}

#[test]
fn m6_a_source_paused_across_the_transfer_can_do_nothing_any_more() {
    let mut scene = Scene::new();
    let (a, pa) = (scene.a, scene.pa);
    scene.apply(scene.transfer(), &[a]).unwrap();
    let commit = Operation::Commit { parent: hash(1), state_hash: hash(7) };
    assert_eq!(scene.apply(commit.clone(), &[a]), needs(Authority::Holder));
    assert_eq!(scene.apply(resume(a, pa), &[pa, a]), needs(Authority::Platform));
    assert_eq!(scene.apply(scene.transfer(), &[a]), needs(Authority::Holder));
    let mut stale = scene.request(commit, &[]);
    stale.epoch = 2;
    assert_eq!(scene.send(&stale.signed(&a)), Err(Refused::Stale { epoch: 3, version: 1 }));
}

#[test]
fn m8_readings_and_receipts_that_are_old_forged_or_of_another_ledger_start_nothing() {
    let scene = Scene::new();
    let (checks, nonce) = (TestChecks::default(), Nonce([1; 32]));
    let reading = scene.state.read(nonce, &ledger_key()).unwrap();
    let blobs = [Blob { version: 0, state_hash: hash(0), complete: true }];
    let decide = |reading: &_, nonce, ledger| {
        boot::decide(reading, nonce, ledger, &checks, scene.pa.platform(), &blobs).map(|_| ())
    };
    assert_eq!(decide(&reading, nonce, ledger_key().0), Ok(()));
    assert_eq!(decide(&reading, Nonce([2; 32]), ledger_key().0), Err(BootError::NotFresh), "old");
    let other = scene.state.read(nonce, &TestKey::named("other ledger")).unwrap();
    assert_eq!(decide(&other, nonce, ledger_key().0), Err(BootError::NotFresh), "another ledger");
    let mut forged = reading;
    forged.record.epoch += 1;
    assert_eq!(decide(&forged, nonce, ledger_key().0), Err(BootError::NotFresh), "forged");
}

#[test]
fn m9_a_transfer_needs_the_destinations_word_about_exactly_this_state() {
    let mut scene = Scene::new();
    let (a, evidence) = (scene.a, Digest::of(b""));
    let good = scene.staged(hash(1));
    let wrong: [(&str, Staged); 8] = [
        ("unsigned", Staged { signature: Signature::default(), ..good.clone() }),
        ("signed by the source", good.clone().signed(&a)),
        ("another state", scene.staged(hash(2))),
        ("another epoch", Staged { epoch: 1, ..good.clone() }.signed(&scene.b)),
        ("another version", Staged { version: 2, ..good.clone() }.signed(&scene.b)),
        ("another service", Staged { service: ServiceId([9; 16]), ..good.clone() }.signed(&scene.b)),
        ("changed platform", Staged { platform: scene.pa.platform(), ..good.clone() }),
        ("changed holder", Staged { holder: scene.a.0, ..good.clone() }),
    ];
    for (what, staged) in wrong {
        let action = Operation::Transfer { state_hash: hash(1), evidence, retained: false, staged };
        assert_eq!(scene.apply(action, &[a]), Err(Refused::NotStaged), "{what}");
    }
    let partial = Staged { complete: false, ..good.clone() }.signed(&scene.b);
    let action = |retained| Operation::Transfer { state_hash: hash(1), evidence, retained, staged: partial.clone() };
    assert_eq!(scene.apply(action(false), &[a]), Err(Refused::NothingRetained));
    assert_eq!(scene.apply(scene.transfer(), &[scene.b]), needs(Authority::Holder));
    assert!(scene.apply(action(true), &[a]).is_ok());
}

#[test]
fn m14_a_staged_blob_without_a_transfer_is_void() {
    let mut scene = Scene::new();
    let (b, pb) = (scene.b, scene.pb);
    let nonce = Nonce([1; 32]);
    let reading = scene.state.read(nonce, &ledger_key()).unwrap();
    let blobs = [Blob { version: 1, state_hash: hash(1), complete: true }];
    let decision = boot::decide(&reading, nonce, ledger_key().0, &scene.checks, pb.platform(), &blobs);
    assert_eq!(decision, Ok(Boot::NotHere { platform: Some(scene.pa.platform()) }));
    assert_eq!(scene.apply(resume(b, pb), &[pb, b]), needs(Authority::Platform));
    // Naming the right platform without its signature does not help.
    assert_eq!(scene.apply(resume(b, scene.pa), &[pb, b]), needs(Authority::Platform));
}

#[test]
fn m20_the_ledger_appraises_the_destination_itself_at_the_transfer() {
    let mut scene = Scene::new();
    let (a, pa) = (scene.a, scene.pa);
    scene.checks.denied = Some(scene.pb.platform());
    assert!(matches!(scene.apply(scene.transfer(), &[a]), Err(Refused::Denied(_))));
    scene.checks.denied = Some(pa.platform());
    assert!(matches!(scene.apply(resume(a, pa), &[pa, a]), Err(Refused::Denied(_))));
}

#[test]
fn m22_m23_recover_needs_the_owner_or_enough_keys_fences_the_holder_and_cannot_be_replayed() {
    let mut scene = Scene::new();
    let (a, b, pb) = (scene.a, scene.b, scene.pb);
    let [r1, r2, r3] = ["r1", "r2", "r3"].map(TestKey::named);
    for signers in [vec![], vec![r1], vec![a], vec![a, pb], vec![r2, r2]] {
        assert_eq!(scene.apply(recover(b, pb), &signers), needs(Authority::Recovery), "{signers:?}");
    }
    let request = scene.request(recover(b, pb), &[r1, r3]);
    let receipt = scene.send(&request).unwrap();
    assert_eq!((receipt.record.epoch, receipt.record.state_hash), (3, hash(0)));
    let commit = Operation::Commit { parent: hash(0), state_hash: hash(1) };
    assert_eq!(scene.apply(commit, &[a]), needs(Authority::Holder), "the old holder is fenced");
    scene.apply(resume(b, pb), &[pb, b]).unwrap();
    assert_eq!(scene.send(&request), Ok(receipt), "answered again");
    assert_eq!(scene.record().epoch, 4, "without an effect");
    let owner = scene.owner;
    scene.apply(recover(a, scene.pa), &[owner]).unwrap();
}

#[test]
fn commits_and_policies_follow_each_other() {
    let mut scene = Scene::new();
    let (a, owner) = (scene.a, scene.owner);
    let commit = Operation::Commit { parent: hash(5), state_hash: hash(6) };
    assert_eq!(scene.apply(commit, &[a]), Err(Refused::WrongParent));
    let policy = |policy_version, keys| {
        let recovery = Recovery { threshold: 1, keys };
        Operation::UpdatePolicy { policy_hash: hash(8), policy_version, recovery }
    };
    let keys = vec![a.0];
    assert_eq!(scene.apply(policy(1, keys.clone()), &[owner]), Err(Refused::PolicyNotNewer));
    assert_eq!(scene.apply(policy(2, Vec::new()), &[owner]), Err(Refused::BadRecovery));
    assert_eq!(scene.apply(policy(2, vec![a.0, a.0]), &[owner]), Err(Refused::BadRecovery));
    assert_eq!(scene.apply(policy(2, keys.clone()), &[a]), needs(Authority::Owner));
    assert_eq!(scene.apply(policy(2, keys), &[owner]).unwrap().record.policy_hash, hash(8));
    assert_eq!(scene.apply(claim(a, scene.pa), &[a, scene.pa]), Err(Refused::WrongStatus));
}

#[test]
fn l1_of_concurrent_requests_on_one_position_exactly_one_wins() {
    let mut scene = Scene::new();
    let (a, pa, owner) = (scene.a, scene.pa, scene.owner);
    let transfer = scene.transfer();
    let commit = Operation::Commit { parent: hash(0), state_hash: hash(4) };
    let requests = [
        scene.request(transfer, &[a]),
        scene.request(commit, &[a]),
        scene.request(resume(a, pa), &[pa, a]),
        scene.request(recover(scene.b, scene.pb), &[owner]),
        scene.request(Operation::Retire, &[owner]),
    ];
    for first in 0..requests.len() {
        let mut state = scene.state.clone();
        let mut order: Vec<&Request> = requests.iter().collect();
        order.rotate_left(first);
        let won = order.iter().filter(|request| state.apply(request, &scene.checks, &ledger_key()).is_ok()).count();
        assert_eq!(won, 1, "request {first} first");
    }
}

#[test]
fn l6_a_retry_is_answered_again_and_an_id_cannot_be_used_twice() {
    let mut ledger = MemoryLedger::new(Arc::new(TestChecks::default()), Arc::new(ledger_key()));
    let owner = TestKey::named("owner");
    let create = |policy_version| Operation::Create {
        owner: owner.0,
        state_hash: hash(0),
        policy_hash: hash(1),
        policy_version,
        recovery: Recovery::default(),
    };
    let request = |policy_version| {
        let (operation, action) = (OperationId([1; 16]), create(policy_version));
        Request::new(SERVICE, operation, 0, 0, action).signed(&owner)
    };
    let Ok(first) = ledger.apply(&request(1));
    assert_eq!(ledger.apply(&request(1)), Ok(first));
    assert_eq!(ledger.apply(&request(2)), Ok(Err(Refused::OperationReused)));
    let mut fresh = request(1);
    fresh.operation = OperationId([2; 16]);
    assert_eq!(ledger.apply(&fresh), Ok(Err(Refused::ServiceExists)));
    let Ok(unknown) = ledger.read(ServiceId([9; 16]), Nonce([0; 32]));
    assert_eq!(unknown, Err(Refused::NoSuchService));
}

#[test]
fn l8_a_history_is_checked_without_the_ledger_and_every_change_of_it_is_seen() {
    let mut scene = Scene::new();
    let (a, b) = (scene.a, scene.b);
    scene.apply(Operation::Commit { parent: hash(0), state_hash: hash(9) }, &[a]).unwrap();
    scene.apply(scene.transfer(), &[a]).unwrap();
    scene.apply(Operation::Commit { parent: hash(1), state_hash: hash(3) }, &[b]).unwrap();
    let (history, ledger, checks) = (scene.history.clone(), ledger_key().0, TestChecks::default());
    let verify = |receipts: &[Receipt]| verify_history(receipts, ledger, &checks);
    assert_eq!(verify(&history), Ok(()));
    assert_eq!(verify(&history[2..]), Ok(()), "a part is a history too");
    let mut missing = history.clone();
    missing.remove(2);
    assert_eq!(verify(&missing), Err(HistoryError::Broken { index: 2 }));
    let mut swapped = history.clone();
    swapped.swap(2, 3);
    assert_eq!(verify(&swapped), Err(HistoryError::Broken { index: 2 }));
    let mut changed = history.clone();
    changed[3].record.version += 1;
    assert_eq!(verify(&changed), Err(HistoryError::BadSignature { index: 3 }));
    let mut impossible = history;
    impossible[4].record.holder = Some(a.0);
    impossible[4].signature = Signature(sign(&impossible[4]));
    assert_eq!(verify(&impossible), Err(HistoryError::Impossible { index: 4 }), "a new holder without a new epoch");
}

fn sign(receipt: &Receipt) -> Vec<u8> {
    use dunlin_handover::ledger::Signer as _;
    ledger_key().sign(&receipt.signed_bytes())
}
