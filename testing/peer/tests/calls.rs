//! Generated sequences of calls: our host and Wasmtime's must give the same results, error numbers and memory. Where
//! ours differs on purpose, as `dunlin-host` documents, the difference itself is asserted.
//!
//! `DUNLIN_WASI_SEQUENCES` is the number of sequences, `DUNLIN_SEED` what they follow from.

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;

use dunlin_base::{Value, ValueType};
use dunlin_engine::{Flow, Host as _};
use dunlin_host::{Config, Input, Mount, World, matrix};
use dunlin_peer::{Offer, Peer};
use support::{Numbers, TempDir, tree};
use wasmtime::{Memory, Module, Val};

/// Calls of one sequence.
const CALLS: u64 = 60;

/// Where things are in memory, which has two pages.
mod at {
    pub(crate) const PATHS: u32 = 0x100;
    pub(crate) const PATH_SIZE: u32 = 0x140;
    pub(crate) const VECTORS: u32 = 0x4000;
    pub(crate) const RESULT: u32 = 0x4100;
    pub(crate) const RESULT2: u32 = 0x4200;
    pub(crate) const POLL: u32 = 0x4400;
    pub(crate) const BUFFER: u32 = 0x5000;
    pub(crate) const DATA: u32 = 0xa000;
    pub(crate) const SIZE: u32 = 0x2_0000;
}

const SUCCESS: i32 = 0;
const BADF: i32 = 8;
const FAULT: i32 = 21;
const INTR: i32 = 27;
const INVAL: i32 = 28;
const NOTSUP: i32 = 58;

/// Names that calls are made with; each is in memory.
fn names() -> Vec<String> {
    let names = [
        "a",
        "b",
        "new",
        "sub",
        "sub/c",
        "sub/new",
        "link",
        "dangling",
        "loop",
        "dirlink",
        "dirlink/c",
        "sub/../a",
        "..",
        "../x",
        ".",
        "./a",
        "/a",
        "",
        "a/",
        "sub/",
        "a/b",
        "nothing/x",
        "escape",
        "escape/passwd",
        "zero\0byte",
        "sub/deep/d",
        "sub/deep",
        "sub//c",
    ];
    let mut names: Vec<String> = names.map(str::to_owned).to_vec();
    names.push("x".repeat(300));
    names
}

/// The directory that both sides begin with.
fn furnish(root: &Path) {
    std::fs::create_dir_all(root.join("sub/deep")).unwrap();
    std::fs::write(root.join("a"), "the first file, of some length\n").unwrap();
    std::fs::write(root.join("b"), vec![b'b'; 5000]).unwrap();
    std::fs::write(root.join("sub/c"), "inside").unwrap();
    std::fs::write(root.join("sub/deep/d"), "").unwrap();
    for (target, link) in
        [("a", "link"), ("nowhere", "dangling"), ("loop", "loop"), ("sub", "dirlink"), ("/etc", "escape")]
    {
        std::os::unix::fs::symlink(target, root.join(link)).unwrap();
    }
}

/// A module with every function of preview 1 as an export of its own, and a memory.
fn module() -> String {
    let mut imports = String::new();
    let mut exports = String::new();
    for entry in matrix() {
        let params: String =
            entry.params.iter().map(|ty| if *ty == ValueType::I64 { " i64" } else { " i32" }).collect();
        let params = if params.is_empty() { String::new() } else { format!("(param{params})") };
        let result = if entry.returns { "(result i32)" } else { "" };
        let name = entry.name;
        let locals: String = (0..entry.params.len()).map(|index| format!("(local.get {index})")).collect();
        imports += &format!("(import \"{}\" \"{name}\" (func ${name} {params} {result}))\n", dunlin_host::MODULE);
        exports += &format!("(func (export \"{name}\") {params} {result} (call ${name} {locals}))\n");
    }
    format!("(module {imports} (memory (export \"memory\") 2) {exports})")
}

/// Both sides of one sequence.
struct Pair {
    ours: World,
    memory: Vec<u8>,
    peer: Peer,
    peer_memory: Memory,
    directories: [TempDir; 2],
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Errno(i32),
    Exit(i32),
    Trap,
}

