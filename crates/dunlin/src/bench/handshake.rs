//! How long two keeps take to trust each other: TLS with both certificates, then the attested handshake with simulated
//! platforms, both ends on this machine. Samples of other technologies are not bound to a session, so no handshake can
//! be made with them; what their appraisal adds is in the table before.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use dunlin_attest::{Attester as _, Bytes, Policy, TpmEvent, TpmEventKind, VerifyingKey};
use dunlin_attest_sim::SimAttester;
use dunlin_attested::{Config, Handshake, InstanceSigner, SessionFacts, Side, Terms, Trust, run};
use dunlin_base::Digest;
use dunlin_handover::ledger::{Reading, Record, Signature, Signer, Status};
use dunlin_handover::{Key, MigrationId, Nonce, PlatformId, ServiceId};
use dunlin_identity::{Issuer, PrivateKey, Verifier};
use dunlin_transport::{Roots, Session, TlsIdentity, accept, connect};
use serde::Serialize;

use super::statistics::{Samples, Spread};
use crate::failure::{Exit, Failure, Result};
use crate::text::{Table, milliseconds, time_of};

/// The goal for a whole handshake of one pair, in milliseconds.
const GOAL: f64 = 5.0;
/// Inside the validity of the open policy. Only the certificates look at the clock.
const NOW: u64 = 1_795_132_800;
/// What the streams of the throughput measurement carry.
const BYTES: usize = 1 << 30;

/// All that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    goal_ms: f64,
    handshakes: Vec<Row>,
    /// Bytes in a second in one direction of a session, in units of 10^9.
    stream_gb_per_second: f64,
}

/// Handshakes of so many pairs at once.
#[derive(Debug, Serialize)]
struct Row {
    technology: &'static str,
    concurrent: usize,
    /// TLS alone.
    tls: Spread,
    /// TLS and the attested handshake, until both sides have accepted.
    whole: Spread,
    per_second: f64,
}

pub(super) fn measure(rounds: usize) -> Result<Report> {
    let world = World::new()?;
    let mut handshakes = Vec::new();
    for concurrent in [1, 2, 4, 8, 16, 32, 64] {
        handshakes.push(row(&world, concurrent, rounds)?);
    }
    Ok(Report { goal_ms: GOAL, handshakes, stream_gb_per_second: throughput(&world)? })
}

impl Report {
    pub(super) fn text(&self) -> String {
        let mut table = Table::new(&["technology", ">pairs at once", ">TLS", ">whole", ">p99", ">per second"]);
        for Row { technology, concurrent, tls, whole, per_second } in &self.handshakes {
            table.row([
                (*technology).to_owned(),
                concurrent.to_string(),
                time_of(tls.p50),
                time_of(whole.p50),
                time_of(whole.p99),
                format!("{per_second:.0}"),
            ]);
        }
        format!(
            "Handshake: stream to mutual trust, both ends here (goal {} alone)\n{}\nEncrypted stream: {:.2} GB/s in one \
             direction\n",
            time_of(self.goal_ms),
            table.render("  "),
            self.stream_gb_per_second
        )
    }
}

/// An instance key in the form that handshakes use.
#[derive(Debug, Clone)]
struct Instance {
    key: PrivateKey,
    verifying: VerifyingKey,
}

impl InstanceSigner for Instance {
    fn verifying_key(&self) -> VerifyingKey {
        self.verifying
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        // The key goes before the signature.
        self.key.sign(message).last_chunk().copied().unwrap_or([0; 64])
    }
}

struct Keep {
    instance: Instance,
    identity: TlsIdentity,
    attester: SimAttester,
}

/// Two keeps of one provider, and a ledger.
struct World {
    source: Keep,
    destination: Keep,
    roots: Roots,
    ledger: PrivateKey,
    policy: Policy,
    record: Record,
}

fn bad<E: std::error::Error + Send + Sync + 'static>(error: E) -> Failure {
    Failure::because(Exit::Software, "the keeps of the benchmark cannot be made")(error)
}

impl World {
    fn new() -> Result<Self> {
        let hour = Duration::from_secs(3600);
        let key = || PrivateKey::generate().map_err(bad);
        let provider = Issuer::provider("bench", key()?, hour).map_err(bad)?;
        let node = key()?;
        let chain = provider.certify_node("node", node.public(), hour).map_err(bad)?;
        let machine = Issuer::new(node, chain).map_err(bad)?;
        let mut roots = Roots::new();
        for root in provider.chain() {
            roots.add("bench", root).map_err(bad)?;
        }
        let (ledger, module) = (key()?, Digest::of(b"module"));
        let service = ServiceId([1; 16]);
        let policy = dunlin_attested::open_policy(service, &module, ledger.key()).map_err(bad)?;
        let keep = || -> Result<Keep> {
            let key = key()?;
            let chain = machine.certify_keep(key.public(), hour).map_err(bad)?;
            let identity = TlsIdentity::new(chain, key.to_pkcs8().map_err(bad)?.to_vec()).map_err(bad)?;
            let verifying = VerifyingKey::from_bytes(&key.public().compressed()).map_err(bad)?;
            let attester = SimAttester::of_this_program("bench").map_err(bad)?;
            for (kind, digest) in [(TpmEventKind::Module, module), (TpmEventKind::Policy, policy.hash())] {
                attester.measure(TpmEvent { kind, digest }).map_err(bad)?;
            }
            Ok(Keep { instance: Instance { key, verifying }, identity, attester })
        };
        let (source, destination) = (keep()?, keep()?);
        let record = Record {
            service,
            epoch: 1,
            holder: Some(source.instance.key.key()),
            holder_platform: Some(PlatformId([2; 32])),
            version: 1,
            state_hash: Digest([3; 32]),
            state_epoch: 3,
            policy_hash: policy.hash(),
            policy_version: 1,
            status: Status::Held,
            prev: Digest([4; 32]),
        };
        Ok(Self { source, destination, roots, ledger, policy, record })
    }

