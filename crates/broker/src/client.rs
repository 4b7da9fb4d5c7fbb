//! The instance's side, step by step. Each step is a type, so that none can be left out.

use core::fmt;
use std::sync::Arc;

use dunlin_attest::{BindingContext, Bytes, Endorsements, Evidence, Policy, Role, SigningKey, VerifyingKey};
use dunlin_base::Digest;
use dunlin_handover::codec::Wire as _;
use dunlin_handover::{Key, Nonce, ServiceId};
use dunlin_seal::EpochKey;
use zeroize::Zeroizing;

use crate::envelope::{self, KemKey};
use crate::error::FetchError;
use crate::keys;
use crate::message::{Ask, Hello, Message, Point, SessionId, Signed, Want};

/// Who asks, and what it knows of its service.
#[derive(Debug)]
pub struct Party {
    /// The service, as the ledger names it.
    pub service: ServiceId,
    /// The service, as the policy names it.
    pub name: String,
    /// The epoch in which this instance holds the service.
    pub epoch: u64,
    /// The instance's signing key.
    pub instance: SigningKey,
    /// The key to which answers are encrypted.
    pub kem: Arc<KemKey>,
    /// The module that runs.
    pub module: Digest,
    /// The policy in force.
    pub policy: Digest,
    /// The provider of the machine.
    pub provider: String,
    /// The ledger's name.
    pub ledger: String,
    /// Whose answers count.
    pub brokers: Brokers,
}

/// The keys by which an instance knows its broker. They come from the policy, never from whoever carries the messages.
#[derive(Debug, Clone)]
pub enum Brokers {
    /// Those that the policy names.
    Named(Vec<VerifyingKey>),
    /// The policy names none: whoever keeps the ledger is the broker, too, and signs with the ledger's key.
    Ledger(Key),
}

impl Brokers {
    /// As `policy` has it. `ledger` is the key of the ledger in force.
    pub fn of(policy: &Policy, ledger: Key) -> Self {
        match &policy.document().broker {
            Some(broker) => Self::Named(broker.keys.clone()),
            None => Self::Ledger(ledger),
        }
    }

    fn know(&self, key: &VerifyingKey) -> bool {
        match self {
            Self::Named(keys) => keys.contains(key),
            Self::Ledger(ledger) => keys::ledger_name(key) == *ledger,
        }
    }
}

/// What came of a question.
pub enum Released {
    /// Keys.
    Keys {
        /// Of the instance's own epoch.
        own: EpochKey,
        /// Of the epoch in which the last state was committed, where that is another one.
        written: Option<EpochKey>,
    },
    /// A secret.
    Secret(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for Released {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys { own, written } => {
                f.debug_struct("Keys").field("own", own).field("written", written).finish_non_exhaustive()
            }
            Self::Secret(_) => f.debug_struct("Secret").finish_non_exhaustive(),
        }
    }
}

/// A question that was begun.
#[derive(Debug)]
pub struct Fetch<'a> {
    party: &'a Party,
    want: Want,
    nonce: Nonce,
    channel: [u8; 32],
}

impl<'a> Fetch<'a> {
    /// Begins a question. `nonce` is random. `channel` is the exporter of the channel to the broker, or zero where
    /// messages are relayed.
    pub fn begin(party: &'a Party, want: Want, nonce: Nonce, channel: [u8; 32]) -> (Self, Message) {
        let hello = Message::Hello(Hello { service: party.service, nonce });
        (Self { party, want, nonce, channel }, hello)
    }