impl Pair {
    fn new(engine: &wasmtime::Engine, module: &Module) -> Self {
        let directories = [TempDir::new(), TempDir::new()];
        directories.iter().for_each(|directory| furnish(directory.path()));
        let args: Vec<String> = ["program", "one", "and two"].map(str::to_owned).to_vec();
        let stdin = b"some input that is read in pieces";
        let config = Config::new().args(&args).stdin(Input::Bytes(stdin.to_vec())).mount(Mount {
            host: directories[0].path().to_owned(),
            guest: "/data".to_owned(),
            writable: true,
        });
        let offered = [(directories[1].path(), "/data", true)];
        let mut peer = Peer::new(engine, module, &Offer { args: &args, stdin, directories: &offered }).unwrap();
        let peer_memory = peer.instance.get_memory(&mut peer.store, "memory").unwrap();
        let mut pair = Self {
            ours: World::new(config).unwrap(),
            memory: vec![0; at::SIZE as usize],
            peer,
            peer_memory,
            directories,
        };
        for (index, name) in (0_u32..).zip(names()) {
            pair.put(at::PATHS + index * at::PATH_SIZE, name.as_bytes());
        }
        let data: Vec<u8> = (0..0x4000_u32).map(|index| (index * 7 + index / 256) as u8).collect();
        pair.put(at::DATA, &data);
        pair
    }

    fn put(&mut self, place: u32, bytes: &[u8]) {
        let range = place as usize..place as usize + bytes.len();
        self.memory[range.clone()].copy_from_slice(bytes);
        self.peer_memory.data_mut(&mut self.peer.store)[range].copy_from_slice(bytes);
    }

    fn peer_bytes(&self, place: u32, len: usize) -> &[u8] {
        &self.peer_memory.data(&self.peer.store)[place as usize..place as usize + len]
    }

    fn bytes(&self, place: u32, len: usize) -> &[u8] {
        &self.memory[place as usize..place as usize + len]
    }

    fn call(&mut self, name: &str, args: &[Value]) -> (End, End) {
        let entry = matrix().find(|entry| entry.name == name).unwrap();
        let results: &[ValueType] = if entry.returns { &[ValueType::I32] } else { &[] };
        let number = self.ours.resolve(dunlin_host::MODULE, name, entry.params, results).unwrap();
        let mut result = vec![Value::I32(0); results.len()];
        let errno = |value: Option<&Value>| if let Some(Value::I32(errno)) = value { *errno } else { 0 };
        let ours = match self.ours.call(number, &mut self.memory, args, &mut result) {
            Flow::Return => End::Errno(errno(result.first())),
            Flow::Exit(code) => End::Exit(code),
            Flow::Trap(_) => End::Trap,
            Flow::Reissue => panic!("nobody asked for a stop"),
        };
        let function = self.peer.instance.get_func(&mut self.peer.store, name).unwrap();
        let values: Vec<Val> = args
            .iter()
            .map(|value| match value {
                Value::I32(value) => Val::I32(*value),
                Value::I64(value) => Val::I64(*value),
                other => panic!("{other:?}"),
            })
            .collect();
        let mut results = vec![Val::I32(0); results.len()];
        let peer = match function.call(&mut self.peer.store, &values, &mut results) {
            Ok(()) => End::Errno(results.first().map_or(0, Val::unwrap_i32)),
            Err(error) => match error.downcast_ref::<wasmtime_wasi::I32Exit>() {
                Some(exit) => End::Exit(exit.0),
                None => End::Trap,
            },
        };
        (ours, peer)
    }

    /// Makes a range that cannot be equal equal.
    fn blank(&mut self, place: u32, len: usize) {
        self.put(place, &vec![0; len]);
    }

    fn same_memory(&self) -> Result<(), String> {
        let peer = self.peer_memory.data(&self.peer.store);
        match self.memory.iter().zip(peer).position(|(ours, peer)| ours != peer) {
            None => Ok(()),
            Some(place) => {
                let (from, to) = (place & !15, (place & !15) + 48);
                Err(format!(
                    "memory differs at {place:#x}: ours {:?}, peer {:?}",
                    &self.memory[from..to],
                    &peer[from..to]
                ))
            }
        }
    }
}

/// What a call is about, beyond its arguments: how its effects are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Statistics at [`at::BUFFER`].
    Stat,
    /// Bytes at [`at::BUFFER`] that are never equal.
    Blank(usize),
    /// A whole listing of a directory at [`at::BUFFER`].
    Listing(usize),
    /// Several buffers.
    Several,
    /// A pointer that leaves memory, or a flag or number that does not exist.
    Hostile,
}

