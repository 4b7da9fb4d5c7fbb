//! Private and public keys.

use core::fmt;
use std::sync::Arc;

use dunlin_base::Digest;
use dunlin_handover::Key;
use dunlin_handover::ledger::Signer;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::elliptic_curve::zeroize::Zeroizing;
use p256::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
use ring::error::Unspecified;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey};

use crate::error::IdentityError;

/// Bytes of an uncompressed point. Compressed ones are half as long, and take as long to decompress as to verify with.
const POINT: usize = 65;
/// Everything before the point in a `SubjectPublicKeyInfo`: two lengths, the algorithm, the curve, the bit string's head
/// (RFC 5480).
const HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Bytes of a signature, the public key in front included.
pub const SIGNATURE_LENGTH: usize = POINT + 64;

/// The key of one instance of a keep: it is made when the keep starts, and never leaves it.
pub type InstanceKey = PrivateKey;
/// The key of a machine: its thumbprint is the machine's id in the ledger.
pub type PlatformKey = PrivateKey;

/// A P-256 private key. What can be written down again is wiped when it is dropped; what signs (ring's, twelve times as
/// fast as the other, and five signatures lie in the pause of a move) is not, as in every TLS connection under such a key.
#[derive(Clone)]
pub struct PrivateKey {
    signing: SigningKey,
    quick: Arc<EcdsaKeyPair>,
    public: PublicKey,
}

impl PrivateKey {
    /// A new key.
    ///
    /// # Errors
    /// [`IdentityError::Random`].
    pub fn generate() -> Result<Self, IdentityError> {
        loop {
            let mut bytes = Zeroizing::new([0; 32]);
            getrandom::fill(&mut *bytes).map_err(IdentityError::Random)?;
            // All but one in 2^32 random numbers are scalars of the curve.
            if let Ok(signing) = SigningKey::from_slice(&*bytes) {
                return Self::of(signing);
            }
        }
    }

    /// Reads PKCS #8 (DER).
    ///
    /// # Errors
    /// [`IdentityError::PrivateKey`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, IdentityError> {
        Self::of(SigningKey::from_pkcs8_der(der).map_err(IdentityError::PrivateKey)?)
    }

    /// Writes PKCS #8 (DER). The bytes are wiped when they are dropped.
    ///
    /// # Errors
    /// [`IdentityError::Write`].
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
        Ok(self.signing.to_pkcs8_der().map_err(IdentityError::Write)?.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn signing(&self) -> &SigningKey {
        &self.signing
    }

    fn of(signing: SigningKey) -> Result<Self, IdentityError> {
        let public = PublicKey::of(*signing.verifying_key())?;
        let (scalar, random) = (Zeroizing::new(signing.to_bytes()), SystemRandom::new());
        let quick = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &scalar,
            public.point(),
            &random,
        );
        let quick = Arc::new(quick.map_err(|error| IdentityError::Pair(error.to_string()))?);
        Ok(Self { signing, quick, public })
    }
}

impl Signer for PrivateKey {
    fn key(&self) -> Key {
        self.public.thumbprint()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(SIGNATURE_LENGTH);
        out.extend_from_slice(self.public.point());
        match self.quick.sign(&SystemRandom::new(), message) {
            Ok(signature) => out.extend_from_slice(signature.as_ref()),
            Err(Unspecified) => {
                // The system gave no random bytes, which the other way needs none of (RFC 6979).
                let signature: Signature = self.signing.sign(message);
                out.extend_from_slice(&signature.to_bytes());
            }
        }
        out
    }
}

impl fmt::Debug for PrivateKey {
    /// Without the private half.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PrivateKey").field(&self.public.thumbprint()).finish()
    }
}

/// A P-256 public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Of [`HEAD`] and the point.
    spki: Vec<u8>,
}

impl PublicKey {
    /// Reads a `SubjectPublicKeyInfo` (DER).
    ///
    /// # Errors
    /// [`IdentityError::PublicKey`].
    pub fn from_spki(der: &[u8]) -> Result<Self, IdentityError> {
        Self::of(VerifyingKey::from_public_key_der(der).map_err(IdentityError::PublicKey)?)
    }

    /// The `SubjectPublicKeyInfo` (DER).
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The name of the key everywhere else: SHA-256 of the `SubjectPublicKeyInfo`.
    pub fn thumbprint(&self) -> Key {
        Key(Digest::of(&self.spki).0)
    }

