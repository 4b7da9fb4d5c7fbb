//! Two faults of wasmi 2.0.0, kept from mattering.
//!
//! Where a `select` follows a comparison of an `i32` with zero, wasmi leaves the comparison out and lets the `select` look at
//! what was compared. If that is a local and not the result of the instruction before, it looks at a register which nothing
//! wrote: `x == 0 ? 1 : x` is 1 for every `x`. An empty block between the two keeps them apart.
//!
//! Where a block has parameters, wasmi puts them into its registers before it saves what lies below them on the stack, so that a
//! local there is read from a register that it is no longer in, or after the block has set it. An empty block before it
//! saves all there is.

use core::ops::Range;

use wasm_encoder::{CodeSection, Module, RawSection};
use wasmparser::{BinaryReaderError, BlockType, Encoding, FunctionBody, Operator, Parser, Payload};

/// `block end`.
const EMPTY_BLOCK: [u8; 3] = [0x02, 0x40, 0x0b];

/// The module with empty blocks where wasmi needs them; `None` if there is nothing to do, or it cannot be read, of
/// which the engine will say more.
pub(super) fn mend(wasm: &[u8]) -> Option<Vec<u8>> {
    mended(wasm).ok().flatten()
}

fn mended(wasm: &[u8]) -> Result<Option<Vec<u8>>, BinaryReaderError> {
    let mut sections = Vec::new();
    let mut bodies = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        sections.extend(payload.as_section());
        match payload {
            Payload::Version { encoding: Encoding::Component, .. } => return Ok(None),
            Payload::CodeSectionEntry(body) => bodies.push((body.range(), cuts(&body)?)),
            _ => {}
        }
    }
    if bodies.iter().all(|(_, cuts)| cuts.is_empty()) {
        return Ok(None);
    }
    let mut code = CodeSection::new();
    for (range, cuts) in bodies {
        code.raw(&with_blocks(wasm, range, &cuts));
    }
    let mut module = Module::new();
    for (id, range) in sections {
        match id {
            10 => module.section(&code),
            _ => module.section(&RawSection { id, data: &wasm[range] }),
        };
    }
    Ok(Some(module.finish()))
}

/// Where each `select` begins that comes right behind a comparison which may be one with zero, and each block that may
/// have parameters.
fn cuts(body: &FunctionBody<'_>) -> Result<Vec<usize>, BinaryReaderError> {
    let mut cuts = Vec::new();
    let mut compared = false;
    for operator in body.get_operators_reader()?.into_iter_with_offsets() {
        let (operator, offset) = operator?;
        let needs_block = match &operator {
            Operator::Select | Operator::TypedSelect { .. } => compared,
            Operator::Block { blockty } | Operator::Loop { blockty } | Operator::If { blockty } => {
                matches!(blockty, BlockType::FuncType(_))
            }
            _ => false,
        };
        if needs_block {
            cuts.push(offset);
        }
        compared = matches!(operator, Operator::I32Eqz | Operator::I32Eq | Operator::I32Ne);
    }
    Ok(cuts)
}

fn with_blocks(wasm: &[u8], body: Range<usize>, cuts: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + EMPTY_BLOCK.len() * cuts.len());
    let mut from = body.start;
    for cut in cuts {
        bytes.extend_from_slice(&wasm[from..*cut]);
        bytes.extend_from_slice(&EMPTY_BLOCK);
        from = *cut;
    }
    bytes.extend_from_slice(&wasm[from..body.end]);
    bytes
}

#[cfg(test)]
mod tests {
    use wasmparser::Validator;

    use super::*;

    const MODULE: &str = r#"(module
        (func (export "f") (param i32) (result i32)
          (select (i32.const 1) (local.get 0) (i32.eqz (local.get 0)))
          (block (param i32) (result i32) (local.tee 0)))
        (func (nop)))"#;

    #[test]
    fn nothing_is_written_where_nothing_is_needed() {
        assert_eq!(mend(&wat::parse_str("(module (func (block)))").unwrap()), None);
        let component = wat::parse_str(format!("(component (core {}", &MODULE[1..]) + ")").unwrap();
        assert_eq!(mend(&component), None, "a component is refused as it is");
        assert_eq!(mend(&[]), None);
    }

    #[test]
    fn a_damaged_module_is_no_better_for_it() {
        let whole = wat::parse_str(MODULE).unwrap();
        assert!(mend(&whole).is_some());
        let (mut changed, mut valid) = (0, 0);
        for cut in 0..whole.len() {
            assert_eq!(
                mend(&whole[..cut]).filter(|mended| Validator::new().validate_all(mended).is_ok()),
                None,
                "{cut}"
            );
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[cut] ^= 1 << bit;
                let Some(mended) = mend(&damaged) else { continue };
                let was_valid = Validator::new().validate_all(&damaged).is_ok();
                assert_eq!(Validator::new().validate_all(&mended).is_ok(), was_valid, "byte {cut}, bit {bit}");
                changed += 1;
                valid += usize::from(was_valid);
            }
        }
        assert!(valid > 0 && valid < changed, "{valid} of {changed}");
    }
}
