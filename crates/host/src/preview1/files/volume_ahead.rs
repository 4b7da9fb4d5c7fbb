//! The private volume of a program that runs, for whoever moves it: most of it goes ahead of the freeze.

use std::sync::{Arc, MutexGuard, PoisonError};

use dunlin_base::Digest;
use dunlin_store::{Ahead, Error as VolumeError};

use crate::error::Error;
use crate::preview1::files::volume::Shared;
use crate::preview1::files::volume_state::{NEXT, PINNED};

/// Roots are looked at so often while the program replaces them.
const TRIES: u32 = 5;

/// The private volume of a world, which the program uses meanwhile.
#[derive(Debug, Clone)]
pub struct VolumeHandle {
    guest: String,
    shared: Arc<Shared>,
}

impl VolumeHandle {
    pub(super) fn new(guest: String, shared: Arc<Shared>) -> Self {
        Self { guest, shared }
    }

    /// Begins to send chunks ahead of a freeze. Freezes leave out what has gone, until the result is dropped. One at a time.
    pub fn send_ahead(&self) -> VolumeAhead {
        *self.shared.ahead() = Some(Ahead::default());
        VolumeAhead(self.clone())
    }

    /// A state without contents is about to be committed: what the volume is now stays in its store, beside what the
    /// state before needs.
    ///
    /// # Errors
    /// [`Error::Volume`].
    pub fn keep_latest(&self) -> Result<(), Error> {
        self.act("commit", |volume| volume.pin(NEXT).map(drop))
    }

    /// A state was committed, so that those before it are not needed any more: what only they need of the volume goes
    /// with the next garbage. `kept`: what was [kept](Self::keep_latest) for this state stays.
    ///
    /// # Errors
    /// [`Error::Volume`].
    pub fn was_committed(&self, kept: bool) -> Result<(), Error> {
        self.act("commit", |volume| {
            let store = volume.store();
            let next = store.root(NEXT)?;
            let pin = next.filter(|_| kept);
            if store.root(PINNED)? != pin {
                store.set_root(PINNED, pin)?;
            }
            if next.is_some() { Ok(store.set_root(NEXT, None)?) } else { Ok(()) }
        })
    }

    fn act<T>(
        &self,
        action: &'static str,
        act: impl FnOnce(&mut dunlin_store::Volume) -> Result<T, VolumeError>,
    ) -> Result<T, Error> {
        self.shared.act(&self.guest, action, act)
    }

    fn unreadable(&self, source: VolumeError) -> Error {
        Error::Volume { action: "read", guest: self.guest.clone(), source }
    }
}

/// Chunks of a private volume that go ahead of a freeze.
#[derive(Debug)]
pub struct VolumeAhead(VolumeHandle);

impl VolumeAhead {
    /// The other side has these chunks.
    pub fn held(&mut self, digests: Vec<Digest>) {
        if let Some(ahead) = &mut *self.0.shared.ahead() {
            ahead.held(digests);
        }
    }

    /// Commits the volume and finds what the other side lacks of it: how many bytes.
    ///
    /// # Errors
    /// [`Error::Volume`].
    pub fn scan(&mut self) -> Result<u64, Error> {
        let handle = &self.0;
        let mut tries = 0;
        loop {
            let commit = |volume: &mut dunlin_store::Volume| {
                Ok((volume.commit()?, volume.store().clone(), volume.sealing().clone()))
            };
            let (root, store, sealing) = handle.act("commit", commit)?;
            let mut ahead = handle.shared.ahead();
            let Some(ahead) = &mut *ahead else { return Ok(0) };
            // The program goes on meanwhile.
            match ahead.look(&*store, &*sealing, root) {
                Ok(_) => return Ok(ahead.unsent()),
                // What it has replaced may be gone already.
                Err(_) if tries < TRIES && store.root(dunlin_store::HEAD).is_ok_and(|head| head != Some(root)) => {
                    tries += 1;
                }
                Err(error) => return Err(handle.unreadable(error)),
            }
        }
    }

    /// The bytes that the other side lacks, as of the last scan.
    pub fn unsent(&self) -> u64 {
        self.0.shared.ahead().as_ref().map_or(0, Ahead::unsent)
    }

    /// The next chunks for the other side, of at most so many bytes together; none when it has them all.
    ///
    /// # Errors
    /// [`Error::Volume`] if one cannot be read or is damaged.
    pub fn batch(&mut self, bytes: usize) -> Result<Vec<Vec<u8>>, Error> {
        let store = self.0.act("read", |volume| Ok(volume.store().clone()))?;
        let batch = self.0.shared.ahead().as_mut().map_or_else(|| Ok(Vec::new()), |ahead| ahead.batch(&*store, bytes));
        batch.map_err(|error| self.0.unreadable(error))
    }
}

impl Drop for VolumeAhead {
    fn drop(&mut self) {
        *self.0.shared.ahead() = None;
    }
}

impl Shared {
    /// What goes ahead, if anything does.
    pub(super) fn ahead(&self) -> MutexGuard<'_, Option<Ahead>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
