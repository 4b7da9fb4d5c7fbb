//! `dunlin recover`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use dunlin_node::{RecoverRequest, ServiceInfo};

use crate::commands::service::named;
use crate::failure::{Exit, Failure, Result};
use crate::file;
use crate::remote::{NodeArgs, OutputArgs, refused, talk};

/// Bring a service back whose machine is lost
#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// Which service, from a state that the node has: of an earlier stay, or kept while it moved away
    #[arg(required_unless_present = "from")]
    name: Option<String>,
    /// A copy that `dunlin checkpoint --save` made
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    from: Option<PathBuf>,
    /// Also if it runs somewhere: it ends there, without what came after its last checkpoint
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    node: NodeArgs,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  dunlin recover --from kv.copy --node c  on node c, whatever became of the machine where it was
  dunlin recover kv --node a              go on with what node a kept of a move that was cut off
The ledger makes the node the holder with the owner's signature, so the node needs that key. Only
the state that was committed last is taken, and whoever held the service before can do nothing
more with it.";

pub(crate) fn run(args: &Recover) -> Result<ExitCode> {
    let api = args.node.api()?;
    let (subject, info): (String, ServiceInfo) = match (&args.from, &args.name) {
        (Some(path), _) => {
            let bytes = file::read(path)?;
            let target = format!("/v1/recover?force={}", args.force);
            let failed = format!("no service is recovered from {}", path.display());
            let info: ServiceInfo = talk(async { api.put(&target, bytes).await.map_err(refused(failed)) })?;
            (info.line.name.clone(), info)
        }
        (None, Some(name)) => {
            let target = format!("/v1/services/{}/recover", named(name)?);
            let request = RecoverRequest { force: args.force };
            let failed = format!("{name} is not recovered");
            (name.clone(), talk(async { api.post(&target, &request).await.map_err(refused(failed)) })?)
        }
        (None, None) => return Err(Failure::new(Exit::Usage, "name a service, or --from a file")),
    };
    args.output.print(&info, |info| {
        let version = info.line.version.map_or(String::new(), |version| format!(", from version {version}"));
        format!("{subject} runs on node {}{version}\n", info.line.node)
    })?;
    Ok(ExitCode::SUCCESS)
}
