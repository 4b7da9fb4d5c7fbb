//! A node for tests: starts keeps as processes, carries their calls to a ledger, and relays between them.
#![allow(dead_code, unreachable_pub, reason = "a part of several test programs, of which each uses some")]

pub(crate) mod canary;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek as _, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dunlin_attested::{Judge, policy_in_force};
use dunlin_base::Digest;
use dunlin_broker::{Broker, ReleaseLog, Roots, SecretRule, Surroundings, Vault, signing_key};
use dunlin_handover::converge::{Mode, Options, TimeoutAction};
use dunlin_handover::ledger::{
    Candidate, Ledger as _, MemoryLedger, Operation, Reading, Record, Recovery, Request, Signer as _,
};
use dunlin_handover::{Entropy, LedgerAnswer, LedgerQuery, LedgerReply, MigrationId, Nonce, OperationId, ServiceId};
use dunlin_identity::{Issuer, PlatformKey, PrivateKey, PublicKey, Verifier};
use dunlin_keep_link::{
    About, Arrived, ArrivedHow, BrokerCall, Call, Channel, Connected, ConnectionId, Ended, Identity, Left, LeftHow,
    Limits, MigrateIn, MigrateOut, Offered, Order, OrderId, Origin, Packet, Ready, Received, Report, Role,
    SignedPolicy, Spec, Start, StatusReport, Stop, StopHow, TakeCheckpoint, Versions, Witness,
};

/// Longest time that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long certificates hold.
const DAY: Duration = Duration::from_secs(86_400);

/// What the owner calls `greeting`.
pub(crate) const SECRET: &[u8] = b"a secret";

pub(crate) const SERVICE: ServiceId = ServiceId([7; 16]);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The ledger, the owner, and a directory: what all nodes of a test share.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) ledger: Arc<Mutex<MemoryLedger>>,
    ledger_key: dunlin_handover::Key,
    policy: Digest,
    signed_policy: Option<SignedPolicy>,
    broker: Arc<KeyBroker>,
    owner: PrivateKey,
    /// Who operates all machines.
    provider: Issuer,
    pub(crate) directory: PathBuf,
    /// What its node does to what the ledger says.
    pub(crate) tamper: Arc<AtomicBool>,
    /// Whether its node keeps from the ledger what its keeps show with a request.
    pub(crate) withhold: Arc<AtomicBool>,
    /// Whether it keeps from the ledger what they show with a nomination, or the nomination.
    pub(crate) nominations: Arc<Mutex<Nominations>>,
    pub(crate) wasm: Arc<Vec<u8>>,
    _cleaner: Arc<Cleaner>,
}

/// What a node does with nominations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Nominations {
    #[default]
    Carries,
    Strips,
    Drops,
}

/// Whoever keeps the ledger is the broker, too.
pub(crate) struct KeyBroker {
    broker: Mutex<Broker>,
    log: Mutex<ReleaseLog>,
    ledger: Arc<Mutex<MemoryLedger>>,
    /// Whether nodes can reach it.
    pub(crate) away: AtomicBool,
}

impl std::fmt::Debug for KeyBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyBroker").finish_non_exhaustive()
    }
}

impl Surroundings for KeyBroker {
    fn read_ledger(&self, service: ServiceId, nonce: Nonce) -> Option<Reading> {
        self.ledger.lock().unwrap().read(service, nonce).unwrap().ok()
    }

    fn now(&self) -> u64 {
        now()
    }
}

struct Cleaner(PathBuf);

