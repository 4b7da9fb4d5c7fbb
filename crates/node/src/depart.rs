//! A move away from this node.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use dunlin_keep_link::{About, Left, LeftHow, MigrateOut, Order, Report, WishId};
use tokio::net::UnixStream;
use tokio::sync::OwnedMutexGuard;

use crate::error::NodeError;
use crate::instance::Instance;
use crate::jobs::Job;
use crate::model::{JobState, MigrateRequest, ServiceState};
use crate::node::Node;
use crate::peer::{Hello, Reply};
use crate::record::Place;
use crate::service::Service;
use crate::verbs;

/// Between two tries to connect again to the other keep of a move whose link was lost.
const AGAIN: Duration = Duration::from_millis(200);

/// Starts a move, as a job.
pub(crate) async fn begin(
    node: &Arc<Node>,
    service: &Arc<Service>,
    request: MigrateRequest,
    wish: Option<WishId>,
) -> Result<Arc<Job>, NodeError> {
    if request.to == node.name() {
        return Err(NodeError::Conflict(format!("{} is at node {} already", service.name(), request.to)));
    }
    node.peer(&request.to)?;
    let leave = service.begin("a move").await?;
    let instance = verbs::running(service)?;
    if let Some(why) = service.live(|live| live.pinned.clone()) {
        return Err(NodeError::Conflict(format!("{} cannot move: {why}", service.name())));
    }
    let job = node.jobs().begin(service.name(), node.name(), &request)?;
    service.set_state(ServiceState::Leaving);
    instance.set_job(Some(job.clone()));
    let departure = Departure {
        node: node.clone(),
        service: service.clone(),
        instance,
        job: job.clone(),
        request,
        wish,
        switched: false,
    };
    tokio::spawn(departure.run(leave));
    Ok(job)
}

struct Departure {
    node: Arc<Node>,
    service: Arc<Service>,
    instance: Arc<Instance>,
    job: Arc<Job>,
    request: MigrateRequest,
    wish: Option<WishId>,
    /// The service is the other node's.
    switched: bool,
}

impl Departure {
    async fn run(mut self, leave: OwnedMutexGuard<()>) {
        let ended = match self.give().await {
            Ok(ended) => ended,
            Err(NodeError::KeepDied { .. }) if self.has_all_moved() => {
                let text = "moved: the link ended before the destination said that it runs there";
                (JobState::Done, Some(text.to_owned()))
            }
            Err(error) if self.job.is_aborted() => (JobState::Aborted, Some(error.in_full())),
            Err(error) => (JobState::Failed, Some(error.in_full())),
        };
        let (state, message) = ended;
        let Self { node, service, instance, job, switched, .. } = self;
        instance.set_job(None);
        service.live(|live| live.leaving = None);
        if switched {
            instance.keep.hang_up();
        } else if service.live(|live| live.state) == ServiceState::Leaving {
            service.set_state(ServiceState::Running);
        }
        if let Some(text) = &message {
            service.log.note(format!("move to {}: {text}", job.info().to));
        }
        // If the keep is gone, whoever waits for the leave starts the service again where the ledger says.
        drop(leave);
        job.end(state, message);
        node.jobs().save(&job);
    }

    /// Whether the service is the other node's, and needs nothing of this one any more.
    fn has_all_moved(&self) -> bool {
        self.switched && !self.job.info().statistics.status.starts_with("postcopy")
    }

    async fn give(&mut self) -> Result<(JobState, Option<String>), NodeError> {
        let stream = self.call().await?;
        let keep = self.instance.keep.clone();
        if !self.job.carried_by(&keep) {
            return Ok((JobState::Aborted, Some("given up before it began".to_owned())));
        }
        let (migration, options, wish) = (self.job.migration, self.request.options(), self.wish);
        let dry_run = self.request.dry_run;
        let order = |order| Order::MigrateOut(MigrateOut { order, migration, options, dry_run, wish });
        let mut answers = keep.order(order, &[stream.as_fd()])?;
        drop(stream);
        let reconnects = tokio::spawn(reconnect(self.node.clone(), self.job.clone(), self.instance.clone()));
        let _ends_with_this = AbortOnDrop(reconnects.abort_handle());
        loop {
            let left = match answers.next("giving a service away").await? {
                Report::Left(left) => left,
                _ => return Err(NodeError::KeepDied { doing: "giving a service away" }),
            };
            self.job.measured(&left.statistics);
            if let Some(ended) = self.left(left)? {
                return Ok(ended);
            }
        }
    }

