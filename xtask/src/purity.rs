//! `cargo xtask purity`: the pure crates take nothing from their surroundings.
//!
//! Two checks, both on a target that has no operating system. Clippy refuses clocks, threads, files, sockets, processes
//! and the environment, which compile there and fail when called (the list is `xtask/pure/clippy.toml`), and loops over
//! hash maps, whose order is random. And each crate, linked whole with all that it reaches, gives a module without a
//! single import.

use std::fs;
use std::path::Path;

use wasmparser::{KnownCustom, Name, Parser, Payload};

use crate::command::{self, cargo, metadata, need_target};
use crate::{Result, root};

const TARGET: &str = "wasm32-unknown-unknown";
const PURE: &[&str] =
    &["dunlin-base", "dunlin-wire", "dunlin-instrument", "dunlin-snapshot", "dunlin-attest", "dunlin-handover"];

/// Checks all of them.
pub(crate) fn run() -> Result {
    need_target(TARGET)?;
    let metadata = metadata(&["--no-deps"])?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let members: Vec<&str> = packages.filter_map(|package| package["name"].as_str()).collect();
    if let Some(name) = PURE.iter().find(|name| !members.contains(name)) {
        return Err(
            format!("the pure crate {name} is not in this workspace: change PURE in xtask/src/purity.rs").into()
        );
    }
    refuse_surroundings()?;
    for name in PURE {
        let imports = imports(&link_whole(name, &root().join("Cargo.toml"))?, name)?;
        if !imports.is_empty() {
            return Err(format!("{name} is not pure: it imports {}", imports.join(", ")).into());
        }
        println!("{name} imports nothing");
    }
    Ok(())
}

fn refuse_surroundings() -> Result {
    let mut clippy = cargo(["clippy", "--locked", "--lib", "--target", TARGET]);
    clippy.args(PURE.iter().flat_map(|name| ["--package", name]));
    let lints = ["-Dclippy::disallowed_methods", "-Dclippy::disallowed_types", "-Dclippy::iter_over_hash_type"];
    clippy.arg("--").args(lints);
    clippy.env("CLIPPY_CONF_DIR", root().join("xtask/pure")).env("CARGO_TARGET_DIR", root().join("target/purity"));
    command::run(&mut clippy)
}

/// Builds a crate as a module, with the code that nothing exports. Neither compiler nor linker may drop any of it, so
/// nothing is optimised.
fn link_whole(name: &str, manifest: &Path) -> Result<Vec<u8>> {
    let target = root().join("target/purity");
    let mut rustc = cargo(["rustc", "--lib", "--crate-type=cdylib", "--target", TARGET, "--package", name]);
    rustc.arg("--manifest-path").arg(manifest);
    rustc.args(["--", "-Clink-dead-code=yes", "-Clink-arg=--no-gc-sections"]);
    rustc.env("CARGO_TARGET_DIR", &target).env("CARGO_PROFILE_DEV_OPT_LEVEL", "0");
    command::run(&mut rustc)?;
    Ok(fs::read(target.join(TARGET).join("debug").join(name.replace('-', "_") + ".wasm"))?)
}

/// What a module imports. An error if it has no function of the crate: then it shows nothing.
fn imports(module: &[u8], name: &str) -> Result<Vec<String>> {
    let part = name.replace('-', "_");
    let mut imports = Vec::new();
    let mut functions = 0;
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    imports.push(format!("{}.{}", import.module, import.name));
                }
            }
            Payload::CustomSection(section) => {
                let KnownCustom::Name(names) = section.as_known() else { continue };
                for subsection in names {
                    let Name::Function(names) = subsection? else { continue };
                    for naming in names {
                        functions += usize::from(naming?.name.contains(&part));
                    }
                }
            }
            _ => {}
        }
    }
    if functions == 0 { Err(format!("the module made of {name} has no function of it").into()) } else { Ok(imports) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMPORT: &str = "#[link(wasm_import_module = \"env\")]\nunsafe extern \"C\" {\n    fn clock() -> u64;\n}\n";

    /// Links a crate of one source file.
    fn link(name: &str, source: &str) -> Vec<u8> {
        need_target(TARGET).unwrap();
        let directory = root().join("target/purity").join(name);
        fs::create_dir_all(directory.join("src")).unwrap();
        let manifest = directory.join("Cargo.toml");
        fs::write(&manifest, format!("[workspace]\n[package]\nname = \"{name}\"\nedition = \"2024\"\n")).unwrap();
        fs::write(directory.join("src/lib.rs"), source).unwrap();
        link_whole(name, &manifest).unwrap()
    }

    #[test]
    fn an_import_is_found_where_no_export_leads() {
        let hidden = "pub fn now() -> u64 {\n    inner()\n}\nfn inner() -> u64 {\n    unsafe { clock() }\n}\n";
        let module = link("probe-impure", &format!("{IMPORT}{hidden}"));
        assert_eq!(imports(&module, "probe-impure").unwrap(), ["env.clock"]);
    }

    #[test]
    fn code_without_imports_passes_and_no_code_does_not() {
        let module = link("probe-pure", "pub fn double(x: u64) -> u64 {\n    x * 2\n}\n");
        assert!(imports(&module, "probe-pure").unwrap().is_empty());
        assert!(imports(&module, "another-crate").is_err());
    }
}
