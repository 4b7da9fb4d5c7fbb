//! What can be done to a service, and what the node does when one needs it.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dunlin_attest::Bytes;
use dunlin_base::unhex;
use dunlin_handover::{Nonce, ServiceId};
use dunlin_keep_link::{
    Attested, Call, Challenge, Checkpointed, EndedHow, FailCode, Offered, Order, Origin, Report, Role, Start,
    StatusReport, Stop, StopHow, TakeCheckpoint, Wish, WishRefused,
};
use tokio::sync::OwnedMutexGuard;

use crate::depart;
use crate::error::NodeError;
use crate::folder;
use crate::instance::Instance;
use crate::keep::Keep;
use crate::model::{
    AttestDone, AttestRequest, CheckpointDone, Deploy, MigrateRequest, Owner, ServiceInfo, ServiceState, Stream,
    milliseconds,
};
use crate::node::Node;
use crate::record::{Document, Place, Record, Wanted};
use crate::recover;
use crate::service::Service;

/// How long a keep may take to suspend its program, or to end.
const ENDING: Duration = Duration::from_secs(30);
/// How long a service that may have arrived waits for the ledger's word.
const UNDECIDED: Duration = Duration::from_secs(180);
/// Starts that fail in a row, other than for want of the ledger, before a service counts as failed.
const TRIES: u32 = 5;

/// Makes a service and starts it.
pub(crate) async fn deploy(node: &Arc<Node>, deploy: Deploy) -> Result<Arc<Service>, NodeError> {
    let id = ServiceId(folder::random()?);
    let document = Document::new(deploy, id)?;
    let policy = document.subject().policy_in_force(node.ledger().key())?;
    if !node.module_path(&document.module).is_file() {
        return Err(NodeError::NotFound(format!("module {} is not here: upload it first", document.module)));
    }
    let service = node.add(Record::new(document, Wanted::Running, Place::Here))?;
    let leave = service.begin("its deployment").await?;
    let made = async {
        service.bind(node.config().host, true)?;
        node.ledger().create(id, &policy, &node.keys().owner).await?;
        bring_up(node, &service, Origin::First).await
    };
    let made = made.await;
    drop(leave);
    if let Err(error) = made {
        // What was never there leaves nothing behind; a record without a holder does no harm either.
        let _unknown = node.ledger().retire(id, &node.keys().owner).await;
        node.forget(&service)?;
        return Err(error);
    }
    Ok(service)
}

/// Starts what was stopped, has ended or failed.
pub(crate) async fn start(node: &Arc<Node>, service: &Arc<Service>) -> Result<(), NodeError> {
    let _leave = service.begin("a start").await?;
    if service.instance().is_some() {
        return Err(NodeError::Conflict(format!("{} runs already", service.name())));
    }
    service.change(|record| record.wanted = Wanted::Running)?;
    bring_up(node, service, origin(service)).await
}

/// Stops a service, with its state kept unless it is killed.
pub(crate) async fn stop(service: &Arc<Service>, kill: bool) -> Result<(), NodeError> {
    let _leave = service.begin("a stop").await?;
    if let Some(instance) = service.instance() {
        end(service, &instance, if kill { StopHow::Kill } else { StopHow::Suspend }).await?;
    }
    service.change(|record| record.wanted = Wanted::Stopped)?;
    service.set_state(ServiceState::Stopped);
    service.unbind();
    Ok(())
}

/// Carries a client's nonce to the keep in which a service runs, and its evidence back.
pub(crate) async fn attest(service: &Arc<Service>, request: &AttestRequest) -> Result<AttestDone, NodeError> {
    let nonce = unhex(&request.challenge)
        .map(Nonce)
        .ok_or_else(|| NodeError::Invalid("a challenge has 64 hexadecimal digits".into()))?;
    let instance = service.instance_soon().await;
    let instance = instance.ok_or_else(|| NodeError::Conflict(format!("{} does not run here", service.name())))?;
    let mut answers = instance.keep.order(|order| Order::Attest(Challenge { order, nonce }), &[])?;
    match answers.next("giving evidence").await? {
        Report::Attested(Attested { order: _, evidence, endorsements, binding }) => Ok(AttestDone {
            evidence: Bytes(evidence).to_string(),
            endorsements: Bytes(endorsements).to_string(),
            binding: Bytes(binding).to_string(),
        }),
        _ => Err(NodeError::KeepDied { doing: "giving evidence" }),
    }
}

