//! Goal: a report is taken apart without a panic, and no two reports differ only in bytes that the parser ignores
//! outside of the signed area.
//!
//! Method: any bytes are cut or filled to the length of a report, so that the fields are reached at once.

#![no_main]

use dunlin_attest::SnpReport;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = SnpReport::parse(data);
    let mut report = data.to_vec();
    report.resize(0x4a0, 0);
    let Ok(parsed) = SnpReport::parse(&report) else { return };
    for at in 0x2a0..report.len() {
        let mut changed = report.clone();
        changed[at] ^= 1;
        assert_ne!(SnpReport::parse(&changed).ok().as_ref(), Some(&parsed), "byte {at:#x} is ignored");
    }
});
