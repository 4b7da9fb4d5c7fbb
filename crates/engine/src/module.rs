//! What the engine must know of a module besides its map: imports, exports, function types, and the contents of
//! a freshly instantiated memory.

use std::collections::{BTreeMap, HashMap};

use dunlin_base::{PAGE_SIZE, ValueType};
use dunlin_instrument::{exports, value_type};
use wasmparser::{ConstExpr, Data, DataKind, ExternalKind, Operator, Parser, Payload, TypeRef};

use crate::error::{Cause, Error};

/// Parameter and result types; a type that has no portable values is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) params: Vec<Option<ValueType>>,
    pub(crate) results: Vec<Option<ValueType>>,
}

impl Signature {
    /// The types, if values of all of them can be passed to and from a host.
    pub(crate) fn for_host(&self) -> Option<(Vec<ValueType>, Vec<ValueType>)> {
        let plain = |ty: &Option<ValueType>| ty.filter(|ty| !ty.is_ref() || *ty == ValueType::ExternRef);
        Some((
            self.params.iter().map(plain).collect::<Option<_>>()?,
            self.results.iter().map(plain).collect::<Option<_>>()?,
        ))
    }

    /// The type in words, as `(i32, i64) -> (i32)`.
    pub(crate) fn text(&self) -> String {
        format!("{} -> {}", list(&self.params), list(&self.results))
    }
}

fn list(types: &[Option<ValueType>]) -> String {
    let names =
        types.iter().map(|ty| ty.map_or_else(|| "a garbage-collected reference".to_owned(), |ty| ty.to_string()));
    format!("({})", names.collect::<Vec<_>>().join(", "))
}

/// An import.
#[derive(Debug, Clone)]
pub(crate) struct Import {
    pub(crate) module: String,
    pub(crate) name: String,
    pub(crate) kind: ImportKind,
}

#[derive(Debug, Clone)]
pub(crate) enum ImportKind {
    Function(Signature),
    /// Something that a host cannot supply, in words.
    Other(&'static str),
}

/// Facts about a module.
#[derive(Debug, Default)]
pub(crate) struct ModuleInfo {
    pub(crate) imports: Vec<Import>,
    /// Signatures of all functions, imported ones first.
    pub(crate) functions: Vec<Signature>,
    /// Exported functions by name.
    pub(crate) exported_functions: HashMap<String, u32>,
    /// Name of the memory that the host sees.
    pub(crate) host_memory: Option<String>,
    /// Initial sizes of all memories in bytes.
    pub(crate) memories: Vec<u64>,
    /// Initial sizes of all tables.
    pub(crate) tables: Vec<u64>,
    pub(crate) start: Option<u32>,
    /// Whether saved frames can be resumed in it.
    pub(crate) resumable: bool,
    /// Contents of the fresh memories, for the first [`ModuleInfo::memories`].
    pub(crate) fresh: Vec<Fresh>,
}

impl ModuleInfo {
    /// Reads a module. The bytes need not be valid; the engine that compiles them checks that.
    pub(crate) fn read(wasm: &[u8]) -> Result<Self, Error> {
        let invalid = |error: wasmparser::BinaryReaderError| Error::Module(Cause::new(error));
        let mut info = Self::default();
        let mut types: Vec<Signature> = Vec::new();
        let signature = |types: &[Signature], index: u32| types.get(index as usize).cloned().unwrap_or_default();
        let mut constants: Vec<Option<u64>> = Vec::new();
        let mut exported_memories: BTreeMap<u32, String> = BTreeMap::new();
        let mut builders: Vec<FreshBuilder> = Vec::new();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload.map_err(invalid)? {
                Payload::TypeSection(section) => {
                    for group in section {
                        for ty in group.map_err(invalid)?.into_types() {
                            types.push(match &ty.composite_type.inner {
                                wasmparser::CompositeInnerType::Func(ty) => Signature {
                                    params: ty.params().iter().map(|ty| value_type(*ty)).collect(),
                                    results: ty.results().iter().map(|ty| value_type(*ty)).collect(),
                                },
                                _ => Signature::default(),
                            });
                        }
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import.map_err(invalid)?;
                        let kind = match import.ty {
                            TypeRef::Func(index) | TypeRef::FuncExact(index) => {
                                let signature = signature(&types, index);
                                info.functions.push(signature.clone());
                                ImportKind::Function(signature)
                            }
                            TypeRef::Memory(ty) => {
                                info.memories.push(size_of_memory(&ty));
                                builders.push(FreshBuilder { unknown: true, ..FreshBuilder::default() });
                                ImportKind::Other("memory")
                            }
                            TypeRef::Table(ty) => {
                                info.tables.push(ty.initial);
                                ImportKind::Other("table")
                            }
                            TypeRef::Global(_) => {
                                constants.push(None);
                                ImportKind::Other("global")
                            }
                            TypeRef::Tag(_) => ImportKind::Other("tag"),
                        };
                        info.imports.push(Import {
                            module: import.module.to_owned(),
                            name: import.name.to_owned(),
                            kind,
                        });
                    }
                }
                Payload::FunctionSection(section) => {
                    for index in section {
                        info.functions.push(signature(&types, index.map_err(invalid)?));
                    }
                }
                Payload::TableSection(section) => {
                    for table in section {
                        info.tables.push(table.map_err(invalid)?.ty.initial);
                    }
                }
                Payload::MemorySection(section) => {
                    for memory in section {
                        info.memories.push(size_of_memory(&memory.map_err(invalid)?));
                        builders.push(FreshBuilder::default());
                    }
                }
                Payload::GlobalSection(section) => {
                    for global in section {
                        let global = global.map_err(invalid)?;
                        let value = if global.ty.mutable { None } else { constant(&global.init_expr, &constants) };
                        constants.push(value);
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export.map_err(invalid)?;
                        match export.kind {
                            ExternalKind::Func | ExternalKind::FuncExact => {
                                info.exported_functions.insert(export.name.to_owned(), export.index);
                            }
                            ExternalKind::Memory => {
                                if export.name == "memory" {
                                    info.host_memory = Some(export.name.to_owned());
                                } else if ![exports::CONTROL, exports::CALLS].contains(&export.name) {
                                    exported_memories.entry(export.index).or_insert_with(|| export.name.to_owned());
                                }
                            }
                            ExternalKind::Table => info.resumable |= export.name == exports::RESUME,
                            _ => {}
                        }
                    }
                }
                Payload::StartSection { func, .. } => info.start = Some(func),
                Payload::DataSection(section) => {
                    for data in section {
                        let Data { kind, data, .. } = data.map_err(invalid)?;
                        if let DataKind::Active { memory_index, offset_expr } = kind
                            && let Some(builder) = builders.get_mut(memory_index as usize)
                        {
                            match constant(&offset_expr, &constants) {
                                Some(offset) => builder.add(offset, data),
                                None => builder.unknown = true,
                            }
                        }
                    }
                }
                _ => {}
            }
        }
        if info.host_memory.is_none() {
            info.host_memory = exported_memories.remove(&0);
        }
        info.fresh = builders.into_iter().map(FreshBuilder::finish).collect();
        Ok(info)
    }
}

