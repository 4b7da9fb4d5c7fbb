//! A policy whose owner signed it.

use dunlin_base::Digest;

use crate::binding::BindingContext;
use crate::cose::{self, CoseError, Kind, SigningKey, VerifyingKey};
use crate::policy::lint::{Severity, lint};
use crate::policy::model::{ParsePolicyError, PolicyDocument};

const POLICY: Kind = Kind { content_type: "application/vnd.dunlin.policy+toml", limit: 300 * 1024 };

/// A policy under its owner's signature: the only thing that can accept claims.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    document: PolicyDocument,
    hash: Digest,
    signer: VerifyingKey,
}

/// The newest policy of a service that was seen so far. Keep it where the host cannot roll it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastSeen {
    /// Its version.
    pub version: u64,
    /// Its hash.
    pub hash: Digest,
}

/// Why a policy was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Unsigned, or signed by somebody else.
    #[error("the policy is not signed by its owner")]
    Signed(#[from] CoseError),
    /// Signed, but not text.
    #[error("the signed policy is not UTF-8 text")]
    Text(#[from] core::str::Utf8Error),
    /// Signed, but not a policy.
    #[error("the text is not a policy")]
    Parse(#[from] ParsePolicyError),
    /// The policy can never do what it says.
    #[error("the policy is not signed, because it contradicts itself: {0}")]
    Contradiction(String),
    /// For another service.
    #[error("the policy is for service {found:?}, not {expected:?}")]
    OtherService {
        /// In the policy.
        found: String,
        /// Wanted.
        expected: String,
    },
    /// Rolled back.
    #[error("the policy has version {found}, but version {seen} was seen already")]
    Older {
        /// In the policy.
        found: u64,
        /// Seen before.
        seen: u64,
    },
    /// Two policies with one version.
    #[error("two policies with version {version}: {found} now, {seen} before; the owner's key signs two truths")]
    Twins {
        /// The version.
        version: u64,
        /// The hash of this one.
        found: Digest,
        /// The hash of the one before.
        seen: Digest,
    },
}

impl Policy {
    /// Signs the text of a policy with its owner's key.
    ///
    /// # Errors
    ///
    /// When the text is not a policy, or one that contradicts itself.
    pub fn sign(text: &str, owner: &SigningKey) -> Result<Vec<u8>, PolicyError> {
        let findings = lint(&PolicyDocument::parse(text)?);
        if let Some(error) = findings.into_iter().find(|finding| finding.severity == Severity::Error) {
            return Err(PolicyError::Contradiction(error.to_string()));
        }
        Ok(cose::sign(POLICY, text.as_bytes().to_vec(), owner)?)
    }

    /// The text that one of `owners` signed, to read it. Whether it is a policy, and for which service, is not checked.
    ///
    /// # Errors
    ///
    /// When none of them signed it, or it is no text.
    pub fn signed_text(object: &[u8], owners: &[VerifyingKey]) -> Result<String, PolicyError> {
        let (payload, _) = cose::verify(POLICY, object, owners)?;
        Ok(core::str::from_utf8(&payload)?.to_owned())
    }

    /// Checks that one of `owners` signed a policy for `service` that is not older than `last_seen`.
    ///
    /// # Errors
    ///
    /// For everything else. Whether the policy applies at a given time is part of the appraisal.
    pub fn verify(
        object: &[u8],
        service: &str,
        owners: &[VerifyingKey],
        last_seen: Option<LastSeen>,
    ) -> Result<Self, PolicyError> {
        let (payload, signer) = cose::verify(POLICY, object, owners)?;
        let document = PolicyDocument::parse(core::str::from_utf8(&payload)?)?;
        if document.service != service {
            return Err(PolicyError::OtherService { found: document.service, expected: service.to_owned() });
        }
        let hash = Digest::of(&payload);
        if let Some(seen) = last_seen {
            if document.version < seen.version {
                return Err(PolicyError::Older { found: document.version, seen: seen.version });
            }
            if document.version == seen.version && hash != seen.hash {
                return Err(PolicyError::Twins { version: seen.version, found: hash, seen: seen.hash });
            }
        }
        Ok(Self { document, hash, signer })
    }

    /// What the owner wrote.
    pub fn document(&self) -> &PolicyDocument {
        &self.document
    }

    /// `binding` for an instance that runs `module` under this policy, on a machine of `provider`.
    pub fn bind(&self, binding: BindingContext, module: Digest, provider: &str) -> BindingContext {
        let document = self.document();
        BindingContext {
            service: document.service.clone(),
            policy: self.hash(),
            module,
            provider: provider.to_owned(),
            ledger: document.ledger.id.clone(),
            ..binding
        }
    }

    /// SHA-256 of the text, by which sessions, platforms and tokens name this policy.
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// The owner's key that signed it.
    pub fn signer(&self) -> VerifyingKey {
        self.signer
    }

    /// What to keep, to notice a rolled-back policy.
    pub fn last_seen(&self) -> LastSeen {
        LastSeen { version: self.document.version, hash: self.hash }
    }

    pub(crate) fn provider_keys(&self) -> Vec<(String, VerifyingKey)> {
        self.document.providers.iter().map(|provider| (provider.id.clone(), provider.key)).collect()
    }
}

/// For tests about policies that no linter lets pass.
#[cfg(test)]
pub(crate) fn sign_unchecked(text: &str, owner: &SigningKey) -> Result<Vec<u8>, PolicyError> {
    Ok(cose::sign(POLICY, text.as_bytes().to_vec(), owner)?)
}
