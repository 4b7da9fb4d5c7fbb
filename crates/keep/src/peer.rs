//! The stream to the other keep of a migration: TLS 1.3 with both instances' keys over what the nodes relay, then
//! mutual evidence, before a byte of the service flows.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use dunlin_attest::{Bytes, DestinationRule};
use dunlin_attested::{Config, Done, Handshake, SessionFacts, Terms, decline, run};
use dunlin_base::{Digest, with_causes};
use dunlin_handover::ledger::{Candidate, Checks, Nomination, Reading};
use dunlin_handover::message::{ChannelGuard, Evidence, Guard};
use dunlin_handover::{Key, LedgerAnswer, LedgerCall, LedgerQuery, MigrationId};
use dunlin_keep_link::Spec;
use dunlin_seal::{ObjectSeal, StagingKey};
use dunlin_transport::{Session, accept, connect};
use zeroize::Zeroizing;

use crate::error::Failure;
use crate::migrate::{LedgerWay, Stream};
use crate::outbox::Post;
use crate::trust::{ledger_proof, now, trust};
use crate::who::{Who, entropy};

pub(crate) use dunlin_attested::Side;

/// How long the other keep may leave this one without an answer while they prove themselves.
const SILENCE: Duration = Duration::from_secs(10);

/// A stream to the other keep.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The stream.
    pub(crate) stream: Stream,
    /// The instance key that the other end proved: that of its certificate, of its evidence, and its name in the
    /// ledger.
    pub(crate) key: Key,
    /// Digest of the evidence that it showed for that.
    pub(crate) evidence: Digest,
    /// What the ledger is shown where it is to make the other end the holder.
    proof: Vec<u8>,
    /// The own evidence, as the other end has it.
    pub(crate) own_evidence: Evidence,
    /// What seals the state that this migration puts on storage, at both ends.
    pub(crate) staging: Arc<ObjectSeal>,
    /// What a person must know although all is accepted.
    pub(crate) warnings: Vec<String>,
}

impl Peer {
    /// The way to the ledger for what these two do with each other: beside a request that makes the other end the holder goes
    /// what it proved in this session.
    pub(crate) fn presenting(&self, post: Post) -> Presenting {
        Presenting { post, evidence: self.evidence, proof: self.proof.clone() }
    }
}

/// A way to the ledger that adds a proof to the requests that name its evidence.
#[derive(Debug)]
pub(crate) struct Presenting {
    post: Post,
    evidence: Digest,
    proof: Vec<u8>,
}

impl LedgerWay for Presenting {
    fn ask(&mut self, call: &LedgerCall) -> LedgerAnswer {
        let mut query = call.query.clone();
        if let LedgerQuery::Apply(request) = &mut query
            && request.action.evidence() == Some(self.evidence)
        {
            request.proof.clone_from(&self.proof);
        }
        self.post.ask(query)
    }
}

/// What the stream is for.
#[derive(Debug)]
pub(crate) struct Business<'a> {
    pub(crate) side: Side,
    pub(crate) migration: MigrationId,
    pub(crate) spec: &'a Spec,
    /// What a source knows.
    pub(crate) held: Option<Held>,
    pub(crate) post: Post,
}

/// What a keep has that holds the service.
#[derive(Debug)]
pub(crate) struct Held {
    /// The epoch in which it does.
    pub(crate) epoch: u64,
    /// The key of what this migration puts on storage.
    pub(crate) staging: StagingKey,
}

