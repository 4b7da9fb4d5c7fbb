//! A service whose state is on a disk that the adversary holds, and whose record is in a ledger that he does not.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of this")]

mod files;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use self::files::Files;
use dunlin_base::Digest;
use dunlin_handover::ledger::{Checks as _, Ledger as _, MemoryLedger, Operation, Reading, Recovery, Request};
use dunlin_handover::{Nonce, OperationId, ServiceId};
use dunlin_seal::{EpochKey, Error, Kind, Label, ServiceRoot, VolumeSeal};
use dunlin_store::{OpenFlags, Options, Volume};

#[allow(unreachable_pub, dead_code, reason = "shared with the tests of the protocol")]
#[path = "../../../handover/tests/world/keys.rs"]
mod keys;

pub use keys::{TestChecks, TestKey, ledger_key};

pub const SERVICE: [u8; 16] = [0x51; 16];

pub fn root() -> ServiceRoot {
    ServiceRoot::from_bytes(&[0x72; 32])
}

pub fn key(epoch: u64) -> EpochKey {
    root().epoch_key(SERVICE, epoch)
}

pub fn label(name: &str, version: u64) -> Label<'_> {
    Label { kind: Kind::Checkpoint, name, version }
}

/// A directory that goes with the test.
#[derive(Debug)]
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dunlin-seal-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Why a state was not opened.
#[derive(Debug)]
pub enum Refused {
    Sealed(Error),
    Digest,
    Volume(dunlin_store::Error),
}

/// What the adversary keeps: a volume and checkpoints.
#[derive(Debug)]
pub struct Disk<'a>(pub &'a Path);

impl Disk<'_> {
    fn volume(&self, key: &EpochKey, at: Option<Digest>) -> Result<Volume, dunlin_store::Error> {
        let store = Arc::new(Files::open(self.0.join("volume")));
        let options = Options { sealing: Arc::new(VolumeSeal::new(key, None)), id: [9; 16], ..Options::default() };
        match at {
            Some(root) => Volume::open_at(store, root, options),
            None if self.0.join("checkpoint").exists() => Volume::open(store, options),
            None => Volume::create(store, options),
        }
    }

    /// Seals a state in which the volume says `text`. The digest is the state's.
    pub fn write(&self, key: &EpochKey, version: u64, text: &str) -> Digest {
        let mut volume = self.volume(key, None).unwrap();
        let flags = OpenFlags { write: true, create: true, truncate: true, ..OpenFlags::default() };
        let handle = volume.open_file(dunlin_store::Ino::ROOT, "said", flags).unwrap();
        volume.write_at(handle, text.as_bytes(), 0).unwrap();
        volume.close(handle).unwrap();
        let root = volume.commit().unwrap();
        let state = [&root.0[..], text.as_bytes()].concat();
        let sealed = key.objects().seal(&label("checkpoint", version), &state).unwrap();
        let mut file = fs::File::create(self.0.join("checkpoint.new")).unwrap();
        file.write_all(&sealed).unwrap();
        file.sync_all().unwrap();
        Digest::of(&state)
    }

    /// Makes what was written last the checkpoint.
    pub fn publish(&self) {
        fs::rename(self.0.join("checkpoint.new"), self.0.join("checkpoint")).unwrap();
    }

    /// Opens the state that a record names, from the file `name`.
    pub fn read(
        &self,
        name: &str,
        key: &EpochKey,
        record: &dunlin_handover::ledger::Record,
    ) -> Result<String, Refused> {
        let sealed = fs::read(self.0.join(name)).unwrap_or_default();
        let state = key.objects().open(&label("checkpoint", record.version), &sealed).map_err(Refused::Sealed)?;
        if Digest::of(&state) != record.state_hash {
            return Err(Refused::Digest);
        }
        let (root, text) = state.split_first_chunk::<32>().unwrap();
        let mut volume = self.volume(key, Some(Digest(*root))).map_err(Refused::Volume)?;
        let handle = volume
            .open_file(dunlin_store::Ino::ROOT, "said", OpenFlags { read: true, ..OpenFlags::default() })
            .map_err(Refused::Volume)?;
        let mut said = vec![0; text.len() + 1];
        let length = volume.read_at(handle, &mut said, 0).map_err(Refused::Volume)?;
        assert_eq!(&said[..length], text, "volume and state belong together");
        Ok(String::from_utf8(text.to_vec()).unwrap())
    }
}

/// A ledger with one service that is held.
#[derive(Debug)]
pub struct Register {
    pub ledger: MemoryLedger,
    operations: u64,
}

impl Register {
    pub fn new(state: Digest) -> Self {
        let checks: Arc<TestChecks> = Arc::default();
        let mut register = Self { ledger: MemoryLedger::new(checks, Arc::new(ledger_key())), operations: 0 };
        let owner = TestKey::named("owner");
        let create = Operation::Create {
            owner: owner.0,
            state_hash: state,
            policy_hash: Digest([0; 32]),
            policy_version: 1,
            recovery: Recovery { threshold: 0, keys: Vec::new() },
        };
        register.apply(0, 0, create, &[owner]);
        let (holder, platform) = (TestKey::named("holder"), TestKey::named("platform"));
        let claim = Operation::Claim { holder: holder.0, platform: platform.platform(), evidence: Digest([1; 32]) };
        register.apply(1, 0, claim, &[holder, platform]);
        register
    }

    fn apply(&mut self, epoch: u64, version: u64, action: Operation, signers: &[TestKey]) {
        self.operations += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.operations.to_le_bytes());
        let (service, operation) = (ServiceId(SERVICE), OperationId(id));
        let request = Request::new(service, operation, epoch, version, action);
        let request = signers.iter().fold(request, |request, signer| request.signed(signer));
        let Ok(answer) = self.ledger.apply(&request);
        answer.unwrap();
    }

    /// Commits as the holder.
    pub fn commit(&mut self, state_hash: Digest) {
        let record = self.read().record;
        let commit = Operation::Commit { parent: record.state_hash, state_hash };
        self.apply(record.epoch, record.version, commit, &[TestKey::named("holder")]);
    }

    /// A fresh reading.
    pub fn read(&mut self) -> Reading {
        self.operations += 1;
        let nonce = Nonce(Digest::of(&self.operations.to_le_bytes()).0);
        let Ok(reading) = self.ledger.read(ServiceId(SERVICE), nonce);
        let reading = reading.unwrap();
        assert!(reading.is_fresh(ledger_key().0, nonce, &TestChecks::default()));
        assert!(TestChecks::default().verify(ledger_key().0, &reading.signed_bytes(), &reading.signature.0));
        reading
    }
}
