//! What a node is told when it starts: its name, its folder, its keys, its neighbours.
//!
//! ```text
//!   DIR                          a realm, as `dunlin up` makes it
//!     owner.key                  the key that owns the services
//!     provider.key, provider.crt the one provider, and its root
//!     nodes/NAME                 the folder of a node
//!       platform.key, machine.chain
//!       ledger.key, ledger.redb, broker (on the node that keeps the ledger)
//!       api.sock, peer.sock
//!       services/NAME, modules, jobs
//! ```

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dunlin_attest::SimRoots;
use dunlin_attest_sim::machine_of;
use dunlin_attesters::Choice;
use dunlin_handover::Key;
use dunlin_handover::ledger::Signer as _;
use dunlin_identity::{Certificate, Issuer, Names, PrivateKey};

use crate::client::ApiClient;
use crate::error::NodeError;
use crate::folder;
use crate::peer::Caller;

/// How long the certificates of a realm on one machine hold: ten years. Nobody outside this machine believes them.
const VALID: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Longest key file.
const KEY_LIMIT: u64 = 8 << 10;
/// Longest chain file.
const CHAIN_LIMIT: u64 = 256 << 10;

/// Where a node is reached by others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket on this machine.
    Unix(PathBuf),
    /// Host and port.
    Tcp(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("no path after unix:".to_owned()),
            Some(path) => Ok(Self::Unix(PathBuf::from(path))),
            None if text
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) =>
            {
                Ok(Self::Tcp(text.to_owned()))
            }
            None => Err(format!("{text:?} is no address: write HOST:PORT, or unix:PATH")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// The program that is started for each keep; the number of its link's descriptor is added.
#[derive(Debug, Clone)]
pub struct KeepProgram {
    /// Its path.
    pub program: PathBuf,
    /// What comes before `--link N`.
    pub arguments: Vec<OsString>,
}

impl KeepProgram {
    /// `DUNLIN_KEEP` if it is set, else `dunlin-keep` beside this program, else this program with `arguments`.
    ///
    /// # Errors
    /// If this program's own path is unknown.
    pub fn find(arguments: &[&str]) -> Result<Self, NodeError> {
        if let Some(program) = std::env::var_os("DUNLIN_KEEP").filter(|value| !value.is_empty()) {
            return Ok(Self { program: program.into(), arguments: Vec::new() });
        }
        let own = std::env::current_exe().map_err(NodeError::system("find its own program"))?;
        let beside = own.with_file_name("dunlin-keep");
        if beside.is_file() {
            return Ok(Self { program: beside, arguments: Vec::new() });
        }
        Ok(Self { program: own, arguments: arguments.iter().map(OsString::from).collect() })
    }
}

/// Where the ledger is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerAt {
    /// In this node's folder. Other nodes reach it through this node.
    Here,
    /// At another node.
    Peer {
        /// Its address.
        address: Address,
        /// The ledger's key: only its word counts.
        key: Key,
    },
}

/// A node, as it is configured.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// What people and programs call it.
    pub name: String,
    /// Whose machine it is.
    pub provider: String,
    /// Its folder.
    pub folder: PathBuf,
    /// The HTTP API's Unix socket, if not `api.sock` in the folder.
    pub api: Option<PathBuf>,
    /// Where other nodes reach it.
    pub listen: Vec<Address>,
    /// The other nodes.
    pub peers: BTreeMap<String, Address>,
    /// Where the ledger is.
    pub ledger: LedgerAt,
    /// The socket of a broker that is a process of its own, for services whose policy names one.
    pub broker: Option<PathBuf>,
    /// What speaks for this machine to owners, brokers and other keeps.
    pub attester: Choice,
    /// Where a service listens whose own address is not free or not of this machine.
    pub host: IpAddr,
    /// Keeps that wait for work.
    pub warm_keeps: usize,
    /// The keep.
    pub keep: KeepProgram,
}

/// The keys of a node.
#[derive(Debug, Clone)]
pub struct NodeKeys {
    /// The machine's, which signs for it in the ledger.
    pub platform: PrivateKey,
    /// The machine's certificate and those above it, root last.
    pub chain: Vec<Certificate>,
    /// Roots of the providers that are believed.
    pub roots: Vec<Certificate>,
    /// The key that owns services that are deployed here.
    pub owner: PrivateKey,
}

/// Simulated machines that are believed where a policy lets simulations in: those that are named after these providers, and
/// `others`.
pub(crate) fn simulated(providers: &[Certificate], others: &[String]) -> Result<SimRoots, NodeError> {
    let mut machines = others.to_vec();
    for root in providers {
        machines.push(machine_of(&Names::of(root)?.provider));
    }
    let roots = dunlin_attest_sim::roots(machines.iter().map(String::as_str));
    roots.map_err(|error| NodeError::Invalid(format!("simulated machines cannot be named: {error}")))
}

/// Seconds since 1970, as this machine has it.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A realm: one owner and one provider, whose keys lie in one folder. For a single machine or a trial; real providers
/// and owners keep their keys elsewhere.
#[derive(Debug)]
pub struct Realm {
    folder: PathBuf,
    owner: PrivateKey,
    provider: Issuer,
    name: String,
}

