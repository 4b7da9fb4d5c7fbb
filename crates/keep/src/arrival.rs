//! The service arrives from another keep.

use std::sync::Arc;
use std::time::Duration;

use dunlin_base::{Digest, with_causes};
use dunlin_engine::{Instance, Lazy, Prepared};
use dunlin_handover::destination::{Config, Outcome};
use dunlin_handover::ledger::Record;
use dunlin_handover::message::{Blocked, BlockedCode, Features, Offer, Text, Versions};
use dunlin_handover::{Limits, MigrationId};
use dunlin_host::{Config as WorldConfig, World};
use dunlin_keep_link::{Arrived, ArrivedHow, OrderId, Phase, Report, Spec, Tier};
use dunlin_store::ChunkStore as _;

use crate::boot::{VolumeKeys, decode};
use crate::carrier::LinkCarrier;
use crate::error::Failure;
use crate::keys::Keys;
use crate::migrate::{Destination, DestinationHandle, DestinationRun, IsFresh, Lodging, Shelf, Track};
use crate::mobility::LinkMobility;
use crate::offer::{Around, Given, Loaded, limits};
use crate::orders::Desk;
use crate::outbox::{Outbox, Post};
use crate::peer::{self, Peer};
use crate::service::{Parts, Service};
use crate::trusted::Trusted;
use crate::who::{Who, entropy};

/// In post-copy, a service whose memory does not come for so long goes back to the state that its source retained.
const GIVE_BACK: Duration = Duration::from_secs(20);

/// An arrival that is ready to begin.
pub(crate) struct Arrival {
    run: DestinationRun,
    lodger: Lodger,
}

impl Arrival {
    /// Prepares the destination for a service that its node announced.
    pub(crate) fn new(
        order: OrderId,
        migration: MigrationId,
        spec: Spec,
        given: Given,
        peer: &Peer,
        who: &Who,
        desk: &Arc<Desk>,
    ) -> Result<(Self, DestinationHandle), Failure> {
        let outbox = desk.outbox().clone();
        let destination = Destination {
            config: Config {
                policy_hash: spec.policy,
                peer: Some(peer.key),
                // Pages come on demand where an access to memory can be made to fault.
                features: Features { postcopy: Lazy::is_available() && spec.tier != Tier::Wasmi, zstd: true },
                evidence: peer.own_evidence.clone(),
                versions: Versions::SUPPORTED,
                keys: who.keys.clone(),
                limits: Limits { give_back: Some(GIVE_BACK), ..Limits::default() },
                guard: peer::guard(),
                entropy: entropy()?,
            },
            stage: Shelf::sealed(given.states.staged(migration), peer.staging.clone()),
            guard: Box::new(peer::guard),
        };
        let (run, handle) = destination.prepare();
        let told = outbox.clone();
        let run = run.watched(Box::new(move |name| {
            told.send(&Report::Phase(Phase { migration, name: name.to_owned() }));
        }));
        let carrier = Arc::new(LinkCarrier::arriving(outbox.clone()));
        let mobility = Arc::new(LinkMobility::new(outbox.clone(), who.node.clone()));
        desk.listens(mobility.clone());
        let keys = Keys::new(desk.post(), who.clone(), &spec)?;
        let around = Around { carrier, mobility, trusted: Trusted::new(keys.clone()) };
        let lodger = Lodger {
            order,
            keys,
            migration,
            config: given.config(&spec, &around, true)?,
            given,
            spec,
            around,
            desk: desk.clone(),
            outbox,
            loaded: None,
            decoded: None,
            restored: None,
            track: None,
            lazy: 0,
            service: None,
        };
        Ok((Self { run, lodger }, handle))
    }

    /// Takes the service: what the node is to hear of it, and what the keep does then.
    pub(crate) fn run(self, peer: Peer, post: Post) -> Result<(Arrived, Landed), Failure> {
        let Self { run, mut lodger } = self;
        let ledger = peer.presenting(post);
        let report = run.run(&mut lodger, peer.stream, Box::new(ledger)).map_err(|error| match error {
            crate::migrate::Error::Thread(source) => {
                Failure::system("a thread of the migration cannot be started")(source)
            }
        })?;
        let (how, landed) = match report.outcome {
            Outcome::Live { epoch } => {
                let (service, version) = lodger.settle()?;
                (ArrivedHow::Live { epoch, version, complete: true }, Landed::Here(service))
            }
            Outcome::DryRun => (ArrivedHow::DryRun, Landed::Waiting),
            Outcome::Refused(blocked) => (ArrivedHow::Refused(blocked), Landed::Waiting),
            Outcome::Failed(why) => (ArrivedHow::Failed(why), Landed::Over),
            Outcome::GaveBack => (ArrivedHow::GaveBack, Landed::Over),
            // Nothing is decided, or nothing that this program knows.
            _ => (ArrivedHow::Parked, Landed::Over),
        };
        let Lodger { order, migration, .. } = lodger;
        Ok((Arrived { order, migration, how }, landed))
    }
}

