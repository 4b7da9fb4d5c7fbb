//! Running a program: entries, stops, and what becomes of it.

use core::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dunlin_base::{Value, ValueType};
use dunlin_instrument::{ControlLayout, ControlState, Map, exports};
use dunlin_snapshot::{Entry, State};

use crate::capture::{self, Pages};
use crate::engine::{Code, CompiledModule};
use crate::error::{Error, Outcome};
use crate::host::Host;
use crate::limits::Limits;
use crate::live::{Shadow, Tracker};
use crate::machine::{Callee, End, Machine};
use crate::memory::MemorySizes;
use crate::module::Signature;
use crate::restore;
use crate::setup;
use crate::stack;
use crate::stop::StopHandle;
use crate::wasmi::WasmiMachine;
use crate::wasmtime::WasmtimeMachine;

/// What can be done with an instance next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// No frame is on its stack: functions can be called.
    Idle,
    /// Its stack is saved in the control memory.
    Stopped,
    /// Restored, not yet resumed; the outermost frame is of this function.
    Restored(u32),
    /// The program has exited, been captured, or could not be rebuilt: its state can be looked at, nothing more.
    Over,
}

/// A program in memory.
pub struct Instance {
    code: Code,
    machine: Box<dyn Machine>,
    stop: StopHandle,
    condition: Condition,
    /// The entry that was called last: that of the stack, if there is one.
    entry: Option<Entry>,
    stopped_at: Option<Instant>,
}

impl Instance {
    /// Creates a fresh instance. No code of the program runs yet.
    ///
    /// # Errors
    /// [`Error::Imports`] with everything that the host lacks, [`Error::Limit`] if the module needs more than the
    /// limits allow from the start, [`Error::Instantiate`] for what the engine refuses, among it segments that
    /// do not fit.
    pub fn new(code: &Code, host: Box<dyn Host>, limits: Limits) -> Result<Self, Error> {
        let compiled = code.compiled();
        let (info, map) = (&compiled.info, compiled.map.as_deref());
        let imports = setup::imports(info, &*host)?;
        setup::check_limits(info, map, &limits)?;
        let stop = StopHandle::new();
        let machine: Box<dyn Machine> = match &compiled.module {
            CompiledModule::Wasmtime(backend, module) => {
                let parts = crate::wasmtime::Parts { tier: compiled.engine.tier(), backend, module, info, map };
                Box::new(WasmtimeMachine::new(&parts, imports, host, limits, &stop)?)
            }
            CompiledModule::Wasmi(module) => {
                Box::new(WasmiMachine::new(module, info, map, imports, host, limits, &stop)?)
            }
        };
        Ok(Self { code: code.clone(), machine, stop, condition: Condition::Idle, entry: None, stopped_at: None })
    }

    /// Creates an instance that goes on from `state` when it is [resumed](Instance::resume). `code` is the
    /// resumable variant of the module that the state was captured from. `state.host` is not looked at: the host is
    /// restored by whoever made it.
    ///
    /// # Errors
    /// [`Error::State`] if the state is not one of this module, [`Error::Limit`] if it exceeds the limits, and as
    /// [`Instance::new`].
    pub fn restore(code: &Code, state: &State, host: Box<dyn Host>, limits: Limits) -> Result<Self, Error> {
        let map = code.map().ok_or(Error::NotMovable)?;
        if !code.compiled().info.resumable {
            return Err(Error::NotResumable);
        }
        crate::validate::state(state, map, &code.compiled().info, &limits)?;
        let mut instance = Self::new(code, host, limits)?;
        let drops = code.compiled().info.exported_functions.contains_key(exports::DROP);
        let engine = code.engine();
        let machine = &mut *instance.machine;
        let info = &code.compiled().info;
        stack::occupy(engine.settings().wasm_stack, || restore::write(machine, map, info, state, drops, None))??;
        let outermost = state.frames.first().and_then(|frame| map.safepoint(frame.safepoint));
        instance.condition = Condition::Restored(outermost.map_or(0, |safepoint| safepoint.function));
        instance.entry.clone_from(&state.entry);
        Ok(instance)
    }

