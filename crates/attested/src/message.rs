//! The three messages. `docs/formats/attested-channel.md` has their bytes.

use dunlin_attest::Bytes;
use dunlin_base::Digest;
use dunlin_handover::codec::{DecodeError, Reader, Wire, Writer};
use dunlin_handover::ledger::Reading;
use dunlin_handover::{Key, MigrationId, Nonce, ServiceId, wire_struct};

use crate::config::{SessionFacts, Side};
use crate::refusal::Reason;

/// The version of this protocol.
pub const VERSION: u16 = 2;
/// No message is longer, in bytes.
pub const MAX_MESSAGE: usize = 640 * 1024;
/// Longest key to encrypt to, in bytes; post-quantum ones fit.
const MAX_KEM_KEY: usize = 2048;
/// Longest evidence, in bytes: what `dunlin_attest` reads.
pub(crate) const MAX_EVIDENCE: usize = dunlin_attest::MAX_EVIDENCE;
/// Longest endorsements, in bytes: what `dunlin_attest` reads.
pub(crate) const MAX_ENDORSEMENTS: usize = 512 * 1024;
/// Most reasons in a verdict.
pub(crate) const MAX_REASONS: usize = 64;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A nonce, and what the sender takes the handshake to be about.
    Challenge(Challenge),
    /// The sender's proof.
    Attest(Box<Attest>),
    /// Whether the sender accepts the other side.
    Verdict(Verdict),
}

/// What the sender wants proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// The version of this protocol.
    pub version: u16,
    /// Who sends it.
    pub side: Side,
    /// To be in the other side's evidence.
    pub nonce: Nonce,
    /// The migration.
    pub migration: MigrationId,
    /// The service.
    pub service: ServiceId,
    /// The epoch in which the source holds it.
    pub epoch: u64,
    /// The digest of the policy.
    pub policy: Digest,
    /// The module.
    pub module: Digest,
    /// The ledger.
    pub ledger: Key,
}

wire_struct!(Challenge, "challenge", { version, side, nonce, migration, service, epoch, policy, module, ledger });

/// The sender's proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attest {
    /// The key of the instance, as a compressed point.
    pub instance_key: [u8; 33],
    /// The key to which secrets for this instance are encrypted.
    pub kem_key: Bytes,
    /// Evidence, in its container.
    pub evidence: Vec<u8>,
    /// What belongs to it, in its container.
    pub endorsements: Vec<u8>,
    /// From a source: the ledger's word that it holds the service, with the destination's nonce.
    pub reading: Option<Reading>,
    /// By the instance key, over the session, both challenges, and everything above.
    pub signature: [u8; 64],
}

impl Attest {
    fn write_signed(&self, out: &mut Writer) {
        let Self { instance_key, kem_key, evidence, endorsements, reading, signature: _ } = self;
        out.raw(instance_key);
        out.blob(&kem_key.0);
        out.blob(evidence);
        out.blob(endorsements);
        out.put(reading);
    }

    /// What `side` signs. The exporter of TLS 1.3 does not cover the client's certificate, so both keys are named.
    pub(crate) fn signed_bytes(&self, side: Side, session: &SessionFacts, own: bool, transcript: &Digest) -> Vec<u8> {
        let (signer, other) =
            if own { (session.own_spki, session.peer_spki) } else { (session.peer_spki, session.own_spki) };
        let mut body = Writer::default();
        self.write_signed(&mut body);
        let mut out = Writer::default();
        out.raw(b"dunlin attested channel 1\0");
        out.put(&side);
        out.raw(&session.exporter);
        out.put(&signer);
        out.put(&other);
        out.put(transcript);
        out.put(&Digest::of(&body.finish()));
        out.finish()
    }
}

impl Wire for Attest {
    const WHAT: &'static str = "proof";

    fn write(&self, out: &mut Writer) {
        self.write_signed(out);
        out.raw(&self.signature);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            instance_key: input.array("instance key")?,
            kem_key: Bytes(input.blob("key to encrypt to", MAX_KEM_KEY)?),
            evidence: input.blob("evidence", MAX_EVIDENCE)?,
            endorsements: input.blob("endorsements", MAX_ENDORSEMENTS)?,
            reading: input.take()?,
            signature: input.array("signature")?,
        })
    }
}

/// Whether the sender accepts the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Everything that is against it; empty for yes.
    pub reasons: Vec<Reason>,
}

impl Wire for Verdict {
    const WHAT: &'static str = "verdict";

    fn write(&self, out: &mut Writer) {
        out.list(self.reasons.get(..self.reasons.len().min(MAX_REASONS)).unwrap_or_default());
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { reasons: input.list(Self::WHAT, MAX_REASONS)? })
    }
}

impl Wire for Message {
    const WHAT: &'static str = "message of a handshake";

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Challenge(challenge) => {
                out.put(&1u8);
                out.put(challenge);
            }
            Self::Attest(attest) => {
                out.put(&2u8);
                out.put(&**attest);
            }
            Self::Verdict(verdict) => {
                out.put(&3u8);
                out.put(verdict);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.take::<u8>()? {
            1 => Self::Challenge(input.take()?),
            2 => Self::Attest(Box::new(input.take()?)),
            3 => Self::Verdict(input.take()?),
            value => return Err(DecodeError::Unknown { what: Self::WHAT, value: value.into() }),
        })
    }
}

impl Message {
    /// The name, for reasons.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Challenge(_) => "Challenge",
            Self::Attest(_) => "Attest",
            Self::Verdict(_) => "Verdict",
        }
    }
}

/// What both sides have seen before they prove anything: the source's challenge and the destination's, in this order.
pub(crate) fn transcript(source: &Challenge, destination: &Challenge) -> Digest {
    let mut out = Writer::default();
    out.raw(b"dunlin attested transcript 1\0");
    out.put(source);
    out.put(destination);
    Digest::of(&out.finish())
}
