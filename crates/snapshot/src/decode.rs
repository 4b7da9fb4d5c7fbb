//! Decodes the bodies of sections. Every count is compared with the map and the limits before what it counts is
//! read.

use dunlin_base::{PAGE_SIZE, page_count};
use dunlin_instrument::{Map, Phase};
use dunlin_wire::{ReadError, Reader};

use crate::check::{self, spend};
use crate::chunk::{CHUNK_SIZE, Decompressor, StoredChunk};
use crate::{Entry, Exception, Frame, Limits, Memory, Page, Problem, Section, Table, value};

/// A problem and where in the file it is.
pub(crate) struct At {
    pub(crate) offset: u64,
    pub(crate) item: Option<u32>,
    pub(crate) problem: Problem,
}

impl From<ReadError> for At {
    fn from(ReadError { offset, problem }: ReadError) -> Self {
        Self { offset, item: None, problem: Problem::Bytes(problem) }
    }
}

impl At {
    fn item(self, item: u32) -> Self {
        Self { item: Some(item), ..self }
    }
}

/// Gives a problem its place.
pub(crate) trait Place<T> {
    fn at(self, offset: u64) -> Result<T, At>;
}

impl<T> Place<T> for Result<T, Problem> {
    fn at(self, offset: u64) -> Result<T, At> {
        self.map_err(|problem| At { offset, item: None, problem })
    }
}

/// Decodes bodies for one module, or, without a map, for display only.
#[derive(Clone, Copy)]
pub(crate) struct Decoder<'a> {
    pub(crate) map: Option<&'a Map>,
    pub(crate) limits: &'a Limits,
}

