//! One instance of a service: its program runs on a thread of its own, stops to be captured, and goes on.

use core::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dunlin_base::with_causes;
use dunlin_engine::{Instance, MemorySizes, Tracker};
use dunlin_handover::ledger::Record;
use dunlin_host::{CarriedConnection, VolumeHandle, World};
use dunlin_instrument::PASS_VERSION;
use dunlin_keep_link::{Origin, Spec};
use dunlin_snapshot::{Features, Module, Snapshot};

use crate::boot::{self, Plan, Stored, VolumeKeys};
use crate::error::Failure;
use crate::keys::Keys;
use crate::migrate::{Resident, Runner, Track};
use crate::offer::{Around, Given, Loaded, Volume, limits};
use crate::office::Office;
use crate::states::States;
use crate::successor::entries;

/// A running service.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) spec: Spec,
    pub(crate) loaded: Loaded,
    pub(crate) states: States,
    pub(crate) needs: Vec<String>,
    pub(crate) runner: Runner,
    pub(crate) around: Around,
    pub(crate) keys: Arc<Keys>,
    volume: Option<Arc<Volume>>,
    /// The volume as the program has it.
    pub(crate) mounted: Option<VolumeHandle>,
    pub(crate) inside: Arc<Inside>,
    pub(crate) started: Instant,
    record: Mutex<Record>,
}

/// What the program's thread shares with the rest of the keep.
#[derive(Debug, Default)]
pub(crate) struct Inside {
    version: AtomicU64,
    /// Where the engine can tell while the program runs.
    sizes: OnceLock<MemorySizes>,
    /// Those that went into the last capture.
    connections: Mutex<Vec<CarriedConnection>>,
}

/// What a service is made of, before it runs.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) spec: Spec,
    pub(crate) loaded: Loaded,
    pub(crate) states: States,
    pub(crate) needs: Vec<String>,
    pub(crate) around: Around,
    pub(crate) keys: Arc<Keys>,
    pub(crate) volume: Option<Arc<Volume>>,
    /// The thread on which it is to run, where one was made before.
    pub(crate) track: Option<Track>,
}

impl Service {
    /// Starts a service as the ledger and the stored states allow.
    pub(crate) fn start(
        spec: Spec,
        given: Given,
        around: Around,
        keys: Arc<Keys>,
        origin: Origin,
        office: &mut Office,
    ) -> Result<Self, Failure> {
        let config = given.config(&spec, &around, false)?;
        let (needs, volume) = (given.needs(), given.volume());
        let Given { module, states, .. } = given;
        let module = module.ok_or_else(|| Failure::Invalid("the module is missing".to_owned()))?;
        let loaded = Loaded::from_file(module, &spec, &states)?;
        let plan: Plan = boot::plan(office, &states, &spec, &loaded, origin)?;
        let world = |error: dunlin_host::Error| Failure::Busy(with_causes(&error));
        let refused = |error: dunlin_engine::Error| Failure::Module(with_causes(&error));
        let record = plan.take(office)?;
        let epoch = record.epoch;
        let (instance, stored) = match plan.state(office, &loaded, epoch)? {
            None => {
                if let Some(Volume { seal, .. }) = volume.as_deref() {
                    keys.advance(epoch, seal)?;
                }
                let world = World::new(config).map_err(world)?;
                (Instance::new(&loaded.code, Box::new(world), limits(&spec)).map_err(refused)?, None)
            }
            Some(Stored { state, volume_keys, path }) => {
                if let Some(Volume { seal, .. }) = volume.as_deref() {
                    volume_keys.give(seal).map_err(Failure::Invalid)?;
                }
                let world = World::thaw(&state.host, config).map_err(world)?;
                let instance = Instance::restore(&loaded.code, &state, Box::new(world), limits(&spec));
                (instance.map_err(refused)?, Some(path))
            }
        };
        states.clear_but(stored.as_deref());
        let parts = Parts { spec, loaded, states, needs, around, keys, volume, track: None };
        let service = Self::launch(parts, instance, stored.is_some(), record)?;
        service.loaded.unstored.store();
        Ok(service)
    }

    /// Lets an instance run that the ledger has made the holder.
    pub(crate) fn launch(
        parts: Parts,
        mut instance: Instance,
        restored: bool,
        record: Record,
    ) -> Result<Self, Failure> {
        let Parts { spec, loaded, states, needs, around, keys, volume, track } = parts;
        keys.prepare(record.epoch, volume.clone());
        around.trusted.in_epoch(record.epoch);
        let inside = Arc::new(Inside::default());
        inside.version.store(record.version, Ordering::SeqCst);
        let _first = inside.sizes.set(instance.memory_sizes());
        let entries = entries(instance.entry());
        let stop = instance.stop_handle();
        let mounted = world_of(&mut instance).and_then(|world| {
            world.clear_interrupt();
            stop.on_request(Box::new(world.interrupter()));
            world.volume()
        });
        let resident = Box::new(Tenant { inside: inside.clone(), volume: volume.clone() });
        let track = track.map_or_else(|| Track::new(instance.code().engine()), Ok).map_err(|error| match error {
            crate::migrate::Error::Thread(source) => Failure::system("the program's thread cannot be started")(source),
        })?;
        let runner = Runner::on(track, instance, entries, restored, resident);
        if let Some(percent) = spec.limits.cpu_percent {
            runner.limit(percent);
        }
        let (started, record) = (Instant::now(), Mutex::new(record));
        Ok(Self { spec, loaded, states, needs, runner, around, keys, volume, mounted, inside, started, record })
    }

