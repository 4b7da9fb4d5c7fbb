//! What `inspect` tells of a module.

use std::time::Instant;

use dunlin_base::{Digest, ValueType};
use dunlin_engine::{Code, Engine, Host as _, Settings, Tier};
use dunlin_host::{Config, World};
use dunlin_instrument::{
    Analysis, Blocker, Error, Instrumented, Options, PASS_VERSION, Poll, SafepointKind, Variant, value_type,
};
use serde::Serialize;
use wasmparser::{CompositeInnerType, Parser, Payload, TypeRef, ValType};

use crate::failure::{Exit, Failure, Result};
use crate::features;
use crate::module::Module;
use crate::names::Names;
use crate::text::{self, Table, printable};

/// A module.
#[derive(Debug, Serialize)]
pub(crate) struct ModuleReport {
    kind: &'static str,
    path: String,
    sha256: String,
    movable: bool,
    /// Why it cannot be moved.
    blockers: Vec<BlockerReport>,
    /// Whether it is a program that `run` can start.
    command: bool,
    features: Vec<String>,
    imports: Vec<ImportReport>,
    functions: usize,
    memories: usize,
    tables: usize,
    globals: usize,
    instrumentation: Option<Instrumentation>,
    size: Vec<Size>,
    code: Vec<CodeSize>,
}

#[derive(Debug, Serialize)]
struct BlockerReport {
    feature: &'static str,
    detail: String,
    function: Option<u32>,
    name: Option<String>,
    offset: usize,
}

#[derive(Debug, Serialize)]
struct ImportReport {
    module: String,
    name: String,
    #[serde(rename = "type")]
    ty: String,
    supported: bool,
}

#[derive(Debug, Serialize)]
struct Instrumentation {
    pass_version: u32,
    map_sha256: String,
    /// Functions that can be on a captured stack.
    functions_with_safepoints: usize,
    safepoints: usize,
    loops: usize,
    calls: usize,
    import_calls: usize,
    indirect_calls: usize,
    tail_calls: usize,
    bulk: usize,
    largest_frame_bytes: u32,
}

#[derive(Debug, Serialize)]
struct Size {
    what: &'static str,
    bytes: usize,
}

#[derive(Debug, Serialize)]
struct CodeSize {
    tier: &'static str,
    what: &'static str,
    bytes: Option<usize>,
    compile_ms: f64,
}

