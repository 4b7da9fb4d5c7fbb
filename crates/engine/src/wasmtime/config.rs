//! How Wasmtime is set up, and what it compiles.
#![allow(
    unsafe_code,
    reason = "machine code that was compiled before is taken as it is; a flag that only Cranelift has"
)]

use core::fmt;
use core::num::NonZeroUsize;
use std::sync::Arc;

use wasmtime::{Config, Engine, Module, OptLevel, RegallocAlgorithm, Strategy};

use crate::engine::Settings;
use crate::error::{Cause, Error};
use crate::memory::Memories;
use crate::tier::Tier;

/// Address space of every 32-bit memory, which makes bounds checks unnecessary.
const RESERVATION: u64 = 4 << 30;
/// Inaccessible space behind it, for the constant part of addresses.
const GUARD: u64 = 32 << 20;

/// Frames named in a trap's backtrace.
const BACKTRACE: usize = 20;

/// A Wasmtime engine and the memories of its instances.
#[derive(Clone)]
pub(crate) struct Backend {
    pub(crate) engine: Engine,
    pub(crate) memories: Arc<Memories>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").finish_non_exhaustive()
    }
}

impl Backend {
    /// Sets up an engine. Movable modules are kept to what can be carried on; others may also use
    /// garbage-collected types.
    pub(crate) fn new(tier: Tier, settings: Settings, movable: bool) -> Result<Self, Error> {
        let Settings { wasm_stack, epoch_interruption } = settings;
        let memories = Arc::new(Memories::default());
        let mut config = Config::new();
        config
            .strategy(Strategy::Cranelift)
            .cranelift_opt_level(OptLevel::Speed)
            .cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking)
            // NaN bits are carried as they are.
            .cranelift_nan_canonicalization(false)
            .parallel_compilation(true)
            .wasm_multi_value(true)
            .wasm_bulk_memory(true)
            .wasm_reference_types(true)
            .wasm_simd(true)
            .wasm_relaxed_simd(true)
            // The same results on every CPU.
            .relaxed_simd_deterministic(true)
            .wasm_tail_call(true)
            .wasm_multi_memory(true)
            .wasm_memory64(true)
            .wasm_function_references(true)
            .wasm_exceptions(true)
            .wasm_extended_const(true)
            .wasm_wide_arithmetic(true)
            .wasm_custom_page_sizes(true)
            // GC types are refused before a movable module comes here; recursive groups of function types and constant
            // expressions over the module's own globals come under the same name.
            .wasm_gc(true)
            // Save paths are marked as unlikely.
            .wasm_branch_hinting(true)
            .epoch_interruption(epoch_interruption && !movable)
            .max_wasm_stack(wasm_stack)
            // Not used, but checked against the other.
            .async_stack_size(wasm_stack.saturating_add(1 << 20))
            // Traps name functions, not offsets in them.
            .generate_address_map(false)
            .wasm_backtrace_max_frames(NonZeroUsize::new(BACKTRACE))
            // Images would be mapped over our memories.
            .memory_init_cow(false)
            .memory_reservation(RESERVATION)
            .memory_guard_size(GUARD)
            .with_host_memory(memories.clone());
        // SAFETY: where a function begins changes nothing of what it does. At the default of 32 bytes, the same instructions
        // take up to a quarter more time, as chance places them.
        unsafe {
            config.cranelift_flag_set("log2_min_function_alignment", "6");
        }
        if tier == Tier::Pulley {
            let target = if cfg!(target_endian = "big") { "pulley64be" } else { "pulley64" };
            config.target(target).map_err(|error| Error::Engine { tier, source: Cause::new(error) })?;
        }
        let engine = Engine::new(&config).map_err(|error| Error::Engine { tier, source: Cause::new(error) })?;
        Ok(Self { engine, memories })
    }

    /// Compiles a module.
    pub(crate) fn compile(&self, tier: Tier, wasm: &[u8]) -> Result<Module, Error> {
        Module::new(&self.engine, wasm).map_err(|error| Error::Compile { tier, source: Cause::new(error) })
    }

    /// What was compiled, as bytes.
    pub(crate) fn serialize(&self, tier: Tier, module: &Module) -> Result<Vec<u8>, Error> {
        module.serialize().map_err(|error| Error::Compile { tier, source: Cause::new(error) })
    }

    /// Takes what [`Self::serialize`] gave. Other versions, settings and CPUs are refused.
    ///
    /// # Safety
    /// The bytes must come from there, unchanged.
    pub(crate) unsafe fn deserialize(&self, tier: Tier, bytes: &[u8]) -> Result<Module, Error> {
        // SAFETY: the caller's promise is the only one that is asked for.
        let module = unsafe { Module::deserialize(&self.engine, bytes) };
        module.map_err(|error| Error::Compile { tier, source: Cause::new(error) })
    }
}
