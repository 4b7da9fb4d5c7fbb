//! Calls from the program into the host.

use dunlin_base::{Value, ValueType};
use dunlin_instrument::{ControlLayout, ControlState};
use wasmi::{Caller, ExternRef, Func, FuncType, Nullable, Store, Val, ValType};

use super::machine::{Context, HostRef};
use super::trap::Ended;
use crate::host::Flow;
use crate::limits::Growth;

/// Makes the function that calls the host's import `number` of this type. The types hold no references but
/// `externref`.
pub(super) fn import(store: &mut Store<Context>, number: u32, params: &[ValueType], results: Vec<ValueType>) -> Func {
    let ty = FuncType::new(params.iter().map(val_type), results.iter().map(val_type));
    Func::new(&mut *store, ty, move |mut caller, args, out| call(&mut caller, number, &results, args, out))
}

fn val_type(ty: &ValueType) -> ValType {
    match ty {
        ValueType::I32 => ValType::I32,
        ValueType::I64 => ValType::I64,
        ValueType::F32 => ValType::F32,
        ValueType::F64 => ValType::F64,
        ValueType::V128 => ValType::V128,
        // Other references are refused before.
        _ => ValType::ExternRef,
    }
}

fn call(
    caller: &mut Caller<'_, Context>,
    number: u32,
    results: &[ValueType],
    args: &[Val],
    out: &mut [Val],
) -> Result<(), wasmi::Error> {
    let trap = |message: String| wasmi::Error::host(Ended::Trap(message));
    let mut values = Vec::with_capacity(args.len() + results.len());
    for arg in args {
        values.push(match arg {
            Val::I32(value) => Value::I32(*value),
            Val::I64(value) => Value::I64(*value),
            Val::F32(value) => Value::F32(value.to_bits()),
            Val::F64(value) => Value::F64(value.to_bits()),
            Val::V128(value) => Value::V128(value.as_u128()),
            Val::ExternRef(Nullable::Null) | Val::FuncRef(_) => Value::ExternRef(None),
            Val::ExternRef(Nullable::Val(reference)) => match reference.data(&*caller).downcast_ref::<HostRef>() {
                Some(HostRef(number)) => Value::ExternRef(Some(*number)),
                None => return Err(trap("an external reference is not one that the host gave out".to_owned())),
            },
        });
    }
    values.extend(results.iter().map(|ty| Value::default_of(*ty)));
    let (given, returned) = values.split_at_mut(args.len());
    let flow = match caller.data().memory {
        Some(memory) => {
            let (bytes, context) = memory.data_and_store_mut(&mut *caller);
            context.host.call(number, bytes, given, returned)
        }
        None => caller.data_mut().host.call(number, &mut [], given, returned),
    };
    match flow {
        Flow::Return => {}
        Flow::Reissue => {
            let Some(control) = caller.data().control else {
                return Err(trap(
                    "a host call was to be issued again after a stop, but the module is not instrumented".to_owned(),
                ));
            };
            let flag_for_calls = caller.data().calls.map(|calls| (calls, 0, 1_u32));
            let flag = (control, ControlLayout::FLAG, 1);
            let state = (control, ControlLayout::STATE, ControlState::Unwinding as u32);
            for (memory, offset, word) in flag_for_calls.into_iter().chain([flag, state]) {
                memory
                    .write(&mut *caller, offset as usize, &word.to_le_bytes())
                    .map_err(|error| trap(format!("the control memory is too small: {error}")))?;
            }
            caller.data_mut().set_growth(Growth::Program, true);
            for (value, ty) in returned.iter_mut().zip(results) {
                *value = Value::default_of(*ty);
            }
        }
        Flow::Exit(code) => return Err(wasmi::Error::host(Ended::Exit(code))),
        Flow::Trap(message) => return Err(trap(message)),
    }
    for ((value, ty), slot) in returned.iter().zip(results).zip(out) {
        if !value.is_a(*ty) {
            return Err(trap(format!("the host returned {value} where {ty} was asked for")));
        }
        *slot = match value {
            Value::I32(value) => Val::I32(*value),
            Value::I64(value) => Val::I64(*value),
            Value::F32(bits) => Val::F32(wasmi::F32::from_bits(*bits)),
            Value::F64(bits) => Val::F64(wasmi::F64::from_bits(*bits)),
            Value::V128(bits) => Val::V128((*bits).into()),
            Value::ExternRef(Some(number)) => {
                Val::ExternRef(Nullable::Val(ExternRef::new(&mut *caller, HostRef(*number))))
            }
            Value::ExternRef(None) | Value::FuncRef(_) | Value::ExnRef(_) => Val::ExternRef(Nullable::Null),
        };
    }
    Ok(())
}