impl Realm {
    /// Opens the realm of a folder, which is made if there is none.
    ///
    /// # Errors
    /// [`NodeError`] when files cannot be read or written.
    pub fn open(folder: &Path, provider: &str) -> Result<Self, NodeError> {
        folder::make(folder)?;
        let owner = key(&folder.join("owner.key"))?;
        let issuer = provider_key(folder, provider)?;
        Ok(Self { folder: folder.to_owned(), owner, provider: issuer, name: provider.to_owned() })
    }

    /// The folder of one of its nodes.
    pub fn node_folder(&self, name: &str) -> PathBuf {
        self.folder.join("nodes").join(name)
    }

    /// The name of the provider.
    pub fn provider(&self) -> &str {
        &self.name
    }

    /// The keys of a node, which are made if there are none.
    ///
    /// # Errors
    /// [`NodeError`] when files cannot be read or written.
    pub fn keys(&self, name: &str) -> Result<NodeKeys, NodeError> {
        let folder = self.node_folder(name);
        folder::make(&folder)?;
        let platform = key(&folder.join("platform.key"))?;
        let path = folder.join("machine.chain");
        let chain = match folder::read(&path, CHAIN_LIMIT)? {
            Some(bytes) => split(&bytes).ok_or_else(|| damaged(&path, "not a list of certificates"))?,
            None => {
                let chain = self.provider.certify_node(name, platform.public(), VALID)?;
                folder::write(&path, &join(&chain))?;
                chain
            }
        };
        let roots = self.provider.chain().last().cloned().into_iter().collect();
        Ok(NodeKeys { platform, chain, roots, owner: self.owner.clone() })
    }

    /// The API of the node at this address, for whoever may read the realm's keys.
    ///
    /// # Errors
    /// [`NodeError`] when no key can be made.
    pub fn client(&self, address: Address) -> Result<ApiClient, NodeError> {
        Ok(ApiClient::at_address(address, self.caller("operator")?.0))
    }

    /// Somebody of this realm who is no node and calls nodes.
    pub(crate) fn caller(&self, name: &str) -> Result<(Caller, NodeKeys), NodeError> {
        let platform = PrivateKey::generate()?;
        let chain = self.provider.certify_node(name, platform.public(), VALID)?;
        let roots = self.provider.chain().last().cloned().into_iter().collect();
        let keys = NodeKeys { platform, chain, roots, owner: self.owner.clone() };
        Ok((Caller::new(name, &keys)?, keys))
    }

    /// The key of the ledger that the node `name` keeps; it is made if there is none.
    ///
    /// # Errors
    /// [`NodeError`] when files cannot be read or written.
    pub fn ledger_key(&self, name: &str) -> Result<Key, NodeError> {
        let folder = self.node_folder(name);
        folder::make(&folder)?;
        Ok(ledger_key(&folder)?.key())
    }
}

/// The signing key of the ledger in a node's folder.
pub(crate) fn ledger_key(folder: &Path) -> Result<PrivateKey, NodeError> {
    key(&folder.join("ledger.key"))
}

fn provider_key(folder: &Path, name: &str) -> Result<Issuer, NodeError> {
    let signing = key(&folder.join("provider.key"))?;
    let path = folder.join("provider.crt");
    match folder::read(&path, CHAIN_LIMIT)? {
        Some(root) => Ok(Issuer::new(signing, vec![root])?),
        None => {
            let issuer = Issuer::provider(name, signing, VALID)?;
            if let Some(root) = issuer.chain().first() {
                folder::write(&path, root)?;
            }
            Ok(issuer)
        }
    }
}

fn key(path: &Path) -> Result<PrivateKey, NodeError> {
    match folder::read(path, KEY_LIMIT)? {
        Some(bytes) => PrivateKey::from_pkcs8(&bytes).map_err(|error| damaged(path, &error.to_string())),
        None => {
            let key = PrivateKey::generate()?;
            folder::write(path, &key.to_pkcs8()?)?;
            Ok(key)
        }
    }
}

fn damaged(path: &Path, reason: &str) -> NodeError {
    NodeError::Damaged { path: path.to_owned(), reason: reason.to_owned() }
}

fn join(chain: &[Certificate]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for certificate in chain {
        bytes.extend_from_slice(&(certificate.len() as u32).to_le_bytes());
        bytes.extend_from_slice(certificate);
    }
    bytes
}

fn split(mut bytes: &[u8]) -> Option<Vec<Certificate>> {
    let mut chain = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (certificate, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        chain.push(certificate.to_vec());
        bytes = rest;
    }
    Some(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!("unix:/a/b".parse(), Ok(Address::Unix("/a/b".into())));
        assert_eq!("[::1]:80".parse(), Ok(Address::Tcp("[::1]:80".to_owned())));
        assert_eq!("host:80".parse::<Address>().unwrap().to_string(), "host:80");
        for wrong in ["", "unix:", "host", "host:", ":80", "host:port", "host:70000"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn chains_come_back() {
        let chain = vec![vec![1, 2, 3], Vec::new(), vec![4]];
        assert_eq!(split(&join(&chain)), Some(chain.clone()));
        let bytes = join(&chain);
        assert_eq!(split(&bytes[..bytes.len() - 1]), None);
        assert_eq!(split(&[255, 255, 255, 255]), None);
    }
}
