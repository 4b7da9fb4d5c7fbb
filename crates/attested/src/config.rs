//! What one side knows before the handshake begins.

use std::fmt;
use std::sync::Arc;

use dunlin_attest::{Bytes, Policy, Role, SigningKey, SimRoots, VerifyingKey};
use dunlin_base::Digest;
use dunlin_handover::ledger::Checks;
use dunlin_handover::{Key, MigrationId, ServiceId, wire_tags};

/// Which side of a migration this is. Each role is proved by evidence of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// It holds the service.
    Source,
    /// It is to take it.
    Destination,
}

wire_tags!(Side, "side of a handshake", { Source = 1, Destination = 2 });

impl Side {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    /// The role in the binding of its evidence.
    pub(crate) const fn role(self) -> Role {
        match self {
            Self::Source => Role::Source,
            Self::Destination => Role::Destination,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// What the TLS session says. Nothing of it comes from a message.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionFacts {
    /// The exporter of the session.
    pub exporter: [u8; 32],
    /// SHA-256 of the own SubjectPublicKeyInfo.
    pub own_spki: Digest,
    /// SHA-256 of the other side's.
    pub peer_spki: Digest,
    /// The own provider, as certificates name it.
    pub own_provider: String,
    /// The other side's provider, by its certificate.
    pub peer_provider: String,
}

impl fmt::Debug for SessionFacts {
    /// Without the exporter, which is a secret of the session.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { exporter: _, own_spki, peer_spki, own_provider, peer_provider } = self;
        f.debug_struct("SessionFacts")
            .field("own_spki", own_spki)
            .field("peer_spki", peer_spki)
            .field("own_provider", own_provider)
            .field("peer_provider", peer_provider)
            .finish_non_exhaustive()
    }
}

/// What the handshake is about. Both sides must have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The migration.
    pub migration: MigrationId,
    /// The service, as the ledger names it.
    pub service: ServiceId,
    /// The epoch in which the source holds it. A destination that does not know it takes it from the source, and
    /// believes it on the ledger's word only.
    pub epoch: Option<u64>,
    /// The module that runs as the service.
    pub module: Digest,
    /// The policy that the ledger's record names: the digest of the policy under which both sides work, but for a
    /// service whose owner gave none.
    pub recorded_policy: Digest,
    /// The ledger whose word counts.
    pub ledger: Key,
}

/// Whose evidence counts, and under which conditions.
#[derive(Debug, Clone)]
pub struct Trust {
    /// The policy of the service's owner.
    pub policy: Policy,
    /// Roots for simulated platforms, where the policy lets them in. What is verified under them is class `sim`.
    pub sim: Option<SimRoots>,
}

/// Signs with the key of this instance, which is the key of its TLS certificate and its name in the ledger.
pub trait InstanceSigner: fmt::Debug + Send + Sync {
    /// The public half.
    fn verifying_key(&self) -> VerifyingKey;

    /// A signature (ECDSA with SHA-256, `r` and `s`) over `message`.
    fn sign(&self, message: &[u8]) -> [u8; 64];
}

impl InstanceSigner for SigningKey {
    fn verifying_key(&self) -> VerifyingKey {
        self.verifying_key()
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.sign(message)
    }
}

/// Everything that one side needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which side this is.
    pub side: Side,
    /// The session.
    pub session: SessionFacts,
    /// What it is about.
    pub terms: Terms,
    /// Whose evidence counts.
    pub trust: Trust,
    /// How the ledger's signatures are checked.
    pub checks: Arc<dyn Checks>,
    /// The key of this instance.
    pub signer: Arc<dyn InstanceSigner>,
    /// The key to which secrets for this instance are encrypted.
    pub kem_key: Bytes,
    /// The highest reset and restart counts that were seen of the other side's TPM.
    pub tpm_last_seen: Option<(u32, u32)>,
}
