//! Which WebAssembly features a module needs: what a snapshot's header tells the host that is to restore it.

use dunlin_snapshot::Features;
use wasmparser::{
    BinaryReaderError, BlockType, CompositeInnerType, ConstExpr, DataKind, ElementItems, ElementKind, ExternalKind,
    HeapType, MemoryType, Operator, Parser, Payload, RefType, TableInit, TableType, TypeRef, ValType,
};

macro_rules! define_proposal {
    ($(@$proposal:ident $op:ident $({ $($arg:ident: $argty:ty),* })? => $visit:ident ($($ann:tt)*))*) => {
        /// The proposal that brought an operator, in the parser's spelling.
        fn proposal(operator: &Operator<'_>) -> &'static str {
            match operator {
                $(Operator::$op { .. } => stringify!($proposal),)*
                _ => "unknown",
            }
        }
    };
}
wasmparser::for_each_operator!(define_proposal);

/// The features that `wasm`, a valid module, uses. What no snapshot can need (such a module is not carried) is left
/// out.
pub(crate) fn of(wasm: &[u8]) -> Result<Features, BinaryReaderError> {
    let mut scan = Scan::default();
    for payload in Parser::new(0).parse_all(wasm) {
        scan.payload(payload?)?;
    }
    if scan.memories > 1 {
        scan.needs(Features::MULTI_MEMORY);
    }
    if scan.tables > 1 {
        scan.needs(Features::REFERENCE_TYPES);
    }
    Ok(scan.found)
}

#[derive(Default)]
struct Scan {
    found: Features,
    memories: u32,
    tables: u32,
    imported_globals: u32,
    /// Of each global, whether it is mutable.
    globals: Vec<bool>,
}

impl Scan {
    fn needs(&mut self, feature: Features) {
        self.found = self.found.union(feature);
    }

    fn payload(&mut self, payload: Payload<'_>) -> Result<(), BinaryReaderError> {
        match payload {
            Payload::TypeSection(section) => {
                for group in section {
                    for ty in group?.into_types() {
                        if let CompositeInnerType::Func(ty) = &ty.composite_type.inner {
                            ty.params().iter().chain(ty.results()).for_each(|ty| self.value(*ty));
                            if ty.results().len() > 1 {
                                self.needs(Features::MULTI_VALUE);
                            }
                        }
                    }
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    match import?.ty {
                        TypeRef::Memory(ty) => self.memory(ty),
                        TypeRef::Table(ty) => self.table(ty),
                        TypeRef::Global(ty) => {
                            self.value(ty.content_type);
                            self.globals.push(ty.mutable);
                            self.imported_globals += 1;
                            if ty.mutable {
                                self.needs(Features::MUTABLE_GLOBAL);
                            }
                        }
                        TypeRef::Tag(_) => self.needs(Features::EXCEPTIONS),
                        TypeRef::Func(_) | TypeRef::FuncExact(_) => {}
                    }
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    let table = table?;
                    self.table(table.ty);
                    if let TableInit::Expr(expr) = table.init {
                        self.needs(Features::FUNCTION_REFERENCES);
                        self.constant(&expr)?;
                    }
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    self.memory(memory?);
                }
            }
            Payload::TagSection(_) => self.needs(Features::EXCEPTIONS),
            Payload::GlobalSection(section) => {
                for global in section {
                    let global = global?;
                    self.value(global.ty.content_type);
                    self.globals.push(global.ty.mutable);
                    self.constant(&global.init_expr)?;
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    let mutable = self.globals.get(export.index as usize).copied().unwrap_or_default();
                    if export.kind == ExternalKind::Global && mutable {
                        self.needs(Features::MUTABLE_GLOBAL);
                    }
                }
            }
            Payload::DataCountSection { .. } => self.needs(Features::BULK_MEMORY),
            Payload::ElementSection(section) => {
                for element in section {
                    let element = element?;
                    match &element.kind {
                        ElementKind::Active { table_index, offset_expr } => {
                            if table_index.is_some_and(|table| table != 0) {
                                self.needs(Features::REFERENCE_TYPES);
                            }
                            self.constant(offset_expr)?;
                        }
                        ElementKind::Passive => self.needs(Features::BULK_MEMORY),
                        ElementKind::Declared => self.needs(Features::REFERENCE_TYPES),
                    }
                    if let ElementItems::Expressions(ty, items) = element.items {
                        self.needs(Features::BULK_MEMORY);
                        self.reference(ty);
                        for item in items {
                            self.constant(&item?)?;
                        }
                    }
                }
            }
            Payload::DataSection(section) => {
                for data in section {
                    match data?.kind {
                        DataKind::Passive => self.needs(Features::BULK_MEMORY),
                        DataKind::Active { offset_expr, .. } => self.constant(&offset_expr)?,
                    }
                }
            }
            Payload::CodeSectionEntry(body) => {
                for local in body.get_locals_reader()? {
                    self.value(local?.1);
                }
                for operator in body.get_operators_reader()? {
                    self.operator(&operator?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn operator(&mut self, operator: &Operator<'_>) {
        match proposal(operator) {
            "sign_extension" => self.needs(Features::SIGN_EXTENSION),
            "saturating_float_to_int" => self.needs(Features::SATURATING_FLOAT_TO_INT),
            "bulk_memory" => self.needs(Features::BULK_MEMORY),
            "reference_types" => self.needs(Features::REFERENCE_TYPES),
            "simd" => self.needs(Features::SIMD),
            "relaxed_simd" => self.needs(Features::SIMD.union(Features::RELAXED_SIMD)),
            "tail_call" => self.needs(Features::TAIL_CALL),
            "function_references" => self.needs(Features::FUNCTION_REFERENCES),
            "exceptions" => self.needs(Features::EXCEPTIONS),
            "wide_arithmetic" => self.needs(Features::WIDE_ARITHMETIC),
            _ => {}
        }
        match operator {
            Operator::Block { blockty }
            | Operator::Loop { blockty }
            | Operator::If { blockty }
            | Operator::TryTable { try_table: wasmparser::TryTable { ty: blockty, .. } } => match blockty {
                BlockType::FuncType(_) => self.needs(Features::MULTI_VALUE),
                BlockType::Type(ty) => self.value(*ty),
                BlockType::Empty => {}
            },
            Operator::TypedSelect { ty } => self.value(*ty),
            Operator::RefNull { hty } => self.heap(*hty),
            Operator::CallIndirect { table_index, .. } if *table_index != 0 => self.needs(Features::REFERENCE_TYPES),
            Operator::ReturnCallRef { .. } => self.needs(Features::TAIL_CALL.union(Features::FUNCTION_REFERENCES)),
            _ => {}
        }
    }

    fn constant(&mut self, expr: &ConstExpr<'_>) -> Result<(), BinaryReaderError> {
        for operator in expr.get_operators_reader() {
            match operator? {
                Operator::I32Add
                | Operator::I32Sub
                | Operator::I32Mul
                | Operator::I64Add
                | Operator::I64Sub
                | Operator::I64Mul => self.needs(Features::EXTENDED_CONST),
                // Only imported globals could be read before.
                Operator::GlobalGet { global_index } if global_index >= self.imported_globals => {
                    self.needs(Features::EXTENDED_CONST);
                }
                Operator::V128Const { .. } => self.needs(Features::SIMD),
                Operator::RefNull { hty } => self.heap(hty),
                Operator::RefFunc { .. } => self.needs(Features::REFERENCE_TYPES),
                _ => {}
            }
        }
        Ok(())
    }

    fn memory(&mut self, ty: MemoryType) {
        self.memories += 1;
        if ty.memory64 {
            self.needs(Features::MEMORY64);
        }
        if ty.page_size_log2.is_some() {
            self.needs(Features::CUSTOM_PAGE_SIZES);
        }
    }

    fn table(&mut self, ty: TableType) {
        self.tables += 1;
        if ty.table64 {
            self.needs(Features::MEMORY64);
        }
        if ty.element_type != RefType::FUNCREF {
            self.reference(ty.element_type);
        }
    }

    fn value(&mut self, ty: ValType) {
        match ty {
            ValType::V128 => self.needs(Features::SIMD),
            ValType::Ref(ty) => self.reference(ty),
            _ => {}
        }
    }

    fn reference(&mut self, ty: RefType) {
        self.needs(Features::REFERENCE_TYPES);
        if !ty.is_nullable() {
            self.needs(Features::FUNCTION_REFERENCES);
        }
        self.heap(ty.heap_type());
    }

    fn heap(&mut self, ty: HeapType) {
        self.needs(Features::REFERENCE_TYPES);
        match ty {
            HeapType::Concrete(_) | HeapType::Exact(_) => self.needs(Features::FUNCTION_REFERENCES),
            HeapType::Abstract {
                ty: wasmparser::AbstractHeapType::Exn | wasmparser::AbstractHeapType::NoExn, ..
            } => {
                self.needs(Features::EXCEPTIONS);
            }
            HeapType::Abstract { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(wat: &str) -> String {
        of(&wat::parse_str(wat).unwrap()).unwrap().to_string()
    }

    #[test]
    fn each_feature_is_found() {
        let cases = [
            ("(module (func (param i32) (result i32) local.get 0))", "none"),
            (r#"(module (global (export "g") (mut i32) (i32.const 0)))"#, "mutable-global"),
            (r#"(module (global (export "g") i32 (i32.const 0)))"#, "none"),
            ("(module (func (drop (i32.trunc_sat_f32_s (f32.const 0)))))", "saturating-float-to-int"),
            ("(module (func (drop (i32.extend8_s (i32.const 0)))))", "sign-extension"),
            ("(module (func (result i32 i32) i32.const 0 i32.const 0))", "multi-value"),
            ("(module (func i32.const 0 (loop (param i32) drop)))", "multi-value"),
            ("(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0))))", "bulk-memory"),
            (r#"(module (memory 1) (data "x"))"#, "bulk-memory"),
            ("(module (func (local externref)))", "reference-types"),
            ("(module (table 1 funcref) (table 1 funcref))", "reference-types"),
            ("(module (func (local v128)))", "simd"),
            (
                "(module (func (param v128 v128) (drop (i8x16.relaxed_swizzle (local.get 0) (local.get 1)))))",
                "simd, relaxed-simd",
            ),
            ("(module (func $f (return_call $f)))", "tail-call"),
            ("(module (global i32 (i32.add (i32.const 1) (i32.const 2))))", "extended-const"),
            ("(module (memory 1) (memory 1))", "multi-memory"),
            ("(module (memory i64 1))", "memory64"),
            ("(module (tag))", "exceptions"),
            ("(module (type $t (func)) (func (local (ref null $t))))", "reference-types, function-references"),
            ("(module (memory 1 (pagesize 1)))", "custom-page-sizes"),
            (
                "(module (func (result i64 i64) (i64.mul_wide_u (i64.const 1) (i64.const 2))))",
                "multi-value, wide-arithmetic",
            ),
        ];
        for (wat, expected) in cases {
            assert_eq!(features(wat), expected, "{wat}");
        }
    }

    #[test]
    fn what_is_found_is_enough_to_validate() {
        use wasmparser::WasmFeatures as W;
        let bits = [
            W::MUTABLE_GLOBAL,
            W::SATURATING_FLOAT_TO_INT,
            W::SIGN_EXTENSION,
            W::MULTI_VALUE,
            W::BULK_MEMORY,
            W::REFERENCE_TYPES,
            W::SIMD,
            W::RELAXED_SIMD,
            W::TAIL_CALL,
            W::EXTENDED_CONST,
            W::MULTI_MEMORY,
            W::MEMORY64,
            W::EXCEPTIONS,
            W::FUNCTION_REFERENCES,
            W::CUSTOM_PAGE_SIZES,
            W::WIDE_ARITHMETIC,
        ];
        for guest in ["kernels", "kernels-simd", "js", "sqlite", "churn", "kv"] {
            let path = format!("{}/../../testing/guests/out/{guest}.wasm", env!("CARGO_MANIFEST_DIR"));
            let wasm = std::fs::read(&path).expect("guests are needed: run cargo xtask guests");
            let found = of(&wasm).unwrap().bits();
            let mut features = W::FLOATS | W::GC_TYPES;
            for (bit, feature) in bits.iter().enumerate() {
                features.set(*feature, found >> bit & 1 == 1);
            }
            // How compilers encode the number of table 0, not what they need.
            features |= W::CALL_INDIRECT_OVERLONG;
            if let Err(error) = wasmparser::Validator::new_with_features(features).validate_all(&wasm) {
                panic!("{guest}: {error}");
            }
        }
    }
}