impl Decoder<'_> {
    pub(crate) fn entry(self, section: &Section<'_>) -> Result<Entry, At> {
        let mut reader = open(section);
        let offset = reader.offset();
        let kind = reader.u8()?;
        let name = reader.bytes(reader.left())?;
        let entry = match kind {
            0 if name.is_empty() => Entry::Start,
            0 => return Err(Problem::NotCanonical("the start function has no name")).at(offset + 1),
            1 => {
                check::limit("length of the entry's name", name.len() as u64, check::LONGEST_NAME).at(offset + 1)?;
                let text = core::str::from_utf8(name);
                let text = text.map_err(|_| Problem::NotCanonical("the entry's name is not UTF-8"));
                Entry::Export(text.at(offset + 1)?.to_owned())
            }
            byte => return Err(Problem::Byte { what: "kind of an entry", byte }).at(offset),
        };
        if let Some(map) = self.map {
            check::entry_of(map, &entry).at(offset)?;
        }
        Ok(entry)
    }

    pub(crate) fn frames(self, section: &Section<'_>) -> Result<Vec<Frame>, At> {
        const SMALLEST: u64 = 9;
        let mut reader = open(section);
        let start = reader.offset();
        let count = reader.count(SMALLEST, self.limits.frames.into())?;
        if count == 0 {
            return Err(Problem::NoFrames).at(start);
        }
        let mut frames: Vec<Frame> = Vec::with_capacity(count);
        let mut last = start;
        for item in items(count) {
            let offset = reader.offset();
            let frame = self.frame(&mut reader).map_err(|at| at.item(item))?;
            if let (Some(map), Some(outer)) = (self.map, frames.last()) {
                check::link(map, outer, Some(&frame)).at(last).map_err(|at| at.item(item - 1))?;
            }
            frames.push(frame);
            last = offset;
        }
        if let (Some(map), Some(innermost)) = (self.map, frames.last()) {
            let item = u32::try_from(frames.len() - 1).unwrap_or(u32::MAX);
            check::link(map, innermost, None).at(last).map_err(|at| at.item(item))?;
        }
        reader.finish()?;
        Ok(frames)
    }

    fn frame(self, reader: &mut Reader<'_>) -> Result<Frame, At> {
        let offset = reader.offset();
        let safepoint = reader.u32()?;
        let phase = match reader.u8()? {
            0 => Phase::At,
            1 => Phase::Inside,
            byte => return Err(Problem::Byte { what: "phase", byte }).at(offset + 4),
        };
        let count = reader.count(value::SMALLEST, u64::MAX)?;
        if let Some(map) = self.map {
            let live = &check::safepoint(map, safepoint).at(offset)?.live;
            check::count("live values", count, live.len()).at(offset)?;
        }
        let frame = Frame { safepoint, phase, values: values(reader, count)? };
        if let Some(map) = self.map {
            check::frame(map, &frame).at(offset)?;
        }
        Ok(frame)
    }

    pub(crate) fn globals(self, section: &Section<'_>) -> Result<Vec<dunlin_base::Value>, At> {
        let mut reader = open(section);
        let offset = reader.offset();
        let count = reader.count(value::SMALLEST, u64::MAX)?;
        if let Some(map) = self.map {
            check::count("mutable globals", count, check::mutable_globals(map)).at(offset)?;
        }
        let globals = values(&mut reader, count)?;
        if let Some(map) = self.map {
            check::globals_of(map, &globals).at(offset)?;
        }
        reader.finish()?;
        Ok(globals)
    }

    pub(crate) fn tables(self, section: &Section<'_>) -> Result<Vec<Table>, At> {
        const SMALLEST: u64 = 8;
        let mut reader = open(section);
        let offset = reader.offset();
        let count = reader.count(SMALLEST, u64::MAX)?;
        if let Some(map) = self.map {
            check::count("tables", count, map.tables.len()).at(offset)?;
        }
        let mut spent = 0;
        let mut tables = Vec::with_capacity(count);
        for item in items(count) {
            tables.push(self.table(&mut reader, item, &mut spent).map_err(|at| at.item(item))?);
        }
        reader.finish()?;
        Ok(tables)
    }

    fn table(self, reader: &mut Reader<'_>, item: u32, spent: &mut u64) -> Result<Table, At> {
        const SMALLEST: u64 = 4 + value::SMALLEST;
        let offset = reader.offset();
        let size = u64::from(reader.u32()?);
        let info = self.map.and_then(|map| Some((map, map.tables.get(item as usize)?)));
        if let Some((_, info)) = info {
            check::table_size(info, size).at(offset)?;
        }
        spend(spent, size, "number of table elements", self.limits.table_elements).at(offset)?;
        let runs = reader.count(SMALLEST, size)?;
        let mut elements = Vec::new();
        for _ in 0..runs {
            let offset = reader.offset();
            let length = u64::from(reader.u32()?);
            let element = value::read(reader)?;
            let index = elements.len() as u64;
            if length == 0 || elements.last() == Some(&element) {
                return Err(Problem::NotCanonical("a run of equal elements is empty or cut in two")).at(offset);
            }
            if length > size - index {
                return Err(Problem::NotCanonical("runs are longer than the table")).at(offset);
            }
            if let Some((map, info)) = info {
                check::value(map, index, &element, info.ty, info.nullable).at(offset)?;
            }
            let end = usize::try_from(index + length).unwrap_or(usize::MAX);
            elements.resize(end, element);
        }
        if elements.len() as u64 != size {
            return Err(Problem::NotCanonical("runs are shorter than the table")).at(offset);
        }
        Ok(Table { elements })
    }

    pub(crate) fn memories(self, section: &Section<'_>) -> Result<Vec<Memory>, At> {
        let mut decompressor = Decompressor::default();
        let mut memories = Vec::new();
        self.each_memory(section, |layout, reader, _| {
            memories.push(layout.fill(reader, &mut decompressor)?);
            Ok(())
        })?;
        Ok(memories)
    }

    pub(crate) fn chunks<'b>(self, section: &Section<'b>) -> Result<Vec<StoredChunk<'b>>, At> {
        let mut chunks = Vec::new();
        self.each_memory(section, |layout, reader, memory| {
            let mut left = layout.contents;
            while left > 0 {
                let (_, size, stored) = chunk(reader, left)?;
                left -= size as u64;
                chunks.push(StoredChunk { memory, size, stored });
            }
            Ok(())
        })?;
        Ok(chunks)
    }

    fn each_memory<'b>(
        self,
        section: &Section<'b>,
        mut each: impl FnMut(Layout, &mut Reader<'b>, u32) -> Result<(), At>,
    ) -> Result<(), At> {
        const SMALLEST: u64 = 12;
        let mut reader = open(section);
        let offset = reader.offset();
        let count = reader.count(SMALLEST, u64::MAX)?;
        if let Some(map) = self.map {
            check::count("memories", count, map.memories.len()).at(offset)?;
        }
        let (mut sizes, mut contents) = (0, 0);
        for item in items(count) {
            let layout = self.layout(&mut reader, item, &mut sizes, &mut contents);
            layout.and_then(|layout| each(layout, &mut reader, item)).map_err(|at| at.item(item))?;
        }
        reader.finish()?;
        Ok(())
    }

    fn layout(self, reader: &mut Reader<'_>, item: u32, sizes: &mut u64, contents: &mut u64) -> Result<Layout, At> {
        const RANGE: u64 = 17;
        let offset = reader.offset();
        let size = reader.u64()?;
        if let Some(info) = self.map.and_then(|map| map.memories.get(item as usize)) {
            check::memory_size(info, size).at(offset)?;
        }
        spend(sizes, size, "memory size", self.limits.memory_bytes).at(offset)?;
        let pages = page_count(size);
        let count = reader.count(RANGE, pages)?;
        let mut layout = Layout { size, ranges: Vec::with_capacity(count), contents: 0 };
        for _ in 0..count {
            let offset = reader.offset();
            let (first, length) = (reader.u64()?, reader.u64()?);
            let zero = match reader.u8()? {
                0 => true,
                1 => false,
                byte => return Err(Problem::Byte { what: "kind of pages", byte }).at(offset + 16),
            };
            let end = first.saturating_add(length);
            let ordered = layout.ranges.last().is_none_or(|before: &Range| {
                let before_end = before.first + before.length;
                before_end < first || before_end == first && before.zero != zero
            });
            if length == 0 || !ordered {
                return Err(Problem::NotCanonical("page ranges are empty, out of order or cut in two")).at(offset);
            }
            if end > pages {
                return Err(Problem::Page { page: end - 1, count: pages }).at(offset);
            }
            if !zero {
                // Both products stay below the memory's size, rounded up to a page.
                let bytes = (length * PAGE_SIZE as u64).min(size - first * PAGE_SIZE as u64);
                spend(contents, bytes, "size of page contents", self.limits.page_bytes).at(offset)?;
                layout.contents += bytes;
            }
            layout.ranges.push(Range { first, length, zero });
        }
        Ok(layout)
    }

    pub(crate) fn dropped(self, section: &Section<'_>) -> Result<(Vec<u32>, Vec<u32>), At> {
        let mut reader = open(section);
        let data = self.segments(&mut reader, "data segment", self.map.map(|map| map.data_segments))?;
        let elems = self.segments(&mut reader, "element segment", self.map.map(|map| map.elem_segments))?;
        reader.finish()?;
        Ok((data, elems))
    }

    fn segments(self, reader: &mut Reader<'_>, what: &'static str, limit: Option<u32>) -> Result<Vec<u32>, At> {
        let offset = reader.offset();
        let count = reader.count(4, u64::MAX)?;
        let mut segments = Vec::with_capacity(count);
        for _ in 0..count {
            let offset = reader.offset();
            let segment = reader.u32()?;
            if segments.last().is_some_and(|before| *before >= segment) {
                return Err(Problem::NotCanonical("segments are not in ascending order")).at(offset);
            }
            segments.push(segment);
        }
        if let Some(limit) = limit {
            check::segments(what, &segments, limit).at(offset)?;
        }
        Ok(segments)
    }

    pub(crate) fn exceptions(self, section: &Section<'_>) -> Result<Vec<Exception>, At> {
        const SMALLEST: u64 = 8;
        let mut reader = open(section);
        let count = reader.count(SMALLEST, self.limits.exceptions.into())?;
        let mut exceptions = Vec::with_capacity(count);
        for item in items(count) {
            exceptions.push(self.exception(&mut reader).map_err(|at| at.item(item))?);
        }
        reader.finish()?;
        Ok(exceptions)
    }

    fn exception(self, reader: &mut Reader<'_>) -> Result<Exception, At> {
        let offset = reader.offset();
        let tag = reader.u32()?;
        let count = reader.count(value::SMALLEST, u64::MAX)?;
        if let Some(map) = self.map {
            check::count("payload values", count, check::payload(map, tag).at(offset)?.len()).at(offset)?;
        }
        let exception = Exception { tag, values: values(reader, count)? };
        if let Some(map) = self.map {
            check::exception(map, &exception).at(offset)?;
        }
        Ok(exception)
    }
}

