//! The verbs about services: `deploy`, `ps`, `describe`, `logs`, `stop`, `start`, `rm`, `checkpoint`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use dunlin_attest::{Bytes, VerifyingKey};
use dunlin_base::Digest;
use dunlin_node::{
    BACKUP_LIMIT, CheckpointDone, Deploy, LimitsInfo, Line, PolicyInfo, ServiceInfo, ServiceLine, ServiceState,
    StopRequest, Stored, Stream, TierName,
};

use crate::failure::{Exit, Failure, Result};
use crate::module::Module;
use crate::remote::{Format, NodeArgs, OutputArgs, refused, talk};
use crate::{file, keys, parse, text};

/// Make a service of a program, and start it on a node
#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    /// The program: a WASI preview 1 command
    #[arg(value_name = "APP.wasm")]
    app: PathBuf,
    /// What the service is called; the file's name without `.wasm` if missing
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Give the program a listener for TCP connections; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    listen: Vec<String>,
    /// Give it a private volume, which it sees as PATH and which moves with it
    #[arg(long, value_name = "PATH")]
    volume: Option<String>,
    /// An environment variable; NAME alone hands on the value it has here
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse::variable)]
    variables: Vec<(String, String)>,
    /// Which engine runs it
    #[arg(long, value_name = "TIER", value_enum, default_value_t = Tier::Cranelift)]
    tier: Tier,
    /// The largest size of each of its memories
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    limit_memory: Option<u64>,
    /// The most of one processor that it may use, in percent
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    limit_cpu: Option<u8>,
    /// The most descriptors that it can have open, connections among them
    #[arg(long, value_name = "N")]
    limit_descriptors: Option<u32>,
    /// Its owner's signed policy: which keeps may hold it
    #[arg(long, value_name = "FILE", requires = "owner")]
    policy: Option<PathBuf>,
    /// The key that signed the policy: digits, or a file with them
    #[arg(long, value_name = "KEY", value_parser = keys::public, requires = "policy")]
    owner: Option<VerifyingKey>,
    /// Arguments for the program
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tier {
    Cranelift,
    Pulley,
    Wasmi,
}

pub(crate) const DEPLOY: &str = "\
Examples:
  dunlin deploy kv.wasm --listen 127.0.0.1:6379
  dunlin deploy app.wasm --name shop --listen 0.0.0.0:8080 --volume /data --env MODE=live -- --verbose
  dunlin deploy app.wasm --name shop --policy shop.policy --owner owner.pub
  dunlin deploy app.wasm --node b --json";

