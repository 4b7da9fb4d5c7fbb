//! What can go wrong in a volume.

use dunlin_base::Digest;
use dunlin_wire::ReadError;

use crate::seal::SealError;
use crate::store::StoreError;

/// Why an operation on a volume failed. [`Error::errno`] is what a program is told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A component of the path does not exist.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name exists already")]
    Exists,
    /// A component of the path is not a directory.
    #[error("not a directory")]
    NotDirectory,
    /// A directory where a file is needed.
    #[error("is a directory")]
    IsDirectory,
    /// A directory that must be empty is not.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The volume is full.
    #[error("the volume's quota of {limit} {what} is used up")]
    NoSpace {
        /// `bytes` or `inodes`.
        what: &'static str,
        /// The quota.
        limit: u64,
    },
    /// Too many symbolic links on the way.
    #[error("more than {limit} symbolic links in a path, or a symbolic link where none may be")]
    Loop {
        /// The limit.
        limit: u32,
    },
    /// A name or path is too long.
    #[error("a name is longer than {} bytes or a path longer than {} bytes", crate::MAX_NAME, crate::MAX_PATH)]
    NameTooLong,
    /// The arguments make no sense.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// The path leads out of the directory that it is relative to, or the operation is not for this kind of file.
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    /// The handle is not open, or not for this.
    #[error("the handle is not open for this")]
    BadHandle,
    /// A file would become larger than a file can be.
    #[error("a file cannot be larger than {} bytes", crate::MAX_FILE)]
    FileTooLarge,
    /// An inode has as many names as it can have.
    #[error("an inode cannot have more than {} links", crate::MAX_LINKS)]
    TooManyLinks,
    /// Too many handles, or too many deleted files that are still open.
    #[error("more than {limit} handles or deleted files are open")]
    TooManyOpen {
        /// The limit.
        limit: usize,
    },
    /// The root directory can be neither renamed nor removed.
    #[error("the directory is in use")]
    Busy,
    /// The store has no volume, or not the one that is asked for.
    #[error("the store has no root `{name}`; create a volume in it, or import one")]
    NoVolume {
        /// The root pointer that is missing.
        name: String,
    },
    /// The store already has a volume.
    #[error("the store has a volume already; open it, or use another store")]
    VolumeExists,
    /// A chunk is missing or not what it should be.
    #[error("chunk {digest} is damaged")]
    Damaged {
        /// The chunk.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        problem: Damage,
    },
    /// The chunks are whole, but contradict each other.
    #[error("the volume contradicts itself: {0}")]
    Inconsistent(&'static str),
    /// The store failed.
    #[error("the volume's store failed")]
    Store(#[from] StoreError),
}

/// What is wrong with a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// It is not in the store.
    #[error("it is not in the store")]
    Missing,
    /// Its bytes have another digest.
    #[error("its bytes have another digest")]
    Digest,
    /// It does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Its bytes cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is not a root record.
    #[error("it is not a root record")]
    Magic,
    /// Its format is of another version.
    #[error("it has format version {0}, this build knows 1")]
    Version(u16),
    /// A field has a value that it cannot have.
    #[error("{0}")]
    Value(&'static str),
}

impl Error {
    /// The name of the error number that a program is told.
    pub fn errno(&self) -> &'static str {
        match self {
            Self::NotFound => "ENOENT",
            Self::Exists => "EEXIST",
            Self::NotDirectory => "ENOTDIR",
            Self::IsDirectory => "EISDIR",
            Self::NotEmpty => "ENOTEMPTY",
            Self::NoSpace { .. } => "ENOSPC",
            Self::Loop { .. } => "ELOOP",
            Self::NameTooLong => "ENAMETOOLONG",
            Self::Invalid(_) => "EINVAL",
            Self::NotPermitted(_) => "EPERM",
            Self::BadHandle => "EBADF",
            Self::FileTooLarge => "EFBIG",
            Self::TooManyLinks => "EMLINK",
            Self::TooManyOpen { .. } => "ENFILE",
            Self::Busy => "EBUSY",
            Self::Store(error) if error.is_full() => "ENOSPC",
            Self::NoVolume { .. }
            | Self::VolumeExists
            | Self::Damaged { .. }
            | Self::Inconsistent(_)
            | Self::Store(_) => "EIO",
        }
    }
}