    /// Takes the broker's challenge.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn challenged(self, message: Message) -> Result<Challenged<'a>, FetchError> {
        let challenge = match message {
            Message::Challenge(challenge) => challenge,
            Message::Refusal(refusal) => return Err(refusal.reason.into()),
            other => return Err(FetchError::Unexpected(other.name())),
        };
        let known = |key: &VerifyingKey| self.party.brokers.know(key);
        let broker = challenge.broker().filter(known).ok_or(FetchError::WrongBroker)?;
        let exporter = envelope::exporter(&broker, challenge.session, &self.nonce.0, &challenge.nonce.0, &self.channel);
        let party = self.party;
        let instance_key = party.instance.verifying_key();
        let binding = BindingContext {
            role: Role::ServiceToBroker,
            exporter,
            peer_nonce: challenge.nonce.0,
            own_spki: instance_key.spki_hash(),
            peer_spki: broker.spki_hash(),
            instance_key,
            kem_key: Bytes::from(party.kem.public()),
            service: party.name.clone(),
            epoch: party.epoch,
            migration: [0; 16],
            policy: party.policy,
            module: party.module,
            provider: party.provider.clone(),
            ledger: party.ledger.clone(),
        };
        Ok(Challenged { party, want: self.want, session: challenge.session, broker, exporter, binding })
    }
}

/// A question for which evidence is due.
#[derive(Debug)]
pub struct Challenged<'a> {
    party: &'a Party,
    want: Want,
    session: SessionId,
    broker: VerifyingKey,
    exporter: [u8; 32],
    binding: BindingContext,
}

impl<'a> Challenged<'a> {
    /// What the evidence must be bound to.
    pub fn binding(&self) -> &BindingContext {
        &self.binding
    }

    /// Asks, with evidence for [`Self::binding`].
    pub fn ask(self, evidence: &Evidence, endorsements: &Endorsements) -> (Asked<'a>, Message) {
        let Self { party, want, session, broker, exporter, binding } = self;
        let mut ask = Ask {
            session,
            want,
            epoch: party.epoch,
            instance: Point::of(&binding.instance_key),
            kem_key: party.kem.public(),
            module: party.module,
            provider: party.provider.clone(),
            evidence: evidence.to_cbor(),
            endorsements: endorsements.to_cbor(),
            signature: Signed([0; 64]),
        };
        ask.signature = Signed(party.instance.sign(&envelope::ask_signed(&exporter, &ask.unsigned_bytes())));
        let digest = Digest::of(&ask.to_bytes());
        let asked = Asked { party, wants_keys: ask.want == Want::Keys, session, broker, exporter, digest };
        (asked, Message::Ask(Box::new(ask)))
    }
}

/// A question whose answer is due.
#[derive(Debug)]
pub struct Asked<'a> {
    party: &'a Party,
    wants_keys: bool,
    session: SessionId,
    broker: VerifyingKey,
    exporter: [u8; 32],
    digest: Digest,
}

impl Asked<'_> {
    /// Takes the answer.
    ///
    /// # Errors
    /// [`FetchError`].
    pub fn answered(self, message: Message) -> Result<Released, FetchError> {
        let answer = match message {
            Message::Answer(answer) => answer,
            Message::Refusal(refusal) => return Err(refusal.reason.into()),
            other => return Err(FetchError::Unexpected(other.name())),
        };
        let signed = envelope::answer_signed(&self.exporter, &self.digest, &answer.encapsulated, &answer.sealed);
        if answer.session != self.session || !self.broker.verifies(&signed, &answer.signature.0) {
            return Err(FetchError::NotGenuine);
        }
        let Self { party, exporter, digest, .. } = &self;
        let plain = envelope::open(&party.kem, exporter, digest, &answer.encapsulated, &answer.sealed);
        let plain = plain.ok_or(FetchError::NotGenuine)?;
        if !self.wants_keys {
            return Ok(Released::Secret(plain));
        }
        self.keys(&plain).ok_or(FetchError::Content)
    }

    fn keys(&self, plain: &[u8]) -> Option<Released> {
        let (count, entries) = plain.split_first()?;
        let (entries, rest) = entries.as_chunks::<40>();
        if !rest.is_empty() || entries.len() != usize::from(*count) || entries.len() > 2 {
            return None;
        }
        let mut keys = entries.iter().filter_map(|entry| {
            let (epoch, key) = entry.split_first_chunk::<8>()?;
            Some(EpochKey::from_bytes(self.party.service.0, u64::from_le_bytes(*epoch), key.try_into().ok()?))
        });
        let own = keys.next().filter(|key| key.epoch() == self.party.epoch)?;
        Some(Released::Keys { own, written: keys.next() })
    }
}
