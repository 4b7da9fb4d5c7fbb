//! wasmi, the second engine.
//!
//! Its linear memories are plain vectors that move when they grow, and it reads them with ordinary, not atomic,
//! loads. So no other thread may write the stop flag into them. Instead the engine meters its instructions
//! ("fuel"), comes back to us after each portion, and we store the flag between two portions: no unsafe code, at the
//! price of the metering.

mod host;
mod machine;
mod mend;
mod trap;

pub(crate) use machine::{Backend, WasmiMachine};