fn size_of_memory(ty: &wasmparser::MemoryType) -> u64 {
    let shift = ty.page_size_log2.unwrap_or(16).min(63);
    if ty.initial.leading_zeros() >= shift { ty.initial << shift } else { u64::MAX }
}

/// The value of a constant integer expression, if the module alone tells it.
fn constant(expr: &ConstExpr<'_>, constants: &[Option<u64>]) -> Option<u64> {
    let mut stack: Vec<u64> = Vec::new();
    for operator in expr.get_operators_reader() {
        let mut binary = |wide: bool, apply: fn(u64, u64) -> u64| {
            let (right, left) = (stack.pop()?, stack.pop()?);
            let value = apply(left, right);
            stack.push(if wide { value } else { u64::from(value as u32) });
            Some(())
        };
        match operator.ok()? {
            Operator::I32Const { value } => stack.push(u64::from(value as u32)),
            Operator::I64Const { value } => stack.push(value as u64),
            Operator::GlobalGet { global_index } => stack.push((*constants.get(global_index as usize)?)?),
            Operator::I32Add => binary(false, u64::wrapping_add)?,
            Operator::I32Sub => binary(false, u64::wrapping_sub)?,
            Operator::I32Mul => binary(false, u64::wrapping_mul)?,
            Operator::I64Add => binary(true, u64::wrapping_add)?,
            Operator::I64Sub => binary(true, u64::wrapping_sub)?,
            Operator::I64Mul => binary(true, u64::wrapping_mul)?,
            Operator::End => {}
            _ => return None,
        }
    }
    stack.pop()
}

/// The contents of a freshly instantiated memory: zeros and these extents.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    /// Whether the module alone does not tell the contents. Both sides then take them to be zero, and a restored
    /// memory is cleared first.
    pub(crate) unknown: bool,
    /// Sorted by address, disjoint, not empty.
    extents: Vec<Extent>,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Extent {
    start: u64,
    length: u64,
    /// Where its bytes begin in `bytes`.
    at: usize,
}

impl Fresh {
    /// Goes through the pages in ascending order; see [`FreshPages::get`].
    pub(crate) fn pages(&self) -> FreshPages<'_> {
        FreshPages { fresh: self, first: 0, page: Box::new([0; PAGE_SIZE]) }
    }
}

