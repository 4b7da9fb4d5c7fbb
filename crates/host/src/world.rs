//! A program's world: live state, and its way into a snapshot and back.

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dunlin_base::{Value, ValueType};
use dunlin_engine::{Flow, Host};
use dunlin_snapshot::HostSection;

use crate::carrier::{CarriedConnection, Carrier};
use crate::config::{Carry, Config, Connections, Limits, Source};
use crate::error::Error;
use crate::interface::Interface;
use crate::mobility::{self, LuggageV1, Mobility, Wishing};
use crate::preview1::args::Args;
use crate::preview1::clocks::Clocks;
use crate::preview1::descriptors::Table;
use crate::preview1::files::volume_ahead::VolumeHandle;
use crate::preview1::files::{Files, volume_state};
use crate::preview1::poll::PollV1;
use crate::preview1::random::Random;
use crate::preview1::streams::Streams;
use crate::preview1::{self, sockets};
use crate::sections::{Frozen, Sections};
use crate::trust::{self, Trusted};
use crate::usage::UsageV1;
use crate::wait::Waker;

/// The world around one program.
#[derive(Debug)]
pub struct World {
    pub(crate) args: Args,
    pub(crate) clocks: Clocks,
    pub(crate) random: Random,
    pub(crate) files: Files,
    pub(crate) streams: Streams,
    pub(crate) table: Table,
    pub(crate) pending_poll: Option<PollV1>,
    pub(crate) limits: Limits,
    pub(crate) connections: Connections,
    pub(crate) carrier: Option<Arc<dyn Carrier>>,
    pub(crate) waker: Waker,
    /// Only if it is counted.
    pub(crate) usage: Option<UsageV1>,
    pub(crate) mobility: Option<Arc<dyn Mobility>>,
    pub(crate) wishing: Wishing,
    pub(crate) luggage: Option<LuggageV1>,
    pub(crate) trust: Trusted,
}

impl World {
    /// A world for a program that begins.
    ///
    /// # Errors
    ///
    /// When a directory cannot be opened, an address cannot be listened on, an argument contains a zero byte, or the
    /// system gives no random bytes.
    pub fn new(mut config: Config) -> Result<Self, Error> {
        let waker = Waker::new().map_err(Error::Waker)?;
        let mut table = Table::new(config.limits.descriptors);
        let args = Args::new(mem::take(&mut config.args), mem::take(&mut config.env))?;
        let [stdout, stderr] = [&mut config.stdout, &mut config.stderr].map(mem::take);
        let streams = Streams::new(mem::take(&mut config.stdin), stdout, stderr, &mut table)?;
        let files = Files::new(&config, &mut table)?;
        sockets::listen(&config.listen, &mut table)?;
        Ok(Self {
            args,
            clocks: Clocks::new(config.source),
            random: Random::new(config.source)?,
            files,
            streams,
            table,
            pending_poll: None,
            limits: config.limits,
            connections: config.connections,
            carrier: config.carrier,
            waker,
            usage: None,
            mobility: config.mobility,
            wishing: Wishing::No,
            luggage: None,
            trust: Trusted::new(config.trust),
        })
    }

    /// The state of this world, as sections for a snapshot, ascending by kind. Equal states give equal bytes.
    ///
    /// The world stays as it is and can go on, unless the program goes on elsewhere.
    ///
    /// # Errors
    ///
    /// When something that is open cannot move: a connection under [`Connections::Refuse`], a deleted directory, a
    /// file that can no longer be found under its mount.
    pub fn freeze(&mut self) -> Result<Vec<HostSection>, Error> {
        let mut sections = vec![
            self.args.freeze(),
            self.clocks.freeze(),
            self.random.freeze(),
            self.files.freeze(&self.table, &self.limits)?,
            self.streams.freeze(&self.table),
        ];
        sections.extend(self.pending_poll.as_ref().map(Frozen::section));
        sections.extend(sockets::freeze(&mut self.table, self.connections, &self.limits)?);
        sections.extend(self.files.freeze_volume(&self.table, &self.limits)?);
        sections.extend(sockets::freeze_carried(&self.table, self.connections, &self.limits)?);
        sections.extend(self.usage.as_ref().map(Frozen::section));
        sections.extend(self.wishing.freeze().as_ref().map(Frozen::section));
        sections.extend(self.trust.freeze()?.as_ref().map(Frozen::section));
        sections.extend(self.luggage.as_ref().map(Frozen::section));
        Ok(sections)
    }

    /// The same for the world of a new instance of the program, which goes on where this one wished to be, with what it
    /// packed. Only what a program finds open is open there; files and connections that this one opened are not.
    ///
    /// # Errors
    ///
    /// As [`World::freeze`], and [`Error::NotLeaving`] unless the program waits for a weak move that goes on.
    pub fn freeze_for_successor(&mut self) -> Result<Vec<HostSection>, Error> {
        let luggage = self.wishing.luggage().cloned().ok_or(Error::NotLeaving)?;
        let aside = self.table.set_aside();
        let (poll, before) = (self.pending_poll.take(), self.luggage.replace(luggage));
        let sections = self.freeze();
        self.luggage = before;
        self.pending_poll = poll;
        self.table.put_back(aside);
        sections
    }

