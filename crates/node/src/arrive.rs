//! A move to this node.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

use dunlin_base::{Digest, unhex};
use dunlin_handover::MigrationId;
use dunlin_keep_link::{About, Arrived, ArrivedHow, MigrateIn, Order, Report, Role, Running};
use tokio::net::UnixStream;
use tokio::sync::OwnedMutexGuard;

use crate::depart::blocking;
use crate::error::NodeError;
use crate::folder;
use crate::instance::Instance;
use crate::keep::{Keep, lock};
use crate::model::ServiceState;
use crate::node::{MODULE_LIMIT, Node};
use crate::peer::{self, Reply};
use crate::record::{Document, Place, Record, Wanted};
use crate::recover;
use crate::service::Service;
use crate::verbs;

/// How long an arrival that was given up may take to be over; another one waits for that.
const WINDING_UP: std::time::Duration = std::time::Duration::from_secs(8);

/// Keeps that get or got a service by a move, for those whose link is lost.
#[derive(Debug, Default)]
pub(crate) struct Moves(Mutex<HashMap<String, Weak<Keep>>>);

/// Serves a stream by which another node gives a service.
pub(crate) async fn migrate(
    node: Arc<Node>,
    from: String,
    migration: String,
    document: Document,
    dry_run: bool,
    mut stream: UnixStream,
) -> io::Result<()> {
    match prepare(&node, from, migration, document, dry_run).await {
        Ok(arrival) => {
            peer::reply(&mut stream, &Reply::Ready).await?;
            arrival.run(stream).await;
            Ok(())
        }
        Err(error) => peer::reply(&mut stream, &Reply::Refused { reason: error.in_full() }).await,
    }
}

/// The link of a move to here was lost; this is another.
pub(crate) async fn reconnect(node: &Arc<Node>, migration: &str, mut stream: UnixStream) -> io::Result<()> {
    let keep = lock(&node.moves().0).get(migration).and_then(Weak::upgrade);
    let id = unhex(migration).map(MigrationId);
    let (Some(keep), Some(id)) = (keep, id) else {
        let reason = "no such move goes on here".to_owned();
        return peer::reply(&mut stream, &Reply::Refused { reason }).await;
    };
    peer::reply(&mut stream, &Reply::Ready).await?;
    let stream = blocking(stream).map_err(io::Error::other)?;
    let order = |order| Order::Reconnect(About { order, migration: id });
    keep.order(order, &[stream.as_fd()]).map(drop).map_err(io::Error::other)
}

struct Arrival {
    node: Arc<Node>,
    service: Arc<Service>,
    instance: Arc<Instance>,
    leave: OwnedMutexGuard<()>,
    /// What was known before; `None` if the service has never been here.
    before: Option<Record>,
    from: String,
    migration: String,
    offers: Vec<(Role, OwnedFd)>,
}

async fn prepare(
    node: &Arc<Node>,
    from: String,
    migration: String,
    document: Document,
    dry_run: bool,
) -> Result<Arrival, NodeError> {
    document.check()?;
    if unhex::<16>(&migration).is_none() {
        return Err(NodeError::Invalid("the id of a migration is not written as hexadecimal digits".to_owned()));
    }
    node.peer(&from)?;
    fetch(node, &from, &document.module).await?;
    let place = Place::Arriving { from: from.clone() };
    let (service, leave, before) = loop {
        let (service, before) = match node.service(&document.name) {
            Ok(service) if service.id() != document.id => {
                return Err(NodeError::Conflict(format!("node {} has another service {}", node.name(), document.name)));
            }
            Ok(service) => (service, true),
            Err(_) => (node.add(Record::new(document.clone(), Wanted::Running, place.clone()))?, false),
        };
        let leave = service.begin_within(WINDING_UP, "an arrival").await?;
        // Whoever was at it may have undone an arrival, and with it the service.
        if node.service(&document.name).is_ok_and(|known| Arc::ptr_eq(&known, &service)) {
            let before = before.then(|| service.record());
            break (service, leave, before);
        }
    };
    let begun = async {
        if service.instance().is_some() {
            return Err(NodeError::Conflict(format!("{} runs at node {} already", service.name(), node.name())));
        }
        let path = node.module_path(&document.module);
        let module = File::open(&path).map_err(NodeError::file(path, "opened"))?;
        service.bind(node.config().host, false)?;
        let mut offers = vec![(Role::Module, module.into())];
        offers.extend(verbs::surroundings(&service, document.volume.clone())?);
        let keep = node.pool().take().await?;
        if !dry_run {
            // From here on the service may be staged here, whatever happens to this node.
            service.change(|record| {
                record.document = document;
                record.place = place;
                record.wanted = Wanted::Running;
                record.claimed = true;
            })?;
        }
        let instance = Instance::new(node, &service, keep.clone(), Some(migration.clone()));
        let mut moves = lock(&node.moves().0);
        moves.retain(|_, keep| keep.strong_count() > 0);
        moves.insert(migration.clone(), Arc::downgrade(&keep));
        Ok((instance, offers))
    };
    match begun.await {
        Ok((instance, offers)) => Ok(Arrival {
            node: node.clone(),
            service: service.clone(),
            instance,
            leave,
            before,
            from,
            migration,
            offers,
        }),
        Err(error) => {
            undo(node, &service, before);
            Err(error)
        }
    }
}

