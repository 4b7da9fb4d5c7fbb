//! `dunlin broker`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use dunlin_attest::{Policy, VerifyingKey};
use dunlin_broker::{Broker, ReleaseLog, Roots, Surroundings, Vault};
use dunlin_handover::ledger::Reading;
use dunlin_handover::{Entropy, LedgerAnswer, LedgerCall, LedgerQuery, Nonce, ServiceId};
use dunlin_identity::Verifier;
use dunlin_seal::harden;

use crate::failure::{Exit, Failure, Result};
use crate::{file, keys, text, trust};

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
  dunlin broker listen --vault ./vault --key broker.key --listen ./broker.sock \\
      --ledger ./ledger.sock --ledger-key 5f3a...(64 digits) --owner owner.pub \\
      --service 00112233445566778899aabbccddeeff=shop.policy
Connections may come through relays: answers are encrypted to the asker's attested key.";

const SECRET: &str = "\
Examples:
  dunlin broker secret --trust ./trust --module app.wasm tls-key server.key    for dunlin run --trust ./trust app.wasm";

/// Answer requests on a socket, as a process of its own
#[derive(Debug, Args)]
struct Listen {
    /// Where roots and secrets are kept
    #[arg(long, value_name = "DIR")]
    vault: PathBuf,
    /// The broker's secret key, which the services' policies name
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The socket to listen on
    #[arg(long, value_name = "SOCKET")]
    listen: PathBuf,
    /// The ledger's socket
    #[arg(long, value_name = "SOCKET")]
    ledger: PathBuf,
    /// The ledger's name in its readings, 64 digits: SHA-256 of its public key in DER
    #[arg(long, value_name = "DIGITS", value_parser = keys::digits)]
    ledger_key: dunlin_attest::Bytes,
    /// The key of the owner who signs the policies: its digits, or a file with them
    #[arg(long, value_name = "KEY", value_parser = keys::public)]
    owner: VerifyingKey,
    /// A service, by its id of 32 digits, and its signed policy
    #[arg(long = "service", value_name = "ID=POLICY", value_parser = service, required = true)]
    services: Vec<(ServiceId, PathBuf)>,
    /// Accept evidence of this simulated machine, if the policy's floor does
    #[arg(long, value_name = "NAME")]
    sim: Vec<String>,
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

fn service(text: &str) -> Result<(ServiceId, PathBuf), String> {
    let wrong = || format!("{text:?} is not ID=POLICY with an id of 32 digits");
    let (id, policy) = text.split_once('=').ok_or_else(wrong)?;
    let id = keys::digits(id).map_err(|_| wrong())?.0.try_into().map_err(|_| wrong())?;
    Ok((ServiceId(id), policy.into()))
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
    let Listen { vault, key, listen, ledger, ledger_key, owner, services, sim } = listen;
    let ledger_key: [u8; 32] = ledger_key
        .0
        .as_slice()
        .try_into()
        .map_err(|_| Failure::new(Exit::Usage, "a ledger's key is named by 64 digits"))?;
    let ledger_key = dunlin_handover::Key(ledger_key);
    let vault = Vault::open(vault).map_err(broken)?;
    let roots = match sim.is_empty() {
        true => Roots::Production,
        false => Roots::WithSimulation(dunlin_attest_sim::roots(sim.iter().map(String::as_str)).map_err(broken)?),
    };
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(broken)?;
    let mut broker = Broker::new(keys::secret(key)?, Arc::new(Verifier::certified()), roots, Entropy::new(seed));
    for (service, path) in services {
        let object = file::read(path)?;
        let refused = || format!("{} is not a policy of this owner", path.display());
        let text = Policy::signed_text(&object, &[*owner]).map_err(Failure::because(Exit::Data, refused()))?;
        let name =
            dunlin_attest::PolicyDocument::parse(&text).map_err(Failure::because(Exit::Data, refused()))?.service;
        let policy =
            Policy::verify(&object, &name, &[*owner], None).map_err(Failure::because(Exit::Data, refused()))?;
        broker.keep(*service, vault.service(*service, policy, ledger_key).map_err(broken)?);
    }
    let log = ReleaseLog::open(&vault.path().join("releases")).map_err(broken)?;
    let around = Around { ledger: ledger.clone() };
    let socket = dunlin_node::socket::bind(listen)
        .map_err(Failure::because(Exit::CannotCreate, format!("cannot listen on {}", listen.display())))?;
    text::note(format!("the broker listens on {}", listen.display()));
    let (broker, log) = (Mutex::new(broker), Mutex::new(log));
    std::thread::scope(|scope| {
        for stream in socket.incoming() {
            // Whoever cannot be accepted comes again; one that sends nonsense is closed.
            let Ok(stream) = stream else { continue };
            let (broker, log, around) = (&broker, &log, &around);
            scope.spawn(move || drop(dunlin_broker::serve(stream, broker, log, around)));
        }
    });
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug)]
struct Around {
    ledger: PathBuf,
}

impl Surroundings for Around {
    fn read_ledger(&self, service: ServiceId, nonce: Nonce) -> Option<Reading> {
        let stream = dunlin_node::socket::connect(&self.ledger).ok()?;
        let call = LedgerCall { id: 1, query: LedgerQuery::Read { service, nonce } };
        match dunlin_ledger::Client::new(stream).call(call).ok()? {
            LedgerAnswer::Reading(reading) => Some(reading),
            _ => None,
        }
    }

    fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

fn broken<E: Into<Box<dyn std::error::Error + Send + Sync>>>(error: E) -> Failure {
    Failure::because(Exit::Config, "the broker cannot begin")(error)
}
