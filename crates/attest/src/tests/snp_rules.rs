//! E9 and E11 to E19: reports under a self-made hierarchy, with one thing wrong at a time.

use super::amd::{self, Machine};
use super::samples;
use super::support::{self, as_if_bound, binding, context, policy_text, signed};
use crate::{
    AmdCollateral, AmdProduct, Appraisal, Class, Collateral, Endorsements, Policy, Rule, TrustRoots, UnboundClaims,
    Verifier, VerifyError,
};

fn inspect(machine: &Machine) -> Result<UnboundClaims, VerifyError> {
    let (evidence, endorsements) = machine.evidence();
    Verifier::inspect(&evidence, &endorsements, amd::NOW, &machine.roots())
}

fn refused(machine: &Machine) -> String {
    match inspect(machine) {
        Err(error) => format!("{error:?}"),
        Ok(claims) => panic!("accepted: {:?}", claims.claims()),
    }
}

/// A policy that accepts the machines of this file and nothing else. `more` goes into the SNP block.
fn policy(more: &str) -> Policy {
    let measurement = "ab".repeat(48);
    signed(&policy_text(
        "sim",
        &format!(
            "require_measured_policy = false\n[insecure]\nany_provider = true\n[snp]\naccept = [{{ measurement = \"{measurement}\" }}]\nmin_tcb.Genoa = {{ bootloader = 9, tee = 1, snp = 23, microcode = 72 }}\nmin_tcb.Turin = {{ microcode = 80 }}\n{more}"
        ),
    ))
}

fn appraise(claims: &UnboundClaims, policy: &Policy) -> Appraisal {
    let binding = binding(policy.hash());
    policy.appraise(&as_if_bound(claims, &binding), &context(&binding))
}

fn rules(machine: &Machine, more: &str) -> Vec<Rule> {
    let claims = inspect(machine).unwrap_or_else(|error| panic!("{error:?}"));
    appraise(&claims, &policy(more)).reasons().iter().map(|reason| reason.rule).collect()
}

#[test]
fn the_right_machines_are_accepted() {
    for machine in [Machine::genoa(), Machine::turin()] {
        let claims = inspect(&machine).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(claims.claims().class, Class::Sim);
        assert_eq!(rules(&machine, ""), []);
    }
}

/// Regression: a public library's chain check says yes to any self-signed root.
#[test]
fn e11_a_self_made_amd_hierarchy_is_refused() {
    for machine in [Machine::genoa(), Machine::turin()] {
        let (evidence, endorsements) = machine.evidence();
        let outcome = Verifier::inspect(&evidence, &endorsements, amd::NOW, &TrustRoots::vendor());
        assert!(matches!(outcome, Err(VerifyError::Signature { .. })), "{outcome:?}");
    }
}

#[test]
fn e12_the_intermediate_of_another_product_is_refused() {
    let sample = samples::snp();
    let Collateral::Amd(collateral) = sample.endorsements.collateral.clone() else { panic!("AMD") };
    for der in [
        include_bytes!("../../roots/amd/genoa-ask.der").to_vec(),
        include_bytes!("../../roots/amd/turin-ask.der").to_vec(),
        include_bytes!("../../roots/amd/milan-ark.der").to_vec(),
        amd::ask(AmdProduct::Milan),
    ] {
        let collateral = AmdCollateral { intermediate: Some(der), ..collateral.clone() };
        let endorsements = Endorsements { collateral: Collateral::Amd(collateral), statement: None };
        assert!(Verifier::inspect(&sample.evidence, &endorsements, sample.now, &TrustRoots::vendor()).is_err());
    }
}

#[test]
fn e13_the_certificate_of_another_chip_is_refused() {
    let mut machine = Machine::genoa();
    machine.hwid = vec![8; 64];
    assert!(refused(&machine).contains("it is for chip 0808"), "{}", refused(&machine));
    machine.hwid = vec![7; 63];
    refused(&machine);
    let mut turin = Machine::turin();
    turin.chip_id[63] = 1;
    refused(&turin);
    // A genuine certificate of a genuine chip, but not of the one that made the genuine report.
    let sample = samples::snp();
    let vek = samples::read("sev", "tests/certs_data/vcek_turin.der");
    let collateral = AmdCollateral { vek, intermediate: None, crl: None };
    let endorsements = Endorsements { collateral: Collateral::Amd(collateral), statement: None };
    let outcome = Verifier::inspect(&sample.evidence, &endorsements, sample.now, &TrustRoots::vendor());
    assert!(matches!(outcome, Err(VerifyError::Signature { what: "attestation report" })), "{outcome:?}");
}

#[test]
fn e13_a_masked_chip_id_is_refused() {
    let mut machine = Machine::genoa();
    machine.chip_id = [0; 64];
    machine.hwid = vec![0; 64];
    assert!(refused(&machine).contains("masks the chip id"));
}

