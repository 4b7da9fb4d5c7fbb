//! What can be asked of the ledger.

use dunlin_base::Digest;

use super::{Checks, MAX_PROOF, MAX_SIGNATURE, Signer};
use crate::codec::{DecodeError, Reader, Wire, Writer, wire_struct};
use crate::ids::{Key, MigrationId, OperationId, PlatformId, ServiceId};

/// Most keys that a recovery set or a request can carry.
pub(super) const MAX_KEYS: usize = 16;

/// One operation on one service, with the position it expects and the signatures of its authority.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// Which service.
    pub service: ServiceId,
    /// Sent again under the same id, a request is answered again and has no second effect.
    pub operation: OperationId,
    /// The epoch that the record must have.
    pub epoch: u64,
    /// The version that the record must have.
    pub version: u64,
    /// What to do.
    pub action: Operation,
    /// Who vouches for it: at most 16 signatures over [`Request::signed_bytes`].
    pub signatures: Vec<(Key, Vec<u8>)>,
    /// What the ledger appraises a new holder by: at most [`MAX_PROOF`] bytes that only its [`Checks`] read. Not signed:
    /// the operation names the evidence in it.
    pub proof: Vec<u8>,
}

impl Request {
    /// A request that nobody has signed yet, for the record at `epoch` and `version`.
    pub const fn new(service: ServiceId, operation: OperationId, epoch: u64, version: u64, action: Operation) -> Self {
        Self { service, operation, epoch, version, action, signatures: Vec::new(), proof: Vec::new() }
    }

    /// What the signatures cover: everything else, behind a text that no other signed object begins with.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let Self { service, operation, epoch, version, action, signatures: _, proof: _ } = self;
        let mut out = Writer::default();
        out.raw(b"dunlin ledger request 1\0");
        out.put(service);
        out.put(operation);
        out.put(epoch);
        out.put(version);
        out.put(action);
        out.finish()
    }

    /// The digest under which receipts name this request.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.signed_bytes())
    }

    /// Adds what the new holder is appraised by.
    #[must_use]
    pub fn with_proof(mut self, proof: Vec<u8>) -> Self {
        self.proof = proof;
        self
    }

    /// Adds the signature of `signer`.
    #[must_use]
    pub fn signed(mut self, signer: &dyn Signer) -> Self {
        let signature = signer.sign(&self.signed_bytes());
        self.signatures.push((signer.key(), signature));
        self
    }

    pub(super) fn is_signed_by(&self, key: Key, checks: &dyn Checks) -> bool {
        let message = self.signed_bytes();
        self.signatures.iter().any(|(by, signature)| *by == key && checks.verify(key, &message, signature))
    }
}

impl Wire for Request {
    const WHAT: &'static str = "ledger request";

    fn write(&self, out: &mut Writer) {
        let Self { service, operation, epoch, version, action, signatures, proof } = self;
        out.put(service);
        out.put(operation);
        out.put(epoch);
        out.put(version);
        out.put(action);
        out.put(&(signatures.len() as u32));
        for (key, signature) in signatures {
            out.put(key);
            out.blob(signature);
        }
        out.blob(proof);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (service, operation) = (input.take()?, input.take()?);
        let (epoch, version, action) = (input.take()?, input.take()?, input.take()?);
        let count = input.count("signatures", MAX_KEYS)?;
        let mut signatures = Vec::new();
        for _ in 0..count {
            signatures.push((input.take()?, input.blob("signature", MAX_SIGNATURE)?));
        }
        let proof = input.blob("proof", MAX_PROOF)?;
        Ok(Self { service, operation, epoch, version, action, signatures, proof })
    }
}

