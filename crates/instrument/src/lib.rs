//! Rewrites a WebAssembly module so that a program can stop at a safepoint, save its own stack as typed
//! values, and resume from them, on any engine. The rewrite is deterministic and purely bytes to bytes.
//! This crate must never run a module, do I/O, or let two runs over the same bytes differ.

mod body;
mod bulk;
mod emit;
mod features;
mod fresh;
mod liveness;
mod map;
mod module;
mod plan;
mod reach;
mod resume;
mod save;
mod sections;
mod ty;
mod unroll;

pub use map::{
    ControlLayout, ControlState, FunctionInfo, GlobalInfo, KnownDigest, LiveValue, Map, MemoryInfo, PASS_VERSION,
    Phase, Safepoint, SafepointKind, Slot, TableInfo, exports,
};

pub use ty::value_type;

use std::collections::BTreeSet;
use std::sync::Arc;

/// What a poll looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Poll {
    /// A flag that any thread can set.
    #[default]
    Flag,
    /// The flag, and a counter that every safepoint decrements: stops are deterministic.
    Count,
}

/// Which half of the code is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Variant {
    /// Code that can be captured: what a program starts with.
    #[default]
    Fresh,
    /// The same code, and beside each function one that resumes a captured frame of it.
    Resume,
}

/// How to instrument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Options {
    /// What polls look at.
    pub poll: Poll,
    /// Which half of the code is generated.
    pub variant: Variant,
}

/// An instrumented module.
#[derive(Debug, Clone)]
pub struct Instrumented {
    /// The module's bytes.
    pub wasm: Vec<u8>,
    /// What its safepoints are.
    pub map: Arc<Map>,
}

/// One reason why a module cannot be moved while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// The function it lies in, if it lies in one.
    pub function: Option<u32>,
    /// Byte offset in the original module.
    pub offset: usize,
    /// The WebAssembly feature or construct.
    pub feature: &'static str,
    /// What is there, for people.
    pub detail: String,
}

/// Why a module was not instrumented.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not a valid module.
    #[error("not a valid WebAssembly module")]
    Invalid(#[source] wasmparser::BinaryReaderError),
    /// The module is valid and can run, but what it holds cannot be carried.
    #[error("the module cannot be moved while it runs: {} reason(s), the first is {} at offset {:#x}", .0.len(), .0[0].feature, .0[0].offset)]
    Blocked(Vec<Blocker>),
    /// A limit of the pass.
    #[error("{what} exceeds the limit of the instrumentation ({limit})")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// Instruments a module.
///
/// # Errors
/// [`Error::Invalid`] for bytes that are not a module, [`Error::Blocked`] with every reason for a module that
/// can run but not move.
pub fn instrument(wasm: &[u8], options: Options) -> Result<Instrumented, Error> {
    Ok(Analysis::of(wasm)?.instrument(options))
}

/// A module that can be carried, read and understood: what all its variants are made from.
#[derive(Debug)]
pub struct Analysis<'a> {
    module: module::Module<'a>,
    plan: plan::Plan,
    map: Arc<Map>,
}

impl<'a> Analysis<'a> {
    /// Reads a module.
    ///
    /// # Errors
    /// As [`instrument`].
    pub fn of(wasm: &'a [u8]) -> Result<Self, Error> {
        let module = module::Module::read(wasm)?;
        let plan = plan::Plan::of(&module)?;
        let additions = sections::Additions::new(&module, &plan, Options::default(), &|_| true);
        let map = Arc::new(map(&module, &plan, &additions));
        Ok(Self { module, plan, map })
    }

    /// What its safepoints are, for all variants alike.
    pub fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// One of its variants.
    pub fn instrument(&self, options: Options) -> Instrumented {
        self.write(options, &|_| true)
    }

    /// [`Variant::Resume`] for a known stack: with resuming code for these functions only (indices in the original module).
    /// It compiles about as fast as [`Variant::Fresh`]; a frame of another function cannot be resumed.
    pub fn instrument_resuming(&self, poll: Poll, functions: &BTreeSet<u32>) -> Instrumented {
        self.write(Options { poll, variant: Variant::Resume }, &|function| functions.contains(&function))
    }

    fn write(&self, options: Options, resumes: &dyn Fn(u32) -> bool) -> Instrumented {
        let Self { module, plan, map } = self;
        let mut additions = sections::Additions::new(module, plan, options, resumes);
        let mut bodies = Vec::with_capacity(module.bodies.len());
        let mut resuming = Vec::new();
        for (body, function) in module.bodies.iter().zip(&plan.functions) {
            let stops = !function.points.is_empty();
            let changes = stops || body.drops_segments();
            bodies.push(changes.then(|| fresh::function(module, body, function, options.poll, &mut additions)));
            if options.variant == Variant::Resume && stops && resumes(body.function) {
                resuming.push(resume::function(module, body, function, options.poll, &mut additions));
            }
        }
        let wasm = sections::assemble(module, plan, additions, bodies, resuming);
        Instrumented { wasm, map: map.clone() }
    }
}

fn map(module: &module::Module<'_>, plan: &plan::Plan, additions: &sections::Additions) -> Map {
    let types = |types: &[ty::Ty]| types.iter().map(|ty| ty.value_type()).collect::<Vec<_>>();
    let mut functions: Vec<FunctionInfo> = (0..module.functions.len() as u32)
        .map(|function| {
            let signature = module.signature_of(function);
            FunctionInfo {
                params: types(&signature.params),
                results: types(&signature.results),
                first_safepoint: 0,
                safepoints: 0,
                escapes: module.escaping.contains(&function),
            }
        })
        .collect();
    let mut safepoints = Vec::with_capacity(plan.safepoints as usize);
    for (body, function) in module.bodies.iter().zip(&plan.functions) {
        let info = &mut functions[body.function as usize];
        (info.first_safepoint, info.safepoints) = (function.first, function.points.len() as u32);
        safepoints.extend(function.points.iter().map(|point| Safepoint {
            function: body.function,
            offset: body.ops[point.op].range.start as u32,
            kind: point.kind,
            live: point.live_values(),
        }));
    }
    Map {
        module: dunlin_base::Digest::of(module.bytes),
        imported_functions: module.imported_functions,
        functions,
        safepoints,
        memories: module.memories.clone(),
        tables: module.tables.clone(),
        globals: module.globals.clone(),
        tags: module.tags.iter().map(|ty| types(&module.signature(*ty).params)).collect(),
        data_segments: module.data_segments,
        elem_segments: module.elem_segments,
        start: module.start,
        control: additions.control,
        ref_tables: types(&additions.ref_tables),
        known_digest: KnownDigest::default(),
    }
}
