//! What one side finds of the other's proof. Every check runs, so that all reasons are told at once.

use dunlin_attest::{
    Appraisal, AppraisalContext, BindingContext, Bytes, Claims, Endorsements, Evidence, Policy, ReportData, Technology,
    TrustRoots, Verifier, VerifyError, VerifyingKey,
};
use dunlin_base::Digest;
use dunlin_handover::Key;
use dunlin_handover::ledger::Reading;

use crate::config::{Config, SessionFacts, Side, Trust};
use crate::ledger::BoundEvidence;
use crate::message::{Attest, Challenge, transcript};
use crate::refusal::{Check, Reason};

/// Another keep that proved what it is.
#[derive(Debug, Clone)]
pub struct Attested {
    /// What its platform says.
    pub claims: Claims,
    /// What the policy says of that.
    pub appraisal: Appraisal,
    /// The key of its certificate, as its name in the ledger.
    pub holder: Key,
    /// What it showed for that.
    pub shown: BoundEvidence,
    /// Of a source: the ledger's word that it holds the service.
    pub reading: Option<Reading>,
}

impl Attested {
    /// What a person must see although everything is accepted.
    pub fn warnings(&self) -> &[String] {
        self.appraisal.warnings()
    }
}

/// Both challenges.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Challenges<'a> {
    pub(crate) own: &'a Challenge,
    pub(crate) peer: &'a Challenge,
}

impl Challenges<'_> {
    pub(crate) fn transcript(&self) -> Digest {
        match self.own.side {
            Side::Source => transcript(self.own, self.peer),
            Side::Destination => transcript(self.peer, self.own),
        }
    }
}

/// The context of the evidence of `attester`, whose keys are given: as this side knows everything else itself.
pub(crate) fn context(
    config: &Config,
    challenges: Challenges<'_>,
    attester: Side,
    instance_key: VerifyingKey,
    kem_key: &Bytes,
) -> BindingContext {
    let SessionFacts { exporter, own_spki, peer_spki, own_provider, peer_provider } = &config.session;
    let own = attester == config.side;
    let (from, to) = if own { (own_spki, peer_spki) } else { (peer_spki, own_spki) };
    let document = config.trust.policy.document();
    BindingContext {
        role: attester.role(),
        exporter: *exporter,
        peer_nonce: if own { challenges.peer.nonce.0 } else { challenges.own.nonce.0 },
        own_spki: *from,
        peer_spki: *to,
        instance_key,
        kem_key: kem_key.clone(),
        service: document.service.clone(),
        epoch: challenges.own.epoch,
        migration: config.terms.migration.0,
        policy: config.trust.policy.hash(),
        module: config.terms.module,
        provider: if own { own_provider } else { peer_provider }.clone(),
        ledger: document.ledger.id.clone(),
    }
}

/// Verifies evidence under the roots that the policy's owner and this build have.
pub(crate) fn verify(
    trust: &Trust,
    evidence: &Evidence,
    endorsements: &Endorsements,
    expected: &ReportData,
    now: u64,
) -> Result<Claims, VerifyError> {
    match &trust.sim {
        // Only simulated evidence: a vendor's format under a root for simulation has no place between keeps.
        Some(roots) if evidence.technology() == Technology::Sim => {
            Verifier::appraise(evidence, endorsements, expected, now, roots)
        }
        _ => Verifier::appraise(evidence, endorsements, expected, now, &TrustRoots::for_policy(&trust.policy)),
    }
}

/// Everything that the two sides take to be otherwise.
pub(crate) fn compare(config: &Config, own: &Challenge, peer: &Challenge) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let mut differ = |wrong: bool, check, what: &str, found: String, here: String| {
        if wrong {
            reasons.push(Reason::new(check, format!("the other side has {what} {found}, this one {here}")));
        }
    };
    let (found, here) = (peer.version, own.version);
    differ(found != here, Check::Version, "protocol version", found.to_string(), here.to_string());
    let same_side = peer.side == own.side;
    differ(same_side, Check::Side, "the role of a", peer.side.name().to_owned(), "as well".to_owned());
    let (found, here) = (peer.migration, own.migration);
    differ(found != here, Check::Migration, "migration", found.to_string(), here.to_string());
    let (found, here) = (peer.service, own.service);
    differ(found != here, Check::Service, "service", found.to_string(), here.to_string());
    let (found, here) = (peer.epoch, own.epoch);
    differ(found != here, Check::Epoch, "epoch", found.to_string(), here.to_string());
    let (found, here) = (peer.policy, own.policy);
    differ(found != here, Check::Policy, "policy", found.to_string(), here.to_string());
    let (found, here) = (peer.module, own.module);
    differ(found != here, Check::Module, "module", found.to_string(), here.to_string());
    let (found, here) = (peer.ledger, own.ledger);
    differ(found != here, Check::Ledger, "ledger", found.to_string(), here.to_string());
    if config.session.peer_spki == config.session.own_spki {
        reasons.push(Reason::new(Check::InstanceKey, "the other side has the key of this one"));
    }
    if peer.nonce.0 == [0; 32] {
        reasons.push(Reason::new(Check::Nonce, "the other side's nonce is zero; its source of randomness is broken"));
    }
    if peer.nonce == own.nonce {
        reasons.push(Reason::new(Check::Nonce, "the other side's nonce is the one of this side"));
    }
    if !names_ledger(config) {
        let text = format!("the policy names another ledger than {}; the host cannot choose one", own.ledger);
        reasons.push(Reason::new(Check::Ledger, text));
    }
    reasons
}