/// Ends a service for ever.
pub(crate) async fn remove(node: &Arc<Node>, service: &Arc<Service>, force: bool) -> Result<(), NodeError> {
    let _leave = service.begin("its removal").await?;
    if let Some(instance) = service.instance() {
        if !force {
            let text = format!("{} runs: stop it first, or use --force", service.name());
            return Err(NodeError::Conflict(text));
        }
        end(service, &instance, StopHow::Kill).await?;
    }
    if let Some(id) = service.record().document.service() {
        node.ledger().retire(id, &node.keys().owner).await?;
    }
    node.forget(service)?;
    // Nodes where it has been relay to it no longer. One that is away forgets it when it finds the record retired.
    for name in node.peers().keys() {
        let path = format!("/v1/services/{}?local=true&id={}", service.name(), service.id());
        if let Ok(api) = node.api_of(name) {
            let _unknown_there = tokio::time::timeout(Duration::from_secs(2), api.delete(&path)).await;
        }
    }
    Ok(())
}

/// Puts the state on storage and into the ledger.
pub(crate) async fn checkpoint(service: &Arc<Service>, whole: bool) -> Result<CheckpointDone, NodeError> {
    let _leave = service.begin("a checkpoint").await?;
    let instance = running(service)?;
    let mut answers = instance.keep.order(|order| Order::Checkpoint(TakeCheckpoint { order, whole }), &[])?;
    match answers.next("taking a checkpoint").await? {
        Report::Checkpointed(Checkpointed { order: _, version, state_hash, bytes, pause, took }) => {
            service.live(|live| live.version = Some(version));
            let (pause_ms, took_ms) = (milliseconds(pause), milliseconds(took));
            Ok(CheckpointDone { version, state: state_hash.to_string(), bytes, pause_ms, took_ms })
        }
        _ => Err(NodeError::KeepDied { doing: "taking a checkpoint" }),
    }
}

/// Goes back to the last committed state: whatever runs is ended without keeping it.
pub(crate) async fn restore(node: &Arc<Node>, service: &Arc<Service>) -> Result<(), NodeError> {
    let _leave = service.begin("a restore").await?;
    if let Some(instance) = service.instance() {
        end(service, &instance, StopHow::Kill).await?;
    }
    service.change(|record| record.wanted = Wanted::Running)?;
    bring_up(node, service, origin(service)).await
}

/// Everything about a service that is here.
pub(crate) async fn describe(node: &Arc<Node>, service: &Arc<Service>) -> ServiceInfo {
    let line = service.line(node.name());
    let document = service.record().document;
    let in_force = document.policy.as_ref().and_then(|_| document.subject().policy_in_force(node.ledger().key()).ok());
    let policy = in_force.map(|policy| policy.hash().to_string());
    let Document { name: _, id, module, args, env, listen: _, volume, tier, limits, policy: _ } = document;
    let instance = service.instance();
    let status = match &instance {
        Some(instance) => status(&instance.keep).await,
        None => None,
    };
    let ledger = owner(node, service).await;
    ServiceInfo {
        line,
        id,
        module,
        args,
        env: env.into_keys().collect(),
        tier,
        limits,
        volume,
        policy,
        pinned: service.live(|live| live.pinned.clone()),
        process: instance.map(|instance| instance.keep.process()),
        memory_bytes: status.as_ref().map(|status| status.memory_bytes),
        connections: status.as_ref().map(|status| status.connections),
        cpu_ms: status.as_ref().map(|status| milliseconds(status.cpu)),
        uptime_ms: status.as_ref().map(|status| milliseconds(status.uptime)),
        ledger,
    }
}

