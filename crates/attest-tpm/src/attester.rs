//! Quotes as evidence.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use dunlin_attest::{
    Attester, AttesterError, Endorsements, Evidence, PlatformId, ReportData, TPM_PCRS, Technology, TpmEvent, TpmQuote,
};

use crate::client::Tpm;
use crate::codes::TpmError;
use crate::device::Device;
use crate::event_log::{EventLog, EventLogError};
use crate::keys::AK_HANDLE;

/// What a machine knows about its TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmSettings {
    /// Where it is.
    pub device: Device,
    /// The event log, in a directory that is empty after a start of the machine.
    pub event_log: PathBuf,
    /// The provider's signed statement from the enrolment.
    pub statement: Option<Vec<u8>>,
    /// The machine as its provider named it at the enrolment.
    pub platform: Option<PlatformId>,
}

/// An attester that opens the TPM for each piece of evidence, so that others can use it in between.
#[derive(Debug)]
pub struct TpmAttester {
    settings: TpmSettings,
    /// Only one thread of a process measures at a time. Other processes are kept out by the software TPM, which serves
    /// one client, or must keep to one attester for each TPM.
    turn: Mutex<()>,
}

impl TpmAttester {
    /// Finds the TPM, makes or finds its attestation key, and compares the event log with the register.
    ///
    /// # Errors
    ///
    /// When there is no TPM at the device, or it is not fit.
    pub fn new(settings: TpmSettings) -> Result<Self, AttesterError> {
        let mut tpm = Tpm::open(&settings.device).map_err(error)?;
        tpm.attestation_key().map_err(error)?;
        EventLog::open(&settings.event_log, &mut tpm).map_err(log_error)?;
        Ok(Self { settings, turn: Mutex::new(()) })
    }
}

impl Attester for TpmAttester {
    fn kind(&self) -> Technology {
        Technology::Tpm
    }

    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, AttesterError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tpm = Tpm::open(&self.settings.device).map_err(error)?;
        let log = EventLog::open(&self.settings.event_log, &mut tpm).map_err(log_error)?;
        let (ak_public, _) = tpm.attestation_key().map_err(error)?;
        let qualifying = report_data.tpm_qualifying_data();
        let (attest, signature) = tpm.quote(AK_HANDLE, &qualifying, &TPM_PCRS).map_err(error)?;
        // A register that changes between the two gives a quote that no verifier accepts, and is asked for again.
        let pcrs = tpm.pcr_read(&TPM_PCRS).map_err(error)?;
        let pcrs = pcrs.try_into().map_err(|_| error(TpmError::Malformed { field: "registers" }))?;
        let quote = TpmQuote { attest, signature, ak_public, pcrs, events: log.events().to_vec() };
        Ok(Evidence::Tpm(Box::new(quote)))
    }

    fn endorsements(&self) -> Result<Endorsements, AttesterError> {
        Ok(Endorsements { statement: self.settings.statement.clone(), ..Endorsements::default() })
    }

    fn measure(&self, event: TpmEvent) -> Result<(), AttesterError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tpm = Tpm::open(&self.settings.device).map_err(error)?;
        let mut log = EventLog::open(&self.settings.event_log, &mut tpm).map_err(log_error)?;
        log.measure(event, &mut tpm).map_err(log_error)
    }

    fn platform_hint(&self) -> Option<PlatformId> {
        self.settings.platform.clone()
    }
}

fn error(error: TpmError) -> AttesterError {
    let technology = Technology::Tpm;
    match error {
        TpmError::NoDevice { device, source } => AttesterError::Missing {
            technology,
            what: format!("{device} cannot be opened; name the TPM's device or socket"),
            source: Some(source.into()),
        },
        other => AttesterError::Failed { technology, what: "a command failed".to_owned(), source: Some(other.into()) },
    }
}

fn log_error(log: EventLogError) -> AttesterError {
    match log {
        EventLogError::Tpm(tpm) => error(tpm),
        other => AttesterError::Failed {
            technology: Technology::Tpm,
            what: "the event log and the TPM do not fit".to_owned(),
            source: Some(other.into()),
        },
    }
}
