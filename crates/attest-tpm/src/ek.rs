//! Certificates of endorsement keys, under the certificate authority of a provider.

use p256::ecdsa::signature::Verifier as _;
use rsa::RsaPublicKey;
use rsa::pkcs8::DecodePublicKey as _;
use sha2::{Sha256, Sha384};
use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, DecodePem as _, Encode as _};
use x509_cert::ext::pkix::BasicConstraints;

use crate::credential::EkPublic;

const MAX_DER: usize = 16 * 1024;
/// More certificates than any provider's authority has.
const MAX_CA: usize = 16;

const RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const RSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
/// tcg-kp-EKCertificate, which no other certificate of the same authority bears.
const EK_PURPOSE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");

/// Why a certificate of an endorsement key is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EkError {
    /// It is not a certificate.
    #[error("the {which} certificate is malformed: {what}")]
    Malformed {
        /// Which one.
        which: &'static str,
        /// What is wrong.
        what: String,
    },
    /// Issued by somebody else.
    #[error(
        "the endorsement key's certificate names {issuer} as its issuer, which is not among the provider's authorities"
    )]
    UnknownIssuer {
        /// The issuer's name.
        issuer: String,
    },
    /// The signature does not fit.
    #[error("the endorsement key's certificate is not signed by the authority that it names")]
    Signature,
    /// Not valid now.
    #[error("the {which} certificate is valid from {from} to {to} (seconds since 1970), not at {now}")]
    NotValidNow {
        /// Which one.
        which: &'static str,
        /// The first second.
        from: u64,
        /// The last second.
        to: u64,
        /// The time of the check.
        now: u64,
    },
    /// Not for an endorsement key.
    #[error("the certificate is not one of an endorsement key: {0}")]
    Purpose(&'static str),
    /// The TPM has another key.
    #[error("the certificate is for another key than the TPM's endorsement key")]
    OtherKey,
}

/// The certificate authorities that a provider accepts for its TPMs, each a trust anchor of its own: the maker's, or
/// the provider's own for software TPMs. A certificate must be issued by one of them directly.
#[derive(Debug, Clone)]
pub struct ProviderCa(Vec<Certificate>);

impl ProviderCa {
    /// From certificates in PEM, one after the other, or one in DER.
    ///
    /// # Errors
    ///
    /// When there is none, or one is not the certificate of an authority.
    pub fn parse(bytes: &[u8]) -> Result<Self, EkError> {
        let malformed = |what: String| EkError::Malformed { which: "authority's", what };
        if bytes.len() > MAX_CA * MAX_DER {
            return Err(malformed(format!("{} bytes are too many", bytes.len())));
        }
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        const END: &str = "-----END CERTIFICATE-----";
        let authorities = if text.contains(END) {
            let pems = text
                .split_inclusive(END)
                .filter_map(|part| part.find("-----BEGIN CERTIFICATE-----").and_then(|at| part.get(at..)));
            pems.map(|pem| Certificate::from_pem(pem).map_err(|error| malformed(error.to_string())))
                .collect::<Result<Vec<_>, _>>()?
        } else {
            vec![Certificate::from_der(bytes).map_err(|error| malformed(error.to_string()))?]
        };
        if authorities.is_empty() || authorities.len() > MAX_CA {
            return Err(malformed(format!("{} certificates", authorities.len())));
        }
        let is_ca = |certificate: &Certificate| {
            let constraints = extension(certificate, BASIC_CONSTRAINTS);
            constraints.and_then(|der| BasicConstraints::from_der(der).ok()).is_some_and(|constraints| constraints.ca)
        };
        if !authorities.iter().all(is_ca) {
            return Err(malformed("it may not issue certificates".to_owned()));
        }
        Ok(Self(authorities))
    }
}

/// A certificate of an endorsement key, as the TPM's maker left it in the TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EkCertificate(Vec<u8>);

