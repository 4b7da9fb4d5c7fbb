//! A node: its services, its keeps, its neighbours.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::task::AbortHandle;

use crate::arrive::{self, Moves};
use crate::broker::BrokerWay;
use crate::client::ApiClient;
use crate::config::{Address, NodeConfig, NodeKeys};
use crate::error::NodeError;
use crate::jobs::Jobs;
use crate::keep::{Pool, lock};
use crate::ledger::LedgerWay;
use crate::model::{Health, NodeInfo, NodeLine};
use crate::peer::{self, Accepted, Caller, Hello, Incoming, PeerListener, Reply};
use crate::record::{Record, Subject, is_name};
use crate::service::Service;
use crate::slots::Slots;
use crate::{folder, http, relay, verbs};

/// Longest module.
pub(crate) const MODULE_LIMIT: u64 = 256 << 20;

/// A node that runs.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    keys: NodeKeys,
    caller: Caller,
    ledger: LedgerWay,
    broker: BrokerWay,
    pool: Arc<Pool>,
    jobs: Jobs,
    moves: Moves,
    slots: Arc<Slots>,
    services: Mutex<BTreeMap<String, Arc<Service>>>,
    /// Where peers are: those of the configuration, and none else.
    peers: BTreeMap<String, Address>,
    /// Names of nodes by the id of their machine, as they said.
    platforms: Mutex<BTreeMap<String, String>>,
    tasks: Mutex<Vec<AbortHandle>>,
    listening: Mutex<Vec<Address>>,
}

impl Node {
    /// Starts a node: opens its folder, listens, and starts again what ran when it ended.
    ///
    /// # Errors
    /// [`NodeError`] when its folder cannot be used, or an address cannot be listened on.
    pub async fn start(config: NodeConfig, keys: NodeKeys) -> Result<Arc<Self>, NodeError> {
        if !is_name(&config.name) {
            return Err(NodeError::Invalid(format!("{:?} is no name for a node", config.name)));
        }
        folder::make(&config.folder)?;
        folder::make(&config.folder.join("modules"))?;
        let caller = Caller::new(&config.name, &keys)?;
        let ledger = LedgerWay::open(&config, &keys, &caller)?;
        let broker = BrokerWay::open(&config, &keys, &ledger, &caller)?;
        let pool = Pool::new(&config, &keys, ledger.clone())?;
        let jobs = Jobs::open(&config.folder.join("jobs"))?;
        let services = load(&config.folder.join("services"))?;
        let node = Arc::new(Self {
            peers: config.peers.clone(),
            config,
            keys,
            caller,
            ledger,
            broker,
            pool,
            jobs,
            moves: Moves::default(),
            slots: Arc::default(),
            services: Mutex::new(services),
            platforms: Mutex::default(),
            tasks: Mutex::default(),
            listening: Mutex::default(),
        });
        node.listen().await?;
        node.pool.fill();
        for service in node.services() {
            tokio::spawn(verbs::wake(node.clone(), service));
        }
        Ok(node)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The Unix socket of its HTTP API.
    pub fn api_socket(&self) -> PathBuf {
        api_socket(&self.config)
    }

    /// Where other nodes reach it, as it was bound.
    pub fn listening(&self) -> Vec<Address> {
        lock(&self.listening).clone()
    }

    /// How many connections it relays that moved here.
    pub fn carried_connections(&self) -> usize {
        self.slots.count()
    }

    /// Where clients reach a service through this node.
    pub fn service_addresses(&self, name: &str) -> Vec<std::net::SocketAddr> {
        let listen = self.service(name).map(|service| service.line(self.name()).listen).unwrap_or_default();
        listen.iter().filter_map(|address| address.parse().ok()).collect()
    }

    /// Ends it: services are suspended, so that they go on when the node starts again.
    pub async fn shut_down(self: &Arc<Self>) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        let suspended: Vec<_> = self
            .services()
            .into_iter()
            .map(|service| tokio::spawn(verbs::suspend_for_shutdown(self.clone(), service)))
            .collect();
        for task in suspended {
            let _panicked = task.await;
        }
        self.pool.close();
        let _gone = std::fs::remove_file(self.api_socket());
        for address in self.listening() {
            if let Address::Unix(path) = address {
                let _gone = std::fs::remove_file(path);
            }
        }
    }

    pub(crate) fn config(&self) -> &NodeConfig {
        &self.config
    }

    pub(crate) fn keys(&self) -> &NodeKeys {
        &self.keys
    }

    pub(crate) fn ledger(&self) -> &LedgerWay {
        &self.ledger
    }

