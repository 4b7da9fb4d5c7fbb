//! What a host offers a program.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dunlin_base::Digest;
use dunlin_store::{Plain, Sealing, Store};

use crate::carrier::Carrier;
use crate::mobility::Mobility;
use crate::trust::Trust;

/// What a host offers a program: built up by its methods, then given to [`crate::World::new`] or
/// [`crate::World::thaw`].
///
/// [`Config::new`] offers nothing: no arguments, no directories, an empty input, and output that goes nowhere.
#[derive(Debug, Clone, Default)]
pub struct Config {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) volume: Option<PrivateVolume>,
    pub(crate) listen: Vec<Listen>,
    pub(crate) stdin: Input,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) trust: Option<Arc<dyn Trust>>,
    pub(crate) limits: Limits,
    pub(crate) source: Source,
    pub(crate) connections: Connections,
    pub(crate) carrier: Option<Arc<dyn Carrier>>,
    pub(crate) mobility: Option<Arc<dyn Mobility>>,
}

/// Where a listener comes from.
#[derive(Debug, Clone)]
pub(crate) enum Listen {
    /// It is bound to this address.
    Address(String),
    /// It is there.
    Bound(Arc<OwnedFd>),
}

/// A directory of the host that the program sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is on the host.
    pub host: PathBuf,
    /// Where the program sees it. After a move, the mount with the same path takes its place.
    pub guest: String,
    /// Whether the program may change anything in it. Attempts get `EPERM` otherwise.
    pub writable: bool,
}

/// A program's private volume: a file system of its own that moves with it.
#[derive(Debug, Clone)]
pub struct PrivateVolume {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) guest: Option<String>,
    pub(crate) bytes: Option<u64>,
    pub(crate) sealing: Arc<dyn Sealing>,
    pub(crate) carry: Carry,
    pub(crate) rewind: bool,
    pub(crate) commit_every: Option<Duration>,
    pub(crate) complete: bool,
}

/// Which chunks of a private volume a freeze puts into its sections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Carry {
    /// All: whoever thaws needs nothing else.
    #[default]
    All,
    /// All but these, which the other side has.
    Without(Arc<BTreeSet<Digest>>),
    /// None: whoever thaws has the same store, or gets the chunks by another way.
    Nothing,
}

impl PrivateVolume {
    /// Where the program sees its volume unless something else is said.
    pub const GUEST: &str = "/data";

    /// The volume that `store` keeps; a new one, if it keeps none.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            guest: None,
            bytes: None,
            sealing: Arc::new(Plain),
            carry: Carry::default(),
            rewind: false,
            commit_every: None,
            complete: false,
        }
    }

    /// Sets where the program sees it. A thawed program sees it where it did; another path is refused.
    #[must_use]
    pub fn guest(mut self, guest: impl Into<String>) -> Self {
        self.guest = Some(guest.into());
        self
    }

    /// Limits what it holds; `ENOSPC` beyond. There may be a file for every 4 KiB.
    #[must_use]
    pub fn limit(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// Sets what chunks pass through on their way to the store and back.
    #[must_use]
    pub fn sealing(mut self, sealing: Arc<dyn Sealing>) -> Self {
        self.sealing = sealing;
        self
    }

    /// Sets which chunks a freeze puts into its sections.
    #[must_use]
    pub fn carry(mut self, carry: Carry) -> Self {
        self.carry = carry;
        self
    }

    /// Lets a program be thawed although the store's volume has changed since: those changes are lost with the next
    /// commit.
    #[must_use]
    pub fn rewind(mut self, rewind: bool) -> Self {
        self.rewind = rewind;
        self
    }

    /// Whoever brings a state has put every chunk that it does not carry into the store, one by one: a thaw looks through what
    /// the state carries, and takes no longer for a larger volume. Otherwise it looks for everything that the volume needs.
    #[must_use]
    pub fn complete(mut self, complete: bool) -> Self {
        self.complete = complete;
        self
    }

    /// Has changes committed after this time at the latest, also if the program asks for nothing to be durable.
    #[must_use]
    pub fn commit_every(mut self, time: Duration) -> Self {
        self.commit_every = Some(time);
        self
    }
}

/// Where a program's standard input comes from.
#[derive(Debug, Clone, Default)]
pub enum Input {
    /// It is at its end from the beginning.
    #[default]
    Null,
    /// From this process's own standard input.
    Inherit,
    /// These bytes and then the end. What has not been read travels with the program.
    Bytes(Vec<u8>),
    /// From a file, pipe or socket.
    Fd(Arc<OwnedFd>),
}

/// Where a program's standard output or error goes.
#[derive(Debug, Clone, Default)]
pub enum Output {
    /// Nowhere.
    #[default]
    Null,
    /// To this process's own.
    Inherit,
    /// To a buffer.
    Capture(Capture),
    /// To a file, pipe or socket.
    Fd(Arc<OwnedFd>),
}

