//! The broker's side: decides, and neither reads, writes nor waits.
//!
//! ```text
//!   Hello ──> challenged ──Ask: signature, evidence, policy──> reading ──Reading: holder, epoch──> recording ──> Answer
//!                 └─────────────────────────── anything wrong: Refusal, and the session is over ────┘
//! ```

use core::fmt;
use std::collections::BTreeMap;
use std::sync::Arc;

use dunlin_attest::{
    AppraisalContext, BindingContext, Bytes, Challenges, Endorsements, Evidence, PlatformId, Policy, Role, SigningKey,
    SimRoots, TrustRoots, Verifier,
};
use dunlin_base::{Digest, with_causes};
use dunlin_handover::codec::Wire as _;
use dunlin_handover::ledger::{Checks, Reading};
use dunlin_handover::{Entropy, Key, Nonce, ServiceId};
use dunlin_seal::ServiceRoot;
use zeroize::Zeroizing;

use crate::message::{Answer, Ask, Challenge, Denied, Hello, Message, Point, Refusal, SessionId, Signed, Want};
use crate::record::Release;
use crate::rules;
use crate::vault::SecretRule;
use crate::{envelope, keys};

/// Sessions at a time, over all services.
const SESSIONS: usize = 1024;
/// Seconds that a session lives.
const LIFETIME: u64 = 300;

/// A service whose keys the broker keeps.
pub struct Service {
    /// Its owner's policy, in force.
    pub policy: Policy,
    /// The key of its ledger.
    pub ledger: Key,
    /// The root of its keys.
    pub root: ServiceRoot,
    /// The owner's secrets, by name.
    pub secrets: BTreeMap<String, (SecretRule, Zeroizing<Vec<u8>>)>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, secrets) = (&self.policy.document().service, self.secrets.len());
        f.debug_struct("Service").field("name", name).field("secrets", &secrets).finish_non_exhaustive()
    }
}

/// What evidence is verified under.
#[derive(Debug, Clone)]
pub enum Roots {
    /// The vendors' roots and the providers of each policy.
    Production,
    /// The same, and these for simulated platforms. What hangs under them is class `sim`, and a policy with a higher
    /// floor refuses it.
    WithSimulation(SimRoots),
}

/// What comes in.
#[derive(Debug)]
pub enum Input {
    /// A message of an instance.
    Message(Message),
    /// What the ledger answered, if it did.
    Ledger(SessionId, Option<Box<Reading>>),
    /// Whether the release is on record.
    Recorded(SessionId, bool),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this to whom the message came from.
    Reply(Message),
    /// Read the ledger with this nonce.
    ReadLedger {
        /// For this session.
        session: SessionId,
        /// About this service.
        service: ServiceId,
        /// With this nonce.
        nonce: Nonce,
    },
    /// Put this on record, durably.
    Record {
        /// For this session.
        session: SessionId,
        /// What is about to be released.
        release: Release,
    },
}

/// The broker.
pub struct Broker {
    key: SigningKey,
    checks: Arc<dyn Checks>,
    roots: Roots,
    /// The exporter of the channel that all messages come over; zero where there is none.
    channel: [u8; 32],
    services: BTreeMap<ServiceId, Service>,
    challenges: Challenges,
    sessions: BTreeMap<SessionId, (u64, Session)>,
    /// The highest reset and restart counts of each TPM.
    tpms: BTreeMap<PlatformId, (u32, u32)>,
    entropy: Entropy,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (services, sessions) = (self.services.len(), self.sessions.len());
        f.debug_struct("Broker").field("services", &services).field("sessions", &sessions).finish_non_exhaustive()
    }
}

enum Session {
    Challenged { service: ServiceId, client: Nonce, nonce: Nonce },
    Reading { service: ServiceId, exporter: [u8; 32], ask: Box<Ask>, nonce: Nonce },
    Recording { answer: Answer },
}

impl Broker {
    /// A broker that signs with `key` and has no services yet. `checks` knows how the ledger's keys sign.
    pub fn new(key: SigningKey, checks: Arc<dyn Checks>, roots: Roots, entropy: Entropy) -> Self {
        Self {
            key,
            checks,
            roots,
            channel: [0; 32],
            services: BTreeMap::new(),
            challenges: Challenges::new(SESSIONS),
            sessions: BTreeMap::new(),
            tpms: BTreeMap::new(),
            entropy,
        }
    }

