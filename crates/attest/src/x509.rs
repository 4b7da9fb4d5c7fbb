//! The few X.509 rules that AMD's hierarchy needs, over the certificate's own bytes: what is hashed is
//! what was received, never what a parser wrote back.

use rsa::RsaPublicKey;
use rsa::pkcs8::DecodePublicKey as _;
use rsa::signature::Verifier as _;
use x509_cert::Certificate;
use x509_cert::crl::CertificateList;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::time::Time;

use crate::error::VerifyError;

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
/// AMD's certificates have about 1600 bytes, its revocation lists about 900.
const MAX_DER: usize = 16 * 1024;
/// SHA-384, MGF1 with SHA-384, and a salt of as many bytes: what AMD uses, and nothing else.
const SALT: usize = 48;

#[derive(Debug)]
pub(crate) struct Cert<'a> {
    name: &'static str,
    tbs: &'a [u8],
    parsed: Certificate,
}

impl<'a> Cert<'a> {
    pub(crate) fn parse(name: &'static str, der: &'a [u8]) -> Result<Self, VerifyError> {
        let refuse = |what: String| VerifyError::Certificate { certificate: name, what };
        if der.len() > MAX_DER {
            return Err(refuse(format!("{} bytes are too many", der.len())));
        }
        let parsed = Certificate::from_der(der).map_err(|error| refuse(format!("it is not DER: {error}")))?;
        let tbs = inner(der).ok_or_else(|| refuse("its outer structure is not DER".to_owned()))?;
        if parsed.tbs_certificate().signature() != parsed.signature_algorithm() {
            return Err(refuse("the signature algorithm inside differs from the one outside".to_owned()));
        }
        Ok(Self { name, tbs, parsed })
    }

    pub(crate) fn parsed(&self) -> &Certificate {
        &self.parsed
    }

    pub(crate) fn refuse(&self, what: impl Into<String>) -> VerifyError {
        VerifyError::Certificate { certificate: self.name, what: what.into() }
    }

    /// The first and the last second of validity.
    pub(crate) fn window(&self) -> (u64, u64) {
        let validity = self.parsed.tbs_certificate().validity();
        (validity.not_before.to_unix_duration().as_secs(), validity.not_after.to_unix_duration().as_secs())
    }

    pub(crate) fn valid_at(&self, now: u64) -> Result<(), VerifyError> {
        let (from, to) = self.window();
        if now < from || now > to {
            return Err(VerifyError::NotValidNow { what: self.name, from, to, now });
        }
        Ok(())
    }

    pub(crate) fn extension(&self, oid: ObjectIdentifier) -> Option<&[u8]> {
        let extensions = self.parsed.tbs_certificate().extensions()?;
        let mut with_oid = extensions.iter().filter(|extension| extension.extn_id == oid);
        let found = with_oid.next()?;
        // Twice the same extension would mean two readers may see two values.
        if with_oid.next().is_some() { None } else { Some(found.extn_value.as_bytes()) }
    }

    pub(crate) fn is_ca(&self) -> bool {
        self.extension(BASIC_CONSTRAINTS).and_then(|der| BasicConstraints::from_der(der).ok()).is_some_and(|c| c.ca)
    }

