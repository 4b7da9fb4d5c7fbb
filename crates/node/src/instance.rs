//! A keep with a service: what it says unasked, and the connections that it has.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

use dunlin_keep_link::{BrokerCall, Closed, Connected, ConnectionId, ConnectionState, EndedHow, Order, Report, Wish};
use tokio::runtime::Handle;
use tokio::sync::OwnedMutexGuard;

use crate::jobs::Job;
use crate::keep::{Keep, Listener, lock};
use crate::node::Node;
use crate::relay;
use crate::service::Service;
use crate::slots::{Fate, Onward, Slot};
use crate::verbs;

/// A keep that has, gets or had a service.
#[derive(Debug)]
pub(crate) struct Instance {
    node: Weak<Node>,
    pub(crate) service: Arc<Service>,
    pub(crate) keep: Arc<Keep>,
    runtime: Handle,
    /// The migration with which it came.
    arrived_by: Option<String>,
    connections: Arc<Connections>,
    job: Mutex<Option<Arc<Job>>>,
    pub(crate) ended: Mutex<Option<EndedHow>>,
}

type Connections = Mutex<HashMap<ConnectionId, Connection>>;

/// What the node has of a connection.
#[derive(Debug)]
enum Connection {
    /// A duplicate of the client's socket.
    Own(OwnedFd),
    Carried(Arc<Slot>),
}

impl Instance {
    /// Takes a keep for a service. Must be called within a runtime.
    pub(crate) fn new(
        node: &Arc<Node>,
        service: &Arc<Service>,
        keep: Arc<Keep>,
        arrived_by: Option<String>,
    ) -> Arc<Self> {
        let instance = Arc::new(Self {
            node: Arc::downgrade(node),
            service: service.clone(),
            keep: keep.clone(),
            runtime: Handle::current(),
            arrived_by,
            connections: Arc::default(),
            job: Mutex::new(None),
            ended: Mutex::new(None),
        });
        keep.listen(instance.clone());
        instance
    }

    pub(crate) fn set_job(&self, job: Option<Arc<Job>>) {
        *lock(&self.job) = job;
    }

    /// The service went on to another node: its connections are relayed there, the others are over.
    pub(crate) fn hand_over(&self, node: &Arc<Node>, to: &str, migration: &str, moved: &[ConnectionState]) {
        let mut had = std::mem::take(&mut *lock(&self.connections));
        for ConnectionState { id, ended, shut } in moved {
            let onward = Onward { node: to.to_owned(), migration: migration.to_owned(), ended: *ended, shut: *shut };
            match had.remove(id) {
                Some(Connection::Own(socket)) => relay::depart(node, socket, id.to_string(), onward),
                Some(Connection::Carried(slot)) => relay::depart_again(node, slot, id.to_string(), onward),
                None => {}
            }
        }
        for (_, connection) in had {
            if let Connection::Carried(slot) = connection {
                slot.decide(Fate::Closed);
            }
        }
    }

    fn connected(&self, connected: Connected, descriptors: Vec<OwnedFd>) {
        let Connected { id, listener: _, carried } = connected;
        let mut descriptors = descriptors.into_iter();
        let connection = match (carried, descriptors.next(), descriptors.next()) {
            (false, Some(socket), None) => Connection::Own(socket),
            (true, Some(end), Some(kept)) => {
                let Some(node) = self.node.upgrade() else { return };
                let key = (self.arrived_by.clone().unwrap_or_default(), id.to_string());
                let _in_runtime = self.runtime.enter();
                match node.slots().add(key, end, kept) {
                    Ok(slot) => Connection::Carried(slot),
                    Err(error) => {
                        self.service.log.note(format!("a connection that moved here is lost: {error}"));
                        return;
                    }
                }
            }
            // The link has checked their number.
            _ => return,
        };
        lock(&self.connections).insert(id, connection);
    }

    fn closed(&self, id: ConnectionId) {
        if let Some(Connection::Carried(slot)) = lock(&self.connections).remove(&id) {
            slot.decide(Fate::Closed);
        }
    }

