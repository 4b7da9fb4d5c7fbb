//! Why a world cannot be made, frozen or thawed.

use std::io;
use std::path::PathBuf;

use crate::codec::CodecError;

/// Why a world cannot be made, frozen or thawed. What a program does wrong is not here: it gets an error number.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument or environment variable cannot be given to a program.
    #[error("{what} contains a zero byte, which a WASI program cannot receive")]
    ZeroByte {
        /// Which argument or variable.
        what: String,
    },
    /// A directory to be mounted cannot be opened.
    #[error("cannot mount directory {} as `{guest}`", host.display())]
    Mount {
        /// The directory on the host.
        host: PathBuf,
        /// The path at which the program would see it.
        guest: String,
        /// What the system says.
        source: io::Error,
    },
    /// Two directories are mounted at one path.
    #[error("two directories are mounted as `{guest}`: give each its own path")]
    DuplicateMount {
        /// The path.
        guest: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes, so no random stream can be started")]
    Entropy(#[source] getrandom::Error),
    /// What wakes blocking calls cannot be made.
    #[error("cannot make an event descriptor")]
    Waker(#[source] io::Error),

    /// Something that is open here cannot move.
    #[error("descriptor {fd} cannot move: {why}")]
    NotMovable {
        /// The program's number of it.
        fd: u32,
        /// Why, and what to do.
        why: String,
    },
    /// Something that is open here cannot be looked at.
    #[error("cannot read the state of descriptor {fd}")]
    Freeze {
        /// The program's number of it.
        fd: u32,
        /// What the system says.
        source: io::Error,
    },

    /// The private volume does not work.
    #[error("cannot {action} the private volume `{guest}`")]
    Volume {
        /// What was being done.
        action: &'static str,
        /// Where the program sees it.
        guest: String,
        /// What is wrong.
        source: dunlin_store::Error,
    },
    /// The chunks of the private volume do not come together.
    #[error(
        "not all of the private volume `{guest}` is there: give the store that it was in, or a snapshot that carries its contents"
    )]
    VolumeContents {
        /// Where the program saw it.
        guest: String,
        /// What is missing or wrong.
        source: dunlin_store::ImportError,
    },
    /// More chunks would have to travel than may.
    #[error(
        "{bytes} bytes of the private volume would travel with the snapshot; the limit is {limit}: leave out what the other side has"
    )]
    VolumeTooLarge {
        /// How many bytes.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The store keeps the volume of another program.
    #[error(
        "the store keeps the volume {here}, the snapshot was taken with the volume {snapshot}: give its own store, or an empty one"
    )]
    OtherVolume {
        /// The volume in the snapshot.
        snapshot: String,
        /// The volume in the store.
        here: String,
    },
    /// The store's volume has changed since the snapshot was taken.
    #[error(
        "the store's volume has changed since the snapshot was taken (it is at commit {here}, the snapshot at {snapshot}): \
         going on would undo that. Ask for it explicitly (`--rewind-volume`), or give another store"
    )]
    VolumeMovedOn {
        /// The commit of the snapshot.
        snapshot: u64,
        /// The commit in the store.
        here: u64,
    },
    /// A volume was given to a program that has none.
    #[error("a volume is given, but the program was stopped without one: leave it out")]
    NeedlessVolume,
    /// The snapshot's description of the volume does not fit the volume.
    #[error("the snapshot tells another identity of its volume than the volume has: it is damaged")]
    VolumeIdentity,

    /// A section that every snapshot has is missing.
    #[error("the snapshot has no host section of kind {kind}")]
    MissingSection {
        /// The missing kind.
        kind: u16,
    },
    /// A section appears twice.
    #[error("the snapshot has two host sections of kind {kind}")]
    DuplicateSection {
        /// Their kind.
        kind: u16,
    },
    /// A section of a kind that is not known here and must be.
    #[error("the snapshot needs a host section of kind {kind}, which this version does not know: use a newer one")]
    UnknownSection {
        /// Its kind.
        kind: u16,
    },
    /// A section in an encoding that is not known here.
    #[error("host section {kind} has version {version}, which this version cannot read: use a newer one")]
    UnknownVersion {
        /// Its kind.
        kind: u16,
        /// Its version.
        version: u16,
    },
    /// A section's bytes are wrong.
    #[error("host section {kind} is damaged")]
    BadSection {
        /// Its kind.
        kind: u16,
        /// Where and how.
        source: CodecError,
    },
    /// Two sections claim one descriptor.
    #[error("the snapshot opens descriptor {fd} twice")]
    DuplicateDescriptor {
        /// The descriptor.
        fd: u32,
    },
    /// The snapshot has more open than the configuration permits.
    #[error("the snapshot has {open} open descriptors; the limit here is {limit}")]
    TooManyDescriptors {
        /// How many there are.
        open: usize,
        /// The limit.
        limit: u32,
    },
    /// The snapshot was taken with the other kind of clocks and random numbers.
    #[error("the snapshot has {snapshot} clocks and random numbers, but this world is configured for {here} ones")]
    OtherSource {
        /// What it was taken with.
        snapshot: &'static str,
        /// What is configured.
        here: &'static str,
    },
    /// The program has a sealed store or results of trusted surroundings, and there are none here.
    #[error("the program has trusted surroundings, which this host does not offer it: give it some")]
    NoTrust,
    /// The trusted surroundings fail.
    #[error("the sealed store of the program cannot be moved")]
    Trust(#[source] crate::trust::TrustError),
    /// No weak move of the program goes on.
    #[error("the program does not wait for a weak move that goes on")]
    NotLeaving,
    /// The host does not offer what the snapshot has open. Nothing has been opened for good.
    #[error("this host lacks what the program has open: {}", missing.join("; "))]
    Missing {
        /// Everything that is missing, and why.
        missing: Vec<String>,
    },
}
