//! What a frozen program needs of a host, as its sections tell: for people who look, and for whoever chooses a host.

use dunlin_base::Digest;
use dunlin_snapshot::HostSection;

use crate::error::Error;
use crate::preview1::files::state::FilesV1;
use crate::preview1::files::volume_state::{ContentsV1, VolumeV1};
use crate::preview1::sockets::{self, SocketsV1};
use crate::sections::Sections;

/// What a frozen program needs of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Directories of the host, which pin it to hosts that have them.
    pub mounts: Vec<MountNeed>,
    /// Its private volume.
    pub volume: Option<VolumeNeed>,
    /// How many listeners the host must offer.
    pub listeners: u32,
    /// Connections that are carried on.
    pub connections: u32,
}

/// A mounted directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountNeed {
    /// Where the program sees it.
    pub guest: String,
    /// Whether it must be allowed to change things there.
    pub writable: bool,
    /// What it has open there, beneath the directory: paths in the order of their descriptors. Deleted files, which
    /// travel, are not among them.
    pub open: Vec<String>,
}

/// A private volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeNeed {
    /// Where the program sees it.
    pub guest: String,
    /// What tells it from all other volumes.
    pub id: [u8; 16],
    /// How many commits that changed something it is the result of.
    pub generation: u64,
    /// Its root: what identifies everything in it.
    pub root: Digest,
    /// What it holds, in the units of its quota.
    pub used_bytes: u64,
    /// Files, directories and symbolic links.
    pub used_inodes: u64,
    /// What is open in it, by descriptor.
    pub open: Vec<OpenNeed>,
    /// What of it travels; `None` when whoever goes on must have its store.
    pub contents: Option<VolumeContents>,
}

/// Something open in a private volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenNeed {
    /// The program's number of it.
    pub descriptor: u32,
    /// The volume's number of it.
    pub inode: u64,
    /// Where the next read or write is; `None` for a directory.
    pub offset: Option<u64>,
    /// Whether it is open for writing.
    pub writable: bool,
    /// Whether it is the volume's own directory, which every program finds open.
    pub preopened: bool,
}

/// Chunks of a volume that travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeContents {
    /// The digests of all chunks that the volume needs, ascending.
    pub needed: Vec<Digest>,
    /// How many of them travel.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Needs {
    /// What the program needs that was frozen into `sections`.
    ///
    /// # Errors
    ///
    /// When the sections are damaged or from a newer version.
    pub fn of(sections: &[HostSection]) -> Result<Self, Error> {
        let sections = Sections::new(sections)?;
        let files: Option<FilesV1> = sections.optional()?;
        let volume: Option<VolumeV1> = sections.optional()?;
        let contents: Option<ContentsV1> = sections.optional()?;
        let open: Option<SocketsV1> = sections.optional()?;
        let contents = contents.map(|ContentsV1 { needed, chunks }| VolumeContents {
            needed,
            chunks: chunks.len() as u64,
            bytes: chunks.iter().map(|chunk| chunk.len() as u64).sum(),
        });
        Ok(Self {
            mounts: files.map(FilesV1::needs).unwrap_or_default(),
            volume: volume.map(|volume| VolumeNeed {
                open: volume.needs(),
                guest: volume.guest,
                id: volume.id,
                generation: volume.generation,
                root: volume.root,
                used_bytes: volume.used_bytes,
                used_inodes: volume.used_inodes,
                contents,
            }),
            listeners: open.map_or(0, |open| open.listeners()),
            connections: sockets::arriving(&sections)?.count(),
        })
    }
}
