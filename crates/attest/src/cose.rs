//! Signed objects: COSE_Sign1 with ES256 (P-256, SHA-256), in one strict shape.
//!
//! Everything about the signature is in the protected header and nothing is left to the signer's choice:
//! the algorithm is fixed, the key identifier must be that of a key the verifier already has, the
//! content type and the external data name the kind of object. A header that carries a key, a
//! certificate chain or a `crit` list is refused, because the verifier's trust never comes from the object.

use coset::iana::Algorithm;
use coset::{CborSerializable as _, CoseSign1, CoseSign1Builder, HeaderBuilder, TaggedCborSerializable as _};
use dunlin_base::Digest;
use p256::ecdsa;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use crate::bytes::Bytes;

/// A P-256 key that signs objects. It holds a secret and has no text form.
#[derive(Clone)]
pub struct SigningKey(ecdsa::SigningKey);

impl SigningKey {
    /// From a secret scalar, big-endian.
    ///
    /// # Errors
    ///
    /// When the scalar is zero or not below the order of the curve.
    pub fn from_bytes(secret: &[u8; 32]) -> Result<Self, KeyError> {
        ecdsa::SigningKey::from_slice(secret).map(Self).map_err(|_| KeyError)
    }

    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(*self.0.verifying_key())
    }

    /// A signature over `message` in fixed-size form. It is deterministic (RFC 6979).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature: ecdsa::Signature = self.0.sign(message);
        signature.to_bytes().into()
    }
}

impl core::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SigningKey(of {})", self.verifying_key())
    }
}

/// A P-256 public key. Its text form is the compressed point in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VerifyingKey(ecdsa::VerifyingKey);

/// Bytes or a text that are not a P-256 key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a P-256 key; a public key is 33 bytes in compressed form (66 hexadecimal digits)")]
pub struct KeyError;

impl VerifyingKey {
    /// From the compressed point.
    ///
    /// # Errors
    ///
    /// For every other form and for points off the curve.
    pub fn from_bytes(point: &[u8]) -> Result<Self, KeyError> {
        if point.len() != 33 {
            return Err(KeyError);
        }
        ecdsa::VerifyingKey::from_sec1_bytes(point).map(Self).map_err(|_| KeyError)
    }

    /// The compressed point.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_sec1_point(true).as_bytes().to_vec()
    }

    /// SHA-256 of the compressed point, by which objects name the key.
    pub fn thumbprint(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    /// SHA-256 of the SubjectPublicKeyInfo in DER, by which certificates and ledgers name the key.
    pub fn spki_hash(&self) -> Digest {
        /// Everything before the point: two lengths, the algorithm, the curve, the bit string's head (RFC 5480).
        const HEAD: [u8; 26] = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
            0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        Digest::of(&[&HEAD, self.0.to_sec1_point(false).as_bytes()].concat())
    }

    /// Whether `signature` (fixed-size form) over `message` is this key's.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        ecdsa::Signature::from_slice(signature).is_ok_and(|signature| self.0.verify(message, &signature).is_ok())
    }
}

impl core::fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", Bytes(self.to_bytes()))
    }
}

impl core::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "VerifyingKey({self})")
    }
}

impl core::str::FromStr for VerifyingKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&text.parse::<Bytes>().map_err(|_| KeyError)?.0)
    }
}

impl Serialize for VerifyingKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for VerifyingKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a signed object was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CoseError {
    /// Longer than objects of this kind get.
    #[error("{length} bytes are more than the {limit} that a signed object of this kind may have")]
    TooLong {
        /// What it is.
        length: usize,
        /// What it may be.
        limit: usize,
    },
    /// Not a tagged COSE_Sign1 object, or not in its one encoding.
    #[error("not a COSE_Sign1 object in deterministic form: {0}")]
    Malformed(String),
    /// The header says or asks for something else than this kind of object may.
    #[error("the header is not that of this kind of object: {0}")]
    Header(&'static str),
    /// Signed by a key that is not among the trusted ones.
    #[error("signed with key {0}, which is not one of the keys that may sign this")]
    UnknownKey(String),
    /// The signature is wrong.
    #[error("the signature does not fit the content and the key")]
    Signature,
}

/// One kind of signed object. The name is the content type and, as external data, part of what is signed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) content_type: &'static str,
    pub(crate) limit: usize,
}

pub(crate) fn sign(kind: Kind, payload: Vec<u8>, key: &SigningKey) -> Result<Vec<u8>, CoseError> {
    let protected = HeaderBuilder::new()
        .algorithm(Algorithm::ES256)
        .content_type(kind.content_type.to_owned())
        .key_id(key.verifying_key().thumbprint().0.to_vec())
        .build();
    CoseSign1Builder::new()
        .protected(protected)
        .payload(payload)
        .create_signature(kind.content_type.as_bytes(), |message| key.sign(message).to_vec())
        .build()
        .to_tagged_vec()
        .map_err(|error| CoseError::Malformed(error.to_string()))
}

/// The payload and the key that signed it, which is one of `keys`.
pub(crate) fn verify(kind: Kind, object: &[u8], keys: &[VerifyingKey]) -> Result<(Vec<u8>, VerifyingKey), CoseError> {
    if object.len() > kind.limit {
        return Err(CoseError::TooLong { length: object.len(), limit: kind.limit });
    }
    // The strict decoder goes first: one encoding for each object, and no deep nesting.
    crate::cbor::decode(object, kind.limit).map_err(|error| CoseError::Malformed(error.to_string()))?;
    let sign1 = CoseSign1::from_tagged_slice(object).map_err(|error| CoseError::Malformed(error.to_string()))?;
    if !sign1.unprotected.is_empty() {
        return Err(CoseError::Header("there are unprotected fields"));
    }
    let header = &sign1.protected.header;
    let expected = HeaderBuilder::new()
        .algorithm(Algorithm::ES256)
        .content_type(kind.content_type.to_owned())
        .key_id(header.key_id.clone())
        .build();
    if header.alg != expected.alg {
        return Err(CoseError::Header("the algorithm is not ES256"));
    }
    if header.content_type != expected.content_type {
        return Err(CoseError::Header("the content type is that of another kind of object"));
    }
    if *header != expected {
        return Err(CoseError::Header("there are fields besides algorithm, content type and key identifier"));
    }
    // The protected bytes are what is signed: they must be the one encoding as well.
    let canonical = expected.to_vec().map_err(|error| CoseError::Malformed(error.to_string()))?;
    if sign1.protected.original_data.as_ref().is_some_and(|original| *original != canonical) {
        return Err(CoseError::Header("the protected header is not in deterministic form"));
    }
    let key = keys
        .iter()
        .find(|key| key.thumbprint().0 == *header.key_id)
        .ok_or_else(|| CoseError::UnknownKey(Bytes(header.key_id.clone()).to_string()))?;
    let message = sign1.tbs_data(kind.content_type.as_bytes());
    if !key.verifies(&message, &sign1.signature) {
        return Err(CoseError::Signature);
    }
    match sign1.payload {
        Some(payload) => Ok((payload, *key)),
        None => Err(CoseError::Header("the content is detached")),
    }
}
