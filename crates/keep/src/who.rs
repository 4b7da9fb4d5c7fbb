//! Who the keep is, and whom it believes.

use std::sync::Arc;

use dunlin_attest::Policy;
use dunlin_handover::ledger::Signer as _;
use dunlin_handover::{Entropy, Keys, PlatformId};
use dunlin_identity::{InstanceKey, Names, PlatformKey, Verifier};
use dunlin_keep_link::{Identity, Spec};
use dunlin_seal::LocalKey;

use crate::error::Failure;
use crate::machine::Machine;
use crate::outbox::Post;
use crate::trust::{Proof, policy_of};

/// The keep's identity: the key that it drew itself and that never leaves it, and what its node says about the rest.
#[derive(Debug, Clone)]
pub struct Who {
    /// The keys of a party of the hand-over.
    pub keys: Keys,
    /// What people call the node.
    pub node: String,
    /// What it can prove to others.
    pub(crate) proof: Proof,
    /// What seals states to the machine.
    pub(crate) machine: Arc<LocalKey>,
}

impl Who {
    /// Puts the keep's key and what the node says together.
    ///
    /// # Errors
    /// [`Failure::Invalid`] when the platform key is none, the certificate is of another key, or a root is none.
    pub(crate) fn new(instance: InstanceKey, identity: Identity, post: &Post) -> Result<Self, Failure> {
        let Identity { order: _, version: _, ledger, node, provider, platform, certificates, roots, witness } =
            identity;
        let machine = Arc::new(LocalKey::derived(&platform));
        let platform = PlatformKey::from_pkcs8(&platform).map_err(|error| Failure::Invalid(error.to_string()))?;
        if let Some(own) = certificates.first() {
            let names = Names::of(own).map_err(|error| Failure::Invalid(error.to_string()))?;
            if names.key != instance.key() {
                return Err(Failure::Invalid("the certificate is of another instance key".to_owned()));
            }
        }
        let machine_speaks = Machine::new(witness, post.clone());
        let proof = Proof::new(&instance, &provider, &certificates, &roots, machine_speaks)?;
        let keys = Keys {
            holder: Arc::new(instance),
            platform: Arc::new(platform),
            checks: Arc::new(Verifier::certified()),
            ledger,
        };
        Ok(Self { keys, node, proof, machine })
    }

    /// The policy under which a service runs here, which must be the one that the ledger's record names.
    pub(crate) fn policy_of(&self, spec: &Spec) -> Result<Policy, Failure> {
        policy_of(spec, self.keys.ledger, self.proof.technology())
    }

    /// The machine, as the ledger names it.
    pub fn platform(&self) -> PlatformId {
        PlatformId(self.keys.platform.key().0)
    }
}

/// Fresh random bytes for one state machine.
pub(crate) fn entropy() -> Result<Entropy, Failure> {
    let mut seed = [0; 32];
    let failed = |error: getrandom::Error| Failure::system("the system gives no random bytes")(error.into());
    getrandom::fill(&mut seed).map_err(failed)?;
    Ok(Entropy::new(seed))
}
