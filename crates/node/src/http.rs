//! The HTTP API: every verb of the command line is one request. A request about a service that is at another node is
//! passed on to it.

#![allow(unused_qualifications, reason = "the macro for parameters writes whole paths")]

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use dunlin_base::{Digest, unhex};
use http_body_util::channel::Channel;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::sync::broadcast::error::RecvError;
use utoipa::{IntoParams, OpenApi};

use crate::backup::BACKUP_LIMIT;
use crate::client::ApiError;
use crate::error::NodeError;
use crate::keep::run_blocking;
use crate::model::{
    AttestDone, AttestRequest, CheckpointDone, Deploy, JobInfo, JobState, Line, MigrateRequest, NodeInfo, NodeLine,
    Problem, RecoverRequest, ServiceInfo, ServiceLine, ServiceState, StopRequest, Stored,
};
use crate::node::{MODULE_LIMIT, Node};
use crate::service::Service;
use crate::{depart, folder, recover, verbs};

/// How many nodes a request may be passed through: a service that moves may be found a node further.
const HOPS: u32 = 4;
/// The header that counts them.
const HOP: &str = "x-dunlin-hop";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Dunlin node",
        description = "What a node can be asked to do. The same API is on the Unix socket of each node.",
        version = "1",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(
        node,
        nodes,
        list,
        deploy,
        describe,
        remove,
        start,
        stop,
        checkpoint,
        saved,
        attest,
        restore,
        recover,
        recover_from,
        migrate,
        logs,
        jobs,
        job,
        watch,
        abort,
        upload,
        download
    )
)]
struct Document;

