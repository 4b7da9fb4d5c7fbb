//! Gives the keys of a service's state, and its owner's secrets, to the one instance that the ledger says holds the
//! service, and to nobody else. This crate must never release anything without fresh evidence that the service's policy
//! accepts, without a fresh reading of the ledger, or other than encrypted to the key in that evidence; never release
//! keys of more than two epochs to one asker; and never answer before the release is on record.
//!
//! ```text
//!   instance                       broker                                  ledger
//!      │ Hello(service, nonce) ──────>│
//!      │<───── Challenge(nonce, key)  │
//!      │ Ask(want, keys, evidence) ──>│ signature, evidence, policy
//!      │                              │ Read(nonce) ──────────────────────────>│
//!      │                              │<──────────────── Reading(holder, epoch)│ holder is the asker, in this epoch
//!      │                              │ release recorded
//!      │<──── Answer(HPKE to the key) │
//! ```
//!
//! [`Broker`] is the broker's side and [`Fetch`] the instance's, both without input and output. [`Vault`] keeps roots and
//! secrets in files, [`serve`] and [`fetch`] drive both sides over a stream of bytes. Whoever carries the messages
//! can read who asks for what, and nothing of what is answered.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

mod client;
mod envelope;
mod error;
mod keys;
mod message;
mod record;
mod rules;
mod server;
mod transport;
mod vault;

pub use client::{Asked, Brokers, Challenged, Fetch, Party, Released};
pub use envelope::KemKey;
pub use error::{FetchError, VaultError};
pub use keys::{ledger_name, signing_key};
pub use message::{Answer, Ask, Challenge, Denied, Hello, MAX_MESSAGE, Message, Refusal, SessionId, Want};
pub use record::{Release, ReleaseLog};
pub use server::{Broker, Input, Output, Roots, Service};
pub use transport::{Surroundings, fetch, serve};
pub use vault::{SecretRule, Vault};
