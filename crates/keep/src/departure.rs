//! The service moves away.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use dunlin_base::{Digest, PAGE_SIZE, with_causes};
use dunlin_handover::message::{MemoryShape, Text, Versions};
use dunlin_handover::source::{Config, Outcome};
use dunlin_handover::{Keys, Limits, MigrationId};
use dunlin_host::VolumeAhead;
use dunlin_keep_link::{
    ConnectionId, ConnectionState, Left, LeftHow, MigrateOut, OrderId, Phase, Progress as ProgressReport, Report,
    WishId,
};

use crate::error::Failure;
use crate::migrate::{Program, Progress, Shelf, Source, SourceHandle, SourceReport, SourceRun, Stopped, Supply};
use crate::outbox::{Outbox, Post};
use crate::peer::{self, Peer, Proven};
use crate::service::{Service, world_of};
use crate::successor::Successor;
use crate::who::{Who, entropy};

/// How often the node hears how a migration stands.
const INTERVAL: Duration = Duration::from_millis(200);
/// Pages are compressed where no more bytes a second may be sent than this: compressing takes longer than sending
/// otherwise.
const SLOW: u64 = 100 << 20;

/// A departure that is ready to begin.
pub(crate) struct Departure {
    run: SourceRun,
    progress: Progress,
    order: OrderId,
    migration: MigrationId,
    wish: Option<WishId>,
    service: Arc<Service>,
    outbox: Outbox,
    /// In a weak move, what leaves instead of the program.
    successor: Option<Successor>,
}

impl Departure {
    /// Prepares the source while the program runs, but for the moment in which its memories begin to be watched.
    pub(crate) fn new(
        order: &MigrateOut,
        service: &Arc<Service>,
        peer: &Peer,
        who: &Who,
        outbox: &Outbox,
    ) -> Result<(Self, SourceHandle), Failure> {
        service.loaded.check_movable()?;
        let wish = order.wish.filter(|_| !order.dry_run);
        let weakly = wish.is_some_and(|wish| service.around.mobility.leaves(wish));
        let mut successor = weakly.then(|| Successor::new(&service.loaded, &service.spec)).transpose()?;
        let tracker = match &mut successor {
            Some(successor) => successor.tracker()?,
            None => service.watch()?.0,
        };
        let most = service.spec.limits.memory_bytes / PAGE_SIZE as u64;
        let memories = (0..tracker.memories()).map(|index| {
            let pages = tracker.size(index).div_ceil(PAGE_SIZE as u64);
            MemoryShape { pages, maximum: most.max(pages) }
        });
        let memories = memories.collect();
        let migration = order.migration;
        let progress = Progress::default();
        let source = Source {
            config: Config {
                migration,
                record: service.record(),
                module: service.spec.module,
                snapshot_version: dunlin_snapshot::FORMAT_VERSION as u16,
                memories,
                needs: service.needs.iter().map(|need| Text::new(need)).collect(),
                evidence: peer.own_evidence.clone(),
                options: order.options.clone(),
                dry_run: order.dry_run,
                versions: Versions::SUPPORTED,
                keys: Keys { checks: Arc::new(Proven::new(who.keys.checks.clone(), peer)), ..who.keys.clone() },
                limits: Limits::default(),
                guard: peer::guard(),
                entropy: entropy()?,
            },
            module: service.loaded.wasm.clone(),
            tracker,
            volume: service.mounted.as_ref().map(|volume| Box::new(volume.send_ahead()) as Box<dyn Supply>),
            compress: order.options.bandwidth_limit.is_some_and(|limit| limit < SLOW),
            retain: Shelf::sealed(service.states.retained(migration), peer.staging.clone()),
            guard: Box::new(peer::guard),
            progress: progress.clone(),
        };
        let (run, handle) = source.prepare();
        let told = outbox.clone();
        let run = run.watched(Box::new(move |name| {
            told.send(&Report::Phase(Phase { migration, name: name.to_owned() }));
        }));
        let (service, outbox, order) = (service.clone(), outbox.clone(), order.order);
        Ok((Self { run, progress, order, migration, wish, service, outbox, successor }, handle))
    }

