//! Writes a snapshot.

use std::io;

use dunlin_base::Digest;
use dunlin_wire::{TooLong, Writer};

use crate::check::canonical;
use crate::chunk::{CHUNK_SIZE, Compressor};
use crate::envelope::product_text;
use crate::header::Unsealed;
use crate::section::{MANDATORY, SECTION_VERSION};
use crate::{
    Entry, Error, Exception, Extra, Frame, HEADER_SIZE, HOST_KINDS, Header, HostSection, Memory, Module, Page, Problem,
    SectionKind, Snapshot, State, Table, value,
};

/// Why a snapshot cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The state is not in canonical form.
    #[error("the state cannot be written as a snapshot")]
    State(#[source] Error),
    /// What stands beside the state is not in canonical form.
    #[error("the snapshot's {what} cannot be written")]
    Part {
        /// What.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        problem: Problem,
    },
    /// More items than a field can count.
    #[error("a list is too long for the snapshot format")]
    TooLong(#[from] TooLong),
    /// The compressor failed.
    #[error("the compressor failed")]
    Compressor(#[source] io::Error),
}

/// The bytes of a snapshot. Equal snapshots give equal bytes.
///
/// # Errors
/// [`EncodeError`]; never for a snapshot that was decoded.
#[cfg(not(target_family = "wasm"))]
pub fn encode(snapshot: &Snapshot) -> Result<Vec<u8>, EncodeError> {
    let mut zstd = crate::Zstd::new().map_err(EncodeError::Compressor)?;
    encode_with(snapshot, &mut zstd)
}

/// The bytes of a snapshot with another compressor than the native one, or with [`Stored`](crate::Stored).
///
/// # Errors
/// [`EncodeError`]; never for a snapshot that was decoded, unless the compressor fails.
pub fn encode_with(snapshot: &Snapshot, compressor: &mut dyn Compressor) -> Result<Vec<u8>, EncodeError> {
    let Snapshot { module, map_digest, pass_version, features, product, state, extra } = snapshot;
    let Module { digest, embedded } = module;
    let State { entry, frames, globals, tables, memories, dropped_data, dropped_elems, exceptions, host } = state;
    canonical(state).map_err(EncodeError::State)?;
    if let Some(computed) = embedded.as_deref().map(Digest::of).filter(|computed| computed != digest) {
        let problem = Problem::ModuleDigest { announced: *digest, computed };
        return Err(EncodeError::Part { what: "module", problem });
    }

    let mut out = Sections { out: Writer::new(), count: 0, last: None, extra };
    out.out.bytes(&[0; HEADER_SIZE]);
    if let Some(bytes) = embedded {
        out.core(SectionKind::Module, |out| {
            out.bytes(bytes);
            Ok(())
        })?;
    }
    out.core(SectionKind::Frames, |out| each(out, frames, frame))?;
    out.core(SectionKind::Globals, |out| values(out, globals))?;
    out.core(SectionKind::Tables, |out| each(out, tables, table))?;
    out.core(SectionKind::Memories, |out| each(out, memories, |out, one| memory(out, one, compressor)))?;
    out.core(SectionKind::Dropped, |out| {
        for list in [dropped_data, dropped_elems] {
            each(out, list, |out, segment| {
                out.u32(*segment);
                Ok(())
            })?;
        }
        Ok(())
    })?;
    out.core(SectionKind::Exceptions, |out| each(out, exceptions, exception))?;
    if let Some(product) = product {
        product_text(product.as_bytes()).map_err(|problem| EncodeError::Part { what: "product version", problem })?;
        out.core(SectionKind::Meta, |out| {
            out.bytes(product.as_bytes());
            Ok(())
        })?;
    }
    // A state without an entry is not canonical.
    if let Some(entry) = entry {
        out.core(SectionKind::Entry, |out| {
            write_entry(out, entry);
            Ok(())
        })?;
    }
    out.extra_before(HOST_KINDS)?;
    for section in host {
        let HostSection { kind, version, mandatory, bytes } = section;
        out.section(SectionKind::Host(*kind), *version, *mandatory, |out| {
            out.bytes(bytes);
            Ok(())
        })?;
    }
    let Sections { out, count, last: _, extra } = out;
    if !extra.is_empty() {
        return Err(EncodeError::Part { what: "extra section", problem: Problem::NotCanonical(EXTRA_RULE) });
    }
    let mut bytes = out.into_bytes();
    let (embedded, features) = (embedded.is_some(), *features);
    let fields = Unsealed { count, module: *digest, map: *map_digest, pass_version: *pass_version, embedded, features };
    Header::seal(&fields, &mut bytes);
    Ok(bytes)
}

const EXTRA_RULE: &str = "extra sections must be of unknown kind or version, in ascending order, each kind once";

/// Writes sections in the order of their kinds, the extra ones between the known ones.
struct Sections<'a> {
    out: Writer,
    count: u32,
    last: Option<u16>,
    extra: &'a [Extra],
}

impl Sections<'_> {
    fn core(
        &mut self,
        kind: SectionKind,
        body: impl FnOnce(&mut Writer) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        self.extra_before(kind.number())?;
        self.section(kind, SECTION_VERSION, kind != SectionKind::Meta, body)
    }

    fn extra_before(&mut self, kind: u16) -> Result<(), EncodeError> {
        while let Some((Extra { kind: next, version, bytes }, rest)) = self.extra.split_first() {
            if *next >= kind {
                break;
            }
            let next = SectionKind::from_number(*next);
            if next.is_core() && *version == SECTION_VERSION {
                return Err(EncodeError::Part { what: "extra section", problem: Problem::NotCanonical(EXTRA_RULE) });
            }
            self.extra = rest;
            self.section(next, *version, false, |out| {
                out.bytes(bytes);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn section(
        &mut self,
        kind: SectionKind,
        version: u16,
        mandatory: bool,
        body: impl FnOnce(&mut Writer) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        if self.last.is_some_and(|last| last >= kind.number()) {
            return Err(EncodeError::Part { what: "extra section", problem: Problem::NotCanonical(EXTRA_RULE) });
        }
        self.last = Some(kind.number());
        self.count += 1;
        self.out.u16(kind.number());
        self.out.u16(version);
        self.out.u32(if mandatory { MANDATORY } else { 0 });
        let length = self.out.len();
        self.out.u64(0);
        let start = self.out.len();
        body(&mut self.out)?;
        let written = (self.out.len() - start) as u64;
        let patched = self.out.overwrite(length, &written.to_le_bytes());
        debug_assert!(patched, "the length field was written above");
        Ok(())
    }
}

fn write_entry(out: &mut Writer, entry: &Entry) {
    match entry {
        Entry::Start => out.u8(0),
        Entry::Export(name) => {
            out.u8(1);
            out.bytes(name.as_bytes());
        }
    }
}

fn frame(out: &mut Writer, frame: &Frame) -> Result<(), EncodeError> {
    let Frame { safepoint, phase, values: live } = frame;
    out.u32(*safepoint);
    out.u8(match phase {
        dunlin_instrument::Phase::At => 0,
        dunlin_instrument::Phase::Inside => 1,
    });
    values(out, live)
}

fn table(out: &mut Writer, table: &Table) -> Result<(), EncodeError> {
    let Table { elements } = table;
    out.count(elements.len())?;
    let runs: Vec<_> = elements.chunk_by(|a, b| a == b).collect();
    each(out, &runs, |out, run| {
        out.count(run.len())?;
        if let Some(element) = run.first() {
            value::write(out, element);
        }
        Ok(())
    })
}

fn memory(out: &mut Writer, memory: &Memory, compressor: &mut dyn Compressor) -> Result<(), EncodeError> {
    let Memory { size, pages } = memory;
    out.u64(*size);
    let is_zero = |page: &Page| matches!(page, Page::Zero);
    let ranges: Vec<_> =
        pages.chunk_by(|(a, left), (b, right)| a + 1 == *b && is_zero(left) == is_zero(right)).collect();
    each(out, &ranges, |out, range| {
        if let Some((number, page)) = range.first() {
            out.u64(*number);
            out.u64(range.len() as u64);
            out.u8(if is_zero(page) { 0 } else { 1 });
        }
        Ok(())
    })?;
    let mut chunk = Vec::with_capacity(CHUNK_SIZE);
    for (_, page) in pages {
        let Page::Bytes(bytes) = page else { continue };
        chunk.extend_from_slice(bytes);
        if chunk.len() == CHUNK_SIZE {
            write_chunk(out, &chunk, compressor)?;
            chunk.clear();
        }
    }
    if chunk.is_empty() { Ok(()) } else { write_chunk(out, &chunk, compressor) }
}

fn write_chunk(out: &mut Writer, chunk: &[u8], compressor: &mut dyn Compressor) -> Result<(), EncodeError> {
    let compressed = compressor.compress(chunk).map_err(EncodeError::Compressor)?;
    let stored = if compressed.len() < chunk.len() { compressed } else { chunk };
    out.count(stored.len())?;
    out.bytes(stored);
    Ok(())
}

fn exception(out: &mut Writer, exception: &Exception) -> Result<(), EncodeError> {
    let Exception { tag, values: payload } = exception;
    out.u32(*tag);
    values(out, payload)
}

fn values(out: &mut Writer, values: &[dunlin_base::Value]) -> Result<(), EncodeError> {
    each(out, values, |out, one| {
        value::write(out, one);
        Ok(())
    })
}

/// A count and the items.
fn each<T>(
    out: &mut Writer,
    items: &[T],
    mut write: impl FnMut(&mut Writer, &T) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    out.count(items.len())?;
    items.iter().try_for_each(|item| write(out, item))
}
