//! WASI preview 1 (`wasi_snapshot_preview1`): the table of its functions, and calling them.

pub(crate) mod args;
pub(crate) mod clocks;
pub(crate) mod descriptors;
pub(crate) mod fdstat;
pub(crate) mod files;
pub(crate) mod io;
pub(crate) mod poll;
pub(crate) mod process;
mod proofs;
pub(crate) mod random;
pub(crate) mod rights;
pub(crate) mod sockets;
pub(crate) mod streams;

use dunlin_base::Value;
use dunlin_base::ValueType::{self, I32, I64};
use dunlin_engine::Flow;

use crate::errno::Errno;
use crate::memory::Memory;
use crate::world::World;

/// The module from which programs import preview 1.
pub const MODULE: &str = "wasi_snapshot_preview1";

/// A function of preview 1, as it is implemented here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixEntry {
    /// Its name.
    pub name: &'static str,
    /// Its parameters' types.
    pub params: &'static [ValueType],
    /// Whether it returns an error number (all but `proc_exit` do).
    pub returns: bool,
    /// The source file under `preview1/` that implements it.
    pub file: &'static str,
    /// What it keeps between calls that moves with a program; empty when there is nothing.
    pub state: &'static str,
    /// Whether it can block, and is then issued again after a move.
    pub blocks: bool,
    /// The test of this crate, `file::function`, that shows what it does.
    pub shown_by: &'static str,
    /// The test that moves a program in the middle of it: while it blocks, or between calls when it keeps state. Empty
    /// where there is nothing to be in the middle of.
    pub moved_by: &'static str,
}

/// All functions of preview 1, in the order of its definition.
pub fn matrix() -> impl ExactSizeIterator<Item = MatrixEntry> {
    FUNCTIONS.iter().map(|function| {
        let (shown_by, moved_by) = proofs::of(function.entry.name);
        MatrixEntry { shown_by, moved_by, ..function.entry }
    })
}

/// What an engine is told of a function that returns an error number: the number, or what happens instead.
pub(crate) fn told(outcome: Result<(), Break>) -> Result<i32, Flow> {
    match outcome {
        Ok(()) => Ok(0),
        Err(Break::Errno(errno)) => Ok(errno as i32),
        Err(Break::Reissue) => Err(Flow::Reissue),
        Err(Break::Exit(code)) => Err(Flow::Exit(code)),
        Err(Break::Trap(message)) => Err(Flow::Trap(message)),
    }
}

/// How a function ends other than by success.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// With an error number.
    Errno(Errno),
    /// It would have blocked and a stop is requested.
    Reissue,
    /// The program ends.
    Exit(i32),
    /// The program traps.
    Trap(String),
}

impl<T: Into<Errno>> From<T> for Break {
    fn from(errno: T) -> Self {
        Self::Errno(errno.into())
    }
}

/// The arguments of a call, already checked against the function's type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Params<'a>(&'a [Value]);

impl<'a> Params<'a> {
    pub(crate) fn new(values: &'a [Value]) -> Self {
        Self(values)
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        match self.0.get(at) {
            Some(Value::I32(value)) => value.cast_unsigned(),
            _ => 0,
        }
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        match self.0.get(at) {
            Some(Value::I64(value)) => value.cast_unsigned(),
            _ => 0,
        }
    }

    /// A set of flags of which only those in `known` exist.
    pub(crate) fn flags(&self, at: usize, known: u32) -> Result<u32, Errno> {
        let flags = self.u32(at);
        if flags & !known != 0 { Err(Errno::Inval) } else { Ok(flags) }
    }
}

pub(crate) type Run = fn(&mut World, &mut Memory<'_>, Params<'_>) -> Result<(), Break>;

struct Function {
    entry: MatrixEntry,
    run: Run,
}

const fn function(
    name: &'static str,
    params: &'static [ValueType],
    file: &'static str,
    state: &'static str,
    run: Run,
) -> Function {
    let entry = MatrixEntry { name, params, returns: true, file, state, blocks: false, shown_by: "", moved_by: "" };
    Function { entry, run }
}

const fn blocking(function: Function) -> Function {
    Function { entry: MatrixEntry { blocks: true, ..function.entry }, run: function.run }
}

const fn ending(function: Function) -> Function {
    Function { entry: MatrixEntry { returns: false, ..function.entry }, run: function.run }
}

const OPEN: &str = "open descriptors";
const OFFSET: &str = "offset";

