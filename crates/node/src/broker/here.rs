//! A broker in this process: its vault, its record of releases, and the services that it has heard of.

use core::fmt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use dunlin_attest::{SigningKey, VerifyingKey};
use dunlin_broker::{Broker, ReleaseLog, Roots, Surroundings, Vault};
use dunlin_handover::ledger::Reading;
use dunlin_handover::{Entropy, LedgerAnswer, LedgerCall, LedgerQuery, Nonce, ServiceId};
use dunlin_identity::{Certificate, Verifier};
use tokio::net::UnixStream;

use super::refused;
use crate::config;
use crate::error::NodeError;
use crate::folder;
use crate::keep::lock;
use crate::ledger::LedgerWay;
use crate::record::Subject;

/// How long a keep may say nothing on its stream.
const SILENCE: Duration = Duration::from_secs(60);

/// The broker in this process.
pub(super) struct Here {
    broker: Mutex<Broker>,
    releases: Mutex<ReleaseLog>,
    vault: Vault,
    ledger: LedgerWay,
    /// Only policies of these owners, and none that nobody signed.
    owners: Option<Vec<VerifyingKey>>,
}

impl fmt::Debug for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Here").field("vault", &self.vault).finish_non_exhaustive()
    }
}

impl Surroundings for Here {
    fn read_ledger(&self, service: ServiceId, nonce: Nonce) -> Option<Reading> {
        match self.ledger.session().ask(LedgerCall { id: 0, query: LedgerQuery::Read { service, nonce } }) {
            LedgerAnswer::Reading(reading) => Some(reading),
            _ => None,
        }
    }

    fn now(&self) -> u64 {
        config::now()
    }
}

impl Here {
    /// Opens the vault. Simulated machines are believed that are named after these providers, or like this, where a
    /// policy lets simulations in.
    pub(super) fn open(
        key: SigningKey,
        vault: &Path,
        ledger: LedgerWay,
        roots: &[Certificate],
        simulated: &[String],
        owners: Option<Vec<VerifyingKey>>,
    ) -> Result<Self, NodeError> {
        let vault = Vault::open(vault)?;
        let releases = ReleaseLog::open(&vault.path().join("releases"))?;
        let roots = Roots::WithSimulation(config::simulated(roots, simulated)?);
        let broker = Broker::new(key, Arc::new(Verifier::certified()), roots, Entropy::new(folder::random()?));
        Ok(Self { broker: Mutex::new(broker), releases: Mutex::new(releases), vault, ledger, owners })
    }

    /// Answers a keep of `subject` until its stream ends.
    pub(super) async fn serve(self: Arc<Self>, subject: Subject, stream: UnixStream) -> Result<(), NodeError> {
        let stuck = NodeError::system("serve a stream to the broker");
        let stream = stream.into_std().and_then(|stream| {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(SILENCE))?;
            stream.set_write_timeout(Some(SILENCE))?;
            Ok(stream)
        });
        let stream = stream.map_err(stuck)?;
        let known = tokio::task::spawn_blocking(move || self.know(&subject).and_then(|()| self.answer(stream)));
        known.await.map_err(|_| refused("it failed"))?
    }

    fn answer(self: Arc<Self>, stream: StdUnixStream) -> Result<(), NodeError> {
        let builder = thread::Builder::new().name("dunlin-broker".to_owned()).stack_size(1 << 20);
        let serving = builder.spawn(move || {
            // Its end is the asker's business.
            let _ended = dunlin_broker::serve(stream, &self.broker, &self.releases, &*self);
        });
        serving.map(drop).map_err(NodeError::system("start a thread"))
    }

    /// Keeps the keys of a service from here on, under the policy that its record in the ledger names. Whoever brings
    /// that policy can be anybody.
    fn know(&self, subject: &Subject) -> Result<(), NodeError> {
        let policy = subject.policy_in_force(self.ledger.key())?;
        let service = subject.service()?;
        if let Some(owners) = &self.owners
            && !owners.iter().any(|owner| subject.is_signed_by(owner))
        {
            return Err(refused("it serves other owners than the one of this policy"));
        }
        let nonce = Nonce(folder::random()?);
        let reading = self.read_ledger(service, nonce).ok_or(NodeError::LedgerAway { what: "read a record" })?;
        if reading.record.policy_hash != policy.hash() {
            let in_force = reading.record.policy_hash;
            return Err(refused(format!("the policy {in_force} is in force, not {}", policy.hash())));
        }
        // Each time anew: its owner may have put a secret there meanwhile.
        let keys = self.vault.service(service, policy, self.ledger.key())?;
        lock(&self.broker).keep(service, keys);
        Ok(())
    }
}