    /// Moves the service: what the node is to hear of it, and whether the service is here.
    pub(crate) fn run(self, peer: Peer, post: Post) -> Result<(Left, bool), Failure> {
        let Self { run, progress, order, migration, wish, service, outbox, successor } = self;
        let reports = report_progress(migration, progress.clone(), outbox.clone());
        let mut leaving = Leaving {
            service: &service,
            outbox: &outbox,
            progress: &progress,
            order,
            migration,
            told: false,
            successor,
        };
        let ledger = peer.presenting(post);
        let report = run.run(&mut leaving, peer.stream, Box::new(ledger));
        drop(reports);
        let SourceReport { outcome, statistics, .. } = match report {
            Ok(report) => report,
            Err(crate::migrate::Error::Thread(source)) => {
                return Err(Failure::system("a thread of the migration cannot be started")(source));
            }
        };
        let (how, here) = match outcome {
            Outcome::Moved { confirmed } => {
                if confirmed {
                    service.states.clear_but(None);
                }
                (LeftHow::Moved { confirmed }, false)
            }
            Outcome::Stayed { epoch, cancelled, reason } => {
                service.in_epoch(epoch);
                if let Some(wish) = wish {
                    service.around.mobility.refuse(wish, &reason);
                }
                service.runner.slow(0);
                let _gone = std::fs::remove_file(service.states.retained(migration));
                (LeftHow::Stayed { epoch, cancelled, reason }, true)
            }
            Outcome::DryRun { blocked } => (LeftHow::DryRun(blocked), true),
            Outcome::Returned { epoch } => {
                service.in_epoch(epoch);
                (LeftHow::Returned { epoch }, true)
            }
            // Whatever else there may be, it is not here.
            _ => (LeftHow::Superseded, false),
        };
        let connections = if here { Vec::new() } else { leaving.connections() };
        Ok((Left { order, migration, how, connections, statistics }, here))
    }
}

impl Supply for VolumeAhead {
    fn held(&mut self, digests: Vec<Digest>) {
        Self::held(self, digests);
    }

    fn scan(&mut self) -> Result<u64, String> {
        Self::scan(self).map_err(|error| with_causes(&error))
    }

    fn unsent(&self) -> u64 {
        Self::unsent(self)
    }

    fn batch(&mut self, bytes: usize) -> Result<Vec<Vec<u8>>, String> {
        Self::batch(self, bytes).map_err(|error| with_causes(&error))
    }
}

fn connections(service: &Service) -> Vec<ConnectionState> {
    let state = |carried: dunlin_host::CarriedConnection| ConnectionState {
        id: ConnectionId(carried.id.0),
        ended: carried.ended,
        shut: carried.shut,
    };
    service.inside.connections().into_iter().map(state).collect()
}

/// Tells the node how the migration stands until the sender is dropped.
fn report_progress(migration: MigrationId, progress: Progress, outbox: Outbox) -> Sender<()> {
    let (running, over) = channel::<()>();
    let reporter = thread::Builder::new().name("dunlin-progress".to_owned());
    // Without the thread, nobody hears how it stands; it goes on all the same.
    let _missing = reporter.spawn(move || {
        while over.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            outbox.send(&Report::Progress(ProgressReport { migration, statistics: progress.now() }));
        }
    });
    running
}

/// The program, as the source of a migration sees it.
struct Leaving<'a> {
    service: &'a Service,
    outbox: &'a Outbox,
    progress: &'a Progress,
    order: OrderId,
    migration: MigrationId,
    told: bool,
    successor: Option<Successor>,
}

impl Leaving<'_> {
    /// Those that go on where the service goes. A new instance has none: those of the old one are over.
    fn connections(&self) -> Vec<ConnectionState> {
        if self.successor.is_some() { Vec::new() } else { connections(self.service) }
    }
}

impl Program for Leaving<'_> {
    fn stop(&mut self, stopped: Box<dyn FnOnce(Result<Stopped, String>) + Send>) {
        self.service.runner.stop(stopped);
    }

    fn rest(&mut self) -> Result<Vec<u8>, String> {
        let Some(successor) = &mut self.successor else {
            return self.service.runner.look(|instance, resident| resident.rest(instance))?;
        };
        let host = self.service.runner.look(|instance, _| {
            let world = world_of(instance).ok_or("the program's world is gone")?;
            world.freeze_for_successor().map_err(|error| with_causes(&error))
        });
        successor.rest(host??, self.service.volume_keys())
    }

    fn go_on(&mut self, epoch: u64) {
        self.service.in_epoch(epoch);
        self.service.runner.go_on();
    }

    fn throttle(&mut self, percent: u8) {
        self.service.runner.slow(percent);
    }

    fn fence(&mut self) {
        // The node relays connections from here on, while the destination makes ready to run; in post-copy this is long
        // before the end.
        let lazily = self.service.states.retained(self.migration).exists();
        if !self.told {
            self.told = true;
            self.outbox.send(&Report::Left(Left {
                order: self.order,
                migration: self.migration,
                how: LeftHow::Moved { confirmed: false },
                connections: self.connections(),
                statistics: self.progress.now(),
            }));
        }
        if !lazily {
            self.service.runner.fence();
        }
    }
}
