//! A world in virtual time: nodes with disks, a ledger, and channels that are slow, lossy and cut. The state machines
//! are the real ones; only programs, disks and wires are simulated. Every run is a function of its seed and plan, and
//! a failing one prints its log.

#![allow(dead_code, unreachable_pub, missing_debug_implementations, reason = "shared by several test programs")]
#![allow(clippy::large_enum_variant, reason = "a few thousand at a time, in tests")]

pub mod driver;
pub mod guest;
pub mod keys;
pub mod node;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dunlin_base::Digest;
use dunlin_handover::converge::{Mode, Options};
use dunlin_handover::ledger::{Ledger, MemoryLedger, Operation, Record, Recovery, Request};
use dunlin_handover::{
    LedgerAnswer, LedgerCall, LedgerQuery, LedgerReply, Limits, Nonce, OperationId, ServiceId, Time, destination,
};

use guest::{State, Tick};
use keys::{TestChecks, TestKey, ledger_key};
use node::{Blob, Instance, Kind, Machine, Node};

pub const SERVICE: ServiceId = ServiceId([5; 16]);

/// A small, good enough generator (SplitMix64).
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }
}

/// What goes wrong, and at which boundary: boundaries are deliveries of a frame or of a ledger call or answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Kill(usize),
    KillForever(usize),
    LedgerDown,
    /// Both ends are told.
    Cut,
    /// Nobody is told.
    SilentCut,
    DropLedger,
    DuplicateLedger,
    DelayLedger,
    /// A frame (the next one, if the boundary is at the ledger) is changed, dropped, repeated, or comes early.
    ChangeFrame,
    DropFrame,
    RepeatFrame,
    SwapFrames,
    Cancel(usize),
    /// The clock of everybody jumps forward by a day.
    Jump,
}

#[derive(Debug)]
enum Event {
    Frame { to: usize, link: u64, frame: Vec<u8> },
    Lost { to: usize, link: u64 },
    Ask { from: usize, life: u64, call: LedgerCall },
    Answer { to: usize, life: u64, reply: LedgerReply },
    Stopped { node: usize, life: u64 },
    Tick,
    Commit,
    Restart { node: usize },
    LedgerUp,
    Timeout { node: usize },
    Reconnect,
    Recover { lost: usize },
}

pub struct World {
    pub now: Time,
    pub rng: Rng,
    pub ledger: MemoryLedger,
    pub nodes: Vec<Node>,
    pub log: Vec<String>,
    /// Requests served, in order: counter, node, epoch.
    pub effects: Vec<(u64, usize, u64)>,
    served_at: Time,
    gap: Duration,
    pub boundary: u64,
    pub plan: Option<(u64, Fault)>,
    pub fired: bool,
    pub mode: Mode,
    pub options: Options,
    pub limits: Limits,
    /// One in so many ledger messages is lost, doubled or delayed; 0 for never.
    pub ledger_trouble: u64,
    /// Staging fails this many times from now on, on any node.
    pub fail_staging: u32,
    /// Staging claims success this many times without writing anything.
    pub lie_staging: u32,
    pub postcopy: bool,
    /// The program has a private volume.
    pub volume: bool,
    queue: std::collections::BinaryHeap<Reverse<(Time, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    ledger_up: bool,
    pub link: u64,
    link_up: bool,
    pub ends: (usize, usize),
    busy: [Time; 2],
    reconnecting: bool,
    held: Option<(usize, Vec<u8>)>,
    tamper: Option<Fault>,
    pub migrations: u64,
    /// The program's counter in the state that the ledger names.
    pub committed: u64,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.log.len().saturating_sub(120);
            eprintln!("the last events (plan {:?}, mode {:?}):\n{}", self.plan, self.mode, self.log[from..].join("\n"));
        }
    }
}

