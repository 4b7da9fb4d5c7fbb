//! Instances, disks, the network to the ledger, and the ledger itself.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use dunlin_base::Digest;
use dunlin_handover::ledger::{LedgerState, Operation, Record, Recovery, Request, Signature, Staged};
use dunlin_handover::{MigrationId, OperationId, ServiceId};

use crate::keys::{TestChecks, TestKey, ledger_key};
use crate::rules::Rules;

const SERVICE: ServiceId = ServiceId([1; 16]);
const PLATFORMS: u8 = 2;

#[derive(Debug, Clone, Copy)]
pub(crate) struct System {
    pub(crate) rules: Rules,
    /// Instances ever started.
    pub(crate) instances: usize,
    /// Operations that change the service's state.
    pub(crate) operations: usize,
    pub(crate) max_epoch: u64,
}

/// The service's state: which instance made each change.
type Content = Vec<u8>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    ledger: Ledger,
    /// Every blob ever sealed: nothing that was on a disk can be assumed gone.
    blobs: BTreeSet<Blob>,
    /// Every request ever sent: it may arrive at any time, any number of times.
    requests: BTreeSet<Message>,
    instances: Vec<Instance>,
    /// The latest state on which an effect depends.
    last_effect: Content,
    pub(crate) forked: bool,
    pub(crate) stolen: bool,
    pub(crate) destination_committed: bool,
    pub(crate) aborted_and_active: bool,
}

/// The real ledger. Two of them are the same state when they behave the same: the chain of digests is history.
#[derive(Debug, Clone)]
struct Ledger(LedgerState);

impl Ledger {
    fn essence(&self) -> impl Iterator<Item = (OperationId, Record)> {
        let plain = |record: Record| Record { prev: Digest([0; 32]), ..record };
        self.0.recent().map(move |receipt| (receipt.operation, plain(receipt.record)))
    }
}

impl PartialEq for Ledger {
    fn eq(&self, other: &Self) -> bool {
        self.essence().eq(other.essence())
    }
}

impl Eq for Ledger {}

