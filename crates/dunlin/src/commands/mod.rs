//! The commands, one file each.

pub(crate) mod attest;
pub(crate) mod bench;
pub(crate) mod broker;
pub(crate) mod demo;
pub(crate) mod evidence;
pub(crate) mod inspect;
pub(crate) mod migrate;
pub(crate) mod nodes;
pub(crate) mod policy;
pub(crate) mod recover;
pub(crate) mod restore;
pub(crate) mod run;
pub(crate) mod service;
pub(crate) mod soak;
pub(crate) mod threats;
pub(crate) mod tpm;
pub(crate) mod wasi;

use std::process::ExitCode;

use crate::cli::Command;
use crate::failure::Result;

pub(crate) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(*args),
        Command::Restore(args) => restore::run(*args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Up(args) => nodes::up(&args),
        Command::Node(args) => nodes::node(args),
        Command::Deploy(args) => service::deploy(*args),
        Command::Ps(args) => service::ps(&args),
        Command::Describe(args) => service::describe(&args),
        Command::Logs(args) => service::logs(&args),
        Command::Stop(args) => service::stop(&args),
        Command::Start(args) => service::start(&args),
        Command::Rm(args) => service::rm(&args),
        Command::Migrate(args) => migrate::migrate(&args),
        Command::Checkpoint(args) => service::checkpoint(&args),
        Command::Recover(args) => recover::run(&args),
        Command::Job(args) => migrate::job(&args),
        Command::Soak(args) => soak::run(&args),
        Command::KeepProcess(args) => nodes::keep_process(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Evidence(args) => evidence::run(&args),
        Command::Policy(args) => policy::run(&args),
        Command::Attest(args) => attest::run(&args),
        Command::Broker(args) => broker::run(&args),
        Command::Tpm(args) => tpm::run(&args),
        Command::Threats(args) => threats::run(&args),
        Command::Wasi(args) => wasi::run(&args),
    }
}
