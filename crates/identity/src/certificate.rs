//! The certificates of providers: a root for each provider, one for each machine, one for each keep.
//!
//! ```text
//!   provider (root, O = provider) ──> machine (CN = node, O = provider; may only sign keeps)
//!                                        └──> keep (CN = thumbprint of the instance key, OU = node, O = provider)
//! ```
//!
//! Chains are checked by whoever ends a TLS connection, against roots that it was given; this module only makes
//! certificates and reads the names in them.

use std::time::{Duration, SystemTime};

use dunlin_handover::Key;
use p256::ecdsa::DerSignature;
use x509_cert::attr::{AttributeTypeAndValue, AttributeValue};
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder, Error as BuildError};
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{Ia5String, ObjectIdentifier, SetOfVec, Utf8StringRef};
use x509_cert::der::{Decode, Encode, Tag, Tagged as _};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
    SubjectKeyIdentifier,
};
use x509_cert::ext::{Extension, ToExtension};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};
use x509_cert::time::{Time, Validity};

use crate::error::IdentityError;
use crate::key::{PrivateKey, PublicKey};

/// The DNS name in every keep's certificate, for TLS libraries that insist on one. It can never be looked up; who the
/// other side is, is in [`Names`].
pub const TLS_NAME: &str = "keep.dunlin.invalid";

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const ORGANIZATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.10");
const UNIT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.11");
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");

/// A certificate may have been made by a clock that is ahead of others by so much.
const SKEW: Duration = Duration::from_secs(300);

/// A certificate as bytes (DER).
pub type Certificate = Vec<u8>;

/// Whom a certificate speaks of. True only if the certificate was checked up to a trusted root.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Names {
    /// The provider.
    pub provider: String,
    /// The machine; `None` in a provider's own certificate.
    pub node: Option<String>,
    /// The thumbprint of the certified key.
    pub key: Key,
}

impl Names {
    /// Reads the names in a certificate.
    ///
    /// # Errors
    /// [`IdentityError`] when it is no certificate of a P-256 key, or names nobody.
    pub fn of(certificate: &[u8]) -> Result<Self, IdentityError> {
        let certificate = x509_cert::Certificate::from_der(certificate).map_err(IdentityError::Certificate)?;
        let tbs = certificate.tbs_certificate();
        let spki = tbs.subject_public_key_info().to_der().map_err(IdentityError::Certificate)?;
        let provider = text(tbs.subject(), ORGANIZATION).ok_or(IdentityError::NoName("provider"))?;
        // A keep's common name is its key, the machine's own one its name.
        let node = text(tbs.subject(), UNIT).or_else(|| text(tbs.subject(), COMMON_NAME));
        Ok(Self { provider, node, key: PublicKey::from_spki(&spki)?.thumbprint() })
    }
}

/// Somebody who signs certificates: a provider, or a machine for its keeps.
#[derive(Debug, Clone)]
pub struct Issuer {
    key: PrivateKey,
    subject: Name,
    /// The own certificate first, then those above it.
    chain: Vec<Certificate>,
}

impl Issuer {
    /// A new provider, with a root that is valid for `valid`.
    ///
    /// # Errors
    /// [`IdentityError`] when the certificate cannot be made.
    pub fn provider(name: &str, key: PrivateKey, valid: Duration) -> Result<Self, IdentityError> {
        let subject = distinguished(&[(ORGANIZATION, name)])?;
        let profile = Profile { issuer: subject.clone(), subject: subject.clone(), of: Of::Provider };
        let root = build(profile, &key, key.public(), valid)?;
        Ok(Self { key, subject, chain: vec![root] })
    }

    /// An issuer from its key and its chain, its own certificate first.
    ///
    /// # Errors
    /// [`IdentityError::Mismatch`] if they do not belong together, and as [`Names::of`].
    pub fn new(key: PrivateKey, chain: Vec<Certificate>) -> Result<Self, IdentityError> {
        let own = chain.first().ok_or(IdentityError::Mismatch)?;
        let read = x509_cert::Certificate::from_der(own).map_err(IdentityError::Certificate)?;
        if Names::of(own)?.key != key.public().thumbprint() {
            return Err(IdentityError::Mismatch);
        }
        Ok(Self { subject: read.tbs_certificate().subject().clone(), key, chain })
    }

