//! What a program can ask of its trusted surroundings: evidence of itself, the owner's secrets, a sealed store, and
//! other trusted modules. State: results that were not disposed of, a value that is being put away, the sealed store.
//!
//! Preview-1 modules import [`MODULE`]; `wit/trust.wit` says the same for components. Every function returns an error
//! number of preview 1. A result that may be long is kept here under a handle, to be read in slices.

mod calls;
mod state;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use dunlin_base::ValueType;

pub(crate) use calls::INTERFACE;
pub(crate) use state::TrustV1;

use crate::errno::Errno;
use crate::error::Error;

/// The module from which programs import the functions.
pub const MODULE: &str = "dunlin_trust";
/// The most bytes of one slice, read or written.
pub const MAX_SLICE: usize = 5 << 20;
/// The most bytes of a value, a result, and of all that a program has in its sealed store.
pub const MAX_VALUE: usize = 1 << 30;
/// The most bytes of the name of a value, a secret or a module.
pub const MAX_KEY: usize = 256;
/// The most results that a program can have at a time.
const MAX_RESULTS: usize = 256;
/// The most values in a sealed store.
pub(crate) const MAX_VALUES: usize = 65_536;

/// The trusted surroundings of a program: a keep with an attester, a broker and a sealed store.
pub trait Trust: Debug + Send + Sync {
    /// Evidence of this program's instance for a challenge of somebody else: binding, evidence and endorsements, each
    /// behind its length as 32 bits.
    ///
    /// # Errors
    /// [`TrustError`].
    fn attest(&self, challenge: &[u8; 32]) -> Result<Vec<u8>, TrustError>;

    /// A secret of the owner or a TLS key, by its name, from the broker.
    ///
    /// # Errors
    /// [`TrustError`].
    fn authenticate(&self, name: &str) -> Result<Vec<u8>, TrustError>;

    /// A value of the sealed store.
    ///
    /// # Errors
    /// [`TrustError`]; a value that is not there is [`TrustError::NotFound`].
    fn get(&self, key: &str) -> Result<Vec<u8>, TrustError>;

    /// Seals a value under a key, in place of what was there. Durable when it returns.
    ///
    /// # Errors
    /// [`TrustError`].
    fn put(&self, key: &str, value: &[u8]) -> Result<(), TrustError>;

    /// The keys of the sealed store, ascending.
    ///
    /// # Errors
    /// [`TrustError`].
    fn keys(&self) -> Result<Vec<String>, TrustError>;

    /// Replaces the whole store by what a program brings along from elsewhere.
    ///
    /// # Errors
    /// [`TrustError`].
    fn replace(&self, values: &[(String, Vec<u8>)]) -> Result<(), TrustError>;

    /// Runs a trusted module to its end, with `configuration` as its input, and gives its output.
    ///
    /// # Errors
    /// [`TrustError`]; a module with that name that nobody trusts is [`TrustError::NotFound`].
    fn run(&self, module: &str, configuration: &[u8]) -> Result<Vec<u8>, TrustError>;
}

/// Why trusted surroundings did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// Not offered here.
    #[error("this host does not offer that")]
    Unavailable,
    /// The policy, the ledger or the broker says no.
    #[error("denied: {0}")]
    Denied(String),
    /// No such value, secret or module.
    #[error("there is none of that name")]
    NotFound,
    /// More than fits.
    #[error("longer than is possible here")]
    TooLarge,
    /// Something failed, or is not as it was sealed.
    #[error("it failed: {0}")]
    Failed(String),
}

impl From<TrustError> for Errno {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Unavailable => Self::Notsup,
            TrustError::Denied(_) => Self::Acces,
            TrustError::NotFound => Self::Noent,
            TrustError::TooLarge => Self::Fbig,
            TrustError::Failed(_) => Self::Io,
        }
    }
}

/// A program's side of its trusted surroundings.
#[derive(Debug, Default)]
pub(crate) struct Trusted {
    pub(crate) around: Option<Arc<dyn Trust>>,
    pub(crate) results: BTreeMap<u32, Vec<u8>>,
    /// A value of which slices have come, and its key.
    pub(crate) pending: Option<(String, Vec<u8>)>,
    /// The first failure that was told as `EIO`.
    pub(crate) trouble: Option<String>,
}

impl Trusted {
    pub(crate) fn new(around: Option<Arc<dyn Trust>>) -> Self {
        Self { around, ..Self::default() }
    }

    pub(crate) fn thaw(frozen: Option<TrustV1>, around: Option<Arc<dyn Trust>>) -> Result<Self, Error> {
        let Some(TrustV1 { results, pending, values }) = frozen else { return Ok(Self::new(around)) };
        let around = around.ok_or(Error::NoTrust)?;
        around.replace(&values).map_err(Error::Trust)?;
        Ok(Self { around: Some(around), results: results.into_iter().collect(), pending, trouble: None })
    }

    /// The state; `None` for a program without trusted surroundings.
    pub(crate) fn freeze(&self) -> Result<Option<TrustV1>, Error> {
        let Some(around) = &self.around else { return Ok(None) };
        let mut values = Vec::new();
        let mut total = 0;
        for key in around.keys().map_err(Error::Trust)? {
            let value = around.get(&key).map_err(Error::Trust)?;
            total += value.len();
            if total > MAX_VALUE {
                return Err(Error::Trust(TrustError::TooLarge));
            }
            values.push((key, value));
        }
        let results = self.results.iter().map(|(handle, bytes)| (*handle, bytes.clone())).collect();
        Ok(Some(TrustV1 { results, pending: self.pending.clone(), values }))
    }

    /// Keeps a result. The lowest free handle is its number.
    fn keep(&mut self, bytes: Vec<u8>) -> Result<(u32, u64), Errno> {
        if bytes.len() > MAX_VALUE {
            return Err(Errno::Fbig);
        }
        let handle = (0..MAX_RESULTS as u32).find(|handle| !self.results.contains_key(handle)).ok_or(Errno::Mfile)?;
        let length = bytes.len() as u64;
        self.results.insert(handle, bytes);
        Ok((handle, length))
    }

    /// What the surroundings did, as the program is told.
    fn told<T>(&mut self, outcome: Result<T, TrustError>) -> Result<T, Errno> {
        outcome.map_err(|error| {
            if self.trouble.is_none()
                && let TrustError::Failed(_) | TrustError::Denied(_) = &error
            {
                self.trouble = Some(error.to_string());
            }
            error.into()
        })
    }

    fn around(&self) -> Result<Arc<dyn Trust>, Errno> {
        self.around.clone().ok_or(Errno::Notsup)
    }
}

/// The names of the functions and the types of their parameters.
pub fn functions() -> impl ExactSizeIterator<Item = (&'static str, &'static [ValueType])> {
    INTERFACE.functions.iter().map(|function| (function.name, function.params))
}
