//! A checkpoint: the state of a running service goes to stable storage and into the ledger.
//!
//! Most of memory is copied while the program runs, as before a move; it stands while what it changed meanwhile is copied.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dunlin_base::{Digest, with_causes};
use dunlin_engine::{Instance, Tracker};
use dunlin_handover::ledger::{Record, Status};
use dunlin_host::Carry;

use crate::error::Failure;
use crate::migrate::outgoing::Outgoing;
use crate::migrate::stage::{Order, Stager};
use crate::migrate::{Resident, Shelf};
use crate::office::{Applied, Office};
use crate::service::{Service, world_of};
use crate::states::States;

/// Most rounds while the program runs. A program that changes as much as is copied gains nothing by more.
const ROUNDS: u32 = 3;
/// So few changed pages are copied while it stands.
const FEW: u64 = 256;

/// Which kind of checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// With all that is in the volume, instead of with a root that the volume here keeps.
    pub(crate) whole: bool,
    /// The program is not to run on.
    pub(crate) stay: bool,
}

/// A checkpoint that was committed.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) version: u64,
    pub(crate) state_hash: Digest,
    pub(crate) bytes: u64,
    /// For how long the program stood, not counted what it took to reach a safepoint.
    pub(crate) pause: Duration,
}

/// Memory on its way to storage.
struct Copying {
    outgoing: Outgoing,
    stager: Stager,
}

impl Service {
    /// Puts the state on stable storage and into the ledger. The program goes on as soon as its state is copied, unless
    /// it is to stay stopped; then it goes on only if this fails.
    pub(crate) fn checkpoint(&self, office: &mut Office, kind: Kind) -> Result<Committed, Failure> {
        let Kind { whole, stay } = kind;
        self.loaded.check_movable()?;
        let module = self.loaded.code.map().map(|map| map.module);
        let module = module.ok_or_else(|| Failure::NotMovable("it has no map".to_owned()))?;
        let record = self.record();
        let local = !whole && self.mounted.is_some();
        let version = record.version.saturating_add(1);
        let unfinished = self.states.unfinished();
        let shelf = Shelf::sealed(&unfinished, self.keys.objects(record.epoch)?);
        let (tracker, watching) = self.watch()?;
        let mut copying = Copying::new(tracker, shelf)?;
        copying.while_it_runs().map_err(Failure::Busy)?;
        self.runner.stand().map_err(Failure::Over)?;
        let stands = Instant::now();
        let copied = self
            .runner
            .look(move |instance, resident| rest(instance, resident, whole))
            .and_then(|rest| copying.last(&module, rest?))
            .map_err(Failure::Busy);
        if !stay {
            self.runner.go_on();
        }
        let pause = watching + stands.elapsed();
        let committed = copied
            .and_then(|state_hash| {
                let path = if local { States::local } else { States::state };
                self.store(copying.stager, state_hash, path(&self.states, version, &state_hash), &unfinished)
            })
            .and_then(|(state_hash, path, bytes)| {
                self.commit(office, &record, state_hash, &path, local)?;
                Ok(Committed { version, state_hash, bytes, pause })
            });
        if committed.is_err() && stay {
            self.runner.go_on();
        }
        committed
    }

    fn store(
        &self,
        stager: Stager,
        state_hash: Digest,
        path: PathBuf,
        unfinished: &Path,
    ) -> Result<(Digest, PathBuf, u64), Failure> {
        let failed = || Failure::system("the state cannot be written");
        let synced = Stager::synced(&stager.sync());
        drop(stager);
        synced.map_err(|why| failed()(std::io::Error::other(why)))?;
        self.states.rename(unfinished, &path).map_err(failed())?;
        let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        Ok((state_hash, path, bytes))
    }

    /// Only after the state is on stable storage.
    fn commit(
        &self,
        office: &mut Office,
        record: &Record,
        state_hash: Digest,
        path: &Path,
        local: bool,
    ) -> Result<(), Failure> {
        let holder = office.who().keys.holder.key();
        let now = match office.commit(record, state_hash) {
            Applied::Yes(receipt) => receipt.record,
            // Nobody signs a refusal, and silence says nothing: what counts is a fresh reading.
            Applied::No(_) | Applied::Unknown => office.read()?.record,
        };
        if now.status != Status::Held || !now.is_held_by(holder, record.epoch) {
            self.runner.fence();
            return Err(Failure::NotHolder("somebody else took the service; the program stands".to_owned()));
        }
        if now.state_hash != state_hash || now.version != record.version.saturating_add(1) {
            return Err(Failure::Ledger("it has not taken the checkpoint"));
        }
        self.is_at(now);
        self.states.clear_but(Some(path));
        // What an earlier state needs of the volume can go.
        let _sooner_or_later = self.mounted.as_ref().map(|volume| volume.was_committed(local));
        Ok(())
    }
}

/// The state besides memory. Without the contents of its volume, the volume keeps what the state needs from here on.
fn rest(instance: &mut Instance, resident: &mut dyn Resident, whole: bool) -> Result<Vec<u8>, String> {
    let Some(volume) = world_of(instance).and_then(|world| world.volume()).filter(|_| !whole) else {
        return resident.rest(instance);
    };
    let carry = |instance: &mut Instance, carry| {
        if let Some(world) = world_of(instance) {
            world.carry(carry);
        }
    };
    carry(instance, Carry::Nothing);
    let rest = resident.rest(instance);
    carry(instance, Carry::All);
    volume.keep_latest().map_err(|error| with_causes(&error))?;
    rest
}

impl Copying {
    fn new(tracker: Tracker, shelf: Shelf) -> Result<Self, Failure> {
        let mut outgoing = Outgoing::new(tracker, false);
        outgoing.begin_keeping();
        let stager = Stager::create(shelf).map_err(|error| Failure::Busy(with_causes(&error)))?;
        Ok(Self { outgoing, stager })
    }

    /// Copies what a fresh instance does not have, and then what was changed meanwhile, until that is little.
    fn while_it_runs(&mut self) -> Result<(), String> {
        // Where every page must be read to find out what changed, the last round costs as much as all of it.
        if !self.outgoing.reads_freely() {
            return Ok(());
        }
        for _ in 0..ROUNDS {
            self.outgoing.scan()?;
            let changed = self.outgoing.stale();
            self.copy();
            self.outgoing.settle();
            Stager::synced(&self.stager.sync())?;
            if changed <= FEW {
                break;
            }
        }
        Ok(())
    }

    /// The program stands: the last of its memory, and everything else. The digest of the whole state.
    fn last(&mut self, module: &Digest, rest: Vec<u8>) -> Result<Digest, String> {
        self.outgoing.scan()?;
        self.copy();
        let state_hash = self.outgoing.state_digest(module, &rest);
        self.stager.put(Order::Rest(rest));
        Ok(state_hash)
    }

    fn copy(&mut self) {
        let Self { outgoing, stager } = self;
        outgoing.keep(&mut |pages| stager.put(Order::Pages(pages)));
    }
}
