//! A service, its ledger and its world: two places in this process, between which it moves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use dunlin_base::{Digest, Value, ValueType};
use dunlin_engine::{Code, Engine, Entry, Flow, Host, Instance, Limits, Outcome, Prepared, Settings, Tier, Tracker};
use dunlin_handover::ledger::{Candidate, Checks, Ledger, MemoryLedger, Operation, Record, Recovery, Request, Signer};
use dunlin_handover::message::{Blocked, Offer};
use dunlin_handover::{Key, Keys, Nonce, OperationId, PlatformId, ServiceId};
use dunlin_instrument::{Options as PassOptions, PASS_VERSION, Poll, Variant, instrument};
use dunlin_keep::migrate::{Lodging, Resident, Runner, Shelf};
use dunlin_seal::LocalKey;
use dunlin_snapshot::{Envelope, Snapshot, State};

use crate::hands::Hands;

pub(crate) const SERVICE: ServiceId = ServiceId([5; 16]);

/// Where states are on storage: sealed, in every test.
pub(crate) fn shelf(path: &Path) -> Shelf {
    Shelf::sealed(path, Arc::new(LocalKey::derived(b"the machine of both places").objects(SERVICE.0)))
}

/// Dirties pages at random places in each round, copies a block, and grows now and then.
macro_rules! guest {
    (pages: $pages:literal, copy_to: $to:literal, copied: $length:literal) => {
        concat!(
            r#"(module
    (import "env" "more" (func $more (param i32) (result i32)))
    (memory (export "memory") 40 200)
    (data (i32.const 70000) "data that a fresh instance has")
    (func (export "run") (result i64)
        (local $i i32) (local $n i32) (local $sum i64) (local $seed i32)
        (block $out (loop $again
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (local.set $i (i32.const 0))
            (loop $page
                (local.set $seed (i32.add (i32.mul (local.get $seed) (i32.const 1664525)) (i32.const 1013904223)))
                (i32.store (i32.mul (i32.rem_u (i32.shr_u (local.get $seed) (i32.const 8)) (i32.const "#,
            $pages,
            r#")) (i32.const 4096))
                    (local.get $seed))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $page (i32.lt_u (local.get $i) (i32.const 20))))
            (memory.fill (i32.const 70000) (i32.const 0) (i32.const 30))
            (if (i32.eqz (i32.rem_u (local.get $n) (i32.const 50))) (then
                (drop (memory.grow (i32.const 1)))
                (memory.copy (i32.const "#,
            $to,
            r#") (i32.const 0) (i32.const "#,
            $length,
            r#"))
                (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 16)) (local.get $n))))
            (br_if $out (i32.eqz (call $more (local.get $n))))
            (br $again)))
        (local.set $i (i32.const 0))
        (loop $add
            (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31)) (i64.load (local.get $i))))
            (local.set $i (i32.add (local.get $i) (i32.const 8)))
            (br_if $add (i32.lt_u (local.get $i) (i32.mul (memory.size) (i32.const 65536)))))
        (i64.add (local.get $sum) (i64.extend_i32_u (local.get $n)))))"#
        )
    };
}

pub(crate) const GUEST: &str = guest!(pages: 600, copy_to: 1000000, copied: 400000);
/// The same with little memory, for tests in which a move is made once for each thing that happens in it.
pub(crate) const SMALL: &str = guest!(pages: 60, copy_to: 262144, copied: 65536);

/// The world of the program: how far it is, and how far it is to go. Shared by all places, as a client would be.
#[derive(Debug)]
pub(crate) struct Outside {
    pub(crate) reached: AtomicI32,
    limit: AtomicI32,
    /// Whether the instance that is inside the world at this moment lives; nothing when nobody is inside.
    inside: Mutex<Option<Arc<AtomicBool>>>,
    /// The next round may be an earlier one, but none before this.
    back_to: Mutex<Option<i32>>,
    nap: Duration,
    /// Bytes that the host writes into each page of memory in every round.
    writes: AtomicBool,
}

/// The way of one instance to the world, until it is killed.
struct Door {
    outside: Arc<Outside>,
    alive: Arc<AtomicBool>,
}

impl Host for Door {
    fn resolve(&self, module: &str, name: &str, _: &[ValueType], _: &[ValueType]) -> Option<u32> {
        (module == "env" && name == "more").then_some(0)
    }