/// A memory's pages, without their contents.
struct Layout {
    size: u64,
    ranges: Vec<Range>,
    /// Bytes of all pages that have contents.
    contents: u64,
}

struct Range {
    first: u64,
    length: u64,
    zero: bool,
}

impl Layout {
    /// Reads the contents. The pages were counted against size and limits of the memory.
    fn fill(self, reader: &mut Reader<'_>, decompressor: &mut Decompressor) -> Result<Memory, At> {
        let Self { size, ranges, contents } = self;
        let mut numbers = ranges
            .iter()
            .flat_map(|range| (range.first..range.first + range.length).map(|number| (number, range.zero)));
        let mut pages = Vec::new();
        let mut left = contents;
        while left > 0 {
            let (offset, chunk_size, stored) = chunk(reader, left)?;
            let mut bytes = decompressor.open(stored, chunk_size).map_err(Problem::Chunk).at(offset)?;
            // Chunks hold whole pages: only the memory's last page is shorter than a page, and it is the last one.
            while !bytes.is_empty() {
                let Some((number, zero)) = numbers.next() else { break };
                if zero {
                    pages.push((number, Page::Zero));
                    continue;
                }
                let length = check::page_size(size, number).at(offset)?.min(bytes.len());
                let (page, rest) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
                check::not_zero(page).at(offset)?;
                pages.push((number, Page::Bytes(page.into())));
                bytes = rest;
            }
            left -= chunk_size as u64;
        }
        pages.extend(numbers.map(|(number, _)| (number, Page::Zero)));
        Ok(Memory { size, pages })
    }
}

/// Offset, decompressed size and stored bytes of the next chunk, when `left` bytes of contents are to come.
fn chunk<'a>(reader: &mut Reader<'a>, left: u64) -> Result<(u64, usize, &'a [u8]), At> {
    let offset = reader.offset();
    let size = usize::try_from(left).unwrap_or(CHUNK_SIZE).min(CHUNK_SIZE);
    let length = reader.u32()?;
    if u64::from(length) > size as u64 {
        return Err(Problem::NotCanonical("a chunk is stored in more bytes than it has")).at(offset);
    }
    Ok((offset, size, reader.bytes(length.into())?))
}

fn open<'a>(section: &Section<'a>) -> Reader<'a> {
    Reader::at(section.body, section.offset)
}

fn items(count: usize) -> impl Iterator<Item = u32> {
    (0u32..).take(count)
}

/// `count` values; the reader has made sure that as many bytes follow.
fn values(reader: &mut Reader<'_>, count: usize) -> Result<Vec<dunlin_base::Value>, At> {
    let mut values = Vec::new();
    for _ in 0..count {
        values.push(value::read(reader)?);
    }
    Ok(values)
}
