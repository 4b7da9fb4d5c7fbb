//! The node's orders, one after the other, and what the keep does at the moment.
//!
//! ```text
//!   Waiting ──> Starting ──> Running <──> Checkpointing          any ──> Over: the link is closed, the process ends
//!      │ ▲                    │  ▲  └────> Stopping ──> Over
//!      ▼ │ dry run, refused   ▼  │ stayed
//!   Arriving ──────────────> Leaving ──> Left ──> Over
//! ```
//!
//! This thread only reads orders and answers what can be answered at once; whatever takes time gets a thread of its
//! own, so that answers of the ledger and cancellations are always heard.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dunlin_base::with_causes;
use dunlin_engine::Outcome;
use dunlin_handover::{Key, MigrationId, Nonce};
use dunlin_identity::InstanceKey;
use dunlin_keep_link::{
    About, Attested, Call, Challenge, Channel, Checkpointed, Ended, EndedHow, Gate, MigrateIn, MigrateOut, Order,
    OrderId, OutOfOrder, Packet, Ready, Received, Report, Running, Start, StatusReport, Stop, StopHow, TakeCheckpoint,
    Versions,
};
use rustix::time::{ClockId, clock_gettime};

use crate::arrival::{Arrival, Landed};
use crate::carrier::LinkCarrier;
use crate::checkpoint::Kind;
use crate::confine::Confinement;
use crate::departure::Departure;
use crate::error::Failure;
use crate::keys::Keys;
use crate::migrate::{DestinationHandle, SourceHandle};
use crate::mobility::LinkMobility;
use crate::offer::{Around, Given};
use crate::office::Office;
use crate::outbox::{Outbox, Post};
use crate::peer::{self, Business, Held, Peer, Side};
use crate::service::Service;
use crate::trusted::Trusted;
use crate::who::Who;

/// How long a keep that is over waits for its node to hang up.
const FAREWELL: Duration = Duration::from_secs(2);

/// What ends a keep other than the end of its node or its service.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// The link cannot be used.
    #[error("the link to the node cannot be used")]
    Link(#[from] dunlin_keep_link::ChannelError),
    /// The node sent something that is no order.
    #[error("the node sent something that is no order")]
    Packet(#[from] dunlin_keep_link::PacketError),
    /// No key can be made.
    #[error("the key of this instance cannot be made")]
    Key(#[from] dunlin_identity::IdentityError),
    /// The keep cannot be confined, and does not run unconfined.
    #[error("the keep cannot be confined")]
    Confine(#[from] crate::confine::ConfineError),
}

/// What the keep does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Waiting,
    Starting,
    Running,
    Checkpointing,
    Stopping,
    Arriving,
    Leaving,
    Left,
    Over,
}

impl Doing {
    fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Running | Self::Checkpointing => "running",
            Self::Stopping => "stopping",
            Self::Arriving => "arriving",
            Self::Leaving => "leaving",
            Self::Left | Self::Over => "left",
        }
    }
}

/// Acts on the migration that goes on.
#[derive(Debug, Clone)]
enum Handle {
    Source(SourceHandle),
    Destination(DestinationHandle),
}

/// A migration that goes on.
#[derive(Debug, Clone)]
struct Migration {
    id: MigrationId,
    handle: Handle,
    /// The keep at the other end.
    peer: Key,
}

#[derive(Debug)]
struct State {
    doing: Doing,
    service: Option<Arc<Service>>,
    /// Of the program that runs here or is about to: it may wish before anybody else knows that it runs.
    mobility: Option<Arc<LinkMobility>>,
    migration: Option<Migration>,
}

/// What all threads of a keep share.
#[derive(Debug)]
pub(crate) struct Desk {
    outbox: Outbox,
    post: Post,
    state: Mutex<State>,
    changed: Condvar,
}

/// Serves the node at the other end of `channel` until one of them is over. `confinement` says what this process gives
/// up, and when.
///
/// # Errors
/// [`KeepError`].
pub fn serve(channel: Channel, mut confinement: Confinement) -> Result<(), KeepError> {
    confinement.begin()?;
    let channel = Arc::new(channel);
    let outbox = Outbox::new(channel.clone());
    let instance = InstanceKey::generate()?;
    let Versions { oldest, newest } = Versions::SUPPORTED;
    outbox.send(&Report::Ready(Ready {
        oldest,
        newest,
        product: format!("dunlin-keep {}", env!("CARGO_PKG_VERSION")),
        holder: instance.public().thumbprint(),
        public_key: instance.public().spki().to_vec(),
    }));
    let post = Post::new(outbox.clone());
    let state = Mutex::new(State { doing: Doing::Waiting, service: None, mobility: None, migration: None });
    let desk = Arc::new(Desk { outbox, post, state, changed: Condvar::new() });
    let mut clerk = Clerk { desk, gate: Gate::new(), instance: Some(instance), who: None, confinement };
    while let Some(Received { bytes, descriptors }) = channel.receive()? {
        let order = Packet::read_order(&bytes, descriptors.len(), newest)?;
        clerk.take(order, descriptors);
    }
    Ok(())
}

