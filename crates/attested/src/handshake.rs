//! The state machine of one side.

use std::collections::VecDeque;
use std::fmt;

use dunlin_attest::{BindingContext, Challenges as Nonces, Claims, Endorsements, Evidence};
use dunlin_handover::codec::Wire as _;
use dunlin_handover::ledger::Reading;
use dunlin_handover::{Nonce, ServiceId};

use crate::appraise::{Attested, Challenges, compare, context, judge, verify};
use crate::config::{Config, Side};
use crate::ledger::BoundEvidence;
use crate::message::{Attest, Challenge, MAX_MESSAGE, MAX_REASONS, Message, VERSION, Verdict};
use crate::refusal::{Check, Party, Reason, Refused};

/// Something that the driver must do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Ask the own platform for evidence that is bound to this; answer with [`Handshake::evidence`].
    Evidence(Box<BindingContext>),
    /// Ask the ledger about the service, with this nonce; answer with [`Handshake::reading`].
    ReadLedger {
        /// Which service.
        service: ServiceId,
        /// The other side's nonce.
        nonce: Nonce,
    },
}

/// The end of a handshake in which both sides accepted each other.
#[derive(Debug, Clone)]
pub struct Done {
    /// The other side.
    pub peer: Attested,
    /// The own evidence, as the other side has it.
    pub own: BoundEvidence,
    /// The epoch in which the source holds the service.
    pub epoch: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Challenge,
    Attest,
    Verdict,
    Nothing,
}

/// One side of a handshake.
pub struct Handshake {
    config: Config,
    own: Challenge,
    peer: Option<Challenge>,
    expected: Expected,
    nonces: Nonces,
    claims: Option<Claims>,
    proof: Option<(Evidence, Endorsements)>,
    reading: Option<Reading>,
    sent_proof: Option<BoundEvidence>,
    waiting: Option<Box<Attest>>,
    attested: Option<Attested>,
    sent_verdict: bool,
    out: VecDeque<Vec<u8>>,
    actions: VecDeque<Action>,
    outcome: Option<Result<Box<Done>, Refused>>,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake")
            .field("side", &self.config.side)
            .field("expects", &self.expected)
            .finish_non_exhaustive()
    }
}

impl Handshake {
    /// Begins at `now` (seconds since 1970) with a nonce that was never used before.
    pub fn new(config: Config, nonce: [u8; 32], now: u64) -> Self {
        let terms = &config.terms;
        let own = Challenge {
            version: VERSION,
            side: config.side,
            nonce: Nonce(nonce),
            migration: terms.migration,
            service: terms.service,
            epoch: terms.epoch.unwrap_or_default(),
            policy: config.trust.policy.hash(),
            module: terms.module,
            ledger: terms.ledger,
        };
        let mut handshake = Self {
            config,
            own,
            peer: None,
            expected: Expected::Challenge,
            nonces: Nonces::new(1),
            claims: None,
            proof: None,
            reading: None,
            sent_proof: None,
            waiting: None,
            attested: None,
            sent_verdict: false,
            out: VecDeque::new(),
            actions: VecDeque::new(),
            outcome: None,
        };
        if let Err(error) = handshake.nonces.give_out(nonce, now) {
            handshake.refuse(vec![Reason::of(Check::Nonce, &error)]);
        } else if handshake.config.side == Side::Source {
            // The destination answers, so that it can take the epoch from here.
            handshake.send(&Message::Challenge(own));
        }
        handshake
    }

    /// Takes a message of the other side.
    pub fn handle(&mut self, now: u64, bytes: &[u8]) {
        if self.outcome.is_some() {
            return;
        }
        if bytes.len() > MAX_MESSAGE {
            let text = format!("a message of {} bytes came; at most {MAX_MESSAGE} are allowed", bytes.len());
            return self.refuse(vec![Reason::new(Check::Message, text)]);
        }
        let message = match Message::from_bytes(bytes) {
            Ok(message) => message,
            Err(error) => return self.refuse(vec![Reason::of(Check::Message, &error)]),
        };
        let name = message.name();
        match (self.expected, message) {
            // A refusal may come at any time.
            (_, Message::Verdict(Verdict { reasons })) if !reasons.is_empty() => {
                self.end(Err(Refused { by: Party::There, reasons }));
            }
            (Expected::Challenge, Message::Challenge(challenge)) => self.challenged(challenge),
            (Expected::Attest, Message::Attest(proof)) => {
                self.expected = Expected::Verdict;
                self.waiting = Some(proof);
                self.advance(now);
            }
            (Expected::Verdict, Message::Verdict(_)) if self.attested.is_some() => {
                self.expected = Expected::Nothing;
                self.conclude();
            }
            (_, _) => {
                let text = format!("the message {name} has no place here");
                self.refuse(vec![Reason::new(Check::Message, text)]);
            }
        }
    }

    /// Takes what the own platform gave.
    pub fn evidence(&mut self, now: u64, given: Result<(Evidence, Endorsements), String>) {
        let Some(challenges) = self.challenges().filter(|_| self.outcome.is_none() && self.proof.is_none()) else {
            return;
        };
        let (evidence, endorsements) = match given {
            Ok(given) => given,
            Err(error) => return self.refuse(vec![Reason::new(Check::Local, error)]),
        };
        // A platform whose own evidence does not verify is better noticed here than at the other side.
        let config = &self.config;
        let key = config.signer.verifying_key();
        let expected = context(config, challenges, config.side, key, &config.kem_key).report_data();
        match verify(&config.trust, &evidence, &endorsements, &expected, now) {
            Ok(claims) => self.claims = Some(claims),
            Err(error) => {
                let reason = Reason::of(Check::Local, &error);
                return self.refuse(vec![reason]);
            }
        }
        self.proof = Some((evidence, endorsements));
        self.advance(now);
    }