/// All functions. Their places are the numbers under which an engine knows them while a program runs; they are
/// resolved anew on every host.
static FUNCTIONS: [Function; 46] = [
    function("args_get", &[I32; 2], "args.rs", "arguments", args::args_get),
    function("args_sizes_get", &[I32; 2], "args.rs", "arguments", args::args_sizes_get),
    function("environ_get", &[I32; 2], "args.rs", "environment", args::environ_get),
    function("environ_sizes_get", &[I32; 2], "args.rs", "environment", args::environ_sizes_get),
    function("clock_res_get", &[I32; 2], "clocks.rs", "", clocks::clock_res_get),
    function("clock_time_get", &[I32, I64, I32], "clocks.rs", "monotonic time", clocks::clock_time_get),
    function("fd_advise", &[I32, I64, I64, I32], "files/content.rs", "", files::content::fd_advise),
    function("fd_allocate", &[I32, I64, I64], "files/content.rs", "", files::content::fd_allocate),
    function("fd_close", &[I32], "descriptors.rs", OPEN, descriptors::fd_close),
    function("fd_datasync", &[I32], "files/content.rs", "", files::content::fd_datasync),
    function("fd_fdstat_get", &[I32; 2], "fdstat.rs", "flags and rights", fdstat::fd_fdstat_get),
    function("fd_fdstat_set_flags", &[I32; 2], "fdstat.rs", "flags", fdstat::fd_fdstat_set_flags),
    function("fd_fdstat_set_rights", &[I32, I64, I64], "fdstat.rs", "rights", fdstat::fd_fdstat_set_rights),
    function("fd_filestat_get", &[I32; 2], "files/stat.rs", "", files::stat::fd_filestat_get),
    function("fd_filestat_set_size", &[I32, I64], "files/content.rs", "", files::content::fd_filestat_set_size),
    function("fd_filestat_set_times", &[I32, I64, I64, I32], "files/stat.rs", "", files::stat::fd_filestat_set_times),
    function("fd_pread", &[I32, I32, I32, I64, I32], "io.rs", "", io::fd_pread),
    function("fd_prestat_get", &[I32; 2], "files/paths.rs", OPEN, files::paths::fd_prestat_get),
    function("fd_prestat_dir_name", &[I32; 3], "files/paths.rs", OPEN, files::paths::fd_prestat_dir_name),
    function("fd_pwrite", &[I32, I32, I32, I64, I32], "io.rs", "", io::fd_pwrite),
    blocking(function("fd_read", &[I32; 4], "io.rs", "offset, unread input", io::fd_read)),
    function("fd_readdir", &[I32, I32, I32, I64, I32], "files/listing.rs", "listing", files::listing::fd_readdir),
    function("fd_renumber", &[I32; 2], "descriptors.rs", OPEN, descriptors::fd_renumber),
    function("fd_seek", &[I32, I64, I32, I32], "files/content.rs", OFFSET, files::content::fd_seek),
    function("fd_sync", &[I32], "files/content.rs", "", files::content::fd_sync),
    function("fd_tell", &[I32; 2], "files/content.rs", OFFSET, files::content::fd_tell),
    blocking(function("fd_write", &[I32; 4], "io.rs", OFFSET, io::fd_write)),
    function("path_create_directory", &[I32; 3], "files/paths.rs", "", files::paths::path_create_directory),
    function("path_filestat_get", &[I32; 5], "files/stat.rs", "", files::stat::path_filestat_get),
    function(
        "path_filestat_set_times",
        &[I32, I32, I32, I32, I64, I64, I32],
        "files/stat.rs",
        "",
        files::stat::path_filestat_set_times,
    ),
    function("path_link", &[I32; 7], "files/paths.rs", "", files::paths::path_link),
    function(
        "path_open",
        &[I32, I32, I32, I32, I32, I64, I64, I32, I32],
        "files/open.rs",
        OPEN,
        files::open::path_open,
    ),
    function("path_readlink", &[I32; 6], "files/paths.rs", "", files::paths::path_readlink),
    function("path_remove_directory", &[I32; 3], "files/paths.rs", "", files::paths::path_remove_directory),
    function("path_rename", &[I32; 6], "files/paths.rs", "", files::paths::path_rename),
    function("path_symlink", &[I32; 5], "files/paths.rs", "", files::paths::path_symlink),
    function("path_unlink_file", &[I32; 3], "files/paths.rs", "", files::paths::path_unlink_file),
    blocking(function("poll_oneoff", &[I32; 4], "poll.rs", "time already waited", poll::poll_oneoff)),
    ending(function("proc_exit", &[I32], "process.rs", "", process::proc_exit)),
    function("proc_raise", &[I32], "process.rs", "", process::proc_raise),
    function("sched_yield", &[], "process.rs", "", process::sched_yield),
    function("random_get", &[I32; 2], "random.rs", "random stream", random::random_get),
    blocking(function("sock_accept", &[I32; 3], "sockets.rs", OPEN, sockets::sock_accept)),
    blocking(function("sock_recv", &[I32; 6], "sockets.rs", "unread bytes", sockets::sock_recv)),
    blocking(function("sock_send", &[I32; 5], "sockets.rs", "", sockets::sock_send)),
    function("sock_shutdown", &[I32; 2], "sockets.rs", "directions shut down", sockets::sock_shutdown),
];

pub(crate) fn resolve(module: &str, name: &str, params: &[ValueType], results: &[ValueType]) -> Option<u32> {
    if module != MODULE {
        return None;
    }
    let at = FUNCTIONS.iter().position(|function| function.entry.name == name)?;
    let entry = &FUNCTIONS[at].entry;
    let expected: &[ValueType] = if entry.returns { &[I32] } else { &[] };
    (entry.params == params && expected == results).then_some(at as u32)
}

pub(crate) fn call(world: &mut World, number: u32, memory: &mut [u8], args: &[Value], results: &mut [Value]) -> Flow {
    let Some(function) = FUNCTIONS.get(number as usize) else {
        return Flow::Trap(format!("there is no host function {number}"));
    };
    let entry = &function.entry;
    let fits = args.len() == entry.params.len()
        && args.iter().zip(entry.params).all(|(value, ty)| value.is_a(*ty))
        && results.len() == usize::from(entry.returns);
    if !fits {
        return Flow::Trap(format!("`{}` was called with arguments or results of other types", entry.name));
    }
    // A poll that is to be issued again is the very next call, so any other one ends the wait it remembers.
    if world.pending_poll.is_some() && entry.name != "poll_oneoff" {
        world.pending_poll = None;
    }
    let errno = match told((function.run)(world, &mut Memory::new(memory), Params(args))) {
        Ok(errno) => errno,
        Err(flow) => return flow,
    };
    if let Some(result) = results.first_mut() {
        *result = Value::I32(errno);
    }
    Flow::Return
}
