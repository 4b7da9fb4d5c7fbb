//! What the ledger answers: receipts chained by hash, and readings bound to a nonce.

use dunlin_base::Digest;

use super::operation::Signature;
use super::{Checks, Record, Signer};
use crate::codec::{Writer, wire_struct};
use crate::ids::{Key, Nonce, OperationId};

/// The ledger's signed word that an operation took effect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt {
    /// Position in the service's chain; 0 for its creation.
    pub index: u64,
    /// The operation.
    pub operation: OperationId,
    /// Digest of the request.
    pub request: Digest,
    /// The record after the operation. Its `prev` is the digest of the receipt before this one.
    pub record: Record,
    /// The ledger's key.
    pub ledger: Key,
    /// By the ledger, over everything above.
    pub signature: Signature,
}

wire_struct!(Receipt, "receipt", { index, operation, request, record, ledger, signature });

impl Receipt {
    pub(super) fn new(
        index: u64,
        operation: OperationId,
        request: Digest,
        record: Record,
        signer: &dyn Signer,
    ) -> Self {
        let signature = Signature::default();
        let mut receipt = Self { index, operation, request, record, ledger: signer.key(), signature };
        receipt.signature = Signature(signer.sign(&receipt.signed_bytes()));
        receipt
    }

    /// What the signature covers.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let Self { index, operation, request, record, ledger, signature: _ } = self;
        let mut out = Writer::default();
        out.raw(b"dunlin receipt 1\0");
        out.put(index);
        out.put(operation);
        out.put(request);
        out.put(record);
        out.put(ledger);
        out.finish()
    }

    /// The digest that the next record in the chain carries as `prev`.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.signed_bytes())
    }

    /// Whether the ledger with key `ledger` signed this receipt.
    pub fn is_genuine(&self, ledger: Key, checks: &dyn Checks) -> bool {
        self.ledger == ledger && checks.verify(ledger, &self.signed_bytes(), &self.signature.0)
    }
}

/// The current record, signed together with the nonce of whoever asked: fresh, not only genuine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reading {
    /// The record.
    pub record: Record,
    /// Position of the last receipt.
    pub index: u64,
    /// Digest of the last receipt.
    pub head: Digest,
    /// The asker's nonce.
    pub nonce: Nonce,
    /// The ledger's key.
    pub ledger: Key,
    /// By the ledger, over everything above.
    pub signature: Signature,
}

wire_struct!(Reading, "reading", { record, index, head, nonce, ledger, signature });

impl Reading {
    pub(super) fn new(record: Record, index: u64, head: Digest, nonce: Nonce, signer: &dyn Signer) -> Self {
        let mut reading = Self { record, index, head, nonce, ledger: signer.key(), signature: Signature::default() };
        reading.signature = Signature(signer.sign(&reading.signed_bytes()));
        reading
    }

    /// What the signature covers.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let Self { record, index, head, nonce, ledger, signature: _ } = self;
        let mut out = Writer::default();
        out.raw(b"dunlin reading 1\0");
        out.put(record);
        out.put(index);
        out.put(head);
        out.put(nonce);
        out.put(ledger);
        out.finish()
    }

    /// Whether the ledger with key `ledger` made this reading for `nonce`.
    pub fn is_fresh(&self, ledger: Key, nonce: Nonce, checks: &dyn Checks) -> bool {
        self.nonce == nonce && self.ledger == ledger && checks.verify(ledger, &self.signed_bytes(), &self.signature.0)
    }
}
