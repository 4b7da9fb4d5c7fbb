//! Something that a program has and nobody else is to see. Its module has it in disguise only.

const DISGUISE: u8 = 0x5a;

/// A data segment at 65536 with the canary in disguise.
pub(crate) fn segment(canary: &[u8; 32]) -> String {
    let disguised: String = canary.iter().map(|byte| format!("\\{:02x}", byte ^ DISGUISE)).collect();
    format!(r#"(data (i32.const 65536) "{disguised}")"#)
}

/// Takes the disguise off, so that the canary is at 4096. Needs a local `$i` that is zero.
pub(crate) fn reveal() -> String {
    format!(
        "(loop $reveal
            (i32.store8 (i32.add (i32.const 4096) (local.get $i))
                (i32.xor (i32.load8_u (i32.add (i32.const 65536) (local.get $i))) (i32.const {DISGUISE})))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $reveal (i32.lt_u (local.get $i) (i32.const 32))))"
    )
}

/// Whether `wanted` is anywhere in `bytes`.
pub(crate) fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