    /// What it was made from.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// The entry that was called last, or in which a restored program stopped.
    pub fn entry(&self) -> Option<&Entry> {
        self.entry.as_ref()
    }

    /// A handle with which any thread can stop the program.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// The world around the program. Upcast it to `&mut dyn Any` to get at a concrete host.
    pub fn host_mut(&mut self) -> &mut dyn Host {
        self.machine.host()
    }

    /// Runs the entries one after the other. [`Outcome::Finished`] has the results of the last.
    ///
    /// # Errors
    /// [`Error::Condition`] if the program has stopped or is over, [`Error::NoExport`] and [`Error::Arguments`] if
    /// an entry is not an exported function without parameters; nothing has run then.
    pub fn run(&mut self, entries: &[Entry]) -> Result<Outcome, Error> {
        self.expect_idle()?;
        self.check_entries(entries)?;
        self.run_from(None, entries)
    }

    /// Calls one exported function.
    ///
    /// # Errors
    /// As [`Instance::run`], and [`Error::Value`] if an argument or result cannot be expressed.
    pub fn invoke(&mut self, name: &str, args: &[Value]) -> Result<Outcome, Error> {
        self.expect_idle()?;
        self.check_arguments(name, args)?;
        let engine = self.code.engine().clone();
        self.entry = Some(Entry::Export(name.to_owned()));
        let machine = &mut *self.machine;
        let end = stack::occupy(engine.settings().wasm_stack, || machine.call(Callee::Export(name), args))?;
        self.conclude(end?)
    }

    /// Goes on where a restored program stopped, and then with the entries behind the one that was on the stack.
    /// `entries` are the same as were given to [`Instance::run`], or none if the program had been
    /// [invoked](Instance::invoke).
    ///
    /// # Errors
    /// [`Error::Condition`] if the instance was not restored or already resumed, [`Error::Entry`] if there are
    /// `entries` and not exactly one is that on the stack, [`Error::Rewind`] if the stack cannot be rebuilt, in which
    /// case nothing of the program has run.
    pub fn resume(&mut self, entries: &[Entry]) -> Result<Outcome, Error> {
        let Condition::Restored(function) = self.condition else {
            return Err(Error::Condition("was not restored, or has already been resumed"));
        };
        self.check_entries(entries)?;
        let entry = self.entry.clone().ok_or(Error::Condition("does not know which entry it stopped in"))?;
        let mut matching = (0..entries.len()).filter(|index| entries[*index] == entry);
        let following = match (matching.next(), matching.count()) {
            (Some(index), 0) => &entries[index + 1..],
            (None, _) if entries.is_empty() => &[],
            (first, more) => return Err(Error::Entry { entry, matches: usize::from(first.is_some()) + more }),
        };
        self.run_from(Some(function), following)
    }

    /// The saved state of a stopped program. The instance is over then; to go on in place, restore the state.
    ///
    /// # Errors
    /// [`Error::Condition`] if the program has not stopped, [`Error::Value`] if it holds a reference that cannot be
    /// carried, [`Error::Unwind`] if the saved stack is damaged.
    pub fn capture(&mut self) -> Result<State, Error> {
        self.map()?;
        if self.condition != Condition::Stopped {
            return Err(Error::Condition("has not stopped, so there is nothing to capture"));
        }
        let state = self.read(true, Pages::All)?;
        self.condition = Condition::Over;
        self.stop.detach();
        Ok(state)
    }

