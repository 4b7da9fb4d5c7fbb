//! A value that nobody but the instance may see is searched for in everything that a relay between instance and broker
//! has: the bytes it passed on, the files it stores, and its memory. The relay is a process of its own, as a node is.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::{Instance, NOW, SERVICE, World};
use dunlin_base::Digest;
use dunlin_broker::{ReleaseLog, Released, SecretRule, Surroundings, Want, fetch, serve};
use dunlin_handover::ledger::{Ledger as _, MemoryLedger, Reading};
use dunlin_handover::{Nonce, ServiceId};
use dunlin_seal::SealedValues;
use zeroize::Zeroizing;

const RELAY: &str = "DUNLIN_TEST_RELAY";
const NAME: &str = "s10_a_canary_is_found_nowhere_in_a_relays_traffic_files_and_memory";

/// What a node does: carries bytes, keeps a record of them, and keeps the files that it is given in memory.
fn relay(folder: &Path) {
    let listener = UnixListener::bind(folder.join("near")).unwrap();
    let (near, _) = listener.accept().unwrap();
    let far = UnixStream::connect(folder.join("far")).unwrap();
    let record = Mutex::new((File::create(folder.join("record")).unwrap(), Vec::new()));
    let carry = |mut from: UnixStream, mut to: UnixStream| {
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let mut record = record.lock().unwrap();
            record.0.write_all(&buffer[..count]).unwrap();
            record.1.extend_from_slice(&buffer[..count]);
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _closed = to.shutdown(std::net::Shutdown::Write);
    };
    std::thread::scope(|scope| {
        let (near_again, far_again) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        scope.spawn(|| carry(near, far));
        carry(far_again, near_again);
    });
    let stored: Vec<Vec<u8>> = files(&folder.join("store")).iter().map(|path| fs::read(path).unwrap()).collect();
    let carried = record.into_inner().unwrap().1;
    fs::write(folder.join("holds"), format!("{} {}", carried.len(), stored.len())).unwrap();
    // Until it is looked at, and ended.
    std::thread::sleep(Duration::from_secs(120));
    std::hint::black_box((stored, carried));
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// All that a process has in memory that it can write to, piece by piece with an overlap.
fn memory_of(process: u32, mut look: impl FnMut(&[u8])) -> usize {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let mut total = 0;
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw"))) {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [mut at, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut piece = vec![0; (1 << 20) + 64];
        while at < end {
            let length = (end - at).min(piece.len() as u64) as usize;
            let read = memory.read_at(&mut piece[..length], at).unwrap_or(0);
            look(&piece[..read]);
            total += read;
            at += 1 << 20;
        }
    }
    total
}

#[derive(Debug)]
struct Around(Mutex<MemoryLedger>);

impl Surroundings for Around {
    fn read_ledger(&self, service: ServiceId, nonce: Nonce) -> Option<Reading> {
        let Ok(reading) = self.0.lock().unwrap().read(service, nonce);
        reading.ok()
    }

    fn now(&self) -> u64 {
        NOW
    }
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn s10_a_canary_is_found_nowhere_in_a_relays_traffic_files_and_memory() {
    if let Some(folder) = std::env::var_os(RELAY) {
        return relay(folder.as_ref());
    }
    let folder = std::env::temp_dir().join(format!("dunlin-canary-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    // Drawn now: it must not be in the program, which the relay runs as well.
    let mut canary = [0; 48];
    File::open("/dev/urandom").unwrap().read_exact(&mut canary).unwrap();

    let one = Instance::new("one");
    let World { mut broker, ledger, .. } = World::held_by(&one);
    let rule = SecretRule::default();
    let secrets = [("canary".to_owned(), (rule, Zeroizing::new(canary.to_vec())))];
    let (policy, ledger_key, root) = (common::policy(), common::ledger_key().0, common::root());
    broker.keep(SERVICE, dunlin_broker::Service { policy, ledger: ledger_key, root, secrets: secrets.into() });
    let around = Around(Mutex::new(ledger));
    let (broker, log) = (Mutex::new(broker), Mutex::new(ReleaseLog::open(&folder.join("releases")).unwrap()));

    let far = UnixListener::bind(folder.join("far")).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(RELAY, &folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let child = Ended(child);
    until("the relay listens", || folder.join("near").exists());
    let near = UnixStream::connect(folder.join("near")).unwrap();
    let mut epoch_key = None;
    std::thread::scope(|scope| {
        scope.spawn(|| serve(far.accept().unwrap().0, &broker, &log, &around));
        let ask = |want, nonce| fetch(&near, &one.party, want, &one.attester, Nonce([nonce; 32])).unwrap();
        let Released::Secret(secret) = ask(Want::Secret("canary".to_owned()), 1) else { panic!("a secret") };
        assert_eq!(secret[..], canary);
        let Released::Keys { own, .. } = ask(Want::Keys, 2) else { panic!("keys") };
        // What the instance puts away is stored by the node.
        let mut store = SealedValues::open(folder.join("store"), own.objects()).unwrap();
        store.put("canary", &secret).unwrap();
        assert_eq!(store.get("canary").unwrap().unwrap(), canary);
        epoch_key = Some(own);
        near.shutdown(std::net::Shutdown::Both).unwrap();
    });
    until("the relay has all", || folder.join("holds").exists());

    let key = *epoch_key.unwrap().expose();
    let needles: [&[u8]; 5] = [&canary[..24], &canary[24..], &key[..16], &key[16..], &common::ROOT[..]];
    let hidden = |bytes: &[u8]| {
        let first: BTreeSet<u8> = needles.iter().map(|needle| needle[0]).collect();
        let found = |at: usize| needles.iter().any(|needle| bytes[at..].starts_with(needle));
        !(0..bytes.len()).any(|at| first.contains(&bytes[at]) && found(at))
    };
    let record = fs::read(folder.join("record")).unwrap();
    assert!(record.len() > 1000, "questions and answers went through it");
    assert!(hidden(&record), "in the traffic");
    let stored = files(&folder.join("store"));
    assert_eq!(stored.len(), 2, "an index and a value");
    assert!(stored.iter().all(|path| hidden(&fs::read(path).unwrap())), "in a file");
    // The relay's memory: what it carried is there, and the canary is not.
    let (mut traffic, mut clean) = (0, true);
    let sample = &record[record.len() / 2..record.len() / 2 + 32];
    let total = memory_of(child.0.id(), |piece| {
        traffic += usize::from(piece.windows(32).any(|window| window == sample));
        clean &= hidden(piece);
    });
    assert!(total > 100_000 && traffic > 0, "the way of looking finds what is there");
    assert!(clean, "in memory");
    // And it is where it should be.
    let own = Zeroizing::new(canary.to_vec());
    let mut here = false;
    memory_of(std::process::id(), |piece| here |= !hidden(piece));
    assert!(here);
    assert_eq!(Digest::of(&own), Digest::of(&canary));
    drop(child);
    let _gone = fs::remove_dir_all(&folder);
}