    /// The own certificate and those above it, the root last.
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }

    /// The chain for the machine `node`, whose key is `public`; its own certificate first. It can sign keeps with it.
    ///
    /// # Errors
    /// [`IdentityError`] when the certificate cannot be made.
    pub fn certify_node(
        &self,
        node: &str,
        public: &PublicKey,
        valid: Duration,
    ) -> Result<Vec<Certificate>, IdentityError> {
        let provider = self.provider_name()?;
        let subject = distinguished(&[(ORGANIZATION, &provider), (COMMON_NAME, node)])?;
        let profile = Profile { issuer: self.subject.clone(), subject, of: Of::Node };
        self.chained(build(profile, &self.key, public, valid)?)
    }

    /// The chain for the keep whose instance key is `public`, on the machine that this issuer is.
    ///
    /// # Errors
    /// [`IdentityError`] when the certificate cannot be made.
    pub fn certify_keep(&self, public: &PublicKey, valid: Duration) -> Result<Vec<Certificate>, IdentityError> {
        let provider = self.provider_name()?;
        let node = text(&self.subject, COMMON_NAME).ok_or(IdentityError::NoName("machine"))?;
        let thumbprint = public.thumbprint().to_string();
        let subject = distinguished(&[(ORGANIZATION, &provider), (UNIT, &node), (COMMON_NAME, &thumbprint)])?;
        let profile = Profile { issuer: self.subject.clone(), subject, of: Of::Keep };
        self.chained(build(profile, &self.key, public, valid)?)
    }

    fn provider_name(&self) -> Result<String, IdentityError> {
        text(&self.subject, ORGANIZATION).ok_or(IdentityError::NoName("provider"))
    }

    fn chained(&self, certificate: Certificate) -> Result<Vec<Certificate>, IdentityError> {
        Ok(core::iter::once(certificate).chain(self.chain.iter().cloned()).collect())
    }
}

fn build(
    profile: Profile,
    issuer: &PrivateKey,
    public: &PublicKey,
    valid: Duration,
) -> Result<Certificate, IdentityError> {
    let time = |at: Option<SystemTime>| {
        let overflow = || IdentityError::Certificate(x509_cert::der::ErrorKind::DateTime.into());
        Time::try_from(at.ok_or_else(overflow)?).map_err(IdentityError::Certificate)
    };
    let now = SystemTime::now();
    let validity = Validity::new(time(now.checked_sub(SKEW))?, time(now.checked_add(valid))?);
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(IdentityError::Random)?;
    let serial = SerialNumber::new(&serial).map_err(IdentityError::Certificate)?;
    let spki = SubjectPublicKeyInfoOwned::from_der(public.spki()).map_err(IdentityError::Certificate)?;
    let builder = CertificateBuilder::new(profile, serial, validity, spki).map_err(IdentityError::Build)?;
    let certificate = builder.build::<_, DerSignature>(issuer.signing()).map_err(IdentityError::Build)?;
    certificate.to_der().map_err(IdentityError::Certificate)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Provider,
    Node,
    Keep,
}

#[derive(Debug)]
struct Profile {
    issuer: Name,
    subject: Name,
    of: Of,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _subject: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        public: SubjectPublicKeyInfoRef<'_>,
        issuer: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> Result<Vec<Extension>, BuildError> {
        let mut list = Vec::new();
        let subject = tbs.subject();
        let path_len_constraint = match self.of {
            Of::Provider => Some(1),
            Of::Node => Some(0),
            Of::Keep => None,
        };
        let usage = if self.of == Of::Keep {
            KeyUsage(KeyUsages::DigitalSignature.into())
        } else {
            KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign)
        };
        let constraints = BasicConstraints { ca: self.of != Of::Keep, path_len_constraint };
        list.push(AuthorityKeyIdentifier::try_from(issuer)?.to_extension(subject, &list)?);
        list.push(SubjectKeyIdentifier::try_from(public)?.to_extension(subject, &list)?);
        list.push(constraints.to_extension(subject, &list)?);
        list.push(usage.to_extension(subject, &list)?);
        if self.of == Of::Keep {
            list.push(ExtendedKeyUsage(vec![SERVER_AUTH, CLIENT_AUTH]).to_extension(subject, &list)?);
            let name = GeneralName::DnsName(Ia5String::new(TLS_NAME)?);
            list.push(SubjectAltName(vec![name]).to_extension(subject, &list)?);
        }
        Ok(list)
    }
}