async fn status(keep: &Keep) -> Option<StatusReport> {
    let mut answers = keep.order(|order| Order::Query(Call { order }), &[]).ok()?;
    match tokio::time::timeout(Duration::from_secs(2), answers.next("answering")).await.ok()?.ok()? {
        Report::Status(status) => Some(status),
        _ => None,
    }
}

async fn owner(node: &Arc<Node>, service: &Arc<Service>) -> Option<Owner> {
    let id = service.record().document.service()?;
    let record = node.ledger().read(id).await.ok()??.record;
    let holder = match record.holder_platform {
        Some(platform) => Some(node.node_of(&platform.to_string()).await.unwrap_or_else(|| platform.to_string())),
        None => None,
    };
    let status = format!("{:?}", record.status).to_lowercase();
    Some(Owner { epoch: record.epoch, version: record.version, holder, state: record.state_hash.to_string(), status })
}

/// The program of a service wishes to move.
pub(crate) async fn fulfil(node: &Arc<Node>, service: &Arc<Service>, keep: &Keep, wish: Wish) {
    let Wish { wish, destination } = wish;
    service.log.note(format!("the program wishes to move to {destination}"));
    let request = MigrateRequest { to: destination, ..MigrateRequest::default() };
    if let Err(error) = depart::begin(node, service, request, Some(wish)).await {
        let text = error.in_full();
        service.log.note(format!("it stays: {text}"));
        let _gone = keep.send(&Order::WishRefused(WishRefused { wish, text }), &[]);
    }
}

/// Starts again, after the node's own start, what ran when it ended.
pub(crate) async fn wake(node: Arc<Node>, service: Arc<Service>) {
    let leave = service.begin_after("its start with the node").await;
    let Record { wanted, place, .. } = service.record();
    match (place, wanted) {
        (Place::Away { .. }, _) => relay_from_here(&node, &service),
        (Place::Arriving { .. }, _) | (Place::Here, Wanted::Running) => revive(node, service, leave).await,
        (Place::Here, Wanted::Stopped | Wanted::Ended) => {}
    }
}

/// Suspends a service because its node ends.
pub(crate) async fn suspend_for_shutdown(_node: Arc<Node>, service: Arc<Service>) {
    let _leave = tokio::time::timeout(ENDING, service.begin_after("the node's end")).await;
    service.unbind();
    let Some(instance) = service.instance() else { return };
    if let Err(error) = end(&service, &instance, StopHow::Suspend).await {
        service.log.note(format!("not suspended, the last checkpoint counts: {}", error.in_full()));
        instance.keep.hang_up();
        instance.keep.wait().await;
    }
}

/// The process of a keep is gone.
pub(crate) async fn keep_is_gone(
    node: &Arc<Node>,
    service: &Arc<Service>,
    keep: &Arc<Keep>,
    how: Option<EndedHow>,
    leave: OwnedMutexGuard<()>,
) {
    let ours = service.live(|live| {
        let ours = live.instance.as_ref().is_some_and(|instance| Arc::ptr_eq(&instance.keep, keep));
        if ours {
            live.instance = None;
        }
        ours
    });
    if !ours {
        return;
    }
    let over = match how {
        Some(EndedHow::Exited(code)) => Some((Wanted::Ended, ServiceState::Ended, format!("exited with {code}"))),
        Some(EndedHow::Trapped { message, backtrace }) => {
            backtrace.lines().for_each(|line| service.log.note(line));
            Some((Wanted::Ended, ServiceState::Ended, format!("trapped: {message}")))
        }
        Some(EndedHow::Suspended { .. } | EndedHow::Killed) => {
            Some((Wanted::Stopped, ServiceState::Stopped, "stopped".to_owned()))
        }
        Some(EndedHow::Broken(text)) => {
            service.log.note(format!("the keep could not go on: {text}"));
            None
        }
        _ => {
            service.log.note("the keep ended unexpectedly");
            None
        }
    };
    match over {
        Some((wanted, state, message)) => {
            service.log.note(&message);
            service.set_state(state);
            service.unbind();
            let _in_memory = service.change(|record| {
                record.wanted = wanted;
                record.message = Some(message);
            });
        }
        None => revive(node.clone(), service.clone(), leave).await,
    }
}

