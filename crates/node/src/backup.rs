//! A file with all that brings a service back on another machine: what describes it, its module, and its last committed
//! state as the keep sealed it. Whoever has the file can read the module and the description, and nothing of the state.
//!
//! ```text
//!   offset  size
//!        0     8  "DUNLINBK"
//!        8     4  version 1
//!       12     4  length of the head
//!       16     n  the head, as JSON: the service's description, the state's version and digest, both lengths
//!                 the module
//!                 the state
//! ```
//!
//! Nothing in it is believed: the module and the description count if the ledger's record names the policy that permits
//! them, the state if it has the digest that the ledger's record names.

use dunlin_base::Digest;
use serde::{Deserialize, Serialize};

use crate::error::NodeError;
use crate::record::{Document, RECORD_LIMIT};

const MAGIC: &[u8; 8] = b"DUNLINBK";
const VERSION: u32 = 1;
/// Longest copy of a checkpoint that is taken, in bytes.
pub const BACKUP_LIMIT: u64 = 2 << 30;

/// A service that can be brought back.
#[derive(Debug, PartialEq)]
pub(crate) struct Backup {
    pub(crate) document: Document,
    /// Of the state, in the ledger.
    pub(crate) version: u64,
    pub(crate) state_hash: Digest,
    pub(crate) module: Vec<u8>,
    pub(crate) state: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    document: Document,
    version: u64,
    state: String,
    module_bytes: u64,
    state_bytes: u64,
}

impl Backup {
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, NodeError> {
        let head = Head {
            document: self.document.clone(),
            version: self.version,
            state: self.state_hash.to_string(),
            module_bytes: self.module.len() as u64,
            state_bytes: self.state.len() as u64,
        };
        let head = serde_json::to_vec(&head).map_err(|error| NodeError::Invalid(error.to_string()))?;
        let mut bytes = Vec::with_capacity(16 + head.len() + self.module.len() + self.state.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&self.module);
        bytes.extend_from_slice(&self.state);
        Ok(bytes)
    }

    /// Reads such a file. The module is the one that is described, the state is what it is.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, NodeError> {
        let wrong = |why: &str| NodeError::Invalid(format!("this is not a copy of a checkpoint: {why}"));
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| wrong("it does not begin like one"))?;
        let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(|| wrong("it is cut off"))?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(wrong("it has another version than this program knows"));
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(|| wrong("it is cut off"))?;
        let length = u32::from_le_bytes(*length);
        if u64::from(length) > RECORD_LIMIT {
            return Err(wrong("its head is too long"));
        }
        let (head, rest) = rest.split_at_checked(length as usize).ok_or_else(|| wrong("it is cut off"))?;
        let Head { document, version, state, module_bytes, state_bytes } =
            serde_json::from_slice(head).map_err(|error| wrong(&error.to_string()))?;
        let split = usize::try_from(module_bytes).ok().and_then(|length| rest.split_at_checked(length));
        let (module, sealed) = split.ok_or_else(|| wrong("it is cut off"))?;
        if sealed.len() as u64 != state_bytes {
            return Err(wrong("it is cut off, or something follows it"));
        }
        document.check()?;
        if document.module_digest() != Some(Digest::of(module)) {
            return Err(wrong("its module is another one than it says"));
        }
        let state_hash = state.parse().map_err(|_| wrong("the digest of its state is none"))?;
        Ok(Self { document, version, state_hash, module: module.to_vec(), state: sealed.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use dunlin_handover::ServiceId;

    use super::*;
    use crate::model::Deploy;
    use crate::record::tests::deploy;

    fn backup() -> Backup {
        let module = b"\0asm\x01\0\0\0".to_vec();
        let deploy = Deploy { module: Digest::of(&module).to_string(), ..deploy("kv") };
        let document = Document::new(deploy, ServiceId([1; 16])).unwrap();
        Backup { document, version: 7, state_hash: Digest([2; 32]), module, state: vec![3; 100] }
    }

    #[test]
    fn it_comes_back_and_what_is_not_whole_is_refused() {
        let bytes = backup().to_bytes().unwrap();
        assert_eq!(Backup::from_bytes(&bytes).unwrap(), backup());
        for length in 0..bytes.len() {
            assert!(Backup::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
        }
        assert!(Backup::from_bytes(&[bytes.clone(), vec![0]].concat()).is_err());
        // Every bit but those of the sealed state, which its keep checks, and of texts that mean nothing.
        for at in 0..bytes.len() - 100 {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(
                Backup::from_bytes(&changed).is_ok_and(|read| read != backup())
                    || Backup::from_bytes(&changed).is_err()
            );
        }
        let mut long = bytes.clone();
        long[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Backup::from_bytes(&long).unwrap_err().to_string().contains("too long"));
    }
}
