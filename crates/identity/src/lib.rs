//! Who is who: the P-256 keys of keeps, machines, owners and ledgers, and the certificates with which a provider says
//! which machine is his. It must never show a private key in a text, never take a signature for that of another key, and
//! never decide whether somebody is to be trusted: roots and policies are arguments.
//!
//! A [`Key`](dunlin_handover::Key) is the SHA-256 of a public key in DER (`SubjectPublicKeyInfo`). A signature of this
//! crate is 129 bytes: the public key as an uncompressed point (65), then ECDSA with SHA-256 as `r` and `s` (32 each), so that
//! a thumbprint is all that others have to know.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod certificate;
mod error;
mod key;
mod verifier;

pub use certificate::{Certificate, Issuer, Names, TLS_NAME};
pub use error::IdentityError;
pub use key::{InstanceKey, PlatformKey, PrivateKey, PublicKey, SIGNATURE_LENGTH};
pub use verifier::{Appraisal, Verifier};