/// Takes orders.
struct Clerk {
    desk: Arc<Desk>,
    gate: Gate,
    instance: Option<InstanceKey>,
    who: Option<Who>,
    confinement: Confinement,
}

impl Clerk {
    fn take(&mut self, order: Order, descriptors: Vec<OwnedFd>) {
        let desk = self.desk.clone();
        if let Err(reason) = self.gate.admit(&order) {
            if let Some(id) = order.id() {
                desk.outbox.failed(id, &out_of_order(&reason));
            }
            return;
        }
        let (id, name) = (order.id(), order.name());
        let done = match order {
            Order::LedgerReply(reply) => {
                desk.post.deliver(reply);
                return;
            }
            Order::Identity(identity) => match self.instance.take() {
                Some(instance) => Who::new(instance, identity, &desk.post).map(|who| {
                    self.who = Some(who);
                    true
                }),
                None => Err(Failure::Invalid("the keep has an identity already".to_owned())),
            },
            Order::Start(start) => self.start(start, descriptors),
            Order::Checkpoint(take) => self.checkpoint(take),
            Order::Stop(stop) => self.stop(stop),
            Order::MigrateOut(migrate) => self.migrate_out(migrate, descriptors),
            Order::MigrateIn(migrate) => self.migrate_in(migrate, descriptors),
            Order::Cancel(About { migration, .. }) => desk.with_migration(migration, "cancel a move", |found| {
                match found.handle {
                    Handle::Source(source) => source.cancel(),
                    Handle::Destination(destination) => destination.cancel(),
                }
                Ok(true)
            }),
            Order::Reconnect(About { migration, .. }) => self.reconnect(migration, descriptors),
            Order::Query(Call { order }) => {
                desk.outbox.send(&Report::Status(desk.status(order)));
                return;
            }
            Order::Broker(call) => {
                desk.post.bring(call, descriptors);
                return;
            }
            Order::Proof(reply) => {
                desk.post.proven(reply);
                return;
            }
            Order::Attest(Challenge { order, nonce }) => self.attest(order, nonce),
            Order::WishRefused(refused) => {
                let mobility = desk.state().mobility.clone();
                if let Some(mobility) = mobility {
                    mobility.refuse(refused.wish, &refused.text);
                }
                return;
            }
            // A later version of the link has more; it is built together with this.
            _ => Err(Failure::Invalid(format!("this keep knows no order {name}"))),
        };
        let Some(order) = id else { return };
        match done {
            Ok(true) => desk.outbox.send(&Report::Done(Call { order })),
            // It is answered when it is done.
            Ok(false) => {}
            Err(failure) => desk.outbox.failed(order, &failure),
        }
    }

    fn who(&self) -> Result<Who, Failure> {
        self.who.clone().ok_or_else(|| Failure::Invalid("the keep has no identity".to_owned()))
    }

    fn start(&mut self, start: Start, descriptors: Vec<OwnedFd>) -> Result<bool, Failure> {
        let who = self.who()?;
        let Start { order, spec, origin, offered } = start;
        let given = Given::new(&offered, descriptors, spec.service, &who.machine)?;
        self.desk.pass(Doing::Waiting, Doing::Starting, "start a service")?;
        let desk = self.desk.clone();
        let begun = self.confine(&given).and_then(|()| {
            let desk = desk.clone();
            spawn("dunlin-start", move || {
                let asked = Instant::now();
                let carrier = Arc::new(LinkCarrier::fresh(desk.outbox.clone()));
                let mobility = Arc::new(LinkMobility::new(desk.outbox.clone(), who.node.clone()));
                desk.listens(mobility.clone());
                // A node that withholds the owner's policy, or brings another module than it permits, starts nothing.
                let keys = Keys::new(desk.post.clone(), who.clone(), &spec);
                let started = keys.and_then(|keys| {
                    let around = Around { carrier, mobility, trusted: Trusted::new(keys.clone()) };
                    let mut office = Office::new(keys.clone())?;
                    Service::start(spec, given, around, keys, origin, &mut office)
                });
                match started {
                    Ok(service) => {
                        let service = Arc::new(service);
                        let record = service.record();
                        desk.hold(service.clone());
                        desk.go(Doing::Running);
                        desk.outbox.send(&Report::Running(Running {
                            order,
                            epoch: record.epoch,
                            version: record.version,
                            pinned: service.loaded.pinned.clone(),
                            took: asked.elapsed(),
                        }));
                        desk.watch(service);
                    }
                    Err(failure) => {
                        desk.go(Doing::Waiting);
                        desk.outbox.failed(order, &failure);
                    }
                }
            })
        });
        begun.map(|()| false).inspect_err(|_| desk.go(Doing::Waiting))
    }

