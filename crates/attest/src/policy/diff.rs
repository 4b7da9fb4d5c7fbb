//! What changes from one policy to the next, and in which direction.

use std::collections::BTreeSet;

use toml::Value;

use crate::policy::model::PolicyDocument;

/// In which direction a change goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// More is accepted than before.
    Weaker,
    /// Less is accepted than before.
    Stricter,
    /// Others are trusted, or it depends.
    Other,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where, as a path of field names.
    pub place: String,
    /// What it was, if it was.
    pub old: Option<String>,
    /// What it is, if it is.
    pub new: Option<String>,
    /// In which direction it goes.
    pub effect: Effect,
}

impl core::fmt::Display for Change {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { place, old, new, effect } = self;
        let none = "(none)".to_owned();
        write!(f, "{effect:?} {place}: {} -> {}", old.as_ref().unwrap_or(&none), new.as_ref().unwrap_or(&none))
    }
}

/// All changes, in the order of their places. Defaults that are not written count as their values.
///
/// # Errors
///
/// When a policy cannot be written as TOML.
pub fn diff(old: &PolicyDocument, new: &PolicyDocument) -> Result<Vec<Change>, toml::ser::Error> {
    let mut changes = Vec::new();
    compare("", Some(&Value::try_from(old)?), Some(&Value::try_from(new)?), &mut changes);
    Ok(changes)
}

fn compare(place: &str, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Some(Value::Table(before)), Some(Value::Table(after))) => {
            for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
                let place = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
                compare(&place, before.get(name), after.get(name), changes);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            // The order of entries means nothing in any field of a policy.
            for gone in before.iter().filter(|entry| !after.contains(entry)) {
                changes.push(change(place, Some(gone), None));
            }
            for come in after.iter().filter(|entry| !before.contains(entry)) {
                changes.push(change(place, None, Some(come)));
            }
        }
        _ => changes.push(change(place, old, new)),
    }
}

fn change(place: &str, old: Option<&Value>, new: Option<&Value>) -> Change {
    let text = |value: &Value| value.to_string().trim().replace('\n', "; ");
    Change { place: place.to_owned(), old: old.map(text), new: new.map(text), effect: effect(place, old, new) }
}

fn effect(place: &str, old: Option<&Value>, new: Option<&Value>) -> Effect {
    let (block, field) = place.rsplit_once('.').unwrap_or(("", place));
    let opposite = |weaker: bool| if weaker { Effect::Weaker } else { Effect::Stricter };
    let strength = |value: Option<&Value>| match value.and_then(Value::as_str) {
        Some("hw_tee" | "none") => 2,
        Some("measured_host" | "at_least_source") => 1,
        _ => 0,
    };
    let on = |value: Option<&Value>| value.and_then(Value::as_bool).unwrap_or(false);
    let number = |value: Option<&Value>| match value {
        Some(Value::Integer(number)) => Some(*number),
        Some(Value::Datetime(at)) => crate::time::unix_seconds(at).and_then(|seconds| i64::try_from(seconds).ok()),
        _ => None,
    };
    match field {
        "class_floor" | "destination" => opposite(strength(new) < strength(old)),
        "sgx" | "tdx" | "snp" | "tpm" | "sim" if block.is_empty() => opposite(new.is_some()),
        "accept" | "modules" | "provider" | "statuses" => opposite(new.is_some()),
        "deny_advisories" | "deny_products" | "revoked_platforms" => opposite(new.is_none()),
        // Lists that, when they are there, limit what is accepted.
        "allow_advisories" | "providers" | "regions" => match (old, new) {
            (None, Some(Value::Array(_))) => Effect::Stricter,
            (Some(Value::Array(_)), None) => Effect::Weaker,
            _ => opposite(new.is_some()),
        },
        "require_measured_policy" | "require_alias_check" | "require_crl" => opposite(!on(new)),
        _ if field.starts_with("allow_") || block == "insecure" => opposite(on(new)),
        "insecure" => opposite(new.is_some()),
        "reattest_seconds" | "max_seconds" | "max_vmpl" | "expires" => opposite(number(new) > number(old)),
        "min_date" | "min_evaluation" => opposite(number(new) < number(old)),
        // A product line that loses its minimum is not accepted any more.
        _ if block.ends_with("snp.min_tcb") => opposite(new.is_some()),
        _ if block.contains("snp.min_tcb") => opposite(number(new) < number(old)),
        _ => Effect::Other,
    }
}