    /// The record as this holder knows it.
    pub(crate) fn record(&self) -> Record {
        *self.locked_record()
    }

    /// Begins to watch the program's memories, for which it stands for a moment: for how long.
    pub(crate) fn watch(&self) -> Result<(Tracker, Duration), Failure> {
        self.runner.stand().map_err(Failure::Over)?;
        let stands = Instant::now();
        let tracker = self.runner.look(|instance, _| instance.tracker(false).map_err(|error| with_causes(&error)));
        self.runner.go_on();
        let stood = stands.elapsed();
        Ok((tracker.map_err(Failure::Over)?.map_err(Failure::Busy)?, stood))
    }

    /// A state of this holder was committed.
    pub(crate) fn is_at(&self, record: Record) {
        self.inside.version.store(record.version, Ordering::SeqCst);
        *self.locked_record() = record;
    }

    /// The service took another epoch, after a move that did not happen.
    pub(crate) fn in_epoch(&self, epoch: u64) {
        self.locked_record().epoch = epoch;
        self.around.trusted.in_epoch(epoch);
        self.keys.prepare(epoch, self.volume.clone());
    }

    /// The keys of the volume, for whoever takes the service.
    pub(crate) fn volume_keys(&self) -> Option<VolumeKeys> {
        self.volume.as_deref().map(|volume| VolumeKeys::of(&volume.seal))
    }

    fn locked_record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the program's connections. It must stand.
    pub(crate) fn close_connections(&self) {
        let _gone = self.runner.look(|instance, _| {
            if let Some(world) = world_of(instance) {
                world.close_connections();
            }
        });
    }
}

impl Inside {
    /// The last version that the ledger acknowledged.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    /// Bytes of all memories; 0 where nobody knows.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.sizes.get().and_then(MemorySizes::bytes).unwrap_or(0)
    }

    /// The connections of the last capture.
    pub(crate) fn connections(&self) -> Vec<CarriedConnection> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The state of a stopped instance besides memory, as it travels and is stored.
pub(crate) fn rest_of(
    instance: &Instance,
    state: dunlin_snapshot::State,
    volume_keys: Option<VolumeKeys>,
) -> Result<Vec<u8>, String> {
    let map = instance.code().map().ok_or("the program cannot be captured")?;
    let snapshot = Snapshot {
        module: Module { digest: map.module, embedded: None },
        map_digest: map.digest(),
        pass_version: PASS_VERSION,
        // Whoever takes the state has compiled the module already.
        features: Features::default(),
        product: None,
        state,
        extra: volume_keys.iter().map(VolumeKeys::section).collect(),
    };
    dunlin_snapshot::rest(&snapshot).map_err(|error| with_causes(&error))
}

/// The world in which an instance runs.
pub(crate) fn world_of(instance: &mut Instance) -> Option<&mut World> {
    let host: &mut dyn Any = instance.host_mut();
    host.downcast_mut::<World>()
}

/// The keep's part in the program's thread.
struct Tenant {
    inside: Arc<Inside>,
    volume: Option<Arc<Volume>>,
}

impl Resident for Tenant {
    fn version(&self) -> u64 {
        self.inside.version()
    }

    fn rest(&mut self, instance: &mut Instance) -> Result<Vec<u8>, String> {
        let mut state = instance.capture_rest().map_err(|error| with_causes(&error))?;
        let world = world_of(instance).ok_or("the program's world is gone")?;
        let carried = world.carried();
        state.host = world.freeze().map_err(|error| with_causes(&error))?;
        *self.inside.connections.lock().unwrap_or_else(PoisonError::into_inner) = carried;
        // Committed with the state: what the seal has now opens it.
        rest_of(instance, state, self.volume.as_deref().map(|volume| VolumeKeys::of(&volume.seal)))
    }

    fn go_on(&mut self, instance: &mut Instance) {
        if let Some(world) = world_of(instance) {
            world.clear_interrupt();
        }
    }

    fn over(&mut self, instance: &mut Instance) {
        if let Some(world) = world_of(instance) {
            world.close_connections();
            // What is not durable now was never promised to be; nobody is left to be told.
            let _lost = world.commit_volume();
        }
    }
}
