//! The check of the other side's certificate, the same in both directions, and the cryptography that is allowed.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use dunlin_base::Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use crate::error::PeerError;
use crate::identity::{CERTIFICATE_NAME, Roots};

/// Keys of keeps and nodes are P-256; the certificates above them may be P-384 as well.
const ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::ring::ECDSA_P256_SHA256, webpki::ring::ECDSA_P384_SHA384],
    mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, &[webpki::ring::ECDSA_P256_SHA256])],
};

/// Two suites, both with SHA-256: the one for processors that have AES, and the one for those that have not. Two key
/// exchanges.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    use rustls::crypto::ring::{cipher_suite, default_provider, kx_group};
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let suites = [cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
        Arc::new(CryptoProvider {
            cipher_suites: suites.to_vec(),
            kx_groups: vec![kx_group::X25519, kx_group::SECP256R1],
            signature_verification_algorithms: ALGORITHMS,
            ..default_provider()
        })
    })
}

/// Who the other side is, by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) provider: String,
    pub(crate) spki: Digest,
}

/// Checks one other side, and remembers who it is.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    roots: Roots,
    expected: Option<String>,
    found: Mutex<Option<Result<Peer, PeerError>>>,
}

impl PeerVerifier {
    pub(crate) fn new(roots: &Roots, expected: Option<&str>) -> Self {
        Self { roots: roots.clone(), expected: expected.map(str::to_owned), found: Mutex::new(None) }
    }

    /// What was found; `None` if no certificate came.
    pub(crate) fn found(&self) -> Option<Result<Peer, PeerError>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), rustls::Error> {
        let found = self.peer(certificate, intermediates, now, usage);
        let answer = match &found {
            Ok(_) => Ok(()),
            Err(PeerError::NotValidNow) => Err(CertificateError::Expired.into()),
            Err(PeerError::UnknownProvider(_)) => Err(CertificateError::UnknownIssuer.into()),
            Err(PeerError::OtherName(_)) => Err(CertificateError::NotValidForName.into()),
            Err(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
        };
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        answer
    }

    fn peer(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<Peer, PeerError> {
        let unsound = |error: webpki::Error| PeerError::Unsound(error.to_string());
        let parsed = EndEntityCert::try_from(certificate).map_err(unsound)?;
        let mut refused = PeerError::UnknownProvider(self.roots.names().map(str::to_owned).collect());
        for (provider, anchors) in self.roots.providers() {
            let verified =
                parsed.verify_for_usage(ALGORITHMS.all, anchors, intermediates, now, usage, None, None).map(|_| ());
            match verified {
                Ok(()) => {
                    let name =
                        DnsName::try_from(CERTIFICATE_NAME).map_err(|error| PeerError::Unsound(error.to_string()))?;
                    if parsed.verify_is_valid_for_subject_name(&ServerName::DnsName(name)).is_err() {
                        return Err(PeerError::OtherName(provider.clone()));
                    }
                    if let Some(expected) = self.expected.as_ref().filter(|expected| *expected != provider) {
                        let (found, expected) = (provider.clone(), expected.clone());
                        return Err(PeerError::OtherProvider { found, expected });
                    }
                    let spki = Digest::of(&parsed.subject_public_key_info());
                    return Ok(Peer { provider: provider.clone(), spki });
                }
                // The second one: an issuer that bears the name of one that is known, with another key.
                Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {}
                Err(webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }) => {
                    refused = PeerError::NotValidNow;
                }
                Err(other) => refused = unsound(other),
            }
        }
        Err(refused)
    }

    fn tls13(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now, KeyUsage::server_auth()).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now, KeyUsage::client_auth()).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}