pub(crate) fn deploy(args: DeployArgs) -> Result<ExitCode> {
    let DeployArgs {
        app,
        name,
        listen,
        volume,
        variables,
        tier,
        limit_memory,
        limit_cpu,
        limit_descriptors,
        policy,
        owner,
        args,
        output,
        node,
    } = args;
    let policy = match (policy, owner) {
        (Some(path), Some(owner)) => Some(PolicyInfo {
            object: Bytes(file::read(&path)?).to_string(),
            signer: Bytes(owner.to_bytes()).to_string(),
        }),
        _ => None,
    };
    let module = Module::read(&app)?;
    let stem = app.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let defaults = LimitsInfo::default();
    let request = Deploy {
        name: name.unwrap_or(stem),
        module: Digest::of(&module.wasm).to_string(),
        args,
        env: variables.into_iter().collect::<BTreeMap<_, _>>(),
        listen,
        volume,
        tier: match tier {
            Tier::Cranelift => TierName::Cranelift,
            Tier::Pulley => TierName::Pulley,
            Tier::Wasmi => TierName::Wasmi,
        },
        limits: LimitsInfo {
            memory_bytes: limit_memory.unwrap_or(defaults.memory_bytes),
            descriptors: limit_descriptors.unwrap_or(defaults.descriptors),
            cpu_percent: limit_cpu,
            ..defaults
        },
        policy,
    };
    let api = node.api()?;
    let failed = format!("{} is not deployed", request.name);
    let info = talk(async {
        let stored: Stored =
            api.put(&format!("/v1/modules/{}", request.module), module.wasm).await.map_err(refused(failed.clone()))?;
        debug_assert_eq!(stored.module, request.module);
        api.post::<ServiceInfo>("/v1/services", &request).await.map_err(refused(failed))
    })?;
    if output.format() == Format::Name {
        text::print(&format!("{}\n", info.line.name));
        return Ok(ExitCode::SUCCESS);
    }
    output.print(&info, |info| {
        let mut text = format!("{} runs on node {}\n", info.line.name, info.line.node);
        for address in &info.line.listen {
            let _ = writeln!(text, "it listens on {address}");
        }
        if let Some(why) = &info.pinned {
            let _ = writeln!(text, "it cannot move: {}", text::printable(why));
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

/// List services, of all nodes
#[derive(Debug, Args)]
pub(crate) struct Ps {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) const PS: &str = "\
Examples:
  dunlin ps
  dunlin ps -o name                       names only, one a line
  dunlin ps --json --node b";

pub(crate) fn ps(args: &Ps) -> Result<ExitCode> {
    let api = args.node.api()?;
    let list: Vec<ServiceLine> =
        talk(async { api.get("/v1/services").await.map_err(refused("the services cannot be listed")) })?;
    match args.output.format() {
        Format::Name => text::print(&list.iter().map(|line| format!("{}\n", line.name)).collect::<String>()),
        _ => args.output.print(&list, |list| {
            let mut table = text::Table::new(&["NAME", "NODE", "STATE", ">EPOCH", ">VERSION", "LISTEN", "MESSAGE"]);
            for line in list {
                let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
                table.row([
                    line.name.clone(),
                    line.node.clone(),
                    state(line.state).to_owned(),
                    number(line.epoch),
                    number(line.version),
                    line.listen.join(","),
                    text::printable(line.message.as_deref().unwrap_or_default()),
                ]);
            }
            table.render("")
        })?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Show everything about a service
#[derive(Debug, Args)]
pub(crate) struct Describe {
    /// Which service
    name: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) const DESCRIBE: &str = "\
Examples:
  dunlin describe kv
  dunlin describe kv --json";

pub(crate) fn describe(args: &Describe) -> Result<ExitCode> {
    let api = args.node.api()?;
    let path = format!("/v1/services/{}", named(&args.name)?);
    let info: ServiceInfo =
        talk(async { api.get(&path).await.map_err(refused(format!("{} cannot be described", args.name))) })?;
    args.output.print(&info, description)?;
    Ok(ExitCode::SUCCESS)
}

fn description(info: &ServiceInfo) -> String {
    let mut table = text::Table::new(&["service", &info.line.name]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), text::printable(&value)]);
    let time = |ms: f64| text::time_of(ms);
    row("node", info.line.node.clone());
    row("state", state(info.line.state).to_owned());
    if let Some(message) = &info.line.message {
        row("message", message.clone());
    }
    row("movable", info.pinned.as_ref().map_or_else(|| "yes".to_owned(), |why| format!("no: {why}")));
    row("listens on", info.line.listen.join(", "));
    row("id", info.id.clone());
    row("module", format!("sha256:{}", info.module));
    row("arguments", info.args.join(" "));
    row("variables", info.env.join(" "));
    row("engine", format!("{:?}", info.tier).to_lowercase());
    row("policy", info.policy.clone().unwrap_or_else(|| "none: any keep of a known provider may hold it".to_owned()));
    row("volume", info.volume.clone().unwrap_or_else(|| "none".to_owned()));
    row("memory limit", text::bytes(info.limits.memory_bytes));
    if let Some(process) = info.process {
        row("keep", format!("process {process}"));
    }
    if let Some(bytes) = info.memory_bytes {
        row("memory", text::bytes(bytes));
    }
    if let Some(connections) = info.connections {
        row("connections", connections.to_string());
    }
    if let (Some(cpu), Some(uptime)) = (info.cpu_ms, info.uptime_ms) {
        row("processor time", format!("{} in {}", time(cpu), time(uptime)));
    }
    match &info.ledger {
        Some(owner) => {
            row("ledger", format!("{}, epoch {}, version {}", owner.status, owner.epoch, owner.version));
            row("held by", owner.holder.clone().unwrap_or_else(|| "nobody".to_owned()));
            row("committed state", format!("sha256:{}", owner.state));
        }
        None => row("ledger", "not reachable".to_owned()),
    }
    table.render("")
}

/// Show what a service printed
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Which service
    name: String,
    /// Go on with what it prints from now on, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) const LOGS: &str = "\
Examples:
  dunlin logs kv
  dunlin logs -f --tail 10 kv
  dunlin logs --json kv

Lines of the program's standard output and error, and of the node about it. The last 4 MiB are kept on each node.";

pub(crate) fn logs(args: &Logs) -> Result<ExitCode> {
    let api = args.node.api()?;
    let tail = args.tail.map(|tail| format!("&tail={tail}")).unwrap_or_default();
    let path = format!("/v1/services/{}/logs?follow={}{tail}", named(&args.name)?, args.follow);
    let failed = format!("the log of {} cannot be read", args.name);
    talk(async {
        let each = |line: Line| {
            text::print(&if args.json { json_line(&line) } else { plain_line(&line) });
            true
        };
        api.lines(&path, each).await.map_err(refused(failed))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn json_line(line: &Line) -> String {
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text
}

fn plain_line(line: &Line) -> String {
    let stream = match line.stream {
        Stream::Out => "out ",
        Stream::Err => "err ",
        Stream::Node => "node",
    };
    format!("{} {stream} {}\n", text::clock(line.time), text::printable(&line.text))
}

/// Stop a service; its state is kept
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Which service
    name: String,
    /// At once: what came after the last checkpoint is lost
    #[arg(long)]
    kill: bool,
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) const STOP: &str = "\
Examples:
  dunlin stop kv                          it goes on from here by `dunlin start kv`
  dunlin stop --kill kv";

pub(crate) fn stop(args: &Stop) -> Result<ExitCode> {
    let api = args.node.api()?;
    let path = format!("/v1/services/{}/stop", named(&args.name)?);
    talk(async {
        let request = StopRequest { kill: args.kill };
        api.post::<()>(&path, &request).await.map_err(refused(format!("{} is not stopped", args.name)))
    })?;
    text::note(format!("{} is stopped", args.name));
    Ok(ExitCode::SUCCESS)
}

/// Start a service that was stopped, has ended or failed
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Which service
    name: String,
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) const START: &str = "\
Examples:
  dunlin start kv";

pub(crate) fn start(args: &Start) -> Result<ExitCode> {
    started(&args.node, &args.name, "start", "is not started")
}

/// Goes back to the last committed state.
pub(crate) fn restore(node: &NodeArgs, name: &str) -> Result<ExitCode> {
    started(node, name, "restore", "is not restored")
}

fn started(node: &NodeArgs, name: &str, verb: &str, failed: &str) -> Result<ExitCode> {
    let api = node.api()?;
    let path = format!("/v1/services/{}/{verb}", named(name)?);
    let info: ServiceInfo = talk(async { api.post(&path, &()).await.map_err(refused(format!("{name} {failed}"))) })?;
    let version = info.line.version.map(|version| format!(" from version {version}")).unwrap_or_default();
    text::note(format!("{name} runs on node {}{version}", info.line.node));
    Ok(ExitCode::SUCCESS)
}

/// Put the state of a service on storage, while it runs on
#[derive(Debug, Args)]
pub(crate) struct Checkpoint {
    /// Which service
    name: String,
    /// Keep a copy, from which the service can be recovered on another machine; the state in it is sealed
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) const CHECKPOINT: &str = "\
Examples:
  dunlin checkpoint kv
  dunlin restore --service kv             go back to it
  dunlin checkpoint kv --save kv.copy     and keep a copy in case the machine is lost";

pub(crate) fn checkpoint(args: &Checkpoint) -> Result<ExitCode> {
    let api = args.node.api()?;
    // A copy is for another machine.
    let path = format!("/v1/services/{}/checkpoint?whole={}", named(&args.name)?, args.save.is_some());
    let done: CheckpointDone = talk(async {
        api.post(&path, &()).await.map_err(refused(format!("no checkpoint of {} is taken", args.name)))
    })?;
    if let Some(path) = &args.save {
        let copied = || format!("the checkpoint of {} is taken, and cannot be copied", args.name);
        let source = format!("/v1/services/{}/checkpoint", args.name);
        let bytes = talk(async { api.get_bytes(&source, BACKUP_LIMIT).await.map_err(refused(copied())) })?;
        file::write_atomically(path, &bytes)?;
    }
    args.output.print(&done, |done| {
        format!(
            "{} is at version {}: {} in {}, paused {}\n",
            args.name,
            done.version,
            text::bytes(done.bytes),
            text::time_of(done.took_ms),
            text::time_of(done.pause_ms)
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// End a service for ever, with its state, volume and logs
#[derive(Debug, Args)]
pub(crate) struct Rm {
    /// Which service
    name: String,
    /// Even if it runs
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) const RM: &str = "\
Examples:
  dunlin rm kv
  dunlin rm --yes --force kv";

pub(crate) fn rm(args: &Rm) -> Result<ExitCode> {
    let api = args.node.api()?;
    let path = format!("/v1/services/{}?force={}", named(&args.name)?, args.force);
    if !args.yes && !text::confirm(&format!("End {} for ever, with its state, volume and logs?", args.name))? {
        return Err(Failure::new(Exit::Unavailable, format!("{} is as it was", args.name)));
    }
    talk(async { api.delete(&path).await.map_err(refused(format!("{} is not ended", args.name))) })?;
    text::note(format!("{} is no more", args.name));
    Ok(ExitCode::SUCCESS)
}

/// A name as it stands in a path of the API.
pub(crate) fn named(name: &str) -> Result<&str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.chars().all(allowed) {
        return Ok(name);
    }
    let message = format!("{name:?} is no name of a service: they have letters, digits, '-', '_' and '.'");
    Err(Failure::new(Exit::Usage, message))
}

fn state(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Starting => "starting",
        ServiceState::Running => "running",
        ServiceState::Leaving => "leaving",
        ServiceState::Arriving => "arriving",
        ServiceState::Stopped => "stopped",
        ServiceState::Ended => "ended",
        ServiceState::Failed => "failed",
        ServiceState::Away => "away",
    }
}
