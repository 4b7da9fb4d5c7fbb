//! Measurements: what being movable costs, and what stopping and going on cost.

pub(crate) mod attest;
pub(crate) mod capture;
mod criu;
mod handshake;
mod latency;
pub(crate) mod live;
mod machine;
pub(crate) mod moved;
pub(crate) mod overhead;
mod sealed;
mod startup;
mod statistics;
pub(crate) mod volume;
pub(crate) mod wasi;
