//! `dunlin broker`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use dunlin_attest::VerifyingKey;
use dunlin_node::{Address, BrokerConfig, BrokerProcess, Realm};
use dunlin_seal::harden;

use crate::failure::{Exit, Failure, Result};
use crate::{keys, remote, text, trust};

/// Keep the keys of services, and release them to whoever holds them
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct BrokerCommand {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(before_help = LISTEN)]
    Listen(Box<Listen>),
    #[command(before_help = SECRET)]
    Secret(Secret),
}

const LISTEN: &str = "\
Examples:
  dunlin policy keygen broker.key > broker.pub        the key that policies name under [broker]
  dunlin broker listen --vault ./vault --key broker.key --listen unix:./broker.sock \\
      --ledger unix:./nodes/a/peer.sock --ledger-key 5f3a...(64 digits) --owner owner.pub
  dunlin node --name a --broker ./broker.sock         and the other nodes likewise
Answers are encrypted to the asker's attested key: connections may come through anybody.";

const SECRET: &str = "\
Examples:
  dunlin broker secret --trust ./trust --module app.wasm tls-key server.key    for dunlin run --trust ./trust app.wasm";

/// Answer nodes, as a process of its own
#[derive(Debug, Args)]
struct Listen {
    /// Where roots, secrets and the record of releases are kept
    #[arg(long, value_name = "DIR")]
    vault: PathBuf,
    /// The broker's secret key, which the services' policies name
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where nodes reach it: HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    listen: Address,
    /// Where the node that keeps the ledger is reached by others
    #[arg(long, value_name = "ADDRESS")]
    ledger: Address,
    /// The ledger's key, 64 digits: `dunlin node ls --json` shows it
    #[arg(long, value_name = "DIGITS", value_parser = keys::digits)]
    ledger_key: dunlin_attest::Bytes,
    /// The key of an owner whose policies count: its digits, or a file with them; may be repeated
    #[arg(long = "owner", value_name = "KEY", value_parser = keys::public, required = true)]
    owners: Vec<VerifyingKey>,
    /// Accept evidence of this simulated machine, besides those of the realm's providers, if the policy's floor does
    #[arg(long, value_name = "NAME")]
    sim: Vec<String>,
    /// The folder with the realm's keys, for TLS [env: DUNLIN_DIR; ~/.dunlin]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Put a secret into the folder of `dunlin run --trust`
#[derive(Debug, Args)]
struct Secret {
    /// The folder
    #[arg(long, value_name = "DIR")]
    trust: PathBuf,
    /// The program that may have it
    #[arg(long, value_name = "APP.wasm")]
    module: PathBuf,
    /// What the program calls it
    name: String,
    /// The secret
    file: PathBuf,
}

pub(crate) fn run(command: &BrokerCommand) -> Result<ExitCode> {
    match &command.command {
        Verb::Listen(listen) => serve(listen),
        Verb::Secret(Secret { trust, module, name, file }) => {
            trust::put_secret(trust, module, name, file)?;
            text::note(format!("{name} is kept for {}", module.display()));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn serve(listen: &Listen) -> Result<ExitCode> {
    harden().map_err(broken)?;
    let Listen { vault, key, listen, ledger, ledger_key, owners, sim, dir } = listen;
    let ledger_key: [u8; 32] = ledger_key
        .0
        .as_slice()
        .try_into()
        .map_err(|_| Failure::new(Exit::Usage, "a ledger's key is named by 64 digits"))?;
    let realm = Realm::open(&dir.clone().map_or_else(remote::directory, Ok)?, "local").map_err(broken)?;
    let config = BrokerConfig {
        key: keys::secret(key)?,
        vault: vault.clone(),
        listen: listen.clone(),
        ledger: ledger.clone(),
        ledger_key: dunlin_handover::Key(ledger_key),
        owners: owners.clone(),
        simulated: sim.clone(),
    };
    remote::runtime(true)?.block_on(async {
        let broker = BrokerProcess::open(&realm, config).await.map_err(broken)?;
        text::note(format!("the broker listens on {}", broker.address()));
        broker.serve().await;
        Ok(ExitCode::SUCCESS)
    })
}

fn broken<E: Into<Box<dyn std::error::Error + Send + Sync>>>(error: E) -> Failure {
    Failure::because(Exit::Config, "the broker cannot begin")(error)
}
