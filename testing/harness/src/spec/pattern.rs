//! What a script expects, and what a run gave, in a form that two stores can be compared by.

use dunlin_base::Value;
use wasmtime::Val;
use wast::core::{AbstractHeapType, HeapType, NanPattern, V128Pattern, WastArgCore, WastRetCore};
use wast::token::{F32, F64};
use wast::{WastArg, WastRet};

use crate::plain;

/// A result. Of references to functions and exceptions only whether they are null is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    Value(Value),
    /// A reference that is not null, of another kind.
    Reference,
}

impl Item {
    pub(super) fn of(store: impl wasmtime::AsContext, value: &Val) -> Self {
        match plain::simple(store, value) {
            Some(value) => Self::Value(value),
            None => match value {
                Val::AnyRef(None) => Self::Value(Value::ExternRef(None)),
                _ => Self::Reference,
            },
        }
    }

    pub(super) fn of_value(value: Value) -> Self {
        match value {
            Value::FuncRef(Some(_)) | Value::ExnRef(Some(_)) => Self::Reference,
            value => Self::Value(value),
        }
    }

    /// Equal, or both NaN: which NaN an operation makes is the engine's choice, and wasmi chooses otherwise.
    pub(super) fn same_number(self, other: Self) -> bool {
        let nan32 = |bits: u32| f32::from_bits(bits).is_nan();
        let nan64 = |bits: u64| f64::from_bits(bits).is_nan();
        match (self, other) {
            (Self::Value(Value::F32(a)), Self::Value(Value::F32(b))) => a == b || nan32(a) && nan32(b),
            (Self::Value(Value::F64(a)), Self::Value(Value::F64(b))) => a == b || nan64(a) && nan64(b),
            (Self::Value(Value::V128(a)), Self::Value(Value::V128(b))) => {
                let lanes = |bits: u128| [0, 32, 64, 96].map(|shift| (bits >> shift) as u32);
                let halves = |bits: u128| [bits as u64, (bits >> 64) as u64];
                lanes(a).into_iter().zip(lanes(b)).all(|(a, b)| a == b || nan32(a) && nan32(b))
                    || halves(a).into_iter().zip(halves(b)).all(|(a, b)| a == b || nan64(a) && nan64(b))
            }
            (a, b) => a == b,
        }
    }
}

/// An argument; `None` for one of a type that no module which is carried can take.
pub(super) fn argument(arg: &WastArg<'_>) -> Option<Value> {
    let WastArg::Core(arg) = arg else { return None };
    Some(match arg {
        WastArgCore::I32(value) => Value::I32(*value),
        WastArgCore::I64(value) => Value::I64(*value),
        WastArgCore::F32(value) => Value::F32(value.bits),
        WastArgCore::F64(value) => Value::F64(value.bits),
        WastArgCore::V128(value) => Value::V128(u128::from_le_bytes(value.to_le_bytes())),
        WastArgCore::RefNull(HeapType::Abstract { shared: false, ty }) => match ty {
            AbstractHeapType::Func | AbstractHeapType::NoFunc => Value::FuncRef(None),
            AbstractHeapType::Extern | AbstractHeapType::NoExtern => Value::ExternRef(None),
            AbstractHeapType::Exn | AbstractHeapType::NoExn => Value::ExnRef(None),
            _ => return None,
        },
        WastArgCore::RefExtern(number) => Value::ExternRef(Some(u64::from(*number))),
        _ => return None,
    })
}

/// Whether results are those that a script expects.
pub(super) fn expected(results: &[Item], expected: &[WastRet<'_>]) -> bool {
    results.len() == expected.len()
        && results.iter().zip(expected).all(|(item, ret)| match ret {
            WastRet::Core(ret) => matches(item, ret),
            _ => false,
        })
}

fn matches(item: &Item, ret: &WastRetCore<'_>) -> bool {
    if let WastRetCore::Either(choices) = ret {
        return choices.iter().any(|choice| matches(item, choice));
    }
    match (item, ret) {
        (Item::Value(Value::I32(value)), WastRetCore::I32(expected)) => value == expected,
        (Item::Value(Value::I64(value)), WastRetCore::I64(expected)) => value == expected,
        (Item::Value(Value::F32(bits)), WastRetCore::F32(pattern)) => float32(*bits, pattern),
        (Item::Value(Value::F64(bits)), WastRetCore::F64(pattern)) => float64(*bits, pattern),
        (Item::Value(Value::V128(bits)), WastRetCore::V128(pattern)) => vector(*bits, pattern),
        (Item::Value(Value::FuncRef(None) | Value::ExternRef(None) | Value::ExnRef(None)), WastRetCore::RefNull(_)) => {
            true
        }
        (Item::Value(Value::ExternRef(Some(_))), WastRetCore::RefExtern(None)) => true,
        (Item::Value(Value::ExternRef(Some(number))), WastRetCore::RefExtern(Some(expected))) => {
            *number == u64::from(*expected)
        }
        (Item::Reference, WastRetCore::RefNull(_) | WastRetCore::RefExtern(_)) => false,
        (Item::Reference, _) => true,
        _ => false,
    }
}

fn float32(bits: u32, pattern: &NanPattern<F32>) -> bool {
    match pattern {
        NanPattern::CanonicalNan => bits & 0x7fff_ffff == 0x7fc0_0000,
        NanPattern::ArithmeticNan => bits & 0x7fc0_0000 == 0x7fc0_0000,
        NanPattern::Value(value) => bits == value.bits,
    }
}

fn float64(bits: u64, pattern: &NanPattern<F64>) -> bool {
    match pattern {
        NanPattern::CanonicalNan => bits & 0x7fff_ffff_ffff_ffff == 0x7ff8_0000_0000_0000,
        NanPattern::ArithmeticNan => bits & 0x7ff8_0000_0000_0000 == 0x7ff8_0000_0000_0000,
        NanPattern::Value(value) => bits == value.bits,
    }
}

fn vector(bits: u128, pattern: &V128Pattern) -> bool {
    fn lanes<const N: usize>(bits: u128) -> [u64; N] {
        let width = 128 / N;
        core::array::from_fn(|lane| (bits >> (lane * width)) as u64 & (u64::MAX >> (64 - width)))
    }
    match pattern {
        V128Pattern::I8x16(expected) => lanes(bits) == expected.map(|lane| u64::from(lane as u8)),
        V128Pattern::I16x8(expected) => lanes(bits) == expected.map(|lane| u64::from(lane as u16)),
        V128Pattern::I32x4(expected) => lanes(bits) == expected.map(|lane| u64::from(lane as u32)),
        V128Pattern::I64x2(expected) => lanes(bits) == expected.map(|lane| lane as u64),
        V128Pattern::F32x4(expected) => {
            lanes::<4>(bits).iter().zip(expected).all(|(lane, pattern)| float32(*lane as u32, pattern))
        }
        V128Pattern::F64x2(expected) => {
            lanes::<2>(bits).iter().zip(expected).all(|(lane, pattern)| float64(*lane, pattern))
        }
    }
}
