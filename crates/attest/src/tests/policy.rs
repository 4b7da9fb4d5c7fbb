//! P1 to P9.

use std::collections::BTreeMap;

use dunlin_base::Digest;
use rsa::rand_core::Rng as _;

use super::amd::{self, Bytes as Random};
use super::samples;
use super::support::{
    self, NOW, OTHER, OWNER, PROVIDER, as_if_bound, binding, context, key, policy_text, signed, sim_block, sim_claims,
    sim_policy,
};
use crate::*;

fn rules(appraisal: &Appraisal) -> Vec<Rule> {
    appraisal.reasons().iter().map(|reason| reason.rule).collect()
}

#[test]
fn p1_simulated_evidence_is_refused_by_every_higher_floor() {
    for floor in ["measured_host", "hw_tee"] {
        let policy = signed(&policy_text(floor, &sim_block()));
        let binding = binding(policy.hash());
        let appraisal = policy.appraise(&sim_claims(&binding), &context(&binding));
        assert_eq!(rules(&appraisal), [Rule::ClassFloor], "{floor}");
    }
    // Also with every hole open, and in a vendor's format.
    let holes =
        "[insecure]\nany_measurement = true\nany_provider = true\nallow_debug = true\n[snp]\nmin_tcb.Genoa = {}\n";
    let policy =
        signed(&policy_text("measured_host", &format!("require_measured_policy = false\n{holes}{}", sim_block())));
    let binding = binding(policy.hash());
    assert!(policy.appraise(&sim_claims(&binding), &context(&binding)).breaks(Rule::ClassFloor));
    let machine = amd::Machine::genoa();
    let (evidence, endorsements) = machine.evidence();
    let claims = Verifier::inspect(&evidence, &endorsements, amd::NOW, &machine.roots()).expect("verifies");
    let appraisal = policy.appraise(&as_if_bound(&claims, &binding), &context(&binding));
    assert_eq!(rules(&appraisal), [Rule::ClassFloor]);
}

#[test]
fn p1_simulated_evidence_under_the_vendors_roots_is_refused() {
    let binding = binding(sim_policy().hash());
    let evidence = support::sim_evidence(&binding);
    for roots in [TrustRoots::vendor(), TrustRoots::for_policy(&sim_policy())] {
        let outcome = Verifier::appraise(&evidence, &Endorsements::default(), &binding.report_data(), NOW, &roots);
        assert!(matches!(outcome, Err(VerifyError::NoRoot { .. })), "{outcome:?}");
    }
}

