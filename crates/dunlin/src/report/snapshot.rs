//! What `inspect` tells of a snapshot.

use std::path::Path;
use std::sync::Arc;

use dunlin_base::{Digest, Value};
use dunlin_host::{MountNeed, Needs, VolumeNeed, kind};
use dunlin_instrument::{Analysis, LiveValue, Map, Phase, SafepointKind, Slot};
use dunlin_snapshot::{Envelope, FORMAT_VERSION, Frame, Limits, Page, Section, Snapshot};
use serde::Serialize;

use super::module::feature_names;
use crate::failure::{Exit, Failure, Result};
use crate::names::Names;
use crate::text::{self, Table, printable};

/// Frames that are shown of a deep stack unless all are asked for.
const SHOWN_FRAMES: usize = 16;

/// A decoded snapshot and what is needed to explain it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) snapshot: Snapshot,
    pub(crate) names: Names,
    /// `None` if the module is not at hand.
    pub(crate) map: Option<Arc<Map>>,
    /// Why this release cannot restore it.
    problem: Option<Failure>,
}

impl Opened {
    /// Decodes a snapshot, against its module if that is embedded or given.
    pub(crate) fn new(path: &Path, envelope: &Envelope<'_>, given: Option<&[u8]>) -> Result<Self> {
        let refused = || format!("{} is not a valid snapshot", path.display());
        let embedded = envelope.module().map_err(Failure::because(Exit::Data, refused()))?;
        let Some(wasm) = given.or(embedded) else {
            let snapshot = envelope.peek().map_err(Failure::because(Exit::Data, refused()))?;
            return Ok(Self { snapshot, names: Names::default(), map: None, problem: None });
        };
        if given.is_some() && Digest::of(wasm) != envelope.header().module {
            let message = format!("{} was taken from another module than the given one", path.display());
            return Err(Failure::new(Exit::Data, message));
        }
        let names = Names::read(wasm);
        let decoded = Analysis::of(wasm)
            .map_err(Failure::because(Exit::Data, "this release cannot instrument its module"))
            .and_then(|analysis| {
                let snapshot = envelope
                    .decode(analysis.map())
                    .map_err(Failure::because(Exit::Data, "this release cannot restore it"))?;
                Ok((snapshot, analysis.map().clone()))
            });
        match decoded {
            Ok((snapshot, map)) => Ok(Self { snapshot, names, map: Some(map), problem: None }),
            Err(problem) => {
                // What can be shown without understanding its stack is better than nothing.
                let snapshot = envelope.peek().map_err(Failure::because(Exit::Data, refused()))?;
                Ok(Self { snapshot, names, map: None, problem: Some(problem) })
            }
        }
    }

    /// The frame in words, as `main (function 3) at 0x1f0, loop`.
    pub(crate) fn place(&self, frame: &Frame) -> String {
        match self.map.as_ref().and_then(|map| map.safepoint(frame.safepoint)) {
            Some(safepoint) => format!(
                "{} at {:#x}, {}",
                self.names.describe(safepoint.function),
                safepoint.offset,
                situation(safepoint.kind, frame.phase)
            ),
            None => format!("safepoint {}", frame.safepoint),
        }
    }

    /// Where value `index` of a frame lives in the program.
    pub(crate) fn slot(&self, frame: &Frame, index: usize) -> String {
        let safepoint = self.map.as_ref().and_then(|map| map.safepoint(frame.safepoint));
        let Some((safepoint, live)) = safepoint.and_then(|point| Some((point, point.live.get(index)?))) else {
            return format!("value {index}");
        };
        match live.slot {
            Slot::Local(local) => match self.names.local(safepoint.function, local) {
                Some(name) => format!("local {local} {name}"),
                None => format!("local {local}"),
            },
            Slot::Operand(operand) => format!("operand {operand}"),
            Slot::Argument(argument) => format!("argument {argument}"),
            Slot::Result(result) => format!("result {result}"),
        }
    }

    /// What mutable global number `index` is.
    pub(crate) fn global(&self, index: usize) -> String {
        let globals = self.map.as_ref().map(|map| &map.globals);
        let number = globals.and_then(|globals| {
            globals.iter().enumerate().filter(|(_, global)| global.mutable).nth(index).map(|(number, _)| number as u32)
        });
        match number {
            Some(number) => match self.names.global(number) {
                Some(name) => format!("global {number} {name}"),
                None => format!("global {number}"),
            },
            None => format!("mutable global {index}"),
        }
    }

