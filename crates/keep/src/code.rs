//! Compiled once on a machine: the machine code of a service's module outlives the keep that compiled it, so that the
//! next instance here, after a stop, a crash or a move there and back, is ready at once.
//!
//! The file lies with the states of the service, sealed with the key of the machine that only keeps have, under the digest
//! of the very bytes that were compiled. It is a cache: what is wrong with it costs the compilation that it would have spared.
#![allow(unsafe_code, reason = "machine code from a file runs, once its seal has told who wrote it")]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use dunlin_base::Digest;
use dunlin_engine::{Code, Engine, Error, Tier};
use dunlin_instrument::Instrumented;
use dunlin_seal::{Kind, Label};

use crate::states::States;

/// Largest file that is read.
const MAX_CODE: u64 = 4 << 30;
/// Version of the file. Whether Wasmtime's own version, its settings and the CPU are the same, Wasmtime tells.
const VERSION: u64 = 1;

/// What was compiled here and is not stored yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unstored(Arc<Mutex<Option<(States, Code, String)>>>);

/// The code of `instrumented`: from the last keep of this service on this machine, or compiled now.
pub(crate) fn compile(
    engine: &Engine,
    instrumented: &Instrumented,
    states: &States,
) -> Result<(Code, Unstored), Error> {
    let name = Digest::of(&instrumented.wasm).to_string();
    if let Some(code) = stored(engine, instrumented, states, &name) {
        return Ok((code, Unstored::default()));
    }
    let code = Code::instrumented(engine, instrumented)?;
    let unstored = (engine.tier() != Tier::Wasmi).then(|| (states.clone(), code.clone(), name));
    Ok((code, Unstored(Arc::new(Mutex::new(unstored)))))
}

fn label(name: &str) -> Label<'_> {
    Label { kind: Kind::Code, name, version: VERSION }
}

fn stored(engine: &Engine, instrumented: &Instrumented, states: &States, name: &str) -> Option<Code> {
    let sealed = File::open(states.code(name)).ok()?.take(MAX_CODE);
    let mut precompiled = Vec::new();
    states.machine_seal().reader(&label(name), sealed).ok()?.read_to_end(&mut precompiled).ok()?;
    // SAFETY: only keeps have the key under which these bytes were sealed, all of them, and none seals anything of this kind
    // but in `write` below: what `Code::to_precompiled` gave for the module whose digest is `name`, which is part of
    // the seal. That module is `instrumented`, whose bytes have that digest.
    unsafe { Code::from_precompiled(engine, instrumented, &precompiled) }.ok()
}

impl Unstored {
    /// Stores it, once, while others go on.
    pub(crate) fn store(&self) {
        let Some((states, code, name)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let store = move || {
            // Where it cannot be stored, the next keep compiles; as it does without a thread.
            let _stored = write(&states, &code, &name);
        };
        let _none = thread::Builder::new().name("dunlin-code".to_owned()).spawn(store);
    }
}

/// There is one at a time: that of the module that runs.
fn write(states: &States, code: &Code, name: &str) -> Option<()> {
    let precompiled = code.to_precompiled().ok()??;
    let (unfinished, path) = (states.code("unfinished"), states.code(name));
    states.clear_code();
    let mut sealed = states.machine_seal().writer(&label(name), File::create(&unfinished).ok()?).ok()?;
    let written = sealed.write_all(&precompiled).ok().and_then(|()| sealed.finish().ok());
    match written {
        Some(_file) => fs::rename(&unfinished, &path).ok(),
        None => fs::remove_file(&unfinished).ok(),
    }
}

#[cfg(test)]
mod tests {
    use dunlin_engine::Settings;
    use dunlin_instrument::{Options, Poll, Variant, instrument};
    use dunlin_seal::LocalKey;

    use super::*;

    fn states(folder: &std::path::Path, key: &[u8]) -> States {
        States::new(Arc::new(File::open(folder).unwrap().into()), LocalKey::derived(key).objects([1; 16]))
    }

    #[test]
    fn code_is_compiled_once_and_taken_only_under_the_seal_of_its_machine_and_module() {
        let folder = std::env::temp_dir().join(format!("dunlin-code-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let wat = |number: u32| format!(r#"(module (func (export "f") (result i32) i32.const {number}))"#);
        let module = |number| {
            let wasm = wat::parse_str(wat(number)).unwrap();
            instrument(&wasm, Options { poll: Poll::Flag, variant: Variant::Resume }).unwrap()
        };
        let (first, second) = (module(1), module(2));
        let name = Digest::of(&first.wasm).to_string();
        for tier in [Tier::Cranelift, Tier::Pulley] {
            let engine = Engine::new(tier, Settings::default()).unwrap();
            let here = states(&folder, b"machine");
            here.clear_code();
            let is_stored =
                |module: &Instrumented, states: &States, name: &str| stored(&engine, module, states, name).is_some();
            assert!(!is_stored(&first, &here, &name));
            let code = Code::instrumented(&engine, &first).unwrap();
            write(&here, &code, &name).unwrap();
            assert!(is_stored(&first, &here, &name));
            let (taken, unstored) = compile(&engine, &first, &here).unwrap();
            assert!(unstored.0.lock().unwrap().is_none(), "{tier:?}: it was compiled again");
            assert_eq!(taken.code_size(), code.code_size());
            // Under another name, from another machine, with a bit changed, cut off.
            let other = Digest::of(&second.wasm).to_string();
            fs::copy(here.code(&name), here.code(&other)).unwrap();
            assert!(!is_stored(&second, &here, &other));
            assert!(!is_stored(&first, &states(&folder, b"another machine"), &name));
            let whole = fs::read(here.code(&name)).unwrap();
            for at in [0, whole.len() / 2, whole.len() - 1] {
                let mut changed = whole.clone();
                changed[at] ^= 1;
                fs::write(here.code(&name), &changed).unwrap();
                assert!(!is_stored(&first, &here, &name), "{tier:?}: byte {at}");
            }
            fs::write(here.code(&name), &whole[..whole.len() - 100]).unwrap();
            assert!(!is_stored(&first, &here, &name));
            // And it is no code for another engine.
            fs::write(here.code(&name), &whole).unwrap();
            let others = [Tier::Cranelift, Tier::Pulley, Tier::Wasmi].into_iter().filter(|other| *other != tier);
            for other in others {
                let other = Engine::new(other, Settings::default()).unwrap();
                assert!(stored(&other, &first, &here, &name).is_none());
            }
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
