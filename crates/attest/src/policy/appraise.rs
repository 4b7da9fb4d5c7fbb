//! What a policy says of claims: a total function that denies by default and gives every reason.

use crate::binding::{BindingContext, Role};
use crate::bytes::Bytes;
use crate::claims::{ClaimSet, Claims, Class, Flag, SnpClaims, TcbClaims, Technology, UnboundClaims};
use crate::policy::appraisal::{Appraisal, Reason, Rule, Tier, TrustVector};
use crate::policy::model::{DestinationRule, IntelTcbRules, PolicyDocument, Provider, SnpRules};
use crate::policy::sign::Policy;
use crate::time::Utc;

/// What the relying party knows about the session and the service.
#[derive(Debug, Clone, Copy)]
pub struct AppraisalContext<'a> {
    /// Seconds since 1970.
    pub now: u64,
    /// The context to which the evidence had to be bound.
    pub binding: &'a BindingContext,
    /// The role in which the other side may appear here.
    pub role: Role,
    /// For a destination: the claims of the source.
    pub source: Option<&'a Claims>,
    /// The highest reset and restart counts that were seen of this machine's TPM.
    pub tpm_last_seen: Option<(u32, u32)>,
}

impl Policy {
    /// What this policy says of claims: always an answer, denial by default, every reason at once.
    pub fn appraise(&self, claims: &Claims, context: &AppraisalContext<'_>) -> Appraisal {
        let mut check = Check::new(self.document(), claims);
        check.binding(self, claims, context);
        check.everything(context.now, self);
        check.provider(Some(&context.binding.provider));
        check.tpm_history(context.tpm_last_seen);
        if context.role == Role::Destination {
            check.destination(context.source);
        }
        check.finish(self, context.now, Some(context.binding.clone()))
    }

    /// What this policy would say of evidence whose session is over. It never accepts, because evidence
    /// without a session proves nothing about anybody who is there now; the other reasons are complete.
    pub fn preview(&self, claims: &UnboundClaims, now: u64) -> Appraisal {
        let mut check = Check::new(self.document(), claims.claims());
        check.deny(Rule::NotBound, "the evidence was not compared with a session; this is a preview");
        check.everything(now, self);
        check.provider(None);
        check.finish(self, now, None)
    }
}

struct Check<'a> {
    policy: &'a PolicyDocument,
    claims: &'a ClaimSet,
    reasons: Vec<Reason>,
    found_provider: Option<&'a Provider>,
}

impl<'a> Check<'a> {
    fn new(policy: &'a PolicyDocument, claims: &'a ClaimSet) -> Self {
        let listed = |provider: &&Provider| provider.platforms.contains(&claims.platform);
        let signed = |provider: &&Provider| {
            provider.accept_signed_platforms
                && claims.provider.as_deref() == Some(provider.id.as_str())
                && claims.provider_key == Some(provider.key)
        };
        let found_provider = policy.providers.iter().find(listed).or_else(|| policy.providers.iter().find(signed));
        Self { policy, claims, reasons: Vec::new(), found_provider }
    }

    fn deny(&mut self, rule: Rule, detail: impl Into<String>) {
        self.reasons.push(Reason { rule, detail: detail.into() });
    }

    fn binding(&mut self, policy: &Policy, claims: &Claims, context: &AppraisalContext<'_>) {
        let binding = context.binding;
        if *claims.report_data() != binding.report_data() {
            self.deny(Rule::OtherBinding, "the claims come from evidence for another context than this session's");
        }
        if binding.role != context.role {
            let (found, wanted) = (binding.role.name(), context.role.name());
            self.deny(Rule::Role, format!("the context is for role {found}, only {wanted} may appear here"));
        }
        if binding.service != self.policy.service {
            let (found, wanted) = (&binding.service, &self.policy.service);
            self.deny(Rule::Service, format!("the context is for service {found:?}, the policy for {wanted:?}"));
        }
        if binding.policy != policy.hash() {
            let (found, wanted) = (binding.policy, policy.hash());
            self.deny(Rule::OtherPolicy, format!("the context names policy {found}, this is {wanted}"));
        }
        if binding.ledger != self.policy.ledger.id {
            let (found, wanted) = (&binding.ledger, &self.policy.ledger.id);
            self.deny(Rule::Ledger, format!("the context names ledger {found:?}, the policy {wanted:?}"));
        }
        if binding.exporter == [0; 32] || binding.peer_nonce == [0; 32] || binding.kem_key.is_zero() {
            self.deny(
                Rule::DegenerateBinding,
                "the context has an all-zero exporter or nonce, or no key to encrypt to",
            );
        }
        if !self.policy.permits(&binding.module) {
            self.deny(Rule::Module, format!("module {} is not among the policy's modules", binding.module));
        }
    }

