//! One service instance: runs it, moves it while it runs, restores it. It must never run a service whose ledger does
//! not say that it is the holder, and never trust an answer of the node that carries its messages.
//!
//! [`serve`] is the whole of the program `dunlin-keep`; `docs/keep.md` of the repository tells what it gives up before it
//! reads anything from outside, and what it believes of what it reads.

pub mod confine;
pub mod migrate;

mod arrival;
mod boot;
mod carrier;
mod checkpoint;
mod code;
mod departure;
mod error;
mod keys;
mod machine;
mod mobility;
mod offer;
mod office;
mod orders;
mod outbox;
mod peer;
mod service;
mod states;
mod successor;
mod trust;
mod trusted;
mod who;

pub use confine::{ConfineError, Confinement};
pub use error::Failure;
pub use orders::{KeepError, serve};
pub use who::Who;
