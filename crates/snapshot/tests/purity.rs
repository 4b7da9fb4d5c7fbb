//! The crate, compiled to WebAssembly, imports nothing: no clock, no file, no randomness.

use std::path::{Path, PathBuf};
use std::process::Command;

use wasmparser::{Parser, Payload};

#[test]
#[ignore = "builds for wasm32-unknown-unknown; run it with --ignored"]
fn the_wasm_build_imports_nothing() {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("purity");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--package", "dunlin-snapshot", "--example", "pure", "--target", "wasm32-unknown-unknown"])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .status()
        .unwrap();
    assert!(status.success(), "the build for wasm32-unknown-unknown failed");
    let wasm = std::fs::read(target.join("wasm32-unknown-unknown/debug/examples/pure.wasm")).unwrap();
    let (mut imports, mut exported) = (Vec::new(), false);
    for payload in Parser::new(0).parse_all(&wasm) {
        match payload.unwrap() {
            Payload::ImportSection(section) => {
                imports.extend(section.into_imports().map(|import| import.unwrap().name.to_owned()));
            }
            Payload::ExportSection(section) => {
                exported |= section.into_iter().any(|export| export.unwrap().name == "snapshot");
            }
            _ => {}
        }
    }
    assert!(exported, "the function that reaches the crate's code is not in the build");
    assert_eq!(imports, [""; 0], "the crate must be pure");
}
