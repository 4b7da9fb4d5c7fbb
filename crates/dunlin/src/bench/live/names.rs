//! The parties of a measured move: keys that sign and are checked, and the ledger that they ask.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use dunlin_base::Digest;
use dunlin_handover::ledger::{Operation, Reading, Record, Recovery, Request, Signer};
use dunlin_handover::{Key, LedgerAnswer, LedgerCall, LedgerQuery, Nonce, OperationId, PlatformId, ServiceId};
use dunlin_identity::{PrivateKey, Verifier};
use dunlin_ledger::{Client, RedbLedger, serve};

use crate::failure::{Exit, Failure, Result};

/// Checks signatures, and takes any candidate.
pub(super) fn checker() -> Arc<Verifier> {
    Arc::new(Verifier::certified())
}

/// A key that nobody had before.
pub(super) fn fresh() -> Result<PrivateKey> {
    PrivateKey::generate().map_err(Failure::because(Exit::Software, "a key cannot be made"))
}

/// The policy under which services are measured.
pub(super) fn policy() -> Digest {
    Digest::of(b"dunlin bench live")
}

/// A ledger in a file, served on a socket to the processes of the measurement.
#[derive(Debug)]
pub(super) struct Register {
    ledger: RedbLedger,
    owner: PrivateKey,
    pub(super) socket: PathBuf,
    pub(super) key: Key,
}

impl Register {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let failed = "the ledger of the measurement cannot be opened";
        let signer = fresh()?;
        let key = signer.key();
        let ledger = RedbLedger::open(&directory.join("ledger"), checker(), Arc::new(signer))
            .map_err(Failure::because(Exit::CannotCreate, failed))?;
        let socket = directory.join("ledger.socket");
        // Of a measurement that was interrupted.
        let _none = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).map_err(Failure::because(Exit::CannotCreate, failed))?;
        let served = ledger.clone();
        let serving = move || {
            for stream in listener.incoming().flatten() {
                let ledger = served.clone();
                // An asker that goes away ends its own connection only.
                let _started = thread::Builder::new().spawn(move || drop(serve(stream, &ledger)));
            }
        };
        thread::Builder::new().spawn(serving).map_err(Failure::because(Exit::Software, failed))?;
        Ok(Self { ledger, owner: fresh()?, socket, key })
    }

    /// Enters a service that nobody holds yet.
    pub(super) fn create(&self, service: ServiceId) -> Result<()> {
        let action = Operation::Create {
            owner: self.owner.key(),
            state_hash: Digest::of(b""),
            policy_hash: policy(),
            policy_version: 1,
            recovery: Recovery::default(),
        };
        let operation = OperationId(service.0);
        let request = Request::new(service, operation, 0, 0, action);
        let failed = "the service of the measurement cannot be entered";
        self.ledger
            .apply(&request.signed(&self.owner))
            .map_err(Failure::because(Exit::Software, failed))?
            .map_err(Failure::because(Exit::Software, failed))?;
        Ok(())
    }

    /// What it says about the service.
    pub(super) fn record(&self, service: ServiceId) -> Result<Record> {
        let failed = "the ledger of the measurement does not answer";
        let read = self.ledger.read(service, Nonce([0; 32]));
        let reading: Reading = read
            .map_err(Failure::because(Exit::Software, failed))?
            .map_err(Failure::because(Exit::Software, failed))?;
        Ok(reading.record)
    }
}

/// The way of a process to the ledger.
pub(super) struct Asking {
    socket: PathBuf,
    client: Option<Client<UnixStream>>,
}

impl Asking {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), client: None }
    }

    pub(super) fn ask(&mut self, call: &LedgerCall) -> LedgerAnswer {
        if self.client.is_none() {
            self.client = UnixStream::connect(&self.socket).ok().map(Client::new);
        }
        let answer = self.client.as_mut().map(|client| client.call(call.clone()));
        match answer {
            Some(Ok(answer)) => answer,
            _ => {
                self.client = None;
                LedgerAnswer::Unreachable
            }
        }
    }

    /// The record of a service.
    pub(super) fn record(&mut self, service: ServiceId) -> Result<Record> {
        let query = LedgerQuery::Read { service, nonce: Nonce([1; 32]) };
        match self.ask(&LedgerCall { id: 0, query }) {
            LedgerAnswer::Reading(reading) => Ok(reading.record),
            other => Err(Failure::new(Exit::Software, format!("the ledger does not say who holds it: {other:?}"))),
        }
    }

    /// Becomes the first holder of a service.
    pub(super) fn claim(&mut self, service: ServiceId, holder: &PrivateKey, platform: &PrivateKey) -> Result<()> {
        let action = Operation::Claim {
            holder: holder.key(),
            platform: PlatformId(platform.key().0),
            evidence: Digest::of(b""),
        };
        let mut operation = OperationId(service.0);
        operation.0[0] ^= 1;
        let record = self.record(service)?;
        let Record { epoch, version, .. } = record;
        let request = Request::new(service, operation, epoch, version, action);
        let query = LedgerQuery::Apply(Box::new(request.signed(holder).signed(platform)));
        match self.ask(&LedgerCall { id: 1, query }) {
            LedgerAnswer::Receipt(_) => Ok(()),
            other => Err(Failure::new(Exit::Software, format!("the service cannot be claimed: {other:?}"))),
        }
    }
}