/// What to do to a record. This list is complete for this version of the format.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Owner: makes the record, epoch 1, no holder. Expects epoch 0 and version 0.
    Create {
        /// Key of the owner.
        owner: Key,
        /// Digest of the initial state.
        state_hash: Digest,
        /// Digest of the policy.
        policy_hash: Digest,
        /// Version of the policy.
        policy_version: u64,
        /// Who can recover the service besides the owner.
        recovery: Recovery,
    },
    /// New holder and its platform, with evidence: the first start. Epoch + 1.
    Claim {
        /// Instance key.
        holder: Key,
        /// Its machine.
        platform: PlatformId,
        /// Digest of its evidence.
        evidence: Digest,
    },
    /// Holder: a new committed state. Version + 1.
    Commit {
        /// Digest of the state that it follows.
        parent: Digest,
        /// Digest of the new state.
        state_hash: Digest,
    },
    /// Holder's platform and the new instance, with fresh evidence: the service starts again where it was. Epoch + 1.
    Resume {
        /// New instance key (the same key when a running instance takes a new epoch to abort a move).
        holder: Key,
        /// The machine, which must be the holder's.
        platform: PlatformId,
        /// Digest of fresh evidence.
        evidence: Digest,
    },
    /// Holder: the service moves. Epoch + 1, version + 1. The commit point of a migration.
    Transfer {
        /// Digest of the state that moves.
        state_hash: Digest,
        /// Digest of the destination's evidence.
        evidence: Digest,
        /// The source keeps a durable copy of the whole state until the destination has all of it.
        retained: bool,
        /// The destination's signed statement that it can take over.
        staged: Staged,
    },
    /// Owner, or the recovery set: a new holder for the last committed state. Epoch + 1.
    Recover {
        /// Instance key.
        holder: Key,
        /// Its machine.
        platform: PlatformId,
        /// Digest of its evidence.
        evidence: Digest,
    },
    /// Owner: a newer policy.
    UpdatePolicy {
        /// Digest of the policy.
        policy_hash: Digest,
        /// Version of the policy, higher than the last.
        policy_version: u64,
        /// Who can recover the service besides the owner.
        recovery: Recovery,
    },
    /// Owner: the end of the service. Epoch + 1.
    Retire,
}

impl Operation {
    /// The digest of the new holder's evidence, where there is a new holder.
    pub const fn evidence(&self) -> Option<Digest> {
        match self {
            Self::Claim { evidence, .. }
            | Self::Resume { evidence, .. }
            | Self::Transfer { evidence, .. }
            | Self::Recover { evidence, .. } => Some(*evidence),
            Self::Create { .. } | Self::Commit { .. } | Self::UpdatePolicy { .. } | Self::Retire => None,
        }
    }
}

impl Wire for Operation {
    const WHAT: &'static str = "operation";

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Create { owner, state_hash, policy_hash, policy_version, recovery } => {
                out.put(&1u8);
                out.put(owner);
                out.put(state_hash);
                out.put(policy_hash);
                out.put(policy_version);
                out.put(recovery);
            }
            Self::Claim { holder, platform, evidence } => take_over(out, 2, holder, platform, evidence),
            Self::Commit { parent, state_hash } => {
                out.put(&3u8);
                out.put(parent);
                out.put(state_hash);
            }
            Self::Resume { holder, platform, evidence } => take_over(out, 4, holder, platform, evidence),
            Self::Transfer { state_hash, evidence, retained, staged } => {
                out.put(&5u8);
                out.put(state_hash);
                out.put(evidence);
                out.put(retained);
                out.put(staged);
            }
            Self::Recover { holder, platform, evidence } => take_over(out, 6, holder, platform, evidence),
            Self::UpdatePolicy { policy_hash, policy_version, recovery } => {
                out.put(&7u8);
                out.put(policy_hash);
                out.put(policy_version);
                out.put(recovery);
            }
            Self::Retire => out.put(&8u8),
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.take::<u8>()? {
            1 => Self::Create {
                owner: input.take()?,
                state_hash: input.take()?,
                policy_hash: input.take()?,
                policy_version: input.take()?,
                recovery: input.take()?,
            },
            2 => Self::Claim { holder: input.take()?, platform: input.take()?, evidence: input.take()? },
            3 => Self::Commit { parent: input.take()?, state_hash: input.take()? },
            4 => Self::Resume { holder: input.take()?, platform: input.take()?, evidence: input.take()? },
            5 => Self::Transfer {
                state_hash: input.take()?,
                evidence: input.take()?,
                retained: input.take()?,
                staged: input.take()?,
            },
            6 => Self::Recover { holder: input.take()?, platform: input.take()?, evidence: input.take()? },
            7 => Self::UpdatePolicy {
                policy_hash: input.take()?,
                policy_version: input.take()?,
                recovery: input.take()?,
            },
            8 => Self::Retire,
            value => return Err(DecodeError::Unknown { what: Self::WHAT, value: value.into() }),
        })
    }
}

