//! How a value is written: a tag that tells its type, then its bits.

use dunlin_base::Value;
use dunlin_wire::{Reader, Writer};

use crate::Problem;
use crate::decode::At;

/// Smallest number of bytes of a value: the tag of a null.
pub(crate) const SMALLEST: u64 = 1;

const I32: u8 = 0x01;
const I64: u8 = 0x02;
const F32: u8 = 0x03;
const F64: u8 = 0x04;
const V128: u8 = 0x05;
const FUNC_NULL: u8 = 0x10;
const FUNC: u8 = 0x11;
const EXTERN_NULL: u8 = 0x12;
const EXTERN: u8 = 0x13;
const EXN_NULL: u8 = 0x14;
const EXN: u8 = 0x15;

/// Appends a value.
pub(crate) fn write(out: &mut Writer, value: &Value) {
    match *value {
        Value::I32(bits) => {
            out.u8(I32);
            out.u32(bits.cast_unsigned());
        }
        Value::I64(bits) => {
            out.u8(I64);
            out.u64(bits.cast_unsigned());
        }
        Value::F32(bits) => {
            out.u8(F32);
            out.u32(bits);
        }
        Value::F64(bits) => {
            out.u8(F64);
            out.u64(bits);
        }
        Value::V128(bits) => {
            out.u8(V128);
            out.u128(bits);
        }
        Value::FuncRef(None) => out.u8(FUNC_NULL),
        Value::FuncRef(Some(index)) => {
            out.u8(FUNC);
            out.u32(index);
        }
        Value::ExternRef(None) => out.u8(EXTERN_NULL),
        Value::ExternRef(Some(id)) => {
            out.u8(EXTERN);
            out.u64(id);
        }
        Value::ExnRef(None) => out.u8(EXN_NULL),
        Value::ExnRef(Some(index)) => {
            out.u8(EXN);
            out.u32(index);
        }
    }
}

/// Reads a value.
pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Value, At> {
    let offset = reader.offset();
    Ok(match reader.u8()? {
        I32 => Value::I32(reader.u32()?.cast_signed()),
        I64 => Value::I64(reader.u64()?.cast_signed()),
        F32 => Value::F32(reader.u32()?),
        F64 => Value::F64(reader.u64()?),
        V128 => Value::V128(reader.u128()?),
        FUNC_NULL => Value::FuncRef(None),
        FUNC => Value::FuncRef(Some(reader.u32()?)),
        EXTERN_NULL => Value::ExternRef(None),
        EXTERN => Value::ExternRef(Some(reader.u64()?)),
        EXN_NULL => Value::ExnRef(None),
        EXN => Value::ExnRef(Some(reader.u32()?)),
        byte => return Err(At { offset, item: None, problem: Problem::Byte { what: "type of a value", byte } }),
    })
}
