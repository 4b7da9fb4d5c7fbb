//! A snapshot whose bytes are those that were written.

use dunlin_base::Digest;
use dunlin_instrument::{Map, PASS_VERSION};
use dunlin_wire::{ReadError, Reader};

use crate::check::{self, exception_graph, spend};
use crate::chunk::StoredChunk;
use crate::decode::{At, Decoder};
use crate::header::digest_of;
use crate::section::{MANDATORY, SECTION_HEADER, SECTION_VERSION};
use crate::{
    Error, Extra, Features, HEADER_SIZE, Header, HostSection, Limits, Module, Problem, Section, SectionKind, Snapshot,
    State,
};

/// A snapshot whose magic, version, length and digest are right. Nothing in it has been decoded.
#[derive(Debug, Clone)]
pub struct Envelope<'a> {
    header: Header,
    sections: Vec<Section<'a>>,
    limits: Limits,
}

impl<'a> Envelope<'a> {
    /// Checks magic, format version, length and digest, in this order, and then finds the sections.
    ///
    /// # Errors
    /// [`Error::Magic`], [`Error::Version`], [`Error::Header`], [`Error::Limit`], [`Error::Length`], [`Error::Digest`],
    /// [`Error::Flags`], [`Error::Sections`].
    pub fn open(bytes: &'a [u8], limits: &Limits) -> Result<Self, Error> {
        let header = Header::parse(bytes)?;
        let (announced, length) = (header.total_length, bytes.len() as u64);
        if announced > limits.total_bytes {
            return Err(Error::Limit { what: "length", value: announced, limit: limits.total_bytes });
        }
        if announced != length {
            return Err(Error::Length { announced, length });
        }
        let computed = digest_of(bytes);
        if computed != header.digest {
            return Err(Error::Digest { announced: header.digest, computed });
        }
        match header.undefined_flags() {
            0 => {}
            bits => return Err(Error::Flags { bits }),
        }
        if header.sections > limits.sections {
            let (value, limit) = (header.sections.into(), limits.sections.into());
            return Err(Error::Limit { what: "number of sections", value, limit });
        }
        let sections = find_sections(bytes, header.sections)
            .map_err(|At { offset, item: _, problem }| Error::Sections { offset, problem })?;
        Ok(Self { header, sections, limits: *limits })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The digest of the snapshot: its identity.
    pub fn digest(&self) -> Digest {
        self.header.digest
    }

    /// The sections, not decoded, in the order in which they stand.
    pub fn sections(&self) -> &[Section<'a>] {
        &self.sections
    }

    /// The optional sections that this version skips; [`Snapshot::extra`] keeps them.
    pub fn skipped(&self) -> impl Iterator<Item = &Section<'a>> {
        self.sections.iter().filter(|section| !section.is_known() && !section.mandatory)
    }