fn take_over(out: &mut Writer, tag: u8, holder: &Key, platform: &PlatformId, evidence: &Digest) {
    out.put(&tag);
    out.put(holder);
    out.put(platform);
    out.put(evidence);
}

/// The keys that together can recover a service without its owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Recovery {
    /// How many of the keys must sign; 0 with no keys: the owner alone can recover.
    pub threshold: u8,
    /// The keys, ascending, at most 16.
    pub keys: Vec<Key>,
}

impl Recovery {
    pub(super) fn is_well_formed(&self) -> bool {
        let Self { threshold, keys } = self;
        let ascending = keys.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
        let reachable = usize::from(*threshold) <= keys.len() && (*threshold == 0) == keys.is_empty();
        ascending && reachable && keys.len() <= MAX_KEYS
    }
}

impl Wire for Recovery {
    const WHAT: &'static str = "recovery set";

    fn write(&self, out: &mut Writer) {
        out.put(&self.threshold);
        out.list(&self.keys);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let set = Self { threshold: input.take()?, keys: input.list("recovery keys", MAX_KEYS)? };
        if !set.is_well_formed() {
            return Err(DecodeError::Invalid {
                what: Self::WHAT,
                why: "keys ascend without repetition and the threshold is between 1 and their number (0 without keys)",
            });
        }
        Ok(set)
    }
}

/// A destination's statement: this state is on my stable storage, sealed to my machine, together with my keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Staged {
    /// Which service.
    pub service: ServiceId,
    /// Which migration.
    pub migration: MigrationId,
    /// The source's epoch: a statement is good for no other.
    pub epoch: u64,
    /// The version that the transfer will create.
    pub version: u64,
    /// Digest of the staged state.
    pub state_hash: Digest,
    /// The destination's instance key, which signs.
    pub holder: Key,
    /// The destination's machine.
    pub platform: PlatformId,
    /// Whether the whole state is staged; otherwise pages still come from the source after the transfer.
    pub complete: bool,
    /// By the holder key, over everything above.
    pub signature: Signature,
}

impl Staged {
    /// What the signature covers.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let Self { service, migration, epoch, version, state_hash, holder, platform, complete, signature: _ } = self;
        let mut out = Writer::default();
        out.raw(b"dunlin staged 1\0");
        out.put(service);
        out.put(migration);
        out.put(epoch);
        out.put(version);
        out.put(state_hash);
        out.put(holder);
        out.put(platform);
        out.put(complete);
        out.finish()
    }

    /// Puts the signature in place.
    #[must_use]
    pub fn signed(mut self, signer: &dyn Signer) -> Self {
        self.signature = Signature(signer.sign(&self.signed_bytes()));
        self
    }

    /// Whether the holder key signed this statement.
    pub fn is_genuine(&self, checks: &dyn Checks) -> bool {
        checks.verify(self.holder, &self.signed_bytes(), &self.signature.0)
    }
}

wire_struct!(Staged, "staged statement", {
    service,
    migration,
    epoch,
    version,
    state_hash,
    holder,
    platform,
    complete,
    signature,
});

/// Bytes of a signature, at most [`MAX_SIGNATURE`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Signature(pub Vec<u8>);

impl Wire for Signature {
    const WHAT: &'static str = "signature";

    fn write(&self, out: &mut Writer) {
        out.blob(&self.0);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.blob(Self::WHAT, MAX_SIGNATURE).map(Self)
    }
}