    /// Everything that depends on the claims, the policy and the time alone.
    fn everything(&mut self, now: u64, policy: &Policy) {
        let (from, to) = (self.policy.issued.seconds(), self.policy.expires.seconds());
        if now < from || now > to {
            let (issued, expires) = (self.policy.issued, self.policy.expires);
            self.deny(Rule::PolicyTime, format!("the policy applies from {issued} to {expires}; now is {}", Utc(now)));
        }
        if let Some(expires) = self.claims.expires.filter(|expires| now > *expires) {
            self.deny(Rule::ClaimsExpired, format!("what was verified ended at {}; now is {}", Utc(expires), Utc(now)));
        }
        let (class, floor) = (self.claims.class, self.policy.class_floor);
        if class < floor {
            self.deny(Rule::ClassFloor, format!("class {class} is below the floor {floor}"));
        }
        if self.claims.debug && !self.policy.insecure.allow_debug {
            self.deny(Rule::Debug, "debugging is on, so the host can read everything");
        }
        if self.policy.require_measured_policy && !self.claims.measured_policies.contains(&policy.hash()) {
            let detail = format!("the platform did not measure policy {} for the runtime", policy.hash());
            self.deny(Rule::MeasuredPolicy, detail);
        }
        if self.policy.revoked_platforms.contains(&self.claims.platform) {
            self.deny(Rule::RevokedPlatform, format!("{} is revoked", self.claims.platform));
        }
        self.provider_key();
        self.technology();
    }

    fn technology(&mut self) {
        let technology = self.claims.technology;
        let policy = self.policy;
        let migration_agent = policy.snp.as_ref().is_some_and(|rules| rules.allow_migration_agent);
        if self.claims.migratable && !(technology == Technology::Snp && migration_agent) {
            self.deny(Rule::Migratable, "the host may ask firmware to migrate the TEE");
        }
        let accepted = match technology {
            Technology::Sgx => policy.sgx.as_ref().map(|rules| {
                self.intel(&rules.tcb);
                rules.accept.iter().any(|rule| {
                    let exact = rule.mrenclave.as_ref().is_none_or(|value| self.register("mrenclave", value));
                    let product = rule.product.is_none_or(|product| self.signer(|signer| signer.product == product));
                    let signer = rule.mrsigner.as_ref().is_none_or(|key| self.signer(|signer| signer.signer == *key));
                    let svn = rule.min_svn.is_none_or(|svn| self.signer(|signer| signer.svn >= svn));
                    exact && product && signer && svn
                })
            }),
            Technology::Tdx => policy.tdx.as_ref().map(|rules| {
                self.intel(&rules.tcb);
                rules.accept.iter().any(|rule| {
                    let optional = [("rtmr3", &rule.rtmr3), ("mrseam", &rule.mrseam)];
                    let optional = optional.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
                    [("mrtd", &rule.mrtd), ("rtmr0", &rule.rtmr0), ("rtmr1", &rule.rtmr1), ("rtmr2", &rule.rtmr2)]
                        .into_iter()
                        .chain(optional)
                        .all(|(name, value)| self.register(name, value))
                })
            }),
            Technology::Snp => policy.snp.as_ref().map(|rules| {
                self.snp(rules);
                let claims = self.claims.snp.as_ref();
                rules.accept.iter().any(|rule| {
                    let exact = rule.measurement.as_ref().is_none_or(|value| self.register("measurement", value));
                    let signer = rule.id_key.as_ref().is_none_or(|key| self.signer(|signer| signer.signer == *key));
                    let image = rule.image_id.as_ref().is_none_or(|id| claims.is_some_and(|snp| snp.image_id == *id));
                    let svn = rule.min_svn.is_none_or(|svn| self.signer(|signer| signer.svn >= svn));
                    exact && signer && image && svn
                })
            }),
            Technology::Tpm => policy.tpm.as_ref().map(|rules| {
                if self.claims.tpm.is_none() {
                    self.deny(Rule::Incomplete, "the claims say nothing of the TPM's state");
                }
                rules.accept.iter().any(|rule| {
                    self.register("runtime", &rule.runtime)
                        && rule.registers.iter().all(|(name, value)| self.register(name, value))
                })
            }),
            Technology::Sim => {
                policy.sim.as_ref().map(|rules| rules.accept.iter().any(|rule| self.register("runtime", &rule.runtime)))
            }
        };
        match accepted {
            None => self.deny(Rule::Technology, format!("the policy has no [{technology}] block, so it accepts none")),
            Some(false) if !policy.insecure.any_measurement => {
                let registers = self.claims.registers.iter().map(|(name, value)| format!("{name}={value}"));
                let found = registers.collect::<Vec<_>>().join(", ");
                self.deny(Rule::Measurement, format!("no [[{technology}.accept]] entry accepts this runtime: {found}"));
            }
            Some(_) => {}
        }
    }