/// Opens the stream to the other keep over what the nodes relay. Blocks until both sides have accepted each other.
///
/// # Errors
/// [`Failure::Untrusted`] when the other side is not whom it should be, or refuses this one.
pub(crate) fn open(stream: OwnedFd, business: &Business<'_>, who: &Who) -> Result<Peer, Failure> {
    let Business { side, migration, spec, held, post } = business;
    let mut session = session(stream, *side, who)?;
    let stuck = || Failure::system("the stream to the other keep cannot be used");
    session.set_limit(Some(SILENCE)).map_err(stuck())?;
    let proof = &who.proof;
    let ready = who.policy_of(spec).and_then(|policy| Ok((proof.measured(spec.module, &policy)?, policy)));
    let (attester, policy) = ready.inspect_err(|failure| {
        // The other keep's people hear why, if they still can.
        let _unheard = decline(&mut session.reader, &mut session.writer, &failure.text());
    })?;
    let rule = policy.document().migration.destination;
    let compared = *side == Side::Source && rule == DestinationRule::AtLeastSource;
    let config = Config {
        side: *side,
        session: SessionFacts {
            exporter: session.exporter,
            own_spki: session.own_spki,
            peer_spki: session.peer_spki,
            own_provider: proof.provider.clone(),
            peer_provider: session.provider.clone(),
        },
        terms: Terms {
            migration: *migration,
            service: spec.service,
            epoch: held.as_ref().map(|held| held.epoch),
            module: spec.module,
            recorded_policy: spec.policy,
            ledger: who.keys.ledger,
        },
        trust: trust(policy, &session.provider)?,
        checks: who.keys.checks.clone(),
        signer: proof.signer.clone(),
        kem_key: Bytes::from(proof.kem.public()),
        tpm_last_seen: None,
    };
    let handshake = Handshake::new(config, entropy()?.nonce().0, now());
    let mut ask = |service, nonce| match post.ask(LedgerQuery::Read { service, nonce }) {
        LedgerAnswer::Reading(reading) => Ok::<Reading, String>(reading),
        LedgerAnswer::Refused(refused) => Err(refused.to_string()),
        _ => Err("the ledger does not answer".to_owned()),
    };
    let done = run(handshake, &mut session.reader, &mut session.writer, &*attester, &mut ask, &now);
    let Done { peer, own, epoch } = done.map_err(|error| {
        session.closer.close();
        Failure::Untrusted(with_causes(&error))
    })?;
    let (holder, evidence) = (peer.holder, peer.shown.digest());
    let warnings = peer.warnings().to_vec();
    let own_evidence = Evidence(own.evidence.clone());
    let proof = ledger_proof(spec, peer.shown, compared.then_some(own))?;
    if let Some(Held { epoch, .. }) = held {
        let (service, epoch, migration, proof) = (spec.service, *epoch, *migration, proof.clone());
        let nomination = Nomination { service, epoch, migration, holder, evidence, proof };
        // A ledger that is away says so later.
        if let LedgerAnswer::Refused(refused) = post.ask(LedgerQuery::Appraise(Box::new(nomination))) {
            session.closer.close();
            let why = format!("the ledger does not let the other keep take the service: {refused}");
            return Err(Failure::Untrusted(why));
        }
    }
    let staging = staging(&mut session, held.as_ref(), spec, epoch).map_err(stuck())?;
    session.set_limit(None).map_err(stuck())?;
    let staging = Arc::new(staging.objects());
    Ok(Peer { stream: streamed(session), key: holder, evidence, proof, own_evidence, staging, warnings })
}

/// Gives the destination the key under which it puts the state on storage. It opens nothing else, and after a crash the
/// broker's keys lead to it, but only for the holder.
fn staging(session: &mut Session, held: Option<&Held>, spec: &Spec, epoch: u64) -> io::Result<StagingKey> {
    match held {
        Some(Held { staging, .. }) => {
            session.writer.write_all(staging.expose())?;
            session.writer.flush()?;
            Ok(StagingKey::from_bytes(spec.service.0, epoch, staging.expose()))
        }
        None => {
            let mut bytes = Zeroizing::new([0; 32]);
            session.reader.read_exact(&mut *bytes)?;
            Ok(StagingKey::from_bytes(spec.service.0, epoch, &bytes))
        }
    }
}

/// Opens a new stream to a keep that proved itself on an earlier one. Who has its instance key is that keep: the key was
/// bound to its evidence, and leaves no keep.
///
/// # Errors
/// [`Failure::Untrusted`] when another keep is at the other end.
pub(crate) fn again(stream: OwnedFd, side: Side, key: Key, who: &Who) -> Result<Stream, Failure> {
    let session = session(stream, side, who)?;
    if session.peer_spki.0 != key.0 {
        session.closer.close();
        return Err(Failure::Untrusted("another keep than before is at the other end".to_owned()));
    }
    Ok(streamed(session))
}

/// The guard of frames on such a stream.
pub(crate) fn guard() -> Box<dyn Guard> {
    Box::new(ChannelGuard)
}

/// Checks of a source whose destination has proved itself: nobody else takes the service.
#[derive(Debug)]
pub(crate) struct Proven {
    checks: Arc<dyn Checks>,
    key: Key,
    evidence: Digest,
}

impl Proven {
    pub(crate) fn new(checks: Arc<dyn Checks>, peer: &Peer) -> Self {
        Self { checks, key: peer.key, evidence: peer.evidence }
    }
}

impl Checks for Proven {
    fn verify(&self, key: Key, message: &[u8], signature: &[u8]) -> bool {
        self.checks.verify(key, message, signature)
    }

    fn appraise(&self, candidate: &Candidate<'_>) -> Result<(), String> {
        if candidate.holder != self.key {
            return Err("another keep wants the service than the one at the other end of the stream".to_owned());
        }
        if candidate.evidence != self.evidence {
            return Err("the evidence is not the one that was appraised".to_owned());
        }
        self.checks.appraise(candidate)
    }
}

fn session(stream: OwnedFd, side: Side, who: &Who) -> Result<Session, Failure> {
    let tls = who.proof.tls.as_deref();
    let (identity, roots) =
        tls.ok_or_else(|| Failure::Untrusted("this keep has no certificate to show to another".to_owned()))?;
    let stream = UnixStream::from(stream);
    let session = match side {
        Side::Source => connect(stream, identity, roots, None),
        Side::Destination => accept(stream, identity, roots, None),
    };
    session.map_err(|error| Failure::Untrusted(with_causes(&error)))
}

fn streamed(session: Session) -> Stream {
    let Session { reader, writer, closer, .. } = session;
    Stream { reader: Box::new(reader), writer: Box::new(writer), close: Box::new(move || closer.close()) }
}
