//! The kinds of host sections in a snapshot, and taking sections apart.

use dunlin_snapshot::HostSection;

use crate::codec::{CodecError, Reader, Writer};
use crate::error::Error;

/// The kinds of sections that this crate writes. A number is never given to another kind, not even when the first one
/// is no longer written.
pub mod kind {
    /// Arguments and environment.
    pub const ARGS: u16 = 1;
    /// Clocks.
    pub const CLOCKS: u16 = 2;
    /// Random numbers.
    pub const RANDOM: u16 = 3;
    /// Open files and directories.
    pub const FILES: u16 = 4;
    /// Standard streams.
    pub const STREAMS: u16 = 5;
    /// A call of `poll_oneoff` that is to be issued again. Only there when there is one.
    pub const POLL: u16 = 6;
    /// Listeners and connections. Only there when there are any.
    pub const SOCKETS: u16 = 7;
    /// The private volume and what is open in it. Only there when there is one.
    pub const VOLUME: u16 = 8;
    /// Chunks of the private volume that travel with the snapshot. Only there when some do.
    pub const VOLUME_CONTENTS: u16 = 9;
    /// Connections that are carried on. Only there when there are any.
    pub const CARRIED: u16 = 10;
    /// What has been used up of what is limited over a program's life. Only there when it is counted.
    pub const USAGE: u16 = 11;
    /// A move that the program wished for. Only there when it left by one and does not know yet that it has arrived.
    pub const MOBILITY: u16 = 12;
    /// Trusted surroundings: results, and the sealed store. Only there when they are offered.
    pub const TRUST: u16 = 13;
    /// What an earlier instance of the program packed for this one. Only there after a weak move.
    pub const LUGGAGE: u16 = 14;

    /// Every kind, ascending.
    pub(crate) const ALL: [u16; 14] = [
        ARGS,
        CLOCKS,
        RANDOM,
        FILES,
        STREAMS,
        POLL,
        SOCKETS,
        VOLUME,
        VOLUME_CONTENTS,
        CARRIED,
        USAGE,
        MOBILITY,
        TRUST,
        LUGGAGE,
    ];
}

/// Frozen state of one kind in one version: it lies next to what it is the state of, and once released it never
/// changes. Another encoding is another type with the next version, and this one keeps being read.
pub(crate) trait Frozen: Sized {
    /// One of [`kind`].
    const KIND: u16;
    /// Counts from 1.
    const VERSION: u16;

    fn write(&self, writer: &mut Writer);

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError>;

    /// The section that carries it. All are mandatory: a program would notice the lack of any.
    fn section(&self) -> HostSection {
        let mut writer = Writer::default();
        self.write(&mut writer);
        HostSection { kind: Self::KIND, version: Self::VERSION, mandatory: true, bytes: writer.finish() }
    }
}

/// The sections of a snapshot, by kind.
#[derive(Debug)]
pub(crate) struct Sections<'a>(&'a [HostSection]);

impl<'a> Sections<'a> {
    /// Checks that there is nothing in `sections` that a world would have to know and does not.
    pub(crate) fn new(sections: &'a [HostSection]) -> Result<Self, Error> {
        for (at, section) in sections.iter().enumerate() {
            let kind = section.kind;
            if sections[..at].iter().any(|earlier| earlier.kind == kind) {
                return Err(Error::DuplicateSection { kind });
            }
            if section.mandatory && !kind::ALL.contains(&kind) {
                return Err(Error::UnknownSection { kind });
            }
        }
        Ok(Self(sections))
    }

    /// The state of this kind, if there is any.
    pub(crate) fn optional<T: Frozen>(&self) -> Result<Option<T>, Error> {
        let kind = T::KIND;
        let Some(section) = self.0.iter().find(|section| section.kind == kind) else { return Ok(None) };
        if section.version != T::VERSION {
            return Err(Error::UnknownVersion { kind, version: section.version });
        }
        let mut reader = Reader::new(&section.bytes);
        let frozen = T::read(&mut reader).and_then(|frozen| reader.finish().map(|()| frozen));
        frozen.map(Some).map_err(|source| Error::BadSection { kind, source })
    }

    /// The state of this kind, which must be there.
    pub(crate) fn required<T: Frozen>(&self) -> Result<T, Error> {
        self.optional()?.ok_or(Error::MissingSection { kind: T::KIND })
    }
}
