//! Freezing and thawing the private volume: what it is, what is open in it, and the chunks that travel.
//!
//! A freeze commits, so the root that it names is in the store whatever happens next. A thaw puts the chunks that came
//! into the store and opens that root, but leaves the store's current root as it is: only the first commit of the
//! program that goes on replaces it.

use std::collections::{BTreeSet, HashSet};

use dunlin_base::Digest;
use dunlin_snapshot::HostSection;
use dunlin_store::{HEAD, Ino, Manifest, OpenFile, RootSummary, Volume, export, missing, missing_beside, receive};

use crate::codec::{CodecError, Reader, Writer};
use crate::config::{Carry, Limits, PrivateVolume, Source};
use crate::error::Error;
use crate::needs::OpenNeed;
use crate::preview1::descriptors::{DescriptorV1, Object, Table};
use crate::preview1::fdstat::flags;
use crate::preview1::files::backing::{Content, Tree};
use crate::preview1::files::volume::{self, MountedVolume};
use crate::preview1::files::{Directory, File, Files, Mode};
use crate::sections::{Frozen, Sections, kind};

/// The roots at as many freezes are remembered. A store that still has one of them as its current root was left
/// behind by this program, and nobody has changed it since.
const LINEAGE: usize = 64;

/// The name under which a store keeps the root of a state that does not carry all that it needs: whoever begins again from
/// that state finds the rest here, whatever became of the volume since.
pub(super) const PINNED: &str = "state";

/// The same of a state that is about to take its place.
pub(super) const NEXT: &str = "next-state";

/// The volume, at a freeze.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeV1 {
    /// Where the program sees it.
    pub(crate) guest: String,
    pub(crate) id: [u8; 16],
    /// How many commits that changed something it is the result of.
    pub(crate) generation: u64,
    pub(crate) root: Digest,
    pub(crate) used_bytes: u64,
    pub(crate) used_inodes: u64,
    /// The roots at earlier freezes, the last one last.
    pub(crate) lineage: Vec<Digest>,
    pub(crate) open: Vec<OpenV1>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenV1 {
    descriptor: DescriptorV1,
    inode: u64,
    mode: Mode,
    what: WhatV1,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum WhatV1 {
    Directory { preopened: bool },
    File { append: bool, synchronous: u32, offset: u64 },
}

/// Chunks of the volume that travel with the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContentsV1 {
    /// The digests of all chunks that the root needs, ascending, itself included.
    pub(crate) needed: Vec<Digest>,
    /// The bytes of those that travel.
    pub(crate) chunks: Vec<Vec<u8>>,
}

impl VolumeV1 {
    /// What is open.
    pub(crate) fn needs(&self) -> Vec<OpenNeed> {
        let need = |open: &OpenV1| {
            let (offset, preopened) = match open.what {
                WhatV1::Directory { preopened } => (None, preopened),
                WhatV1::File { offset, .. } => (Some(offset), false),
            };
            let OpenV1 { descriptor, inode, mode, what: _ } = open;
            OpenNeed { descriptor: descriptor.fd, inode: *inode, offset, writable: mode.write, preopened }
        };
        self.open.iter().map(need).collect()
    }
}

impl Frozen for VolumeV1 {
    const KIND: u16 = kind::VOLUME;
    const VERSION: u16 = 1;

    fn write(&self, writer: &mut Writer) {
        let Self { guest, id, generation, root, used_bytes, used_inodes, lineage, open } = self;
        writer.text(guest);
        writer.u128(u128::from_le_bytes(*id));
        writer.u64(*generation);
        writer.array(&root.0);
        writer.u64(*used_bytes);
        writer.u64(*used_inodes);
        writer.list(lineage, |root, writer| writer.array(&root.0));
        writer.list(open, OpenV1::write);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            guest: reader.text("volume's path")?,
            id: reader.u128()?.to_le_bytes(),
            generation: reader.u64()?,
            root: Digest(reader.array()?),
            used_bytes: reader.u64()?,
            used_inodes: reader.u64()?,
            lineage: reader.list(|reader| Ok(Digest(reader.array()?)))?,
            open: reader.list(OpenV1::read)?,
        })
    }
}