    /// A value, with the names of functions.
    pub(crate) fn value(&self, value: &Value) -> String {
        match value {
            Value::FuncRef(Some(function)) => self.names.describe(*function),
            value => value.to_string(),
        }
    }
}

fn situation(kind: SafepointKind, phase: Phase) -> &'static str {
    match (kind, phase) {
        (SafepointKind::Loop, _) => "at a loop's head",
        (SafepointKind::TailCall, _) => "before a tail call",
        (SafepointKind::Bulk, _) => "in a bulk instruction",
        (_, Phase::At) => "after a call",
        (SafepointKind::Import, Phase::Inside) => "in a call of the host, to be issued again",
        (_, Phase::Inside) => "inside a call",
    }
}

/// A snapshot.
#[derive(Debug, Serialize)]
pub(crate) struct SnapshotReport {
    kind: &'static str,
    path: String,
    bytes: u64,
    format_version: u32,
    sha256: String,
    module_sha256: String,
    module_embedded: bool,
    map_sha256: String,
    pass_version: u32,
    features: Vec<String>,
    product: Option<String>,
    /// Whether this release can restore it; `null` if that cannot be told without the module.
    restorable: Option<bool>,
    problem: Option<String>,
    sections: Vec<SectionReport>,
    /// What of the run is on the stack.
    entry: Option<String>,
    /// Outermost first.
    frames: Vec<FrameReport>,
    globals: Vec<ValueReport>,
    tables: Vec<TableReport>,
    memories: Vec<MemoryReport>,
    dropped_data: Vec<u32>,
    dropped_elems: Vec<u32>,
    exceptions: Vec<ExceptionReport>,
    /// What a host must have; `null` if the sections cannot be read.
    needs: Option<NeedsReport>,
}

/// What the program needs of a host.
#[derive(Debug, Serialize)]
struct NeedsReport {
    /// Directories of the host.
    mounts: Vec<MountReport>,
    volume: Option<VolumeReport>,
    listeners: u32,
    connections: u32,
}

#[derive(Debug, Serialize)]
struct MountReport {
    guest: String,
    writable: bool,
    /// Paths beneath it.
    open: Vec<String>,
}

#[derive(Debug, Serialize)]
struct OpenReport {
    descriptor: u32,
    inode: u64,
    /// `null` for a directory.
    offset: Option<u64>,
}

#[derive(Debug, Serialize)]
struct VolumeReport {
    guest: String,
    id: String,
    commit: u64,
    root_sha256: String,
    used_bytes: u64,
    used_inodes: u64,
    /// What is open in it.
    open: Vec<OpenReport>,
    /// How many chunks the volume has; `null` if none travel and this is not known.
    chunks: Option<u64>,
    carried_chunks: u64,
    carried_bytes: u64,
}

#[derive(Debug, Serialize)]
struct SectionReport {
    kind: u16,
    name: String,
    version: u16,
    mandatory: bool,
    known: bool,
    offset: u64,
    bytes: usize,
}

#[derive(Debug, Serialize)]
struct FrameReport {
    safepoint: u32,
    function: Option<u32>,
    name: Option<String>,
    offset: Option<u32>,
    #[serde(rename = "kind")]
    what: Option<&'static str>,
    phase: &'static str,
    values: Vec<ValueReport>,
    #[serde(skip)]
    place: String,
    /// How many of the values mean something: results of a call that has not returned do not.
    #[serde(skip)]
    meaningful: usize,
}

#[derive(Debug, Serialize)]
struct ValueReport {
    place: String,
    #[serde(rename = "type")]
    ty: Option<String>,
    value: String,
}

#[derive(Debug, Serialize)]
struct TableReport {
    elements: usize,
    not_null: usize,
}

#[derive(Debug, Serialize)]
struct MemoryReport {
    bytes: u64,
    pages: u64,
    pages_stored: usize,
    pages_zeroed: usize,
}

#[derive(Debug, Serialize)]
struct ExceptionReport {
    tag: u32,
    values: Vec<String>,
}