    /// The embedded module, after its digest was compared with the header's; `None` when the snapshot names its module
    /// only.
    ///
    /// # Errors
    /// [`Error::Presence`] and [`Error::Section`].
    pub fn module(&self) -> Result<Option<&'a [u8]>, Error> {
        let present = self.known(SectionKind::Module);
        if present.is_some() != self.header.has_module() {
            return Err(Error::Presence { kind: SectionKind::Module, present: present.is_some() });
        }
        let Some(section) = present else { return Ok(None) };
        check::limit("module size", section.body.len() as u64, self.limits.module_bytes)
            .and_then(|()| {
                let (announced, computed) = (self.header.module, Digest::of(section.body));
                if announced == computed { Ok(()) } else { Err(Problem::ModuleDigest { announced, computed }) }
            })
            .map_err(|problem| in_section(section)(At { offset: section.offset, item: None, problem }))?;
        Ok(Some(section.body))
    }

    /// Checks that an engine with these features can run the module.
    ///
    /// # Errors
    /// [`Error::Features`].
    pub fn require(&self, available: Features) -> Result<(), Error> {
        let missing = self.header.features.without(available);
        if missing.is_empty() { Ok(()) } else { Err(Error::Features { missing }) }
    }

    /// Decodes the state and checks all of it against the map of its module.
    ///
    /// Host sections are handed on as they are: whoever restores them refuses those that are mandatory and that it
    /// does not know. Host references and the types behind typed function references are checked by host and engine.
    ///
    /// # Errors
    /// First [`Error::ForeignModule`], [`Error::ForeignMap`], [`Error::Features`], [`Error::Mandatory`]; then
    /// [`Error::Presence`] and [`Error::Section`].
    pub fn decode(&self, map: &Map) -> Result<Snapshot, Error> {
        let Header {
            module, map: map_digest, pass_version, features: _, sections: _, total_length: _, digest: _, ..
        } = self.header;
        if module != map.module {
            return Err(Error::ForeignModule { snapshot: module, given: map.module });
        }
        let given = map.digest();
        if map_digest != given || pass_version != PASS_VERSION {
            let (snapshot_pass, given_pass) = (pass_version, PASS_VERSION);
            return Err(Error::ForeignMap { snapshot: map_digest, snapshot_pass, given, given_pass });
        }
        self.require(Features::ALL)?;
        self.contents(Some(map))
    }

    /// Decodes the state without its module, for display only: nothing tells whether it can be the state of an instance.
    ///
    /// # Errors
    /// [`Error::Mandatory`], [`Error::Presence`] and [`Error::Section`].
    pub fn peek(&self) -> Result<Snapshot, Error> {
        self.contents(None)
    }

    /// The chunks that hold the contents of memory pages, not decompressed.
    ///
    /// # Errors
    /// [`Error::Presence`] and [`Error::Section`].
    pub fn chunks(&self) -> Result<Vec<StoredChunk<'a>>, Error> {
        let section = self.required(SectionKind::Memories)?;
        Decoder { map: None, limits: &self.limits }.chunks(section).map_err(in_section(section))
    }

    fn contents(&self, map: Option<&Map>) -> Result<Snapshot, Error> {
        self.mandatory()?;
        let embedded = self.module()?.map(<[u8]>::to_vec);
        let (host, extra) = self.opaque()?;
        let decoder = Decoder { map, limits: &self.limits };
        let (dropped_data, dropped_elems) = self.section(SectionKind::Dropped, |section| decoder.dropped(section))?;
        let state = State {
            entry: Some(self.section(SectionKind::Entry, |section| decoder.entry(section))?),
            frames: self.section(SectionKind::Frames, |section| decoder.frames(section))?,
            globals: self.section(SectionKind::Globals, |section| decoder.globals(section))?,
            tables: self.section(SectionKind::Tables, |section| decoder.tables(section))?,
            memories: self.section(SectionKind::Memories, |section| decoder.memories(section))?,
            dropped_data,
            dropped_elems,
            exceptions: self.section(SectionKind::Exceptions, |section| decoder.exceptions(section))?,
            host,
        };
        self.section(SectionKind::Exceptions, |section| {
            exception_graph(&state).map_err(|problem| At { offset: section.offset, item: None, problem })
        })?;
        Ok(Snapshot {
            module: Module { digest: self.header.module, embedded },
            map_digest: self.header.map,
            pass_version: self.header.pass_version,
            features: self.header.features,
            product: self.product()?,
            state,
            extra,
        })
    }

    /// Refuses what must be understood and is not, and flags that a known section never has.
    fn mandatory(&self) -> Result<(), Error> {
        for section in &self.sections {
            let Section { kind, version, mandatory, offset, body: _ } = *section;
            if !section.is_known() && mandatory {
                return Err(Error::Mandatory { kind, version, offset });
            }
            if section.is_known() && kind.is_core() && mandatory != (kind != SectionKind::Meta) {
                let problem = Problem::NotCanonical("the mandatory flag is not the one that the kind has");
                return Err(in_section(section)(At { offset, item: None, problem }));
            }
        }
        Ok(())
    }

    fn opaque(&self) -> Result<(Vec<HostSection>, Vec<Extra>), Error> {
        let (mut host, mut extra, mut spent) = (Vec::new(), Vec::new(), 0);
        for section in &self.sections {
            let Section { kind, version, mandatory, offset, body } = *section;
            if section.is_known() && kind.is_core() {
                continue;
            }
            spend(&mut spent, body.len() as u64, "size of host sections", self.limits.host_bytes)
                .map_err(|problem| in_section(section)(At { offset, item: None, problem }))?;
            match kind {
                SectionKind::Host(kind) => host.push(HostSection { kind, version, mandatory, bytes: body.to_vec() }),
                _ => extra.push(Extra { kind: kind.number(), version, bytes: body.to_vec() }),
            }
        }
        Ok((host, extra))
    }

    fn product(&self) -> Result<Option<String>, Error> {
        let Some(section) = self.known(SectionKind::Meta) else { return Ok(None) };
        let text = product_text(section.body);
        let text = text.map_err(|problem| in_section(section)(At { offset: section.offset, item: None, problem }))?;
        Ok(Some(text.to_owned()))
    }

    fn section<T>(&self, kind: SectionKind, decode: impl FnOnce(&Section<'a>) -> Result<T, At>) -> Result<T, Error> {
        let section = self.required(kind)?;
        decode(section).map_err(in_section(section))
    }

    fn required(&self, kind: SectionKind) -> Result<&Section<'a>, Error> {
        self.known(kind).ok_or(Error::Presence { kind, present: false })
    }

    fn known(&self, kind: SectionKind) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.kind == kind && section.version == SECTION_VERSION)
    }
}

/// The product's version: a short text.
pub(crate) fn product_text(bytes: &[u8]) -> Result<&str, Problem> {
    const LONGEST: usize = 256;
    check::limit("length of the product version", bytes.len() as u64, LONGEST as u64)?;
    match core::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() => Ok(text),
        _ => Err(Problem::NotCanonical("the product version is empty or not UTF-8")),
    }
}

/// The sections: `count` of them, kinds ascending, nothing between or behind them.
fn find_sections(bytes: &[u8], count: u32) -> Result<Vec<Section<'_>>, At> {
    let body = bytes.get(HEADER_SIZE..).unwrap_or_default();
    let mut reader = Reader::at(body, HEADER_SIZE as u64);
    let mut sections: Vec<Section<'_>> = Vec::new();
    for _ in 0..count {
        let offset = reader.offset();
        let at = |problem| At { offset, item: None, problem };
        let kind = SectionKind::from_number(reader.u16()?);
        let version = reader.u16()?;
        let flags = reader.u32()?;
        if flags & !MANDATORY != 0 {
            return Err(at(Problem::NotCanonical("a section has undefined flags")));
        }
        if sections.last().is_some_and(|before| before.kind.number() >= kind.number()) {
            return Err(at(Problem::NotCanonical("sections are not in ascending order of their kinds")));
        }
        let length = reader.u64()?;
        let body = reader.bytes(length).map_err(|ReadError { offset: _, problem }| at(Problem::Bytes(problem)))?;
        let body_offset = offset + SECTION_HEADER;
        sections.push(Section { kind, version, mandatory: flags & MANDATORY != 0, offset: body_offset, body });
    }
    reader.finish()?;
    Ok(sections)
}

fn in_section(section: &Section<'_>) -> impl Fn(At) -> Error {
    let kind = section.kind;
    move |At { offset, item, problem }| Error::Section { kind, offset, item, problem }
}