impl OpenV1 {
    fn write(&self, writer: &mut Writer) {
        let Self { descriptor, inode, mode, what } = self;
        descriptor.write(writer);
        writer.u64(*inode);
        writer.flag(mode.read);
        writer.flag(mode.write);
        match what {
            WhatV1::Directory { preopened } => {
                writer.flag(true);
                writer.flag(*preopened);
            }
            WhatV1::File { append, synchronous, offset } => {
                writer.flag(false);
                writer.flag(*append);
                writer.u32(*synchronous);
                writer.u64(*offset);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let descriptor = DescriptorV1::read(reader)?;
        let inode = reader.u64()?;
        let mode = Mode { read: reader.flag("mode")?, write: reader.flag("mode")? };
        let what = if reader.flag("kind of file")? {
            WhatV1::Directory { preopened: reader.flag("kind of directory")? }
        } else {
            let append = reader.flag("mode")?;
            let synchronous = reader.u32()?;
            if synchronous & !flags::SYNCHRONOUS != 0 {
                return Err(reader.invalid("mode"));
            }
            WhatV1::File { append, synchronous, offset: reader.u64()? }
        };
        Ok(Self { descriptor, inode, mode, what })
    }

    fn of(descriptor: DescriptorV1, object: &Object) -> Option<Self> {
        Some(match object {
            Object::Directory(Directory { mode, preopened, listing: _, tree: Tree::Volume(node) }) => {
                Self { descriptor, inode: node.ino().0, mode: *mode, what: WhatV1::Directory { preopened: *preopened } }
            }
            Object::File(File { mode, append, synchronous, offset, content: Content::Volume(node) }) => Self {
                descriptor,
                inode: node.ino().0,
                mode: *mode,
                what: WhatV1::File { append: *append, synchronous: *synchronous, offset: *offset },
            },
            _ => return None,
        })
    }

    fn reopen(self, volume: &MountedVolume) -> Result<Object, Error> {
        let Self { descriptor: _, inode, mode, what } = self;
        let is_directory = matches!(what, WhatV1::Directory { .. });
        let open = OpenFile {
            ino: Ino(inode),
            read: mode.read,
            // Whether names in a directory may be changed is not a matter of its mode.
            write: mode.write && !is_directory,
            append: false,
            offset: 0,
        };
        let node = volume.reopen(open)?;
        if node.is_directory()? != is_directory {
            return Err(Error::VolumeIdentity);
        }
        Ok(match what {
            WhatV1::Directory { preopened } => {
                Object::Directory(Directory { mode, preopened, listing: None, tree: Tree::Volume(node) })
            }
            WhatV1::File { append, synchronous, offset } => {
                Object::File(File { mode, append, synchronous, offset, content: Content::Volume(node) })
            }
        })
    }
}

impl Frozen for ContentsV1 {
    const KIND: u16 = kind::VOLUME_CONTENTS;
    const VERSION: u16 = 1;

    fn write(&self, writer: &mut Writer) {
        let Self { needed, chunks } = self;
        writer.list(needed, |digest, writer| writer.array(&digest.0));
        writer.list(chunks, |bytes, writer| writer.bytes(bytes));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let mut last = None;
        let needed = reader.list(|reader| {
            let digest = Digest(reader.array()?);
            if last.replace(digest).is_some_and(|last| last >= digest) {
                return Err(reader.invalid("order of chunks"));
            }
            Ok(digest)
        })?;
        let chunks = reader.list(|reader| Ok(reader.bytes()?.to_vec()))?;
        Ok(Self { needed, chunks })
    }
}

impl MountedVolume {
    /// Commits, and tells the volume with everything that is open in it, and the chunks that travel.
    fn freeze(&mut self, table: &Table, limits: &Limits) -> Result<Vec<HostSection>, Error> {
        let (root, frozen) = self.act("commit", |volume| {
            let root = volume.commit()?;
            let used = volume.usage().used;
            let frozen = VolumeV1 {
                guest: String::new(),
                id: volume.id(),
                generation: volume.generation(),
                root,
                used_bytes: used.bytes,
                used_inodes: used.inodes,
                lineage: Vec::new(),
                open: table.iter().filter_map(|(descriptor, object)| OpenV1::of(descriptor, object)).collect(),
            };
            Ok((root, frozen))
        })?;
        let contents = match self.carry.clone() {
            Carry::Nothing => None,
            Carry::All => Some(self.contents(&BTreeSet::new(), limits)?),
            Carry::Without(known) => Some(self.contents(&known, limits)?),
        };
        // A second freeze of the same state tells the same.
        self.lineage.retain(|earlier| *earlier != root);
        let frozen = VolumeV1 { guest: self.guest.clone(), lineage: self.lineage.clone(), ..frozen };
        self.lineage.push(root);
        let surplus = self.lineage.len().saturating_sub(LINEAGE);
        self.lineage.drain(..surplus);
        Ok([Some(frozen.section()), contents.as_ref().map(Frozen::section)].into_iter().flatten().collect())
    }

    fn contents(&self, known: &BTreeSet<Digest>, limits: &Limits) -> Result<ContentsV1, Error> {
        let (mut chunks, mut bytes) = (Vec::new(), 0_u64);
        let mut take = |chunk: Vec<u8>| {
            bytes += chunk.len() as u64;
            // What is too much is only counted.
            if bytes <= limits.volume_contents {
                chunks.push(chunk);
            }
        };
        let needed = self.act("read", |volume| {
            if let Some(ahead) = &mut *self.shared.ahead() {
                let (root, store, sealing) = (volume.commit()?, volume.store(), volume.sealing());
                ahead.look(&**store, &**sealing, root)?;
                // The other side has the rest, and whoever begins from this state there finds out what the root needs.
                let mut travel = BTreeSet::new();
                for chunk in ahead.rest(&**store) {
                    let (digest, chunk) = chunk?;
                    travel.insert(digest);
                    take(chunk);
                }
                return Ok(travel);
            }
            let manifest = volume.manifest()?;
            let travel: Vec<Digest> = manifest.chunks.difference(known).copied().collect();
            export(&**volume.store(), &travel).try_for_each(|chunk| chunk.map(|(_, chunk)| take(chunk)))?;
            Ok(manifest.chunks)
        })?;
        if bytes > limits.volume_contents {
            return Err(Error::VolumeTooLarge { bytes, limit: limits.volume_contents });
        }
        Ok(ContentsV1 { needed: needed.into_iter().collect(), chunks })
    }
}

impl Files {
    pub(crate) fn freeze_volume(&mut self, table: &Table, limits: &Limits) -> Result<Vec<HostSection>, Error> {
        self.volume.as_mut().map_or_else(|| Ok(Vec::new()), |volume| volume.freeze(table, limits))
    }

    /// Takes the place of the frozen volume. The store's current root stays what it is.
    pub(crate) fn thaw_volume(
        &mut self,
        arriving: Option<Arriving<'_>>,
        source: Source,
        limits: &Limits,
        table: &mut Table,
    ) -> Result<(), Error> {
        let Some(Arriving { frozen, contents, offer }) = arriving else { return Ok(()) };
        if frozen.open.len() > limits.descriptors as usize {
            return Err(Error::TooManyDescriptors { open: frozen.open.len(), limit: limits.descriptors });
        }
        if self.mounts.iter().any(|mount| mount.guest == frozen.guest) {
            return Err(Error::DuplicateMount { guest: frozen.guest });
        }
        let failed = |action| {
            let guest = frozen.guest.clone();
            move |source| Error::Volume { action, guest, source }
        };
        check_successor(&frozen, offer)?;
        gather(&frozen, contents, offer)?;
        let volume = Volume::open_at(offer.store.clone(), frozen.root, volume::options(offer, source));
        let volume = volume.map_err(failed("open"))?;
        if (volume.id(), volume.generation()) != (frozen.id, frozen.generation) {
            return Err(Error::VolumeIdentity);
        }
        let lineage = frozen.lineage.iter().copied().chain([frozen.root]).collect();
        let mounted = MountedVolume::new(frozen.guest.clone(), volume, offer, lineage);
        for open in frozen.open {
            table.insert_at(open.descriptor, open.reopen(&mounted)?)?;
        }
        mounted.act("open", Volume::reap)?;
        self.volume = Some(mounted);
        Ok(())
    }
}

/// A frozen volume and what it is to continue on.
#[derive(Debug)]
pub(crate) struct Arriving<'a> {
    frozen: VolumeV1,
    contents: Option<ContentsV1>,
    offer: &'a PrivateVolume,
}

/// The frozen volume, if there is one and something to continue on. What the host lacks is added to `missing`.
pub(crate) fn arriving<'a>(
    sections: &Sections<'_>,
    offer: Option<&'a PrivateVolume>,
    missing: &mut Vec<String>,
) -> Result<Option<Arriving<'a>>, Error> {
    let (frozen, contents) = (sections.optional::<VolumeV1>()?, sections.optional::<ContentsV1>()?);
    let Some(frozen) = frozen else {
        return match (contents, offer) {
            (Some(_), _) => Err(Error::MissingSection { kind: kind::VOLUME }),
            (None, Some(_)) => Err(Error::NeedlessVolume),
            (None, None) => Ok(None),
        };
    };
    let guest = &frozen.guest;
    match offer {
        None => missing.push(format!("a store for the private volume `{guest}` (give a directory by `--volume DIR`)")),
        Some(offer) if offer.guest.as_ref().is_some_and(|other| other != guest) => {
            missing.push(format!("the private volume as `{guest}`, where the program saw it"));
        }
        Some(offer) => return Ok(Some(Arriving { frozen, contents, offer })),
    }
    Ok(None)
}

