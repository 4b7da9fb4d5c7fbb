//! A service whose machine is lost, or whose move was cut off in the middle, comes back with its owner's leave.

use std::sync::Arc;
use std::time::Duration;

use dunlin_handover::PlatformId;
use dunlin_handover::ledger::Status;
use dunlin_keep_link::{Origin, StateName};

use crate::backup::Backup;
use crate::error::NodeError;
use crate::folder;
use crate::model::{RecoverRequest, ServiceInfo, ServiceState, StopRequest};
use crate::node::{MODULE_LIMIT, Node};
use crate::record::{Place, Record, Wanted};
use crate::service::Service;
use crate::verbs;

/// How long another node may take for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take to bring a service back.
const BRINGING: Duration = Duration::from_secs(60);
/// How long a move that is broken off may take to be over.
const WINDING_UP: Duration = Duration::from_secs(8);

/// Takes a service that the ledger says is elsewhere, from a state that is here. One that is held here is started.
pub(crate) async fn recover(node: &Arc<Node>, service: &Arc<Service>, force: bool) -> Result<(), NodeError> {
    let id = service.record().document.service();
    let id = id.ok_or_else(|| NodeError::Invalid("a service without id".into()))?;
    let unknown = || NodeError::NotFound(format!("the ledger knows no service {}", service.name()));
    let record = node.ledger().read(id).await?.ok_or_else(unknown)?.record;
    if record.status == Status::Retired {
        return Err(NodeError::Conflict(format!("{} was ended for ever", service.name())));
    }
    let holder = record.holder_platform;
    let here = holder.is_none_or(|platform| platform == PlatformId(node.keys().platform.public().thumbprint().0));
    if let Some(leaving) = service.live(|live| live.leaving.clone()) {
        if here {
            // Its keep sees that it has the service back, and goes on.
            return Ok(());
        }
        // The other side of its move will not come for the rest.
        leaving.keep.kill();
    }
    let _leave = service.begin_within(WINDING_UP, "its recovery").await?;
    if service.instance().is_some() {
        return Err(NodeError::Conflict(format!("{} runs at node {} already", service.name(), node.name())));
    }
    if let Some(platform) = holder.filter(|_| !here) {
        leave_it(node, service, platform, force).await?;
    }
    service.change(|record| record.wanted = Wanted::Running)?;
    let origin = if here { verbs::origin(service) } else { Origin::Recovered };
    service.log.note(if here { "it is started again" } else { "its owner recovers it to this node" });
    verbs::bring_up(node, service, origin).await
}

/// Whoever runs it stops doing so, if that is known.
async fn leave_it(node: &Arc<Node>, service: &Service, at: PlatformId, force: bool) -> Result<(), NodeError> {
    let Some(name) = node.node_of(&at.to_string()).await else { return Ok(()) };
    let api = node.api_of(&name)?;
    let path = format!("/v1/services/{}", service.name());
    let ask = format!("{path}?local=true");
    let Ok(Ok(info)) = tokio::time::timeout(PATIENCE, api.get::<ServiceInfo>(&ask)).await else { return Ok(()) };
    if !matches!(info.line.state, ServiceState::Running | ServiceState::Leaving) || info.id != service.id() {
        return Ok(());
    }
    if !force {
        let text = format!("{} runs at node {name}: move it, or end it there with --force", service.name());
        return Err(NodeError::Conflict(text));
    }
    let stop = format!("{path}/stop?local=true");
    // What does not end by itself ends when it asks the ledger next.
    let _away = tokio::time::timeout(PATIENCE, api.post::<()>(&stop, &StopRequest { kill: true })).await;
    Ok(())
}

/// Brings a service back from a copy of its last checkpoint.
pub(crate) async fn from_backup(node: &Arc<Node>, bytes: &[u8], force: bool) -> Result<Arc<Service>, NodeError> {
    let Backup { document, version, state_hash, module, state } = Backup::from_bytes(bytes)?;
    folder::write(&node.module_path(&document.module), &module)?;
    let (service, is_new) = match node.service(&document.name) {
        Ok(service) if service.id() == document.id => (service, false),
        Ok(_) => {
            let text = format!("node {} has another service {}", node.name(), document.name);
            return Err(NodeError::Conflict(text));
        }
        Err(_) => {
            let mut record = Record::new(document, Wanted::Stopped, Place::Here);
            record.claimed = true;
            (node.add(record)?, true)
        }
    };
    let taken = async {
        folder::write(&service.state_path(StateName { version, state_hash }), &state)?;
        recover(node, &service, force).await
    };
    match taken.await {
        Ok(()) => Ok(service),
        Err(error) => {
            if is_new {
                node.forget(&service)?;
            }
            Err(error)
        }
    }
}

/// A copy of the last checkpoint of a service, which is here and whole.
pub(crate) fn backup(node: &Node, service: &Service) -> Result<Vec<u8>, NodeError> {
    let none = || {
        let name = service.name();
        NodeError::Conflict(format!(
            "the last state of {name} is not whole without its machine: take a whole checkpoint first"
        ))
    };
    let (StateName { version, state_hash }, path) = service.newest_state()?.ok_or_else(none)?;
    let state = folder::read(&path, crate::backup::BACKUP_LIMIT)?.ok_or_else(none)?;
    let document = service.record().document;
    let path = node.module_path(&document.module);
    let module = folder::read(&path, MODULE_LIMIT)?;
    let module = module.ok_or_else(|| NodeError::NotFound(format!("module {} is not here", document.module)))?;
    Backup { document, version, state_hash, module, state }.to_bytes()
}

/// A service whose memory did not come as a whole went back to where it came from.
pub(crate) async fn is_back_at(node: &Arc<Node>, service: &Arc<Service>, from: &str) {
    // First there: until then, that node would send clients back.
    if let Err(error) = bring_back(node, service, from).await {
        service.log.note(format!("node {from} does not start it: {error}"));
    }
    verbs::is_elsewhere(node, service, from.to_owned());
}

/// A service that arrived here and died before all of its memory was here. Its source has the whole state, and the leave to
/// run it, if its node has the owner's. Whether that is how it went.
pub(crate) async fn falls_back(node: &Arc<Node>, service: &Arc<Service>) -> bool {
    let Place::Arriving { from } = service.record().place else { return false };
    match bring_back(node, service, &from).await {
        Ok(()) => {
            service.log.note(format!("its memory is not here: it goes on at node {from}, as it was when it left"));
            verbs::is_elsewhere(node, service, from);
            true
        }
        Err(error) => {
            service.log.note(format!("its memory is not here, and node {from} does not bring it back: {error}"));
            false
        }
    }
}

async fn bring_back(node: &Arc<Node>, service: &Service, at: &str) -> Result<(), String> {
    let api = node.api_of(at).map_err(|error| error.to_string())?;
    let path = format!("/v1/services/{}/recover?id={}", service.name(), service.id());
    let asked = api.post::<ServiceInfo>(&path, &RecoverRequest { force: false });
    let answer = tokio::time::timeout(BRINGING, asked).await.map_err(|_| "it does not answer".to_owned())?;
    answer.map(drop).map_err(|error| error.to_string())
}
