//! A program's side of the host calls: a memory and calls by name.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use dunlin_base::Value;
use dunlin_engine::{Flow, Host as _};
use dunlin_host::{Capture, Config, Mount, Output, World, matrix};
use dunlin_snapshot::HostSection;

pub const SUCCESS: i32 = 0;
pub const AGAIN: i32 = 6;
pub const BADF: i32 = 8;
pub const CONNRESET: i32 = 15;
pub const EXIST: i32 = 20;
pub const FAULT: i32 = 21;
pub const FBIG: i32 = 22;
pub const ILSEQ: i32 = 25;
pub const INVAL: i32 = 28;
pub const ISDIR: i32 = 31;
pub const LOOP: i32 = 32;
pub const MFILE: i32 = 33;
pub const NAMETOOLONG: i32 = 37;
pub const NOENT: i32 = 44;
pub const NOMEM: i32 = 48;
pub const NOSPC: i32 = 51;
pub const NOTDIR: i32 = 54;
pub const NOTEMPTY: i32 = 55;
pub const NOTSOCK: i32 = 57;
pub const NOTSUP: i32 = 58;
pub const PERM: i32 = 63;
pub const PIPE: i32 = 64;
pub const SPIPE: i32 = 70;
pub const NOTCAPABLE: i32 = 76;

pub const READ: u64 = 1 << 1;
pub const SEEK: u64 = 1 << 2;
pub const TELL: u64 = 1 << 5;
pub const WRITE: u64 = 1 << 6;

/// Open flags.
pub const CREATE: i32 = 1;
pub const DIRECTORY: i32 = 2;
pub const EXCLUSIVE: i32 = 4;
pub const TRUNCATE: i32 = 8;

/// Descriptor flags.
pub const APPEND: i32 = 1;
pub const NONBLOCK: i32 = 4;

/// Where results go, where texts are put, and where buffers are.
pub const RESULT: i32 = 64;
pub const TEXT: u32 = 1024;
pub const TEXT2: u32 = 8 * 1024;
pub const BUFFER: u32 = 16 * 1024;

pub trait IntoValue {
    fn value(self) -> Value;
}

impl IntoValue for i32 {
    fn value(self) -> Value {
        Value::I32(self)
    }
}

impl IntoValue for u32 {
    fn value(self) -> Value {
        Value::I32(self.cast_signed())
    }
}

impl IntoValue for i64 {
    fn value(self) -> Value {
        Value::I64(self)
    }
}

impl IntoValue for u64 {
    fn value(self) -> Value {
        Value::I64(self.cast_signed())
    }
}

/// Calls a function that must return, and gives its error number.
#[macro_export]
macro_rules! call {
    ($guest:expr, $name:ident $(, $arg:expr)* $(,)?) => {{
        let args = [$($crate::support::IntoValue::value($arg)),*];
        $guest.errno(stringify!($name), &args)
    }};
}

/// Calls a function and gives what became of it.
#[macro_export]
macro_rules! flow {
    ($guest:expr, $name:ident $(, $arg:expr)* $(,)?) => {{
        let args = [$($crate::support::IntoValue::value($arg)),*];
        $guest.flow(stringify!($name), &args).0
    }};
}

/// A world and a memory.
pub struct Guest {
    pub world: World,
    pub memory: Vec<u8>,
}

impl Guest {
    pub fn new(config: Config) -> Self {
        Self { world: World::new(config).expect("the world can be made"), memory: vec![0; 128 * 1024] }
    }

    pub fn flow(&mut self, name: &str, args: &[Value]) -> (Flow, i32) {
        let entry = matrix().find(|entry| entry.name == name).expect("the function exists");
        let all = [dunlin_base::ValueType::I32];
        let types = if entry.returns { &all[..] } else { &[] };
        let number =
            self.world.resolve("wasi_snapshot_preview1", name, entry.params, types).expect("the function resolves");
        let mut results = vec![Value::I32(0); types.len()];
        let flow = self.world.call(number, &mut self.memory, args, &mut results);
        let errno = match results.first() {
            Some(Value::I32(errno)) => *errno,
            _ => -1,
        };
        (flow, errno)
    }