impl Drop for Cleaner {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// The bytes of a guest, built by `cargo xtask guests`.
pub(crate) fn guest(name: &str) -> Option<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../testing/guests/out/{name}.wasm"));
    match fs::read(&path) {
        Ok(wasm) => Some(wasm),
        Err(error) if std::env::var_os("CI").is_some() => {
            panic!("{}: {error}: build it with `cargo xtask guests`", path.display());
        }
        Err(_) => {
            eprintln!("SKIPPED: {} is missing: build it with `cargo xtask guests`", path.display());
            None
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl World {
    pub(crate) fn new(wasm: Vec<u8>) -> Self {
        Self::under(wasm, |_| None)
    }

    /// The same, under the policy whose digest `policy` gives; it is told the ledger's key.
    pub(crate) fn under(
        wasm: Vec<u8>,
        policy: impl FnOnce(dunlin_handover::Key) -> Option<(SignedPolicy, Digest)>,
    ) -> Self {
        let (signer, owner) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let ledger_key = signer.key();
        let (signed_policy, named) = policy(ledger_key).unzip();
        let signed = signed_policy.as_ref().map(|signed| (&*signed.object, &*signed.signer));
        let in_force = policy_in_force("service", SERVICE, &Digest::of(&wasm), ledger_key, signed).unwrap();
        let policy = named.unwrap_or(in_force.hash());
        let broker_key = signing_key(&signer.to_pkcs8().unwrap()).unwrap();
        let roots = dunlin_attest_sim::roots(["tests"]).unwrap();
        let judge = Judge::new(ledger_key, Some(roots.clone()));
        let appraisal = move |candidate: &Candidate<'_>| judge.appraise(candidate, now());
        let ledger = MemoryLedger::new(Arc::new(Verifier::appraising(Arc::new(appraisal))), Arc::new(signer));
        let ledger = Arc::new(Mutex::new(ledger));
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let directory = std::env::temp_dir().join(format!("dunlin-keep-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let vault = Vault::open(directory.join("broker")).unwrap();
        vault.put(SERVICE, "greeting", &SecretRule::default(), SECRET).unwrap();
        let roots = Roots::WithSimulation(roots);
        let mut broker =
            Broker::new(broker_key, Arc::new(Verifier::certified()), roots, Entropy::new([number as u8; 32]));
        broker.keep(SERVICE, vault.service(SERVICE, in_force, ledger_key).unwrap());
        let broker = KeyBroker {
            broker: Mutex::new(broker),
            log: Mutex::new(ReleaseLog::open(&vault.path().join("releases")).unwrap()),
            ledger: ledger.clone(),
            away: AtomicBool::new(false),
        };
        let world = Self {
            ledger,
            ledger_key,
            policy,
            signed_policy,
            broker: Arc::new(broker),
            owner,
            provider: Issuer::provider("tests", PrivateKey::generate().unwrap(), DAY).unwrap(),
            _cleaner: Arc::new(Cleaner(directory.clone())),
            directory,
            tamper: Arc::default(),
            withhold: Arc::default(),
            nominations: Arc::default(),
            wasm: Arc::new(wasm),
        };
        let action = Operation::Create {
            owner: world.owner.key(),
            state_hash: Digest::of(b"nothing yet"),
            policy_hash: policy,
            policy_version: 1,
            recovery: Recovery::default(),
        };
        let request = Request::new(SERVICE, OperationId([1; 16]), 0, 0, action);
        world.ledger.lock().unwrap().apply(&request.signed(&world.owner)).unwrap().unwrap();
        world
    }

    /// Lets nodes reach the broker, or not.
    pub(crate) fn broker_is_away(&self, away: bool) {
        self.broker.away.store(away, Ordering::SeqCst);
    }

    /// Gives a keep its stream to the broker.
    fn introduce(&self, call: BrokerCall, channel: &Channel) {
        let (near, far) = UnixStream::pair().unwrap();
        let packet = Packet::order(Versions::SUPPORTED.newest, &Order::Broker(call)).unwrap();
        let _gone = channel.send(&packet, &[near.as_fd()]);
        let broker = self.broker.clone();
        if !broker.away.load(Ordering::SeqCst) {
            thread::spawn(move || drop(dunlin_broker::serve(far, &broker.broker, &broker.log, &*broker)));
        }
    }

    pub(crate) fn record(&self) -> Record {
        self.ledger.lock().unwrap().read(SERVICE, Nonce([0; 32])).unwrap().unwrap().record
    }

    pub(crate) fn spec(&self, args: &[&str]) -> Spec {
        Spec {
            service: SERVICE,
            name: "service".to_owned(),
            module: Digest::of(&self.wasm),
            policy: self.policy,
            signed_policy: self.signed_policy.clone(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: Vec::new(),
            tier: dunlin_keep_link::Tier::Cranelift,
            limits: Limits { memory_bytes: 1 << 28, stack_bytes: 4 << 20, ..Limits::default() },
        }
    }

    fn carried(&self, request: &Request) -> Request {
        let mut request = request.clone();
        if self.withhold.load(Ordering::SeqCst) {
            request.proof.clear();
        }
        request
    }

    fn answer(&self, query: &LedgerQuery) -> LedgerAnswer {
        let mut ledger = self.ledger.lock().unwrap();
        let mut answer = match query {
            LedgerQuery::Apply(request) => match ledger.apply(&self.carried(request)).unwrap() {
                Ok(receipt) => LedgerAnswer::Receipt(receipt),
                Err(refused) => LedgerAnswer::Refused(refused),
            },
            LedgerQuery::Read { service, nonce } => match ledger.read(*service, *nonce).unwrap() {
                Ok(reading) => LedgerAnswer::Reading(reading),
                Err(refused) => LedgerAnswer::Refused(refused),
            },
            LedgerQuery::Appraise(nomination) => {
                let mut nomination = nomination.clone();
                match *self.nominations.lock().unwrap() {
                    Nominations::Carries => {}
                    Nominations::Strips => nomination.proof.clear(),
                    Nominations::Drops => return LedgerAnswer::Unreachable,
                }
                ledger.appraise(&nomination).unwrap().map_or_else(LedgerAnswer::Refused, |()| LedgerAnswer::Fit)
            }
        };
        if self.tamper.load(Ordering::SeqCst)
            && let LedgerAnswer::Reading(reading) = &mut answer
        {
            reading.record.version = reading.record.version.wrapping_add(1);
        }
        answer
    }
}

/// A machine: its key and its directory of states.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) world: World,
    pub(crate) name: String,
    pub(crate) platform: PlatformKey,
    pub(crate) states: PathBuf,
}

impl Machine {
    pub(crate) fn new(world: &World, name: &str) -> Self {
        let states = world.directory.join(format!("states-{name}"));
        fs::create_dir_all(&states).unwrap();
        let platform = PlatformKey::generate().unwrap();
        Self { world: world.clone(), name: name.to_owned(), platform, states }
    }

    pub(crate) fn platform(&self) -> dunlin_handover::PlatformId {
        dunlin_handover::PlatformId(self.platform.key().0)
    }

    /// What its provider says of the instance key of a keep.
    fn certificates(&self, ready: &Ready) -> Vec<Vec<u8>> {
        let chain = self.world.provider.certify_node(&self.name, self.platform.public(), DAY).unwrap();
        let issuer = Issuer::new(self.platform.clone(), chain).unwrap();
        issuer.certify_keep(&PublicKey::from_spki(&ready.public_key).unwrap(), DAY).unwrap()
    }

    /// Starts a keep and gives it its identity.
    pub(crate) fn keep(&self) -> Keep {
        Keep::start(self)
    }
}

/// A keep, as its node sees it.
pub(crate) struct Keep {
    pub(crate) machine: Machine,
    channel: Arc<Channel>,
    child: Mutex<Child>,
    reports: Mutex<Receiver<Report>>,
    wishes: Mutex<Vec<Report>>,
    next: AtomicU64,
    pub(crate) sockets: Arc<Mutex<BTreeMap<ConnectionId, Sockets>>>,
    pub(crate) ready: Ready,
    pub(crate) log: Arc<Mutex<Vec<String>>>,
}

/// What the node has of a connection.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// The node's end of the pair, for a connection that arrived.
    pub(crate) node: Option<OwnedFd>,
    /// The duplicate of the program's socket.
    pub(crate) duplicate: OwnedFd,
}

impl Keep {
    fn start(machine: &Machine) -> Self {
        let (near, far) = Channel::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_dunlin-keep"))
            .args(["--link", "0"])
            .stdin(Stdio::from(far.into_descriptor()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let channel = Arc::new(near);
        let (heard, reports) = channel_of_reports();
        let sockets: Arc<Mutex<BTreeMap<ConnectionId, Sockets>>> = Arc::default();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        spawn_listener(machine.world.clone(), channel.clone(), heard, sockets.clone(), log.clone());
        let Ok(Report::Ready(ready)) = reports.recv_timeout(PATIENCE) else { panic!("the keep is not ready") };
        let keep = Self {
            machine: machine.clone(),
            channel,
            child: Mutex::new(child),
            reports: Mutex::new(reports),
            wishes: Mutex::default(),
            next: AtomicU64::new(1),
            sockets,
            ready,
            log,
        };
        let identity = Identity {
            order: keep.number(),
            version: Versions::SUPPORTED.newest,
            ledger: machine.world.ledger_key,
            node: machine.name.clone(),
            provider: "tests".to_owned(),
            platform: machine.platform.to_pkcs8().unwrap().to_vec(),
            certificates: machine.certificates(&keep.ready),
            roots: vec![machine.world.provider.chain()[0].clone()],
            witness: Witness::Simulation,
        };
        keep.order(&Order::Identity(identity), &[]);
        keep.expect("done", |report| matches!(report, Report::Done(_)).then_some(()));
        keep
    }

    pub(crate) fn number(&self) -> OrderId {
        OrderId(self.next.fetch_add(1, Ordering::SeqCst))
    }

    pub(crate) fn order(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) {
        let packet = Packet::order(Versions::SUPPORTED.newest, order).unwrap();
        // A keep that is gone is noticed by what it does not say.
        let _gone = self.channel.send(&packet, descriptors);
    }

    /// The next report that `pick` takes. Wishes before it are kept for who asks for them: a program that has arrived may
    /// have one before its keep reports the arrival. Others before it are forgotten.
    #[track_caller]
    pub(crate) fn expect<T>(&self, what: &str, mut pick: impl FnMut(&Report) -> Option<T>) -> T {
        let reports = self.reports.lock().unwrap();
        let mut wishes = self.wishes.lock().unwrap();
        if let Some((at, picked)) = wishes.iter().enumerate().find_map(|(at, wish)| Some((at, pick(wish)?))) {
            wishes.remove(at);
            return picked;
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match reports.recv_timeout(left) {
                Ok(report) => {
                    if let Some(picked) = pick(&report) {
                        return picked;
                    }
                    if matches!(report, Report::Wish(_)) {
                        wishes.push(report);
                    }
                }
                Err(_) => panic!("{}: {what} never came; it said {:#?}", self.machine.name, self.log.lock().unwrap()),
            }
        }
    }

    /// The next report, or `None` at the end of the keep.
    pub(crate) fn next_report(&self, patience: Duration) -> Option<Report> {
        self.reports.lock().unwrap().recv_timeout(patience).ok()
    }

    /// Orders the service's start. `more` are roles and descriptors besides module and states.
    pub(crate) fn start_service(&self, spec: &Spec, origin: Origin, more: Vec<(Role, OwnedFd)>) -> OrderId {
        let order = self.number();
        let states: OwnedFd = File::open(&self.machine.states).unwrap().into();
        let mut all = vec![(Role::Module, file_with(&self.machine.world.wasm)), (Role::States, states)];
        all.extend(more);
        let (roles, descriptors): (Vec<Role>, Vec<OwnedFd>) = all.into_iter().unzip();
        let offered = Offered::new(roles).unwrap();
        let start = Start { order, spec: spec.clone(), origin, offered };
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        self.order(&Order::Start(start), &borrowed);
        order
    }

    #[track_caller]
    pub(crate) fn running(&self) -> dunlin_keep_link::Running {
        self.expect("running", |report| match report {
            Report::Running(running) => Some(running.clone()),
            Report::Failed(failed) => panic!("{}: the start failed: {failed:?}", self.machine.name),
            _ => None,
        })
    }

    #[track_caller]
    pub(crate) fn failed(&self) -> dunlin_keep_link::Failed {
        self.expect("failed", |report| match report {
            Report::Failed(failed) => Some(failed.clone()),
            _ => None,
        })
    }

    #[track_caller]
    pub(crate) fn ended(&self) -> Ended {
        self.expect("ended", |report| match report {
            Report::Ended(ended) => Some(ended.clone()),
            _ => None,
        })
    }

    #[track_caller]
    pub(crate) fn checkpoint(&self) -> dunlin_keep_link::Checkpointed {
        self.checkpoint_of(false)
    }

    /// `whole`: with what is in the volume.
    #[track_caller]
    pub(crate) fn checkpoint_of(&self, whole: bool) -> dunlin_keep_link::Checkpointed {
        self.order(&Order::Checkpoint(TakeCheckpoint { order: self.number(), whole }), &[]);
        self.expect("checkpointed", |report| match report {
            Report::Checkpointed(checkpointed) => Some(*checkpointed),
            Report::Failed(failed) => panic!("the checkpoint failed: {failed:?}"),
            _ => None,
        })
    }

    pub(crate) fn stop(&self, how: StopHow) {
        self.order(&Order::Stop(Stop { order: self.number(), how }), &[]);
    }

    #[track_caller]
    pub(crate) fn status(&self) -> StatusReport {
        self.order(&Order::Query(Call { order: self.number() }), &[]);
        self.expect("status", |report| match report {
            Report::Status(status) => Some(status.clone()),
            _ => None,
        })
    }

    pub(crate) fn cancel(&self, migration: MigrationId) {
        self.order(&Order::Cancel(About { order: self.number(), migration }), &[]);
    }

    pub(crate) fn migrate_in(&self, spec: &Spec, migration: MigrationId, peer: OwnedFd, more: Vec<(Role, OwnedFd)>) {
        let states: OwnedFd = File::open(&self.machine.states).unwrap().into();
        let mut all = vec![(Role::Peer, peer), (Role::States, states)];
        all.extend(more);
        let (roles, descriptors): (Vec<Role>, Vec<OwnedFd>) = all.into_iter().unzip();
        let offered = Offered::new(roles).unwrap();
        let migrate = MigrateIn { order: self.number(), migration, spec: spec.clone(), offered };
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        self.order(&Order::MigrateIn(migrate), &borrowed);
    }

    pub(crate) fn migrate_out(&self, migration: MigrationId, options: Options, dry_run: bool, peer: &OwnedFd) {
        let migrate = MigrateOut { order: self.number(), migration, options, dry_run, wish: None };
        self.order(&Order::MigrateOut(migrate), &[peer.as_fd()]);
    }

    #[track_caller]
    pub(crate) fn left(&self) -> Left {
        self.expect("left", |report| match report {
            Report::Left(left) => Some(left.clone()),
            Report::Failed(failed) => panic!("the departure failed: {failed:?}"),
            _ => None,
        })
    }

    #[track_caller]
    pub(crate) fn arrived(&self) -> Arrived {
        self.expect("arrived", |report| match report {
            Report::Arrived(arrived) => Some(arrived.clone()),
            Report::Failed(failed) => panic!("the arrival failed: {failed:?}"),
            _ => None,
        })
    }

    /// As a crash: the process is gone at once.
    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        let _gone = child.kill();
        let _reaped = child.wait();
    }

    /// Waits until the process has ended by itself.
    #[track_caller]
    pub(crate) fn wait(&self) -> std::process::ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.lock().unwrap().try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "{}: the process goes on", self.machine.name);
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        self.kill();
    }
}

fn channel_of_reports() -> (Sender<Report>, Receiver<Report>) {
    channel()
}

fn spawn_listener(
    world: World,
    channel: Arc<Channel>,
    heard: Sender<Report>,
    sockets: Arc<Mutex<BTreeMap<ConnectionId, Sockets>>>,
    log: Arc<Mutex<Vec<String>>>,
) {
    thread::spawn(move || {
        while let Ok(Some(Received { bytes, descriptors })) = channel.receive() {
            let report = Packet::read_report(&bytes, descriptors.len(), None).unwrap();
            log.lock().unwrap().push(format!("{report:?}").chars().take(300).collect());
            match &report {
                Report::Ledger(call) => {
                    let reply = LedgerReply { id: call.id, answer: world.answer(&call.query) };
                    let packet = Packet::order(Versions::SUPPORTED.newest, &Order::LedgerReply(reply)).unwrap();
                    let _gone = channel.send(&packet, &[]);
                    continue;
                }
                Report::Broker(call) => {
                    world.introduce(*call, &channel);
                    continue;
                }
                Report::Connected(Connected { id, carried, .. }) => {
                    let mut descriptors = descriptors.into_iter();
                    let node = if *carried { descriptors.next() } else { None };
                    let duplicate = descriptors.next().unwrap();
                    sockets.lock().unwrap().insert(*id, Sockets { node, duplicate });
                }
                Report::Closed(closed) => drop(sockets.lock().unwrap().remove(&closed.id)),
                _ => {}
            }
            if heard.send(report).is_err() {
                return;
            }
        }
    });
}

/// An unlinked file with these bytes, to be read from its start.
pub(crate) fn file_with(bytes: &[u8]) -> OwnedFd {
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    let path = std::env::temp_dir().join(format!("dunlin-keep-file-{}-{number}", std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file.into()
}

/// A pipe whose reading end collects everything.
pub(crate) fn collector() -> (OwnedFd, thread::JoinHandle<String>) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let collected = thread::spawn(move || {
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        text
    });
    (write, collected)
}

pub(crate) fn listener() -> (OwnedFd, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address)
}

pub(crate) fn options(mode: Mode) -> Options {
    // Wide limits: what a busy test machine takes is not what is tested here.
    Options {
        mode,
        max_downtime: Duration::from_secs(10),
        timeout_action: TimeoutAction::Stop,
        max_rounds: 6,
        ..Options::default()
    }
}

/// A stream between two keeps, relayed as nodes do it. It can be cut.
pub(crate) struct Wire {
    pub(crate) source: OwnedFd,
    pub(crate) destination: OwnedFd,
    cut: Vec<UnixStream>,
    /// All that came by.
    pub(crate) seen: Arc<Mutex<Vec<u8>>>,
}

impl Wire {
    pub(crate) fn new() -> Self {
        let (source, near) = UnixStream::pair().unwrap();
        let (far, destination) = UnixStream::pair().unwrap();
        let cut = vec![near.try_clone().unwrap(), far.try_clone().unwrap()];
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        copy(near.try_clone().unwrap().into(), far.try_clone().unwrap().into(), Some(seen.clone()));
        copy(far.into(), near.into(), Some(seen.clone()));
        Self { source: source.into(), destination: destination.into(), cut, seen }
    }

    pub(crate) fn cut(&self) {
        for end in &self.cut {
            let _gone = end.shutdown(Shutdown::Both);
        }
    }
}

/// Copies one direction, and its end.
pub(crate) fn relay(from: OwnedFd, to: OwnedFd) {
    copy(from, to, None);
}

fn copy(from: OwnedFd, to: OwnedFd, seen: Option<Arc<Mutex<Vec<u8>>>>) {
    thread::spawn(move || {
        // Whatever kind of stream it is: only what all have in common is used.
        let (mut from, mut to) = (UnixStream::from(from), UnixStream::from(to));
        let mut buffer = vec![0; 1 << 16];
        loop {
            match from.read(&mut buffer) {
                Ok(length @ 1..) => {
                    if let Some(seen) = &seen {
                        seen.lock().unwrap().extend_from_slice(&buffer[..length]);
                    }
                    if to.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
                _ => break,
            }
        }
        let _gone = to.shutdown(Shutdown::Write);
    });
}

/// What a node does with the connections that moved: relays them between the socket at the old keep and the pair at the
/// new one.
pub(crate) fn join_connections(old: &Keep, left: &Left, new: &Keep) {
    assert!(matches!(left.how, LeftHow::Moved { .. }), "{left:?}");
    for connection in &left.connections {
        let old_socket = old.sockets.lock().unwrap().remove(&connection.id).expect("the old node knows it");
        let until = Instant::now() + PATIENCE;
        let node_end = loop {
            let mut sockets = new.sockets.lock().unwrap();
            if let Some(end) = sockets.get_mut(&connection.id).and_then(|sockets| sockets.node.take()) {
                break end;
            }
            drop(sockets);
            assert!(Instant::now() < until, "the new keep never told of {}", connection.id);
            thread::sleep(Duration::from_millis(1));
        };
        // The program's socket is non-blocking, and so is its duplicate.
        rustix::io::ioctl_fionbio(&old_socket.duplicate, false).unwrap();
        let (from, back) = (old_socket.duplicate.try_clone().unwrap(), node_end.try_clone().unwrap());
        relay(from, node_end);
        relay(back, old_socket.duplicate);
    }
}

/// Moves the service from one keep to another; both tell how it went.
pub(crate) fn migrate(
    from: &Keep,
    to: &Keep,
    spec: &Spec,
    options: Options,
    more: Vec<(Role, OwnedFd)>,
) -> (Left, Arrived) {
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_le_bytes());
    let wire = Wire::new();
    let Wire { source, destination, .. } = wire;
    to.migrate_in(spec, MigrationId(id), destination, more);
    from.migrate_out(MigrationId(id), options, false, &source);
    drop(source);
    let left = from.left();
    let arrived = to.arrived();
    (left, arrived)
}

pub(crate) fn is_live(arrived: &Arrived) -> bool {
    matches!(arrived.how, ArrivedHow::Live { .. })
}
