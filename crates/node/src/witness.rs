//! What speaks for the machine to others: its TPM, or the TEE in which node and keeps run together. The node has it for all
//! its keeps, since such a platform serves one program at a time and keeps open no devices. It has the platform say only
//! what a keep says of itself, with the key that this keep drew, and never what it says of another one.

use std::fs::File;
use std::sync::mpsc;
use std::thread;

use dunlin_attest::{Attester, AttesterError, BindingContext, TpmEvent, TpmEventKind};
use dunlin_attest_sim::measure_file;
use dunlin_attesters::Choice;
use dunlin_base::Digest;
use dunlin_handover::Key;
use dunlin_keep_link::{Proof, ProofReply, Witness as Kind};

use crate::config::NodeConfig;
use crate::error::{NodeError, in_full};

/// A call of a keep, and where the answer goes.
struct Call {
    holder: Key,
    number: u64,
    binding: Vec<u8>,
    answer: Box<dyn FnOnce(ProofReply) + Send>,
}

/// The platform of this machine. Cloning it is cheap.
#[derive(Debug, Clone)]
pub(crate) struct Witness {
    kind: Kind,
    /// `None` where keeps simulate a platform themselves.
    calls: Option<mpsc::Sender<Call>>,
}

impl Witness {
    /// Opens the platform that the configuration names, and has it measure the program that keeps are.
    pub(crate) fn open(config: &NodeConfig) -> Result<Self, NodeError> {
        let kind = match &config.attester {
            Choice::Sim(_) => return Ok(Self { kind: Kind::Simulation, calls: None }),
            Choice::Tpm(_) => Kind::Tpm,
            Choice::Snp => Kind::Snp,
            Choice::Tdx => Kind::Tdx,
            Choice::Sgx => {
                let why =
                    "a node is outside of its keeps' enclaves and cannot speak for them: sgx is no attester of a node";
                return Err(NodeError::Invalid(why.to_owned()));
            }
        };
        let attester = config.attester.open()?;
        let keep = &config.keep.program;
        let runtime = File::open(keep).and_then(|file| measure_file(&file));
        let runtime = runtime.map_err(|source| NodeError::Spawn { program: keep.clone(), source })?;
        measure(&*attester, TpmEventKind::Runtime, runtime)?;
        let provider = config.provider.clone();
        let (calls, taken) = mpsc::channel::<Call>();
        let serve = move || {
            for Call { holder, number, binding, answer } in taken {
                let given = prove(&*attester, &provider, holder, &binding);
                answer(ProofReply { call: number, given });
            }
        };
        let thread = thread::Builder::new().name("dunlin-witness".to_owned());
        thread.spawn(serve).map_err(NodeError::system("start a thread"))?;
        Ok(Self { kind, calls: Some(calls) })
    }

    /// What keeps are told.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Has the platform speak for the keep whose key is `holder`. Calls are answered one after the other.
    pub(crate) fn ask(
        &self,
        holder: Key,
        number: u64,
        binding: Vec<u8>,
        answer: impl FnOnce(ProofReply) + Send + 'static,
    ) {
        let call = Call { holder, number, binding, answer: Box::new(answer) };
        let unsent = match &self.calls {
            Some(calls) => calls.send(call).err().map(|unsent| unsent.0),
            None => Some(call),
        };
        if let Some(Call { number, answer, .. }) = unsent {
            answer(ProofReply { call: number, given: Err("no platform speaks for this machine".to_owned()) });
        }
    }
}

/// Evidence that is bound to what a keep says of itself.
fn prove(attester: &dyn Attester, provider: &str, holder: Key, binding: &[u8]) -> Result<Proof, String> {
    let binding = BindingContext::from_cbor(binding).map_err(|error| in_full(&error))?;
    if binding.instance_key.spki_hash().0 != holder.0 {
        return Err("the evidence would be bound to the key of another keep".to_owned());
    }
    if binding.provider != provider {
        return Err(format!("this is a machine of {provider}, not of {}", binding.provider));
    }
    let given = measure(attester, TpmEventKind::Policy, binding.policy)
        .and_then(|()| measure(attester, TpmEventKind::Module, binding.module))
        .and_then(|()| attester.prove(&binding));
    let (evidence, endorsements) = given.map_err(|error| in_full(&error))?;
    Ok(Proof { evidence: evidence.to_cbor(), endorsements: endorsements.to_cbor() })
}

/// Measures into the register that can be extended, where there is one. Where there is none, all of the machine was
/// measured when it started, and its keeps say the rest.
fn measure(attester: &dyn Attester, kind: TpmEventKind, digest: Digest) -> Result<(), AttesterError> {
    match attester.measure(TpmEvent { kind, digest }) {
        Err(AttesterError::NoRegister(_)) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use dunlin_attest::{Bytes, Evidence, SigningKey};
    use dunlin_attest_sim::SimAttester;

    use super::*;

    #[test]
    fn a_platform_speaks_for_the_keep_that_asks_and_for_no_other() {
        let attester = SimAttester::of_this_program("machine").unwrap();
        let key = |number: u8| SigningKey::from_bytes(&[number; 32]).unwrap().verifying_key();
        let (own, other) = (key(1), key(2));
        let binding = |key: &dunlin_attest::VerifyingKey| BindingContext {
            provider: "north".to_owned(),
            ..BindingContext::outside_of_a_session([7; 32], *key, Bytes::from([3; 32]))
        };
        let holder = Key(own.spki_hash().0);
        let ask = |binding: &BindingContext, provider: &str| prove(&attester, provider, holder, &binding.to_cbor());
        let proof = ask(&binding(&own), "north").unwrap();
        Evidence::from_cbor(&proof.evidence).unwrap();
        assert!(ask(&binding(&other), "north").unwrap_err().contains("another keep"));
        assert!(ask(&binding(&own), "south").unwrap_err().contains("machine of south"));
        assert!(prove(&attester, "north", holder, b"nonsense").is_err());
    }
}
