//! What can go wrong with keys and certificates.

/// A key or certificate cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The system gives no random bytes.
    #[error("the system gives no random bytes, so no key can be made")]
    Random(#[source] getrandom::Error),
    /// Not a private key.
    #[error("this is not a P-256 private key in PKCS #8: make one with a tool that writes that form (DER)")]
    PrivateKey(#[source] p256::pkcs8::Error),
    /// A private key with which nothing can be signed.
    #[error("nothing can be signed with this private key: {0}")]
    Pair(String),
    /// A private key that cannot be written.
    #[error("the private key cannot be written as PKCS #8")]
    Write(#[source] p256::pkcs8::Error),
    /// Not a public key.
    #[error("this is not a P-256 public key (SubjectPublicKeyInfo in DER)")]
    PublicKey(#[source] p256::pkcs8::spki::Error),
    /// Not a certificate, or one that cannot be encoded.
    #[error("this certificate cannot be read or written: it must be X.509 in DER")]
    Certificate(#[source] x509_cert::der::Error),
    /// A certificate could not be made.
    #[error("the certificate cannot be made")]
    Build(#[source] x509_cert::builder::Error),
    /// A certificate lacks a name.
    #[error("the certificate names no {0}: it was not issued by a provider of this program")]
    NoName(&'static str),
    /// The private key of an issuer does not belong to its certificate.
    #[error("the private key does not belong to the certificate of the issuer")]
    Mismatch,
}