#[test]
fn e14_a_certificate_for_another_tcb_is_refused() {
    for machine in [Machine::genoa(), Machine::turin()] {
        let parts = if machine.product == AmdProduct::Turin { 5 } else { 4 };
        for part in 0..parts {
            let mut wrong = machine.clone();
            wrong.certified[part] += 1;
            assert!(refused(&wrong).contains("the report says"), "part {part}");
        }
    }
}

#[test]
fn e15_debug_migration_agent_and_vmpl_are_refused() {
    let mut machine = Machine::genoa();
    machine.policy |= 1 << 19;
    assert_eq!(rules(&machine, ""), [Rule::Debug]);
    let mut machine = Machine::genoa();
    machine.policy |= 1 << 18;
    assert_eq!(rules(&machine, ""), [Rule::Migratable]);
    assert_eq!(rules(&machine, "allow_migration_agent = true\n"), []);
    let mut machine = Machine::genoa();
    machine.vmpl = 3;
    assert_eq!(rules(&machine, ""), [Rule::Vmpl]);
    assert_eq!(rules(&machine, "max_vmpl = 3\n"), []);
    let mut machine = Machine::genoa();
    machine.platform_info &= !(1 << 5);
    assert_eq!(rules(&machine, ""), [Rule::AliasCheck]);
    let mut machine = Machine::genoa();
    machine.platform_info |= 1;
    assert_eq!(rules(&machine, ""), [Rule::Smt]);
}

#[test]
fn e16_committed_or_launch_tcb_below_the_minimum_is_refused() {
    let old = [9, 1, 0, 0, 0, 0, 22, 72];
    let mut machine = Machine::genoa();
    machine.committed = old;
    assert_eq!(rules(&machine, ""), [Rule::CommittedTcb]);
    let mut machine = Machine::genoa();
    machine.launch = old;
    assert_eq!(rules(&machine, ""), [Rule::LaunchTcb]);
    let mut machine = Machine::genoa();
    machine.reported = old;
    machine.certified[2] = 22;
    assert_eq!(rules(&machine, ""), [Rule::ReportedTcb]);
}

#[test]
fn e17_reserved_bytes_that_are_not_zero_are_refused() {
    let mut checked = 0;
    for machine in [Machine::genoa(), Machine::turin()] {
        let late = if machine.version < 5 { 0x1f8..0x2a0 } else { 0x208..0x2a0 };
        let tcb_gap = if machine.product == AmdProduct::Turin { 4..7 } else { 2..6 };
        let in_tcbs = [0x38, 0x180, 0x1e0, 0x1f0].into_iter().flat_map(|at| tcb_gap.clone().map(move |gap| at + gap));
        let places = (0x4c..0x50).chain(0x18b..0x1a0).chain([0x1eb, 0x1ef]).chain(late).chain(in_tcbs);
        for at in places {
            let mut wrong = machine.clone();
            wrong.patches.push((at, 0x80));
            let error = refused(&wrong);
            assert!(error.contains("reserved bytes"), "byte {at:#x}: {error}");
            checked += 1;
        }
        // Reserved bits of fields: guest policy, platform information, key information.
        for (at, byte) in [(0x0b, 0x04), (0x0c, 1), (0x40, 0x62), (0x41, 1), (0x48, 0x20), (0x4b, 1), (0x0a, 0x01)] {
            let mut wrong = machine.clone();
            wrong.patches.push((at, byte));
            refused(&wrong);
        }
    }
    assert!(checked > 300, "{checked}");
    let mut old = Machine::genoa();
    old.version = 2;
    assert!(refused(&old).contains("CPUID before version 3"));
    for version in [0, 1, 4, 6, u32::MAX] {
        let mut unknown = Machine::genoa();
        unknown.version = version;
        assert!(refused(&unknown).contains("is unknown"), "version {version}");
    }
}

#[test]
fn e18_a_provider_key_report_is_refused_where_only_chip_keys_are_allowed() {
    let mut machine = Machine::genoa();
    machine.vlek = true;
    machine.vek_name = "SEV-VLEK";
    assert_eq!(rules(&machine, ""), [Rule::Vlek]);
    assert_eq!(rules(&machine, "allow_vlek = true\n"), []);
    // A certificate of one kind under a report of the other.
    machine.vek_name = "SEV-VCEK";
    assert!(refused(&machine).contains("SEV-VLEK"));
    let mut chip = Machine::genoa();
    chip.vek_name = "SEV-VLEK";
    assert!(refused(&chip).contains("SEV-VCEK"));
    // No key at all.
    chip.patches.push((0x48, 7 << 2));
    assert!(refused(&chip).contains("no chip or provider key"));
}

#[test]
fn e19_milan_is_denied_by_default() {
    let sample = samples::snp();
    let text = |deny: &str| {
        let blocks = format!(
            "require_measured_policy = false\n[insecure]\nany_measurement = true\nany_provider = true\n[snp]\nmin_tcb.Milan = {{ bootloader = 3, snp = 8, microcode = 115 }}\nrequire_alias_check = false\nallow_smt = true\n{deny}"
        );
        signed(&policy_text("hw_tee", &blocks))
    };
    let denied = appraise(&sample.inspect(), &text(""));
    assert_eq!(denied.reasons().iter().map(|reason| reason.rule).collect::<Vec<_>>(), [Rule::Product]);
    assert!(appraise(&sample.inspect(), &text("deny_products = []\n")).is_accepted());
    // A product line that the policy does not know is not accepted either.
    assert_eq!(rules(&Machine::turin(), "deny_products = [\"Turin\"]\n"), [Rule::Product]);
    let genuine = appraise(&sample.inspect(), &policy("deny_products = []\n"));
    assert!(genuine.breaks(Rule::Product));
}

