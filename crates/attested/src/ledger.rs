//! What an instance shows to the ledger when it is to hold a service, and what the ledger finds of that.
//!
//! The ledger takes nobody's word for what a new holder is, not even that of the holder before it: a source that was
//! broken into could name the digest of any evidence. It appraises the evidence itself, under the owner's policy that its
//! record names, and only if that evidence was made for this very change of holder:
//!
//! | The service is taken by | Evidence of the new holder | Bound to |
//! |---|---|---|
//! | the first start, a later one, the owner's will | made for the ledger | service, epoch and version of the record, instance and machine |
//! | a migration | as the destination of it | the migration, its epoch, the source's key and session |
//! | a migration given back after the switch | as the source of it | the migration, an earlier epoch, the destination's key and session |
//!
//! A destination can be nominated before its migration begins: then the ledger says no before anything has moved, and need not
//! verify evidence while the program stands. What it found holds for five minutes, for the same candidate and policy.
//!
//! A holder that takes its own next epoch, to make a transfer impossible that it signed, shows nothing: it is the holder, and
//! stays what it was.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use dunlin_attest::{
    AppraisalContext, BindingContext, Bytes, Claims, DestinationRule, Endorsements, Evidence, Policy, Role, SimRoots,
    VerifyingKey,
};
use dunlin_base::{Digest, with_causes};
use dunlin_handover::codec::{DecodeError, Reader, Wire, Writer};
use dunlin_handover::ledger::{Candidate, Takes};
use dunlin_handover::{Key, MigrationId, PlatformId, ServiceId};

use crate::appraise::{verify, weigh};
use crate::config::Trust;
use crate::message::{MAX_ENDORSEMENTS, MAX_EVIDENCE};
use crate::open_policy::policy_in_force;

/// Longest name of a service, in bytes.
const MAX_NAME: usize = 256;
/// Longest context of evidence, in bytes.
const MAX_BINDING: usize = 8 << 10;
/// Longest signed policy, in bytes.
const MAX_POLICY: usize = 64 << 10;
/// Longest key of a policy's signer, in bytes.
const MAX_SIGNER: usize = 256;
/// Policies that a ledger has at hand.
const POLICIES: usize = 64;
/// Destinations that a ledger remembers to have found fit.
const FIT: usize = 1024;
/// Seconds for which one is remembered: what a token of an appraisal may live.
const HOLDS: u64 = 300;

/// Evidence with all that is needed to verify it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundEvidence {
    /// What it is bound to.
    pub binding: BindingContext,
    /// The evidence, in its container.
    pub evidence: Vec<u8>,
    /// What belongs to it, in its container.
    pub endorsements: Vec<u8>,
}

impl BoundEvidence {
    /// The digest by which the ledger and the other side name it.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.evidence)
    }

    /// What the platform says, if the evidence is genuine and bound to this context.
    fn claims(&self, trust: &Trust, now: u64) -> Result<Claims, String> {
        let evidence = Evidence::from_cbor(&self.evidence).map_err(|error| with_causes(&error))?;
        let endorsements = Endorsements::from_cbor(&self.endorsements).map_err(|error| with_causes(&error))?;
        verify(trust, &evidence, &endorsements, &self.binding.report_data(), now).map_err(|error| with_causes(&error))
    }
}

impl Wire for BoundEvidence {
    const WHAT: &'static str = "evidence with its context";

    fn write(&self, out: &mut Writer) {
        out.blob(&self.binding.to_cbor());
        out.blob(&self.evidence);
        out.blob(&self.endorsements);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let binding = input.blob("context of evidence", MAX_BINDING)?;
        let why = "it is not in its one form";
        Ok(Self {
            binding: BindingContext::from_cbor(&binding)
                .map_err(|_| DecodeError::Invalid { what: "context of evidence", why })?,
            evidence: input.blob("evidence", MAX_EVIDENCE)?,
            endorsements: input.blob("endorsements", MAX_ENDORSEMENTS)?,
        })
    }
}

/// What goes to the ledger beside a request that changes who holds a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerProof {
    /// The name for which the policy was signed.
    pub name: String,
    /// The owner's signed policy and its signer's point; none for a service whose owner gave none.
    pub policy: Option<(Vec<u8>, Vec<u8>)>,
    /// Of the new holder.
    pub candidate: BoundEvidence,
    /// Of the holder before it, where the policy compares the two.
    pub source: Option<BoundEvidence>,
}

impl Wire for LedgerProof {
    const WHAT: &'static str = "proof for the ledger";

