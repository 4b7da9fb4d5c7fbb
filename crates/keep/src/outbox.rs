//! Reports to the node, and questions to the ledger by way of the node.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dunlin_handover::{LedgerAnswer, LedgerCall, LedgerQuery, LedgerReply};
use dunlin_keep_link::{Channel, ChannelError, Failed, Note, OrderId, Packet, Report, Versions};

use crate::error::Failure;
use crate::migrate::LedgerWay;

/// How long one question to the ledger waits for its answer. Whoever asks asks again.
const PATIENCE: Duration = Duration::from_secs(2);

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
}

impl Post {
    pub(crate) fn new(outbox: Outbox) -> Self {
        Self(Arc::new(Waiting { outbox, next: AtomicU64::new(1), open: Mutex::default() }))
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

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, SyncSender<LedgerAnswer>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LedgerWay for Post {
    fn ask(&mut self, call: &LedgerCall) -> LedgerAnswer {
        Self::ask(self, call.query.clone())
    }
}
