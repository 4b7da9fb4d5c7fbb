//! What this host offers a program, and lending a world to an instance.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, ValueEnum};
use dunlin_base::{Value, ValueType};
use dunlin_engine::{Flow, Host};
use dunlin_host::{Carry, Config, Connections, Limits, Mount, Needs, PrivateVolume, Source, World};
use dunlin_snapshot::Envelope;
use dunlin_store::DirectoryStore;

use crate::failure::{Exit, Failure, Result};
use crate::{file, parse, trust};

/// What the program has changed in its volume is on the disk after this time, whether it asks for that or not.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// What the program may use of this machine.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "What the program may use")]
pub(crate) struct Offer {
    /// Show the directory HOST to the program as GUEST; with ::ro it cannot change anything there
    #[arg(long = "dir", value_name = "HOST::GUEST[::ro]", value_parser = parse::mount)]
    mounts: Vec<Mount>,
    /// Give the program a private volume, kept in the directory DIR, as GUEST [default: /data]. It moves with the program
    #[arg(long, value_name = "DIR[:GUEST]", value_parser = parse::volume)]
    volume: Option<parse::Volume>,
    /// Seal the volume under the key in FILE, which is made the first time: what is in DIR tells nothing without it
    #[arg(long, value_name = "FILE", requires = "volume")]
    seal: Option<PathBuf>,
    /// Which contents of the volume travel with a snapshot
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Contents::All)]
    volume_contents: Contents,
    /// Leave out of a snapshot what this earlier one of the same program carries: the other side has restored it
    #[arg(long, value_name = "SNAPSHOT")]
    volume_known: Vec<PathBuf>,
    /// Give the program a listener for TCP connections
    #[arg(long, value_name = "HOST:PORT")]
    listen: Vec<String>,
    /// What becomes of open connections when the program is stopped
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = OnStop::Refuse)]
    connections: OnStop,
    /// INSECURE: the same random numbers and clock readings in every run, from this seed
    #[arg(long, value_name = "SEED")]
    deterministic: Option<u64>,
    /// The most descriptors that the program can have open, standard streams included: `EMFILE` beyond
    #[arg(long, value_name = "N", default_value_t = Limits::default().descriptors)]
    limit_descriptors: u32,
    /// The most bytes of standard output and error, over the program's whole life: `ENOSPC` beyond
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    limit_output: Option<u64>,
    /// The largest size to which the program can make a file grow: `EFBIG` beyond
    #[arg(long, value_name = "SIZE", value_parser = parse::size)]
    limit_file: Option<u64>,
    /// The most that the program's volume can hold: `ENOSPC` beyond
    #[arg(long, value_name = "SIZE", value_parser = parse::size, default_value = "16GiB")]
    limit_volume: u64,
}

/// Which contents of the volume travel with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Contents {
    /// All: the snapshot can be restored with any store
    All,
    /// None: it can be restored with this store only, or with a copy of it
    None,
}

/// What becomes of open connections when the program is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnStop {
    /// The program cannot be stopped while it has any
    Refuse,
    /// They end; what has arrived can still be read
    Close,
}

impl Offer {
    /// The configuration, with this process's standard streams. With `rewind`, a volume that has changed since the
    /// program was stopped is taken back.
    pub(crate) fn config(&self, rewind: bool) -> Result<Config> {
        let limits = Limits {
            descriptors: self.limit_descriptors,
            output_bytes: self.limit_output,
            file_bytes: self.limit_file,
            ..Limits::default()
        };
        let mut config = Config::new().inherit_stdio().limits(limits);
        for mount in &self.mounts {
            config = config.mount(mount.clone());
        }
        for address in &self.listen {
            config = config.listen(address);
        }
        config = config.connections(match self.connections {
            OnStop::Refuse => Connections::Refuse,
            OnStop::Close => Connections::Close,
        });
        if let Some(volume) = self.private_volume()? {
            config = config.volume(volume.rewind(rewind));
        }
        Ok(match self.deterministic {
            Some(seed) => config.source(Source::Deterministic { seed }),
            None => config,
        })
    }

    fn private_volume(&self) -> Result<Option<PrivateVolume>> {
        let Some(parse::Volume { store, guest }) = &self.volume else {
            if self.volume_known.is_empty() {
                return Ok(None);
            }
            return Err(Failure::new(
                Exit::Usage,
                "--volume-known says what a volume's other side has: give --volume, too",
            ));
        };
        let opened = DirectoryStore::open(store)
            .map_err(Failure::because(Exit::Config, format!("the volume in {} cannot be used", store.display())))?;
        let mut known = BTreeSet::new();
        for path in &self.volume_known {
            known.extend(carried_chunks(path)?);
        }
        let carry = match self.volume_contents {
            Contents::None => Carry::Nothing,
            Contents::All if known.is_empty() => Carry::All,
            Contents::All => Carry::Without(Arc::new(known)),
        };
        let mut volume =
            PrivateVolume::new(Arc::new(opened)).limit(self.limit_volume).carry(carry).commit_every(COMMIT_EVERY);
        if let Some(key) = &self.seal {
            volume = volume.sealing(Arc::new(trust::volume_seal(key)?));
        }
        if let Some(guest) = guest {
            volume = volume.guest(guest);
        }
        Ok(Some(volume))
    }
}

/// The chunks that whoever has restored this snapshot has.
fn carried_chunks(path: &Path) -> Result<Vec<dunlin_base::Digest>> {
    let bytes = file::read(path)?;
    let refused = || format!("{} does not tell what the other side has", path.display());
    let envelope =
        Envelope::open(&bytes, &dunlin_snapshot::Limits::default()).map_err(Failure::because(Exit::Data, refused()))?;
    let snapshot = envelope.peek().map_err(Failure::because(Exit::Data, refused()))?;
    let needs = Needs::of(&snapshot.state.host).map_err(Failure::because(Exit::Data, refused()))?;
    let contents = needs.volume.and_then(|volume| volume.contents);
    contents
        .map(|contents| contents.needed)
        .ok_or_else(|| Failure::new(Exit::Data, format!("{}: it carries no contents of a volume", refused())))
}

/// Where a world is while no instance uses it.
#[derive(Debug, Default)]
pub(crate) struct Home(Arc<Mutex<Option<World>>>);

impl Home {
    pub(crate) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(Some(world))))
    }

    /// Lends the world to an instance; `None` while another has it.
    pub(crate) fn lend(&self) -> Option<Lent> {
        let world = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        Some(Lent { world: Some(world?), home: self.0.clone() })
    }
}

/// A world in the hands of an instance. It comes home when the instance is dropped: a program whose stop failed goes
/// on in the same world.
#[derive(Debug)]
pub(crate) struct Lent {
    /// Only `None` while it is dropped.
    world: Option<World>,
    home: Arc<Mutex<Option<World>>>,
}

impl Lent {
    pub(crate) fn world(&mut self) -> Option<&mut World> {
        self.world.as_mut()
    }
}

impl Host for Lent {
    fn resolve(&self, module: &str, name: &str, params: &[ValueType], results: &[ValueType]) -> Option<u32> {
        self.world.as_ref()?.resolve(module, name, params, results)
    }

    fn call(&mut self, function: u32, memory: &mut [u8], args: &[Value], results: &mut [Value]) -> Flow {
        match &mut self.world {
            Some(world) => world.call(function, memory, args, results),
            None => Flow::Trap("the program's world is gone".to_owned()),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = self.world.take();
    }
}