impl Arrival {
    async fn run(self, stream: UnixStream) {
        let Self { node, service, instance, leave, before, from, migration, offers } = self;
        let keep = instance.keep.clone();
        let mut answers = match receive(&node, &service, &keep, &migration, offers, stream) {
            Ok(answers) => answers,
            Err(error) => {
                service.log.note(format!("no arrival from {from}: {}", error.in_full()));
                keep.hang_up();
                return undo(&node, &service, before);
            }
        };
        let mut lives = false;
        loop {
            let how = match answers.next("taking a service").await {
                Ok(Report::Arrived(Arrived { order: _, migration: _, how })) => how,
                Ok(_) => continue,
                Err(NodeError::KeepDied { .. }) if lives => {
                    // Whoever waits for the leave starts it again.
                    return;
                }
                Err(NodeError::KeepDied { .. }) => ArrivedHow::Parked,
                Err(error) => ArrivedHow::Failed(error.in_full()),
            };
            match how {
                ArrivedHow::Live { epoch, version, complete } => {
                    if !lives {
                        lives = true;
                        live(&service, &instance, epoch, version);
                    }
                    if complete {
                        // Until now, the state that its source retains was needed to start it again.
                        let _in_memory = service.change(|record| record.place = Place::Here);
                        return;
                    }
                }
                ArrivedHow::Parked => {
                    service.log.note(format!("it may have come from {from}: asking the ledger"));
                    service.set_state(ServiceState::Arriving);
                    keep.hang_up();
                    keep.wait().await;
                    return verbs::revive(node, service, leave).await;
                }
                ArrivedHow::GaveBack => {
                    service.live(|live| live.instance = None);
                    service.log.note(format!("given back to {from}: the link was lost for too long"));
                    keep.hang_up();
                    return recover::is_back_at(&node, &service, &from).await;
                }
                ArrivedHow::DryRun => {
                    keep.hang_up();
                    return undo(&node, &service, before);
                }
                ArrivedHow::Refused(blocked) => {
                    let reasons: Vec<String> = blocked.iter().map(ToString::to_string).collect();
                    service.log.note(format!("not taken from {from}: {}", reasons.join("; ")));
                    keep.hang_up();
                    return undo(&node, &service, before);
                }
                ArrivedHow::Failed(text) => {
                    service.log.note(format!("it did not come from {from}: {text}"));
                    keep.hang_up();
                    return undo(&node, &service, before);
                }
                // Of a later version.
                _ => {}
            }
        }
    }
}

fn receive(
    node: &Node,
    service: &Service,
    keep: &Keep,
    migration: &str,
    mut offers: Vec<(Role, OwnedFd)>,
    stream: UnixStream,
) -> Result<crate::keep::Answers, NodeError> {
    let spec = service.record().document.spec(node.ledger().key())?;
    let migration = MigrationId(unhex(migration).unwrap_or_default());
    offers.push((Role::Peer, blocking(stream)?.into()));
    let (offered, descriptors) = verbs::offer(offers)?;
    let borrowed: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
    keep.order(|order| Order::MigrateIn(MigrateIn { order, migration, spec, offered }), &borrowed)
}

fn live(service: &Arc<Service>, instance: &Arc<Instance>, epoch: u64, version: u64) {
    // First the acceptors: what they would accept from now on is the program's.
    service.stop_accepting();
    let running =
        Running { order: dunlin_keep_link::OrderId(0), epoch, version, pinned: None, took: std::time::Duration::ZERO };
    service.runs(instance.clone(), &running);
    let written = service.change(|record| {
        record.wanted = Wanted::Running;
        record.message = None;
    });
    if let Err(error) = written {
        // It runs, and the ledger knows; after a crash it counts as arriving, and is asked about.
        service.log.note(error.in_full());
    }
}

/// Everything as it was before somebody wished to come.
fn undo(node: &Arc<Node>, service: &Arc<Service>, before: Option<Record>) {
    let undone = match before {
        Some(before) => {
            let away = matches!(before.place, Place::Away { .. });
            let done = service.change(|record| *record = Record { bound: record.bound.clone(), ..before });
            if away {
                verbs::relay_from_here(node, service);
            }
            done
        }
        None => node.forget(service),
    };
    if let Err(error) = undone {
        service.log.note(error.in_full());
    }
}

/// Gets the module from the node where the service is, unless it is here.
async fn fetch(node: &Arc<Node>, from: &str, module: &str) -> Result<(), NodeError> {
    let path = node.module_path(module);
    if path.is_file() {
        return Ok(());
    }
    let refused = |reason: String| NodeError::Refused { node: from.to_owned(), reason };
    let bytes = node.api_of(from)?.get_bytes(&format!("/v1/modules/{module}"), MODULE_LIMIT).await;
    let bytes = bytes.map_err(|error| refused(error.to_string()))?;
    if Digest::of(&bytes).to_string() != module {
        return Err(refused("the module that it sent is another one".to_owned()));
    }
    folder::write(&path, &bytes)
}
