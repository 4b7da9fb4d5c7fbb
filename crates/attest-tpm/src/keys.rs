//! Templates of the keys that are used, and where the attestation key is kept.

use crate::client::{ALG_NULL, Loaded, RH_ENDORSEMENT, RH_OWNER, Tpm, flushed};
use crate::codes::{Code, TpmError};
use crate::wire::{ALG_SHA256, Writer};

/// Where the attestation key stays in the TPM, so that a quote needs no slot: in the owner's range, away from the
/// handles that the TCG's provisioning guidance reserves.
pub const AK_HANDLE: u32 = 0x8101_d001;

pub(crate) const ALG_RSA: u16 = 0x0001;
pub(crate) const ALG_AES: u16 = 0x0006;
pub(crate) const ALG_KEYEDHASH: u16 = 0x0008;
pub(crate) const ALG_SHA384: u16 = 0x000c;
pub(crate) const ALG_ECDSA: u16 = 0x0018;
pub(crate) const ALG_ECC: u16 = 0x0023;
pub(crate) const ALG_CFB: u16 = 0x0043;
pub(crate) const CURVE_P256: u16 = 0x0003;
pub(crate) const CURVE_P384: u16 = 0x0004;

/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth.
const FIXED: u32 = 0x0000_0072;
/// Outside dictionary-attack protection: there is no password to guess, and a host that cuts the power often enough would
/// lock the key.
const NO_DA: u32 = 1 << 10;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;
const ADMIN_WITH_POLICY: u32 = 1 << 7;
const USER_WITH_AUTH: u32 = 1 << 6;

/// PolicySecret of the endorsement hierarchy, by which keys of the low range are guarded (TCG EK Credential Profile).
const POLICY_A: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
/// The policy of keys of the high range with SHA-384.
const POLICY_B_SHA384: [u8; 48] = [
    0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a, 0x07, 0x41, 0x48,
    0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca, 0xcb, 0x47, 0xba, 0x09, 0x69, 0x96,
    0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12,
];

/// Kinds of endorsement keys, by the TCG EK Credential Profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EkKind {
    /// RSA of 2048 bits (template L-1).
    Rsa2048,
    /// ECC on P-256 (template L-2).
    P256,
    /// ECC on P-384 (template H-3).
    P384,
}

impl EkKind {
    /// The kinds, the most usual first.
    pub const ALL: [Self; 3] = [Self::Rsa2048, Self::P256, Self::P384];

    /// The NV index of the certificate.
    pub fn certificate_index(self) -> u32 {
        match self {
            Self::Rsa2048 => 0x01c0_0002,
            Self::P256 => 0x01c0_000a,
            Self::P384 => 0x01c0_0016,
        }
    }

    /// Whether its use needs a policy session; keys of the high range take an empty password.
    pub(crate) fn needs_policy(self) -> bool {
        self != Self::P384
    }

    /// TPMT_PUBLIC.
    fn template(self) -> Writer {
        let mut w = Writer::default();
        let guarded = RESTRICTED | DECRYPT | ADMIN_WITH_POLICY | FIXED;
        let aes = |w: &mut Writer, bits| {
            w.u16(ALG_AES).u16(bits).u16(ALG_CFB).u16(ALG_NULL);
        };
        match self {
            Self::Rsa2048 => {
                w.u16(ALG_RSA).u16(ALG_SHA256).u32(guarded & !USER_WITH_AUTH).sized("policy", &POLICY_A);
                aes(&mut w, 128);
                w.u16(2048).u32(0).sized("unique", &[0; 256]);
            }
            Self::P256 => {
                w.u16(ALG_ECC).u16(ALG_SHA256).u32(guarded & !USER_WITH_AUTH).sized("policy", &POLICY_A);
                aes(&mut w, 128);
                w.u16(CURVE_P256).u16(ALG_NULL).sized("x", &[0; 32]).sized("y", &[0; 32]);
            }
            Self::P384 => {
                w.u16(ALG_ECC).u16(ALG_SHA384).u32(guarded).sized("policy", &POLICY_B_SHA384);
                aes(&mut w, 256);
                w.u16(CURVE_P384).u16(ALG_NULL).sized("x", &[]).sized("y", &[]);
            }
        }
        w
    }
}

impl Tpm {
    /// Loads the endorsement key of a kind.
    pub(crate) fn endorsement_key(&mut self, kind: EkKind) -> Result<Loaded, TpmError> {
        self.create_primary(RH_ENDORSEMENT, kind.template().finish()?)
    }

    /// The key under which secrets are sealed: ECC on P-256, restricted to decryption.
    pub(crate) fn storage_key(&mut self) -> Result<Loaded, TpmError> {
        let mut w = Writer::default();
        w.u16(ALG_ECC).u16(ALG_SHA256).u32(FIXED | NO_DA | RESTRICTED | DECRYPT).sized("policy", &[]);
        w.u16(ALG_AES).u16(128).u16(ALG_CFB).u16(ALG_NULL);
        w.u16(CURVE_P256).u16(ALG_NULL).sized("x", b"dunlin storage key, version one.").sized("y", &[0; 32]);
        self.create_primary(RH_OWNER, w.finish()?)
    }

    /// The attestation key: restricted, fixedTPM, ECDSA on P-256. It is the same at each call, and stays in the TPM.
    ///
    /// # Errors
    ///
    /// When the TPM refuses, or when another key is at [`AK_HANDLE`].
    pub(crate) fn attestation_key(&mut self) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        match self.read_public(AK_HANDLE) {
            Err(error) if error.code() == Some(Code::HANDLE) => {}
            other => return other,
        }
        let mut w = Writer::default();
        w.u16(ALG_ECC).u16(ALG_SHA256).u32(FIXED | NO_DA | RESTRICTED | SIGN).sized("policy", &[]);
        w.u16(ALG_NULL).u16(ALG_ECDSA).u16(ALG_SHA256);
        w.u16(CURVE_P256).u16(ALG_NULL).sized("x", b"dunlin attestation key, vers. 1.").sized("y", &[0; 32]);
        let key = self.create_primary(RH_ENDORSEMENT, w.finish()?)?;
        let kept = self.evict(key.handle, AK_HANDLE);
        flushed(self, key.handle, kept)?;
        Ok((key.public, key.name))
    }
}
