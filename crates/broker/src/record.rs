//! The record of releases: what was given to whom, chained by hash, on stable storage before the answer leaves.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use dunlin_base::Digest;
use dunlin_handover::codec::{DecodeError, Reader, Wire, Writer, wire_struct};
use dunlin_handover::{Key, ServiceId};

use crate::error::VaultError;
use crate::message::Want;

/// One release. The secret itself is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Which service.
    pub service: ServiceId,
    /// To whom: the holder's instance key.
    pub holder: Key,
    /// In which epoch.
    pub epoch: u64,
    /// What.
    pub want: Want,
    /// For keys: the other epoch whose key was released.
    pub written_in: Option<u64>,
    /// Digest of the evidence.
    pub evidence: Digest,
    /// The ledger's last receipt at that moment.
    pub head: Digest,
    /// Seconds since 1970, by the broker's clock.
    pub time: u64,
}

wire_struct!(Release, "release", { service, holder, epoch, want, written_in, evidence, head, time });

/// An entry of the file: the digest of the entry before it, then the release.
struct Entry {
    before: Digest,
    release: Release,
}

impl Wire for Entry {
    const WHAT: &'static str = "entry of the record of releases";

    fn write(&self, out: &mut Writer) {
        out.put(&self.before);
        out.put(&self.release);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { before: input.take()?, release: input.take()? })
    }
}

/// The file of releases.
#[derive(Debug)]
pub struct ReleaseLog {
    path: PathBuf,
    file: File,
    last: Digest,
    /// After a failed write nobody knows what is in the file.
    broken: bool,
}

/// The largest entry.
const MAX_ENTRY: usize = 4096;

impl ReleaseLog {
    /// Opens the file, or makes it, and checks the chain. What a crash left unfinished at the end is cut off: nothing
    /// was answered for it.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn open(path: &Path) -> Result<Self, VaultError> {
        let io = |source| VaultError::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).mode(0o600).open(path).map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let mut last = Digest([0; 32]);
        let whole = read(path, &bytes, |_, digest| last = digest)?;
        file.set_len(whole as u64).map_err(io)?;
        Ok(Self { path: path.to_owned(), file, last, broken: false })
    }

    /// Puts a release on record, durably.
    ///
    /// # Errors
    /// [`VaultError`]: then nothing may be released.
    pub fn append(&mut self, release: &Release) -> Result<(), VaultError> {
        let io = |source| VaultError::Io { path: self.path.clone(), source };
        if std::mem::replace(&mut self.broken, true) {
            return Err(io(std::io::Error::other("an earlier write failed")));
        }
        let entry = Entry { before: self.last, release: release.clone() }.to_bytes();
        let framed = [&(entry.len() as u32).to_le_bytes()[..], &entry].concat();
        self.file.write_all(&framed).and_then(|()| self.file.sync_data()).map_err(io)?;
        self.last = Digest::of(&entry);
        self.broken = false;
        Ok(())
    }

    /// The digest of the last entry. The chain shows what was changed in it; that its end was cut off, only this shows, to
    /// whoever has kept it.
    pub fn head(&self) -> Digest {
        self.last
    }

    /// All releases, oldest first, as the file has them. Nothing of them is kept in memory.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn releases(&self) -> Result<Vec<Release>, VaultError> {
        let io = |source| VaultError::Io { path: self.path.clone(), source };
        let bytes = std::fs::read(&self.path).map_err(io)?;
        let mut releases = Vec::new();
        read(&self.path, &bytes, |release, _| releases.push(release))?;
        Ok(releases)
    }
}

/// Gives `each` release and the digest of its entry, and checks the chain. The length of all whole entries.
fn read(path: &Path, bytes: &[u8], mut each: impl FnMut(Release, Digest)) -> Result<usize, VaultError> {
    let (mut rest, mut last, mut number) = (bytes, Digest([0; 32]), 0);
    let damaged = |number| VaultError::Record { path: path.to_owned(), number };
    while let Some((length, body)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_ENTRY {
            return Err(damaged(number));
        }
        let Some((entry, behind)) = body.split_at_checked(length) else { break };
        let Ok(Entry { before, release }) = Entry::from_bytes(entry) else { return Err(damaged(number)) };
        if before != last {
            return Err(damaged(number));
        }
        last = Digest::of(entry);
        each(release, last);
        rest = behind;
        number += 1;
    }
    Ok(bytes.len() - rest.len())
}
