//! `dunlin up`, `dunlin node`, and the keep that `dunlin` is when no other is built.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use dunlin_attesters::Choice;
use dunlin_handover::Key;
use dunlin_keep::Confinement;
use dunlin_keep_link::Channel;
use dunlin_node::{Address, Health, KeepProgram, LedgerAt, Node, NodeConfig, NodeError, NodeLine, Realm};

use crate::commands::attest::AttesterArgs;
use crate::failure::{Exit, Failure, Result};
use crate::remote::{self, Format, NodeArgs, OutputArgs, refused, talk};
use crate::text;

/// The hidden command by which this program is a keep.
const KEEP: &str = "keep-process";

/// Run nodes on this machine until Ctrl-C: everything in one process, on files
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// How many; they are called a, b, c, ...
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=26))]
    nodes: u8,
    /// The folder for all that they keep [env: DUNLIN_DIR; ~/.dunlin]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) const UP: &str = "\
Examples:
  dunlin up                               one node
  dunlin up --nodes 3 --dir /tmp/trial    three, for trying moves
  dunlin deploy kv.wasm --listen 127.0.0.1:6379 && dunlin migrate kv --to b

Services that ran when the nodes ended are started again. The ledger is kept by node a.";

pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0; 64 wrong usage; 69 an address is taken; 70 it failed";

pub(crate) fn up(args: &Up) -> Result<ExitCode> {
    let dir = args.dir.clone().map_or_else(remote::directory, Ok)?;
    serve(async {
        let names: Vec<String> = (0..args.nodes).map(|number| char::from(b'a' + number).to_string()).collect();
        start(&dir, &names, 2).await
    })
}

/// Starts nodes of one realm in this process, which know each other; the first one keeps the ledger.
pub(crate) async fn start(dir: &Path, names: &[String], warm_keeps: usize) -> Result<Vec<Arc<Node>>> {
    let dir = absolute(dir)?;
    let realm = Realm::open(&dir, "local").map_err(failed("the realm cannot be opened"))?;
    let socket = |name: &str| Address::Unix(realm.node_folder(name).join("peer.sock"));
    let mut nodes = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let first = names.first().filter(|_| index > 0);
        let ledger = match first {
            None => LedgerAt::Here,
            Some(first) => LedgerAt::Peer {
                address: socket(first),
                key: realm.ledger_key(first).map_err(failed("the ledger's key cannot be read"))?,
            },
        };
        let others = names.iter().filter(|other| *other != name);
        let config = NodeConfig {
            name: name.clone(),
            provider: realm.provider().to_owned(),
            folder: realm.node_folder(name),
            api: None,
            listen: vec![socket(name)],
            peers: others.map(|other| (other.clone(), socket(other))).collect(),
            ledger,
            broker: None,
            attester: Choice::Sim(realm.provider().to_owned()),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            warm_keeps,
            keep: KeepProgram::find(&[KEEP]).map_err(failed("there is no keep"))?,
        };
        let keys = realm.keys(name).map_err(failed("the keys of a node cannot be read"))?;
        nodes.push(Node::start(config, keys).await.map_err(failed(format!("node {name} does not start")))?);
    }
    Ok(nodes)
}

/// A node: start one, or list those that are known
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct NodeCommand {
    #[command(subcommand)]
    verb: Option<NodeVerb>,
    #[command(flatten)]
    daemon: Option<Daemon>,
    #[command(flatten)]
    attester: AttesterArgs,
}

