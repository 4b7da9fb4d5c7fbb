//! When keys end.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::values::Bytes;

#[derive(Default)]
pub struct Expiries {
    moments: HashMap<Bytes, Instant>,
    order: BTreeSet<(Instant, Bytes)>,
}

impl Expiries {
    pub fn of(&self, key: &[u8]) -> Option<Instant> {
        self.moments.get(key).copied()
    }

    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|(moment, _)| *moment)
    }

    pub fn set(&mut self, key: &[u8], moment: Instant) {
        self.remove(key);
        self.moments.insert(key.to_vec(), moment);
        self.order.insert((moment, key.to_vec()));
    }

    /// Whether it had one.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        if self.moments.is_empty() {
            return false;
        }
        let Some(moment) = self.moments.remove(key) else { return false };
        self.order.remove(&(moment, key.to_vec()))
    }

    /// Takes a key whose moment has come.
    pub fn take_due(&mut self, now: Instant) -> Option<Bytes> {
        let (moment, key) = self.order.first()?;
        if *moment > now {
            return None;
        }
        let key = key.clone();
        self.remove(&key);
        Some(key)
    }

    pub fn len(&self) -> usize {
        self.moments.len()
    }

    pub fn clear(&mut self) {
        self.moments.clear();
        self.order.clear();
    }
}
