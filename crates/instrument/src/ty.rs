//! Value types as the pass sees them: exact enough to declare locals and types with.

use std::collections::HashMap;

use dunlin_base::ValueType;
use wasmparser::types::{CoreTypeId, TypesRef};
use wasmparser::{AbstractHeapType, HeapType, RefType, UnpackedIndex, ValType};

/// The portable type of a Wasm type; `None` for one that no value of ours has.
pub fn value_type(ty: ValType) -> Option<ValueType> {
    Some(match ty {
        ValType::I32 => ValueType::I32,
        ValType::I64 => ValueType::I64,
        ValType::F32 => ValueType::F32,
        ValType::F64 => ValueType::F64,
        ValType::V128 => ValueType::V128,
        ValType::Ref(ty) => match ty.heap_type() {
            HeapType::FUNC => ValueType::FuncRef,
            HeapType::EXTERN => ValueType::ExternRef,
            HeapType::Abstract { shared: false, ty: AbstractHeapType::Exn } => ValueType::ExnRef,
            HeapType::Concrete(index) => ValueType::TypedFuncRef(index.as_module_index()?),
            _ => return None,
        },
    })
}

/// A value type that the pass can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Ty {
    I32,
    I64,
    F32,
    F64,
    V128,
    Ref { heap: Heap, nullable: bool },
}

/// What a reference points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Heap {
    Func,
    Extern,
    Exn,
    /// A function of the type with this index (the first of its canonical equals).
    Concrete(u32),
}

impl Ty {
    /// The type as a local variable that is not always initialised declares it.
    pub(crate) const fn nullable(self) -> Self {
        match self {
            Self::Ref { heap, .. } => Self::Ref { heap, nullable: true },
            other => other,
        }
    }

    pub(crate) const fn is_non_null(self) -> bool {
        matches!(self, Self::Ref { nullable: false, .. })
    }

    /// Whether only the function references proposal can write this type.
    pub(crate) const fn names_function_type(self) -> bool {
        matches!(self, Self::Ref { heap: Heap::Concrete(_), .. } | Self::Ref { heap: Heap::Func, nullable: false })
    }

    /// The type with all references to functions folded to `funcref`.
    pub(crate) const fn forget_function_type(self) -> Self {
        if self.names_function_type() { Self::Ref { heap: Heap::Func, nullable: true } } else { self }
    }

    pub(crate) const fn value_type(self) -> ValueType {
        match self {
            Self::I32 => ValueType::I32,
            Self::I64 => ValueType::I64,
            Self::F32 => ValueType::F32,
            Self::F64 => ValueType::F64,
            Self::V128 => ValueType::V128,
            Self::Ref { heap: Heap::Func, .. } => ValueType::FuncRef,
            Self::Ref { heap: Heap::Extern, .. } => ValueType::ExternRef,
            Self::Ref { heap: Heap::Exn, .. } => ValueType::ExnRef,
            Self::Ref { heap: Heap::Concrete(index), .. } => ValueType::TypedFuncRef(index),
        }
    }

    pub(crate) fn encoded(self) -> wasm_encoder::ValType {
        use wasm_encoder::ValType;
        match self {
            Self::I32 => ValType::I32,
            Self::I64 => ValType::I64,
            Self::F32 => ValType::F32,
            Self::F64 => ValType::F64,
            Self::V128 => ValType::V128,
            Self::Ref { heap, nullable } => ValType::Ref(wasm_encoder::RefType { nullable, heap_type: heap.encoded() }),
        }
    }
}

impl Heap {
    pub(crate) fn encoded(self) -> wasm_encoder::HeapType {
        use wasm_encoder::HeapType;
        match self {
            Self::Func => HeapType::FUNC,
            Self::Extern => HeapType::EXTERN,
            Self::Exn => HeapType::Abstract { shared: false, ty: wasm_encoder::AbstractHeapType::Exn },
            Self::Concrete(index) => HeapType::Concrete(index),
        }
    }
}

/// Translates the parser's types, folding equal concrete types onto one index.
pub(crate) struct TypeNames<'t> {
    types: TypesRef<'t>,
    first_index: HashMap<CoreTypeId, u32>,
}

impl<'t> TypeNames<'t> {
    pub(crate) fn new(types: TypesRef<'t>, count: u32) -> Self {
        let mut first_index = HashMap::new();
        for index in 0..count {
            first_index.entry(types.core_type_at_in_module(index)).or_insert(index);
        }
        Self { types, first_index }
    }

    /// The lowest index of a type equal to the one at `index`.
    pub(crate) fn canonical(&self, index: u32) -> u32 {
        self.first_index[&self.types.core_type_at_in_module(index)]
    }

    /// The type, or the name of the feature that cannot be carried.
    pub(crate) fn ty(&self, ty: ValType) -> Result<Ty, &'static str> {
        Ok(match ty {
            ValType::I32 => Ty::I32,
            ValType::I64 => Ty::I64,
            ValType::F32 => Ty::F32,
            ValType::F64 => Ty::F64,
            ValType::V128 => Ty::V128,
            ValType::Ref(ty) => self.ref_ty(ty)?,
        })
    }

    pub(crate) fn ref_ty(&self, ty: RefType) -> Result<Ty, &'static str> {
        let heap = match ty.heap_type() {
            HeapType::Abstract { shared: true, .. } => return Err("shared references"),
            HeapType::Abstract { ty: AbstractHeapType::Func, .. } => Heap::Func,
            HeapType::Abstract { ty: AbstractHeapType::Extern, .. } => Heap::Extern,
            HeapType::Abstract { ty: AbstractHeapType::Exn, .. } => Heap::Exn,
            HeapType::Concrete(UnpackedIndex::Module(index)) => Heap::Concrete(self.canonical(index)),
            HeapType::Concrete(UnpackedIndex::Id(id)) => {
                Heap::Concrete(*self.first_index.get(&id).ok_or("types from outside the module")?)
            }
            HeapType::Abstract { .. } | HeapType::Concrete(UnpackedIndex::RecGroup(_)) | HeapType::Exact(_) => {
                return Err("GC types");
            }
        };
        Ok(Ty::Ref { heap, nullable: ty.is_nullable() })
    }
}
