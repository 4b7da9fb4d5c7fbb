//! The guests print the same and leave the same files in our host as in Wasmtime's, on the same engine and as their
//! authors built them.

#[path = "support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};

use dunlin_base::{Value, ValueType};
use dunlin_engine::{Flow, Host as _};
use dunlin_host::{Capture, Config, Input, Mount, Output, World};
use dunlin_peer::{Offer, Peer};
use serde::Deserialize;
use support::{TempDir, tree};
use wasmtime::{Caller, Engine, Extern, Linker, Module, Store, Val, ValType};

#[derive(Deserialize)]
struct List {
    guest: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    module: String,
    args: Vec<String>,
    stdin: Option<String>,
    stdin_file: Option<String>,
    #[serde(default)]
    files: bool,
}

/// The store's data on our side.
struct Ours {
    world: World,
    exit: Option<i32>,
}

#[test]
fn every_guest_does_the_same_in_both_worlds() {
    dunlin_peer::on_stack(all);
}

fn all() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../guests");
    let text = std::fs::read_to_string(directory.join("guests.toml")).unwrap();
    let list: List = toml::from_str(&text).unwrap();
    let engine = dunlin_peer::engine().unwrap();
    let mut modules: Vec<(String, Module)> = Vec::new();
    for Entry { name, module, args, stdin, stdin_file, files } in list.guest {
        let path = directory.join("out").join(&module).with_extension("wasm");
        if !modules.iter().any(|(known, _)| *known == module) {
            let built = Module::from_file(&engine, &path)
                .unwrap_or_else(|error| panic!("{}: build it by `cargo xtask guests`: {error}", path.display()));
            modules.push((module.clone(), built));
        }
        let compiled = &modules.iter().find(|(known, _)| *known == module).unwrap().1;
        let stdin = match (stdin, stdin_file) {
            (Some(text), _) => text.into_bytes(),
            (None, Some(file)) => std::fs::read(directory.join(file)).unwrap(),
            (None, None) => Vec::new(),
        };
        let args: Vec<String> = [vec![module.clone()], args].concat();
        let directories = [TempDir::new(), TempDir::new()];
        let (code, output) = ours(&engine, compiled, &args, &stdin, files.then(|| directories[0].path()));
        let offered: Vec<(&Path, &str, bool)> =
            files.then(|| (directories[1].path(), "/data", true)).into_iter().collect();
        let offer = Offer { args: &args, stdin: &stdin, directories: &offered };
        let mut peer = Peer::new(&engine, compiled, &offer).unwrap();
        assert_eq!(code, peer.run().unwrap(), "{name}: exit code");
        assert_eq!(
            String::from_utf8_lossy(&output),
            String::from_utf8_lossy(&peer.output()),
            "{name}: standard output"
        );
        let [ours, others] = directories.each_ref().map(|directory| tree(directory.path()));
        assert_eq!(ours.keys().collect::<Vec<_>>(), others.keys().collect::<Vec<_>>(), "{name}: names of files");
        for (path, contents) in &ours {
            assert!(*contents == others[path], "{name}: contents of {}", path.display());
        }
        println!("{name}: exit code {code}, {} bytes of output, {} files", output.len(), ours.len());
    }
}

/// Exit code and output of a program in our world.
fn ours(engine: &Engine, module: &Module, args: &[String], stdin: &[u8], files: Option<&Path>) -> (i32, Vec<u8>) {
    let stdout = Capture::new();
    let mut config =
        Config::new().args(args).stdin(Input::Bytes(stdin.to_vec())).stdout(Output::Capture(stdout.clone()));
    if let Some(host) = files {
        config = config.mount(Mount { host: host.to_owned(), guest: "/data".to_owned(), writable: true });
    }
    let mut store = Store::new(engine, Ours { world: World::new(config).unwrap(), exit: None });
    let mut linker = Linker::new(engine);
    // A program may import one function twice.
    linker.allow_shadowing(true);
    for import in module.imports() {
        let ty = import.ty().unwrap_func().clone();
        let of = |ty: ValType| if matches!(ty, ValType::I64) { ValueType::I64 } else { ValueType::I32 };
        let (params, results): (Vec<_>, Vec<_>) = (ty.params().map(of).collect(), ty.results().map(of).collect());
        let number = store.data().world.resolve(import.module(), import.name(), &params, &results).unwrap();
        let call = move |mut caller: Caller<'_, Ours>, args: &[Val], results: &mut [Val]| {
            let args: Vec<Value> = args
                .iter()
                .map(|arg| if let Val::I64(value) = arg { Value::I64(*value) } else { Value::I32(arg.unwrap_i32()) })
                .collect();
            let Some(Extern::Memory(memory)) = caller.get_export("memory") else { panic!("a program without memory") };
            let (memory, ours) = memory.data_and_store_mut(&mut caller);
            let mut errno = vec![Value::I32(0); results.len()];
            match ours.world.call(number, memory, &args, &mut errno) {
                Flow::Return => {}
                Flow::Exit(code) => {
                    ours.exit = Some(code);
                    return Err(wasmtime::Error::msg("exit"));
                }
                other => panic!("{other:?}"),
            }
            if let (Some(result), Some(Value::I32(errno))) = (results.first_mut(), errno.first()) {
                *result = Val::I32(*errno);
            }
            Ok(())
        };
        linker.func_new(import.module(), import.name(), ty, call).unwrap();
    }
    let instance = linker.instantiate(&mut store, module).unwrap();
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start").unwrap();
    let ended = start.call(&mut store, ());
    let code = match (ended, store.data().exit) {
        (Ok(()), _) => 0,
        (Err(_), Some(code)) => code,
        (Err(error), None) => panic!("{error:?}"),
    };
    (code, stdout.contents())
}
