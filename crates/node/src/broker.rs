//! The way to the broker that gives keeps their keys: beside the ledger in this process, a process of its own, or at the
//! node that keeps the ledger. What goes by is encrypted to the keep that asked, and signed by the broker.

use core::fmt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dunlin_attest::Policy;
use dunlin_broker::{Broker, ReleaseLog, Roots, Surroundings, Vault, signing_key};
use dunlin_handover::ledger::Reading;
use dunlin_handover::{Entropy, Key, Nonce, ServiceId};
use dunlin_identity::{Names, Verifier};
use dunlin_ledger::RedbLedger;
use tokio::net::UnixStream;

use crate::config::{Address, LedgerAt, NodeConfig, NodeKeys, ledger_key};
use crate::error::NodeError;
use crate::folder;
use crate::keep::lock;
use crate::ledger::LedgerWay;
use crate::peer::{self, Caller, Hello, Reply};
use crate::record::Subject;
use crate::socket;

/// How long a keep may say nothing on a stream to the broker in this process.
const SILENCE: Duration = Duration::from_secs(60);

/// The broker of a node. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct BrokerWay(Arc<At>);

#[derive(Debug)]
enum At {
    Here(Box<Embedded>),
    Process(PathBuf),
    Peer { address: Address, caller: Caller },
}

/// The broker in this process. It signs with the ledger's key: where a policy names no broker, whoever keeps the ledger
/// is it.
struct Embedded {
    broker: Mutex<Broker>,
    releases: Mutex<ReleaseLog>,
    vault: Vault,
    ledger: RedbLedger,
    key: Key,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("vault", &self.vault).finish_non_exhaustive()
    }
}

impl Surroundings for Embedded {
    fn read_ledger(&self, service: ServiceId, nonce: Nonce) -> Option<Reading> {
        self.ledger.read(service, nonce).ok()?.ok()
    }

    fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

impl BrokerWay {
    pub(crate) fn open(
        config: &NodeConfig,
        keys: &NodeKeys,
        ledger: &LedgerWay,
        caller: &Caller,
    ) -> Result<Self, NodeError> {
        let at = match (&config.broker, &config.ledger, ledger.here()) {
            (Some(socket), _, _) => At::Process(socket.clone()),
            (None, LedgerAt::Peer { address, .. }, _) => At::Peer { address: address.clone(), caller: caller.clone() },
            (None, LedgerAt::Here, Some(here)) => {
                At::Here(Box::new(Embedded::open(config, keys, here.clone(), ledger.key())?))
            }
            (None, LedgerAt::Here, None) => return Err(NodeError::LedgerAway { what: "begin as the broker" }),
        };
        Ok(Self(Arc::new(at)))
    }

    /// Connects a stream of a keep, or of another node's keep, with the broker. When this returns an error, nothing was
    /// read from it.
    pub(crate) async fn join(&self, subject: &Subject, stream: UnixStream) -> Result<(), NodeError> {
        let to = match &*self.0 {
            At::Here(_) => return self.serve(subject.clone(), stream).await,
            At::Process(path) => socket::connect_async(path).map_err(away)?,
            At::Peer { address, caller } => {
                let hello = Hello::Broker { subject: Box::new(subject.clone()) };
                match peer::connect(address, caller, &hello).await.map_err(away)? {
                    (stream, Reply::Ready) => stream,
                    (_, Reply::Moved { node }) => return Err(refused(format!("it is at {node}"))),
                    (_, Reply::Later { reason } | Reply::Refused { reason }) => return Err(refused(reason)),
                }
            }
        };
        tokio::spawn(async move {
            let (mut stream, mut to) = (stream, to);
            // Its end is the keep's business.
            let _ended = tokio::io::copy_bidirectional(&mut stream, &mut to).await;
        });
        Ok(())
    }

    /// Whether other nodes' keeps are connected with the broker through this node.
    pub(crate) fn is_known_here(&self) -> bool {
        !matches!(&*self.0, At::Peer { .. })
    }

    async fn serve(&self, subject: Subject, stream: UnixStream) -> Result<(), NodeError> {
        let stuck = NodeError::system("serve a stream to the broker");
        let stream = stream.into_std().and_then(|stream| {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(SILENCE))?;
            stream.set_write_timeout(Some(SILENCE))?;
            Ok(stream)
        });
        let (way, stream) = (self.clone(), stream.map_err(stuck)?);
        tokio::task::spawn_blocking(move || way.serve_blocking(&subject, stream))
            .await
            .map_err(|_| refused("the broker failed".to_owned()))?
    }

    fn serve_blocking(self, subject: &Subject, stream: StdUnixStream) -> Result<(), NodeError> {
        let At::Here(embedded) = &*self.0 else { return Ok(()) };
        embedded.know(subject)?;
        let way = self.clone();
        let builder = thread::Builder::new().name("dunlin-broker".to_owned()).stack_size(1 << 20);
        let serving = builder.spawn(move || {
            if let At::Here(embedded) = &*way.0 {
                let around: &Embedded = embedded;
                // Its end is the asker's business.
                let _ended = dunlin_broker::serve(stream, &around.broker, &around.releases, around);
            }
        });
        serving.map(drop).map_err(NodeError::system("start a thread"))
    }
}

impl Embedded {
    fn open(config: &NodeConfig, keys: &NodeKeys, ledger: RedbLedger, key: Key) -> Result<Self, NodeError> {
        let signing = signing_key(&ledger_key(&config.folder)?.to_pkcs8()?);
        let signing = signing.ok_or_else(|| refused("the ledger's key cannot sign answers".to_owned()))?;
        let vault = Vault::open(config.folder.join("broker"))?;
        let releases = ReleaseLog::open(&vault.path().join("releases"))?;
        // Simulated machines are named after their providers.
        let mut machines = Vec::new();
        for root in &keys.roots {
            machines.push(dunlin_attest_sim::machine_of(&Names::of(root)?.provider));
        }
        let roots = dunlin_attest_sim::roots(machines.iter().map(String::as_str));
        let roots = Roots::WithSimulation(roots.map_err(|error| refused(error.to_string()))?);
        let entropy = Entropy::new(folder::random()?);
        let broker = Broker::new(signing, Arc::new(Verifier::certified()), roots, entropy);
        Ok(Self { broker: Mutex::new(broker), releases: Mutex::new(releases), vault, ledger, key })
    }

    /// Keeps the keys of a service from here on, under the policy that its record in the ledger names. Whoever brings
    /// that policy can be anybody.
    fn know(&self, subject: &Subject) -> Result<(), NodeError> {
        let policy: Policy = subject.policy_in_force(self.key)?;
        let service = subject.service()?;
        if lock(&self.broker).policy_of(service) == Some(policy.hash()) {
            return Ok(());
        }
        let nonce = Nonce(folder::random()?);
        let reading = self.read_ledger(service, nonce).ok_or(NodeError::LedgerAway { what: "read a record" })?;
        if reading.record.policy_hash != policy.hash() {
            let in_force = reading.record.policy_hash;
            return Err(refused(format!("the policy {in_force} is in force, not {}", policy.hash())));
        }
        let keys = self.vault.service(service, policy, self.key)?;
        lock(&self.broker).keep(service, keys);
        Ok(())
    }
}

fn away(source: std::io::Error) -> NodeError {
    NodeError::System { what: "reach the broker", source }
}

fn refused(reason: String) -> NodeError {
    NodeError::Broker { reason }
}
