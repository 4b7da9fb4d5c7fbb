//! The rule book: what one request does to the state of one service.

use std::collections::VecDeque;

use dunlin_base::Digest;

use super::operation::{Operation, Recovery, Request, Staged};
use super::{Authority, Candidate, Checks, Nomination, Reading, Receipt, Record, Refused, Signer, Status, Takes};
use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::ids::{Key, Nonce, PlatformId, ServiceId};

/// How many of the last requests are remembered, so that one sent again is answered again. An older one is refused
/// by the compare-and-swap, so that forgetting costs an answer and never a second effect.
const REMEMBERED: usize = 32;

/// Everything that the ledger keeps about one service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LedgerState {
    entry: Option<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Entry {
    record: Record,
    owner: Key,
    recovery: Recovery,
    /// The last receipts, oldest first; never empty.
    recent: VecDeque<Receipt>,
}

impl LedgerState {
    /// The record, if the service was created.
    pub fn record(&self) -> Option<&Record> {
        self.entry.as_ref().map(|entry| &entry.record)
    }

    /// The receipts of the last operations, oldest first.
    pub fn recent(&self) -> impl Iterator<Item = &Receipt> {
        self.entry.iter().flat_map(|entry| &entry.recent)
    }

    /// Does what `request` asks, or nothing.
    ///
    /// # Errors
    /// [`Refused`] says why nothing was done.
    pub fn apply(&mut self, request: &Request, checks: &dyn Checks, signer: &dyn Signer) -> Result<Receipt, Refused> {
        let digest = request.digest();
        if let Some(entry) = &self.entry
            && let Some(known) = entry.recent.iter().find(|receipt| receipt.operation == request.operation)
        {
            return if known.request == digest { Ok(known.clone()) } else { Err(Refused::OperationReused) };
        }
        let (next, index) = match (&self.entry, &request.action) {
            (None, Operation::Create { .. }) => (create(request, checks)?, 0),
            (None, _) => return Err(Refused::NoSuchService),
            (Some(_), Operation::Create { .. }) => return Err(Refused::ServiceExists),
            (Some(entry), _) => entry.after(request, checks)?,
        };
        let mut next = next;
        let receipt = Receipt::new(index, request.operation, digest, next.record, signer);
        if next.recent.len() == REMEMBERED {
            next.recent.pop_front();
        }
        next.recent.push_back(receipt.clone());
        self.entry = Some(next);
        Ok(receipt)
    }

    /// The record now, bound to the caller's nonce.
    ///
    /// # Errors
    /// [`Refused::NoSuchService`].
    pub fn read(&self, nonce: Nonce, signer: &dyn Signer) -> Result<Reading, Refused> {
        let entry = self.entry.as_ref().ok_or(Refused::NoSuchService)?;
        let last = entry.recent.back().ok_or(Refused::NoSuchService)?;
        Ok(Reading::new(entry.record, last.index, last.digest(), nonce, signer))
    }

    /// Whether the policy in force lets a destination take the service, as far as that can be said before the transfer.
    ///
    /// # Errors
    /// [`Refused`] says why not.
    pub fn appraise(&self, nomination: &Nomination, checks: &dyn Checks) -> Result<(), Refused> {
        let Nomination { service, epoch, migration, holder, evidence, proof } = nomination;
        let record = self.record().filter(|record| record.service == *service).ok_or(Refused::NoSuchService)?;
        is_status(record, Status::Held)?;
        if *epoch != record.epoch {
            return Err(Refused::Stale { epoch: record.epoch, version: record.version });
        }
        let candidate = record.candidate(*holder, *evidence, Takes::Transfer(*migration));
        checks.appraise(&Candidate { proof, ..candidate }).map_err(Refused::Denied)
    }
}

