//! `dunlin attest`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use dunlin_attest::{AttesterError, BindingContext, Bytes, Class, Evidence, TpmEvent, TpmEventKind};
use dunlin_attesters::Choice;
use dunlin_base::Digest;
use dunlin_node::{AttestDone, AttestRequest};
use serde::Serialize;

use crate::failure::{Exit, Failure, Result};
use crate::remote::{NodeArgs, refused, talk};
use crate::report::run::json;
use crate::{file, keys, text};

/// Ask this machine, or the keep of a service, for evidence of what it is
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Attest {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(before_help = NODE, after_help = EXIT_CODES)]
    Node(Box<Node>),
    #[command(before_help = SERVICE, after_help = EXIT_CODES)]
    Service(Box<Service>),
    List(List),
}

const NODE: &str = "\
Examples:
  dunlin attest node --challenge 5f3a...(64 digits) -o here.evidence --binding here.binding
  dunlin attest node --attester tpm:/dev/tpmrm0 --statement machine.statement -o here.evidence
  dunlin evidence verify --policy shop.policy --owner owner.pub --binding here.binding here.evidence";

const SERVICE: &str = "\
Examples:
  dunlin attest service shop --challenge 5f3a...(64 digits) -o shop.evidence --binding shop.binding
  dunlin evidence verify --policy shop.policy --owner owner.pub --binding shop.binding shop.evidence";

const EXIT_CODES: &str = "\
Exit codes: 0; 64 wrong usage; 66 a file cannot be opened; 69 the platform is not there; 73 a file cannot be written";

/// What is answered, and where to.
#[derive(Debug, Args)]
struct Answer {
    /// The verifier's nonce, 64 digits; without it one is drawn, which proves nothing to anybody else
    #[arg(long, value_name = "DIGITS", value_parser = keys::digits)]
    challenge: Option<Bytes>,
    /// Where to write the evidence
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Where to write what it is bound to
    #[arg(long, value_name = "FILE")]
    binding: Option<PathBuf>,
    /// Where to write what belongs to the evidence: certificates, the provider's statement
    #[arg(long, value_name = "FILE")]
    endorsements: Option<PathBuf>,
}

/// What speaks for this machine.
#[derive(Debug, Args)]
pub(crate) struct AttesterArgs {
    /// What speaks for this machine: sim, sim:NAME, tpm, tpm:DEVICE, snp, tdx or sgx; there is no automatic choice and no
    /// fallback
    #[arg(long, value_name = "ATTESTER", default_value = "sim")]
    attester: Choice,
    /// For a TPM: the provider's statement from the enrolment
    #[arg(long, value_name = "FILE")]
    statement: Option<PathBuf>,
    /// For a TPM: the event log of register 15
    #[arg(long, value_name = "FILE", default_value = dunlin_attesters::EVENT_LOG)]
    event_log: PathBuf,
}

impl AttesterArgs {
    /// With what the files say.
    pub(crate) fn choice(&self) -> Result<Choice> {
        let choice = self.attester.clone().with_event_log(self.event_log.clone());
        match &self.statement {
            Some(path) => Ok(choice.with_statement(file::read(path)?)),
            None => Ok(choice),
        }
    }
}

