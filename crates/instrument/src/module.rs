//! Reads a module: its raw sections, which are later copied, and what the pass must know of them.

use std::collections::BTreeSet;
use std::ops::Range;

use dunlin_base::ValueType;
use wasmparser::{
    Chunk, CompositeInnerType, ConstExpr, Data, DataKind, ElementItems, ElementKind, FuncToValidate,
    FuncValidatorAllocations, FunctionBody, Operator, Parser, Payload, TableInit, TypeRef, ValidPayload, Validator,
    ValidatorResources, WasmFeatures,
};

use crate::body::Body;
use crate::map::{GlobalInfo, MemoryInfo, TableInfo, exports};
use crate::ty::{Heap, Ty, TypeNames};
use crate::{Blocker, Error};

/// What is read. Custom descriptors give `ref.func` a type of their own that no local of ours could hold.
const FEATURES: WasmFeatures = WasmFeatures::all().difference(WasmFeatures::CUSTOM_DESCRIPTORS);

/// A module, read and validated.
#[derive(Debug)]
pub(crate) struct Module<'a> {
    pub(crate) bytes: &'a [u8],
    /// Sections in file order: id and the range of their contents.
    pub(crate) sections: Vec<(u8, Range<usize>)>,
    /// Number of type indices (not of entries of the type section: a recursion group is one entry).
    pub(crate) type_count: u32,
    /// For each type index the lowest index of an equal type.
    pub(crate) canonical: Vec<u32>,
    /// Signature of each type index; `None` where it is not a function type.
    pub(crate) signatures: Vec<Option<Signature>>,
    /// Canonical type index of each function, imported ones first.
    pub(crate) functions: Vec<u32>,
    pub(crate) imported_functions: u32,
    pub(crate) memories: Vec<MemoryInfo>,
    pub(crate) tables: Vec<TableInfo>,
    pub(crate) globals: Vec<GlobalInfo>,
    /// Canonical type index of each tag.
    pub(crate) tags: Vec<u32>,
    pub(crate) start: Option<u32>,
    pub(crate) data_segments: u32,
    pub(crate) elem_segments: u32,
    /// Functions to which a reference can exist.
    pub(crate) escaping: BTreeSet<u32>,
    pub(crate) bodies: Vec<Body<'a>>,
    /// The name section: trap messages are made from it.
    pub(crate) names: Option<Range<usize>>,
}

/// Parameters and results.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Signature {
    pub(crate) params: Vec<Ty>,
    pub(crate) results: Vec<Ty>,
}

impl<'a> Module<'a> {
    /// Reads and validates `bytes`, and collects every reason that forbids to carry the module.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut module = Module {
            bytes,
            sections: Vec::new(),
            type_count: 0,
            canonical: Vec::new(),
            signatures: Vec::new(),
            functions: Vec::new(),
            imported_functions: 0,
            memories: Vec::new(),
            tables: Vec::new(),
            globals: Vec::new(),
            tags: Vec::new(),
            start: None,
            data_segments: 0,
            elem_segments: 0,
            escaping: BTreeSet::new(),
            bodies: Vec::new(),
            names: None,
        };
        let mut reader = Reader { validator: Validator::new_with_features(FEATURES), blockers: Vec::new() };
        reader.read(&mut module).map_err(Error::Invalid)?;
        if reader.blockers.is_empty() { Ok(module) } else { Err(Error::Blocked(reader.blockers)) }
    }

    pub(crate) fn signature_of(&self, function: u32) -> &Signature {
        self.signature(self.functions[function as usize])
    }

    /// Whether the program itself speaks of references to functions of one type. If not, `ref.func` still has such a type,
    /// but nothing needs it: plain `funcref` locals keep the output within what the input's engines understand.
    fn names_function_types(&self) -> bool {
        let signatures = self.signatures.iter().flatten();
        signatures
            .flat_map(|signature| signature.params.iter().chain(&signature.results))
            .any(|ty| ty.names_function_type())
            || self.tables.iter().any(|table| !table.nullable || matches!(table.ty, ValueType::TypedFuncRef(_)))
            || self.globals.iter().any(|global| !global.nullable || matches!(global.ty, ValueType::TypedFuncRef(_)))
            || self.bodies.iter().any(Body::names_function_types)
    }

    /// Without a data count section no code can drop a data segment.
    pub(crate) fn has_data_count(&self) -> bool {
        self.sections.iter().any(|(id, _)| *id == 12)
    }

    pub(crate) fn signature(&self, ty: u32) -> &Signature {
        self.signatures[ty as usize].as_ref().expect("validated: the index names a function type")
    }
}

struct Reader {
    validator: Validator,
    blockers: Vec<Blocker>,
}

impl Reader {
    fn block(&mut self, offset: usize, feature: &'static str, detail: String) {
        self.blockers.push(Blocker { function: None, offset, feature, detail });
    }