impl SnapshotReport {
    /// Looks at a snapshot.
    pub(crate) fn of(path: &Path, bytes: &[u8], given: Option<&[u8]>) -> Result<Self> {
        let refused = format!("{} is not a valid snapshot", path.display());
        let envelope = Envelope::open(bytes, &Limits::default()).map_err(Failure::because(Exit::Data, refused))?;
        let opened = Opened::new(path, &envelope, given)?;
        let header = envelope.header();
        let state = &opened.snapshot.state;
        Ok(Self {
            kind: "snapshot",
            path: path.display().to_string(),
            bytes: header.total_length,
            format_version: FORMAT_VERSION,
            sha256: header.digest.to_string(),
            module_sha256: header.module.to_string(),
            module_embedded: header.has_module(),
            map_sha256: header.map.to_string(),
            pass_version: header.pass_version,
            features: feature_names(header.features),
            product: opened.snapshot.product.as_deref().map(printable),
            restorable: opened.map.is_some().then_some(true).or(opened.problem.as_ref().map(|_| false)),
            problem: opened.problem.as_ref().map(Failure::whole),
            sections: envelope.sections().iter().map(SectionReport::of).collect(),
            entry: state.entry.as_ref().map(|entry| printable(&entry.to_string())),
            frames: state.frames.iter().map(|frame| FrameReport::of(frame, &opened)).collect(),
            globals: state
                .globals
                .iter()
                .enumerate()
                .map(|(index, value)| ValueReport {
                    place: opened.global(index),
                    ty: Some(type_of(value).to_owned()),
                    value: opened.value(value),
                })
                .collect(),
            tables: state
                .tables
                .iter()
                .map(|table| TableReport {
                    elements: table.elements.len(),
                    not_null: table.elements.iter().filter(|element| !is_null(element)).count(),
                })
                .collect(),
            memories: state.memories.iter().map(MemoryReport::of).collect(),
            dropped_data: state.dropped_data.clone(),
            dropped_elems: state.dropped_elems.clone(),
            exceptions: state
                .exceptions
                .iter()
                .map(|exception| ExceptionReport {
                    tag: exception.tag,
                    values: exception.values.iter().map(|value| opened.value(value)).collect(),
                })
                .collect(),
            needs: Needs::of(&state.host).ok().map(NeedsReport::of),
        })
    }

    /// For people. Of a deep stack only the innermost frames, unless `all`.
    pub(crate) fn text(&self, all: bool) -> String {
        let mut out = format!("{}: snapshot, {}, sha256:{}\n", self.path, text::bytes(self.bytes), self.sha256);
        let embedded = if self.module_embedded { "embedded" } else { "not embedded" };
        out.push_str(&format!("of module sha256:{}, {embedded}\n", self.module_sha256));
        let by = self.product.as_ref().map(|product| format!(", taken by {product}")).unwrap_or_default();
        let (format, pass) = (self.format_version, self.pass_version);
        out.push_str(&format!("format version {format}, instrumentation version {pass}{by}\n"));
        let features = if self.features.is_empty() { "none".to_owned() } else { self.features.join(", ") };
        out.push_str(&format!("features needed: {features}\n"));
        match (self.restorable, &self.problem) {
            (_, Some(problem)) => out.push_str(&format!("CANNOT be restored by this release: {problem}\n")),
            (Some(true), None) => out.push_str("fits its module: can be restored\n"),
            _ => out.push_str("the module is not at hand: give it by --module to see functions and types\n"),
        }
        out.push_str("sections:\n");
        let mut table = Table::new(&["section", ">version", ">offset", ">bytes", "needed"]);
        for section in &self.sections {
            let needed = match (section.mandatory, section.known) {
                (true, _) => "yes",
                (false, true) => "no",
                (false, false) => "no, skipped",
            };
            let (version, offset) = (section.version.to_string(), section.offset.to_string());
            table.row([section.name.clone(), version, offset, section.bytes.to_string(), needed.to_owned()]);
        }
        out.push_str(&table.render("  "));
        if let Some(needs) = &self.needs {
            needs.text(&mut out);
        }
        self.stack(&mut out, all);
        self.data(&mut out);
        out
    }

