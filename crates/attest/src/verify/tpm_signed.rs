//! Structures other than quotes that an attestation key signed: what enrolment and counters need.

use crate::bytes::Bytes;
use crate::claims::Technology;
use crate::error::VerifyError;
use crate::read::{Reader, Short};
use crate::verify::tpm::{Attest, AttestationKey, MAGIC, ST_ATTEST_NV, ST_ATTEST_QUOTE};

/// A TPMS_ATTEST whose signature was checked with a key that only signs what its TPM made. Whose key it is, and that
/// the structure is an answer to this caller, is left to compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmSigned {
    /// The name of the key.
    pub ak_name: Bytes,
    /// The caller's nonce.
    pub qualifying_data: Bytes,
    /// How often the TPM was reset.
    pub reset_count: u32,
    /// How often it was restarted or resumed since the last reset.
    pub restart_count: u32,
    /// What was attested.
    pub content: TpmSignedContent,
}

/// What an attestation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TpmSignedContent {
    /// Registers. [`crate::Verifier`] looks into it.
    Quote,
    /// The contents of an NV index.
    Nv {
        /// The name of the index: the algorithm and the digest of its public area, attributes included.
        index_name: Bytes,
        /// Where in the index the contents begin.
        offset: u16,
        /// The bytes.
        contents: Bytes,
    },
}

impl TpmSigned {
    /// Checks form and signature.
    ///
    /// # Errors
    ///
    /// For malformed structures, keys that could have signed anything, and signatures that do not fit.
    pub fn verify(attest: &[u8], signature: &[u8], ak_public: &[u8]) -> Result<Self, VerifyError> {
        let technology = Technology::Tpm;
        let malformed = |what: Short| VerifyError::Malformed { technology, what: what.to_string() };
        let refused = |what: String| VerifyError::Refused { technology, what };
        let key = AttestationKey::parse(ak_public)?;
        key.check(attest, signature)?;
        let parsed = Attest::parse(attest).map_err(malformed)?;
        if parsed.magic != MAGIC {
            return Err(refused(format!("magic {:#010x}: the TPM did not make this structure", parsed.magic)));
        }
        let content = match parsed.kind {
            ST_ATTEST_QUOTE => TpmSignedContent::Quote,
            ST_ATTEST_NV => {
                let mut rest = Reader::new(parsed.tail);
                let index_name = Bytes::from(rest.tpm2b("index name").map_err(malformed)?);
                let offset = rest.u16_be("offset").map_err(malformed)?;
                let contents = Bytes::from(rest.tpm2b("contents").map_err(malformed)?);
                if !rest.rest().is_empty() {
                    return Err(malformed(Short { field: "the attestation, with bytes left over" }));
                }
                TpmSignedContent::Nv { index_name, offset, contents }
            }
            other => return Err(refused(format!("attestation type {other:#06x} is neither quote nor NV contents"))),
        };
        Ok(Self {
            ak_name: key.name,
            qualifying_data: Bytes::from(parsed.extra_data),
            reset_count: parsed.reset_count,
            restart_count: parsed.restart_count,
            content,
        })
    }

    /// The name of an attestation key, if it has what makes it one: it signs only what its TPM made.
    ///
    /// # Errors
    ///
    /// For malformed keys and for keys that could have signed anything.
    pub fn key_name(ak_public: &[u8]) -> Result<Bytes, VerifyError> {
        AttestationKey::parse(ak_public).map(|key| key.name)
    }

    /// The value of the counter with the name `index_name`, if this is its reading for `nonce` by the key `ak_name`.
    ///
    /// # Errors
    ///
    /// For readings of other indices, by other keys, or for other nonces: an old reading says what once was.
    pub fn counter(&self, ak_name: &Bytes, index_name: &Bytes, nonce: &[u8]) -> Result<u64, VerifyError> {
        let refused = |what: &str| VerifyError::Refused { technology: Technology::Tpm, what: what.to_owned() };
        if self.ak_name != *ak_name {
            return Err(refused("the counter was read by another attestation key than that of the machine"));
        }
        if self.qualifying_data.0 != nonce || nonce.is_empty() {
            return Err(refused("the reading of the counter answers another question: it is old or from elsewhere"));
        }
        let TpmSignedContent::Nv { index_name: read, offset: 0, contents } = &self.content else {
            return Err(refused("it is not the reading of a counter"));
        };
        if read != index_name {
            return Err(refused("it is the reading of another index"));
        }
        let value = <[u8; 8]>::try_from(contents.0.as_slice()).map_err(|_| refused("a counter has 8 bytes"))?;
        Ok(u64::from_be_bytes(value))
    }
}
