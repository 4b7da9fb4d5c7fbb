//! The nonces that this side has given out. A nonce is good for one answer within five minutes; the
//! evidence itself is never remembered, because its bytes can be changed without changing what it says.

use std::collections::BTreeMap;

/// How long a nonce stays good, in seconds.
pub(crate) const LIFETIME: u64 = 300;

/// Outstanding challenges of one relying party. Randomness and time come from the caller.
#[derive(Debug, Default)]
pub struct Challenges {
    outstanding: BTreeMap<[u8; 32], u64>,
    limit: usize,
}

/// Why a nonce was not given out or not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChallengeError {
    /// Never given out, already answered, or forgotten after its lifetime.
    #[error(
        "this nonce is not outstanding: it was never given out, was answered already, or has expired; ask for a new one"
    )]
    NotOutstanding,
    /// The random source repeated itself.
    #[error("this nonce is outstanding already; the source of randomness repeats itself")]
    Repeated,
    /// An all-zero nonce is what a broken source of randomness gives.
    #[error("an all-zero nonce; the source of randomness is broken")]
    Zero,
    /// Too many challenges at once.
    #[error("{0} challenges are outstanding, no more are given out until some expire")]
    Full(usize),
}

impl Challenges {
    /// At most `limit` nonces are outstanding at any time.
    pub fn new(limit: usize) -> Self {
        Self { outstanding: BTreeMap::new(), limit }
    }

    /// Notes that `nonce` was given out at `now` (seconds since 1970).
    ///
    /// # Errors
    ///
    /// When the nonce is zero or outstanding already, or when there are too many.
    pub fn give_out(&mut self, nonce: [u8; 32], now: u64) -> Result<(), ChallengeError> {
        self.outstanding.retain(|_, expires| *expires >= now);
        if nonce == [0; 32] {
            return Err(ChallengeError::Zero);
        }
        if self.outstanding.contains_key(&nonce) {
            return Err(ChallengeError::Repeated);
        }
        if self.outstanding.len() >= self.limit {
            return Err(ChallengeError::Full(self.limit));
        }
        self.outstanding.insert(nonce, now.saturating_add(LIFETIME));
        Ok(())
    }

    /// Takes `nonce` back with its answer. It must be called before the answer is appraised, so that a
    /// wrong answer uses the nonce up as well.
    ///
    /// # Errors
    ///
    /// When the nonce is not outstanding at `now`.
    pub fn take(&mut self, nonce: &[u8; 32], now: u64) -> Result<(), ChallengeError> {
        match self.outstanding.remove(nonce) {
            Some(expires) if now <= expires => Ok(()),
            _ => Err(ChallengeError::NotOutstanding),
        }
    }
}