    fn stack(&self, out: &mut String, all: bool) {
        let entered = self.entry.as_ref().map(|entry| format!(" in {entry}")).unwrap_or_default();
        out.push_str(&format!("stack, {}{entered}, innermost first:\n", text::count(self.frames.len(), "frame")));
        let shown = if all { self.frames.len() } else { SHOWN_FRAMES };
        for (number, frame) in self.frames.iter().enumerate().rev().take(shown) {
            out.push_str(&format!("  #{number} {}\n", frame.place));
            for ValueReport { place, ty, value } in frame.values.iter().take(frame.meaningful) {
                let ty = ty.as_ref().map(|ty| format!(": {ty}")).unwrap_or_default();
                out.push_str(&format!("      {place}{ty} = {value}\n"));
            }
        }
        if self.frames.len() > shown {
            out.push_str(&format!("  and {} further out: --all shows them\n", self.frames.len() - shown));
        }
    }

    fn data(&self, out: &mut String) {
        if !self.globals.is_empty() {
            out.push_str("mutable globals:\n");
            for ValueReport { place, ty, value } in &self.globals {
                out.push_str(&format!("  {place}: {} = {value}\n", ty.as_deref().unwrap_or("?")));
            }
        }
        for (number, memory) in self.memories.iter().enumerate() {
            out.push_str(&format!(
                "memory {number}: {}, {} of {} pages stored, {} cleared\n",
                text::bytes(memory.bytes),
                memory.pages_stored,
                memory.pages,
                memory.pages_zeroed
            ));
        }
        for (number, table) in self.tables.iter().enumerate() {
            let elements = text::count(table.elements, "element");
            out.push_str(&format!("table {number}: {elements}, {} not null\n", table.not_null));
        }
        for (what, list) in [("data", &self.dropped_data), ("element", &self.dropped_elems)] {
            if !list.is_empty() {
                let list: Vec<String> = list.iter().map(u32::to_string).collect();
                out.push_str(&format!("dropped {what} segments: {}\n", list.join(", ")));
            }
        }
        for (number, exception) in self.exceptions.iter().enumerate() {
            out.push_str(&format!("exception {number}: tag {} ({})\n", exception.tag, exception.values.join(", ")));
        }
    }
}

impl NeedsReport {
    fn of(needs: Needs) -> Self {
        let Needs { mounts, volume, listeners, connections } = needs;
        let mount = |MountNeed { guest, writable, open }| MountReport {
            guest: printable(&guest),
            writable,
            open: open.iter().map(|path| printable(path)).collect(),
        };
        Self {
            mounts: mounts.into_iter().map(mount).collect(),
            volume: volume.map(VolumeReport::of),
            listeners,
            connections,
        }
    }

    fn text(&self, out: &mut String) {
        let Self { mounts, volume, listeners, connections } = self;
        if mounts.is_empty() && volume.is_none() && listeners + connections == 0 {
            return;
        }
        out.push_str("needs of a host:\n");
        for MountReport { guest, writable, open } in mounts {
            let right = if *writable { "to be changed" } else { "read only" };
            let open = if open.is_empty() { String::new() } else { format!("; open: {}", open.join(", ")) };
            out.push_str(&format!("  a directory as {guest}, {right}{open}\n"));
        }
        if let Some(volume) = volume {
            volume.text(out);
        }
        if *listeners > 0 {
            out.push_str(&format!("  {}\n", text::count(*listeners as usize, "listener")));
        }
        if *connections > 0 {
            out.push_str(&format!("  {} carried on\n", text::count(*connections as usize, "connection")));
        }
    }
}

impl VolumeReport {
    fn of(volume: VolumeNeed) -> Self {
        let VolumeNeed { guest, id, generation, root, used_bytes, used_inodes, open, contents } = volume;
        Self {
            guest: printable(&guest),
            id: format!("{:032x}", u128::from_be_bytes(id)),
            commit: generation,
            root_sha256: root.to_string(),
            used_bytes,
            used_inodes,
            open: open
                .iter()
                .map(|open| OpenReport { descriptor: open.descriptor, inode: open.inode, offset: open.offset })
                .collect(),
            chunks: contents.as_ref().map(|contents| contents.needed.len() as u64),
            carried_chunks: contents.as_ref().map_or(0, |contents| contents.chunks),
            carried_bytes: contents.as_ref().map_or(0, |contents| contents.bytes),
        }
    }