/// A buffer that collects output. Clones are the same buffer.
#[derive(Debug, Clone, Default)]
pub struct Capture(Arc<Mutex<Vec<u8>>>);

impl Capture {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// What has been written so far.
    pub fn contents(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn append(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }
}

/// How much a program may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open descriptors, counting the standard streams. `EMFILE` beyond.
    pub descriptors: u32,
    /// Bytes of standard output and error together, over the program's whole life; `ENOSPC` beyond.
    pub output_bytes: Option<u64>,
    /// The largest size in bytes to which the program may make a file grow; `EFBIG` beyond.
    pub file_bytes: Option<u64>,
    /// Subscriptions of one `poll_oneoff`. `ENOMEM` beyond.
    pub subscriptions: u32,
    /// Entries of a directory that is listed. `ENOMEM` beyond.
    pub directory_entries: u32,
    /// Bytes of one deleted file that is still open, or of one connection's unread data, that a snapshot may
    /// carry. It cannot be taken beyond.
    pub carried_bytes: u64,
    /// Bytes of the private volume's chunks that a snapshot may carry. It cannot be taken beyond.
    pub volume_contents: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            descriptors: 1024,
            output_bytes: None,
            file_bytes: None,
            subscriptions: 4096,
            directory_entries: 1 << 20,
            carried_bytes: 64 << 20,
            volume_contents: 900 << 20,
        }
    }
}

/// Where time and random numbers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// From the system.
    #[default]
    System,
    /// INSECURE, for tests and comparisons only: random numbers follow from the seed, and clocks advance by a fixed
    /// step with each reading, so that two runs of a program see the same, moved or not.
    Deterministic {
        /// The seed.
        seed: u64,
    },
}

impl Source {
    /// What it is called in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::System => "real",
            Self::Deterministic { .. } => "deterministic",
        }
    }
}

/// What becomes of open connections when a program is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Connections {
    /// It cannot be frozen while it has connections.
    #[default]
    Refuse,
    /// They end: what has arrived can still be read after the move, then comes `ECONNRESET`; writes get `EPIPE`.
    Close,
    /// They go on, by way of the [`Carrier`]; without one this is [`Connections::Close`].
    Carry,
}

impl Config {
    /// A configuration that offers nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an argument; the first one is the program's name. A thawed program keeps those it began with.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds an environment variable. A thawed program keeps those it began with.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Offers a directory. Directories get the descriptors from 3 on, in the order in which they are added.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// Gives the program a private volume. Its descriptor follows those of the directories.
    #[must_use]
    pub fn volume(mut self, volume: PrivateVolume) -> Self {
        self.volume = Some(volume);
        self
    }

    /// Offers a listener for TCP connections on `address` (`HOST:PORT`). Listeners get the descriptors that follow
    /// those of the directories, because C libraries stop looking for directories at the first other descriptor.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen.push(Listen::Address(address.into()));
        self
    }

    /// Offers a listener that somebody else has bound: a listening stream socket, which may be shared with others.
    #[must_use]
    pub fn listener(mut self, socket: Arc<OwnedFd>) -> Self {
        self.listen.push(Listen::Bound(socket));
        self
    }

    /// Sets where standard input comes from.
    #[must_use]
    pub fn stdin(mut self, input: Input) -> Self {
        self.stdin = input;
        self
    }

    /// Sets where standard output goes.
    #[must_use]
    pub fn stdout(mut self, output: Output) -> Self {
        self.stdout = output;
        self
    }

    /// Sets where standard error goes.
    #[must_use]
    pub fn stderr(mut self, output: Output) -> Self {
        self.stderr = output;
        self
    }

    /// Uses this process's own standard streams.
    #[must_use]
    pub fn inherit_stdio(self) -> Self {
        self.stdin(Input::Inherit).stdout(Output::Inherit).stderr(Output::Inherit)
    }

    /// Sets the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets where time and random numbers come from.
    #[must_use]
    pub fn source(mut self, source: Source) -> Self {
        self.source = source;
        self
    }

    /// Sets what becomes of open connections when the program is frozen.
    #[must_use]
    pub fn connections(mut self, connections: Connections) -> Self {
        self.connections = connections;
        self
    }

    /// Offers trusted surroundings.
    #[must_use]
    pub fn trust(mut self, trust: Arc<dyn Trust>) -> Self {
        self.trust = Some(trust);
        self
    }

    /// Has connections carried on when the program moves.
    #[must_use]
    pub fn carrier(mut self, carrier: Arc<dyn Carrier>) -> Self {
        self.connections = Connections::Carry;
        self.carrier = Some(carrier);
        self
    }

    /// Lets the program move itself.
    #[must_use]
    pub fn mobility(mut self, mobility: Arc<dyn Mobility>) -> Self {
        self.mobility = Some(mobility);
        self
    }
}
