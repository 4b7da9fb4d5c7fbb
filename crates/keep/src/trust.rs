//! What this keep can prove of itself, and under which policy it judges others.

use std::fmt;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use dunlin_attest::{
    Attester, BindingContext, Bytes, Endorsements, Evidence, Policy, SigningKey, Technology, TpmEvent, TpmEventKind,
    VerifyingKey,
};
use dunlin_attest_sim::{SimAttester, machine_of, roots};
use dunlin_attested::{Asker, BoundEvidence, InstanceSigner, LedgerProof, Trust, policy_in_force};
use dunlin_base::{Digest, with_causes};
use dunlin_broker::{KemKey, signing_key};
use dunlin_handover::codec::Wire as _;
use dunlin_handover::ledger::MAX_PROOF;
use dunlin_handover::{Key, Nonce};
use dunlin_identity::{InstanceKey, Names};
use dunlin_keep_link::Spec;
use dunlin_transport::{Roots, TlsIdentity};

use crate::error::Failure;
use crate::machine::Machine;

/// Keys and certificates with which this keep speaks to others, and what its platform says of it.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    pub(crate) provider: String,
    platform: Arc<Platform>,
    pub(crate) signer: Arc<Signer>,
    pub(crate) kem: Arc<KemKey>,
    /// `None` without certificates: such a keep runs its service, and moves none.
    pub(crate) tls: Option<Arc<(TlsIdentity, Roots)>>,
}

/// What speaks for this keep.
#[derive(Debug)]
enum Platform {
    Simulated(Simulated),
    Machine(Arc<Machine>),
}

/// The simulated machine. The program is measured when evidence is asked for the first time: a warm keep starts sooner.
#[derive(Debug)]
struct Simulated {
    name: String,
    /// The file that was started, opened before this process gave up opening files.
    program: File,
    attester: Mutex<Option<Arc<SimAttester>>>,
}

impl Simulated {
    fn of_this_program(name: String) -> Result<Self, Failure> {
        let program = File::open("/proc/self/exe").map_err(Failure::system("this program's file cannot be opened"))?;
        Ok(Self { name, program, attester: Mutex::default() })
    }

    fn attester(&self) -> Result<Arc<SimAttester>, Failure> {
        let mut attester = self.attester.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(attester) = &*attester {
            return Ok(attester.clone());
        }
        let opened = SimAttester::of_file(&self.name, &self.program);
        let opened = Arc::new(opened.map_err(|error| Failure::Untrusted(with_causes(&error)))?);
        *attester = Some(opened.clone());
        Ok(opened)
    }
}

/// The instance key, for evidence and for the broker.
pub(crate) struct Signer(SigningKey);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.0.verifying_key()).finish()
    }
}

impl Signer {
    pub(crate) fn key(&self) -> &SigningKey {
        &self.0
    }
}

impl InstanceSigner for Signer {
    fn verifying_key(&self) -> VerifyingKey {
        self.0.verifying_key()
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message)
    }
}

impl Proof {
    /// What `instance` can prove. Called before this process gives up opening files.
    pub(crate) fn new(
        instance: &InstanceKey,
        provider: &str,
        certificates: &[Vec<u8>],
        trusted: &[Vec<u8>],
        machine: Option<Machine>,
    ) -> Result<Self, Failure> {
        let invalid = |error: &dyn fmt::Display| Failure::Invalid(error.to_string());
        let pkcs8 = instance.to_pkcs8().map_err(|error| invalid(&error))?;
        let signer = signing_key(&pkcs8).ok_or_else(|| Failure::Invalid("the instance key cannot sign".to_owned()))?;
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        let failed = |error: getrandom::Error| Failure::system("the system gives no random bytes")(error.into());
        getrandom::fill(&mut *seed).map_err(failed)?;
        let tls = if certificates.is_empty() {
            None
        } else {
            let identity = TlsIdentity::new(certificates.to_vec(), pkcs8.to_vec()).map_err(|error| invalid(&error))?;
            let mut roots = Roots::new();
            for root in trusted {
                let provider = Names::of(root).map_err(|error| invalid(&error))?.provider;
                roots.add(&provider, root).map_err(|error| invalid(&error))?;
            }
            Some(Arc::new((identity, roots)))
        };
        let platform = match machine {
            Some(machine) => Platform::Machine(Arc::new(machine)),
            None => Platform::Simulated(Simulated::of_this_program(machine_of(provider))?),
        };
        Ok(Self {
            provider: provider.to_owned(),
            platform: Arc::new(platform),
            signer: Arc::new(Signer(signer)),
            kem: Arc::new(KemKey::from_seed(&seed)),
            tls,
        })
    }