/// Starts a service until it runs, or it is certain that it does not run here.
pub(crate) async fn revive(node: Arc<Node>, service: Arc<Service>, leave: OwnedMutexGuard<()>) {
    let begun = Instant::now();
    let mut leave = Some(leave);
    let mut wait = Duration::from_millis(100);
    let mut tries = 0;
    loop {
        let error = match bring_up(&node, &service, origin(&service)).await {
            Ok(()) => return,
            Err(error) => error,
        };
        let text = error.in_full();
        service.set_state(ServiceState::Failed);
        let _in_memory = service.change(|record| record.message = Some(text.clone()));
        let over = match &error {
            NodeError::Keep { code: FailCode::NotHolder, .. } => {
                settle(&node, &service, begun.elapsed() > UNDECIDED).await
            }
            NodeError::Keep { code: FailCode::StateMissing, .. } => {
                if recover::falls_back(&node, &service).await {
                    return;
                }
                // Its source may come back, too.
                !matches!(service.record().place, Place::Arriving { .. }) || begun.elapsed() > UNDECIDED
            }
            NodeError::Keep { code: FailCode::Module | FailCode::Invalid, .. } => true,
            NodeError::Keep { code: FailCode::Ledger | FailCode::Keys, .. } | NodeError::LedgerAway { .. } => false,
            _ => {
                tries += 1;
                tries >= TRIES
            }
        };
        service.log.note(format!("it does not start: {text}"));
        if over {
            return;
        }
        // Others may do something about it meanwhile, as another arrival.
        drop(leave.take());
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(5));
        leave = Some(service.begin_after("its start").await);
        let Record { wanted, place, .. } = service.record();
        if service.instance().is_some() || wanted != Wanted::Running || matches!(place, Place::Away { .. }) {
            return;
        }
    }
}

/// A keep was told that the service is not to run here: asks the ledger who has it. Whether that is certain.
async fn settle(node: &Arc<Node>, service: &Arc<Service>, patience_is_over: bool) -> bool {
    let Record { document, place, .. } = service.record();
    let Some(id) = document.service() else { return true };
    let record = match node.ledger().read(id).await {
        Ok(Some(reading)) => reading.record,
        Ok(None) | Err(_) => return false,
    };
    let holder = match record.holder_platform {
        Some(platform) => node.node_of(&platform.to_string()).await,
        None => None,
    };
    let Some(holder) = holder.filter(|holder| holder != node.name()) else { return patience_is_over };
    if let Place::Arriving { from } = &place
        && *from == holder
        && !patience_is_over
        && still_leaving(node, &holder, service.name()).await
    {
        return false;
    }
    service.log.note(format!("it is at node {holder}"));
    is_elsewhere(node, service, holder);
    true
}

/// Whether the node from which a service was to come may still give it away, as far as one knows.
async fn still_leaving(node: &Arc<Node>, from: &str, name: &str) -> bool {
    let ask =
        async { node.api_of(from).ok()?.get::<ServiceInfo>(&format!("/v1/services/{name}?local=true")).await.ok() };
    match tokio::time::timeout(Duration::from_secs(2), ask).await {
        Ok(Some(info)) => matches!(info.line.state, ServiceState::Leaving | ServiceState::Starting),
        Ok(None) | Err(_) => true,
    }
}

/// The service has turned out to be at another node.
pub(crate) fn is_elsewhere(node: &Arc<Node>, service: &Arc<Service>, at: String) {
    let _in_memory = service.change(|record| {
        record.place = Place::Away { node: at };
        record.message = None;
    });
    relay_from_here(node, service);
}

/// The service is elsewhere, and clients may still come here.
pub(crate) fn relay_from_here(node: &Arc<Node>, service: &Arc<Service>) {
    service.live(|live| {
        live.state = ServiceState::Away;
        live.pinned = None;
    });
    let accepts = service.bind(node.config().host, false).and_then(|()| service.accept(node));
    if let Err(error) = accepts {
        service.log.note(format!("clients cannot reach it through this node: {}", error.in_full()));
    }
}

