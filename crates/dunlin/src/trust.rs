//! Trusted surroundings for a program that runs by itself: everything that a keep gets from its platform, its broker and
//! its ledger is embedded here, over a simulated machine. The way to a secret is the real one: evidence, policy, ledger,
//! encryption to the attested key.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use dunlin_attest::{Attester as _, BindingContext, Bytes, Policy, SigningKey, TpmEvent, TpmEventKind};
use dunlin_attest_sim::SimAttester;
use dunlin_base::{Digest, with_causes};
use dunlin_broker::{
    Broker, Brokers, Denied, FetchError, KemKey, Party, ReleaseLog, Released, Roots, Surroundings, Vault, Want,
    signing_key,
};
use dunlin_engine::{Engine, Entry, Instance, Outcome, Settings, Tier};
use dunlin_handover::ledger::{Ledger as _, MemoryLedger, Operation, Reading, Recovery, Request, Signer as _};
use dunlin_handover::{Entropy, Nonce, OperationId, PlatformId, ServiceId};
use dunlin_host::trust::{MAX_VALUE, Trust, TrustError};
use dunlin_host::{Capture, Config, Input, Limits, Output, World};
use dunlin_identity::{PrivateKey, Verifier};
use dunlin_instrument::{Options, Poll, Variant};
use dunlin_seal::{SealedValues, harden};
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure, Result};
use crate::module::Module;
use crate::text;

/// The name of the simulated machine, of its provider and of the embedded ledger.
const MACHINE: &str = "local";
/// The epoch of the first holder, which this instance always is: the embedded ledger forgets.
const EPOCH: u64 = 2;

/// Trusted surroundings for the program.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Trust (simulated)")]
pub(crate) struct TrustArgs {
    /// Offer evidence, the owner's secrets and a sealed store; keys and values are kept in DIR. SIMULATED: it protects from
    /// nobody who can read DIR
    #[arg(long, value_name = "DIR")]
    trust: Option<PathBuf>,
    /// A module that the program may run by this name
    #[arg(long = "trusted", value_name = "NAME=FILE", value_parser = named, requires = "trust")]
    modules: Vec<(String, PathBuf)>,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    let wrong = || format!("{text:?} is not NAME=FILE");
    let (name, path) =
        text.split_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty()).ok_or_else(wrong)?;
    Ok((name.to_owned(), path.into()))
}

impl TrustArgs {
    /// Adds the surroundings to what the program is offered, if they are asked for.
    pub(crate) fn offer(&self, config: Config, module: &Module) -> Result<Config> {
        let Some(folder) = &self.trust else { return Ok(config) };
        harden().map_err(broken)?;
        let mut modules = BTreeMap::new();
        for (name, path) in &self.modules {
            modules.insert(name.clone(), Module::read(path)?);
        }
        let embedded = Embedded::new(folder, &module.wasm, modules)?;
        text::note("the program's trusted surroundings are SIMULATED: they prove nothing about this machine");
        Ok(config.trust(Arc::new(embedded)))
    }
}

/// The service of a module that runs by itself: it has no other name.
pub(crate) fn service_of(module: &[u8]) -> ServiceId {
    let digest = Digest::of(&[b"dunlin run: service of module\0", &Digest::of(module).0[..]].concat());
    let mut id = [0; 16];
    id.copy_from_slice(&digest.0[..16]);
    ServiceId(id)
}

/// Everything, in one process.
#[derive(Debug)]
struct Embedded {
    party: Party,
    attester: SimAttester,
    broker: Mutex<Broker>,
    log: Mutex<ReleaseLog>,
    ledger: EmbeddedLedger,
    values: Mutex<SealedValues>,
    modules: BTreeMap<String, Module>,
}

#[derive(Debug)]
struct EmbeddedLedger(Mutex<MemoryLedger>);

