//! What a driver does: carries messages, calls and timeouts to the machines and does what they ask.

use std::time::Duration;

use dunlin_base::{Digest, PAGE_SIZE};
use dunlin_handover::boot::{self, Boot};
use dunlin_handover::converge::Mode;
use dunlin_handover::destination::{self, Destination};
use dunlin_handover::ledger::Ledger;
use dunlin_handover::message::{
    Evidence, Features, Guard, HashChain, MemoryShape, PageRequest, Role, Versions, VolumeHeld,
};
use dunlin_handover::source::{self, Source};
use dunlin_handover::{Entropy, LedgerReply, MigrationId, OperationId};

use super::guest::{Guest, PAGES, State, volume};
use super::keys::{TestChecks, TestKey, keys, ledger_key};
use super::node::{Blob, Instance, Kind, Machine};
use super::{Event, SERVICE, World};

impl World {
    /// Starts a migration between two nodes on a fresh channel.
    pub fn migrate(&mut self, from: usize, to: usize) {
        self.migrate_with(from, to, |_| {}, |_| {});
    }

    pub fn migrate_with(
        &mut self,
        from: usize,
        to: usize,
        source: impl FnOnce(&mut source::Config),
        destination: impl FnOnce(&mut destination::Config),
    ) {
        self.migrations += 1;
        self.new_link(from, to);
        self.note(format!("migration {} from node {from} to node {to}", self.migrations));
        let key = TestKey::named(&format!("instance{}-{}", self.migrations, self.rng.next()));
        let mut config = self.destination_config(to, key);
        destination(&mut config);
        let mut instance = Instance::new(key, State { counter: 0, pages: State::fresh().pages });
        instance.machine = Some(Machine::Destination(Box::new(Destination::new(config, self.now))));
        self.nodes[to].instance = Some(instance);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.migrations.to_le_bytes());
        let key = self.nodes[from].instance.as_ref().expect("a source runs").key;
        let mut config = self.source_config(from, key, MigrationId(id));
        source(&mut config);
        let machine = Source::new(config, self.now);
        let instance = self.nodes[from].instance.as_mut().expect("a source runs");
        instance.machine = Some(Machine::Source(Box::new(machine)));
        instance.guest.forget_tracking();
        self.pump(from);
        self.pump(to);
    }

    fn new_link(&mut self, from: usize, to: usize) {
        self.link += 1;
        self.link_up = true;
        self.ends = (from, to);
        self.busy = [self.now; 2];
        (self.held, self.tamper) = (None, None);
    }

    fn guard(&self, role: Role) -> Box<dyn Guard> {
        let mut secret = [0; 32];
        secret[..8].copy_from_slice(&self.link.to_le_bytes());
        Box::new(HashChain::new(&secret, role))
    }

    fn entropy(&mut self) -> Entropy {
        Entropy::new(self.nonce().0)
    }

    pub fn destination_config(&mut self, to: usize, key: TestKey) -> destination::Config {
        destination::Config {
            policy_hash: Digest::of(b"policy"),
            peer: None,
            features: Features { postcopy: self.postcopy, zstd: false },
            evidence: Evidence(b"evidence".to_vec()),
            versions: Versions::SUPPORTED,
            keys: keys(key, self.nodes[to].platform),
            limits: self.limits.clone(),
            guard: self.guard(Role::Destination),
            entropy: self.entropy(),
        }
    }

    pub fn source_config(&mut self, from: usize, key: TestKey, migration: MigrationId) -> source::Config {
        source::Config {
            migration,
            record: self.record(),
            module: Digest::of(b"module"),
            snapshot_version: 1,
            memories: vec![MemoryShape { pages: PAGES, maximum: PAGES }],
            needs: Vec::new(),
            evidence: Evidence(b"evidence".to_vec()),
            options: self.options.clone(),
            dry_run: false,
            versions: Versions::SUPPORTED,
            keys: keys(key, self.nodes[from].platform),
            limits: self.limits.clone(),
            guard: self.guard(Role::Source),
            entropy: self.entropy(),
        }
    }

    pub fn source(&self, node: usize) -> &Source {
        match self.nodes[node].instance.as_ref().and_then(|instance| instance.machine.as_ref()) {
            Some(Machine::Source(source)) => source,
            other => panic!("node {node} has no source: {other:?}"),
        }
    }

    pub fn phase(&self, node: usize) -> &'static str {
        match self.nodes[node].instance.as_ref().and_then(|instance| instance.machine.as_ref()) {
            Some(Machine::Source(source)) => source.phase(),
            Some(Machine::Destination(destination)) => destination.phase(),
            None => "none",
        }
    }

    fn with(&mut self, node: usize, act: impl FnOnce(&mut Machine, dunlin_handover::Time)) {
        let now = self.now;
        if let Some(machine) = self.nodes[node].instance.as_mut().and_then(|instance| instance.machine.as_mut()) {
            act(machine, now);
        }
        self.pump(node);
    }

    pub(super) fn frame(&mut self, to: usize, frame: &[u8]) {
        let (before, mut refused) = (self.phase(to), None);
        self.with(to, |machine, now| {
            refused = match machine {
                Machine::Source(source) => source.handle_message(now, frame).err(),
                Machine::Destination(destination) => destination.handle_message(now, frame).err(),
            };
        });
        let kind = frame.get(6).copied().unwrap_or_default();
        self.note(format!("node {to} <- kind {kind:#04x} ({} bytes): {before} -> {}", frame.len(), self.phase(to)));
        if let Some(error) = refused {
            self.note(format!("node {to} refused it: {error}"));
            self.cut(true);
        }
    }

    pub(super) fn link_lost(&mut self, to: usize) {
        self.with(to, |machine, now| match machine {
            Machine::Source(source) => source.handle_local(now, source::Event::LinkLost),
            Machine::Destination(destination) => destination.handle_local(now, destination::Event::LinkLost),
        });
        self.note(format!("node {to} is told that the link is lost: {}", self.phase(to)));
    }

    pub fn cancel(&mut self, node: usize) {
        self.with(node, |machine, now| match machine {
            Machine::Source(source) => source.handle_local(now, source::Event::Cancel),
            Machine::Destination(destination) => destination.handle_local(now, destination::Event::Cancel),
        });
    }

    pub(super) fn answer(&mut self, to: usize, reply: LedgerReply) {
        self.with(to, |machine, now| match machine {
            Machine::Source(source) => source.handle_ledger_reply(now, reply),
            Machine::Destination(destination) => destination.handle_ledger_reply(now, reply),
        });
    }

    pub(super) fn timeout(&mut self, node: usize) {
        if let Some(instance) = self.nodes[node].instance.as_mut() {
            instance.armed = None;
        }
        self.with(node, |machine, now| match machine {
            Machine::Source(source) => source.handle_timeout(now),
            Machine::Destination(destination) => destination.handle_timeout(now),
        });
    }

    pub(super) fn guest_stopped(&mut self, node: usize) {
        let version = self.record().version;
        let Some(instance) = self.nodes[node].instance.as_mut() else { return };
        if !core::mem::take(&mut instance.stopping) {
            return;
        }
        instance.guest.running = false;
        self.source_event(node, source::Event::Stopped { version, time_to_safepoint: Duration::from_micros(40) });
    }

    pub(super) fn fault(&mut self, node: usize, page: u64) {
        let request = PageRequest { memory: 0, first: page, count: 1 };
        self.destination_event(node, destination::Event::Fault(request));
    }

    fn source_event(&mut self, node: usize, event: source::Event) {
        self.with(node, |machine, now| {
            if let Machine::Source(source) = machine {
                source.handle_local(now, event);
            }
        });
    }

    fn destination_event(&mut self, node: usize, event: destination::Event) {
        self.with(node, |machine, now| {
            if let Machine::Destination(destination) = machine {
                destination.handle_local(now, event);
            }
        });
    }

    /// Carries everything out that a machine asks for.
    fn pump(&mut self, node: usize) {
        loop {
            let now = self.now;
            let Some(instance) = self.nodes[node].instance.as_mut() else { return };
            let (frame, action) = match instance.machine.as_mut() {
                Some(Machine::Source(source)) => {
                    let frame = source.poll_transmit(now);
                    (frame, source.poll_action().map(Ok))
                }
                Some(Machine::Destination(destination)) => {
                    (destination.poll_transmit(), destination.poll_action().map(Err))
                }
                None => return,
            };
            if frame.is_none() && action.is_none() {
                break;
            }
            if let Some(frame) = frame {
                self.transmit(node, frame);
            }
            match action {
                Some(Ok(action)) => self.source_action(node, action),
                Some(Err(action)) => self.destination_action(node, action),
                None => {}
            }
        }
        self.arm(node);
        self.offer_reconnect();
        if self.arrival(node) == Some(&destination::Outcome::Parked) {
            self.note(format!("node {node} parks what it has staged"));
            self.nodes[node].instance = None;
            self.nodes[node].life += 1;
            self.at(Duration::from_secs(2), Event::Restart { node });
        }
    }

    fn arm(&mut self, node: usize) {
        let now = self.now;
        let Some(instance) = self.nodes[node].instance.as_mut() else { return };
        let due = match instance.machine.as_ref() {
            Some(Machine::Source(source)) => source.poll_timeout(),
            Some(Machine::Destination(destination)) => destination.poll_timeout(),
            None => None,
        };
        if let Some(due) = due
            && instance.armed.is_none_or(|armed| due < armed)
        {
            instance.armed = Some(due);
            self.at(due.since(now), Event::Timeout { node });
        }
    }

    fn source_action(&mut self, node: usize, action: source::Action) {
        use source::{Action, Event as Local};
        let life = self.nodes[node].life;
        let record = self.record();
        let this = &mut self.nodes[node];
        let instance = this.instance.as_mut().expect("it asked");
        let guest = &mut instance.guest;
        match action {
            Action::Ledger(call) => self.call(node, call),
            Action::SendModule => {
                let bytes = b"the module".to_vec();
                let chunk = dunlin_handover::message::Chunk { offset: 0, total: bytes.len() as u64, bytes };
                self.source_event(node, Local::Module(chunk));
            }
            Action::Throttle(percent) => guest.throttle = percent,
            Action::Scan => {
                let sends = matches!(&instance.machine, Some(Machine::Source(source)) if source.sends_volume());
                let pages = guest.scan();
                let volume = if self.volume && sends { guest.scan_volume() } else { 0 };
                self.source_event(node, Local::Scanned { pages, volume });
            }
            Action::SendPages { round, max } => {
                let chunks = guest.volume_batch();
                let memory_waits = guest.running && self.options.mode == Mode::Postcopy;
                let batch = if chunks.is_some() || memory_waits { None } else { guest.batch(round, max.min(16)) };
                let memory = if memory_waits { 0 } else { guest.unsent.len() as u64 };
                let left = memory + guest.unsent_volume().div_ceil(PAGE_SIZE as u64);
                if let Some(chunks) = chunks {
                    self.source_event(node, Local::VolumeChunks(chunks));
                }
                if let Some(pages) = batch {
                    self.source_event(node, Local::Pages(pages));
                }
                self.source_event(node, Local::BatchEnd { left });
            }
            Action::StopGuest => {
                instance.stopping = true;
                self.at(Duration::from_micros(40), Event::Stopped { node, life });
            }
            Action::Capture { retain } => {
                let (chunk, state) = (guest.chunk(self.volume), guest.state.clone());
                this.store.extend(volume(state.counter));
                let left = retain.and_then(|_| guest.leave_behind());
                if let Some(retained) = retain {
                    let kind = Kind::Retained { retained, key: instance.key, record };
                    this.disk.push(Blob::whole(kind, record.version, state.clone()));
                }
                if let Some(left) = left {
                    self.source_event(node, Local::LeftBehind(left));
                }
                self.source_event(node, Local::State(chunk));
                self.source_event(node, Local::Captured { state_hash: state.hash() });
            }
            Action::ResumeGuest { epoch } => {
                assert!(!guest.fenced || record.epoch == epoch, "a fenced instance is resumed in an old epoch");
                guest.fenced = false;
                instance.stopping = false;
                guest.epoch = epoch;
                guest.running = true;
            }
            Action::Fence => {
                guest.running = false;
                guest.fenced = true;
            }
            Action::ServePages(PageRequest { first, count, .. }) => {
                let wanted: Vec<u64> = (first..first + u64::from(count)).collect();
                if let Some(pages) = guest.pages(u32::MAX, &wanted) {
                    self.source_event(node, Local::Pages(pages));
                }
            }
            Action::RestartPush => guest.restart_push(),
            Action::Release => this.disk.clear(),
            Action::VolumeHeld(held) => {
                let held = |chunk: &Vec<u8>| held.0.contains(&Digest::of(chunk));
                guest.elsewhere.extend(volume(u64::MAX).into_iter().filter(held));
            }
            other => panic!("a new action: {other:?}"),
        }
    }

    fn destination_action(&mut self, node: usize, action: destination::Action) {
        use destination::{Action, Event as Local};
        let this = &mut self.nodes[node];
        let instance = this.instance.as_mut().expect("it asked");
        let guest = &mut instance.guest;
        match action {
            Action::Ledger(call) => self.call(node, call),
            Action::Judge(_) => {
                let module_wanted = self.migrations % 2 == 1;
                self.destination_event(node, Local::Judged { reasons: Vec::new(), module_wanted });
            }
            Action::StoreModule(_) => {}
            Action::Prepare => {
                let here: Vec<Digest> = this.store.iter().map(|chunk| Digest::of(chunk)).collect();
                for digests in here.chunks(2) {
                    self.destination_event(node, Local::VolumeHeld(VolumeHeld(digests.to_vec())));
                }
                self.destination_event(node, Local::Prepared { took: Duration::from_millis(5) });
            }
            Action::StoreVolume(chunks) => this.store.extend(chunks.0),
            Action::StorePages(pages) => Guest::store(&mut guest.state, &pages),
            Action::StoreState(chunk) => {
                this.store.extend(guest.take_chunk(&chunk.bytes));
            }
            Action::MarkMissing(left) => {
                guest.missing.extend(left.ranges.iter().flat_map(|(first, count)| *first..first + u64::from(*count)));
            }
            Action::Stage(arrival) => {
                if self.fail_staging > 0 {
                    self.fail_staging -= 1;
                    return self.destination_event(node, Local::Failed("the disk is full".to_owned()));
                }
                if self.volume {
                    assert!(volume(guest.state.counter).is_subset(&this.store), "the volume is not whole");
                }
                let lazy = arrival.last.retained.is_some();
                let state_hash = if lazy { arrival.last.state_hash } else { guest.state.hash() };
                let blob = Blob {
                    version: arrival.last.version,
                    hash: arrival.last.state_hash,
                    state: guest.state.clone(),
                    missing: guest.missing.clone(),
                    kind: Kind::Staged(arrival),
                };
                if self.lie_staging > 0 {
                    self.lie_staging -= 1;
                } else {
                    this.disk.push(blob);
                }
                self.destination_event(node, Local::Staged { state_hash });
            }
            Action::Activate { record, lazy_pages } => {
                assert_eq!(lazy_pages, guest.missing.len() as u64);
                guest.epoch = record.epoch;
                guest.running = true;
                self.destination_event(node, Local::Activated { restore: Duration::from_micros(200) });
            }
            Action::PlacePages(pages) => {
                let blob = this.disk.last_mut().expect("it was staged");
                guest.place(&pages, &mut blob.state);
                blob.missing = guest.missing.clone();
                let missing = guest.missing.len() as u64;
                self.destination_event(node, Local::Placed { missing });
            }
            Action::PauseGuest => guest.running = false,
            Action::UnpauseGuest => guest.running = true,
            Action::Seal => {
                let state_hash = this.disk.last().expect("it was staged").state.hash();
                self.destination_event(node, Local::Sealed { state_hash });
            }
            Action::Discard => this.disk.clear(),
            Action::Fence => {
                guest.running = false;
                guest.fenced = true;
            }
            other => panic!("a new action: {other:?}"),
        }
    }

    fn offer_reconnect(&mut self) {
        let (from, to) = self.ends;
        let paused = self.phase(from) == "paused" && self.phase(to) == "paused";
        if paused && !self.reconnecting {
            self.reconnecting = true;
            // Both have given the link up, or it is up again and they are about to agree.
            let wait = if self.link_up { 9 } else { 1 };
            self.at(Duration::from_secs(wait), Event::Reconnect);
        }
    }

    pub(super) fn reconnect(&mut self) {
        self.reconnecting = false;
        let (from, to) = self.ends;
        if self.phase(from) != "paused" || self.phase(to) != "paused" {
            return;
        }
        self.note("the link is back".to_owned());
        self.new_link(from, to);
        let guard = self.guard(Role::Source);
        self.source_event(from, source::Event::Reconnected(guard));
        let guard = self.guard(Role::Destination);
        self.destination_event(to, destination::Event::Reconnected(guard));
    }

    /// A machine comes back with nothing but its disk.
    pub(super) fn restart(&mut self, index: usize) {
        if !self.ledger_up {
            return self.at(Duration::from_secs(1), Event::Restart { node: index });
        }
        if self.nodes[index].instance.is_some() {
            return;
        }
        self.nodes[index].alive = true;
        let nonce = self.nonce();
        let Ok(reading) = self.ledger.read(SERVICE, nonce);
        let reading = reading.expect("the service exists");
        let platform = self.nodes[index].platform;
        let blobs: Vec<boot::Blob> = self.nodes[index]
            .disk
            .iter()
            .map(|blob| boot::Blob { version: blob.version, state_hash: blob.hash, complete: blob.missing.is_empty() })
            .collect();
        let checks = TestChecks::default();
        let ledger = ledger_key().0;
        let decision = boot::decide(&reading, nonce, ledger, &checks, platform.platform(), &blobs);
        self.note(format!("node {index} starts with {} blobs: {decision:?}", blobs.len()));
        match decision.expect("the reading is fresh") {
            Boot::Resume { blob } => {
                let blob = self.nodes[index].disk[blob].clone();
                if self.volume && !matches!(blob.kind, Kind::Own) {
                    let whole = volume(blob.state.counter).is_subset(&self.nodes[index].store);
                    assert!(whole, "the volume is not whole on this machine");
                }
                let key = TestKey::named(&format!("restarted{index}-{}", self.rng.next()));
                let mut operation = [0; 16];
                operation[..8].copy_from_slice(&self.rng.next().to_le_bytes());
                let request = boot::resume(&reading, OperationId(operation), &key, &platform, Digest::of(b""));
                let Ok(receipt) = self.ledger.apply(&request);
                let receipt = receipt.expect("nobody else resumes");
                let epoch = boot::resumed(&request, &receipt, key.0, ledger, &checks).expect("it is ours");
                let mut instance = Instance::new(key, blob.state.clone());
                instance.guest.epoch = epoch;
                instance.guest.missing = blob.missing.clone();
                if let (Kind::Staged(arrival), false) = (&blob.kind, blob.missing.is_empty()) {
                    let config = self.destination_config(index, key);
                    let missing = blob.missing.len() as u64;
                    let machine =
                        Destination::restarted(config, (**arrival).clone(), receipt.record, missing, self.now);
                    instance.machine = Some(Machine::Destination(Box::new(machine)));
                } else {
                    instance.guest.running = true;
                }
                self.nodes[index].instance = Some(instance);
            }
            Boot::NotHere { .. } => {
                let record = reading.record;
                let possible = |blob: &Blob| match &blob.kind {
                    Kind::Staged(arrival) => {
                        (arrival.last.epoch, arrival.last.version) == (record.epoch, record.version + 1)
                    }
                    _ => false,
                };
                if self.nodes[index].disk.iter().any(possible) {
                    self.at(Duration::from_secs(5), Event::Restart { node: index });
                }
                self.restart_serving(index);
            }
            Boot::Missing { .. } => {}
            other => panic!("a new decision: {other:?}"),
        }
        self.pump(index);
    }

    /// A source that died in the post-copy phase goes on serving what it retained.
    fn restart_serving(&mut self, index: usize) {
        let retained = self.nodes[index].disk.iter().rev().find_map(|blob| match &blob.kind {
            Kind::Retained { retained, key, record } => Some((*retained, *key, *record, blob.state.clone())),
            _ => None,
        });
        let Some((retained, key, record, state)) = retained else { return };
        let mut config = self.source_config(index, key, retained.migration);
        config.record = record;
        let mut instance = Instance::new(key, state.clone());
        instance.guest.fenced = true;
        instance.guest.leave_everything_behind();
        let machine = Source::restarted(config, retained, state.hash(), self.now);
        instance.machine = Some(Machine::Source(Box::new(machine)));
        self.nodes[index].instance = Some(instance);
    }
}
