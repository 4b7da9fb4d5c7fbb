//! T4 to T7, T9 and T15, the verifier's half: quotes with one thing wrong at a time, and genuine quotes of a
//! software TPM.

use dunlin_base::Digest;

use super::support::{self, NOW, as_if_bound, binding, context, policy_text, signed};
use super::tpm::{Machine, Scheme};
use crate::{
    AppraisalContext, BindingContext, Claims, Class, Endorsements, Policy, Rule, TpmEvent, TpmEventKind, TrustRoots,
    Verifier, VerifyError,
};

fn policy() -> Policy {
    let pcr0 = Digest::of(&[0]);
    let blocks = format!(
        "require_measured_policy = false\n[tpm]\naccept = [{{ runtime = \"{}\", registers = {{ pcr0 = \"{pcr0}\" }} }}]\n",
        support::runtime()
    );
    signed(&policy_text("measured_host", &blocks))
}

fn session() -> BindingContext {
    binding(policy().hash())
}

fn appraise(machine: &Machine) -> Result<Claims, VerifyError> {
    let binding = session();
    let (evidence, endorsements) = machine.evidence(&binding);
    Verifier::appraise(&evidence, &endorsements, &binding.report_data(), NOW, &TrustRoots::for_policy(&policy()))
}

fn refused(change: impl FnOnce(&mut Machine)) -> String {
    let mut machine = Machine::new();
    change(&mut machine);
    match appraise(&machine) {
        Err(error) => format!("{error}: {error:?}"),
        Ok(claims) => panic!("accepted: {claims:?}"),
    }
}

#[test]
fn t01_a_quote_of_an_enrolled_key_is_accepted() {
    for scheme in [Scheme::Ecdsa, Scheme::RsaSsa, Scheme::RsaPss] {
        let mut machine = Machine::new();
        machine.scheme = scheme;
        let claims = appraise(&machine).unwrap_or_else(|error| panic!("{scheme:?}: {error:?}"));
        assert_eq!((claims.class, claims.provider.as_deref()), (Class::MeasuredHost, Some("acme")));
        assert_eq!(claims.platform, machine.platform());
        let binding = session();
        let appraisal = policy().appraise(&claims, &context(&binding));
        assert_eq!(appraisal.reasons(), []);
        assert!(appraisal.warnings().iter().any(|warning| warning.contains("MEASURED HOST")));
    }
}

#[test]
fn t01_test_roots_only_give_class_sim() {
    let binding = session();
    let (evidence, endorsements) = Machine::new().evidence(&binding);
    let claims = Verifier::appraise(&evidence, &endorsements, &binding.report_data(), NOW, &support::sim_roots())
        .expect("verifies");
    assert_eq!(claims.class, Class::Sim);
    assert!(policy().appraise(&claims, &context(&binding)).breaks(Rule::ClassFloor));
}

#[test]
fn t02_a_key_that_was_not_enrolled_is_refused() {
    assert!(refused(|machine| machine.enrolled_other_key = true).contains("enrolled is"));
    assert!(refused(|machine| machine.with_statement = false).contains("platform statement"));
    assert!(refused(|machine| machine.not_after = NOW - 1).contains("NotValidNow"));
}

#[test]
fn t03_a_statement_of_an_unknown_provider_is_refused() {
    assert!(refused(|machine| machine.statement_signer = support::key(support::OTHER)).contains("UnknownKey"));
    let binding = session();
    let (evidence, endorsements) = Machine::new().evidence(&binding);
    let outcome = Verifier::inspect(&evidence, &endorsements, NOW, &TrustRoots::vendor());
    assert!(matches!(outcome, Err(VerifyError::Statement(_))), "{outcome:?}");
}

#[test]
fn t04_a_key_that_signs_anything_is_refused() {
    for (bit, name) in
        [(1, "fixedTPM"), (4, "fixedParent"), (5, "sensitiveDataOrigin"), (16, "restricted"), (18, "sign")]
    {
        assert!(refused(|machine| machine.attributes &= !(1 << bit)).contains(name));
    }
    assert!(refused(|machine| machine.attributes |= 1 << 17).contains("decrypts"));
    assert!(refused(|machine| machine.magic = 0).contains("did not make"));
    assert!(refused(|machine| machine.kind = 0x8017).contains("is not a quote"));
}

#[test]
fn t05_other_qualifying_data_is_refused() {
    let expected = session().report_data();
    let full = expected.as_bytes().to_vec();
    let hash = expected.tpm_qualifying_data().to_vec();
    for wrong in [Vec::new(), vec![0; 32], hash[..31].to_vec(), [&hash[..], &[0]].concat(), full] {
        assert!(
            refused(|machine| machine.qualifying_data = Some(wrong.clone())).contains("ReportData"),
            "{wrong:02x?}"
        );
    }
}

#[test]
fn t06_another_selection_of_registers_is_refused() {
    let sha256 = 0x000b;
    for selections in [
        vec![(sha256, vec![0xff, 0, 0])],
        vec![(sha256, vec![0xff, 0x80, 1])],
        vec![(sha256, vec![0xff, 0x80])],
        vec![(sha256, vec![0xff, 0x80, 0, 0])],
        vec![(0x0004, vec![0xff, 0x80, 0])],
        vec![(sha256, vec![0xff, 0x80, 0]), (sha256, vec![0, 0, 0])],
        Vec::new(),
    ] {
        assert!(refused(|machine| machine.selections = selections.clone()).contains("must cover"), "{selections:x?}");
    }
}

