//! Typed Wasm values as plain data. Floats are bit patterns, so that a NaN's payload and sign survive;
//! references are numbers with a meaning that does not depend on an engine.

use core::fmt;

/// The type of a value that a captured program can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ValueType {
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// 128-bit vector.
    V128,
    /// Reference to a function of any type (nullable).
    FuncRef,
    /// Reference to a function of the type with this index in the original module.
    TypedFuncRef(u32),
    /// Reference that belongs to the host.
    ExternRef,
    /// Reference to a caught exception.
    ExnRef,
}

impl ValueType {
    /// Whether values of this type are references.
    pub const fn is_ref(self) -> bool {
        matches!(self, Self::FuncRef | Self::TypedFuncRef(_) | Self::ExternRef | Self::ExnRef)
    }

    /// Bytes that a value occupies in a frame record: its natural size, 4 for a reference.
    pub const fn size(self) -> u32 {
        match self {
            Self::I32 | Self::F32 | Self::FuncRef | Self::TypedFuncRef(_) | Self::ExternRef | Self::ExnRef => 4,
            Self::I64 | Self::F64 => 8,
            Self::V128 => 16,
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::I32 => f.write_str("i32"),
            Self::I64 => f.write_str("i64"),
            Self::F32 => f.write_str("f32"),
            Self::F64 => f.write_str("f64"),
            Self::V128 => f.write_str("v128"),
            Self::FuncRef => f.write_str("funcref"),
            Self::TypedFuncRef(ty) => write!(f, "(ref null {ty})"),
            Self::ExternRef => f.write_str("externref"),
            Self::ExnRef => f.write_str("exnref"),
        }
    }
}

/// A value. Equality is equality of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// 32-bit integer.
    I32(i32),
    /// 64-bit integer.
    I64(i64),
    /// Bits of a 32-bit float.
    F32(u32),
    /// Bits of a 64-bit float.
    F64(u64),
    /// 128-bit vector, lane 0 in the lowest bits.
    V128(u128),
    /// Function reference, as an index into the original module's function index space.
    FuncRef(Option<u32>),
    /// Host reference, as the number under which the host knows it.
    ExternRef(Option<u64>),
    /// Exception reference, as an index into the captured instance's list of exceptions.
    ExnRef(Option<u32>),
}

impl Value {
    /// Whether the value can stand where `ty` is asked for. That a function has the type that a
    /// [`ValueType::TypedFuncRef`] names is not looked at.
    pub const fn is_a(&self, ty: ValueType) -> bool {
        matches!(
            (self, ty),
            (Self::I32(_), ValueType::I32)
                | (Self::I64(_), ValueType::I64)
                | (Self::F32(_), ValueType::F32)
                | (Self::F64(_), ValueType::F64)
                | (Self::V128(_), ValueType::V128)
                | (Self::FuncRef(_), ValueType::FuncRef | ValueType::TypedFuncRef(_))
                | (Self::ExternRef(_), ValueType::ExternRef)
                | (Self::ExnRef(_), ValueType::ExnRef)
        )
    }

    /// The zero or null of a type.
    pub const fn default_of(ty: ValueType) -> Self {
        match ty {
            ValueType::I32 => Self::I32(0),
            ValueType::I64 => Self::I64(0),
            ValueType::F32 => Self::F32(0),
            ValueType::F64 => Self::F64(0),
            ValueType::V128 => Self::V128(0),
            ValueType::FuncRef | ValueType::TypedFuncRef(_) => Self::FuncRef(None),
            ValueType::ExternRef => Self::ExternRef(None),
            ValueType::ExnRef => Self::ExnRef(None),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::I32(value) => write!(f, "{value}"),
            Self::I64(value) => write!(f, "{value}"),
            Self::F32(bits) if f32::from_bits(*bits).is_nan() => write!(f, "nan:0x{bits:08x}"),
            Self::F32(bits) => write!(f, "{:?}", f32::from_bits(*bits)),
            Self::F64(bits) if f64::from_bits(*bits).is_nan() => write!(f, "nan:0x{bits:016x}"),
            Self::F64(bits) => write!(f, "{:?}", f64::from_bits(*bits)),
            Self::V128(bits) => write!(f, "0x{bits:032x}"),
            Self::FuncRef(None) | Self::ExternRef(None) | Self::ExnRef(None) => f.write_str("null"),
            Self::FuncRef(Some(index)) => write!(f, "func {index}"),
            Self::ExternRef(Some(id)) => write!(f, "extern {id}"),
            Self::ExnRef(Some(index)) => write!(f, "exception {index}"),
        }
    }
}
