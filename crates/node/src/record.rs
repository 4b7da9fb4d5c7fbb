//! What a node remembers about a service: one JSON file for each, so that it can start its services again without
//! asking anybody but the ledger.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dunlin_attest::{Bytes, Policy, VerifyingKey};
use dunlin_attested::policy_in_force;
use dunlin_base::{Digest, unhex};
use dunlin_handover::{Key, ServiceId};
use dunlin_keep_link::{MAX_POLICY, SignedPolicy, Spec, Variable};
use serde::{Deserialize, Serialize};

use crate::error::NodeError;
use crate::folder;
use crate::model::{Deploy, LimitsInfo, PolicyInfo, TierName};

/// Longest record on disk, and of a peer.
pub(crate) const RECORD_LIMIT: u64 = 1 << 20;
/// The version of this file.
const FORMAT: u16 = 1;

/// What describes a service, wherever it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    pub(crate) name: String,
    /// Its id in the ledger.
    pub(crate) id: String,
    pub(crate) module: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) listen: Vec<String>,
    pub(crate) volume: Option<String>,
    pub(crate) tier: TierName,
    pub(crate) limits: LimitsInfo,
    #[serde(default)]
    pub(crate) policy: Option<PolicyInfo>,
}

/// A service, as far as the broker must know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subject {
    name: String,
    id: String,
    module: String,
    #[serde(default)]
    policy: Option<PolicyInfo>,
}

impl Subject {
    pub(crate) fn service(&self) -> Result<ServiceId, NodeError> {
        let invalid = || NodeError::Invalid("the id of a service is not written as hexadecimal digits".into());
        unhex(&self.id).map(ServiceId).ok_or_else(invalid)
    }

    /// Whether this owner is the one who is said to have signed the policy, which [`Self::policy_in_force`] verifies.
    pub(crate) fn is_signed_by(&self, owner: &VerifyingKey) -> bool {
        let signer =
            |policy: &PolicyInfo| policy.signer.parse::<Bytes>().is_ok_and(|signer| signer.0 == owner.to_bytes());
        self.policy.as_ref().is_some_and(signer)
    }

    /// The policy under which it runs: what its owner signed, or the one that demands nothing but the module and the
    /// ledger.
    pub(crate) fn policy_in_force(&self, ledger: Key) -> Result<Policy, NodeError> {
        let signed = signed_policy(self.policy.as_ref())?;
        let signed = signed.as_ref().map(|signed| (&*signed.object, &*signed.signer));
        let module = unhex(&self.module).map(Digest);
        let module = module.ok_or_else(|| NodeError::Invalid("the digest of a module is none".into()))?;
        let refused = |reason: String| NodeError::Invalid(format!("the policy cannot be used: {reason}"));
        let policy = policy_in_force(&self.name, self.service()?, &module, ledger, signed)
            .map_err(|error| refused(error.to_string()))?;
        if !policy.document().permits(&module) {
            return Err(refused(format!("it does not permit the module {module}")));
        }
        Ok(policy)
    }
}

/// What is to become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Wanted {
    Running,
    Stopped,
    /// The program ended by itself; it is not started again on its own.
    Ended,
}

/// Where it is, as far as this node knows. The ledger knows better.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "place")]
pub(crate) enum Place {
    Here,
    /// It may be staged here, on its way from `from`.
    Arriving {
        from: String,
    },
    Away {
        node: String,
    },
}

/// A service on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) format: u16,
    pub(crate) document: Document,
    pub(crate) wanted: Wanted,
    pub(crate) place: Place,
    /// Whether an instance of it ever held it.
    pub(crate) claimed: bool,
    /// Where it listens on this node, as it was bound last.
    pub(crate) bound: Vec<String>,
    /// How it ended, for people.
    pub(crate) message: Option<String>,
}

impl Document {
    /// Checks what somebody wishes to deploy.
    pub(crate) fn new(deploy: Deploy, id: ServiceId) -> Result<Self, NodeError> {
        let Deploy { name, module, args, env, listen, volume, tier, limits, policy } = deploy;
        let document = Self { name, id: id.to_string(), module, args, env, listen, volume, tier, limits, policy };
        document.check()?;
        Ok(document)
    }

    /// Whether it can be used, wherever it came from. Its name becomes a name of a directory.
    pub(crate) fn check(&self) -> Result<(), NodeError> {
        let invalid = |text: String| Err(NodeError::Invalid(text));
        if !is_name(&self.name) {
            return invalid(format!(
                "{:?} is no name for a service: use 1 to 63 letters, digits, '-', '_' or '.', beginning with a letter or digit",
                self.name
            ));
        }
        if self.service().is_none() || self.module_digest().is_none() {
            return invalid(
                "the id of a service or the digest of its module is not written as hexadecimal digits".into(),
            );
        }
        if let Some(address) = self.listen.iter().find(|address| !is_address(address)) {
            return invalid(format!("{address:?} is no address to listen on: write HOST:PORT, as in 127.0.0.1:8080"));
        }
        if self.listen.len() > 16 {
            return invalid("a service has at most 16 listeners".into());
        }
        if self.args.len() > 1000 || self.env.len() > 1000 {
            return invalid("a service has at most 1000 arguments and 1000 variables".into());
        }
        if self.volume.as_ref().is_some_and(|path| !path.starts_with('/') || path.contains("..")) {
            return invalid("a volume is seen under an absolute path, as in /data".into());
        }
        signed_policy(self.policy.as_ref()).map(drop)
    }