impl World {
    /// `count` nodes; the service is claimed by and runs on node 0.
    pub fn new(seed: u64, count: usize, mode: Mode) -> Self {
        let checks = Arc::new(TestChecks::default());
        let ledger = MemoryLedger::new(checks, Arc::new(ledger_key()));
        let mut world = Self {
            now: Time(1_000_000),
            rng: Rng(seed),
            ledger,
            nodes: (0..count).map(Node::new).collect(),
            log: vec![format!("seed {seed}")],
            effects: Vec::new(),
            served_at: Time(1_000_000),
            gap: Duration::ZERO,
            boundary: 0,
            plan: None,
            fired: false,
            mode,
            options: Options { mode, max_downtime: Duration::from_millis(100), ..Options::default() },
            limits: Limits::default(),
            ledger_trouble: 0,
            fail_staging: 0,
            lie_staging: 0,
            postcopy: true,
            volume: false,
            queue: std::collections::BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            ledger_up: true,
            link: 0,
            link_up: false,
            ends: (0, 1),
            busy: [Time(0); 2],
            reconnecting: false,
            held: None,
            tamper: None,
            migrations: 0,
            committed: 0,
        };
        world.create();
        world.at(Duration::from_millis(1), Event::Tick);
        world.at(Duration::from_millis(700), Event::Commit);
        world
    }

    pub fn record(&self) -> Record {
        *self.ledger.state(SERVICE).and_then(|state| state.record()).expect("the service was created")
    }

    /// Nodes on which the service runs.
    pub fn running(&self) -> Vec<usize> {
        let runs = |node: &Node| node.instance.as_ref().is_some_and(|instance| instance.guest.running);
        self.nodes.iter().enumerate().filter(|(_, node)| runs(node)).map(|(index, _)| index).collect()
    }

    /// Handles events until `done` or `limit` has passed. Returns whether it was done.
    pub fn run(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit;
        let (mut instant, mut events) = (self.now, 0);
        while !done(self) {
            events = if instant == self.now { events + 1 } else { 0 };
            instant = self.now;
            assert!(events < 100_000, "somebody asks to be called at once, for ever");
            let Some(Reverse((time, id))) = self.queue.pop() else { return false };
            if time > end {
                self.queue.push(Reverse((time, id)));
                self.now = self.now.max(end);
                return false;
            }
            self.now = self.now.max(time);
            let event = self.events.remove(&id).expect("queued events exist");
            self.handle(event);
            self.check();
        }
        true
    }

    pub fn note(&mut self, text: String) {
        self.log.push(format!("{:>12} {text}", self.now.0));
    }

    /// What must hold after every single event.
    fn check(&self) {
        let running = self.running();
        assert!(running.len() <= 1, "the service runs on {running:?}");
        let record = self.record();
        for index in running {
            let instance = self.nodes[index].instance.as_ref().unwrap();
            let holder = record.is_held_by(instance.key.0, instance.guest.epoch);
            assert!(holder, "node {index} runs in epoch {} and the ledger says {record:?}", instance.guest.epoch);
        }
        let here = |blob: &Blob| blob.state.hash() == record.state_hash && blob.missing.is_empty();
        let kept = self.nodes.iter().flat_map(|node| &node.disk).any(here);
        assert!(kept, "no disk has the committed state {record:?}");
    }

    fn create(&mut self) {
        let (owner, state) = (TestKey::named("owner"), State::fresh());
        let recovery = Recovery::default();
        let policy_hash = Digest::of(b"policy");
        let (owner_key, state_hash) = (owner.0, state.hash());
        let create = Operation::Create { owner: owner_key, state_hash, policy_hash, policy_version: 1, recovery };
        let (platform, key) = (self.nodes[0].platform, TestKey::named("first"));
        let evidence = Digest::of(b"");
        let claim = Operation::Claim { holder: key.0, platform: platform.platform(), evidence };
        self.apply(self.request(0, 0, create, 1).signed(&owner));
        self.apply(self.request(1, 0, claim, 2).signed(&key).signed(&platform));
        self.nodes[0].disk.push(Blob::whole(Kind::Own, 0, state.clone()));
        let mut instance = Instance::new(key, state);
        (instance.guest.running, instance.guest.epoch) = (true, 2);
        self.nodes[0].instance = Some(instance);
    }