struct Call {
    name: &'static str,
    args: Vec<Value>,
    kind: Kind,
}

struct Generator {
    numbers: Numbers,
    open: Vec<u32>,
    names: Vec<String>,
}

impl Generator {
    fn fd(&mut self) -> i32 {
        match self.numbers.below(12) {
            0 => self.numbers.below(4) as i32,
            1 => *self.numbers.pick(&[3, 99, -1, 7]),
            _ if self.open.is_empty() => 3,
            _ => *self.numbers.pick(&self.open) as i32,
        }
    }

    fn directory(&mut self) -> i32 {
        if self.numbers.below(8) == 0 { self.fd() } else { 3 }
    }

    fn path(&mut self) -> [Value; 2] {
        let index = self.name();
        self.path_at(index)
    }

    /// A path that does not end with a slash.
    fn bare_path(&mut self) -> [Value; 2] {
        let index = self.name();
        if self.names[index].ends_with('/') { self.bare_path() } else { self.path_at(index) }
    }

    fn name(&mut self) -> usize {
        // The first ones are there or can be there.
        let most = if self.numbers.below(2) == 0 { 7 } else { self.names.len() as u64 };
        self.numbers.below(most) as usize
    }

    fn path_at(&self, index: usize) -> [Value; 2] {
        let address = at::PATHS + index as u32 * at::PATH_SIZE;
        [i32(address as i32), i32(self.names[index].len() as i32)]
    }

    fn offset(&mut self) -> i64 {
        *self.numbers.pick(&[0, 0, 1, 3, 10, 31, 4096, 5000, 100_000, -1, i64::MAX])
    }

    /// A buffer array of one, sometimes two, buffers.
    fn vectors(&mut self, pair: &mut Pair, place: u32) -> ([Value; 2], Kind) {
        let count = *self.numbers.pick(&[1_u32, 1, 1, 1, 1, 1, 2]);
        let lens = [0, 1, 5, 64, 4096].map(|len| len as u32);
        for nth in 0..count {
            let len = if count == 1 { *self.numbers.pick(&lens) } else { 1 + *self.numbers.pick(&lens) };
            let pair_bytes = [(place + nth * 0x1100).to_le_bytes(), len.to_le_bytes()].concat();
            pair.put(at::VECTORS + nth * 8, &pair_bytes);
        }
        let kind = if count == 1 { Kind::Plain } else { Kind::Several };
        ([i32(at::VECTORS as i32), i32(count as i32)], kind)
    }

    /// A call that opens something that is there.
    fn opening(&mut self) -> Call {
        let rest = vec![i32(0), i64(66), i64(66), i32(*self.numbers.pick(&[0, 0, 1, 4])), i32(at::RESULT as i32)];
        let index = *self.numbers.pick(&[0, 1, 4, 6]);
        let path = [i32((at::PATHS + index * at::PATH_SIZE) as i32), i32(self.names[index as usize].len() as i32)];
        Call { name: "path_open", args: [vec![i32(3), i32(1)], path.to_vec(), rest].concat(), kind: Kind::Plain }
    }

