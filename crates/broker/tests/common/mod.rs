//! A broker, a ledger and instances of one service.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of this")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use dunlin_attest::{
    Attester as _, Bytes, Endorsements, Evidence, Policy, SigningKey, TpmEvent, TpmEventKind, VerifyingKey,
};
use dunlin_attest_sim::SimAttester;
use dunlin_base::Digest;
use dunlin_broker::{
    Broker, Brokers, Denied, Fetch, FetchError, Input, KemKey, Message, Output, Party, Release, Released, Roots,
    SecretRule, Service, Want,
};
use dunlin_handover::ledger::{Ledger as _, MemoryLedger, Operation, Reading, Receipt, Recovery, Refused, Request};
use dunlin_handover::{Entropy, Nonce, OperationId, ServiceId};
use dunlin_seal::ServiceRoot;
use zeroize::Zeroizing;

#[allow(unreachable_pub, dead_code, reason = "shared with the tests of the protocol")]
#[path = "../../../handover/tests/world/keys.rs"]
mod keys;

pub use keys::{TestChecks, TestKey, ledger_key};

pub const SERVICE: ServiceId = ServiceId([0x51; 16]);
pub const NOW: u64 = 1_800_000_000;
pub const SECRET: &[u8] = b"the key of the service's certificate";
pub const ROOT: [u8; 32] = [0x72; 32];

pub fn signing(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32]).unwrap()
}

pub fn module() -> Digest {
    Digest::of(b"module")
}

pub fn root() -> ServiceRoot {
    ServiceRoot::from_bytes(&ROOT)
}

pub fn hex(digest: impl AsRef<[u8]>) -> String {
    Bytes::from(digest).to_string()
}

pub fn policy() -> Policy {
    static POLICY: LazyLock<Policy> = LazyLock::new(make_policy);
    POLICY.clone()
}

fn make_policy() -> Policy {
    let own = SimAttester::of_this_program("one").unwrap().runtime();
    let (owner, ledger) = (signing(1), signing(2).verifying_key());
    let text = format!(
        r#"
format = 1
service = "shop"
version = 1
issued = 2026-01-01T00:00:00Z
expires = 2030-01-01T00:00:00Z
class_floor = "sim"
modules = ["sha256:{}", "sha256:{}"]
[sim]
accept = [{{ runtime = "{}" }}]
[[provider]]
id = "acme"
key = "{ledger}"
platforms = ["sim:one", "sim:two"]
[ledger]
id = "ledger-1"
keys = ["{ledger}"]
quorum = 1
[broker]
keys = ["{}"]
"#,
        hex(module().0),
        hex(Digest::of(b"another module").0),
        hex(own.0),
        signing(3).verifying_key(),
    );
    let object = Policy::sign(&text, &owner).unwrap();
    Policy::verify(&object, "shop", &[owner.verifying_key()], None).unwrap()
}

/// An instance of the service on a machine.
#[derive(Debug)]
pub struct Instance {
    pub party: Party,
    pub attester: SimAttester,
    pub platform: TestKey,
}

impl Instance {
    pub fn new(machine: &str) -> Self {
        Self::with_program(machine, "/proc/self/exe".as_ref())
    }

    pub fn with_program(machine: &str, program: &std::path::Path) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let seed = |what: &str| Digest::of(format!("{what} {machine} {number}").as_bytes()).0;
        let policy = policy();
        let attester = SimAttester::of_program(machine, program).unwrap();
        let measured = [(TpmEventKind::Module, module()), (TpmEventKind::Policy, policy.hash())];
        for (kind, digest) in measured {
            attester.measure(TpmEvent { kind, digest }).unwrap();
        }
        let party = Party {
            service: SERVICE,
            name: "shop".to_owned(),
            epoch: 2,
            instance: SigningKey::from_bytes(&seed("instance")).unwrap(),
            kem: Arc::new(KemKey::from_seed(&seed("kem"))),
            module: module(),
            policy: policy.hash(),
            provider: "acme".to_owned(),
            ledger: "ledger-1".to_owned(),
            brokers: Brokers::Named(vec![signing(3).verifying_key()]),
        };
        Self { party, attester, platform: TestKey::named(machine) }
    }

    pub fn in_epoch(mut self, epoch: u64) -> Self {
        self.party.epoch = epoch;
        self
    }

    /// The key by which the ledger knows it.
    pub fn key(&self) -> TestKey {
        TestKey(dunlin_broker::ledger_name(&self.party.instance.verifying_key()))
    }

    pub fn evidence(&self, binding: &dunlin_attest::BindingContext) -> Evidence {
        self.attester.evidence(&binding.report_data()).unwrap()
    }
}

/// A broker and a ledger, and all that went over the wire.
#[derive(Debug)]
pub struct World {
    pub broker: Broker,
    pub ledger: MemoryLedger,
    pub released: Vec<Release>,
    pub now: u64,
    /// Whether the release can be recorded.
    pub records: bool,
    /// What somebody does to the ledger's answers.
    pub reading: fn(Reading) -> Option<Reading>,
    pub wire: Vec<Vec<u8>>,
    number: u64,
}

