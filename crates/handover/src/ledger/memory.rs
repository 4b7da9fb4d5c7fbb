//! A ledger that forgets: for tests, and for one process that holds all parties.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use super::{Checks, Ledger, LedgerState, Nomination, Reading, Receipt, Refused, Request, Signer};
use crate::ids::{Nonce, ServiceId};

/// Ledger states in memory.
#[derive(Debug, Clone)]
pub struct MemoryLedger {
    services: BTreeMap<ServiceId, LedgerState>,
    checks: Arc<dyn Checks>,
    signer: Arc<dyn Signer>,
}

impl MemoryLedger {
    /// An empty ledger that signs with `signer`.
    pub fn new(checks: Arc<dyn Checks>, signer: Arc<dyn Signer>) -> Self {
        Self { services: BTreeMap::new(), checks, signer }
    }

    /// The state of a service.
    pub fn state(&self, service: ServiceId) -> Option<&LedgerState> {
        self.services.get(&service)
    }
}

impl Ledger for MemoryLedger {
    type Error = Infallible;

    fn apply(&mut self, request: &Request) -> Result<Result<Receipt, Refused>, Infallible> {
        let mut state = self.services.get(&request.service).cloned().unwrap_or_default();
        let answer = state.apply(request, &*self.checks, &*self.signer);
        if answer.is_ok() {
            self.services.insert(request.service, state);
        }
        Ok(answer)
    }

    fn read(&mut self, service: ServiceId, nonce: Nonce) -> Result<Result<Reading, Refused>, Infallible> {
        let state = self.services.get(&service);
        Ok(state.ok_or(Refused::NoSuchService).and_then(|state| state.read(nonce, &*self.signer)))
    }

    fn appraise(&mut self, nomination: &Nomination) -> Result<Result<(), Refused>, Infallible> {
        let state = self.services.get(&nomination.service);
        Ok(state.ok_or(Refused::NoSuchService).and_then(|state| state.appraise(nomination, &*self.checks)))
    }
}