/// Evidence of this machine for a challenge
#[derive(Debug, Args)]
struct Node {
    #[command(flatten)]
    attester: AttesterArgs,
    #[command(flatten)]
    answer: Answer,
    /// The policy under which the machine works, as signed text's digest of 64 digits; it is measured where that is possible
    #[arg(long, value_name = "DIGEST")]
    policy: Option<Digest>,
    /// The provider that operates the machine
    #[arg(long, value_name = "NAME", default_value = "local")]
    provider: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Evidence of the keep in which a service runs, for a challenge. The node that carries it cannot make it
#[derive(Debug, Args)]
struct Service {
    /// The service
    name: String,
    #[command(flatten)]
    answer: Answer,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// The attesters that this build knows, and whether their platforms are here
#[derive(Debug, Args)]
struct List {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(attest: &Attest) -> Result<ExitCode> {
    match &attest.command {
        Verb::Node(node) => run_node(node),
        Verb::Service(service) => run_service(service),
        Verb::List(List { json: as_json }) => {
            let found: Vec<_> = Choice::all().iter().map(Found::of).collect();
            let mut table = text::Table::new(&["attester", "class", "here"]);
            for Found { attester, class, here, why } in &found {
                let here = if *here { "yes".to_owned() } else { format!("no: {}", why.as_deref().unwrap_or_default()) };
                table.row([attester.clone(), (*class).to_owned(), here]);
            }
            text::print(&if *as_json { json(&found)? } else { table.render("") });
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[derive(Debug, Serialize)]
struct Found {
    attester: String,
    /// The best that its evidence can be.
    class: &'static str,
    here: bool,
    why: Option<String>,
}

impl Found {
    fn of(choice: &Choice) -> Self {
        let opened = choice.open();
        Self {
            attester: choice.to_string(),
            class: choice.class().name(),
            here: opened.is_ok(),
            why: opened.err().map(|error| error.to_string()),
        }
    }
}

#[derive(Debug, Serialize)]
struct Made {
    technology: &'static str,
    class: &'static str,
    label: Option<&'static str>,
    challenge: String,
    bytes: usize,
    platform: Option<String>,
}

fn run_node(node: &Node) -> Result<ExitCode> {
    let Node { attester, answer, policy, provider, json: as_json } = node;
    let Answer { challenge, output, binding: binding_file, endorsements } = answer;
    let nonce = nonce(challenge.as_ref())?;
    let choice = attester.choice()?;
    let attester = choice.open().map_err(because)?;
    let runtime = Digest::of(&file::read("/proc/self/exe".as_ref())?);
    let measured = [(TpmEventKind::Runtime, Some(runtime)), (TpmEventKind::Policy, *policy)];
    for (kind, digest) in measured.into_iter().filter_map(|(kind, digest)| Some((kind, digest?))) {
        match attester.measure(TpmEvent { kind, digest }) {
            // A TEE measured at its launch, and has no register for what comes later.
            Ok(()) | Err(AttesterError::NoRegister(_)) => {}
            Err(error) => return Err(because(error)),
        }
    }
    let context = context(nonce, provider, policy.unwrap_or(Digest([0; 32])))?;
    let evidence = attester.evidence(&context.report_data()).map_err(because)?;
    let bytes = evidence.to_cbor();
    file::write_atomically(output, &bytes)?;
    if let Some(path) = binding_file {
        file::write_atomically(path, &context.to_cbor())?;
    }
    if let Some(path) = endorsements {
        file::write_atomically(path, &attester.endorsements().map_err(because)?.to_cbor())?;
    }
    let made = Made {
        technology: evidence.technology().name(),
        class: choice.class().name(),
        label: label(choice.class()),
        challenge: Bytes::from(nonce).to_string(),
        bytes: bytes.len(),
        platform: attester.platform_hint().map(|platform| platform.to_string()),
    };
    print(&made, *as_json)
}

fn run_service(service: &Service) -> Result<ExitCode> {
    let Service { name, answer, json: as_json, node } = service;
    let Answer { challenge, output, binding: binding_file, endorsements: endorsements_file } = answer;
    let nonce = nonce(challenge.as_ref())?;
    let request = AttestRequest { challenge: Bytes::from(nonce).to_string() };
    let api = node.api()?;
    let done: AttestDone = talk(async {
        let path = format!("/v1/services/{name}/attest");
        api.post(&path, &request).await.map_err(refused(format!("{name} gives no evidence")))
    })?;
    let broken = |what: &str| Failure::new(Exit::Data, format!("the node's answer is no {what}"));
    let bytes = |text: &str, what: &str| text.parse::<Bytes>().map(|bytes| bytes.0).map_err(|_| broken(what));
    let (encoded, bound) = (bytes(&done.evidence, "evidence")?, bytes(&done.binding, "binding")?);
    let evidence = Evidence::from_cbor(&encoded).map_err(|_| broken("evidence"))?;
    let binding = BindingContext::from_cbor(&bound).map_err(|_| broken("binding"))?;
    // The node carried the challenge; that evidence for another one is useless, its user is to hear here.
    if binding.peer_nonce != nonce {
        return Err(Failure::new(Exit::Data, "the evidence is for another challenge"));
    }
    file::write_atomically(output, &encoded)?;
    if let Some(path) = binding_file {
        file::write_atomically(path, &bound)?;
    }
    if let Some(path) = endorsements_file {
        file::write_atomically(path, &bytes(&done.endorsements, "endorsements")?)?;
    }
    let technology = evidence.technology();
    let class = technology.class();
    print(
        &Made {
            technology: technology.name(),
            class: class.name(),
            label: label(class),
            challenge: request.challenge,
            bytes: encoded.len(),
            platform: None,
        },
        *as_json,
    )
}

fn nonce(challenge: Option<&Bytes>) -> Result<[u8; 32]> {
    match challenge {
        Some(challenge) => {
            challenge.0.as_slice().try_into().map_err(|_| Failure::new(Exit::Usage, "a challenge has 64 digits"))
        }
        None => Ok(keys::generate()?.1),
    }
}

fn label(class: Class) -> Option<&'static str> {
    (class == Class::Sim).then_some("SIMULATED: this proves nothing about the machine")
}

fn print(made: &Made, as_json: bool) -> Result<ExitCode> {
    if let Some(label) = made.label {
        text::note(label);
    }
    let plain = format!(
        "{} bytes of {} evidence, class {}, for challenge {}\n",
        made.bytes, made.technology, made.class, made.challenge
    );
    text::print(&if as_json { json(made)? } else { plain });
    Ok(ExitCode::SUCCESS)
}

/// There is no session: the exporter says so, the keys are made for this one answer, and the nonce is what binds.
fn context(nonce: [u8; 32], provider: &str, policy: Digest) -> Result<BindingContext> {
    let (key, _) = keys::generate()?;
    let instance_key = key.verifying_key();
    let kem_key = Bytes(instance_key.to_bytes());
    Ok(BindingContext {
        service: "node".to_owned(),
        policy,
        provider: provider.to_owned(),
        ledger: "none".to_owned(),
        ..BindingContext::outside_of_a_session(nonce, instance_key, kem_key)
    })
}

fn because(error: AttesterError) -> Failure {
    Failure::because(Exit::Unavailable, "this machine gives no such evidence")(error)
}
