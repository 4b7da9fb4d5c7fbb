//! What a process that holds keys does first.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::error::Error;

/// Keeps this process out of core dumps, and other processes of the same user out of its memory.
///
/// Keys in memory are left out of dumps even without this; what was decrypted with them is not.
///
/// # Errors
/// [`Error::Process`] when the system refuses.
pub fn harden() -> Result<(), Error> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(|errno| Error::Process(errno.into()))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|errno| Error::Process(errno.into()))
}
