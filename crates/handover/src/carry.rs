//! The bytes of calls to the ledger and of its answers, for carrying them over a way that nobody trusts.
//!
//! ```text
//! call    0  u64  id                        reply   0  u64  id
//!         8  u8   1 apply, 2 read, 3 appraise       8  u8   1 receipt, 2 reading, 3 refused, 4 unreachable, 5 fit
//!         9       the request, or                   9       the value, if there is one
//!                 service id and nonce, or
//!                 the nomination
//! ```

use crate::codec::{DecodeError, Reader, Wire, Writer};
use crate::party::{LedgerAnswer, LedgerCall, LedgerQuery, LedgerReply};

/// Most bytes of an encoded [`LedgerCall`]: sixteen signatures of the largest size, a recovery set, a statement,
/// and a proof.
pub const MAX_CALL: usize = 256 << 10;

/// Most bytes of an encoded [`LedgerReply`].
pub const MAX_REPLY: usize = 16 << 10;

impl Wire for LedgerCall {
    const WHAT: &'static str = "ledger call";

    fn write(&self, out: &mut Writer) {
        let Self { id, query } = self;
        out.put(id);
        match query {
            LedgerQuery::Apply(request) => {
                out.put(&1u8);
                out.put(&**request);
            }
            LedgerQuery::Read { service, nonce } => {
                out.put(&2u8);
                out.put(service);
                out.put(nonce);
            }
            LedgerQuery::Appraise(nomination) => {
                out.put(&3u8);
                out.put(&**nomination);
            }
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = input.take()?;
        let query = match input.take::<u8>()? {
            1 => LedgerQuery::Apply(Box::new(input.take()?)),
            2 => LedgerQuery::Read { service: input.take()?, nonce: input.take()? },
            3 => LedgerQuery::Appraise(Box::new(input.take()?)),
            value => return Err(DecodeError::Unknown { what: "kind of ledger call", value: value.into() }),
        };
        Ok(Self { id, query })
    }
}

impl Wire for LedgerReply {
    const WHAT: &'static str = "ledger reply";

    fn write(&self, out: &mut Writer) {
        let Self { id, answer } = self;
        out.put(id);
        match answer {
            LedgerAnswer::Receipt(receipt) => {
                out.put(&1u8);
                out.put(receipt);
            }
            LedgerAnswer::Reading(reading) => {
                out.put(&2u8);
                out.put(reading);
            }
            LedgerAnswer::Refused(refused) => {
                out.put(&3u8);
                out.put(refused);
            }
            LedgerAnswer::Unreachable => out.put(&4u8),
            LedgerAnswer::Fit => out.put(&5u8),
        }
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = input.take()?;
        let answer = match input.take::<u8>()? {
            1 => LedgerAnswer::Receipt(input.take()?),
            2 => LedgerAnswer::Reading(input.take()?),
            3 => LedgerAnswer::Refused(input.take()?),
            4 => LedgerAnswer::Unreachable,
            5 => LedgerAnswer::Fit,
            value => return Err(DecodeError::Unknown { what: "kind of ledger reply", value: value.into() }),
        };
        Ok(Self { id, answer })
    }
}

#[cfg(test)]
mod tests {
    use dunlin_base::Digest;

    use super::*;
    use crate::ids::{Key, MigrationId, Nonce, OperationId, PlatformId, ServiceId};
    use crate::ledger::{
        MAX_PROOF, MAX_SIGNATURE, Nomination, Operation, Reading, Receipt, Record, Refused, Request, Signature, Staged,
        Status,
    };

    fn signature() -> Signature {
        Signature(vec![0xa5; MAX_SIGNATURE])
    }

    fn record() -> Record {
        Record {
            service: ServiceId([1; 16]),
            epoch: 3,
            holder: Some(Key([2; 32])),
            holder_platform: Some(PlatformId([3; 32])),
            version: 9,
            state_hash: Digest([4; 32]),
            state_epoch: 3,
            policy_hash: Digest([5; 32]),
            policy_version: 1,
            status: Status::Held,
            prev: Digest([6; 32]),
        }
    }

    #[test]
    fn the_largest_call_and_reply_fit_and_come_back() {
        let staged = Staged {
            service: ServiceId([1; 16]),
            migration: MigrationId([7; 16]),
            epoch: 3,
            version: 10,
            state_hash: Digest([8; 32]),
            holder: Key([9; 32]),
            platform: PlatformId([10; 32]),
            complete: true,
            signature: signature(),
        };
        let action =
            Operation::Transfer { state_hash: Digest([8; 32]), evidence: Digest([11; 32]), retained: true, staged };
        let request = Request {
            service: ServiceId([1; 16]),
            operation: OperationId([12; 16]),
            epoch: 3,
            version: 9,
            action,
            signatures: (0..16).map(|by| (Key([by; 32]), signature().0)).collect(),
            proof: vec![0x5a; MAX_PROOF],
        };
        let read = LedgerQuery::Read { service: ServiceId([1; 16]), nonce: Nonce([13; 32]) };
        let nomination = Nomination {
            service: ServiceId([1; 16]),
            epoch: 3,
            migration: MigrationId([7; 16]),
            holder: Key([9; 32]),
            evidence: Digest([11; 32]),
            proof: vec![0x5a; MAX_PROOF],
        };
        for query in [LedgerQuery::Apply(Box::new(request)), read, LedgerQuery::Appraise(Box::new(nomination))] {
            let call = LedgerCall { id: u64::MAX, query };
            let bytes = call.to_bytes();
            assert!(bytes.len() <= MAX_CALL, "{}", bytes.len());
            assert_eq!(LedgerCall::from_bytes(&bytes), Ok(call));
            assert!(LedgerCall::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        }
        let (ledger, nonce) = (Key([14; 32]), Nonce([13; 32]));
        let receipt = Receipt {
            index: 4,
            operation: OperationId([12; 16]),
            request: Digest([15; 32]),
            record: record(),
            ledger,
            signature: signature(),
        };
        let reading =
            Reading { record: record(), index: 4, head: Digest([16; 32]), nonce, ledger, signature: signature() };
        let answers = [
            LedgerAnswer::Receipt(receipt),
            LedgerAnswer::Reading(reading),
            LedgerAnswer::Refused(Refused::Denied("x".repeat(512))),
            LedgerAnswer::Unreachable,
            LedgerAnswer::Fit,
        ];
        for answer in answers {
            let reply = LedgerReply { id: 5, answer };
            let bytes = reply.to_bytes();
            assert!(bytes.len() <= MAX_REPLY, "{}", bytes.len());
            assert_eq!(LedgerReply::from_bytes(&bytes), Ok(reply));
        }
        assert!(LedgerReply::from_bytes(&[0, 0, 0, 0, 0, 0, 0, 0, 6]).is_err());
    }
}
