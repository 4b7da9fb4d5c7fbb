//! What commands report, as data that is shown as text or JSON.

pub(crate) mod difference;
pub(crate) mod module;
pub(crate) mod run;
pub(crate) mod snapshot;
