//! A policy in plain sentences, for the person who signs it.

use crate::bytes::Bytes;
use crate::claims::Class;
use crate::policy::model::{DestinationRule, IntelTcbRules, PolicyDocument};

/// What the policy accepts, one sentence in each line.
pub fn explain(policy: &PolicyDocument) -> Vec<String> {
    let mut lines = vec![format!(
        "Version {} of the policy for service {:?} applies from {} to {}.",
        policy.version, policy.service, policy.issued, policy.expires
    )];
    lines.push(
        match policy.class_floor {
            Class::HwTee => "Only hardware TEEs are accepted: the host cannot read memory, side channels left out.",
            Class::MeasuredHost => {
                "Hosts with a measured boot and hardware TEEs are accepted. Root on a measured host can read memory."
            }
            Class::Sim => "Everything is accepted, also SIMULATED platforms, which prove nothing.",
        }
        .to_owned(),
    );
    for hole in policy.insecure.names() {
        lines.push(format!("INSECURE: {hole} is on. Tokens show it."));
    }
    lines.push(format!("{} WebAssembly module(s) may run as this service.", policy.modules.len()));
    if policy.require_measured_policy {
        lines.push("The platform must have measured this very policy before the runtime started.".to_owned());
    }
    technologies(policy, &mut lines);
    for provider in &policy.providers {
        let more = if provider.accept_signed_platforms { ", and those it signs a statement for" } else { "" };
        let region = if provider.region.is_empty() { String::new() } else { format!(" in region {}", provider.region) };
        lines.push(format!("Provider {}{region}: {} listed machine(s){more}.", provider.id, provider.platforms.len()));
    }
    if !policy.revoked_platforms.is_empty() {
        lines.push(format!("{} machine(s) are revoked, whoever has them.", policy.revoked_platforms.len()));
    }
    lines.push(
        match policy.migration.destination {
            DestinationRule::AtLeastSource => {
                "Instances move only to machines that are at least as strong as the one they leave."
            }
            DestinationRule::AnyAccepted => "Instances move to any machine that this policy accepts.",
            DestinationRule::None => "Instances do not move.",
        }
        .to_owned(),
    );
    if let Some(providers) = &policy.migration.providers {
        lines.push(format!("They move to these providers only: {}.", providers.join(", ")));
    }
    if let Some(regions) = &policy.migration.regions {
        lines.push(format!("They move to these regions only: {}.", regions.join(", ")));
    }
    let ledger = &policy.ledger;
    lines.push(format!(
        "Ledger {:?} decides who owns the service; {} of {} members must sign.",
        ledger.id,
        ledger.quorum,
        ledger.keys.len()
    ));
    match &policy.recovery {
        Some(recovery) => lines.push(format!(
            "{} of {} recovery keys together can bring the service back.",
            recovery.threshold,
            recovery.keys.len()
        )),
        None => lines.push("Nobody can bring the service back when its last instance is lost.".to_owned()),
    }
    lines.push(format!(
        "Running instances are appraised again every {} seconds; tokens live at most {} seconds.",
        policy.reattest_seconds, policy.token.max_seconds
    ));
    lines
}

fn technologies(policy: &PolicyDocument, lines: &mut Vec<String>) {
    if let Some(rules) = &policy.sgx {
        lines.push(format!("SGX: {}.", intel(&rules.tcb)));
        for rule in &rules.accept {
            let mut parts = Vec::new();
            parts.extend(rule.mrenclave.as_ref().map(|value| format!("measurement {}", short(value))));
            parts.extend(rule.mrsigner.as_ref().map(|value| format!("signer {}", short(value))));
            parts.extend(rule.product.map(|product| format!("product {product}")));
            parts.extend(rule.min_svn.map(|svn| format!("version {svn} or later")));
            lines.push(format!("SGX enclave with {}.", parts.join(", ")));
        }
    }
    if let Some(rules) = &policy.tdx {
        lines.push(format!("TDX: {}.", intel(&rules.tcb)));
        for rule in &rules.accept {
            lines.push(format!(
                "TDX domain with MRTD {} and firmware, kernel and file system as listed.",
                short(&rule.mrtd)
            ));
        }
    }
    if let Some(rules) = &policy.snp {
        for (product, minimum) in &rules.min_tcb {
            let denied = rules.deny_products.iter().any(|other| other.eq_ignore_ascii_case(product));
            let denied = if denied { " (but the product line is denied)" } else { "" };
            lines.push(format!("SEV-SNP on {product}{denied}: reported, committed and launch TCB at least {minimum}."));
        }
        for rule in &rules.accept {
            let mut parts = Vec::new();
            parts.extend(rule.measurement.as_ref().map(|value| format!("measurement {}", short(value))));
            parts.extend(rule.id_key.as_ref().map(|value| format!("id key {}", short(value))));
            parts.extend(rule.image_id.as_ref().map(|value| format!("image {}", short(value))));
            parts.extend(rule.min_svn.map(|svn| format!("version {svn} or later")));
            lines.push(format!("SEV-SNP guest with {}.", parts.join(", ")));
        }
    }
    for rule in policy.tpm.iter().flat_map(|rules| &rules.accept) {
        let registers = rule.registers.keys().cloned().collect::<Vec<_>>().join(", ");
        lines.push(format!("Measured host with runtime {} and registers {registers} as listed.", short(&rule.runtime)));
    }
    for rule in policy.sim.iter().flat_map(|rules| &rules.accept) {
        lines.push(format!("SIMULATED platform with runtime {}.", short(&rule.runtime)));
    }
}

fn intel(tcb: &IntelTcbRules) -> String {
    let statuses = tcb.statuses.iter().map(|status| format!("{status:?}")).collect::<Vec<_>>().join(" or ");
    let mut text = format!("status {statuses}");
    if let Some(date) = &tcb.min_date {
        text += &format!(", TCB level of {date} or later");
    }
    if !tcb.deny_advisories.is_empty() {
        text += &format!(", none of {}", tcb.deny_advisories.join(", "));
    }
    if let Some(allowed) = &tcb.allow_advisories {
        text += &format!(", no advisories but {}", allowed.join(", "));
    }
    text
}

fn short(value: &Bytes) -> String {
    let text = value.to_string();
    text.get(..12).map_or(text.clone(), |head| format!("{head}…"))
}
