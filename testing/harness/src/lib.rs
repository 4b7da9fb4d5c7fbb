//! Proofs that stopping, capturing and restoring a program is exact: the means that its tests share. It must never be
//! needed by a program that is delivered, and never contain an expected result that a run did not give.
//!
//! [`master_property`] is the heart: a run that is stopped anywhere, written to bytes, and restored on any engine ends as
//! the undisturbed run did, and as the module ends as its author built it. Which hard case is shown by which test:
//!
//! | hard case | shown by |
//! |---|---|
//! | recursion through `call_indirect`, mixed operands under the call | `cases`: `c01_indirect_recursion` |
//! | a value of one call live while stopped in the next | `cases`: `c02_operands_under_calls` |
//! | multi-value blocks and loops, back edges by `br_table` | `cases`: `c03_multi_value_loops`, `c03_loop_parameters` |
//! | branches out of five nested loops with values | `cases`: `c04_branches_out_of_nests` |
//! | tail calls of all kinds, constant stack | `cases`: `c05_tail_calls`, `c05_tail_calls_by_reference` |
//! | thousands of locals, parameters, results | `cases`: `c06_many_values`; `limits`: 49,000 locals |
//! | interpreter loops | `cases`: `c07_interpreter_loop`; `guests`: SQLite and QuickJS |
//! | unreachable code | `cases`: `c08_dead_code` |
//! | deep stacks, smaller stacks at the destination | `cases`: `c09_deep_stack`; `limits`: refused with nothing run |
//! | interrupted start function, segments not applied again | `cases`: `c10_start_function` |
//! | throw after the move, caught further out, re-thrown | `cases`: `c11_throw_after_restore` |
//! | exception references with payloads; uncaught exceptions | `cases`: `c12_exception_references`, `c12_uncaught` |
//! | changed tables, dropped element segments, null and imported functions | `cases`: `c13_tables` |
//! | dropped data segments | `cases`: `c14_dropped_segments` |
//! | host references | `cases`: `c15_host_references`; `limits`: what is refused, with its place |
//! | vectors, relaxed operations | `cases`: `c16_vectors` |
//! | NaN bits, negative zero, denormals | `cases`: `c17_float_bits` |
//! | stops around `memory.grow` | `cases`: `c18_memory_growth` |
//! | large and overlapping bulk operations, and stops inside | `cases`: `c19_bulk_memory`, `c19_bulk_stops` |
//! | several memories, custom page sizes, addresses beyond 4 GiB | `cases`: `c20_several_memories`, `c20_memory64` |
//! | hostile snapshots | tests and fuzz targets of `dunlin-snapshot` |
//! | a snapshot of a module that was changed or stripped | `limits`: refused by its digest |
//! | the specification suite and random modules, under a storm of stops | `spec`, `smith` |
//!
//! Where the engines themselves compute differently - which NaN an operation makes, or a fault of one of them - no snapshot
//! can help: `smith` counts the modules that an engine runs otherwise as they are, and leaves that engine out for them.
//!
//! One case is out of reach of a module alone and shown elsewhere or refused: a memory shared by two instances (a program
//! is one module; imported memories are refused by the engine, and run without storms in `spec`).

mod case;
mod directory;
mod expose;
mod failure;
pub mod guests;
mod master;
mod plain;
mod random;
mod reissue;
pub mod smith;
pub mod spec;
mod subject;
mod volume;
mod world;

pub use case::Case;
pub use directory::Directory;
pub use expose::{Exposed, expose};
pub use failure::Failure;
pub use master::{Effort, NEVER, Report, master_property, on_stack, same_picture};
pub use plain::{Ended, Pages, Picture, Plain, PlainModule};
pub use random::{Random, number, seed};
pub use reissue::reissued;
pub use subject::{Call, Codes, ENGINES, End, LIMITS, Shipping, Stopped, Subject, chain, compile};
pub use world::{Command, Env, Files, World};
