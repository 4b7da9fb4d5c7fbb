//! One key, named in two ways: evidence carries its point, the ledger the digest of its `SubjectPublicKeyInfo`.

use dunlin_attest::{SigningKey, VerifyingKey};
use dunlin_handover::Key;
use p256::pkcs8::DecodePrivateKey as _;
use zeroize::Zeroizing;

/// How the ledger names `key`: SHA-256 of the public key in DER.
pub fn ledger_name(key: &VerifyingKey) -> Key {
    Key(key.spki_hash().0)
}

/// The signing key in a PKCS#8 document, as instances keep theirs. `None` if it is none of P-256.
pub fn signing_key(pkcs8: &[u8]) -> Option<SigningKey> {
    let secret = p256::SecretKey::from_pkcs8_der(pkcs8).ok()?;
    let scalar: Zeroizing<[u8; 32]> = Zeroizing::new(secret.to_bytes().into());
    SigningKey::from_bytes(&scalar).ok()
}

#[cfg(test)]
mod tests {
    use dunlin_base::Digest;

    use super::*;

    #[test]
    fn the_ledgers_name_is_the_digest_of_the_public_key_in_der() {
        let key = SigningKey::from_bytes(&[1; 32]).unwrap().verifying_key();
        // The head of every P-256 SubjectPublicKeyInfo, then the uncompressed point of the secret 0x0101...
        let mut der = vec![0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8];
        der.extend([0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7, 3, 0x42, 0]);
        let point = p256::PublicKey::from_sec1_bytes(&key.to_bytes()).unwrap();
        der.extend_from_slice(p256::elliptic_curve::sec1::ToSec1Point::to_sec1_point(&point, false).as_bytes());
        assert_eq!(ledger_name(&key).0, Digest::of(&der).0);
    }
}