    fn register(&self, name: &str, wanted: &Bytes) -> bool {
        self.claims.registers.get(name) == Some(wanted)
    }

    fn signer(&self, wanted: impl Fn(&crate::claims::SignerClaims) -> bool) -> bool {
        self.claims.signer.as_ref().is_some_and(wanted)
    }

    fn intel(&mut self, rules: &IntelTcbRules) {
        let Some(tcb) = &self.claims.tcb else {
            return self.deny(Rule::Incomplete, "the claims say nothing of the TCB");
        };
        let TcbClaims { status, advisories, date, evaluation, current_status, .. } = tcb;
        for (name, status) in [("TCB", Some(*status)), ("current TCB", *current_status)] {
            if let Some(status) = status.filter(|status| !rules.statuses.contains(status)) {
                let accepted = &rules.statuses;
                self.deny(Rule::TcbStatus, format!("{name} status {status:?} is not among {accepted:?}"));
            }
        }
        for advisory in advisories {
            let same = |other: &String| other.eq_ignore_ascii_case(advisory);
            if rules.deny_advisories.iter().any(same) {
                self.deny(Rule::Advisory, format!("{advisory} is denied"));
            }
            if rules.allow_advisories.as_ref().is_some_and(|allowed| !allowed.iter().any(same)) {
                self.deny(Rule::Advisory, format!("{advisory} is not among the advisories allowed"));
            }
        }
        if let Some(min) = rules.min_date.filter(|min| *date < min.seconds()) {
            self.deny(Rule::TcbDate, format!("the TCB level is of {}, the oldest accepted is of {min}", Utc(*date)));
        }
        if *evaluation < rules.min_evaluation {
            let min = rules.min_evaluation;
            self.deny(Rule::TcbEvaluation, format!("TCB evaluation data number {evaluation} is below {min}"));
        }
        // Certificates for single packages do not carry the flags: there is nothing to add or to cache.
        let flags = [
            (tcb.dynamic_platform, rules.allow_dynamic_platform, Rule::DynamicPlatform, "packages can be added"),
            (
                tcb.cached_keys,
                rules.allow_cached_keys,
                Rule::CachedKeys,
                "the registration service keeps its root keys",
            ),
            (tcb.smt, rules.allow_smt, Rule::Smt, "SMT is on"),
        ];
        for (flag, allowed, rule, what) in flags {
            if flag == Flag::Yes && !allowed {
                self.deny(rule, format!("platform flag: {what}"));
            }
        }
    }

