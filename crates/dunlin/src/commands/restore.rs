//! `dunlin restore`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use dunlin_engine::Code;
use dunlin_snapshot::{Envelope, Limits};

use crate::commands::service;
use crate::failure::{Exit, Failure, Result};
use crate::file;
use crate::host::Offer;
use crate::module::{Kind, Module, on_stack};
use crate::remote::NodeArgs;
use crate::report::run::Times;
use crate::session::{self, EngineArgs, Resumption, StopArgs};
use crate::trust::TrustArgs;

/// Go on with a stopped program
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The snapshot. A further stop replaces it unless --snapshot says otherwise
    #[arg(required_unless_present = "service")]
    file: Option<PathBuf>,
    /// Instead, a service of a node: it goes back to its last checkpoint
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    service: Option<String>,
    /// The node to ask about the service: its name, or the path of its API socket [env: DUNLIN_NODE]
    #[arg(long, value_name = "NODE", requires = "service")]
    node: Option<String>,
    /// The module that the snapshot was taken from, if the snapshot does not carry it
    #[arg(long, value_name = "APP.wasm")]
    module: Option<PathBuf>,
    /// Go on although the volume has changed since the snapshot was taken: those changes are lost
    #[arg(long, requires = "volume")]
    rewind_volume: bool,
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
  dunlin restore app.snap                             go on to the end
  dunlin restore --tier wasmi app.snap                in another engine
  dunlin restore --stop-after 1s app.snap             one more hop: app.snap is replaced
  dunlin restore --dir ./data::/data app.snap         with the directories it had
  dunlin restore --volume ./store app.snap            with its volume, kept in ./store from here on
  dunlin restore --module app.wasm small.snap         a snapshot without its module
  dunlin restore --service kv                         a service, from its last checkpoint";

pub(crate) const EXIT_CODES: &str = "\
Exit codes: as of `dunlin run`, and
  65        the snapshot is damaged, of another module, or of a version that this release cannot restore
  66        a file cannot be opened, or the snapshot does not carry its module
  78        this host lacks directories, the volume or listeners that the program has, or offers less than it had; or
            the volume has changed since (--rewind-volume takes it back)";

pub(crate) fn run(restore: Restore) -> Result<ExitCode> {
    let Restore { file, service, node, module: given, rewind_volume, offer, trust, stop, engine } = restore;
    let path = match (file, service) {
        (_, Some(name)) => return service::restore(&NodeArgs::named(node), &name),
        (Some(path), None) => path,
        (None, None) => return Err(Failure::new(Exit::Usage, "name a snapshot, or a service by --service")),
    };
    let (built, control) = session::prepare(&engine)?;
    let start = Instant::now();
    let bytes = file::read(&path)?;
    if Kind::of(&bytes) == Kind::Module {
        let message = format!("{} is a module, not a snapshot: start it by `dunlin run`", path.display());
        return Err(Failure::new(Exit::Data, message));
    }
    let refused = || format!("{} cannot be restored", path.display());
    let envelope = Envelope::open(&bytes, &Limits::default()).map_err(Failure::because(Exit::Data, refused()))?;
    let embedded = envelope.module().map_err(Failure::because(Exit::Data, refused()))?;
    let module = match (given, embedded) {
        (Some(given), _) => Module::read(&given)?,
        (None, Some(wasm)) => Module { path: path.clone(), wasm: wasm.to_vec() },
        (None, None) => {
            let message = format!(
                "{} does not carry its module, sha256:{}: give it by --module",
                path.display(),
                envelope.header().module
            );
            return Err(Failure::new(Exit::NoInput, message));
        }
    };
    let opened = start.elapsed();
    let start = Instant::now();
    // The frames cannot be read without the map, and once they are, only their functions need code that resumes.
    let analysis = module.analyse()?;
    let map = analysis.map();
    let analysed = start.elapsed();
    let start = Instant::now();
    let snapshot = envelope.decode(map).map_err(Failure::because(Exit::Data, refused()))?;
    let decode = start.elapsed();
    let start = Instant::now();
    let instrumented = analysis.instrument_resuming(stop.poll(), &on_stack(map, &snapshot.state));
    let instrument = analysed + start.elapsed();
    let start = Instant::now();
    let code = Code::instrumented(&built, &instrumented).map_err(Failure::engine(refused()))?;
    let compile = start.elapsed();
    drop((analysis, instrumented));
    drop(bytes);
    let times = Times { instrument, compile, decode: opened + decode, ..Times::default() };
    let resumption = Resumption {
        module: &module,
        engine: built,
        control,
        code,
        state: snapshot.state,
        times,
        default_snapshot: path,
    };
    let config = trust.offer(offer.config(rewind_volume)?, &module)?;
    resumption.go_on(&engine, stop, config)
}
