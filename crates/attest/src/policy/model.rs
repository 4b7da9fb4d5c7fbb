//! The text form of a policy: TOML, typed, with unknown fields refused. Whatever a policy does not allow
//! is denied, so an empty block or a missing one allows nothing.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_base::Digest;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use toml::value::Datetime;

use crate::bytes::Bytes;
use crate::claims::{Class, SnpTcb, TcbStatus, Technology};
use crate::cose::VerifyingKey;
use crate::platform::PlatformId;
use crate::time::unix_seconds;

/// The format that this build reads.
pub(crate) const FORMAT: u32 = 1;
/// A token never lives longer, in seconds, whatever a policy says.
pub(crate) const MAX_TOKEN_SECONDS: u64 = 300;

/// A policy as its owner writes it. Reading one gives no right to use it: [`crate::Policy`] is one whose
/// owner's signature was checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    /// The version of this format, 1.
    pub format: u32,
    /// The service for which this policy is.
    pub service: String,
    /// The owner's version number. It only ever rises.
    pub version: u64,
    /// From when on it applies.
    pub issued: Moment,
    /// Until when it applies.
    pub expires: Moment,
    /// The weakest class that is accepted.
    pub class_floor: Class,
    /// The WebAssembly modules that may run as this service.
    pub modules: Vec<ModuleDigest>,
    /// Whether the platform must have measured this very policy for the runtime.
    #[serde(default = "yes")]
    pub require_measured_policy: bool,
    /// After how many seconds a running instance must be appraised again; reference values that were
    /// superseded or revoked then take effect.
    #[serde(default = "one_hour")]
    pub reattest_seconds: u64,
    /// Everything that makes the policy weaker than it looks. It is shown in tokens.
    #[serde(default, skip_serializing_if = "Insecure::is_none")]
    pub insecure: Insecure,
    /// What is accepted of SGX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sgx: Option<SgxRules>,
    /// What is accepted of TDX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tdx: Option<TdxRules>,
    /// What is accepted of SEV-SNP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snp: Option<SnpRules>,
    /// What is accepted of hosts with a TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmRules>,
    /// What is accepted of simulated platforms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sim: Option<SimRules>,
    /// The organisations whose machines may be used.
    #[serde(default, rename = "provider")]
    pub providers: Vec<Provider>,
    /// Machines that are not accepted any more, whoever lists them.
    #[serde(default)]
    pub revoked_platforms: Vec<PlatformId>,
    /// Where instances may move to.
    #[serde(default)]
    pub migration: Migration,
    /// Who decides which instance owns the service.
    pub ledger: Ledger,
    /// Who releases keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<Broker>,
    /// Who may bring the service back when no instance is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// Whose tokens are accepted in place of evidence, and for how long.
    #[serde(default)]
    pub token: TokenRules,
}

/// Deliberate holes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Insecure {
    /// Accept any runtime measurement of the technologies that have a block.
    #[serde(default)]
    pub any_measurement: bool,
    /// Accept machines of any provider, also of none.
    #[serde(default)]
    pub any_provider: bool,
    /// Accept TEEs into which the host may look.
    #[serde(default)]
    pub allow_debug: bool,
}

impl Insecure {
    /// Whether there are no holes.
    pub fn is_none(&self) -> bool {
        self.names().is_empty()
    }

    /// The names of the holes.
    pub fn names(&self) -> Vec<&'static str> {
        let Self { any_measurement, any_provider, allow_debug } = *self;
        let holes =
            [(any_measurement, "any_measurement"), (any_provider, "any_provider"), (allow_debug, "allow_debug")];
        holes.into_iter().filter(|(open, _)| *open).map(|(_, name)| name).collect()
    }
}

/// What is accepted of SGX.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SgxRules {
    /// Intel's view of the platform.
    #[serde(default)]
    pub tcb: IntelTcbRules,
    /// The enclaves.
    #[serde(default)]
    pub accept: Vec<AcceptSgx>,
}

/// An SGX enclave: exactly this one, or a signer's product from a version on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptSgx {
    /// The measurement, 32 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrenclave: Option<Bytes>,
    /// The signer, 32 bytes. It needs `product` and `min_svn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrsigner: Option<Bytes>,
    /// The signer's product number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<u64>,
    /// The lowest version of the product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_svn: Option<u64>,
}

/// What is accepted of TDX.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxRules {
    /// Intel's view of the platform.
    #[serde(default)]
    pub tcb: IntelTcbRules,
    /// The trust domains.
    #[serde(default)]
    pub accept: Vec<AcceptTdx>,
}