impl Surroundings for EmbeddedLedger {
    fn read_ledger(&self, service: ServiceId, nonce: Nonce) -> Option<Reading> {
        let Ok(reading) = self.0.lock().unwrap_or_else(PoisonError::into_inner).read(service, nonce);
        reading.ok()
    }

    fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

impl Embedded {
    fn new(folder: &Path, module: &[u8], modules: BTreeMap<String, Module>) -> Result<Self> {
        let service = service_of(module);
        let module = Digest::of(module);
        let [owner, ledger_key, instance, platform] = generate()?;
        let broker_key = attest_key(&generate::<1>()?[0])?;
        let attester = SimAttester::of_this_program(MACHINE).map_err(broken)?;
        let policy = policy(&attester, module, &attest_key(&owner)?, &attest_key(&ledger_key)?, &broker_key)?;
        for (kind, digest) in [(TpmEventKind::Module, module), (TpmEventKind::Policy, policy.hash())] {
            attester.measure(TpmEvent { kind, digest }).map_err(broken)?;
        }
        let mut ledger = MemoryLedger::new(Arc::new(Verifier::certified()), Arc::new(ledger_key.clone()));
        hold(&mut ledger, service, &policy, &owner, &instance, &platform)?;

        let vault = Vault::open(folder.join("broker")).map_err(broken)?;
        let log = ReleaseLog::open(&vault.path().join("releases")).map_err(broken)?;
        let roots = Roots::WithSimulation(dunlin_attest_sim::roots([MACHINE]).map_err(broken)?);
        let entropy = Entropy::new(random()?);
        let mut broker = Broker::new(broker_key.clone(), Arc::new(Verifier::certified()), roots, entropy);
        broker.keep(service, vault.service(service, policy.clone(), ledger_key.key()).map_err(broken)?);

        let party = Party {
            service,
            name: policy.document().service.clone(),
            epoch: EPOCH,
            instance: attest_key(&instance)?,
            kem: Arc::new(KemKey::from_seed(&Zeroizing::new(random()?))),
            module,
            policy: policy.hash(),
            provider: MACHINE.to_owned(),
            ledger: MACHINE.to_owned(),
            brokers: Brokers::of(&policy, ledger_key.key()),
        };
        let (broker, log, ledger) = (Mutex::new(broker), Mutex::new(log), EmbeddedLedger(Mutex::new(ledger)));
        let ask = || ask(&party, &attester, &broker, &log, &ledger, Want::Keys);
        let seal = match ask().map_err(broken)? {
            Released::Keys { own, .. } => own.objects(),
            Released::Secret(_) => return Err(Failure::new(Exit::Software, "the broker gave a secret for a key")),
        };
        let values = SealedValues::open(folder.join("values").join(service.to_string()), seal).map_err(broken)?;
        Ok(Self { party, attester, broker, log, ledger, values: Mutex::new(values), modules })
    }

    fn values(&self) -> std::sync::MutexGuard<'_, SealedValues> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trust for Embedded {
    fn attest(&self, challenge: &[u8; 32]) -> Result<Vec<u8>, TrustError> {
        let Party { instance, kem, name, epoch, policy, module, provider, ledger, .. } = &self.party;
        let kem_key = Bytes::from(kem.public());
        let binding = BindingContext {
            service: name.clone(),
            epoch: *epoch,
            policy: *policy,
            module: *module,
            provider: provider.clone(),
            ledger: ledger.clone(),
            ..BindingContext::outside_of_a_session(*challenge, instance.verifying_key(), kem_key)
        };
        let evidence = self.attester.evidence(&binding.report_data()).map_err(failed)?;
        let endorsements = self.attester.endorsements().map_err(failed)?;
        Ok(evidence.for_program(&binding, &endorsements))
    }

