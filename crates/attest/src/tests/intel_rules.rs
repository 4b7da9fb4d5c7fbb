//! E8, E9, E11, E15, E20 to E23 and E25: quotes under a self-made hierarchy, with one thing wrong at a time, and
//! what a policy says of the genuine samples.

use super::intel::{self, Machine};
use super::samples;
use super::support::{as_if_bound, binding, context, policy_text, signed};
use crate::{Class, Evidence, Flag, Policy, Rule, TrustRoots, UnboundClaims, Verifier, VerifyError};

fn inspect(machine: &Machine) -> Result<UnboundClaims, VerifyError> {
    let (evidence, endorsements) = machine.evidence();
    Verifier::inspect(&evidence, &endorsements, intel::NOW, &machine.roots())
}

/// Everything that an error and its sources say.
fn refused(machine: &Machine) -> String {
    let error = inspect(machine).expect_err("must be refused");
    format!("{error}: {error:?}")
}

fn policy(floor: &str, tcb: &str) -> Policy {
    let blocks = format!(
        "require_measured_policy = false\n[insecure]\nany_measurement = true\nany_provider = true\n[sgx.tcb]\n{tcb}\n[tdx.tcb]\n{tcb}\n"
    );
    signed(&policy_text(floor, &blocks))
}

fn rules(claims: &UnboundClaims, policy: &Policy) -> Vec<Rule> {
    let binding = binding(policy.hash());
    let appraisal = policy.appraise(&as_if_bound(claims, &binding), &context(&binding));
    appraisal.reasons().iter().map(|reason| reason.rule).collect()
}

fn claims(machine: &Machine) -> UnboundClaims {
    inspect(machine).unwrap_or_else(|error| panic!("{error:?}"))
}

#[test]
fn the_right_machines_are_accepted() {
    for machine in [Machine::sgx(), Machine::tdx()] {
        let claims = claims(&machine);
        assert_eq!(claims.claims().class, Class::Sim);
        assert_eq!(rules(&claims, &policy("sim", "")), []);
    }
}

/// Lengths that fit on the outside and leave bytes over on the inside.
#[test]
fn e06_bytes_left_inside_nested_parts_are_refused() {
    for machine in [Machine::sgx(), Machine::tdx()] {
        for slack in [[1, 0], [0, 1], [70, 0], [0, 70]] {
            let error = refused(&Machine { slack, ..machine.clone() });
            assert!(error.contains("bytes are left inside"), "{slack:?}: {error}");
        }
    }
}

#[test]
fn e08_expired_and_future_tcb_info_is_refused() {
    for machine in [Machine::sgx(), Machine::tdx()] {
        let expired =
            Machine { issued: "2026-04-01T00:00:00Z", next_update: "2026-05-31T23:59:59Z", ..machine.clone() };
        assert!(refused(&expired).contains("expired"), "{}", refused(&expired));
        let future = Machine { issued: "2026-06-01T00:00:01Z", next_update: "2026-07-01T00:00:00Z", ..machine.clone() };
        assert!(refused(&future).contains("in the future"), "{}", refused(&future));
        // The last second that is good.
        let last = Machine { issued: "2026-04-01T00:00:00Z", next_update: "2026-06-01T00:00:00Z", ..machine };
        assert_eq!(claims(&last).claims().expires, Some(intel::NOW));
    }
}

/// Nothing in a genuine quote ages, so only its collateral can say that it is too late or too early.
#[test]
fn e08_genuine_quotes_with_old_or_future_collateral_are_refused() {
    for sample in [samples::sgx(), samples::tdx(), samples::td15ex()] {
        for now in [sample.now - 90 * 86_400, sample.now + 90 * 86_400, 0, u64::MAX] {
            let outcome = Verifier::inspect(&sample.evidence, &sample.endorsements, now, &TrustRoots::vendor());
            assert!(outcome.is_err(), "{} at {now}", sample.name);
        }
    }
}

/// Evidence that was verified in time is not accepted any more once its collateral has ended.
#[test]
fn e08_claims_end_with_their_collateral() {
    let sample = samples::td15ex();
    let policy = policy("hw_tee", "allow_dynamic_platform = true\nallow_cached_keys = true\nallow_smt = true");
    let binding = binding(policy.hash());
    let claims = crate::Claims::of_test(sample.inspect().claims().clone(), binding.report_data());
    let end = claims.expires.expect("an end");
    for (now, expected) in [(sample.now, vec![]), (end, vec![]), (end + 1, vec![Rule::ClaimsExpired])] {
        let context = crate::AppraisalContext { now, ..context(&binding) };
        let rules: Vec<_> = policy.appraise(&claims, &context).reasons().iter().map(|reason| reason.rule).collect();
        assert_eq!(rules, expected, "at {now}");
    }
}

#[test]
fn e09_a_revoked_platform_certificate_is_refused() {
    for machine in [Machine::sgx(), Machine::tdx()] {
        let revoked = Machine { revoke_pck: true, ..machine };
        assert!(refused(&revoked).contains("CertRevoked"), "{}", refused(&revoked));
    }
}

