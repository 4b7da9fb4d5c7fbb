//! A service as its node sees it: the record on disk, the instance that runs, the sockets.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dunlin_keep_link::{Running, StateName};
use tokio::sync::OwnedMutexGuard;
use tokio::task::AbortHandle;

use crate::error::NodeError;
use crate::folder;
use crate::instance::Instance;
use crate::keep::lock;
use crate::listeners::{self, Bound};
use crate::logs::Log;
use crate::model::{ServiceLine, ServiceState};
use crate::node::Node;
use crate::record::{Place, Record, Wanted};
use crate::relay;

/// How long whoever wants to change something waits for who is at it.
const A_MOMENT: std::time::Duration = std::time::Duration::from_secs(2);

/// A service that is, was or will be on this node.
#[derive(Debug)]
pub(crate) struct Service {
    name: String,
    folder: PathBuf,
    pub(crate) log: Log,
    record: Mutex<Record>,
    live: Mutex<Live>,
    /// Held by whoever changes what the service does; one at a time.
    gate: Arc<tokio::sync::Mutex<()>>,
    doing: Mutex<&'static str>,
    /// An instance runs that did not before.
    began: tokio::sync::Notify,
    sockets: Mutex<Vec<Bound>>,
    acceptors: Mutex<Vec<AbortHandle>>,
}

#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) instance: Option<Arc<Instance>>,
    /// What ran here and has memory that the service still needs elsewhere.
    pub(crate) leaving: Option<Arc<Instance>>,
    pub(crate) state: ServiceState,
    pub(crate) epoch: Option<u64>,
    pub(crate) version: Option<u64>,
    pub(crate) pinned: Option<String>,
}