    fn call(&mut self, pair: &mut Pair) -> Call {
        let fd = |generator: &mut Self| i32(generator.fd());
        let result = i32(at::RESULT as i32);
        let buffer = i32(at::BUFFER as i32);
        let plain = |name, args| Call { name, args, kind: Kind::Plain };
        let mut call = match self.numbers.below(44) {
            0 => plain("args_get", vec![buffer, i32(at::BUFFER as i32 + 0x100)]),
            1 => plain("args_sizes_get", vec![result, i32(at::RESULT2 as i32)]),
            2 => plain("environ_sizes_get", vec![result, i32(at::RESULT2 as i32)]),
            3 => plain("environ_get", vec![buffer, i32(at::BUFFER as i32 + 0x100)]),
            4 => {
                let clock = *self.numbers.pick(&[0, 1]);
                Call { name: "clock_time_get", args: vec![i32(clock), i64(1), buffer], kind: Kind::Blank(8) }
            }
            5 => {
                let clock = *self.numbers.pick(&[0, 1]);
                Call { name: "clock_res_get", args: vec![i32(clock), buffer], kind: Kind::Blank(8) }
            }
            6 => {
                let advice = self.numbers.below(6) as i32;
                plain("fd_advise", vec![fd(self), i64(0), i64(10), i32(advice)])
            }
            7 => {
                let offset = *self.numbers.pick(&[0, 10, 4096]);
                plain("fd_allocate", vec![fd(self), i64(offset), i64(100)])
            }
            8 => plain("fd_close", vec![fd(self)]),
            9 => plain("fd_tell", vec![fd(self), result]),
            10 => plain("fd_datasync", vec![fd(self)]),
            11 => plain("fd_fdstat_get", vec![fd(self), buffer]),
            12 => {
                let flags = *self.numbers.pick(&[0, 1, 4, 5]);
                plain("fd_fdstat_set_flags", vec![fd(self), i32(flags)])
            }
            13 => Call { name: "fd_filestat_get", args: vec![fd(self), buffer], kind: Kind::Stat },
            14 => {
                let size = *self.numbers.pick(&[0, 1, 100, 10_000]);
                plain("fd_filestat_set_size", vec![fd(self), i64(size)])
            }
            15 => {
                let flags = *self.numbers.pick(&[0, 1, 2, 4, 5, 8, 10, 3]);
                plain("fd_filestat_set_times", vec![fd(self), i64(1_000_000), i64(2_000_000_000), i32(flags)])
            }
            16 | 17 => {
                let (vectors, kind) = self.vectors(pair, at::BUFFER);
                let offset = self.offset();
                let args = vec![fd(self), vectors[0], vectors[1], i64(offset), result];
                Call { name: "fd_pread", args, kind }
            }
            18 => plain("fd_prestat_get", vec![fd(self), buffer]),
            19 => {
                let len = *self.numbers.pick(&[5, 5, 4, 6, 0]);
                plain("fd_prestat_dir_name", vec![fd(self), buffer, i32(len)])
            }
            20 => {
                let (vectors, kind) = self.vectors(pair, at::DATA);
                let offset = self.offset();
                let args = vec![fd(self), vectors[0], vectors[1], i64(offset), result];
                Call { name: "fd_pwrite", args, kind }
            }
            21 | 22 => {
                let (vectors, kind) = self.vectors(pair, at::BUFFER);
                Call { name: "fd_read", args: vec![fd(self), vectors[0], vectors[1], result], kind }
            }
            23 => {
                let directory = self.directory();
                let args = vec![i32(directory), buffer, i32(0x2000), i64(0), result];
                Call { name: "fd_readdir", args, kind: Kind::Listing(0x2000) }
            }
            24 => plain("fd_renumber", vec![fd(self), fd(self)]),
            25 | 26 => {
                let (offset, whence) = (self.offset(), self.numbers.below(3) as i32);
                plain("fd_seek", vec![fd(self), i64(offset), i32(whence), result])
            }
            27 => plain("fd_sync", vec![fd(self)]),
            28 => plain("fd_tell", vec![fd(self), result]),
            29 | 30 => {
                let (vectors, kind) = self.vectors(pair, at::DATA);
                Call { name: "fd_write", args: vec![fd(self), vectors[0], vectors[1], result], kind }
            }
            31 => plain("path_create_directory", [vec![i32(self.directory())], self.path().to_vec()].concat()),
            32 => {
                let flags = self.numbers.below(2) as i32;
                let args = [vec![i32(self.directory()), i32(flags)], self.path().to_vec(), vec![buffer]].concat();
                Call { name: "path_filestat_get", args, kind: Kind::Stat }
            }
            33 => {
                let (follow, flags) = (self.numbers.below(2) as i32, *self.numbers.pick(&[0, 1, 4, 5, 8]));
                let times = vec![i64(3_000_000), i64(4_000_000_000), i32(flags)];
                let args = [vec![i32(self.directory()), i32(follow)], self.path().to_vec(), times].concat();
                plain("path_filestat_set_times", args)
            }
            34 => {
                let (from, to) = (self.path(), self.path());
                let args = [vec![i32(3), i32(0)], from.to_vec(), vec![i32(self.directory())], to.to_vec()].concat();
                plain("path_link", args)
            }
            35 => {
                let room = *self.numbers.pick(&[64, 2, 0]);
                let rest = vec![buffer, i32(room), result];
                plain("path_readlink", [vec![i32(self.directory())], self.path().to_vec(), rest].concat())
            }
            // A slash at the end means `/.` to Wasmtime's, which cannot be removed; to ours, as to the system, nothing.
            36 => plain("path_remove_directory", [vec![i32(self.directory())], self.bare_path().to_vec()].concat()),
            37 => {
                let (from, to) = (self.path(), self.path());
                plain("path_rename", [vec![i32(3)], from.to_vec(), vec![i32(self.directory())], to.to_vec()].concat())
            }
            38 => {
                let (target, name) = (self.path(), self.path());
                plain("path_symlink", [target.to_vec(), vec![i32(self.directory())], name.to_vec()].concat())
            }
            39 => plain("path_unlink_file", [vec![i32(self.directory())], self.path().to_vec()].concat()),
            40 => Call { name: "random_get", args: vec![buffer, i32(32)], kind: Kind::Blank(32) },
            41 => {
                let name = *self.numbers.pick(&[
                    "sock_recv",
                    "sock_send",
                    "sock_shutdown",
                    "sock_accept",
                    "sched_yield",
                    "poll_oneoff",
                ]);
                match name {
                    "sock_recv" => {
                        let (vectors, _) = self.vectors(pair, at::BUFFER);
                        plain(name, vec![fd(self), vectors[0], vectors[1], i32(0), result, i32(at::RESULT2 as i32)])
                    }
                    "sock_send" => {
                        let (vectors, _) = self.vectors(pair, at::DATA);
                        plain(name, vec![fd(self), vectors[0], vectors[1], i32(0), result])
                    }
                    "sock_shutdown" => plain(name, vec![fd(self), i32(1)]),
                    "sock_accept" => plain(name, vec![fd(self), i32(0), result]),
                    "poll_oneoff" => {
                        let mut subscription = [0_u8; 48];
                        subscription[0] = 77;
                        subscription[8] = self.numbers.below(3) as u8;
                        if subscription[8] == 0 {
                            subscription[16] = self.numbers.below(2) as u8;
                            subscription[24..28].copy_from_slice(&1000_u32.to_le_bytes());
                        } else {
                            let fd = self.fd();
                            subscription[16..20].copy_from_slice(&fd.to_le_bytes());
                        }
                        pair.put(at::POLL, &subscription);
                        plain(name, vec![i32(at::POLL as i32), buffer, i32(1), result])
                    }
                    _ => plain(name, vec![]),
                }
            }
            _ => {
                let (follow, flags) = (self.numbers.below(2) as i32, *self.numbers.pick(&[0, 0, 0, 1, 1, 2, 5, 8, 9]));
                let rights = *self.numbers.pick(&[2, 64, 66, 66, 66, 0, (1 << 30) - 1]);
                let mode = *self.numbers.pick(&[0, 0, 0, 1, 4, 2]);
                let rest = vec![i32(flags), i64(rights), i64(rights), i32(mode), result];
                plain("path_open", [vec![i32(self.directory()), i32(follow)], self.path().to_vec(), rest].concat())
            }
        };
        if self.numbers.below(25) == 0 {
            self.spoil(&mut call);
        }
        call
    }

