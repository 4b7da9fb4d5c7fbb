//! The vault, the record of releases, and both sides over a socket.

mod common;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;

use common::{Instance, NOW, SECRET, SERVICE, TestKey, World, ledger_key, module, policy};
use dunlin_base::Digest;
use dunlin_broker::{
    Denied, FetchError, Release, ReleaseLog, Released, SecretRule, Surroundings, Vault, VaultError, Want, fetch, serve,
};
use dunlin_handover::ledger::{Ledger as _, MemoryLedger, Reading};
use dunlin_handover::{Nonce, ServiceId};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dunlin-broker-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn files(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

#[test]
fn a_vault_keeps_roots_and_shows_no_secret() {
    let scratch = Scratch::new("vault");
    let vault = Vault::open(scratch.0.join("vault")).unwrap();
    let rule = SecretRule { modules: vec![module()] };
    vault.put(SERVICE, "tls-key", &rule, SECRET).unwrap();
    vault.put(SERVICE, "empty", &SecretRule::default(), b"").unwrap();
    let key = vault.root(SERVICE).unwrap().epoch_key(SERVICE.0, 1);
    let again = Vault::open(scratch.0.join("vault")).unwrap().service(SERVICE, policy(), ledger_key().0).unwrap();
    assert_eq!(again.root.epoch_key(SERVICE.0, 1).expose(), key.expose());
    assert_eq!(again.secrets.len(), 2);
    assert_eq!((&again.secrets["tls-key"].0, &again.secrets["tls-key"].1[..]), (&rule, SECRET));
    assert!(!format!("{again:?}").contains(&format!("{:?}", &SECRET[..4]).trim_matches(['[', ']']).to_owned()));
    for path in files(&scratch.0) {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(8).any(|window| SECRET.windows(8).any(|part| part == window)), "{}", path.display());
    }
    for bad in ["", "../root", "Upper", ".hidden", "a/b", &"x".repeat(65)] {
        let refused = vault.put(SERVICE, bad, &SecretRule::default(), b"secret");
        assert!(matches!(refused, Err(VaultError::Name(_))), "{bad}");
    }
    // Another service's secret in this one's folder, or one under another's name.
    let other = ServiceId([0x52; 16]);
    vault.put(other, "other", &SecretRule::default(), b"secret of another service").unwrap();
    let of = |service: ServiceId, name: &str| vault.path().join(service.to_string()).join("secrets").join(name);
    for (from, to) in [(of(other, "other"), of(SERVICE, "other")), (of(SERVICE, "tls-key"), of(SERVICE, "empty"))] {
        fs::copy(&from, &to).unwrap();
        assert!(matches!(vault.service(SERVICE, policy(), ledger_key().0), Err(VaultError::Seal(_))));
        fs::remove_file(&to).unwrap();
    }
    assert!(vault.service(SERVICE, policy(), ledger_key().0).is_ok());
}

#[test]
fn the_record_of_releases_is_a_chain() {
    let scratch = Scratch::new("record");
    let path = scratch.0.join("releases");
    let release = |epoch: u64| Release {
        service: SERVICE,
        holder: TestKey::named("holder").0,
        epoch,
        want: Want::Secret("tls-key".to_owned()),
        written_in: Some(epoch - 1),
        evidence: Digest([1; 32]),
        head: Digest([2; 32]),
        time: NOW,
    };
    for epoch in 2..6 {
        let mut log = ReleaseLog::open(&path).unwrap();
        log.append(&release(epoch)).unwrap();
        assert_eq!(log.releases().unwrap().len() as u64, epoch - 1);
    }
    let whole = fs::read(&path).unwrap();
    let entry = whole.len() / 4;
    // What a crash cut off was never answered, and is dropped.
    fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let log = ReleaseLog::open(&path).unwrap();
    assert_eq!(log.releases().unwrap(), [release(2), release(3), release(4)]);
    drop(log);
    assert_eq!(fs::read(&path).unwrap().len(), 3 * entry);
    // Entries that were taken out, changed or exchanged are noticed.
    let without = [&whole[..entry], &whole[2 * entry..]].concat();
    let exchanged = [&whole[..entry], &whole[2 * entry..3 * entry], &whole[entry..2 * entry]].concat();
    let mut changed = whole.clone();
    changed[entry + 40] ^= 1;
    let mut body = whole.clone();
    body[60] ^= 1;
    for (bytes, number) in [(without, 1), (exchanged, 1), (changed, 2), (body, 1), (whole[entry..].to_vec(), 0)] {
        fs::write(&path, bytes).unwrap();
        let outcome = ReleaseLog::open(&path);
        assert!(matches!(&outcome, Err(VaultError::Record { number: at, .. }) if *at == number), "{outcome:?}");
    }
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

#[test]
fn sixty_four_instances_ask_at_once_over_sockets_and_only_the_holder_is_answered() {
    let scratch = Scratch::new("sockets");
    let holder = Instance::new("one");
    let world = World::held_by(&holder);
    let World { broker, ledger, .. } = world;
    let (broker, around) = (Mutex::new(broker), Around(Mutex::new(ledger)));
    let log = Mutex::new(ReleaseLog::open(&scratch.0.join("releases")).unwrap());
    let got = std::thread::scope(|scope| {
        let asks = (0..64u8).map(|number| {
            let (near, far) = UnixStream::pair().unwrap();
            let (broker, log, around, holder) = (&broker, &log, &around, &holder);
            scope.spawn(move || serve(far, broker, log, around));
            scope.spawn(move || {
                let stranger = Instance::new("two");
                let who = if number % 2 == 0 { holder } else { &stranger };
                let want = if number % 4 == 0 { Want::Keys } else { Want::Secret("tls-key".to_owned()) };
                let nonce = Nonce([number; 32]);
                match fetch(near, &who.party, want, &who.attester, nonce) {
                    Ok(Released::Keys { own, .. }) => Some(own.epoch() == 2 && number % 4 == 0),
                    Ok(Released::Secret(secret)) => Some(secret[..] == *SECRET && number % 4 == 2),
                    Err(FetchError::Denied(Denied::NotHolder)) => None,
                    Err(other) => panic!("{other}"),
                }
            })
        });
        let asks: Vec<_> = asks.collect();
        asks.into_iter().map(|ask| ask.join().unwrap()).collect::<Vec<_>>()
    });
    for (number, outcome) in got.into_iter().enumerate() {
        assert_eq!(outcome, (number % 2 == 0).then_some(true), "instance {number}");
    }
    assert_eq!(log.lock().unwrap().releases().unwrap().len(), 32);
}
