//! The program's own end and scheduling. No state.

use crate::errno::Errno;
use crate::memory::Memory;
use crate::preview1::{Break, Params};
use crate::world::World;

/// Exit codes from here on are refused, as Wasmtime does, since shells give them another meaning.
const FIRST_INVALID_CODE: u32 = 126;

pub(crate) fn proc_exit(_: &mut World, _: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    let code = params.u32(0);
    if code >= FIRST_INVALID_CODE {
        return Err(Break::Trap(format!("exit with invalid exit status {code} outside of [0..{FIRST_INVALID_CODE})")));
    }
    Err(Break::Exit(code as i32))
}

/// The program receives the signal with its default action, since preview 1 has no handlers.
pub(crate) fn proc_raise(_: &mut World, _: &mut Memory<'_>, params: Params<'_>) -> Result<(), Break> {
    const NAMES: [&str; 31] = [
        "none", "hup", "int", "quit", "ill", "trap", "abrt", "bus", "fpe", "kill", "usr1", "segv", "usr2", "pipe",
        "alrm", "term", "chld", "cont", "stop", "tstp", "ttin", "ttou", "urg", "xcpu", "xfsz", "vtalrm", "prof",
        "winch", "poll", "pwr", "sys",
    ];
    let signal = params.u32(0) & 0xff;
    match NAMES.get(signal as usize) {
        None => Err(Errno::Inval.into()),
        // Ignored by default.
        Some(&("none" | "chld" | "cont" | "urg" | "winch")) => Ok(()),
        // Nobody could continue it.
        Some(&("stop" | "tstp" | "ttin" | "ttou")) => Err(Errno::Notsup.into()),
        Some(name) => Err(Break::Trap(format!("the program raised signal {signal} ({name})"))),
    }
}

pub(crate) fn sched_yield(_: &mut World, _: &mut Memory<'_>, _: Params<'_>) -> Result<(), Break> {
    Ok(())
}