#[test]
fn e11_a_self_made_intel_hierarchy_is_refused() {
    for machine in [Machine::sgx(), Machine::tdx()] {
        let (evidence, endorsements) = machine.evidence();
        let outcome = Verifier::inspect(&evidence, &endorsements, intel::NOW, &TrustRoots::vendor());
        assert!(matches!(outcome, Err(VerifyError::Dcap { .. })), "{outcome:?}");
    }
}

#[test]
fn e20_debug_is_refused() {
    let debug = Machine { td_attributes: [1, 0, 0, 0x10, 0, 0, 0, 0], ..Machine::tdx() };
    assert!(refused(&debug).contains("Debug mode"), "{}", refused(&debug));
    let profiling = Machine { td_attributes: [0x10, 0, 0, 0x10, 0, 0, 0, 0], ..Machine::tdx() };
    refused(&profiling);
    let migratable = Machine { td_attributes: [0, 0, 0, 0x30, 0, 0, 0, 0], ..Machine::tdx() };
    refused(&migratable);
    let pages = Machine { td_attributes: [0; 8], ..Machine::tdx() };
    assert!(refused(&pages).contains("SEPT_VE_DISABLE"));
    let reserved = Machine { td_attributes: [0, 0, 0, 0x10, 1, 0, 0, 0], ..Machine::tdx() };
    refused(&reserved);
    let debug = Machine { sgx_attributes: 0x07, ..Machine::sgx() };
    assert!(refused(&debug).contains("Debug mode"), "{}", refused(&debug));
    let not_initialised = Machine { sgx_attributes: 0x04, ..Machine::sgx() };
    assert!(refused(&not_initialised).contains("not initialised"));
}

#[test]
fn e20_another_tdx_module_is_refused() {
    let machine = Machine { seam_signer: 1, ..Machine::tdx() };
    assert!(refused(&machine).contains("MRSIGNER mismatch"), "{}", refused(&machine));
}

#[test]
fn e21_a_status_that_the_policy_does_not_accept_is_refused() {
    let sample = samples::sgx().inspect();
    assert_eq!(rules(&sample, &policy("hw_tee", "")), [Rule::TcbStatus]);
    let lax = "statuses = [\"UpToDate\", \"ConfigurationAndSWHardeningNeeded\"]";
    assert_eq!(rules(&sample, &policy("hw_tee", lax)), []);
    for status in ["OutOfDate", "SWHardeningNeeded", "ConfigurationNeeded", "OutOfDateConfigurationNeeded"] {
        let machine = Machine { status, ..Machine::tdx() };
        assert_eq!(rules(&claims(&machine), &policy("sim", "")), [Rule::TcbStatus], "{status}");
    }
    let revoked = Machine { status: "Revoked", ..Machine::tdx() };
    assert!(refused(&revoked).contains("Revoked"));
}

#[test]
fn e22_a_denied_advisory_is_refused() {
    let statuses = "statuses = [\"ConfigurationAndSWHardeningNeeded\"]";
    let sample = samples::sgx().inspect();
    let with = |rule: &str| rules(&sample, &policy("hw_tee", &format!("{statuses}\n{rule}")));
    assert_eq!(with("deny_advisories = [\"intel-sa-00615\"]"), [Rule::Advisory]);
    assert_eq!(with("allow_advisories = [\"INTEL-SA-00289\"]"), [Rule::Advisory]);
    assert_eq!(with("allow_advisories = []"), [Rule::Advisory, Rule::Advisory]);
    assert_eq!(with("allow_advisories = [\"INTEL-SA-00289\", \"INTEL-SA-00615\"]"), []);
    assert_eq!(with("deny_advisories = [\"INTEL-SA-99999\"]"), []);
    let machine = Machine { advisories: &["INTEL-SA-01234"], ..Machine::tdx() };
    assert_eq!(rules(&claims(&machine), &policy("sim", "deny_advisories = [\"INTEL-SA-01234\"]")), [Rule::Advisory]);
}

#[test]
fn e23_platform_flags_are_refused() {
    let sample = samples::tdx().inspect();
    let tcb = sample.claims().tcb.clone().expect("TCB claims");
    assert_eq!(tcb.dynamic_platform, Flag::Yes);
    assert!(rules(&sample, &policy("hw_tee", "")).contains(&Rule::DynamicPlatform));
    let lax = "allow_dynamic_platform = true\nallow_cached_keys = true\nallow_smt = true";
    assert_eq!(rules(&sample, &policy("hw_tee", lax)), []);
    let machine = Machine { dynamic: true, ..Machine::tdx() };
    assert_eq!(rules(&claims(&machine), &policy("sim", "")), [Rule::DynamicPlatform]);
    let machine = Machine { cached: true, ..Machine::tdx() };
    assert_eq!(rules(&claims(&machine), &policy("sim", "")), [Rule::CachedKeys]);
    let machine = Machine { smt: true, ..Machine::tdx() };
    assert_eq!(rules(&claims(&machine), &policy("sim", "")), [Rule::Smt]);
}

