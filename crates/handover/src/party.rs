//! What both sides of a migration have: a link, keys, calls to the ledger and a sense of silence.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{Entropy, Key, Nonce, ServiceId, Time};
use crate::ledger::{Checks, Nomination, Reading, Receipt, Refused, Request, Signer};
use crate::message::{FrameError, Link, Message};

/// The keys of one side, and how it checks those of others.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The instance key, which holds the service or is to hold it.
    pub holder: Arc<dyn Signer>,
    /// The machine's key.
    pub platform: Arc<dyn Signer>,
    /// How signatures and evidence are checked.
    pub checks: Arc<dyn Checks>,
    /// The ledger whose word counts.
    pub ledger: Key,
}

/// Times after which a side does something about silence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Send a ping after this much silence of our own.
    pub keepalive: Duration,
    /// Take the link for lost after this much silence of the other side.
    pub peer_silence: Duration,
    /// For how long a driver that waits for its storage, and says nothing else, says that it lives.
    pub busy: Duration,
    /// First wait before a call to the ledger is sent again; doubles up to 16 times this.
    pub ledger_retry: Duration,
    /// How long a source that has committed waits for the word that the program runs at the destination.
    pub activation: Duration,
    /// How long a destination that has staged waits for a decision before it parks its copy.
    pub decision: Duration,
    /// In post-copy: give the service back when the link stays lost for so long. `None`: stay paused until it is back.
    pub give_back: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keepalive: Duration::from_secs(1),
            peer_silence: Duration::from_secs(5),
            busy: Duration::from_secs(60),
            ledger_retry: Duration::from_millis(500),
            activation: Duration::from_secs(30),
            decision: Duration::from_secs(120),
            give_back: None,
        }
    }
}

/// A question to the ledger, to be carried by the driver. It may be lost, repeated or delayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerCall {
    /// To be given back with the answer.
    pub id: u64,
    /// The question.
    pub query: LedgerQuery,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerQuery {
    /// Apply this request.
    Apply(Box<Request>),
    /// Read the record of a service.
    Read {
        /// Which service.
        service: ServiceId,
        /// To be signed with the answer.
        nonce: Nonce,
    },
    /// Say whether the policy lets this destination take the service. State machines do not ask that; whoever drives them may,
    /// before they begin.
    Appraise(Box<Nomination>),
}

/// An answer, as untrusted as the way that it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerReply {
    /// Of the call.
    pub id: u64,
    /// The answer.
    pub answer: LedgerAnswer,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerAnswer {
    /// The request took effect.
    Receipt(Receipt),
    /// The record.
    Reading(Reading),
    /// The rules say no. Not signed, so nothing final may follow from it alone.
    Refused(Refused),
    /// The policy lets the destination take the service. Not signed: it spares a refusal later, and is no permission.
    Fit,
    /// Nobody answered; whether the request took effect is unknown.
    Unreachable,
}

/// An answer that was checked against its question.
#[derive(Debug)]
pub(crate) enum Answered {
    Applied(Box<Request>, Box<Receipt>),
    Read(Box<Reading>),
    Refused(LedgerQuery, Refused),
}

#[derive(Debug)]
struct Outstanding {
    query: LedgerQuery,
    again: Time,
    wait: Duration,
}

#[derive(Debug)]
pub(crate) struct Party {
    pub(crate) service: ServiceId,
    pub(crate) keys: Keys,
    pub(crate) limits: Limits,
    pub(crate) entropy: Entropy,
    pub(crate) link: Link,
    /// Whether the link is up, as far as we know.
    pub(crate) connected: bool,
    heard: Time,
    spoke: Time,
    next_call: u64,
    calls: BTreeMap<u64, Outstanding>,
}

impl Party {
    pub(crate) fn new(service: ServiceId, keys: Keys, limits: Limits, entropy: Entropy, link: Link, now: Time) -> Self {
        Self {
            service,
            keys,
            limits,
            entropy,
            link,
            connected: true,
            heard: now,
            spoke: now,
            next_call: 0,
            calls: BTreeMap::new(),
        }
    }

    pub(crate) fn send(&mut self, now: Time, message: &Message) {
        if self.connected {
            self.spoke = now;
            self.link.send(message);
        }
    }

    pub(crate) fn receive(&mut self, now: Time, frame: &[u8]) -> Result<Message, FrameError> {
        let message = self.link.receive(frame)?;
        self.heard = now;
        if let Message::Ping(token) = message {
            self.send(now, &Message::Pong(token));
        }
        Ok(message)
    }

