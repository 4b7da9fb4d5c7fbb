//! What the node gives for a service: its description and descriptors, turned into what the engine and the world
//! around the program need.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dunlin_base::{Digest, with_causes};
use dunlin_engine::{Code, Engine, Settings, Tier};
use dunlin_handover::ServiceId;
use dunlin_host::{Config, Input, Mount, Output, PrivateVolume};
use dunlin_instrument::{Error as InstrumentError, Options, Poll, Variant, instrument};
use dunlin_keep_link::{Offered, Role, Spec};
use dunlin_seal::{LocalKey, VolumeSeal};
use dunlin_store::DirectoryStore;

use crate::carrier::LinkCarrier;
use crate::code::{Unstored, compile};
use crate::error::Failure;
use crate::mobility::LinkMobility;
use crate::states::{States, path_of};
use crate::trusted::Trusted;

/// Largest module that is read.
const MAX_MODULE: u64 = 1 << 30;
/// What a program changes in its private volume is on the disk after this time.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// The descriptors of an order, each for what it is.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) module: Option<OwnedFd>,
    pub(crate) states: States,
    pub(crate) peer: Option<OwnedFd>,
    stdin: Option<Arc<OwnedFd>>,
    stdout: Option<Arc<OwnedFd>>,
    stderr: Option<Arc<OwnedFd>>,
    listeners: Vec<Arc<OwnedFd>>,
    mounts: Vec<(String, bool, Arc<OwnedFd>)>,
    volume: Option<Arc<Volume>>,
}

/// A private volume.
#[derive(Debug)]
pub(crate) struct Volume {
    guest: String,
    /// Its store makes files here by a path that goes through this descriptor, for as long as the service runs.
    directory: OwnedFd,
    /// It has no keys until they come with a state, or from the broker.
    pub(crate) seal: Arc<VolumeSeal>,
    /// Once it is opened.
    store: OnceLock<Arc<DirectoryStore>>,
}

impl Volume {
    /// The store, of which nobody else has a second one open.
    pub(crate) fn store(&self) -> Result<Arc<DirectoryStore>, Failure> {
        if let Some(store) = self.store.get() {
            return Ok(store.clone());
        }
        let opened = DirectoryStore::open(path_of(&self.directory))
            .map_err(|error| Failure::system("the private volume cannot be used")(std::io::Error::other(error)))?;
        Ok(self.store.get_or_init(|| Arc::new(opened)).clone())
    }
}

/// What the keep itself is for a program's world.
#[derive(Debug, Clone)]
pub(crate) struct Around {
    pub(crate) carrier: Arc<LinkCarrier>,
    pub(crate) mobility: Arc<LinkMobility>,
    pub(crate) trusted: Arc<Trusted>,
}

impl Given {
    pub(crate) fn new(
        offered: &Offered,
        descriptors: Vec<OwnedFd>,
        service: ServiceId,
        machine: &LocalKey,
    ) -> Result<Self, Failure> {
        let (mut module, mut states, mut peer) = (None, None, None);
        let (mut stdin, mut stdout, mut stderr) = (None, None, None);
        let (mut listeners, mut mounts, mut volume) = (Vec::new(), Vec::new(), None);
        for (role, descriptor) in offered.pair(descriptors) {
            match role {
                Role::Module => module = Some(descriptor),
                Role::States => states = Some(Arc::new(descriptor)),
                Role::Peer => peer = Some(descriptor),
                Role::Stdin => stdin = Some(Arc::new(descriptor)),
                Role::Stdout => stdout = Some(Arc::new(descriptor)),
                Role::Stderr => stderr = Some(Arc::new(descriptor)),
                Role::Listener => listeners.push(Arc::new(descriptor)),
                Role::Mount { guest, writable } => mounts.push((guest, writable, Arc::new(descriptor))),
                Role::Volume { guest } => {
                    let seal = Arc::new(VolumeSeal::without_keys(service.0));
                    volume = Some(Arc::new(Volume { guest, directory: descriptor, seal, store: OnceLock::new() }));
                }
            }
        }
        let states = states.ok_or_else(|| Failure::Invalid("a directory for states is missing".to_owned()))?;
        Ok(Self {
            module,
            states: States::new(states, machine.objects(service.0)),
            peer,
            stdin,
            stdout,
            stderr,
            listeners,
            mounts,
            volume,
        })
    }

    /// The private volume, to be kept for as long as the service runs.
    pub(crate) fn volume(&self) -> Option<Arc<Volume>> {
        self.volume.clone()
    }

