//! Memory of a program that is on its way to another host while it runs: which pages change, copies of them, and
//! an instance that waits for them. `docs/live-memory.md` of the repository tells costs and choices.

mod fault;
mod lazy;
mod prepared;
mod shadow;
mod tracker;

pub(crate) use shadow::Shadow;

pub use lazy::Lazy;
pub use prepared::Prepared;
pub use tracker::{Method, Tracker};
