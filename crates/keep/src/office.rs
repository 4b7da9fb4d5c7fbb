//! The ledger, as a keep that starts or commits asks it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dunlin_attested::Asker;
use dunlin_base::Digest;
use dunlin_handover::ledger::{Operation, Reading, Receipt, Record, Refused, Request};
use dunlin_handover::{Entropy, Key, LedgerAnswer, LedgerQuery, PlatformId};

use crate::error::Failure;
use crate::keys::Keys;
use crate::trust::ledger_proof;
use crate::who::{Who, entropy};

/// How long the ledger may be away before an order fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// The ledger for one service, by way of a node that is not believed: only what the ledger signed for this keep's own
/// nonce or request counts.
#[derive(Debug)]
pub(crate) struct Office {
    keys: Arc<Keys>,
    entropy: Entropy,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Applied {
    /// It took effect.
    Yes(Box<Receipt>),
    /// The rules said no. Nobody signs that: what is true, a reading tells.
    No(Refused),
    /// Nobody knows: it may have taken effect, and may yet.
    Unknown,
}

impl Office {
    pub(crate) fn new(keys: Arc<Keys>) -> Result<Self, Failure> {
        Ok(Self { keys, entropy: entropy()? })
    }

    /// The keys of the service that it is about.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) fn who(&self) -> &Who {
        &self.keys.who
    }

    /// The record, signed for a fresh nonce.
    pub(crate) fn read(&mut self) -> Result<Reading, Failure> {
        let until = Instant::now() + PATIENCE;
        let mut why = "no answer came";
        while Instant::now() < until {
            let nonce = self.entropy.nonce();
            let service = self.keys.spec.service;
            match self.keys.post.ask(LedgerQuery::Read { service, nonce }) {
                LedgerAnswer::Reading(reading)
                    if reading.record.service == service
                        && reading.is_fresh(self.who().keys.ledger, nonce, &*self.who().keys.checks) =>
                {
                    return Ok(reading);
                }
                LedgerAnswer::Refused(Refused::NoSuchService) => why = "it is said to know no such service",
                LedgerAnswer::Unreachable => why = "no answer came",
                _ => why = "what came as its answer is not what it signed for this question",
            }
            thread::sleep(PAUSE);
        }
        Err(Failure::Ledger(why))
    }

    /// Takes the service: for the first time.
    pub(crate) fn claim(&mut self, record: &Record) -> Result<Record, Failure> {
        self.take(record, |holder, platform, evidence| Operation::Claim { holder, platform, evidence })
    }

    /// Takes the service again, on the machine that holds it.
    pub(crate) fn resume(&mut self, record: &Record) -> Result<Record, Failure> {
        self.take(record, |holder, platform, evidence| Operation::Resume { holder, platform, evidence })
    }

    /// Takes the service from another machine. Its owner has to sign this, too.
    pub(crate) fn recover(&mut self, record: &Record) -> Result<Record, Failure> {
        self.take(record, |holder, platform, evidence| Operation::Recover { holder, platform, evidence })
    }

    /// Commits a state.
    pub(crate) fn commit(&mut self, record: &Record, state_hash: Digest) -> Applied {
        let action = Operation::Commit { parent: record.state_hash, state_hash };
        let request = self.request(record, action).signed(&*self.who().keys.holder);
        self.apply(request)
    }

    /// Takes the service, with evidence made for that.
    fn take(
        &mut self,
        record: &Record,
        operation: impl FnOnce(Key, PlatformId, Digest) -> Operation,
    ) -> Result<Record, Failure> {
        let (holder, platform) = (self.who().keys.holder.clone(), self.who().keys.platform.clone());
        let (instance, machine) = (holder.key(), self.who().platform());
        let Record { service, epoch, version, .. } = *record;
        let asker = Asker { service, epoch, version, holder: instance, platform: machine };
        let shown = self.keys.for_ledger(&asker)?;
        let action = operation(instance, machine, shown.digest());
        let request = self.request(record, action).signed(&*platform).signed(&*holder);
        let request = request.with_proof(ledger_proof(&self.keys.spec, shown, None)?);
        let epoch = request.epoch.saturating_add(1);
        match self.apply(request) {
            Applied::Yes(receipt) if receipt.record.is_held_by(instance, epoch) => Ok(receipt.record),
            Applied::Yes(_) => Err(Failure::NotHolder("its receipt names another holder".to_owned())),
            Applied::No(refused) => Err(Failure::NotHolder(refused.to_string())),
            Applied::Unknown => Err(Failure::Ledger("no answer came")),
        }
    }

    fn request(&mut self, record: &Record, action: Operation) -> Request {
        let (service, epoch, version) = (record.service, record.epoch, record.version);
        Request::new(service, self.entropy.operation(), epoch, version, action)
    }

    /// Sends the same request until it is answered: it has no second effect.
    fn apply(&mut self, request: Request) -> Applied {
        let until = Instant::now() + PATIENCE;
        let digest = request.digest();
        while Instant::now() < until {
            match self.keys.post.ask(LedgerQuery::Apply(Box::new(request.clone()))) {
                LedgerAnswer::Receipt(receipt)
                    if receipt.request == digest
                        && receipt.is_genuine(self.who().keys.ledger, &*self.who().keys.checks) =>
                {
                    return Applied::Yes(Box::new(receipt));
                }
                LedgerAnswer::Refused(refused) => return Applied::No(refused),
                _ => thread::sleep(PAUSE),
            }
        }
        Applied::Unknown
    }
}
