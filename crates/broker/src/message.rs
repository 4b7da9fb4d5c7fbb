//! The messages between an instance and its broker, and their one encoding.
//!
//! A message is a version byte, a kind byte and the fields in order, little-endian, as everywhere in the protocol of
//! ownership. `docs/formats/sealed.md` of the repository has the table.

use dunlin_attest::VerifyingKey;
use dunlin_base::Digest;
use dunlin_handover::codec::{DecodeError, Reader, Wire, Writer, wire_struct};
use dunlin_handover::{Nonce, ServiceId};

/// The version of all messages.
const VERSION: u8 = 1;
/// The most bytes of a message.
pub const MAX_MESSAGE: usize = 3 << 20;
/// The most bytes of evidence and of endorsements. Intel's collateral is the largest of all.
const MAX_EVIDENCE: usize = 64 * 1024;
const MAX_ENDORSEMENTS: usize = 1 << 20;
/// The most bytes of a secret, and what encryption adds.
pub(crate) const MAX_SECRET: usize = 1 << 20;
const MAX_SEALED: usize = MAX_SECRET + 1024;
const MAX_NAME: usize = 256;
const MAX_REASON: usize = 4096;

/// One conversation: a question and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

impl Wire for SessionId {
    const WHAT: &'static str = "session id";

    fn write(&self, out: &mut Writer) {
        out.raw(&self.0);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.array(Self::WHAT).map(Self)
    }
}

/// What an instance wants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// The key of its epoch, and that of the epoch in which the last state was committed.
    Keys,
    /// A secret of the owner, by its name.
    Secret(String),
}

impl Wire for Want {
    const WHAT: &'static str = "wanted";

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Keys => out.put(&1u8),
            Self::Secret(name) => {
                out.put(&2u8);
                out.blob(name.as_bytes());
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.take::<u8>()? {
            1 => Ok(Self::Keys),
            2 => input.text("name of a secret", MAX_NAME).map(Self::Secret),
            value => Err(DecodeError::Unknown { what: Self::WHAT, value: value.into() }),
        }
    }
}

/// A public key as 33 bytes. Whether they are a point of the curve is checked where the key is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point(pub(crate) [u8; 33]);

impl Point {
    pub(crate) fn of(key: &VerifyingKey) -> Self {
        // The compressed form of every key has this length.
        Self(key.to_bytes().try_into().unwrap_or([0; 33]))
    }

    pub(crate) fn key(&self) -> Option<VerifyingKey> {
        VerifyingKey::from_bytes(&self.0).ok()
    }
}

impl Wire for Point {
    const WHAT: &'static str = "public key";

    fn write(&self, out: &mut Writer) {
        out.raw(&self.0);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.array(Self::WHAT).map(Self)
    }
}

/// A signature of 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signed(pub(crate) [u8; 64]);

impl Wire for Signed {
    const WHAT: &'static str = "signature";

    fn write(&self, out: &mut Writer) {
        out.raw(&self.0);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        input.array(Self::WHAT).map(Self)
    }
}

/// An instance begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Whose service it is about.
    pub service: ServiceId,
    /// Makes the session the instance's own.
    pub nonce: Nonce,
}

wire_struct!(Hello, "hello", { service, nonce });

/// The broker asks for evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The session.
    pub session: SessionId,
    /// What the evidence must be about. Good for one answer within five minutes.
    pub nonce: Nonce,
    pub(crate) broker: Point,
}

wire_struct!(Challenge, "challenge", { session, nonce, broker });

impl Challenge {
    /// The key with which this broker signs. Whether it is the service's broker, the policy says.
    pub fn broker(&self) -> Option<VerifyingKey> {
        self.broker.key()
    }
}

/// What an instance asks for, with its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The session.
    pub session: SessionId,
    /// What for.
    pub want: Want,
    /// The epoch in which it holds the service.
    pub epoch: u64,
    pub(crate) instance: Point,
    /// The key to which the answer is to be encrypted, X25519.
    pub kem_key: [u8; 32],
    /// The module that it runs.
    pub module: Digest,
    /// The provider of its machine.
    pub provider: String,
    /// Evidence, in its container.
    pub evidence: Vec<u8>,
    /// Endorsements, in their container.
    pub endorsements: Vec<u8>,
    pub(crate) signature: Signed,
}

impl Ask {
    /// Everything but the signature.
    pub(crate) fn unsigned_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write_unsigned(&mut out);
        out.finish()
    }

    fn write_unsigned(&self, out: &mut Writer) {
        let Self { session, want, epoch, instance, kem_key, module, provider, evidence, endorsements, signature: _ } =
            self;
        out.put(session);
        out.put(want);
        out.put(epoch);
        out.put(instance);
        out.raw(kem_key);
        out.put(module);
        out.blob(provider.as_bytes());
        out.blob(evidence);
        out.blob(endorsements);
    }
}

impl Wire for Ask {
    const WHAT: &'static str = "ask";

    fn write(&self, out: &mut Writer) {
        self.write_unsigned(out);
        out.put(&self.signature);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            session: input.take()?,
            want: input.take()?,
            epoch: input.take()?,
            instance: input.take()?,
            kem_key: input.array("KEM key")?,
            module: input.take()?,
            provider: input.text("provider", MAX_NAME)?,
            evidence: input.blob("evidence", MAX_EVIDENCE)?,
            endorsements: input.blob("endorsements", MAX_ENDORSEMENTS)?,
            signature: input.take()?,
        })
    }
}