    fn call(&mut self, _: u32, memory: &mut [u8], args: &[Value], results: &mut [Value]) -> Flow {
        let [Value::I32(round)] = args else { return Flow::Trap("another type".to_owned()) };
        let outside = &self.outside;
        {
            let mut back_to = outside.back_to.lock().unwrap();
            // One that was killed has no effects.
            if !self.alive.load(Ordering::SeqCst) {
                return Flow::Trap("it was killed".to_owned());
            }
            // One that was killed in here leaves when the processor gets round to it, and has had its effect.
            let other = outside.inside.lock().unwrap().replace(self.alive.clone());
            let other = other.is_some_and(|other| other.load(Ordering::SeqCst));
            assert!(!other, "two instances have effects at once");
            // No round is lost and none is done twice, wherever the program runs.
            let before = outside.reached.swap(*round, Ordering::SeqCst);
            match *back_to {
                Some(earliest) if *round <= before => {
                    assert!(earliest < *round, "round {round} is older than what was committed after {earliest}");
                    *back_to = None;
                }
                _ => assert_eq!(before + 1, *round),
            }
        }
        if outside.writes.load(Ordering::SeqCst) {
            let mark = round.to_le_bytes();
            for page in memory.chunks_mut(4096).step_by(3).skip(40) {
                page[100..104].copy_from_slice(&mark);
            }
        }
        if !outside.nap.is_zero() {
            thread::sleep(outside.nap);
        }
        outside.inside.lock().unwrap().take_if(|inside| Arc::ptr_eq(inside, &self.alive));
        results[0] = Value::I32(i32::from(*round < outside.limit.load(Ordering::SeqCst)));
        Flow::Return
    }
}

