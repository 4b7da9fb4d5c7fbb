//! Chooses an attester by name. It must never open another one than the one that was named: a program that quietly goes
//! from a TEE to a simulation tells its owner that all is well.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use dunlin_attest::{Attester, AttesterError, Class, Technology};
use dunlin_attest_sim::SimAttester;
use dunlin_attest_tee::{GramineAttester, TsmAttester};
use dunlin_attest_tpm::{Device, TpmAttester, TpmSettings};

/// Where the kernel shows a TPM.
pub const TPM_DEVICE: &str = "/dev/tpmrm0";
/// Where the event log is by default: `/run` is empty after a start of the machine, as register 15 is.
pub const EVENT_LOG: &str = "/run/dunlin/tpm-events";

/// Which attester, and where its platform is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// A simulated machine with this name. It proves nothing.
    Sim(String),
    /// The TPM at this device.
    Tpm(TpmSettings),
    /// The SEV-SNP guest that this program runs in.
    Snp,
    /// The TDX guest that this program runs in.
    Tdx,
    /// The SGX enclave under Gramine that this program runs in.
    Sgx,
}

/// A text that names no attester.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no attester: give sim, sim:NAME, tpm, tpm:DEVICE (such as tpm:/dev/tpmrm0 or tpm:swtpm:path=FILE), snp, tdx or sgx"
)]
pub struct ParseChoiceError(String);

impl FromStr for Choice {
    type Err = ParseChoiceError;

    fn from_str(text: &str) -> Result<Self, ParseChoiceError> {
        let wrong = || ParseChoiceError(text.chars().take(200).collect());
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        match (kind, rest) {
            ("sim", name) => {
                let name = name.unwrap_or("local");
                dunlin_attest::PlatformId::sim(name).map_err(|_| wrong())?;
                Ok(Self::Sim(name.to_owned()))
            }
            ("tpm", device) => {
                let device: Device = device.unwrap_or(TPM_DEVICE).parse().map_err(|_| wrong())?;
                Ok(Self::Tpm(TpmSettings { device, event_log: EVENT_LOG.into(), statement: None, platform: None }))
            }
            ("snp", None) => Ok(Self::Snp),
            ("tdx", None) => Ok(Self::Tdx),
            ("sgx", None) => Ok(Self::Sgx),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sim(name) => write!(f, "sim:{name}"),
            Self::Tpm(settings) => write!(f, "tpm:{}", settings.device),
            other => f.write_str(other.technology().name()),
        }
    }
}

impl Choice {
    /// The technology of the evidence.
    pub fn technology(&self) -> Technology {
        match self {
            Self::Sim(_) => Technology::Sim,
            Self::Tpm(_) => Technology::Tpm,
            Self::Snp => Technology::Snp,
            Self::Tdx => Technology::Tdx,
            Self::Sgx => Technology::Sgx,
        }
    }

    /// The best class that evidence of this attester can have.
    pub fn class(&self) -> Class {
        self.technology().class()
    }

    /// With another event log, for a TPM; others have none.
    #[must_use]
    pub fn with_event_log(self, path: PathBuf) -> Self {
        match self {
            Self::Tpm(settings) => Self::Tpm(TpmSettings { event_log: path, ..settings }),
            other => other,
        }
    }

    /// With the provider's statement from the enrolment, for a TPM.
    #[must_use]
    pub fn with_statement(self, statement: Vec<u8>) -> Self {
        match self {
            Self::Tpm(settings) => Self::Tpm(TpmSettings { statement: Some(statement), ..settings }),
            other => other,
        }
    }

    /// Opens this attester and no other one.
    ///
    /// # Errors
    ///
    /// When its platform is not there.
    pub fn open(&self) -> Result<Box<dyn Attester>, AttesterError> {
        Ok(match self {
            Self::Sim(name) => Box::new(SimAttester::of_this_program(name)?),
            Self::Tpm(settings) => Box::new(TpmAttester::new(settings.clone())?),
            Self::Snp => Box::new(TsmAttester::snp()?),
            Self::Tdx => Box::new(TsmAttester::tdx()?),
            Self::Sgx => Box::new(GramineAttester::new()?),
        })
    }

    /// One of each technology, the strongest class first.
    pub fn all() -> Vec<Self> {
        let tpm = TPM_DEVICE.parse().ok().map(|device| {
            Self::Tpm(TpmSettings { device, event_log: EVENT_LOG.into(), statement: None, platform: None })
        });
        [Self::Snp, Self::Tdx, Self::Sgx].into_iter().chain(tpm).chain([Self::Sim("local".to_owned())]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_attesters() {
        for text in ["sim:node-1", "tpm:device:/dev/tpmrm0", "tpm:swtpm:path=/run/tpm.sock", "snp", "tdx", "sgx"] {
            assert_eq!(text.parse::<Choice>().map(|choice| choice.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("sim".parse(), Ok(Choice::Sim("local".to_owned())));
        for bad in ["", "SIM", "sim:", "sim:a b", "snp:0", "auto", "best", "tpm:localhost:2321", "tpm:", "none"] {
            assert!(bad.parse::<Choice>().is_err(), "{bad}");
        }
    }

    #[test]
    fn p8_a_platform_that_is_not_there_is_an_error_and_never_another_one() {
        for choice in Choice::all() {
            match choice.open() {
                Ok(attester) => assert_eq!(attester.kind(), choice.technology()),
                Err(AttesterError::Missing { technology, .. }) => assert_eq!(technology, choice.technology()),
                // A machine with a TPM, on which only root may use it or whose register others use.
                Err(AttesterError::Failed { technology, .. }) => assert_eq!(technology, choice.technology()),
                Err(other) => panic!("{other:?}"),
            }
        }
        let nowhere = "tpm:swtpm:path=/nonexistent/tpm.sock".parse::<Choice>().expect("a choice").open();
        assert!(matches!(nowhere, Err(AttesterError::Missing { technology: Technology::Tpm, .. })));
    }
}
