//! Keeps as processes: a warm pool of them, and the link to each.
//!
//! Two threads serve a keep. One receives its reports, in order, and hands each to whoever waits for it; it never waits
//! for anything but the keep. The other carries questions to the ledger, which may take long.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as blocking};
use std::thread;
use std::time::{Duration, Instant};

use dunlin_handover::ledger::Operation;
use dunlin_handover::{Key, LedgerCall, LedgerQuery, LedgerReply, ServiceId};
use dunlin_identity::{Issuer, PrivateKey, PublicKey};
use dunlin_keep_link::{
    Channel, FailCode, Failed, Identity, Order, OrderId, Packet, ProofCall, Ready, Report, Versions,
};
use tokio::sync::{mpsc, watch};

use crate::config::{KeepProgram, NodeConfig, NodeKeys};
use crate::error::NodeError;
use crate::ledger::LedgerWay;
use crate::witness::Witness;

/// How long a keep may take to say that it is ready.
const START: Duration = Duration::from_secs(20);
/// How long a keep that should end may take before it is killed.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long the certificate of a keep holds.
const CERTIFIED: Duration = Duration::from_secs(90 * 86_400);

/// Hears what a keep says without being asked. Called in the order of the reports; must not block.
pub(crate) trait Listener: Send + Sync {
    fn report(&self, report: Report, descriptors: Vec<OwnedFd>);

    /// The process is gone.
    fn gone(&self);
}

/// A keep.
pub(crate) struct Keep {
    channel: Channel,
    process: u32,
    child: Mutex<Child>,
    version: u16,
    /// Thumbprint of the key that it drew.
    holder: Key,
    witness: Witness,
    orders: Mutex<Orders>,
    /// Until the process is gone; it points back here.
    listener: Mutex<Option<Arc<dyn Listener>>>,
    dead: AtomicBool,
    ended: watch::Sender<bool>,
    /// For a keep that is to take a service from another machine: which, and its owner's key.
    recovers: Mutex<Option<(ServiceId, PrivateKey)>>,
}

struct Orders {
    last: u64,
    /// `None` once the keep is gone.
    waiting: Option<HashMap<OrderId, mpsc::UnboundedSender<Report>>>,
}

impl std::fmt::Debug for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keep").field("process", &self.process).finish_non_exhaustive()
    }
}

/// What a keep answers to one order; more than one report to some.
#[derive(Debug)]
pub(crate) struct Answers(mpsc::UnboundedReceiver<Report>);

impl Answers {
    /// The next answer; a failure is an error.
    pub(crate) async fn next(&mut self, doing: &'static str) -> Result<Report, NodeError> {
        match self.0.recv().await {
            Some(Report::Failed(Failed { order: _, code, text })) => Err(NodeError::Keep { code, text }),
            Some(report) => Ok(report),
            None => Err(NodeError::KeepDied { doing }),
        }
    }
}

impl Keep {
    pub(crate) fn process(&self) -> u32 {
        self.process
    }