    fn write(&self, out: &mut Writer) {
        let Self { name, policy, candidate, source } = self;
        out.put(&1_u8);
        out.blob(name.as_bytes());
        out.put(&policy.is_some());
        if let Some((object, signer)) = policy {
            out.blob(object);
            out.blob(signer);
        }
        out.put(candidate);
        out.put(source);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.take::<u8>()? {
            1 => {}
            value => return Err(DecodeError::Unknown { what: "version of a proof", value: value.into() }),
        }
        let name = input.text("name of a service", MAX_NAME)?;
        let policy = match input.take::<bool>()? {
            true => Some((input.blob("policy", MAX_POLICY)?, input.blob("signer of a policy", MAX_SIGNER)?)),
            false => None,
        };
        Ok(Self { name, policy, candidate: input.take()?, source: input.take()? })
    }
}

/// Who asks the ledger for a service on its own behalf, and for which position of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// Which service.
    pub service: ServiceId,
    /// The record's epoch.
    pub epoch: u64,
    /// The record's version.
    pub version: u64,
    /// The instance.
    pub holder: Key,
    /// Its machine.
    pub platform: PlatformId,
}

impl Asker {
    fn of(candidate: &Candidate<'_>) -> Option<Self> {
        let Candidate { service, epoch, version, holder, platform, .. } = *candidate;
        Some(Self { service, epoch, version, holder, platform: platform? })
    }

    /// What its evidence is bound to. The record never returns to an epoch and version that it has left.
    pub fn binding(
        &self,
        instance_key: VerifyingKey,
        kem_key: Bytes,
        policy: &Policy,
        module: Digest,
        provider: &str,
    ) -> BindingContext {
        let nonce = self.position().0;
        let binding = BindingContext::outside_of_a_session(nonce, instance_key, kem_key);
        let binding = policy.bind(binding, module, provider);
        BindingContext { role: Role::ServiceToLedger, epoch: self.epoch, ..binding }
    }

    fn position(&self) -> Digest {
        let Self { service, epoch, version, holder, platform } = self;
        let mut out = Writer::default();
        out.raw(b"dunlin evidence for the ledger 1\0");
        out.put(service);
        out.put(epoch);
        out.put(version);
        out.put(holder);
        out.put(platform);
        Digest::of(&out.finish())
    }
}

/// Appraises candidates for a ledger.
pub struct Judge {
    ledger: Key,
    sim: Option<SimRoots>,
    /// By digest, so that a policy is made or verified once and not at every move.
    policies: Mutex<BTreeMap<Digest, Policy>>,
    /// Destinations that were found fit, by their keys.
    fit: Mutex<BTreeMap<Key, Fit>>,
}

/// A destination that was found fit, for what, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fit {
    service: ServiceId,
    policy: Digest,
    evidence: Digest,
    migration: MigrationId,
    epoch: u64,
    from: Option<Key>,
    until: u64,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("ledger", &self.ledger).field("sim", &self.sim.is_some()).finish_non_exhaustive()
    }
}

impl Judge {
    /// For the ledger with this key. Simulated platforms are believed under `sim` alone, where a policy lets them in.
    pub const fn new(ledger: Key, sim: Option<SimRoots>) -> Self {
        Self { ledger, sim, policies: Mutex::new(BTreeMap::new()), fit: Mutex::new(BTreeMap::new()) }
    }

    /// Whether the policy in force lets this candidate hold the service. `now` is seconds since 1970.
    ///
    /// # Errors
    /// Everything that is against it, for people.
    pub fn appraise(&self, candidate: &Candidate<'_>, now: u64) -> Result<(), String> {
        if candidate.takes == Takes::Resume && candidate.from == Some(candidate.holder) {
            return Ok(());
        }
        let Takes::Transfer(migration) = candidate.takes else {
            return self.examine(candidate, now).map(drop);
        };
        let Candidate { service, policy_hash: policy, evidence, epoch, from, holder, .. } = *candidate;
        let asked = Fit { service, policy, evidence, migration, epoch, from, until: 0 };
        let mut found = self.fit.lock().unwrap_or_else(PoisonError::into_inner);
        // Who was found fit is not asked for its evidence again, however often its bytes are sent.
        found.retain(|_, fit| now <= fit.until);
        if found.get(&holder).is_some_and(|fit| Fit { until: 0, ..*fit } == asked) {
            return Ok(());
        }
        drop(found);
        let expires = self.examine(candidate, now)?;
        let mut found = self.fit.lock().unwrap_or_else(PoisonError::into_inner);
        if found.len() < FIT {
            let until = expires.unwrap_or(u64::MAX).min(now.saturating_add(HOLDS));
            found.insert(holder, Fit { until, ..asked });
        }
        Ok(())
    }