/// What became of an arrival.
#[derive(Debug)]
pub(crate) enum Landed {
    /// The service runs here, with all its memory.
    Here(Arc<Service>),
    /// It does not, and the keep can take another order.
    Waiting,
    /// It does not, and this instance is of no more use.
    Over,
}

/// The place for the service.
struct Lodger {
    order: OrderId,
    migration: MigrationId,
    spec: Spec,
    given: Given,
    config: WorldConfig,
    around: Around,
    keys: Arc<Keys>,
    desk: Arc<Desk>,
    outbox: Outbox,
    loaded: Option<Loaded>,
    /// The state besides memory, which is asked for twice while the program stands.
    decoded: Option<(dunlin_snapshot::State, VolumeKeys)>,
    restored: Option<Instance>,
    /// The thread on which it will run.
    track: Option<Track>,
    /// Pages that come after the switch.
    lazy: u64,
    service: Option<Arc<Service>>,
}

impl Lodger {
    /// All of the state is here and committed: it gets its name, and whatever was here before goes.
    fn settle(&self) -> Result<(Arc<Service>, u64), Failure> {
        let Some(service) = &self.service else {
            return Err(Failure::Over("it ended while it arrived".to_owned()));
        };
        let record = service.record();
        let states = &self.given.states;
        let path = states.arrived(self.migration, record.version, &record.state_hash);
        let named = states.rename(&states.staged(self.migration), &path);
        named.map_err(Failure::system("the state that arrived cannot be renamed"))?;
        states.clear_but(Some(&path));
        service.loaded.unstored.store();
        Ok((service.clone(), record.version))
    }
}

impl Lodging for Lodger {
    fn judge(&mut self, offer: &Offer) -> (Vec<Blocked>, bool) {
        let mut reasons = Vec::new();
        let mut block = |code, text: String| reasons.push(Blocked { code, text: Text::new(&text) });
        if offer.reading.record.service != self.spec.service {
            block(BlockedCode::NotHolder, "another service was announced to this keep".to_owned());
        }
        if offer.module != self.spec.module {
            block(BlockedCode::Module, format!("the module {} was announced, not {}", self.spec.module, offer.module));
        }
        if u32::from(offer.snapshot_version) != dunlin_snapshot::FORMAT_VERSION {
            let ours = dunlin_snapshot::FORMAT_VERSION;
            block(
                BlockedCode::SnapshotVersion,
                format!("this keep reads version {ours}, not {}", offer.snapshot_version),
            );
        }
        let limit = self.spec.limits.memory_bytes;
        for (index, memory) in offer.memories.iter().enumerate() {
            let bytes = memory.pages.saturating_mul(dunlin_base::PAGE_SIZE as u64);
            if bytes > limit {
                block(BlockedCode::Resources, format!("memory {index} has {bytes} bytes, the limit here is {limit}"));
            }
        }
        let needs: Vec<String> = offer.needs.iter().map(ToString::to_string).collect();
        for lack in self.given.lacks(&needs) {
            block(BlockedCode::Needs, lack);
        }
        (reasons, self.given.module.is_none())
    }

    fn prepare(&mut self, digest: &Digest, module: Option<Vec<u8>>) -> Result<Prepared, String> {
        if *digest != self.spec.module {
            return Err(format!("the module {} was announced, not {digest}", self.spec.module));
        }
        let loaded = match (module, self.given.module.take()) {
            (Some(wasm), _) => {
                let loaded = Loaded::new(wasm, &self.spec, &self.given.states).map_err(|failure| failure.text())?;
                // A keep that starts again here needs it.
                let stored = self.given.states.store_module(&loaded.wasm);
                stored.map_err(|error| format!("the module cannot be stored: {error}"))?;
                loaded
            }
            (None, Some(file)) => {
                Loaded::from_file(file, &self.spec, &self.given.states).map_err(|failure| failure.text())?
            }
            (None, None) => return Err("the module did not come".to_owned()),
        };
        loaded.check_movable().map_err(|failure| failure.text())?;
        let world = World::new(WorldConfig::new()).map_err(|error| with_causes(&error))?;
        let prepared = Prepared::new(&loaded.code, Box::new(world), limits(&self.spec));
        let prepared = prepared.map_err(|error| with_causes(&error))?;
        self.track = Some(Track::new(loaded.code.engine()).map_err(|error| with_causes(&error))?);
        self.loaded = Some(loaded);
        Ok(prepared)
    }

