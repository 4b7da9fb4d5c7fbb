//! How a keep names a committed state in the directory that its node keeps for it: the one name there that both know.

use core::fmt;
use core::str::FromStr;

use dunlin_base::Digest;

const START: &str = "state-";

/// Version and digest of a committed state, as its file is named: `state-VERSION-DIGEST`. A claim, like all names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateName {
    /// In the ledger.
    pub version: u64,
    /// Of the state.
    pub state_hash: Digest,
}

/// Not the name of a committed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a committed state")]
pub struct NoStateName;

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{START}{:020}-{}", self.version, self.state_hash)
    }
}

impl FromStr for StateName {
    type Err = NoStateName;

    fn from_str(name: &str) -> Result<Self, NoStateName> {
        let (version, digest) = name.strip_prefix(START).and_then(|rest| rest.split_once('-')).ok_or(NoStateName)?;
        let (version, state_hash) = (version.parse(), digest.parse());
        Ok(Self { version: version.map_err(|_| NoStateName)?, state_hash: state_hash.map_err(|_| NoStateName)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_back_and_others_are_none() {
        let name = StateName { version: 7, state_hash: Digest([0xab; 32]) };
        assert!(name.to_string().starts_with("state-00000000000000000007-ab"), "{name}");
        assert_eq!(name.to_string().parse(), Ok(name));
        for wrong in ["", "state-", "state-7", "state-x-y", "state-7-ab", "staged-7", "module.wasm"] {
            assert_eq!(wrong.parse::<StateName>(), Err(NoStateName), "{wrong}");
        }
    }
}