    /// The technology of its evidence.
    pub(crate) fn technology(&self) -> Technology {
        match &*self.platform {
            Platform::Simulated(_) => Technology::Sim,
            Platform::Machine(machine) => machine.kind(),
        }
    }

    /// The platform, which has measured what runs here, or does so when it is asked.
    pub(crate) fn measured(&self, module: Digest, policy: &Policy) -> Result<Arc<dyn Attester>, Failure> {
        let attester = match &*self.platform {
            Platform::Simulated(simulated) => simulated.attester()?,
            Platform::Machine(machine) => return Ok(machine.clone()),
        };
        for (kind, digest) in [(TpmEventKind::Module, module), (TpmEventKind::Policy, policy.hash())] {
            let measured = attester.measure(TpmEvent { kind, digest });
            measured.map_err(|error| {
                Failure::Untrusted(format!("the platform does not measure: {}", with_causes(&error)))
            })?;
        }
        Ok(attester)
    }

    /// Evidence for a client's nonce, outside of any session: what it is, and what it is bound to.
    pub(crate) fn for_client(
        &self,
        nonce: Nonce,
        spec: &Spec,
        epoch: u64,
        policy: &Policy,
    ) -> Result<(Evidence, Endorsements, BindingContext), Failure> {
        let kem_key = Bytes::from(self.kem.public());
        let binding = BindingContext::outside_of_a_session(nonce.0, self.signer.verifying_key(), kem_key);
        let binding = BindingContext { epoch, ..policy.bind(binding, spec.module, &self.provider) };
        let (evidence, endorsements) = self.prove(spec, policy, &binding)?;
        Ok((evidence, endorsements, binding))
    }

    /// Evidence for the ledger, which is asked to make this instance the holder.
    pub(crate) fn for_ledger(&self, asker: &Asker, spec: &Spec, policy: &Policy) -> Result<BoundEvidence, Failure> {
        let (instance_key, kem_key) = (self.signer.verifying_key(), Bytes::from(self.kem.public()));
        let binding = asker.binding(instance_key, kem_key, policy, spec.module, &self.provider);
        let (evidence, endorsements) = self.prove(spec, policy, &binding)?;
        Ok(BoundEvidence { binding, evidence: evidence.to_cbor(), endorsements: endorsements.to_cbor() })
    }

    fn prove(
        &self,
        spec: &Spec,
        policy: &Policy,
        binding: &BindingContext,
    ) -> Result<(Evidence, Endorsements), Failure> {
        let given = self.measured(spec.module, policy)?.prove(binding);
        given.map_err(|error| Failure::Untrusted(format!("the platform gives no evidence: {}", with_causes(&error))))
    }
}

/// What goes to the ledger beside a request, of the new holder and, where there is a session with it, of the old one.
pub(crate) fn ledger_proof(
    spec: &Spec,
    candidate: BoundEvidence,
    source: Option<BoundEvidence>,
) -> Result<Vec<u8>, Failure> {
    let policy = spec.signed_policy.as_ref().map(|signed| (signed.object.clone(), signed.signer.clone()));
    let proof = LedgerProof { name: spec.name.clone(), policy, candidate, source }.to_bytes();
    if proof.len() > MAX_PROOF {
        let found = proof.len();
        return Err(Failure::Untrusted(format!(
            "evidence and policy have {found} bytes, the ledger takes {MAX_PROOF}"
        )));
    }
    Ok(proof)
}

