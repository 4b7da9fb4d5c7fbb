//! The worlds that programs under test live in: how a host begins, is frozen, goes on, and what it has seen.

use std::any::Any;
use std::sync::Arc;

use dunlin_base::{Digest, Value, ValueType};
use dunlin_engine::{Flow, Host};
use dunlin_host::{Capture, Config, Input, Mount, Needs, Output, PrivateVolume, Source, World as Wasi, kind};
use dunlin_snapshot::HostSection;
use dunlin_store::{MemoryStore, Store};

use crate::directory::Directory;

/// Makes the hosts of one program, on either side of a move.
pub trait World: Sync {
    /// The host of a program that begins.
    fn fresh(&self) -> Box<dyn Host>;
    /// What travels of a host.
    fn freeze(&self, host: &mut dyn Host) -> Vec<HostSection>;
    /// The host that goes on. What it [has seen](World::seen) begins empty.
    fn thaw(&self, sections: &[HostSection]) -> Box<dyn Host>;
    /// Everything that the program did to this host so far, as bytes that two runs can be compared by.
    fn seen(&self, host: &mut dyn Host) -> Vec<u8>;
    /// What the program leaves behind at its end, as bytes that two runs can be compared by: files, and the state of its
    /// world.
    fn left(&self, _host: &mut dyn Host) -> Vec<u8> {
        Vec::new()
    }
}

fn concrete<T: 'static>(host: &mut dyn Host) -> &mut T {
    (host as &mut dyn Any).downcast_mut().expect("a world is only given hosts that it made")
}

/// A host that takes any import of the modules `env` and `spectest` whose type holds only numbers and host
/// references. Results follow from the name, the arguments and the number of calls so far; the first bytes of memory
/// are written, and all calls are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Env {
    /// Whether each call, when it is made for the first time, asks to be issued again after a stop.
    pub reissue: bool,
}

#[derive(Debug, Default)]
struct EnvHost {
    calls: u64,
    /// Whether the call that comes next has been asked to be issued again.
    asked: bool,
    reissue: bool,
    seen: Vec<u8>,
}

/// The kind of [`Env`]'s section.
const ENV: u16 = 0x7f00;

impl World for Env {
    fn fresh(&self) -> Box<dyn Host> {
        Box::new(EnvHost { reissue: self.reissue, ..EnvHost::default() })
    }

    fn freeze(&self, host: &mut dyn Host) -> Vec<HostSection> {
        let host = concrete::<EnvHost>(host);
        let mut bytes = host.calls.to_le_bytes().to_vec();
        bytes.push(host.asked.into());
        vec![HostSection { kind: ENV, version: 1, mandatory: true, bytes }]
    }

    fn thaw(&self, sections: &[HostSection]) -> Box<dyn Host> {
        let section = sections.iter().find(|section| section.kind == ENV).expect("its own section");
        let (calls, asked) = section.bytes.split_first_chunk().expect("a count of calls");
        Box::new(EnvHost {
            calls: u64::from_le_bytes(*calls),
            asked: asked == [1],
            reissue: self.reissue,
            seen: Vec::new(),
        })
    }

    fn seen(&self, host: &mut dyn Host) -> Vec<u8> {
        concrete::<EnvHost>(host).seen.clone()
    }
}

impl Host for EnvHost {
    fn resolve(&self, module: &str, name: &str, params: &[ValueType], results: &[ValueType]) -> Option<u32> {
        let known = matches!(module, "env" | "spectest");
        let plain = params.iter().chain(results).all(|ty| !ty.is_ref() || *ty == ValueType::ExternRef);
        let digest = Digest::of(name.as_bytes()).0;
        (known && plain).then(|| u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]))
    }

    fn call(&mut self, function: u32, memory: &mut [u8], args: &[Value], results: &mut [Value]) -> Flow {
        if self.reissue && !self.asked {
            self.asked = true;
            return Flow::Reissue;
        }
        self.asked = false;
        self.calls += 1;
        let mut record = function.to_le_bytes().to_vec();
        for arg in args {
            record.extend_from_slice(arg.to_string().as_bytes());
            record.push(b' ');
        }
        let mut random = crate::Random::new(self.calls ^ u64::from(function) << 32 ^ record.len() as u64);
        for byte in &record {
            random = crate::Random::new(random.number() ^ u64::from(*byte));
        }
        for result in results {
            let number = random.number();
            *result = match *result {
                Value::I32(_) => Value::I32((number % 1000) as i32),
                Value::I64(_) => Value::I64(number as i64),
                Value::F32(_) => Value::F32((number as u16 as f32).to_bits()),
                Value::F64(_) => Value::F64((number as u32 as f64).to_bits()),
                Value::V128(_) => Value::V128(u128::from(number) << 64 | u128::from(random.number())),
                Value::ExternRef(_) => Value::ExternRef((!number.is_multiple_of(5)).then_some(number % 1000)),
                other => other,
            };
        }
        if let Some(byte) = memory.get_mut((self.calls % 64) as usize) {
            *byte = byte.wrapping_add(self.calls as u8);
        }
        self.seen.extend_from_slice(&record);
        Flow::Return
    }
}