#[test]
fn t07_an_event_log_that_does_not_lead_to_the_register_is_refused() {
    let events = Machine::new().events;
    for wrong in [
        Vec::new(),
        events[..2].to_vec(),
        [events[1], events[0], events[2]].to_vec(),
        [&events[..], &events[..1]].concat(),
        vec![events[0]; 5000],
    ] {
        assert!(refused(|machine| machine.claimed_events = Some(wrong.clone())).contains("event log"));
    }
    for pcr in 0..9 {
        let value = Digest::of(b"another value");
        assert!(
            refused(|machine| machine.claimed_register = Some((pcr, value))).contains("not those that were quoted")
        );
    }
}

#[test]
fn t07_two_runtimes_on_one_host_are_no_runtime() {
    let mut machine = Machine::new();
    machine.events.push(TpmEvent { kind: TpmEventKind::Runtime, digest: Digest::of(b"another runtime") });
    let claims = appraise(&machine).unwrap_or_else(|error| panic!("{error:?}"));
    assert!(!claims.registers.contains_key("runtime"));
    assert!(policy().appraise(&claims, &context(&session())).breaks(Rule::Measurement));
}

#[test]
fn t09_registers_that_software_can_reset_are_refused_by_lint() {
    for pcr in ["pcr16", "pcr23", "pcr8", "pcr15", "banana"] {
        let blocks = format!(
            "[tpm]\naccept = [{{ runtime = \"{0}\", registers = {{ {pcr} = \"{0}\" }} }}]\n",
            support::runtime()
        );
        let outcome = Policy::sign(&policy_text("measured_host", &blocks), &support::key(support::OWNER));
        assert!(matches!(outcome, Err(crate::PolicyError::Contradiction(_))), "{pcr}: {outcome:?}");
    }
}

#[test]
fn t15_counts_that_go_back_are_refused() {
    assert!(refused(|machine| machine.reset_count = 9).contains("rolled-back"));
    let machine = Machine::new();
    let claims = appraise(&machine).unwrap_or_else(|error| panic!("{error:?}"));
    let binding = session();
    let with = |seen| {
        let context = AppraisalContext { tpm_last_seen: Some(seen), ..context(&binding) };
        policy().appraise(&claims, &context).breaks(Rule::TpmRollback)
    };
    assert!(!with((12, 1)) && !with((11, 9)) && !with((0, 0)));
    assert!(with((12, 2)) && with((13, 0)));
}

#[test]
fn every_bit_flip_of_a_quote_is_refused() {
    let binding = session();
    let roots = TrustRoots::for_policy(&policy());
    let (evidence, endorsements) = Machine::new().evidence(&binding);
    let crate::Evidence::Tpm(quote) = &evidence else { panic!("TPM") };
    for part in 0..3 {
        let bytes = |quote: &crate::TpmQuote| [&quote.attest, &quote.ak_public, &quote.signature][part].clone();
        for at in 0..bytes(quote).len() {
            for bit in 0..8 {
                let mut changed = quote.clone();
                let target = [&mut changed.attest, &mut changed.ak_public, &mut changed.signature];
                for (index, target) in target.into_iter().enumerate() {
                    if index == part {
                        target[at] ^= 1 << bit;
                    }
                }
                let evidence = crate::Evidence::Tpm(changed);
                let outcome = Verifier::inspect(&evidence, &endorsements, NOW, &roots);
                assert!(outcome.is_err(), "part {part}, bit {bit} of byte {at}");
            }
        }
    }
}

/// Quotes that swtpm made, taken with tpm2-tools; `testdata/tpm/README.md` says how.
#[test]
fn genuine_quotes_of_a_software_tpm_verify() {
    for name in ["ecc", "rsa"] {
        let read = |part: &str| {
            let path = format!("{}/testdata/tpm/{name}.{part}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        // tpm2-tools writes public areas as TPM2B: a size and the area.
        let ak_public = read("ak.pub")[2..].to_vec();
        let pcrs: Vec<_> = read("pcrs").chunks(32).map(|pcr| Digest(pcr.try_into().expect("32 bytes"))).collect();
        let quote = crate::TpmQuote {
            attest: read("attest"),
            signature: read("signature"),
            pcrs: pcrs.try_into().expect("nine registers"),
            events: vec![
                TpmEvent { kind: TpmEventKind::Runtime, digest: support::runtime() },
                TpmEvent { kind: TpmEventKind::Policy, digest: Digest::of(b"policy") },
            ],
            ak_public,
        };
        let statement = crate::PlatformStatement {
            provider: "acme".to_owned(),
            platform: Machine::new().platform(),
            not_before: NOW,
            not_after: NOW,
            tpm: Some(crate::TpmEnrolment {
                ak_name: crate::Bytes(read("ak.name")),
                ek_certificate: Digest::of(b"EK certificate"),
                reset_count: 0,
            }),
        };
        let statement = Some(statement.sign(&support::key(support::PROVIDER)).expect("signs"));
        let endorsements = Endorsements { statement, ..Endorsements::default() };
        let evidence = crate::Evidence::Tpm(Box::new(quote));
        let claims = Verifier::inspect(&evidence, &endorsements, NOW, &TrustRoots::for_policy(&policy()))
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(claims.carried().0, [0x5a; 32]);
        assert_eq!(claims.claims().measured_policies, [Digest::of(b"policy")]);
        assert_eq!(claims.claims().registers["runtime"], crate::Bytes::from(support::runtime().0));
        let binding = session();
        let appraisal = policy().appraise(&as_if_bound(&claims, &binding), &context(&binding));
        let rules: Vec<_> = appraisal.reasons().iter().map(|reason| reason.rule).collect();
        assert_eq!(rules, [Rule::Measurement], "the registers of a software TPM are not those of the policy");
    }
}
