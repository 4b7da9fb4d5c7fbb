//! Encrypted streams between keeps, and between nodes: mutual TLS 1.3 over a Unix or TCP stream that somebody else
//! relays, with what an attested handshake is bound to (exporter and both public keys).
//!
//! It must never speak an older TLS, resume a session, send or take early data, accept a side without a certificate,
//! or believe a certificate because some root signed it: each provider has roots of its own, and a certificate names
//! the provider whose roots signed it. A provider's certificate says who runs a machine; it says nothing about what
//! runs there, which is the work of evidence.
//!
//! ```text
//!   thread that reads                     lock                      thread that writes
//!   stream ──> bytes ──> [ decrypt ] ── Connection ── [ encrypt ] ──> bytes ──> stream
//!   (blocks without the lock)                                (blocks without the lock)
//! ```

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

mod error;
mod handshake;
mod identity;
mod session;
mod socket;
mod verify;

pub use error::{Error, PeerError};
pub use handshake::{EXPORTER_LABEL, HANDSHAKE_LIMIT, PROTOCOL, accept, accept_within, connect, connect_within};
pub use identity::{CERTIFICATE_NAME, Roots, TlsIdentity};
pub use session::{Closer, Reader, Session, Writer};
pub use socket::Socket;
