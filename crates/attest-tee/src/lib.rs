//! Evidence of hardware TEEs from the files by which they are asked: Linux's configfs-tsm for SEV-SNP and TDX guests,
//! Gramine's pseudo files for SGX enclaves. It must never answer for a platform that is not there, take evidence of
//! another provider than the one it was made for, or believe an answer that belongs to another question.
//!
//! Tested against directory trees that behave like the kernel's; not run on hardware.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

mod certificates;
mod files;
mod gramine;
mod tsm;

pub use certificates::parse as parse_certificate_table;
pub use files::{Files, SystemFiles};
pub use gramine::GramineAttester;
pub use tsm::TsmAttester;