    /// Brings the keep a stream to the broker. Where there is no way to one, the stream ends at once.
    fn introduce(&self, call: BrokerCall) {
        let _in_runtime = self.runtime.enter();
        let Ok((near, far)) = tokio::net::UnixStream::pair() else { return };
        let keeps = near.into_std().and_then(|near| near.set_nonblocking(false).map(|()| near));
        let sent = keeps.map(|near| self.keep.send(&Order::Broker(call), &[near.as_fd()]));
        let (Some(node), Ok(Ok(()))) = (self.node.upgrade(), sent) else { return };
        let service = self.service.clone();
        self.runtime.spawn(async move {
            if let Err(error) = node.broker().join(&service.record().document.subject(), far).await {
                service.log.note(format!("its keep does not reach the broker: {}", error.in_full()));
            }
        });
    }

    fn wished(&self, wish: Wish) {
        let Some(node) = self.node.upgrade() else { return };
        let service = self.service.clone();
        let keep = self.keep.clone();
        self.runtime.spawn(async move { verbs::fulfil(&node, &service, &keep, wish).await });
    }
}

impl Listener for Instance {
    fn report(&self, report: Report, descriptors: Vec<OwnedFd>) {
        match report {
            Report::Connected(connected) => self.connected(connected, descriptors),
            Report::Closed(Closed { id }) => self.closed(id),
            Report::Progress(progress) => {
                if let Some(job) = &*lock(&self.job) {
                    job.measured(&progress.statistics);
                }
            }
            Report::Phase(phase) => {
                if let Some(job) = &*lock(&self.job) {
                    job.phase(&phase.name);
                }
            }
            Report::Wish(wish) => self.wished(wish),
            Report::Broker(call) => self.introduce(call),
            Report::Note(note) => self.service.log.note(note.text),
            Report::Ended(ended) => *lock(&self.ended) = Some(ended.how),
            // Answers go to whoever asked.
            _ => {}
        }
    }

    fn gone(&self) {
        let Some(node) = self.node.upgrade() else { return };
        let (service, keep, connections) = (self.service.clone(), self.keep.clone(), self.connections.clone());
        let how = lock(&self.ended).take();
        self.runtime.spawn(async move {
            let leave = lose(&service, &connections).await;
            verbs::keep_is_gone(&node, &service, &keep, how, leave).await;
        });
    }
}

/// Ends the connections of a keep that is gone, and gives the leave to do what follows. The last that the keep said may be
/// that its connections go on elsewhere. Whoever hears that has the leave, and on a busy machine has not come to it yet.
async fn lose(service: &Service, connections: &Connections) -> OwnedMutexGuard<()> {
    let leave = service.begin_after("what follows the end of its keep").await;
    for (_, connection) in lock(connections).drain() {
        if let Connection::Carried(slot) = connection {
            slot.decide(Fate::Gone);
        }
    }
    leave
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use dunlin_handover::ServiceId;

    use super::*;
    use crate::record::tests::deploy;
    use crate::record::{Document, Place, Record, Wanted};
    use crate::slots::Slots;

    #[tokio::test]
    async fn connections_that_go_on_elsewhere_are_not_lost_when_their_keep_is_gone_before_anybody_heard_of_that() {
        let folder = std::env::temp_dir().join(format!("dunlin-instance-{}", std::process::id()));
        let document = Document::new(deploy("a"), ServiceId([1; 16])).unwrap();
        let service = Service::new(&folder, Record::new(document, Wanted::Running, Place::Here)).unwrap();
        let slots = Arc::<Slots>::default();
        let connections = Arc::<Connections>::default();
        let (_program, carried) = {
            let (end, program) = UnixStream::pair().unwrap();
            let kept = program.try_clone().unwrap();
            (program, slots.add(("m".to_owned(), "c".to_owned()), end.into(), kept.into()).unwrap())
        };
        lock(&connections).insert(ConnectionId([1; 16]), Connection::Carried(carried.clone()));
        // A move is under way. The keep has said its last word and ended; nobody has come to that word.
        let moves = service.begin("a move").await.unwrap();
        let (at, of) = (service.clone(), connections.clone());
        let gone = tokio::spawn(async move { drop(lose(&at, &of).await) });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let onward = Onward { node: "b".to_owned(), migration: "n".to_owned(), ended: false, shut: false };
        assert!(carried.leave(onward).is_some(), "it goes on elsewhere");
        drop(moves);
        gone.await.unwrap();
        assert!(lock(&connections).is_empty());
        drop(service);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
