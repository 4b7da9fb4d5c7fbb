//! Asking a node: which one, and how its answers become exit codes.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use dunlin_node::{Address, ApiClient, ApiError, Problem, Realm};
use serde::Serialize;

use crate::failure::{Exit, Failure, Result};
use crate::report::run::json;

/// Which node is asked.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Which node")]
pub(crate) struct NodeArgs {
    /// The node to ask: its name, the path of its API socket, or HOST:PORT where other nodes reach it (mutual TLS with
    /// the keys in --dir) [env: DUNLIN_NODE; the first one of --dir]
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// The folder that `dunlin up` was given [env: DUNLIN_DIR; ~/.dunlin]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// How to print: a table, JSON, or names only
    #[arg(short, long, value_name = "FORMAT", value_enum, conflicts_with = "json")]
    output: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Name,
}

impl OutputArgs {
    pub(crate) fn format(self) -> Format {
        if self.json { Format::Json } else { self.output.unwrap_or(Format::Table) }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format() == Format::Json
    }

    /// Prints `value` as JSON, or what `table` makes of it.
    pub(crate) fn print<T: Serialize>(self, value: &T, table: impl FnOnce(&T) -> String) -> Result<()> {
        crate::text::print(&if self.is_json() { json(value)? } else { table(value) });
        Ok(())
    }
}

impl NodeArgs {
    /// A node by its name or socket, in the usual folder.
    pub(crate) fn named(node: Option<String>) -> Self {
        Self { node, dir: None }
    }

    /// The API of the node.
    pub(crate) fn api(&self) -> Result<ApiClient> {
        let dir = self.dir.clone().map_or_else(directory, Ok)?;
        let named = self.node.clone().or_else(|| std::env::var("DUNLIN_NODE").ok()).filter(|name| !name.is_empty());
        match named {
            Some(path) if path.contains('/') => Ok(ApiClient::at_socket(path)),
            Some(address) if address.contains(':') => {
                let address: Address = address.parse().map_err(|reason: String| Failure::new(Exit::Usage, reason))?;
                let failed = || "the keys of the realm cannot be used";
                let realm = Realm::open(&dir, "local").map_err(Failure::because(Exit::NoInput, failed()))?;
                realm.client(address).map_err(Failure::because(Exit::Software, failed()))
            }
            Some(name) => Ok(ApiClient::at_socket(api_socket(&dir, &name))),
            None => first(&dir).map(ApiClient::at_socket).ok_or_else(|| {
                let message = format!("no node has its folder in {}: start one by `dunlin up`", dir.display());
                Failure::new(Exit::Unavailable, message)
            }),
        }
    }
}

/// The folder of the realm on this machine, unless the user names one.
pub(crate) fn directory() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("DUNLIN_DIR").filter(|value| !value.is_empty()) {
        return Ok(dir.into());
    }
    let home = std::env::var_os("HOME").filter(|value| !value.is_empty());
    let home = home.ok_or_else(|| Failure::new(Exit::Usage, "neither DUNLIN_DIR nor HOME is set: name a --dir"))?;
    Ok(Path::new(&home).join(".dunlin"))
}

fn api_socket(dir: &Path, node: &str) -> PathBuf {
    dir.join("nodes").join(node).join("api.sock")
}

fn first(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir.join("nodes")).ok()?;
    let mut sockets: Vec<PathBuf> = entries.flatten().map(|entry| entry.path().join("api.sock")).collect();
    sockets.retain(|socket| socket.exists());
    sockets.sort();
    sockets.into_iter().next()
}

/// Runs a conversation with a node.
pub(crate) fn talk<T>(conversation: impl Future<Output = Result<T>>) -> Result<T> {
    runtime(false)?.block_on(conversation)
}

/// A runtime, for a conversation or for nodes.
pub(crate) fn runtime(for_nodes: bool) -> Result<tokio::runtime::Runtime> {
    let mut builder = if for_nodes {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder.enable_all().build().map_err(Failure::because(Exit::Software, "the system does not let a runtime start"))
}

/// For `map_err`.
pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(ApiError) -> Failure {
    let what = what.into();
    move |error| {
        let exit = match &error {
            ApiError::Unreachable { .. } => Exit::Unavailable,
            ApiError::Problem(Problem { code, .. }) => match code.as_str() {
                "invalid" => Exit::Usage,
                "not-found" => Exit::NoInput,
                "conflict" | "busy" | "unreachable" => Exit::Unavailable,
                _ => Exit::Software,
            },
            _ => Exit::Software,
        };
        Failure::because(exit, what)(error)
    }
}

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0   done
  64  wrong usage
  66  no service, node, job or file of that name
  69  the node does not answer, or the service is not in a state for that
  70  it failed";
