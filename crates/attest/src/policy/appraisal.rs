//! The outcome of an appraisal: reasons, trust tiers, and what a token about it needs.

use crate::binding::BindingContext;
use crate::claims::{Class, Technology};
use crate::platform::PlatformId;

/// The rule that claims break. The names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The evidence was not bound to a session at all.
    NotBound,
    /// The claims were bound to another context.
    OtherBinding,
    /// The context has another role than may appear here.
    Role,
    /// The context is for another service.
    Service,
    /// The context names another policy.
    OtherPolicy,
    /// The context names another ledger.
    Ledger,
    /// The context has an all-zero exporter or nonce, or no key to encrypt to.
    DegenerateBinding,
    /// The policy does not apply yet, or not any more.
    PolicyTime,
    /// Something that the verification relied on has ended since.
    ClaimsExpired,
    /// The module is not listed.
    Module,
    /// The class is below the floor.
    ClassFloor,
    /// The technology has no block.
    Technology,
    /// The host may look into the TEE.
    Debug,
    /// The host may migrate the TEE.
    Migratable,
    /// No entry accepts the runtime.
    Measurement,
    /// The platform did not measure this policy.
    MeasuredPolicy,
    /// No listed provider has this machine.
    Provider,
    /// The machine, or the session, names another provider.
    OtherProvider,
    /// The machine is revoked.
    RevokedPlatform,
    /// The claims lack what the technology must say.
    Incomplete,
    /// Intel's status is not accepted.
    TcbStatus,
    /// An advisory is denied, or not among those allowed.
    Advisory,
    /// The TCB level is too old.
    TcbDate,
    /// The TCB evaluation data set is too old.
    TcbEvaluation,
    /// Packages can be added to the platform.
    DynamicPlatform,
    /// The registration service keeps the platform's root keys.
    CachedKeys,
    /// SMT is on.
    Smt,
    /// The reported TCB is below the minimum.
    ReportedTcb,
    /// The committed TCB is below the minimum.
    CommittedTcb,
    /// The launch TCB is below the minimum.
    LaunchTcb,
    /// The product line is not accepted.
    Product,
    /// The report was asked for at a lower privilege level.
    Vmpl,
    /// Memory was not checked for aliases.
    AliasCheck,
    /// No revocation list was checked.
    RevocationList,
    /// The report is signed with a provider's loaded key.
    Vlek,
    /// The TPM's counts went back.
    TpmRollback,
    /// Instances do not move, or not to this provider or region.
    Destination,
    /// The destination is weaker than the source, or the source is unknown.
    WeakerThanSource,
}

/// One reason against claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The rule.
    pub rule: Rule,
    /// What was found, what was wanted, and what to do.
    pub detail: String,
}

impl core::fmt::Display for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.detail)
    }
}

/// A tier of AR4SI, the vocabulary of attestation results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Nothing is said.
    None,
    /// Good.
    Affirming,
    /// Usable, with something a relying party should know.
    Warning,
    /// Bad.
    Contraindicated,
}

impl Tier {
    /// The number in tokens.
    pub fn number(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Affirming => 2,
            Self::Warning => 32,
            Self::Contraindicated => 96,
        }
    }

    pub(crate) fn of_number(number: u64) -> Option<Self> {
        [Self::None, Self::Affirming, Self::Warning, Self::Contraindicated].into_iter().find(|t| t.number() == number)
    }
}

/// The parts of AR4SI's trustworthiness vector of which this crate says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustVector {
    /// Which machine, and whose.
    pub instance_identity: Tier,
    /// Policy and session.
    pub configuration: Tier,
    /// Runtime and module.
    pub executables: Tier,
    /// The platform's TCB.
    pub hardware: Tier,
    /// Whether memory is hidden from the host.
    pub runtime_opaque: Tier,
}

impl TrustVector {
    /// The parts with their numbers in tokens.
    pub fn parts(&self) -> [(u64, Tier); 5] {
        [
            (0, self.instance_identity),
            (1, self.configuration),
            (2, self.executables),
            (4, self.hardware),
            (5, self.runtime_opaque),
        ]
    }

    /// The worst tier.
    pub fn status(&self) -> Tier {
        self.parts().into_iter().map(|(_, tier)| tier).max().unwrap_or(Tier::Contraindicated)
    }
}

/// The outcome. Only [`crate::Policy::appraise`] makes one that accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appraisal {
    pub(crate) reasons: Vec<Reason>,
    pub(crate) vector: TrustVector,
    pub(crate) warnings: Vec<String>,
    pub(crate) insecure: Vec<&'static str>,
    pub(crate) class: Class,
    pub(crate) technology: Technology,
    pub(crate) platform: PlatformId,
    pub(crate) provider: Option<String>,
    pub(crate) binding: Option<BindingContext>,
    pub(crate) policy_hash: dunlin_base::Digest,
    pub(crate) policy_version: u64,
    pub(crate) now: u64,
    pub(crate) expires: u64,
    pub(crate) max_token_seconds: u64,
}

impl Appraisal {
    /// Whether the policy accepts. There is no reason against it then.
    pub fn is_accepted(&self) -> bool {
        self.reasons.is_empty()
    }

    /// All reasons against the claims.
    pub fn reasons(&self) -> &[Reason] {
        &self.reasons
    }

    /// Whether a certain rule is broken.
    pub fn breaks(&self, rule: Rule) -> bool {
        self.reasons.iter().any(|reason| reason.rule == rule)
    }

    /// What a person should know although the claims may be accepted.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The trustworthiness vector.
    pub fn vector(&self) -> TrustVector {
        self.vector
    }

    /// The class of the claims.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The provider that has the machine.
    pub fn provider(&self) -> Option<&str> {
        self.provider.as_deref()
    }
}