fn create(request: &Request, checks: &dyn Checks) -> Result<Entry, Refused> {
    let Operation::Create { owner, state_hash, policy_hash, policy_version, recovery } = &request.action else {
        return Err(Refused::NoSuchService);
    };
    if (request.epoch, request.version) != (0, 0) {
        return Err(Refused::Stale { epoch: 0, version: 0 });
    }
    if !recovery.is_well_formed() {
        return Err(Refused::BadRecovery);
    }
    needs(request.is_signed_by(*owner, checks), Authority::Owner)?;
    let record = Record {
        service: request.service,
        epoch: 1,
        holder: None,
        holder_platform: None,
        version: 0,
        state_hash: *state_hash,
        state_epoch: 0,
        policy_hash: *policy_hash,
        policy_version: *policy_version,
        status: Status::Created,
        prev: Digest([0; 32]),
    };
    Ok(Entry { record, owner: *owner, recovery: recovery.clone(), recent: VecDeque::new() })
}

impl Entry {
    /// The state after `request`, and the index of its receipt.
    fn after(&self, request: &Request, checks: &dyn Checks) -> Result<(Self, u64), Refused> {
        let record = &self.record;
        if request.service != record.service {
            return Err(Refused::NoSuchService);
        }
        if record.status == Status::Retired {
            return Err(Refused::Retired);
        }
        if (request.epoch, request.version) != (record.epoch, record.version) {
            return Err(Refused::Stale { epoch: record.epoch, version: record.version });
        }
        let candidate = |holder: &Key, platform: &PlatformId, evidence: &Digest, takes| Candidate {
            platform: Some(*platform),
            proof: &request.proof,
            ..record.candidate(*holder, *evidence, takes)
        };
        let mut next = self.clone();
        match &request.action {
            Operation::Create { .. } => return Err(Refused::ServiceExists),
            Operation::Claim { holder, platform, evidence } => {
                is_status(record, Status::Created)?;
                needs(request.is_signed_by(*holder, checks), Authority::NewHolder)?;
                needs(request.is_signed_by(platform.key(), checks), Authority::Platform)?;
                next.give_to(&candidate(holder, platform, evidence, Takes::Claim), checks)?;
            }
            Operation::Commit { parent, state_hash } => {
                is_status(record, Status::Held)?;
                self.needs_holder(request, checks)?;
                if *parent != record.state_hash {
                    return Err(Refused::WrongParent);
                }
                next.advance(*state_hash)?;
            }
            Operation::Resume { holder, platform, evidence } => {
                is_status(record, Status::Held)?;
                let here = record.holder_platform == Some(*platform);
                needs(here && request.is_signed_by(platform.key(), checks), Authority::Platform)?;
                needs(request.is_signed_by(*holder, checks), Authority::NewHolder)?;
                next.give_to(&candidate(holder, platform, evidence, Takes::Resume), checks)?;
            }
            Operation::Transfer { state_hash, evidence, retained, staged } => {
                is_status(record, Status::Held)?;
                self.needs_holder(request, checks)?;
                next.advance(*state_hash)?;
                self.vouches(staged, &next.record, checks)?;
                if !staged.complete && !retained {
                    return Err(Refused::NothingRetained);
                }
                // Given back to a copy that was kept, the state is the one that came, under the key that it had.
                if staged.complete && *retained && *state_hash == record.state_hash {
                    next.record.state_epoch = record.state_epoch;
                }
                let takes = Takes::Transfer(staged.migration);
                next.give_to(&candidate(&staged.holder, &staged.platform, evidence, takes), checks)?;
            }
            Operation::Recover { holder, platform, evidence } => {
                needs(self.can_recover(request, checks), Authority::Recovery)?;
                next.give_to(&candidate(holder, platform, evidence, Takes::Recover), checks)?;
            }
            Operation::UpdatePolicy { policy_hash, policy_version, recovery } => {
                needs(request.is_signed_by(self.owner, checks), Authority::Owner)?;
                if *policy_version <= record.policy_version {
                    return Err(Refused::PolicyNotNewer);
                }
                if !recovery.is_well_formed() {
                    return Err(Refused::BadRecovery);
                }
                next.record.policy_hash = *policy_hash;
                next.record.policy_version = *policy_version;
                next.recovery = recovery.clone();
            }
            Operation::Retire => {
                needs(request.is_signed_by(self.owner, checks), Authority::Owner)?;
                next.record.epoch = up(record.epoch)?;
                next.record.holder = None;
                next.record.holder_platform = None;
                next.record.status = Status::Retired;
            }
        }
        let last = self.recent.back().ok_or(Refused::NoSuchService)?;
        next.record.prev = last.digest();
        Ok((next, up(last.index)?))
    }

