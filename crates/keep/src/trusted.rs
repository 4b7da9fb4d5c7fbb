//! What the program can ask of its trusted surroundings: evidence of the keep in which it runs, secrets of its owner, and a
//! store for values.
//!
//! The store is part of the service's state, as its memory is: it moves with it, is sealed with it, and after a crash is as
//! it was at the last checkpoint. There is nothing here that a node could put back by itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dunlin_base::with_causes;
use dunlin_broker::{Denied, FetchError};
use dunlin_host::trust::{Trust, TrustError};

use crate::keys::Keys;

/// Most bytes of all keys and values.
const STORE: usize = 1 << 30;

/// The trusted surroundings of one program.
pub(crate) struct Trusted {
    keys: Arc<Keys>,
    epoch: AtomicU64,
    values: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl fmt::Debug for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trusted").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Trusted {
    pub(crate) fn new(keys: Arc<Keys>) -> Arc<Self> {
        Arc::new(Self { keys, epoch: AtomicU64::new(0), values: Mutex::default() })
    }

    /// The service is held in this epoch.
    pub(crate) fn in_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::SeqCst);
    }

    fn values(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(values: &BTreeMap<String, Vec<u8>>) -> usize {
    values.iter().map(|(key, value)| key.len().saturating_add(value.len())).fold(0, usize::saturating_add)
}

impl Trust for Trusted {
    fn attest(&self, challenge: &[u8; 32]) -> Result<Vec<u8>, TrustError> {
        let given = self.keys.evidence(challenge, self.epoch.load(Ordering::SeqCst));
        let (evidence, endorsements, binding) = given.map_err(|failure| TrustError::Failed(failure.text()))?;
        Ok(evidence.for_program(&binding, &endorsements))
    }

    fn authenticate(&self, name: &str) -> Result<Vec<u8>, TrustError> {
        match self.keys.secret(name, self.epoch.load(Ordering::SeqCst)) {
            Ok(secret) => Ok(secret.to_vec()),
            Err(FetchError::Denied(Denied::NoSuchSecret)) => Err(TrustError::NotFound),
            Err(FetchError::Denied(denied)) => Err(TrustError::Denied(denied.to_string())),
            Err(error) => Err(TrustError::Failed(with_causes(&error))),
        }
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, TrustError> {
        self.values().get(key).cloned().ok_or(TrustError::NotFound)
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), TrustError> {
        let mut values = self.values();
        let before = values.get(key).map_or(0, |value| key.len() + value.len());
        if size(&values) - before + key.len() + value.len() > STORE {
            return Err(TrustError::TooLarge);
        }
        values.insert(key.to_owned(), value.to_vec());
        Ok(())
    }

    fn keys(&self) -> Result<Vec<String>, TrustError> {
        Ok(self.values().keys().cloned().collect())
    }

    fn replace(&self, values: &[(String, Vec<u8>)]) -> Result<(), TrustError> {
        *self.values() = values.iter().cloned().collect();
        Ok(())
    }

    fn run(&self, _: &str, _: &[u8]) -> Result<Vec<u8>, TrustError> {
        // A node knows one module for each service.
        Err(TrustError::NotFound)
    }
}
