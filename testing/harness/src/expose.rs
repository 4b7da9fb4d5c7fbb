//! Makes everything of a module visible, so that its final state can be compared.

use wasm_encoder::{Encode as _, ExportKind, ExportSection, RawSection, SectionId};
use wasmparser::{ExternalKind, Parser, Payload, TypeRef};

/// A module with exports for all it holds: functions `x:f0`, memories `x:m0`, tables `x:t0`, globals `x:g0`, and so
/// on. The start function does not run by itself; it is function [`Exposed::start`].
#[derive(Debug, Clone, Default)]
pub struct Exposed {
    /// The module's bytes.
    pub wasm: Vec<u8>,
    /// Number of functions.
    pub functions: u32,
    /// Number of memories.
    pub memories: u32,
    /// Number of tables.
    pub tables: u32,
    /// For each global, whether it can change.
    pub globals: Vec<bool>,
    /// The start function.
    pub start: Option<u32>,
    /// Whether anything but functions is imported.
    pub imports_state: bool,
}

/// Exposes a module; `None` for bytes that are not one.
pub fn expose(wasm: &[u8]) -> Option<Exposed> {
    let mut out = Exposed::default();
    let mut exports = ExportSection::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    match import.ok()?.ty {
                        TypeRef::Func(_) | TypeRef::FuncExact(_) => {
                            out.functions += 1;
                            continue;
                        }
                        TypeRef::Table(_) => out.tables += 1,
                        TypeRef::Memory(_) => out.memories += 1,
                        TypeRef::Global(global) => out.globals.push(global.mutable),
                        TypeRef::Tag(_) => {}
                    }
                    out.imports_state = true;
                }
            }
            Payload::FunctionSection(section) => out.functions += section.count(),
            Payload::TableSection(section) => out.tables += section.count(),
            Payload::MemorySection(section) => out.memories += section.count(),
            Payload::GlobalSection(section) => {
                for global in section {
                    out.globals.push(global.ok()?.ty.mutable);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.ok()?;
                    let kind = match export.kind {
                        ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Func,
                        ExternalKind::Table => ExportKind::Table,
                        ExternalKind::Memory => ExportKind::Memory,
                        ExternalKind::Global => ExportKind::Global,
                        ExternalKind::Tag => ExportKind::Tag,
                    };
                    exports.export(export.name, kind, export.index);
                }
            }
            Payload::StartSection { func, .. } => out.start = Some(func),
            _ => {}
        }
    }
    for (letter, kind, count) in [
        ('f', ExportKind::Func, out.functions),
        ('m', ExportKind::Memory, out.memories),
        ('t', ExportKind::Table, out.tables),
        ('g', ExportKind::Global, out.globals.len() as u32),
    ] {
        for index in 0..count {
            exports.export(&format!("x:{letter}{index}"), kind, index);
        }
    }
    const EXPORT: u8 = SectionId::Export as u8;
    const BEHIND: [u8; 5] = [
        SectionId::Start as u8,
        SectionId::Element as u8,
        SectionId::DataCount as u8,
        SectionId::Code as u8,
        SectionId::Data as u8,
    ];
    let mut module = wasm_encoder::Module::new();
    let mut written = false;
    for payload in Parser::new(0).parse_all(wasm) {
        let Some((id, range)) = payload.ok()?.as_section() else { continue };
        if !written && (id == EXPORT || BEHIND.contains(&id)) {
            module.section(&exports);
            written = true;
        }
        if ![EXPORT, SectionId::Start as u8, SectionId::Custom as u8].contains(&id) {
            module.section(&RawSection { id, data: wasm.get(range)? });
        }
    }
    if !written {
        module.section(&exports);
    }
    out.wasm = module.finish();
    Some(out)
}

/// The module with an exported function for each mutable global of a number's or vector's type that gives its value,
/// and the names of these functions: for engines into whose state nothing else looks. `None` for a module without
/// functions, or with types of its own kinds.
pub(crate) fn with_getters(wasm: &[u8]) -> Option<(Vec<u8>, Vec<String>)> {
    let exposed = expose(wasm)?;
    let (mut types, mut globals) = (0, Vec::new());
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            Payload::TypeSection(section) => types = section.count(),
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let TypeRef::Global(global) = import.ok()?.ty {
                        globals.push(global);
                    }
                }
            }
            Payload::GlobalSection(section) => {
                for global in section {
                    globals.push(global.ok()?.ty);
                }
            }
            _ => {}
        }
    }
    let number = |ty: &wasmparser::ValType| {
        Some(match ty {
            wasmparser::ValType::I32 => 0x7f,
            wasmparser::ValType::I64 => 0x7e,
            wasmparser::ValType::F32 => 0x7d,
            wasmparser::ValType::F64 => 0x7c,
            wasmparser::ValType::V128 => 0x7b,
            wasmparser::ValType::Ref(_) => return None,
        })
    };
    let (mut names, mut added) = (Vec::new(), [const { Vec::new() }; 4]);
    let [new_types, new_functions, new_exports, new_bodies] = &mut added;
    for (index, global) in (0_u32..).zip(&globals).filter(|(_, global)| global.mutable) {
        let Some(ty) = number(&global.content_type) else { continue };
        let count = names.len() as u32;
        new_types.extend_from_slice(&[0x60, 0, 1, ty]);
        (types + count).encode(new_functions);
        let name = format!("x:get{index}");
        name.as_str().encode(new_exports);
        new_exports.push(ExportKind::Func as u8);
        (exposed.functions + count).encode(new_exports);
        let mut body = vec![0, 0x23];
        index.encode(&mut body);
        body.push(0x0b);
        body.as_slice().encode(new_bodies);
        names.push(name);
    }
    let longer = [SectionId::Type, SectionId::Function, SectionId::Export, SectionId::Code].map(|id| id as u8);
    let mut module = wasm_encoder::Module::new();
    let mut found = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        let Some((id, range)) = payload.ok()?.as_section() else { continue };
        let data = wasm.get(range)?;
        let Some(which) = longer.iter().position(|longer| *longer == id) else {
            module.section(&RawSection { id, data });
            continue;
        };
        found += 1;
        let mut reader = wasmparser::BinaryReader::new(data, 0);
        let mut section = Vec::new();
        (reader.read_var_u32().ok()? + names.len() as u32).encode(&mut section);
        section.extend_from_slice(data.get(reader.original_position()..)?);
        section.extend_from_slice(&added[which]);
        module.section(&RawSection { id, data: &section });
    }
    (found == longer.len()).then(|| (module.finish(), names))
}