/// A trust domain. All that is named must be equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptTdx {
    /// The measurement of the initial content, 48 bytes.
    pub mrtd: Bytes,
    /// Firmware's configuration, 48 bytes.
    pub rtmr0: Bytes,
    /// The kernel, 48 bytes.
    pub rtmr1: Bytes,
    /// The initial file system and the command line, 48 bytes.
    pub rtmr2: Bytes,
    /// What the system extends at run time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtmr3: Option<Bytes>,
    /// The TDX module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrseam: Option<Bytes>,
}

/// Rules about Intel's appraisal of a platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntelTcbRules {
    /// The statuses that are accepted.
    #[serde(default = "up_to_date")]
    pub statuses: Vec<TcbStatus>,
    /// Advisories that are never accepted.
    #[serde(default)]
    pub deny_advisories: Vec<String>,
    /// If present: the only advisories that are accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_advisories: Option<Vec<String>>,
    /// The oldest date of a TCB level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_date: Option<Moment>,
    /// The lowest number of the TCB evaluation data set.
    #[serde(default)]
    pub min_evaluation: u32,
    /// Accept platforms to which packages can be added.
    #[serde(default)]
    pub allow_dynamic_platform: bool,
    /// Accept platforms whose root keys the registration service keeps.
    #[serde(default)]
    pub allow_cached_keys: bool,
    /// Accept platforms with SMT on.
    #[serde(default)]
    pub allow_smt: bool,
}

impl Default for IntelTcbRules {
    fn default() -> Self {
        Self {
            statuses: up_to_date(),
            deny_advisories: Vec::new(),
            allow_advisories: None,
            min_date: None,
            min_evaluation: 0,
            allow_dynamic_platform: false,
            allow_cached_keys: false,
            allow_smt: false,
        }
    }
}

/// What is accepted of SEV-SNP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpRules {
    /// The lowest TCB, by product line. It holds for the reported, the committed and the launch TCB. A
    /// product line that is not listed is not accepted.
    pub min_tcb: BTreeMap<String, SnpTcb>,
    /// Product lines that are not accepted although they are listed.
    #[serde(default = "milan")]
    pub deny_products: Vec<String>,
    /// The least privileged level that may ask for reports.
    #[serde(default)]
    pub max_vmpl: u32,
    /// Whether the firmware must have checked memory for aliases.
    #[serde(default = "yes")]
    pub require_alias_check: bool,
    /// Whether the root's revocation list must have been checked.
    #[serde(default)]
    pub require_crl: bool,
    /// Accept reports that are signed with a provider's loaded key.
    #[serde(default)]
    pub allow_vlek: bool,
    /// Accept guests that the host's migration agent may move.
    #[serde(default)]
    pub allow_migration_agent: bool,
    /// Accept platforms with SMT on.
    #[serde(default)]
    pub allow_smt: bool,
    /// The guests.
    #[serde(default)]
    pub accept: Vec<AcceptSnp>,
}

/// An SNP guest: exactly this one, or an id key's image from a version on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptSnp {
    /// The launch measurement, 48 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measurement: Option<Bytes>,
    /// The digest of the id key, 48 bytes. It needs `image_id` and `min_svn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_key: Option<Bytes>,
    /// The owner's image id, 16 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<Bytes>,
    /// The lowest version of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_svn: Option<u64>,
}

/// What is accepted of hosts with a TPM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmRules {
    /// The hosts.
    #[serde(default)]
    pub accept: Vec<AcceptTpm>,
}

/// A host with a TPM. All that is named must be equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptTpm {
    /// The digest of the runtime's binary, 32 bytes.
    pub runtime: Bytes,
    /// Values of registers, 32 bytes each, by name (`pcr0` to `pcr7`).
    #[serde(default)]
    pub registers: BTreeMap<String, Bytes>,
}

/// What is accepted of simulated platforms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimRules {
    /// The runtimes.
    #[serde(default)]
    pub accept: Vec<AcceptSim>,
}

/// A simulated platform's runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptSim {
    /// The digest of the runtime's binary, 32 bytes.
    pub runtime: Bytes,
}

/// An organisation that operates machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// The name by which this policy knows it.
    pub id: String,
    /// The key that signs its platform statements.
    pub key: VerifyingKey,
    /// Where its machines are.
    #[serde(default)]
    pub region: String,
    /// Its machines.
    #[serde(default)]
    pub platforms: Vec<PlatformId>,
    /// Also accept machines that are not listed but for which it signs a statement.
    #[serde(default)]
    pub accept_signed_platforms: bool,
}

