//! The directory in which a service's states outlive its keep.
//!
//! ```text
//!   state-VERSION-DIGEST    a committed state, or one that is about to be committed
//!   local-state-VERSION-DIGEST     one of a service with a volume, without what is in it
//!   arrived-MIGRATION-state-VERSION-DIGEST   one that came in a move, without what is in its volume here
//!   staged-MIGRATION        a state that arrived and is not known to be committed
//!   retained-MIGRATION      post-copy: the whole state at the source, until the destination has it
//!   module.wasm             the module, if it came from the source of a move
//!   code-DIGEST             what was compiled from it, for the next keep
//! ```
//!
//! Names are claims: whoever loads a state compares its digest with the ledger's. All states are sealed under the key of
//! the epoch in which they were written, which the broker gives to the next holder and to nobody else: what this instance
//! committed under that key itself, what a migration put here under a key that follows from it and from the migration. Of
//! the latter, nobody can say what they are before there is a holder. Compiled code is sealed to the machine.

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

const MODULE: &str = "module.wasm";
const CODE: &str = "code-";
const STATE: &str = "state-";
const STAGED: &str = "staged-";
const RETAINED: &str = "retained-";
const ARRIVED: &str = "arrived-";
const LOCAL: &str = "local-";

/// The directory, by the descriptor that the node gave.
#[derive(Debug, Clone)]
pub(crate) struct States {
    /// Keeps the path alive.
    directory: Arc<OwnedFd>,
    path: PathBuf,
    machine: Arc<ObjectSeal>,
}

/// A state on storage, as its name describes it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) blob: Blob,
    /// The migration that put it here, if one did.
    pub(crate) migration: Option<MigrationId>,
}

/// What a name says: of which migration it is, and which state, if it says so.
fn read(name: &str) -> Option<(Option<MigrationId>, Option<StateName>)> {
    if let Some(migration) = name.strip_prefix(STAGED).or_else(|| name.strip_prefix(RETAINED)) {
        return Some((Some(migration.parse().ok()?), None));
    }
    if let Some((migration, state)) = name.strip_prefix(ARRIVED).and_then(|name| name.split_once('-')) {
        return Some((Some(migration.parse().ok()?), Some(state.parse().ok()?)));
    }
    let state = name.strip_prefix(LOCAL).unwrap_or(name);
    Some((None, Some(state.parse().ok()?)))
}

/// The path under which a process finds a directory of which it has a descriptor.
pub(crate) fn path_of(directory: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

impl States {
    pub(crate) fn new(directory: Arc<OwnedFd>, machine: ObjectSeal) -> Self {
        Self { path: path_of(&directory), directory, machine: Arc::new(machine) }
    }

    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.directory
    }

    pub(crate) fn state(&self, version: u64, digest: &Digest) -> PathBuf {
        self.path.join(StateName { version, state_hash: *digest }.to_string())
    }

    /// The name of a committed state that came in a move.
    pub(crate) fn arrived(&self, migration: MigrationId, version: u64, digest: &Digest) -> PathBuf {
        self.path.join(format!("{ARRIVED}{migration}-{}", StateName { version, state_hash: *digest }))
    }

    /// The name of one that is good with the volume here only.
    pub(crate) fn local(&self, version: u64, digest: &Digest) -> PathBuf {
        self.path.join(format!("{LOCAL}{}", StateName { version, state_hash: *digest }))
    }

    pub(crate) fn staged(&self, migration: MigrationId) -> PathBuf {
        self.path.join(format!("{STAGED}{migration}"))
    }

    pub(crate) fn retained(&self, migration: MigrationId) -> PathBuf {
        self.path.join(format!("{RETAINED}{migration}"))
    }

    /// Compiled code.
    pub(crate) fn code(&self, name: &str) -> PathBuf {
        self.path.join(format!("{CODE}{name}"))
    }

    /// What seals files to this machine.
    pub(crate) fn machine_seal(&self) -> &ObjectSeal {
        &self.machine
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

    /// All states that are here, where the ledger says `committed`. What a migration put here and is not known to be
    /// committed does not say what it is, and may be the committed one.
    pub(crate) fn list(&self, committed: &Record) -> Result<Vec<Found>, Failure> {
        let failed = Failure::system("the directory of states cannot be listed");
        let entries: Vec<_> = fs::read_dir(&self.path).and_then(Iterator::collect).map_err(failed)?;
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.file_name();
            let Some((migration, state)) = name.to_str().and_then(read) else { continue };
            let Record { version, state_hash, .. } = *committed;
            let StateName { version, state_hash } = state.unwrap_or(StateName { version, state_hash });
            found.push(Found { path: entry.path(), blob: Blob { version, state_hash, complete: true }, migration });
        }
        // Those that say what they are come first.
        found.sort_by_key(|Found { blob, migration, path: _ }| (core::cmp::Reverse(blob.version), migration.is_some()));
        Ok(found)
    }

    /// The committed state is `keep`: nothing else is needed any more.
    pub(crate) fn clear_but(&self, keep: Option<&Path>) {
        self.clear(&[STATE, ARRIVED, LOCAL, STAGED, RETAINED, "unfinished"], keep);
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
        for name in ["somebody-else", "state-x-y", "staged-nonsense", "arrived-x-state-7-y"] {
            fs::write(directory.join(name), b"bytes").unwrap();
        }
        fs::write(states.state(7, &digest), b"a").unwrap();
        fs::write(states.state(8, &digest), b"b").unwrap();
        let migration = MigrationId([0xa5; 16]);
        fs::write(states.arrived(migration, 9, &digest), b"c").unwrap();
        fs::write(states.local(10, &digest), b"d").unwrap();
        fs::write(states.staged(migration), b"e").unwrap();
        fs::write(states.retained(migration), b"f").unwrap();
        states.store_module(b"\0asm").unwrap();
        let found = states.list(&record(8)).unwrap();
        let described: Vec<_> = found.iter().map(|found| (found.blob, found.migration)).collect();
        let blob = |version, state_hash| Blob { version, state_hash, complete: true };
        let unsaid = (blob(8, Digest::of(b"committed")), Some(migration));
        let said = [(10, None), (9, Some(migration)), (8, None)].map(|(version, of)| (blob(version, digest), of));
        let [ten, nine, eight] = said;
        assert_eq!(described, [ten, nine, eight, unsaid, unsaid, (blob(7, digest), None)]);
        states.clear_but(Some(&states.state(8, &digest)));
        let mut left: Vec<String> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        let kept = format!("state-{:020}-{digest}", 8);
        assert_eq!(left, ["module.wasm", "somebody-else", &kept]);
        fs::remove_dir_all(&directory).unwrap();
    }
}