    /// Makes a pointer leave memory, or a flag or number one that does not exist.
    fn spoil(&mut self, call: &mut Call) {
        let pointer =
            |value: &Value| matches!(value, Value::I32(value) if (at::PATHS as i32..at::SIZE as i32).contains(value));
        let places: Vec<usize> = (0..call.args.len()).filter(|place| pointer(&call.args[*place])).collect();
        if places.is_empty() {
            return;
        }
        let place = *self.numbers.pick(&places);
        call.args[place] = i32(*self.numbers.pick(&[at::SIZE as i32 - 1, at::SIZE as i32, -1, -8, i32::MAX]));
        call.kind = Kind::Hostile;
    }
}

fn i32(value: i32) -> Value {
    Value::I32(value)
}

fn i64(value: i64) -> Value {
    Value::I64(value)
}

/// The differences that are on purpose, by name, with how often they were seen.
type Seen = BTreeMap<&'static str, u32>;

/// Whether the sequence can go on with both sides in the same state.
fn compare(pair: &mut Pair, call: &Call, ours: End, peer: End, seen: &mut Seen) -> Result<bool, String> {
    let mut note = |difference| *seen.entry(difference).or_default() += 1;
    let Call { name, args, kind } = call;
    if *kind == Kind::Hostile {
        // Wasmtime traps where it comes upon the pointer; what it did before that is done.
        return match (ours, peer) {
            (End::Errno(FAULT | INVAL), End::Trap) => {
                note("a pointer outside of memory");
                Ok(false)
            }
            // Both found something else to complain about, or the pointer was not used.
            (End::Errno(errno), End::Errno(other)) if errno == other => Ok(false),
            (End::Errno(FAULT), End::Errno(_)) | (End::Errno(_), End::Trap | End::Errno(NOTSUP)) => Ok(false),
            _ => Err("a hostile call".to_owned()),
        };
    }
    match (*name, ours, peer) {
        ("fd_allocate", End::Errno(errno), End::Errno(NOTSUP | BADF)) if ours != peer => {
            note("fd_allocate");
            return if errno != NOTSUP { Ok(false) } else { Err("fd_allocate".to_owned()) };
        }
        ("fd_fdstat_set_rights", _, End::Errno(NOTSUP)) => {
            note("fd_fdstat_set_rights");
            return Ok(true);
        }
        ("path_open", _, End::Errno(NOTSUP)) if matches!(args[7], Value::I32(2)) => {
            note("synchronous writes");
            return Ok(false);
        }
        _ => {}
    }
    match (*name, ours, peer) {
        // Wasmtime takes neither, ours does.
        ("fd_fdstat_set_flags", End::Errno(SUCCESS), End::Errno(BADF)) => {
            note("flags of streams");
            return Ok(false);
        }
        ("fd_sync" | "fd_datasync", End::Errno(SUCCESS), End::Errno(BADF)) => {
            note("synchronising directories");
            return Ok(true);
        }
        ("fd_filestat_set_times", End::Errno(SUCCESS), End::Errno(BADF)) => {
            note("times of directories");
            return Ok(true);
        }
        ("fd_read", End::Errno(SUCCESS), End::Errno(INTR)) => {
            note("reading nothing from a stream");
            let nothing = pair.bytes(at::RESULT, 4) == [0; 4] && pair.bytes(at::VECTORS + 4, 4) == [0; 4];
            return if nothing { Ok(false) } else { Err("it read something".to_owned()) };
        }
        ("path_open", End::Errno(SUCCESS), End::Errno(SUCCESS)) => {
            let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
            let (mine, other) = (number(pair.bytes(at::RESULT, 4)), number(pair.peer_bytes(at::RESULT, 4)));
            if mine < other {
                note("the lowest free number");
                return Ok(false);
            }
        }
        _ => {}
    }
    if *kind == Kind::Several && ours == peer && ours == End::Errno(SUCCESS) {
        let count = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let (mine, other) = (count(pair.bytes(at::RESULT, 4)), count(pair.peer_bytes(at::RESULT, 4)));
        if mine != other {
            note("all buffers of a read or write");
            // It has done at least as much, and the same as far as the other went.
            if mine < other || pair.bytes(at::BUFFER, other as usize) != pair.peer_bytes(at::BUFFER, other as usize) {
                return Err(format!("{mine} bytes and {other}"));
            }
            return Ok(false);
        }
    }
    if ours != peer {
        return Err("ends differ".to_owned());
    }
    if ours == End::Errno(SUCCESS) {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let at = match *name {
            // What can be opened from an opened directory: writing is among it, or C libraries could not ask for it.
            "fd_fdstat_get" if pair.bytes(at::BUFFER, 1) == [3] => Some(("rights of directories", at::BUFFER + 16)),
            // How much can be read.
            "poll_oneoff" => Some(("bytes that are ready", at::BUFFER + 16)),
            _ => None,
        };
        if let Some((difference, at)) = at {
            let (mine, other) = (word(pair.bytes(at, 8)), word(pair.peer_bytes(at, 8)));
            // At the end there are none, which Wasmtime says by the flag alone.
            let hangup = pair.bytes(at::BUFFER + 24, 1) == [1] && mine == 0;
            let more = if *name == "poll_oneoff" { mine >= other || hangup } else { mine & other == other };
            if mine != other && more {
                note(difference);
                pair.blank(at, 8);
            }
        }
    }
    // Padding has no meaning, and Wasmtime leaves it as it is.
    let padding: &[(u32, usize)] = match *name {
        "fd_fdstat_get" => &[(1, 1), (4, 4)],
        "fd_prestat_get" => &[(1, 3)],
        "fd_filestat_get" | "path_filestat_get" => &[(17, 7)],
        "poll_oneoff" => &[(11, 5), (26, 6)],
        _ => &[],
    };
    if ours == End::Errno(SUCCESS) {
        padding.iter().for_each(|(from, len)| pair.blank(at::BUFFER + from, *len));
    }
    match *kind {
        Kind::Stat => {
            // Where a file lies and when it was changed is not the same.
            let masked = [(0, 16), (40, 24)];
            masked.iter().for_each(|(from, len)| pair.blank(at::BUFFER + from, *len));
            if pair.bytes(at::BUFFER, 17)[16] == 3 {
                pair.blank(at::BUFFER + 24, 16);
            }
        }
        Kind::Blank(len) => pair.blank(at::BUFFER, len),
        Kind::Listing(len) if ours == End::Errno(SUCCESS) => {
            let used = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap()) as usize;
            let (mine, other) = (used(pair.bytes(at::RESULT, 4)), used(pair.peer_bytes(at::RESULT, 4)));
            let (mine, mut other) =
                (listing(pair.bytes(at::BUFFER, mine)), listing(pair.peer_bytes(at::BUFFER, other)));
            if mine[2..].is_sorted() && mine != other {
                note("listings in order");
            }
            other[2..].sort();
            if mine != other {
                return Err(format!("listings {mine:?} and {other:?}"));
            }
            pair.blank(at::BUFFER, len);
            pair.blank(at::RESULT, 4);
        }
        _ => {}
    }
    pair.same_memory()?;
    Ok(true)
}