    fn snp(&mut self, rules: &SnpRules) {
        let Some(snp) = &self.claims.snp else {
            return self.deny(Rule::Incomplete, "the claims say nothing of the SNP platform");
        };
        let SnpClaims { product, tcb, vmpl, vlek, alias_check, smt, crl_checked, .. } = snp;
        let same = |other: &String| other.eq_ignore_ascii_case(product);
        if rules.deny_products.iter().any(same) {
            self.deny(Rule::Product, format!("product line {product} is denied"));
        }
        match rules.min_tcb.get(product) {
            None => {
                self.deny(Rule::Product, format!("product line {product} has no minimum TCB, so it is not accepted"))
            }
            Some(minimum) => {
                let tcbs = [
                    (Rule::ReportedTcb, "reported", &tcb.reported),
                    (Rule::CommittedTcb, "committed", &tcb.committed),
                    (Rule::LaunchTcb, "launch", &tcb.launch),
                ];
                for (rule, name, tcb) in tcbs {
                    let below = tcb.below(minimum);
                    if !below.is_empty() {
                        let below = below.join(", ");
                        self.deny(rule, format!("{name} TCB ({tcb}) is below ({minimum}) in {below}"));
                    }
                }
            }
        }
        if *vmpl > rules.max_vmpl {
            let max = rules.max_vmpl;
            self.deny(Rule::Vmpl, format!("the report was asked for at VMPL {vmpl}, at most {max} is accepted"));
        }
        let switches = [
            (*vlek && !rules.allow_vlek, Rule::Vlek, "the report is signed with a provider's loaded key"),
            (
                !alias_check && rules.require_alias_check,
                Rule::AliasCheck,
                "the firmware did not check memory for aliases",
            ),
            (!crl_checked && rules.require_crl, Rule::RevocationList, "no revocation list of the root was handed in"),
            (*smt && !rules.allow_smt, Rule::Smt, "SMT is on"),
        ];
        for (wrong, rule, what) in switches {
            if wrong {
                self.deny(rule, what);
            }
        }
    }

    /// Whose machine it is. `session` is the provider that the session's context names.
    fn provider(&mut self, session: Option<&str>) {
        let found = self.found_provider.map(|provider| provider.id.as_str());
        if found.is_none() && !self.policy.insecure.any_provider {
            let platform = &self.claims.platform;
            self.deny(Rule::Provider, format!("no provider of the policy has {platform}"));
        }
        let said = [("the platform statement", self.claims.provider.as_deref()), ("the session", session)];
        for (who, said) in said {
            if let (Some(found), Some(said)) = (found, said)
                && found != said
            {
                self.deny(Rule::OtherProvider, format!("the machine is of provider {found:?}, {who} says {said:?}"));
            }
        }
    }

    /// A statement that was checked under the roots of another policy bears a key of that policy.
    fn provider_key(&mut self) {
        let said = self.claims.provider_key;
        if let (Some(found), Some(said)) = (self.found_provider.map(|provider| provider.key), said)
            && found != said
        {
            self.deny(Rule::OtherProvider, format!("the platform statement is signed with {said}, not with {found}"));
        }
    }

    fn tpm_history(&mut self, last_seen: Option<(u32, u32)>) {
        let (Some(tpm), Some(last)) = (&self.claims.tpm, last_seen) else { return };
        let now = (tpm.reset_count, tpm.restart_count);
        if now < last {
            let detail = format!("reset and restart counts {now:?} are below {last:?}, which were seen before");
            self.deny(Rule::TpmRollback, detail);
        }
    }

    fn destination(&mut self, source: Option<&Claims>) {
        let rules = &self.policy.migration;
        match rules.destination {
            DestinationRule::None => self.deny(Rule::Destination, "the policy does not let instances move"),
            DestinationRule::AnyAccepted => {}
            DestinationRule::AtLeastSource => match source {
                None => {
                    self.deny(Rule::WeakerThanSource, "the source's claims are unknown, so nothing can be compared")
                }
                Some(source) => self.not_weaker_than(source),
            },
        }
        let id = self.found_provider.map(|provider| provider.id.as_str()).unwrap_or_default();
        if rules.providers.as_ref().is_some_and(|allowed| !allowed.iter().any(|other| other == id)) {
            self.deny(Rule::Destination, format!("instances may not move to provider {id:?}"));
        }
        let region = self.found_provider.map(|provider| provider.region.as_str()).unwrap_or_default();
        if rules.regions.as_ref().is_some_and(|allowed| !allowed.iter().any(|other| other == region)) {
            self.deny(Rule::Destination, format!("instances may not move to region {region:?}"));
        }
    }