/// WASI preview 1 with fixed random numbers and virtual clocks.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// Arguments, the program's name first.
    pub args: Vec<String>,
    /// Standard input.
    pub stdin: Vec<u8>,
    /// What it sees as `/data`, empty at its start.
    pub files: Files,
}

/// Where a program's files are. They go with it: each host has its own, as another machine would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Files {
    /// It has none.
    #[default]
    None,
    /// In a directory of the host.
    Directory,
    /// In its private volume.
    Volume,
}

struct CommandHost {
    wasi: Wasi,
    stdout: Capture,
    files: Option<Directory>,
    store: Option<Arc<dyn Store>>,
}

/// The kind of the section in which files travel, beside those of the world.
const FILES: u16 = 0x7f01;

/// The seed of the random numbers that programs see.
const WASI_SEED: u64 = 7;

impl Command {
    /// A host without what it begins or goes on with.
    fn config(&self, files: Option<&Directory>) -> (Config, Capture, Option<Arc<dyn Store>>) {
        let stdout = Capture::new();
        let mut config =
            Config::new().stdout(Output::Capture(stdout.clone())).source(Source::Deterministic { seed: WASI_SEED });
        if let Some(directory) = files {
            let host = directory.path().to_owned();
            config = config.mount(Mount { host, guest: "/data".to_owned(), writable: true });
        }
        let mut store: Option<Arc<dyn Store>> = None;
        if self.files == Files::Volume {
            let empty = Arc::new(MemoryStore::new());
            config = config.volume(PrivateVolume::new(empty.clone()));
            store = Some(empty);
        }
        (config, stdout, store)
    }
}

impl World for Command {
    fn fresh(&self) -> Box<dyn Host> {
        let files = (self.files == Files::Directory).then(Directory::new);
        let (config, stdout, store) = self.config(files.as_ref());
        let config = config.args(&self.args).stdin(Input::Bytes(self.stdin.clone()));
        Box::new(CommandHost { wasi: Wasi::new(config).expect("nothing of it can be missing"), stdout, files, store })
    }

    fn freeze(&self, host: &mut dyn Host) -> Vec<HostSection> {
        let host = concrete::<CommandHost>(host);
        let mut sections = host.wasi.freeze().expect("programs under test hold nothing that cannot move");
        let files = host.files.as_ref().map(Directory::pack);
        sections.extend(files.map(|bytes| HostSection { kind: FILES, version: 1, mandatory: true, bytes }));
        sections
    }

    fn thaw(&self, sections: &[HostSection]) -> Box<dyn Host> {
        let (files, sections): (Vec<_>, Vec<_>) = sections.iter().cloned().partition(|section| section.kind == FILES);
        let files = files.first().map(|section| Directory::unpack(&section.bytes));
        let (config, stdout, store) = self.config(files.as_ref());
        let wasi = Wasi::thaw(&sections, config).expect("sections that were frozen");
        Box::new(CommandHost { wasi, stdout, files, store })
    }

    /// Standard output. Standard error goes nowhere: joined piece by piece, the two could not be compared.
    fn seen(&self, host: &mut dyn Host) -> Vec<u8> {
        concrete::<CommandHost>(host).stdout.contents()
    }

    /// Names and contents of all files, then the frozen world: clocks, random numbers, offsets, unread input. What a
    /// volume's own history is of it - commits, roots - is left out.
    fn left(&self, host: &mut dyn Host) -> Vec<u8> {
        let sections = self.freeze(host);
        let mut left = Vec::new();
        for section in &sections {
            if ![kind::VOLUME, kind::VOLUME_CONTENTS].contains(&section.kind) {
                left.extend_from_slice(&section.kind.to_le_bytes());
                left.extend_from_slice(&section.bytes);
            }
        }
        if let Some(store) = &concrete::<CommandHost>(host).store {
            let needs = Needs::of(&sections).expect("sections that were frozen").volume.expect("there is a volume");
            left.extend_from_slice(format!("{:?}\n", needs.open).as_bytes());
            left.extend_from_slice(crate::volume::dump(store, needs.root).as_bytes());
        }
        left
    }
}

impl Host for CommandHost {
    fn resolve(&self, module: &str, name: &str, params: &[ValueType], results: &[ValueType]) -> Option<u32> {
        self.wasi.resolve(module, name, params, results)
    }

    fn call(&mut self, function: u32, memory: &mut [u8], args: &[Value], results: &mut [Value]) -> Flow {
        self.wasi.call(function, memory, args, results)
    }
}