    /// The saved state of a stopped program without the contents of its memories, of which only the sizes are given.
    /// Unlike after [`Instance::capture`], the program can still [stay](Instance::stay).
    ///
    /// # Errors
    /// As [`Instance::capture`].
    pub fn capture_rest(&mut self) -> Result<State, Error> {
        self.map()?;
        if self.condition != Condition::Stopped {
            return Err(Error::Condition("has not stopped, so there is nothing to capture"));
        }
        self.read(true, Pages::None)
    }

    /// Lets a stopped program go on where it is, in its own memory, when it is [resumed](Instance::resume) next. The
    /// request that stopped it is forgotten.
    ///
    /// # Errors
    /// [`Error::Condition`] if the program has not stopped, [`Error::NotResumable`] if its code cannot resume,
    /// [`Error::Unwind`] if the saved stack is damaged.
    pub fn stay(&mut self) -> Result<(), Error> {
        let map = self.map()?.clone();
        if self.condition != Condition::Stopped {
            return Err(Error::Condition("has not stopped, so it need not be told to stay"));
        }
        if !self.code.compiled().info.resumable {
            return Err(Error::NotResumable);
        }
        let damaged = || Error::Unwind("the saved stack is damaged".to_owned());
        let function = capture::outermost(&*self.machine, &map).ok_or_else(damaged)?;
        self.stop.clear();
        self.stopped_at = None;
        self.machine.set_flags(0);
        self.machine.set_word(ControlLayout::STATE, ControlState::Rewinding as u32);
        self.condition = Condition::Restored(function);
        Ok(())
    }

    /// Watches which pages of its memories change, from any thread, while the program runs. `hashing` asks for the
    /// method that works everywhere even where there is a better one. To be asked for while the program does not run;
    /// where the engine's memory cannot be reached from other threads, the program makes copies of it from then on.
    ///
    /// # Errors
    /// [`Error::NotMovable`] for a module that is not instrumented.
    pub fn tracker(&mut self, hashing: bool) -> Result<Tracker, Error> {
        let memories = self.map()?.memories.len();
        let mappings: Option<Vec<_>> = (0..memories as u32).map(|index| self.machine.mapping(index)).collect();
        Ok(match mappings {
            Some(mappings) => Tracker::of_mappings(self.code.clone(), mappings, hashing),
            None => {
                let shadow = Arc::new(Shadow::default());
                self.machine.attach_shadow(shadow.clone());
                Tracker::of_shadow(self.code.clone(), shadow, memories)
            }
        })
    }

    /// How many memories the original module has.
    pub(crate) fn memories(&self) -> usize {
        self.code.map().map_or(0, |map| map.memories.len())
    }

    pub(crate) fn machine(&self) -> &dyn Machine {
        &*self.machine
    }

    pub(crate) fn machine_mut(&mut self) -> &mut dyn Machine {
        &mut *self.machine
    }

    /// Takes everything of `state` but the contents of memories, which are in place, and another host. `tables` is what is in
    /// the tables.
    pub(crate) fn finish(
        &mut self,
        state: &State,
        host: Box<dyn Host>,
        limits: &Limits,
        tables: &[Vec<Value>],
    ) -> Result<(), Error> {
        self.expect_idle()?;
        let map = self.map()?.clone();
        let info = &self.code.compiled().info;
        crate::validate::state(state, &map, info, limits)?;
        let numbers = |imports: setup::Imports| imports.into_iter().map(|import| import.number).collect::<Vec<_>>();
        if numbers(setup::imports(info, &*host)?) != numbers(setup::imports(info, &*self.machine.host())?) {
            return Err(Error::Condition("was prepared with a host that knows its imports by other numbers"));
        }
        self.machine.set_host(host);
        let drops = info.exported_functions.contains_key(exports::DROP);
        let wasm_stack = self.code.engine().settings().wasm_stack;
        let machine = &mut *self.machine;
        let mut write = || restore::write(machine, &map, info, state, drops, Some(tables));
        // Code only runs where segments are dropped, and a thread for it takes time while nobody runs.
        if drops && !(state.dropped_data.is_empty() && state.dropped_elems.is_empty()) {
            stack::occupy(wasm_stack, write)??;
        } else {
            write()?;
        }
        let outermost = state.frames.first().and_then(|frame| map.safepoint(frame.safepoint));
        self.condition = Condition::Restored(outermost.map_or(0, |safepoint| safepoint.function));
        self.entry.clone_from(&state.entry);
        Ok(())
    }