    /// What the program's world is made of, or goes on with. `arrives`: its state comes in a move, and its volume has come
    /// ahead.
    pub(crate) fn config(&self, spec: &Spec, around: &Around, arrives: bool) -> Result<Config, Failure> {
        let limits = dunlin_host::Limits { descriptors: spec.limits.descriptors, ..dunlin_host::Limits::default() };
        let mut config = Config::new().args(spec.args.iter().cloned()).limits(limits);
        config = config.carrier(around.carrier.clone()).mobility(around.mobility.clone());
        config = config.trust(around.trusted.clone());
        for variable in &spec.env {
            config = config.env(variable.name.clone(), variable.value.clone());
        }
        for (guest, writable, directory) in &self.mounts {
            config = config.mount(Mount { host: path_of(directory), guest: guest.clone(), writable: *writable });
        }
        for listener in &self.listeners {
            config = config.listener(listener.clone());
        }
        if let Some(stdin) = &self.stdin {
            config = config.stdin(Input::Fd(stdin.clone()));
        }
        if let Some(stdout) = &self.stdout {
            config = config.stdout(Output::Fd(stdout.clone()));
        }
        if let Some(stderr) = &self.stderr {
            config = config.stderr(Output::Fd(stderr.clone()));
        }
        if let Some(volume) = self.volume.as_deref() {
            let Volume { guest, seal, .. } = volume;
            // A state from storage is older than what the program has done to its volume since.
            let volume = PrivateVolume::new(volume.store()?)
                .sealing(seal.clone())
                .guest(guest.clone())
                .rewind(true)
                .complete(arrives);
            config = config.volume(volume.commit_every(COMMIT_EVERY));
        }
        Ok(config)
    }

    /// What a service that has all this needs of another host, by name.
    pub(crate) fn needs(&self) -> Vec<String> {
        let listeners = (1..=self.listeners.len()).map(|number| format!("listener {number}"));
        let mounts = self
            .mounts
            .iter()
            .map(|(guest, writable, _)| format!("directory {guest}{}", if *writable { ", writable" } else { "" }));
        let volume = self.volume.iter().map(|volume| format!("private volume {}", volume.guest));
        listeners.chain(mounts).chain(volume).collect()
    }

    /// Those of `needs` that this does not meet.
    pub(crate) fn lacks(&self, needs: &[String]) -> Vec<String> {
        let offered = self.needs();
        let writable = |need: &String| format!("{need}, writable");
        needs.iter().filter(|need| !offered.contains(need) && !offered.contains(&writable(need))).cloned().collect()
    }

    /// The program's own resources, as descriptors: the directories.
    pub(crate) fn directories(&self) -> impl Iterator<Item = (&OwnedFd, bool)> {
        let volume = self.volume.iter().map(|volume| (&volume.directory, true));
        self.mounts.iter().map(|(_, writable, directory)| (&**directory, *writable)).chain(volume)
    }
}

/// A module that is ready to be instantiated.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) wasm: Arc<[u8]>,
    pub(crate) code: Code,
    /// Why it cannot move.
    pub(crate) pinned: Option<String>,
    /// Its code, if it was compiled here and now.
    pub(crate) unstored: Unstored,
}

impl Loaded {
    /// Reads the module from its file and compiles it.
    pub(crate) fn from_file(module: OwnedFd, spec: &Spec, states: &States) -> Result<Self, Failure> {
        let mut wasm = Vec::new();
        let read = File::from(module).take(MAX_MODULE).read_to_end(&mut wasm);
        read.map_err(Failure::system("the module cannot be read"))?;
        Self::new(wasm, spec, states)
    }

    /// Compiles a module, unless that was done before: so that it can move if that is possible, else as it is.
    pub(crate) fn new(wasm: Vec<u8>, spec: &Spec, states: &States) -> Result<Self, Failure> {
        let found = Digest::of(&wasm);
        if found != spec.module {
            return Err(Failure::OtherModule { found, expected: spec.module });
        }
        let engine = engine(spec)?;
        let plain = || Code::plain(&engine, &wasm).map(|code| (code, Unstored::default()));
        let (code, pinned) = match instrument(&wasm, Options { poll: Poll::Flag, variant: Variant::Resume }) {
            Ok(instrumented) => (compile(&engine, &instrumented, states), None),
            Err(InstrumentError::Blocked(blockers)) => {
                let reasons: Vec<String> = blockers
                    .iter()
                    .map(|blocker| format!("{}: {} at offset {:#x}", blocker.feature, blocker.detail, blocker.offset))
                    .collect();
                (plain(), Some(reasons.join("; ")))
            }
            Err(error @ InstrumentError::Limit { .. }) => (plain(), Some(error.to_string())),
            Err(error) => return Err(Failure::Module(with_causes(&error))),
        };
        let (code, unstored) = code.map_err(|error| Failure::Module(with_causes(&error)))?;
        if let Some(map) = code.map() {
            // It is asked for again while the program stands, and known then.
            let _known = map.digest();
        }
        Ok(Self { wasm: wasm.into(), code, pinned, unstored })
    }

    /// That it can move.
    pub(crate) fn check_movable(&self) -> Result<(), Failure> {
        self.pinned.as_ref().map_or(Ok(()), |reason| Err(Failure::NotMovable(reason.clone())))
    }
}

fn engine(spec: &Spec) -> Result<Engine, Failure> {
    let tier = match spec.tier {
        dunlin_keep_link::Tier::Cranelift => Tier::Cranelift,
        dunlin_keep_link::Tier::Pulley => Tier::Pulley,
        dunlin_keep_link::Tier::Wasmi => Tier::Wasmi,
    };
    let wasm_stack = usize::try_from(spec.limits.stack_bytes).unwrap_or(usize::MAX);
    Engine::new(tier, Settings { wasm_stack, ..Settings::default() })
        .map_err(|error| Failure::Module(with_causes(&error)))
}

/// The engine's limits.
pub(crate) fn limits(spec: &Spec) -> dunlin_engine::Limits {
    dunlin_engine::Limits { memory_bytes: spec.limits.memory_bytes, table_elements: spec.limits.table_elements }
}
