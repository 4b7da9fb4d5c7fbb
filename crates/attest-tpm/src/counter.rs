//! A counter in the TPM that only goes up, and signed readings of it. A host that restores an older copy of a software
//! TPM's state takes the counter back with it: a counter narrows what a host can do, and the ledger closes the rest.

use dunlin_attest::{Bytes, TpmSigned, VerifyError};
use sha2::{Digest as _, Sha256};

use crate::client::Tpm;
use crate::codes::{Code, TpmError};
use crate::keys::AK_HANDLE;
use crate::wire::{ALG_SHA256, Reader, Writer};

/// TPM_NT_COUNTER, AUTHREAD, AUTHWRITE, OWNERREAD, NO_DA.
const ATTRIBUTES: u32 = 0x0206_0014;
/// Set by the TPM when the counter was first incremented.
const WRITTEN: u32 = 1 << 29;
/// The owner's range of NV indices.
const FIRST: u32 = 0x0180_d000;
const SIZE: u16 = 8;

/// A counter at an NV index of the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    index: u32,
}

/// A signed reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterReading {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// TPMT_PUBLIC of the attestation key.
    pub ak_public: Vec<u8>,
}

impl Counter {
    /// The counter with this number; the TPM makes it where it does not exist. A counter that was removed begins above
    /// every value that any counter of this TPM ever had.
    ///
    /// # Errors
    ///
    /// When the TPM refuses, or something else is at the index.
    pub fn open(tpm: &mut Tpm, number: u8) -> Result<Self, TpmError> {
        let counter = Self { index: FIRST + u32::from(number) };
        match tpm.nv_define(&counter.public(0)?) {
            Ok(()) => tpm.nv_increment(counter.index)?,
            Err(error) if error.code() == Some(Code::NV_DEFINED) => {
                let (public, _) = tpm.nv_read_public(counter.index)?;
                if public == counter.public(0)? {
                    // It was made, but the machine stopped before it was used.
                    tpm.nv_increment(counter.index)?;
                } else if public != counter.public(WRITTEN)? {
                    return Err(TpmError::Malformed { field: "the counter's index: something else is there" });
                }
            }
            Err(error) => return Err(error),
        }
        Ok(counter)
    }

    /// Adds one.
    ///
    /// # Errors
    ///
    /// When the TPM refuses.
    pub fn increment(&self, tpm: &mut Tpm) -> Result<(), TpmError> {
        tpm.nv_increment(self.index)
    }

    /// The value, unsigned: good enough for whoever trusts the host.
    ///
    /// # Errors
    ///
    /// When the TPM refuses.
    pub fn read(&self, tpm: &mut Tpm) -> Result<u64, TpmError> {
        let contents = tpm.nv_read(self.index)?;
        Ok(u64::from_be_bytes(Reader::new(&contents).array("counter")?))
    }

    /// The value, signed by the attestation key together with a nonce.
    ///
    /// # Errors
    ///
    /// When the TPM refuses.
    pub fn certify(&self, tpm: &mut Tpm, nonce: &[u8; 32]) -> Result<CounterReading, TpmError> {
        let (ak_public, _) = tpm.attestation_key()?;
        let (attest, signature) = tpm.nv_certify(AK_HANDLE, self.index, SIZE, nonce)?;
        Ok(CounterReading { attest, signature, ak_public })
    }

    /// The name of the index: what a reading must name, so that no other index passes for the counter.
    ///
    /// # Errors
    ///
    /// Never in practice: the public area has a fixed size.
    pub fn name(&self) -> Result<Bytes, TpmError> {
        let digest = Sha256::digest(self.public(WRITTEN)?);
        Ok(Bytes([&ALG_SHA256.to_be_bytes()[..], &digest].concat()))
    }

    /// TPMS_NV_PUBLIC.
    fn public(self, more: u32) -> Result<Vec<u8>, TpmError> {
        let mut w = Writer::default();
        w.u32(self.index).u16(ALG_SHA256).u32(ATTRIBUTES | more).sized("policy", &[]).u16(SIZE);
        Ok(w.finish()?.to_vec())
    }
}

impl CounterReading {
    /// The value, if this is a reading of `counter` for `nonce` by the machine's attestation key.
    ///
    /// # Errors
    ///
    /// For readings of others, and for old ones.
    pub fn verify(&self, counter: &Bytes, ak_name: &Bytes, nonce: &[u8; 32]) -> Result<u64, VerifyError> {
        TpmSigned::verify(&self.attest, &self.signature, &self.ak_public)?.counter(ak_name, counter, nonce)
    }
}