/// CVE-2026-22696: the quoting enclave's identity was not verified, so any enclave could quote.
#[test]
fn e25_another_quoting_enclave_is_refused() {
    for machine in [Machine::sgx(), Machine::tdx()] {
        let other = Machine { qe_signer: 0x78, ..machine.clone() };
        assert!(refused(&other).contains("QE MRSIGNER mismatch"), "{}", refused(&other));
        let unsigned = Machine { qe_signer: 0x78, identity_signer: 0x78, identity_signed: false, ..machine.clone() };
        assert!(refused(&unsigned).contains("Signature is invalid for qe_identity"), "{}", refused(&unsigned));
        let wrong_kind = Machine { identity_id: Some(if machine.tdx { "QE" } else { "TD_QE" }), ..machine };
        assert!(refused(&wrong_kind).contains("Unsupported QE Identity"), "{}", refused(&wrong_kind));
    }
}

#[test]
fn e25_the_identity_of_genuine_collateral_cannot_be_changed() {
    let sample = samples::sgx();
    let crate::Collateral::Intel(json) = &sample.endorsements.collateral else { panic!("Intel") };
    let text = String::from_utf8(json.clone()).expect("text");
    // One digit of the signer in the identity document.
    let at = text.find("mrsigner").expect("a signer") + 20;
    let mut changed = text.into_bytes();
    changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
    let endorsements = crate::Endorsements { collateral: crate::Collateral::Intel(changed), statement: None };
    let outcome = Verifier::inspect(&sample.evidence, &endorsements, sample.now, &TrustRoots::vendor());
    let error = format!("{:?}", outcome.expect_err("must be refused"));
    assert!(error.contains("Signature is invalid for qe_identity"), "{error}");
}

#[test]
fn old_tcb_levels_and_data_sets_are_refused() {
    let machine = claims(&Machine::tdx());
    assert_eq!(rules(&machine, &policy("sim", "min_date = 2026-02-11T00:00:00Z\nmin_evaluation = 18")), []);
    assert_eq!(rules(&machine, &policy("sim", "min_date = 2026-02-11T00:00:01Z")), [Rule::TcbDate]);
    assert_eq!(rules(&machine, &policy("sim", "min_evaluation = 19")), [Rule::TcbEvaluation]);
}

#[test]
fn a_platform_without_an_id_is_refused() {
    let machine = Machine { ppid: [0; 16], ..Machine::tdx() };
    assert!(refused(&machine).contains("no usable platform provisioning id"));
}

#[test]
fn measurements_and_signers_are_compared() {
    let accept = |block: &str, machine: &Machine| {
        let blocks = format!("require_measured_policy = false\n[insecure]\nany_provider = true\n{block}");
        rules(&claims(machine), &signed(&policy_text("sim", &blocks)))
    };
    let sgx = |rule: &str| accept(&format!("[sgx]\naccept = [{{ {rule} }}]"), &Machine::sgx());
    let (measurement, signer) = ("ee".repeat(32), "dd".repeat(32));
    assert_eq!(sgx(&format!("mrenclave = \"{measurement}\"")), []);
    assert_eq!(sgx(&format!("mrenclave = \"{signer}\"")), [Rule::Measurement]);
    assert_eq!(sgx(&format!("mrsigner = \"{signer}\", product = 1, min_svn = 4")), []);
    assert_eq!(sgx(&format!("mrsigner = \"{signer}\", product = 2, min_svn = 4")), [Rule::Measurement]);
    assert_eq!(sgx(&format!("mrsigner = \"{signer}\", product = 1, min_svn = 5")), [Rule::Measurement]);
    let tdx = |mrtd: &str, rtmr2: &str| {
        let [mrtd, rtmr0, rtmr1, rtmr2] = [mrtd, "10", "11", rtmr2].map(|byte| byte.repeat(48));
        let rule = format!(r#"mrtd = "{mrtd}", rtmr0 = "{rtmr0}", rtmr1 = "{rtmr1}", rtmr2 = "{rtmr2}""#);
        accept(&format!("[tdx]\naccept = [{{ {rule} }}]"), &Machine::tdx())
    };
    assert_eq!(tdx("01", "12"), []);
    assert_eq!(tdx("02", "12"), [Rule::Measurement]);
    assert_eq!(tdx("01", "13"), [Rule::Measurement]);
}

/// The bytes of one Intel technology inside the frame of the other.
#[test]
fn e26_sgx_and_tdx_quotes_do_not_pass_for_each_other() {
    let (evidence, endorsements) = Machine::tdx().evidence();
    let Evidence::Tdx(mut quote) = evidence else { panic!("TDX") };
    for (version, tee) in [(3u8, 0u8), (4, 0), (5, 0), (3, 0x81), (5, 0x81)] {
        (quote[0], quote[4]) = (version, tee);
        for evidence in [Evidence::Sgx(quote.clone()), Evidence::Tdx(quote.clone())] {
            let outcome = Verifier::inspect(&evidence, &endorsements, intel::NOW, &Machine::tdx().roots());
            assert!(outcome.is_err(), "version {version}, type {tee:#x}");
        }
    }
}