/// The description of the API, as OpenAPI in JSON.
pub fn openapi() -> String {
    let mut text = Document::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

pub(crate) fn router(node: Arc<Node>) -> Router {
    let of_service = Router::new()
        .route("/v1/services/{name}", get(describe).delete(remove))
        .route("/v1/services/{name}/start", post(start))
        .route("/v1/services/{name}/stop", post(stop))
        .route("/v1/services/{name}/checkpoint", post(checkpoint).get(saved))
        .route("/v1/services/{name}/attest", post(attest))
        .route("/v1/services/{name}/restore", post(restore))
        .route("/v1/services/{name}/migrate", post(migrate))
        .route("/v1/services/{name}/logs", get(logs))
        .route_layer(middleware::from_fn_with_state(node.clone(), to_its_node));
    let of_recovery = Router::new()
        .route("/v1/services/{name}/recover", post(recover))
        .route("/v1/recover", put(recover_from))
        .layer(DefaultBodyLimit::max(BACKUP_LIMIT as usize));
    let of_job = Router::new()
        .route("/v1/jobs/{id}", get(job))
        .route("/v1/jobs/{id}/watch", get(watch))
        .route("/v1/jobs/{id}/abort", post(abort))
        .route_layer(middleware::from_fn_with_state(node.clone(), to_its_job));
    let of_module = Router::new()
        .route("/v1/modules/{digest}", put(upload).get(download))
        .layer(DefaultBodyLimit::max(MODULE_LIMIT as usize));
    Router::new()
        .route("/v1/node", get(self::node))
        .route("/v1/nodes", get(nodes))
        .route("/v1/services", get(list).post(deploy))
        .route("/v1/jobs", get(jobs))
        .route("/v1/openapi.json", get(|| async { ([(header::CONTENT_TYPE, "application/json")], openapi()) }))
        .merge(of_service)
        .merge(of_recovery)
        .merge(of_job)
        .merge(of_module)
        .fallback(|| async { NodeError::NotFound("there is no such path: /v1/openapi.json lists them".to_owned()) })
        .with_state(node)
}

/// Serves the API on one stream.
pub(crate) async fn serve_stream(node: Arc<Node>, stream: UnixStream) -> io::Result<()> {
    let service = TowerToHyperService::new(router(node));
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    connection.await.map_err(io::Error::other)
}

impl IntoResponse for NodeError {
    fn into_response(self) -> Response {
        let status = match self.code() {
            "invalid" => StatusCode::BAD_REQUEST,
            "not-found" => StatusCode::NOT_FOUND,
            "conflict" | "busy" => StatusCode::CONFLICT,
            "unreachable" => StatusCode::BAD_GATEWAY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let problem = Problem { code: self.code().to_owned(), message: self.in_full() };
        (status, Json(problem)).into_response()
    }
}

type Answer<T = Response> = Result<T, NodeError>;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
struct Whole {
    /// With all that is in the volume, so that a copy of it is good on another machine.
    whole: bool,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
struct Here {
    /// Only what this node has itself; nothing is passed on.
    local: bool,
    /// Only a service with this id.
    id: Option<String>,
    /// Even if it runs.
    force: bool,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
struct Lines {
    /// How many of the last lines; all that are kept if missing.
    tail: Option<usize>,
    /// Go on with new ones.
    follow: bool,
}

/// This node.
#[utoipa::path(get, path = "/v1/node", responses((status = 200, body = NodeInfo)))]
async fn node(State(node): State<Arc<Node>>) -> Json<NodeInfo> {
    Json(node.info())
}

/// All nodes that this one knows, and whether they answer.
#[utoipa::path(get, path = "/v1/nodes", responses((status = 200, body = Vec<NodeLine>)))]
async fn nodes(State(node): State<Arc<Node>>) -> Json<Vec<NodeLine>> {
    Json(node.nodes().await)
}

/// All services of all nodes.
#[utoipa::path(get, path = "/v1/services", params(Here), responses((status = 200, body = Vec<ServiceLine>)))]
async fn list(State(node): State<Arc<Node>>, Query(here): Query<Here>) -> Json<Vec<ServiceLine>> {
    let own = |service: Arc<Service>| service.away().is_none().then(|| service.line(node.name()));
    let mut lines: Vec<ServiceLine> = node.services().into_iter().filter_map(own).collect();
    if !here.local {
        let mut asked = Vec::new();
        for name in node.peers().keys() {
            let Ok(api) = node.api_of(name) else { continue };
            asked.push(tokio::spawn(async move {
                let list = api.get::<Vec<ServiceLine>>("/v1/services?local=true");
                tokio::time::timeout(std::time::Duration::from_secs(2), list).await
            }));
        }
        for answer in asked {
            if let Ok(Ok(Ok(theirs))) = answer.await {
                lines.extend(theirs);
            }
        }
        // One that is on its way is in two lists, and one whose node does not answer in none.
        lines.sort_by(|a, b| {
            (&a.name, a.state == ServiceState::Arriving).cmp(&(&b.name, b.state == ServiceState::Arriving))
        });
        lines.dedup_by(|later, earlier| later.name == earlier.name && later.state == ServiceState::Arriving);
        for service in node.services() {
            if !lines.iter().any(|line| line.name == service.name()) {
                lines.push(service.line(node.name()));
            }
        }
        lines.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Json(lines)
}

/// Makes a service and starts it.
#[utoipa::path(
    post, path = "/v1/services", request_body = Deploy,
    responses((status = 201, body = ServiceInfo), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn deploy(State(node): State<Arc<Node>>, Json(request): Json<Deploy>) -> Answer {
    let info = described(node.clone(), async move { verbs::deploy(&node, request).await }).await?;
    Ok((StatusCode::CREATED, info).into_response())
}

/// Everything about a service.
#[utoipa::path(
    get, path = "/v1/services/{name}", params(("name" = String, Path), Here),
    responses((status = 200, body = ServiceInfo), (status = "4XX", body = Problem))
)]
async fn describe(State(node): State<Arc<Node>>, Path(name): Path<String>) -> Answer<Json<ServiceInfo>> {
    let service = node.service(&name)?;
    Ok(Json(verbs::describe(&node, &service).await))
}

/// Ends a service for ever, with its state, volume and logs.
#[utoipa::path(
    delete, path = "/v1/services/{name}", params(("name" = String, Path), Here),
    responses((status = 204), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn remove(State(node): State<Arc<Node>>, Path(name): Path<String>, Query(here): Query<Here>) -> Answer {
    let service = node.service(&name)?;
    if here.local {
        // Another node says that it is gone: what is left here is where it was once.
        if service.away().is_some() && here.id.is_none_or(|id| id == service.id()) {
            node.forget(&service)?;
        }
    } else {
        detached(async move { verbs::remove(&node, &service, here.force).await }).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Starts a service that was stopped, has ended or failed.
#[utoipa::path(
    post, path = "/v1/services/{name}/start", params(("name" = String, Path)),
    responses((status = 200, body = ServiceInfo), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn start(State(node): State<Arc<Node>>, Path(name): Path<String>) -> Answer<Json<ServiceInfo>> {
    let service = node.service(&name)?;
    described(node.clone(), async move { verbs::start(&node, &service).await.map(|()| service) }).await
}

/// Stops a service; its state is kept.
#[utoipa::path(
    post, path = "/v1/services/{name}/stop", params(("name" = String, Path)), request_body = StopRequest,
    responses((status = 204), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn stop(State(node): State<Arc<Node>>, Path(name): Path<String>, Json(how): Json<StopRequest>) -> Answer {
    let service = node.service(&name)?;
    detached(async move { verbs::stop(&service, how.kill).await }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Puts the state on storage and into the ledger, while the program runs on.
#[utoipa::path(
    post, path = "/v1/services/{name}/checkpoint", params(("name" = String, Path), Whole),
    responses((status = 200, body = CheckpointDone), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn checkpoint(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Query(Whole { whole }): Query<Whole>,
) -> Answer<Json<CheckpointDone>> {
    let service = node.service(&name)?;
    Ok(Json(detached(async move { verbs::checkpoint(&service, whole).await }).await?))
}

/// Asks the keep in which a service runs what it is, for a client's nonce.
#[utoipa::path(
    post, path = "/v1/services/{name}/attest", params(("name" = String, Path)), request_body = AttestRequest,
    responses((status = 200, body = AttestDone), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn attest(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Json(request): Json<AttestRequest>,
) -> Answer<Json<AttestDone>> {
    let service = node.service(&name)?;
    Ok(Json(detached(async move { verbs::attest(&service, &request).await }).await?))
}

/// Goes back to the last committed state.
#[utoipa::path(
    post, path = "/v1/services/{name}/restore", params(("name" = String, Path)),
    responses((status = 200, body = ServiceInfo), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn restore(State(node): State<Arc<Node>>, Path(name): Path<String>) -> Answer<Json<ServiceInfo>> {
    let service = node.service(&name)?;
    described(node.clone(), async move { verbs::restore(&node, &service).await.map(|()| service) }).await
}

/// A copy of the last checkpoint, which must be a whole one, from which the owner can bring the service back on another
/// machine. The state in it is sealed.
#[utoipa::path(
    get, path = "/v1/services/{name}/checkpoint", params(("name" = String, Path)),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = "4XX", body = Problem))
)]
async fn saved(State(node): State<Arc<Node>>, Path(name): Path<String>) -> Answer {
    let service = node.service(&name)?;
    let bytes = run_blocking(move || recover::backup(&node, &service)).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// Takes a service from the machine that the ledger names, with the leave of its owner, whose key this node has: from a
/// state that is here.
#[utoipa::path(
    post, path = "/v1/services/{name}/recover", params(("name" = String, Path)), request_body = RecoverRequest,
    responses((status = 200, body = ServiceInfo), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn recover(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Query(here): Query<Here>,
    Json(how): Json<RecoverRequest>,
) -> Answer<Json<ServiceInfo>> {
    let service = node.service(&name)?;
    if here.id.is_some_and(|id| id != service.id()) {
        return Err(NodeError::NotFound(format!("node {} has another service {name}", node.name())));
    }
    described(node.clone(), async move { recover::recover(&node, &service, how.force).await.map(|()| service) }).await
}

/// The same from a copy of its last checkpoint.
#[utoipa::path(
    put, path = "/v1/recover", params(Here),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = ServiceInfo), (status = "4XX", body = Problem), (status = "5XX", body = Problem))
)]
async fn recover_from(
    State(node): State<Arc<Node>>,
    Query(here): Query<Here>,
    body: Bytes,
) -> Answer<Json<ServiceInfo>> {
    described(node.clone(), async move { recover::from_backup(&node, &body, here.force).await }).await
}

/// Moves a service to another node, as a job.
#[utoipa::path(
    post, path = "/v1/services/{name}/migrate", params(("name" = String, Path)), request_body = MigrateRequest,
    responses((status = 202, body = JobInfo), (status = "4XX", body = Problem))
)]
async fn migrate(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Json(request): Json<MigrateRequest>,
) -> Answer {
    let service = node.service(&name)?;
    let job = depart::begin(&node, &service, request, None).await?;
    Ok((StatusCode::ACCEPTED, Json(job.info())).into_response())
}

/// What a service printed, one JSON object a line.
#[utoipa::path(
    get, path = "/v1/services/{name}/logs", params(("name" = String, Path), Lines),
    responses((status = 200, body = Line, content_type = "application/x-ndjson"), (status = "4XX", body = Problem))
)]
async fn logs(State(node): State<Arc<Node>>, Path(name): Path<String>, Query(lines): Query<Lines>) -> Answer {
    let service = node.service(&name)?;
    let mut new = service.log.follow();
    let log = service.log.clone();
    let old = run_blocking(move || log.tail(lines.tail.unwrap_or(usize::MAX))).await?;
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(16);
    tokio::spawn(async move {
        let last = old.last().map_or(0.0, |line| line.time);
        for line in old {
            if sender.send_data(json_line(&line)).await.is_err() {
                return;
            }
        }
        if !lines.follow {
            return;
        }
        loop {
            match new.recv().await {
                // It was in the file already.
                Ok(line) if line.time < last => {}
                Ok(line) => {
                    if sender.send_data(json_line(&line)).await.is_err() {
                        return;
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response())
}

/// Moves that go on or are remembered, of all nodes.
#[utoipa::path(get, path = "/v1/jobs", params(Here), responses((status = 200, body = Vec<JobInfo>)))]
async fn jobs(State(node): State<Arc<Node>>, Query(here): Query<Here>) -> Json<Vec<JobInfo>> {
    let mut list = node.jobs().list();
    if !here.local {
        for name in node.peers().keys() {
            let Ok(api) = node.api_of(name) else { continue };
            let theirs = api.get::<Vec<JobInfo>>("/v1/jobs?local=true");
            if let Ok(Ok(theirs)) = tokio::time::timeout(std::time::Duration::from_secs(2), theirs).await {
                list.extend(theirs);
            }
        }
        list.sort_by(|a, b| a.started.total_cmp(&b.started));
    }
    Json(list)
}

/// A move.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", params(("id" = String, Path)),
    responses((status = 200, body = JobInfo), (status = "4XX", body = Problem))
)]
async fn job(State(node): State<Arc<Node>>, Path(id): Path<String>) -> Answer<Json<JobInfo>> {
    Ok(Json(node.jobs().find(&id)?.info()))
}

/// A move whenever something about it changes, one JSON object a line; the last one says how it ended.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/watch", params(("id" = String, Path)),
    responses((status = 200, body = JobInfo, content_type = "application/x-ndjson"), (status = "4XX", body = Problem))
)]
async fn watch(State(node): State<Arc<Node>>, Path(id): Path<String>) -> Answer {
    let job = node.jobs().find(&id)?;
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(16);
    tokio::spawn(async move {
        let mut changes = job.watch();
        loop {
            let info = changes.borrow_and_update().clone();
            let over = info.state != JobState::Running;
            if sender.send_data(json_line(&info)).await.is_err() || over || changes.changed().await.is_err() {
                return;
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(body)).into_response())
}

/// Gives a move up, if it still can be.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/abort", params(("id" = String, Path)),
    responses((status = 200, body = JobInfo), (status = "4XX", body = Problem))
)]
async fn abort(State(node): State<Arc<Node>>, Path(id): Path<String>) -> Answer<Json<JobInfo>> {
    let job = node.jobs().find(&id)?;
    job.abort()?;
    Ok(Json(job.info()))
}

/// Stores a module under its SHA-256.
#[utoipa::path(
    put, path = "/v1/modules/{digest}", params(("digest" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses((status = 200, body = Stored), (status = "4XX", body = Problem))
)]
async fn upload(State(node): State<Arc<Node>>, Path(digest): Path<String>, body: Bytes) -> Answer<Json<Stored>> {
    let stored = run_blocking(move || {
        let module = Digest::of(&body).to_string();
        if module != digest {
            return Err(NodeError::Invalid(format!("these bytes have the SHA-256 {module}, not {digest}")));
        }
        folder::write(&node.module_path(&module), &body)?;
        Ok(Stored { module, bytes: body.len() as u64 })
    });
    Ok(Json(stored.await?))
}

/// A module that is stored here.
#[utoipa::path(
    get, path = "/v1/modules/{digest}", params(("digest" = String, Path)),
    responses((status = 200, body = Vec<u8>, content_type = "application/wasm"), (status = "4XX", body = Problem))
)]
async fn download(State(node): State<Arc<Node>>, Path(digest): Path<String>) -> Answer {
    if unhex::<32>(&digest).is_none() {
        return Err(NodeError::Invalid("a module is named by 64 hexadecimal digits".to_owned()));
    }
    let path = node.module_path(&digest);
    let missing = || NodeError::NotFound(format!("module {digest} is not here"));
    let bytes = run_blocking(move || folder::read(&path, MODULE_LIMIT)).await?.ok_or_else(missing)?;
    Ok(([(header::CONTENT_TYPE, "application/wasm")], bytes).into_response())
}

/// Passes requests about a service on to the node where it is.
async fn to_its_node(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Query(here): Query<Here>,
    request: Request,
    next: Next,
) -> Answer {
    let hops = hops(request.headers());
    if here.local || hops >= HOPS {
        return Ok(next.run(request).await);
    }
    let at = match node.service(&name) {
        Ok(service) => service.away(),
        Err(_) => elsewhere(&node, &name).await,
    };
    match at {
        Some(at) => forward(&node, &at, request, hops).await,
        None => Ok(next.run(request).await),
    }
}

/// Passes requests about a job on to the node that has it.
async fn to_its_job(State(node): State<Arc<Node>>, Path(id): Path<String>, request: Request, next: Next) -> Answer {
    let hops = hops(request.headers());
    if hops == 0 && matches!(node.jobs().find(&id), Err(NodeError::NotFound(_))) {
        for name in node.peers().keys() {
            let Ok(api) = node.api_of(name) else { continue };
            let theirs = api.get::<Vec<JobInfo>>("/v1/jobs?local=true");
            let Ok(Ok(theirs)) = tokio::time::timeout(std::time::Duration::from_secs(2), theirs).await else {
                continue;
            };
            if theirs.iter().any(|job| job.id.starts_with(&id)) {
                return forward(&node, name, request, hops).await;
            }
        }
    }
    Ok(next.run(request).await)
}

/// Another node that has a service which this one has never seen.
async fn elsewhere(node: &Arc<Node>, name: &str) -> Option<String> {
    for peer in node.peers().keys() {
        let Ok(api) = node.api_of(peer) else { continue };
        let theirs = api.get::<Vec<ServiceLine>>("/v1/services?local=true");
        if let Ok(Ok(theirs)) = tokio::time::timeout(std::time::Duration::from_secs(2), theirs).await
            && theirs.iter().any(|line| line.name == name)
        {
            return Some(peer.clone());
        }
    }
    None
}

fn hops(headers: &HeaderMap) -> u32 {
    headers.get(HOP).and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0)
}

async fn forward(node: &Arc<Node>, at: &str, mut request: Request, hops: u32) -> Answer {
    request.headers_mut().insert(HOP, (hops + 1).into());
    let failed = |error: ApiError| match error {
        ApiError::Unreachable { target, source } => {
            NodeError::Unreachable { node: at.to_owned(), address: target, source }
        }
        error => NodeError::Refused { node: at.to_owned(), reason: error.to_string() },
    };
    let response = node.api_of(at)?.forward(request).await.map_err(failed)?;
    Ok(response.map(Body::new))
}

/// Does something that must come to its end even if nobody waits for the answer any more.
async fn detached<T: Send + 'static>(work: impl Future<Output = Answer<T>> + Send + 'static) -> Answer<T> {
    tokio::spawn(work).await.unwrap_or(Err(NodeError::KeepDied { doing: "doing what was asked" }))
}

/// The same, and says how the service is then.
async fn described(
    node: Arc<Node>,
    work: impl Future<Output = Answer<Arc<Service>>> + Send + 'static,
) -> Answer<Json<ServiceInfo>> {
    detached(async move {
        let service = work.await?;
        Ok(Json(verbs::describe(&node, &service).await))
    })
    .await
}

fn json_line(value: &impl serde::Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
