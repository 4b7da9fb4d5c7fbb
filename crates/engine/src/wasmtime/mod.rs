//! Wasmtime, with Cranelift or Pulley.

mod config;
mod host;
mod machine;
mod trap;

pub(crate) use config::Backend;
pub(crate) use machine::{Parts, WasmtimeMachine};