    fn checkpoint(&self, take: TakeCheckpoint) -> Result<bool, Failure> {
        let TakeCheckpoint { order, whole } = take;
        let service = self.desk.pass(Doing::Running, Doing::Checkpointing, "take a checkpoint")?;
        let service = service.ok_or_else(|| Failure::Over("there is no program".to_owned()))?;
        let desk = self.desk.clone();
        spawn("dunlin-checkpoint", move || {
            let asked = Instant::now();
            let how = Kind { whole, stay: false };
            let committed =
                Office::new(service.keys.clone()).and_then(|mut office| service.checkpoint(&mut office, how));
            // Whoever hears of the end can give the next order.
            desk.go(Doing::Running);
            match committed {
                Ok(committed) => desk.outbox.send(&Report::Checkpointed(Checkpointed {
                    order,
                    version: committed.version,
                    state_hash: committed.state_hash,
                    bytes: committed.bytes,
                    pause: committed.pause,
                    took: asked.elapsed(),
                })),
                Err(failure) => desk.outbox.failed(order, &failure),
            }
        })?;
        Ok(false)
    }

    fn stop(&self, stop: Stop) -> Result<bool, Failure> {
        let Stop { order, how } = stop;
        let desk = self.desk.clone();
        if how == StopHow::Kill {
            desk.outbox.send(&Report::Ended(Ended { order: Some(order), how: EndedHow::Killed }));
            desk.end();
            return Ok(false);
        }
        let service = desk.pass(Doing::Running, Doing::Stopping, "suspend the service")?;
        let service = service.ok_or_else(|| Failure::Over("there is no program".to_owned()))?;
        spawn("dunlin-suspend", move || {
            let committed = Office::new(service.keys.clone())
                .and_then(|mut office| service.checkpoint(&mut office, Kind { whole: false, stay: true }));
            match committed {
                Ok(committed) => {
                    service.close_connections();
                    let how = EndedHow::Suspended { version: committed.version };
                    desk.outbox.send(&Report::Ended(Ended { order: Some(order), how }));
                    desk.end();
                }
                Err(failure) => {
                    desk.go(Doing::Running);
                    desk.outbox.failed(order, &failure);
                }
            }
        })?;
        Ok(false)
    }

    fn migrate_out(&self, migrate: MigrateOut, descriptors: Vec<OwnedFd>) -> Result<bool, Failure> {
        let who = self.who()?;
        let stream = only(descriptors)?;
        let service = self.desk.pass(Doing::Running, Doing::Leaving, "move the service")?;
        let service = service.ok_or_else(|| Failure::Over("there is no program".to_owned()))?;
        let desk = self.desk.clone();
        let order = migrate.order;
        spawn("dunlin-departure", move || {
            let (epoch, migration) = (service.record().epoch, migrate.migration);
            let opened = service.keys.staging(epoch, migration).and_then(|staging| {
                let (spec, post) = (&service.spec, desk.post.clone());
                let held = Some(Held { epoch, staging });
                peer::open(stream, &Business { side: Side::Source, migration, spec, held, post }, &who)
            });
            let left = opened.and_then(|peer| {
                desk.warn(&peer);
                let (departure, handle) = Departure::new(&migrate, &service, &peer, &who, &desk.outbox)?;
                desk.migrates(migrate.migration, Handle::Source(handle), peer.key);
                departure.run(peer, desk.post.clone())
            });
            match left {
                Ok((left, true)) => {
                    desk.go(Doing::Running);
                    desk.outbox.send(&Report::Left(left));
                }
                Ok((left, false)) => {
                    desk.go(Doing::Left);
                    desk.outbox.send(&Report::Left(left));
                    desk.end();
                }
                Err(failure) => {
                    if let Some(wish) = migrate.wish {
                        service.around.mobility.refuse(wish, &failure.text());
                    }
                    desk.go(Doing::Running);
                    desk.outbox.failed(order, &failure);
                }
            }
        })?;
        Ok(false)
    }

