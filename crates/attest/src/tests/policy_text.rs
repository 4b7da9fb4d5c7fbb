//! The text form of a policy, and what lint, explain and diff say of it.

use super::support::{self, OTHER, key, policy_text, sim_block};
use crate::diff::{Effect, diff};
use crate::explain::explain;
use crate::lint::{Severity, lint};
use crate::{ParsePolicyError, Policy, PolicyDocument, PolicyError};

fn parse(text: &str) -> PolicyDocument {
    PolicyDocument::parse(text).unwrap_or_else(|error| panic!("{error:?}\n{text}"))
}

#[test]
fn unknown_fields_and_wrong_types_are_refused_with_their_line() {
    let good = policy_text("sim", &sim_block());
    for (old, new) in [
        ("version = 3", "version = 3\nversoin = 4"),
        ("version = 3", "version = -3"),
        ("version = 3", "version = \"3\""),
        ("class_floor = \"sim\"", "class_floor = \"any\""),
        ("issued = 2026-01-01T00:00:00Z", "issued = 2026-01-01"),
        ("region = \"eu\"", "region = \"eu\"\ncolour = \"red\""),
        ("quorum = 1", "quorum = 1\nextra = 1"),
        ("[migration]", "[migration]\nanywhere = true"),
        ("format = 1", ""),
    ] {
        let text = good.replacen(old, new, 1);
        assert_ne!(text, good, "{old}");
        let error = PolicyDocument::parse(&text).expect_err(new);
        let ParsePolicyError::Toml(source) = &error else { panic!("{error:?}") };
        assert!(source.to_string().contains("line") || new.is_empty(), "{source}");
    }
    let outcome = PolicyDocument::parse(&good.replace("format = 1", "format = 2"));
    assert!(matches!(outcome, Err(ParsePolicyError::Format(2))), "{outcome:?}");
    assert!(matches!(PolicyDocument::parse(&" ".repeat(300_000)), Err(ParsePolicyError::TooLong(300_000))));
}

#[test]
fn values_of_wrong_sizes_are_refused() {
    for block in [
        "[sim]\naccept = [{ runtime = \"ab\" }]".to_owned(),
        format!("[sgx]\naccept = [{{ mrenclave = \"{}\" }}]", "ab".repeat(31)),
        format!("[snp]\nmin_tcb.Genoa = {{}}\naccept = [{{ measurement = \"{}\" }}]", "ab".repeat(32)),
        format!("[tpm]\naccept = [{{ runtime = \"{}\", registers = {{ pcr0 = \"ab\" }} }}]", "ab".repeat(32)),
    ] {
        let outcome = PolicyDocument::parse(&policy_text("sim", &block));
        assert!(matches!(outcome, Err(ParsePolicyError::Size { .. })), "{block}: {outcome:?}");
    }
    let block = format!("[snp]\nmin_tcb.Genoa = {{}}\naccept = [{{ id_key = \"{}\" }}]", "ab".repeat(48));
    assert!(matches!(PolicyDocument::parse(&policy_text("sim", &block)), Err(ParsePolicyError::Incomplete(..))));
}

fn errors(text: &str) -> Vec<String> {
    let findings = lint(&parse(text));
    findings.into_iter().filter(|finding| finding.severity == Severity::Error).map(|finding| finding.place).collect()
}

#[test]
fn lint_finds_contradictions_and_such_policies_are_not_signed() {
    let good = policy_text("sim", &sim_block());
    assert_eq!(errors(&good), Vec::<String>::new());
    let quorum = format!(
        "keys = [\"{}\", \"{}\"]\nquorum = 1",
        key(support::LEDGER).verifying_key(),
        key(OTHER).verifying_key()
    );
    let one_key = format!("keys = [\"{}\"]\nquorum = 1", key(support::LEDGER).verifying_key());
    for (old, new, place) in [
        ("expires = 2027-06-01T00:00:00Z", "expires = 2025-06-01T00:00:00Z", "expires"),
        ("class_floor = \"sim\"", "class_floor = \"hw_tee\"", "class_floor"),
        ("quorum = 1", "quorum = 2", "ledger.quorum"),
        ("quorum = 1", "quorum = 0", "ledger.quorum"),
        (one_key.as_str(), quorum.as_str(), "ledger.quorum"),
        ("[token]", "[token]\nmax_seconds = 301", "token.max_seconds"),
        ("[migration]", "[migration]\nproviders = [\"nobody\"]", "migration.providers"),
        ("[migration]", "[migration]\nregions = [\"mars\"]", "migration.regions"),
        ("[ledger]", "[recovery]\nkeys = []\nthreshold = 1\n[ledger]", "recovery.threshold"),
        ("[sim]", "[sgx]\n[sim]", "sgx"),
        ("[sim]", "[snp]\nmin_tcb.Rome = {}\n[sim]", "snp product \"Rome\""),
        ("[sim]", "[tdx.tcb]\nstatuses = [\"Revoked\"]\n[sim]", "tdx.tcb.statuses"),
    ] {
        let text = good.replacen(old, new, 1);
        assert_ne!(text, good, "{old}");
        assert!(errors(&text).contains(&place.to_owned()), "{new}: {:?}", errors(&text));
        assert!(matches!(Policy::sign(&text, &key(support::OWNER)), Err(PolicyError::Contradiction(_))), "{new}");
    }
    let modules = format!("modules = [\"sha256:{}\"]", support::module());
    assert!(errors(&good.replace(&modules, "modules = []")).contains(&"modules".to_owned()));
}

