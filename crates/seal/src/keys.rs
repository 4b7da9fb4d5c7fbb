//! The keys: a service's root, what is derived from it for each epoch, and a machine's own.
//!
//! ```text
//!   service root ──HKDF(service, epoch)──> epoch key ──HKDF("volume")──> chunks of volumes
//!                                                    ├─HKDF("objects")─> objects ──HKDF(label, salt)──> one object
//!                                                    └─HKDF("staging", migration)─> what one move puts on storage
//!   service root ──HKDF("broker secrets")──> the owner's secrets, in the broker only
//! ```
//!
//! A root is random, so extraction is left out, as RFC 5869 permits: it is the pseudorandom key itself.

use core::fmt;

use hkdf::Hkdf;
use sha2::Sha256;

use crate::error::Error;
use crate::memory::{KEY, Secret};
use crate::object::{ObjectSeal, Scope};

/// A service, for its whole life and wherever it runs: the ledger's number of it.
pub type ServiceId = [u8; 16];

/// A migration: the number that both sides and the ledger have for it.
pub type MigrationId = [u8; 16];

/// The root of all keys of one service. It never leaves the broker that keeps it.
pub struct ServiceRoot(Secret);

impl ServiceRoot {
    /// A new root.
    ///
    /// # Errors
    /// [`Error::Random`].
    pub fn generate() -> Result<Self, Error> {
        random().map(Self)
    }

    /// From its bytes, which the caller wipes.
    pub fn from_bytes(bytes: &[u8; KEY]) -> Self {
        Self(Secret::fill(|place| place.copy_from_slice(bytes)))
    }

    /// Its bytes, to store them.
    pub(crate) fn bytes(&self) -> &[u8; KEY] {
        self.0.bytes()
    }

    /// The key of one epoch of `service`. Keys of other epochs cannot be derived from it.
    pub fn epoch_key(&self, service: ServiceId, epoch: u64) -> EpochKey {
        let parts = [b"dunlin epoch key 1\0".as_slice(), &service, &epoch.to_le_bytes()];
        EpochKey { service, epoch, secret: expand(&self.0, &parts) }
    }

    /// What seals the owner's secrets where the root is kept. No epoch key opens them.
    pub fn secrets(&self, service: ServiceId) -> ObjectSeal {
        let secret = expand(&self.0, &[b"dunlin broker secrets 1\0", &service]);
        ObjectSeal::new(Scope::Broker, service, 0, secret)
    }
}

/// The key of a service in one epoch: what its holder in that epoch seals with.
pub struct EpochKey {
    service: ServiceId,
    epoch: u64,
    secret: Secret,
}

impl EpochKey {
    /// From its bytes, as a broker sent them. The caller wipes them.
    pub fn from_bytes(service: ServiceId, epoch: u64, bytes: &[u8; KEY]) -> Self {
        Self { service, epoch, secret: Secret::fill(|place| place.copy_from_slice(bytes)) }
    }

    /// Its bytes, for a broker to encrypt them to a holder and for nothing else.
    pub fn expose(&self) -> &[u8; KEY] {
        self.secret.bytes()
    }

    /// The service.
    pub fn service(&self) -> ServiceId {
        self.service
    }

    /// The epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What seals objects under this key.
    pub fn objects(&self) -> ObjectSeal {
        ObjectSeal::new(Scope::Epoch, self.service, self.epoch, expand(&self.secret, &[b"dunlin objects 1\0"]))
    }

    /// The key of what one migration puts on storage before the ledger has decided. It opens nothing else, so that a holder
    /// can give it to a destination which is none yet, and may never be.
    pub fn staging(&self, migration: MigrationId) -> StagingKey {
        let secret = expand(&self.secret, &[b"dunlin staging 1\0", &migration]);
        StagingKey { service: self.service, epoch: self.epoch, secret }
    }

    /// The key of the chunks of volumes.
    pub(crate) fn chunks(&self) -> Secret {
        expand(&self.secret, &[b"dunlin volume chunks 1\0"])
    }
}

/// The key of one migration: of the state that waits at the destination, and of the copy that the source keeps.
pub struct StagingKey {
    service: ServiceId,
    epoch: u64,
    secret: Secret,
}

impl StagingKey {
    /// From its bytes, as the source sent them. The caller wipes them.
    pub fn from_bytes(service: ServiceId, epoch: u64, bytes: &[u8; KEY]) -> Self {
        Self { service, epoch, secret: Secret::fill(|place| place.copy_from_slice(bytes)) }
    }

    /// Its bytes, for a holder to send them to the destination and for nothing else.
    pub fn expose(&self) -> &[u8; KEY] {
        self.secret.bytes()
    }

    /// What seals states under this key.
    pub fn objects(&self) -> ObjectSeal {
        ObjectSeal::new(Scope::Staging, self.service, self.epoch, expand(&self.secret, &[b"dunlin staged objects 1\0"]))
    }
}

/// A key that never leaves its machine: for what is to be opened there and nowhere else, such as code that was compiled
/// there.
pub struct LocalKey(Secret);

impl LocalKey {
    /// A new key.
    ///
    /// # Errors
    /// [`Error::Random`].
    pub fn generate() -> Result<Self, Error> {
        random().map(Self)
    }

    /// From its bytes, which the caller wipes: what a platform unsealed.
    pub fn from_bytes(bytes: &[u8; KEY]) -> Self {
        Self(Secret::fill(|place| place.copy_from_slice(bytes)))
    }

    /// Follows from another secret of the machine, for instance the key by which the ledger knows it: what that secret's
    /// keeper can do, it can do.
    pub fn derived(secret: &[u8]) -> Self {
        Self(Secret::fill(|place| {
            let hkdf = Hkdf::<Sha256>::new(Some(b"dunlin machine key 1"), secret);
            // It can only fail for lengths that are not these.
            let _fits = hkdf.expand(b"objects", place);
        }))
    }

    /// Its bytes, to have a platform seal them.
    pub fn expose(&self) -> &[u8; KEY] {
        self.0.bytes()
    }

    /// What seals objects of `service` to this machine.
    pub fn objects(&self, service: ServiceId) -> ObjectSeal {
        ObjectSeal::new(Scope::Machine, service, 0, expand(&self.0, &[b"dunlin machine objects 1\0", &service]))
    }
}

macro_rules! without_text {
    ($($ty:ident),*) => {$(
        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($ty)).finish_non_exhaustive()
            }
        }
    )*};
}
without_text!(ServiceRoot, StagingKey, LocalKey);

impl fmt::Debug for EpochKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EpochKey").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

fn random() -> Result<Secret, Error> {
    let mut problem = Ok(());
    let secret = Secret::fill(|place| problem = getrandom::fill(place));
    problem.map(|()| secret).map_err(|error| Error::Random(error.to_string()))
}

/// The key that `parts` derive from a random one.
pub(crate) fn expand(key: &Secret, parts: &[&[u8]]) -> Secret {
    Secret::fill(|place| {
        // Both can only fail for lengths that are not these.
        if let Ok(hkdf) = Hkdf::<Sha256>::from_prk(key.bytes()) {
            let _fits = hkdf.expand_multi_info(parts, place);
        }
    })
}