/// Where instances may move to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migration {
    /// How the destination must compare with the source.
    #[serde(default)]
    pub destination: DestinationRule,
    /// If present: the only providers to which instances may move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub providers: Option<Vec<String>>,
    /// If present: the only regions to which instances may move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regions: Option<Vec<String>>,
}

/// How a destination must compare with the source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DestinationRule {
    /// Of no weaker class and, for the same technology, of no worse TCB.
    #[default]
    AtLeastSource,
    /// Anything that the rest of the policy accepts.
    AnyAccepted,
    /// Instances do not move.
    None,
}

/// The ledger that decides who owns the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// Its name.
    pub id: String,
    /// The keys of its members.
    pub keys: Vec<VerifyingKey>,
    /// How many of them must sign.
    pub quorum: usize,
}

/// The key broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Its keys.
    pub keys: Vec<VerifyingKey>,
}

/// Who may bring the service back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// Their keys.
    pub keys: Vec<VerifyingKey>,
    /// How many of them must agree.
    pub threshold: usize,
}

/// Tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRules {
    /// The longest life of a token, in seconds; at most 300.
    #[serde(default = "five_minutes")]
    pub max_seconds: u64,
    /// The verifiers whose tokens are accepted.
    #[serde(default)]
    pub verifiers: Vec<VerifyingKey>,
}

impl Default for TokenRules {
    fn default() -> Self {
        Self { max_seconds: MAX_TOKEN_SECONDS, verifiers: Vec::new() }
    }
}

/// An instant: a TOML date-time with an offset.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Moment(Datetime);

impl Moment {
    /// Seconds since 1970.
    pub fn seconds(&self) -> u64 {
        // Reading refuses every date-time without a number of seconds; zero would be 1970.
        unix_seconds(&self.0).unwrap_or(0)
    }
}

impl core::str::FromStr for Moment {
    type Err = ParseMomentError;

    fn from_str(text: &str) -> Result<Self, ParseMomentError> {
        let at: Datetime = text.parse().map_err(|_| ParseMomentError)?;
        if unix_seconds(&at).is_some() { Ok(Self(at)) } else { Err(ParseMomentError) }
    }
}

/// A text that is not an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a date-time with an offset, like 2026-11-20T12:00:00Z")]
pub struct ParseMomentError;

impl core::fmt::Display for Moment {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let at = Datetime::deserialize(deserializer)?;
        match unix_seconds(&at) {
            Some(_) => Ok(Self(at)),
            None => Err(D::Error::custom("expected a date-time with an offset, like 2026-11-20T12:00:00Z")),
        }
    }
}

/// The digest of a module, `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuleDigest(pub Digest);

impl Serialize for ModuleDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("sha256:{}", self.0))
    }
}

impl<'de> Deserialize<'de> for ModuleDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

fn yes() -> bool {
    true
}

fn one_hour() -> u64 {
    3600
}

fn five_minutes() -> u64 {
    MAX_TOKEN_SECONDS
}

fn up_to_date() -> Vec<TcbStatus> {
    vec![TcbStatus::UpToDate]
}

fn milan() -> Vec<String> {
    vec!["Milan".to_owned()]
}

impl PolicyDocument {
    /// Whether a service under this policy may run `module`.
    pub fn permits(&self, module: &Digest) -> bool {
        self.modules.iter().any(|permitted| permitted.0 == *module)
    }

    /// Reads the text form.
    ///
    /// # Errors
    ///
    /// For everything that is not of this format, with the line where it is.
    pub fn parse(text: &str) -> Result<Self, ParsePolicyError> {
        if text.len() > MAX_POLICY {
            return Err(ParsePolicyError::TooLong(text.len()));
        }
        let document: Self = toml::from_str(text)?;
        if document.format != FORMAT {
            return Err(ParsePolicyError::Format(document.format));
        }
        document.check_sizes()?;
        document.check_providers()?;
        Ok(document)
    }

    /// Whether the technology has a block at all.
    pub fn has_block(&self, technology: Technology) -> bool {
        match technology {
            Technology::Sgx => self.sgx.is_some(),
            Technology::Tdx => self.tdx.is_some(),
            Technology::Snp => self.snp.is_some(),
            Technology::Tpm => self.tpm.is_some(),
            Technology::Sim => self.sim.is_some(),
        }
    }

