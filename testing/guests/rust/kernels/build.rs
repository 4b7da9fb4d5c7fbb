//! Asks the linker to export every `run_*` function of `src/main.rs`: a command has only `_start` otherwise.

use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=src/main.rs");
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch != "wasm32") {
        return;
    }
    let source = fs::read_to_string("src/main.rs").expect("src/main.rs is readable");
    for line in source.lines() {
        let Some(rest) = line.trim().strip_prefix("run_") else { continue };
        let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        println!("cargo:rustc-link-arg-bins=--export=run_{name}");
    }
}