impl ModuleReport {
    /// Looks at a module, and compiles it if asked to.
    pub(crate) fn of(module: &Module, compile: bool) -> Result<Self> {
        let names = Names::read(&module.wasm);
        let wrong = || format!("{} cannot be inspected", module.path.display());
        let analysis = Analysis::of(&module.wasm);
        let mut size = vec![Size { what: "as built", bytes: module.wasm.len() }];
        let mut code = Vec::new();
        let (blockers, instrumented) = match analysis {
            Ok(analysis) => {
                let of = |variant| analysis.instrument(Options { poll: Poll::Flag, variant });
                let (fresh, resumable) = (of(Variant::Fresh), of(Variant::Resume));
                size.push(Size { what: "movable", bytes: fresh.wasm.len() });
                size.push(Size { what: "resumable", bytes: resumable.wasm.len() });
                if compile {
                    code = sizes(module, &[("movable", &fresh), ("resumable", &resumable)])?;
                }
                (Vec::new(), Some(fresh))
            }
            Err(Error::Blocked(blockers)) => {
                if compile {
                    code = sizes(module, &[])?;
                }
                (blockers, None)
            }
            Err(error) => return Err(Failure::because(Exit::Data, wrong())(error)),
        };
        let shape = Shape::read(&module.wasm).map_err(Failure::because(Exit::Data, wrong()))?;
        let needed = features::of(&module.wasm).map_err(Failure::because(Exit::Data, wrong()))?;
        Ok(Self {
            kind: "module",
            path: module.path.display().to_string(),
            sha256: Digest::of(&module.wasm).to_string(),
            movable: instrumented.is_some(),
            blockers: blockers.iter().map(|blocker| BlockerReport::of(blocker, &names)).collect(),
            command: shape.command,
            features: feature_names(needed),
            imports: shape.imports,
            functions: shape.functions,
            memories: shape.memories,
            tables: shape.tables,
            globals: shape.globals,
            instrumentation: instrumented.as_ref().map(Instrumentation::of),
            size,
            code,
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut out = format!("{}: module, sha256:{}\n", self.path, self.sha256);
        if self.movable {
            out.push_str("can be moved while it runs\n");
        } else {
            let reasons = text::count(self.blockers.len(), "reason");
            out.push_str(&format!("cannot be moved while it runs, for {reasons}; it can run\n"));
            let mut table = Table::new(&["feature", "function", ">offset", "what is there"]);
            for blocker in &self.blockers {
                let function = match (&blocker.name, blocker.function) {
                    (Some(name), _) => name.clone(),
                    (None, Some(index)) => index.to_string(),
                    (None, None) => String::new(),
                };
                table.row([
                    blocker.feature.to_owned(),
                    function,
                    format!("{:#x}", blocker.offset),
                    blocker.detail.clone(),
                ]);
            }
            out.push_str(&table.render("  "));
        }
        if !self.command {
            out.push_str("exports no function _start: `dunlin run` cannot start it\n");
        }
        let features = if self.features.is_empty() { "none".to_owned() } else { self.features.join(", ") };
        out.push_str(&format!("features beyond the first release: {features}\n"));
        out.push_str(&format!(
            "holds {}, {}, {}, {}\n",
            text::count(self.functions, "function"),
            memories(self.memories),
            text::count(self.tables, "table"),
            text::count(self.globals, "global"),
        ));
        if let Some(points) = &self.instrumentation {
            out.push_str(&format!(
                "has {} in {}: {}, {}, {}, {}, {}, {}\n",
                text::count(points.safepoints, "safepoint"),
                text::count(points.functions_with_safepoints, "function"),
                text::count(points.loops, "loop"),
                text::count(points.calls, "call"),
                text::count(points.import_calls, "import call"),
                text::count(points.indirect_calls, "indirect call"),
                text::count(points.tail_calls, "tail call"),
                text::count(points.bulk, "bulk instruction"),
            ));
        }
        out.push_str("size:\n");
        let mut table = Table::new(&["as", ">bytes", ">ratio"]);
        let first = self.size.first().map_or(1, |size| size.bytes) as f64;
        for Size { what, bytes } in &self.size {
            table.row([(*what).to_owned(), bytes.to_string(), format!("{:.2}", *bytes as f64 / first)]);
        }
        out.push_str(&table.render("  "));
        if !self.code.is_empty() {
            out.push_str("compiled:\n");
            let mut table = Table::new(&["as", "for", ">code bytes", ">time"]);
            for CodeSize { tier, what, bytes, compile_ms } in &self.code {
                let bytes = bytes.map_or_else(|| "not told".to_owned(), |bytes| bytes.to_string());
                table.row([(*what).to_owned(), (*tier).to_owned(), bytes, text::time_of(*compile_ms)]);
            }
            out.push_str(&table.render("  "));
        }
        if self.imports.is_empty() {
            out.push_str("imports nothing\n");
        } else {
            out.push_str("imports:\n");
            let mut table = Table::new(&["name", "type", "here"]);
            for ImportReport { module, name, ty, supported } in &self.imports {
                let here = if *supported { "yes" } else { "MISSING" };
                table.row([format!("{module}.{name}"), ty.clone(), here.to_owned()]);
            }
            out.push_str(&table.render("  "));
        }
        out
    }
}

fn memories(number: usize) -> String {
    if number == 1 { "1 memory".to_owned() } else { format!("{number} memories") }
}

/// The names of a set of features.
pub(crate) fn feature_names(features: dunlin_snapshot::Features) -> Vec<String> {
    if features.is_empty() { Vec::new() } else { features.to_string().split(", ").map(str::to_owned).collect() }
}

impl BlockerReport {
    fn of(blocker: &Blocker, names: &Names) -> Self {
        let Blocker { function, offset, feature, detail } = blocker;
        let name = function.and_then(|function| names.function(function)).map(str::to_owned);
        Self { feature, detail: printable(detail), function: *function, name, offset: *offset }
    }
}

impl Instrumentation {
    fn of(instrumented: &Instrumented) -> Self {
        let map = &instrumented.map;
        let of = |kind| map.safepoints.iter().filter(|safepoint| safepoint.kind == kind).count();
        Self {
            pass_version: PASS_VERSION,
            map_sha256: map.digest().to_string(),
            functions_with_safepoints: map.functions.iter().filter(|function| function.safepoints > 0).count(),
            safepoints: map.safepoints.len(),
            loops: of(SafepointKind::Loop),
            calls: of(SafepointKind::Call),
            import_calls: of(SafepointKind::Import),
            indirect_calls: of(SafepointKind::IndirectCall),
            tail_calls: of(SafepointKind::TailCall),
            bulk: of(SafepointKind::Bulk),
            largest_frame_bytes: map.control.largest_record,
        }
    }
}

fn sizes(module: &Module, variants: &[(&'static str, &Instrumented)]) -> Result<Vec<CodeSize>> {
    let mut sizes = Vec::new();
    for tier in Tier::ALL {
        let engine = Engine::new(tier, Settings::default()).map_err(Failure::engine("an engine cannot start"))?;
        let start = Instant::now();
        // An engine that cannot take the module has no size of it.
        if let Ok(code) = Code::plain(&engine, &module.wasm) {
            sizes.push(CodeSize::of(tier, "as built", &code, start));
        }
        for (what, instrumented) in variants {
            let start = Instant::now();
            if let Ok(code) = Code::shared(&engine, &instrumented.wasm, instrumented.map.clone()) {
                sizes.push(CodeSize::of(tier, what, &code, start));
            }
        }
    }
    Ok(sizes)
}

impl CodeSize {
    fn of(tier: Tier, what: &'static str, code: &Code, start: Instant) -> Self {
        Self { tier: tier.name(), what, bytes: code.code_size(), compile_ms: text::milliseconds(start.elapsed()) }
    }
}

/// What the sections of a valid module say.
#[derive(Default)]
struct Shape {
    command: bool,
    imports: Vec<ImportReport>,
    functions: usize,
    memories: usize,
    tables: usize,
    globals: usize,
}

impl Shape {
    fn read(wasm: &[u8]) -> Result<Self, wasmparser::BinaryReaderError> {
        let mut shape = Self::default();
        let mut types = Vec::new();
        let host = World::new(Config::new()).ok();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::TypeSection(section) => {
                    for group in section {
                        types.extend(group?.into_types().map(|ty| match ty.composite_type.inner {
                            CompositeInnerType::Func(ty) => Some((ty.params().to_vec(), ty.results().to_vec())),
                            _ => None,
                        }));
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        let mut supported = false;
                        let ty = match import.ty {
                            TypeRef::Func(index) | TypeRef::FuncExact(index) => {
                                shape.functions += 1;
                                let (params, results) =
                                    types.get(index as usize).cloned().flatten().unwrap_or_default();
                                if let (Some(params), Some(results)) = (plain(&params), plain(&results)) {
                                    supported = host.as_ref().is_some_and(|host| {
                                        host.resolve(import.module, import.name, &params, &results).is_some()
                                    });
                                }
                                format!("{} -> {}", list(&params), list(&results))
                            }
                            TypeRef::Memory(_) => {
                                shape.memories += 1;
                                "memory".to_owned()
                            }
                            TypeRef::Table(_) => {
                                shape.tables += 1;
                                "table".to_owned()
                            }
                            TypeRef::Global(_) => {
                                shape.globals += 1;
                                "global".to_owned()
                            }
                            TypeRef::Tag(_) => "tag".to_owned(),
                        };
                        let (module, name) = (printable(import.module), printable(import.name));
                        shape.imports.push(ImportReport { module, name, ty, supported });
                    }
                }
                Payload::FunctionSection(section) => shape.functions += section.count() as usize,
                Payload::MemorySection(section) => shape.memories += section.count() as usize,
                Payload::TableSection(section) => shape.tables += section.count() as usize,
                Payload::GlobalSection(section) => shape.globals += section.count() as usize,
                Payload::ExportSection(section) => {
                    for export in section {
                        shape.command |= export?.name == "_start";
                    }
                }
                _ => {}
            }
        }
        Ok(shape)
    }
}

/// The types, if a host can take values of them.
fn plain(types: &[ValType]) -> Option<Vec<ValueType>> {
    types
        .iter()
        .map(|ty| value_type(*ty).filter(|_| !matches!(ty, ValType::Ref(_)) || *ty == ValType::EXTERNREF))
        .collect()
}

fn list(types: &[ValType]) -> String {
    format!("({})", types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}
