//! Making a credential: a secret that only a TPM with a certain endorsement key *and* a certain other key opens. This is
//! the enrolling side; it needs no TPM (TPM 2.0 library specification, part 1, annexes B and C, and section 24).

use aes::cipher::{BlockCipherEncrypt as _, KeyInit as _};
use hmac::{Hmac, Mac as _};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use rsa::traits::{PaddingScheme as _, PublicKeyParts as _};
use rsa::{BoxedUint, Oaep, RsaPublicKey};
use sha2::{Digest as _, Sha256, Sha384};

use crate::client::ALG_NULL;
use crate::codes::TpmError;
use crate::keys::{ALG_AES, ALG_CFB, ALG_ECC, ALG_RSA, ALG_SHA384, CURVE_P256, CURVE_P384, EkKind};
use crate::wire::{ALG_SHA256, Reader};

/// The public half of an endorsement key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EkPublic {
    /// RSA of 2048 bits.
    Rsa(RsaPublicKey),
    /// A point of P-256.
    P256(p256::PublicKey),
    /// A point of P-384.
    P384(p384::PublicKey),
}

/// What is sent to the TPM: both halves are TPM2B contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// TPMS_ID_OBJECT: integrity and the encrypted secret.
    pub credential: Vec<u8>,
    /// The seed, encrypted to the endorsement key.
    pub secret: Vec<u8>,
    /// What the quote in the answer must carry.
    pub nonce: [u8; 32],
}

impl EkPublic {
    /// Reads a TPMT_PUBLIC of one of the templates.
    ///
    /// # Errors
    ///
    /// For keys of other templates.
    pub fn parse(public: &[u8]) -> Result<Self, TpmError> {
        let wrong = |field| TpmError::Malformed { field };
        let mut rest = Reader::new(public);
        let (kind, name_algorithm) = (rest.u16("type")?, rest.u16("name algorithm")?);
        rest.u32("attributes")?;
        rest.sized("policy")?;
        let cipher = (rest.u16("cipher")?, rest.u16("key bits")?, rest.u16("cipher mode")?);
        if rest.u16("scheme")? != ALG_NULL {
            return Err(wrong("scheme of the endorsement key"));
        }
        let point = |x: &[u8], y: &[u8], size: usize| {
            let mut out = vec![4];
            for coordinate in [x, y] {
                let padding = size.checked_sub(coordinate.len()).ok_or(wrong("coordinate"))?;
                out.extend(std::iter::repeat_n(0, padding));
                out.extend(coordinate);
            }
            Ok::<_, TpmError>(out)
        };
        let key = match (kind, name_algorithm, cipher) {
            (ALG_RSA, ALG_SHA256, (ALG_AES, 128, ALG_CFB)) => {
                let (bits, exponent) = (rest.u16("key size")?, rest.u32("exponent")?);
                let modulus = rest.sized("modulus")?;
                if bits != 2048 || modulus.len() != 256 || !matches!(exponent, 0 | 65_537) {
                    return Err(wrong("size of the endorsement key"));
                }
                let exponent = BoxedUint::from(65_537u64);
                let key = RsaPublicKey::new(BoxedUint::from_be_slice_vartime(modulus), exponent);
                Self::Rsa(key.map_err(|_| wrong("modulus"))?)
            }
            (ALG_ECC, _, _) => {
                let curve = rest.u16("curve")?;
                rest.u16("key derivation")?;
                let (x, y) = (rest.sized("x")?, rest.sized("y")?);
                match (curve, name_algorithm, cipher) {
                    (CURVE_P256, ALG_SHA256, (ALG_AES, 128, ALG_CFB)) => {
                        Self::P256(p256::PublicKey::from_sec1_bytes(&point(x, y, 32)?).map_err(|_| wrong("point"))?)
                    }
                    (CURVE_P384, ALG_SHA384, (ALG_AES, 256, ALG_CFB)) => {
                        Self::P384(p384::PublicKey::from_sec1_bytes(&point(x, y, 48)?).map_err(|_| wrong("point"))?)
                    }
                    _ => return Err(wrong("curve of the endorsement key")),
                }
            }
            _ => return Err(wrong("type of the endorsement key")),
        };
        if rest.rest().is_empty() { Ok(key) } else { Err(wrong("endorsement key, with bytes left over")) }
    }

    /// Which template it is of.
    pub fn kind(&self) -> EkKind {
        match self {
            Self::Rsa(_) => EkKind::Rsa2048,
            Self::P256(_) => EkKind::P256,
            Self::P384(_) => EkKind::P384,
        }
    }

    /// The big-endian modulus, or the uncompressed point: what a certificate holds as well.
    pub(crate) fn material(&self) -> Vec<u8> {
        match self {
            Self::Rsa(key) => key.n_bytes().into_vec(),
            Self::P256(key) => key.to_sec1_point(false).as_bytes().to_vec(),
            Self::P384(key) => key.to_sec1_point(false).as_bytes().to_vec(),
        }
    }

