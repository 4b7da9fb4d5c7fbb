//! The way to the broker that gives keeps their keys: beside the ledger in this process, a process of its own, or at the
//! node that keeps the ledger. What goes by is encrypted to the keep that asked, and signed by the broker.

mod here;
mod process;

use std::path::PathBuf;
use std::sync::Arc;

use dunlin_handover::Key;
use tokio::net::UnixStream;

use crate::config::{Address, LedgerAt, NodeConfig, NodeKeys, ledger_key};
use crate::error::NodeError;
use crate::ledger::LedgerWay;
use crate::peer::{self, Caller, Hello, Reply};
use crate::record::Subject;

use here::Here;
pub use process::{BrokerConfig, BrokerProcess};

/// The brokers of a node. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct BrokerWay {
    ledger: Key,
    caller: Caller,
    /// For services whose policy names no broker: whoever keeps the ledger.
    usual: Usual,
    /// For those whose policy names one: a process of its own.
    named: Option<Address>,
}

#[derive(Debug, Clone)]
enum Usual {
    Here(Arc<Here>),
    AtNode(Address),
}

impl BrokerWay {
    pub(crate) fn open(
        config: &NodeConfig,
        keys: &NodeKeys,
        ledger: &LedgerWay,
        caller: &Caller,
    ) -> Result<Self, NodeError> {
        let usual = match &config.ledger {
            LedgerAt::Peer { address, .. } => Usual::AtNode(address.clone()),
            LedgerAt::Here => {
                let key = ledger_key(&config.folder)?.to_pkcs8()?;
                let key = dunlin_broker::signing_key(&key);
                let key = key.ok_or_else(|| refused("the ledger's key cannot sign answers"))?;
                let vault: PathBuf = config.folder.join("broker");
                Usual::Here(Arc::new(Here::open(key, &vault, ledger.clone(), &keys.roots, &[], None)?))
            }
        };
        let named = config.broker.clone().map(Address::Unix);
        Ok(Self { ledger: ledger.key(), caller: caller.clone(), usual, named })
    }

    /// Connects a stream of a keep, or of another node's keep, with the broker. When this returns an error, nothing was
    /// read from it.
    pub(crate) async fn join(&self, subject: &Subject, mut stream: UnixStream) -> Result<(), NodeError> {
        let named = match &self.named {
            Some(address) if subject.policy_in_force(self.ledger)?.document().broker.is_some() => Some(address),
            _ => None,
        };
        let address = match (named, &self.usual) {
            (Some(address), _) | (None, Usual::AtNode(address)) => address,
            (None, Usual::Here(here)) => return here.clone().serve(subject.clone(), stream).await,
        };
        let hello = Hello::Broker { subject: Box::new(subject.clone()) };
        let away = |source| NodeError::System { what: "reach the broker", source };
        let mut to = match peer::connect(address, &self.caller, &hello).await.map_err(away)? {
            (stream, Reply::Ready) => stream,
            (_, Reply::Moved { node }) => return Err(refused(format!("it is at {node}"))),
            (_, Reply::Later { reason } | Reply::Refused { reason }) => return Err(refused(reason)),
        };
        tokio::spawn(async move {
            // Its end is the keep's business.
            let _ended = tokio::io::copy_bidirectional(&mut stream, &mut to).await;
        });
        Ok(())
    }

    /// Whether other nodes' keeps are connected with a broker through this node.
    pub(crate) fn is_known_here(&self) -> bool {
        self.named.is_some() || matches!(self.usual, Usual::Here(_))
    }
}

fn refused(reason: impl Into<String>) -> NodeError {
    NodeError::Broker { reason: reason.into() }
}