    pub(crate) fn broker(&self) -> &BrokerWay {
        &self.broker
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub(crate) fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    pub(crate) fn moves(&self) -> &Moves {
        &self.moves
    }

    pub(crate) fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    pub(crate) fn services(&self) -> Vec<Arc<Service>> {
        lock(&self.services).values().cloned().collect()
    }

    pub(crate) fn service(&self, name: &str) -> Result<Arc<Service>, NodeError> {
        let found = lock(&self.services).get(name).cloned();
        found.ok_or_else(|| NodeError::NotFound(format!("there is no service {name}: `dunlin ps` lists them")))
    }

    pub(crate) fn service_by_id(&self, id: &str) -> Option<Arc<Service>> {
        self.services().into_iter().find(|service| service.id() == id)
    }

    /// Puts a new service into the table; an error if there is one of this name.
    pub(crate) fn add(&self, record: Record) -> Result<Arc<Service>, NodeError> {
        let name = record.document.name.clone();
        let mut services = lock(&self.services);
        if services.contains_key(&name) {
            return Err(NodeError::Conflict(format!(
                "there is a service {name} already: choose another name, or rm it"
            )));
        }
        let folder = self.service_folder(&name);
        folder::make(&folder)?;
        record.save(&folder)?;
        let service = Service::new(&folder, record)?;
        services.insert(name, service.clone());
        Ok(service)
    }

    /// Forgets a service and all its files.
    pub(crate) fn forget(&self, service: &Service) -> Result<(), NodeError> {
        service.unbind();
        lock(&self.services).remove(service.name());
        let folder = self.service_folder(service.name());
        std::fs::remove_dir_all(&folder).map_err(NodeError::file(folder, "removed"))
    }

    fn service_folder(&self, name: &str) -> PathBuf {
        self.config.folder.join("services").join(name)
    }

    pub(crate) fn module_path(&self, digest: &str) -> PathBuf {
        self.config.folder.join("modules").join(digest).with_extension("wasm")
    }

    pub(crate) fn info(&self) -> NodeInfo {
        let here = |service: &&Arc<Service>| service.away().is_none();
        NodeInfo {
            name: self.config.name.clone(),
            provider: self.config.provider.clone(),
            platform: self.keys.platform.public().thumbprint().to_string(),
            ledger: self.ledger.key().to_string(),
            product: concat!("dunlin ", env!("CARGO_PKG_VERSION")).to_owned(),
            process: std::process::id(),
            services: self.services().iter().filter(here).count(),
            warm_keeps: self.pool.warm(),
        }
    }

    pub(crate) fn peer(&self, name: &str) -> Result<&Address, NodeError> {
        self.peers.get(name).ok_or_else(|| {
            NodeError::NotFound(format!("node {} knows no node {name}: `dunlin node ls` lists them", self.name()))
        })
    }

    pub(crate) fn peers(&self) -> &BTreeMap<String, Address> {
        &self.peers
    }

    /// Calls another node.
    pub(crate) async fn call(&self, name: &str, hello: &Hello) -> Result<(UnixStream, Reply), NodeError> {
        let address = self.peer(name)?;
        peer::connect(address, &self.caller, hello).await.map_err(|source| NodeError::Unreachable {
            node: name.to_owned(),
            address: address.to_string(),
            source,
        })
    }

    /// The HTTP API of another node.
    pub(crate) fn api_of(&self, name: &str) -> Result<ApiClient, NodeError> {
        Ok(ApiClient::at_address(self.peer(name)?.clone(), self.caller.clone()))
    }

    /// All nodes, and whether they answer.
    pub(crate) async fn nodes(&self) -> Vec<NodeLine> {
        let own = self.listening().first().map(Address::to_string).unwrap_or_default();
        let this =
            NodeLine { name: self.name().to_owned(), address: own, health: Health::This, info: Some(self.info()) };
        let mut asked = Vec::new();
        for (name, address) in &self.peers {
            let api = self.api_of(name);
            let task = tokio::spawn(async move {
                let ask = async { api.ok()?.get::<NodeInfo>("/v1/node").await.ok() };
                tokio::time::timeout(Duration::from_secs(2), ask).await.ok().flatten()
            });
            asked.push((name.clone(), address.to_string(), task));
        }
        let mut nodes = vec![this];
        for (name, address, task) in asked {
            let info = task.await.ok().flatten();
            if let Some(info) = &info {
                lock(&self.platforms).insert(info.platform.clone(), name.clone());
            }
            let health = if info.is_some() { Health::Up } else { Health::Down };
            nodes.push(NodeLine { name, address, health, info });
        }
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }

    /// The node of a machine, if it is a known one.
    pub(crate) async fn node_of(&self, platform: &str) -> Option<String> {
        if self.keys.platform.public().thumbprint().to_string() == platform {
            return Some(self.name().to_owned());
        }
        let known = lock(&self.platforms).get(platform).cloned();
        if known.is_some() {
            return known;
        }
        self.nodes().await;
        lock(&self.platforms).get(platform).cloned()
    }

    async fn listen(self: &Arc<Self>) -> Result<(), NodeError> {
        for address in &self.config.listen {
            let listener = PeerListener::bind(address).await?;
            lock(&self.listening).push(listener.address(address));
            let node = self.clone();
            self.keep_running(async move {
                loop {
                    match listener.accept().await {
                        Ok(stream) => {
                            tokio::spawn(node.clone().serve(stream));
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            });
        }
        let path = self.api_socket();
        let failed = |source| NodeError::Listen { address: path.display().to_string(), source };
        let listener = peer::listen(&path).map_err(failed)?;
        let router = http::router(self.clone());
        self.keep_running(async move {
            // It ends with the node.
            let _ended = axum::serve(listener, router).await;
        });
        Ok(())
    }

    fn keep_running(&self, task: impl Future<Output = ()> + Send + 'static) {
        lock(&self.tasks).push(tokio::spawn(task).abort_handle());
    }

    /// Serves one stream of another node.
    async fn serve(self: Arc<Self>, stream: Accepted) {
        if let Ok(incoming) = peer::greet(stream, &self.caller).await {
            // A stream that breaks is the caller's to open again.
            let _broken = self.answer(incoming).await;
        }
    }

    async fn answer(self: &Arc<Self>, incoming: Incoming) -> io::Result<()> {
        let Incoming { from, hello, mut stream } = incoming;
        match hello {
            Hello::Http => {
                peer::reply(&mut stream, &Reply::Ready).await?;
                http::serve_stream(self.clone(), stream).await
            }
            Hello::Ledger => self.answer_ledger(stream).await,
            Hello::Broker { subject } => self.answer_broker(&subject, stream).await,
            Hello::Migrate { migration, document, dry_run } => {
                arrive::migrate(self.clone(), from, migration, *document, dry_run, stream).await
            }
            Hello::Reconnect { migration } => arrive::reconnect(self, &migration, stream).await,
            Hello::Connect { service, listener } => self.answer_connect(&service, listener, stream).await,
            Hello::Carried { migration, connection, part } => {
                relay::carry(self.clone(), stream, (migration, connection), part).await
            }
        }
    }

    async fn answer_ledger(self: &Arc<Self>, mut stream: UnixStream) -> io::Result<()> {
        let Some(ledger) = self.ledger.here().cloned() else {
            let reason = format!("node {} keeps no ledger", self.name());
            return peer::reply(&mut stream, &Reply::Refused { reason }).await;
        };
        peer::reply(&mut stream, &Reply::Ready).await?;
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        std::thread::Builder::new().name("dunlin-ledger".to_owned()).stack_size(512 << 10).spawn(move || {
            // Its end is the asker's business.
            let _ended = dunlin_ledger::serve(stream, &ledger);
        })?;
        Ok(())
    }

    async fn answer_broker(self: &Arc<Self>, subject: &Subject, mut stream: UnixStream) -> io::Result<()> {
        if !self.broker.is_known_here() {
            let reason = format!("node {} keeps no ledger, and is not told of a broker", self.name());
            return peer::reply(&mut stream, &Reply::Refused { reason }).await;
        }
        peer::reply(&mut stream, &Reply::Ready).await?;
        // It ends at once, and the keep asks again: what stands in the way may pass.
        let _refused = self.broker.join(subject, stream).await;
        Ok(())
    }

    async fn answer_connect(self: &Arc<Self>, id: &str, listener: u32, mut stream: UnixStream) -> io::Result<()> {
        let Some(service) = self.service_by_id(id) else {
            let reason = format!("node {} does not know the service", self.name());
            return peer::reply(&mut stream, &Reply::Refused { reason }).await;
        };
        if let Some(node) = service.away() {
            return peer::reply(&mut stream, &Reply::Moved { node }).await;
        }
        match service.reachable(listener) {
            Some(address) => {
                peer::reply(&mut stream, &Reply::Ready).await?;
                relay::accept(stream, address).await
            }
            None => {
                let reason = "the service does not run just now".to_owned();
                peer::reply(&mut stream, &Reply::Later { reason }).await
            }
        }
    }
}

fn api_socket(config: &NodeConfig) -> PathBuf {
    config.api.clone().unwrap_or_else(|| config.folder.join("api.sock"))
}

fn load(folder: &Path) -> Result<BTreeMap<String, Arc<Service>>, NodeError> {
    folder::make(folder)?;
    let mut services = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(NodeError::file(folder, "read"))? {
        let path = entry.map_err(NodeError::file(folder, "read"))?.path();
        // Without a record, a deployment was cut off before it was answered.
        let Some(record) = Record::load(&path)? else { continue };
        let service = Service::new(&path, record)?;
        services.insert(service.name().to_owned(), service);
    }
    Ok(services)
}
