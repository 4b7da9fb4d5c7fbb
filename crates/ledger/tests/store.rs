//! The file: what was answered is there after a restart, and simultaneous requests have one order.

mod common;

use std::sync::Barrier;
use std::thread;

use common::{Dice, Scratch, Subject, TestKey, ledger_key, open, parts};
use dunlin_handover::ledger::{Refused, verify_history};
use dunlin_handover::{Nonce, ServiceId};
use dunlin_ledger::{LedgerError, RedbLedger};

#[test]
fn a_restart_keeps_every_receipt_and_the_chain_verifies() {
    let scratch = Scratch::new("restart");
    let (path, mut subject) = (scratch.file("ledger"), Subject::new(1));
    let mut receipts = Vec::new();
    {
        let ledger = open(&path);
        receipts.push(ledger.apply(&subject.create()).unwrap().unwrap());
        receipts.push(ledger.apply(&subject.claim()).unwrap().unwrap());
    }
    for version in 1..=40 {
        // A new process each time, as far as the file can tell.
        receipts.push(open(&path).apply(&subject.commit(version)).unwrap().unwrap());
    }
    let ledger = open(&path);
    assert_eq!(ledger.history(subject.service, 0, usize::MAX).unwrap(), receipts);
    assert_eq!(ledger.history(subject.service, 41, 7).unwrap(), receipts[41..]);
    assert_eq!(ledger.history(ServiceId([9; 16]), 0, 7).unwrap(), []);
    verify_history(&receipts, ledger_key().0, &common::TestChecks).unwrap();
    let nonce = Nonce([7; 32]);
    let reading = ledger.read(subject.service, nonce).unwrap().unwrap();
    assert!(reading.is_fresh(ledger_key().0, nonce, &common::TestChecks));
    assert_eq!((reading.record, reading.record.version), (receipts[41].record, 40));
    assert_eq!(ledger.records().unwrap(), [reading.record]);
    assert_eq!(ledger.read(ServiceId([9; 16]), nonce).unwrap(), Err(Refused::NoSuchService));
}

#[test]
fn a_request_sent_again_is_answered_again_and_done_once() {
    let scratch = Scratch::new("again");
    let (ledger, mut subject) = (open(&scratch.file("ledger")), Subject::new(1));
    let create = subject.create();
    let receipt = ledger.apply(&create).unwrap().unwrap();
    assert_eq!(ledger.apply(&create).unwrap().unwrap(), receipt);
    let mut unsigned = subject.claim();
    unsigned.signatures.clear();
    assert!(matches!(ledger.apply(&unsigned).unwrap(), Err(Refused::NotAuthorised(_))));
    assert_eq!(ledger.history(subject.service, 0, 9).unwrap(), [receipt]);
}

#[test]
fn of_simultaneous_commits_exactly_one_takes_effect_at_each_version() {
    const THREADS: usize = 8;
    const VERSIONS: u64 = 25;
    let scratch = Scratch::new("race");
    let ledger = open(&scratch.file("ledger"));
    for number in 1..=2 {
        let mut subject = Subject::new(number);
        ledger.apply(&subject.create()).unwrap().unwrap();
        ledger.apply(&subject.claim()).unwrap().unwrap();
    }
    let start = Barrier::new(THREADS);
    // Each thread commits versions 1, 2, 3 … as fast as it can, of one of two services, with operation ids of its own.
    let won: Vec<Vec<(u8, u64)>> = thread::scope(|scope| {
        let run = |thread: usize| {
            let (ledger, start) = (ledger.clone(), &start);
            move || {
                let number = 1 + (thread % 2) as u8;
                let mut subject = Subject::new(number);
                (0..100 * (1 + thread)).for_each(|_| _ = subject.commit(1));
                start.wait();
                let mut won = Vec::new();
                let mut version = 1;
                while version <= VERSIONS {
                    match ledger.apply(&subject.commit(version)).unwrap() {
                        Ok(receipt) => {
                            assert_eq!(receipt.record.version, version);
                            won.push((number, version));
                            version += 1;
                        }
                        // Somebody else was first; the answer tells how far the record is.
                        Err(Refused::Stale { version: now, .. }) => {
                            assert!(now >= version);
                            version = now + 1;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
                won
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(run(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut won: Vec<_> = won.into_iter().flatten().collect();
    won.sort_unstable();
    let expected: Vec<_> = (1..=2).flat_map(|number| (1..=VERSIONS).map(move |version| (number, version))).collect();
    assert_eq!(won, expected);
    for number in 1..=2 {
        let history = ledger.history(Subject::new(number).service, 0, usize::MAX).unwrap();
        assert_eq!(history.len() as u64, VERSIONS + 2);
        verify_history(&history, ledger_key().0, &common::TestChecks).unwrap();
    }
}

#[test]
fn a_file_of_another_ledger_or_another_kind_is_refused() {
    let scratch = Scratch::new("other");
    let path = scratch.file("ledger");
    drop(open(&path));
    let (checks, _) = parts();
    let other = RedbLedger::open(&path, checks.clone(), std::sync::Arc::new(TestKey::named("another")));
    assert!(matches!(other, Err(LedgerError::OtherKey)), "{other:?}");
    let kept = open(&path);
    let (_, signer) = parts();
    let twice = RedbLedger::open(&path, checks.clone(), signer.clone());
    assert!(matches!(twice, Err(LedgerError::Open(_))), "{twice:?}");
    drop(kept);
    std::fs::write(scratch.file("text"), "not a ledger at all, whatever its name says").unwrap();
    let text = RedbLedger::open(&scratch.file("text"), checks, signer);
    assert!(matches!(text, Err(LedgerError::Open(_))), "{text:?}");
}

#[test]
fn a_file_changed_from_outside_gives_errors_and_never_ends_the_process() {
    let scratch = Scratch::new("changed");
    let path = scratch.file("ledger");
    let mut subject = Subject::new(1);
    {
        let ledger = open(&path);
        ledger.apply(&subject.create()).unwrap().unwrap();
        ledger.apply(&subject.claim()).unwrap().unwrap();
    }
    let whole = std::fs::read(&path).unwrap();
    let mut dice = Dice::new(3);
    let mut refused = 0;
    for _ in 0..40 {
        let mut bytes = whole.clone();
        for _ in 0..1 + dice.below(20) {
            let at = dice.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 + dice.below(255) as u8;
        }
        if dice.below(4) == 0 {
            bytes.truncate(dice.below(whole.len() as u64) as usize);
        }
        let path = scratch.file("damaged");
        std::fs::write(&path, &bytes).unwrap();
        let (checks, signer) = parts();
        match RedbLedger::open(&path, checks, signer) {
            // What does not touch anything that is used does no harm.
            Ok(ledger) => _ = ledger.read(subject.service, Nonce([1; 32])),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0);
}