    pub fn errno(&mut self, name: &str, args: &[Value]) -> i32 {
        let (flow, errno) = self.flow(name, args);
        assert_eq!(flow, Flow::Return, "{name} returns");
        errno
    }

    pub fn put(&mut self, at: u32, bytes: &[u8]) {
        self.memory[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    pub fn bytes(&self, at: u32, len: usize) -> &[u8] {
        &self.memory[at as usize..at as usize + len]
    }

    pub fn u32_at(&self, at: i32) -> u32 {
        u32::from_le_bytes(self.bytes(at as u32, 4).try_into().unwrap())
    }

    pub fn u64_at(&self, at: i32) -> u64 {
        u64::from_le_bytes(self.bytes(at as u32, 8).try_into().unwrap())
    }

    /// Puts an array of (pointer, length) pairs at 256.
    pub fn vectors(&mut self, vectors: &[(u32, u32)]) -> (i32, i32) {
        let bytes: Vec<u8> =
            vectors.iter().flat_map(|(at, len)| [at.to_le_bytes(), len.to_le_bytes()].concat()).collect();
        self.put(256, &bytes);
        (256, vectors.len() as i32)
    }

    pub fn path_open(&mut self, dir: i32, path: &str, open: i32, rights: u64, flags: i32) -> Result<i32, i32> {
        self.put(TEXT, path.as_bytes());
        let len = path.len() as i32;
        match call!(self, path_open, dir, 1, TEXT, len, open, rights, 0_u64, flags, RESULT) {
            0 => Ok(self.u32_at(RESULT) as i32),
            errno => Err(errno),
        }
    }

    pub fn write(&mut self, fd: i32, bytes: &[u8]) -> Result<usize, i32> {
        self.put(BUFFER, bytes);
        let (at, count) = self.vectors(&[(BUFFER, bytes.len() as u32)]);
        match call!(self, fd_write, fd, at, count, RESULT) {
            0 => Ok(self.u32_at(RESULT) as usize),
            errno => Err(errno),
        }
    }

    pub fn read(&mut self, fd: i32, len: u32) -> Result<Vec<u8>, i32> {
        let (at, count) = self.vectors(&[(BUFFER, len)]);
        match call!(self, fd_read, fd, at, count, RESULT) {
            0 => Ok(self.bytes(BUFFER, self.u32_at(RESULT) as usize).to_vec()),
            errno => Err(errno),
        }
    }

    /// A path argument for functions that take one.
    pub fn text(&mut self, text: &str) -> (u32, i32) {
        self.put(TEXT, text.as_bytes());
        (TEXT, text.len() as i32)
    }

    /// A second one.
    pub fn text2(&mut self, text: &str) -> (u32, i32) {
        self.put(TEXT2, text.as_bytes());
        (TEXT2, text.len() as i32)
    }

    /// Moves to another world.
    pub fn moved(mut self, config: Config) -> Self {
        let sections = self.world.freeze().expect("the world can be frozen");
        drop(self.world);
        Self { world: thaw(&sections, config), memory: self.memory }
    }
}

pub fn thaw(sections: &[HostSection], config: Config) -> World {
    World::thaw(sections, config).expect("the world can be thawed")
}

/// A directory that is removed when it is dropped.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("dunlin-host-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a directory can be made");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str, contents: &str) {
        std::fs::write(self.0.join(name), contents).expect("a file can be written");
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).expect("a file can be read")
    }

    /// Mounted at `/data`, for reading and writing.
    pub fn mount(&self) -> Mount {
        Mount { host: self.0.clone(), guest: "/data".to_owned(), writable: true }
    }

    pub fn config(&self) -> Config {
        Config::new().mount(self.mount())
    }

    pub fn read_only(&self) -> Config {
        Config::new().mount(Mount { writable: false, ..self.mount() })
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A configuration whose output is captured.
pub fn captured() -> (Config, Capture, Capture) {
    let (out, err) = (Capture::new(), Capture::new());
    let config = Config::new().stdout(Output::Capture(out.clone())).stderr(Output::Capture(err.clone()));
    (config, out, err)
}