/// Names and kinds.
fn listing(mut bytes: &[u8]) -> Vec<(String, u8)> {
    let mut entries = Vec::new();
    while bytes.len() >= 24 {
        let len = u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
        entries.push((String::from_utf8_lossy(&bytes[24..24 + len]).into_owned(), bytes[20]));
        bytes = &bytes[24 + len..];
    }
    entries
}

#[test]
fn generated_calls_have_the_same_effects() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let (sequences, seed) = (number("DUNLIN_WASI_SEQUENCES").unwrap_or(400), number("DUNLIN_SEED").unwrap_or(0x5eed));
    let engine = dunlin_peer::engine().unwrap();
    let module = Module::new(&engine, wat::parse_str(module()).unwrap()).unwrap();
    let (mut seen, mut calls, mut functions) = (Seen::new(), 0, BTreeMap::<&str, [u32; 2]>::new());
    let mut faults: BTreeMap<String, String> = BTreeMap::new();
    for sequence in 0..sequences {
        let mut pair = Pair::new(&engine, &module);
        let mut generator =
            Generator { numbers: Numbers(seed ^ (sequence + 1) << 20), open: Vec::new(), names: names() };
        let (mut history, mut same) = (Vec::new(), true);
        for number in 0..CALLS {
            let call = if number < 3 { generator.opening() } else { generator.call(&mut pair) };
            let (ours, peer) = pair.call(call.name, &call.args);
            history.push(format!("{} {:?} -> {ours:?}, peer {peer:?}", call.name, call.args));
            calls += 1;
            functions.entry(call.name).or_default()[usize::from(ours != End::Errno(SUCCESS))] += 1;
            match compare(&mut pair, &call, ours, peer, &mut seen) {
                Err(what) => {
                    let text = format!("seed {seed:#x} sequence {sequence}: {what}\n  {}", history.join("\n  "));
                    faults.entry(format!("{} {ours:?} {peer:?}", call.name)).or_insert(text);
                    break;
                }
                Ok(false) => {
                    same = false;
                    break;
                }
                Ok(true) => {}
            }
            if call.name == "path_open" && ours == End::Errno(SUCCESS) {
                let fd = u32::from_le_bytes(pair.bytes(at::RESULT, 4).try_into().unwrap());
                generator.open.push(fd);
            }
        }
        let trees = pair.directories.each_ref().map(|directory| tree(directory.path()));
        if faults.is_empty() && same {
            assert_eq!(trees[0], trees[1], "seed {seed:#x} sequence {sequence}:\n  {}", history.join("\n  "));
        }
    }
    println!(
        "{calls} calls in {sequences} sequences; differences on purpose: {seen:?}; successes and failures: {functions:?}"
    );
    assert!(
        faults.is_empty(),
        "{} kinds of faults:\n{}",
        faults.len(),
        faults.into_values().collect::<Vec<_>>().join("\n")
    );
    if sequences >= 400 {
        let expected = [
            "a pointer outside of memory",
            "all buffers of a read or write",
            "fd_allocate",
            "listings in order",
            "synchronising directories",
            "synchronous writes",
        ];
        for difference in expected {
            assert!(seen.contains_key(difference), "{difference:?} was never seen");
        }
    }
}