    /// Keeps the keys of a service, or takes a newer policy for it.
    pub fn keep(&mut self, service: ServiceId, keys: Service) {
        self.services.insert(service, keys);
    }

    /// Takes one step. `now` is seconds since 1970.
    pub fn step(&mut self, input: Input, now: u64) -> Output {
        self.sessions.retain(|_, (began, _)| now.saturating_sub(*began) <= LIFETIME);
        let (session, outcome) = match input {
            Input::Message(Message::Hello(hello)) => (SessionId([0; 16]), self.hello(&hello, now)),
            Input::Message(Message::Ask(ask)) => (ask.session, self.ask(ask, now)),
            Input::Message(Message::Challenge(_) | Message::Answer(_) | Message::Refusal(_)) => {
                (SessionId([0; 16]), Err(Denied::Session))
            }
            Input::Ledger(session, reading) => (session, self.ledger(session, reading, now)),
            Input::Recorded(session, done) => (session, self.recorded(session, done)),
        };
        outcome.unwrap_or_else(|reason| Output::Reply(Message::Refusal(Refusal { session, reason })))
    }

    fn hello(&mut self, hello: &Hello, now: u64) -> Result<Output, Denied> {
        if !self.services.contains_key(&hello.service) {
            return Err(Denied::NoSuchService);
        }
        if self.sessions.len() >= SESSIONS {
            return Err(Denied::Busy);
        }
        let (nonce, session) = (self.entropy.nonce(), SessionId(self.entropy.operation().0));
        self.challenges.give_out(nonce.0, now).map_err(|_| Denied::Busy)?;
        let state = Session::Challenged { service: hello.service, client: hello.nonce, nonce };
        self.sessions.insert(session, (now, state));
        let broker = Point::of(&self.key.verifying_key());
        Ok(Output::Reply(Message::Challenge(Challenge { session, nonce, broker })))
    }

    fn ask(&mut self, ask: Box<Ask>, now: u64) -> Result<Output, Denied> {
        // Whatever comes of it, this session had its answer.
        let state = self.sessions.remove(&ask.session);
        let Some((began, Session::Challenged { service, client, nonce })) = state else { return Err(Denied::Session) };
        self.challenges.take(&nonce.0, now).map_err(|_| Denied::Session)?;
        let held = self.services.get(&service).ok_or(Denied::NoSuchService)?;
        let broker = self.key.verifying_key();
        let exporter = envelope::exporter(&broker, ask.session, &client.0, &nonce.0, &self.channel);
        let instance = ask.instance.key().ok_or(Denied::Signature)?;
        let signed = envelope::ask_signed(&exporter, &ask.unsigned_bytes());
        if !instance.verifies(&signed, &ask.signature.0) {
            return Err(Denied::Signature);
        }
        let binding = BindingContext {
            role: Role::ServiceToBroker,
            exporter,
            peer_nonce: nonce.0,
            own_spki: instance.spki_hash(),
            peer_spki: broker.spki_hash(),
            instance_key: instance,
            kem_key: Bytes::from(ask.kem_key),
            service: held.policy.document().service.clone(),
            epoch: ask.epoch,
            migration: [0; 16],
            policy: held.policy.hash(),
            module: ask.module,
            provider: ask.provider.clone(),
            ledger: held.policy.document().ledger.id.clone(),
        };
        self.appraise(&ask, service, &binding, now)?;
        let nonce = self.entropy.nonce();
        let session = ask.session;
        self.sessions.insert(session, (began, Session::Reading { service, exporter, ask, nonce }));
        Ok(Output::ReadLedger { session, service, nonce })
    }

