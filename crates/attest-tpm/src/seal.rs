//! Secrets that the TPM opens only while a register has the value it had at sealing. What is sealed is bound to this
//! TPM and to what was measured, not to a time: an older blob opens as well, and only the ledger knows that it is old.

use sha2::{Digest as _, Sha256};

use crate::client::{ALG_NULL, Tpm, flushed};
use crate::codes::TpmError;
use crate::keys::ALG_KEYEDHASH;
use crate::wire::{ALG_SHA256, Reader, Writer, selection};

/// What a sealed object holds at most, in bytes: a key, not the state itself.
const MAX_SECRET: usize = 128;
/// Longer blobs do not exist.
const MAX_BLOB: usize = 2048;
const CC_POLICY_PCR: u32 = 0x17f;
/// fixedTPM, fixedParent, noDA; without userWithAuth only the policy opens it.
const SEALED: u32 = 0x0000_0412;

/// A register to which a secret may be sealed: one that software cannot reset and firmware does not use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealRegister(u8);

/// Why nothing was sealed or unsealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealedError {
    /// A register that proves nothing.
    #[error(
        "secrets are sealed to registers 8 to 15, not to {0}: 16 and 23 can be reset by software, 17 to 22 by a later launch, 0 to 7 change with every firmware update"
    )]
    Register(u8),
    /// Too long.
    #[error("{0} bytes are more than the {MAX_SECRET} that a TPM seals: seal a key, and encrypt with it")]
    TooLong(usize),
    /// Not a blob.
    #[error("this is not a sealed secret")]
    Malformed,
    /// The TPM.
    #[error("the TPM did not seal or unseal")]
    Tpm(#[from] TpmError),
}

impl SealRegister {
    /// The register, if secrets may be sealed to it.
    ///
    /// # Errors
    ///
    /// For registers that can be reset, and for those of the firmware.
    pub fn new(register: u8) -> Result<Self, SealedError> {
        if (8..=15).contains(&register) { Ok(Self(register)) } else { Err(SealedError::Register(register)) }
    }
}

/// A secret under a TPM's storage key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    register: SealRegister,
    private: Vec<u8>,
    public: Vec<u8>,
}

impl Sealed {
    /// Seals `secret` to the present value of `register`.
    ///
    /// # Errors
    ///
    /// For secrets of more than 128 bytes, and when the TPM refuses.
    pub fn seal(tpm: &mut Tpm, register: SealRegister, secret: &[u8]) -> Result<Self, SealedError> {
        if secret.len() > MAX_SECRET {
            return Err(SealedError::TooLong(secret.len()));
        }
        let values = tpm.pcr_read(&[register.0])?;
        let mut composite = Sha256::new();
        values.iter().for_each(|value| composite.update(value.0));
        // PolicyPCR, as the TPM computes it: the old policy, the command, the registers, their digest.
        let mut policy = Sha256::new();
        policy.update([0; 32]);
        policy.update(CC_POLICY_PCR.to_be_bytes());
        policy.update(selection(&[register.0]));
        policy.update(composite.finalize());
        let mut template = Writer::default();
        template.u16(ALG_KEYEDHASH).u16(ALG_SHA256).u32(SEALED).sized("policy", &policy.finalize());
        template.u16(ALG_NULL).sized("unique", &[]);
        let key = tpm.storage_key()?;
        let made = template.finish().and_then(|template| tpm.create(key.handle, template, secret));
        let (private, public) = flushed(tpm, key.handle, made)?;
        Ok(Self { register, private, public })
    }

    /// Opens the secret, if this is the TPM and the register has the value.
    ///
    /// # Errors
    ///
    /// [`crate::Code::POLICY_FAIL`] when the register has another value, [`crate::Code::INTEGRITY`] for another TPM.
    pub fn unseal(&self, tpm: &mut Tpm) -> Result<Vec<u8>, SealedError> {
        let key = tpm.storage_key()?;
        let loaded = tpm.load(key.handle, &self.private, &self.public);
        let object = flushed(tpm, key.handle, loaded)?;
        let opened = self.open(tpm, object);
        Ok(flushed(tpm, object, opened)?)
    }

    fn open(&self, tpm: &mut Tpm, object: u32) -> Result<Vec<u8>, TpmError> {
        let session = tpm.start_policy()?;
        let opened = tpm.policy_pcr(session, &[self.register.0]).and_then(|()| tpm.unseal(object, session));
        if opened.is_err() {
            // A command that succeeds ends its session.
            let _ = tpm.flush(session.0);
        }
        opened
    }

    /// The blob: the register, then both parts with their sizes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u8(self.register.0).sized("private area", &self.private).sized("public area", &self.public);
        // Both parts came with 16-bit sizes.
        out.finish().unwrap_or_default().to_vec()
    }

    /// Reads a blob.
    ///
    /// # Errors
    ///
    /// For everything that [`Self::to_bytes`] did not write.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealedError> {
        let malformed = |_| SealedError::Malformed;
        if bytes.len() > MAX_BLOB {
            return Err(SealedError::Malformed);
        }
        let mut rest = Reader::new(bytes);
        let register = SealRegister::new(rest.u8("register").map_err(malformed)?)?;
        let private = rest.sized("private area").map_err(malformed)?.to_vec();
        let public = rest.sized("public area").map_err(malformed)?.to_vec();
        if rest.rest().is_empty() { Ok(Self { register, private, public }) } else { Err(SealedError::Malformed) }
    }
}