    /// Takes the ledger's answer.
    pub fn reading(&mut self, now: u64, given: Result<Reading, String>) {
        if self.outcome.is_some() || self.config.side != Side::Source || self.reading.is_some() {
            return;
        }
        match given {
            Ok(reading) => self.reading = Some(reading),
            Err(error) => return self.refuse(vec![Reason::new(Check::Local, error)]),
        }
        self.advance(now);
    }

    /// The next message for the other side.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// How it ended; `None` while it goes on. What is left to send is to be sent all the same.
    pub fn outcome(&self) -> Option<&Result<Box<Done>, Refused>> {
        self.outcome.as_ref()
    }

    fn challenges(&self) -> Option<Challenges<'_>> {
        self.peer.as_ref().map(|peer| Challenges { own: &self.own, peer })
    }

    fn challenged(&mut self, challenge: Challenge) {
        if self.config.side == Side::Destination && self.config.terms.epoch.is_none() {
            self.own.epoch = challenge.epoch;
        }
        let reasons = compare(&self.config, &self.own, &challenge);
        if !reasons.is_empty() {
            return self.refuse(reasons);
        }
        self.peer = Some(challenge);
        self.expected = Expected::Attest;
        let challenges = Challenges { own: &self.own, peer: &challenge };
        let config = &self.config;
        let key = config.signer.verifying_key();
        let binding = context(config, challenges, config.side, key, &config.kem_key);
        self.actions.push_back(Action::Evidence(Box::new(binding)));
        if self.config.side == Side::Source {
            let service = self.config.terms.service;
            self.actions.push_back(Action::ReadLedger { service, nonce: challenge.nonce });
        } else {
            self.send(&Message::Challenge(self.own));
        }
    }

    /// Does what has become possible. A destination proves itself first: it has nothing to lose yet.
    fn advance(&mut self, now: u64) {
        if self.config.side == Side::Destination {
            self.prove();
        }
        // A source compares the destination with itself, so it must know itself.
        if self.claims.is_some()
            && let Some(proof) = self.waiting.take()
        {
            self.judge(now, *proof);
        }
        if self.attested.is_some() && self.outcome.is_none() {
            self.prove();
            if self.sent_proof.is_some() && !self.sent_verdict {
                self.sent_verdict = true;
                self.send(&Message::Verdict(Verdict { reasons: Vec::new() }));
            }
        }
    }

    fn judge(&mut self, now: u64, proof: Attest) {
        // Used up by a wrong answer as well.
        let spent = self.nonces.take(&self.own.nonce.0, now);
        let Some(challenges) = self.challenges() else { return };
        let source = self.claims.as_ref().filter(|_| self.config.side == Side::Source);
        let judged = judge(&self.config, challenges, proof, source, now);
        match (spent, judged) {
            (Ok(()), Ok(attested)) => self.attested = Some(attested),
            (Ok(()), Err(reasons)) => self.refuse(reasons),
            (Err(error), judged) => {
                let mut reasons = vec![Reason::of(Check::Nonce, &error)];
                reasons.extend(judged.err().unwrap_or_default());
                self.refuse(reasons);
            }
        }
    }

    /// Sends the own proof, once everything for it is there.
    fn prove(&mut self) {
        let is_source = self.config.side == Side::Source;
        if self.sent_proof.is_some() || (is_source && self.reading.is_none()) {
            return;
        }
        let (Some((evidence, endorsements)), Some(challenges)) = (&self.proof, self.challenges()) else { return };
        let (key, kem_key) = (self.config.signer.verifying_key(), &self.config.kem_key);
        let sent = BoundEvidence {
            binding: context(&self.config, challenges, self.config.side, key, kem_key),
            evidence: evidence.to_cbor(),
            endorsements: endorsements.to_cbor(),
        };
        let mut proof = Attest {
            instance_key: key.to_bytes().try_into().unwrap_or([0; 33]),
            kem_key: kem_key.clone(),
            evidence: sent.evidence.clone(),
            endorsements: sent.endorsements.clone(),
            reading: self.reading.clone(),
            signature: [0; 64],
        };
        let signed = proof.signed_bytes(self.config.side, &self.config.session, true, &challenges.transcript());
        proof.signature = self.config.signer.sign(&signed);
        self.sent_proof = Some(sent);
        self.send(&Message::Attest(Box::new(proof)));
    }

    fn conclude(&mut self) {
        let (Some(peer), Some(own)) = (self.attested.take(), self.sent_proof.clone()) else { return };
        self.end(Ok(Box::new(Done { peer, own, epoch: self.own.epoch })));
    }

    fn refuse(&mut self, mut reasons: Vec<Reason>) {
        reasons.truncate(MAX_REASONS);
        self.send(&Message::Verdict(Verdict { reasons: reasons.clone() }));
        self.end(Err(Refused { by: Party::Here, reasons }));
    }

    fn end(&mut self, outcome: Result<Box<Done>, Refused>) {
        self.actions.clear();
        self.expected = Expected::Nothing;
        self.outcome = Some(outcome);
    }

    fn send(&mut self, message: &Message) {
        self.out.push_back(message.to_bytes());
    }
}