    fn volume_held(&mut self) -> Result<Vec<Digest>, String> {
        let Some(volume) = self.given.volume() else { return Ok(Vec::new()) };
        let store = volume.store().map_err(|failure| failure.text())?;
        store.list().map_err(|error| with_causes(&error))
    }

    fn store_volume(&mut self, chunks: &[Vec<u8>]) -> Result<(), String> {
        let volume = self.given.volume().ok_or("the service has no private volume here")?;
        let store = volume.store().map_err(|failure| failure.text())?;
        // A chunk is known by its bytes, whoever sent it.
        chunks.iter().try_for_each(|chunk| store.put(&Digest::of(chunk), chunk)).map_err(|error| with_causes(&error))
    }

    fn sync_volume(&mut self) -> Result<(), String> {
        let Some(volume) = self.given.volume() else { return Ok(()) };
        let store = volume.store().map_err(|failure| failure.text())?;
        store.sync().map_err(|error| with_causes(&error))
    }

    fn sizes(&mut self, rest: &[u8]) -> Result<Vec<u64>, String> {
        let decoded = self.state(rest)?;
        let sizes = decoded.0.memories.iter().map(|memory| memory.size).collect();
        self.decoded = Some(decoded);
        Ok(sizes)
    }

    fn restore(&mut self, prepared: Prepared, rest: &[u8]) -> Result<(), String> {
        let (state, volume_keys) = self.decoded.take().map_or_else(|| self.state(rest), Ok)?;
        if let Some(volume) = self.given.volume() {
            volume_keys.give(&volume.seal)?;
        }
        let world = World::thaw(&state.host, self.config.clone()).map_err(|error| with_causes(&error))?;
        self.restored = Some(prepared.finish(&state, Box::new(world)).map_err(|error| with_causes(&error))?);
        Ok(())
    }

    fn expect(&mut self, pages: u64) {
        self.lazy = pages;
    }

    fn run(&mut self, record: &Record) -> Result<(), String> {
        let instance = self.restored.take().ok_or("nothing was restored")?;
        let loaded = self.loaded.clone().ok_or("nothing was prepared")?;
        self.around.carrier.announce().map_err(|error| format!("the node is gone: {error}"))?;
        let parts = Parts {
            spec: self.spec.clone(),
            loaded,
            states: self.given.states.clone(),
            needs: self.given.needs(),
            around: self.around.clone(),
            keys: self.keys.clone(),
            volume: self.given.volume(),
            track: self.track.take(),
        };
        let service = Service::launch(parts, instance, true, *record).map_err(|failure| failure.text())?;
        let service = Arc::new(service);
        self.service = Some(service.clone());
        self.desk.hold(service);
        if self.lazy > 0 {
            let how = ArrivedHow::Live { epoch: record.epoch, version: record.version, complete: false };
            self.outbox.send(&Report::Arrived(Arrived { order: self.order, migration: self.migration, how }));
        }
        Ok(())
    }

    fn pause(&mut self) {
        if let Some(service) = &self.service {
            service.runner.pause();
        }
    }

    fn unpause(&mut self) {
        if let Some(service) = &self.service {
            service.runner.unpause();
        }
    }

    fn is_fresh(&self) -> IsFresh {
        let code = self.loaded.as_ref().map(|loaded| loaded.code.clone());
        Box::new(move |memory, number, page| code.as_ref().is_some_and(|code| code.is_fresh(memory, number, page)))
    }

    fn fence(&mut self) {
        if let Some(service) = &self.service {
            service.runner.fence();
        }
    }
}

impl Lodger {
    fn state(&self, rest: &[u8]) -> Result<(dunlin_snapshot::State, VolumeKeys), String> {
        let map = self.loaded.as_ref().and_then(|loaded| loaded.code.map());
        decode(rest, map.ok_or("nothing was prepared")?)
    }
}
