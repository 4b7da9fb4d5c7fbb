//! The policy of a service: its owner's, or the one of a service whose owner gave none.

use dunlin_attest::{Policy, PolicyError, SigningKey, VerifyingKey};
use dunlin_base::Digest;
use dunlin_handover::{Key, ServiceId};

/// A policy that lets every platform in, also a simulated one, of every provider, with every runtime. It demands the
/// service's module and the ledger, and nothing else, and says so in the warnings of each appraisal. Both sides of a
/// migration make the same one.
///
/// # Errors
/// Only if this build cannot sign.
pub fn open_policy(service: ServiceId, module: &Digest, ledger: Key) -> Result<Policy, PolicyError> {
    // Everybody knows this key: a signature with it says nothing, and must not.
    let seed = Digest::of(b"dunlin policy of nobody, not a secret\0").0;
    let nobody = SigningKey::from_bytes(&seed).map_err(|error| PolicyError::Contradiction(error.to_string()))?;
    let key = nobody.verifying_key();
    let text = format!(
        r#"# Made by Dunlin for a service whose owner gave no policy.
format = 1
service = "{service}"
version = 1
issued = 2026-01-01T00:00:00Z
expires = 2099-12-31T23:59:59Z
class_floor = "sim"
modules = ["sha256:{module}"]
require_measured_policy = false

[insecure]
any_measurement = true
any_provider = true

[sim]

[tpm]

[migration]
destination = "any_accepted"

[ledger]
id = "{ledger}"
keys = ["{key}"]
quorum = 1
"#
    );
    Policy::verify(&Policy::sign(&text, &nobody)?, &service.to_string(), &[key], None)
}

/// The policy under which a service runs: what its owner signed (the object, and the signer's point), or the open one.
/// Whether it is in force is for the caller to see: the ledger's record names the digest of the one that is.
///
/// # Errors
/// [`PolicyError`] when what was signed is not a policy of this signer for a service of this name.
pub fn policy_in_force(
    name: &str,
    service: ServiceId,
    module: &Digest,
    ledger: Key,
    signed: Option<(&[u8], &[u8])>,
) -> Result<Policy, PolicyError> {
    let Some((object, signer)) = signed else { return open_policy(service, module, ledger) };
    let signer = VerifyingKey::from_bytes(signer).map_err(|error| PolicyError::Contradiction(error.to_string()))?;
    Policy::verify(object, name, &[signer], None)
}
