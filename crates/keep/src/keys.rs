//! The keys of the epoch in which this instance holds its service. The broker gives them once the ledger has made it the
//! holder, encrypted to this instance; what the node carries opens for nobody else.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dunlin_attest::{BindingContext, Endorsements, Evidence, Policy};
use dunlin_attested::{Asker, BoundEvidence};
use dunlin_base::with_causes;
use dunlin_broker::{Brokers, Denied, FetchError, Party, Released, Want, fetch};
use dunlin_handover::{MigrationId, Nonce};
use dunlin_keep_link::Spec;
use dunlin_seal::{EpochKey, ObjectSeal, StagingKey, VolumeSeal};
use zeroize::Zeroizing;

use crate::error::Failure;
use crate::offer::Volume;
use crate::outbox::Post;
use crate::who::{Who, entropy};

/// How long the broker may be away before an order fails.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long one answer of it may take.
const SILENCE: Duration = Duration::from_secs(10);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two questions that nobody waits for.
const MOST: Duration = Duration::from_secs(30);

/// The keys of one service, epoch by epoch.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) post: Post,
    pub(crate) who: Who,
    pub(crate) spec: Spec,
    policy: Policy,
    held: Mutex<Option<Held>>,
}

/// What this instance was given last.
struct Held {
    own: EpochKey,
    /// Of the epoch in which the last state was committed, where it is another one.
    written: Option<EpochKey>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("epoch", &self.own.epoch()).finish_non_exhaustive()
    }
}

impl Keys {
    pub(crate) fn new(post: Post, who: Who, spec: &Spec) -> Result<Arc<Self>, Failure> {
        let policy = who.policy_of(spec)?;
        Ok(Arc::new(Self { post, who, spec: spec.clone(), policy, held: Mutex::default() }))
    }

    /// What seals states in `epoch`, which this instance holds. Asks the broker if it has not been asked before.
    pub(crate) fn objects(&self, epoch: u64) -> Result<Arc<ObjectSeal>, Failure> {
        self.look(epoch, |held| Arc::new(held.own.objects()))
    }

    /// What can open the last committed state: as a holder wrote it, or as it was put on storage in this migration.
    pub(crate) fn committed(
        &self,
        epoch: u64,
        migration: Option<MigrationId>,
    ) -> Result<Vec<Arc<ObjectSeal>>, Failure> {
        let of = |key: &EpochKey| {
            Arc::new(migration.map_or_else(|| key.objects(), |migration| key.staging(migration.0).objects()))
        };
        self.look(epoch, |held| held.written.iter().chain([&held.own]).map(of).collect())
    }

    /// The key of what a migration puts on storage that begins in `epoch`.
    pub(crate) fn staging(&self, epoch: u64, migration: MigrationId) -> Result<StagingKey, Failure> {
        self.look(epoch, |held| held.own.staging(migration.0))
    }

    /// From here on, what the program writes to its volume is sealed under the key of `epoch`.
    pub(crate) fn advance(&self, epoch: u64, volume: &VolumeSeal) -> Result<(), Failure> {
        self.look(epoch, |held| volume.advance(&held.own))
    }

    /// The same without waiting: until the keys are here, the volume goes on under the key that came with the state.
    pub(crate) fn prepare(self: &Arc<Self>, epoch: u64, volume: Option<Arc<Volume>>) {
        let keys = Arc::downgrade(self);
        let prepared = thread::Builder::new().name("dunlin-keys".to_owned()).spawn(move || {
            let mut pause = PAUSE;
            while let Some(keys) = keys.upgrade() {
                let got = match &volume {
                    Some(volume) => keys.advance(epoch, &volume.seal),
                    None => keys.look(epoch, |_| ()),
                };
                // One that is refused, or is not the holder any more, hears so when it wants to commit.
                if !matches!(got, Err(Failure::Keys(_))) {
                    return;
                }
                drop(keys);
                thread::sleep(pause);
                pause = (pause * 2).min(MOST);
            }
        });
        // Without the thread, the next checkpoint asks.
        drop(prepared);
    }

