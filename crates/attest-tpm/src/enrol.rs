//! Enrolment: how a provider finds out that an attestation key is in a TPM that it owns.
//!
//! ```text
//!   machine                                   provider
//!   request: EK certificate, EK, AK  ───────>  check certificate, AK's attributes
//!                                    <───────  challenge: secret for (EK, name of AK), nonce
//!   answer: secret, quote(nonce)     ───────>  compare; sign the platform statement
//! ```

use dunlin_attest::{
    Bytes, PlatformId, PlatformStatement, TPM_PCRS, TpmEnrolment, TpmSigned, TpmSignedContent, VerifyError,
};
use dunlin_base::Digest;

use crate::client::{Tpm, flushed};
use crate::codes::TpmError;
use crate::credential::{Challenge, EkPublic};
use crate::ek::{EkCertificate, EkError, ProviderCa};
use crate::keys::{AK_HANDLE, EkKind};

/// What a machine says of its TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolRequest {
    /// The endorsement key's certificate, in DER.
    pub ek_certificate: Vec<u8>,
    /// TPMT_PUBLIC of the endorsement key.
    pub ek_public: Vec<u8>,
    /// TPMT_PUBLIC of the attestation key.
    pub ak_public: Vec<u8>,
}

/// What the machine answers to a challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The secret that only the right TPM opens.
    pub secret: Vec<u8>,
    /// A quote over the nonce, which shows the reset count: TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// Its TPMT_SIGNATURE.
    pub signature: Vec<u8>,
}

/// Why an enrolment fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The TPM.
    #[error("the TPM did not do what enrolment needs")]
    Tpm(#[from] TpmError),
    /// The certificate.
    #[error("the certificate of the endorsement key is refused")]
    Certificate(#[from] EkError),
    /// There is none.
    #[error("the TPM holds no certificate of an endorsement key; it was not provisioned by its maker or provider")]
    NoCertificate,
    /// The attestation key or its quote.
    #[error("the attestation key is refused")]
    Key(#[from] VerifyError),
    /// The secret is wrong.
    #[error("the answer does not hold the secret: the attestation key is not in the TPM of this endorsement key")]
    Secret,
    /// The quote answers another challenge.
    #[error("the quote in the answer is by another key, for another challenge, or no quote")]
    OtherQuote,
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Random(#[source] getrandom::Error),
}

/// On the machine: reads the certificate and makes the keys. `kind` chooses the endorsement key; without one it is the
/// first kind with a certificate.
///
/// # Errors
///
/// When the TPM has no certificate of an endorsement key.
pub fn request(tpm: &mut Tpm, kind: Option<EkKind>) -> Result<EnrolRequest, EnrolError> {
    let kinds = kind.map_or(EkKind::ALL.to_vec(), |kind| vec![kind]);
    for kind in kinds {
        let contents = match tpm.nv_read(kind.certificate_index()) {
            Err(TpmError::Refused { .. }) => continue,
            other => other?,
        };
        let certificate = EkCertificate::from_nv(&contents)?;
        let ek = tpm.endorsement_key(kind)?;
        tpm.flush(ek.handle)?;
        let (ak_public, _) = tpm.attestation_key()?;
        return Ok(EnrolRequest { ek_certificate: certificate.der().to_vec(), ek_public: ek.public, ak_public });
    }
    Err(EnrolError::NoCertificate)
}

/// On the machine: opens the credential and quotes the nonce.
///
/// # Errors
///
/// When the credential was made for another TPM or another attestation key.
pub fn answer(tpm: &mut Tpm, request: &EnrolRequest, challenge: &Challenge) -> Result<Answer, EnrolError> {
    let kind = EkPublic::parse(&request.ek_public)?.kind();
    tpm.attestation_key()?;
    let ek = tpm.endorsement_key(kind)?;
    let opened = open(tpm, ek.handle, kind, challenge);
    let secret = flushed(tpm, ek.handle, opened)?;
    let (attest, signature) = tpm.quote(AK_HANDLE, &challenge.nonce, &TPM_PCRS)?;
    Ok(Answer { secret, attest, signature })
}

fn open(tpm: &mut Tpm, ek: u32, kind: EkKind, challenge: &Challenge) -> Result<Vec<u8>, TpmError> {
    if !kind.needs_policy() {
        return tpm.activate_credential(AK_HANDLE, ek, None, &challenge.credential, &challenge.secret);
    }
    let session = tpm.start_policy()?;
    let opened = tpm
        .policy_endorsement(session)
        .and_then(|()| tpm.activate_credential(AK_HANDLE, ek, Some(session), &challenge.credential, &challenge.secret));
    if opened.is_err() {
        // A command that succeeds ends its session.
        let _ = tpm.flush(session.0);
    }
    opened
}

/// On the provider's side: a request that was found good, and what the answer must hold.
#[derive(Debug)]
pub struct PendingEnrolment {
    request: EnrolRequest,
    ak_name: Bytes,
    secret: [u8; 32],
    challenge: Challenge,
}

impl PendingEnrolment {
    /// Checks a request at `now` (seconds since 1970) against the provider's authorities, and makes the challenge.
    ///
    /// # Errors
    ///
    /// For certificates of others, certificates of other keys, and attestation keys that could sign anything.
    pub fn begin(request: EnrolRequest, ca: &ProviderCa, now: u64) -> Result<Self, EnrolError> {
        let ek = EkPublic::parse(&request.ek_public)?;
        EkCertificate::from_nv(&request.ek_certificate)?.verify(&ek, ca, now)?;
        let ak_name = TpmSigned::key_name(&request.ak_public)?;
        let (mut secret, mut nonce) = ([0; 32], [0; 32]);
        getrandom::fill(&mut secret).and_then(|()| getrandom::fill(&mut nonce)).map_err(EnrolError::Random)?;
        let (credential, encrypted) = ek.make_credential(&ak_name.0, &secret).map_err(EnrolError::Random)?;
        let challenge = Challenge { credential, secret: encrypted, nonce };
        Ok(Self { request, ak_name, secret, challenge })
    }

    /// What the machine must answer.
    pub fn challenge(&self) -> &Challenge {
        &self.challenge
    }

    /// Compares the answer and says what the provider may sign, for `provider` and the given validity (seconds since
    /// 1970).
    ///
    /// # Errors
    ///
    /// When the secret is wrong, or the quote is not the attestation key's for this challenge.
    pub fn finish(
        self,
        answer: &Answer,
        provider: &str,
        not_before: u64,
        not_after: u64,
    ) -> Result<PlatformStatement, EnrolError> {
        let same = answer.secret.len() == self.secret.len()
            && answer.secret.iter().zip(&self.secret).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0;
        if !same {
            return Err(EnrolError::Secret);
        }
        let signed = TpmSigned::verify(&answer.attest, &answer.signature, &self.request.ak_public)?;
        let fits = signed.qualifying_data.0 == self.challenge.nonce && signed.content == TpmSignedContent::Quote;
        if !fits {
            return Err(EnrolError::OtherQuote);
        }
        let ek_certificate = Digest::of(&self.request.ek_certificate);
        Ok(PlatformStatement {
            provider: provider.to_owned(),
            platform: PlatformId::tpm(ek_certificate),
            not_before,
            not_after,
            tpm: Some(TpmEnrolment { ak_name: self.ak_name, ek_certificate, reset_count: signed.reset_count }),
        })
    }
}