    fn not_weaker_than(&mut self, source: &ClaimSet) {
        let claims = self.claims;
        if claims.class < source.class {
            let (to, from) = (claims.class, source.class);
            self.deny(Rule::WeakerThanSource, format!("the destination is of class {to}, the source of class {from}"));
        }
        if claims.technology != source.technology {
            return;
        }
        if let (Some(to), Some(from)) = (&claims.tcb, &source.tcb)
            && to.status > from.status
        {
            let (to, from) = (to.status, from.status);
            self.deny(Rule::WeakerThanSource, format!("the destination's TCB is {to:?}, the source's {from:?}"));
        }
        if let (Some(to), Some(from)) = (&claims.snp, &source.snp)
            && to.product == from.product
        {
            let below = to.tcb.committed.below(&from.tcb.committed);
            if !below.is_empty() {
                let below = below.join(", ");
                self.deny(
                    Rule::WeakerThanSource,
                    format!("the destination's committed TCB is below the source's in {below}"),
                );
            }
        }
    }

    fn finish(self, policy: &Policy, now: u64, binding: Option<BindingContext>) -> Appraisal {
        let vector = self.vector();
        let insecure = self.policy.insecure.names();
        let mut warnings: Vec<_> = self.claims.label.iter().cloned().collect();
        if self.claims.class == Class::MeasuredHost {
            warnings.push("MEASURED HOST: root on the machine can read the service's memory".to_owned());
        }
        warnings.extend(insecure.iter().map(|hole| format!("INSECURE POLICY: {hole} is on")));
        Appraisal {
            vector,
            warnings,
            insecure,
            class: self.claims.class,
            technology: self.claims.technology,
            platform: self.claims.platform.clone(),
            provider: self.found_provider.map(|provider| provider.id.clone()),
            binding,
            policy_hash: policy.hash(),
            policy_version: self.policy.version,
            now,
            expires: self.claims.expires.unwrap_or(u64::MAX).min(self.policy.expires.seconds()),
            max_token_seconds: self.policy.token.max_seconds,
            reasons: self.reasons,
        }
    }

    fn vector(&self) -> TrustVector {
        let (claims, holes) = (self.claims, self.policy.insecure);
        let hardware = claims.class == Class::HwTee;
        let current = claims.tcb.as_ref().is_none_or(|tcb| tcb.status == crate::claims::TcbStatus::UpToDate);
        let warn_if = |warn: bool| if warn { Tier::Warning } else { Tier::Affirming };
        let mut vector = TrustVector {
            instance_identity: warn_if(holes.any_provider || claims.class == Class::Sim),
            configuration: warn_if(!self.policy.require_measured_policy),
            executables: warn_if(holes.any_measurement),
            hardware: warn_if(!hardware || !current),
            runtime_opaque: warn_if(!hardware || holes.allow_debug),
        };
        for reason in &self.reasons {
            use Rule::*;
            let part = match reason.rule {
                Provider | OtherProvider | RevokedPlatform => &mut vector.instance_identity,
                NotBound | OtherBinding | Role | Service | OtherPolicy | Ledger | DegenerateBinding | PolicyTime
                | MeasuredPolicy | Destination | WeakerThanSource => &mut vector.configuration,
                Module | Measurement => &mut vector.executables,
                ClaimsExpired | ClassFloor | Technology | Incomplete | TcbStatus | Advisory | TcbDate
                | TcbEvaluation | DynamicPlatform | CachedKeys | Smt | ReportedTcb | CommittedTcb | LaunchTcb
                | Product | AliasCheck | RevocationList | Vlek | TpmRollback => &mut vector.hardware,
                Debug | Migratable | Vmpl => &mut vector.runtime_opaque,
            };
            *part = Tier::Contraindicated;
        }
        vector
    }
}