    fn text(&self, out: &mut String) {
        let Self { guest, id, commit, root_sha256, used_bytes, used_inodes, open, .. } = self;
        out.push_str(&format!("  a volume as {guest}: {id} at commit {commit}, sha256:{root_sha256}\n"));
        let open = text::count(open.iter().filter(|open| open.offset.is_some()).count(), "file");
        let inodes = text::count(*used_inodes as usize, "inode");
        out.push_str(&format!("    {} in {inodes}, {open} open in it\n", text::bytes(*used_bytes)));
        out.push_str(&match self.chunks {
            Some(chunks) => format!(
                "    {} of {} travel in this file, {}\n",
                self.carried_chunks,
                text::count(chunks as usize, "chunk"),
                text::bytes(self.carried_bytes)
            ),
            None => "    its contents do not travel in this file: its store is needed\n".to_owned(),
        });
    }
}

impl SectionReport {
    fn of(section: &Section<'_>) -> Self {
        let name = match section.kind {
            dunlin_snapshot::SectionKind::Host(number) => match host_kind(number) {
                Some(name) => format!("host: {name}"),
                None => format!("host {number}"),
            },
            kind => kind.to_string(),
        };
        Self {
            kind: section.kind.number(),
            name,
            version: section.version,
            mandatory: section.mandatory,
            known: section.is_known(),
            offset: section.offset,
            bytes: section.body.len(),
        }
    }
}

/// What a host section holds.
pub(crate) fn host_kind(number: u16) -> Option<&'static str> {
    Some(match number {
        kind::ARGS => "arguments and environment",
        kind::CLOCKS => "clocks",
        kind::RANDOM => "random numbers",
        kind::FILES => "files and directories",
        kind::STREAMS => "standard streams",
        kind::POLL => "a wait in progress",
        kind::SOCKETS => "listeners and connections",
        kind::VOLUME => "private volume",
        kind::VOLUME_CONTENTS => "contents of the private volume",
        kind::CARRIED => "connections that are carried on",
        kind::USAGE => "processor time used",
        _ => return None,
    })
}

impl FrameReport {
    fn of(frame: &Frame, opened: &Opened) -> Self {
        let safepoint = opened.map.as_ref().and_then(|map| map.safepoint(frame.safepoint));
        let values = frame.values.iter().enumerate().map(|(index, value)| ValueReport {
            place: opened.slot(frame, index),
            ty: safepoint.and_then(|point| Some(point.live.get(index)?.ty.to_string())),
            value: opened.value(value),
        });
        // Results come last.
        let pending = safepoint.map_or(0, |point| {
            let result = |live: &LiveValue| matches!(live.slot, Slot::Result(_)) && frame.phase == Phase::Inside;
            point.live.iter().filter(|live| result(live)).count()
        });
        Self {
            safepoint: frame.safepoint,
            function: safepoint.map(|safepoint| safepoint.function),
            name: safepoint.and_then(|safepoint| opened.names.function(safepoint.function)).map(str::to_owned),
            offset: safepoint.map(|safepoint| safepoint.offset),
            what: safepoint.map(|safepoint| match safepoint.kind {
                SafepointKind::Loop => "loop",
                SafepointKind::Call => "call",
                SafepointKind::Import => "import",
                SafepointKind::IndirectCall => "indirect_call",
                SafepointKind::TailCall => "tail_call",
                SafepointKind::Bulk => "bulk",
            }),
            phase: match frame.phase {
                Phase::At => "at",
                Phase::Inside => "inside",
            },
            values: values.collect(),
            place: opened.place(frame),
            meaningful: frame.values.len().saturating_sub(pending),
        }
    }
}

impl MemoryReport {
    fn of(memory: &dunlin_snapshot::Memory) -> Self {
        let zeroed = memory.pages.iter().filter(|(_, page)| matches!(page, Page::Zero)).count();
        Self {
            bytes: memory.size,
            pages: dunlin_base::page_count(memory.size),
            pages_stored: memory.pages.len() - zeroed,
            pages_zeroed: zeroed,
        }
    }
}

fn is_null(value: &Value) -> bool {
    matches!(value, Value::FuncRef(None) | Value::ExternRef(None) | Value::ExnRef(None))
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::I32(_) => "i32",
        Value::I64(_) => "i64",
        Value::F32(_) => "f32",
        Value::F64(_) => "f64",
        Value::V128(_) => "v128",
        Value::FuncRef(_) => "funcref",
        Value::ExternRef(_) => "externref",
        Value::ExnRef(_) => "exnref",
    }
}
