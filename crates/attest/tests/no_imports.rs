//! This crate runs where nothing can be asked: it builds for WebAssembly and the result imports nothing,
//! so it has no clock, no randomness, no files, no environment and no network.

use std::path::PathBuf;
use std::process::Command;

use wasmparser::{Parser, Payload};

#[test]
fn the_crate_builds_for_wasm32_and_imports_nothing() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    // A directory of its own, because the running cargo holds the lock of the usual one.
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("wasm");
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--target", "wasm32-unknown-unknown", "--example", "pure_probe"])
        // The build is looked at and never run, so nothing is optimised.
        .args(["--config", "profile.dev.opt-level=0", "--config", "profile.dev.package.\"*\".opt-level=0"])
        .args(["--config", "profile.dev.debug=false", "--manifest-path", manifest, "--target-dir"])
        .arg(&target)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let module = std::fs::read(target.join("wasm32-unknown-unknown/debug/examples/pure_probe.wasm")).expect("a module");
    assert!(module.len() > 500_000, "the module is too small to hold the verifiers: {} bytes", module.len());
    for payload in Parser::new(0).parse_all(&module) {
        if let Payload::ImportSection(imports) = payload.expect("a valid module") {
            panic!("the crate imports {} functions", imports.count());
        }
    }
}
