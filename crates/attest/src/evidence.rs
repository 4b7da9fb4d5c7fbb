//! The containers in which evidence and endorsements travel.
//!
//! Evidence is a record of the RATS conceptual message wrapper (RFC 9999): media type, bytes, and the
//! indicator bit for evidence. The label decides which verifier runs; a verifier refuses bytes of another
//! technology, so a wrong label only loses.

use ciborium::Value;

use crate::binding::BindingContext;
use crate::cbor::{self, CborError, Fields};
use crate::claims::Technology;
use crate::verify::MAX_EVIDENCE;
use crate::verify::tpm::TpmQuote;

/// The indicator bit for evidence in a conceptual message.
const INDICATOR_EVIDENCE: u64 = 1 << 2;
/// Intel's collateral is below 30 KiB, AMD's below 10 KiB.
const MAX_ENDORSEMENTS: usize = 512 * 1024;

/// What a platform said, labelled with its technology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// An SGX quote, version 3.
    Sgx(Vec<u8>),
    /// A TDX quote, version 4 or 5.
    Tdx(Vec<u8>),
    /// An SNP attestation report, 1184 bytes.
    Snp(Vec<u8>),
    /// A TPM quote with what belongs to it.
    Tpm(Box<TpmQuote>),
    /// A simulated platform's signed token.
    Sim(Vec<u8>),
}

/// Why bytes are not evidence or endorsements.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// The container.
    #[error("the container is malformed")]
    Cbor(#[from] CborError),
    /// Not a kind of evidence that this build knows.
    #[error("{0:?} is not a media type of evidence that this build knows")]
    MediaType(String),
    /// Not a record with media type, bytes and indicator.
    #[error("not a conceptual message with media type, bytes and the indicator for evidence")]
    Shape,
}

impl Evidence {
    /// The label.
    pub fn technology(&self) -> Technology {
        match self {
            Self::Sgx(_) => Technology::Sgx,
            Self::Tdx(_) => Technology::Tdx,
            Self::Snp(_) => Technology::Snp,
            Self::Tpm(_) => Technology::Tpm,
            Self::Sim(_) => Technology::Sim,
        }
    }

    /// As a program gets it for a challenge: what it is bound to, the evidence, and what belongs to it, each behind its
    /// length as 32 bits.
    pub fn for_program(&self, binding: &BindingContext, endorsements: &Endorsements) -> Vec<u8> {
        let mut answer = Vec::new();
        for part in [binding.to_cbor(), self.to_cbor(), endorsements.to_cbor()] {
            answer.extend_from_slice(&(part.len() as u32).to_le_bytes());
            answer.extend_from_slice(&part);
        }
        answer
    }

    /// An SGX quote from a buffer that the platform may have padded with zero bytes.
    pub fn sgx_from_buffer(buffer: &[u8]) -> Self {
        Self::Sgx(crate::verify::dcap::without_padding(buffer).to_vec())
    }

    /// A TDX quote from a buffer that the platform may have padded with zero bytes.
    pub fn tdx_from_buffer(buffer: &[u8]) -> Self {
        Self::Tdx(crate::verify::dcap::without_padding(buffer).to_vec())
    }

    /// The container.
    pub fn to_cbor(&self) -> Vec<u8> {
        let (media_type, bytes) = match self {
            Self::Sgx(quote) => ("application/vnd.dunlin.sgx-quote", quote.clone()),
            Self::Tdx(quote) => ("application/vnd.dunlin.tdx-quote", quote.clone()),
            Self::Snp(report) => ("application/vnd.dunlin.snp-report", report.clone()),
            Self::Tpm(quote) => ("application/vnd.dunlin.tpm-quote+cbor", quote.to_cbor()),
            Self::Sim(token) => ("application/vnd.dunlin.sim+cose", token.clone()),
        };
        cbor::encode(&Value::Array(vec![media_type.into(), Value::Bytes(bytes), INDICATOR_EVIDENCE.into()]))
    }

