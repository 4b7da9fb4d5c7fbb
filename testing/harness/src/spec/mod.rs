//! The specification suite, each script run twice at once: the modules as they are and instrumented, linked with each
//! other in worlds of their own. Every directive must end alike in both.

mod link;
mod pattern;
mod script;
mod storm;

pub use script::{Tally, files, run};
