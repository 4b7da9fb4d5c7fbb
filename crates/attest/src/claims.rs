//! What verified evidence says, in one form for all technologies.
//!
//! [`ClaimSet`] is plain data that anyone can make. [`Claims`] is a claim set whose evidence carried the
//! demanded report data; only [`crate::Verifier::appraise`] makes one, and only a [`Claims`] can be
//! accepted by a policy. [`UnboundClaims`] is for looking at evidence whose session is over.

use std::collections::BTreeMap;

use dunlin_base::Digest;
use serde::{Deserialize, Serialize, Serializer};

use crate::binding::ReportData;
use crate::bytes::Bytes;
use crate::cose::VerifyingKey;
use crate::error::VerifyError;
use crate::platform::PlatformId;

/// How strong the isolation from the host is. The order is that of strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Simulated: proves nothing about the host.
    Sim,
    /// The boot chain was measured by a TPM. The host's root can still read memory.
    MeasuredHost,
    /// A hardware TEE encrypts and protects memory against the host.
    HwTee,
}

impl Class {
    /// The name that policies, tokens and output use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sim => "sim",
            Self::MeasuredHost => "measured_host",
            Self::HwTee => "hw_tee",
        }
    }
}

impl core::fmt::Display for Class {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// The kind of platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Technology {
    /// Intel SGX enclave.
    Sgx,
    /// Intel TDX trust domain.
    Tdx,
    /// AMD SEV-SNP guest.
    Snp,
    /// Host with a TPM 2.0.
    Tpm,
    /// Simulation.
    Sim,
}

impl Technology {
    /// The best class that its evidence can have.
    pub fn class(self) -> Class {
        match self {
            Self::Sgx | Self::Tdx | Self::Snp => Class::HwTee,
            Self::Tpm => Class::MeasuredHost,
            Self::Sim => Class::Sim,
        }
    }

    /// The name that policies, platform ids and output use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sgx => "sgx",
            Self::Tdx => "tdx",
            Self::Snp => "snp",
            Self::Tpm => "tpm",
            Self::Sim => "sim",
        }
    }
}

impl core::fmt::Display for Technology {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// A flag that some certificates do not carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// Said to be off.
    No,
    /// Said to be on.
    Yes,
    /// Not said.
    Unknown,
}

/// Intel's appraisal of a platform's TCB, worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TcbStatus {
    /// Everything is current.
    UpToDate,
    /// Software in the TEE must be hardened.
    SWHardeningNeeded,
    /// The platform must be configured.
    ConfigurationNeeded,
    /// Both of the above.
    ConfigurationAndSWHardeningNeeded,
    /// The TD must be launched again to gain from an update.
    TDRelaunchAdvised,
    /// That, and the platform must be configured.
    TDRelaunchAdvisedConfigurationNeeded,
    /// Firmware or microcode is out of date.
    OutOfDate,
    /// That, and the platform must be configured.
    OutOfDateConfigurationNeeded,
    /// The platform's keys are compromised. Never verified, whatever a policy says.
    Revoked,
}

/// The TCB as Intel's collateral sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcbClaims {
    /// The converged status of platform, module and quoting enclave.
    pub status: TcbStatus,
    /// Advisories that apply to it.
    pub advisories: Vec<String>,
    /// The date of the TCB level, seconds since 1970.
    pub date: u64,
    /// The number of the TCB evaluation data set.
    pub evaluation: u32,
    /// The status of the TCB a TD runs on now, where that differs from the one it was launched on.
    pub current_status: Option<TcbStatus>,
    /// CPU security version numbers.
    pub cpu_svn: Bytes,
    /// TDX module security version numbers at launch.
    pub launch_svn: Option<Bytes>,
    /// TDX module security version numbers now.
    pub current_svn: Option<Bytes>,
    /// Whether packages can be added to the platform.
    pub dynamic_platform: Flag,
    /// Whether the registration service keeps the platform's root keys.
    pub cached_keys: Flag,
    /// Whether SMT is on.
    pub smt: Flag,
}

/// Security version numbers of one AMD TCB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpTcb {
    /// Boot loader of the security processor.
    #[serde(default)]
    pub bootloader: u8,
    /// Its operating system.
    #[serde(default)]
    pub tee: u8,
    /// SNP firmware.
    #[serde(default)]
    pub snp: u8,
    /// CPU microcode.
    #[serde(default)]
    pub microcode: u8,
    /// Firmware of the security processor's first stage (from Turin on, else zero).
    #[serde(default)]
    pub fmc: u8,
}

impl SnpTcb {
    /// The names of the components in which `self` is below `minimum`.
    pub fn below(&self, minimum: &Self) -> Vec<&'static str> {
        [
            ("bootloader", self.bootloader, minimum.bootloader),
            ("tee", self.tee, minimum.tee),
            ("snp", self.snp, minimum.snp),
            ("microcode", self.microcode, minimum.microcode),
            ("fmc", self.fmc, minimum.fmc),
        ]
        .into_iter()
        .filter(|(_, have, need)| have < need)
        .map(|(name, ..)| name)
        .collect()
    }
}

impl core::fmt::Display for SnpTcb {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { bootloader, tee, snp, microcode, fmc } = self;
        write!(f, "bootloader {bootloader}, tee {tee}, snp {snp}, microcode {microcode}, fmc {fmc}")
    }
}

/// The four TCBs of an SNP report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnpTcbs {
    /// What the signing key stands for.
    pub reported: SnpTcb,
    /// What runs now.
    pub current: SnpTcb,
    /// What the platform cannot be rolled back below.
    pub committed: SnpTcb,
    /// What ran when the guest was launched.
    pub launch: SnpTcb,
}

