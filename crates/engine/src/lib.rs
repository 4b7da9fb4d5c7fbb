//! Runs, stops, captures and restores instrumented modules, on Wasmtime (Cranelift and Pulley) and on wasmi,
//! behind one interface. The only crate that touches an engine. It must never know what an import means: that is
//! the host's business.
//!
//! An [`Engine`] compiles an instrumented module to [`Code`]; an [`Instance`] of it [runs](Instance::run) until it
//! ends or its [`StopHandle`] stops it, is [captured](Instance::capture) as a
//! [`State`](dunlin_snapshot::State), and [restored](Instance::restore) from it, on the same or another tier.

mod capture;
mod engine;
mod error;
mod host;
mod instance;
mod limits;
mod live;
mod machine;
mod memory;
mod module;
mod pagemap;
mod restore;
mod setup;
mod stack;
mod stop;
mod tier;
mod validate;
mod wasmi;
mod wasmtime;

pub use dunlin_snapshot::Entry;
pub use engine::{Code, Engine, Settings};
pub use error::{Cause, Error, Outcome, Trap, TrapKind};
pub use host::{Flow, Host};
pub use instance::Instance;
pub use limits::Limits;
pub use live::{Lazy, Method, Prepared, Tracker};
pub use memory::MemorySizes;
pub use pagemap::open_memory_map;
pub use stack::on_stack;
pub use stop::StopHandle;
pub use tier::{ParseTierError, Tier};
pub use validate::StateError;