impl Hash for Ledger {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.essence().for_each(|essence| essence.hash(hasher));
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Blob {
    platform: u8,
    epoch: u64,
    version: u64,
    content: Content,
}

/// A request to the ledger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Message {
    from: u8,
    epoch: u64,
    version: u64,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum What {
    Resume { platform: u8 },
    Commit { parent: Content, content: Content },
    Transfer { to: u8, platform: u8, content: Content },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Instance {
    platform: u8,
    epoch: u64,
    version: u64,
    content: Content,
    phase: Phase,
}

impl Instance {
    fn runs(&self) -> bool {
        matches!(self.phase, Phase::Active | Phase::Changed { .. } | Phase::Sealed { .. } | Phase::Committing(_))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    /// Started from a blob; nothing was asked yet.
    Booted,
    Resuming(Message),
    Active,
    /// Has changed its state, of which nobody knows.
    Changed {
        parent: Content,
    },
    /// Has sealed it.
    Sealed {
        parent: Content,
    },
    Committing(Message),
    /// (Only without R3.) Committed, not sealed.
    Unsealed,
    /// Empty, waits for a state.
    Landed,
    Received,
    Staged,
    /// Stopped for a move; no transfer exists.
    Stopped {
        to: u8,
    },
    Transferring {
        to: u8,
        message: Message,
    },
    Aborting {
        message: Message,
    },
    Dead,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Boot(Blob),
    Land(u8),
    Crash(u8),
    Resume(u8),
    Deliver(Message),
    Learn(u8),
    Change(u8),
    Seal(u8),
    Commit(u8),
    Offer(u8, u8),
    Stage(u8),
    Transfer(u8),
    Abort(u8),
    Activate(u8),
    Trust(u8),
}

impl State {
    pub(crate) fn record(&self) -> &Record {
        self.ledger.0.record().expect("created at the start")
    }

    pub(crate) fn active_epochs_differ(&self) -> bool {
        let mut seen = BTreeSet::new();
        self.instances.iter().filter(|instance| instance.runs()).all(|instance| seen.insert(instance.epoch))
    }

    /// Whether an instance runs in an epoch that its own transfer has ended.
    pub(crate) fn is_overtaken(&self) -> bool {
        let applied = |message: &&Message| {
            let operation = operation(message);
            matches!(message.what, What::Transfer { .. })
                && self.ledger.0.recent().any(|receipt| receipt.operation == operation)
        };
        self.requests.iter().filter(applied).any(|message| {
            let sender = &self.instances[usize::from(message.from)];
            sender.runs() && sender.epoch == message.epoch
        })
    }

    /// A blob of the committed state lies on the holder's platform, or the holder itself lives and has it.
    pub(crate) fn is_recoverable(&self) -> bool {
        let record = self.record();
        let on_disk = self.blobs.iter().any(|blob| {
            Some(platform(blob.platform).platform()) == record.holder_platform
                && hash(&blob.content) == record.state_hash
        });
        let alive = self.instances.iter().enumerate().any(|(index, instance)| {
            instance.phase != Phase::Dead
                && record.holder == Some(key(index as u8).0)
                && hash(&instance.content) == record.state_hash
        });
        on_disk || alive
    }

    /// An effect leaves. It may be late (its receipt was), but it must be part of the one history.
    fn emit(&mut self, content: &Content) {
        if content.starts_with(&self.last_effect) {
            self.last_effect = content.clone();
        } else {
            self.forked |= !self.last_effect.starts_with(content);
        }
    }
}

impl System {
    /// Created and claimed by instance 0 on platform 0, whose first state is sealed there.
    pub(crate) fn start(&self) -> State {
        let mut ledger = LedgerState::default();
        let (owner, first, here) = (TestKey::named("owner"), key(0), platform(0));
        let mut apply = |epoch, id, action, signers: &[TestKey]| {
            let operation = OperationId([id; 16]);
            let plain = Request::new(SERVICE, operation, epoch, 0, action);
            let request = signers.iter().fold(plain, |request, signer| request.signed(signer));
            ledger.apply(&request, &TestChecks::default(), &ledger_key()).expect("the start is in order");
        };
        let create = Operation::Create {
            owner: owner.0,
            state_hash: hash(&Vec::new()),
            policy_hash: Digest::of(b"policy"),
            policy_version: 1,
            recovery: Recovery::default(),
        };
        let evidence = Digest::of(b"");
        apply(0, 1, create, &[owner]);
        apply(1, 2, Operation::Claim { holder: first.0, platform: here.platform(), evidence }, &[first, here]);
        State {
            ledger: Ledger(ledger),
            blobs: BTreeSet::from([Blob { platform: 0, epoch: 2, version: 0, content: Vec::new() }]),
            requests: BTreeSet::new(),
            instances: vec![Instance { platform: 0, epoch: 2, version: 0, content: Vec::new(), phase: Phase::Active }],
            last_effect: Vec::new(),
            forked: false,
            stolen: false,
            destination_committed: false,
            aborted_and_active: false,
        }
    }

    pub(crate) fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        if state.instances.len() < self.instances {
            actions.extend(state.blobs.iter().cloned().map(Action::Boot));
            actions.extend((0..PLATFORMS).map(Action::Land));
        }
        actions.extend(state.requests.iter().cloned().map(Action::Deliver));
        for (index, instance) in state.instances.iter().enumerate() {
            let index = index as u8;
            if instance.phase != Phase::Dead {
                actions.push(Action::Crash(index));
            }
            match &instance.phase {
                Phase::Booted => actions.push(Action::Resume(index)),
                Phase::Active => {
                    actions.push(Action::Change(index));
                    for (to, other) in state.instances.iter().enumerate() {
                        if other.phase == Phase::Landed {
                            actions.push(Action::Offer(index, to as u8));
                        }
                    }
                }
                Phase::Changed { .. } => actions.extend([Action::Seal(index), Action::Commit(index)]),
                Phase::Unsealed => actions.push(Action::Seal(index)),
                Phase::Sealed { .. } => actions.push(Action::Commit(index)),
                Phase::Resuming(_) | Phase::Committing(_) | Phase::Aborting { .. } => {
                    actions.push(Action::Learn(index))
                }
                Phase::Received => actions.push(Action::Stage(index)),
                Phase::Staged => actions.push(Action::Activate(index)),
                Phase::Stopped { .. } => actions.extend([Action::Transfer(index), Action::Abort(index)]),
                Phase::Transferring { .. } => actions.extend([Action::Abort(index), Action::Trust(index)]),
                Phase::Landed | Phase::Dead => {}
            }
        }
    }

    /// What an action leads to; `None` when it cannot happen or changes nothing.
    pub(crate) fn step(&self, state: &State, action: &Action) -> Option<State> {
        let mut next = state.clone();
        let rules = self.rules;
        match action {
            Action::Boot(blob) => {
                let Blob { platform, epoch, version, content } = blob.clone();
                let phase = if rules.read_before_run { Phase::Booted } else { Phase::Active };
                next.instances.push(Instance { platform, epoch, version, content, phase });
            }
            Action::Land(platform) => {
                let (platform, content, phase) = (*platform, Vec::new(), Phase::Landed);
                next.instances.push(Instance { platform, epoch: 0, version: 0, content, phase });
            }
            Action::Crash(index) => {
                // Nobody can see what a dead instance knew.
                let platform = state.instances[usize::from(*index)].platform;
                let (content, phase) = (Vec::new(), Phase::Dead);
                next.instances[usize::from(*index)] = Instance { platform, epoch: 0, version: 0, content, phase };
            }
            Action::Resume(index) => {
                let record = *state.record();
                let instance = &mut next.instances[usize::from(*index)];
                let here = record.holder_platform == Some(platform(instance.platform).platform());
                if hash(&instance.content) != record.state_hash || (rules.resume_on_holder_platform && !here) {
                    return None;
                }
                let what = What::Resume { platform: instance.platform };
                let message = Message { from: *index, epoch: record.epoch, version: record.version, what };
                instance.phase = Phase::Resuming(message.clone());
                next.requests.insert(message);
            }
            Action::Deliver(message) => self.deliver(&mut next, message)?,
            Action::Learn(index) => self.learn(&mut next, *index)?,
            Action::Change(index) => {
                if state.instances.iter().map(|instance| instance.content.len()).max() >= Some(self.operations) {
                    return None;
                }
                let instance = &mut next.instances[usize::from(*index)];
                let parent = instance.content.clone();
                instance.content.push(*index);
                instance.phase = Phase::Changed { parent };
                if !rules.effects_after_commit {
                    let content = instance.content.clone();
                    next.emit(&content);
                }
            }
            Action::Seal(index) => {
                let instance = &mut next.instances[usize::from(*index)];
                let Instance { platform, epoch, version, content, phase } = instance.clone();
                instance.phase = match phase {
                    Phase::Changed { parent } => Phase::Sealed { parent },
                    _ => Phase::Active,
                };
                next.blobs.insert(Blob { platform, epoch, version: version + 1, content });
            }
            Action::Commit(index) => {
                let instance = &mut next.instances[usize::from(*index)];
                let parent = match &instance.phase {
                    Phase::Sealed { parent } => parent.clone(),
                    Phase::Changed { parent } if !rules.seal_before_commit => parent.clone(),
                    _ => return None,
                };
                let what = What::Commit { parent, content: instance.content.clone() };
                let message = Message { from: *index, epoch: instance.epoch, version: instance.version, what };
                instance.phase = Phase::Committing(message.clone());
                next.requests.insert(message);
            }
            Action::Offer(from, to) => {
                let Instance { epoch, version, content, .. } = state.instances[usize::from(*from)].clone();
                next.instances[usize::from(*from)].phase = Phase::Stopped { to: *to };
                let receiver = &mut next.instances[usize::from(*to)];
                (receiver.epoch, receiver.version, receiver.content) = (epoch, version, content);
                receiver.phase = if rules.staged_after_seal { Phase::Received } else { Phase::Staged };
            }
            Action::Stage(index) => {
                let instance = &mut next.instances[usize::from(*index)];
                let Instance { platform, epoch, version, content, .. } = instance.clone();
                instance.phase = Phase::Staged;
                next.blobs.insert(Blob { platform, epoch, version: version + 1, content });
            }
            Action::Transfer(index) => {
                let instance = state.instances[usize::from(*index)].clone();
                let Phase::Stopped { to } = instance.phase else { return None };
                let there = &state.instances[usize::from(to)];
                let staged = there.phase == Phase::Staged && there.content == instance.content;
                if rules.transfer_after_staged && !(staged && there.epoch == instance.epoch) {
                    return None;
                }
                let what = What::Transfer { to, platform: there.platform, content: instance.content };
                let message = Message { from: *index, epoch: instance.epoch, version: instance.version, what };
                next.instances[usize::from(*index)].phase = Phase::Transferring { to, message: message.clone() };
                next.requests.insert(message);
            }
            Action::Abort(index) => {
                let instance = &mut next.instances[usize::from(*index)];
                let (epoch, version, platform) = (instance.epoch, instance.version, instance.platform);
                if matches!(instance.phase, Phase::Stopped { .. }) || !rules.abort_takes_epoch {
                    // No transfer exists (or, without R6, nobody cares).
                    instance.phase = Phase::Active;
                } else {
                    let message = Message { from: *index, epoch, version, what: What::Resume { platform } };
                    instance.phase = Phase::Aborting { message: message.clone() };
                    next.requests.insert(message);
                }
            }
            Action::Activate(index) => {
                let record = *state.record();
                let instance = &mut next.instances[usize::from(*index)];
                if record.holder != Some(key(*index).0) {
                    return None;
                }
                (instance.epoch, instance.version) = (record.epoch, record.version);
                instance.phase = Phase::Active;
            }
            Action::Trust(index) => {
                let Phase::Transferring { to, .. } = state.instances[usize::from(*index)].phase else { return None };
                let there = &mut next.instances[usize::from(to)];
                if rules.destination_reads_ledger || there.phase != Phase::Staged {
                    return None;
                }
                there.epoch += 1;
                there.version += 1;
                there.phase = Phase::Active;
            }
        }
        (next != *state).then_some(next)
    }

    /// The ledger takes a request, or refuses it.
    fn deliver(&self, state: &mut State, message: &Message) -> Option<()> {
        let before = *state.record();
        let Message { from, epoch, version, what } = message;
        let (mut epoch, mut version) = (*epoch, *version);
        let mut signers = vec![key(*from)];
        let action = match what {
            What::Resume { platform: asked } => {
                // Without R5 the ledger does not ask for proof that the request comes from the holder's platform:
                // the request names where it comes from, and the missing proof is put in its place.
                let stated = platform(*asked);
                signers.push(stated);
                Operation::Resume { holder: key(*from).0, platform: stated.platform(), evidence: Digest::of(b"") }
            }
            What::Commit { parent, content } => {
                let mut parent = hash(parent);
                if !self.rules.commit_is_checked {
                    // A ledger that does not look: whatever the record says is what the request "expected".
                    (epoch, version, parent) = (before.epoch, before.version, before.state_hash);
                    signers = before.holder.map(TestKey).into_iter().collect();
                }
                Operation::Commit { parent, state_hash: hash(content) }
            }
            What::Transfer { to, platform: there, content } => {
                let staged = Staged {
                    service: SERVICE,
                    migration: MigrationId([*from; 16]),
                    epoch,
                    version: version + 1,
                    state_hash: hash(content),
                    holder: key(*to).0,
                    platform: platform(*there).platform(),
                    complete: true,
                    signature: Signature::default(),
                };
                let staged = staged.signed(&key(*to));
                let state_hash = hash(content);
                Operation::Transfer { state_hash, evidence: Digest::of(b""), retained: false, staged }
            }
        };
        let operation = operation(message);
        let plain = Request::new(SERVICE, operation, epoch, version, action);
        let mut request = signers.iter().fold(plain, |request, signer| request.signed(signer));
        if !self.rules.resume_on_holder_platform
            && let Operation::Resume { platform: stated, .. } = &mut request.action
            && let Some(holder_platform) = before.holder_platform
        {
            *stated = holder_platform;
            request.signatures.clear();
            request = request.signed(&TestKey(holder_platform.key())).signed(&key(*from));
        }
        state.ledger.0.apply(&request, &TestChecks::default(), &ledger_key()).ok()?;
        if let (What::Resume { platform: asked }, true) = (what, *state.record() != before) {
            state.stolen |= before.holder_platform != Some(platform(*asked).platform());
        }
        Some(())
    }

    /// An instance sees the receipt that it waits for.
    fn learn(&self, state: &mut State, index: u8) -> Option<()> {
        let instance = &mut state.instances[usize::from(index)];
        let phase = instance.phase.clone();
        let (Phase::Resuming(message) | Phase::Committing(message) | Phase::Aborting { message }) = &phase else {
            return None;
        };
        let wanted = operation(message);
        let receipt = state.ledger.0.recent().find(|receipt| receipt.operation == wanted)?;
        (instance.epoch, instance.version) = (receipt.record.epoch, receipt.record.version);
        instance.phase = Phase::Active;
        match phase {
            Phase::Aborting { .. } => state.aborted_and_active = true,
            Phase::Committing(_) => {
                if !self.rules.seal_before_commit {
                    instance.phase = Phase::Unsealed;
                }
                state.destination_committed |= instance.platform != 0;
                let content = instance.content.clone();
                if self.rules.effects_after_commit {
                    state.emit(&content);
                }
            }
            _ => {}
        }
        Some(())
    }
}

fn key(index: u8) -> TestKey {
    TestKey::named(&format!("instance{index}"))
}

fn platform(index: u8) -> TestKey {
    TestKey::named(&format!("platform{index}"))
}

fn hash(content: &Content) -> Digest {
    Digest::of(content)
}

/// The same request is the same operation, however often it arrives.
fn operation(message: &Message) -> OperationId {
    let mut id = [0; 16];
    id.copy_from_slice(&Digest::of(format!("{message:?}").as_bytes()).0[..16]);
    OperationId(id)
}