    fn keep(&self, side: Side) -> &Keep {
        if side == Side::Source { &self.source } else { &self.destination }
    }

    fn session(&self, side: Side, stream: UnixStream) -> Result<Session> {
        let identity = &self.keep(side).identity;
        let session = match side {
            Side::Source => connect(stream, identity, &self.roots, None),
            Side::Destination => accept(stream, identity, &self.roots, None),
        };
        session.map_err(Failure::because(Exit::Software, "the keeps of the benchmark have no session"))
    }

    fn read_ledger(&self, nonce: Nonce) -> Reading {
        let (head, signature) = (Digest([5; 32]), Signature::default());
        let mut reading = Reading { record: self.record, index: 1, head, nonce, ledger: self.ledger.key(), signature };
        reading.signature = Signature(self.ledger.sign(&reading.signed_bytes()));
        reading
    }

    /// One end of a whole handshake: until TLS was done, and until both had accepted.
    fn end(&self, side: Side, stream: UnixStream, sims: &dunlin_attest::SimRoots) -> Result<(Duration, Duration)> {
        let began = Instant::now();
        let mut session = self.session(side, stream)?;
        let tls = began.elapsed();
        let keep = self.keep(side);
        let config = Config {
            side,
            session: SessionFacts {
                exporter: session.exporter,
                own_spki: session.own_spki,
                peer_spki: session.peer_spki,
                own_provider: "bench".to_owned(),
                peer_provider: session.provider.clone(),
            },
            terms: Terms {
                migration: MigrationId([6; 16]),
                service: self.record.service,
                epoch: Some(1),
                module: Digest::of(b"module"),
                recorded_policy: self.policy.hash(),
                ledger: Key(self.ledger.key().0),
            },
            trust: Trust { policy: self.policy.clone(), sim: Some(sims.clone()) },
            checks: Arc::new(Verifier::certified()),
            signer: Arc::new(keep.instance.clone()),
            kem_key: Bytes::from([7; 32]),
            tpm_last_seen: None,
        };
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(Failure::because(Exit::Software, "the system gives no random bytes"))?;
        let handshake = Handshake::new(config, nonce, NOW);
        let mut read_ledger = |_, nonce| Ok(self.read_ledger(nonce));
        let (reader, writer) = (&mut session.reader, &mut session.writer);
        run(handshake, reader, writer, &keep.attester, &mut read_ledger, &|| NOW)
            .map_err(Failure::because(Exit::Software, "the keeps of the benchmark do not trust each other"))?;
        Ok((tls, began.elapsed()))
    }
}

fn row(world: &World, concurrent: usize, rounds: usize) -> Result<Row> {
    let sims = dunlin_attest_sim::roots(["bench"]).map_err(bad)?;
    let each = rounds.div_ceil(concurrent).max(3);
    let barrier = Barrier::new(concurrent);
    let began = Instant::now();
    let pair = || -> Result<Vec<(Duration, Duration)>> {
        barrier.wait();
        let one = |_| -> Result<(Duration, Duration)> {
            let (near, far) = UnixStream::pair().map_err(bad)?;
            std::thread::scope(|scope| {
                let asked = scope.spawn(|| world.end(Side::Destination, far, &sims));
                let asking = world.end(Side::Source, near, &sims)?;
                let panicked = || Failure::new(Exit::Software, "an end of the benchmark panicked");
                let asked = asked.join().map_err(|_| panicked())??;
                Ok((asking.0.max(asked.0), asking.1.max(asked.1)))
            })
        };
        (0..each).map(one).collect()
    };
    let all: Vec<Result<Vec<_>>> = std::thread::scope(|scope| {
        let pairs: Vec<_> = (0..concurrent).map(|_| scope.spawn(pair)).collect();
        pairs.into_iter().map(|pair| pair.join().unwrap_or_else(|_| Ok(Vec::new()))).collect()
    });
    let total = began.elapsed();
    let (mut tls, mut whole) = (Samples::default(), Samples::default());
    for (first, second) in all.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten() {
        tls.add(milliseconds(first));
        whole.add(milliseconds(second));
    }
    let per_second = (each * concurrent) as f64 / total.as_secs_f64();
    Ok(Row { technology: "sim", concurrent, tls: tls.spread(), whole: whole.spread(), per_second })
}

fn throughput(world: &World) -> Result<f64> {
    use std::io::{Read as _, Write as _};
    let (near, far) = UnixStream::pair().map_err(bad)?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| -> Result<()> {
            let mut session = world.session(Side::Source, near)?;
            let frame = vec![7; 1 << 20];
            for _ in 0..BYTES / frame.len() {
                session.writer.write_all(&frame).map_err(bad)?;
            }
            session.writer.finish().map_err(bad)
        });
        let mut session = world.session(Side::Destination, far)?;
        let mut buffer = vec![0; 1 << 20];
        session.reader.read_exact(&mut buffer).map_err(bad)?;
        let (began, mut total) = (Instant::now(), 0);
        loop {
            match session.reader.read(&mut buffer).map_err(bad)? {
                0 => break,
                read => total += read,
            }
        }
        let rate = total as f64 / began.elapsed().as_secs_f64() / 1e9;
        writing.join().map_err(|_| Failure::new(Exit::Software, "the writer of the benchmark panicked"))??;
        Ok(rate)
    })
}
