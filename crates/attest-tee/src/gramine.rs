//! Gramine's pseudo files in an SGX enclave: the report data goes into one file, the quote comes out of another.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use dunlin_attest::{Attester, AttesterError, Evidence, ReportData, Technology};

use crate::files::{Files, SystemFiles};

const ROOT: &str = "/dev/attestation";
/// Quotes have about 5000 bytes, in a buffer of 8192.
const MAX_QUOTE: u64 = 16 * 1024;
const MAX_TEXT: u64 = 64;

/// An SGX enclave under Gramine, in which this program runs.
#[derive(Debug)]
pub struct GramineAttester {
    root: PathBuf,
    files: Box<dyn Files>,
    /// The file for report data is one for the whole enclave, so requests take turns.
    turn: Mutex<()>,
}

impl GramineAttester {
    /// The enclave that this program runs in.
    ///
    /// # Errors
    ///
    /// [`AttesterError::Missing`] outside of an enclave, and where the manifest allows no DCAP attestation.
    pub fn new() -> Result<Self, AttesterError> {
        Self::at(Path::new(ROOT), Box::new(SystemFiles))
    }

    /// With another directory than Gramine's usual one, and another way to its files.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn at(root: &Path, files: Box<dyn Files>) -> Result<Self, AttesterError> {
        let kind = files.read(&root.join("attestation_type"), MAX_TEXT).map_err(|source| AttesterError::Missing {
            technology: Technology::Sgx,
            what: format!("{} has no attestation_type; this is no enclave under Gramine", root.display()),
            source: Some(source.into()),
        })?;
        let kind = String::from_utf8_lossy(&kind).trim_end().to_owned();
        if kind != "dcap" {
            let what = format!(
                "the enclave's attestation is {kind:?}; its manifest must say sgx.remote_attestation = \"dcap\""
            );
            return Err(AttesterError::Missing { technology: Technology::Sgx, what, source: None });
        }
        Ok(Self { root: root.to_owned(), files, turn: Mutex::new(()) })
    }
}

impl Attester for GramineAttester {
    fn kind(&self) -> Technology {
        Technology::Sgx
    }

    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, AttesterError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let ask = || {
            self.files.write(&self.root.join("user_report_data"), report_data.as_bytes())?;
            self.files.read(&self.root.join("quote"), MAX_QUOTE)
        };
        let failed = |what: &str, source: Option<std::io::Error>| AttesterError::Failed {
            technology: Technology::Sgx,
            what: what.to_owned(),
            source: source.map(Into::into),
        };
        let quote = ask().map_err(|source| failed("the enclave's files refused", Some(source)))?;
        if quote.iter().all(|byte| *byte == 0) {
            return Err(failed("the quote is empty; the host's quoting service may be down", None));
        }
        Ok(Evidence::sgx_from_buffer(&quote))
    }
}