    /// Globals, tables, memories and dropped segments as [`Instance::capture`] would give them, without frames,
    /// whether the program has stopped, ended or not begun.
    ///
    /// # Errors
    /// [`Error::NotMovable`] for a module that is not instrumented, [`Error::Value`] as for [`Instance::capture`].
    pub fn observe(&mut self) -> Result<State, Error> {
        self.read(false, Pages::All)
    }

    /// Prepares a later capture while the program does not run: reads the identities of the functions that tables
    /// can hold.
    ///
    /// # Errors
    /// As [`Instance::observe`].
    pub fn prepare_capture(&mut self) -> Result<(), Error> {
        self.tables().map(drop)
    }

    /// What is in the program's tables.
    pub(crate) fn tables(&mut self) -> Result<Vec<Vec<Value>>, Error> {
        let count = self.map()?.tables.len() as u32;
        let tables = (0..count).map(|index| capture::table(&mut *self.machine, index)).collect();
        self.machine.forget_exceptions();
        tables
    }

    /// Safepoints until the program stops by itself; `None` if its module does not count.
    pub fn count(&mut self) -> Option<i64> {
        self.machine.count()
    }

    /// Sets after how many safepoints the program stops: 1 stops at the next. Zero or less does not stop.
    ///
    /// # Errors
    /// [`Error::NotMovable`] if the module does not count its safepoints.
    pub fn set_count(&mut self, count: i64) -> Result<(), Error> {
        if self.machine.set_count(count) { Ok(()) } else { Err(Error::NotMovable) }
    }

    /// How long the program took from the first request to the stop.
    pub fn time_to_stop(&self) -> Option<Duration> {
        Some(self.stopped_at?.saturating_duration_since(self.stop.requested_at()?))
    }

    /// Forgets a stop request that came while no frame was on the stack.
    ///
    /// # Errors
    /// [`Error::Condition`] if the program has stopped or is over.
    pub fn clear_request(&mut self) -> Result<(), Error> {
        if !matches!(self.condition, Condition::Idle | Condition::Restored(_)) {
            return Err(Error::Condition("has stopped or is over"));
        }
        if self.code.map().is_some() {
            self.stop.clear();
            self.machine.set_flags(0);
        }
        Ok(())
    }

    /// Where memory `index` of the original module lies in this process and how many bytes are accessible; `None`
    /// where the engine may move it (wasmi), or for a module that is not instrumented. The base is the same until
    /// the instance is dropped.
    pub fn fixed_memory(&self, index: u32) -> Option<(*mut u8, usize)> {
        self.machine.fixed_memory(index)
    }

    /// Tells, also while the program runs, how large its memories are. There are none to tell of where
    /// [`Self::fixed_memory`] knows none.
    pub fn memory_sizes(&self) -> MemorySizes {
        MemorySizes(
            (0..).map_while(|index| self.machine.mapping(index)).map(|mapping| Arc::downgrade(&mapping)).collect(),
        )
    }

    fn map(&self) -> Result<&Arc<Map>, Error> {
        self.code.map().ok_or(Error::NotMovable)
    }

    fn expect_idle(&self) -> Result<(), Error> {
        match self.condition {
            Condition::Idle => Ok(()),
            Condition::Stopped => {
                Err(Error::Condition("has stopped: let it stay, or capture it, and restore it to go on"))
            }
            Condition::Restored(_) => Err(Error::Condition("was restored: resume it")),
            Condition::Over => Err(Error::Condition("is over")),
        }
    }