    fn migrate_in(&mut self, migrate: MigrateIn, descriptors: Vec<OwnedFd>) -> Result<bool, Failure> {
        let who = self.who()?;
        let MigrateIn { order, migration, spec, offered } = migrate;
        let mut given = Given::new(&offered, descriptors, spec.service, &who.machine)?;
        let stream = given.peer.take().ok_or_else(|| Failure::Invalid("the peer is missing".to_owned()))?;
        self.desk.pass(Doing::Waiting, Doing::Arriving, "take a service")?;
        let desk = self.desk.clone();
        let begun = self.confine(&given).and_then(|()| {
            let desk = desk.clone();
            spawn("dunlin-arrival", move || {
                let business =
                    Business { side: Side::Destination, migration, spec: &spec, held: None, post: desk.post.clone() };
                let landed = peer::open(stream, &business, &who).and_then(|peer| {
                    desk.warn(&peer);
                    let (arrival, handle) = Arrival::new(order, migration, spec.clone(), given, &peer, &who, &desk)?;
                    desk.migrates(migration, Handle::Destination(handle), peer.key);
                    arrival.run(peer, desk.post.clone())
                });
                match landed {
                    Ok((arrived, Landed::Here(service))) => {
                        desk.go(Doing::Running);
                        desk.outbox.send(&Report::Arrived(arrived));
                        desk.watch(service);
                    }
                    Ok((arrived, Landed::Waiting)) => {
                        desk.go(Doing::Waiting);
                        desk.outbox.send(&Report::Arrived(arrived));
                    }
                    Ok((arrived, Landed::Over)) => {
                        desk.outbox.send(&Report::Arrived(arrived));
                        desk.end();
                    }
                    Err(failure) => {
                        desk.outbox.failed(order, &failure);
                        desk.end();
                    }
                }
            })
        });
        begun.map(|()| false).inspect_err(|_| desk.go(Doing::Waiting))
    }

    /// Says to a client what this keep is and what it runs.
    fn attest(&self, order: OrderId, nonce: Nonce) -> Result<bool, Failure> {
        let who = self.who()?;
        let service = self.desk.state().service.clone();
        let service = service.ok_or_else(|| Failure::Over("there is no program".to_owned()))?;
        let desk = self.desk.clone();
        spawn("dunlin-attest", move || {
            let given = who
                .policy_of(&service.spec)
                .and_then(|policy| who.proof.for_client(nonce, &service.spec, service.record().epoch, &policy));
            match given {
                Ok((evidence, endorsements, binding)) => desk.outbox.send(&Report::Attested(Attested {
                    order,
                    evidence: evidence.to_cbor(),
                    endorsements: endorsements.to_cbor(),
                    binding: binding.to_cbor(),
                })),
                Err(failure) => desk.outbox.failed(order, &failure),
            }
        })?;
        Ok(false)
    }

    fn reconnect(&self, migration: MigrationId, descriptors: Vec<OwnedFd>) -> Result<bool, Failure> {
        let who = self.who()?;
        let stream = only(descriptors)?;
        self.desk.with_migration(migration, "take a new stream", |found| {
            // The other keep has to answer, and orders are not to wait for that.
            let desk = self.desk.clone();
            spawn("dunlin-reconnect", move || {
                let side = match found.handle {
                    Handle::Source(_) => Side::Source,
                    Handle::Destination(_) => Side::Destination,
                };
                match (peer::again(stream, side, found.peer, &who), found.handle) {
                    (Ok(stream), Handle::Source(source)) => source.reconnect(stream),
                    (Ok(stream), Handle::Destination(destination)) => destination.reconnect(stream),
                    // The migration still waits for a stream, which its node brings.
                    (Err(failure), _) => desk.outbox.note(failure.text()),
                }
            })?;
            Ok(true)
        })
    }

    /// From here on, files can only be opened in the directories that came with the order.
    fn confine(&mut self, given: &Given) -> Result<(), Failure> {
        let notes = self.confinement.within(given.states.descriptor(), given.directories());
        let failed = |error: crate::confine::ConfineError| Failure::Invalid(with_causes(&error));
        for note in notes.map_err(failed)? {
            self.desk.outbox.note(note);
        }
        Ok(())
    }
}

fn out_of_order(reason: &OutOfOrder) -> Failure {
    Failure::Invalid(reason.to_string())
}

fn only(descriptors: Vec<OwnedFd>) -> Result<OwnedFd, Failure> {
    descriptors.into_iter().next().ok_or_else(|| Failure::Invalid("the peer is missing".to_owned()))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map(drop).map_err(Failure::system("a thread cannot be started"))
}

