//! `dunlin broker`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use dunlin_attest::VerifyingKey;
use dunlin_base::Digest;
use dunlin_broker::{SecretRule, Vault};
use dunlin_handover::ServiceId;
use dunlin_node::{Address, BrokerConfig, BrokerProcess, Realm};
use dunlin_seal::harden;
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure, Result};
use crate::module::Module;
use crate::{file, keys, remote, text, trust};

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
  dunlin broker secret --trust ./trust --module app.wasm tls-key server.key    for dunlin run --trust ./trust app.wasm
  dunlin broker secret --vault ./vault --service 0011...(32 digits) tls-key server.key
      for a service on nodes, whose id `dunlin describe` shows; the vault of the broker beside the ledger
      is nodes/NAME/broker in the folder of the realm";

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

/// Give the broker a secret for a program
#[derive(Debug, Args)]
struct Secret {
    /// The folder of `dunlin run --trust`
    #[arg(long, value_name = "DIR", requires = "module", conflicts_with_all = ["vault", "service"])]
    trust: Option<PathBuf>,
    /// The program that may have it; for a service, one of several that its policy permits
    #[arg(long, value_name = "APP.wasm")]
    module: Option<PathBuf>,
    /// The vault of a broker that nodes ask
    #[arg(long, value_name = "DIR", requires = "service", required_unless_present = "trust")]
    vault: Option<PathBuf>,
    /// The service, by its id of 32 digits
    #[arg(long, value_name = "ID", value_parser = service, requires = "vault")]
    service: Option<ServiceId>,
    /// What the program calls it
    name: String,
    /// The secret
    file: PathBuf,
}

fn service(text: &str) -> Result<ServiceId, String> {
    let wrong = || format!("{text:?} is no id of a service: it has 32 digits, as `dunlin describe` shows them");
    keys::digits(text).map_err(|_| wrong())?.0.try_into().map(ServiceId).map_err(|_| wrong())
}

pub(crate) fn run(command: &BrokerCommand) -> Result<ExitCode> {
    match &command.command {
        Verb::Listen(listen) => serve(listen),
        Verb::Secret(secret) => put(secret),
    }
}

fn put(secret: &Secret) -> Result<ExitCode> {
    let Secret { trust: folder, module, vault, service, name, file } = secret;
    let place = match (folder, module, vault, service) {
        (Some(folder), Some(module), _, _) => trust::vault_of(folder, module)?,
        (_, _, Some(vault), Some(service)) => (Vault::open(vault).map_err(broken)?, *service),
        _ => return Err(Failure::new(Exit::Usage, "name --trust and --module, or --vault and --service")),
    };
    let modules = match (folder, module) {
        (None, Some(module)) => vec![Digest::of(&Module::read(module)?.wasm)],
        _ => Vec::new(),
    };
    let bytes = Zeroizing::new(file::read(file)?);
    let kept = place.0.put(place.1, name, &SecretRule { modules }, &bytes);
    kept.map_err(Failure::because(Exit::CannotCreate, "the secret cannot be kept"))?;
    text::note(format!("{name} is kept for the service {}", place.1));
    Ok(ExitCode::SUCCESS)
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