impl World {
    /// With a service that is held by nobody.
    pub fn new() -> Self {
        let secrets = [
            ("tls-key".to_owned(), (SecretRule::default(), Zeroizing::new(SECRET.to_vec()))),
            (
                "for-another".to_owned(),
                (SecretRule { modules: vec![Digest::of(b"another module")] }, Zeroizing::new(SECRET.to_vec())),
            ),
        ];
        let service = Service { policy: policy(), ledger: ledger_key().0, root: root(), secrets: secrets.into() };
        let roots = Roots::WithSimulation(dunlin_attest_sim::roots(["one", "two"]).unwrap());
        let mut broker = Broker::new(signing(3), Arc::<TestChecks>::default(), roots, Entropy::new([5; 32]));
        broker.keep(SERVICE, service);
        let ledger = MemoryLedger::new(Arc::<TestChecks>::default(), Arc::new(ledger_key()));
        let reading = Some;
        let mut world = Self {
            broker,
            ledger,
            released: Vec::new(),
            now: NOW,
            records: true,
            reading,
            wire: Vec::new(),
            number: 0,
        };
        let owner = TestKey::named("owner");
        let create = Operation::Create {
            owner: owner.0,
            state_hash: Digest([1; 32]),
            policy_hash: policy().hash(),
            policy_version: 1,
            recovery: Recovery { threshold: 0, keys: Vec::new() },
        };
        world.apply((0, 0), create, &[owner]).unwrap();
        world
    }

    /// With a service that `instance` has claimed: epoch 2.
    pub fn held_by(instance: &Instance) -> Self {
        let mut world = Self::new();
        let (holder, platform) = (instance.key(), instance.platform);
        let claim = Operation::Claim { holder: holder.0, platform: platform.platform(), evidence: Digest([1; 32]) };
        world.apply((1, 0), claim, &[holder, platform]).unwrap();
        world
    }

    pub fn apply(
        &mut self,
        (epoch, version): (u64, u64),
        action: Operation,
        signers: &[TestKey],
    ) -> Result<Receipt, Refused> {
        self.number += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.number.to_le_bytes());
        let operation = OperationId(id);
        let request = Request::new(SERVICE, operation, epoch, version, action);
        let request = signers.iter().fold(request, |request, signer| request.signed(signer));
        let Ok(answer) = self.ledger.apply(&request);
        answer
    }

    pub fn read(&mut self) -> Reading {
        let Ok(reading) = self.ledger.read(SERVICE, Nonce([3; 32]));
        reading.unwrap()
    }

    pub fn commit(&mut self, holder: &Instance, state: u8) -> Receipt {
        let record = self.read().record;
        let commit = Operation::Commit { parent: record.state_hash, state_hash: Digest([state; 32]) };
        self.apply((record.epoch, record.version), commit, &[holder.key()]).unwrap()
    }

    pub fn resume(&mut self, next: &Instance) -> Result<Receipt, Refused> {
        let record = self.read().record;
        let resume =
            Operation::Resume { holder: next.key().0, platform: next.platform.platform(), evidence: Digest([2; 32]) };
        self.apply((record.epoch, record.version), resume, &[next.key(), next.platform])
    }

    /// Moves the service as a migration does it.
    pub fn transfer(&mut self, from: &Instance, to: &Instance, state: u8) -> Receipt {
        let record = self.read().record;
        let staged = dunlin_handover::ledger::Staged {
            service: SERVICE,
            migration: dunlin_handover::MigrationId([8; 16]),
            epoch: record.epoch,
            version: record.version + 1,
            state_hash: Digest([state; 32]),
            holder: to.key().0,
            platform: to.platform.platform(),
            complete: true,
            signature: dunlin_handover::ledger::Signature::default(),
        };
        let staged = staged.signed(&to.key());
        let transfer =
            Operation::Transfer { state_hash: Digest([state; 32]), evidence: Digest([2; 32]), retained: true, staged };
        self.apply((record.epoch, record.version), transfer, &[from.key()]).unwrap()
    }

    /// The broker's reply to a message.
    pub fn reply(&mut self, message: Message) -> Message {
        use dunlin_handover::codec::Wire as _;
        self.wire.push(message.to_bytes());
        let mut input = Input::Message(message);
        loop {
            input = match self.broker.step(input, self.now) {
                Output::Reply(message) => {
                    self.wire.push(message.to_bytes());
                    assert_eq!(Message::from_bytes(&message.to_bytes()).as_ref(), Ok(&message));
                    return message;
                }
                Output::ReadLedger { session, service, nonce } => {
                    let Ok(reading) = self.ledger.read(service, nonce);
                    Input::Ledger(session, reading.ok().and_then(self.reading).map(Box::new))
                }
                Output::Record { session, release } => {
                    if self.records {
                        self.released.push(release);
                    }
                    Input::Recorded(session, self.records)
                }
            };
        }
    }

    /// Asks as `instance` does.
    pub fn ask(&mut self, instance: &Instance, want: Want) -> Result<Released, FetchError> {
        self.number += 1;
        let nonce = Nonce(Digest::of(&self.number.to_le_bytes()).0);
        let (fetch, hello) = Fetch::begin(&instance.party, want, nonce, [0; 32]);
        let challenged = fetch.challenged(self.reply(hello))?;
        let evidence = instance.evidence(challenged.binding());
        let (asked, ask) = challenged.ask(&evidence, &Endorsements::default());
        asked.answered(self.reply(ask))
    }

    pub fn keys(&mut self, instance: &Instance) -> Result<(u64, Option<u64>), Denied> {
        match self.ask(instance, Want::Keys) {
            Ok(Released::Keys { own, written }) => {
                assert_eq!(own.expose(), root().epoch_key(SERVICE.0, own.epoch()).expose());
                Ok((own.epoch(), written.map(|key| key.epoch())))
            }
            Ok(other) => panic!("{other:?}"),
            Err(FetchError::Denied(denied)) => Err(denied),
            Err(other) => panic!("{other}"),
        }
    }
}

pub fn broker_key() -> VerifyingKey {
    signing(3).verifying_key()
}