    /// A key or a machine of two providers would let one speak for the other.
    fn check_providers(&self) -> Result<(), ParsePolicyError> {
        let (mut ids, mut keys, mut platforms) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for provider in &self.providers {
            if !ids.insert(&provider.id) {
                return Err(ParsePolicyError::Twice(format!("provider id {:?}", provider.id)));
            }
            if !keys.insert(provider.key) {
                return Err(ParsePolicyError::Twice(format!("provider key {}", provider.key)));
            }
            if let Some(platform) = provider.platforms.iter().find(|platform| !platforms.insert(*platform)) {
                return Err(ParsePolicyError::Twice(format!("platform {platform}")));
            }
        }
        Ok(())
    }

    /// A value of a wrong size can never be equal, or, worse, could be compared in part.
    fn check_sizes(&self) -> Result<(), ParsePolicyError> {
        let mut sizes = Vec::new();
        for rule in self.sgx.iter().flat_map(|rules| &rules.accept) {
            sizes.extend(rule.mrenclave.iter().map(|value| ("sgx.accept.mrenclave", value, 32)));
            sizes.extend(rule.mrsigner.iter().map(|value| ("sgx.accept.mrsigner", value, 32)));
            let by_signer = (rule.mrsigner.is_some(), rule.product.is_some(), rule.min_svn.is_some());
            if rule.mrenclave.is_none() && by_signer != (true, true, true) {
                return Err(ParsePolicyError::Incomplete(
                    "sgx.accept",
                    "mrenclave, or mrsigner with product and min_svn",
                ));
            }
        }
        for rule in self.tdx.iter().flat_map(|rules| &rules.accept) {
            let named = [("mrtd", &rule.mrtd), ("rtmr0", &rule.rtmr0), ("rtmr1", &rule.rtmr1), ("rtmr2", &rule.rtmr2)];
            sizes.extend(named.map(|(_, value)| ("tdx.accept", value, 48)));
            sizes.extend(rule.rtmr3.iter().chain(&rule.mrseam).map(|value| ("tdx.accept", value, 48)));
        }
        for rule in self.snp.iter().flat_map(|rules| &rules.accept) {
            sizes.extend(rule.measurement.iter().map(|value| ("snp.accept.measurement", value, 48)));
            sizes.extend(rule.id_key.iter().map(|value| ("snp.accept.id_key", value, 48)));
            sizes.extend(rule.image_id.iter().map(|value| ("snp.accept.image_id", value, 16)));
            let by_signer = (rule.id_key.is_some(), rule.image_id.is_some(), rule.min_svn.is_some());
            if rule.measurement.is_none() && by_signer != (true, true, true) {
                return Err(ParsePolicyError::Incomplete(
                    "snp.accept",
                    "measurement, or id_key with image_id and min_svn",
                ));
            }
        }
        for rule in self.tpm.iter().flat_map(|rules| &rules.accept) {
            sizes.push(("tpm.accept.runtime", &rule.runtime, 32));
            sizes.extend(rule.registers.values().map(|value| ("tpm.accept.registers", value, 32)));
        }
        sizes.extend(
            self.sim.iter().flat_map(|rules| &rules.accept).map(|rule| ("sim.accept.runtime", &rule.runtime, 32)),
        );
        match sizes.into_iter().find(|(_, value, size)| value.0.len() != *size) {
            Some((place, value, size)) => Err(ParsePolicyError::Size { place, found: value.0.len(), expected: size }),
            None => Ok(()),
        }
    }
}

/// The longest policy, in bytes.
const MAX_POLICY: usize = 256 * 1024;

/// Why a text is not a policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParsePolicyError {
    /// Too long.
    #[error("{0} bytes are too many; a policy has at most {MAX_POLICY}")]
    TooLong(usize),
    /// Not TOML, or with other fields or types.
    #[error("the policy is not of the format")]
    Toml(#[from] toml::de::Error),
    /// Another version of the format.
    #[error("policy format {0} is unknown; this build reads format {FORMAT}")]
    Format(u32),
    /// A measurement of the wrong size.
    #[error("{place} has {found} bytes instead of {expected}")]
    Size {
        /// Which field.
        place: &'static str,
        /// Its size.
        found: usize,
        /// The right size.
        expected: usize,
    },
    /// Something that must belong to one provider.
    #[error("{0} is listed twice; it can belong to one provider only")]
    Twice(String),
    /// An entry that would accept more than it seems to.
    #[error("an entry of {0} is incomplete; it needs {1}")]
    Incomplete(&'static str, &'static str),
}