/// The type of the production roots has no public field, no `Default` and no way to add a root; the
/// compile-fail tests show that. Here: its vendors' roots do not depend on the environment.
#[test]
fn p2_production_roots_are_the_built_in_ones_only() {
    use crate::roots::sealed::{IntelRoot, Sealed as _};
    for roots in [TrustRoots::vendor(), TrustRoots::for_policy(&sim_policy())] {
        assert!(matches!(roots.intel(), Some(IntelRoot::Production)));
        assert!(roots.sim_keys().is_empty());
        let products: Vec<_> = roots.amd().iter().map(|root| root.product.name()).collect();
        assert_eq!(products, ["Milan", "Genoa", "Turin"]);
    }
    assert!(TrustRoots::vendor().providers().is_empty());
    for source in ["roots.rs", "verify/mod.rs", "verify/dcap.rs", "verify/snp.rs", "verify/tpm.rs"] {
        let path = format!("{}/src/{source}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("source");
        for word in ["std::env", "option_env!", "std::fs", "SystemTime", "std::net"] {
            assert!(!text.contains(word), "{source} uses {word}");
        }
    }
}

#[test]
fn p3_wildcards_need_the_insecure_block_and_are_shown_in_the_token() {
    // There is no other way to write one.
    for wildcard in ["runtime = \"any\"", "runtime = \"*\"", "runtime = \"\""] {
        let block = format!("[sim]\naccept = [{{ {wildcard} }}]\n");
        assert!(PolicyDocument::parse(&policy_text("sim", &block)).is_err(), "{wildcard}");
    }
    let block = "[sgx]\naccept = [{}]\n";
    assert!(matches!(PolicyDocument::parse(&policy_text("sim", block)), Err(ParsePolicyError::Incomplete(..))));
    let block = format!("[sgx]\naccept = [{{ mrsigner = \"{}\" }}]\n", "aa".repeat(32));
    assert!(PolicyDocument::parse(&policy_text("sim", &block)).is_err(), "a signer alone is all it ever signed");
    assert!(PolicyDocument::parse(&policy_text("sim", &sim_block()).replace("sim:laptop", "any")).is_err());

    let text = policy_text("sim", "[insecure]\nany_measurement = true\nany_provider = true\n[sim]\n");
    let policy = signed(&text.replace("platforms = [\"sim:laptop\"]", "platforms = []"));
    let session = binding(policy.hash());
    let appraisal = policy.appraise(&sim_claims(&session), &context(&session));
    assert_eq!(rules(&appraisal), []);
    assert!(appraisal.warnings().iter().any(|warning| warning.contains("any_measurement is on")));
    let object = token::issue(&appraisal, "me", 60, &key(support::VERIFIER)).expect("issues");
    let confirmation = key(support::INSTANCE).verifying_key();
    let expect =
        token::Expectation { audience: "me", nonce: &session.peer_nonce, confirmation: &confirmation, now: NOW };
    let token = token::verify(&object, &policy, &expect).expect("verifies");
    assert_eq!(token.insecure, ["any_measurement", "any_provider"]);
    let without = signed(&policy_text("sim", "[sim]\n"));
    let session = binding(without.hash());
    assert_eq!(rules(&without.appraise(&sim_claims(&session), &context(&session))), [Rule::Measurement]);
}

#[test]
fn p4_unsigned_wrongly_signed_and_older_policies_are_refused() {
    let owners = [key(OWNER).verifying_key()];
    let text = policy_text("sim", &sim_block());
    let object = Policy::sign(&text, &key(OWNER)).expect("signs");
    let policy = Policy::verify(&object, "shop", &owners, None).expect("verifies");
    assert_eq!((policy.hash(), policy.signer()), (Digest::of(text.as_bytes()), owners[0]));
    assert_eq!(policy.document(), &PolicyDocument::parse(&text).expect("parses"));

    assert!(matches!(Policy::verify(text.as_bytes(), "shop", &owners, None), Err(PolicyError::Signed(_))));
    let foreign = Policy::sign(&text, &key(OTHER)).expect("signs");
    assert!(matches!(
        Policy::verify(&foreign, "shop", &owners, None),
        Err(PolicyError::Signed(CoseError::UnknownKey(_)))
    ));
    assert!(Policy::verify(&object, "shop", &[], None).is_err());
    assert!(matches!(Policy::verify(&object, "shop2", &owners, None), Err(PolicyError::OtherService { .. })));
    for at in 0..object.len() {
        let mut changed = object.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(Policy::verify(&changed, "shop", &owners, None).is_err(), "byte {at}");
    }

    let newer = Policy::sign(&text.replace("version = 3", "version = 4"), &key(OWNER)).expect("signs");
    let newer = Policy::verify(&newer, "shop", &owners, Some(policy.last_seen())).expect("newer");
    let outcome = Policy::verify(&object, "shop", &owners, Some(newer.last_seen()));
    assert!(matches!(outcome, Err(PolicyError::Older { found: 3, seen: 4 })), "{outcome:?}");
    assert!(Policy::verify(&object, "shop", &owners, Some(policy.last_seen())).is_ok(), "the same once more");
    let twin = Policy::sign(&format!("{text}\n# another text\n"), &key(OWNER)).expect("signs");
    let outcome = Policy::verify(&twin, "shop", &owners, Some(policy.last_seen()));
    assert!(matches!(outcome, Err(PolicyError::Twins { version: 3, .. })), "{outcome:?}");
}

#[test]
fn p4_a_policy_outside_its_time_denies() {
    let policy = sim_policy();
    let session = binding(policy.hash());
    let claims = sim_claims(&session);
    for (now, good) in [(1_767_225_599, false), (1_767_225_600, true), (1_811_808_000, true), (1_811_808_001, false)] {
        let appraisal = policy.appraise(&claims, &AppraisalContext { now, ..context(&session) });
        assert_eq!(rules(&appraisal), if good { vec![] } else { vec![Rule::PolicyTime] }, "at {now}");
    }
}

#[test]
fn p5_a_policy_that_was_not_measured_is_refused() {
    // The host starts the runtime under a lax policy of its own choice and presents the owner's later.
    let owners = sim_policy();
    let session = binding(owners.hash());
    let swapped = support::sim_statement(Digest::of(b"the host's policy"));
    let evidence = swapped.evidence(&session.report_data(), &key(support::SIM_PLATFORM)).expect("encodes");
    let claims =
        Verifier::appraise(&evidence, &Endorsements::default(), &session.report_data(), NOW, &support::sim_roots());
    let claims = claims.expect("verifies");
    assert_eq!(rules(&owners.appraise(&claims, &context(&session))), [Rule::MeasuredPolicy]);
    // The other way round: the session names another policy than the relying party's.
    let other = signed(&policy_text("sim", &sim_block()).replace("version = 3", "version = 9"));
    let appraisal = other.appraise(&sim_claims(&session), &context(&session));
    assert_eq!(rules(&appraisal), [Rule::OtherPolicy, Rule::MeasuredPolicy]);
}

#[test]
fn p6_a_destination_that_is_weaker_than_the_source_is_refused() {
    let text = policy_text("sim", &sim_block()).replace("any_accepted", "at_least_source");
    let policy = signed(&text);
    let session = binding(policy.hash());
    let claims = sim_claims(&session);
    let with = |source: Option<&Claims>| policy.appraise(&claims, &AppraisalContext { source, ..context(&session) });
    assert_eq!(rules(&with(None)), [Rule::WeakerThanSource], "unknown source");
    assert_eq!(rules(&with(Some(&claims))), []);
    for class in [Class::MeasuredHost, Class::HwTee] {
        let source = Claims::of_test(ClaimSet { class, ..(*claims).clone() }, session.report_data());
        assert_eq!(rules(&with(Some(&source))), [Rule::WeakerThanSource], "{class}");
    }
    // The same technology with a worse TCB.
    let tcb = samples::snp().inspect().claims().snp.clone().expect("SNP claims");
    let snp = |microcode| {
        let mut snp = tcb.clone();
        snp.tcb.committed.microcode = microcode;
        Claims::of_test(
            ClaimSet { technology: Technology::Snp, snp: Some(snp), ..(*claims).clone() },
            session.report_data(),
        )
    };
    let destination = |microcode, source| {
        let source = snp(source);
        let context = AppraisalContext { source: Some(&source), ..context(&session) };
        policy.appraise(&snp(microcode), &context).breaks(Rule::WeakerThanSource)
    };
    assert!(destination(114, 115));
    assert!(!destination(115, 115) && !destination(116, 115));
    // Only a destination is compared.
    let mut source_session = session.clone();
    source_session.role = Role::Source;
    let context = AppraisalContext { role: Role::Source, ..context(&source_session) };
    assert_eq!(rules(&policy.appraise(&sim_claims(&source_session), &context)), []);
    for rule in [
        "destination = \"none\"",
        "destination = \"any_accepted\"\nproviders = []",
        "destination = \"any_accepted\"\nregions = [\"us\"]",
    ] {
        let policy = signed(&policy_text("sim", &sim_block()).replace("destination = \"any_accepted\"", rule));
        let session = binding(policy.hash());
        assert_eq!(
            rules(&policy.appraise(&sim_claims(&session), &support::context(&session))),
            [Rule::Destination],
            "{rule}"
        );
    }
}

#[test]
fn p7_machines_of_unlisted_or_other_providers_are_refused() {
    let check = |text: &str, statement: Option<(&str, u8)>| {
        let policy = signed(text);
        let session = binding(policy.hash());
        let statement = statement.map(|(provider, signer)| {
            let statement = PlatformStatement {
                provider: provider.to_owned(),
                platform: PlatformId::sim("laptop").expect("a name"),
                not_before: NOW,
                not_after: NOW,
                tpm: None,
            };
            statement.sign(&key(signer)).expect("signs")
        });
        let endorsements = Endorsements { statement, ..Endorsements::default() };
        let roots = SimRoots {
            providers: vec![
                ("acme".to_owned(), key(PROVIDER).verifying_key()),
                ("other".to_owned(), key(OTHER).verifying_key()),
            ],
            ..support::sim_roots()
        };
        let evidence = support::sim_evidence(&session);
        let claims = Verifier::appraise(&evidence, &endorsements, &session.report_data(), NOW, &roots)?;
        Ok::<_, VerifyError>(rules(&policy.appraise(&claims, &context(&session))))
    };
    let text = policy_text("sim", &sim_block());
    let unlisted = text.replace("sim:laptop", "sim:desktop");
    assert_eq!(check(&text, None).expect("verifies"), []);
    assert_eq!(check(&text, Some(("acme", PROVIDER))).expect("verifies"), []);
    assert_eq!(check(&unlisted, None).expect("verifies"), [Rule::Provider]);
    assert_eq!(check(&unlisted, Some(("acme", PROVIDER))).expect("verifies"), [], "its provider signs for it");
    assert_eq!(check(&unlisted, Some(("other", OTHER))).expect("verifies"), [Rule::Provider]);
    // Both the name and the key are those of another.
    let other = check(&text, Some(("other", OTHER))).expect("verifies");
    assert_eq!(other, [Rule::OtherProvider, Rule::OtherProvider]);
    assert!(check(&text, Some(("acme", OTHER))).is_err(), "one provider speaks for another");
    // The right name under the roots of another policy, where it has another key.
    let renamed = text.replace(&key(PROVIDER).verifying_key().to_string(), &key(OWNER).verifying_key().to_string());
    assert_eq!(check(&renamed, Some(("acme", PROVIDER))).expect("verifies"), [Rule::OtherProvider]);
    let unlisted = renamed.replace("sim:laptop", "sim:desktop");
    assert_eq!(check(&unlisted, Some(("acme", PROVIDER))).expect("verifies"), [Rule::Provider]);
    // Listed, but for another provider than the session names.
    let elsewhere = text.replace("id = \"acme\"", "id = \"other\"");
    assert_eq!(check(&elsewhere, None).expect("verifies"), [Rule::OtherProvider]);
    let revoked = text.replace("modules =", "revoked_platforms = [\"sim:laptop\"]\nmodules =");
    assert_eq!(check(&revoked, None).expect("verifies"), [Rule::RevokedPlatform]);
    // Nobody can list a machine or a key for two providers.
    let twice = format!(
        "{text}\n[[provider]]\nid = \"other\"\nkey = \"{}\"\nplatforms = [\"sim:laptop\"]\n",
        key(OTHER).verifying_key()
    );
    assert!(matches!(PolicyDocument::parse(&twice), Err(ParsePolicyError::Twice(_))));
    let twice = format!("{text}\n[[provider]]\nid = \"other\"\nkey = \"{}\"\n", key(PROVIDER).verifying_key());
    assert!(matches!(PolicyDocument::parse(&twice), Err(ParsePolicyError::Twice(_))));
}

/// What an attester without its device can hand in, ends in an error and never in weaker claims.
#[test]
fn p8_missing_evidence_and_endorsements_are_errors() {
    let empty = [
        Evidence::Sgx(Vec::new()),
        Evidence::Tdx(Vec::new()),
        Evidence::Snp(Vec::new()),
        Evidence::Sim(Vec::new()),
        Evidence::Tpm(Box::new(TpmQuote {
            attest: Vec::new(),
            signature: Vec::new(),
            ak_public: Vec::new(),
            pcrs: [Digest([0; 32]); 9],
            events: Vec::new(),
        })),
    ];
    for evidence in empty {
        assert!(Verifier::inspect(&evidence, &Endorsements::default(), NOW, &TrustRoots::vendor()).is_err());
        assert!(Verifier::inspect(&evidence, &Endorsements::default(), NOW, &support::sim_roots()).is_err());
    }
}

fn random_claims(random: &mut Random) -> ClaimSet {
    let mut flip = {
        let mut inner = Random(random.next_u64());
        move || inner.next_u32().is_multiple_of(2)
    };
    let number = random.next_u32();
    let classes = [Class::Sim, Class::MeasuredHost, Class::HwTee];
    let technologies = [Technology::Sgx, Technology::Tdx, Technology::Snp, Technology::Tpm, Technology::Sim];
    let snp = samples::snp().inspect().claims().snp.clone();
    let tcb = samples::tdx().inspect().claims().tcb.clone();
    let registers = ["runtime", "mrtd", "measurement", "mrenclave", "pcr0"];
    ClaimSet {
        class: classes[number as usize % 3],
        technology: technologies[number as usize / 3 % 5],
        registers: BTreeMap::from_iter(
            registers.iter().filter(|_| flip()).map(|name| ((*name).to_owned(), Bytes::from([number as u8; 32]))),
        ),
        signer: flip().then(|| SignerClaims { signer: Bytes::from([1; 32]), product: u64::MAX, svn: 0 }),
        debug: flip(),
        migratable: flip(),
        platform: PlatformId::sim(if flip() { "laptop" } else { "desktop" }).expect("a name"),
        provider: flip().then(|| "acme".to_owned()),
        provider_key: flip().then(|| key(PROVIDER).verifying_key()),
        host_data: Bytes::default(),
        measured_policies: if flip() { vec![Digest([0; 32])] } else { Vec::new() },
        event_log: None,
        tcb: tcb.filter(|_| flip()),
        snp: snp.filter(|_| flip()),
        tpm: flip().then_some(TpmClaims {
            reset_count: 0,
            restart_count: u32::MAX,
            clock: 0,
            clock_safe: false,
            firmware: 0,
        }),
        expires: flip().then_some(u64::from(number)),
        label: None,
    }
}

#[test]
fn p9_random_claims_never_panic_and_are_denied() {
    let blocks = format!(
        "[insecure]\nany_provider = true\nallow_debug = true\n[sgx]\n[tdx]\n[snp]\nmin_tcb.Milan = {{}}\n[tpm]\n{}",
        sim_block()
    );
    let policies = [sim_policy(), signed(&policy_text("sim", &blocks)), signed(&policy_text("hw_tee", ""))];
    let mut random = Random(9);
    for _ in 0..200 {
        let set = random_claims(&mut random);
        for policy in &policies {
            let session = binding(policy.hash());
            let claims = Claims::of_test(set.clone(), session.report_data());
            let last = Some((random.next_u32(), random.next_u32()));
            let context = AppraisalContext {
                now: random.next_u64(),
                source: Some(&claims),
                tpm_last_seen: last,
                ..context(&session)
            };
            let appraisal = policy.appraise(&claims, &context);
            // None of the random claims names the policy as measured, so none is ever accepted.
            assert!(appraisal.breaks(Rule::MeasuredPolicy), "{set:?}");
            assert_eq!(appraisal.vector().status(), Tier::Contraindicated);
        }
    }
}

/// All reasons at once, not only the first.
#[test]
fn p9_every_reason_is_given() {
    let policy = signed(&policy_text("hw_tee", "").replace("sim:laptop", "sim:desktop"));
    let mut session = binding(Digest::of(b"another policy"));
    session.service = "other".to_owned();
    session.ledger = "other".to_owned();
    session.module = Digest::of(b"another module");
    session.exporter = [0; 32];
    let claims = sim_claims(&session);
    let mut claims = (*claims).clone();
    (claims.debug, claims.migratable) = (true, true);
    let claims = Claims::of_test(claims, binding(policy.hash()).report_data());
    let appraisal = policy.appraise(&claims, &AppraisalContext { now: 0, role: Role::Source, ..context(&session) });
    let expected = [
        Rule::OtherBinding,
        Rule::Role,
        Rule::Service,
        Rule::OtherPolicy,
        Rule::Ledger,
        Rule::DegenerateBinding,
        Rule::Module,
        Rule::PolicyTime,
        Rule::ClassFloor,
        Rule::Debug,
        Rule::MeasuredPolicy,
        Rule::Migratable,
        Rule::Technology,
        Rule::Provider,
    ];
    assert_eq!(rules(&appraisal), expected);
}

#[test]
fn a_preview_never_accepts() {
    let policy = sim_policy();
    let session = binding(policy.hash());
    let unbound =
        Verifier::inspect(&support::sim_evidence(&session), &Endorsements::default(), NOW, &support::sim_roots());
    let unbound = unbound.expect("verifies");
    let preview = policy.preview(&unbound, NOW);
    assert_eq!(rules(&preview), [Rule::NotBound]);
    assert!(token::issue(&preview, "me", 60, &key(support::VERIFIER)).is_err());
    assert!(policy.appraise(&unbound.bind(&session.report_data()).expect("binds"), &context(&session)).is_accepted());
}
