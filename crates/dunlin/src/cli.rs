//! The command line as a whole.

use clap::{Parser, Subcommand};

use crate::commands::{
    attest, bench, broker, demo, evidence, inspect, migrate, nodes, policy, recover, restore, run, service, soak,
    threats, tpm, wasi,
};
use crate::remote;

/// Runs WebAssembly programs that can move while they run.
#[derive(Debug, Parser)]
#[command(name = "dunlin", version, max_term_width = 110, before_help = EXAMPLES, after_help = NOTES)]
#[command(subcommand_required = true, arg_required_else_help = true, infer_subcommands = false)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  dunlin demo                              watch a service move between nodes while it serves
  dunlin run app.wasm                      run a program
  dunlin run --stop-after 1s app.wasm      stop it into app.snap
  dunlin restore app.snap                  and go on
  dunlin up --nodes 2                      run nodes on this machine
  dunlin deploy kv.wasm --listen 127.0.0.1:6379
  dunlin migrate kv --to b                 move it, while it serves";

const NOTES: &str = "Messages go to standard error; NO_COLOR=1 keeps them plain.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(before_help = run::EXAMPLES, after_help = run::EXIT_CODES)]
    Run(Box<run::Run>),
    #[command(before_help = restore::EXAMPLES, after_help = restore::EXIT_CODES)]
    Restore(Box<restore::Restore>),
    #[command(before_help = inspect::EXAMPLES, after_help = inspect::EXIT_CODES)]
    Inspect(inspect::Inspect),
    #[command(before_help = demo::EXAMPLES, after_help = demo::EXIT_CODES)]
    Demo(demo::Demo),
    #[command(before_help = nodes::UP, after_help = nodes::EXIT_CODES)]
    Up(nodes::Up),
    #[command(before_help = nodes::NODE, after_help = nodes::EXIT_CODES)]
    Node(nodes::NodeCommand),
    #[command(before_help = service::DEPLOY, after_help = remote::EXIT_CODES)]
    Deploy(Box<service::DeployArgs>),
    #[command(before_help = service::PS, after_help = remote::EXIT_CODES)]
    Ps(service::Ps),
    #[command(before_help = service::DESCRIBE, after_help = remote::EXIT_CODES)]
    Describe(service::Describe),
    #[command(before_help = service::LOGS, after_help = remote::EXIT_CODES)]
    Logs(service::Logs),
    #[command(before_help = service::STOP, after_help = remote::EXIT_CODES)]
    Stop(service::Stop),
    #[command(before_help = service::START, after_help = remote::EXIT_CODES)]
    Start(service::Start),
    #[command(before_help = service::RM, after_help = remote::EXIT_CODES)]
    Rm(service::Rm),
    #[command(before_help = migrate::EXAMPLES, after_help = migrate::EXIT_CODES)]
    Migrate(Box<migrate::Migrate>),
    #[command(before_help = service::CHECKPOINT, after_help = remote::EXIT_CODES)]
    Checkpoint(service::Checkpoint),
    #[command(before_help = recover::EXAMPLES, after_help = remote::EXIT_CODES)]
    Recover(recover::Recover),
    Job(migrate::Job),
    #[command(hide = true)]
    Soak(soak::Soak),
    #[command(hide = true)]
    KeepProcess(nodes::KeepProcess),
    Bench(bench::Bench),
    Wasi(wasi::Wasi),
    Evidence(evidence::EvidenceCommand),
    Policy(policy::PolicyCommand),
    Attest(attest::Attest),
    Broker(broker::BrokerCommand),
    Tpm(tpm::TpmCommand),
    #[command(before_help = threats::EXAMPLES)]
    Threats(threats::Threats),
}