/// Refuses to undo what has happened in the store since, and to replace another program's volume.
fn check_successor(frozen: &VolumeV1, offer: &PrivateVolume) -> Result<(), Error> {
    let failed = |source| Error::Volume { action: "open", guest: frozen.guest.clone(), source };
    let head = offer.store.root(HEAD).map_err(|error| failed(error.into()))?;
    let Some(head) = head.filter(|head| *head != frozen.root) else { return Ok(()) };
    let here = RootSummary::read(&*offer.store, &*offer.sealing, head).map_err(failed)?;
    if here.id != frozen.id {
        let [snapshot, here] = [frozen.id, here.id].map(|id| format!("{:032x}", u128::from_be_bytes(id)));
        return Err(Error::OtherVolume { snapshot, here });
    }
    if !offer.rewind && !frozen.lineage.contains(&head) {
        return Err(Error::VolumeMovedOn { snapshot: frozen.generation, here: here.generation });
    }
    Ok(())
}

/// Puts the chunks that came into the store, and checks that all are there.
fn gather(frozen: &VolumeV1, contents: Option<ContentsV1>, offer: &PrivateVolume) -> Result<(), Error> {
    let failed = |source| Error::Volume { action: "open", guest: frozen.guest.clone(), source };
    let incomplete = |source| Error::VolumeContents { guest: frozen.guest.clone(), source };
    let mut sent = 0;
    let mut came = HashSet::new();
    if let Some(ContentsV1 { needed, chunks }) = contents {
        if offer.complete {
            came = needed.iter().copied().collect();
        }
        let manifest = Manifest { root: frozen.root, chunks: needed.into_iter().collect() };
        receive(&*offer.store, &manifest, &chunks).map_err(incomplete)?;
        sent = chunks.len();
    }
    // What the sections say is needed is their word; what the root names counts.
    let (absent, whole) = if offer.complete {
        (missing_beside(&*offer.store, &*offer.sealing, frozen.root, &came).map_err(failed)?, false)
    } else {
        let manifest = Manifest::of(&*offer.store, &*offer.sealing, frozen.root).map_err(failed)?;
        let absent = missing(&manifest, &*offer.store).map_err(|error| failed(error.into()))?;
        (absent, sent >= manifest.chunks.len())
    };
    if let Some(first) = absent.first() {
        return Err(incomplete(dunlin_store::ImportError::Missing { count: absent.len(), first: *first }));
    }
    // Either makes what came durable.
    let pin = (!whole).then_some(frozen.root);
    let pinned = offer.store.root(PINNED).map_err(|error| failed(error.into()))?;
    let durable = if pin == pinned { offer.store.sync() } else { offer.store.set_root(PINNED, pin) };
    durable.map_err(|error| failed(error.into()))?;
    // A state that was to follow did not come to be, or is the one that was frozen.
    match offer.store.root(NEXT).map_err(|error| failed(error.into()))? {
        None => Ok(()),
        Some(_) => offer.store.set_root(NEXT, None).map_err(|error| failed(error.into())),
    }
}
