//! The directory in which a service's states outlive its keep.
//!
//! ```text
//!   state-VERSION-DIGEST    a committed state, or one that is about to be committed
//!   arrived-state-VERSION-DIGEST   one that came in a move, which is good on this machine only: under its seal, and
//!                           without what is in its volume here
//!   local-state-VERSION-DIGEST     one of a service with a volume, without what is in it, under the key of its epoch
//!   staged-MIGRATION        a state that arrived and is not known to be committed
//!   retained-MIGRATION      post-copy: the whole state at the source, until the destination has it
//!   module.wasm             the module, if it came from the source of a move
//!   code-DIGEST             what was compiled from it, for the next keep
//! ```
//!
//! Names are claims: whoever loads a state compares its digest with the ledger's. What this instance committed is sealed
//! under the key of its epoch, which the broker gives to the next holder, on whatever machine. What waits here for a
//! decision of the ledger (and keeps its seal when it is decided) is sealed with a key that follows from the machine's:
//! nobody is the holder yet to whom the broker would give another.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dunlin_base::Digest;
use dunlin_handover::MigrationId;
use dunlin_handover::boot::Blob;
use dunlin_handover::ledger::Record;
use dunlin_keep_link::StateName;
use dunlin_seal::ObjectSeal;

use crate::error::Failure;
use crate::migrate::{Shelf, StageError, Staged, load};

const MODULE: &str = "module.wasm";
const CODE: &str = "code-";
const ARRIVED: &str = "arrived-";
const LOCAL: &str = "local-";

/// The directory, by the descriptor that the node gave.
#[derive(Debug, Clone)]
pub(crate) struct States {
    /// Keeps the path alive.
    directory: Arc<OwnedFd>,
    path: PathBuf,
    seal: Arc<ObjectSeal>,
}

/// A state on storage, as its name describes it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) blob: Blob,
}

/// The name of a committed state without what it says about where it is good.
fn without_prefix(name: &str) -> &str {
    [ARRIVED, LOCAL].iter().find_map(|start| name.strip_prefix(start)).unwrap_or(name)
}

