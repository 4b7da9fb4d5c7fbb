//! The ledger, as a keep that starts or commits asks it.

use std::thread;
use std::time::{Duration, Instant};

use dunlin_base::Digest;
use dunlin_handover::ledger::{Operation, Reading, Receipt, Record, Refused, Request};
use dunlin_handover::{Entropy, LedgerAnswer, LedgerQuery, PlatformId, ServiceId};

use crate::error::Failure;
use crate::outbox::Post;
use crate::who::{Who, entropy};

/// How long the ledger may be away before an order fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// The ledger for one service, by way of a node that is not believed: only what the ledger signed for this keep's own
/// nonce or request counts.
#[derive(Debug)]
pub(crate) struct Office {
    post: Post,
    who: Who,
    service: ServiceId,
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
    pub(crate) fn new(post: Post, who: Who, service: ServiceId) -> Result<Self, Failure> {
        Ok(Self { post, who, service, entropy: entropy()? })
    }

    pub(crate) fn who(&self) -> &Who {
        &self.who
    }

    /// The record, signed for a fresh nonce.
    pub(crate) fn read(&mut self) -> Result<Reading, Failure> {
        let until = Instant::now() + PATIENCE;
        let mut why = "no answer came";
        while Instant::now() < until {
            let nonce = self.entropy.nonce();
            let service = self.service;
            match self.post.ask(LedgerQuery::Read { service, nonce }) {
                LedgerAnswer::Reading(reading)
                    if reading.record.service == service
                        && reading.is_fresh(self.who.keys.ledger, nonce, &*self.who.keys.checks) =>
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
        let action =
            Operation::Claim { holder: self.who.keys.holder.key(), platform: self.platform(), evidence: evidence() };
        self.take(record, action)
    }

    /// Takes the service again, on the machine that holds it.
    pub(crate) fn resume(&mut self, record: &Record) -> Result<Record, Failure> {
        let action =
            Operation::Resume { holder: self.who.keys.holder.key(), platform: self.platform(), evidence: evidence() };
        self.take(record, action)
    }

    /// Takes the service from another machine. Its owner has to sign this, too.
    pub(crate) fn recover(&mut self, record: &Record) -> Result<Record, Failure> {
        let action =
            Operation::Recover { holder: self.who.keys.holder.key(), platform: self.platform(), evidence: evidence() };
        self.take(record, action)
    }

    /// Commits a state.
    pub(crate) fn commit(&mut self, record: &Record, state_hash: Digest) -> Applied {
        let action = Operation::Commit { parent: record.state_hash, state_hash };
        let request = self.request(record, action).signed(&*self.who.keys.holder);
        self.apply(request)
    }

    fn take(&mut self, record: &Record, action: Operation) -> Result<Record, Failure> {
        let request = self.request(record, action).signed(&*self.who.keys.platform).signed(&*self.who.keys.holder);
        let epoch = request.epoch.saturating_add(1);
        match self.apply(request) {
            Applied::Yes(receipt) if receipt.record.is_held_by(self.who.keys.holder.key(), epoch) => Ok(receipt.record),
            Applied::Yes(_) => Err(Failure::NotHolder("its receipt names another holder".to_owned())),
            Applied::No(refused) => Err(Failure::NotHolder(refused.to_string())),
            Applied::Unknown => Err(Failure::Ledger("no answer came")),
        }
    }

    fn request(&mut self, record: &Record, action: Operation) -> Request {
        let (service, epoch, version) = (record.service, record.epoch, record.version);
        Request { service, operation: self.entropy.operation(), epoch, version, action, signatures: Vec::new() }
    }

    /// Sends the same request until it is answered: it has no second effect.
    fn apply(&mut self, request: Request) -> Applied {
        let until = Instant::now() + PATIENCE;
        let digest = request.digest();
        while Instant::now() < until {
            match self.post.ask(LedgerQuery::Apply(Box::new(request.clone()))) {
                LedgerAnswer::Receipt(receipt)
                    if receipt.request == digest
                        && receipt.is_genuine(self.who.keys.ledger, &*self.who.keys.checks) =>
                {
                    return Applied::Yes(Box::new(receipt));
                }
                LedgerAnswer::Refused(refused) => return Applied::No(refused),
                _ => thread::sleep(PAUSE),
            }
        }
        Applied::Unknown
    }

    fn platform(&self) -> PlatformId {
        self.who.platform()
    }
}

/// The digest of this instance's evidence. Machines are certified by their providers; there is no evidence besides.
pub(crate) fn evidence() -> Digest {
    Digest::of(b"")
}
