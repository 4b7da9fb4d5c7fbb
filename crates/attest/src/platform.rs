//! Machines and who answers for them: platform ids, and the statement that a provider signs for each of
//! its machines.

use core::fmt;
use core::str::FromStr;

use ciborium::Value;
use dunlin_base::Digest;
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use crate::bytes::Bytes;
use crate::cbor::{self, CborError, Fields};
use crate::claims::Technology;
use crate::cose::{self, CoseError, Kind, SigningKey, VerifyingKey};

const STATEMENT: Kind = Kind { content_type: "application/vnd.dunlin.platform+cbor", limit: 4096 };

/// A machine: the technology, a colon, and what its vendor calls it (for example `snp:d49554…`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlatformId(String);

/// A text that is not a platform id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform id; expected for example snp:<hexadecimal chip id> or sim:<name>")]
pub struct ParsePlatformError(String);

impl PlatformId {
    pub(crate) fn of(technology: Technology, id: &[u8]) -> Self {
        Self(format!("{technology}:{}", Bytes::from(id)))
    }

    /// A simulated machine. The name is lower-case letters, digits, dots and dashes.
    ///
    /// # Errors
    ///
    /// For every other name.
    pub fn sim(name: &str) -> Result<Self, ParsePlatformError> {
        format!("sim:{name}").parse()
    }

    /// A machine with a TPM, by the SHA-256 of its endorsement key's certificate.
    pub fn tpm(ek_certificate: Digest) -> Self {
        Self::of(Technology::Tpm, &ek_certificate.0)
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PlatformId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PlatformId {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, ParsePlatformError> {
        let good = text.len() <= 200
            && text.split_once(':').is_some_and(|(technology, id)| match technology {
                "sim" => !id.is_empty() && id.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-')),
                "sgx" | "tdx" | "snp" | "tpm" => {
                    id.len() >= 16 && id.len() % 2 == 0 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                }
                _ => false,
            });
        if good { Ok(Self(text.to_owned())) } else { Err(ParsePlatformError(text.chars().take(200).collect())) }
    }
}

impl Serialize for PlatformId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PlatformId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A provider's signed word that a machine is its own. For a TPM it also names the attestation key that
/// was activated against the TPM's endorsement key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformStatement {
    /// The provider's id, as the owner's policy names it.
    pub provider: String,
    /// The machine.
    pub platform: PlatformId,
    /// The first second of validity (since 1970).
    pub not_before: u64,
    /// The last second of validity.
    pub not_after: u64,
    /// The TPM's keys, if the machine is attested by a TPM.
    pub tpm: Option<TpmEnrolment>,
}

/// What credential activation found out about a TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmEnrolment {
    /// The name of the attestation key: the algorithm and the digest of its public area.
    pub ak_name: Bytes,
    /// SHA-256 of the endorsement key's certificate. It is the platform id.
    pub ek_certificate: Digest,
    /// The reset count at enrolment. A lower one means another or a rolled-back TPM.
    pub reset_count: u32,
}

/// Why a platform statement was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The evidence needs one.
    #[error("there is none; a {0} machine needs its provider's signed platform statement among the endorsements")]
    Missing(Technology),
    /// The signature or its frame.
    #[error("the platform statement is not signed by a provider that the owner's policy names")]
    Signed(#[from] CoseError),
    /// The content.
    #[error("the platform statement is malformed")]
    Cbor(#[from] CborError),
    /// The name of the machine.
    #[error("the platform statement names no machine")]
    Platform(#[from] ParsePlatformError),
    /// Another machine.
    #[error("the platform statement is for {stated}, the evidence comes from {found}")]
    OtherPlatform {
        /// In the statement.
        stated: PlatformId,
        /// In the evidence.
        found: PlatformId,
    },
    /// Another provider's key.
    #[error("the platform statement speaks for provider {stated:?}, but the key is that of {signer:?}")]
    OtherProvider {
        /// In the statement.
        stated: String,
        /// Whose key signed.
        signer: String,
    },
    /// Outside its validity.
    #[error("the platform statement is valid from {from} to {to} (seconds since 1970), not at {now}")]
    NotValidNow {
        /// The first second.
        from: u64,
        /// The last second.
        to: u64,
        /// The time of the check.
        now: u64,
    },
}

impl PlatformStatement {
    /// Signs with the provider's key.
    ///
    /// # Errors
    ///
    /// When the statement cannot be encoded.
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<u8>, CoseError> {
        let mut entries = vec![
            (0.into(), self.provider.as_str().into()),
            (1.into(), self.platform.as_str().into()),
            (2.into(), self.not_before.into()),
            (3.into(), self.not_after.into()),
        ];
        if let Some(tpm) = &self.tpm {
            let enrolment = cbor::map([
                (0, Value::Bytes(tpm.ak_name.0.clone())),
                (1, Value::Bytes(tpm.ek_certificate.0.to_vec())),
                (2, u64::from(tpm.reset_count).into()),
            ]);
            entries.push((4.into(), enrolment));
        }
        cose::sign(STATEMENT, cbor::encode(&Value::Map(entries)), key)
    }

    /// Checks signature, signer and time. The machine is compared by [`Self::for_platform`].
    pub(crate) fn verify(
        object: &[u8],
        providers: &[(String, VerifyingKey)],
        now: u64,
    ) -> Result<(Self, VerifyingKey), StatementError> {
        let keys: Vec<_> = providers.iter().map(|(_, key)| *key).collect();
        let (payload, signer) = cose::verify(STATEMENT, object, &keys)?;
        let mut fields = Fields::decode(&payload, STATEMENT.limit)?;
        let statement = Self {
            provider: fields.text(0, "provider")?,
            platform: fields.text(1, "platform")?.parse()?,
            not_before: fields.uint(2, "not before")?,
            not_after: fields.uint(3, "not after")?,
            tpm: fields.optional(4).map(enrolment).transpose()?,
        };
        fields.finish()?;
        // A key may be listed for one provider only, so the first one with it is the one.
        let owner = providers.iter().find(|(_, key)| *key == signer).map(|(id, _)| id.as_str()).unwrap_or_default();
        if owner != statement.provider {
            return Err(StatementError::OtherProvider { stated: statement.provider, signer: owner.to_owned() });
        }
        if now < statement.not_before || now > statement.not_after {
            return Err(StatementError::NotValidNow { from: statement.not_before, to: statement.not_after, now });
        }
        Ok((statement, signer))
    }

    pub(crate) fn for_platform(self, found: &PlatformId) -> Result<Self, StatementError> {
        if self.platform == *found {
            Ok(self)
        } else {
            Err(StatementError::OtherPlatform { stated: self.platform, found: found.clone() })
        }
    }
}

fn enrolment(value: Value) -> Result<TpmEnrolment, CborError> {
    let mut fields = Fields::new(value, "tpm")?;
    let reset_count = fields.uint(2, "reset count")?;
    let enrolment = TpmEnrolment {
        ak_name: Bytes(fields.bytes(0, "attestation key name")?),
        ek_certificate: Digest(fields.array(1, "endorsement key certificate")?),
        reset_count: u32::try_from(reset_count)
            .map_err(|_| CborError::Type { field: "reset count", expected: "a 32-bit number" })?,
    };
    fields.finish()?;
    Ok(enrolment)
}
