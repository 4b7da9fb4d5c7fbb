//! A broker as a process of its own: it listens as a node does, to nothing but calls for the broker.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use dunlin_attest::{SigningKey, VerifyingKey};
use dunlin_handover::Key;

use super::here::Here;
use crate::config::{Address, Realm};
use crate::error::NodeError;
use crate::ledger::LedgerWay;
use crate::peer::{self, Accepted, Caller, Hello, Incoming, PeerListener, Reply};

/// What such a process is told.
#[derive(Clone)]
pub struct BrokerConfig {
    /// The key with which it signs: the one that policies name.
    pub key: SigningKey,
    /// Where roots, secrets and the record of releases are kept.
    pub vault: PathBuf,
    /// Where nodes reach it.
    pub listen: Address,
    /// Where the ledger is: a node that keeps it.
    pub ledger: Address,
    /// The ledger's key: only its word counts.
    pub ledger_key: Key,
    /// Whose policies count.
    pub owners: Vec<VerifyingKey>,
    /// Simulated machines that are believed besides those of the realm's providers, where a policy lets simulations in.
    pub simulated: Vec<String>,
}

impl std::fmt::Debug for BrokerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerConfig").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// A broker that listens.
#[derive(Debug)]
pub struct BrokerProcess {
    here: Arc<Here>,
    caller: Caller,
    listener: PeerListener,
    address: Address,
}

impl BrokerProcess {
    /// Opens the vault and listens. Certificates for TCP come from the realm.
    ///
    /// # Errors
    /// [`NodeError`] when files cannot be used or the address cannot be listened on.
    pub async fn open(realm: &Realm, config: BrokerConfig) -> Result<Self, NodeError> {
        let BrokerConfig { key, vault, listen, ledger, ledger_key, owners, simulated } = config;
        let (caller, keys) = realm.caller("broker")?;
        let ledger = LedgerWay::at(ledger, ledger_key, caller.clone());
        let here = Here::open(key, &vault, ledger, &keys.roots, &simulated, Some(owners))?;
        let listener = PeerListener::bind(&listen).await?;
        let address = listener.address(&listen);
        Ok(Self { here: Arc::new(here), caller, listener, address })
    }

    /// Where it listens, as it was bound.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Answers until the process ends.
    pub async fn serve(self) {
        let Self { here, caller, listener, .. } = self;
        loop {
            // A lack of descriptors passes.
            let Ok(stream) = listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            };
            let (here, caller) = (here.clone(), caller.clone());
            tokio::spawn(async move {
                // A stream that breaks is the caller's to open again.
                let _broken = answer(here, stream, &caller).await;
            });
        }
    }
}

async fn answer(here: Arc<Here>, stream: Accepted, caller: &Caller) -> io::Result<()> {
    let Incoming { hello, mut stream, .. } = peer::greet(stream, caller).await?;
    let Hello::Broker { subject } = hello else {
        let reason = "a broker listens here, and no node".to_owned();
        return peer::reply(&mut stream, &Reply::Refused { reason }).await;
    };
    peer::reply(&mut stream, &Reply::Ready).await?;
    // It ends at once, and the keep asks again: what stands in the way may pass.
    let _refused = here.serve(*subject, stream).await;
    Ok(())
}
