//! The attack list. Each test carries the number of its item.

mod amd;
mod binding;
mod der;
mod genuine;
mod intel;
mod intel_rules;
mod labels;
mod policy;
mod policy_text;
mod samples;
mod snp_rules;
mod support;
mod tokens;
mod tpm;
mod tpm_rules;
