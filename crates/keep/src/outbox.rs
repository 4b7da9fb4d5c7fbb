//! Reports to the node, and by way of the node questions to the ledger and streams to the broker.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dunlin_handover::{LedgerAnswer, LedgerCall, LedgerQuery, LedgerReply};
use dunlin_keep_link::{
    BrokerCall, Channel, ChannelError, Failed, Note, OrderId, Packet, Proof, ProofCall, ProofReply, Report, Versions,
};

use crate::error::Failure;
use crate::migrate::LedgerWay;

/// How long one question to the ledger, or call for a stream, waits for its answer. Whoever asks asks again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a call for a proof waits: a TPM takes up to a second for a quote, and other keeps may come first.
const PROOF: Duration = Duration::from_secs(8);

/// The way out. Reports of several threads go out one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Outbox(Arc<Channel>);

impl Outbox {
    pub(crate) fn new(channel: Arc<Channel>) -> Self {
        Self(channel)
    }

    /// Sends a report. When that fails the node is gone, and the end of the link ends the keep.
    pub(crate) fn send(&self, report: &Report) {
        let _gone = self.send_with(report, &[]);
    }

    pub(crate) fn send_with(&self, report: &Report, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let packet = Packet::report(Versions::SUPPORTED.newest, report)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.0.send(&packet, descriptors).map_err(|error| match error {
            ChannelError::Io(error) => error,
            other => io::Error::other(other),
        })
    }

    pub(crate) fn failed(&self, order: OrderId, failure: &Failure) {
        self.send(&Report::Failed(Failed { order, code: failure.code(), text: failure.text() }));
    }

    pub(crate) fn note(&self, text: impl Into<String>) {
        self.send(&Report::Note(Note { text: text.into() }));
    }

    /// Nothing is sent from here on; the node hears the end behind everything that was.
    pub(crate) fn finish(&self) {
        let _gone = rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Write);
    }

    /// Nothing is received either: a keep that waits for the node's end waits no longer.
    pub(crate) fn give_up(&self) {
        let _gone = rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Both);
    }
}

/// Questions that wait for answers. Answers are as untrusted as the node: whoever asked checks them.
#[derive(Debug, Clone)]
pub(crate) struct Post(Arc<Waiting>);

#[derive(Debug)]
struct Waiting {
    outbox: Outbox,
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, SyncSender<LedgerAnswer>>>,
    streams: Mutex<BTreeMap<u64, SyncSender<OwnedFd>>>,
    proofs: Mutex<BTreeMap<u64, SyncSender<Result<Proof, String>>>>,
}

impl Post {
    pub(crate) fn new(outbox: Outbox) -> Self {
        let (open, streams, proofs) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self(Arc::new(Waiting { outbox, next: AtomicU64::new(1), open, streams, proofs }))
    }

    /// Asks the ledger and waits; [`LedgerAnswer::Unreachable`] if no answer came in time.
    pub(crate) fn ask(&self, query: LedgerQuery) -> LedgerAnswer {
        // Numbers of the keep as a whole: several state machines ask, each with numbers of its own.
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (answered, answer) = sync_channel(1);
        self.open().insert(id, answered);
        self.0.outbox.send(&Report::Ledger(LedgerCall { id, query }));
        let answer = answer.recv_timeout(PATIENCE).unwrap_or(LedgerAnswer::Unreachable);
        self.open().remove(&id);
        answer
    }

    /// Takes an answer. One that nobody waits for is thrown away.
    pub(crate) fn deliver(&self, reply: LedgerReply) {
        let waiting = self.open().remove(&reply.id);
        if let Some(waiting) = waiting {
            let _gone = waiting.try_send(reply.answer);
        }
    }

    /// A stream to the broker, or `None` if none came in time. Whoever is at its other end is not believed for that.
    pub(crate) fn broker(&self) -> Option<OwnedFd> {
        let call = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (brought, stream) = sync_channel(1);
        self.streams().insert(call, brought);
        self.0.outbox.send(&Report::Broker(BrokerCall { call }));
        let stream = stream.recv_timeout(PATIENCE).ok();
        self.streams().remove(&call);
        stream
    }

    /// Takes a stream. One that nobody waits for is closed.
    pub(crate) fn bring(&self, call: BrokerCall, descriptors: Vec<OwnedFd>) {
        let waiting = self.streams().remove(&call.call);
        if let (Some(waiting), Some(stream)) = (waiting, descriptors.into_iter().next()) {
            let _gone = waiting.try_send(stream);
        }
    }

    /// What the machine's platform says of this keep, or why it says nothing; `None` if no answer came in time.
    pub(crate) fn prove(&self, binding: Vec<u8>) -> Option<Result<Proof, String>> {
        let call = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (answered, answer) = sync_channel(1);
        self.proofs().insert(call, answered);
        self.0.outbox.send(&Report::Proof(ProofCall { call, binding }));
        let answer = answer.recv_timeout(PROOF).ok();
        self.proofs().remove(&call);
        answer
    }

    /// Takes a proof. One that nobody waits for is thrown away.
    pub(crate) fn proven(&self, reply: ProofReply) {
        let waiting = self.proofs().remove(&reply.call);
        if let Some(waiting) = waiting {
            let _gone = waiting.try_send(reply.given);
        }
    }

    fn proofs(&self) -> MutexGuard<'_, BTreeMap<u64, SyncSender<Result<Proof, String>>>> {
        self.0.proofs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, BTreeMap<u64, SyncSender<OwnedFd>>> {
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, SyncSender<LedgerAnswer>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LedgerWay for Post {
    fn ask(&mut self, call: &LedgerCall) -> LedgerAnswer {
        Self::ask(self, call.query.clone())
    }
}