#[test]
fn lint_warns_of_what_weakens() {
    let warnings = |text: &str| {
        let findings = lint(&parse(text));
        findings
            .into_iter()
            .filter(|finding| finding.severity == Severity::Warning)
            .map(|f| f.place)
            .collect::<Vec<_>>()
    };
    let base = policy_text("sim", &sim_block());
    assert!(warnings(&base).contains(&"class_floor".to_owned()));
    let block = format!(
        "require_measured_policy = false\n[insecure]\nallow_debug = true\n[snp]\nmin_tcb.Milan = {{}}\ndeny_products = []\nrequire_alias_check = false\nallow_vlek = true\n[sgx.tcb]\nstatuses = [\"OutOfDate\"]\n{}",
        sim_block()
    );
    let found = warnings(&policy_text("sim", &block));
    for place in [
        "require_measured_policy",
        "insecure.allow_debug",
        "snp.min_tcb.Milan",
        "snp.require_alias_check",
        "snp.allow_vlek",
        "sgx.tcb.statuses",
        "recovery",
        "ledger.keys",
    ] {
        assert!(found.contains(&place.to_owned()), "{place}: {found:?}");
    }
}

#[test]
fn explain_says_what_is_accepted() {
    let block = format!(
        "[insecure]\nany_provider = true\n[snp]\nmin_tcb.Genoa = {{ snp = 23 }}\naccept = [{{ measurement = \"{}\" }}]\n{}",
        "ab".repeat(48),
        sim_block()
    );
    let text = explain(&parse(&policy_text("sim", &block))).join("\n");
    for part in [
        "SIMULATED platforms",
        "INSECURE: any_provider",
        "SEV-SNP on Genoa: reported, committed and launch TCB at least bootloader 0, tee 0, snp 23",
        "measurement abababababab…",
        "Provider acme in region eu: 1 listed machine(s), and those it signs",
        "1 of 1 members must sign",
        "Nobody can bring the service back",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn diff_says_in_which_direction_each_change_goes() {
    let block = |snp: u8, more: &str| {
        format!(
            "{more}\n[snp]\nmin_tcb.Genoa = {{ snp = {snp} }}\naccept = [{{ measurement = \"{}\" }}]\n",
            "ab".repeat(48)
        )
    };
    let old = parse(&policy_text("hw_tee", &block(23, "")));
    assert_eq!(diff(&old, &old).expect("diffs"), []);
    let changes = |new: &str| {
        let mut changes: Vec<_> =
            diff(&old, &parse(new)).expect("diffs").into_iter().map(|change| (change.place, change.effect)).collect();
        changes.sort_by(|a, b| a.0.cmp(&b.0));
        changes
    };
    let one = |place: &str, effect| vec![(place.to_owned(), effect)];
    let text = |floor: &str, snp: u8, more: &str| policy_text(floor, &block(snp, more));
    assert_eq!(changes(&text("sim", 23, "")), one("class_floor", Effect::Weaker));
    assert_eq!(changes(&text("hw_tee", 22, "")), one("snp.min_tcb.Genoa.snp", Effect::Weaker));
    assert_eq!(changes(&text("hw_tee", 24, "")), one("snp.min_tcb.Genoa.snp", Effect::Stricter));
    assert_eq!(
        changes(&text("hw_tee", 23, "require_measured_policy = false")),
        one("require_measured_policy", Effect::Weaker)
    );
    assert_eq!(
        changes(&text("hw_tee", 23, "revoked_platforms = [\"sim:laptop\"]")),
        one("revoked_platforms", Effect::Stricter)
    );
    assert_eq!(changes(&text("hw_tee", 23, "[insecure]\nallow_debug = true")), one("insecure", Effect::Weaker));
    assert_eq!(changes(&text("hw_tee", 23, &sim_block())), one("sim", Effect::Weaker));
    let other_ledger = text("hw_tee", 23, "").replace("ledger-1", "ledger-2");
    assert_eq!(changes(&other_ledger), one("ledger.id", Effect::Other));
    let regions = text("hw_tee", 23, "").replace("[migration]", "[migration]\nregions = [\"eu\"]");
    assert_eq!(changes(&regions), one("migration.regions", Effect::Stricter));
}