/// The policy under which a service runs on a platform of this technology, which must be the one that the ledger's record
/// names.
pub(crate) fn policy_of(spec: &Spec, ledger: Key, technology: Technology) -> Result<Policy, Failure> {
    let signed = spec.signed_policy.as_ref().map(|signed| (&*signed.object, &*signed.signer));
    let policy = policy_in_force(&spec.name, spec.service, &spec.module, ledger, signed)
        .map_err(|error| Failure::Untrusted(format!("the policy is refused: {}", with_causes(&error))))?;
    if policy.hash() != spec.policy {
        let came = if signed.is_some() { "the one that came" } else { "none came, and the one without an owner" };
        let text = format!("the policy {} is in force, {came} has the digest {}", spec.policy, policy.hash());
        return Err(Failure::Untrusted(text));
    }
    let (floor, own) = (policy.document().class_floor, technology.class());
    if floor > own {
        let (floor, own) = (floor.name(), own.name());
        return Err(Failure::Untrusted(format!("the policy demands {floor}, and this keep's platform is {own}")));
    }
    if !policy.document().permits(&spec.module) {
        return Err(Failure::Untrusted(format!("the policy does not permit the module {}", spec.module)));
    }
    Ok(policy)
}

/// Whose evidence counts: under the vendors' roots, and that of the simulated machine of this provider, where the
/// policy's floor lets simulations in.
pub(crate) fn trust(policy: Policy, peer_provider: &str) -> Result<Trust, Failure> {
    let machine = machine_of(peer_provider);
    let sim = roots([machine.as_str()]).map_err(|error| Failure::Untrusted(error.to_string()))?;
    Ok(Trust { policy, sim: Some(sim) })
}

/// Seconds since 1970, as this machine has it: evidence of a session is bound to nonces, not to clocks.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use dunlin_handover::ServiceId;
    use dunlin_keep_link::{Limits, SignedPolicy, Tier};

    use super::*;

    const LEDGER: Key = Key([9; 32]);

    fn spec(policy: Digest, signed_policy: Option<SignedPolicy>) -> Spec {
        Spec {
            service: ServiceId([7; 16]),
            name: "shop".to_owned(),
            module: Digest::of(b"module"),
            policy,
            signed_policy,
            args: Vec::new(),
            env: Vec::new(),
            tier: Tier::Cranelift,
            limits: Limits::default(),
        }
    }

    fn owners(module: Digest) -> (SignedPolicy, Digest) {
        let owner = SigningKey::from_bytes(&[3; 32]).unwrap();
        let text = format!(
            r#"
format = 1
service = "shop"
version = 1
issued = 2026-01-01T00:00:00Z
expires = 2099-12-31T23:59:59Z
class_floor = "sim"
modules = ["sha256:{module}"]
require_measured_policy = true

[insecure]
any_measurement = true
any_provider = true

[sim]

[migration]
destination = "any_accepted"

[ledger]
id = "{LEDGER}"
keys = ["{}"]
quorum = 1
"#,
            owner.verifying_key()
        );
        let object = Policy::sign(&text, &owner).unwrap();
        let signer = owner.verifying_key().to_bytes();
        (SignedPolicy { object, signer }, Digest::of(text.as_bytes()))
    }

    #[test]
    fn a_policy_that_the_record_names_must_come() {
        let open = policy_in_force("shop", ServiceId([7; 16]), &Digest::of(b"module"), LEDGER, None).unwrap().hash();
        policy_of(&spec(open, None), LEDGER, Technology::Sim).unwrap();
        let withheld = policy_of(&spec(Digest::of(b"policy"), None), LEDGER, Technology::Sim);
        assert!(matches!(withheld, Err(Failure::Untrusted(_))), "{withheld:?}");
        let (signed, digest) = owners(Digest::of(b"module"));
        let policy = policy_of(&spec(digest, Some(signed.clone())), LEDGER, Technology::Sim).unwrap();
        assert_eq!(policy.hash(), digest);
        // Another one than the record names, of the same owner or not.
        assert!(policy_of(&spec(open, Some(signed.clone())), LEDGER, Technology::Sim).is_err());
        let (other, other_digest) = owners(Digest::of(b"another module"));
        assert!(policy_of(&spec(digest, Some(other.clone())), LEDGER, Technology::Sim).is_err());
        // One that does not permit the module.
        let refused = policy_of(&spec(other_digest, Some(other)), LEDGER, Technology::Sim).unwrap_err();
        assert!(refused.to_string().contains("does not permit the module"), "{refused}");
        // And for another service.
        let mut renamed = spec(digest, Some(signed));
        renamed.name = "shop2".to_owned();
        assert!(policy_of(&renamed, LEDGER, Technology::Sim).is_err());
    }
}