    /// Verifies the evidence of a candidate and asks the policy. Until when what was verified is good, if that has an end.
    fn examine(&self, candidate: &Candidate<'_>, now: u64) -> Result<Option<u64>, String> {
        if candidate.proof.is_empty() {
            return Err("the ledger appraises evidence itself, and none came with the request".to_owned());
        }
        let proof = LedgerProof::from_bytes(candidate.proof).map_err(|error| with_causes(&error))?;
        let shown = &proof.candidate;
        if shown.digest() != candidate.evidence {
            return Err("the evidence that came is not the one that the request names".to_owned());
        }
        let key = shown.binding.instance_key.spki_hash();
        if key.0 != candidate.holder.0 || shown.binding.own_spki != key {
            return Err("the evidence is of another instance than the one that is to hold the service".to_owned());
        }
        occasion(candidate, shown)?;
        let policy = self.policy(candidate, &proof)?;
        let trust = Trust { policy, sim: self.sim.clone() };
        let claims = shown.claims(&trust, now)?;
        let source = self.source(candidate, &proof, &trust, now)?;
        let role = shown.binding.role;
        let about =
            AppraisalContext { now, binding: &shown.binding, role, source: source.as_ref(), tpm_last_seen: None };
        let (_, reasons) = weigh(&trust.policy, &claims, &about);
        if reasons.is_empty() {
            return Ok(claims.expires);
        }
        let reasons: Vec<&str> = reasons.iter().map(|reason| reason.text.as_str()).collect();
        Err(reasons.join("; "))
    }

    /// The policy in force.
    fn policy(&self, candidate: &Candidate<'_>, proof: &LedgerProof) -> Result<Policy, String> {
        let wanted = candidate.policy_hash;
        let mut policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(policy) = policies.get(&wanted) {
            return Ok(policy.clone());
        }
        let LedgerProof { name, policy: signed, candidate: shown, .. } = proof;
        let signed = signed.as_ref().map(|(object, signer)| (&**object, &**signer));
        let policy = policy_in_force(name, candidate.service, &shown.binding.module, self.ledger, signed)
            .map_err(|error| with_causes(&error))?;
        if policy.hash() != wanted {
            return Err(format!("the policy {wanted} is in force, and {} came", policy.hash()));
        }
        if policies.len() >= POLICIES {
            policies.pop_first();
        }
        policies.insert(wanted, policy.clone());
        Ok(policy)
    }

    /// The claims of the source, where the policy compares a destination with it.
    fn source(
        &self,
        candidate: &Candidate<'_>,
        proof: &LedgerProof,
        trust: &Trust,
        now: u64,
    ) -> Result<Option<Claims>, String> {
        let destination = &proof.candidate.binding;
        let compares = trust.policy.document().migration.destination == DestinationRule::AtLeastSource;
        let Some(source) = proof.source.as_ref().filter(|_| compares && destination.role == Role::Destination) else {
            return Ok(None);
        };
        let BindingContext { role, exporter, own_spki, peer_spki, epoch, migration, .. } = &source.binding;
        let same = *role == Role::Source
            && *exporter == destination.exporter
            && (own_spki, peer_spki) == (&destination.peer_spki, &destination.own_spki)
            && Some(own_spki.0) == candidate.from.map(|from| from.0)
            && *own_spki == source.binding.instance_key.spki_hash()
            && (*epoch, *migration) == (destination.epoch, destination.migration);
        if !same {
            return Err("the source's evidence is not from the session with this destination".to_owned());
        }
        source.claims(trust, now).map(Some)
    }
}

/// Whether the evidence was made for this change of holder.
fn occasion(candidate: &Candidate<'_>, shown: &BoundEvidence) -> Result<(), String> {
    let binding = &shown.binding;
    let asks = |fits: bool| {
        let why = "the evidence was made for another epoch, version, instance or machine than the request is about";
        if fits { Ok(()) } else { Err(why.to_owned()) }
    };
    let with_holder = candidate.from.is_some_and(|from| from.0 == binding.peer_spki.0);
    match (candidate.takes, binding.role) {
        (Takes::Claim | Takes::Resume | Takes::Recover, Role::ServiceToLedger) => {
            let position = Asker::of(candidate).map(|asker| asker.position().0);
            let here = Some(binding.peer_nonce) == position && binding.epoch == candidate.epoch;
            asks(here && binding.migration == [0; 16])
        }
        (Takes::Transfer(MigrationId(migration)), Role::Destination) => {
            asks(with_holder && binding.migration == migration && binding.epoch == candidate.epoch)
        }
        (Takes::Transfer(MigrationId(migration)), Role::Source) => {
            asks(with_holder && binding.migration == migration && binding.epoch < candidate.epoch)
        }
        (_, role) => Err(format!("evidence for the role {} is not what takes a service so", role.name())),
    }
}