fn outside(limit: i32, nap: Duration, writes: bool) -> Arc<Outside> {
    Arc::new(Outside {
        reached: AtomicI32::new(0),
        limit: AtomicI32::new(limit),
        inside: Mutex::new(None),
        back_to: Mutex::new(None),
        nap,
        writes: AtomicBool::new(writes),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TestKey(pub(crate) Key);

pub(crate) fn named(name: &str) -> TestKey {
    TestKey(Key(Digest::of(name.as_bytes()).0))
}

impl Signer for TestKey {
    fn key(&self) -> Key {
        self.0
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        Digest::of(&[b"test signature", &self.0.0[..], message].concat()).0.to_vec()
    }
}

#[derive(Debug)]
pub(crate) struct TestChecks;

impl Checks for TestChecks {
    fn verify(&self, key: Key, message: &[u8], signature: &[u8]) -> bool {
        TestKey(key).sign(message) == signature
    }

    fn appraise(&self, _: &Candidate<'_>) -> Result<(), String> {
        Ok(())
    }
}

pub(crate) fn keys(holder: TestKey, platform: TestKey) -> Keys {
    Keys {
        holder: Arc::new(holder),
        platform: Arc::new(platform),
        checks: Arc::new(TestChecks),
        ledger: named("ledger").0,
    }
}

/// What a program is built from. Compiled once for each text and engine.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) wasm: Arc<[u8]>,
    pub(crate) code: Code,
}

impl Program {
    pub(crate) fn new(tier: Tier, text: &'static str) -> Self {
        static KNOWN: OnceLock<Mutex<BTreeMap<(&'static str, &'static str), Program>>> = OnceLock::new();
        let mut known = KNOWN.get_or_init(Mutex::default).lock().unwrap();
        let build = || {
            let wasm: Arc<[u8]> = wat::parse_str(text).unwrap().into();
            let engine = Engine::new(tier, Settings { wasm_stack: 1 << 20, ..Settings::default() }).unwrap();
            let options = PassOptions { poll: Poll::Flag, variant: Variant::Resume };
            let code = Code::instrumented(&engine, &instrument(&wasm, options).unwrap()).unwrap();
            Self { wasm, code }
        };
        known.entry((tier.name(), text)).or_insert_with(build).clone()
    }
}

/// One service, its ledger, and a directory.
pub(crate) struct World {
    pub(crate) program: Program,
    pub(crate) ledger: Arc<Mutex<MemoryLedger>>,
    pub(crate) outside: Arc<Outside>,
    pub(crate) directory: PathBuf,
    pub(crate) hands: Arc<Hands>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl World {
    pub(crate) fn new(tier: Tier, nap: Duration) -> Self {
        Self::of(Program::new(tier, GUEST), nap, false)
    }

    /// `writes`: the host writes into the program's memory, too.
    pub(crate) fn of(program: Program, nap: Duration, writes: bool) -> Self {
        let mut ledger = MemoryLedger::new(Arc::new(TestChecks), Arc::new(named("ledger")));
        let create = Operation::Create {
            owner: named("owner").0,
            state_hash: Digest::of(b"nothing yet"),
            policy_hash: Digest::of(b"policy"),
            policy_version: 1,
            recovery: Recovery::default(),
        };
        let (here, key) = (named("platform a"), named("first"));
        let claim = Operation::Claim { holder: key.0, platform: PlatformId(here.0.0), evidence: Digest::of(b"") };
        ledger.apply(&request(0, 0, create, 1).signed(&named("owner"))).unwrap().unwrap();
        ledger.apply(&request(1, 0, claim, 2).signed(&key).signed(&here)).unwrap().unwrap();
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let directory = std::env::temp_dir().join(format!("dunlin-migrate-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let outside = outside(i32::MAX, nap, writes);
        let hands = Arc::new(Hands::new(outside.clone(), directory.clone()));
        Self { program, ledger: Arc::new(Mutex::new(ledger)), outside, directory, hands }
    }

    pub(crate) fn record(&self) -> Record {
        let mut ledger = self.ledger.lock().unwrap();
        ledger.read(SERVICE, Nonce([1; 32])).unwrap().unwrap().record
    }

    pub(crate) fn door(&self, alive: &Arc<AtomicBool>) -> Box<dyn Host> {
        Box::new(Door { outside: self.outside.clone(), alive: alive.clone() })
    }

    /// Begins the program from its beginning, in a place that lives as long as `alive` says so.
    pub(crate) fn start(&self, alive: &Arc<AtomicBool>) -> (Runner, Tracker) {
        let mut instance = Instance::new(&self.program.code, self.door(alive), Limits::default()).unwrap();
        let tracker = instance.tracker(false).unwrap();
        (Runner::start(instance, entries(), false, Box::new(Here { version: 0 })).unwrap(), tracker)
    }

    pub(crate) fn wait_for(&self, rounds: i32) {
        while self.outside.reached.load(Ordering::SeqCst) < rounds {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets the program end some rounds later, and compares its result with that of an undisturbed run.
    pub(crate) fn check(&self, runner: &Runner) {
        let limit = self.outside.reached.load(Ordering::SeqCst) + 30;
        self.outside.limit.store(limit, Ordering::SeqCst);
        let ended = runner.wait().unwrap();
        let limit = self.outside.reached.load(Ordering::SeqCst);
        let undisturbed = outside(limit, Duration::ZERO, self.outside.writes.load(Ordering::SeqCst));
        let door = Box::new(Door { outside: undisturbed, alive: Arc::new(AtomicBool::new(true)) });
        let mut undisturbed = Instance::new(&self.program.code, door, Limits::default()).unwrap();
        assert_eq!(ended, undisturbed.run(&entries()).unwrap());
        assert!(matches!(ended, Outcome::Finished(_)));
    }
}

impl Outside {
    /// From here on the program may once go on from an earlier state, but from none before round `earliest` was done.
    pub(crate) fn roll_back(&self, earliest: i32) {
        *self.back_to.lock().unwrap() = Some(earliest);
    }

    /// It did not come to that.
    pub(crate) fn roll_back_no_more(&self) {
        *self.back_to.lock().unwrap() = None;
    }

    /// Ends the effects of whoever asks `alive`.
    pub(crate) fn kill(&self, alive: &AtomicBool) {
        {
            let _no_effect_begins = self.back_to.lock().unwrap();
            alive.store(false, Ordering::SeqCst);
        }
        // One that has begun ends.
        while self.inside.lock().unwrap().as_ref().is_some_and(|inside| core::ptr::eq(&**inside, alive)) {
            thread::sleep(Duration::from_micros(50));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.directory);
    }
}

/// A request to the ledger, not yet signed.
pub(crate) fn request(epoch: u64, version: u64, action: Operation, id: u8) -> Request {
    let operation = OperationId([id; 16]);
    Request::new(SERVICE, operation, epoch, version, action)
}

pub(crate) fn entries() -> Vec<Entry> {
    vec![Entry::Export("run".to_owned())]
}

pub(crate) struct Here {
    pub(crate) version: u64,
}

impl Resident for Here {
    fn version(&self) -> u64 {
        self.version
    }

    fn rest(&mut self, instance: &mut Instance) -> Result<Vec<u8>, String> {
        let map = instance.code().map().unwrap().clone();
        let state = instance.capture_rest().map_err(|error| error.to_string())?;
        let module = dunlin_snapshot::Module { digest: map.module, embedded: None };
        let snapshot = Snapshot {
            module,
            map_digest: map.digest(),
            pass_version: PASS_VERSION,
            features: dunlin_snapshot::Features::default(),
            product: None,
            state,
            extra: Vec::new(),
        };
        dunlin_snapshot::rest(&snapshot).map_err(|error| error.to_string())
    }
}

/// Watches a running program from now on.
pub(crate) fn watch(runner: &Runner) -> Tracker {
    runner.stand().unwrap();
    let tracker = runner.look(|instance, _| instance.tracker(false)).unwrap().unwrap();
    runner.go_on();
    tracker
}

/// Reads the state besides memory.
pub(crate) fn state(code: &Code, rest: &[u8]) -> Result<State, String> {
    let envelope = Envelope::open(rest, &dunlin_snapshot::Limits::default()).map_err(|error| error.to_string())?;
    Ok(envelope.decode(code.map().unwrap()).map_err(|error| error.to_string())?.state)
}

/// A place to which the program can move.
pub(crate) struct There {
    pub(crate) code: Code,
    pub(crate) outside: Arc<Outside>,
    pub(crate) alive: Arc<AtomicBool>,
    pub(crate) instance: Option<Instance>,
    pub(crate) runner: Option<Runner>,
    pub(crate) wants_module: bool,
    /// Chunks of a volume that came.
    pub(crate) stored: Vec<Vec<u8>>,
    /// How long its storage takes, once, to have something stable.
    pub(crate) storage: Duration,
}

impl There {
    fn door(&self) -> Box<dyn Host> {
        Box::new(Door { outside: self.outside.clone(), alive: self.alive.clone() })
    }
}

impl Lodging for There {
    fn judge(&mut self, _: &Offer) -> (Vec<Blocked>, bool) {
        (Vec::new(), self.wants_module)
    }

    fn prepare(&mut self, digest: &Digest, module: Option<Vec<u8>>) -> Result<Prepared, String> {
        assert_eq!(module.is_some(), self.wants_module);
        if module.is_some_and(|module| Digest::of(&module) != *digest) {
            return Err("the module is another one".to_owned());
        }
        Prepared::new(&self.code, self.door(), Limits::default()).map_err(|error| error.to_string())
    }

    fn store_volume(&mut self, chunks: &[Vec<u8>]) -> Result<(), String> {
        thread::sleep(Duration::from_millis(40));
        self.stored.extend_from_slice(chunks);
        Ok(())
    }

    fn sync_volume(&mut self) -> Result<(), String> {
        thread::sleep(core::mem::take(&mut self.storage));
        Ok(())
    }

    fn sizes(&mut self, rest: &[u8]) -> Result<Vec<u64>, String> {
        Ok(state(&self.code, rest)?.memories.iter().map(|memory| memory.size).collect())
    }

    fn restore(&mut self, prepared: Prepared, rest: &[u8]) -> Result<(), String> {
        let instance = prepared.finish(&state(&self.code, rest)?, self.door());
        self.instance = Some(instance.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn run(&mut self, record: &Record) -> Result<(), String> {
        let instance = self.instance.take().ok_or("nothing was restored")?;
        let here = Box::new(Here { version: record.version });
        self.runner = Some(Runner::start(instance, entries(), true, here).map_err(|error| error.to_string())?);
        Ok(())
    }

    fn pause(&mut self) {
        self.runner.as_ref().unwrap().pause();
    }

    fn unpause(&mut self) {
        self.runner.as_ref().unwrap().unpause();
    }

    fn is_fresh(&self) -> Box<dyn Fn(usize, u64, &[u8]) -> bool + Send> {
        let code = self.code.clone();
        Box::new(move |memory, number, page| code.is_fresh(memory, number, page))
    }

    fn fence(&mut self) {
        self.runner = None;
    }
}