    /// A stream to the other node, which has a keep for the service.
    async fn call(&self) -> Result<std::os::unix::net::UnixStream, NodeError> {
        let hello = Hello::Migrate {
            migration: self.job.migration.to_string(),
            document: Box::new(self.service.record().document),
            dry_run: self.request.dry_run,
        };
        let to = &self.request.to;
        match self.node.call(to, &hello).await? {
            (stream, Reply::Ready) => blocking(stream),
            (_, Reply::Later { reason } | Reply::Refused { reason }) => {
                Err(NodeError::Refused { node: to.clone(), reason })
            }
            (_, Reply::Moved { node }) => Err(NodeError::Refused { node: to.clone(), reason: format!("ask {node}") }),
        }
    }

    fn left(&mut self, left: Left) -> Result<Option<(JobState, Option<String>)>, NodeError> {
        let Left { order: _, migration: _, how, connections, statistics: _ } = left;
        Ok(match how {
            LeftHow::Moved { confirmed } => {
                if !self.switched {
                    self.switched = true;
                    self.job.change(|info| info.connections = connections.len());
                    self.switch_over(&connections)?;
                }
                confirmed.then_some((JobState::Done, None))
            }
            LeftHow::Stayed { epoch, cancelled, reason } => {
                self.service.live(|live| live.epoch = Some(epoch));
                let state = if cancelled { JobState::Aborted } else { JobState::Failed };
                Some((state, Some(reason)))
            }
            LeftHow::DryRun(blocked) => {
                let blocked: Vec<String> = blocked.iter().map(ToString::to_string).collect();
                let text = if blocked.is_empty() { "it would be taken" } else { "it would not be taken" };
                let state = if blocked.is_empty() { JobState::Done } else { JobState::Failed };
                self.job.change(|info| info.blocked = blocked);
                Some((state, Some(text.to_owned())))
            }
            LeftHow::Returned { epoch } => {
                self.switched = false;
                self.service.stop_accepting();
                self.service.change(|record| record.place = Place::Here)?;
                let instance = self.instance.clone();
                self.service.live(|live| {
                    live.instance = Some(instance);
                    live.state = ServiceState::Running;
                    live.epoch = Some(epoch);
                });
                let text =
                    "the link was lost for too long: the destination gave the service back, and it runs here again";
                Some((JobState::Failed, Some(text.to_owned())))
            }
            LeftHow::Superseded => {
                self.switched = true;
                self.service.live(|live| {
                    live.instance = None;
                    live.state = ServiceState::Failed;
                });
                Some((JobState::Failed, Some("the owner gave the service to somebody else meanwhile".to_owned())))
            }
            // The other kinds are of later versions.
            _ => Some((JobState::Failed, Some("the keep says what this node does not know".to_owned()))),
        })
    }

    /// The service is the other node's: its connections are relayed there, and new ones, too.
    fn switch_over(&self, connections: &[dunlin_keep_link::ConnectionState]) -> Result<(), NodeError> {
        let to = &self.request.to;
        self.instance.hand_over(&self.node, to, &self.job.migration.to_string(), connections);
        let instance = self.instance.clone();
        self.service.live(|live| {
            live.instance = None;
            live.leaving = Some(instance);
            live.state = ServiceState::Away;
            live.epoch = None;
            live.version = None;
        });
        let written = self.service.change(|record| {
            record.place = Place::Away { node: to.clone() };
            record.message = None;
        });
        self.service.accept(&self.node)?;
        written
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whenever the link of a move is lost after the switch, makes another.
async fn reconnect(node: Arc<Node>, job: Arc<Job>, instance: Arc<Instance>) {
    let mut info = job.watch();
    loop {
        let is_paused = info.borrow_and_update().statistics.status == "postcopy-paused";
        if is_paused {
            let (to, id) = (job.info().to, job.migration.to_string());
            if let Ok((stream, Reply::Ready)) = node.call(&to, &Hello::Reconnect { migration: id }).await
                && let Ok(stream) = blocking(stream)
            {
                let migration = job.migration;
                let order = |order| Order::Reconnect(About { order, migration });
                // If it is refused, the pause goes on, and so does this.
                let _asked = instance.keep.order(order, &[stream.as_fd()]);
            }
            tokio::time::sleep(AGAIN).await;
        } else if info.changed().await.is_err() {
            return;
        }
    }
}

/// A stream as a keep takes it.
pub(crate) fn blocking(stream: UnixStream) -> Result<std::os::unix::net::UnixStream, NodeError> {
    let failed = NodeError::system("hand a stream to a keep");
    let stream = stream.into_std().and_then(|stream| stream.set_nonblocking(false).map(|()| stream));
    stream.map_err(failed)
}