    fn read<'a>(&mut self, module: &mut Module<'a>) -> wasmparser::Result<()> {
        let mut code: Vec<(FuncToValidate<ValidatorResources>, FunctionBody<'a>)> = Vec::new();
        let mut parser = Parser::new(0);
        parser.set_features(FEATURES);
        let mut rest = module.bytes;
        loop {
            let Chunk::Parsed { consumed, payload } = parser.parse(rest, true)? else { unreachable!("input is whole") };
            rest = &rest[consumed..];
            if let Payload::Version { encoding: wasmparser::Encoding::Component, .. } = payload {
                self.block(0, "components", "only core modules can be instrumented".into());
                return Ok(());
            }
            if let Some((id, range)) = payload.as_section() {
                module.sections.push((id, range));
            }
            match self.validator.payload(&payload)? {
                ValidPayload::Func(function, body) => code.push((function, body)),
                ValidPayload::End(types) => {
                    return self.code(module, code, &TypeNames::new(types.as_ref(), module.type_count));
                }
                _ => self.section(module, payload)?,
            }
        }
    }

    /// Notes what a section declares. Types are looked up through the validator, which has seen the section.
    fn section<'a>(&mut self, module: &mut Module<'a>, payload: Payload<'a>) -> wasmparser::Result<()> {
        match payload {
            Payload::TypeSection(section) => {
                for group in section.clone() {
                    module.type_count += group?.types().len() as u32;
                }
                let types = self.validator.types(0).expect("inside a module");
                let names = TypeNames::new(types, module.type_count);
                module.canonical = (0..module.type_count).map(|index| names.canonical(index)).collect();
                for (offset, group) in section.into_iter_with_offsets().flatten() {
                    for ty in group.types() {
                        let signature = signature(&names, ty);
                        if let Err(feature) = signature {
                            let detail = format!("type {}", module.signatures.len());
                            self.blockers.push(Blocker { function: None, offset, feature, detail });
                        }
                        module.signatures.push(signature.ok());
                    }
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports_with_offsets() {
                    let (offset, import) = import?;
                    self.import(module, offset, import.ty);
                }
            }
            Payload::FunctionSection(section) => {
                for ty in section {
                    module.functions.push(module.canonical[ty? as usize]);
                }
            }
            Payload::TableSection(section) => {
                for table in section.into_iter_with_offsets() {
                    let (offset, table) = table?;
                    self.table(module, offset, table.ty, false);
                    if let TableInit::Expr(expr) = table.init {
                        self.constant(module, &expr)?;
                    }
                }
            }
            Payload::MemorySection(section) => {
                for memory in section.into_iter_with_offsets() {
                    let (offset, memory) = memory?;
                    self.memory(module, offset, memory, false);
                }
            }
            Payload::TagSection(section) => {
                for tag in section {
                    module.tags.push(module.canonical[tag?.func_type_idx as usize]);
                }
            }
            Payload::GlobalSection(section) => {
                for global in section.into_iter_with_offsets() {
                    let (offset, global) = global?;
                    self.global(module, offset, global.ty, false);
                    self.constant(module, &global.init_expr)?;
                }
            }
            Payload::ExportSection(section) => {
                for export in section.into_iter_with_offsets() {
                    let (offset, export) = export?;
                    if export.name.starts_with(exports::PREFIX) {
                        let detail = format!(
                            "export {:?}: names that begin with {:?} are reserved",
                            export.name,
                            exports::PREFIX
                        );
                        self.block(offset, "reserved export name", detail);
                    }
                }
            }
            Payload::StartSection { func, .. } => module.start = Some(func),
            Payload::CustomSection(section) if section.name() == "name" => module.names = Some(section.range()),
            Payload::ElementSection(section) => {
                for element in section {
                    module.elem_segments += 1;
                    let element = element?;
                    if let ElementKind::Active { offset_expr, .. } = &element.kind {
                        self.constant(module, offset_expr)?;
                    }
                    match element.items {
                        ElementItems::Functions(functions) => {
                            for function in functions {
                                module.escaping.insert(function?);
                            }
                        }
                        ElementItems::Expressions(_, expressions) => {
                            for expression in expressions {
                                self.constant(module, &expression?)?;
                            }
                        }
                    }
                }
            }
            Payload::DataSection(section) => {
                for data in section {
                    module.data_segments += 1;
                    let Data { kind, .. } = data?;
                    if let DataKind::Active { offset_expr, .. } = kind {
                        self.constant(module, &offset_expr)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn names(&self, module: &Module<'_>) -> TypeNames<'_> {
        TypeNames::new(self.validator.types(0).expect("inside a module"), module.type_count)
    }

    fn import(&mut self, module: &mut Module<'_>, offset: usize, ty: TypeRef) {
        match ty {
            TypeRef::Func(ty) | TypeRef::FuncExact(ty) => {
                module.functions.push(module.canonical[ty as usize]);
                module.imported_functions += 1;
            }
            TypeRef::Table(ty) => self.table(module, offset, ty, true),
            TypeRef::Memory(ty) => self.memory(module, offset, ty, true),
            TypeRef::Global(ty) => self.global(module, offset, ty, true),
            TypeRef::Tag(ty) => {
                module.tags.push(module.canonical[ty.func_type_idx as usize]);
            }
        }
    }

    fn table(&mut self, module: &mut Module<'_>, offset: usize, ty: wasmparser::TableType, imported: bool) {
        match self.names(module).ref_ty(ty.element_type) {
            Ok(element) if !ty.shared => module.tables.push(TableInfo {
                imported,
                ty: element.value_type(),
                nullable: !element.is_non_null(),
                minimum: ty.initial,
                maximum: ty.maximum,
            }),
            Ok(_) => self.block(offset, "shared tables", format!("table {}", module.tables.len())),
            Err(feature) => self.block(offset, feature, format!("table {}", module.tables.len())),
        }
    }

    fn memory(&mut self, module: &mut Module<'_>, offset: usize, ty: wasmparser::MemoryType, imported: bool) {
        if ty.shared {
            self.block(
                offset,
                "threads (shared memory, atomics)",
                format!("memory {} is shared", module.memories.len()),
            );
        }
        module.memories.push(MemoryInfo {
            imported,
            memory64: ty.memory64,
            page_size_log2: ty.page_size_log2.unwrap_or(16),
            minimum: ty.initial,
            maximum: ty.maximum,
        });
    }

    fn global(&mut self, module: &mut Module<'_>, offset: usize, ty: wasmparser::GlobalType, imported: bool) {
        match self.names(module).ty(ty.content_type) {
            Ok(content) if !ty.shared => module.globals.push(GlobalInfo {
                imported,
                ty: content.value_type(),
                nullable: !content.is_non_null(),
                mutable: ty.mutable,
            }),
            Ok(_) => self.block(offset, "shared globals", format!("global {}", module.globals.len())),
            Err(feature) => self.block(offset, feature, format!("global {}", module.globals.len())),
        }
    }

    /// Notes the functions that a constant expression hands out.
    fn constant(&mut self, module: &mut Module<'_>, expr: &ConstExpr<'_>) -> wasmparser::Result<()> {
        for item in expr.get_operators_reader().into_iter_with_offsets() {
            let (op, offset) = item?;
            if let Operator::RefFunc { function_index } = op {
                module.escaping.insert(function_index);
            }
            if let Some(feature) = crate::features::refused(&op) {
                self.block(offset, feature, "constant expression".into());
            }
        }
        Ok(())
    }

    fn code<'a>(
        &mut self,
        module: &mut Module<'a>,
        code: Vec<(FuncToValidate<ValidatorResources>, FunctionBody<'a>)>,
        names: &TypeNames<'_>,
    ) -> wasmparser::Result<()> {
        let mut allocations = FuncValidatorAllocations::default();
        // Where a declaration is refused, types may be missing: the bodies are validated but not described. Their own
        // reasons show once these are gone.
        let describe = self.blockers.is_empty();
        for (function, body) in code {
            let mut validator = function.into_validator(allocations);
            if !describe {
                validator.validate(&body)?;
                allocations = validator.into_allocations();
                continue;
            }
            let index = validator.index();
            let no_dummy = |ty: &Ty| matches!(ty, Ty::Ref { heap: Heap::Extern | Heap::Exn, nullable: false });
            if module.signature_of(index).results.iter().any(no_dummy) {
                // A frame that unwinds must return something, and no such reference can be made out of nothing.
                let detail = "the function returns a non-nullable reference that only its caller or the host can make";
                let (function, offset) = (Some(index), body.range().start);
                let feature = "non-nullable externref or exnref result";
                self.blockers.push(Blocker { function, offset, feature, detail: detail.into() });
            }
            let decoded = Body::decode(module, names, &mut validator, &body, &mut self.blockers)?;
            allocations = validator.into_allocations();
            for op in &decoded.ops {
                if let Operator::RefFunc { function_index } = op.op {
                    module.escaping.insert(function_index);
                }
            }
            module.bodies.push(decoded);
        }
        if !module.names_function_types() {
            module.bodies.iter_mut().for_each(Body::forget_function_types);
        }
        Ok(())
    }
}

fn signature(names: &TypeNames<'_>, ty: &wasmparser::SubType) -> Result<Signature, &'static str> {
    if ty.composite_type.shared {
        return Err("shared types");
    }
    if ty.supertype_idx.is_some() || !ty.is_final {
        // A call through a subtype could reach functions of other signatures than the pass counts on.
        return Err("GC types");
    }
    let CompositeInnerType::Func(ty) = &ty.composite_type.inner else { return Err("GC types or continuations") };
    let list = |types: &[wasmparser::ValType]| types.iter().map(|ty| names.ty(*ty)).collect::<Result<Vec<_>, _>>();
    Ok(Signature { params: list(ty.params())?, results: list(ty.results())? })
}
