//! Power cuts and killed processes: no answer that was given is taken back.

mod common;

use std::io::{self, BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use common::{Dice, Scratch, Subject, TestChecks, ledger_key, open, parts};
use dunlin_handover::ledger::verify_history;
use dunlin_ledger::RedbLedger;
use redb::StorageBackend;

const SECTOR: usize = 512;

/// A disk that keeps what was synced, and of what was not, any sectors that the dice choose.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Platters>>);

#[derive(Debug, Default)]
struct Platters {
    durable: Vec<u8>,
    now: Vec<u8>,
    /// Operations until the power goes.
    left: Option<u64>,
}

impl Disk {
    fn with<T>(&self, act: impl FnOnce(&mut Platters) -> io::Result<T>) -> io::Result<T> {
        let mut platters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = &mut platters.left {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("the power is gone"))?;
        }
        act(&mut platters)
    }

    /// What is there after the power came back.
    fn after_power_cut(&self, dice: &mut Dice) -> Self {
        let Platters { durable, now, left: _ } = &*self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The length is metadata, which may have arrived or not.
        let length = if dice.below(2) == 0 { durable.len() } else { now.len() };
        let mut bytes = durable.clone();
        bytes.resize(length, 0);
        for start in (0..length.min(now.len())).step_by(SECTOR) {
            let end = (start + SECTOR).min(length).min(now.len());
            if dice.below(2) == 0 {
                bytes[start..end].copy_from_slice(&now[start..end]);
            }
        }
        Self(Arc::new(Mutex::new(Platters { durable: bytes.clone(), now: bytes, left: None })))
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.with(|platters| Ok(platters.now.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|platters| {
            let bytes = platters.now.get(offset as usize..).and_then(|bytes| bytes.get(..out.len()));
            out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.with(|platters| {
            platters.now.resize(length as usize, 0);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|platters| {
            platters.durable = platters.now.clone();
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|platters| {
            let target = platters.now.get_mut(offset as usize..).and_then(|bytes| bytes.get_mut(..data.len()));
            target.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
            Ok(())
        })
    }
}

#[test]
fn what_was_answered_survives_every_power_cut() {
    let seed = std::env::var("DUNLIN_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_125);
    let mut dice = Dice::new(seed);
    let mut cuts_in_a_commit = 0;
    for round in 0..60 {
        let mut disk = Disk::default();
        let mut subject = Subject::new(1);
        let mut answered = Vec::new();
        // Several lives of one disk, so that recovery itself is cut, too.
        for life in 0..4 {
            if life > 0 {
                disk.0.lock().unwrap().left = Some(1 + dice.below(120));
            }
            let (checks, signer) = parts();
            let before = answered.len() as u64;
            if let Ok(ledger) = RedbLedger::open_on(disk.clone(), checks, signer) {
                for number in before.. {
                    // A later number than the answered ones may be there already: its answer was lost.
                    let request = match number {
                        0 => subject.create(),
                        1 => subject.claim(),
                        _ => subject.commit(number - 1),
                    };
                    match ledger.apply(&request) {
                        Ok(Ok(receipt)) => answered.push(receipt),
                        Ok(Err(_)) => {
                            let known = ledger.history(subject.service, number, 1).unwrap_or_default();
                            assert!(known.len() <= 1);
                            cuts_in_a_commit += known.len();
                            answered.extend(known);
                        }
                        Err(_) => break,
                    }
                    if life == 0 && number > dice.below(12) || answered.len() as u64 <= number {
                        break;
                    }
                }
            }
            disk = disk.after_power_cut(&mut dice);
        }
        let (checks, signer) = parts();
        let ledger = RedbLedger::open_on(disk, checks, signer)
            .unwrap_or_else(|error| panic!("round {round}, DUNLIN_SEED={seed}: {error}: {error:?}"));
        let history = ledger.history(subject.service, 0, usize::MAX).unwrap();
        verify_history(&history, ledger_key().0, &TestChecks).unwrap();
        assert!(history.starts_with(&answered), "round {round}, DUNLIN_SEED={seed}: an answer was taken back");
        assert!(history.len() <= answered.len() + 1, "round {round}: one request was under way");
    }
    println!("{cuts_in_a_commit} requests took effect without their answer");
}

/// Run as another process by the test below: commits until it is killed, and tells each answer.
#[test]
#[ignore = "the other half of a test, started by it"]
fn commit_until_killed() {
    let Some(path) = std::env::var_os("DUNLIN_TEST_LEDGER") else { return };
    let (ledger, mut subject) = (open(path.as_ref()), Subject::new(1));
    let first = ledger.records().unwrap().first().map_or(0, |record| record.version);
    if first == 0 && ledger.apply(&subject.create()).unwrap().is_ok() {
        ledger.apply(&subject.claim()).unwrap().unwrap();
    }
    for version in first + 1.. {
        ledger.apply(&subject.commit(version)).unwrap().unwrap();
        println!("answered {version}");
    }
}

#[test]
fn what_was_answered_survives_a_killed_process() {
    let scratch = Scratch::new("killed");
    let path = scratch.file("ledger");
    let mut dice = Dice::new(8);
    let mut last = 0;
    for _ in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["commit_until_killed", "--exact", "--ignored", "--nocapture"])
            .env("DUNLIN_TEST_LEDGER", &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut wanted = 1 + dice.below(40);
        for line in lines.map_while(Result::ok) {
            let Some(version) = line.rsplit_once("answered ").and_then(|(_, number)| number.parse::<u64>().ok()) else {
                continue;
            };
            last = version;
            wanted -= 1;
            if wanted == 0 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let ledger = open(&path);
        let record = ledger.records().unwrap()[0];
        assert!(record.version >= last, "{} after the answer {last}", record.version);
        let history = ledger.history(record.service, 0, usize::MAX).unwrap();
        verify_history(&history, ledger_key().0, &TestChecks).unwrap();
        assert_eq!(history.last().unwrap().record, record);
    }
    assert!(last > 6);
}