/// What only SNP says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnpClaims {
    /// The product line, as the pinned root names it.
    pub product: String,
    /// The TCBs.
    pub tcb: SnpTcbs,
    /// The privilege level that asked for the report; 0 is the most privileged.
    pub vmpl: u32,
    /// Whether the key is a provider's loaded key (VLEK) and not the chip's own (VCEK).
    pub vlek: bool,
    /// Whether the firmware checked at boot that memory has no aliases.
    pub alias_check: bool,
    /// Whether SMT is on.
    pub smt: bool,
    /// Whether a revocation list of the root was checked.
    pub crl_checked: bool,
    /// The family id that the owner chose.
    pub family_id: Bytes,
    /// The image id that the owner chose.
    pub image_id: Bytes,
}

/// What only a TPM says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TpmClaims {
    /// How often the TPM was reset.
    pub reset_count: u32,
    /// How often it was restarted or resumed since the last reset.
    pub restart_count: u32,
    /// Milliseconds that the TPM was powered.
    pub clock: u64,
    /// Whether the clock cannot have gone back.
    pub clock_safe: bool,
    /// The vendor's firmware version.
    pub firmware: u64,
}

/// Who signed the runtime, where the technology knows signers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignerClaims {
    /// MRSIGNER, or the digest of the SNP id key.
    pub signer: Bytes,
    /// The signer's product number (SGX), else zero.
    pub product: u64,
    /// The signer's security version number.
    pub svn: u64,
}

/// What verified evidence says. Plain data: having one proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClaimSet {
    /// How strong the isolation is.
    pub class: Class,
    /// The kind of platform. With class `sim` it may be any: then the evidence has a vendor's format but
    /// hangs under a test root.
    pub technology: Technology,
    /// What the platform measured of the runtime, by the name of the register.
    pub registers: BTreeMap<String, Bytes>,
    /// Who signed the runtime.
    pub signer: Option<SignerClaims>,
    /// Whether the host may look into the TEE.
    pub debug: bool,
    /// Whether the host may ask firmware to migrate the TEE.
    pub migratable: bool,
    /// The machine.
    pub platform: PlatformId,
    /// The provider that signed for the machine, where a statement was handed in.
    pub provider: Option<String>,
    /// The key with which the provider signed.
    pub provider_key: Option<VerifyingKey>,
    /// The slot that the host fills before launch and cannot change after it.
    pub host_data: Bytes,
    /// Policies that the platform measured for the runtime.
    #[serde(serialize_with = "as_texts")]
    pub measured_policies: Vec<Digest>,
    /// SHA-256 of the event log that was replayed.
    #[serde(serialize_with = "as_text")]
    pub event_log: Option<Digest>,
    /// Intel's view of the TCB.
    pub tcb: Option<TcbClaims>,
    /// AMD's report.
    pub snp: Option<SnpClaims>,
    /// The TPM's state.
    pub tpm: Option<TpmClaims>,
    /// The first second at which something that was relied on ends (seconds since 1970).
    pub expires: Option<u64>,
    /// What a person must see next to these claims.
    pub label: Option<String>,
}

fn as_texts<S: Serializer>(digests: &[Digest], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(digests.iter().map(Digest::to_string))
}

fn as_text<S: Serializer>(digest: &Option<Digest>, serializer: S) -> Result<S::Ok, S::Error> {
    digest.map(|digest| digest.to_string()).serialize(serializer)
}

/// Claims whose evidence carried the demanded report data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    set: ClaimSet,
    report_data: ReportData,
}

impl Claims {
    /// The report data that the evidence carried.
    pub fn report_data(&self) -> &ReportData {
        &self.report_data
    }

    #[cfg(test)]
    pub(crate) fn of_test(set: ClaimSet, report_data: ReportData) -> Self {
        Self { set, report_data }
    }
}

impl core::ops::Deref for Claims {
    type Target = ClaimSet;

    fn deref(&self) -> &ClaimSet {
        &self.set
    }
}

/// Claims of genuine evidence that was not compared with any session. They can be shown, and compared
/// with the session's context later, but no policy accepts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnboundClaims {
    set: ClaimSet,
    carried: Carried,
}

/// The bytes that evidence carried in place of report data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Carried {
    Full([u8; 64]),
    /// A TPM's qualifying data.
    Qualifying(Vec<u8>),
}

impl UnboundClaims {
    pub(crate) fn new(set: ClaimSet, carried: Carried) -> Self {
        Self { set, carried }
    }

    /// The claims, to look at.
    pub fn claims(&self) -> &ClaimSet {
        &self.set
    }

    /// What the evidence carries: 64 bytes of report data, or the qualifying data of a TPM quote.
    pub fn carried(&self) -> Bytes {
        match &self.carried {
            Carried::Full(bytes) => Bytes::from(bytes),
            Carried::Qualifying(bytes) => Bytes::from(bytes),
        }
    }

    /// Compares with the report data that the session demands.
    ///
    /// # Errors
    ///
    /// When the evidence carries anything else.
    pub fn bind(self, expected: &ReportData) -> Result<Claims, VerifyError> {
        let same = match &self.carried {
            Carried::Full(bytes) => bytes == expected.as_bytes(),
            Carried::Qualifying(bytes) => *bytes == expected.tpm_qualifying_data(),
        };
        if same { Ok(Claims { set: self.set, report_data: expected.clone() }) } else { Err(VerifyError::ReportData) }
    }
}
