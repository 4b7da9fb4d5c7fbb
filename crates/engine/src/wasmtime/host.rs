//! Calls from the program into the host, without Wasmtime's checks of every value.
#![allow(unsafe_code, reason = "host functions on raw values, and reading those values")]

use core::mem::MaybeUninit;
use core::sync::atomic::Ordering;

use dunlin_base::{Value, ValueType};
use dunlin_instrument::{ControlLayout, ControlState};
use wasmtime::{AsContextMut, Caller, ExternRef, Func, FuncType, HeapType, RefType, Rooted, Store, ValRaw, ValType};

use super::machine::{Context, HostRef};
use super::trap::Ended;
use crate::host::Flow;

/// Arguments and results up to this number need no allocation.
const INLINE: usize = 16;

/// Makes the function that calls the host's import `number` of this type. The types hold no references but
/// `externref`.
pub(super) fn import(store: &mut Store<Context>, number: u32, params: Vec<ValueType>, results: Vec<ValueType>) -> Func {
    let ty = FuncType::new(store.engine(), params.iter().map(val_type), results.iter().map(val_type));
    // SAFETY: the function below reads exactly `params` and writes exactly `results`, from which `ty` was made.
    unsafe {
        Func::new_unchecked(&mut *store, ty, move |mut caller, slots| {
            call(&mut caller, number, &params, &results, slots)
        })
    }
}

fn val_type(ty: &ValueType) -> ValType {
    match ty {
        ValueType::I32 => ValType::I32,
        ValueType::I64 => ValType::I64,
        ValueType::F32 => ValType::F32,
        ValueType::F64 => ValType::F64,
        ValueType::V128 => ValType::V128,
        ValueType::ExternRef => ValType::EXTERNREF,
        // Not reached: imports with such types are refused before.
        ValueType::FuncRef | ValueType::TypedFuncRef(_) => ValType::FUNCREF,
        ValueType::ExnRef => ValType::Ref(RefType::new(true, HeapType::Exn)),
    }
}

fn call(
    caller: &mut Caller<'_, Context>,
    number: u32,
    params: &[ValueType],
    results: &[ValueType],
    slots: &mut [MaybeUninit<ValRaw>],
) -> wasmtime::Result<()> {
    let mut inline = [Value::I32(0); INLINE];
    let mut heap;
    let total = params.len() + results.len();
    let values = if total <= INLINE {
        &mut inline[..total]
    } else {
        heap = vec![Value::I32(0); total];
        &mut heap[..]
    };
    let (args, out) = values.split_at_mut(params.len());
    for ((arg, ty), slot) in args.iter_mut().zip(params).zip(&*slots) {
        // SAFETY: Wasmtime initialises the slots of all parameters before it calls.
        let raw = unsafe { slot.assume_init_ref() };
        *arg = match ty {
            ValueType::I32 => Value::I32(raw.get_i32()),
            ValueType::I64 => Value::I64(raw.get_i64()),
            ValueType::F32 => Value::F32(raw.get_f32()),
            ValueType::F64 => Value::F64(raw.get_f64()),
            ValueType::V128 => Value::V128(raw.get_v128()),
            _ => Value::ExternRef(match ExternRef::from_raw(caller.as_context_mut(), raw.get_externref()) {
                None => None,
                Some(reference) => Some(number_of(&reference, caller)?),
            }),
        };
    }
    for (value, ty) in out.iter_mut().zip(results) {
        *value = Value::default_of(*ty);
    }
    let flow = match caller.data().memory {
        Some(memory) => {
            let (bytes, context) = memory.data_and_store_mut(&mut *caller);
            context.host.call(number, bytes, args, out)
        }
        None => caller.data_mut().host.call(number, &mut [], args, out),
    };
    match flow {
        Flow::Return => {}
        Flow::Reissue => {
            let Some(flags) = &caller.data().flags else {
                return Err(Ended::Trap(
                    "a host call was to be issued again after a stop, but the module is not instrumented".to_owned(),
                )
                .into());
            };
            flags.set(1);
            flags.control.word(ControlLayout::STATE).store((ControlState::Unwinding as u32).to_le(), Ordering::SeqCst);
            for (value, ty) in out.iter_mut().zip(results) {
                *value = Value::default_of(*ty);
            }
        }
        Flow::Exit(code) => return Err(Ended::Exit(code).into()),
        Flow::Trap(message) => return Err(Ended::Trap(message).into()),
    }
    for ((value, ty), slot) in out.iter().zip(results).zip(&mut *slots) {
        if !value.is_a(*ty) {
            return Err(Ended::Trap(format!("the host returned {value} where {ty} was asked for")).into());
        }
        slot.write(match value {
            Value::I32(value) => ValRaw::i32(*value),
            Value::I64(value) => ValRaw::i64(*value),
            Value::F32(bits) => ValRaw::f32(*bits),
            Value::F64(bits) => ValRaw::f64(*bits),
            Value::V128(bits) => ValRaw::v128(*bits),
            Value::ExternRef(Some(number)) => {
                let reference = ExternRef::new(caller.as_context_mut(), HostRef(*number))?;
                ValRaw::externref(reference.to_raw(caller.as_context_mut())?)
            }
            Value::ExternRef(None) | Value::FuncRef(_) | Value::ExnRef(_) => ValRaw::null(),
        });
    }
    Ok(())
}

fn number_of(reference: &Rooted<ExternRef>, caller: &Caller<'_, Context>) -> wasmtime::Result<u64> {
    let number = reference.data(caller)?.and_then(|data| data.downcast_ref::<HostRef>()).map(|HostRef(number)| *number);
    number.ok_or_else(|| Ended::Trap("an external reference is not one that the host gave out".to_owned()).into())
}