/// The path under which a process finds a directory of which it has a descriptor.
pub(crate) fn path_of(directory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

impl States {
    pub(crate) fn new(directory: Arc<OwnedFd>, seal: ObjectSeal) -> Self {
        Self { path: path_of(&directory), directory, seal: Arc::new(seal) }
    }

    /// A file of this directory, under the machine's seal.
    pub(crate) fn shelf(&self, path: &Path) -> Shelf {
        Shelf::sealed(path, self.seal.clone())
    }

    /// A stored state, under the first of these seals, or the machine's, that opens it.
    pub(crate) fn open(&self, path: &Path, epochs: &[Arc<ObjectSeal>]) -> Result<Staged, StageError> {
        let under = |seal: &Arc<ObjectSeal>| load(Shelf::sealed(path, seal.clone()));
        epochs.iter().map(under).find(Result::is_ok).unwrap_or_else(|| load(self.shelf(path)))
    }

    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.directory
    }

    pub(crate) fn state(&self, version: u64, digest: &Digest) -> PathBuf {
        self.path.join(StateName { version, state_hash: *digest }.to_string())
    }

    /// The name of a committed state that came in a move.
    pub(crate) fn arrived(&self, version: u64, digest: &Digest) -> PathBuf {
        self.path.join(format!("{ARRIVED}{}", StateName { version, state_hash: *digest }))
    }

    /// The name of one that is good with the volume here only.
    pub(crate) fn local(&self, version: u64, digest: &Digest) -> PathBuf {
        self.path.join(format!("{LOCAL}{}", StateName { version, state_hash: *digest }))
    }

    pub(crate) fn staged(&self, migration: MigrationId) -> PathBuf {
        self.path.join(format!("staged-{migration}"))
    }

    /// Whether a state is sealed to this machine, by its name: one that arrived, or that was retained.
    pub(crate) fn is_of_this_machine(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        [ARRIVED, "staged-", "retained-"].iter().any(|start| name.starts_with(start))
    }

    pub(crate) fn retained(&self, migration: MigrationId) -> PathBuf {
        self.path.join(format!("retained-{migration}"))
    }

    /// Compiled code.
    pub(crate) fn code(&self, name: &str) -> PathBuf {
        self.path.join(format!("{CODE}{name}"))
    }

    /// What seals files to this machine.
    pub(crate) fn machine_seal(&self) -> &ObjectSeal {
        &self.seal
    }

    /// A name for a state whose digest is not known yet.
    pub(crate) fn unfinished(&self) -> PathBuf {
        self.path.join("unfinished")
    }

    /// Gives a state its final name, durably.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        File::open(&self.path)?.sync_all()
    }

    /// All states that are here, where the ledger says `committed`. One that arrived is described by what was staged with
    /// it; one that was retained does not say what it is, and may be the committed one.
    pub(crate) fn list(&self, committed: &Record) -> Result<Vec<Found>, Failure> {
        let failed = Failure::system("the directory of states cannot be listed");
        let entries: Vec<_> = fs::read_dir(&self.path).and_then(Iterator::collect).map_err(failed)?;
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let path = entry.path();
            if let Ok(StateName { version, state_hash }) = without_prefix(name).parse() {
                found.push(Found { path, blob: Blob { version, state_hash, complete: true } });
            } else if name.starts_with("staged-") {
                // One that cannot be read was not finished, and hence never committed.
                let Ok(Staged { arrival: Some(arrival), missing, .. }) = load(self.shelf(&path)) else { continue };
                let last = &arrival.last;
                let blob = Blob { version: last.version, state_hash: last.state_hash, complete: missing.is_empty() };
                found.push(Found { path, blob });
            } else if name.starts_with("retained-") {
                let blob = Blob { version: committed.version, state_hash: committed.state_hash, complete: true };
                found.push(Found { path, blob });
            }
        }
        found.sort_by_key(|found| core::cmp::Reverse(found.blob.version));
        Ok(found)
    }

    /// The committed state is `keep`: nothing else is needed any more.
    pub(crate) fn clear_but(&self, keep: Option<&Path>) {
        self.clear(&["state-", ARRIVED, LOCAL, "staged-", "retained-", "unfinished"], keep);
    }

    /// No compiled code is needed any more.
    pub(crate) fn clear_code(&self) {
        self.clear(&[CODE], None);
    }

    fn clear(&self, starts: &[&str], keep: Option<&Path>) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let ours = starts.iter().any(|start| name.starts_with(start));
            if ours && keep.is_none_or(|keep| keep.file_name() != Some(&entry.file_name())) {
                let _gone = fs::remove_file(entry.path());
            }
        }
    }

    /// Stores the module durably.
    pub(crate) fn store_module(&self, wasm: &[u8]) -> io::Result<()> {
        let unfinished = self.path.join("module.unfinished");
        let mut file = File::create(&unfinished)?;
        file.write_all(wasm)?;
        file.sync_all()?;
        self.rename(&unfinished, &self.path.join(MODULE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(version: u64) -> Record {
        Record {
            service: dunlin_handover::ServiceId([1; 16]),
            epoch: 3,
            holder: None,
            holder_platform: None,
            version,
            state_hash: Digest::of(b"committed"),
            state_epoch: 2,
            policy_hash: Digest::of(b"policy"),
            policy_version: 1,
            status: dunlin_handover::ledger::Status::Held,
            prev: Digest([0; 32]),
        }
    }

    #[test]
    fn names_are_read_back_and_only_our_own_are_cleared() {
        let directory = std::env::temp_dir().join(format!("dunlin-states-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let states = States::new(
            Arc::new(File::open(&directory).unwrap().into()),
            dunlin_seal::LocalKey::derived(b"machine").objects([1; 16]),
        );
        let digest = Digest::of(b"state");
        for name in ["somebody-else", "state-x-y", "staged-nonsense"] {
            fs::write(directory.join(name), b"bytes").unwrap();
        }
        fs::write(states.state(7, &digest), b"a").unwrap();
        fs::write(states.state(8, &digest), b"b").unwrap();
        fs::write(states.arrived(9, &digest), b"c").unwrap();
        fs::write(states.local(10, &digest), b"d").unwrap();
        assert!(
            states.is_of_this_machine(&states.arrived(9, &digest))
                && !states.is_of_this_machine(&states.state(8, &digest))
        );
        states.store_module(b"\0asm").unwrap();
        let found = states.list(&record(9)).unwrap();
        let blobs: Vec<Blob> = found.iter().map(|found| found.blob).collect();
        let blob = |version| Blob { version, state_hash: digest, complete: true };
        assert_eq!(blobs, [blob(10), blob(9), blob(8), blob(7)]);
        states.clear_but(Some(&states.state(8, &digest)));
        let mut left: Vec<String> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let kept = format!("state-{:020}-{digest}", 8);
        assert_eq!(left, ["module.wasm", "somebody-else", &kept]);
        fs::remove_dir_all(&directory).unwrap();
    }
}