/// Whether the policy lists the ledger's key, or names it by its thumbprint.
fn names_ledger(config: &Config) -> bool {
    let ledger = &config.trust.policy.document().ledger;
    let key = config.terms.ledger;
    ledger.keys.iter().any(|known| known.spki_hash().0 == key.0) || ledger.id == key.to_string()
}

/// Judges the other side's proof. `source` are this side's own claims, if it is the source.
pub(crate) fn judge(
    config: &Config,
    challenges: Challenges<'_>,
    proof: Attest,
    source: Option<&Claims>,
    now: u64,
) -> Result<Attested, Vec<Reason>> {
    let mut reasons = Vec::new();
    let peer = config.side.other();
    holder(config, challenges, &proof, &mut reasons);
    let parts = (
        VerifyingKey::from_bytes(&proof.instance_key),
        Evidence::from_cbor(&proof.evidence),
        Endorsements::from_cbor(&proof.endorsements),
    );
    if let Err(error) = &parts.1 {
        reasons.push(Reason::of(Check::Evidence, error));
    }
    if let Err(error) = &parts.2 {
        reasons.push(Reason::of(Check::Evidence, error));
    }
    let Ok(instance_key) = parts.0 else {
        reasons.push(Reason::new(Check::InstanceKey, "the instance key is no P-256 key"));
        return Err(reasons);
    };
    if instance_key.spki_hash() != config.session.peer_spki {
        let text = "the instance key is not the key of the certificate with which the session was made";
        reasons.push(Reason::new(Check::InstanceKey, text));
    }
    let signed = proof.signed_bytes(peer, &config.session, false, &challenges.transcript());
    if !instance_key.verifies(&signed, &proof.signature) {
        let text = "the instance did not sign this session, these challenges and this proof";
        reasons.push(Reason::new(Check::Signature, text));
    }
    let (Ok(evidence), Ok(endorsements)) = (parts.1, parts.2) else { return Err(reasons) };
    let binding = context(config, challenges, peer, instance_key, &proof.kem_key);
    let claims = match verify(&config.trust, &evidence, &endorsements, &binding.report_data(), now) {
        Ok(claims) => claims,
        Err(error) => {
            reasons.push(Reason::of(Check::Evidence, &error));
            return Err(reasons);
        }
    };
    let about =
        AppraisalContext { now, binding: &binding, role: peer.role(), source, tpm_last_seen: config.tpm_last_seen };
    let (appraisal, against) = weigh(&config.trust.policy, &claims, &about);
    reasons.extend(against);
    if !reasons.is_empty() {
        return Err(reasons);
    }
    let Attest { evidence, endorsements, reading, .. } = proof;
    let holder = Key(config.session.peer_spki.0);
    Ok(Attested { claims, appraisal, holder, shown: BoundEvidence { binding, evidence, endorsements }, reading })
}

/// What the policy says of claims, and everything that is against them.
pub(crate) fn weigh(policy: &Policy, claims: &Claims, about: &AppraisalContext<'_>) -> (Appraisal, Vec<Reason>) {
    let mut reasons = Vec::new();
    // Where the platform measured a module, it must be this one.
    let module = Bytes::from(about.binding.module.0);
    if claims.registers.get("module").is_some_and(|measured| *measured != module) {
        reasons.push(Reason::new(Check::Module, "the platform measured another module"));
    }
    let appraisal = policy.appraise(claims, about);
    reasons.extend(appraisal.reasons().iter().map(|reason| Reason::new(Check::Appraisal, reason.to_string())));
    (appraisal, reasons)
}

/// Whether the ledger says, freshly, that the source holds the service in this epoch and under this policy.
fn holder(config: &Config, challenges: Challenges<'_>, proof: &Attest, reasons: &mut Vec<Reason>) {
    let mut refuse = |text: &str| reasons.push(Reason::new(Check::Holder, text));
    match (config.side, &proof.reading) {
        (Side::Source, None) => {}
        (Side::Source, Some(_)) => refuse("a destination has nothing to say about who holds the service"),
        (Side::Destination, None) => refuse("the source brought no word of the ledger"),
        (Side::Destination, Some(reading)) => {
            let terms = &config.terms;
            if !reading.is_fresh(terms.ledger, challenges.own.nonce, &*config.checks) {
                refuse("what the source brought is not the ledger's answer to this side's nonce");
            }
            let record = &reading.record;
            if record.service != terms.service {
                refuse("the ledger's word is about another service");
            }
            if !record.is_held_by(Key(config.session.peer_spki.0), challenges.own.epoch) {
                refuse("the ledger does not say that the other side holds the service in this epoch");
            }
            if record.policy_hash != terms.recorded_policy {
                refuse("the ledger has the service under another policy");
            }
        }
    }
}