    fn authenticate(&self, name: &str) -> Result<Vec<u8>, TrustError> {
        let want = Want::Secret(name.to_owned());
        match ask(&self.party, &self.attester, &self.broker, &self.log, &self.ledger, want) {
            Ok(Released::Secret(secret)) => Ok(secret.to_vec()),
            Ok(Released::Keys { .. }) => Err(TrustError::Failed("the broker gave keys for a secret".to_owned())),
            Err(FetchError::Denied(Denied::NoSuchSecret)) => Err(TrustError::NotFound),
            Err(FetchError::Denied(denied)) => Err(TrustError::Denied(denied.to_string())),
            Err(error) => Err(failed(error)),
        }
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, TrustError> {
        self.values().get(key).map_err(failed)?.ok_or(TrustError::NotFound)
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), TrustError> {
        self.values().put(key, value).map_err(failed)
    }

    fn keys(&self) -> Result<Vec<String>, TrustError> {
        Ok(self.values().keys().map(str::to_owned).collect())
    }

    fn replace(&self, values: &[(String, Vec<u8>)]) -> Result<(), TrustError> {
        self.values().replace(values.iter().map(|(key, value)| (key.as_str(), value.as_slice()))).map_err(failed)
    }

    fn run(&self, module: &str, configuration: &[u8]) -> Result<Vec<u8>, TrustError> {
        let module = self.modules.get(module).ok_or(TrustError::NotFound)?;
        carry_out(module, configuration).map_err(failed)?
    }
}

/// Runs a module from its beginning to its end, with nothing but its input and its output.
fn carry_out(module: &Module, configuration: &[u8]) -> Result<Result<Vec<u8>, TrustError>> {
    let engine =
        Engine::new(Tier::Cranelift, Settings::default()).map_err(Failure::engine("the engine cannot start"))?;
    let compiled = module.compile(&engine, Options { poll: Poll::Flag, variant: Variant::Fresh })?;
    let output = Capture::new();
    let limits = Limits { output_bytes: Some(MAX_VALUE as u64), ..Limits::default() };
    let config = Config::new()
        .arg("trusted")
        .limits(limits)
        .stdin(Input::Bytes(configuration.to_vec()))
        .stdout(Output::Capture(output.clone()));
    let world = World::new(config).map_err(broken)?;
    let limits = dunlin_engine::Limits { memory_bytes: 1 << 30, table_elements: 1 << 20 };
    let mut instance = Instance::new(&compiled.code, Box::new(world), limits)
        .map_err(Failure::engine("the trusted module cannot be started"))?;
    let outcome = instance.run(&Entry::command()).map_err(Failure::engine("the trusted module cannot be run"))?;
    Ok(match outcome {
        Outcome::Finished(_) | Outcome::Exited(0) => Ok(output.contents()),
        Outcome::Exited(code) => Err(TrustError::Failed(format!("the trusted module ended with code {code}"))),
        Outcome::Trapped(trap) => Err(TrustError::Failed(format!("the trusted module trapped: {}", trap.message))),
        Outcome::Stopped => Err(TrustError::Failed("the trusted module was stopped".to_owned())),
    })
}

/// One question, over a pair of sockets.
fn ask(
    party: &Party,
    attester: &SimAttester,
    broker: &Mutex<Broker>,
    log: &Mutex<ReleaseLog>,
    ledger: &EmbeddedLedger,
    want: Want,
) -> Result<Released, FetchError> {
    let (near, far) = UnixStream::pair()?;
    let nonce = Nonce(random().map_err(|_| io::Error::other("the system gives no random numbers"))?);
    std::thread::scope(|scope| {
        // It ends when the other side is dropped; what went wrong is told to the asker.
        scope.spawn(move || drop(dunlin_broker::serve(far, broker, log, ledger)));
        dunlin_broker::fetch(near, party, want, attester, nonce)
    })
}

/// Makes the instance the holder.
fn hold(
    ledger: &mut MemoryLedger,
    service: ServiceId,
    policy: &Policy,
    owner: &PrivateKey,
    instance: &PrivateKey,
    platform: &PrivateKey,
) -> Result<()> {
    let create = Operation::Create {
        owner: owner.key(),
        state_hash: Digest([0; 32]),
        policy_hash: policy.hash(),
        policy_version: policy.document().version,
        recovery: Recovery::default(),
    };
    let claim =
        Operation::Claim { holder: instance.key(), platform: PlatformId(platform.key().0), evidence: Digest([0; 32]) };
    let steps = [(0, create, vec![owner]), (1, claim, vec![instance, platform])];
    for (epoch, action, signers) in steps {
        let operation = OperationId([epoch as u8; 16]);
        let request = Request::new(service, operation, epoch, 0, action);
        let request = signers.into_iter().fold(request, |request, signer| request.signed(signer));
        let Ok(answer) = ledger.apply(&request);
        answer.map_err(broken)?;
    }
    Ok(())
}

fn policy(
    attester: &SimAttester,
    module: Digest,
    owner: &SigningKey,
    ledger: &SigningKey,
    broker: &SigningKey,
) -> Result<Policy> {
    let (runtime, ledger, broker) = (attester.runtime(), ledger.verifying_key(), broker.verifying_key());
    let text = format!(
        r#"format = 1
service = "{MACHINE}"
version = 1
issued = 2020-01-01T00:00:00Z
expires = 2120-01-01T00:00:00Z
class_floor = "sim"
modules = ["sha256:{module}"]
[sim]
accept = [{{ runtime = "{runtime}" }}]
[[provider]]
id = "{MACHINE}"
key = "{ledger}"
platforms = ["sim:{MACHINE}"]
[ledger]
id = "{MACHINE}"
keys = ["{ledger}"]
quorum = 1
[broker]
keys = ["{broker}"]
"#
    );
    let object = Policy::sign(&text, owner).map_err(broken)?;
    Policy::verify(&object, MACHINE, &[owner.verifying_key()], None).map_err(broken)
}

fn generate<const N: usize>() -> Result<[PrivateKey; N]> {
    let keys: Vec<_> = (0..N).map(|_| PrivateKey::generate().map_err(broken)).collect::<Result<_>>()?;
    keys.try_into().map_err(|_| Failure::new(Exit::Software, "keys were lost"))
}

fn attest_key(key: &PrivateKey) -> Result<SigningKey> {
    signing_key(&key.to_pkcs8().map_err(broken)?).ok_or_else(|| Failure::new(Exit::Software, "a new key is none"))
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(Failure::because(Exit::Software, "the system gives no random numbers"))?;
    Ok(bytes)
}

fn broken<E: Into<Box<dyn std::error::Error + Send + Sync>>>(error: E) -> Failure {
    Failure::because(Exit::Config, "the trusted surroundings cannot be made")(error)
}

fn failed(error: impl std::error::Error) -> TrustError {
    TrustError::Failed(with_causes(&error))
}

/// Reads a root for a sealed volume from a key file, which is made the first time.
pub(crate) fn volume_root(path: &Path) -> Result<dunlin_seal::ServiceRoot> {
    if path.exists() {
        return dunlin_seal::ServiceRoot::from_file(path)
            .map_err(Failure::because(Exit::NoInput, "the volume's key cannot be read"));
    }
    let root = dunlin_seal::ServiceRoot::create_file(path)
        .map_err(Failure::because(Exit::CannotCreate, "the volume's key cannot be made"))?;
    text::note(format!("made a new key for the volume: {}", path.display()));
    Ok(root)
}

/// What seals a volume that one machine uses by itself: there is no ledger, so there is one epoch.
pub(crate) fn volume_seal(path: &Path) -> Result<dunlin_seal::VolumeSeal> {
    let root = volume_root(path)?;
    Ok(dunlin_seal::VolumeSeal::new(&root.epoch_key([0; 16], 1), None))
}

/// The vault in the folder that `--trust` takes, and the service of a module in it.
pub(crate) fn vault_of(folder: &Path, module: &Path) -> Result<(Vault, ServiceId)> {
    let service = service_of(&Module::read(module)?.wasm);
    Ok((Vault::open(folder.join("broker")).map_err(broken)?, service))
}
