//! What a node and its keeps say to each other: orders one way, reports the other, with descriptors beside them.
//!
//! The messages and their order are plain values without I/O; only [`Channel`] touches a socket. This crate must
//! never trust a length, a number of descriptors or an order of messages that came from the other side, and must never
//! decide anything about a service: what an order means is the keep's business, who gets one the node's.
//!
//! `docs/formats/keep-link.md` of the repository has the bytes.

mod channel;
mod gate;
mod order;
mod packet;
mod report;
mod spec;
mod state_name;

pub use channel::{Channel, ChannelError, Received};
pub use gate::{Gate, OutOfOrder};
pub use order::{
    About, BrokerCall, Call, Challenge, Identity, MigrateIn, MigrateOut, Order, Origin, Proof, ProofReply, Start, Stop,
    StopHow, TakeCheckpoint, WishRefused, Witness,
};
pub use packet::{MAX_DESCRIPTORS, MAX_PACKET, Packet, PacketError, Versions};
pub use report::{
    Arrived, ArrivedHow, Attested, Checkpointed, Closed, Connected, ConnectionState, Ended, EndedHow, FailCode, Failed,
    Left, LeftHow, Note, Phase, Progress, ProofCall, Ready, Report, Running, StatusReport, Wish,
};
pub use spec::{ConnectionId, Limits, MAX_POLICY, Offered, OrderId, Role, SignedPolicy, Spec, Tier, Variable, WishId};
pub use state_name::{NoStateName, StateName};
