//! Who this side is, and whose word about others counts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use dunlin_base::Digest;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, TrustAnchor};
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;

use crate::error::Error;
use crate::verify::provider;

/// The DNS name in the certificates of keeps. Nothing resolves it: it tells them from whatever else a provider signs.
pub const CERTIFICATE_NAME: &str = "keep.dunlin.invalid";

/// A certificate chain with its key.
#[derive(Clone)]
pub struct TlsIdentity {
    certified: Arc<CertifiedKey>,
    spki: Digest,
}

impl TlsIdentity {
    /// The chain in DER, the own certificate first, and its P-256 key as PKCS#8 in DER.
    ///
    /// # Errors
    /// [`Error::Identity`] if they do not belong together or are no certificate and key.
    pub fn new(chain: Vec<Vec<u8>>, pkcs8: Vec<u8>) -> Result<Self, Error> {
        let wrong = |error: rustls::Error| Error::Identity(error.to_string());
        let chain: Vec<CertificateDer<'static>> = chain.into_iter().map(CertificateDer::from).collect();
        let own = chain.first().ok_or_else(|| Error::Identity("there is no certificate".to_owned()))?;
        let spki = spki_of(own).ok_or_else(|| Error::Identity("the first certificate is none".to_owned()))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
        let certified = CertifiedKey::from_der(chain, key, provider()).map_err(wrong)?;
        Ok(Self { certified: Arc::new(certified), spki })
    }

    /// SHA-256 of the own SubjectPublicKeyInfo.
    pub fn spki(&self) -> Digest {
        self.spki
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").field("spki", &self.spki).finish_non_exhaustive()
    }
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo.
pub(crate) fn spki_of(certificate: &CertificateDer<'_>) -> Option<Digest> {
    EndEntityCert::try_from(certificate).ok().map(|parsed| Digest::of(&parsed.subject_public_key_info()))
}

/// The providers whose certificates count, each with its own roots.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    providers: BTreeMap<String, Vec<TrustAnchor<'static>>>,
}

impl Roots {
    /// No provider: nobody is accepted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a root of `provider`, a certificate in DER. Its dates do not count: it is trusted until it is left out.
    ///
    /// # Errors
    /// [`Error::Root`] if it is no certificate, if its key is a root of another provider, or if there is no name.
    pub fn add(&mut self, provider: &str, certificate: &[u8]) -> Result<(), Error> {
        let wrong = |what: &str| Error::Root { provider: provider.to_owned(), what: what.to_owned() };
        if provider.is_empty() {
            return Err(wrong("it has no name"));
        }
        let certificate = CertificateDer::from(certificate);
        let anchor = webpki::anchor_from_trusted_cert(&certificate).map_err(|error| wrong(&error.to_string()))?;
        let anchor = anchor.to_owned();
        let same_key = |other: &TrustAnchor<'_>| other.subject_public_key_info == anchor.subject_public_key_info;
        if self.providers.iter().any(|(name, anchors)| name != provider && anchors.iter().any(same_key)) {
            return Err(wrong("its key is a root of another provider; one could speak for the other"));
        }
        self.providers.entry(provider.to_owned()).or_default().push(anchor);
        Ok(())
    }

    /// The names of the providers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.providers.keys().map(String::as_str)
    }

    pub(crate) fn providers(&self) -> &BTreeMap<String, Vec<TrustAnchor<'static>>> {
        &self.providers
    }
}