    pub(crate) fn common_name(&self) -> String {
        const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
        let subject = self.parsed.tbs_certificate().subject();
        let names = subject.iter().filter(|attribute| attribute.oid == COMMON_NAME);
        names
            .map(|attribute| String::from_utf8_lossy(attribute.value.value()).into_owned())
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Checks issuer name, CA flag and signature.
    pub(crate) fn issued_by(&self, issuer: &Cert<'_>) -> Result<(), VerifyError> {
        if self.parsed.tbs_certificate().issuer() != issuer.parsed.tbs_certificate().subject() {
            return Err(self.refuse(format!(
                "it names {} as its issuer, not {}",
                self.parsed.tbs_certificate().issuer(),
                issuer.parsed.tbs_certificate().subject()
            )));
        }
        if !issuer.is_ca() {
            return Err(issuer.refuse("it issues certificates without being a CA"));
        }
        if self.parsed.signature_algorithm().oid != RSASSA_PSS {
            return Err(self.refuse("it is not signed with RSASSA-PSS"));
        }
        let mut extensions = self.parsed.tbs_certificate().extensions().into_iter().flatten();
        let known = [BASIC_CONSTRAINTS, KEY_USAGE];
        if let Some(unknown) = extensions.find(|extension| extension.critical && !known.contains(&extension.extn_id)) {
            return Err(self.refuse(format!("it has the unknown critical extension {}", unknown.extn_id)));
        }
        issuer.verify_pss(self.tbs, self.parsed.signature().raw_bytes(), self.name)
    }

    fn verify_pss(&self, message: &[u8], signature: &[u8], what: &'static str) -> Result<(), VerifyError> {
        let spki = self.parsed.tbs_certificate().subject_public_key_info().to_der();
        let key = spki
            .ok()
            .and_then(|der| RsaPublicKey::from_public_key_der(&der).ok())
            .ok_or_else(|| self.refuse("its key is not an RSA key of at most 4096 bits"))?;
        let key = rsa::pss::VerifyingKey::<sha2::Sha384>::new_with_salt_len(key, SALT);
        let wrong = VerifyError::Signature { what };
        match rsa::pss::Signature::try_from(signature) {
            Ok(signature) => key.verify(message, &signature).map_err(|_| wrong),
            Err(_) => Err(wrong),
        }
    }

    /// Checks that `crl` is this issuer's, is valid now, and does not list `serial_of`.
    pub(crate) fn not_revoked(&self, serial_of: &Cert<'_>, crl: &[u8], now: u64) -> Result<(), VerifyError> {
        let refuse = |what: String| VerifyError::Certificate { certificate: "revocation list", what };
        if crl.len() > MAX_DER {
            return Err(refuse(format!("{} bytes are too many", crl.len())));
        }
        let parsed = CertificateList::<x509_cert::certificate::Rfc5280>::from_der(crl)
            .map_err(|error| refuse(format!("it is not DER: {error}")))?;
        let tbs = inner(crl).ok_or_else(|| refuse("its outer structure is not DER".to_owned()))?;
        let list = &parsed.tbs_cert_list;
        if list.issuer != *self.parsed.tbs_certificate().subject() {
            return Err(refuse(format!("it is that of {}", list.issuer)));
        }
        if parsed.signature_algorithm.oid != RSASSA_PSS || list.signature != parsed.signature_algorithm {
            return Err(refuse("it is not signed with RSASSA-PSS".to_owned()));
        }
        self.verify_pss(tbs, parsed.signature.raw_bytes(), "revocation list")?;
        let seconds = |time: &Time| time.to_unix_duration().as_secs();
        let (from, to) = (seconds(&list.this_update), list.next_update.as_ref().map_or(0, seconds));
        if now < from || now > to {
            return Err(VerifyError::NotValidNow { what: "revocation list", from, to, now });
        }
        let serial = serial_of.parsed.tbs_certificate().serial_number();
        let listed = list.revoked_certificates.iter().flatten().any(|revoked| revoked.serial_number == *serial);
        if listed { Err(serial_of.refuse("the root has revoked it")) } else { Ok(()) }
    }
}

/// The first element inside the outermost sequence, with its head: the part that is signed.
fn inner(der: &[u8]) -> Option<&[u8]> {
    let outer = value(der)?;
    let length = outer.len().checked_sub(after(outer)?.len())?;
    outer.get(..length)
}

/// The content of the sequence that fills `der`.
fn value(der: &[u8]) -> Option<&[u8]> {
    let (content, rest) = split(der)?;
    rest.is_empty().then_some(content)
}

fn after(der: &[u8]) -> Option<&[u8]> {
    split(der).map(|(_, rest)| rest)
}

fn split(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&[0x30])?;
    let (first, rest) = rest.split_first()?;
    match *first {
        length @ 0..=0x7f => rest.split_at_checked(length.into()),
        0x81 => rest.split_first().and_then(|(length, rest)| rest.split_at_checked((*length).into())),
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            rest.split_at_checked(u16::from_be_bytes(*length).into())
        }
        _ => None,
    }
}
