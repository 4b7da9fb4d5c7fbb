//! One file, by `redb`: copy-on-write trees with checksums, an fsync before each answer.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | text | format version; the ledger's key |
//! | `states` | service id | the bytes of its `LedgerState` |
//! | `history` | service id, index (big-endian) | the bytes of the receipt |
//!
//! A commit has two phases: what is stored comes from strangers, who could otherwise choose bytes under which a torn
//! commit has a valid checksum.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use dunlin_handover::codec::Wire as _;
use dunlin_handover::ledger::{
    Checks, Ledger, LedgerState, Nomination, Reading, Receipt, Record, Refused, Request, Signer,
};
use dunlin_handover::{LedgerAnswer, LedgerCall, LedgerQuery, LedgerReply, Nonce, ServiceId};
use redb::{Database, ReadableDatabase as _, ReadableTable, StorageBackend, TableDefinition};

use crate::error::LedgerError;
use crate::wire::{Answer, MAX_RECEIPTS, Question};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const STATES: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("states");
const HISTORY: TableDefinition<'_, &[u8; 24], &[u8]> = TableDefinition::new("history");

const FORMAT: u64 = 1;

/// Small: the working set is one state per service, and receipts are written once and hardly ever read.
const CACHE: usize = 2 << 20;

/// A ledger in a file. Clones share it.
#[derive(Clone)]
pub struct RedbLedger {
    shared: Arc<Shared>,
}

struct Shared {
    database: Database,
    checks: Arc<dyn Checks>,
    signer: Arc<dyn Signer>,
}

impl core::fmt::Debug for RedbLedger {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RedbLedger").field("signer", &self.shared.signer).finish_non_exhaustive()
    }
}

impl RedbLedger {
    /// Opens the file, which is made if there is none. One process can have it open.
    ///
    /// # Errors
    /// [`LedgerError`], in particular when the file was written under another key than `signer`'s.
    pub fn open(path: &Path, checks: Arc<dyn Checks>, signer: Arc<dyn Signer>) -> Result<Self, LedgerError> {
        Self::start(checks, signer, || Database::builder().set_cache_size(CACHE).create(path))
    }

    /// Opens a ledger in storage of the caller's making.
    ///
    /// # Errors
    /// As [`RedbLedger::open`].
    pub fn open_on(
        storage: impl StorageBackend,
        checks: Arc<dyn Checks>,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, LedgerError> {
        Self::start(checks, signer, || Database::builder().set_cache_size(CACHE).create_with_backend(storage))
    }

    fn start(
        checks: Arc<dyn Checks>,
        signer: Arc<dyn Signer>,
        open: impl FnOnce() -> Result<Database, redb::DatabaseError>,
    ) -> Result<Self, LedgerError> {
        // A file that somebody changed can make redb panic while it opens it, which must not end this process.
        let database = catch_unwind(AssertUnwindSafe(open)).map_err(|_| LedgerError::Corrupted)?;
        let database = database.map_err(LedgerError::Open)?;
        let ledger = Self { shared: Arc::new(Shared { database, checks, signer }) };
        ledger.identify()?;
        Ok(ledger)
    }

    /// Writes format and key into a new file; compares them with those of an old one.
    fn identify(&self) -> Result<(), LedgerError> {
        let Shared { database, checks: _, signer } = &*self.shared;
        let mut write = database.begin_write()?;
        write.set_two_phase_commit(true);
        {
            let mut meta = write.open_table(META)?;
            write.open_table(STATES)?;
            write.open_table(HISTORY)?;
            let stored = meta.get("format")?.map(|value| value.value().to_vec());
            match stored {
                None => {
                    meta.insert("format", &FORMAT.to_le_bytes()[..])?;
                    meta.insert("key", &signer.key().0[..])?;
                }
                Some(bytes) => {
                    let damaged = |source| LedgerError::Damaged { what: "format version", source };
                    let found = u64::from_bytes(&bytes).map_err(damaged)?;
                    if found != FORMAT {
                        return Err(LedgerError::Format { found, known: FORMAT });
                    }
                    if meta.get("key")?.is_none_or(|key| key.value() != signer.key().0) {
                        return Err(LedgerError::OtherKey);
                    }
                }
            }
        }
        Ok(write.commit()?)
    }

    /// What the ledger says about every service, for people: not signed.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn records(&self) -> Result<Vec<Record>, LedgerError> {
        let states = self.shared.database.begin_read()?.open_table(STATES)?;
        let mut records = Vec::new();
        for entry in states.iter()? {
            let (_, bytes) = entry?;
            records.extend(state(bytes.value())?.record().copied());
        }
        Ok(records)
    }

