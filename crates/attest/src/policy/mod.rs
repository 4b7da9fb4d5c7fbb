//! The owner's policy: its text form, its signature, what it says of claims, and what it says to people.

pub(crate) mod appraisal;
pub(crate) mod appraise;
pub mod diff;
pub mod explain;
pub mod lint;
pub(crate) mod model;
pub(crate) mod sign;