    /// Looks at the keys of `epoch`, which are fetched first if they are not those that are here.
    fn look<T>(&self, epoch: u64, look: impl FnOnce(&Held) -> T) -> Result<T, Failure> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = match &mut *held {
            Some(held) if held.own.epoch() == epoch => held,
            others => others.insert(self.fetch(epoch)?),
        };
        Ok(look(held))
    }

    /// A secret of the owner. Asks once: whoever waits is the program, which is not to be held up for long.
    pub(crate) fn secret(&self, name: &str, epoch: u64) -> Result<Zeroizing<Vec<u8>>, FetchError> {
        let failed = |failure: Failure| FetchError::Io(io::Error::other(failure.text()));
        let party = self.party(epoch);
        match self.ask(&party, Want::Secret(name.to_owned())).map_err(failed)?? {
            Released::Secret(secret) => Ok(secret),
            Released::Keys { .. } => Err(FetchError::Content),
        }
    }

    /// Evidence for somebody else's nonce.
    pub(crate) fn evidence(
        &self,
        nonce: &[u8; 32],
        epoch: u64,
    ) -> Result<(Evidence, Endorsements, BindingContext), Failure> {
        self.who.proof.for_client(Nonce(*nonce), &self.spec, epoch, &self.policy)
    }

    /// Evidence for the ledger, which is asked for the service.
    pub(crate) fn for_ledger(&self, asker: &Asker) -> Result<BoundEvidence, Failure> {
        self.who.proof.for_ledger(asker, &self.spec, &self.policy)
    }

    /// Asks until there is an answer that counts.
    fn fetch(&self, epoch: u64) -> Result<Held, Failure> {
        let party = self.party(epoch);
        let until = Instant::now() + PATIENCE;
        loop {
            let why = match self.ask(&party, Want::Keys)? {
                Ok(Released::Keys { own, written }) => return Ok(Held { own, written }),
                Ok(Released::Secret(_)) => "it gave a secret for keys".to_owned(),
                Err(
                    error @ (FetchError::WrongBroker
                    | FetchError::Denied(Denied::Policy(_) | Denied::Evidence(_) | Denied::NoSuchService)),
                ) => return Err(Failure::Untrusted(with_causes(&error))),
                Err(FetchError::Denied(Denied::NotHolder)) if Instant::now() > until => {
                    return Err(Failure::NotHolder("the broker found another holder in the ledger".to_owned()));
                }
                Err(error) => with_causes(&error),
            };
            if Instant::now() > until {
                return Err(Failure::Keys(why));
            }
            thread::sleep(PAUSE);
        }
    }

    fn party(&self, epoch: u64) -> Party {
        let document = self.policy.document();
        Party {
            service: self.spec.service,
            name: document.service.clone(),
            epoch,
            instance: self.who.proof.signer.key().clone(),
            kem: self.who.proof.kem.clone(),
            module: self.spec.module,
            policy: self.policy.hash(),
            provider: self.who.proof.provider.clone(),
            ledger: document.ledger.id.clone(),
            brokers: Brokers::of(&self.policy, self.who.keys.ledger),
        }
    }

    /// One question, over a stream of its own.
    fn ask(&self, party: &Party, want: Want) -> Result<Result<Released, FetchError>, Failure> {
        let attester = self.who.proof.measured(self.spec.module, &self.policy)?;
        let Some(stream) = self.post.broker().map(UnixStream::from) else {
            let why = "the node brings no stream to the broker";
            return Ok(Err(io::Error::new(io::ErrorKind::NotConnected, why).into()));
        };
        let limited = stream.set_read_timeout(Some(SILENCE));
        let limited = limited.and_then(|()| stream.set_write_timeout(Some(SILENCE)));
        limited.map_err(Failure::system("the stream to the broker cannot be used"))?;
        Ok(fetch(stream, party, want, &*attester, entropy()?.nonce()))
    }
}