    fn needs_holder(&self, request: &Request, checks: &dyn Checks) -> Result<(), Refused> {
        let signed = self.record.holder.is_some_and(|holder| request.is_signed_by(holder, checks));
        needs(signed, Authority::Holder)
    }

    fn can_recover(&self, request: &Request, checks: &dyn Checks) -> bool {
        let Recovery { threshold, keys } = &self.recovery;
        let signed = keys.iter().filter(|key| request.is_signed_by(**key, checks)).count();
        request.is_signed_by(self.owner, checks) || (*threshold > 0 && signed >= usize::from(*threshold))
    }

    /// Whether `staged` speaks about exactly the record that a transfer would make.
    fn vouches(&self, staged: &Staged, after: &Record, checks: &dyn Checks) -> Result<(), Refused> {
        let Staged {
            service,
            migration: _,
            epoch,
            version,
            state_hash,
            holder: _,
            platform: _,
            complete: _,
            signature: _,
        } = staged;
        let same = *service == after.service
            && *epoch == self.record.epoch
            && *version == after.version
            && *state_hash == after.state_hash;
        if same && staged.is_genuine(checks) { Ok(()) } else { Err(Refused::NotStaged) }
    }

    fn advance(&mut self, state_hash: Digest) -> Result<(), Refused> {
        self.record.version = up(self.record.version)?;
        self.record.state_hash = state_hash;
        self.record.state_epoch = self.record.epoch;
        Ok(())
    }

    /// A new holder, if the policy permits it. Every change of holder goes through here, so that none is without a
    /// new epoch.
    fn give_to(&mut self, candidate: &Candidate<'_>, checks: &dyn Checks) -> Result<(), Refused> {
        checks.appraise(candidate).map_err(Refused::Denied)?;
        self.record.epoch = up(self.record.epoch)?;
        self.record.holder = Some(candidate.holder);
        self.record.holder_platform = candidate.platform;
        self.record.status = Status::Held;
        Ok(())
    }
}

fn needs(met: bool, authority: Authority) -> Result<(), Refused> {
    if met { Ok(()) } else { Err(Refused::NotAuthorised(authority)) }
}

fn is_status(record: &Record, status: Status) -> Result<(), Refused> {
    if record.status == status { Ok(()) } else { Err(Refused::WrongStatus) }
}

fn up(counter: u64) -> Result<u64, Refused> {
    counter.checked_add(1).ok_or(Refused::Exhausted)
}

/// The form in which a storage keeps it: a format version, then the entry.
impl Wire for LedgerState {
    const WHAT: &'static str = "ledger state";

    fn write(&self, out: &mut Writer) {
        out.put(&1u16);
        out.put(&self.entry.is_some());
        if let Some(Entry { record, owner, recovery, recent }) = &self.entry {
            out.put(record);
            out.put(owner);
            out.put(recovery);
            out.put(&(recent.len() as u32));
            recent.iter().for_each(|receipt| out.put(receipt));
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match input.take::<u16>()? {
            1 => {}
            value => return Err(DecodeError::Unknown { what: "ledger state version", value: value.into() }),
        }
        if !input.take::<bool>()? {
            return Ok(Self { entry: None });
        }
        let entry = Entry {
            record: input.take()?,
            owner: input.take()?,
            recovery: input.take()?,
            recent: input.list("recent receipts", REMEMBERED)?.into(),
        };
        // A torn or mixed file must not become a record that nobody signed for.
        if entry.recent.back().is_none_or(|last| last.record != entry.record) {
            return Err(DecodeError::Invalid { what: Self::WHAT, why: "the last receipt carries the record" });
        }
        Ok(Self { entry: Some(entry) })
    }
}

/// The service that a state is about, once it was created.
impl LedgerState {
    /// Which service this is.
    pub fn service(&self) -> Option<ServiceId> {
        self.record().map(|record| record.service)
    }
}
