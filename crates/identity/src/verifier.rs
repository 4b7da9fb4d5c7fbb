//! Checking what others signed.

use core::fmt;
use std::sync::Arc;

use dunlin_handover::Key;
use dunlin_handover::ledger::{Candidate, Checks};

use crate::key::is_signed_by;

/// Says whether a policy lets a candidate hold a service; the reason if not.
pub type Appraisal = Arc<dyn Fn(&Candidate<'_>) -> Result<(), String> + Send + Sync>;

/// Checks signatures of the keys of this crate, and candidates by an appraisal.
#[derive(Clone)]
pub struct Verifier {
    appraisal: Option<Appraisal>,
}

impl Verifier {
    /// Takes every candidate whose signatures the ledger's rules accept: where machines are certified by providers, and
    /// no policy asks for evidence.
    pub const fn certified() -> Self {
        Self { appraisal: None }
    }

    /// Asks `appraisal` about every candidate.
    pub fn appraising(appraisal: Appraisal) -> Self {
        Self { appraisal: Some(appraisal) }
    }
}

impl Checks for Verifier {
    fn verify(&self, key: Key, message: &[u8], signature: &[u8]) -> bool {
        is_signed_by(key, message, signature)
    }

    fn appraise(&self, candidate: &Candidate<'_>) -> Result<(), String> {
        self.appraisal.as_ref().map_or(Ok(()), |appraisal| appraisal(candidate))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("appraises", &self.appraisal.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use dunlin_base::Digest;
    use dunlin_handover::ledger::{Ledger, MemoryLedger, Operation, Recovery, Refused, Request, Takes};
    use dunlin_handover::{Nonce, OperationId, PlatformId, ServiceId};

    use super::*;
    use crate::key::PrivateKey;

    fn create(owner: &PrivateKey) -> Request {
        let action = Operation::Create {
            owner: dunlin_handover::ledger::Signer::key(owner),
            state_hash: Digest([1; 32]),
            policy_hash: Digest([2; 32]),
            policy_version: 1,
            recovery: Recovery::default(),
        };
        let (service, operation) = (ServiceId([3; 16]), OperationId([4; 16]));
        Request::new(service, operation, 0, 0, action)
    }

    #[test]
    fn a_ledger_takes_requests_with_these_signatures_only() {
        let [signer, owner, stranger] = [(); 3].map(|()| PrivateKey::generate().unwrap());
        let checks = Arc::new(Verifier::certified());
        let key = dunlin_handover::ledger::Signer::key(&signer);
        let mut ledger = MemoryLedger::new(checks.clone(), Arc::new(signer));
        let Err(refused) = ledger.apply(&create(&owner).signed(&stranger)).unwrap() else { panic!("it was taken") };
        assert!(matches!(refused, Refused::NotAuthorised(_)), "{refused:?}");
        let receipt = ledger.apply(&create(&owner).signed(&owner)).unwrap().unwrap();
        assert!(receipt.is_genuine(key, &*checks));
        let nonce = Nonce([5; 32]);
        let reading = ledger.read(ServiceId([3; 16]), nonce).unwrap().unwrap();
        assert!(reading.is_fresh(key, nonce, &*checks));
        assert!(!reading.is_fresh(key, Nonce([6; 32]), &*checks));
    }

    #[test]
    fn a_policy_keeps_a_candidate_out() {
        let refuse: Appraisal = Arc::new(|candidate| Err(format!("not {:?}", candidate.platform)));
        let candidate = Candidate {
            service: ServiceId([1; 16]),
            policy_hash: Digest([2; 32]),
            holder: Key([3; 32]),
            platform: Some(PlatformId([4; 32])),
            evidence: Digest([5; 32]),
            takes: Takes::Claim,
            epoch: 1,
            version: 0,
            from: None,
            proof: &[],
        };
        assert_eq!(Verifier::certified().appraise(&candidate), Ok(()));
        let reason = Verifier::appraising(refuse).appraise(&candidate).unwrap_err();
        assert_eq!(reason, format!("not {:?}", Some(PlatformId([4; 32]))));
    }
}