    pub fn request(&self, epoch: u64, version: u64, action: Operation, id: u8) -> Request {
        let operation = OperationId([id; 16]);
        Request::new(SERVICE, operation, epoch, version, action)
    }

    pub fn apply(&mut self, request: Request) {
        let Ok(answer) = self.ledger.apply(&request);
        answer.expect("the ledger takes it");
    }

    fn at(&mut self, wait: Duration, event: Event) {
        let id = self.next_event;
        self.next_event += 1;
        self.events.insert(id, event);
        self.queue.push(Reverse((self.now + wait, id)));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Frame { to, link, frame } => {
                if link == self.link && self.link_up && self.nodes[to].alive {
                    self.passing();
                    if self.link_up && self.nodes[to].alive {
                        self.deliver(to, frame);
                    }
                }
            }
            Event::Lost { to, link } => {
                if link == self.link {
                    self.link_lost(to);
                }
            }
            Event::Ask { from, life, call } => {
                self.passing();
                self.ask(from, life, call);
            }
            Event::Answer { to, life, reply } => {
                self.passing();
                if self.nodes[to].alive && self.nodes[to].life == life {
                    self.answer(to, reply);
                }
            }
            Event::Stopped { node, life } => {
                if self.nodes[node].alive && self.nodes[node].life == life {
                    self.guest_stopped(node);
                }
            }
            Event::Tick => self.tick(),
            Event::Commit => self.commit(),
            Event::Restart { node } => self.restart(node),
            Event::LedgerUp => self.ledger_up = true,
            Event::Timeout { node } => self.timeout(node),
            Event::Reconnect => self.reconnect(),
            Event::Recover { lost } => self.owner_recovers(lost),
        }
    }

    /// A message boundary: this is where faults strike.
    fn passing(&mut self) {
        self.boundary += 1;
        let Some((at, fault)) = self.plan else { return };
        if self.fired || self.boundary != at {
            return;
        }
        self.fired = true;
        self.note(format!("FAULT {fault:?} at boundary {at}"));
        match fault {
            Fault::Kill(node) => self.kill(node, true),
            Fault::KillForever(node) => self.kill(node, false),
            Fault::LedgerDown => {
                self.ledger_up = false;
                self.at(Duration::from_secs(3), Event::LedgerUp);
            }
            Fault::Cut => self.cut(true),
            Fault::SilentCut => self.cut(false),
            Fault::Cancel(node) => self.cancel(node),
            Fault::Jump => self.now = self.now + Duration::from_secs(86_400),
            tamper => self.tamper = Some(tamper),
        }
    }

    pub fn cut(&mut self, told: bool) {
        self.link_up = false;
        let (link, ends) = (self.link, self.ends);
        if told {
            self.at(Duration::from_millis(1), Event::Lost { to: ends.0, link });
            self.at(Duration::from_millis(1), Event::Lost { to: ends.1, link });
        }
    }

    pub fn kill(&mut self, index: usize, comes_back: bool) {
        self.note(format!("node {index} dies"));
        let node = &mut self.nodes[index];
        (node.alive, node.instance) = (false, None);
        node.life += 1;
        if self.ends.0 == index || self.ends.1 == index {
            self.cut(true);
        }
        match comes_back {
            true => self.at(Duration::from_secs(2), Event::Restart { node: index }),
            false => self.at(Duration::from_secs(20), Event::Recover { lost: index }),
        }
    }

    fn deliver(&mut self, to: usize, frame: Vec<u8>) {
        let frames = match self.tamper.take() {
            Some(Fault::ChangeFrame) => {
                let mut changed = frame;
                let at = self.rng.below(changed.len() as u64) as usize;
                changed[at] ^= 1 << self.rng.below(8);
                vec![changed]
            }
            Some(Fault::DropFrame) => Vec::new(),
            Some(Fault::RepeatFrame) => vec![frame.clone(), frame],
            Some(Fault::SwapFrames) => {
                self.held = Some((to, frame));
                Vec::new()
            }
            other => {
                self.tamper = other;
                let early = self.held.take_if(|(node, _)| *node == to);
                core::iter::once(frame).chain(early.map(|(_, frame)| frame)).collect()
            }
        };
        for frame in frames {
            self.frame(to, &frame);
        }
    }

    /// Puts a frame on the wire: 1 ms and 100 MB/s each way.
    pub(crate) fn transmit(&mut self, from: usize, frame: Vec<u8>) {
        let (to, lane) = match self.ends {
            (one, other) if from == one => (other, 0),
            (one, other) if from == other => (one, 1),
            // The end of an earlier link, which nothing takes to this one.
            _ => return,
        };
        let sending = Duration::from_nanos(frame.len() as u64 * 10);
        self.busy[lane] = self.busy[lane].max(self.now) + sending;
        let wait = self.busy[lane].since(self.now) + Duration::from_millis(1);
        let link = self.link;
        self.at(wait, Event::Frame { to, link, frame });
    }

    /// Sends a call to the ledger: 300 us each way, and everything can happen to it.
    pub(crate) fn call(&mut self, from: usize, call: LedgerCall) {
        let life = self.nodes[from].life;
        let trouble = self
            .tamper
            .take_if(|fault| matches!(fault, Fault::DropLedger | Fault::DuplicateLedger | Fault::DelayLedger));
        let chance = self.rng.one_in(self.ledger_trouble).then(|| self.rng.below(3));
        let way = Duration::from_micros(300);
        match (trouble, chance) {
            (Some(Fault::DropLedger), _) | (_, Some(0)) => self.note(format!("the call of node {from} is lost")),
            (Some(Fault::DuplicateLedger), _) | (_, Some(1)) => {
                self.at(way, Event::Ask { from, life, call: call.clone() });
                self.at(way * 50, Event::Ask { from, life, call });
            }
            (Some(_), _) | (_, Some(_)) => self.at(Duration::from_secs(4), Event::Ask { from, life, call }),
            (None, None) => self.at(way, Event::Ask { from, life, call }),
        }
    }

    fn ask(&mut self, from: usize, life: u64, call: LedgerCall) {
        let LedgerCall { id, query } = call;
        let answer = match &query {
            _ if !self.ledger_up => LedgerAnswer::Unreachable,
            LedgerQuery::Apply(request) => {
                let Ok(answer) = self.ledger.apply(request);
                let told = answer.as_ref().map(|receipt| (receipt.record.epoch, receipt.record.version));
                self.note(format!("ledger: node {from} asks {} -> {told:?}", name_of(&request.action)));
                if let (Ok(_), Operation::Transfer { staged, .. }) = (&answer, &request.action) {
                    let disks = self.nodes.iter().flat_map(|node| &node.disk);
                    let mut moved = disks.filter(|blob| blob.hash == staged.state_hash && blob.missing.is_empty());
                    self.committed = moved.next().map_or(self.committed, |blob| blob.state.counter);
                }
                answer.map_or_else(LedgerAnswer::Refused, LedgerAnswer::Receipt)
            }
            LedgerQuery::Read { service, nonce } => {
                let Ok(answer) = self.ledger.read(*service, *nonce);
                answer.map_or_else(LedgerAnswer::Refused, LedgerAnswer::Reading)
            }
            LedgerQuery::Appraise(nomination) => panic!("no state machine nominates: {nomination:?}"),
        };
        if self.rng.one_in(self.ledger_trouble * 2) {
            self.note(format!("the answer to node {from} is lost"));
            return;
        }
        self.at(Duration::from_micros(300), Event::Answer { to: from, life, reply: LedgerReply { id, answer } });
    }

    fn tick(&mut self) {
        self.at(Duration::from_millis(1), Event::Tick);
        for index in self.running() {
            let chance = self.rng.next();
            let instance = self.nodes[index].instance.as_mut().expect("it runs");
            match instance.guest.tick(chance) {
                Tick::Served(counter) => {
                    let epoch = instance.guest.epoch;
                    let last = self.effects.last().map_or(0, |(counter, ..)| *counter);
                    let went_on = counter == last + 1;
                    assert!(went_on || counter == self.committed + 1, "{counter} after {last}: older than committed");
                    self.effects.push((counter, index, epoch));
                    self.gap = self.gap.max(self.now.since(self.served_at));
                    self.served_at = self.now;
                }
                Tick::Fault(page) => self.fault(index, page),
                Tick::Idle => {}
            }
        }
    }

    /// A running instance that is not on the move seals its state and then commits it.
    fn commit(&mut self) {
        self.at(Duration::from_millis(700), Event::Commit);
        let Some(index) = self.running().first().copied() else { return };
        if !self.ledger_up || !matches!(self.phase(index), "none" | "ended") {
            return;
        }
        let record = self.record();
        let node = &mut self.nodes[index];
        let instance = node.instance.as_ref().expect("it runs");
        let (key, state) = (instance.key, instance.guest.state.clone());
        let version = record.version + 1;
        node.disk.push(Blob::whole(Kind::Own, version, state.clone()));
        let action = Operation::Commit { parent: record.state_hash, state_hash: state.hash() };
        let mut request = self.request(record.epoch, record.version, action, 0);
        request.operation.0[..8].copy_from_slice(&self.rng.next().to_le_bytes());
        self.apply(request.signed(&key));
        self.committed = state.counter;
        let disk = &mut self.nodes[index].disk;
        disk.drain(..disk.len() - 1);
    }

    /// The owner gives up on a node and lets another one start from the committed state, wherever it is kept.
    fn owner_recovers(&mut self, lost: usize) {
        let record = self.record();
        let holder_lost = record.holder_platform == Some(self.nodes[lost].platform.platform());
        if !holder_lost && !self.running().is_empty() {
            return;
        }
        let complete = |blob: &&Blob| blob.state.hash() == record.state_hash && blob.missing.is_empty();
        let blob = self.nodes.iter().flat_map(|node| &node.disk).find(complete).cloned().expect("a copy is kept");
        let other = (0..self.nodes.len()).find(|index| *index != lost && self.nodes[*index].alive).expect("a node");
        self.note(format!("the owner recovers the service from node {lost} to node {other}"));
        let (key, platform) = (TestKey::named(&format!("recovered{}", self.now.0)), self.nodes[other].platform);
        let action = Operation::Recover { holder: key.0, platform: platform.platform(), evidence: Digest::of(b"") };
        let mut request = self.request(record.epoch, record.version, action, 99);
        request.operation.0[..8].copy_from_slice(&self.rng.next().to_le_bytes());
        self.apply(request.signed(&TestKey::named("owner")));
        self.nodes[other].disk.push(Blob { kind: Kind::Own, ..blob });
        self.nodes[other].instance = None;
        self.nodes[other].life += 1;
        self.restart(other);
    }

    pub fn nonce(&mut self) -> Nonce {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.rng.next().to_le_bytes());
        Nonce(bytes)
    }

    /// How the last migration ended at the destination, if its machine is still there.
    pub fn arrival(&self, node: usize) -> Option<&destination::Outcome> {
        match self.nodes[node].instance.as_ref()?.machine.as_ref()? {
            Machine::Destination(machine) => machine.outcome(),
            Machine::Source(_) => None,
        }
    }

    /// The longest time in which no request was served.
    pub fn longest_gap(&self) -> Duration {
        self.gap
    }

    /// Every effect is the next one, and none is missing.
    pub fn assert_no_request_lost_or_doubled(&self) {
        for (index, (counter, ..)) in self.effects.iter().enumerate() {
            assert_eq!(*counter, index as u64 + 1, "request lost or doubled near {:?}", self.effects[index]);
        }
    }
}

fn name_of(action: &Operation) -> &'static str {
    match action {
        Operation::Create { .. } => "create",
        Operation::Claim { .. } => "claim",
        Operation::Commit { .. } => "commit",
        Operation::Resume { .. } => "resume",
        Operation::Transfer { .. } => "transfer",
        Operation::Recover { .. } => "recover",
        Operation::UpdatePolicy { .. } => "update-policy",
        Operation::Retire => "retire",
    }
}
