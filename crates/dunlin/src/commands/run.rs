//! `dunlin run`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::failure::Result;
use crate::host::Offer;
use crate::module::Module;
use crate::parse;
use crate::session::{self, EngineArgs, StopArgs};
use crate::trust::TrustArgs;

/// Run a program
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The program: a WASI preview 1 command
    #[arg(value_name = "APP.wasm")]
    app: PathBuf,
    /// Arguments for the program
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
    /// An environment variable for the program; NAME alone hands on the value it has here
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse::variable)]
    variables: Vec<(String, String)>,
    #[command(flatten)]
    offer: Offer,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    stop: StopArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  dunlin run app.wasm -- --port 80            run it
  dunlin run --dir ./data::/data app.wasm     let it see a directory
  dunlin run --volume ./store app.wasm        give it a volume of its own as /data
  dunlin run app.wasm & kill -USR1 $!         stop it: writes app.snap
  dunlin run --stop-after 250ms app.wasm      stop it after a while
  dunlin run --limit-cpu 2s --limit-memory 64MiB --limit-output 1MiB app.wasm
  dunlin restore app.snap                     and go on, here or elsewhere";

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0         the program ended well, or was stopped and the snapshot is written
  1 to 255  the program's own, its lowest eight bits
  134       it trapped
  152       it has used up its processor time (--limit-cpu)
and if it could not begin:
  64        wrong usage
  65        not a valid module
  66        a file cannot be opened
  69        a stop was asked for, and the module cannot be stopped
  70        an error of dunlin itself
  73        a file cannot be written
  78        this host does not offer what the program needs";

pub(crate) fn run(run: Run) -> Result<ExitCode> {
    let Run { app, args, variables, offer, trust, stop, engine } = run;
    let module = Module::read(&app)?;
    let name = app.file_name().unwrap_or(app.as_os_str()).to_string_lossy().into_owned();
    let mut config = offer.config(false)?.arg(name).args(args);
    for (name, value) in variables {
        config = config.env(name, value);
    }
    let config = trust.offer(config, &module)?;
    session::begin(&module, &engine, stop, config)
}