impl EkCertificate {
    /// From the contents of its NV index, which may be longer than the certificate.
    ///
    /// # Errors
    ///
    /// When they do not begin with a certificate.
    pub fn from_nv(contents: &[u8]) -> Result<Self, EkError> {
        let malformed = |what: String| EkError::Malformed { which: "endorsement key's", what };
        let length = match contents {
            [0x30, 0x82, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])) + 4,
            [0x30, 0x81, length, ..] => usize::from(*length) + 3,
            _ => return Err(malformed("it does not begin with a sequence".to_owned())),
        };
        let der = contents.get(..length).filter(|der| der.len() <= MAX_DER);
        let der = der.ok_or_else(|| malformed("it is cut off or too long".to_owned()))?;
        Certificate::from_der(der).map_err(|error| malformed(error.to_string()))?;
        Ok(Self(der.to_vec()))
    }

    /// The certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.0
    }

    /// Checks that one of the provider's authorities issued this certificate for `key`, at `now` (seconds since 1970).
    ///
    /// # Errors
    ///
    /// For everything else.
    pub fn verify(&self, key: &EkPublic, ca: &ProviderCa, now: u64) -> Result<(), EkError> {
        const WHICH: &str = "endorsement key's";
        let malformed = |what: &str| EkError::Malformed { which: WHICH, what: what.to_owned() };
        let certificate = Certificate::from_der(&self.0).map_err(|error| malformed(&error.to_string()))?;
        let tbs = certificate.tbs_certificate();
        if tbs.signature() != certificate.signature_algorithm() {
            return Err(malformed("the signature algorithm inside differs from the one outside"));
        }
        let issuers = ca.0.iter().filter(|issuer| issuer.tbs_certificate().subject() == tbs.issuer());
        let issuers: Vec<_> = issuers.collect();
        if issuers.is_empty() {
            return Err(EkError::UnknownIssuer { issuer: tbs.issuer().to_string() });
        }
        // What is hashed is what was received, not what a parser wrote back.
        let message = inner(&self.0).ok_or_else(|| malformed("its outer structure is not DER"))?;
        let signature = certificate.signature().raw_bytes();
        let algorithm = certificate.signature_algorithm().oid;
        let issuer = issuers.iter().find(|issuer| signed_by(issuer, algorithm, message, signature));
        let issuer = issuer.ok_or(EkError::Signature)?;
        valid_at("authority's", issuer, now)?;
        valid_at(WHICH, &certificate, now)?;
        let known = [BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE, SUBJECT_ALT_NAME];
        let mut extensions = tbs.extensions().into_iter().flatten();
        if extensions.any(|extension| extension.critical && !known.contains(&extension.extn_id)) {
            return Err(EkError::Purpose("it has an unknown critical extension"));
        }
        if let Some(constraints) = extension(&certificate, BASIC_CONSTRAINTS)
            && BasicConstraints::from_der(constraints).map_or(true, |constraints| constraints.ca)
        {
            return Err(EkError::Purpose("it is the certificate of an authority"));
        }
        let purposes = extension(&certificate, EXTENDED_KEY_USAGE).ok_or(EkError::Purpose("it names no purpose"))?;
        let purposes = x509_cert::ext::pkix::ExtendedKeyUsage::from_der(purposes);
        if !purposes.is_ok_and(|purposes| purposes.0.contains(&EK_PURPOSE)) {
            return Err(EkError::Purpose("endorsement is not among its purposes"));
        }
        let spki = tbs.subject_public_key_info().to_der().map_err(|error| malformed(&error.to_string()))?;
        let certified = match key {
            EkPublic::Rsa(_) => RsaPublicKey::from_public_key_der(&spki).ok().map(EkPublic::Rsa),
            EkPublic::P256(_) => {
                let point = tbs.subject_public_key_info().subject_public_key.raw_bytes();
                p256::PublicKey::from_sec1_bytes(point).ok().map(EkPublic::P256)
            }
            EkPublic::P384(_) => {
                let point = tbs.subject_public_key_info().subject_public_key.raw_bytes();
                p384::PublicKey::from_sec1_bytes(point).ok().map(EkPublic::P384)
            }
        };
        if certified.as_ref() == Some(key) { Ok(()) } else { Err(EkError::OtherKey) }
    }
}

fn valid_at(which: &'static str, certificate: &Certificate, now: u64) -> Result<(), EkError> {
    let validity = certificate.tbs_certificate().validity();
    let (from, to) =
        (validity.not_before.to_unix_duration().as_secs(), validity.not_after.to_unix_duration().as_secs());
    if (from..=to).contains(&now) { Ok(()) } else { Err(EkError::NotValidNow { which, from, to, now }) }
}

fn extension(certificate: &Certificate, oid: ObjectIdentifier) -> Option<&[u8]> {
    let mut with_oid = certificate.tbs_certificate().extensions()?.iter().filter(|extension| extension.extn_id == oid);
    let found = with_oid.next()?;
    // Twice the same extension would mean two readers may see two values.
    if with_oid.next().is_some() { None } else { Some(found.extn_value.as_bytes()) }
}

fn signed_by(issuer: &Certificate, algorithm: ObjectIdentifier, message: &[u8], signature: &[u8]) -> bool {
    use sha2::Digest as _;
    let info = issuer.tbs_certificate().subject_public_key_info();
    let rsa = || info.to_der().ok().and_then(|der| RsaPublicKey::from_public_key_der(&der).ok());
    let point = info.subject_public_key.raw_bytes();
    match algorithm {
        RSA_SHA256 => rsa().is_some_and(|key| {
            key.verify(rsa::Pkcs1v15Sign::new::<Sha256>(), &Sha256::digest(message), signature).is_ok()
        }),
        RSA_SHA384 => rsa().is_some_and(|key| {
            key.verify(rsa::Pkcs1v15Sign::new::<Sha384>(), &Sha384::digest(message), signature).is_ok()
        }),
        ECDSA_SHA256 => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(point).ok();
            key.zip(p256::ecdsa::Signature::from_der(signature).ok())
                .is_some_and(|(key, signature)| key.verify(message, &signature).is_ok())
        }
        ECDSA_SHA384 => {
            let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(point).ok();
            key.zip(p384::ecdsa::Signature::from_der(signature).ok())
                .is_some_and(|(key, signature)| key.verify(message, &signature).is_ok())
        }
        _ => false,
    }
}

/// The first element of a sequence, with its header.
fn inner(der: &[u8]) -> Option<&[u8]> {
    let content = match der {
        [0x30, 0x82, _, _, rest @ ..] | [0x30, 0x81, _, rest @ ..] | [0x30, _, rest @ ..] => rest,
        _ => return None,
    };
    let length = match content {
        [0x30, 0x82, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])) + 4,
        [0x30, 0x81, length, ..] => usize::from(*length) + 3,
        [0x30, length @ 0..=0x7f, ..] => usize::from(*length) + 2,
        _ => return None,
    };
    content.get(..length)
}