impl Fresh {
    /// Whether `page`, the contents of page `number`, is what a fresh memory has there.
    pub(crate) fn is_same(&self, number: u64, page: &[u8]) -> bool {
        let start = number * PAGE_SIZE as u64;
        let end = start + page.len() as u64;
        let first = self.extents.partition_point(|extent| extent.start + extent.length <= start);
        let mut at = start;
        for extent in self.extents[first..].iter().take_while(|extent| extent.start < end) {
            let from = extent.start.max(start);
            let to = (extent.start + extent.length).min(end);
            let source = extent.at + (from - extent.start) as usize;
            let gap = &page[(at - start) as usize..(from - start) as usize];
            let inside = &page[(from - start) as usize..(to - start) as usize];
            if !dunlin_base::is_zero(gap) || inside != &self.bytes[source..source + inside.len()] {
                return false;
            }
            at = to;
        }
        dunlin_base::is_zero(&page[(at - start) as usize..])
    }

    /// Ranges of pages in which data lies, ascending; they may overlap.
    pub(crate) fn data_pages(&self) -> impl Iterator<Item = core::ops::Range<u64>> {
        let page = PAGE_SIZE as u64;
        self.extents.iter().map(move |extent| extent.start / page..(extent.start + extent.length).div_ceil(page))
    }
}

/// A cursor over the pages of a fresh memory.
pub(crate) struct FreshPages<'a> {
    fresh: &'a Fresh,
    first: usize,
    page: Box<[u8; PAGE_SIZE]>,
}

impl FreshPages<'_> {
    /// The first page from `number` on in which data lies.
    pub(crate) fn next_from(&self, number: u64) -> Option<u64> {
        let start = number * PAGE_SIZE as u64;
        let extents = &self.fresh.extents[self.first..];
        let extent = extents.iter().find(|extent| extent.start + extent.length > start)?;
        Some(extent.start.max(start) / PAGE_SIZE as u64)
    }

    /// The fresh contents of page `number`, or `None` if they are all zero because no data lies there. Numbers
    /// must not decrease from call to call.
    pub(crate) fn get(&mut self, number: u64) -> Option<&[u8; PAGE_SIZE]> {
        let extents = &self.fresh.extents;
        let start = number * PAGE_SIZE as u64;
        let end = start + PAGE_SIZE as u64;
        while self.first < extents.len() && extents[self.first].start + extents[self.first].length <= start {
            self.first += 1;
        }
        if self.first == extents.len() || extents[self.first].start >= end {
            return None;
        }
        self.page.fill(0);
        for extent in extents[self.first..].iter().take_while(|extent| extent.start < end) {
            let from = extent.start.max(start);
            let to = (extent.start + extent.length).min(end);
            let source = extent.at + (from - extent.start) as usize;
            let count = (to - from) as usize;
            self.page[(from - start) as usize..][..count].copy_from_slice(&self.fresh.bytes[source..source + count]);
        }
        Some(&self.page)
    }
}

/// Collects active segments in the order in which they are applied.
#[derive(Debug, Default)]
struct FreshBuilder {
    unknown: bool,
    /// Disjoint extents by address.
    extents: BTreeMap<u64, (u64, usize)>,
    bytes: Vec<u8>,
}

impl FreshBuilder {
    fn add(&mut self, start: u64, data: &[u8]) {
        // A segment that wraps around cannot be instantiated.
        let Some(end) = start.checked_add(data.len() as u64).filter(|end| *end > start) else { return };
        // What lies below it keeps its ends on either side.
        let mut covered: Vec<u64> = self.extents.range(start..end).map(|(at, _)| *at).collect();
        covered.extend(self.extents.range(..start).next_back().map(|(at, _)| *at));
        for at in covered {
            let Some((length, from)) = self.extents.remove(&at) else { continue };
            if at < start {
                self.extents.insert(at, (length.min(start - at), from));
            }
            if at + length > end {
                self.extents.insert(end, (at + length - end, from + (end - at) as usize));
            }
        }
        self.extents.insert(start, (data.len() as u64, self.bytes.len()));
        self.bytes.extend_from_slice(data);
    }

    fn finish(self) -> Fresh {
        if self.unknown {
            return Fresh { unknown: true, ..Fresh::default() };
        }
        let extents = self.extents.into_iter().map(|(start, (length, at))| Extent { start, length, at }).collect();
        Fresh { unknown: false, extents, bytes: self.bytes }
    }
}