    /// Refuses entries that cannot be called. A start function that is not there is no entry.
    fn check_entries(&self, entries: &[Entry]) -> Result<(), Error> {
        entries.iter().try_for_each(|entry| match entry {
            Entry::Start => Ok(()),
            Entry::Export(name) => self.check_arguments(name, &[]),
        })
    }

    fn check_arguments(&self, name: &str, args: &[Value]) -> Result<(), Error> {
        let info = &self.code.compiled().info;
        let index = *info.exported_functions.get(name).ok_or_else(|| Error::NoExport(name.to_owned()))?;
        let unknown = Signature::default();
        let signature = info.functions.get(index as usize).unwrap_or(&unknown);
        let fits = |(arg, ty): (&Value, &Option<ValueType>)| ty.is_some_and(|ty| arg.is_a(ty));
        if signature.params.len() == args.len() && args.iter().zip(&signature.params).all(fits) {
            return Ok(());
        }
        let given: Vec<String> = args.iter().map(Value::to_string).collect();
        Err(Error::Arguments {
            name: name.to_owned(),
            expected: signature.text(),
            given: format!("({})", given.join(", ")),
        })
    }

    fn run_from(&mut self, resumed: Option<u32>, entries: &[Entry]) -> Result<Outcome, Error> {
        let engine = self.code.engine().clone();
        let has_start = self.code.compiled().info.exported_functions.contains_key(exports::START);
        let (machine, current) = (&mut *self.machine, &mut self.entry);
        let end = stack::occupy(engine.settings().wasm_stack, || {
            let mut end = match resumed {
                Some(function) => machine.call(Callee::Resume(function), &[])?,
                None => End::Finished(Vec::new()),
            };
            for entry in entries {
                let name = match entry {
                    Entry::Start if !has_start => continue,
                    Entry::Start => exports::START,
                    Entry::Export(name) => name,
                };
                if !matches!(end, End::Finished(_)) {
                    break;
                }
                *current = Some(entry.clone());
                end = machine.call(Callee::Export(name), &[])?;
            }
            Ok::<_, Error>(end)
        })?;
        self.conclude(end?)
    }

    fn conclude(&mut self, end: End) -> Result<Outcome, Error> {
        self.condition = Condition::Over;
        let state = self.code.map().map_or(ControlState::Running as u32, |_| self.machine.word(ControlLayout::STATE));
        match end {
            End::Finished(_) if state == ControlState::Rewinding as u32 => {
                self.stop.detach();
                Err(Error::Rewind("the saved frames do not call each other".to_owned()))
            }
            End::Finished(values) => {
                self.condition = Condition::Idle;
                Ok(Outcome::Finished(values))
            }
            End::Stopped => {
                self.condition = Condition::Stopped;
                self.stopped_at = Some(Instant::now());
                Ok(Outcome::Stopped)
            }
            End::Exited(code) => {
                self.stop.detach();
                Ok(Outcome::Exited(code))
            }
            End::Trapped(trap) if state == ControlState::Running as u32 => {
                // As everywhere in WebAssembly, functions of the instance can still be called.
                self.condition = Condition::Idle;
                Ok(Outcome::Trapped(trap))
            }
            End::Trapped(trap) => {
                self.stop.detach();
                Err(match state == ControlState::Rewinding as u32 {
                    true => Error::Rewind(trap.message),
                    false => Error::Unwind(trap.message),
                })
            }
        }
    }

    fn read(&mut self, frames: bool, pages: Pages) -> Result<State, Error> {
        let map = self.map()?.clone();
        let state = capture::read(&mut *self.machine, &map, &self.code.compiled().info, frames, pages);
        self.machine.forget_exceptions();
        let mut state = state?;
        state.entry = self.entry.clone().filter(|_| frames);
        Ok(state)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.stop.detach();
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance").field("code", &self.code).field("condition", &self.condition).finish_non_exhaustive()
    }
}
