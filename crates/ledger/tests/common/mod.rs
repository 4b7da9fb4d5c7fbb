//! Keys, requests and scratch files for tests.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "shared by test programs that each use a part")]

use std::path::PathBuf;
use std::sync::Arc;

use dunlin_base::Digest;
use dunlin_handover::ledger::{Candidate, Checks, Operation, Recovery, Request, Signer};
use dunlin_handover::{Key, OperationId, PlatformId, ServiceId};
use dunlin_ledger::RedbLedger;

/// A "signature" is a hash that anybody here could make, and that is wrong for every other key and message.
#[derive(Debug, Clone, Copy)]
pub struct TestKey(pub Key);

impl TestKey {
    pub fn named(name: &str) -> Self {
        Self(Key(Digest::of(name.as_bytes()).0))
    }

    pub fn platform(self) -> PlatformId {
        PlatformId(self.0.0)
    }
}

impl Signer for TestKey {
    fn key(&self) -> Key {
        self.0
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        Digest::of(&[b"test signature", &self.0.0[..], message].concat()).0.to_vec()
    }
}

#[derive(Debug)]
pub struct TestChecks;

impl Checks for TestChecks {
    fn verify(&self, key: Key, message: &[u8], signature: &[u8]) -> bool {
        TestKey(key).sign(message) == signature
    }

    fn appraise(&self, _: &Candidate<'_>) -> Result<(), String> {
        Ok(())
    }
}

pub fn ledger_key() -> TestKey {
    TestKey::named("ledger")
}

pub fn parts() -> (Arc<dyn Checks>, Arc<dyn Signer>) {
    (Arc::new(TestChecks), Arc::new(ledger_key()))
}

pub fn open(path: &std::path::Path) -> RedbLedger {
    let (checks, signer) = parts();
    RedbLedger::open(path, checks, signer).unwrap()
}

/// A service with an owner, a holder and a chain of states, as a client of the ledger.
#[derive(Debug, Clone)]
pub struct Subject {
    pub service: ServiceId,
    pub owner: TestKey,
    pub holder: TestKey,
    drawn: u64,
}

impl Subject {
    pub fn new(number: u8) -> Self {
        let key = |what: &str| TestKey::named(&format!("{what} {number}"));
        Self { service: ServiceId([number; 16]), owner: key("owner"), holder: key("holder"), drawn: 0 }
    }

    pub fn create(&mut self) -> Request {
        let action = Operation::Create {
            owner: self.owner.0,
            state_hash: Self::state(0),
            policy_hash: Digest::of(b"policy"),
            policy_version: 1,
            recovery: Recovery::default(),
        };
        self.request(0, 0, action).signed(&self.owner)
    }

    pub fn claim(&mut self) -> Request {
        let platform = self.holder.platform();
        let action = Operation::Claim { holder: self.holder.0, platform, evidence: Digest::of(b"evidence") };
        self.request(1, 0, action).signed(&self.holder)
    }

    /// The commit that makes `version`, in epoch 2.
    pub fn commit(&mut self, version: u64) -> Request {
        let action = Operation::Commit { parent: Self::state(version - 1), state_hash: Self::state(version) };
        self.request(2, version - 1, action).signed(&self.holder)
    }

    pub fn state(version: u64) -> Digest {
        Digest::of(format!("state {version}").as_bytes())
    }

    fn request(&mut self, epoch: u64, version: u64, action: Operation) -> Request {
        self.drawn += 1;
        let id = Digest::of(format!("{:?} {} {}", self.service, self.drawn, std::process::id()).as_bytes());
        let mut operation = OperationId([0; 16]);
        operation.0.copy_from_slice(&id.0[..16]);
        Request::new(self.service, operation, epoch, version, action)
    }
}

/// A directory of its own, removed in the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path =
            std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ledger-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Small, seeded, good enough to choose what breaks.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}