impl Desk {
    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(crate) fn post(&self) -> Post {
        self.post.clone()
    }

    /// Who hears what becomes of the wishes of the program that is about to run.
    pub(crate) fn listens(&self, mobility: Arc<LinkMobility>) {
        self.state().mobility = Some(mobility);
    }

    /// A program runs here from now on.
    pub(crate) fn hold(&self, service: Arc<Service>) {
        self.state().service = Some(service);
    }

    /// The node has heard that the program runs: it is to hear how it ends.
    fn watch(self: &Arc<Self>, service: Arc<Service>) {
        let desk = self.clone();
        let watched = spawn("dunlin-watch", move || {
            let ended = service.runner.wait();
            desk.program_ended(ended);
        });
        if let Err(failure) = watched {
            self.outbox.note(failure.text());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From one thing to another, if that is what the keep does.
    fn pass(&self, from: Doing, to: Doing, what: &'static str) -> Result<Option<Arc<Service>>, Failure> {
        let mut state = self.state();
        if state.doing != from {
            return Err(Failure::State { doing: state.doing.name(), what });
        }
        state.doing = to;
        Ok(state.service.clone())
    }

    /// What was done is done.
    fn go(&self, to: Doing) {
        let mut state = self.state();
        if state.doing != Doing::Over {
            state.doing = to;
        }
        if to != Doing::Left {
            state.migration = None;
        }
        drop(state);
        self.changed.notify_all();
    }

    fn migrates(&self, id: MigrationId, handle: Handle, peer: Key) {
        self.state().migration = Some(Migration { id, handle, peer });
    }

    /// What the owner should know although the other keep was accepted.
    fn warn(&self, peer: &Peer) {
        for warning in &peer.warnings {
            self.outbox.note(format!("the other keep is accepted: {warning}"));
        }
    }

    fn with_migration(
        &self,
        migration: MigrationId,
        what: &'static str,
        act: impl FnOnce(Migration) -> Result<bool, Failure>,
    ) -> Result<bool, Failure> {
        let state = self.state();
        let found = state.migration.clone().filter(|found| found.id == migration);
        let doing = state.doing.name();
        drop(state);
        act(found.ok_or(Failure::State { doing, what })?)
    }

    /// The program is over. What it was in the middle of is ended first.
    fn program_ended(&self, ended: Result<Outcome, String>) {
        let mut state = self.state();
        while matches!(state.doing, Doing::Starting | Doing::Checkpointing | Doing::Stopping | Doing::Leaving) {
            if let Some(Migration { handle: Handle::Source(source), .. }) = &state.migration {
                source.cancel();
            }
            let patience = Duration::from_millis(50);
            state = self.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
        if matches!(state.doing, Doing::Left | Doing::Over) {
            return;
        }
        drop(state);
        let how = match ended {
            Ok(Outcome::Finished(_)) => EndedHow::Exited(0),
            Ok(Outcome::Exited(code)) => EndedHow::Exited(code.cast_unsigned()),
            Ok(Outcome::Trapped(trap)) => EndedHow::Trapped { message: trap.message, backtrace: trap.backtrace },
            Ok(Outcome::Stopped) => EndedHow::Broken("the program stopped and nobody had asked for it".to_owned()),
            Err(reason) => EndedHow::Broken(reason),
        };
        self.outbox.send(&Report::Ended(Ended { order: None, how }));
        self.end();
    }

    /// The keep is over: says nothing more, and waits a while for the node to hang up, so that the node hears all.
    fn end(&self) {
        self.state().doing = Doing::Over;
        self.changed.notify_all();
        self.outbox.finish();
        let outbox = self.outbox.clone();
        let hung_up = spawn("dunlin-farewell", move || {
            thread::sleep(FAREWELL);
            outbox.give_up();
        });
        if hung_up.is_err() {
            self.outbox.give_up();
        }
    }

    fn status(&self, order: OrderId) -> StatusReport {
        let state = self.state();
        let service = state.service.clone();
        let doing = state.doing;
        drop(state);
        let held = !matches!(doing, Doing::Left | Doing::Over);
        let cpu = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
        StatusReport {
            order,
            doing: doing.name().to_owned(),
            epoch: service.as_ref().filter(|_| held).map(|service| service.record().epoch),
            version: service.as_ref().map_or(0, |service| service.inside.version()),
            memory_bytes: service.as_ref().map_or(0, |service| service.inside.memory_bytes()),
            connections: service.as_ref().map_or(0, |service| service.around.carrier.open()),
            cpu,
            uptime: service.as_ref().map_or(Duration::ZERO, |service| service.started.elapsed()),
        }
    }
}
