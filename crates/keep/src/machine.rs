//! The platform of the machine, which the node has for all its keeps: a TPM speaks to one program at a time, and a keep
//! opens no device. Node and keep are on the machine that the evidence is about; what is to be believed of it, whoever
//! judges the evidence finds out.

use dunlin_attest::{
    Attester, AttesterError, BindingContext, Endorsements, Evidence, EvidenceError, ReportData, Technology,
};
use dunlin_keep_link::{Proof, Witness};

use crate::outbox::Post;

/// A platform that is asked through the node.
#[derive(Debug)]
pub(crate) struct Machine {
    technology: Technology,
    post: Post,
}

impl Machine {
    /// What speaks for this machine, or `None` where the keep simulates a platform.
    pub(crate) fn new(witness: Witness, post: Post) -> Option<Self> {
        let technology = match witness {
            Witness::Simulation => return None,
            Witness::Tpm => Technology::Tpm,
            Witness::Snp => Technology::Snp,
            Witness::Tdx => Technology::Tdx,
        };
        Some(Self { technology, post })
    }

    fn failed(&self, what: impl Into<String>, source: Option<EvidenceError>) -> AttesterError {
        let source = source.map(|error| Box::new(error).into());
        AttesterError::Failed { technology: self.technology, what: what.into(), source }
    }
}

impl Attester for Machine {
    fn kind(&self) -> Technology {
        self.technology
    }

    fn evidence(&self, _: &ReportData) -> Result<Evidence, AttesterError> {
        Err(self.failed("the node must see what evidence is to be bound to, and not a hash of that", None))
    }

    fn prove(&self, binding: &BindingContext) -> Result<(Evidence, Endorsements), AttesterError> {
        let Some(given) = self.post.prove(binding.to_cbor()) else {
            return Err(self.failed("the node does not answer", None));
        };
        let Proof { evidence, endorsements } = given.map_err(|reason| self.failed(reason, None))?;
        let unreadable = |error| self.failed("the node brought something else", Some(error));
        let evidence = Evidence::from_cbor(&evidence).map_err(unreadable)?;
        let endorsements = Endorsements::from_cbor(&endorsements).map_err(unreadable)?;
        // One platform is never taken for another.
        match evidence.technology() {
            found if found == self.technology => Ok((evidence, endorsements)),
            found => Err(self.failed(format!("the node brought evidence of {found}"), None)),
        }
    }
}
