//! What is wrong or dangerous in a policy although it can be read.

use std::collections::BTreeSet;

use crate::claims::{Class, SnpTcb, TcbStatus, Technology};
use crate::cose::VerifyingKey;
use crate::policy::model::{IntelTcbRules, MAX_TOKEN_SECONDS, PolicyDocument, SnpRules};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Makes the policy weaker than it may seem.
    Warning,
    /// Contradicts itself or can never do what it says. Such a policy is not signed.
    Error,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where, as a path of field names.
    pub place: String,
    /// What, and what to do.
    pub text: String,
}

impl core::fmt::Display for Finding {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?} at {}: {}", self.severity, self.place, self.text)
    }
}

/// A policy that holds longer than this gets a warning: two years.
const LONG: u64 = 2 * 365 * 86_400;

/// All findings, the worst first.
pub fn lint(policy: &PolicyDocument) -> Vec<Finding> {
    let mut findings = Findings::default();
    findings.general(policy);
    findings.technologies(policy);
    findings.providers(policy);
    findings.authorities(policy);
    findings.0.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.place.cmp(&b.place)));
    findings.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, severity: Severity, place: &str, text: impl Into<String>) {
        self.0.push(Finding { severity, place: place.to_owned(), text: text.into() });
    }

    fn error_if(&mut self, wrong: bool, place: &str, text: &str) {
        if wrong {
            self.add(Severity::Error, place, text);
        }
    }

    fn warn_if(&mut self, wrong: bool, place: &str, text: &str) {
        if wrong {
            self.add(Severity::Warning, place, text);
        }
    }

    fn general(&mut self, policy: &PolicyDocument) {
        let (from, to) = (policy.issued.seconds(), policy.expires.seconds());
        self.error_if(to <= from, "expires", "the policy ends before it begins");
        self.warn_if(
            to.saturating_sub(from) > LONG,
            "expires",
            "it holds for more than two years; reference values age faster",
        );
        self.error_if(policy.service.is_empty(), "service", "the service has no name");
        self.error_if(policy.modules.is_empty(), "modules", "no module is listed, so nothing can run");
        self.warn_if(
            !policy.require_measured_policy,
            "require_measured_policy",
            "a host could start the runtime under another policy",
        );
        self.warn_if(
            policy.reattest_seconds > 86_400,
            "reattest_seconds",
            "a revoked value stays in use for more than a day",
        );
        self.error_if(policy.reattest_seconds == 0, "reattest_seconds", "instances would be appraised without pause");
        self.warn_if(
            policy.class_floor == Class::Sim,
            "class_floor",
            "simulated platforms are accepted; they prove nothing about the host",
        );
        self.warn_if(
            policy.class_floor == Class::MeasuredHost,
            "class_floor",
            "root on a measured host can read the service's memory",
        );
        for hole in policy.insecure.names() {
            self.add(Severity::Warning, &format!("insecure.{hole}"), "a deliberate hole; every token shows it");
        }
        let limit = policy.token.max_seconds;
        self.error_if(limit == 0, "token.max_seconds", "tokens would never be valid");
        self.error_if(limit > MAX_TOKEN_SECONDS, "token.max_seconds", "tokens live at most 300 seconds");
    }

    fn technologies(&mut self, policy: &PolicyDocument) {
        let blocks = [
            (Technology::Sgx, policy.sgx.as_ref().map(|rules| rules.accept.len())),
            (Technology::Tdx, policy.tdx.as_ref().map(|rules| rules.accept.len())),
            (Technology::Snp, policy.snp.as_ref().map(|rules| rules.accept.len())),
            (Technology::Tpm, policy.tpm.as_ref().map(|rules| rules.accept.len())),
            (Technology::Sim, policy.sim.as_ref().map(|rules| rules.accept.len())),
        ];
        let mut usable = false;
        for (technology, entries) in blocks {
            let Some(entries) = entries else { continue };
            let empty = entries == 0 && !policy.insecure.any_measurement;
            self.error_if(
                empty,
                technology.name(),
                "the block accepts no runtime; add an accept entry or remove the block",
            );
            let below = technology.class() < policy.class_floor;
            self.error_if(below, technology.name(), "the block can never be used: its class is below class_floor");
            usable |= !empty && !below;
        }
        self.error_if(!usable, "class_floor", "no block accepts anything at or above the floor");
        for (place, tcb) in [
            ("sgx.tcb", policy.sgx.as_ref().map(|rules| &rules.tcb)),
            ("tdx.tcb", policy.tdx.as_ref().map(|rules| &rules.tcb)),
        ] {
            if let Some(tcb) = tcb {
                self.intel(place, tcb);
            }
        }
        if let Some(rules) = &policy.snp {
            self.snp(rules);
        }
        for rule in policy.tdx.iter().flat_map(|rules| &rules.accept) {
            if rule.rtmr3.is_none() {
                self.add(Severity::Note, "tdx.accept.rtmr3", "what the system starts after boot is not compared");
            }
        }
        for rule in policy.tpm.iter().flat_map(|rules| &rules.accept) {
            self.warn_if(
                rule.registers.is_empty(),
                "tpm.accept.registers",
                "the boot chain is not compared, so any kernel may run the runtime",
            );
            for name in rule.registers.keys() {
                let place = format!("tpm.accept.registers.{name}");
                let number = name.strip_prefix("pcr").and_then(|number| number.parse::<u8>().ok());
                match number {
                    Some(0..=7) => {}
                    Some(16 | 23) => self.add(
                        Severity::Error,
                        &place,
                        "software can reset this register, so its value proves nothing",
                    ),
                    _ => self.add(
                        Severity::Error,
                        &place,
                        "quotes cover registers pcr0 to pcr7; runtime and policy come from the event log",
                    ),
                }
            }
        }
    }

    fn intel(&mut self, place: &str, tcb: &IntelTcbRules) {
        let at = |field: &str| format!("{place}.{field}");
        self.error_if(tcb.statuses.is_empty(), &at("statuses"), "no status is accepted");
        self.error_if(
            tcb.statuses.contains(&TcbStatus::Revoked),
            &at("statuses"),
            "revoked platforms are refused before any policy is asked",
        );
        let old =
            tcb.statuses.iter().any(|status| *status >= TcbStatus::TDRelaunchAdvised && *status < TcbStatus::Revoked);
        self.warn_if(old, &at("statuses"), "platforms with known holes are accepted; pair it with allow_advisories");
        self.warn_if(
            tcb.allow_dynamic_platform,
            &at("allow_dynamic_platform"),
            "packages can be added to the platform later",
        );
        self.warn_if(
            tcb.allow_cached_keys,
            &at("allow_cached_keys"),
            "the registration service keeps the platform's root keys",
        );
        if tcb.allow_smt {
            self.add(Severity::Note, &at("allow_smt"), "sibling threads share caches; side channels are easier");
        }
    }

    fn snp(&mut self, rules: &SnpRules) {
        let known = ["Milan", "Genoa", "Turin"];
        for name in rules.min_tcb.keys().chain(&rules.deny_products) {
            let place = format!("snp product {name:?}");
            self.error_if(
                !known.contains(&name.as_str()),
                &place,
                "unknown product line; known are Milan, Genoa and Turin",
            );
        }
        self.error_if(
            rules.min_tcb.is_empty(),
            "snp.min_tcb",
            "no product line has a minimum TCB, so none is accepted",
        );
        for (name, minimum) in &rules.min_tcb {
            let place = format!("snp.min_tcb.{name}");
            self.warn_if(*minimum == SnpTcb::default(), &place, "every firmware is accepted, also with known holes");
            let denied = rules.deny_products.contains(name);
            self.warn_if(denied, &place, "the product line is in deny_products as well, so it is not accepted");
            self.warn_if(
                name == "Milan" && !denied,
                &place,
                "the root secret of Milan's key derivation is known to have leaked",
            );
        }
        self.warn_if(
            !rules.require_alias_check,
            "snp.require_alias_check",
            "memory modules that lie about their size are not noticed",
        );
        self.warn_if(rules.allow_vlek, "snp.allow_vlek", "the key is the provider's, not the chip's");
        self.warn_if(
            rules.allow_migration_agent,
            "snp.allow_migration_agent",
            "the host's agent can move the guest without this policy",
        );
        self.warn_if(rules.max_vmpl > 0, "snp.max_vmpl", "less privileged software in the guest can ask for reports");
        self.error_if(rules.max_vmpl > 3, "snp.max_vmpl", "there are four levels, 0 to 3");
    }

    fn providers(&mut self, policy: &PolicyDocument) {
        let none = policy.providers.is_empty() && !policy.insecure.any_provider;
        self.error_if(none, "provider", "no provider is listed, so no machine is accepted");
        for provider in &policy.providers {
            let place = format!("provider.{}", provider.id);
            let unused = provider.platforms.is_empty() && !provider.accept_signed_platforms;
            self.warn_if(unused, &place, "none of its machines is accepted; list some or set accept_signed_platforms");
            if provider.accept_signed_platforms {
                self.add(Severity::Note, &place, "it can add machines by itself, with signed statements");
            }
        }
        let ids: BTreeSet<_> = policy.providers.iter().map(|provider| provider.id.as_str()).collect();
        for id in policy.migration.providers.iter().flatten() {
            let unknown = !ids.contains(id.as_str());
            self.error_if(unknown, "migration.providers", &format!("{id:?} is not among the providers"));
        }
        let regions: BTreeSet<_> = policy.providers.iter().map(|provider| provider.region.as_str()).collect();
        for region in policy.migration.regions.iter().flatten() {
            let unknown = !regions.contains(region.as_str());
            self.error_if(unknown, "migration.regions", &format!("no provider is in region {region:?}"));
        }
    }

    fn authorities(&mut self, policy: &PolicyDocument) {
        let ledger = &policy.ledger;
        self.error_if(ledger.id.is_empty(), "ledger.id", "the ledger has no name");
        self.twice("ledger.keys", &ledger.keys);
        self.error_if(ledger.quorum > ledger.keys.len(), "ledger.quorum", "more members must sign than there are");
        let split = ledger.quorum * 2 <= ledger.keys.len();
        self.error_if(
            split,
            "ledger.quorum",
            "two quorums without a common member are possible; more than half must sign",
        );
        self.warn_if(
            ledger.keys.len() == 1,
            "ledger.keys",
            "one member alone decides, and can fork or lose the service",
        );
        match &policy.broker {
            None => self.add(Severity::Note, "broker", "there is none: the embedded one in control is used"),
            Some(broker) => {
                self.error_if(
                    broker.keys.is_empty(),
                    "broker.keys",
                    "the broker has no key, so it cannot be recognised",
                );
                self.twice("broker.keys", &broker.keys);
            }
        }
        match &policy.recovery {
            None => self.add(
                Severity::Warning,
                "recovery",
                "nobody can bring the service back when its last instance is lost",
            ),
            Some(recovery) => {
                self.twice("recovery.keys", &recovery.keys);
                let (threshold, keys) = (recovery.threshold, recovery.keys.len());
                self.error_if(
                    threshold == 0 || threshold > keys,
                    "recovery.threshold",
                    "it must be from 1 to the number of keys",
                );
                self.warn_if(threshold == 1, "recovery.threshold", "one key alone can take the service over");
            }
        }
        self.twice("token.verifiers", &policy.token.verifiers);
    }

    fn twice(&mut self, place: &str, keys: &[VerifyingKey]) {
        let distinct: BTreeSet<_> = keys.iter().collect();
        self.error_if(distinct.len() < keys.len(), place, "a key is listed twice and would count twice");
    }
}
