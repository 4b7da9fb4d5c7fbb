//! What a module calls its functions and locals.

use std::collections::BTreeMap;

use wasmparser::{ExternalKind, KnownCustom, Name, Parser, Payload, TypeRef};

use crate::text::printable;

/// Names by index. What has no name in the name section goes by its import or export.
#[derive(Debug, Default)]
pub(crate) struct Names {
    functions: BTreeMap<u32, String>,
    locals: BTreeMap<(u32, u32), String>,
    globals: BTreeMap<u32, String>,
}

impl Names {
    /// Reads them. Names are for people: a damaged name section only costs the names.
    pub(crate) fn read(wasm: &[u8]) -> Self {
        let mut names = Self::default();
        let mut other: BTreeMap<u32, String> = BTreeMap::new();
        let mut imported = 0;
        for payload in Parser::new(0).parse_all(wasm) {
            match payload {
                Ok(Payload::ImportSection(section)) => {
                    for import in section.into_imports().flatten() {
                        if matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)) {
                            other.insert(imported, printable(&format!("{}.{}", import.module, import.name)));
                            imported += 1;
                        }
                    }
                }
                Ok(Payload::ExportSection(section)) => {
                    for export in section.into_iter().flatten() {
                        if export.kind == ExternalKind::Func {
                            other.entry(export.index).or_insert_with(|| printable(export.name));
                        }
                    }
                }
                Ok(Payload::CustomSection(section)) => {
                    if let KnownCustom::Name(reader) = section.as_known() {
                        reader.into_iter().flatten().for_each(|name| names.add(name));
                    }
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        for (index, name) in other {
            names.functions.entry(index).or_insert(name);
        }
        names
    }

    fn add(&mut self, name: Name<'_>) {
        match name {
            Name::Function(map) => {
                self.functions.extend(map.into_iter().flatten().map(|name| (name.index, tidy(name.name))));
            }
            Name::Global(map) => {
                self.globals.extend(map.into_iter().flatten().map(|name| (name.index, printable(name.name))));
            }
            Name::Local(maps) => {
                for map in maps.into_iter().flatten() {
                    let function = map.index;
                    let names = map.names.into_iter().flatten();
                    self.locals.extend(names.map(|name| ((function, name.index), printable(name.name))));
                }
            }
            _ => {}
        }
    }

    /// The function's name alone.
    pub(crate) fn function(&self, index: u32) -> Option<&str> {
        self.functions.get(&index).map(String::as_str)
    }

    /// The function for people: name and index.
    pub(crate) fn describe(&self, index: u32) -> String {
        match self.function(index) {
            Some(name) => format!("{name} (function {index})"),
            None => format!("function {index}"),
        }
    }

    pub(crate) fn local(&self, function: u32, local: u32) -> Option<&str> {
        self.locals.get(&(function, local)).map(String::as_str)
    }

    pub(crate) fn global(&self, index: u32) -> Option<&str> {
        self.globals.get(&index).map(String::as_str)
    }
}

/// A Rust name as it was written, without its hash.
fn tidy(name: &str) -> String {
    let plain = format!("{:#}", rustc_demangle::demangle(name));
    let hash =
        |tail: &str| tail.len() == 17 && tail.starts_with('h') && tail[1..].bytes().all(|b| b.is_ascii_hexdigit());
    printable(match plain.rsplit_once("::") {
        Some((head, tail)) if hash(tail) => head,
        _ => &plain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_of_names() {
        let wasm = wat::parse_str(
            r#"(module
                (import "env" "tick" (func))
                (func $inner (param $count i32) (local $rest i64))
                (func (export "outer"))
                (func)
                (global $depth (mut i32) (i32.const 0)))"#,
        )
        .unwrap();
        let names = Names::read(&wasm);
        assert_eq!(names.function(0), Some("env.tick"));
        assert_eq!(names.describe(1), "inner (function 1)");
        assert_eq!(names.function(2), Some("outer"));
        assert_eq!(names.describe(3), "function 3");
        assert_eq!((names.local(1, 0), names.local(1, 1)), (Some("count"), Some("rest")));
        assert_eq!(names.global(0), Some("depth"));
    }

    #[test]
    fn the_hash_of_a_rust_name_goes() {
        assert_eq!(tidy("core::fmt::write::h0123456789abcdef"), "core::fmt::write");
        assert_eq!(tidy("_ZN6invert4main17hab8ae56bc1bacf94E"), "invert::main");
        assert_eq!(tidy("mine::help"), "mine::help");
    }

    #[test]
    fn rubbish_has_no_names() {
        assert_eq!(Names::read(b"\0asm\x01\0\0\0\0\xff").function(0), None);
    }
}
