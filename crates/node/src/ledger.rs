//! The way to the ledger: in this process, or at a peer. What comes back is carried, not believed.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use dunlin_attest::Policy;
use dunlin_attested::Judge;
use dunlin_base::Digest;
use dunlin_handover::ledger::{Candidate, Operation, Reading, Recovery, Request, Signer as _};
use dunlin_handover::{Key, LedgerAnswer, LedgerCall, LedgerQuery, Nonce, OperationId, ServiceId};
use dunlin_identity::{PrivateKey, Verifier};
use dunlin_ledger::{Client, RedbLedger};

use crate::config::{Address, LedgerAt, NodeConfig, NodeKeys, ledger_key, now, simulated};
use crate::error::NodeError;
use crate::folder;
use crate::peer::{self, Caller, Hello};

/// How long a ledger may take for an answer before it counts as unreachable.
const PATIENCE: Duration = Duration::from_secs(5);

/// The ledger of a node. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LedgerWay {
    key: Key,
    at: Arc<At>,
}

#[derive(Debug)]
enum At {
    Here(RedbLedger),
    Peer { address: Address, caller: Caller },
}

/// A conversation with the ledger, of one thread.
pub(crate) struct Session {
    at: Arc<At>,
    client: Option<Client<UnixStream>>,
}

impl LedgerWay {
    pub(crate) fn open(config: &NodeConfig, keys: &NodeKeys, caller: &Caller) -> Result<Self, NodeError> {
        match &config.ledger {
            LedgerAt::Here => {
                let signer = ledger_key(&config.folder)?;
                let key = signer.key();
                let path = config.folder.join("ledger.redb");
                let judge = Judge::new(key, Some(simulated(&keys.roots, &[])?));
                let appraisal = move |candidate: &Candidate<'_>| judge.appraise(candidate, now());
                let checks = Verifier::appraising(Arc::new(appraisal));
                let ledger = RedbLedger::open(&path, Arc::new(checks), Arc::new(signer))?;
                Ok(Self { key, at: Arc::new(At::Here(ledger)) })
            }
            LedgerAt::Peer { address, key } => {
                let at = At::Peer { address: address.clone(), caller: caller.clone() };
                Ok(Self { key: *key, at: Arc::new(at) })
            }
        }
    }

    /// The ledger that a node at this address keeps.
    pub(crate) fn at(address: Address, key: Key, caller: Caller) -> Self {
        Self { key, at: Arc::new(At::Peer { address, caller }) }
    }

    /// The key whose word counts.
    pub(crate) fn key(&self) -> Key {
        self.key
    }

    /// The ledger itself, if this node keeps it.
    pub(crate) fn here(&self) -> Option<&RedbLedger> {
        match &*self.at {
            At::Here(ledger) => Some(ledger),
            At::Peer { .. } => None,
        }
    }

    pub(crate) fn session(&self) -> Session {
        Session { at: self.at.clone(), client: None }
    }

    /// What the ledger says about a service.
    pub(crate) async fn read(&self, service: ServiceId) -> Result<Option<Reading>, NodeError> {
        const WHAT: &str = "read a record";
        let nonce = Nonce(folder::random()?);
        match self.ask(LedgerQuery::Read { service, nonce }, WHAT).await? {
            LedgerAnswer::Reading(reading) if reading.is_fresh(self.key, nonce, &Verifier::certified()) => {
                Ok(Some(reading))
            }
            LedgerAnswer::Refused(_) => Ok(None),
            _ => Err(NodeError::LedgerAway { what: WHAT }),
        }
    }

    /// Makes the record of a new service.
    pub(crate) async fn create(
        &self,
        service: ServiceId,
        policy: &Policy,
        owner: &PrivateKey,
    ) -> Result<(), NodeError> {
        let action = Operation::Create {
            owner: owner.key(),
            // Before its first start, a service has no state.
            state_hash: Digest::of(b""),
            policy_hash: policy.hash(),
            policy_version: policy.document().version,
            recovery: Recovery::default(),
        };
        self.apply(service, 0, 0, action, owner, "create the service").await
    }

    /// Ends a service for ever. One that the ledger does not know is ended already.
    pub(crate) async fn retire(&self, service: ServiceId, owner: &PrivateKey) -> Result<(), NodeError> {
        for _ in 0..3 {
            let Some(reading) = self.read(service).await? else { return Ok(()) };
            let record = reading.record;
            if record.status == dunlin_handover::ledger::Status::Retired {
                return Ok(());
            }
            // Somebody's commit may come in between.
            match self.apply(service, record.epoch, record.version, Operation::Retire, owner, "end the service").await {
                Err(NodeError::LedgerRefused { .. }) => {}
                done => return done,
            }
        }
        Err(NodeError::LedgerRefused { what: "end the service", reason: "its record changes all the time".to_owned() })
    }

    async fn apply(
        &self,
        service: ServiceId,
        epoch: u64,
        version: u64,
        action: Operation,
        signer: &PrivateKey,
        what: &'static str,
    ) -> Result<(), NodeError> {
        let operation = OperationId(folder::random()?);
        let request = Request::new(service, operation, epoch, version, action).signed(signer);
        match self.ask(LedgerQuery::Apply(Box::new(request)), what).await? {
            LedgerAnswer::Receipt(_) => Ok(()),
            LedgerAnswer::Refused(refused) => Err(NodeError::LedgerRefused { what, reason: refused.to_string() }),
            _ => Err(NodeError::LedgerAway { what }),
        }
    }

    async fn ask(&self, query: LedgerQuery, what: &'static str) -> Result<LedgerAnswer, NodeError> {
        let mut session = self.session();
        tokio::task::spawn_blocking(move || session.ask(LedgerCall { id: 0, query }))
            .await
            .map_err(|_| NodeError::LedgerAway { what })
    }
}

impl Session {
    /// Carries a question; blocks. What cannot be answered is answered as unreachable.
    pub(crate) fn ask(&mut self, call: LedgerCall) -> LedgerAnswer {
        match &*self.at {
            At::Here(ledger) => ledger.call(&call).map_or(LedgerAnswer::Unreachable, |reply| reply.answer),
            At::Peer { address, caller } => {
                // A connection that lay idle may have been ended by the other side: then once more on a fresh one. Sending
                // a request twice has no second effect.
                for _ in 0..2 {
                    let was_open = self.client.is_some();
                    let Some(mut client) = self.client.take().or_else(|| connect(address, caller)) else { break };
                    if let Ok(answer) = client.call(call.clone()) {
                        self.client = Some(client);
                        return answer;
                    }
                    if !was_open {
                        break;
                    }
                }
                LedgerAnswer::Unreachable
            }
        }
    }
}

fn connect(address: &Address, caller: &Caller) -> Option<Client<UnixStream>> {
    let stream = peer::connect_blocking(address, caller, &Hello::Ledger, PATIENCE).ok()?;
    Some(Client::new(stream))
}