    /// From now on, `listener` hears what comes unasked.
    pub(crate) fn listen(&self, listener: Arc<dyn Listener>) {
        let mut place = lock(&self.listener);
        if self.is_dead() {
            drop(place);
            listener.gone();
        } else {
            *place = Some(listener);
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Resolves when the process is gone.
    pub(crate) async fn wait(&self) {
        // The sender lives as long as this.
        let mut ended = self.ended.subscribe();
        let _gone = ended.wait_for(|ended| *ended).await;
    }

    /// Sends an order, which `make` builds around its number.
    pub(crate) fn order(
        &self,
        make: impl FnOnce(OrderId) -> Order,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Answers, NodeError> {
        let mut orders = lock(&self.orders);
        orders.last += 1;
        let id = OrderId(orders.last);
        let (sender, receiver) = mpsc::unbounded_channel();
        let Some(waiting) = orders.waiting.as_mut() else { return Err(NodeError::KeepDied { doing: "waiting" }) };
        waiting.insert(id, sender);
        // Numbers rise on the wire, so the lock is held until it is sent.
        self.send(&make(id), descriptors)?;
        Ok(Answers(receiver))
    }

    /// From here on, the owner agrees to what this keep asks of the ledger to take this service from another machine.
    pub(crate) fn may_recover(&self, service: ServiceId, owner: &PrivateKey) {
        *lock(&self.recovers) = Some((service, owner.clone()));
    }

    /// Adds the owner's signature where it is due.
    fn vouched(&self, mut call: LedgerCall) -> LedgerCall {
        if let LedgerQuery::Apply(request) = &mut call.query
            && matches!(request.action, Operation::Recover { .. })
            && let Some((service, owner)) = &*lock(&self.recovers)
            && request.service == *service
        {
            **request = (**request).clone().signed(owner);
        }
        call
    }

    /// Sends a message that has no answer.
    pub(crate) fn send(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> Result<(), NodeError> {
        let packet = Packet::order(self.version, order)
            .map_err(|error| NodeError::Keep { code: FailCode::Invalid, text: error.to_string() })?;
        self.channel.send(&packet, descriptors).map_err(|_| NodeError::KeepDied { doing: "taking an order" })
    }

    /// Ends it at once: by the end of its link it would end by itself, but not while it does not listen.
    pub(crate) fn kill(&self) {
        // It may be gone already.
        let _gone = lock(&self.child).kill();
    }

    /// Closes the link, which ends the keep.
    pub(crate) fn hang_up(&self) {
        let _closed = rustix::net::shutdown(self.channel.as_fd(), rustix::net::Shutdown::Both);
    }

    fn receive(self: &Arc<Self>, ledger: LedgerWay) {
        let (calls, asked) = blocking::channel();
        let keep = self.clone();
        let carrier = thread::Builder::new().name("dunlin-calls".to_owned()).stack_size(512 << 10);
        let carries = carrier.spawn(move || keep.carry(&ledger, &asked)).is_ok();
        while let Ok(Some(received)) = self.channel.receive() {
            let Ok(report) = Packet::read_report(&received.bytes, received.descriptors.len(), Some(self.version))
            else {
                break;
            };
            match report {
                Report::Ledger(call) if carries => {
                    let _gone = calls.send(call);
                }
                Report::Proof(ProofCall { call, binding }) => {
                    let keep = self.clone();
                    self.witness.ask(self.holder, call, binding, move |reply| {
                        let _gone = keep.send(&Order::Proof(reply), &[]);
                    });
                }
                report => self.deliver(report, received.descriptors),
            }
        }
        self.hang_up();
    }

    fn deliver(&self, report: Report, descriptors: Vec<OwnedFd>) {
        let order = match &report {
            Report::Done(call) => Some(call.order),
            Report::Failed(failed) => Some(failed.order),
            Report::Running(running) => Some(running.order),
            Report::Ended(ended) => ended.order,
            Report::Checkpointed(done) => Some(done.order),
            Report::Left(left) => Some(left.order),
            Report::Arrived(arrived) => Some(arrived.order),
            Report::Status(status) => Some(status.order),
            Report::Attested(attested) => Some(attested.order),
            _ => None,
        };
        let Some(order) = order else {
            let listener = lock(&self.listener).clone();
            if let Some(listener) = listener {
                listener.report(report, descriptors);
            }
            return;
        };
        let is_last = !matches!(report, Report::Left(_) | Report::Arrived(_));
        let mut orders = lock(&self.orders);
        let Some(waiting) = orders.waiting.as_mut() else { return };
        let sender = if is_last { waiting.remove(&order) } else { waiting.get(&order).cloned() };
        if let Some(sender) = sender {
            // Whoever asked may have lost interest.
            let _unheard = sender.send(report);
        }
    }

    fn carry(&self, ledger: &LedgerWay, asked: &blocking::Receiver<LedgerCall>) {
        let mut session = ledger.session();
        while let Ok(call) = asked.recv() {
            let id = call.id;
            let answer = session.ask(self.vouched(call));
            if self.send(&Order::LedgerReply(LedgerReply { id, answer }), &[]).is_err() {
                return;
            }
        }
    }

    /// Waits for the end of a process whose link has ended.
    fn reap(&self) {
        let patience = Instant::now() + LAST_WORDS;
        loop {
            let mut child = lock(&self.child);
            match child.try_wait() {
                Ok(None) if Instant::now() < patience => {}
                Ok(None) => {
                    let _gone = child.kill();
                    let _status = child.wait();
                    break;
                }
                Ok(Some(_)) | Err(_) => break,
            }
            drop(child);
            thread::sleep(Duration::from_millis(2));
        }
        lock(&self.orders).waiting = None;
        let listener = {
            let mut place = lock(&self.listener);
            self.dead.store(true, Ordering::SeqCst);
            place.take()
        };
        if let Some(listener) = listener {
            listener.gone();
        }
        self.ended.send_replace(true);
    }
}

/// Starts keeps and has some ready.
#[derive(Debug)]
pub(crate) struct Pool {
    program: KeepProgram,
    messages: PathBuf,
    warm: usize,
    ledger: LedgerWay,
    witness: Witness,
    identity: WhoAmI,
    ready: Mutex<Vec<Arc<Keep>>>,
    closed: AtomicBool,
}

/// What every keep of this node is told about itself.
#[derive(Debug)]
struct WhoAmI {
    node: String,
    provider: String,
    keys: NodeKeys,
    issuer: Issuer,
}

impl Pool {
    pub(crate) fn new(config: &NodeConfig, keys: &NodeKeys, ledger: LedgerWay) -> Result<Arc<Self>, NodeError> {
        let issuer = Issuer::new(keys.platform.clone(), keys.chain.clone())?;
        let identity =
            WhoAmI { node: config.name.clone(), provider: config.provider.clone(), keys: keys.clone(), issuer };
        Ok(Arc::new(Self {
            program: config.keep.clone(),
            messages: config.folder.join("keeps.log"),
            warm: config.warm_keeps,
            ledger,
            witness: Witness::open(config)?,
            identity,
            ready: Mutex::new(Vec::new()),
            closed: AtomicBool::new(false),
        }))
    }

    pub(crate) fn warm(&self) -> usize {
        lock(&self.ready).len()
    }

    /// A keep that waits for its first order; the pool fills itself up again behind.
    pub(crate) async fn take(self: &Arc<Self>) -> Result<Arc<Keep>, NodeError> {
        let found = loop {
            let keep = lock(&self.ready).pop();
            match keep {
                Some(keep) if keep.is_dead() => {}
                other => break other,
            }
        };
        let keep = match found {
            Some(keep) => keep,
            None => {
                let pool = self.clone();
                run_blocking(move || pool.start()).await?
            }
        };
        self.fill();
        Ok(keep)
    }

    /// Starts what is missing, in the background.
    pub(crate) fn fill(self: &Arc<Self>) {
        let pool = self.clone();
        tokio::task::spawn_blocking(move || {
            while pool.warm() < pool.warm && !pool.closed.load(Ordering::SeqCst) {
                let Ok(keep) = pool.start() else { return };
                lock(&pool.ready).push(keep);
            }
            if pool.closed.load(Ordering::SeqCst) {
                pool.close();
            }
        });
    }

    /// Ends those that wait.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for keep in lock(&self.ready).drain(..) {
            keep.hang_up();
        }
    }

    fn start(&self) -> Result<Arc<Keep>, NodeError> {
        let system = |error: dunlin_keep_link::ChannelError| NodeError::System {
            what: "talk to a keep",
            source: std::io::Error::other(error),
        };
        let (ours, theirs) = Channel::pair().map_err(system)?;
        let child = spawn(&self.program, &self.messages, theirs)?;
        let process = child.id();
        let mut child = ChildGuard(Some(child));
        let ready = ready(&ours, &self.program)?;
        let versions = Versions { oldest: ready.oldest, newest: ready.newest };
        let version = Versions::SUPPORTED.common(versions).ok_or_else(|| NodeError::Keep {
            code: FailCode::Invalid,
            text: format!("{} speaks other versions of the protocol between node and keep", ready.product),
        })?;
        let public = PublicKey::from_spki(&ready.public_key)?;
        let keep = Arc::new(Keep {
            channel: ours,
            process,
            child: Mutex::new(child.0.take().ok_or(NodeError::KeepDied { doing: "starting" })?),
            version,
            holder: public.thumbprint(),
            witness: self.witness.clone(),
            orders: Mutex::new(Orders { last: 0, waiting: Some(HashMap::new()) }),
            listener: Mutex::new(None),
            dead: AtomicBool::new(false),
            ended: watch::Sender::new(false),
            recovers: Mutex::default(),
        });
        let (receiver, ledger) = (keep.clone(), self.ledger.clone());
        let spawned = thread::Builder::new().name("dunlin-reports".to_owned()).stack_size(1 << 20).spawn(move || {
            receiver.receive(ledger);
            receiver.reap();
        });
        if let Err(error) = spawned {
            keep.kill();
            return Err(NodeError::system("start a thread")(error));
        }
        self.introduce(&keep, &public)?;
        Ok(keep)
    }

    fn introduce(&self, keep: &Keep, public: &PublicKey) -> Result<(), NodeError> {
        let WhoAmI { node, provider, keys, issuer } = &self.identity;
        let certificates = issuer.certify_keep(public, CERTIFIED)?;
        let platform = keys.platform.to_pkcs8()?.to_vec();
        // Answered by Done, of which nobody must know: an order that comes next is refused if this was.
        let _answers = keep.order(
            |order| {
                Order::Identity(Identity {
                    order,
                    version: keep.version,
                    ledger: self.ledger.key(),
                    node: node.clone(),
                    provider: provider.clone(),
                    platform,
                    certificates,
                    roots: keys.roots.clone(),
                    witness: self.witness.kind(),
                })
            },
            &[],
        )?;
        Ok(())
    }
}

/// Kills a child that nobody took.
struct ChildGuard(Option<Child>);

impl Drop for ChildGuard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _gone = child.kill();
            let _status = child.wait();
        }
    }
}

