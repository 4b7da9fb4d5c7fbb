//! How many operations a second: `cargo run --release -p dunlin-ledger --example ledger_throughput [DIRECTORY]`.
//!
//! Signatures are hashes here, so that what is measured is the file: each operation is two fsyncs.

use std::sync::Arc;
use std::time::Instant;

use dunlin_base::Digest;
use dunlin_handover::ledger::{Candidate, Checks, Operation, Recovery, Request, Signer};
use dunlin_handover::{Key, Nonce, OperationId, ServiceId};
use dunlin_ledger::RedbLedger;

#[derive(Debug)]
struct Hash;

impl Signer for Hash {
    fn key(&self) -> Key {
        Key([7; 32])
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        Digest::of(message).0.to_vec()
    }
}

impl Checks for Hash {
    fn verify(&self, _: Key, message: &[u8], signature: &[u8]) -> bool {
        self.sign(message) == signature
    }

    fn appraise(&self, _: &Candidate<'_>) -> Result<(), String> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let path = directory.join(format!("dunlin-throughput-{}.redb", std::process::id()));
    let ledger = RedbLedger::open(&path, Arc::new(Hash), Arc::new(Hash))?;
    for threads in [1, 4] {
        let start = Instant::now();
        let per_thread = 2000 / threads;
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let ledger = &ledger;
                scope.spawn(move || (0..per_thread).try_for_each(|n| create(ledger, (threads, thread, n))));
            }
        });
        let rate = f64::from(per_thread * threads) / start.elapsed().as_secs_f64();
        println!("{threads} askers: {rate:.0} applies/s");
    }
    let start = Instant::now();
    for n in 0..20_000u32 {
        ledger.read(service((1, 0, n % 2000)), Nonce([1; 32]))??;
    }
    println!("1 asker: {:.0} reads/s", 20_000.0 / start.elapsed().as_secs_f64());
    drop(ledger);
    Ok(std::fs::remove_file(path)?)
}

fn service(number: (u32, u32, u32)) -> ServiceId {
    let mut id = [0; 16];
    id.copy_from_slice(&Digest::of(format!("{number:?}").as_bytes()).0[..16]);
    ServiceId(id)
}

fn create(ledger: &RedbLedger, number: (u32, u32, u32)) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let service = service(number);
    let digest = Digest::of(b"");
    let action = Operation::Create {
        owner: Hash.key(),
        state_hash: digest,
        policy_hash: digest,
        policy_version: 1,
        recovery: Recovery::default(),
    };
    let request = Request::new(service, OperationId(service.0), 0, 0, action);
    ledger.apply(&request.signed(&Hash))??;
    Ok(())
}