    /// Reads the container.
    ///
    /// # Errors
    ///
    /// For other containers and unknown media types. The evidence itself is not looked at, except that
    /// the parts of a TPM quote are taken apart.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, EvidenceError> {
        let Value::Array(items) = cbor::decode(bytes, MAX_EVIDENCE)? else {
            return Err(EvidenceError::Shape);
        };
        let Ok([Value::Text(media_type), Value::Bytes(bytes), indicator]) = <[Value; 3]>::try_from(items) else {
            return Err(EvidenceError::Shape);
        };
        if indicator != Value::from(INDICATOR_EVIDENCE) {
            return Err(EvidenceError::Shape);
        }
        match media_type.as_str() {
            "application/vnd.dunlin.sgx-quote" => Ok(Self::Sgx(bytes)),
            "application/vnd.dunlin.tdx-quote" => Ok(Self::Tdx(bytes)),
            "application/vnd.dunlin.snp-report" => Ok(Self::Snp(bytes)),
            "application/vnd.dunlin.tpm-quote+cbor" => Ok(Self::Tpm(Box::new(TpmQuote::from_cbor(&bytes)?))),
            "application/vnd.dunlin.sim+cose" => Ok(Self::Sim(bytes)),
            _ => Err(EvidenceError::MediaType(media_type)),
        }
    }
}

/// What others say about the platform: the vendor's collateral and the provider's statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endorsements {
    /// The vendor's collateral.
    pub collateral: Collateral,
    /// The provider's signed [`crate::PlatformStatement`].
    pub statement: Option<Vec<u8>>,
}

/// A vendor's collateral.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Collateral {
    /// None: for TPM and simulation.
    #[default]
    None,
    /// The JSON object that DCAP tools keep: TCB info, QE identity, revocation lists and their chains.
    Intel(Vec<u8>),
    /// AMD's certificates.
    Amd(AmdCollateral),
}

/// AMD's certificates, in DER. The root is not among them: it is pinned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AmdCollateral {
    /// The certificate of the key that signed the report.
    pub vek: Vec<u8>,
    /// The certificate between root and key. Where it is missing the built-in one is taken.
    pub intermediate: Option<Vec<u8>>,
    /// The root's revocation list.
    pub crl: Option<Vec<u8>>,
}

impl Endorsements {
    /// The container.
    pub fn to_cbor(&self) -> Vec<u8> {
        let mut entries = Vec::new();
        match &self.collateral {
            Collateral::None => {}
            Collateral::Intel(json) => entries.push((0.into(), Value::Bytes(json.clone()))),
            Collateral::Amd(AmdCollateral { vek, intermediate, crl }) => {
                entries.push((1.into(), Value::Bytes(vek.clone())));
                entries.extend(intermediate.clone().map(|der| (2.into(), Value::Bytes(der))));
                entries.extend(crl.clone().map(|der| (3.into(), Value::Bytes(der))));
            }
        }
        entries.extend(self.statement.clone().map(|object| (4.into(), Value::Bytes(object))));
        cbor::encode(&Value::Map(entries))
    }

    /// Reads the container.
    ///
    /// # Errors
    ///
    /// For other containers, unknown fields, and collateral of two vendors at once.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, EvidenceError> {
        let mut fields = Fields::decode(bytes, MAX_ENDORSEMENTS)?;
        let mut next = |key: u64, field| fields.optional(key).map(|value| cbor::bytes(value, field)).transpose();
        let (intel, vek) = (next(0, "intel")?, next(1, "vek")?);
        let (intermediate, crl, statement) = (next(2, "intermediate")?, next(3, "crl")?, next(4, "statement")?);
        fields.finish()?;
        let collateral = match (intel, vek) {
            (None, None) if intermediate.is_none() && crl.is_none() => Collateral::None,
            (Some(json), None) if intermediate.is_none() && crl.is_none() => Collateral::Intel(json),
            (None, Some(vek)) => Collateral::Amd(AmdCollateral { vek, intermediate, crl }),
            _ => return Err(EvidenceError::Shape),
        };
        Ok(Self { collateral, statement })
    }
}
