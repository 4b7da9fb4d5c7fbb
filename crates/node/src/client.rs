//! Asking a node over its HTTP API.

use std::path::PathBuf;

use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::config::Address;
use crate::model::Problem;
use crate::peer::{self, Caller, Hello, Reply};
use crate::socket;

/// Longest answer that is read as a whole, except where the caller says otherwise.
const LIMIT: u64 = 16 << 20;

/// Where a node's API is.
#[derive(Debug, Clone)]
enum Target {
    /// Its Unix socket.
    Socket(PathBuf),
    /// Its address for other nodes, which serves the API, too.
    Peer { address: Address, caller: Box<Caller> },
}

/// The API of one node.
#[derive(Debug, Clone)]
pub struct ApiClient {
    target: Target,
}

/// Why a node did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// Nobody answers.
    #[error("no node answers at {target}: start one by `dunlin up`, or name another by --node")]
    Unreachable {
        /// The address.
        target: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke, or what came is not HTTP.
    #[error("the connection to the node broke")]
    Broken(#[source] hyper::Error),
    /// The node says no.
    #[error("{}", .0.message)]
    Problem(Problem),
    /// The answer is not what it should be.
    #[error("the node's answer cannot be read ({0}): are program and node of one release?")]
    Answer(String),
}

impl ApiClient {
    /// Of the node with this Unix socket.
    pub fn at_socket(path: impl Into<PathBuf>) -> Self {
        Self { target: Target::Socket(path.into()) }
    }

    /// Of the node at this address, asked by a node or an operator.
    pub(crate) fn at_address(address: Address, caller: Caller) -> Self {
        Self { target: Target::Peer { address, caller: Box::new(caller) } }
    }

    /// Asks for something.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.json(Method::GET, path, Body::empty()).await
    }

    /// Asks for bytes, at most `limit` of them.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get_bytes(&self, path: &str, limit: u64) -> Result<Vec<u8>, ApiError> {
        let response = self.request(Method::GET, path, Body::empty()).await?;
        collect(checked(response).await?.into_body(), limit).await
    }

    /// Asks the node to do something.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body).map_err(|error| ApiError::Answer(error.to_string()))?;
        self.json(Method::POST, path, body.into()).await
    }

    /// Hands bytes over.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn put<T: DeserializeOwned>(&self, path: &str, bytes: Vec<u8>) -> Result<T, ApiError> {
        self.json(Method::PUT, path, bytes.into()).await
    }

    /// Ends something.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn delete(&self, path: &str) -> Result<(), ApiError> {
        let response = self.request(Method::DELETE, path, Body::empty()).await?;
        checked(response).await.map(drop)
    }

    /// Asks for a list that goes on: one value a line. `each` hears them until it returns false.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn lines<T: DeserializeOwned>(
        &self,
        path: &str,
        mut each: impl FnMut(T) -> bool,
    ) -> Result<(), ApiError> {
        let mut body = checked(self.request(Method::GET, path, Body::empty()).await?).await?.into_body();
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(ApiError::Broken)?;
            let Some(bytes) = frame.data_ref() else { continue };
            pending.extend_from_slice(bytes);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let value = serde_json::from_slice(&line).map_err(|error| ApiError::Answer(error.to_string()))?;
                if !each(value) {
                    return Ok(());
                }
            }
            if pending.len() as u64 > LIMIT {
                return Err(ApiError::Answer("a line without an end".to_owned()));
            }
        }
        Ok(())
    }

    /// Passes a request on as it is.
    pub(crate) async fn forward(&self, request: Request<Body>) -> Result<Response<Incoming>, ApiError> {
        let unreachable = |source| ApiError::Unreachable { target: self.target_text(), source };
        let stream = self.connect().await.map_err(unreachable)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(ApiError::Broken)?;
        tokio::spawn(async move {
            // What it breaks by, the request hears of.
            let _broken = connection.await;
        });
        sender.send_request(request).await.map_err(ApiError::Broken)
    }

    async fn request(&self, method: Method, path: &str, body: Body) -> Result<Response<Incoming>, ApiError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "node")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| ApiError::Answer(error.to_string()))?;
        self.forward(request).await
    }

    async fn json<T: DeserializeOwned>(&self, method: Method, path: &str, body: Body) -> Result<T, ApiError> {
        let response = checked(self.request(method, path, body).await?).await?;
        let bytes = collect(response.into_body(), LIMIT).await?;
        // Where there is nothing to say, nothing is said.
        let bytes = if bytes.is_empty() { b"null".to_vec() } else { bytes };
        serde_json::from_slice(&bytes).map_err(|error| ApiError::Answer(error.to_string()))
    }

    async fn connect(&self) -> std::io::Result<UnixStream> {
        match &self.target {
            Target::Socket(path) => socket::connect_async(path),
            Target::Peer { address, caller } => match peer::connect(address, caller, &Hello::Http).await? {
                (stream, Reply::Ready) => Ok(stream),
                (_, Reply::Later { reason } | Reply::Refused { reason }) => Err(std::io::Error::other(reason)),
                (_, Reply::Moved { node }) => Err(std::io::Error::other(format!("ask {node}"))),
            },
        }
    }

    fn target_text(&self) -> String {
        match &self.target {
            Target::Socket(path) => path.display().to_string(),
            Target::Peer { address, .. } => address.to_string(),
        }
    }
}

async fn checked(response: Response<Incoming>) -> Result<Response<Incoming>, ApiError> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let bytes = collect(response.into_body(), LIMIT).await?;
    Err(serde_json::from_slice(&bytes).map_or_else(
        |_| ApiError::Answer(format!("{status}: {}", String::from_utf8_lossy(&bytes).trim())),
        ApiError::Problem,
    ))
}

async fn collect(mut body: Incoming, limit: u64) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(ApiError::Broken)?.data_ref() {
            bytes.extend_from_slice(data);
        }
        if bytes.len() as u64 > limit {
            return Err(ApiError::Answer(format!("more than {limit} bytes")));
        }
    }
    Ok(bytes)
}
