//! Asking over a stream, and streams that are not what they should be.

mod common;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use common::{Dice, Scratch, Subject, open};
use dunlin_handover::codec::Wire as _;
use dunlin_handover::ledger::Refused;
use dunlin_handover::{LedgerAnswer, LedgerCall, LedgerQuery, Nonce};
use dunlin_ledger::{Answer, CallError, Client, MAX_QUESTION, Question, serve};

#[test]
fn calls_and_histories_over_a_stream() {
    let scratch = Scratch::new("wire");
    let (ledger, mut subject) = (open(&scratch.file("ledger")), Subject::new(1));
    let (near, far) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        let serving = scope.spawn(|| serve(far, &ledger));
        let mut client = Client::new(near);
        let apply = |request| LedgerQuery::Apply(Box::new(request));
        let mut receipts = Vec::new();
        for (id, query) in
            [apply(subject.create()), apply(subject.claim()), apply(subject.commit(1))].into_iter().enumerate()
        {
            match client.call(LedgerCall { id: id as u64, query }).unwrap() {
                LedgerAnswer::Receipt(receipt) => receipts.push(receipt),
                other => panic!("{other:?}"),
            }
        }
        let read = LedgerQuery::Read { service: subject.service, nonce: Nonce([5; 32]) };
        let LedgerAnswer::Reading(reading) = client.call(LedgerCall { id: 77, query: read }).unwrap() else { panic!() };
        assert_eq!((reading.record, reading.nonce), (receipts[2].record, Nonce([5; 32])));
        assert_eq!(client.history(subject.service, 1).unwrap(), receipts[1..]);
        let stale = client.call(LedgerCall { id: 78, query: apply(subject.commit(1)) }).unwrap();
        assert_eq!(stale, LedgerAnswer::Refused(Refused::Stale { epoch: 2, version: 1 }));
        drop(client);
        serving.join().unwrap().unwrap();
    });
}

#[test]
fn a_stream_of_rubbish_is_refused_and_changes_nothing() {
    let scratch = Scratch::new("rubbish");
    let (ledger, mut subject) = (open(&scratch.file("ledger")), Subject::new(1));
    let genuine = subject.create();
    let call = LedgerCall { id: 1, query: LedgerQuery::Apply(Box::new(genuine.clone())) };
    let good = Question::Call(call).to_bytes();
    let framed = [&(good.len() as u32).to_le_bytes()[..], &good].concat();
    let mut dice = Dice::new(11);
    for round in 0..200 {
        let mut bytes = framed.clone();
        match round {
            0 => bytes = u32::MAX.to_le_bytes().to_vec(),
            1 => bytes = (MAX_QUESTION as u32 + 1).to_le_bytes().to_vec(),
            2 => bytes.truncate(3),
            _ if dice.below(2) == 0 => bytes.truncate(1 + dice.below(bytes.len() as u64 - 1) as usize),
            _ => {
                let at = dice.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 + dice.below(255) as u8;
            }
        }
        let (mut near, far) = UnixStream::pair().unwrap();
        let outcome = thread::scope(|scope| {
            let serving = scope.spawn(|| serve(far, &ledger));
            // The other side may have hung up already.
            let _ = near.write_all(&bytes);
            let _ = near.shutdown(Shutdown::Write);
            let mut answer = Vec::new();
            let _ = near.read_to_end(&mut answer);
            if let Some(answer) = answer.get(4..) {
                // Only the id, which nobody signs, can be another one; or a signature of what was done already.
                match Answer::from_bytes(answer).unwrap() {
                    Answer::Reply(reply) => match reply.answer {
                        LedgerAnswer::Receipt(receipt) => assert_eq!(receipt.request, genuine.digest()),
                        other => assert!(matches!(other, LedgerAnswer::Refused(_)), "{other:?}"),
                    },
                    other @ Answer::History { .. } => panic!("{other:?}"),
                }
            }
            serving.join().unwrap()
        });
        if round < 2 {
            assert!(matches!(outcome, Err(CallError::TooLong { .. })), "{outcome:?}");
        }
    }
    assert!(ledger.history(subject.service, 0, 9).unwrap().len() <= 1);
}