/// A name of these parts, each a set of its own.
fn distinguished(parts: &[(ObjectIdentifier, &str)]) -> Result<Name, IdentityError> {
    let mut sequence = RdnSequence::default();
    for (oid, text) in parts {
        let value = Utf8StringRef::new(text).and_then(|text| AttributeValue::encode_from(&text));
        let value = value.map_err(IdentityError::Certificate)?;
        let set = SetOfVec::from_iter([AttributeTypeAndValue { oid: *oid, value }]);
        let set = set.map_err(IdentityError::Certificate)?.into_vec();
        sequence.push(RelativeDistinguishedName::try_from(set).map_err(IdentityError::Certificate)?);
    }
    let der = sequence.to_der().map_err(IdentityError::Certificate)?;
    Name::from_der(&der).map_err(IdentityError::Certificate)
}

/// The one part of a name with this type, if it is a text in the form in which this module writes them.
fn text(name: &Name, oid: ObjectIdentifier) -> Option<String> {
    let mut found = name.iter().filter(|part| part.oid == oid);
    let value = &found.next()?.value;
    if found.next().is_some() || value.tag() != Tag::Utf8String {
        return None;
    }
    core::str::from_utf8(value.value()).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::signature::Verifier as _;
    use p256::ecdsa::{DerSignature, VerifyingKey};
    use p256::pkcs8::DecodePublicKey;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn signed_by(certificate: &[u8], issuer: &PublicKey) -> bool {
        let read = x509_cert::Certificate::from_der(certificate).unwrap();
        let signature = DerSignature::from_bytes(read.signature().raw_bytes()).unwrap();
        let key = VerifyingKey::from_public_key_der(issuer.spki()).unwrap();
        key.verify(&read.tbs_certificate().to_der().unwrap(), &signature).is_ok()
    }

    #[test]
    fn a_provider_certifies_machines_and_a_machine_its_keeps() {
        let [root, node, keep] = [(); 3].map(|()| PrivateKey::generate().unwrap());
        let provider = Issuer::provider("North, Ltd.", root.clone(), DAY).unwrap();
        let chain = provider.certify_node("a+b=ø", node.public(), DAY).unwrap();
        let machine = Issuer::new(node.clone(), chain).unwrap();
        let chain = machine.certify_keep(keep.public(), DAY).unwrap();
        assert_eq!(chain.len(), 3);
        assert!(signed_by(&chain[0], node.public()));
        assert!(signed_by(&chain[1], root.public()));
        assert!(signed_by(&chain[2], root.public()));
        assert!(!signed_by(&chain[0], root.public()));
        let names = |der: &[u8]| Names::of(der).unwrap();
        let provider = "North, Ltd.".to_owned();
        let node_name = Some("a+b=ø".to_owned());
        let [keep, node, root] = [keep, node, root].map(|key| key.public().thumbprint());
        assert_eq!(names(&chain[0]), Names { provider: provider.clone(), node: node_name.clone(), key: keep });
        assert_eq!(names(&chain[1]), Names { provider: provider.clone(), node: node_name, key: node });
        assert_eq!(names(&chain[2]), Names { provider, node: None, key: root });
    }

    #[test]
    fn only_the_right_key_makes_an_issuer() {
        let [root, node] = [(); 2].map(|()| PrivateKey::generate().unwrap());
        let provider = Issuer::provider("North", root, DAY).unwrap();
        let stranger = PrivateKey::generate().unwrap();
        let chain = provider.certify_node("a", node.public(), DAY).unwrap();
        assert!(matches!(Issuer::new(stranger, chain.clone()), Err(IdentityError::Mismatch)));
        assert!(matches!(Issuer::new(node.clone(), Vec::new()), Err(IdentityError::Mismatch)));
        assert!(matches!(Issuer::new(node, vec![b"none".to_vec()]), Err(IdentityError::Certificate(_))));
    }

    #[test]
    fn a_provider_cannot_certify_a_keep_without_a_machine() {
        let [root, keep] = [(); 2].map(|()| PrivateKey::generate().unwrap());
        let provider = Issuer::provider("North", root, DAY).unwrap();
        assert!(matches!(provider.certify_keep(keep.public(), DAY), Err(IdentityError::NoName("machine"))));
    }
}