    /// Verifies the evidence and asks the policy about it.
    fn appraise(&mut self, ask: &Ask, service: ServiceId, binding: &BindingContext, now: u64) -> Result<(), Denied> {
        let refused = |error: &dyn core::error::Error| Denied::Evidence(with_causes(error));
        let evidence = Evidence::from_cbor(&ask.evidence).map_err(|error| refused(&error))?;
        let endorsements = Endorsements::from_cbor(&ask.endorsements).map_err(|error| refused(&error))?;
        let policy = &self.services.get(&service).ok_or(Denied::NoSuchService)?.policy;
        let expected = binding.report_data();
        let claims = match (&self.roots, &evidence) {
            (Roots::WithSimulation(roots), Evidence::Sim(_)) => {
                Verifier::appraise(&evidence, &endorsements, &expected, now, roots)
            }
            _ => Verifier::appraise(&evidence, &endorsements, &expected, now, &TrustRoots::for_policy(policy)),
        };
        let claims = claims.map_err(|error| refused(&error))?;
        let tpm_last_seen = self.tpms.get(&claims.platform).copied();
        let context = AppraisalContext { now, binding, role: Role::ServiceToBroker, source: None, tpm_last_seen };
        let appraisal = policy.appraise(&claims, &context);
        if !appraisal.is_accepted() {
            let reasons: Vec<String> = appraisal.reasons().iter().map(ToString::to_string).collect();
            return Err(Denied::Policy(reasons.join("; ")));
        }
        if let Some(tpm) = &claims.tpm {
            self.tpms.insert(claims.platform.clone(), (tpm.reset_count, tpm.restart_count));
        }
        Ok(())
    }

    fn ledger(&mut self, session: SessionId, reading: Option<Box<Reading>>, now: u64) -> Result<Output, Denied> {
        let state = self.sessions.remove(&session);
        let Some((began, Session::Reading { service, exporter, ask, nonce })) = state else {
            return Err(Denied::Session);
        };
        let held = self.services.get(&service).ok_or(Denied::NoSuchService)?;
        let reading = reading
            .filter(|reading| reading.is_fresh(held.ledger, nonce, &*self.checks) && reading.record.service == service);
        let Reading { record, head, .. } = *reading.ok_or(Denied::Ledger)?;
        let holder = keys::ledger_name(&ask.instance.key().ok_or(Denied::Signature)?);
        rules::holder(&record, holder, ask.epoch)?;
        if record.policy_hash != held.policy.hash() {
            let message = "the ledger names another policy than the one this broker has: give the broker the new one";
            return Err(Denied::Policy(message.to_owned()));
        }
        let written_in = match ask.want {
            Want::Keys => rules::written_in(&record),
            Want::Secret(_) => None,
        };
        let plain = release(held, service, &ask, written_in)?;
        let digest = Digest::of(&ask.to_bytes());
        let seed = Zeroizing::new(self.entropy.nonce().0);
        // The evidence vouches for the key, but even a genuine instance can send one that is none.
        let (encapsulated, sealed) = envelope::seal(&ask.kem_key, &exporter, &digest, &plain, seed)
            .ok_or_else(|| Denied::Evidence("the key to encrypt to is no key".to_owned()))?;
        let signed = envelope::answer_signed(&exporter, &digest, &encapsulated, &sealed);
        let signature = Signed(self.key.sign(&signed));
        let evidence = Digest::of(&ask.evidence);
        let release = Release {
            service,
            holder,
            epoch: ask.epoch,
            want: ask.want.clone(),
            written_in,
            evidence,
            head,
            time: now,
        };
        let answer = Answer { session, encapsulated, sealed, signature };
        self.sessions.insert(session, (began, Session::Recording { answer }));
        Ok(Output::Record { session, release })
    }

    fn recorded(&mut self, session: SessionId, done: bool) -> Result<Output, Denied> {
        match self.sessions.remove(&session) {
            Some((_, Session::Recording { answer })) if done => Ok(Output::Reply(Message::Answer(answer))),
            Some((_, Session::Recording { .. })) => Err(Denied::Record),
            _ => Err(Denied::Session),
        }
    }
}

/// What is released, in its encoding: two keys at the most, or one secret.
fn release(
    held: &Service,
    service: ServiceId,
    ask: &Ask,
    written_in: Option<u64>,
) -> Result<Zeroizing<Vec<u8>>, Denied> {
    match &ask.want {
        Want::Keys => {
            let mut plain = Zeroizing::new(Vec::with_capacity(2 * 40 + 1));
            let earlier = written_in.filter(|epoch| *epoch != ask.epoch);
            plain.push(1 + u8::from(earlier.is_some()));
            for epoch in [Some(ask.epoch), earlier].into_iter().flatten() {
                plain.extend_from_slice(&epoch.to_le_bytes());
                plain.extend_from_slice(held.root.epoch_key(service.0, epoch).expose());
            }
            Ok(plain)
        }
        Want::Secret(name) => {
            let (rule, secret) = held.secrets.get(name).ok_or(Denied::NoSuchSecret)?;
            if rule.permits(&ask.module) { Ok(secret.clone()) } else { Err(Denied::NoSuchSecret) }
        }
    }
}