    /// At most `count` receipts of a service from index `from` on, oldest first: what `verify_history` checks.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn history(&self, service: ServiceId, from: u64, count: usize) -> Result<Vec<Receipt>, LedgerError> {
        let history = self.shared.database.begin_read()?.open_table(HISTORY)?;
        let (first, last) = (place(service, from), place(service, u64::MAX));
        let mut receipts = Vec::new();
        for entry in history.range::<&[u8; 24]>(&first..=&last)?.take(count) {
            let (_, bytes) = entry?;
            let damaged = |source| LedgerError::Damaged { what: "history", source };
            receipts.push(Receipt::from_bytes(bytes.value()).map_err(damaged)?);
        }
        Ok(receipts)
    }

    /// Applies one request durably.
    ///
    /// # Errors
    /// As [`Ledger::apply`].
    pub fn apply(&self, request: &Request) -> Result<Result<Receipt, Refused>, LedgerError> {
        let Shared { database, checks, signer } = &*self.shared;
        // Signatures are checked and made before the one write transaction begins, so that a flood of wrong requests
        // does not hold up the right ones. What was decided holds if the state is still the one it was decided on.
        let mut seen = self.stored(request.service)?;
        let (mut before, mut after, mut answer) = decide(seen.as_deref(), request, &**checks, &**signer)?;
        loop {
            let receipt = match answer {
                Err(refused) => return Ok(Err(refused)),
                // A request that was sent again.
                Ok(receipt) if after == before => return Ok(Ok(receipt)),
                Ok(receipt) => receipt,
            };
            let mut write = database.begin_write()?;
            write.set_two_phase_commit(true);
            let moved_on = {
                let mut states = write.open_table(STATES)?;
                let now = states.get(&request.service.0)?.map(|bytes| bytes.value().to_vec());
                if now == seen {
                    states.insert(&request.service.0, &*after.to_bytes())?;
                    let mut history = write.open_table(HISTORY)?;
                    history.insert(&place(request.service, receipt.index), &*receipt.to_bytes())?;
                    None
                } else {
                    Some(now)
                }
            };
            match moved_on {
                None => {
                    write.commit()?;
                    return Ok(Ok(receipt));
                }
                Some(now) => {
                    write.abort()?;
                    seen = now;
                    (before, after, answer) = decide(seen.as_deref(), request, &**checks, &**signer)?;
                }
            }
        }
    }

    /// The current record, signed together with the caller's nonce.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub fn read(&self, service: ServiceId, nonce: Nonce) -> Result<Result<Reading, Refused>, LedgerError> {
        let stored = self.stored(service)?;
        Ok(state(stored.as_deref().unwrap_or(&vacant()))?.read(nonce, &*self.shared.signer))
    }

    /// Whether the policy in force lets a destination take its service, as far as that can be said before the transfer.
    ///
    /// # Errors
    /// As [`Ledger::appraise`].
    pub fn appraise(&self, nomination: &Nomination) -> Result<Result<(), Refused>, LedgerError> {
        let stored = self.stored(nomination.service)?;
        Ok(state(stored.as_deref().unwrap_or(&vacant()))?.appraise(nomination, &*self.shared.checks))
    }

    /// Answers a call. A storage that failed is a ledger that cannot be reached: whoever asks then asks again.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn call(&self, call: &LedgerCall) -> Result<LedgerReply, LedgerError> {
        let answer = match &call.query {
            LedgerQuery::Apply(request) => self.apply(request)?.map(LedgerAnswer::Receipt),
            LedgerQuery::Read { service, nonce } => self.read(*service, *nonce)?.map(LedgerAnswer::Reading),
            LedgerQuery::Appraise(nomination) => self.appraise(nomination)?.map(|()| LedgerAnswer::Fit),
        };
        Ok(LedgerReply { id: call.id, answer: answer.unwrap_or_else(LedgerAnswer::Refused) })
    }

    /// Answers a question from the wire.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn answer(&self, question: &Question) -> Result<Answer, LedgerError> {
        Ok(match question {
            Question::Call(call) => Answer::Reply(Box::new(self.call(call)?)),
            Question::History { id, service, from, count } => {
                let count = (*count).min(MAX_RECEIPTS).into();
                Answer::History { id: *id, receipts: self.history(*service, *from, count)? }
            }
        })
    }

    fn stored(&self, service: ServiceId) -> Result<Option<Vec<u8>>, LedgerError> {
        let states = self.shared.database.begin_read()?.open_table(STATES)?;
        Ok(states.get(&service.0)?.map(|bytes| bytes.value().to_vec()))
    }
}

impl Ledger for RedbLedger {
    type Error = LedgerError;

    fn apply(&mut self, request: &Request) -> Result<Result<Receipt, Refused>, LedgerError> {
        Self::apply(self, request)
    }

    fn read(&mut self, service: ServiceId, nonce: Nonce) -> Result<Result<Reading, Refused>, LedgerError> {
        Self::read(self, service, nonce)
    }

    fn appraise(&mut self, nomination: &Nomination) -> Result<Result<(), Refused>, LedgerError> {
        Self::appraise(self, nomination)
    }
}

type Decision = (LedgerState, LedgerState, Result<Receipt, Refused>);

fn decide(
    stored: Option<&[u8]>,
    request: &Request,
    checks: &dyn Checks,
    signer: &dyn Signer,
) -> Result<Decision, LedgerError> {
    let before = state(stored.unwrap_or(&vacant()))?;
    let mut after = before.clone();
    let answer = after.apply(request, checks, signer);
    Ok((before, after, answer))
}

fn state(bytes: &[u8]) -> Result<LedgerState, LedgerError> {
    LedgerState::from_bytes(bytes).map_err(|source| LedgerError::Damaged { what: "state of a service", source })
}

fn vacant() -> Vec<u8> {
    LedgerState::default().to_bytes()
}

fn place(service: ServiceId, index: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&service.0);
    key[16..].copy_from_slice(&index.to_be_bytes());
    key
}