#[test]
fn e09_a_revoked_intermediate_is_refused() {
    let mut machine = Machine::genoa();
    machine.revoked = Some(vec![3, 4]);
    let claims = inspect(&machine).unwrap_or_else(|error| panic!("{error:?}"));
    assert!(claims.claims().snp.as_ref().is_some_and(|snp| snp.crl_checked));
    machine.revoked = Some(vec![3, amd::ASK_SERIAL]);
    assert!(refused(&machine).contains("revoked"));
    // The list must be the root's, and of its time.
    machine.revoked = Some(Vec::new());
    let (evidence, endorsements) = machine.evidence();
    for now in [1_767_225_599, 1_798_761_601] {
        let outcome = Verifier::inspect(&evidence, &endorsements, now, &machine.roots());
        assert!(matches!(outcome, Err(VerifyError::NotValidNow { what: "revocation list", .. })), "{outcome:?}");
    }
    let Collateral::Amd(mut collateral) = endorsements.collateral else { panic!("AMD") };
    let mut forged = collateral.crl.take().expect("a list");
    *forged.last_mut().expect("bytes") ^= 1;
    collateral.crl = Some(forged);
    let endorsements = Endorsements { collateral: Collateral::Amd(collateral), statement: None };
    let outcome = Verifier::inspect(&evidence, &endorsements, amd::NOW, &machine.roots());
    assert!(matches!(outcome, Err(VerifyError::Signature { what: "revocation list" })), "{outcome:?}");
    assert_eq!(rules(&Machine::genoa(), "require_crl = true\n"), [Rule::RevocationList]);
}

#[test]
fn b12_unknown_critical_extensions_of_a_certificate_are_refused() {
    let mut machine = Machine::genoa();
    machine.extension = Some(("1.2.3.4", false));
    assert_eq!(rules(&machine, ""), []);
    machine.extension = Some(("1.2.3.4", true));
    assert!(refused(&machine).contains("unknown critical extension 1.2.3.4"));
    // Twice the same level: nobody knows which one counts.
    machine.extension = Some(("1.3.6.1.4.1.3704.1.3.1", false));
    assert!(refused(&machine).contains("no level of bootloader"), "{}", refused(&machine));
}

#[test]
fn e02_certificates_outside_their_dates_are_refused() {
    let machine = Machine::genoa();
    let (evidence, endorsements) = machine.evidence();
    // 2025-01-01 and 2030-01-01, from the certificate of the key.
    for (now, good) in [(1_735_689_599, false), (1_735_689_600, true), (1_893_456_000, true), (1_893_456_001, false)] {
        let outcome = Verifier::inspect(&evidence, &endorsements, now, &machine.roots());
        assert_eq!(outcome.is_ok(), good, "at {now}: {outcome:?}");
        assert!(good || matches!(outcome, Err(VerifyError::NotValidNow { what: "signing key", .. })));
    }
}

#[test]
fn a_cpu_of_another_product_is_refused() {
    let mut machine = Machine::genoa();
    machine.cpuid = [0x19, 0x01, 1];
    assert!(refused(&machine).contains("does not belong under the Genoa root"));
    let mut machine = Machine::genoa();
    machine.product_name = "Milan-B0";
    assert!(refused(&machine).contains("Milan-B0"));
}

#[test]
fn the_signer_of_an_image_is_accepted_from_a_version_on() {
    let mut machine = Machine::genoa();
    machine.id_key_digest = [0xcd; 48];
    let claims = inspect(&machine).unwrap_or_else(|error| panic!("{error:?}"));
    let accept = |key: &str, image: &str, svn: u64| {
        let blocks = format!(
            "require_measured_policy = false\n[insecure]\nany_provider = true\n[snp]\nmin_tcb.Genoa = {{}}\naccept = [{{ id_key = \"{}\", image_id = \"{}\", min_svn = {svn} }}]\n",
            key.repeat(48),
            image.repeat(16)
        );
        appraise(&claims, &signed(&policy_text("sim", &blocks))).is_accepted()
    };
    assert!(accept("cd", "1d", 7));
    assert!(!accept("cd", "1d", 8), "an older image");
    assert!(!accept("ce", "1d", 7), "another signer");
    assert!(!accept("cd", "1e", 7), "another image");
}

#[test]
fn the_policy_in_host_data_is_what_was_measured() {
    let wanted = support::sim_policy().hash();
    let mut machine = Machine::genoa();
    machine.host_data = wanted.0;
    let claims = inspect(&machine).unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(claims.claims().measured_policies, [wanted]);
}
