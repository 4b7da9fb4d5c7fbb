//! Keys, contexts, policies and simulated evidence for the tests.

use dunlin_base::Digest;

use crate::{
    AppraisalContext, BindingContext, Bytes, ClaimSet, Claims, Endorsements, Evidence, PlatformId, Policy, ReportData,
    Role, SigningKey, SimRoots, SimStatement, UnboundClaims, Verifier,
};

/// 2026-11-20.
pub(super) const NOW: u64 = 1_795_132_800;

pub(super) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32]).expect("a key")
}

pub(super) const OWNER: u8 = 1;
pub(super) const PROVIDER: u8 = 2;
pub(super) const SIM_PLATFORM: u8 = 3;
pub(super) const INSTANCE: u8 = 4;
pub(super) const LEDGER: u8 = 5;
pub(super) const VERIFIER: u8 = 6;
pub(super) const OTHER: u8 = 7;

pub(super) fn module() -> Digest {
    Digest::of(b"module")
}

pub(super) fn runtime() -> Digest {
    Digest::of(b"runtime")
}

pub(super) fn binding(policy: Digest) -> BindingContext {
    BindingContext {
        role: Role::Destination,
        exporter: [0x11; 32],
        peer_nonce: [0x22; 32],
        own_spki: Digest::of(b"own"),
        peer_spki: Digest::of(b"peer"),
        instance_key: key(INSTANCE).verifying_key(),
        kem_key: Bytes::from([0x33; 32]),
        service: "shop".to_owned(),
        epoch: 7,
        migration: [0x44; 16],
        policy,
        module: module(),
        provider: "acme".to_owned(),
        ledger: "ledger-1".to_owned(),
    }
}

/// Everything of a policy but the technologies. `floor` and `blocks` are TOML.
pub(super) fn policy_text(floor: &str, blocks: &str) -> String {
    format!(
        r#"
format = 1
service = "shop"
version = 3
issued = 2026-01-01T00:00:00Z
expires = 2027-06-01T00:00:00Z
class_floor = "{floor}"
modules = ["sha256:{module}"]

{blocks}

[[provider]]
id = "acme"
key = "{provider}"
region = "eu"
platforms = ["sim:laptop"]
accept_signed_platforms = true

[migration]
destination = "any_accepted"

[ledger]
id = "ledger-1"
keys = ["{ledger}"]
quorum = 1

[token]
verifiers = ["{verifier}"]
"#,
        module = module(),
        provider = key(PROVIDER).verifying_key(),
        ledger = key(LEDGER).verifying_key(),
        verifier = key(VERIFIER).verifying_key(),
    )
}

pub(super) fn sim_block() -> String {
    format!("[sim]\naccept = [{{ runtime = \"{}\" }}]\n", runtime())
}

pub(super) fn sim_policy() -> Policy {
    static POLICY: std::sync::OnceLock<Policy> = std::sync::OnceLock::new();
    POLICY.get_or_init(|| signed(&policy_text("sim", &sim_block()))).clone()
}

/// Signs without asking the linter, also what no owner should sign.
pub(super) fn signed(text: &str) -> Policy {
    let object = crate::policy::sign::sign_unchecked(text, &key(OWNER)).expect("signs");
    Policy::verify(&object, "shop", &[key(OWNER).verifying_key()], None).unwrap_or_else(|error| panic!("{error:?}"))
}

pub(super) fn sim_roots() -> SimRoots {
    SimRoots {
        keys: vec![key(SIM_PLATFORM).verifying_key()],
        providers: vec![("acme".to_owned(), key(PROVIDER).verifying_key())],
        ..SimRoots::default()
    }
}

pub(super) fn sim_statement(policy: Digest) -> SimStatement {
    SimStatement { platform: PlatformId::sim("laptop").expect("a name"), runtime: runtime(), module: module(), policy }
}

pub(super) fn sim_evidence(binding: &BindingContext) -> Evidence {
    sim_statement(binding.policy).evidence(&binding.report_data(), &key(SIM_PLATFORM)).expect("encodes")
}

pub(super) fn sim_claims(binding: &BindingContext) -> Claims {
    let (evidence, endorsements) = (sim_evidence(binding), Endorsements::default());
    Verifier::appraise(&evidence, &endorsements, &binding.report_data(), NOW, &sim_roots()).expect("verifies")
}

pub(super) fn context(binding: &BindingContext) -> AppraisalContext<'_> {
    AppraisalContext { now: NOW, binding, role: Role::Destination, source: None, tpm_last_seen: None }
}

/// Binds claims of a sample to a session that never was, at a time when its collateral has long ended, so
/// that a policy can be asked about everything else in them.
pub(super) fn as_if_bound(claims: &UnboundClaims, binding: &BindingContext) -> Claims {
    Claims::of_test(ClaimSet { expires: None, ..claims.claims().clone() }, binding.report_data())
}

/// What a sample carries, as what a session demands.
pub(super) fn demanded(claims: &UnboundClaims) -> ReportData {
    ReportData::of_sample(claims.carried().0.try_into().expect("64 bytes"))
}