    /// As the broker must know it.
    pub(crate) fn subject(&self) -> Subject {
        let Self { name, id, module, policy, .. } = self;
        Subject { name: name.clone(), id: id.clone(), module: module.clone(), policy: policy.clone() }
    }

    pub(crate) fn service(&self) -> Option<ServiceId> {
        unhex(&self.id).map(ServiceId)
    }

    pub(crate) fn module_digest(&self) -> Option<Digest> {
        unhex(&self.module).map(Digest)
    }

    /// As a keep takes it.
    pub(crate) fn spec(&self, ledger: Key) -> Result<Spec, NodeError> {
        self.check()?;
        let (Some(service), Some(module)) = (self.service(), self.module_digest()) else {
            return Err(NodeError::Invalid("a service without id or module".into()));
        };
        let mut args = vec![self.name.clone()];
        args.extend(self.args.iter().cloned());
        let env = self.env.iter().map(|(name, value)| Variable { name: name.clone(), value: value.clone() }).collect();
        Ok(Spec {
            service,
            name: self.name.clone(),
            module,
            policy: self.subject().policy_in_force(ledger)?.hash(),
            signed_policy: signed_policy(self.policy.as_ref())?,
            args,
            env,
            tier: self.tier.into(),
            limits: self.limits.into(),
        })
    }
}

fn signed_policy(policy: Option<&PolicyInfo>) -> Result<Option<SignedPolicy>, NodeError> {
    let Some(PolicyInfo { object, signer }) = policy else { return Ok(None) };
    let bytes = |text: &str| {
        let invalid = || NodeError::Invalid("a policy or its signer is not written as hexadecimal digits".into());
        text.parse::<Bytes>().map(|bytes| bytes.0).map_err(|_| invalid())
    };
    let signed = SignedPolicy { object: bytes(object)?, signer: bytes(signer)? };
    if signed.object.len() > MAX_POLICY {
        let length = signed.object.len();
        return Err(NodeError::Invalid(format!("a signed policy of {length} bytes; keeps take {MAX_POLICY} at most")));
    }
    Ok(Some(signed))
}

impl Record {
    pub(crate) fn new(document: Document, wanted: Wanted, place: Place) -> Self {
        Self { format: FORMAT, document, wanted, place, claimed: false, bound: Vec::new(), message: None }
    }

    pub(crate) fn load(folder: &Path) -> Result<Option<Self>, NodeError> {
        let path = path(folder);
        let Some(bytes) = folder::read(&path, RECORD_LIMIT)? else { return Ok(None) };
        let damaged = |reason: String| NodeError::Damaged { path: path.clone(), reason };
        let record: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if record.format != FORMAT {
            return Err(damaged(format!("format {}, this program knows {FORMAT}", record.format)));
        }
        record.document.check().map_err(|error| damaged(error.to_string()))?;
        Ok(Some(record))
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<(), NodeError> {
        let path = path(folder);
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| NodeError::Damaged { path: path.clone(), reason: error.to_string() })?;
        folder::write(&path, &bytes)
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("service.json")
}

/// Whether this can be the name of a service or node, and of a directory.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=63).contains(&name.len())
        && name.chars().all(allowed)
        && name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric())
}

fn is_address(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn deploy(name: &str) -> Deploy {
        Deploy {
            name: name.to_owned(),
            module: "00".repeat(32),
            args: vec!["x".to_owned()],
            env: BTreeMap::new(),
            listen: vec!["127.0.0.1:0".to_owned()],
            volume: None,
            tier: TierName::default(),
            limits: LimitsInfo::default(),
            policy: None,
        }
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        for name in ["", ".", "..", "../a", "a/b", ".hidden", "a b", "é", &"a".repeat(64)] {
            assert!(Document::new(deploy(name), ServiceId([1; 16])).is_err(), "{name:?}");
        }
        let document = Document::new(deploy("kv-1.test_x"), ServiceId([1; 16])).unwrap();
        assert_eq!(document.spec(Key([9; 32])).unwrap().args, ["kv-1.test_x", "x"]);
        for wrong in ["", "80", "host:", "host:99999"] {
            let deploy = Deploy { listen: vec![wrong.to_owned()], ..deploy("a") };
            assert!(Document::new(deploy, ServiceId([1; 16])).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_policy_that_no_keep_takes_is_refused_at_once() {
        let policy = |length| PolicyInfo { object: "00".repeat(length), signer: "02".repeat(33) };
        let with = |length| Document::new(Deploy { policy: Some(policy(length)), ..deploy("a") }, ServiceId([1; 16]));
        let error = with(MAX_POLICY + 1).unwrap_err().to_string();
        assert!(error.contains("65537 bytes") && error.contains("65536"), "{error}");
        // One of that size is looked at, and is none.
        let error = with(MAX_POLICY).unwrap().spec(Key([9; 32])).unwrap_err().to_string();
        assert!(error.contains("the policy cannot be used"), "{error}");
    }

    #[test]
    fn a_record_comes_back_and_a_damaged_one_is_named() {
        let folder = std::env::temp_dir().join(format!("dunlin-record-{}", std::process::id()));
        folder::make(&folder).unwrap();
        assert_eq!(Record::load(&folder).unwrap(), None);
        let document = Document::new(deploy("a"), ServiceId([1; 16])).unwrap();
        let record = Record::new(document, Wanted::Running, Place::Away { node: "b".to_owned() });
        record.save(&folder).unwrap();
        assert_eq!(Record::load(&folder).unwrap(), Some(record));
        std::fs::write(path(&folder), b"{").unwrap();
        let error = Record::load(&folder).unwrap_err().to_string();
        assert!(error.contains("service.json is damaged"), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