#[derive(Debug, Subcommand)]
enum NodeVerb {
    /// List the nodes that a node knows, and whether they answer
    #[command(before_help = LS, after_help = remote::EXIT_CODES)]
    Ls {
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// The daemon of one machine.
#[derive(Debug, Args)]
struct Daemon {
    /// What the node is called
    #[arg(long)]
    name: String,
    /// The folder with the realm's keys, and for the node's own [env: DUNLIN_DIR; ~/.dunlin]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Whose machine it is, if the realm is new
    #[arg(long, value_name = "NAME", default_value = "local")]
    provider: String,
    /// Where other nodes reach it, HOST:PORT or unix:PATH; may be repeated [default: a socket in its folder]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<Address>,
    /// Another node, NAME=ADDRESS, or NAME alone if its folder is in the same --dir; may be repeated
    #[arg(long, value_name = "NAME=ADDRESS")]
    peer: Vec<String>,
    /// The peer that keeps the ledger; without it, this node keeps it
    #[arg(long, value_name = "NAME")]
    ledger: Option<String>,
    /// The ledger's key, if that peer's folder is not in the same --dir
    #[arg(long, value_name = "HEX", requires = "ledger")]
    ledger_key: Option<String>,
    /// The socket of a broker that is a process of its own, for services whose policy names one
    #[arg(long, value_name = "SOCKET")]
    broker: Option<PathBuf>,
    /// Where services listen whose own address is taken or of another machine
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Keeps that wait for work
    #[arg(long, value_name = "N", default_value_t = 2)]
    warm_keeps: usize,
}

pub(crate) const NODE: &str = "\
Examples:
  dunlin node --name a                                       keeps the ledger
  dunlin node --name b --peer a --ledger a                   another one on this machine
  dunlin node --name a --listen 10.0.0.1:7300 --peer b=10.0.0.2:7300
  dunlin node --name a --attester tpm --statement machine.statement
  dunlin node ls";

const LS: &str = "\
Examples:
  dunlin node ls
  dunlin node ls --json --node b";

pub(crate) fn node(args: NodeCommand) -> Result<ExitCode> {
    match (args.verb, args.daemon) {
        (Some(NodeVerb::Ls { output, node }), _) => list(output, &node),
        (None, Some(daemon)) => serve(daemon.start(args.attester)),
        (None, None) => Err(Failure::new(Exit::Usage, "name the node: dunlin node --name NAME")),
    }
}

impl Daemon {
    async fn start(self, attester: AttesterArgs) -> Result<Vec<Arc<Node>>> {
        let dir = absolute(&self.dir.clone().map_or_else(remote::directory, Ok)?)?;
        let realm = Realm::open(&dir, &self.provider).map_err(failed("the realm cannot be opened"))?;
        let socket = |name: &str| Address::Unix(realm.node_folder(name).join("peer.sock"));
        let mut peers = BTreeMap::new();
        for peer in &self.peer {
            let (name, address) = match peer.split_once('=') {
                Some((name, address)) => {
                    let address = address.parse().map_err(|reason: String| Failure::new(Exit::Usage, reason))?;
                    (name, address)
                }
                None => (peer.as_str(), socket(peer)),
            };
            peers.insert(name.to_owned(), address);
        }
        let ledger = self.ledger_at(&realm, &peers)?;
        let attester = attester.choice()?;
        if matches!(&attester, Choice::Sim(name) if name != "local") {
            let why = "keeps simulate the machine of their node's provider: write sim, without a name";
            return Err(Failure::new(Exit::Usage, why));
        }
        let config = NodeConfig {
            name: self.name.clone(),
            provider: self.provider.clone(),
            folder: realm.node_folder(&self.name),
            api: None,
            listen: if self.listen.is_empty() { vec![socket(&self.name)] } else { self.listen.clone() },
            peers,
            ledger,
            broker: self.broker.clone(),
            attester,
            host: self.host,
            warm_keeps: self.warm_keeps,
            keep: KeepProgram::find(&[KEEP]).map_err(failed("there is no keep"))?,
        };
        let keys = realm.keys(&self.name).map_err(failed("the node's keys cannot be read"))?;
        let node = Node::start(config, keys).await.map_err(failed(format!("node {} does not start", self.name)))?;
        Ok(vec![node])
    }

    fn ledger_at(&self, realm: &Realm, peers: &BTreeMap<String, Address>) -> Result<LedgerAt> {
        let Some(at) = &self.ledger else { return Ok(LedgerAt::Here) };
        let usage = |message: String| Failure::new(Exit::Usage, message);
        let address = peers.get(at).ok_or_else(|| usage(format!("--ledger names {at}, which no --peer does")))?;
        let key = match &self.ledger_key {
            Some(hex) => hex.parse::<dunlin_base::Digest>().map(|digest| Key(digest.0)).map_err(|_| {
                usage("--ledger-key is not 64 hexadecimal digits: `dunlin node ls --json` shows it".into())
            })?,
            None => realm.ledger_key(at).map_err(failed("the ledger's key cannot be read"))?,
        };
        Ok(LedgerAt::Peer { address: address.clone(), key })
    }
}

fn list(output: OutputArgs, node: &NodeArgs) -> Result<ExitCode> {
    let api = node.api()?;
    let nodes: Vec<NodeLine> =
        talk(async { api.get("/v1/nodes").await.map_err(refused("the nodes cannot be listed")) })?;
    if output.format() == Format::Name {
        text::print(&nodes.iter().map(|node| format!("{}\n", node.name)).collect::<String>());
        return Ok(ExitCode::SUCCESS);
    }
    output.print(&nodes, |nodes| {
        let mut table = text::Table::new(&["NAME", "HEALTH", "PROVIDER", ">SERVICES", ">WARM", "ADDRESS"]);
        for node in nodes {
            let info = node.info.as_ref();
            let number = |number: Option<usize>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
            table.row([
                node.name.clone(),
                match node.health {
                    Health::This => "this",
                    Health::Up => "up",
                    Health::Down => "down",
                }
                .to_owned(),
                info.map_or_else(|| "-".to_owned(), |info| text::printable(&info.provider)),
                number(info.map(|info| info.services)),
                number(info.map(|info| info.warm_keeps)),
                node.address.clone(),
            ]);
        }
        table.render("")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Runs nodes until a signal ends them.
fn serve(nodes: impl Future<Output = Result<Vec<Arc<Node>>>>) -> Result<ExitCode> {
    let runtime = remote::runtime(true)?;
    runtime.block_on(async {
        let nodes = nodes.await?;
        for node in &nodes {
            let addresses: Vec<String> = node.listening().iter().map(ToString::to_string).collect();
            text::note(format!(
                "node {} is up; API at {}; {}",
                node.name(),
                node.api_socket().display(),
                addresses.join(", ")
            ));
        }
        end_of_service().await?;
        text::note("suspending services");
        for node in nodes {
            node.shut_down().await;
        }
        Ok(())
    })?;
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    Ok(ExitCode::SUCCESS)
}

/// Waits for a signal that asks this program to end.
pub(crate) async fn end_of_service() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = Failure::because(Exit::Software, "signals cannot be heard");
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn absolute(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).map_err(Failure::because(Exit::CannotCreate, format!("cannot use {}", dir.display())))
}

fn failed(what: impl Into<String>) -> impl FnOnce(NodeError) -> Failure {
    let what = what.into();
    move |error| {
        let exit = match &error {
            NodeError::Listen { .. } | NodeError::Ledger(_) => Exit::Unavailable,
            NodeError::Invalid(_) => Exit::Usage,
            _ => Exit::Software,
        };
        Failure::because(exit, what)(error)
    }
}

/// Be a keep, as a node starts it. The program dunlin-keep does the same and nothing else.
#[derive(Debug, Args)]
pub(crate) struct KeepProcess {
    /// The descriptor of the link to the node
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=0))]
    link: u8,
}

pub(crate) fn keep_process(_args: &KeepProcess) -> Result<ExitCode> {
    let failed = || "the keep cannot serve its node";
    let link = std::io::stdin().as_fd().try_clone_to_owned().map_err(Failure::because(Exit::Software, failed()))?;
    let channel = Channel::new(link).map_err(Failure::because(Exit::Usage, failed()))?;
    dunlin_keep::serve(channel, Confinement::full()).map_err(Failure::because(Exit::Software, failed()))?;
    Ok(ExitCode::SUCCESS)
}
