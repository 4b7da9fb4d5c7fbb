//! Identities, typed Wasm values and page arithmetic: the few words that every other crate of Dunlin
//! speaks. It must never do I/O, read a clock, or depend on another crate of the workspace, and a type
//! is admitted only when it is pure, tiny and used by three crates.

mod causes;
mod digest;
mod hex;
mod page;
mod value;

pub use causes::with_causes;
pub use digest::{Digest, Hasher};
pub use hex::unhex;
pub use page::{PAGE_SIZE, is_zero, page_count};
pub use value::{Value, ValueType};