impl Service {
    pub(crate) fn new(folder: &Path, record: Record) -> Result<Arc<Self>, NodeError> {
        for part in ["states", "volume"] {
            folder::make(&folder.join(part))?;
        }
        let state = match (&record.place, record.wanted) {
            (Place::Away { .. }, _) => ServiceState::Away,
            (Place::Arriving { .. }, _) => ServiceState::Arriving,
            (Place::Here, Wanted::Running) => ServiceState::Starting,
            (Place::Here, Wanted::Stopped) => ServiceState::Stopped,
            (Place::Here, Wanted::Ended) => ServiceState::Ended,
        };
        let live = Live { instance: None, leaving: None, state, epoch: None, version: None, pinned: None };
        Ok(Arc::new(Self {
            name: record.document.name.clone(),
            folder: folder.to_owned(),
            log: Log::open(&folder.join("logs"))?,
            record: Mutex::new(record),
            live: Mutex::new(live),
            gate: Arc::default(),
            doing: Mutex::new("nothing"),
            began: tokio::sync::Notify::new(),
            sockets: Mutex::new(Vec::new()),
            acceptors: Mutex::new(Vec::new()),
        }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn id(&self) -> String {
        lock(&self.record).document.id.clone()
    }

    pub(crate) fn record(&self) -> Record {
        lock(&self.record).clone()
    }

    /// Changes the record and writes it down.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Record)) -> Result<(), NodeError> {
        let mut record = lock(&self.record);
        change(&mut record);
        record.save(&self.folder)
    }

    /// Leave to change what the service does; an error if somebody else is at it for more than a moment. A move that has
    /// come to its end at one node may need that moment at the other.
    pub(crate) async fn begin(&self, what: &'static str) -> Result<OwnedMutexGuard<()>, NodeError> {
        self.begin_within(A_MOMENT, what).await
    }

    /// The same with another patience.
    pub(crate) async fn begin_within(
        &self,
        patience: std::time::Duration,
        what: &'static str,
    ) -> Result<OwnedMutexGuard<()>, NodeError> {
        let Ok(leave) = tokio::time::timeout(patience, self.gate.clone().lock_owned()).await else {
            return Err(NodeError::Busy { service: self.name.clone(), what: (*lock(&self.doing)).to_owned() });
        };
        *lock(&self.doing) = what;
        Ok(leave)
    }

    /// The same, after whoever is at it.
    pub(crate) async fn begin_after(&self, what: &'static str) -> OwnedMutexGuard<()> {
        let leave = self.gate.clone().lock_owned().await;
        *lock(&self.doing) = what;
        leave
    }

    pub(crate) fn instance(&self) -> Option<Arc<Instance>> {
        lock(&self.live).instance.clone().filter(|instance| !instance.keep.is_dead())
    }

    /// The same, if need be after a moment: a move that has ended for its source may need one to be known here.
    pub(crate) async fn instance_soon(&self) -> Option<Arc<Instance>> {
        let mut begins = std::pin::pin!(self.began.notified());
        begins.as_mut().enable();
        if self.instance().is_none() {
            // The leave is free again when nothing arrives, and when it has failed to.
            tokio::select! {
                () = begins => {}
                _leave_or_busy = self.begin_within(A_MOMENT, "nothing") => {}
            }
        }
        self.instance()
    }

    pub(crate) fn live<T>(&self, look: impl FnOnce(&mut Live) -> T) -> T {
        look(&mut lock(&self.live))
    }

    pub(crate) fn set_state(&self, state: ServiceState) {
        self.live(|live| live.state = state);
    }

    /// An instance runs here from now on.
    pub(crate) fn runs(&self, instance: Arc<Instance>, running: &Running) {
        self.live(|live| {
            live.instance = Some(instance);
            live.state = ServiceState::Running;
            live.epoch = Some(running.epoch);
            live.version = Some(running.version);
            live.pinned.clone_from(&running.pinned);
        });
        self.began.notify_waiters();
    }

    pub(crate) fn line(&self, node: &str) -> ServiceLine {
        let record = self.record();
        let (state, epoch, version) = self.live(|live| (live.state, live.epoch, live.version));
        let at = match &record.place {
            Place::Away { node } => node.clone(),
            Place::Here | Place::Arriving { .. } => node.to_owned(),
        };
        let addresses: Vec<String> = lock(&self.sockets).iter().map(|bound| bound.address.to_string()).collect();
        ServiceLine {
            name: self.name.clone(),
            node: at,
            state,
            epoch,
            version,
            listen: if addresses.is_empty() { record.bound } else { addresses },
            message: record.message,
        }
    }

    /// Binds its sockets, if that was not done.
    pub(crate) fn bind(&self, host: std::net::IpAddr, own: bool) -> Result<(), NodeError> {
        let mut sockets = lock(&self.sockets);
        let record = self.record();
        if sockets.len() != record.document.listen.len() {
            *sockets = listeners::bind(&record.document.listen, &record.bound, host, own)?;
        }
        let bound: Vec<String> = sockets.iter().map(|bound| bound.address.to_string()).collect();
        drop(sockets);
        if bound == record.bound { Ok(()) } else { self.change(|record| record.bound = bound) }
    }

    /// Its sockets, for a keep.
    pub(crate) fn sockets(&self) -> Result<Vec<std::net::TcpListener>, NodeError> {
        let sockets = lock(&self.sockets);
        let cloned: std::io::Result<_> = sockets.iter().map(|bound| bound.socket.try_clone()).collect();
        cloned.map_err(NodeError::system("duplicate a socket"))
    }

    /// Closes them, so that clients are refused.
    pub(crate) fn unbind(&self) {
        self.stop_accepting();
        lock(&self.sockets).clear();
    }

    /// The service is elsewhere: from now on the node accepts and relays.
    pub(crate) fn accept(self: &Arc<Self>, node: &Arc<Node>) -> Result<(), NodeError> {
        self.stop_accepting();
        let mut acceptors = Vec::new();
        for (number, socket) in self.sockets()?.into_iter().enumerate() {
            let failed = NodeError::system("accept connections");
            let listener = socket.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(socket));
            let listener = listener.map_err(failed)?;
            let (service, node) = (self.clone(), node.clone());
            let task = tokio::spawn(async move {
                loop {
                    match listener.accept().await {
                        Ok((client, _)) => {
                            tokio::spawn(relay::connect(node.clone(), service.clone(), number as u32, client));
                        }
                        // A lack of descriptors passes; a connection that broke is nobody's any more.
                        Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                    }
                }
            });
            acceptors.push(task.abort_handle());
        }
        *lock(&self.acceptors) = acceptors;
        Ok(())
    }

    pub(crate) fn stop_accepting(&self) {
        for acceptor in lock(&self.acceptors).drain(..) {
            acceptor.abort();
        }
    }

    /// The node where it is, if not here.
    pub(crate) fn away(&self) -> Option<String> {
        match &lock(&self.record).place {
            Place::Away { node } => Some(node.clone()),
            Place::Here | Place::Arriving { .. } => None,
        }
    }

    /// Another node says that the service is not there any more but elsewhere.
    pub(crate) fn moved_on(&self, from: &str, to: &str) {
        let _kept_in_memory = self.change(|record| {
            if record.place == (Place::Away { node: from.to_owned() }) {
                record.place = Place::Away { node: to.to_owned() };
            }
        });
    }

    /// Where a listener is reached, while the service serves it itself.
    pub(crate) fn reachable(&self, listener: u32) -> Option<SocketAddr> {
        let serves = self.live(|live| matches!(live.state, ServiceState::Running | ServiceState::Leaving));
        if !serves || !lock(&self.acceptors).is_empty() {
            return None;
        }
        lock(&self.sockets).get(listener as usize).map(|bound| bound.address)
    }

    pub(crate) fn states(&self) -> Result<File, NodeError> {
        open(&self.folder.join("states"))
    }

    /// Where a committed state is.
    pub(crate) fn state_path(&self, name: StateName) -> PathBuf {
        self.folder.join("states").join(name.to_string())
    }

    /// The committed state with the highest version, as its name has it.
    pub(crate) fn newest_state(&self) -> Result<Option<(StateName, PathBuf)>, NodeError> {
        let folder = self.folder.join("states");
        let entries = std::fs::read_dir(&folder).map_err(NodeError::file(folder, "read"))?;
        let named = entries
            .flatten()
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<StateName>().ok()?, entry.path())));
        Ok(named.max_by_key(|(name, _)| name.version))
    }

    pub(crate) fn volume(&self) -> Result<File, NodeError> {
        open(&self.folder.join("volume"))
    }
}

fn open(path: &Path) -> Result<File, NodeError> {
    File::open(path).map_err(NodeError::file(path, "opened"))
}