/// Starts an instance. Whoever calls has the leave to.
pub(crate) async fn bring_up(node: &Arc<Node>, service: &Arc<Service>, origin: Origin) -> Result<(), NodeError> {
    let Document { module, volume, .. } = service.record().document;
    let spec = service.record().document.spec(node.ledger().key())?;
    let path = node.module_path(&module);
    let module = File::open(&path).map_err(NodeError::file(path, "opened"))?;
    service.set_state(ServiceState::Starting);
    service.stop_accepting();
    service.bind(node.config().host, true)?;
    let mut offers = vec![(Role::Module, module.into())];
    offers.extend(surroundings(service, volume)?);
    let keep = node.pool().take().await?;
    let instance = Instance::new(node, service, keep.clone(), None);
    if origin == Origin::Recovered {
        keep.may_recover(spec.service, &node.keys().owner);
    }
    let started = async {
        let (offered, descriptors) = offer(offers)?;
        let borrowed: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        let order = |order| Order::Start(Start { order, spec, origin, offered });
        let mut answers = keep.order(order, &borrowed)?;
        drop(descriptors);
        answers.next("starting").await
    };
    match started.await {
        Ok(Report::Running(running)) => {
            service.change(|record| {
                record.claimed = true;
                record.place = Place::Here;
                record.wanted = Wanted::Running;
                record.message = None;
            })?;
            service.runs(instance, &running);
            Ok(())
        }
        Ok(_) => Err(give_up(&keep, NodeError::KeepDied { doing: "starting" })),
        Err(error) => Err(give_up(&keep, error)),
    }
}

fn give_up(keep: &Keep, error: NodeError) -> NodeError {
    keep.hang_up();
    error
}

/// What a keep is given besides the module, wherever the service comes from.
pub(crate) fn surroundings(service: &Service, volume: Option<String>) -> Result<Vec<(Role, OwnedFd)>, NodeError> {
    let nothing = File::open("/dev/null").map_err(NodeError::file("/dev/null", "opened"))?;
    let mut offers = vec![
        (Role::Stdin, nothing.into()),
        (Role::Stdout, service.log.pipe(Stream::Out)?),
        (Role::Stderr, service.log.pipe(Stream::Err)?),
        (Role::States, service.states()?.into()),
    ];
    if let Some(guest) = volume {
        offers.push((Role::Volume { guest }, service.volume()?.into()));
    }
    offers.extend(service.sockets()?.into_iter().map(|socket| (Role::Listener, OwnedFd::from(socket))));
    Ok(offers)
}

pub(crate) fn offer(offers: Vec<(Role, OwnedFd)>) -> Result<(Offered, Vec<OwnedFd>), NodeError> {
    let (roles, descriptors) = offers.into_iter().unzip();
    let offered = Offered::new(roles).map_err(|error| NodeError::Invalid(error.to_string()))?;
    Ok((offered, descriptors))
}

pub(crate) fn running(service: &Service) -> Result<Arc<Instance>, NodeError> {
    let name = service.name();
    service.instance().ok_or_else(|| NodeError::Conflict(format!("{name} does not run: start it first")))
}

pub(crate) fn origin(service: &Service) -> Origin {
    if service.record().claimed { Origin::Again } else { Origin::First }
}

async fn end(service: &Arc<Service>, instance: &Arc<Instance>, how: StopHow) -> Result<(), NodeError> {
    let mut answers = instance.keep.order(|order| Order::Stop(Stop { order, how }), &[])?;
    match tokio::time::timeout(ENDING, answers.next("stopping")).await {
        Ok(Ok(Report::Ended(ended))) => {
            if let EndedHow::Suspended { version } = ended.how {
                service.live(|live| live.version = Some(version));
            }
        }
        Ok(Err(error @ NodeError::Keep { .. })) if how == StopHow::Suspend => return Err(error),
        // It was to be ended, and it is.
        Ok(Ok(_) | Err(_)) | Err(_) => instance.keep.kill(),
    }
    service.live(|live| live.instance = None);
    instance.keep.hang_up();
    if tokio::time::timeout(ENDING, instance.keep.wait()).await.is_err() {
        instance.keep.kill();
    }
    Ok(())
}