    /// The other side lives, as its driver says without a message.
    pub(crate) fn alive(&mut self, now: Time) {
        self.heard = now;
    }

    /// A new channel to the same peer.
    pub(crate) fn reconnect(&mut self, now: Time, link: Link) {
        self.link = link;
        self.connected = true;
        self.heard = now;
        self.spoke = now;
    }

    /// Pings when it is time to. Returns whether the other side has been silent for too long.
    pub(crate) fn keep_alive(&mut self, now: Time) -> bool {
        if !self.connected {
            return false;
        }
        if now.since(self.heard) >= self.limits.peer_silence {
            return true;
        }
        if now.since(self.spoke) >= self.limits.keepalive {
            self.send(now, &Message::Ping(now.0));
        }
        false
    }

    pub(crate) fn timeout(&self) -> Option<Time> {
        let alive = self.connected.then(|| {
            let silent = self.heard + self.limits.peer_silence;
            silent.min(self.spoke + self.limits.keepalive)
        });
        self.calls.values().map(|call| call.again).chain(alive).min()
    }

    pub(crate) fn apply(&mut self, now: Time, request: Request) -> LedgerCall {
        self.call(now, LedgerQuery::Apply(Box::new(request)))
    }

    pub(crate) fn read(&mut self, now: Time) -> LedgerCall {
        let nonce = self.entropy.nonce();
        self.read_for(now, nonce)
    }

    pub(crate) fn read_for(&mut self, now: Time, nonce: Nonce) -> LedgerCall {
        let service = self.service;
        self.call(now, LedgerQuery::Read { service, nonce })
    }

    pub(crate) fn is_reading(&self) -> bool {
        self.calls.values().any(|call| matches!(call.query, LedgerQuery::Read { .. }))
    }

    pub(crate) fn is_applying(&self) -> bool {
        self.calls.values().any(|call| matches!(call.query, LedgerQuery::Apply(_)))
    }

    pub(crate) fn forget_calls(&mut self) {
        self.calls.clear();
    }

    /// Calls that are to be sent again.
    pub(crate) fn due_calls(&mut self, now: Time) -> Vec<LedgerCall> {
        let longest = self.limits.ledger_retry.saturating_mul(16);
        let due = self.calls.iter_mut().filter(|(_, call)| call.again <= now);
        due.map(|(id, call)| {
            call.wait = call.wait.saturating_mul(2).min(longest);
            call.again = now + call.wait;
            LedgerCall { id: *id, query: call.query.clone() }
        })
        .collect()
    }

    /// Matches an answer to its call and checks it. An answer that is not genuine is no answer: the call goes out
    /// again later.
    pub(crate) fn answered(&mut self, reply: LedgerReply) -> Option<Answered> {
        let query = self.calls.get(&reply.id)?.query.clone();
        let Keys { checks, ledger, .. } = &self.keys;
        let answered = match (query, reply.answer) {
            (LedgerQuery::Apply(request), LedgerAnswer::Receipt(receipt))
                if receipt.request == request.digest() && receipt.is_genuine(*ledger, &**checks) =>
            {
                Answered::Applied(request, Box::new(receipt))
            }
            (LedgerQuery::Read { service, nonce }, LedgerAnswer::Reading(reading))
                if reading.record.service == service && reading.is_fresh(*ledger, nonce, &**checks) =>
            {
                Answered::Read(Box::new(reading))
            }
            (query, LedgerAnswer::Refused(refused)) => Answered::Refused(query, refused),
            _ => return None,
        };
        self.calls.remove(&reply.id);
        Some(answered)
    }

    fn call(&mut self, now: Time, query: LedgerQuery) -> LedgerCall {
        let id = self.next_call;
        self.next_call += 1;
        let wait = self.limits.ledger_retry;
        self.calls.insert(id, Outstanding { query: query.clone(), again: now + wait, wait });
        LedgerCall { id, query }
    }
}

/// Why a message was not taken. The migration has already reacted when this is returned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Not the next frame of the link.
    #[error("the other side's frame was refused")]
    Frame(#[from] FrameError),
    /// A message that has no place in this phase.
    #[error("the message {message} is not allowed in the phase {phase}")]
    Unexpected {
        /// Our phase.
        phase: &'static str,
        /// The message.
        message: &'static str,
    },
    /// A message whose content contradicts what was said before.
    #[error("the message {message} is not acceptable: {why}")]
    Unacceptable {
        /// The message.
        message: &'static str,
        /// The rule that it breaks.
        why: &'static str,
    },
}