    /// A world that continues from a snapshot's `sections`, on what `config` offers.
    ///
    /// Of `config`, the arguments, the environment and [`crate::Input::Bytes`] are not used: those are state. Mounts
    /// that the program did not have are not added.
    ///
    /// # Errors
    ///
    /// When the sections are damaged or from a newer version, and [`Error::Missing`] with everything that the program
    /// has open and this host lacks.
    pub fn thaw(sections: &[HostSection], config: Config) -> Result<Self, Error> {
        let sections = Sections::new(sections)?;
        let waker = Waker::new().map_err(Error::Waker)?;
        let mut table = Table::new(config.limits.descriptors);
        let mut missing = Vec::new();
        let args = Args::thaw(&sections)?;
        let clocks = Clocks::thaw(&sections, config.source)?;
        let random = Random::thaw(&sections, config.source)?;
        let streams = Streams::thaw(&sections, config.stdin, config.stdout, config.stderr, &mut table)?;
        let pending_poll = sections.optional()?;
        let usage = sections.optional()?;
        let wishing = Wishing::thaw(sections.optional()?);
        let luggage = sections.optional()?;
        let volume = volume_state::arriving(&sections, config.volume.as_ref(), &mut missing)?;
        let mut files = Files::thaw(&sections, &config.mounts, &config.limits, &mut table, &mut missing)?;
        sockets::thaw(&sections, &config.listen, &mut table, &mut missing)?;
        let arriving = sockets::arriving(&sections)?;
        if !missing.is_empty() {
            return Err(Error::Missing { missing });
        }
        let trust = Trusted::thaw(sections.optional()?, config.trust)?;
        files.thaw_volume(volume, config.source, &config.limits, &mut table)?;
        // Last: nothing is asked of the carrier for a world that cannot be made.
        sockets::thaw_carried(arriving, config.carrier.as_ref(), &mut table)?;
        Ok(Self {
            args,
            clocks,
            random,
            files,
            streams,
            table,
            pending_poll,
            limits: config.limits,
            connections: config.connections,
            carrier: config.carrier,
            waker,
            usage,
            mobility: config.mobility,
            wishing,
            luggage,
            trust,
        })
    }

    /// What ends a blocking call: to be called when a stop is requested. The call that blocks, and every later one
    /// that would, then returns [`Flow::Reissue`] at once.
    pub fn interrupter(&self) -> impl Fn() + Send + Sync + Clone + 'static {
        let waker = self.waker.clone();
        move || waker.interrupt()
    }

    /// Takes back all requests of [`World::interrupter`], for a program that goes on in this world after all.
    pub fn clear_interrupt(&mut self) {
        self.waker.clear();
    }

    /// The connections that a [`World::freeze`] at this moment would carry.
    pub fn carried(&self) -> Vec<CarriedConnection> {
        sockets::carried_connections(&self.table, self.connections)
    }

    /// Ends all connections of a program that is over. A program that goes on elsewhere has its world dropped without
    /// this.
    pub fn close_connections(&mut self) {
        sockets::close_all(&mut self.table);
    }

    /// Makes durable what a program that is over has left in its private volume. A program that goes on elsewhere has
    /// its world dropped without this.
    ///
    /// # Errors
    /// [`Error::Volume`]: then what was made durable last is there.
    pub fn commit_volume(&mut self) -> Result<(), Error> {
        self.files.commit_volume()
    }

    /// The first failure of the private volume that was not the program's doing, with its causes. The program itself was
    /// told `EIO`.
    pub fn volume_trouble(&self) -> Option<String> {
        self.files.volume_trouble()
    }

    /// The private volume, for whoever moves the program: most of it can go ahead of a freeze, while the program runs.
    pub fn volume(&self) -> Option<VolumeHandle> {
        self.files.volume()
    }

    /// Sets which chunks of the private volume the next freeze puts into its sections.
    pub fn carry(&mut self, carry: Carry) {
        if let Some(volume) = self.files.volume_mut() {
            volume.carry = carry;
        }
    }

    /// The processor time that the program has used since it is counted; `None` while it is not. It goes on to count
    /// after a move.
    pub fn cpu(&self) -> Option<Duration> {
        self.usage.as_ref().map(UsageV1::cpu)
    }

    /// Counts processor time that the program has used; from the first call on it is state. Measuring it, and ending a
    /// program that has used too much, is the business of whoever runs it.
    pub fn add_cpu(&mut self, time: Duration) {
        self.usage.get_or_insert_default().add_cpu(time);
    }

    /// The first refusal or failure of the trusted surroundings. The program was told an error number.
    pub fn trust_trouble(&self) -> Option<&str> {
        self.trust.trouble.as_deref()
    }

    /// The addresses of the listeners that the program has open, in the order of their descriptors.
    pub fn listening(&self) -> Vec<SocketAddr> {
        sockets::listening(&self.table)
    }

    /// Whether time and random numbers are [`Source::Deterministic`], and hence insecure.
    pub fn is_deterministic(&self) -> bool {
        matches!(self.random.source(), Source::Deterministic { .. })
    }
}

/// What programs can import beside preview 1.
static INTERFACES: [&Interface; 2] = [&trust::INTERFACE, &mobility::INTERFACE];

impl Host for World {
    fn resolve(&self, module: &str, name: &str, params: &[ValueType], results: &[ValueType]) -> Option<u32> {
        let ours = || INTERFACES.iter().find_map(|interface| interface.resolve(module, name, params, results));
        preview1::resolve(module, name, params, results).or_else(ours)
    }

    fn call(&mut self, function: u32, memory: &mut [u8], args: &[Value], results: &mut [Value]) -> Flow {
        for interface in INTERFACES {
            if let Some(flow) = interface.call(self, function, memory, args, results) {
                return flow;
            }
        }
        preview1::call(self, function, memory, args, results)
    }
}
