//! The node: one per machine, not trusted. It starts a keep for each service, gives it sockets, storage and a way to the
//! ledger, connects keeps with each other for a move, relays the connections of clients to where a service went, and
//! answers people over HTTP.
//!
//! It must never hold a mechanism that trust rests on: what it says to a keep, the keep checks; what it stores, the keep
//! has sealed; who owns a service, the ledger decides. It must never start a service that its own files call its own
//! without asking, and never let a length or a name from a peer or client decide an allocation or a path.
//!
//! ```text
//!   http ──> node ──> service ──> keep (process) ══ link ══ dunlin-keep
//!              │         │  └───> listeners, logs, record on disk
//!              │         └─────> jobs: a move out ──┐
//!              ├──> peer ══ streams ══ other nodes <┘ moves in, relays, HTTP, ledger
//!              └──> ledger (embedded, or at a peer)
//! ```

mod arrive;
mod backup;
mod broker;
mod client;
mod config;
mod depart;
mod error;
mod folder;
mod frames;
#[doc(hidden)]
pub mod hostile;
mod http;
mod instance;
mod jobs;
mod keep;
mod ledger;
mod listeners;
mod logs;
mod model;
mod node;
mod peer;
mod record;
mod recover;
mod relay;
mod service;
mod slots;
pub mod socket;
mod verbs;
mod witness;

pub use backup::BACKUP_LIMIT;
pub use broker::{BrokerConfig, BrokerProcess};
pub use client::{ApiClient, ApiError};
pub use config::{Address, KeepProgram, LedgerAt, NodeConfig, NodeKeys, Realm};
pub use error::NodeError;
pub use http::openapi;
pub use model::{
    AttestDone, AttestRequest, CheckpointDone, Deploy, DowntimeParts, Health, JobInfo, JobState, LimitsInfo, Line,
    MigrateRequest, ModeName, NodeInfo, NodeLine, Owner, PhaseMark, PolicyInfo, Problem, RamStatistics, RecoverRequest,
    ServiceInfo, ServiceLine, ServiceState, StatisticsInfo, StopRequest, Stored, Stream, TierName, TimeoutActionName,
};
pub use node::Node;