    /// Whether `signature`, as [`PrivateKey`] makes them, is of this key over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        split(signature).is_some_and(|(point, signature)| point == self.point() && holds(point, message, signature))
    }

    /// The point, compressed: as evidence and policies name the key.
    pub fn compressed(&self) -> Vec<u8> {
        let (odd, x) = match self.point() {
            [_, coordinates @ ..] => (coordinates.last().is_some_and(|last| last & 1 == 1), coordinates.get(..32)),
            [] => (false, None),
        };
        [&[2 + u8::from(odd)], x.unwrap_or_default()].concat()
    }

    /// The point, uncompressed.
    fn point(&self) -> &[u8] {
        self.spki.get(HEAD.len()..).unwrap_or_default()
    }

    fn of(verifying: VerifyingKey) -> Result<Self, IdentityError> {
        let spki = verifying.to_public_key_der().map_err(IdentityError::PublicKey)?.into_vec();
        Ok(Self { spki })
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublicKey").field(&self.thumbprint()).finish()
    }
}

/// Whether `signature` is over `message`, and of the key with this thumbprint.
pub(crate) fn is_signed_by(key: Key, message: &[u8], signature: &[u8]) -> bool {
    split(signature).is_some_and(|(point, signature)| {
        Key(Digest::of(&[HEAD.as_slice(), point].concat()).0) == key && holds(point, message, signature)
    })
}

fn split(signature: &[u8]) -> Option<(&[u8], &[u8])> {
    signature.split_at_checked(POINT).filter(|(_, signature)| signature.len() == SIGNATURE_LENGTH - POINT)
}

/// Also whether `point` is one of the curve, in its one uncompressed form.
fn holds(point: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_one_key_over_one_message() {
        let (one, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let signature = one.sign(b"message");
        assert_eq!(signature.len(), SIGNATURE_LENGTH);
        assert!(one.public().verify(b"message", &signature));
        assert!(is_signed_by(one.key(), b"message", &signature));
        assert!(!one.public().verify(b"massage", &signature));
        assert!(!other.public().verify(b"message", &signature));
        assert!(!is_signed_by(other.key(), b"message", &signature));
        // The key in front is part of what counts: nobody signs in another's name by putting his key there.
        let mut swapped = other.sign(b"message");
        swapped[..POINT].copy_from_slice(&signature[..POINT]);
        assert!(!is_signed_by(one.key(), b"message", &swapped));
    }

    #[test]
    fn every_changed_bit_and_every_length_is_refused() {
        let key = PrivateKey::generate().unwrap();
        let signature = key.sign(b"message");
        for bit in 0..signature.len() * 8 {
            let mut changed = signature.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_signed_by(key.key(), b"message", &changed), "bit {bit}");
        }
        for length in 0..signature.len() {
            assert!(!is_signed_by(key.key(), b"message", &signature[..length]), "{length} bytes");
        }
        assert!(!is_signed_by(key.key(), b"message", &[signature.as_slice(), &[0]].concat()));
    }

    #[test]
    fn keys_come_back_from_their_encodings() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::from_pkcs8(&key.to_pkcs8().unwrap()).unwrap();
        assert_eq!(again.key(), key.key());
        assert!(key.public().verify(b"message", &again.sign(b"message")));
        let public = PublicKey::from_spki(key.public().spki()).unwrap();
        assert_eq!(&public, key.public());
        // SubjectPublicKeyInfo of P-256 with an uncompressed point has one length.
        assert_eq!(public.spki().len(), 91);
        let point = VerifyingKey::from_sec1_bytes(&public.compressed()).unwrap();
        assert_eq!(PublicKey::of(point).unwrap(), public);
        assert!(PrivateKey::from_pkcs8(b"no key").is_err());
        assert!(PublicKey::from_spki(&key.public().spki()[1..]).is_err());
    }

    #[test]
    fn a_private_key_is_not_shown() {
        let key = PrivateKey::generate().unwrap();
        let shown = format!("{key:?}");
        let scalar = key.signing().to_bytes();
        let secret: String = scalar.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        assert!(shown.starts_with("PrivateKey(Key(") && !shown.contains(&secret), "{shown}");
    }
}