/// What was asked for, encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The session.
    pub session: SessionId,
    /// The encapsulated key of HPKE.
    pub encapsulated: [u8; 32],
    /// The sealed answer.
    pub sealed: Vec<u8>,
    pub(crate) signature: Signed,
}

impl Wire for Answer {
    const WHAT: &'static str = "answer";

    fn write(&self, out: &mut Writer) {
        let Self { session, encapsulated, sealed, signature } = self;
        out.put(session);
        out.raw(encapsulated);
        out.blob(sealed);
        out.put(signature);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            session: input.take()?,
            encapsulated: input.array("encapsulated key")?,
            sealed: input.blob("sealed answer", MAX_SEALED)?,
            signature: input.take()?,
        })
    }
}

/// Why the broker releases nothing. Not signed: who can suppress an answer can also say no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// No such service here.
    #[error("this broker keeps no keys of that service: ask the broker that the policy names")]
    NoSuchService,
    /// The session is over, was never begun, or had its answer.
    #[error("the session is not open: it was answered, has expired or was never begun; begin a new one")]
    Session,
    /// Too many at once.
    #[error("the broker has too many open sessions: try again in a while")]
    Busy,
    /// The asker has not signed.
    #[error("the request is not signed by the instance key in it")]
    Signature,
    /// Evidence or endorsements are not what they should be.
    #[error("the evidence is refused: {0}")]
    Evidence(String),
    /// The policy says no.
    #[error("the policy denies: {0}")]
    Policy(String),
    /// The ledger did not answer, or not freshly.
    #[error("the ledger gave no fresh and genuine reading: try again")]
    Ledger,
    /// Somebody else holds the service, or the same one in another epoch.
    #[error("the ledger does not name the asker as the holder in this epoch")]
    NotHolder,
    /// No such secret, or not for this module.
    #[error("there is no such secret for this module")]
    NoSuchSecret,
    /// The release could not be recorded.
    #[error("the release could not be recorded, so nothing is released: try again")]
    Record,
}

impl Wire for Denied {
    const WHAT: &'static str = "denial";

    fn write(&self, out: &mut Writer) {
        let (tag, reason) = match self {
            Self::NoSuchService => (1u8, None),
            Self::Session => (2, None),
            Self::Busy => (3, None),
            Self::Signature => (4, None),
            Self::Evidence(reason) => (5, Some(reason)),
            Self::Policy(reason) => (6, Some(reason)),
            Self::Ledger => (7, None),
            Self::NotHolder => (8, None),
            Self::NoSuchSecret => (10, None),
            Self::Record => (11, None),
        };
        out.put(&tag);
        if let Some(reason) = reason {
            let mut end = reason.len().min(MAX_REASON);
            while !reason.is_char_boundary(end) {
                end -= 1;
            }
            out.blob(reason.get(..end).unwrap_or_default().as_bytes());
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match input.take::<u8>()? {
            1 => Self::NoSuchService,
            2 => Self::Session,
            3 => Self::Busy,
            4 => Self::Signature,
            5 => Self::Evidence(input.text("reason", MAX_REASON)?),
            6 => Self::Policy(input.text("reason", MAX_REASON)?),
            7 => Self::Ledger,
            8 => Self::NotHolder,
            10 => Self::NoSuchSecret,
            11 => Self::Record,
            value => return Err(DecodeError::Unknown { what: Self::WHAT, value: value.into() }),
        })
    }
}

/// A denial in its session; all zeros where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The session.
    pub session: SessionId,
    /// Why.
    pub reason: Denied,
}

wire_struct!(Refusal, "refusal", { session, reason });

/// Any message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Instance to broker.
    Hello(Hello),
    /// Broker to instance.
    Challenge(Challenge),
    /// Instance to broker.
    Ask(Box<Ask>),
    /// Broker to instance.
    Answer(Answer),
    /// Broker to instance.
    Refusal(Refusal),
}

impl Message {
    /// Its name, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Challenge(_) => "challenge",
            Self::Ask(_) => "ask",
            Self::Answer(_) => "answer",
            Self::Refusal(_) => "refusal",
        }
    }
}

impl Wire for Message {
    const WHAT: &'static str = "message to or from a broker";

    fn write(&self, out: &mut Writer) {
        out.put(&VERSION);
        match self {
            Self::Hello(body) => {
                out.put(&1u8);
                out.put(body);
            }
            Self::Challenge(body) => {
                out.put(&2u8);
                out.put(body);
            }
            Self::Ask(body) => {
                out.put(&3u8);
                out.put(&**body);
            }
            Self::Answer(body) => {
                out.put(&4u8);
                out.put(body);
            }
            Self::Refusal(body) => {
                out.put(&5u8);
                out.put(body);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.take::<u8>()? {
            VERSION => {}
            value => {
                return Err(DecodeError::Unknown { what: "version of the broker's messages", value: value.into() });
            }
        }
        match input.take::<u8>()? {
            1 => input.take().map(Self::Hello),
            2 => input.take().map(Self::Challenge),
            3 => input.take().map(Box::new).map(Self::Ask),
            4 => input.take().map(Self::Answer),
            5 => input.take().map(Self::Refusal),
            value => Err(DecodeError::Unknown { what: Self::WHAT, value: value.into() }),
        }
    }
}
