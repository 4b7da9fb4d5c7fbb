//! What a piece of evidence is bound to: one session, one direction, one service, one epoch, one policy.

use ciborium::Value;
use dunlin_base::Digest;
use sha2::{Digest as _, Sha256, Sha512};

use crate::bytes::Bytes;
use crate::cbor::{self, CborError, Fields};
use crate::cose::VerifyingKey;

/// The version of the encoding below, hashed with it.
const VERSION: u64 = 1;
/// Longer contexts do not exist: two keys, three names and fixed-size fields.
const MAX_CONTEXT: usize = 8 * 1024;

/// Who proves what to whom. A proof for one role is worthless for every other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The keep that gives a service away.
    Source,
    /// The keep that takes a service over.
    Destination,
    /// A service to one of its clients.
    ServiceToClient,
    /// A service to the broker.
    ServiceToBroker,
    /// A service to the ledger.
    ServiceToLedger,
}

impl Role {
    const ALL: [Self; 5] =
        [Self::Source, Self::Destination, Self::ServiceToClient, Self::ServiceToBroker, Self::ServiceToLedger];

    /// The name that is hashed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "src",
            Self::Destination => "dst",
            Self::ServiceToClient => "svc->client",
            Self::ServiceToBroker => "svc->broker",
            Self::ServiceToLedger => "svc->ledger",
        }
    }
}

/// Everything that evidence is bound to. Each side builds it from what it knows itself; only the names
/// of the attester's own keys and provider come from the attester, over the session they are bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingContext {
    /// The direction.
    pub role: Role,
    /// The exporter of the TLS session that carries the evidence.
    pub exporter: [u8; 32],
    /// The nonce that the other side chose.
    pub peer_nonce: [u8; 32],
    /// SHA-256 of the attester's SubjectPublicKeyInfo in that session.
    pub own_spki: Digest,
    /// SHA-256 of the other side's SubjectPublicKeyInfo in that session.
    pub peer_spki: Digest,
    /// The key with which this instance signs.
    pub instance_key: VerifyingKey,
    /// The key to which secrets for this instance are encrypted, in its own encoding.
    pub kem_key: Bytes,
    /// The service.
    pub service: String,
    /// The ownership number of the service.
    pub epoch: u64,
    /// The migration, or zero where there is none.
    pub migration: [u8; 16],
    /// The owner's policy under which both sides work.
    pub policy: Digest,
    /// The WebAssembly module that the instance runs.
    pub module: Digest,
    /// The provider that operates the attester's machine.
    pub provider: String,
    /// The ledger that decides who owns the service.
    pub ledger: String,
}

impl BindingContext {
    /// Of evidence that answers a client's nonce outside of any session: the exporter says so, there is no other side, and
    /// the nonce is what binds. What the instance is and runs is left empty, for the caller to fill in.
    pub fn outside_of_a_session(nonce: [u8; 32], instance_key: VerifyingKey, kem_key: Bytes) -> Self {
        let none = Digest([0; 32]);
        Self {
            role: Role::ServiceToClient,
            exporter: Digest::of(&[b"dunlin: evidence outside of a session\0".as_slice(), &nonce].concat()).0,
            peer_nonce: nonce,
            own_spki: instance_key.spki_hash(),
            peer_spki: Digest::of(b"nobody"),
            instance_key,
            kem_key,
            service: String::new(),
            epoch: 0,
            migration: [0; 16],
            policy: none,
            module: none,
            provider: String::new(),
            ledger: String::new(),
        }
    }

    /// The deterministic CBOR form.
    pub fn to_cbor(&self) -> Vec<u8> {
        cbor::encode(&cbor::map([
            (0, VERSION.into()),
            (1, self.role.name().into()),
            (2, Value::Bytes(self.exporter.to_vec())),
            (3, Value::Bytes(self.peer_nonce.to_vec())),
            (4, Value::Bytes(self.own_spki.0.to_vec())),
            (5, Value::Bytes(self.peer_spki.0.to_vec())),
            (6, Value::Bytes(self.instance_key.to_bytes())),
            (7, Value::Bytes(self.kem_key.0.clone())),
            (8, self.service.as_str().into()),
            (9, self.epoch.into()),
            (10, Value::Bytes(self.migration.to_vec())),
            (11, Value::Bytes(self.policy.0.to_vec())),
            (12, Value::Bytes(self.module.0.to_vec())),
            (13, self.provider.as_str().into()),
            (14, self.ledger.as_str().into()),
        ]))
    }

    /// Reads the deterministic CBOR form, for a log or an offline check.
    ///
    /// # Errors
    ///
    /// For every other form, unknown fields and unknown versions.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, BindingError> {
        let mut fields = Fields::decode(bytes, MAX_CONTEXT)?;
        let version = fields.uint(0, "version")?;
        if version != VERSION {
            return Err(BindingError::Version(version));
        }
        let role = fields.text(1, "role")?;
        let context = Self {
            role: Role::ALL.into_iter().find(|known| known.name() == role).ok_or(BindingError::Role(role))?,
            exporter: fields.array(2, "exporter")?,
            peer_nonce: fields.array(3, "peer nonce")?,
            own_spki: Digest(fields.array(4, "own SPKI hash")?),
            peer_spki: Digest(fields.array(5, "peer SPKI hash")?),
            instance_key: VerifyingKey::from_bytes(&fields.bytes(6, "instance key")?)?,
            kem_key: Bytes(fields.bytes(7, "KEM key")?),
            service: fields.text(8, "service")?,
            epoch: fields.uint(9, "epoch")?,
            migration: fields.array(10, "migration")?,
            policy: Digest(fields.array(11, "policy hash")?),
            module: Digest(fields.array(12, "module digest")?),
            provider: fields.text(13, "provider")?,
            ledger: fields.text(14, "ledger")?,
        };
        fields.finish()?;
        Ok(context)
    }

    /// The report data that evidence for this context carries.
    pub fn report_data(&self) -> ReportData {
        let mut hash = Sha512::new();
        hash.update(b"dunlin binding context\0");
        hash.update(self.to_cbor());
        ReportData(hash.finalize().into())
    }
}

/// Why bytes are not a [`BindingContext`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindingError {
    /// Not the one deterministic form, or with other fields.
    #[error("the binding context is malformed")]
    Cbor(#[from] CborError),
    /// A version of the context that this build does not know.
    #[error("binding context version {0} is unknown; this build knows version {VERSION}")]
    Version(u64),
    /// A role that this build does not know.
    #[error("binding role {0:?} is unknown")]
    Role(String),
    /// The instance key is not a key.
    #[error("the instance key in the binding context is unusable")]
    Key(#[from] crate::cose::KeyError),
}

/// The 64 bytes that evidence must carry. They come from a [`BindingContext`] and from nowhere else, so
/// there is no way to ask for a verification that does not check them.
#[derive(Clone, PartialEq, Eq)]
pub struct ReportData([u8; 64]);

impl ReportData {
    /// The 64 bytes, for the request to a platform.
    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// What a TPM quote carries as its qualifying data: a TPM takes at most 64 bytes and often fewer.
    pub fn tpm_qualifying_data(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// Genuine samples carry report data of their makers, which no context of ours hashes to.
    #[cfg(test)]
    pub(crate) fn of_sample(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }
}

impl core::fmt::Debug for ReportData {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ReportData({})", Bytes::from(self.0))
    }
}
