//! Encrypting an answer to the key in the asker's evidence: HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256),
//! HKDF-SHA256, AES-256-GCM. Each answer has an encapsulated key of its own and is its only message.

use core::fmt;

use chacha20::ChaCha20Rng;
use dunlin_attest::VerifyingKey;
use dunlin_base::Digest;
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::SeedableRng as _;
use hpke::{Deserializable as _, Kem as _, OpModeR, OpModeS, Serializable as _, setup_receiver, setup_sender_with_rng};
use zeroize::Zeroizing;

use crate::message::SessionId;

type Kem = X25519HkdfSha256;

const INFO: &[u8] = b"dunlin broker answer 1";

/// The secret half of the key to which answers are encrypted. It belongs to one instance, and wipes itself.
pub struct KemKey(<Kem as hpke::Kem>::PrivateKey);

impl KemKey {
    /// From 32 random bytes, which the caller wipes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(Kem::derive_keypair(seed).0)
    }

    /// The public half, as it is in evidence.
    pub fn public(&self) -> [u8; 32] {
        Kem::sk_to_pk(&self.0).to_bytes().into()
    }
}

impl fmt::Debug for KemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KemKey").finish_non_exhaustive()
    }
}

/// What makes a session this one and no other: it stands where a TLS exporter stands in evidence for a TLS session. `channel`
/// is the exporter of the channel underneath, or zero where whoever carries the messages is a relay.
pub(crate) fn exporter(
    broker: &VerifyingKey,
    session: SessionId,
    client_nonce: &[u8; 32],
    broker_nonce: &[u8; 32],
    channel: &[u8; 32],
) -> [u8; 32] {
    let parts: [&[u8]; 6] =
        [b"dunlin broker session 1\0", &broker.to_bytes(), &session.0, client_nonce, broker_nonce, channel];
    Digest::of(&parts.concat()).0
}

/// What a request is signed over.
pub(crate) fn ask_signed(exporter: &[u8; 32], unsigned: &[u8]) -> Vec<u8> {
    [b"dunlin broker ask 1\0".as_slice(), exporter, unsigned].concat()
}

/// What an answer is signed over.
pub(crate) fn answer_signed(exporter: &[u8; 32], ask: &Digest, encapsulated: &[u8; 32], sealed: &[u8]) -> Vec<u8> {
    [b"dunlin broker answer 1\0".as_slice(), exporter, &ask.0, encapsulated, sealed].concat()
}

fn associated(exporter: &[u8; 32], ask: &Digest) -> Vec<u8> {
    [exporter.as_slice(), &ask.0].concat()
}

/// Encrypts to `to`. `seed` is random and used for nothing else. Nothing comes of a key that is no key.
pub(crate) fn seal(
    to: &[u8; 32],
    exporter: &[u8; 32],
    ask: &Digest,
    plain: &[u8],
    seed: Zeroizing<[u8; 32]>,
) -> Option<([u8; 32], Vec<u8>)> {
    let public = <Kem as hpke::Kem>::PublicKey::from_bytes(to).ok()?;
    let mut rng = ChaCha20Rng::from_seed(*seed);
    let (encapsulated, mut context) =
        setup_sender_with_rng::<AesGcm256, HkdfSha256, Kem>(&OpModeS::Base, &public, INFO, &mut rng).ok()?;
    let sealed = context.seal(plain, &associated(exporter, ask)).ok()?;
    Some((encapsulated.to_bytes().into(), sealed))
}

/// Opens what was encrypted to `key`.
pub(crate) fn open(
    key: &KemKey,
    exporter: &[u8; 32],
    ask: &Digest,
    encapsulated: &[u8; 32],
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(encapsulated).ok()?;
    let mut context = setup_receiver::<AesGcm256, HkdfSha256, Kem>(&OpModeR::Base, &key.0, &encapsulated, INFO).ok()?;
    context.open(sealed, &associated(exporter, ask)).ok().map(Zeroizing::new)
}
