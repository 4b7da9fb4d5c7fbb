//! What can speak for the machine it runs on. The implementations are elsewhere, because each touches a device.

use core::error::Error;

use crate::binding::{BindingContext, ReportData};
use crate::claims::Technology;
use crate::evidence::{Endorsements, Evidence};
use crate::platform::PlatformId;
use crate::verify::tpm::TpmEvent;

/// Makes evidence of one technology about the machine it runs on.
///
/// An attester that cannot reach its platform is an error. It never answers with evidence of another kind, because
/// the caller would not notice that it became weaker.
pub trait Attester: core::fmt::Debug + Send + Sync {
    /// The technology of all its evidence.
    fn kind(&self) -> Technology;

    /// Asks the platform for evidence that carries `report_data`. It may take long: a TPM needs up to a second.
    ///
    /// # Errors
    ///
    /// When the platform is not there, does not answer, or answers with something else.
    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, AttesterError>;

    /// What the platform has at hand for whoever appraises its evidence: certificates, the provider's statement.
    ///
    /// # Errors
    ///
    /// When the platform is not there or does not answer.
    fn endorsements(&self) -> Result<Endorsements, AttesterError> {
        Ok(Endorsements::default())
    }

    /// Evidence bound to `binding`, with what belongs to it. An attester that has its platform in another process shows it
    /// what the evidence is to be bound to, and not only a hash of that.
    ///
    /// # Errors
    ///
    /// As [`Self::evidence`] and [`Self::endorsements`].
    fn prove(&self, binding: &BindingContext) -> Result<(Evidence, Endorsements), AttesterError> {
        Ok((self.evidence(&binding.report_data())?, self.endorsements()?))
    }

    /// Measures `event` into the register that can be extended at run time.
    ///
    /// # Errors
    ///
    /// [`AttesterError::NoRegister`] where there is none, else as [`Self::evidence`].
    fn measure(&self, event: TpmEvent) -> Result<(), AttesterError> {
        let _ = event;
        Err(AttesterError::NoRegister(self.kind()))
    }

    /// The machine as its evidence will name it, where that is known without asking for evidence.
    fn platform_hint(&self) -> Option<PlatformId> {
        None
    }
}

/// Why an attester gave no evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttesterError {
    /// The platform's device, file or service is not there.
    #[error("there is no {technology} platform here: {what}")]
    Missing {
        /// The technology.
        technology: Technology,
        /// What is missing, and what to do.
        what: String,
        /// What the system said.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// The platform is there, but did not do what was asked.
    #[error("the {technology} platform gave no evidence: {what}")]
    Failed {
        /// The technology.
        technology: Technology,
        /// What went wrong.
        what: String,
        /// What the platform said.
        #[source]
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// The technology has no register that can be extended at run time.
    #[error("{0} platforms have no register that can be extended while they run")]
    NoRegister(Technology),
}