    /// Wraps `secret` so that only the TPM with this key opens it, and only for the key with the name `name`.
    ///
    /// # Errors
    ///
    /// When the system gives no random numbers.
    pub(crate) fn make_credential(&self, name: &[u8], secret: &[u8]) -> Result<(Vec<u8>, Vec<u8>), getrandom::Error> {
        match self {
            Self::Rsa(key) => {
                let mut seed = [0; 32];
                getrandom::fill(&mut seed)?;
                let padding = Oaep::<Sha256>::new_with_label(b"IDENTITY\0".to_vec());
                // Encryption fails for want of random numbers or for messages that are too long, which 32 bytes are not.
                let encrypted = padding.encrypt(&mut getrandom::SysRng, key, &seed);
                let encrypted = encrypted.map_err(|_| getrandom::Error::UNSUPPORTED)?;
                Ok((wrap::<Sha256Kdf>(&seed, name, secret), encrypted))
            }
            Self::P256(key) => {
                let own = p256::SecretKey::from_slice(&scalar::<32>()?).map_err(|_| getrandom::Error::UNSUPPORTED)?;
                let shared = p256::ecdh::diffie_hellman(own.to_nonzero_scalar(), key.as_affine());
                let point = own.public_key().to_sec1_point(false);
                Ok(wrap_ecc::<Sha256Kdf>(shared.raw_secret_bytes(), point.as_bytes(), &self.material(), name, secret))
            }
            Self::P384(key) => {
                let own = p384::SecretKey::from_slice(&scalar::<48>()?).map_err(|_| getrandom::Error::UNSUPPORTED)?;
                let shared = p384::ecdh::diffie_hellman(own.to_nonzero_scalar(), key.as_affine());
                let point = own.public_key().to_sec1_point(false);
                Ok(wrap_ecc::<Sha384Kdf>(shared.raw_secret_bytes(), point.as_bytes(), &self.material(), name, secret))
            }
        }
    }
}

/// A scalar that is below the order of its curve: the highest bit is off.
fn scalar<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut scalar = [0; N];
    getrandom::fill(&mut scalar)?;
    if let Some(first) = scalar.first_mut() {
        *first &= 0x7f;
    }
    Ok(scalar)
}

/// The hash of a key's name and what goes with it.
trait Kdf {
    const BYTES: usize;
    const KEY_BYTES: usize;
    fn hash(parts: &[&[u8]]) -> Vec<u8>;
    fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8>;
    fn encrypt(key: &[u8], block: &mut [u8; 16]);
}

struct Sha256Kdf;
struct Sha384Kdf;

macro_rules! kdf {
    ($name:ident, $hash:ty, $bytes:literal, $cipher:ty, $key:literal) => {
        impl Kdf for $name {
            const BYTES: usize = $bytes;
            const KEY_BYTES: usize = $key;

            fn hash(parts: &[&[u8]]) -> Vec<u8> {
                let mut hash = <$hash>::new();
                parts.iter().for_each(|part| hash.update(part));
                hash.finalize().to_vec()
            }

            fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
                // HMAC takes keys of every length.
                let Ok(mut mac) = Hmac::<$hash>::new_from_slice(key) else { return Vec::new() };
                parts.iter().for_each(|part| mac.update(part));
                mac.finalize().into_bytes().to_vec()
            }

            fn encrypt(key: &[u8], block: &mut [u8; 16]) {
                // The key has the length that the cipher takes: KDFa was asked for it.
                if let Ok(cipher) = <$cipher>::new_from_slice(key) {
                    cipher.encrypt_block(block.into());
                }
            }
        }
    };
}

kdf!(Sha256Kdf, Sha256, 32, aes::Aes128, 16);
kdf!(Sha384Kdf, Sha384, 48, aes::Aes256, 32);

/// The seed by ECDH, and the credential under it.
fn wrap_ecc<K: Kdf>(shared: &[u8], own: &[u8], ek: &[u8], name: &[u8], secret: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let x = |point: &[u8]| point.get(1..=point.len() / 2).unwrap_or_default().to_vec();
    let y = |point: &[u8]| point.get(point.len() / 2 + 1..).unwrap_or_default().to_vec();
    // KDFe, of which one round is enough.
    let seed = K::hash(&[&1u32.to_be_bytes(), shared, b"IDENTITY\0", &x(own), &x(ek)]);
    (wrap::<K>(&seed, name, secret), [sized(&x(own)), sized(&y(own))].concat())
}

/// TPMS_ID_OBJECT under a seed.
fn wrap<K: Kdf>(seed: &[u8], name: &[u8], secret: &[u8]) -> Vec<u8> {
    let key = kdf_a::<K>(seed, b"STORAGE\0", name, K::KEY_BYTES);
    let mut identity = sized(secret);
    // CFB with a zero IV: each block is XORed with the encryption of the ciphertext block before it.
    let mut feedback = [0; 16];
    for chunk in identity.chunks_mut(16) {
        K::encrypt(&key, &mut feedback);
        chunk.iter_mut().zip(&feedback).for_each(|(byte, mask)| *byte ^= mask);
        feedback.iter_mut().zip(chunk.iter()).for_each(|(byte, cipher)| *byte = *cipher);
    }
    let mac = K::mac(&kdf_a::<K>(seed, b"INTEGRITY\0", &[], K::BYTES), &[&identity, name]);
    [sized(&mac), identity].concat()
}

/// KDFa, of which one round is enough for every length that is asked for.
fn kdf_a<K: Kdf>(key: &[u8], label: &[u8], context: &[u8], bytes: usize) -> Vec<u8> {
    let bits = (bytes as u32 * 8).to_be_bytes();
    let mut out = K::mac(key, &[&1u32.to_be_bytes(), label, context, &bits]);
    out.truncate(bytes);
    out
}

/// A TPM2B of something short.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}