/// Prepares a module that is not instrumented: the start function becomes the export `dunlin:start` instead of
/// running during instantiation, and the first memory is exported as `dunlin:m0` if the module exports none as
/// `memory`. Nothing else changes.
pub(crate) fn prepare_plain(wasm: &[u8]) -> Result<Vec<u8>, Error> {
    let invalid = |error: wasmparser::BinaryReaderError| Error::Module(Cause::new(error));
    let info = ModuleInfo::read(wasm)?;
    let mut added: Vec<(String, u8, u32)> = Vec::new();
    added.extend(info.start.map(|function| (exports::START.to_owned(), 0, function)));
    if info.host_memory.is_none() && !info.memories.is_empty() {
        added.push((exports::memory(0), 2, 0));
    }
    let mut entries = Vec::new();
    for (name, kind, index) in &added {
        leb(&mut entries, name.len() as u64);
        entries.extend_from_slice(name.as_bytes());
        entries.push(*kind);
        leb(&mut entries, u64::from(*index));
    }
    const EXPORT: u8 = 7;
    const START: u8 = 8;
    /// Ids in the order in which the sections behind the exports stand.
    const BEHIND: [u8; 5] = [8, 9, 12, 10, 11];
    let mut out = wasm.get(..8).unwrap_or(wasm).to_vec();
    let mut pending = !added.is_empty();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(invalid)?;
        if let Payload::ModuleSection { .. } | Payload::ComponentSection { .. } = payload {
            return Err(Error::Module(Cause::new("a component, not a module")));
        }
        let Some((id, range)) = payload.as_section() else { continue };
        let content = wasm.get(range).unwrap_or_default();
        if id == EXPORT && pending {
            let (count, rest) = read_leb(content).unwrap_or((0, content));
            let mut section = Vec::with_capacity(content.len() + entries.len() + 8);
            leb(&mut section, count + added.len() as u64);
            section.extend_from_slice(rest);
            section.extend_from_slice(&entries);
            push_section(&mut out, EXPORT, &section);
            pending = false;
            continue;
        }
        if pending && BEHIND.contains(&id) {
            let mut section = Vec::with_capacity(entries.len() + 8);
            leb(&mut section, added.len() as u64);
            section.extend_from_slice(&entries);
            push_section(&mut out, EXPORT, &section);
            pending = false;
        }
        if id != START {
            push_section(&mut out, id, content);
        }
    }
    if pending {
        let mut section = Vec::with_capacity(entries.len() + 8);
        leb(&mut section, added.len() as u64);
        section.extend_from_slice(&entries);
        push_section(&mut out, EXPORT, &section);
    }
    Ok(out)
}

fn push_section(out: &mut Vec<u8>, id: u8, content: &[u8]) {
    out.push(id);
    leb(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn leb(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_leb(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)? + 1;
    let (number, rest) = bytes.split_at(length);
    let value = number.iter().rev().fold(0_u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(wat: &str) -> ModuleInfo {
        ModuleInfo::read(&wat::parse_str(wat).unwrap()).unwrap()
    }

    #[test]
    fn overlapping_segments_apply_in_order() {
        let info = fresh(
            r#"(module (memory 2)
                (global $base i32 (i32.const 4090))
                (data (i32.const 10) "abcdefgh")
                (data (i32.const 12) "XY")
                (data (i32.add (global.get $base) (i32.const 2)) "across the page")
                (data (i32.const 17) "end"))"#,
        );
        let mut pages = info.fresh[0].pages();
        let page = pages.get(0).unwrap();
        assert_eq!(&page[9..21], b"\0abXYefgend\0");
        assert_eq!(&page[4091..], b"\0acro");
        assert_eq!(&pages.get(1).unwrap()[..12], b"ss the page\0");
        assert!(pages.get(2).is_none());
    }

    #[test]
    fn offsets_from_imports_are_unknown() {
        let info = fresh(r#"(module (import "a" "b" (global i32)) (memory 1) (data (global.get 0) "x"))"#);
        assert!(info.fresh[0].unknown);
        assert!(info.fresh[0].pages().get(0).is_none());
    }

    #[test]
    fn plain_modules_keep_everything_but_their_start() {
        for wat in [
            "(module (memory 1) (func $f) (start $f))",
            r#"(module (memory 1) (func $f) (export "x" (func $f)) (start $f) (table 1 funcref) (elem (i32.const 0) $f))"#,
        ] {
            let info = ModuleInfo::read(&prepare_plain(&wat::parse_str(wat).unwrap()).unwrap()).unwrap();
            assert_eq!(info.start, None);
            assert_eq!(info.exported_functions.get(exports::START), Some(&0));
            assert_eq!(info.host_memory.as_deref(), Some("dunlin:m0"));
        }
        let untouched = wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "f")))"#).unwrap();
        assert_eq!(prepare_plain(&untouched).unwrap(), untouched);
        assert!(prepare_plain(b"\0asm").is_err());
        assert!(prepare_plain(b"").is_err());
    }
}