/// The link is the keep's standard input, so that no other child of this process can inherit it.
fn spawn(program: &KeepProgram, messages: &Path, link: Channel) -> Result<Child, NodeError> {
    let failed = |source| NodeError::Spawn { program: program.program.clone(), source };
    let messages = File::options().append(true).create(true).open(messages).map_err(failed)?;
    Command::new(&program.program)
        .args(&program.arguments)
        .args(["--link", "0"])
        .stdin(Stdio::from(link.into_descriptor()))
        .stdout(Stdio::null())
        .stderr(messages)
        .spawn()
        .map_err(failed)
}

fn ready(channel: &Channel, program: &KeepProgram) -> Result<Ready, NodeError> {
    let failed = |why: &str| NodeError::Spawn {
        program: program.program.clone(),
        source: std::io::Error::other(why.to_owned()),
    };
    let mut wait = [rustix::event::PollFd::new(channel, rustix::event::PollFlags::IN)];
    let patience = rustix::event::Timespec { tv_sec: START.as_secs() as i64, tv_nsec: 0 };
    match rustix::event::poll(&mut wait, Some(&patience)) {
        Ok(1..) => {}
        _ => return Err(failed("it does not say that it is ready")),
    }
    let received = channel.receive().ok().flatten().ok_or_else(|| failed("it ended before it was ready"))?;
    match Packet::read_report(&received.bytes, received.descriptors.len(), None) {
        Ok(Report::Ready(ready)) => Ok(ready),
        _ => Err(failed("its first words are not those of a keep of this release")),
    }
}

/// Runs what blocks on a thread for such things.
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(NodeError::KeepDied { doing: "starting" }))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
