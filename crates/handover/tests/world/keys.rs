//! Keys for tests: the "signature" is a hash that anyone in this process could make, and that is still wrong for
//! every other key and every other message.

use std::sync::Arc;

use dunlin_base::Digest;
use dunlin_handover::ledger::{Candidate, Checks, Signer};
use dunlin_handover::{Key, Keys, PlatformId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// Checks test signatures; refuses every candidate on one platform, if told to.
#[derive(Debug, Clone, Default)]
pub struct TestChecks {
    pub denied: Option<PlatformId>,
}

impl Checks for TestChecks {
    fn verify(&self, key: Key, message: &[u8], signature: &[u8]) -> bool {
        TestKey(key).sign(message) == signature
    }

    fn appraise(&self, candidate: &Candidate<'_>) -> Result<(), String> {
        match self.denied.is_some() && self.denied == candidate.platform {
            true => Err("the platform is not in the policy".to_owned()),
            false => Ok(()),
        }
    }
}

pub fn ledger_key() -> TestKey {
    TestKey::named("ledger")
}

pub fn keys(holder: TestKey, platform: TestKey) -> Keys {
    Keys {
        holder: Arc::new(holder),
        platform: Arc::new(platform),
        checks: Arc::new(TestChecks::default()),
        ledger: ledger_key().0,
    }
}
